//! The keys of one provider, in memory: which can be picked, who has them, and when they come back.
//!
//! - `slots` is the table of keys. Its `settle` is the only place that decides whether a key can be picked;
//!   `slots::attempt` follows one attempt through the table.
//! - `pick` holds those that can, and chooses: O(1) in the number of keys, without allocation.
//! - `cooldown` holds the deadlines. They are looked at when a key is picked; no task waits for them.
//! - `lease` is an attempt's hold on a key.
//!
//! One lock guards all of it, never across an await: well under a microsecond for a pick, a few for one that passes
//! over failing keys, longer only where every key has to be looked at (new options). The present is always an
//! argument. What the pool deliberately does not know: status codes, files, tasks.

mod cooldown;
mod lease;
#[cfg(test)]
mod model_tests;
mod options;
mod pick;
#[cfg(test)]
mod remote_tests;
mod slots;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use lease::Lease;
pub use options::{CooldownScope, Options, Scheme, Strategy};

use crate::model::{Health, KeyId, KeyRecord, Secret, Stamps, Status, Timestamp, UserId};
use slots::Inner;

pub struct Pool {
    provider: Box<str>,
    inner: Mutex<Inner>,
}

/// What a request wants of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ask<'a> {
    /// Keys that this request has tried already.
    pub exclude: &'a [KeyId],
    /// Who asks, for the `affinity` strategy: any number that stays the same for a caller.
    pub caller: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InsertError {
    #[error("the key is in the pool already")]
    Exists,
    #[error("the key contains characters that cannot be sent in a header; check for line breaks")]
    NotAHeaderValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplaceError {
    #[error("the key is not in the pool")]
    Missing,
    #[error("the record belongs to another key; a key's text cannot be changed, add it as a new key")]
    AnotherKey,
}

/// Why no key could be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key can be picked: {reason}")]
pub struct NoKey {
    /// Keys in the pool, whatever their state.
    pub total: usize,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    #[error("the pool is empty")]
    Empty,
    /// All keys that are not disabled, expired or refused are out because of a limit, and there are some.
    #[error("all keys have reached their limits")]
    RateLimited { retry_at: Timestamp },
    /// `retry_at` is when the first key returns; `None` where a person or a probe is needed.
    #[error("all keys are disabled, expired or failing")]
    Unavailable { retry_at: Option<Timestamp> },
    #[error("the request has tried all keys that can be picked")]
    Excluded,
}

/// Keys by [`Status`]. Keys that are only busy are active.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StateCounts {
    pub total: usize,
    pub active: usize,
    pub disabled: usize,
    pub failed: usize,
    pub expired: usize,
    /// Attempts, of all keys in the pool.
    pub in_flight: usize,
}

/// A key as people may see it.
#[derive(Clone, Debug, PartialEq)]
pub struct KeyView {
    pub id: KeyId,
    /// Masked.
    pub secret: String,
    pub username: Option<Box<str>>,
    pub note: Option<Box<str>>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub weight: u16,
    pub enabled: bool,
    pub disabled_until: Option<Timestamp>,
    pub owner: Option<UserId>,
    pub status: Status,
    pub health: Health,
    pub in_flight: u32,
}

impl Pool {
    /// The most keys that [`Pool::scan`] copies at once.
    pub const MAX_SCAN: usize = 512;

    pub fn new(provider: impl Into<Box<str>>, options: Options) -> Arc<Self> {
        Self::stamped(provider, options, Arc::default())
    }

    /// As [`Pool::new`], with the stamps of an instance that has others beside it.
    pub fn stamped(provider: impl Into<Box<str>>, options: Options, stamps: Arc<Stamps>) -> Arc<Self> {
        Arc::new(Self { provider: provider.into(), inner: Mutex::new(Inner::new(options, stamps)) })
    }

    pub fn provider(&self) -> &str {
        &self.provider
    }

    /// Takes effect at once for everything but pauses that have begun. Looks at every key.
    pub fn set_options(&self, options: Options, now: Timestamp) {
        let mut inner = self.lock();
        let now = inner.present(now);
        inner.set_options(options, now);
    }

    /// # Errors
    /// When the key is there already, or could not be sent.
    pub fn insert(&self, record: KeyRecord, health: Health, now: Timestamp) -> Result<KeyId, InsertError> {
        self.insert_as(record.id(&self.provider), record, health, now)
    }

    /// As [`Pool::insert`], for a record whose id is known: at a start there are many, and ids are digests.
    ///
    /// # Errors
    /// As [`Pool::insert`].
    pub fn insert_as(
        &self,
        id: KeyId,
        record: KeyRecord,
        health: Health,
        now: Timestamp,
    ) -> Result<KeyId, InsertError> {
        let mut inner = self.lock();
        if inner.find(id).is_some() {
            return Err(InsertError::Exists);
        }
        let now = inner.present(now);
        inner.insert(id, record, health, now).map(|_| id).ok_or(InsertError::NotAHeaderValue)
    }

    /// Attempts that have the key end as they would have, and change nothing.
    pub fn remove(&self, id: KeyId) -> Option<KeyRecord> {
        let mut inner = self.lock();
        inner.find(id).map(|slot| inner.remove(slot))
    }

