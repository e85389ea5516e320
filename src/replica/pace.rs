//! When the next round is due, and when statistics may be read again: pure arithmetic, the present passed in.

use std::time::Duration;

use crate::model::Timestamp;

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(120);
/// Rounds in which nothing moved, before the pauses grow.
const PATIENT_ROUNDS: u32 = 4;
/// The longest pause between quiet rounds, in intervals.
const QUIET_INTERVALS: u32 = 4;
/// What of the budget may be spent; the rest is for what is not counted here, like the headers of packets.
const SPENT_SHARE: f64 = 0.9;
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
/// Statistics are never older than this for the budget's sake.
const LONGEST: Duration = Duration::from_secs(6 * 3600);
/// Somebody who looks gets figures that are at most this old.
const FRESH: Duration = Duration::from_secs(5);

/// The pauses between rounds.
#[derive(Clone, Debug)]
pub struct Rhythm {
    interval: Duration,
    quiet: u32,
    failures: u32,
}

/// How a round went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// Rows went either way.
    Moved,
    Quiet,
    /// It failed; the hub may have said when to come back.
    Failed(Option<Duration>),
}

impl Rhythm {
    pub fn new(interval: Duration) -> Self {
        Self { interval, quiet: 0, failures: 0 }
    }

    /// How long to wait after that round. `chance` is a number from 0 to 1 that keeps instances which failed
    /// together from coming back together.
    pub fn after(&mut self, round: Round, chance: f64) -> Duration {
        match round {
            Round::Moved => {
                (self.quiet, self.failures) = (0, 0);
                self.interval
            }
            Round::Quiet => {
                (self.quiet, self.failures) = (self.quiet.saturating_add(1), 0);
                let longer = 1 + self.quiet.saturating_sub(PATIENT_ROUNDS);
                self.interval * longer.min(QUIET_INTERVALS)
            }
            Round::Failed(retry_after) => {
                let doubled = FIRST_RETRY.saturating_mul(1 << self.failures.min(16)).min(LAST_RETRY);
                self.failures = self.failures.saturating_add(1);
                let jittered = doubled.mul_f64(0.5 + chance.clamp(0.0, 1.0) / 2.0);
                jittered.max(retry_after.unwrap_or_default().min(LAST_RETRY * 5))
            }
        }
    }

    /// A change made here ends the long pauses.
    pub fn wake(&mut self) {
        self.quiet = 0;
    }

    /// Failed rounds since the last good one.
    pub fn failures(&self) -> u32 {
        self.failures
    }
}

/// Keeps what the hub sends inside this instance's part of the egress budget. Greetings, state and retries come when
/// they have to; statistics wait until they and all that came since the last ones are paid for.
#[derive(Clone, Debug)]
pub struct Pace {
    interval: Duration,
    /// Bytes in 30 days, for all instances together.
    budget: Option<u64>,
    live: u64,
    last: Option<Timestamp>,
    /// All that had been received then.
    received: u64,
    /// How long the last reading has to last.
    pause: Duration,
}

impl Pace {
    pub fn new(interval: Duration, budget: Option<u64>) -> Self {
        Self { interval, budget, live: 1, last: None, received: 0, pause: Duration::ZERO }
    }

    /// How many instances share the budget.
    pub fn set_live(&mut self, live: u64) {
        self.live = live.max(1);
    }

    /// This instance's part, in bytes a month.
    pub fn share(&self) -> Option<u64> {
        self.budget.map(|budget| budget / self.live)
    }

    pub fn every(&self) -> Duration {
        self.pause.max(self.interval)
    }

    /// Whether statistics may be read now; `looking` when somebody waits for them.
    pub fn is_due(&self, now: Timestamp, looking: bool) -> bool {
        let Some(last) = self.last else { return true };
        // A clock that was set back is no reason to wait for it to catch up.
        if now < last {
            return true;
        }
        now.since(last) >= if looking { FRESH } else { self.every() }
    }

