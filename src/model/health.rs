//! What keytide itself concludes about a key from its outcomes, and how long each conclusion lasts.
//!
//! The two rules that keep one bad minute from banning good keys:
//! - a longer cooldown is never shortened by a later, shorter one;
//! - only an attempt that began after the last change may escalate or clear it. A burst of answers that were
//!   already in flight counts once, and a success from before the failure clears nothing. The caller knows
//!   which attempt is which and says so with `current`.

use std::{cmp::Ordering, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Stamps, Timestamp, Version};

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Health {
    /// Not picked before this instant.
    pub failed_until: Option<Timestamp>,
    /// Why, for people; meaningful while `failed_until` is set or verification is needed.
    pub cause: Cause,
    /// Failed attempts since the last success, whatever their cause.
    pub consecutive_failures: u32,
    /// Refusals of the key itself since the last success: what escalates to verification.
    pub auth_failures: u32,
    /// Server-side failures since the last success: what doubles the pause.
    pub server_failures: u32,
    /// Refused so often that only a successful probe, or a person, brings the key back.
    pub needs_verification: bool,
    /// When the state was last cleared, by a success or by a person, or the key was added. What an instance that
    /// was long away remembers of an earlier epoch counts for nothing.
    pub epoch: Version,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    #[default]
    None,
    /// Asked to slow down: 408, 425, 429.
    RateLimit,
    /// Used up until its reset: 402.
    Quota,
    /// The key was refused: 401, 403.
    Auth,
    /// The provider failed: 5xx, no connection, no answer, a broken stream.
    Server,
}

/// What an attempt's outcome means for its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The key worked, or nothing was learnt about it.
    None,
    Success,
    /// `until` comes from the provider's own headers or the configured default.
    RateLimit {
        until: Timestamp,
    },
    Quota {
        until: Timestamp,
    },
    /// A configured `cooldown` replaces the ladder's step.
    Auth {
        cooldown: Option<Duration>,
    },
    Server {
        cooldown: Option<Duration>,
    },
}

/// How long each conclusion lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The pause after the 1st, 2nd, … refusal in a row; one more needs verification.
    pub auth_steps: [Duration; 4],
    /// How long a key that needs verification waits for each probe.
    pub verify_every: Duration,
    /// First pause after a server-side failure; doubles up to `server_max`.
    pub server_first: Duration,
    pub server_max: Duration,
}

const HOUR: Duration = Duration::from_secs(3600);

impl Default for Policy {
    fn default() -> Self {
        Self {
            auth_steps: [HOUR, HOUR, HOUR.saturating_mul(6), HOUR.saturating_mul(24)],
            verify_every: HOUR.saturating_mul(24),
            server_first: Duration::from_secs(5),
            server_max: Duration::from_secs(300),
        }
    }
}

impl Health {
    /// Takes in one outcome; returns whether anything changed.
    ///
    /// `current` is false for an attempt that began before the last change of this state.
    pub fn apply(
        &mut self,
        effect: Effect,
        current: bool,
        now: Timestamp,
        policy: &Policy,
        stamps: &Stamps,
    ) -> bool {
        match effect {
            Effect::None => false,
            Effect::Success => current && self.clear(now, stamps),
            Effect::RateLimit { until } => {
                self.count_failure(current);
                self.cool(until, Cause::RateLimit);
                true
            }
            Effect::Quota { until } => {
                self.count_failure(current);
                self.cool(until, Cause::Quota);
                true
            }
            Effect::Auth { cooldown } => {
                self.count_failure(current);
                if current {
                    self.auth_failures = self.auth_failures.saturating_add(1);
                }
                let step = self.auth_failures.max(1) as usize - 1;
                let pause = match (cooldown, policy.auth_steps.get(step)) {
                    (Some(fixed), _) => fixed,
                    (None, Some(step)) => *step,
                    (None, None) => {
                        self.needs_verification = true;
                        policy.verify_every
                    }
                };
                self.cool(now.saturating_add(pause), Cause::Auth);
                true
            }
            Effect::Server { cooldown } => {
                self.count_failure(current);
                if current {
                    self.server_failures = self.server_failures.saturating_add(1);
                }
                let doublings = self.server_failures.max(1) - 1;
                let doubled = 1u32
                    .checked_shl(doublings)
                    .and_then(|factor| policy.server_first.checked_mul(factor))
                    .map_or(policy.server_max, |pause| pause.min(policy.server_max));
                self.cool(now.saturating_add(cooldown.unwrap_or(doubled)), Cause::Server);
                true
            }
        }
    }

    /// A success, or a person's word, wipes the slate; returns whether there was anything on it.
    pub fn clear(&mut self, now: Timestamp, stamps: &Stamps) -> bool {
        if !self.is_blemished() {
            return false;
        }
        stamps.observe(self.epoch);
        *self = Self { epoch: stamps.next(now), ..Self::default() };
        true
    }

    /// Whether there is something that a success would clear.
    pub fn is_blemished(&self) -> bool {
        *self != Self { epoch: self.epoch, ..Self::default() }
    }

