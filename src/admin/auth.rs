//! Who may use the admin API: whoever shows the admin token, or has shown it to begin a session.
//!
//! Guessing is slow: after a few wrong tries from one network its further ones, right or wrong, wait one at a time before
//! anybody looks at them, ever longer. Whoever leaves while waiting has tried nothing. Sessions and other networks never
//! wait, and no try waits longer than all places together.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    extract::{Request, State as Extract},
    middleware::Next,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use tokio::time::Instant;
use tracing::warn;

use super::{State, error::ApiError, session, view::Code};
use crate::{
    guard::Origin,
    monitor::{Observation, Subject, What},
};

/// So many wrong tries in a minute are answered at once.
const FREE_TRIES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
const LONGEST_DELAY: Duration = Duration::from_secs(10);
/// How many tries of one network may wait at a time: all together a minute, as long as most proxies and programs wait.
const PLACES: usize = 6;

pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// Networks whose tries are remembered one by one.
const MOST_NETWORKS: usize = 1024;

/// What is remembered of wrong tries: a run for each network, so that nobody waits for what others do. When there are
/// too many networks, those that come then share one run.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    runs: Mutex<HashMap<Option<Subject>, Run>>,
}

#[derive(Debug)]
struct Run {
    first: Instant,
    last: Instant,
    tries: u32,
    line: Arc<Line>,
}

impl Run {
    fn begin(now: Instant, line: Arc<Line>) -> Self {
        Self { first: now, last: now, tries: 0, line }
    }

    fn is_over(&self, now: Instant) -> bool {
        let since = if self.tries >= FREE_TRIES { self.last } else { self.first };
        now.duration_since(since) > WINDOW
    }
}

impl Guesses {
    /// Takes in one wrong try.
    fn wrong(&self, from: Option<IpAddr>, now: Instant) {
        let mut runs = self.lock();
        let mut from = from.map(Subject::at);
        if runs.len() >= MOST_NETWORKS && !runs.contains_key(&from) {
            runs.retain(|_, run| !run.is_over(now));
            if runs.len() >= MOST_NETWORKS {
                from = None;
            }
        }
        let run = runs.entry(from).or_insert_with(|| Run::begin(now, Arc::default()));
        if run.is_over(now) {
            *run = Run::begin(now, run.line.clone());
        }
        run.tries = run.tries.saturating_add(1);
        run.last = now;
    }

    /// Where the next try from there waits for its turn, and how long once it has it; none where it need not.
    fn due(&self, from: Option<IpAddr>, now: Instant) -> Option<(Arc<Line>, Duration)> {
        let runs = self.lock();
        let own = runs.get(&from.map(Subject::at));
        let run = own.or_else(|| runs.get(&None).filter(|_| runs.len() >= MOST_NETWORKS))?;
        let doublings = run.tries.checked_sub(FREE_TRIES).filter(|_| !run.is_over(now))?;
        let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
        Some((run.line.clone(), Duration::from_secs(factor.into()).min(LONGEST_DELAY)))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Option<Subject>, Run>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where tries from one network wait for each other.
#[derive(Debug, Default)]
struct Line {
    gate: tokio::sync::Mutex<()>,
    waiting: AtomicUsize,
}

impl Line {
    /// None when all places are taken.
    async fn turn(&self) -> Option<Turn<'_>> {
        let place = Place::take(&self.waiting)?;
        Some(Turn { _gate: self.gate.lock().await, _place: place })
    }
}

struct Turn<'a> {
    _gate: tokio::sync::MutexGuard<'a, ()>,
    _place: Place<'a>,
}

/// Given back also when the caller leaves while waiting.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize) -> Option<Self> {
        let before = waiting.fetch_add(1, Ordering::SeqCst);
        let held = Self(waiting);
        (before < PLACES).then_some(held)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

