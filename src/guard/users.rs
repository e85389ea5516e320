//! The users in force, of all providers.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    caller::Caller,
    meter::{Meter, Used},
    meters::Meters,
    tokens::{Refusal, Token},
};
use crate::model::{DaySpan, Networks, Timestamp, UserId, UserRecord, Zone};

/// A user, with what was used of the limits.
#[derive(Debug)]
pub struct User {
    pub id: UserId,
    pub record: UserRecord,
    pub(super) addresses: Networks,
    pub(super) meter: Arc<Meter>,
}

#[derive(Debug, Default)]
pub struct Users {
    by_id: RwLock<HashMap<UserId, Arc<User>>>,
    zone: RwLock<Zone>,
    /// How often they, or the zone, have changed: raised before the change is over.
    changes: AtomicU64,
    meters: Arc<Meters>,
}

impl Users {
    /// Days begin and end in `zone`.
    pub fn new(zone: Zone, meters: Arc<Meters>) -> Self {
        Self { zone: RwLock::new(zone), meters, ..Self::default() }
    }

    /// Puts a user in force, or what is said of one: what was used stays used, of one that was removed as
    /// well. Streams of one who is disabled end within a second.
    pub fn insert(&self, id: UserId, record: UserRecord) {
        let meter = self.meters.of(id.0);
        let mut users = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        meter.set_gone(!record.enabled);
        let addresses = Networks::of(&record.limits.allowed_addresses);
        users.insert(id, Arc::new(User { id, record, addresses, meter }));
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// Takes a user out of force, and with it the tokens: they are refused, and their streams end within a second.
    pub fn remove(&self, id: UserId, now: Timestamp) -> Option<Arc<User>> {
        let mut users = self.by_id.write().unwrap_or_else(PoisonError::into_inner);
        let removed = users.remove(&id)?;
        removed.meter.set_gone(true);
        self.changes.fetch_add(1, Ordering::Release);
        drop(users);
        self.meters.tidy(now);
        Some(removed)
    }

    pub fn get(&self, id: UserId) -> Option<Arc<User>> {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// All users, oldest first.
    pub fn list(&self) -> Vec<Arc<User>> {
        let mut list: Vec<_> =
            self.by_id.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        list.sort_unstable_by_key(|user| (user.record.created_at, user.id));
        list
    }

    pub fn have_daily_limits(&self) -> bool {
        let users = self.by_id.read().unwrap_or_else(PoisonError::into_inner);
        users.values().any(|user| user.record.limits.are_daily())
    }

    pub fn len(&self) -> usize {
        self.by_id.read().unwrap_or_else(PoisonError::into_inner).len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn zone(&self) -> Zone {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The day under way goes on to its end as it was begun.
    pub fn set_zone(&self, zone: Zone) {
        *self.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
        self.changes.fetch_add(1, Ordering::Release);
    }

    /// The same number twice: nothing has changed between.
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    /// Who stands behind a request with this token.
    ///
    /// # Errors
    /// When its user is disabled, or is not there: deleted, or not yet arrived here.
    pub fn caller(&self, token: Arc<Token>) -> Result<Caller, Refusal> {
        let user = match token.record.user {
            None => None,
            Some(id) => {
                let enabled = self.get(id).filter(|user| user.record.enabled);
                Some(enabled.ok_or(Refusal::UserDisabled(id))?)
            }
        };
        Ok(Caller::new(token, user, self.zone()))
    }
}

impl User {
    /// The day that `now` is in, and what was used on it.
    pub fn used(&self, now: Timestamp, zone: &Zone) -> (DaySpan, Used) {
        self.meter.used(now, zone)
    }
}