    /// Takes in what another instance concluded; returns whether anything changed. The result is the same in
    /// whatever order and however often healths are merged.
    pub fn merge(&mut self, other: &Self) -> bool {
        let before = self.clone();
        match self.epoch.cmp(&other.epoch) {
            Ordering::Less => *self = other.clone(),
            Ordering::Greater => {}
            Ordering::Equal => {
                // The cause goes with the later deadline; of equal deadlines the greater one, so that all agree.
                let later = (other.failed_until, other.cause as u8) > (self.failed_until, self.cause as u8);
                if later {
                    (self.failed_until, self.cause) = (other.failed_until, other.cause);
                }
                self.consecutive_failures = self.consecutive_failures.max(other.consecutive_failures);
                self.auth_failures = self.auth_failures.max(other.auth_failures);
                self.server_failures = self.server_failures.max(other.server_failures);
                self.needs_verification |= other.needs_verification;
            }
        }
        *self != before
    }

    fn count_failure(&mut self, current: bool) {
        if current {
            self.consecutive_failures = self.consecutive_failures.saturating_add(1);
        }
    }

    fn cool(&mut self, until: Timestamp, cause: Cause) {
        if self.failed_until.is_none_or(|at| at < until) {
            self.failed_until = Some(until);
            self.cause = cause;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn hours(health: &Health) -> u64 {
        health.failed_until.unwrap().since(NOW).as_secs() / 3600
    }

    #[test]
    fn refusals_climb_to_verification() {
        let (mut health, policy, stamps) = (Health::default(), Policy::default(), Stamps::default());
        let mut seen = Vec::new();
        for _ in 0..5 {
            health.apply(Effect::Auth { cooldown: None }, true, NOW, &policy, &stamps);
            seen.push((hours(&health), health.needs_verification));
        }
        assert_eq!(seen, [(1, false), (1, false), (6, false), (24, false), (24, true)]);
    }

    #[test]
    fn a_burst_in_flight_counts_once() {
        let (mut health, policy, stamps) = (Health::default(), Policy::default(), Stamps::default());
        health.apply(Effect::Auth { cooldown: None }, true, NOW, &policy, &stamps);
        for _ in 0..50 {
            health.apply(Effect::Auth { cooldown: None }, false, NOW, &policy, &stamps);
        }
        assert_eq!((health.auth_failures, health.consecutive_failures), (1, 1));
        assert_eq!(hours(&health), 1);
    }

    #[test]
    fn rate_limits_never_count_toward_verification() {
        let (mut health, policy, stamps) = (Health::default(), Policy::default(), Stamps::default());
        for n in 0..100 {
            let until = NOW.saturating_add(Duration::from_secs(60 + n));
            health.apply(Effect::RateLimit { until }, true, NOW, &policy, &stamps);
        }
        assert!(!health.needs_verification);
        assert_eq!((health.auth_failures, health.consecutive_failures), (0, 100));
    }

    #[test]
    fn server_failures_double_up_to_the_limit() {
        let (mut health, policy, stamps) = (Health::default(), Policy::default(), Stamps::default());
        let mut seen = Vec::new();
        for _ in 0..70 {
            health.failed_until = None;
            health.apply(Effect::Server { cooldown: None }, true, NOW, &policy, &stamps);
            seen.push(health.failed_until.unwrap().since(NOW).as_secs());
        }
        assert_eq!(seen[..8], [5, 10, 20, 40, 80, 160, 300, 300]);
        assert!(seen[8..].iter().all(|pause| *pause == 300));
    }

    #[test]
    fn a_shorter_cooldown_never_shortens_a_longer_one() {
        let (mut health, policy, stamps) = (Health::default(), Policy::default(), Stamps::default());
        let long = NOW.saturating_add(HOUR);
        health.apply(Effect::Quota { until: long }, true, NOW, &policy, &stamps);
        health.apply(Effect::Server { cooldown: None }, true, NOW, &policy, &stamps);
        assert_eq!((health.failed_until, health.cause), (Some(long), Cause::Quota));
    }

    #[test]
    fn a_success_clears_only_what_was_set_before_its_attempt() {
        let (mut health, policy, stamps) = (Health::default(), Policy::default(), Stamps::default());
        health.apply(Effect::Server { cooldown: None }, true, NOW, &policy, &stamps);
        assert!(!health.apply(Effect::Success, false, NOW, &policy, &stamps));
        assert!(health.failed_until.is_some());
        assert!(health.apply(Effect::Success, true, NOW, &policy, &stamps));
        assert_eq!(health, Health { epoch: health.epoch, ..Health::default() });
        assert_eq!(health.epoch.time(), NOW);
        assert!(!health.apply(Effect::Success, true, NOW, &policy, &stamps), "a healthy key does not change");
    }

    #[test]
    fn merging_is_the_same_in_any_order() {
        let at = |epoch, until: Option<i64>, cause, count| Health {
            epoch: Version(epoch),
            failed_until: until.map(Timestamp),
            cause,
            consecutive_failures: count,
            ..Health::default()
        };
        let healths = [
            at(1, Some(900), Cause::Auth, 9),
            at(2, Some(500), Cause::Quota, 1),
            at(2, Some(500), Cause::RateLimit, 3),
            at(2, Some(400), Cause::Server, 7),
            at(2, None, Cause::None, 0),
        ];
        let merged = |order: &[usize]| {
            let mut sum = Health::default();
            order.iter().for_each(|at| {
                sum.merge(&healths[*at]);
            });
            sum
        };
        let expected = at(2, Some(500), Cause::Quota, 7);
        for order in [[0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [2, 0, 4, 1, 3], [3, 4, 0, 2, 1]] {
            assert_eq!(merged(&order), expected);
            assert_eq!(merged(&[order, order].concat()), expected);
        }
        assert!(!merged(&[0, 1, 2, 3, 4]).merge(&healths[0]), "an earlier epoch changes nothing");
    }
}
