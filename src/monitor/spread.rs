//! Over how much a subject's use spreads: keys and models as sets of 64 bits, networks as a short list.

use serde::{Deserialize, Serialize};

use super::baseline::Peak;

/// Which of many things a subject touches, as bits of fingerprints.
///
/// A subject that is used to many things has most bits set and cannot surprise: round robin over a large pool is
/// no spread. Known is what was touched this week or in the active week before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Spread {
    known: [u64; 2],
    today: u64,
    /// Uses in the weeks of `known`, and today.
    uses: [u16; 2],
    uses_today: u16,
    peak: Peak,
    week: u16,
}

impl Spread {
    pub(super) fn see(&mut self, fingerprint: u32) {
        self.today |= bit(fingerprint);
        self.uses_today = self.uses_today.saturating_add(1);
    }

    /// How many were touched today that were not known.
    pub(super) fn novel(&self) -> u32 {
        (self.today & !(self.known[0] | self.known[1])).count_ones()
    }

    pub(super) fn known(&self) -> u32 {
        (self.known[0] | self.known[1]).count_ones()
    }

    /// How many would be new if today's uses spread like those before: who takes another key with every use and
    /// has few uses does not know them all.
    pub(super) fn expected(&self) -> f32 {
        let uses = f32::from(self.uses[0]) + f32::from(self.uses[1]);
        self.known() as f32 / uses.max(1.0) * f32::from(self.uses_today)
    }

    /// The most that were new on one day.
    pub(super) fn peak(&self) -> f32 {
        self.peak.get()
    }

    pub(super) fn end_day(&mut self, day: u32, days: u32) {
        self.peak.fade(days);
        self.peak.learn(self.novel() as f32);
        self.known[0] |= self.today;
        self.uses[0] = self.uses[0].saturating_add(self.uses_today);
        (self.today, self.uses_today) = (0, 0);
        let week = (day / 7) as u16;
        if week != self.week {
            // However long the subject was away, what it did in its last two active weeks is known.
            (self.known, self.week) = ([0, self.known[0]], week);
            self.uses = [0, self.uses[0]];
        }
    }
}

pub(super) fn bit(fingerprint: u32) -> u64 {
    1 << (fingerprint.wrapping_mul(0x9e37_79b1) >> 26)
}

/// How many things there were, by how many of 64 bits they set. Past a few hundred it says no more.
pub(super) fn estimate(bits: u64) -> f32 {
    let free = bits.count_zeros().max(1) as f32;
    64.0 * (64.0 / free).ln()
}

/// The networks a subject comes from: those it used last.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Networks {
    list: Vec<Seen>,
    /// New ones today.
    fresh: u16,
    /// New ones on an active day, on average.
    rate: f32,
    peak: Peak,
    days: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Seen {
    network: u32,
    first: u16,
    last: u16,
}

impl Networks {
    const BOUND: usize = 6;
    const MEMORY: f32 = 15.0;

    /// Whether the network is new for this subject, which it is on its first two days.
    pub(super) fn see(&mut self, network: u32, day: u32) -> bool {
        let day = day as u16;
        let is_first_day = self.days == 0;
        if let Some(seen) = self.list.iter_mut().find(|seen| seen.network == network) {
            seen.last = seen.last.max(day);
            return !is_first_day && seen.first.saturating_add(1) >= day;
        }
        if self.list.len() >= Self::BOUND
            && let Some(oldest) = self.list.iter().enumerate().min_by_key(|(_, seen)| seen.last)
        {
            let oldest = oldest.0;
            self.list.swap_remove(oldest);
        }
        self.list.push(Seen { network, first: day, last: day });
        self.fresh = self.fresh.saturating_add(1);
        !is_first_day
    }

    pub(super) fn fresh(&self) -> u16 {
        self.fresh
    }

    pub(super) fn rate(&self) -> f32 {
        self.rate
    }

    pub(super) fn peak(&self) -> f32 {
        self.peak.get()
    }

    pub(super) fn end_day(&mut self, days: u32) {
        self.peak.fade(days);
        // On the first day everything is new.
        if self.days > 0 {
            let fresh = f32::from(self.fresh);
            let part = (1.0 / f32::from(self.days)).max(1.0 / Self::MEMORY);
            self.rate += part * (fresh.min(8.0) - self.rate);
            self.peak.learn(fresh.min(2.0 * self.peak.get() + 4.0));
        }
        self.days = self.days.saturating_add(1);
        self.fresh = 0;
    }

    /// What came from a file is held to the bound.
    pub(super) fn trim(&mut self) {
        self.list.truncate(Self::BOUND);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_touched_is_known_and_the_number_is_estimated() {
        let mut keys = Spread::default();
        (0..3).for_each(|n| keys.see(n));
        keys.end_day(0, 1);
        assert_eq!((keys.known(), keys.novel()), (3, 0));
        (0..10).for_each(|n| keys.see(n));
        assert!((5..=7).contains(&keys.novel()), "{}", keys.novel());
        keys.end_day(7, 7);
        keys.end_day(14, 7);
        assert_eq!(keys.known(), 0, "two weeks without a use forget");
        let bits = (0..40).fold(0, |bits, n| bits | bit(n * 7919));
        assert!((30.0..50.0).contains(&estimate(bits)), "{}", estimate(bits));
    }

    #[test]
    fn the_list_of_networks_is_bounded_and_forgets_the_oldest() {
        let mut networks = Networks::default();
        assert!(!networks.see(1, 10), "the first day is no news");
        networks.end_day(1);
        assert!(!networks.see(1, 12));
        assert!(networks.see(2, 12) && networks.see(2, 13) && !networks.see(2, 14));
        for network in 3..20 {
            networks.see(network, 15);
            networks.see(2, 15);
        }
        assert_eq!((networks.list.len(), networks.fresh()), (Networks::BOUND, 18));
        assert!(!networks.see(2, 16), "used all the time, never forgotten");
        assert!(networks.see(1, 16), "forgotten");
    }
}
