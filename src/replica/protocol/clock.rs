//! How far this machine's clock is from the hub's.
//!
//! Dates are shifted by the offset on their way, so it must not flicker: a clock that is about right counts as
//! right, another one's error is taken in whole seconds and changes only when the measurement leaves no doubt.

use std::time::Duration;

use crate::model::Timestamp;

/// What has to be added to the local clock to get the hub's, in milliseconds, as this answer tells.
pub fn measure(hub_now: i64, answered: Timestamp, took: Duration) -> i64 {
    // The hub looked at its clock about half way between sending and reading.
    hub_now.saturating_sub(answered.0.saturating_sub(half(took)))
}

/// The offset to use from now on.
pub fn apply(applied: i64, measured: i64, took: Duration) -> i64 {
    let doubt = half(took);
    if broken!(ClockFlickers) {
        return measured;
    }
    if measured.saturating_sub(applied).saturating_abs() <= 1000 + doubt {
        return applied;
    }
    if measured.saturating_abs() < 2000 + doubt {
        return 0;
    }
    measured.saturating_add(500).div_euclid(1000).saturating_mul(1000)
}

fn half(took: Duration) -> i64 {
    i64::try_from(took.as_millis() / 2).unwrap_or(i64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_about_right_counts_as_right() {
        let quick = Duration::from_millis(20);
        assert_eq!(apply(0, 900, quick), 0);
        assert_eq!(apply(0, 1900, quick), 0);
        assert_eq!(apply(0, 61_400, quick), 61_000);
        assert_eq!(apply(61_000, 61_900, quick), 61_000, "no doubt is needed to change it");
        assert_eq!(apply(61_000, 63_000, quick), 63_000);
        assert_eq!(apply(61_000, 500, quick), 0);
        assert_eq!(apply(-7_200_000, -7_200_400, quick), -7_200_000);
        assert_eq!(apply(0, -7_200_400, quick), -7_200_000);
        assert_eq!(apply(0, 5000, Duration::from_secs(20)), 0, "a slow answer proves nothing");
    }

    #[test]
    fn half_the_way_back_is_not_an_offset() {
        assert_eq!(measure(10_000, Timestamp(12_000), Duration::from_secs(4)), 0);
        assert_eq!(measure(i64::MAX, Timestamp(i64::MIN), Duration::MAX), i64::MAX);
    }
}
