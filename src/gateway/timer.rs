//! A timer that is asked often and goes off almost never.

use std::{
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Waker},
};

use tokio::{
    task::coop::has_budget_remaining,
    time::{Instant, Sleep, sleep_until},
};

pub struct Timer {
    sleep: Pin<Box<Sleep>>,
    /// Who is woken when it goes off. To be promised that once more costs several locks, to ask costs a look.
    known: Option<Waker>,
}

impl Timer {
    pub fn at(when: Instant) -> Self {
        Self { sleep: Box::pin(sleep_until(when)), known: None }
    }

    pub fn deadline(&self) -> Instant {
        self.sleep.deadline()
    }

    pub fn reset(&mut self, when: Instant) {
        self.sleep.as_mut().reset(when);
        // Once it has gone off it knows nobody.
        self.known = None;
    }

    /// Whether it has gone off; if not, `cx` is woken when it does.
    pub fn passed(&mut self, cx: &mut Context<'_>) -> bool {
        if self.known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            return self.sleep.is_elapsed();
        }
        let poll = self.sleep.as_mut().poll(cx);
        // Who has had its turn is told to wait without being listened to: see tokio's `coop`.
        self.known = has_budget_remaining().then(|| cx.waker().clone());
        poll.is_ready()
    }
}

/// A connection's timer between two requests, which all use the same one: it goes on from where the last one left it.
#[derive(Default)]
pub struct Spare(Mutex<Option<Timer>>);

impl Spare {
    /// One that goes off at `when` at the latest.
    pub fn take(&self, when: Instant) -> Timer {
        let spare = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match spare {
            Some(mut timer) => {
                if timer.sleep.is_elapsed() || timer.deadline() > when {
                    timer.reset(when);
                }
                timer
            }
            None => Timer::at(when),
        }
    }

    pub fn put(&self, timer: Timer) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(timer);
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, task::Poll, time::Duration};

    use futures_util::future::poll_immediate;
    use tokio::{
        task::coop::poll_proceed,
        time::{advance, timeout},
    };

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn gone_off(timer: &mut Timer) -> Instant {
        poll_fn(|cx| if timer.passed(cx) { Poll::Ready(Instant::now()) } else { Poll::Pending }).await
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asked_last_is_woken_once_it_goes_off() {
        let begun = Instant::now();
        let mut timer = Timer::at(begun + 2 * SECOND);
        // Asked by others before, and again and again.
        assert!(!timer.passed(&mut Context::from_waker(Waker::noop())));
        for _ in 0..3 {
            assert!(poll_immediate(gone_off(&mut timer)).await.is_none());
        }
        timer.reset(begun + SECOND);
        assert_eq!(gone_off(&mut timer).await, begun + SECOND);
        timer.reset(begun + 3 * SECOND);
        assert_eq!(gone_off(&mut timer).await, begun + 3 * SECOND);
    }

    /// Whoever has done much in one turn is put off without being listened to, and comes again.
    #[tokio::test(start_paused = true)]
    async fn it_goes_off_for_who_was_put_off() {
        let begun = Instant::now();
        let mut timer = Timer::at(begun + SECOND);
        poll_fn(|cx| {
            while has_budget_remaining() {
                assert!(poll_proceed(cx).map(|spent| spent.made_progress()).is_ready());
            }
            assert!(!timer.passed(cx));
            Poll::Ready(())
        })
        .await;
        tokio::task::yield_now().await;
        assert_eq!(timeout(9 * SECOND, gone_off(&mut timer)).await.expect("never"), begun + SECOND);
    }

    #[tokio::test(start_paused = true)]
    async fn a_spare_one_goes_off_in_time_whatever_became_of_it_meanwhile() {
        let (spare, begun) = (Spare::default(), Instant::now());
        let mut timer = spare.take(begun + SECOND);
        assert!(poll_immediate(gone_off(&mut timer)).await.is_none());
        spare.put(timer);
        let mut timer = spare.take(begun + 3 * SECOND);
        assert_eq!(gone_off(&mut timer).await, begun + SECOND, "it was set already");
        spare.put(timer);
        let mut timer = spare.take(begun + 3 * SECOND);
        assert_eq!(gone_off(&mut timer).await, begun + 3 * SECOND, "it had gone off");
        timer.reset(begun + 9 * SECOND);
        spare.put(timer);
        let mut timer = spare.take(begun + 5 * SECOND);
        assert_eq!(gone_off(&mut timer).await, begun + 5 * SECOND, "it was set for later");
        timer.reset(begun + 6 * SECOND);
        spare.put(timer);
        advance(4 * SECOND).await;
        let now = Instant::now();
        assert!(gone_off(&mut spare.take(now + SECOND)).await <= now + SECOND, "it went off unheard");
    }
}
