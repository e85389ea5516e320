//! The table of keys, and the one place that decides whether a key can be picked.

mod attempt;
mod read;

use std::{collections::HashMap, mem, sync::Arc, time::Duration};

use bytes::Bytes;
use http::HeaderValue;

use super::{
    cooldown::{Accounts, Deadlines},
    options::{CooldownScope, Options, Scheme},
    pick::Choices,
};
use crate::model::{
    Cause, Health, KeyId, KeyRecord, Stamps, Status, Timestamp, UserId, Window, key::account_of,
};

/// What a pick and a release touch: one cache line per key.
#[repr(align(64))]
pub(super) struct Hot {
    pub(super) id: KeyId,
    pub(super) credential: HeaderValue,
    pub(super) in_flight: u32,
    /// False once the key was removed. Its slot is used again only after the last lease on it has ended, so
    /// that a lease can never mean another key.
    live: bool,
    /// There is something in `Health` that a success would clear.
    blemished: bool,
}

/// The rest of a key. The secret is not here a second time: it is the end of the credential.
struct Cold {
    username: Option<Box<str>>,
    note: Option<Box<str>>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
    disabled_until: Option<Timestamp>,
    /// Apart, since few keys have one.
    owner: Option<Box<UserId>>,
    health: Health,
    /// `Inner::tick` when the health last changed, and when it was last cleared.
    changed: u64,
    reset: u64,
    weight: u16,
    enabled: bool,
    state: State,
    /// In the list of keys whose health the journal has not seen.
    listed: bool,
}

/// What keeps a key from being picked, the strongest reason first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Expired,
    Disabled,
    /// Waits for a probe.
    Unverified,
    /// Refused, and tried again later.
    Refused,
    /// The provider failed.
    Paused,
    /// Asked to slow down, or used up until its reset.
    Limited,
    /// As one of the two before, but it expires first.
    Doomed,
    /// As many requests in flight as it may have.
    Full,
    /// Our own limit per minute is reached.
    UsedUp,
    /// As before, but it expires first.
    Spent,
    Ready,
}

impl State {
    const ALL: [Self; 11] = [
        Self::Expired,
        Self::Disabled,
        Self::Unverified,
        Self::Refused,
        Self::Paused,
        Self::Limited,
        Self::Doomed,
        Self::Full,
        Self::UsedUp,
        Self::Spent,
        Self::Ready,
    ];

    fn status(self) -> Status {
        match self {
            Self::Expired => Status::Expired,
            Self::Disabled => Status::Disabled,
            Self::Unverified | Self::Refused | Self::Paused | Self::Limited | Self::Doomed => Status::Failed,
            Self::Full | Self::UsedUp | Self::Spent | Self::Ready => Status::Active,
        }
    }
}

/// How many at a time when nothing can be picked, or for counts.
pub(super) const DUE_AT_ONCE: usize = 1024;
/// After handing a key out to be probed, how long until it is due again if nobody reports back.
const PROBE_AGAIN: Duration = Duration::from_secs(300);
/// Threads read the clock a little before they get here. Anything beyond this means that it was set back.
const CLOCK_SLACK: Duration = Duration::from_secs(60);

pub(super) struct Inner {
    pub(super) options: Options,
    pub(super) hot: Vec<Hot>,
    cold: Vec<Cold>,
    /// As long as `hot` where there is a limit per minute, else empty.
    windows: Vec<Window>,
    free: Vec<u32>,
    /// By the id's bytes, which need no alignment: a third less memory.
    index: HashMap<[u8; 16], u32>,
    choices: Choices,
    /// Keys that return from a limit of the provider's or our own, and those that return from anything else.
    limited: Deadlines,
    paused: Deadlines,
    expiring: Deadlines,
    probes: Deadlines,
    /// The earliest of the first three: what a pick compares with.
    next_event: Timestamp,
    latest: Timestamp,
    /// Counts the changes of all healths, so that attempts and changes have one order.
    pub(super) tick: u64,
    states: [usize; State::ALL.len()],
    in_flight: usize,
    unseen: Vec<u32>,
    accounts: Accounts,
    /// For the epochs of healths.
    stamps: Arc<Stamps>,
}

