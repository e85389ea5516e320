//! What the table tells: single keys, counts, and why there is no key.

use std::time::Duration;

use super::{Inner, State, secret_of};
use crate::{
    model::{KeyRecord, Secret, Status, Timestamp, secret::mask},
    pool::{KeyView, NoKey, Reason, StateCounts},
};

/// What a caller is told when keys are only busy: they return when some request ends.
const BUSY_RETRY: Duration = Duration::from_secs(1);

impl Inner {
    pub(in crate::pool) fn no_key(&self, now: Timestamp) -> NoKey {
        let count = |state: State| self.states[state as usize];
        let total = self.index.len();
        let limited = count(State::Limited) + count(State::Full) + count(State::UsedUp);
        let busy = (count(State::Full) > 0).then(|| now.saturating_add(BUSY_RETRY));
        let limit_ends = [self.limited.next(), busy].into_iter().flatten().min();
        let reason = if total == 0 {
            Reason::Empty
        } else if self.choices.len() > 0 {
            Reason::Excluded
        } else {
            match limit_ends {
                Some(retry_at) if limited > 0 && count(State::Paused) == 0 => {
                    Reason::RateLimited { retry_at }
                }
                _ => Reason::Unavailable {
                    retry_at: [limit_ends, self.paused.next()].into_iter().flatten().min(),
                },
            }
        };
        NoKey { total, reason }
    }

    pub(in crate::pool) fn counts(&self) -> StateCounts {
        let mut counts =
            StateCounts { total: self.index.len(), in_flight: self.in_flight, ..Default::default() };
        for state in State::ALL {
            *match state.status() {
                Status::Active => &mut counts.active,
                Status::Disabled => &mut counts.disabled,
                Status::Failed => &mut counts.failed,
                Status::Expired => &mut counts.expired,
            } += self.states[state as usize];
        }
        counts
    }

    pub(in crate::pool) fn view(&self, slot: u32, now: Timestamp) -> Option<KeyView> {
        let (hot, cold) = (self.hot.get(slot as usize)?, &self.cold[slot as usize]);
        hot.live.then(|| KeyView {
            id: hot.id,
            secret: mask(secret_of(&hot.credential, self.options.scheme)),
            username: cold.username.clone(),
            note: cold.note.clone(),
            created_at: cold.created_at,
            expires_at: cold.expires_at,
            weight: cold.weight,
            enabled: cold.enabled,
            disabled_until: cold.disabled_until,
            owner: cold.owner.as_deref().copied(),
            status: self.state(slot, now).0.status(),
            health: cold.health.clone(),
            in_flight: hot.in_flight,
        })
    }

    pub(in crate::pool) fn record(&self, slot: u32) -> KeyRecord {
        let cold = &self.cold[slot as usize];
        KeyRecord {
            secret: self.secret(slot),
            username: cold.username.clone(),
            note: cold.note.clone(),
            created_at: cold.created_at,
            expires_at: cold.expires_at,
            weight: cold.weight,
            enabled: cold.enabled,
            disabled_until: cold.disabled_until,
            owner: cold.owner.as_deref().copied(),
        }
    }

    pub(in crate::pool) fn secret(&self, slot: u32) -> Secret {
        Secret::new(secret_of(&self.hot[slot as usize].credential, self.options.scheme))
    }
}
