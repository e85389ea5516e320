//! The keys that can be picked, and which of them is next.
//!
//! They stand in dense arrays without gaps, so that a choice is an index: O(1) in the number of keys, and
//! nothing is looked at that could not be picked. A key that cannot be picked is taken out by moving others
//! into its place.

use fastrand::Rng;

use super::options::Strategy;
use crate::model::KeyRecord;

const OUT: u32 = u32::MAX;
/// Weights of one class differ by less than a factor of two.
const CLASSES: usize = KeyRecord::MAX_WEIGHT.ilog2() as usize + 1;
/// How many keys a caller's hash names before any key will do.
const PROBES: u64 = 8;
/// How many keys are passed over for one that is liked.
const LOOKS: usize = 8;

pub(super) struct Choices {
    strategy: Strategy,
    /// Only `weighted` uses more than the first.
    classes: [Class; CLASSES],
    places: Vec<Place>,
    len: usize,
    /// Round robin: the first so many entries had their turn in this round. Zero for other strategies.
    picked: usize,
    round: u32,
    held: Vec<Held>,
    rng: Rng,
}

#[derive(Default)]
struct Class {
    entries: Vec<Entry>,
    weight: u64,
}

#[derive(Clone, Copy)]
struct Entry {
    slot: u32,
    weight: u16,
}

#[derive(Clone, Copy)]
struct Place {
    at: u32,
    /// The round in which the key had its turn when it was last taken out: what it returns as.
    round: u32,
    class: u8,
}

struct Held {
    entry: Entry,
    /// Its turn in this round is still to come.
    waiting: bool,
}

impl Choices {
    pub(super) fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            classes: Default::default(),
            places: Vec::new(),
            len: 0,
            picked: 0,
            round: 1,
            held: Vec::new(),
            rng: Rng::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn contains(&self, slot: u32) -> bool {
        self.places.get(slot as usize).is_some_and(|place| place.at != OUT)
    }

    /// A key that is new in this slot has had no turn.
    pub(super) fn introduce(&mut self, slot: u32) {
        let place = Place { at: OUT, round: 0, class: 0 };
        match self.places.get_mut(slot as usize) {
            Some(old) => *old = place,
            None => self.places.resize(slot as usize + 1, place),
        }
    }

    pub(super) fn enter(&mut self, slot: u32, weight: u16) {
        let weight = weight.clamp(1, KeyRecord::MAX_WEIGHT);
        self.put(Entry { slot, weight });
    }

    pub(super) fn leave(&mut self, slot: u32) {
        if self.contains(slot) {
            self.take(slot);
        }
    }

    /// Takes a key out for the length of one choice.
    pub(super) fn hold(&mut self, slot: u32) {
        if self.contains(slot) {
            let held = self.take(slot);
            self.held.push(held);
        }
    }

    pub(super) fn let_go(&mut self) {
        while let Some(held) = self.held.pop() {
            self.put(held.entry);
        }
    }

    pub(super) fn choose(&mut self, caller: u64, in_flight: impl Fn(u32) -> u32) -> Option<u32> {
        if self.len == 0 {
            return None;
        }
        Some(match self.strategy {
            Strategy::RoundRobin => self.next_in_round(),
            Strategy::LeastBusy => self.less_busy_of_two(in_flight),
            Strategy::Weighted => self.by_weight(),
            Strategy::Random => self.any(),
            Strategy::Affinity => self.of_caller(caller),
        })
    }

    /// As [`Choices::choose`], but one that is liked, if a few looks find any; else the last that was looked at. Those that
    /// were passed over are held.
    pub(super) fn choose_liked(
        &mut self,
        caller: u64,
        in_flight: impl Fn(u32) -> u32,
        is_liked: impl Fn(u32) -> bool,
    ) -> Option<u32> {
        let before = (self.round, self.picked);
        let mut chosen = self.choose(caller, &in_flight)?;
        let mut is_in_turn = (self.round, self.picked) != before;
        for _ in 0..LOOKS {
            if is_liked(chosen) || self.len == 1 {
                break;
            }
            if std::mem::take(&mut is_in_turn) {
                // Nobody uses this turn: it is still to come.
                self.picked -= 1;
            }
            self.hold(chosen);
            chosen = match self.strategy {
                // Out of turn: what comes next in a round is much like what was just passed over.
                Strategy::RoundRobin => self.any(),
                _ => self.choose(caller, &in_flight)?,
            };
        }
        Some(chosen)
    }

