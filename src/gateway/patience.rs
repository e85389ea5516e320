//! How long a request waits, and for whom: one timer for the wait at the provider and for the looks whether the caller is
//! still one. Timers are not free, and nearly all of them would be set for nothing.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::atomic::{AtomicU32, Ordering},
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

use super::{ApiError, LOOK_EVERY, timer::Spare};
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
        spare: &Spare,
        mut answer: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, ApiError> {
        let mut timer = None;
        // The wait under way, and when it is over.
        let mut wait = (0, None);
        poll_fn(|cx| {
            loop {
                if let Poll::Ready(answer) = answer.as_mut().poll(cx) {
                    if let Some(timer) = timer.take() {
                        spare.put(timer);
                    }
                    return Poll::Ready(Ok(answer));
                }
                let waits = self.get();
                if wait.0 != waits || timer.is_none() {
                    let now = Instant::now();
                    if wait.0 != waits {
                        wait = (waits, (waits % 2 == 1 && waits != OVER).then(|| now + self.most));
                    }
                    timer.get_or_insert_with(|| spare.take(now + LOOK_EVERY));
                }
                let until = wait.1;
                let Some(timer) = &mut timer else { return Poll::Pending };
                if let Some(until) = until.filter(|until| *until < timer.deadline()) {
                    timer.reset(until);
                }
                if !timer.passed(cx) {
                    return Poll::Pending;
                }
                if let Some(refusal) = caller.revoked() {
                    return Poll::Ready(Err(ApiError::refused(refusal)));
                }
                let now = Instant::now();
                if until.is_some_and(|until| until <= now) {
                    self.set(OVER);
                }
                timer.reset(now + LOOK_EVERY);
            }
        })
        .await
    }
}
