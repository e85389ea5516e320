//! One attempt's hold on a key.

use std::{fmt, sync::Arc};

use http::HeaderValue;

use super::Pool;
use crate::model::{Effect, KeyId, Timestamp};

/// A key for one attempt. Ends with [`Lease::finish`]; dropping it says that nothing was learnt about the key.
///
/// It stays good for its attempt when the key is removed meanwhile, and then changes nothing.
#[must_use]
pub struct Lease {
    pool: Arc<Pool>,
    credential: HeaderValue,
    key_id: KeyId,
    /// What had happened to healths when the key was picked.
    tick: u64,
    slot: u32,
    finished: bool,
}

impl Lease {
    pub(super) fn new(pool: Arc<Pool>, credential: HeaderValue, key_id: KeyId, tick: u64, slot: u32) -> Self {
        Self { pool, credential, key_id, tick, slot, finished: false }
    }

    pub fn key_id(&self) -> KeyId {
        self.key_id
    }

    /// The header's value, marked sensitive. Cloning it copies no text.
    pub fn credential(&self) -> &HeaderValue {
        &self.credential
    }

    pub fn finish(mut self, effect: Effect, now: Timestamp) {
        self.finished = true;
        let mut inner = self.pool.lock();
        let now = inner.present(now);
        inner.release(self.slot, self.tick, effect, now);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !self.finished {
            let mut inner = self.pool.lock();
            let now = inner.latest();
            inner.release(self.slot, self.tick, Effect::None, now);
        }
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}
