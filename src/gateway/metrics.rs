//! What the data plane counts beside the books, for `/metrics`: since the start, and for nobody's bill.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
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
#[derive(Debug, Default)]
pub struct Metrics {
    attempts: [AtomicU64; AttemptEnd::ALL.len()],
    requests: [AtomicU64; 3],
    in_flight: AtomicI64,
    durations: [AtomicU64; DURATION_BOUNDS_S.len() + 1],
    duration_sum_ms: AtomicU64,
    /// Refusals by error code. Codes are our own, so there are few.
    refused: Mutex<BTreeMap<&'static str, u64>>,
    cache_hits: AtomicU64,
}

/// A consistent enough copy for one scrape.
#[derive(Clone, Debug)]
pub struct Reading {
    pub attempts: Vec<(&'static str, u64)>,
    pub requests: Vec<(&'static str, u64)>,
    pub in_flight: i64,
    /// Not cumulative; the last is beyond the last bound.
    pub durations: Vec<u64>,
    pub duration_sum_s: f64,
    pub refused: Vec<(&'static str, u64)>,
    pub cache_hits: u64,
}

impl Metrics {
    pub(super) fn request_started(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn request_ended(&self, kind: Kind, took: Duration) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.requests[kind as usize].fetch_add(1, Ordering::Relaxed);
        let seconds = took.as_secs_f64();
        let bucket = DURATION_BOUNDS_S.iter().position(|bound| seconds <= *bound);
        self.durations[bucket.unwrap_or(DURATION_BOUNDS_S.len())].fetch_add(1, Ordering::Relaxed);
        let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        self.duration_sum_ms.fetch_add(millis, Ordering::Relaxed);
    }

    pub(super) fn attempt_ended(&self, end: AttemptEnd) {
        self.attempts[end as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn refused(&self, code: &'static str) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        *refused.entry(code).or_default() += 1;
    }

    pub(super) fn cache_hit(&self) {
        self.cache_hits.fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> Reading {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            attempts: AttemptEnd::ALL
                .iter()
                .map(|(end, name)| (*name, load(&self.attempts[*end as usize])))
                .collect(),
            requests: [Kind::Success, Kind::Failure, Kind::Other]
                .into_iter()
                .zip(["success", "failure", "other"])
                .map(|(kind, name)| (name, load(&self.requests[kind as usize])))
                .collect(),
            in_flight: self.in_flight.load(Ordering::Relaxed),
            durations: self.durations.iter().map(load).collect(),
            duration_sum_s: load(&self.duration_sum_ms) as f64 / 1000.0,
            refused: self
                .refused
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .iter()
                .map(|(code, count)| (*code, *count))
                .collect(),
            cache_hits: load(&self.cache_hits),
        }
    }
}
