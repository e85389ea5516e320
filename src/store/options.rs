//! What the store can be told.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The data folder; the store is the file [`super::FILE_NAME`] in it.
    pub dir: PathBuf,
    /// How often the books hand their deltas over; what `kill -9` can lose when relaxed.
    pub flush_interval: Duration,
    pub durability: Durability,
    /// Bytes that the file may have: when it is near to that at a start, free space is given back to the disk.
    pub budget: Option<u64>,
}

impl Options {
    pub const FLUSH_INTERVAL: Duration = Duration::from_millis(100);

    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let durability = Durability::default();
        Self { dir: dir.into(), flush_interval: Self::FLUSH_INTERVAL, durability, budget: None }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new("data")
    }
}

/// When a response may complete, seen from the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// At once; its counts are on disk within one flush interval.
    #[default]
    Relaxed,
    /// After the commit that holds its counts.
    Strict,
}