impl Inner {
    pub(super) fn new(options: Options, stamps: Arc<Stamps>) -> Self {
        Self {
            stamps,
            choices: Choices::new(options.strategy),
            options,
            hot: Vec::new(),
            cold: Vec::new(),
            windows: Vec::new(),
            free: Vec::new(),
            index: HashMap::new(),
            limited: Deadlines::default(),
            paused: Deadlines::default(),
            expiring: Deadlines::default(),
            probes: Deadlines::default(),
            next_event: Timestamp::MAX,
            latest: Timestamp(i64::MIN),
            tick: 0,
            states: [0; State::ALL.len()],
            in_flight: 0,
            unseen: Vec::new(),
            accounts: Accounts::default(),
        }
    }

    /// The present on which all threads agree: it only moves forward, unless the clock was set back.
    pub(super) fn present(&mut self, now: Timestamp) -> Timestamp {
        if now >= self.latest {
            self.latest = now;
        } else if now.saturating_add(CLOCK_SLACK) < self.latest {
            self.latest = now;
            self.settle_all(now);
        }
        self.latest
    }

    pub(super) fn latest(&self) -> Timestamp {
        self.latest
    }

    pub(super) fn find(&self, id: KeyId) -> Option<u32> {
        self.index.get(&id.0.to_ne_bytes()).copied()
    }

    pub(super) fn slots(&self) -> usize {
        self.hot.len()
    }

    pub(super) fn set_options(&mut self, options: Options, now: Timestamp) {
        let old = mem::replace(&mut self.options, options);
        let Options { strategy, cooldown_scope, requests_per_minute, scheme, .. } = self.options;
        if scheme != old.scheme {
            for hot in self.hot.iter_mut().filter(|hot| hot.live) {
                let secret = secret_of(&hot.credential, old.scheme);
                // The same bytes after another prefix: if they could be sent before, they can be now.
                if let Some(credential) = credential(scheme, secret) {
                    hot.credential = credential;
                }
            }
        }
        if cooldown_scope != old.cooldown_scope {
            self.accounts = Accounts::default();
            for slot in self.live() {
                self.join_account(slot);
            }
        }
        match requests_per_minute {
            Some(_) => self.windows.resize(self.hot.len(), Window::default()),
            None => self.windows = Vec::new(),
        }
        if strategy != old.strategy {
            self.choices = Choices::new(strategy);
            for slot in 0..self.hot.len() as u32 {
                self.choices.introduce(slot);
            }
            for slot in self.live() {
                if self.cold[slot as usize].state == State::Ready {
                    self.choices.enter(slot, self.cold[slot as usize].weight);
                }
            }
        }
        self.settle_all(now);
    }