fn shown(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let bearer = headers.get(header::AUTHORIZATION).and_then(|value| {
        let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let own = headers.get("x-admin-token").and_then(|value| value.to_str().ok()).map(str::trim);
    [bearer, own].into_iter().flatten()
}

/// Lets a request through that shows the admin token, or comes from a session of someone who did.
pub(super) async fn require(
    Extract(state): Extract<Arc<State>>,
    mut request: Request,
    next: Next,
) -> Response {
    let shown: Vec<_> = shown(request.headers()).map(digest).collect();
    if !shown.is_empty() {
        if let Err(refused) = check(&state, request.extensions().get().copied(), &shown).await {
            return refused;
        }
    } else {
        match session::of(&state, request.method(), request.headers()) {
            Ok(Some(found)) => drop(request.extensions_mut().insert(found)),
            Ok(None) => {
                return refusal(
                    "No admin token was sent: put it in the header \"Authorization: Bearer <token>\".",
                );
            }
            Err(refused) => return refused.into_response(),
        }
    }
    let mut response = next.run(request).await;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The digest is looked at to its end, whichever is right.
pub(super) fn is_right(state: &State, shown: &[u8; 32]) -> bool {
    shown.ct_eq(&**state.admin_token.load()).into()
}

/// Whether one of these digests is the admin token's; if not, the answer.
pub(super) async fn check(state: &State, origin: Option<Origin>, shown: &[[u8; 32]]) -> Result<(), Response> {
    let from = origin.map(|origin| origin.address);
    let line = state.guesses.due(from, Instant::now()).map(|(line, _)| line);
    let _turn = match &line {
        Some(line) => Some(line.turn().await.ok_or_else(too_many)?),
        None => None,
    };
    // Asked again: what those before it tried counts as well. The token is looked at after the wait, so that whoever
    // leaves early has learnt nothing.
    if let Some((_, delay)) = state.guesses.due(from, Instant::now()) {
        warn!(delay_s = delay.as_secs(), "wrong admin tokens are being tried");
        tokio::time::sleep(delay).await;
    }
    if shown.iter().any(|token| is_right(state, token)) {
        return Ok(());
    }
    Err(wrong(state, origin))
}

fn too_many() -> Response {
    let error = ApiError::new(
        StatusCode::TOO_MANY_REQUESTS,
        Code::TooManyAttempts,
        "Too many admin tokens are being tried from this network: wait and send the right one.",
    );
    ApiError { retry_after: Some(LONGEST_DELAY.as_secs()), ..error }.into_response()
}

/// The answer to a wrong token, which counts.
pub(super) fn wrong(state: &State, origin: Option<Origin>) -> Response {
    tell(state, origin);
    state.guesses.wrong(origin.map(|origin| origin.address), Instant::now());
    refusal(
        "The admin token is wrong: it stands in the file admin-token of the data folder, or in the configuration.",
    )
}

/// The monitor hears of every wrong try, those that wait for their answers too.
fn tell(state: &State, origin: Option<Origin>) {
    let Some(Origin { address, .. }) = origin else { return };
    let seen = Observation {
        at: state.clock.now(),
        subject: Subject::at(address),
        address: Some(address),
        key: None,
        provider: 0,
        model: None,
        what: What::AdminLoginFailed,
    };
    // The operator's side has no core of its own.
    state.watch.tell(0, seen);
}

fn refusal(message: &'static str) -> Response {
    ApiError::new(StatusCode::UNAUTHORIZED, Code::InvalidAdminToken, message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    /// Seconds that the next try from there waits.
    fn wait(guesses: &Guesses, from: IpAddr, now: Instant) -> u64 {
        guesses.due(Some(from), now).map_or(0, |(_, delay)| delay.as_secs())
    }

    /// One more wrong try, and how long it waited.
    fn try_one(guesses: &Guesses, from: IpAddr, now: Instant) -> u64 {
        let waited = wait(guesses, from, now);
        guesses.wrong(Some(from), now);
        waited
    }

    #[test]
    fn delays_double_and_end_after_a_quiet_minute() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let delays: Vec<_> = (0..11).map(|_| try_one(&guesses, HERE, start)).collect();
        assert_eq!(delays, [0, 0, 0, 0, 0, 1, 2, 4, 8, 10, 10]);
        assert_eq!(try_one(&guesses, HERE, start + WINDOW), LONGEST_DELAY.as_secs());
        assert_eq!(try_one(&guesses, HERE, start + WINDOW * 3), 0);
        // A few now and then are a person's mistakes.
        for n in 0..20 {
            assert_eq!(try_one(&guesses, HERE, start + WINDOW * 4 + WINDOW / 3 * n), 0, "{n}");
        }
    }

    #[test]
    fn nobody_waits_for_what_others_try() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let wrong = |address: &str| try_one(&guesses, address.parse().unwrap(), start);
        assert_eq!([0; 5].map(|_| wrong("2001:db8::1")), [0; 5]);
        assert_eq!(wrong("2001:db8::ffff:0:0:2"), 1, "one /64 is one caller");
        assert_eq!((wrong("2001:db8:0:1::1"), wrong("192.0.2.1")), (0, 0));
        assert_eq!([0; 5].map(|_| wrong("::ffff:192.0.2.1")), [0, 0, 0, 0, 1], "it is the same address");
    }

    #[test]
    fn many_networks_share_what_is_left() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let wrong = |n: u32, now| try_one(&guesses, IpAddr::from(n.to_be_bytes()), now);
        let known = MOST_NETWORKS as u32;
        assert!((0..known).all(|n| wrong(n, start) == 0));
        let delays: Vec<_> = (0..7).map(|n| wrong(known + n, start)).collect();
        assert_eq!(delays, [0, 0, 0, 0, 0, 1, 2]);
        assert_eq!(wrong(0, start), 0, "those that are known go on as they were");
        let later = start + WINDOW * 3;
        assert_eq!(wrong(2 * known, later), 0);
        assert_eq!(guesses.runs.lock().unwrap().len(), 1, "what is over makes room");
    }

    #[tokio::test]
    async fn only_so_many_wait_and_one_has_its_turn() {
        let line = Line::default();
        let turn = line.turn().await.unwrap();
        let held: Vec<_> = (1..PLACES).filter_map(|_| Place::take(&line.waiting)).collect();
        assert_eq!(held.len(), PLACES - 1);
        assert!(line.turn().await.is_none());
        drop((turn, held));
        assert!(line.turn().await.is_some());
    }
}
