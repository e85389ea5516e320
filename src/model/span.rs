//! What is counted by hour, by day and by person: rows that belong to no provider.
//!
//! Numbers are [`Tally`](super::Tally)s under a [`SpanId`]; who did something is kept in [`Set`]s, since numbers of
//! distinct people cannot be added. Both merge in any order and grouping.

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{KeyId, Timestamp, id};

macro_rules! kinds {
    ($(#[$of:meta])* $name:ident { $($(#[$doc:meta])* $kind:ident = $code:literal),* $(,)? }) => {
        $(#[$of])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $code)] $kind),*
        }

        impl $name {
            /// In their order.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// On the wire.
            pub fn code(self) -> &'static str {
                match self {
                    $(Self::$kind => $code),*
                }
            }

            /// In tables: its place among all.
            pub fn number(self) -> u8 {
                self as u8
            }

            pub fn of_code(code: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|kind| kind.code() == code)
            }

            pub fn of_number(number: u8) -> Option<Self> {
                Self::ALL.get(usize::from(number)).copied()
            }
        }
    };
}

kinds! {
    /// What a tally's numbers mean. In the order of their codes.
    SpanKind {
        /// Attempts of a key on a day.
        KeyDay = "kd",
        /// Attempts of a key in an hour; `prompt_tokens` are milliseconds until answers had ended, `completion_tokens`
        /// how many were timed.
        KeyHour = "kh",
        /// Attempts of a key ever; the period is 0.
        KeyTotal = "kt",
        /// What limits by day count, of a token or of a user: requests on a day, with their tokens.
        TokenDay = "td",
        /// Requests of a user on a day: conversations, calls and uploads stand for success, failure and other.
        UserClasses = "uc",
        /// Refusals on a day: rate limits, failed authentication and server errors, likewise.
        UserErrors = "ue",
        /// Requests of a user on a day that used keys.
        UserUses = "uu",
    }
}

kinds! {
    /// What a set's members are. In the order of their codes.
    SetKind {
        /// Who used a key on a day: users, and tokens that have none.
        KeyDay = "kd",
        /// Who used a key in an hour.
        KeyHour = "kh",
        /// Which keys a user used on a day, by the first 32 bits of their ids: the 32 smallest of all.
        UserKeys = "uk",
    }
}

/// Hours since the epoch or days since 1970-01-01, as ten digits: they are compared as the numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period([u8; 10]);

impl Hash for Period {
    /// The first two digits are the same in all that is counted in the next thousand years.
    fn hash<H: Hasher>(&self, state: &mut H) {
        let [_, _, digits @ ..] = self.0;
        // The digit that changes most lies lowest: a multiplication carries upwards only.
        state.write_u64(u64::from_be_bytes(digits));
    }
}

impl Period {
    pub fn new(mut number: u32) -> Self {
        let mut digits = [b'0'; 10];
        for digit in digits.iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
        Self(digits)
    }

    /// `None` for what is not ten digits of such a number.
    pub fn read(text: &str) -> Option<Self> {
        let digits: [u8; 10] = text.as_bytes().try_into().ok()?;
        digits.iter().all(u8::is_ascii_digit).then(|| text.parse::<u32>().ok())??;
        Some(Self(digits))
    }

    pub fn number(self) -> u32 {
        self.0.iter().fold(0_u32, |sum, digit| sum.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')))
    }

    pub fn digits(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl Serialize for Period {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(self.number())
    }
}

impl<'de> Deserialize<'de> for Period {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        u32::deserialize(deserializer).map(Self::new)
    }
}

/// Names a row of numbers of one key, token or user in one period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpanId {
    pub kind: SpanKind,
    #[serde(with = "id::as_uuid")]
    pub id: u128,
    pub at: Period,
}

impl SpanId {
    pub fn new(kind: SpanKind, id: u128, at: u32) -> Self {
        Self { kind, id, at: Period::new(at) }
    }
}

/// Names a set. In the order of periods: those that are forgotten together stand together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SetId {
    pub kind: SetKind,
    pub at: u32,
    #[serde(with = "id::as_uuid")]
    pub id: u128,
}

/// The key that a user used last. The later wins, of the same instant the larger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LastKey {
    pub at: Timestamp,
    pub key: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Set {
    pub members: BTreeSet<u128>,
    /// There were more than are kept.
    pub more: bool,
    /// Of [`SetKind::UserKeys`] only.
    pub last: Option<LastKey>,
}