    /// `None` when the secret cannot stand in a header.
    pub(super) fn insert(
        &mut self,
        id: KeyId,
        record: KeyRecord,
        health: Health,
        now: Timestamp,
    ) -> Option<u32> {
        let credential = credential(self.options.scheme, record.secret.expose())?;
        let blemished = health.is_blemished();
        let hot = Hot { id, credential, in_flight: 0, live: true, blemished };
        let cold = Cold {
            username: record.username,
            note: record.note,
            created_at: record.created_at,
            expires_at: record.expires_at,
            disabled_until: record.disabled_until,
            owner: record.owner.map(Box::new),
            health,
            changed: 0,
            reset: 0,
            weight: record.weight,
            enabled: record.enabled,
            state: State::Disabled,
            listed: false,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.hot[slot as usize] = hot;
                self.cold[slot as usize] = cold;
                slot
            }
            None => {
                self.hot.push(hot);
                self.cold.push(cold);
                self.hot.len() as u32 - 1
            }
        };
        if self.options.requests_per_minute.is_some() {
            self.windows.resize(self.hot.len(), Window::default());
            self.windows[slot as usize] = Window::default();
        }
        self.choices.introduce(slot);
        self.index.insert(id.0.to_ne_bytes(), slot);
        self.join_account(slot);
        self.states[State::Disabled as usize] += 1;
        self.settle(slot, now);
        Some(slot)
    }

    pub(super) fn remove(&mut self, slot: u32) -> KeyRecord {
        let record = self.record(slot);
        self.quit_account(slot);
        self.choices.leave(slot);
        self.states[self.cold[slot as usize].state as usize] -= 1;
        for deadlines in [&mut self.limited, &mut self.paused, &mut self.expiring, &mut self.probes] {
            deadlines.set(slot, None);
        }
        self.see_next_event();
        let hot = &mut self.hot[slot as usize];
        self.index.remove(&hot.id.0.to_ne_bytes());
        hot.live = false;
        hot.credential = HeaderValue::from_static("");
        self.in_flight -= hot.in_flight as usize;
        let unused = hot.in_flight == 0;
        let cold = &mut self.cold[slot as usize];
        (cold.username, cold.note, cold.listed) = (None, None, false);
        if unused {
            self.free.push(slot);
        }
        record
    }

    /// Puts in what people decided; the secret stays.
    pub(super) fn replace(&mut self, slot: u32, record: KeyRecord, now: Timestamp) {
        self.quit_account(slot);
        let cold = &mut self.cold[slot as usize];
        let weight_before = mem::replace(&mut cold.weight, record.weight);
        cold.username = record.username;
        cold.note = record.note;
        cold.created_at = record.created_at;
        cold.expires_at = record.expires_at;
        cold.disabled_until = record.disabled_until;
        cold.owner = record.owner.map(Box::new);
        cold.enabled = record.enabled;
        if record.weight != weight_before && cold.state == State::Ready {
            self.choices.leave(slot);
            self.choices.enter(slot, record.weight);
        }
        self.join_account(slot);
        self.settle(slot, now);
    }

    /// A person's word: clears the health, and nothing that began before it counts.
    pub(super) fn reset(&mut self, slot: u32, now: Timestamp) {
        self.tick += 1;
        let cold = &mut self.cold[slot as usize];
        (cold.changed, cold.reset) = (self.tick, self.tick);
        if cold.health.clear(now, &self.stamps) {
            self.health_changed(slot);
        }
        self.clear_account(slot);
        self.settle(slot, now);
    }

    /// Takes in what others concluded; the caller settles. What they told us is no news to tell.
    pub(super) fn merge(&mut self, slot: u32, other: &Health) {
        let cold = &mut self.cold[slot as usize];
        let is_cleared = other.epoch > cold.health.epoch;
        if !cold.health.merge(other) {
            return;
        }
        self.tick += 1;
        cold.changed = self.tick;
        let adds = cold.health != *other;
        self.hot[slot as usize].blemished = cold.health.is_blemished();
        if is_cleared {
            cold.reset = self.tick;
            self.clear_account(slot);
        }
        if adds {
            self.health_changed(slot);
        }
    }

    // --- states ---

    /// Brings everything that follows from a key's data in line with it: after every change and deadline.
    fn settle(&mut self, slot: u32, now: Timestamp) {
        let (state, returns) = self.state(slot, now);
        let cold = &mut self.cold[slot as usize];
        let before = mem::replace(&mut cold.state, state);
        let (weight, expires_at) = (cold.weight, cold.expires_at.filter(|at| *at > now));
        let probe_at = cold.health.failed_until.unwrap_or(now);
        if before != state {
            self.states[before as usize] -= 1;
            self.states[state as usize] += 1;
            if before == State::Ready {
                self.choices.leave(slot);
            } else if state == State::Ready {
                self.choices.enter(slot, weight);
            }
        }
        let of_limit = matches!(state, State::Limited | State::UsedUp);
        self.limited.set(slot, returns.filter(|_| of_limit));
        self.paused.set(slot, returns.filter(|_| !of_limit));
        self.expiring.set(slot, expires_at);
        // A probe that was handed out stays handed out.
        let probe_at = probe_at.max(self.probes.get(slot).unwrap_or(probe_at));
        self.probes.set(slot, (state == State::Unverified).then_some(probe_at));
        self.see_next_event();
    }

    fn settle_all(&mut self, now: Timestamp) {
        for slot in self.live() {
            self.settle(slot, now);
        }
    }

    fn see_next_event(&mut self) {
        let next =
            [&self.limited, &self.paused, &self.expiring].into_iter().filter_map(Deadlines::next).min();
        self.next_event = next.unwrap_or(Timestamp::MAX);
    }

    /// Settles at most `most` keys whose deadline has come; returns whether there were any.
    pub(super) fn handle_due(&mut self, most: usize, now: Timestamp) -> bool {
        for handled in 0..most {
            let due =
                self.limited.due(now).or_else(|| self.paused.due(now)).or_else(|| self.expiring.due(now));
            match due {
                Some(slot) => self.settle(slot, now),
                None => return handled > 0,
            }
        }
        true
    }

    /// The state of a key, and when it ends by itself.
    fn state(&self, slot: u32, now: Timestamp) -> (State, Option<Timestamp>) {
        let (hot, cold) = (&self.hot[slot as usize], &self.cold[slot as usize]);
        if cold.expires_at.is_some_and(|at| at <= now) {
            return (State::Expired, None);
        }
        // What ends only after the key has expired never ends.
        let in_life = |at: Timestamp| cold.expires_at.is_none_or(|end| at < end);
        if !cold.enabled {
            return (State::Disabled, None);
        }
        if let Some(until) = cold.disabled_until.filter(|at| *at > now) {
            return (State::Disabled, Some(until).filter(|at| in_life(*at)));
        }
        if cold.health.needs_verification {
            return (State::Unverified, None);
        }
        if let Some(until) = cold.health.failed_until.filter(|at| *at > now) {
            return match cold.health.cause {
                Cause::Auth => (State::Refused, Some(until).filter(|at| in_life(*at))),
                _ if !in_life(until) => (State::Doomed, None),
                Cause::RateLimit | Cause::Quota => (State::Limited, Some(until)),
                Cause::Server | Cause::None => (State::Paused, Some(until)),
            };
        }
        if let Some(limit) = self.options.requests_per_minute {
            // On a copy: only an attempt takes a place.
            let mut window = self.windows[slot as usize];
            if let Err(reset) = window.take(limit, now) {
                return if in_life(reset) { (State::UsedUp, Some(reset)) } else { (State::Spent, None) };
            }
        }
        if self.options.max_in_flight.is_some_and(|limit| hot.in_flight >= limit) {
            return (State::Full, None);
        }
        (State::Ready, None)
    }

    pub(super) fn next_probe(&self) -> Option<Timestamp> {
        self.probes.next()
    }

    pub(super) fn take_probe(&mut self, now: Timestamp) -> Option<KeyId> {
        let slot = self.probes.due(now)?;
        self.probes.set(slot, Some(now.saturating_add(PROBE_AGAIN)));
        Some(self.hot[slot as usize].id)
    }

    fn live(&self) -> Vec<u32> {
        (0..self.hot.len() as u32).filter(|slot| self.hot[*slot as usize].live).collect()
    }

    // --- accounts ---

    fn join_account(&mut self, slot: u32) {
        let name = account_of(self.cold[slot as usize].username.as_deref());
        if let (CooldownScope::Account, Some(name)) = (self.options.cooldown_scope, name) {
            self.accounts.join(slot, name);
        }
    }

    fn quit_account(&mut self, slot: u32) {
        if let Some(name) = account_of(self.cold[slot as usize].username.as_deref()) {
            self.accounts.quit(slot, name);
        }
    }

    fn clear_account(&mut self, slot: u32) {
        if let Some(name) = account_of(self.cold[slot as usize].username.as_deref()) {
            self.accounts.cleared(name);
        }
    }

    /// Every key that can be picked is among the choices, and no other.
    #[cfg(test)]
    pub(super) fn choices_are_whole(&self) -> bool {
        let ready = |slot: &u32| self.cold[*slot as usize].state == State::Ready;
        self.live().iter().all(|slot| self.choices.contains(*slot) == ready(slot))
            && self.choices.len() == self.states[State::Ready as usize]
    }

    #[cfg(test)]
    pub(super) fn deadlines(&self) -> usize {
        self.limited.len() + self.paused.len() + self.expiring.len() + self.probes.len()
    }
}

fn credential(scheme: Scheme, secret: &str) -> Option<HeaderValue> {
    let text = [scheme.prefix(), secret].concat();
    let mut value = HeaderValue::from_maybe_shared(Bytes::from(text)).ok()?;
    value.set_sensitive(true);
    // The first clone makes the bytes shared, which allocates: here, so that no pick ever does.
    drop(value.clone());
    Some(value)
}

fn secret_of(credential: &HeaderValue, scheme: Scheme) -> &str {
    // Made from a str and a prefix of ASCII, so neither default is ever taken.
    std::str::from_utf8(credential.as_bytes().get(scheme.prefix().len()..).unwrap_or_default())
        .unwrap_or_default()
}

// A hundred thousand keys in well under 40 MB, and one line of cache for a pick.
const _: () = assert!(size_of::<Hot>() == 64 && size_of::<Cold>() <= 144);
