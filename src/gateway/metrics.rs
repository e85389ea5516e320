//! What the data plane counts beside the books, for `/metrics`: since the start, and for nobody's bill.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::{ledger::Kind, model::Effect};

/// Upper bounds of the duration histogram, in seconds.
pub const DURATION_BOUNDS_S: [f64; 12] =
    [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 300.0];

/// How an attempt at the provider ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttemptEnd {
    Success,
    RequestFault,
    RateLimit,
    Quota,
    Auth,
    Server,
    CallerLeft,
}

impl AttemptEnd {
    pub const ALL: [(Self, &'static str); 7] = [
        (Self::Success, "success"),
        (Self::RequestFault, "request_fault"),
        (Self::RateLimit, "rate_limit"),
        (Self::Quota, "quota"),
        (Self::Auth, "auth"),
        (Self::Server, "server"),
        (Self::CallerLeft, "caller_left"),
    ];

    /// An effect on the key says it all; without one, the request's end tells the caller's fault from its
    /// leaving.
    pub fn of(effect: Effect, request: Kind) -> Self {
        match (effect, request) {
            (Effect::Success, _) | (Effect::None, Kind::Success) => Self::Success,
            (Effect::RateLimit { .. }, _) => Self::RateLimit,
            (Effect::Quota { .. }, _) => Self::Quota,
            (Effect::Auth { .. }, _) => Self::Auth,
            (Effect::Server { .. }, _) => Self::Server,
            (Effect::None, Kind::Other) => Self::CallerLeft,
            (Effect::None, Kind::Failure) => Self::RequestFault,
        }
    }
}

/// One provider's figures.
#[derive(Debug)]
pub struct Metrics {
    cores: Box<[OfCore]>,
    /// Refusals by error code. Codes are our own, so there are few.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    cache_hits: AtomicU64,
}

/// What one core has counted, in cache lines of its own: cores that count in the same ones wait for each other.
#[derive(Debug, Default)]
#[repr(align(128))]
struct OfCore {
    attempts: [AtomicU64; AttemptEnd::ALL.len()],
    started: AtomicU64,
    requests: [AtomicU64; 3],
    durations: [AtomicU64; DURATION_BOUNDS_S.len() + 1],
    duration_sum_ms: AtomicU64,
}

/// A consistent enough copy for one scrape.
#[derive(Clone, Debug)]
pub struct Reading {
    pub attempts: Vec<(&'static str, u64)>,
    pub requests: Vec<(&'static str, u64)>,
    pub in_flight: u64,
    /// Not cumulative; the last is beyond the last bound.
    pub durations: Vec<u64>,
    pub duration_sum_s: f64,
    pub refused: Vec<(&'static str, u64)>,
    pub cache_hits: u64,
}

impl Metrics {
    pub fn new(cores: usize) -> Self {
        Self {
            cores: (0..cores.max(1)).map(|_| OfCore::default()).collect(),
            refused: Mutex::default(),
            cache_hits: AtomicU64::default(),
        }
    }

    fn of(&self, core: usize) -> &OfCore {
        &self.cores[core % self.cores.len()]
    }

    pub(super) fn request_started(&self, core: usize) {
        self.of(core).started.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self, core: usize, kind: Kind, took: Duration) {
        let counts = self.of(core);
        let seconds = took.as_secs_f64();
        let bucket = DURATION_BOUNDS_S.iter().position(|bound| seconds <= *bound);
        counts.durations[bucket.unwrap_or(DURATION_BOUNDS_S.len())].fetch_add(1, Ordering::Relaxed);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        counts.duration_sum_ms.fetch_add(millis, Ordering::Relaxed);
        // After its beginning, for whoever reads both.
        counts.requests[kind as usize].fetch_add(1, Ordering::Release);
    }

    pub(super) fn attempt_ended(&self, core: usize, end: AttemptEnd) {
        self.of(core).attempts[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, code: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(code).or_default() += 1;
    }

    pub(super) fn cache_hit(&self) {
        self.cache_hits.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> Reading {
        let sum = |counter: &dyn Fn(&OfCore) -> &AtomicU64| {
            self.cores.iter().map(|core| counter(core).load(Ordering::Acquire)).sum::<u64>()
        };
        let requests = [(Kind::Success, "success"), (Kind::Failure, "failure"), (Kind::Other, "other")]
            .map(|(kind, name)| (name, sum(&|core| &core.requests[kind as usize])));
        // Read after those that have ended, each of which has begun before.
        let started = sum(&|core| &core.started);
        Reading {
            attempts: AttemptEnd::ALL
                .iter()
                .map(|(end, name)| (*name, sum(&|core| &core.attempts[*end as usize])))
                .collect(),
            requests: requests.to_vec(),
            in_flight: started.saturating_sub(requests.iter().map(|(_, ended)| ended).sum()),
            durations: (0..=DURATION_BOUNDS_S.len()).map(|at| sum(&|core| &core.durations[at])).collect(),
            duration_sum_s: sum(&|core| &core.duration_sum_ms) as f64 / 1000.0,
            refused: self
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(|(code, count)| (*code, *count))
                .collect(),
            cache_hits: self.cache_hits.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cores_count_is_read_as_one() {
        let metrics = Metrics::new(3);
        // The last two are more than there are cores.
        for core in 0..5 {
            metrics.request_started(core);
            metrics.attempt_ended(core, AttemptEnd::RateLimit);
        }
        metrics.attempt_ended(1, AttemptEnd::Success);
        metrics.request_ended(0, Kind::Success, Duration::from_millis(20));
        metrics.request_ended(1, Kind::Success, Duration::from_millis(30));
        metrics.request_ended(2, Kind::Failure, Duration::from_secs(1_000));
        metrics.refused("x");
        metrics.cache_hit();
        let reading = metrics.read();
        assert_eq!(reading.in_flight, 2);
        assert_eq!(reading.requests, [("success", 2), ("failure", 1), ("other", 0)]);
        let attempts: Vec<_> = reading.attempts.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(attempts, [("success", 1), ("rate_limit", 5)]);
        assert_eq!(reading.durations, [0, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        assert!((reading.duration_sum_s - 1_000.05).abs() < 1e-9);
        assert_eq!((reading.refused, reading.cache_hits), (vec![("x", 1)], 1));
    }
}
