//! The pool beside a naive model that looks at every key every time.

use std::time::Duration;

use proptest::{prelude::*, strategy::Strategy as _};

use super::{Strategy, *};
use crate::model::{Cause, Effect, Window};

const KEYS: usize = 8;
const START: Timestamp = Timestamp(1_000_000_000);
const ACCOUNTS: [Option<&str>; 4] = [None, Some("ann"), Some("bob"), Some("N/A")];

#[derive(Clone, Debug)]
enum Step {
    Insert(usize),
    Remove(usize),
    Pick { exclude: u8, caller: u64 },
    Probe(usize),
    Finish(usize, Outcome),
    Drop(usize),
    Wait(u64),
    Enable(usize),
    Disable(usize, Option<u64>),
    Expire(usize, Option<u64>),
    Reload { strategy: Strategy, account: bool, in_flight: Option<u32>, per_minute: Option<u32> },
    Drain,
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    None,
    Success,
    RateLimit(u64),
    Quota(u64),
    Auth,
    Server,
}

impl Outcome {
    fn effect(self, now: Timestamp) -> Effect {
        match self {
            Self::None => Effect::None,
            Self::Success => Effect::Success,
            Self::RateLimit(secs) => Effect::RateLimit { until: plus(now, secs) },
            Self::Quota(secs) => Effect::Quota { until: plus(now, secs) },
            Self::Auth => Effect::Auth { cooldown: None },
            Self::Server => Effect::Server { cooldown: None },
        }
    }
}

fn plus(now: Timestamp, secs: u64) -> Timestamp {
    now.saturating_add(Duration::from_secs(secs))
}

fn step() -> impl proptest::strategy::Strategy<Value = Step> {
    let key = || 0..KEYS;
    let outcome = prop_oneof![
        2 => Just(Outcome::None),
        4 => Just(Outcome::Success),
        2 => (1..200u64).prop_map(Outcome::RateLimit),
        1 => (1..20_000u64).prop_map(Outcome::Quota),
        3 => Just(Outcome::Auth),
        2 => Just(Outcome::Server),
    ];
    let strategy = prop_oneof![
        Just(Strategy::RoundRobin),
        Just(Strategy::LeastBusy),
        Just(Strategy::Weighted),
        Just(Strategy::Random),
        Just(Strategy::Affinity),
    ];
    let limit = || proptest::option::of(1..4u32);
    prop_oneof![
        6 => key().prop_map(Step::Insert),
        1 => key().prop_map(Step::Remove),
        20 => (any::<u8>(), any::<bool>(), 0..4u64)
            .prop_map(|(exclude, any, caller)| Step::Pick { exclude: if any { 0 } else { exclude }, caller }),
        4 => key().prop_map(Step::Probe),
        16 => (any::<usize>(), outcome).prop_map(|(n, outcome)| Step::Finish(n, outcome)),
        3 => any::<usize>().prop_map(Step::Drop),
        8 => prop_oneof![0..20u64, 0..100u64, 0..100_000u64].prop_map(Step::Wait),
        2 => key().prop_map(Step::Enable),
        2 => (key(), proptest::option::of(0..100u64)).prop_map(|(n, secs)| Step::Disable(n, secs)),
        2 => (key(), proptest::option::of(0..300u64)).prop_map(|(n, secs)| Step::Expire(n, secs)),
        2 => (strategy, any::<bool>(), limit(), limit()).prop_map(|(strategy, account, in_flight, per_minute)| {
            Step::Reload { strategy, account, in_flight, per_minute }
        }),
        2 => Just(Step::Drain),
    ]
}

/// One key, from when it was put in; a removed one stays, since leases may still mean it.
struct Key {
    id: KeyId,
    n: usize,
    live: bool,
    record: KeyRecord,
    health: Health,
    window: Window,
    in_flight: u32,
    changed: u64,
    reset: u64,
    unseen: bool,
}

struct Bench {
    pool: Arc<Pool>,
    stamps: Stamps,
    options: Options,
    now: Timestamp,
    tick: u64,
    keys: Vec<Key>,
    /// With the index of the key and the tick at the pick.
    leases: Vec<(Lease, usize, u64)>,
}

impl Bench {
    fn new() -> Self {
        let options = Options::default();
        let pool = Pool::new("ollama", options.clone());
        Self {
            pool,
            stamps: Stamps::default(),
            options,
            now: START,
            tick: 0,
            keys: Vec::new(),
            leases: Vec::new(),
        }
    }

    fn at(&self, n: usize) -> Option<usize> {
        self.keys.iter().position(|key| key.live && key.n == n)
    }

    fn free(&self, key: &Key) -> bool {
        let room = self.options.max_in_flight.is_none_or(|limit| key.in_flight < limit);
        let mut window = key.window;
        let minute =
            self.options.requests_per_minute.is_none_or(|limit| window.take(limit, self.now).is_ok());
        room && minute
    }

    fn can_be_picked(&self, key: &Key) -> bool {
        key.live && key.record.status(&key.health, self.now) == Status::Active && self.free(key)
    }

