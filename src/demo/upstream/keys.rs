//! What the provider remembers of each key, and what it decides from that.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{
    UpstreamOptions,
    behaviour::{Behaviour, Reset},
    speech::hash,
    tally::Tally,
};
use crate::model::{Timestamp, Window};

#[derive(Debug)]
pub(super) struct Shared {
    pub(super) options: UpstreamOptions,
    pub(super) tally: Arc<Tally>,
    keys: Mutex<Keys>,
    /// Requests so far: keeps the ids of answers apart.
    served: AtomicU64,
}

#[derive(Debug, Default)]
struct Keys {
    default: Behaviour,
    known: HashMap<Box<str>, Key>,
}

#[derive(Debug, Default)]
struct Key {
    behaviour: Option<Behaviour>,
    requests: u64,
    window: Window,
}

impl Shared {
    pub(super) fn new(options: UpstreamOptions) -> Self {
        Self {
            tally: Arc::new(Tally::new(options.keep_requests)),
            options,
            keys: Mutex::default(),
            served: AtomicU64::new(0),
        }
    }

    /// A number that no other request has.
    pub(super) fn number(&self) -> u64 {
        self.served.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn set_behaviour(&self, key: Box<str>, behaviour: Behaviour) {
        self.keys().known.insert(key, Key { behaviour: Some(behaviour), ..Key::default() });
    }

    pub(super) fn set_default(&self, behaviour: Behaviour) {
        self.keys().default = behaviour;
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn now(&self) -> Timestamp {
        self.options.clock.now()
    }

    /// What this request of the key gets, with everything that depends on earlier ones decided.
    pub(super) fn decide(&self, name: &str) -> Behaviour {
        let now = self.now();
        let mut keys = self.keys();
        let Keys { default, known } = &mut *keys;
        let key = known.entry(name.into()).or_default();
        let nth = key.requests;
        key.requests += 1;
        let of_prefix = if self.options.prefixes { Behaviour::of_prefix(name) } else { None };
        let behaviour = key.behaviour.as_ref().or(of_prefix.as_ref()).unwrap_or(default);
        match behaviour.in_turn(nth) {
            Behaviour::RateLimitedAfter { n } => match key.window.take(*n, now) {
                Ok(_) => Behaviour::Good,
                Err(reset) => {
                    // Rounded up: who waits as long as told must not be early.
                    let seconds = reset.since(now).as_millis().div_ceil(1000);
                    Behaviour::RateLimited(Reset::Seconds(u64::try_from(seconds).unwrap_or(u64::MAX)))
                }
            },
            Behaviour::Flaky { percent } => {
                let dice = hash(self.options.seed, &[name.as_bytes(), &nth.to_le_bytes()]);
                if dice % 100 < u64::from(*percent) {
                    Behaviour::status([500, 502, 503, 504][(dice / 100 % 4) as usize])
                } else {
                    Behaviour::Good
                }
            }
            other => other.clone(),
        }
    }
}
