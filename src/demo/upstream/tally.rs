//! The provider's own count of what it was asked and what it gave.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    ops::AddAssign,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri, Version};
use tokio::sync::Notify;

/// Exact counts, all under one lock, so that at every instant
/// `attempts = completed + failed + broken + cancelled + in flight`.
///
/// It lives in the process that started the provider and outlasts it: a keytide in a process of its own can be
/// killed at any moment and the counts stay whole.
#[derive(Debug)]
pub struct Tally {
    keep: usize,
    inner: Mutex<Inner>,
    ended: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    counts: HashMap<Place, Count>,
    flights: HashMap<Arc<str>, Flight>,
    flight: Flight,
    requests: VecDeque<Recorded>,
}

/// A key, empty for none, and the path as [`Recorded::endpoint`] names it.
type Place = (Arc<str>, &'static str);

#[derive(Clone, Copy, Debug, Default)]
struct Flight {
    now: u64,
    max: u64,
}

impl Flight {
    fn up(&mut self) {
        self.now += 1;
        self.max = self.max.max(self.now);
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Requests whose head arrived.
    pub attempts: u64,
    /// Proper answers that were handed to the connection to the last byte.
    pub completed: u64,
    /// Errors that were answered to the end: a status, or an error object in a 200.
    pub failed: u64,
    /// Answers that this provider refused or broke off on purpose.
    pub broken: u64,
    /// The caller hung up before the end, or the provider was stopped.
    pub cancelled: u64,
    /// Of completed answers, whether the caller was told or not.
    pub tokens: Tokens,
    /// Of completed answers that told the caller: what somebody who reads `usage` can know.
    pub reported: Tokens,
    /// Answers by the status they began with, however they ended.
    pub by_status: BTreeMap<u16, u64>,
}

impl Count {
    pub fn in_flight(&self) -> u64 {
        self.attempts - self.completed - self.failed - self.broken - self.cancelled
    }

    pub fn status(&self, code: u16) -> u64 {
        self.by_status.get(&code).copied().unwrap_or(0)
    }
}

impl AddAssign<&Self> for Count {
    fn add_assign(&mut self, more: &Self) {
        self.attempts += more.attempts;
        self.completed += more.completed;
        self.failed += more.failed;
        self.broken += more.broken;
        self.cancelled += more.cancelled;
        self.tokens += more.tokens;
        self.reported += more.reported;
        for (code, count) in &more.by_status {
            *self.by_status.entry(*code).or_default() += count;
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    pub completion: u64,
}

impl AddAssign for Tokens {
    fn add_assign(&mut self, more: Self) {
        self.prompt += more.prompt;
        self.completion += more.completion;
    }
}

/// A request as it came in, keys and all: for assertions, never for logs.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Empty when there was none.
    pub key: Arc<str>,
    /// The path that the request was taken for, as `/v1/models/{id}`; `(unknown)` for others.
    pub endpoint: &'static str,
    pub method: Method,
    pub uri: Uri,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Tally {
    pub(super) fn new(keep: usize) -> Self {
        Self { keep, inner: Mutex::default(), ended: Notify::new() }
    }

    /// All requests.
    pub fn total(&self) -> Count {
        self.sum(|_, _| true)
    }

    /// The requests that came with `key`; the empty one stands for none.
    pub fn key(&self, key: &str) -> Count {
        self.sum(|of, _| of == key)
    }

    /// The requests to one endpoint, such as `/v1/chat/completions` or `/v1/models/{id}`.
    pub fn endpoint(&self, path: &str) -> Count {
        self.sum(|_, at| at == path)
    }

    /// The requests whose key and endpoint are `wanted`.
    pub fn sum(&self, wanted: impl Fn(&str, &str) -> bool) -> Count {
        let mut sum = Count::default();
        for ((key, path), count) in &self.lock().counts {
            if wanted(key, path) {
                sum += count;
            }
        }
        sum
    }

    /// Each key's counts, of one and the same instant.
    pub fn keys(&self) -> BTreeMap<String, Count> {
        let mut keys = BTreeMap::<String, Count>::new();
        for ((key, _), count) in &self.lock().counts {
            *keys.entry(key.to_string()).or_default() += count;
        }
        keys
    }

    pub fn in_flight(&self) -> u64 {
        self.lock().flight.now
    }

    /// The most requests that were ever in flight at once.
    pub fn max_in_flight(&self) -> u64 {
        self.lock().flight.max
    }

    pub fn max_in_flight_of(&self, key: &str) -> u64 {
        self.lock().flights.get(key).map_or(0, |flight| flight.max)
    }

    /// The latest requests, oldest first.
    pub fn requests(&self) -> Vec<Recorded> {
        self.lock().requests.iter().cloned().collect()
    }

    pub fn last_request(&self) -> Option<Recorded> {
        self.lock().requests.back().cloned()
    }

    /// Waits until nothing is in flight.
    pub async fn idle(&self) {
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            // Before looking, so that an end between the look and the wait is not missed.
            ended.as_mut().enable();
            if self.in_flight() == 0 {
                return;
            }
            ended.await;
        }
    }

    pub(super) fn begin(self: &Arc<Self>, key: Arc<str>, endpoint: &'static str) -> Attempt {
        let place = (key, endpoint);
        let mut inner = self.lock();
        inner.flight.up();
        inner.flights.entry(place.0.clone()).or_default().up();
        inner.counts.entry(place.clone()).or_default().attempts += 1;
        drop(inner);
        Attempt { tally: self.clone(), place, ended: false }
    }

    pub(super) fn record(&self, request: Recorded) {
        let mut inner = self.lock();
        inner.requests.push_back(request);
        while inner.requests.len() > self.keep {
            inner.requests.pop_front();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How an attempt ended by the provider's doing.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    Completed { tokens: Tokens, reported: Tokens },
    Failed,
    Broken,
}

/// One request on its way. Dropped without an ending, it was cancelled.
#[derive(Debug)]
pub(super) struct Attempt {
    tally: Arc<Tally>,
    place: Place,
    ended: bool,
}

impl Attempt {
    pub(super) fn key(&self) -> &str {
        &self.place.0
    }

    pub(super) fn answered(&self, status: StatusCode) {
        let mut inner = self.tally.lock();
        let count = inner.counts.entry(self.place.clone()).or_default();
        *count.by_status.entry(status.as_u16()).or_default() += 1;
    }

    pub(super) fn end(mut self, ending: Ending) {
        self.close(|count| match ending {
            Ending::Completed { tokens, reported } => {
                count.completed += 1;
                count.tokens += tokens;
                count.reported += reported;
            }
            Ending::Failed => count.failed += 1,
            Ending::Broken => count.broken += 1,
        });
    }

    fn close(&mut self, count: impl FnOnce(&mut Count)) {
        self.ended = true;
        let mut inner = self.tally.lock();
        count(inner.counts.entry(self.place.clone()).or_default());
        inner.flight.now -= 1;
        if let Some(flight) = inner.flights.get_mut(&self.place.0) {
            flight.now -= 1;
        }
        drop(inner);
        self.tally.ended.notify_waiters();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if !self.ended {
            self.close(|count| count.cancelled += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_attempt_ends_once_in_one_place() {
        let tally = Arc::new(Tally::new(2));
        let tokens = Tokens { prompt: 3, completion: 4 };
        let (one, two, three) =
            (tally.begin("a".into(), "/x"), tally.begin("a".into(), "/y"), tally.begin("b".into(), "/x"));
        assert_eq!((tally.in_flight(), tally.key("a").in_flight()), (3, 2));
        one.answered(StatusCode::OK);
        one.end(Ending::Completed { tokens, reported: Tokens::default() });
        two.end(Ending::Broken);
        drop(three);
        let total = tally.total();
        assert_eq!((total.attempts, total.completed, total.broken, total.cancelled), (3, 1, 1, 1));
        assert_eq!((total.in_flight(), tally.in_flight(), tally.max_in_flight()), (0, 0, 3));
        assert_eq!((tally.max_in_flight_of("a"), tally.max_in_flight_of("b")), (2, 1));
        assert_eq!((total.tokens, total.reported, total.status(200)), (tokens, Tokens::default(), 1));
        assert_eq!(tally.endpoint("/x").attempts, 2);
    }
}