    fn begin(&mut self, lease: Lease, at: usize) {
        let key = &mut self.keys[at];
        assert_eq!(lease.key_id(), key.id);
        assert_eq!(
            lease.credential().as_bytes(),
            [b"Bearer ", key.record.secret.expose().as_bytes()].concat()
        );
        if let Some(limit) = self.options.requests_per_minute {
            let _full = key.window.take(limit, self.now);
        }
        key.in_flight += 1;
        self.leases.push((lease, at, self.tick));
    }

    fn end(&mut self, at: usize, tick: u64, effect: Effect) {
        self.keys[at].in_flight -= 1;
        if !self.keys[at].live || self.keys[at].reset > tick {
            return;
        }
        let account = self.keys[at].record.account().map(str::to_owned);
        self.apply(at, effect, tick, true);
        let shared = matches!(effect, Effect::RateLimit { .. } | Effect::Quota { .. })
            && self.options.cooldown_scope == CooldownScope::Account;
        if shared && account.is_some() {
            for other in 0..self.keys.len() {
                let key = &self.keys[other];
                if other != at && key.live && key.record.account() == account.as_deref() && key.reset <= tick
                {
                    self.apply(other, effect, tick, false);
                }
            }
        }
    }

    fn apply(&mut self, at: usize, effect: Effect, tick: u64, own: bool) {
        let key = &mut self.keys[at];
        let before = key.health.clone();
        let current = own && key.changed <= tick;
        key.health.apply(effect, current, self.now, &self.options.policy, &self.stamps);
        if key.health != before {
            self.tick += 1;
            (key.changed, key.unseen) = (self.tick, true);
            if effect == Effect::Success {
                key.reset = self.tick;
            }
        }
    }

    fn expected_reason(&self) -> Reason {
        let live: Vec<_> = self.keys.iter().filter(|key| key.live).collect();
        if live.is_empty() {
            return Reason::Empty;
        }
        if live.iter().any(|key| self.can_be_picked(key)) {
            return Reason::Excluded;
        }
        let (mut limits, mut others, mut broken) = (Vec::new(), Vec::new(), false);
        for key in live {
            let dies_before = |at: Timestamp| key.record.expires_at.is_some_and(|end| end <= at);
            let status = key.record.status(&key.health, self.now);
            let (until, list, is_broken) = match (status, key.health.cause) {
                (Status::Expired, _) => continue,
                (Status::Disabled, _) if !key.record.enabled => continue,
                (Status::Disabled, _) => (key.record.disabled_until.unwrap(), &mut others, false),
                (Status::Failed, _) if key.health.needs_verification => continue,
                (Status::Failed, Cause::Auth) => (key.health.failed_until.unwrap(), &mut others, false),
                (Status::Failed, Cause::Server) => (key.health.failed_until.unwrap(), &mut others, true),
                (Status::Failed, _) => (key.health.failed_until.unwrap(), &mut limits, false),
                (Status::Active, _) => {
                    let mut window = key.window;
                    match self.options.requests_per_minute.map(|limit| window.take(limit, self.now)) {
                        Some(Err(reset)) => (reset, &mut limits, false),
                        _ => {
                            // Only busy: it may return at any time.
                            limits.push(plus(self.now, 1));
                            continue;
                        }
                    }
                }
            };
            if !dies_before(until) {
                list.push(until);
                broken |= is_broken;
            }
        }
        match limits.iter().min() {
            Some(retry_at) if !broken => Reason::RateLimited { retry_at: *retry_at },
            _ => Reason::Unavailable { retry_at: limits.into_iter().chain(others).min() },
        }
    }

