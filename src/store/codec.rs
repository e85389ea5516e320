//! How a record becomes bytes: one byte of format version, then bincode of the type as that version had it.
//!
//! bincode's last working release is unmaintained, so nothing outside this file names it. A type's layout may
//! change only together with its `VERSION`, an arm that reads the older layout, and a pinned fixture in
//! `store/tests.rs` for the newer one.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    desk::GoneRecord,
    shelf::{Dirty, Inflight},
    tables::SetSize,
};
use crate::model::{
    Delta, Event, Health, KeyRecord, KeyUsage, KeyVersions, Set, Tally, TokenRecord, TokenVersions, Usage,
    UsageLog, UserRecord, UserVersions, Version,
};

/// A mangled length may not ask for more memory than this. Numbers are counted as they are in memory, most at up to eight
/// times of what they are in a record.
const MOST_MEMORY: usize = if cfg!(test) { 1 << 20 } else { 1 << 28 };
/// Longer than this is a journal entry after many hours without a file to write to, which may ask for more: enough for ten
/// million hours of keys.
const LONG: usize = MOST_MEMORY / 8;
const MOST_FOR_LONG: usize = 1 << 30;

type Layout<const MOST: usize> = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MOST>,
>;
const LAYOUT: Layout<MOST_MEMORY> = bincode::config::standard().with_limit();
const LAYOUT_OF_LONG: Layout<MOST_FOR_LONG> = bincode::config::standard().with_limit();

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("written by a newer keytide (format {found}, this one reads up to {known})")]
    Newer { found: u32, known: u32 },
    #[error("{0}")]
    Broken(String),
}

pub(super) trait Record: Serialize + DeserializeOwned {
    /// The layout that is written; every lower one down to 1 can be read.
    const VERSION: u8;

    /// Reads a layout older than `VERSION`.
    fn from_older(version: u8, _body: &[u8]) -> Result<Self, Error> {
        Err(unknown(version))
    }
}

fn unknown(version: u8) -> Error {
    Error::Broken(format!("unknown record format {version}"))
}

macro_rules! first_version {
    ($($record:ty),*) => {$(impl Record for $record { const VERSION: u8 = 1; })*};
}
first_version!(KeyUsage, Usage, Dirty, GoneRecord, Inflight, Tally);
first_version!(UserRecord, Packed<UserVersions>, Set, SetSize, Event, UsageLog);

/// The versions of a row's fields. Most rows were never changed since they were added, and there are many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Packed<T> {
    Same(Version),
    Each(T),
}

macro_rules! packed {
    ($($versions:ty),*) => {$(
        impl From<$versions> for Packed<$versions> {
            fn from(versions: $versions) -> Self {
                let added = versions.added;
                if versions == <$versions>::all(added) { Self::Same(added) } else { Self::Each(versions) }
            }
        }

        impl From<Packed<$versions>> for $versions {
            fn from(packed: Packed<$versions>) -> Self {
                match packed {
                    Packed::Same(version) => Self::all(version),
                    Packed::Each(versions) => versions,
                }
            }
        }
    )*};
}
packed!(KeyVersions, TokenVersions, UserVersions);

