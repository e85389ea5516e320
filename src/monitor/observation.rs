//! What the monitor is told: who did what, when, and from where.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{KeyId, Timestamp, TokenId, UserId};

/// Whose history something is measured against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Subject {
    User(Uuid),
    /// A token without a user.
    Token(TokenId),
    Key(KeyId),
    /// Where there is nobody else to hold it against: the token is unknown, or it is the admin's.
    Address(IpAddr),
    /// All together: what is spread so thin that no single subject shows it.
    Everyone,
}

impl Subject {
    pub fn of_user(id: UserId) -> Self {
        Self::User(Uuid::from_u128(id.0))
    }

    /// The caller at an address: of IPv6 all of a /64 is one.
    pub fn at(address: IpAddr) -> Self {
        Self::Address(caller(address))
    }
}

/// Enough to tell entries apart, and never a whole address: an event is read by more people than have to know.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(id) => write!(f, "user {:08x}", (id.as_u128() >> 96) as u32),
            Self::Token(id) => write!(f, "token {}", id.short()),
            Self::Key(id) => write!(f, "key {}", id.short()),
            Self::Address(address) => write!(f, "{}", Network::of(*address)),
            Self::Everyone => f.write_str("everyone"),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    pub at: Timestamp,
    /// The token's user, the token when it has none, or the address when the token is unknown.
    pub subject: Subject,
    pub address: Option<IpAddr>,
    /// The key of the attempt that the end is of.
    pub key: Option<KeyId>,
    /// Any number that tells providers apart: what fails at one says nothing of another.
    pub provider: u32,
    /// The [`fingerprint`] of the model's name.
    pub model: Option<u32>,
    pub what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A request came to its end, with this status.
    Ended {
        end: End,
        status: u16,
    },
    /// A key failed, and the request went on with another one: it says nothing of the caller.
    KeyFailed,
    /// Refused for a limit that was set on the token or the user. What a [`super::Verdict`] refuses is not
    /// told: the monitor would take its own doing for more abuse.
    Limited,
    /// Turned away at the door. `token` is the [`fingerprint`] of what was shown, so that one wrong token
    /// a thousand times is not taken for a thousand tokens.
    AuthFailed {
        why: AuthFailure,
        token: Option<u32>,
    },
    AdminLoginFailed,
}

/// How a request ended, as the books count it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Success,
    /// The key or the provider was at fault.
    Failure,
    /// The request was at fault, or the caller left.
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuthFailure {
    Unknown,
    Expired,
    AddressNotAllowed,
}

impl What {
    /// Whether a request's end speaks against the caller. Leaving early is nobody's failure.
    pub(super) fn is_bad_for_caller(end: End, status: u16) -> bool {
        const CLIENT_CLOSED: u16 = 499;
        end != End::Success && status >= 400 && status != CLIENT_CLOSED
    }
}

/// Tells texts apart (FNV-1a). Of what it gives the monitor keeps one bit in a set of 64, from which no name
/// or token can be read back.
pub fn fingerprint(text: &str) -> u32 {
    hash(text.as_bytes())
}

fn hash(bytes: &[u8]) -> u32 {
    let spread = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    (spread ^ (spread >> 32)) as u32
}

/// What one place on the net has: a /24 of IPv4, a /56 of IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Network(IpAddr);

impl Network {
    pub(super) fn of(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(v4) => Ipv4Addr::from_bits(v4.to_bits() & (u32::MAX << 8)).into(),
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 72)).into(),
        })
    }

    pub(super) fn fingerprint(self) -> u32 {
        match self.0 {
            IpAddr::V4(v4) => hash(&v4.octets()),
            IpAddr::V6(v6) => hash(&v6.octets()),
        }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.0, if self.0.is_ipv4() { 24 } else { 56 })
    }
}

/// One caller on the net: of IPv6 a /64, since a host moves freely in it.
pub(super) fn caller(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}
