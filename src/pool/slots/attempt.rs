//! An attempt, from the pick to what its outcome does to the key.

use std::mem;

use super::{DUE_AT_ONCE, Inner};
use crate::{
    model::{Effect, Health, KeyId, Timestamp, key::account_of},
    pool::{Ask, CooldownScope, NoKey},
};

/// How many due deadlines a pick looks at while there is something to pick: a minute in which a hundred
/// thousand keys return must not stop the requests that happen to come first.
const DUE_PER_PICK: usize = 8;

impl Inner {
    pub(in crate::pool) fn pick(&mut self, ask: &Ask<'_>, now: Timestamp) -> Result<u32, NoKey> {
        if self.next_event <= now {
            self.handle_due(DUE_PER_PICK, now);
        }
        loop {
            let Some(slot) = self.choose(ask) else {
                if self.handle_due(DUE_AT_ONCE, now) {
                    continue;
                }
                return Err(self.no_key(now));
            };
            // Deadlines may be waiting to be handled; nobody gets an expired key all the same.
            if self.next_event <= now && self.cold[slot as usize].expires_at.is_some_and(|at| at <= now) {
                self.settle(slot, now);
                continue;
            }
            if self.begin(slot, now) {
                return Ok(slot);
            }
        }
    }

    pub(in crate::pool) fn why_none(&mut self, now: Timestamp) -> Option<NoKey> {
        while self.choices.len() == 0 {
            if !self.handle_due(DUE_AT_ONCE, now) {
                return Some(self.no_key(now));
            }
        }
        None
    }

    fn choose(&mut self, ask: &Ask<'_>) -> Option<u32> {
        // The excluded are taken out for the length of the choice: it stays exact, and costs what they are.
        for id in ask.exclude {
            if let Some(slot) = self.find(*id) {
                self.choices.hold(slot);
            }
        }
        let hot = &self.hot;
        let in_flight = |slot: u32| hot[slot as usize].in_flight;
        // Keys that failed together return together and stand beside each other. Whoever has met one of them gets one with
        // nothing against it, if that is soon found: the others are tried by those who come first.
        let chosen = if ask.exclude.is_empty() {
            self.choices.choose(ask.caller, in_flight)
        } else {
            self.choices.choose_liked(ask.caller, in_flight, |slot| !hot[slot as usize].blemished)
        };
        self.choices.let_go();
        chosen
    }

    /// Counts an attempt against the key's limits; false when there is no room left in its minute.
    fn begin(&mut self, slot: u32, now: Timestamp) -> bool {
        let mut last = false;
        if let Some(limit) = self.options.requests_per_minute {
            match self.windows[slot as usize].take(limit, now) {
                Ok(left) => last = left == 0,
                Err(_) => {
                    self.settle(slot, now);
                    return false;
                }
            }
        }
        let hot = &mut self.hot[slot as usize];
        hot.in_flight += 1;
        self.in_flight += 1;
        if last || self.options.max_in_flight.is_some_and(|limit| hot.in_flight >= limit) {
            self.settle(slot, now);
        }
        true
    }

    /// A probe's attempt: counted like any other, and stopped by no limit and no state.
    pub(in crate::pool) fn begin_probe(&mut self, slot: u32, now: Timestamp) {
        if let Some(limit) = self.options.requests_per_minute {
            let _full = self.windows[slot as usize].take(limit, now);
        }
        self.hot[slot as usize].in_flight += 1;
        self.in_flight += 1;
        self.settle(slot, now);
    }

    pub(in crate::pool) fn release(&mut self, slot: u32, tick: u64, effect: Effect, now: Timestamp) {
        let hot = &mut self.hot[slot as usize];
        hot.in_flight -= 1;
        if !hot.live {
            if hot.in_flight == 0 {
                self.free.push(slot);
            }
            return;
        }
        self.in_flight -= 1;
        let has_room_again = self.options.max_in_flight == Some(hot.in_flight + 1);
        match effect {
            Effect::None => {}
            Effect::Success if !hot.blemished => {}
            _ => self.conclude(slot, tick, effect, now),
        }
        if has_room_again {
            self.settle(slot, now);
        }
    }

    fn conclude(&mut self, slot: u32, tick: u64, effect: Effect, now: Timestamp) {
        if self.cold[slot as usize].reset > tick {
            return;
        }
        self.apply(slot, effect, tick, true, now);
        let (CooldownScope::Account, Effect::RateLimit { until } | Effect::Quota { until }) =
            (self.options.cooldown_scope, effect)
        else {
            return;
        };
        // The hash of the name found the ring; the name itself decides.
        let Some(name) = self.cold[slot as usize].username.clone() else { return };
        if account_of(Some(&name)).is_none_or(|account| !self.accounts.spreads(account, until)) {
            return;
        }
        let mut other = self.accounts.next(slot);
        while other != slot {
            let cold = &self.cold[other as usize];
            if cold.reset <= tick && account_of(cold.username.as_deref()) == account_of(Some(&name)) {
                self.apply(other, effect, tick, false, now);
            }
            other = self.accounts.next(other);
        }
    }

    /// `own` is false for the other keys of an account, which made no attempt that could be counted.
    fn apply(&mut self, slot: u32, effect: Effect, tick: u64, own: bool, now: Timestamp) {
        let cold = &mut self.cold[slot as usize];
        let before = cold.health.clone();
        let current = own && cold.changed <= tick;
        cold.health.apply(effect, current, now, &self.options.policy, &self.stamps);
        if cold.health == before {
            return;
        }
        self.tick += 1;
        cold.changed = self.tick;
        if effect == Effect::Success {
            cold.reset = self.tick;
            self.clear_account(slot);
        }
        self.health_changed(slot);
        self.settle(slot, now);
    }

    pub(super) fn health_changed(&mut self, slot: u32) {
        let cold = &mut self.cold[slot as usize];
        self.hot[slot as usize].blemished = cold.health.is_blemished();
        if !mem::replace(&mut cold.listed, true) {
            self.unseen.push(slot);
        }
    }

    pub(in crate::pool) fn take_changed(&mut self) -> Vec<(KeyId, Health)> {
        let mut changed = Vec::with_capacity(self.unseen.len());
        for slot in self.unseen.drain(..) {
            let cold = &mut self.cold[slot as usize];
            // A slot that was used again may stand here twice.
            if mem::take(&mut cold.listed) {
                changed.push((self.hot[slot as usize].id, cold.health.clone()));
            }
        }
        changed
    }
}