    pub fn contains(&self, id: KeyId) -> bool {
        self.lock().find(id).is_some()
    }

    pub fn get(&self, id: KeyId, now: Timestamp) -> Option<KeyView> {
        let inner = self.lock();
        inner.find(id).and_then(|slot| inner.view(slot, now))
    }

    /// What people decided about a key: to be changed, written to disk, and given to [`Pool::replace`].
    pub fn record(&self, id: KeyId) -> Option<KeyRecord> {
        let inner = self.lock();
        inner.find(id).map(|slot| inner.record(slot))
    }

    pub fn secret(&self, id: KeyId) -> Option<Secret> {
        let inner = self.lock();
        inner.find(id).map(|slot| inner.secret(slot))
    }

    /// Puts in what people decided. With `clear_health` (a person's enable) the key's health is cleared too,
    /// and answers to attempts that began before change nothing.
    ///
    /// Whoever changes records one after another, as the store wants it anyway, loses none of the changes.
    ///
    /// # Errors
    /// When the key is gone, or the record is another key's.
    pub fn replace(
        &self,
        id: KeyId,
        record: KeyRecord,
        clear_health: bool,
        now: Timestamp,
    ) -> Result<(), ReplaceError> {
        if record.id(&self.provider) != id {
            return Err(ReplaceError::AnotherKey);
        }
        let mut inner = self.lock();
        let slot = inner.find(id).ok_or(ReplaceError::Missing)?;
        let now = inner.present(now);
        inner.replace(slot, record, now);
        if clear_health {
            inner.reset(slot, now);
        }
        Ok(())
    }

    /// Puts in what other instances know of a key, as the store has it already: people's word in place of ours,
    /// what was concluded merged into ours. Where they cleared it later than we, that holds here as a person's
    /// enable does.
    ///
    /// # Errors
    /// When the key is gone.
    pub fn apply_remote(
        &self,
        id: KeyId,
        record: KeyRecord,
        health: &Health,
        now: Timestamp,
    ) -> Result<(), ReplaceError> {
        let mut inner = self.lock();
        let slot = inner.find(id).ok_or(ReplaceError::Missing)?;
        let now = inner.present(now);
        inner.merge(slot, health);
        inner.replace(slot, record, now);
        Ok(())
    }

    /// # Errors
    /// Why there is no key, and when to come back.
    pub fn pick(self: &Arc<Self>, ask: &Ask<'_>, now: Timestamp) -> Result<Lease, NoKey> {
        let mut inner = self.lock();
        let now = inner.present(now);
        let slot = inner.pick(ask, now)?;
        Ok(self.lease(&inner, slot))
    }

    /// Why the next pick would find no key; `None` when there is one.
    pub fn why_none(&self, now: Timestamp) -> Option<NoKey> {
        let mut inner = self.lock();
        let now = inner.present(now);
        inner.why_none(now)
    }

    /// The key itself, whatever its state and limits: for a probe. A success brings it back.
    pub fn lease_for(self: &Arc<Self>, id: KeyId, now: Timestamp) -> Option<Lease> {
        let mut inner = self.lock();
        let now = inner.present(now);
        let slot = inner.find(id)?;
        inner.begin_probe(slot, now);
        Some(self.lease(&inner, slot))
    }

    fn lease(self: &Arc<Self>, inner: &Inner, slot: u32) -> Lease {
        let hot = &inner.hot[slot as usize];
        Lease::new(Arc::clone(self), hot.credential.clone(), hot.id, inner.tick, slot)
    }

    /// At most `max` keys that wait for a probe and whose time has come. Each is due again five minutes later,
    /// or when the probe's outcome says.
    pub fn due_for_verification(&self, now: Timestamp, max: usize) -> Vec<KeyId> {
        let mut inner = self.lock();
        let now = inner.present(now);
        inner.handle_due(slots::DUE_AT_ONCE, now);
        std::iter::from_fn(|| inner.take_probe(now)).take(max).collect()
    }

    pub fn next_verification(&self) -> Option<Timestamp> {
        self.lock().next_probe()
    }

    /// The keys whose health has changed since the last call, each once, with their latest health.
    pub fn drain_changed(&self) -> Vec<(KeyId, Health)> {
        self.lock().take_changed()
    }

    pub fn counts(&self, now: Timestamp) -> StateCounts {
        loop {
            // Let go between the rounds: many keys may be due, and requests do not wait for counts.
            let mut inner = self.lock();
            let now = inner.present(now);
            if !inner.handle_due(slots::DUE_AT_ONCE, now) {
                return inner.counts();
            }
        }
    }

    /// A part of the listing: at most `max` keys (and at most [`Pool::MAX_SCAN`]) from position `from`, and
    /// where to go on. Keys that are there from the first part to the last are listed exactly once.
    pub fn scan(&self, from: usize, max: usize, now: Timestamp) -> (Vec<KeyView>, Option<usize>) {
        let inner = self.lock();
        let end = from.saturating_add(max.clamp(1, Self::MAX_SCAN)).min(inner.slots());
        let views = (from..end).filter_map(|slot| inner.view(slot as u32, now)).collect();
        (views, (end < inner.slots()).then_some(end))
    }

    /// A thread that panicked while it held the lock leaves the table usable: go on.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
