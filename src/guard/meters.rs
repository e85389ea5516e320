//! The meters of all tokens and users, also of those that are not in force: whoever comes back on the same day, with
//! the text that was revoked or the id that was deleted, goes on where it was, and so does one that others have used
//! before it arrived here.
//!
//! A meter is forgotten when nobody holds it and its days are over. Of those that nobody holds there are [`MOST`] at
//! most; beyond, those that have used least go first.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::meter::{Meter, Used};
use crate::model::{DaySpan, Timestamp};

/// Meters of nobody in force that are kept.
const MOST: usize = 10_000;

/// By the ids of tokens and users, which are never the same.
#[derive(Debug, Default)]
pub struct Meters(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_id: HashMap<u128, Arc<Meter>>,
    /// How often something came or went since they were last looked through.
    changes: usize,
}

impl Meters {
    pub(super) fn of(&self, id: u128) -> Arc<Meter> {
        self.lock().by_id.entry(id).or_default().clone()
    }

    /// Sets what was used on a day, as the books know it.
    pub fn seed(&self, id: u128, day: DaySpan, used: Used) {
        self.of(id).seed(day, used);
    }

    /// Adds what was counted elsewhere.
    pub fn shift(&self, id: u128, day: DaySpan, by: Used, now: Timestamp) {
        let mut kept = self.lock();
        kept.by_id.entry(id).or_default().shift(day, by);
        kept.tidy(now);
    }

    /// When somebody is no longer in force.
    pub(super) fn tidy(&self, now: Timestamp) {
        self.lock().tidy(now);
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// Looks through them when much has changed since the last time, so that one more costs nothing to speak of.
    fn tidy(&mut self, now: Timestamp) {
        self.changes += 1;
        if self.changes < MOST / 10 {
            return;
        }
        self.changes = 0;
        let is_held = |meter: &Arc<Meter>| Arc::strong_count(meter) > 1;
        self.by_id.retain(|_, meter| is_held(meter) || meter.is_of_use(now));
        let idle = self.by_id.iter().filter(|(_, meter)| !is_held(meter));
        let mut idle: Vec<_> = idle.map(|(id, meter)| (meter.lately(), *id)).collect();
        let beyond = idle.len().saturating_sub(MOST);
        if beyond > 0 {
            idle.select_nth_unstable(beyond);
            for (_, id) in &idle[..beyond] {
                self.by_id.remove(id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Zone;

    const DAY: i64 = 86_400_000;

    fn used(requests: i64) -> Used {
        Used { requests, tokens: 0 }
    }

    #[test]
    fn what_nobody_holds_ends_with_its_day_and_is_bounded() {
        let (meters, zone) = (Meters::default(), Zone::default());
        let (today, tomorrow) = (Timestamp(9 * DAY), Timestamp(10 * DAY));
        let day = zone.day_of(today);
        let count = |meters: &Meters| meters.lock().by_id.len();
        let held: Vec<_> = (0..3).map(|id| meters.of(id)).collect();
        for id in 0..3 * MOST as u128 {
            meters.shift(id, day, used(id as i64), today);
        }
        assert!(count(&meters) <= MOST + MOST / 10 + held.len(), "{}", count(&meters));
        // Those that have used most, and those that are in force.
        let last = 3 * MOST as u128 - 1;
        for (id, requests) in [(last, last as i64), (0, 0), (2, 2), (7, 0)] {
            assert_eq!(meters.of(id).used(today, &zone).1, used(requests), "{id}");
        }
        // Many who are revoked at once.
        drop((0..3 * MOST as u128).map(|id| meters.of(id)).collect::<Vec<_>>());
        (0..MOST).for_each(|_| meters.tidy(today));
        assert!(count(&meters) <= MOST + held.len(), "{}", count(&meters));
        // A new day, of which nothing is known yet.
        for id in 0..2 * MOST as u128 {
            meters.shift(1 << 64 | id, zone.day_of(tomorrow), used(1), tomorrow);
        }
        assert_eq!(meters.of(last).used(today, &zone).1, used(0));
        assert_eq!(meters.of(2).used(today, &zone).1, used(2));
    }
}
