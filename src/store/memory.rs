//! What other rooms remember through a restart and could do without: each in a layout of its own, under a name, in parts
//! of a size that the file takes well.

use redb::{ReadTransaction, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};

use super::{codec, error::Fault, tables::MEMORY};

const PART: usize = 64 << 10;
/// A room that has more to remember has to forget some.
pub const MOST: usize = 64 << 20;

/// `None` where it is too much.
pub(super) fn pack(version: u8, value: &impl Serialize) -> Option<Vec<u8>> {
    codec::pack(version, value).filter(|bytes| bytes.len() <= MOST)
}

/// `None` where it is of another layout, or cannot be read.
pub(super) fn unpack<T: DeserializeOwned>(version: u8, bytes: &[u8]) -> Option<T> {
    codec::unpack(version, bytes)
}

/// In place of what was there.
pub(super) fn put(txn: &WriteTransaction, name: &str, bytes: &[u8]) -> Result<(), Fault> {
    let mut rows = txn.open_table(MEMORY)?;
    let mut next = 0;
    for part in bytes.chunks(PART) {
        rows.insert((name, next), part)?;
        next += 1;
    }
    Ok(rows.retain_in((name, next)..=(name, u32::MAX), |_, _| false)?)
}

/// Empty where nothing was put.
pub(super) fn get(txn: &ReadTransaction, name: &str) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    for row in txn.open_table(MEMORY)?.range((name, 0)..=(name, u32::MAX))? {
        bytes.extend_from_slice(row?.1.value());
    }
    Ok(bytes)
}