    /// Statistics were read to their end. `received` counts all bytes that ever came, whatever for; of a `first`
    /// reading they say nothing of what the next one will take.
    pub fn read(&mut self, now: Timestamp, received: u64, first: bool) {
        let bytes = if first { 0 } else { received.saturating_sub(self.received) };
        (self.last, self.received) = (Some(now), received);
        self.pause = match self.share() {
            None => Duration::ZERO,
            Some(share) => {
                let rate = (share as f64 * SPENT_SHARE / MONTH.as_secs_f64()).max(0.001);
                Duration::from_secs_f64((bytes as f64 / rate).min(LONGEST.as_secs_f64()))
            }
        };
    }
}

/// What `bytes` in `span` come to in 30 days; nothing can be said of less than a minute.
pub fn a_month(bytes: u64, span: Duration) -> Option<u64> {
    (span >= Duration::from_secs(60))
        .then(|| (bytes as f64 * MONTH.as_secs_f64() / span.as_secs_f64()) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_secs(30);

    fn at(seconds: i64) -> Timestamp {
        Timestamp(1_800_000_000_000 + seconds * 1000)
    }

    #[test]
    fn quiet_rounds_come_less_often_and_a_change_ends_that() {
        let mut rhythm = Rhythm::new(INTERVAL);
        let pauses: Vec<_> = (0..10).map(|_| rhythm.after(Round::Quiet, 0.5).as_secs()).collect();
        assert_eq!(pauses, [30, 30, 30, 30, 60, 90, 120, 120, 120, 120]);
        rhythm.wake();
        assert_eq!(rhythm.after(Round::Quiet, 0.5), INTERVAL);
        assert_eq!(rhythm.after(Round::Moved, 0.5), INTERVAL);
    }

    #[test]
    fn failures_back_off_and_are_capped() {
        let mut rhythm = Rhythm::new(INTERVAL);
        let pauses: Vec<_> = (0..9).map(|_| rhythm.after(Round::Failed(None), 1.0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 120, 120]);
        assert_eq!(rhythm.failures(), 9);
        let asked = Duration::from_secs(200);
        assert_eq!(rhythm.after(Round::Failed(Some(asked)), 0.0), asked);
        assert_eq!(rhythm.after(Round::Moved, 0.0), INTERVAL);
        assert!(rhythm.after(Round::Failed(None), 0.0) < Duration::from_secs(1), "jittered");
    }

    #[test]
    fn statistics_stay_inside_the_budget() {
        let mut pace = Pace::new(INTERVAL, Some(5_000_000_000));
        assert!(pace.is_due(at(0), false), "the first reading");
        pace.read(at(0), 9_000_000, true);
        assert_eq!(pace.every(), INTERVAL, "what is read once, to begin with");
        pace.set_live(10);
        pace.read(at(0), 10_000_000, false);
        // A megabyte at a tenth of 5 GB a month, of which 90 % may be spent.
        let month = MONTH.as_secs_f64() / pace.every().as_secs_f64() * 1_000_000.0;
        assert!((month - 450_000_000.0).abs() < 1000.0, "{month}");
        assert!(!pace.is_due(at(60), false) && pace.is_due(at(60), true) && !pace.is_due(at(3), true));
        assert!(pace.is_due(at(-100), false), "the clock was set back");
        pace.read(at(0), 10_000_200, false);
        assert_eq!(pace.every(), INTERVAL);
        pace.read(at(0), u64::MAX, false);
        assert_eq!(pace.every(), LONGEST);
    }

    #[test]
    fn greetings_and_state_are_paid_for_by_statistics() {
        let mut pace = Pace::new(INTERVAL, Some(50_000_000));
        let (mut now, mut received) = (0, 0);
        pace.read(at(now), received, true);
        let (mut statistics, mut readings) = (0, 0);
        // Rounds of 5 minutes for a month, each with a greeting and state; statistics when they are due.
        while now < 30 * 24 * 3600 {
            now += 300;
            received += 3_000;
            if pace.is_due(at(now), false) {
                received += 20_000;
                statistics += 20_000;
                readings += 1;
                pace.read(at(now), received, false);
            }
        }
        assert!(received > statistics + 25_000_000, "half of it is for other things");
        assert!((40_000_000..=50_000_000).contains(&received), "{received} in {readings} readings");
    }
}