macro_rules! second_version {
    ($($(#[$doc:meta])* $record:ty: $older:ty),* $(,)?) => {$(
        impl Record for $record {
            $(#[$doc])*
            const VERSION: u8 = 2;

            fn from_older(version: u8, body: &[u8]) -> Result<Self, Error> {
                match version {
                    1 => decode_body::<$older>(body).map(Into::into),
                    _ => Err(unknown(version)),
                }
            }
        }
    )*};
}
second_version! {
    /// 2: with an owner.
    KeyRecord: older::KeyRecord,
    Packed<KeyVersions>: Packed<older::KeyVersions>,
    /// 2: with a user and daily limits.
    TokenRecord: older::TokenRecord,
    Packed<TokenVersions>: Packed<older::TokenVersions>,
    /// 2: an epoch where 1 had the time of the last reset.
    Health: older::Health,
}

impl Record for Delta {
    /// 2: with healths of version 2. 3: with what is counted by hour, day and person. 4: with single requests. 5: with
    /// attempts of keys by their hours instead of tallies for each.
    const VERSION: u8 = 5;

    fn from_older(version: u8, body: &[u8]) -> Result<Self, Error> {
        match version {
            1 => decode_body::<older::FirstDelta>(body).map(Into::into),
            2 => decode_body::<older::SecondDelta>(body).map(Into::into),
            3 => decode_body::<older::ThirdDelta>(body).map(Into::into),
            4 => decode_body::<older::FourthDelta>(body).map(Into::into),
            _ => Err(unknown(version)),
        }
    }
}

/// Layouts that are read and no longer written.
mod older {
    use std::collections::{BTreeMap, HashMap};

    use serde::Deserialize;

    use super::Packed;
    use crate::model::{
        self, ById, Cause, Hour, KeyId, KeyUsage, LimitVersions, Limits, Secret, Set, SetId, SpanId, Tally,
        Timestamp, TokenId, Usage, Version, secret,
    };

    #[derive(Deserialize)]
    pub(super) struct KeyRecord {
        #[serde(with = "secret::exposed")]
        secret: Secret,
        username: Option<Box<str>>,
        note: Option<Box<str>>,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
        weight: u16,
        enabled: bool,
        disabled_until: Option<Timestamp>,
    }

    impl From<KeyRecord> for model::KeyRecord {
        fn from(older: KeyRecord) -> Self {
            Self {
                secret: older.secret,
                username: older.username,
                note: older.note,
                created_at: older.created_at,
                expires_at: older.expires_at,
                weight: older.weight,
                enabled: older.enabled,
                disabled_until: older.disabled_until,
                owner: None,
            }
        }
    }

    #[derive(Deserialize)]
    pub(super) struct TokenRecord {
        #[serde(with = "secret::exposed")]
        secret: Secret,
        name: Box<str>,
        created_at: Timestamp,
        expires_at: Option<Timestamp>,
        allowed_models: Vec<Box<str>>,
        requests_per_minute: Option<u32>,
    }

    impl From<TokenRecord> for model::TokenRecord {
        fn from(older: TokenRecord) -> Self {
            let TokenRecord { secret, name, created_at, expires_at, allowed_models, requests_per_minute } =
                older;
            let limits = Limits { allowed_models, requests_per_minute, ..Limits::default() };
            Self { secret, name, created_at, expires_at, user: None, limits }
        }
    }

    // A field that was not there is as old as its row.

    #[derive(Clone, Copy, serde::Serialize, Deserialize)]
    pub(super) struct KeyVersions {
        added: Version,
        username: Version,
        note: Version,
        expires_at: Version,
        weight: Version,
        enabled: Version,
        disabled_until: Version,
    }

    impl From<Packed<KeyVersions>> for Packed<model::KeyVersions> {
        fn from(older: Packed<KeyVersions>) -> Self {
            match older {
                Packed::Same(version) => Self::Same(version),
                Packed::Each(older) => Self::Each(model::KeyVersions {
                    added: older.added,
                    username: older.username,
                    note: older.note,
                    expires_at: older.expires_at,
                    weight: older.weight,
                    enabled: older.enabled,
                    disabled_until: older.disabled_until,
                    owner: older.added,
                }),
            }
        }
    }

    #[derive(Clone, Copy, serde::Serialize, Deserialize)]
    pub(super) struct TokenVersions {
        added: Version,
        name: Version,
        expires_at: Version,
        allowed_models: Version,
        requests_per_minute: Version,
    }

    impl From<Packed<TokenVersions>> for Packed<model::TokenVersions> {
        fn from(older: Packed<TokenVersions>) -> Self {
            match older {
                Packed::Same(version) => Self::Same(version),
                Packed::Each(older) => Self::Each(model::TokenVersions {
                    added: older.added,
                    name: older.name,
                    expires_at: older.expires_at,
                    user: older.added,
                    limits: LimitVersions {
                        allowed_models: older.allowed_models,
                        requests_per_minute: older.requests_per_minute,
                        ..LimitVersions::all(older.added)
                    },
                }),
            }
        }
    }

    #[derive(Deserialize)]
    pub(super) struct Health {
        failed_until: Option<Timestamp>,
        cause: Cause,
        consecutive_failures: u32,
        auth_failures: u32,
        server_failures: u32,
        needs_verification: bool,
        reset_at: Timestamp,
    }

    impl From<Health> for model::Health {
        fn from(older: Health) -> Self {
            Self {
                failed_until: older.failed_until,
                cause: older.cause,
                consecutive_failures: older.consecutive_failures,
                auth_failures: older.auth_failures,
                server_failures: older.server_failures,
                needs_verification: older.needs_verification,
                epoch: Version::at(older.reset_at),
            }
        }
    }

    /// With the health of its version.
    #[derive(Deserialize)]
    struct ProviderDelta<H> {
        keys: ById<KeyId, KeyUsage>,
        hours: HashMap<(Hour, Box<str>), Usage>,
        tokens: ById<TokenId, Usage>,
        health: HashMap<KeyId, H>,
    }

    type Providers<H> = HashMap<Box<str>, ProviderDelta<H>>;

    fn providers<H: Into<model::Health>>(older: Providers<H>) -> HashMap<Box<str>, model::ProviderDelta> {
        let later = |of: ProviderDelta<H>| model::ProviderDelta {
            attempts: BTreeMap::new(),
            keys: of.keys,
            hours: of.hours,
            tokens: of.tokens,
            health: of.health.into_iter().map(|(id, health)| (id, health.into())).collect(),
        };
        older.into_iter().map(|(name, of)| (name, later(of))).collect()
    }

    #[derive(Deserialize)]
    pub(super) struct FirstDelta {
        providers: Providers<Health>,
    }

    impl From<FirstDelta> for model::Delta {
        fn from(older: FirstDelta) -> Self {
            Self { providers: providers(older.providers), ..Self::default() }
        }
    }

    #[derive(Deserialize)]
    pub(super) struct SecondDelta {
        providers: Providers<model::Health>,
    }

    impl From<SecondDelta> for model::Delta {
        fn from(older: SecondDelta) -> Self {
            Self { providers: providers(older.providers), ..Self::default() }
        }
    }

    #[derive(Deserialize)]
    pub(super) struct ThirdDelta {
        providers: Providers<model::Health>,
        core: CoreDelta,
    }

    #[derive(Deserialize)]
    struct CoreDelta {
        tallies: ById<SpanId, Tally>,
        sets: ById<SetId, Set>,
    }

    impl From<ThirdDelta> for model::Delta {
        fn from(older: ThirdDelta) -> Self {
            let CoreDelta { tallies, sets } = older.core;
            let core = model::CoreDelta { tallies, sets, ..model::CoreDelta::default() };
            Self { providers: providers(older.providers), core }
        }
    }

    #[derive(Deserialize)]
    pub(super) struct FourthDelta {
        providers: Providers<model::Health>,
        core: model::CoreDelta,
    }

    impl From<FourthDelta> for model::Delta {
        fn from(older: FourthDelta) -> Self {
            Self { providers: providers(older.providers), core: older.core }
        }
    }
}

pub(super) fn encode<T: Record>(record: &T) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(T::VERSION);
    bincode::serde::encode_into_std_write(record, &mut bytes, LAYOUT)
        .expect("records hold nothing that cannot be encoded, and memory does not fail");
    bytes
}

pub(super) fn decode<T: Record>(bytes: &[u8]) -> Result<T, Error> {
    match bytes.split_first() {
        None => Err(Error::Broken("an empty record".to_owned())),
        Some((&version, body)) if version == T::VERSION => decode_body(body),
        Some((&version, _)) if version > T::VERSION => {
            Err(Error::Newer { found: version.into(), known: T::VERSION.into() })
        }
        Some((&version, body)) => T::from_older(version, body),
    }
}

/// For what is no record: a value in a layout that is somebody else's to keep track of. `None` where it has no such form.
pub(super) fn pack(version: u8, value: &impl Serialize) -> Option<Vec<u8>> {
    let mut bytes = vec![version];
    bincode::serde::encode_into_std_write(value, &mut bytes, LAYOUT).ok()?;
    Some(bytes)
}

/// `None` where it was written in another layout, or is broken.
pub(super) fn unpack<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Option<T> {
    let body = bytes.strip_prefix(&[version])?;
    decode_body(body).ok()
}

fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    let read = if body.len() <= LONG {
        bincode::serde::decode_from_slice(body, LAYOUT)
    } else {
        bincode::serde::decode_from_slice(body, LAYOUT_OF_LONG)
    };
    match read {
        Ok((record, used)) if used == body.len() => Ok(record),
        Ok((_, used)) => Err(Error::Broken(format!("{} bytes too many in a record", body.len() - used))),
        // bincode's messages may quote what they read, and that may be a key: not passed on.
        Err(_) => Err(Error::Broken("a record that cannot be read".to_owned())),
    }
}