    fn next_in_round(&mut self) -> u32 {
        if self.picked == self.len {
            if self.held.iter().any(|held| held.waiting) {
                // The round is not over: only this caller may not have who is left in it.
                return self.any();
            }
            self.picked = 0;
            // Never 0, which means no turn yet.
            self.round = self.round.checked_add(1).unwrap_or(1);
        }
        let slot = self.classes[0].entries[self.picked].slot;
        self.picked += 1;
        slot
    }

    fn any(&mut self) -> u32 {
        self.classes[0].entries[self.rng.usize(..self.len)].slot
    }

    fn less_busy_of_two(&mut self, in_flight: impl Fn(u32) -> u32) -> u32 {
        let first = self.rng.usize(..self.len);
        let a = self.classes[0].entries[first].slot;
        if self.len == 1 {
            return a;
        }
        let second = (first + 1 + self.rng.usize(..self.len - 1)) % self.len;
        let b = self.classes[0].entries[second].slot;
        if in_flight(b) < in_flight(a) { b } else { a }
    }

    /// A class by its share of the weight, then a key in it by rejection: half of the draws or more succeed.
    fn by_weight(&mut self) -> u32 {
        let total: u64 = self.classes.iter().map(|class| class.weight).sum();
        let mut left = self.rng.u64(..total);
        let mut at = 0;
        while left >= self.classes[at].weight {
            left -= self.classes[at].weight;
            at += 1;
        }
        let entries = &self.classes[at].entries;
        loop {
            let entry = entries[self.rng.usize(..entries.len())];
            if self.rng.u32(..2 << at) < u32::from(entry.weight) {
                return entry.slot;
            }
        }
    }

    fn of_caller(&self, caller: u64) -> u32 {
        for probe in 0..PROBES {
            let slot = address(mix(caller, probe), self.places.len());
            if self.places[slot].at != OUT {
                return slot as u32;
            }
        }
        self.classes[0].entries[mix(caller, PROBES) as usize % self.len].slot
    }

    fn put(&mut self, entry: Entry) {
        let class = match self.strategy {
            Strategy::Weighted => entry.weight.ilog2() as usize,
            _ => 0,
        };
        let place = &mut self.places[entry.slot as usize];
        let at = self.classes[class].entries.len();
        (place.at, place.class) = (at as u32, class as u8);
        let had_its_turn = place.round == self.round;
        self.classes[class].entries.push(entry);
        self.classes[class].weight += u64::from(entry.weight);
        self.len += 1;
        if had_its_turn {
            self.swap(class, at, self.picked);
            self.picked += 1;
        }
    }

    fn take(&mut self, slot: u32) -> Held {
        let place = &mut self.places[slot as usize];
        let (class, mut at) = (place.class as usize, place.at as usize);
        let waiting = at >= self.picked;
        if !waiting {
            place.round = self.round;
            self.picked -= 1;
            self.swap(class, at, self.picked);
            at = self.picked;
        }
        let entry = self.classes[class].entries.swap_remove(at);
        self.classes[class].weight -= u64::from(entry.weight);
        self.len -= 1;
        if let Some(moved) = self.classes[class].entries.get(at) {
            self.places[moved.slot as usize].at = at as u32;
        }
        self.places[slot as usize].at = OUT;
        Held { entry, waiting }
    }

    fn swap(&mut self, class: usize, a: usize, b: usize) {
        let entries = &mut self.classes[class].entries;
        entries.swap(a, b);
        self.places[entries[a].slot as usize].at = a as u32;
        self.places[entries[b].slot as usize].at = b as u32;
    }
}

/// Linear hashing: a table that grows by one key moves the callers of one key, not all of them. The price is
/// that some keys get up to twice the callers of others.
fn address(hash: u64, len: usize) -> usize {
    let wide = len.next_power_of_two();
    let at = hash as usize & (wide - 1);
    if at < len { at } else { at & (wide / 2 - 1) }
}

/// SplitMix64: every bit of the caller moves every bit of the result.
fn mix(caller: u64, probe: u64) -> u64 {
    let mut z = caller.wrapping_add((probe + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