impl Set {
    /// Most keys that are kept of a user's day: with keys taking turns there are as many as calls.
    pub const MOST_KEYS: usize = 32;

    pub fn of(member: u128) -> Self {
        Self { members: [member].into(), ..Self::default() }
    }

    /// What stands for a key in a user's set.
    pub fn member_of(key: KeyId) -> u128 {
        u128::from(key.short_number())
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another set of the same kind; returns what of it was new, to be told to others.
    pub fn add(&mut self, kind: SetKind, other: &Self) -> Self {
        let mut new = Self::default();
        for member in &other.members {
            if self.members.insert(*member) {
                new.members.insert(*member);
            }
        }
        let mut more = other.more;
        if kind == SetKind::UserKeys {
            // The smallest of a union are among the smallest of its parts, so this forgets nothing that counts.
            while self.members.len() > Self::MOST_KEYS {
                more = true;
                if let Some(largest) = self.members.pop_last() {
                    new.members.remove(&largest);
                }
            }
        }
        new.more = more && !self.more;
        self.more |= more;
        if other.last > self.last {
            self.last = other.last;
            new.last = other.last;
        }
        new
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn kinds_are_in_the_order_of_their_codes() {
        let codes: Vec<_> = SpanKind::ALL.iter().map(|kind| kind.code()).collect();
        assert!(codes.is_sorted());
        for kind in SpanKind::ALL {
            assert_eq!(SpanKind::of_code(kind.code()), Some(*kind));
            assert_eq!(SpanKind::of_number(kind.number()), Some(*kind));
        }
        assert_eq!(
            (SpanKind::of_number(7), SetKind::of_number(3), SetKind::of_code("uu")),
            (None, None, None)
        );
    }

    #[test]
    fn periods_are_compared_as_their_numbers() {
        for (number, digits) in [(0, "0000000000"), (490_123, "0000490123"), (u32::MAX, "4294967295")] {
            let period = Period::new(number);
            assert_eq!((period.number(), period.digits()), (number, digits));
            assert_eq!(Period::read(digits), Some(period));
        }
        assert!(Period::new(9) < Period::new(10) && Period::new(99_999) < Period::new(490_000));
        for bad in ["", "123", "00004901234", "+000490123", "4294967296", "00x0490123"] {
            assert_eq!(Period::read(bad), None, "{bad}");
        }
    }

    #[test]
    fn ids_are_text_in_json() {
        let id = SpanId::new(SpanKind::UserUses, 7, 20_779);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, r#"{"kind":"uu","id":"00000000-0000-0000-0000-000000000007","at":20779}"#);
        assert_eq!(serde_json::from_str::<SpanId>(&json).unwrap(), id);
    }

    fn any_set() -> impl Strategy<Value = Set> {
        let last = proptest::option::of((0..4_i64, 0..4_u32));
        (proptest::collection::btree_set(0..60_u128, 0..50), last).prop_map(|(members, last)| {
            let last = last.map(|(at, key)| LastKey { at: Timestamp(at), key });
            let mut set = Set::default();
            set.add(SetKind::UserKeys, &Set { members, more: false, last });
            set
        })
    }

    proptest! {
        /// In whatever order and grouping, also with the parts that were new alone.
        #[test]
        fn keys_of_a_user_merge_to_the_smallest_of_all(sets in proptest::collection::vec(any_set(), 1..6), from in 0..6_usize) {
            let kind = SetKind::UserKeys;
            let (mut forth, mut back, mut told) = (Set::default(), Set::default(), Set::default());
            for set in &sets {
                let new = forth.add(kind, set);
                told.add(kind, &new);
            }
            for n in 0..sets.len() {
                back.add(kind, &sets[(from + 2 * sets.len() - n) % sets.len()]);
                back.add(kind, &sets[from % sets.len()]);
            }
            let all: BTreeSet<u128> = sets.iter().flat_map(|set| set.members.iter().copied()).collect();
            let smallest: BTreeSet<u128> = all.iter().copied().take(Set::MOST_KEYS).collect();
            prop_assert_eq!(&forth.members, &smallest);
            prop_assert_eq!(forth.more, sets.iter().any(|set| set.more) || all.len() > Set::MOST_KEYS);
            prop_assert_eq!(forth.last, sets.iter().filter_map(|set| set.last).max());
            prop_assert_eq!(&forth, &back);
            prop_assert_eq!(&forth, &told);
        }
    }
}
