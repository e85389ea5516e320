//! Which batches were cut into which: two copies of a file may hold the same batch, and while one throws it away, the
//! other tells it in parts.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use uuid::Uuid;

use super::oracle::BatchId;
use crate::replica::protocol::document::Head;

thread_local! {
    /// By part.
    static WHOLES: RefCell<BTreeMap<BatchId, BTreeSet<BatchId>>> = const { RefCell::new(BTreeMap::new()) };
}

/// Another world begins.
pub fn forget() {
    WHOLES.take();
}

pub fn note(instance: Uuid, (seq, digest): (u64, &str), part: &Head) {
    let whole = (instance, seq, digest.to_owned());
    let part = (instance, part.seq, part.digest.clone());
    WHOLES.with_borrow_mut(|wholes| wholes.entry(part).or_default().insert(whole));
}

/// Whether rows of a batch that was thrown away were told under other names, or are another's to account for.
pub fn are_elsewhere(batch: &BatchId, applied: &BTreeSet<BatchId>) -> bool {
    WHOLES.with_borrow(|wholes| {
        let was_cut = wholes.values().any(|of| of.contains(batch));
        let mut above = vec![batch];
        let mut seen = BTreeSet::new();
        while let Some(part) = above.pop() {
            if applied.contains(part) {
                return true;
            }
            let found = wholes.get(part).into_iter().flatten();
            above.extend(found.filter(|whole| seen.insert(*whole)));
        }
        was_cut
    })
}
