//! Long work beside requests, in short pieces.
//!
//! A scheduler leaves a thread that works on its core for some milliseconds, and a request that wakes there waits for all of it:
//! with few cores that is what the slowest hundredth of all requests take. A thread of low priority would starve behind them
//! instead, with whatever it holds; one that yields may wait for many milliseconds each time. One that sleeps has its turn when
//! it wakes.

use std::{
    cell::Cell,
    marker::PhantomData,
    thread,
    time::{Duration, Instant},
};

/// How long a thread goes on at a stretch: no longer than a small answer takes.
const WORK: Duration = Duration::from_micros(50);
/// About as long as the shortest sleep there is.
const REST: Duration = Duration::from_micros(50);
/// Of what has taken long already, so much at a stretch: resting all the way, it would take three times as long.
const PART: u32 = 64;
/// Steps between two looks at the clock.
const STEPS: u32 = 16;

#[derive(Clone, Copy)]
struct Job {
    begun: Instant,
    /// The end of the last rest.
    since: Instant,
    steps: u32,
}

thread_local!(static JOB: Cell<Option<Job>> = const { Cell::new(None) });

/// While it lives, steps on this thread rest. It cannot be held across an await: what goes on there may be another's.
#[must_use = "without it no step rests"]
pub struct Begun(PhantomData<*const ()>);

impl Drop for Begun {
    fn drop(&mut self) {
        JOB.set(None);
    }
}

/// Before the first of many steps. What is done before the first rest is never made to wait.
pub fn begin() -> Begun {
    let now = Instant::now();
    JOB.set(Some(Job { begun: now, since: now, steps: 0 }));
    Begun(PhantomData)
}

/// One of many steps of some microseconds, on a thread that passes no requests on. Where a job has [begun](begin) it sleeps
/// for a moment every so often; what it has locked meanwhile is nothing that a request needs.
pub fn step() {
    let Some(mut job) = JOB.get() else { return };
    job.steps += 1;
    if job.steps >= STEPS {
        job.steps = 0;
        let now = Instant::now();
        if now - job.since >= WORK.max((now - job.begun) / PART) {
            #[allow(
                clippy::disallowed_methods,
                reason = "shorter than any timer of a runtime, and what this is for"
            )]
            thread::sleep(REST);
            job.since = Instant::now();
        }
    }
    JOB.set(Some(job));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rests(steps: u32) -> u32 {
        let since = || JOB.get().map(|job| job.since);
        let count = |_| {
            let before = since();
            step();
            u32::from(since() != before)
        };
        (0..steps).map(count).sum()
    }

    #[test]
    fn only_what_takes_long_rests_and_less_and_less_often() {
        JOB.set(None);
        assert_eq!(rests(10_000), 0);
        let now = Instant::now();
        let begun = |ago: Duration| {
            let job = Job { begun: now - ago, since: now - Duration::from_micros(60), steps: 0 };
            JOB.set(Some(job));
        };
        begun(Duration::from_micros(60));
        assert_eq!(rests(STEPS - 1), 0);
        assert_eq!(rests(2), 1);
        // A sixty-fourth of an hour has not passed since the last rest.
        begun(Duration::from_secs(3600));
        assert_eq!(rests(10_000), 0);
        let begun = begin();
        assert!(JOB.get().is_some_and(|job| job.begun >= now && job.steps == 0));
        drop(begun);
        assert!(JOB.get().is_none());
    }
}
