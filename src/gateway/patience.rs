//! How long a request waits, and for whom: one timer for the wait at the provider and for the looks whether the caller is
//! still one. Timers are not free, and nearly all of them would be set for nothing.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::atomic::{AtomicU32, Ordering},
    task::{Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::{ApiError, LOOK_EVERY};
use crate::guard::Caller;

/// What a request waits for at present, known to whoever holds its timer: both are one task, which reads no clock and sets
/// no timer where nothing has to be waited for.
pub struct Patience {
    /// How long one wait may take.
    most: Duration,
    /// Odd while something is waited for, one more with each beginning and end; or [`OVER`].
    waits: AtomicU32,
}

/// The wait under way has taken too long.
const OVER: u32 = u32::MAX;

/// What was waited for has not come in time.
#[derive(Debug, PartialEq, Eq)]
pub struct TooLong;

impl Patience {
    pub fn new(most: Duration) -> Self {
        Self { most, waits: AtomicU32::new(0) }
    }

    fn get(&self) -> u32 {
        self.waits.load(Ordering::Relaxed)
    }

    fn set(&self, waits: u32) {
        self.waits.store(waits, Ordering::Relaxed);
    }

    /// Waits for `future` within [`Patience::while_welcome`]. Futures stay where they are: they are large.
    pub async fn within<T>(&self, mut future: Pin<&mut impl Future<Output = T>>) -> Result<T, TooLong> {
        let before = self.get();
        let ended = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            if self.get() == OVER {
                return Poll::Ready(Err(TooLong));
            }
            self.set(before + 1);
            Poll::Pending
        });
        let ended = ended.await;
        self.set(before + 2);
        ended
    }

    /// Waits for an answer as long as its caller may have it. What is given up counts as if the caller had left.
    pub async fn while_welcome<T>(
        &self,
        caller: &Caller,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, ApiError> {
        let mut timer = pin!(None::<Sleep>);
        // The wait under way, and when it is over.
        let mut wait = (0, None);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    return Poll::Ready(Ok(answer));
                }
                let waits = self.get();
                if wait.0 != waits || timer.is_none() {
                    let now = Instant::now();
                    if wait.0 != waits {
                        wait = (waits, (waits % 2 == 1 && waits != OVER).then(|| now + self.most));
                    }
                    if timer.is_none() {
                        let look = now + LOOK_EVERY;
                        timer.set(Some(sleep_until(wait.1.map_or(look, |until| until.min(look)))));
                    }
                }
                let until = wait.1;
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
                    self.set(OVER);
                }
            }
        })
        .await
    }
}
