//! When keys come back: deadlines, and the accounts whose keys cool down together.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use crate::model::Timestamp;

const NOWHERE: u32 = u32::MAX;

/// A binary heap of deadlines that knows where each slot's entry is.
///
/// A slot has at most one entry, which moves when its deadline does. So the heap is never longer than the
/// table of keys, however often a cooldown is extended, and no entry is ever out of date.
#[derive(Default)]
pub(super) struct Deadlines {
    heap: Vec<(Timestamp, u32)>,
    /// Where in `heap` a slot's entry is; as long as the highest slot that ever had one.
    at: Vec<u32>,
}

impl Deadlines {
    #[cfg(test)]
    fn first(&self) -> Option<(Timestamp, u32)> {
        self.heap.first().copied()
    }

    pub(super) fn next(&self) -> Option<Timestamp> {
        self.heap.first().map(|(at, _)| *at)
    }

    pub(super) fn due(&self, now: Timestamp) -> Option<u32> {
        self.heap.first().filter(|(at, _)| *at <= now).map(|(_, slot)| *slot)
    }

    pub(super) fn get(&self, slot: u32) -> Option<Timestamp> {
        self.position(slot).map(|at| self.heap[at].0)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(super) fn set(&mut self, slot: u32, deadline: Option<Timestamp>) {
        match (self.position(slot), deadline) {
            (None, None) => {}
            (None, Some(deadline)) => {
                if self.at.len() <= slot as usize {
                    self.at.resize(slot as usize + 1, NOWHERE);
                }
                self.heap.push((deadline, slot));
                self.rise(self.heap.len() - 1);
            }
            (Some(at), Some(deadline)) => {
                let before = self.heap[at].0;
                self.heap[at].0 = deadline;
                if deadline < before {
                    self.rise(at);
                } else if before < deadline {
                    self.sink(at);
                }
            }
            (Some(at), None) => {
                self.heap.swap_remove(at);
                self.at[slot as usize] = NOWHERE;
                if at < self.heap.len() {
                    // The entry that fills the gap comes from another branch and may belong either way.
                    // Whatever stands here after rising, the same entry or its old parent, sinking it is right.
                    self.rise(at);
                    self.sink(at);
                }
            }
        }
    }

    fn position(&self, slot: u32) -> Option<usize> {
        self.at.get(slot as usize).filter(|at| **at != NOWHERE).map(|at| *at as usize)
    }

    fn rise(&mut self, mut at: usize) {
        let entry = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / 2;
            if self.heap[parent] <= entry {
                break;
            }
            self.put(at, self.heap[parent]);
            at = parent;
        }
        self.put(at, entry);
    }

    fn sink(&mut self, mut at: usize) {
        let entry = self.heap[at];
        loop {
            let left = 2 * at + 1;
            let right = left + 1;
            let child = match (self.heap.get(left), self.heap.get(right)) {
                (Some(l), Some(r)) if r < l => right,
                (Some(_), _) => left,
                (None, _) => break,
            };
            if entry <= self.heap[child] {
                break;
            }
            self.put(at, self.heap[child]);
            at = child;
        }
        self.put(at, entry);
    }

    fn put(&mut self, at: usize, entry: (Timestamp, u32)) {
        self.heap[at] = entry;
        self.at[entry.1 as usize] = at as u32;
    }
}

/// The keys of each account, as rings through the table of keys: eight bytes a key.
///
/// Accounts are told apart by a hash; whoever walks a ring compares the names.
#[derive(Default)]
pub(super) struct Accounts {
    by_hash: HashMap<u64, Account>,
    rings: Vec<Ring>,
    hasher: RandomState,
}

struct Account {
    first: u32,
    keys: u32,
    /// The latest deadline that was given to all of its keys.
    until: Option<Timestamp>,
}

#[derive(Clone, Copy)]
struct Ring {
    next: u32,
    previous: u32,
}

impl Accounts {
    /// In an account with more keys than this a deadline is not given to all of them again for the sake of
    /// less than [`Self::SLACK`]: of a thousand answers that were in flight when the limit was hit, each
    /// would move every key by a millisecond.
    const LARGE: u32 = 64;
    const SLACK: Duration = Duration::from_secs(1);

