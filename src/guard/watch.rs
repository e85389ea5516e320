//! The way from requests to the monitor, and what its verdicts do to them.
//!
//! A request leaves what was observed with its core: one push under a lock that only the collection shares, and never
//! for longer than two lists take to change places. What does not fit until the next collection is counted and forgotten:
//! whoever sends that much is seen all the same.

use std::{
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::verdicts::{Barred, Verdicts};
use crate::{
    model::Timestamp,
    monitor::{Observation, Subject},
};

/// Of one core, between two collections: 16,384 in a fifth of a second are beyond what a core serves.
const MOST: usize = 16_384;

/// Where a request comes from, for those that get no more than the request.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    pub address: IpAddr,
    /// Whether the caller's own connection is known to be encrypted: a proxy that is trusted says so.
    pub is_https: bool,
}

/// Its own cache line, so that cores do not slow each other down.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Aligned(Mutex<Vec<Observation>>);

#[derive(Debug)]
pub struct Watch {
    is_on: AtomicBool,
    waiting: Box<[Aligned]>,
    lost: AtomicU64,
    pub verdicts: Verdicts,
}

impl Watch {
    /// `cores` is how many tell without waiting for each other.
    pub fn new(cores: usize, is_on: bool) -> Self {
        Self {
            is_on: is_on.into(),
            waiting: (0..cores.max(1)).map(|_| Aligned::default()).collect(),
            lost: AtomicU64::new(0),
            verdicts: Verdicts::default(),
        }
    }

    /// While it is off, nothing is observed and no verdict holds.
    pub fn set_on(&self, is_on: bool) {
        self.is_on.store(is_on, Ordering::Relaxed);
    }

    pub fn is_on(&self) -> bool {
        self.is_on.load(Ordering::Relaxed)
    }

    pub fn tell(&self, core: usize, seen: Observation) {
        if !self.is_on() {
            return;
        }
        let mut waiting = self.of(core);
        if waiting.len() < MOST {
            waiting.push(seen);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Takes all that waits, in the order of its times. What is in `lists` is only used for its memory.
    pub fn collect(&self, lists: &mut Vec<Vec<Observation>>) -> Vec<Observation> {
        lists.resize_with(self.waiting.len(), Vec::new);
        for (core, list) in lists.iter_mut().enumerate() {
            list.clear();
            std::mem::swap(&mut *self.of(core), list);
        }
        let mut all = lists.concat();
        // Each core's are in order already, which the sort makes use of.
        all.sort_by_key(|seen| seen.at);
        all
    }

    /// How many observations did not fit.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether a verdict keeps this request out; `usual` is the limit per minute that a throttle takes its part of.
    ///
    /// # Errors
    /// Why, and until when.
    pub fn check(&self, subject: Subject, usual: Option<u32>, now: Timestamp) -> Result<(), Barred> {
        if self.verdicts.is_empty() || !self.is_on() {
            return Ok(());
        }
        self.verdicts.check(subject, usual, now)
    }

    fn of(&self, core: usize) -> MutexGuard<'_, Vec<Observation>> {
        let waiting = &self.waiting[core % self.waiting.len()];
        waiting.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::What;

    fn seen(at: i64) -> Observation {
        Observation {
            at: Timestamp(at),
            subject: Subject::Everyone,
            address: None,
            key: None,
            provider: 0,
            model: None,
            what: What::Limited,
        }
    }

    #[test]
    fn all_that_fits_is_collected_once_and_in_order() {
        let (watch, mut lists) = (Watch::new(2, true), Vec::new());
        for at in 0..6 {
            watch.tell(at as usize, seen(if at % 2 == 0 { at } else { 10 - at }));
        }
        let times: Vec<_> = watch.collect(&mut lists).iter().map(|seen| seen.at.0).collect();
        assert_eq!(times, [0, 2, 4, 5, 7, 9]);
        assert!(watch.collect(&mut lists).is_empty());
        (0..MOST as i64 + 7).for_each(|at| watch.tell(1, seen(at)));
        assert_eq!((watch.collect(&mut lists).len(), watch.lost()), (MOST, 7));
        watch.set_on(false);
        watch.tell(0, seen(1));
        assert!(watch.collect(&mut lists).is_empty());
    }
}
