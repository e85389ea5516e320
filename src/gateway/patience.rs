//! How long a request waits, and for whom: one timer for the wait at the provider and for the looks whether the caller is
//! still one. Timers are not free, and nearly all of them would be set for nothing.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{ApiError, LOOK_EVERY};
use crate::guard::Caller;

/// What a request waits for at present, known to whoever holds its timer. The lock is never waited for: both are one task.
#[derive(Default)]
pub struct Patience(Mutex<Wait>);

#[derive(Clone, Copy, Default)]
enum Wait {
    #[default]
    Endless,
    /// No clock has been read yet.
    For(Duration),
    Until(Instant),
    Over,
}

/// What was waited for has not come in time.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl Patience {
    fn get(&self) -> Wait {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, wait: Wait) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = wait;
    }

    /// Waits for `future` within [`Patience::while_welcome`], at most `time`. Futures stay where they are: they are large.
    pub async fn within<T>(
        &self,
        time: Duration,
        mut future: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, TooLong> {
        let mut is_begun = false;
        let ended = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if !std::mem::replace(&mut is_begun, true) {
                self.set(Wait::For(time));
            }
            match self.get() {
                Wait::Over => Poll::Ready(Err(TooLong)),
                _ => Poll::Pending,
            }
        });
        let ended = ended.await;
        self.set(Wait::Endless);
        ended
    }

    /// Waits for an answer as long as its caller may have it. What is given up counts as if the caller had left.
    pub async fn while_welcome<T>(
        &self,
        caller: &Caller,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, ApiError> {
        let mut timer = pin!(None::<Sleep>);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Ok(answer));
                }
                let until = match self.get() {
                    Wait::For(time) => {
                        let until = Instant::now() + time;
                        self.set(Wait::Until(until));
                        Some(until)
                    }
                    Wait::Until(until) => Some(until),
                    Wait::Endless | Wait::Over => None,
                };
                if timer.is_none() {
                    let look = Instant::now() + LOOK_EVERY;
                    timer.set(Some(sleep_until(until.map_or(look, |until| until.min(look)))));
                }
                if let Some(mut timer) = timer.as_mut().as_pin_mut() {
                    if let Some(until) = until.filter(|until| *until < timer.deadline()) {
                        timer.as_mut().reset(until);
                    }
                    ready!(timer.poll(cx));
                }
                timer.set(None);
                if let Some(refusal) = caller.revoked() {
                    return Poll::Ready(Err(ApiError::refused(refusal)));
                }
                if until.is_some_and(|until| until <= Instant::now()) {
                    self.set(Wait::Over);
                }
            }
        })
        .await
    }
}
