//! What the store is told when it opens.

use std::{path::PathBuf, time::Duration};

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// The data folder; made when it is missing.
    pub dir: PathBuf,
    /// How often what was counted is committed: the most that a killed process loses under
    /// [`Durability::Relaxed`].
    pub flush_interval: Duration,
    pub durability: Durability,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            dir: PathBuf::from("data"),
            flush_interval: Duration::from_millis(100),
            durability: Durability::default(),
        }
    }
}

/// Whether an answer waits for the commit that counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// It does not: a kill loses at most one flush interval of statistics.
    #[default]
    Relaxed,
    /// It does: a kill loses nothing that was answered.
    Strict,
}