    pub(super) fn join(&mut self, slot: u32, account: &str) {
        if self.rings.len() <= slot as usize {
            self.rings.resize(slot as usize + 1, Ring { next: NOWHERE, previous: NOWHERE });
        }
        let alone = Account { first: slot, keys: 0, until: None };
        let entry = self.by_hash.entry(self.hasher.hash_one(account)).or_insert(alone);
        let next = entry.first;
        let previous = if next == slot { slot } else { self.rings[next as usize].previous };
        entry.keys += 1;
        entry.until = None;
        self.rings[slot as usize] = Ring { next, previous };
        self.rings[previous as usize].next = slot;
        self.rings[next as usize].previous = slot;
    }

    pub(super) fn quit(&mut self, slot: u32, account: &str) {
        let Some(ring) = self.rings.get(slot as usize).copied().filter(|ring| ring.next != NOWHERE) else {
            return;
        };
        self.rings[ring.previous as usize].next = ring.next;
        self.rings[ring.next as usize].previous = ring.previous;
        self.rings[slot as usize] = Ring { next: NOWHERE, previous: NOWHERE };
        let hash = self.hasher.hash_one(account);
        if let Some(entry) = self.by_hash.get_mut(&hash) {
            entry.keys -= 1;
            entry.first = ring.next;
            if entry.keys == 0 {
                self.by_hash.remove(&hash);
            }
        }
    }

    /// One key of the account was cleared: the next limit concerns all of them anew.
    pub(super) fn cleared(&mut self, account: &str) {
        if let Some(entry) = self.by_hash.get_mut(&self.hasher.hash_one(account)) {
            entry.until = None;
        }
    }

    /// Whether a deadline is to be given to all keys of the account; notes that it was.
    pub(super) fn spreads(&mut self, account: &str, until: Timestamp) -> bool {
        let Some(entry) = self.by_hash.get_mut(&self.hasher.hash_one(account)) else { return false };
        if entry.keys > Self::LARGE && entry.until.is_some_and(|at| until <= at.saturating_add(Self::SLACK)) {
            return false;
        }
        entry.until = entry.until.max(Some(until));
        true
    }

    /// The next key in the ring; the key itself where it is alone.
    pub(super) fn next(&self, slot: u32) -> u32 {
        self.rings.get(slot as usize).map(|ring| ring.next).filter(|next| *next != NOWHERE).unwrap_or(slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_come_out_in_order_whatever_was_set_moved_and_taken_out() {
        let mut rng = fastrand::Rng::with_seed(7);
        let mut heap = Deadlines::default();
        let mut naive = HashMap::new();
        for _ in 0..20_000 {
            let slot = rng.u32(..200);
            let deadline = rng.bool().then(|| Timestamp(rng.i64(..1000)));
            heap.set(slot, deadline);
            match deadline {
                Some(at) => naive.insert(slot, at),
                None => naive.remove(&slot),
            };
            assert_eq!(heap.next(), naive.values().min().copied());
            assert_eq!(heap.len(), naive.len());
            assert_eq!(heap.get(slot), naive.get(&slot).copied());
        }
        while let Some((at, slot)) = heap.first() {
            assert_eq!(naive.values().min(), Some(&at));
            assert_eq!(naive.remove(&slot), Some(at));
            heap.set(slot, None);
        }
        assert!(naive.is_empty());
    }

    #[test]
    fn rings_hold_exactly_the_keys_that_joined() {
        let mut accounts = Accounts::default();
        for slot in 0..9 {
            accounts.join(slot, if slot % 3 == 0 { "a" } else { "b" });
        }
        accounts.quit(3, "a");
        let mut ring = vec![0];
        while accounts.next(ring[ring.len() - 1]) != 0 {
            ring.push(accounts.next(ring[ring.len() - 1]));
        }
        assert_eq!(ring, [0, 6]);
        accounts.quit(0, "a");
        accounts.quit(6, "a");
        assert_eq!(accounts.by_hash.len(), 1);
        assert_eq!(accounts.next(6), 6);
    }

    #[test]
    fn a_large_account_is_not_walked_for_every_answer_of_a_burst() {
        let mut accounts = Accounts::default();
        for slot in 0..100 {
            accounts.join(slot, "a");
        }
        assert!(accounts.spreads("a", Timestamp(60_000)));
        assert!(!accounts.spreads("a", Timestamp(60_900)));
        assert!(accounts.spreads("a", Timestamp(61_900)));
        accounts.cleared("a");
        assert!(accounts.spreads("a", Timestamp(60_000)));
    }
}
