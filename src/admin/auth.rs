//! Who may use the admin API: whoever shows the admin token, or has shown it to begin a session.
//!
//! Guessing is slow: after a few wrong tries the answers to wrong ones wait, ever longer. The right token
//! never waits, so guessing locks nobody out.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
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

use super::{State, error::ApiError, session};
use crate::{
    guard::Origin,
    monitor::{Observation, Subject, What},
};

/// So many wrong tries in a minute are answered at once.
const FREE_TRIES: u32 = 5;
const WINDOW: Duration = Duration::from_secs(60);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// How many answers may wait at a time.
const MAX_WAITING: usize = 32;

pub(super) fn digest(token: &str) -> [u8; 32] {
    Sha256::digest(token.as_bytes()).into()
}

/// What is remembered of wrong tries.
#[derive(Debug, Default)]
pub(super) struct Guesses {
    run: Mutex<Option<Run>>,
    waiting: AtomicUsize,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    first: Instant,
    last: Instant,
    tries: u32,
}

impl Guesses {
    /// Takes in one wrong try; returns how many there were and how long its answer waits.
    fn wrong(&self, now: Instant) -> (u32, Duration) {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        let over = |run: &Run| {
            let since = if run.tries > FREE_TRIES { run.last } else { run.first };
            now.duration_since(since) > WINDOW
        };
        let before = run.filter(|run| !over(run)).unwrap_or(Run { first: now, last: now, tries: 0 });
        let tries = before.tries.saturating_add(1);
        *run = Some(Run { last: now, tries, ..before });
        let delay = match tries.checked_sub(FREE_TRIES + 1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1u32.checked_shl(doublings).unwrap_or(u32::MAX);
                Duration::from_secs(factor.into()).min(LONGEST_DELAY)
            }
        };
        (tries, delay)
    }
}

/// Gives its place back also when the caller leaves while waiting.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Option<Self> {
        let place = waiting.fetch_add(1, Ordering::SeqCst);
        let held = Self(waiting);
        (place < MAX_WAITING).then_some(held)
    }
}

impl Drop for Waiting<'_> {
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
    let mut shown = shown(request.headers()).peekable();
    let tried = shown.peek().is_some();
    if tried && !shown.any(|token| is_right(&state, token)) {
        drop(shown);
        return wrong(&state, request.extensions().get().copied()).await;
    }
    drop(shown);
    if !tried {
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

/// Every token is looked at to its end, whichever is right.
pub(super) fn is_right(state: &State, token: &str) -> bool {
    digest(token).ct_eq(&**state.admin_token.load()).into()
}

/// The answer to a wrong token, which waits the longer the more there were.
pub(super) async fn wrong(state: &State, origin: Option<Origin>) -> Response {
    tell(state, origin);
    let (tries, delay) = state.guesses.wrong(Instant::now());
    if !delay.is_zero() {
        let Some(_place) = Waiting::begin(&state.guesses.waiting) else {
            let error = ApiError::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_attempts",
                "Too many wrong admin tokens are being tried: wait and send the right one.",
            );
            return ApiError { retry_after: Some(delay.as_secs()), ..error }.into_response();
        };
        warn!(tries, delay_s = delay.as_secs(), "wrong admin tokens are being tried");
        tokio::time::sleep(delay).await;
    }
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
    ApiError::new(StatusCode::UNAUTHORIZED, "invalid_admin_token", message).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_and_end_after_a_quiet_minute() {
        let (guesses, start) = (Guesses::default(), Instant::now());
        let delays: Vec<_> = (0..12).map(|_| guesses.wrong(start).1.as_secs()).collect();
        assert_eq!(delays, [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(guesses.wrong(start + WINDOW).1, LONGEST_DELAY);
        assert_eq!(guesses.wrong(start + WINDOW * 3), (1, Duration::ZERO));
        // A few now and then are a person's mistakes.
        for n in 0..20 {
            assert_eq!(guesses.wrong(start + WINDOW * 4 + WINDOW / 3 * n).1, Duration::ZERO, "{n}");
        }
    }

    #[test]
    fn only_so_many_wait() {
        let waiting = AtomicUsize::new(0);
        let held: Vec<_> = (0..MAX_WAITING).filter_map(|_| Waiting::begin(&waiting)).collect();
        assert_eq!(held.len(), MAX_WAITING);
        assert!(Waiting::begin(&waiting).is_none());
        drop(held);
        assert!(Waiting::begin(&waiting).is_some());
    }
}