    fn run(&mut self, step: Step) {
        match step {
            Step::Insert(n) => {
                let mut record = KeyRecord::new(Secret::new(format!("sk-{n}")), START);
                record.username = ACCOUNTS[n % ACCOUNTS.len()].map(Into::into);
                record.weight = (n * 37 + 1) as u16;
                match (self.at(n), self.pool.insert(record.clone(), Health::default(), self.now)) {
                    (None, Ok(id)) => self.keys.push(Key {
                        id,
                        n,
                        live: true,
                        record,
                        health: Health::default(),
                        window: Window::default(),
                        in_flight: 0,
                        changed: 0,
                        reset: 0,
                        unseen: false,
                    }),
                    (there, result) => {
                        assert!(there.is_some());
                        assert_eq!(result, Err(InsertError::Exists));
                    }
                }
            }
            Step::Remove(n) => {
                if let Some(at) = self.at(n) {
                    self.keys[at].live = false;
                    assert_eq!(self.pool.remove(self.keys[at].id), Some(self.keys[at].record.clone()));
                }
            }
            Step::Pick { exclude, caller } => {
                let exclude: Vec<_> = (0..KEYS)
                    .filter(|n| exclude & (1 << n) != 0)
                    .map(|n| KeyId::derive("ollama", &format!("sk-{n}")))
                    .collect();
                let allowed: Vec<_> = (0..self.keys.len())
                    .filter(|at| self.can_be_picked(&self.keys[*at]) && !exclude.contains(&self.keys[*at].id))
                    .collect();
                match self.pool.pick(&Ask { exclude: &exclude, caller }, self.now) {
                    Ok(lease) => {
                        let at = allowed.iter().find(|at| self.keys[**at].id == lease.key_id());
                        self.begin(lease, *at.expect("a key that may be picked"));
                    }
                    Err(none) => {
                        assert!(allowed.is_empty(), "a key could have been picked");
                        assert_eq!(none.reason, self.expected_reason());
                    }
                }
            }
            Step::Probe(n) => {
                if let Some(at) = self.at(n) {
                    let lease = self.pool.lease_for(self.keys[at].id, self.now).unwrap();
                    self.begin(lease, at);
                }
            }
            Step::Finish(n, outcome) if !self.leases.is_empty() => {
                let (lease, at, tick) = self.leases.swap_remove(n % self.leases.len());
                let effect = outcome.effect(self.now);
                lease.finish(effect, self.now);
                self.end(at, tick, effect);
            }
            Step::Drop(n) if !self.leases.is_empty() => {
                let (_, at, tick) = self.leases.swap_remove(n % self.leases.len());
                self.end(at, tick, Effect::None);
            }
            Step::Finish(..) | Step::Drop(_) => {}
            Step::Wait(secs) => self.now = plus(self.now, secs),
            Step::Enable(n) => {
                if let Some(at) = self.at(n) {
                    self.tick += 1;
                    let key = &mut self.keys[at];
                    (key.record.enabled, key.record.disabled_until) = (true, None);
                    key.unseen |= key.health.clear(self.now, &self.stamps);
                    (key.changed, key.reset) = (self.tick, self.tick);
                    self.pool.replace(key.id, key.record.clone(), true, self.now).unwrap();
                }
            }
            Step::Disable(n, secs) => self.edit(n, |record, now| match secs {
                Some(secs) => record.disabled_until = Some(plus(now, secs)),
                None => record.enabled = false,
            }),
            Step::Expire(n, secs) => {
                self.edit(n, |record, now| record.expires_at = secs.map(|secs| plus(now, secs)));
            }
            Step::Reload { strategy, account, in_flight, per_minute } => {
                if per_minute.is_none() {
                    self.keys.iter_mut().for_each(|key| key.window = Window::default());
                }
                self.options.strategy = strategy;
                self.options.cooldown_scope =
                    if account { CooldownScope::Account } else { CooldownScope::Key };
                self.options.max_in_flight = in_flight;
                self.options.requests_per_minute = per_minute;
                self.pool.set_options(self.options.clone(), self.now);
            }
            Step::Drain => {
                let changed = self.pool.drain_changed();
                let unseen = self.keys.iter().filter(|key| key.unseen && key.live);
                let expected: Vec<_> = unseen.map(|key| (key.id, key.health.clone())).collect();
                self.keys.iter_mut().for_each(|key| key.unseen = false);
                assert_eq!(changed.len(), expected.len());
                assert!(expected.iter().all(|entry| changed.contains(entry)));
            }
        }
    }

    fn edit(&mut self, n: usize, edit: impl Fn(&mut KeyRecord, Timestamp)) {
        if let Some(at) = self.at(n) {
            let key = &mut self.keys[at];
            edit(&mut key.record, self.now);
            self.pool.replace(key.id, key.record.clone(), false, self.now).unwrap();
        }
    }

    fn compare(&self) {
        let mut expected = StateCounts::default();
        let mut probes = Vec::new();
        for key in self.keys.iter().filter(|key| key.live) {
            let status = key.record.status(&key.health, self.now);
            expected.total += 1;
            expected.in_flight += key.in_flight as usize;
            match status {
                Status::Active => expected.active += 1,
                Status::Disabled => expected.disabled += 1,
                Status::Failed => expected.failed += 1,
                Status::Expired => expected.expired += 1,
            }
            if status == Status::Failed && key.health.needs_verification {
                probes.extend(key.health.failed_until);
            }
            let view = self.pool.get(key.id, self.now).unwrap();
            assert_eq!((view.status, view.in_flight), (status, key.in_flight));
            assert_eq!(view.health, key.health);
            assert_eq!(self.pool.record(key.id).as_ref(), Some(&key.record));
        }
        assert_eq!(self.pool.counts(self.now), expected);
        assert_eq!(self.pool.next_verification(), probes.into_iter().min());
        assert!(self.pool.lock().deadlines() <= 2 * expected.total);
        assert!(self.pool.lock().choices_are_whole());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn behaves_as_a_model_that_looks_at_every_key(steps in proptest::collection::vec(step(), 1..120)) {
        let mut bench = Bench::new();
        for step in steps {
            bench.run(step);
            bench.compare();
        }
        let (pool, now) = (Arc::clone(&bench.pool), bench.now);
        drop(bench);
        prop_assert_eq!(pool.counts(now).in_flight, 0);
    }
}
