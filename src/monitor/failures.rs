//! How often a subject's requests fail, against how often they used to and how often the others' do.

use serde::{Deserialize, Serialize};

/// The own rate is a share with a prior; the present is a window that fades, in which every attempt brings the
/// failures to be expected of it at that moment. What is above the sum of those is the subject's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Failures {
    good: f32,
    bad: f32,
    hour_good: f32,
    hour_bad: f32,
    minute: u32,
    attempts: f32,
    failed: f32,
    expected: f32,
    is_abnormal: bool,
}

/// More failures than can be explained.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Excess {
    pub(super) failed: f32,
    pub(super) expected: f32,
    pub(super) score: f32,
}

impl Failures {
    /// Before anything is known, four in a hundred are expected to fail.
    const PRIOR: (f32, f32) = (0.4, 10.0);
    /// Minutes in which half of the window fades.
    const HALF: f32 = 90.0;
    /// What of the past is kept over a day.
    const KEPT_A_DAY: f32 = 0.95;
    /// Attempts in the past from which the own rate is known.
    const KNOWN: f32 = 60.0;
    /// Failures beyond the expected that are worth a word. A script that sends one wrong request forty times
    /// until somebody looks is no abuse.
    const LEAST: f32 = 60.0;
    /// How surprising it has to be: the logarithm of the likelihoods' ratio. Failures come in clumps, so far
    /// beyond what coins would need.
    const SURPRISE: f32 = 45.0;

    pub(super) fn see(&mut self, is_bad: bool, others: f32, minute: u32) -> Option<Excess> {
        if minute > self.minute {
            let fade = (-((minute - self.minute) as f32) / Self::HALF).exp2();
            for sum in [&mut self.attempts, &mut self.failed, &mut self.expected] {
                *sum *= fade;
            }
        }
        // A clock set back must not stop the fading for good.
        self.minute = minute;
        let bad = f32::from(u8::from(is_bad));
        self.attempts += 1.0;
        self.failed += bad;
        self.expected += self.rate().max(others).clamp(0.01, 1.0);
        // What the others meet too is not learnt as the subject's own.
        self.hour_bad += bad * (1.0 - others);
        self.hour_good += 1.0 - bad;
        let excess = self.excess()?;
        self.is_abnormal = true;
        Some(excess)
    }

    fn rate(&self) -> f32 {
        (self.bad + Self::PRIOR.0) / (self.bad + self.good + Self::PRIOR.1)
    }

    fn excess(&self) -> Option<Excess> {
        let (failed, expected) = (self.failed, self.expected);
        if self.good + self.bad < Self::KNOWN || failed - expected < Self::LEAST {
            return None;
        }
        let surprise = failed * (failed / expected).ln() - (failed - expected);
        let score = (surprise / Self::SURPRISE).sqrt();
        (score >= 0.5).then_some(Excess { failed, expected, score })
    }

    pub(super) fn end_hour(&mut self) {
        if !self.is_abnormal {
            self.good += self.hour_good;
            self.bad += self.hour_bad;
        }
        (self.hour_good, self.hour_bad, self.is_abnormal) = (0.0, 0.0, false);
    }

    pub(super) fn end_day(&mut self, days: u32) {
        let kept = Self::KEPT_A_DAY.powi(days.min(365) as i32);
        self.good *= kept;
        self.bad *= kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A hundred attempts an hour for a day, of which every `nth` fails.
    fn grown(nth: usize) -> Failures {
        let mut failures = Failures::default();
        for n in 0..2_400 {
            assert_eq!(failures.see(n % nth == 0, 0.0, n as u32 / 2), None);
            if n % 100 == 99 {
                failures.end_hour();
            }
        }
        failures
    }

    #[test]
    fn against_the_own_rate() {
        let run = |mut failures: Failures, n: usize, others: f32| {
            (0..n).find(|_| failures.see(true, others, 2_000).is_some_and(|excess| excess.score >= 1.0))
        };
        assert_eq!(run(grown(50), 50, 0.0), None, "a short fault");
        assert!(run(grown(50), 90, 0.0).is_some());
        assert_eq!(run(Failures::default(), 10_000, 0.0), None, "nothing is known of it yet");
        assert_eq!(run(grown(50), 1_000, 0.9), None, "everybody's");
        assert!(run(grown(50), 300, 0.1).is_some());
        assert_eq!(run(grown(2), 90, 0.0), None, "one that always failed half the time");
    }
}
