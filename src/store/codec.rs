//! How a record becomes bytes: one byte of format version, then bincode of the type as that version had it.
//!
//! bincode's last working release is unmaintained, so nothing outside this file names it. A type's layout may
//! change only together with its `VERSION`, an arm that reads the older layout, and a pinned fixture in
//! `store/tests.rs` for the newer one.

use serde::{Serialize, de::DeserializeOwned};

use crate::model::{Delta, Health, KeyRecord, KeyUsage, TokenRecord, Usage};

/// A mangled length may not ask for more memory than this; the largest journal entry stays far below.
const MAX_RECORD_BYTES: usize = 1 << 28;

type Layout = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    bincode::config::Limit<MAX_RECORD_BYTES>,
>;
const LAYOUT: Layout = bincode::config::standard().with_limit();

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
        Err(Error::Broken(format!("unknown record format {version}")))
    }
}

macro_rules! first_version {
    ($($record:ty),*) => {$(impl Record for $record { const VERSION: u8 = 1; })*};
}
first_version!(KeyRecord, Health, KeyUsage, TokenRecord, Usage, Delta);

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

fn decode_body<T: DeserializeOwned>(body: &[u8]) -> Result<T, Error> {
    match bincode::serde::decode_from_slice(body, LAYOUT) {
        Ok((record, used)) if used == body.len() => Ok(record),
        Ok((_, used)) => Err(Error::Broken(format!("{} bytes too many in a record", body.len() - used))),
        // bincode's messages may quote what they read, and that may be a key: not passed on.
        Err(_) => Err(Error::Broken("a record that cannot be read".to_owned())),
    }
}
