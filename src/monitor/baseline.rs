//! What is usual for a subject: levels, spreads and peaks that are learnt from its own past.

use serde::{Deserialize, Serialize};

/// How often something happens in an hour, or on a day, as a logarithm: rates are skewed, their logarithms are
/// nearly not. Working days and weekends have levels of their own and share a spread.
///
/// Only periods in which anything happened are learnt, so that nights and holidays do not make a working hour
/// look like a burst. What lies far out is learnt as if it lay at the edge: an attack moves the level slowly, and
/// a subject that has truly changed is believed in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Level {
    means: [f32; 2],
    learnt: [u16; 2],
    variance: f32,
}

/// What is believed of a level before anything is known, and how fast it is learnt.
pub(super) struct Prior {
    pub(super) spread: f32,
    /// How many periods the prior spread is worth.
    pub(super) worth: f32,
    /// Below this a spread is not believed.
    pub(super) least: f32,
    /// How many periods are remembered, about.
    pub(super) memory: f32,
    /// Spreads beyond which a period is learnt as if it lay there.
    pub(super) edge: f32,
}

/// How much less of a spread is learnt from what lies above the edge.
const DOUBT: f32 = 0.4;
/// Periods of a kind of day before its level stands on its own.
const ENOUGH: u16 = 3;

impl Level {
    /// The usual logarithm; `None` before anything was learnt.
    pub(super) fn usual(&self, weekend: bool) -> Option<f32> {
        let (this, other) = (usize::from(weekend), usize::from(!weekend));
        match (self.learnt[this], self.learnt[other]) {
            (0, 0) => None,
            (0, _) => Some(self.means[other]),
            (n, m) if n < ENOUGH && m > n => Some(self.means[other].max(self.means[this])),
            _ => Some(self.means[this]),
        }
    }

    pub(super) fn learnt(&self) -> u16 {
        self.learnt[0].saturating_add(self.learnt[1])
    }

    /// Periods of a kind of day.
    pub(super) fn learnt_of(&self, weekend: bool) -> u16 {
        self.learnt[usize::from(weekend)]
    }

    fn spread(&self, prior: &Prior) -> f32 {
        let n = f32::from(self.learnt()).min(prior.memory);
        let variance = (prior.worth * prior.spread.powi(2) + n * self.variance) / (prior.worth + n);
        // The level itself is only as sure as what it was learnt from.
        (variance * (1.0 + 1.0 / n.max(1.0))).sqrt().max(prior.least)
    }

    /// How many spreads `count` lies above what is usual.
    pub(super) fn excess(&self, count: u32, weekend: bool, prior: &Prior) -> Option<f32> {
        Some((logarithm(count) - self.usual(weekend)?) / self.spread(prior))
    }

    pub(super) fn learn(&mut self, count: u32, weekend: bool, prior: &Prior) {
        let value = logarithm(count);
        let this = usize::from(weekend);
        let n = f32::from(self.learnt[this]);
        self.learnt[this] = self.learnt[this].saturating_add(1);
        if n == 0.0 {
            // A first weekend is not measured against working days.
            self.means[this] = value;
            return;
        }
        let edge = prior.edge * self.spread(prior);
        let off = value - self.means[this];
        let belief = if off > edge { DOUBT } else { 1.0 };
        let off = off.clamp(-edge, edge);
        let least = 1.0 / prior.memory;
        let all = f32::from(self.learnt()) - 1.0;
        self.variance += belief * (1.0 / all).max(least) * (off * off - self.variance);
        // Late ones weigh more from the beginning: who is new grows.
        self.means[this] += belief.sqrt() * (2.0 / (n + 2.0)).max(least) * off;
    }

    /// The level as a count, for events.
    pub(super) fn usual_count(&self, weekend: bool) -> f32 {
        self.usual(weekend).map_or(0.0, |usual| usual.exp_m1().max(0.0))
    }
}

fn logarithm(count: u32) -> f32 {
    (count as f32).ln_1p()
}

/// The most that was seen of something, slowly forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Peak(f32);

impl Peak {
    const KEPT_A_DAY: f32 = 0.97;

    pub(super) fn get(self) -> f32 {
        self.0
    }

    /// What is far beyond must not be learnt whole, or one abnormal period excuses the next.
    pub(super) fn learn(&mut self, seen: f32) {
        self.0 = self.0.max(seen);
    }

    pub(super) fn fade(&mut self, days: u32) {
        self.0 *= Self::KEPT_A_DAY.powi(days.min(365) as i32);
    }
}

/// 1970-01-01 was a Thursday. Days are UTC's: for a subject elsewhere a few hours of a weekend are taken for a
/// working day's, on every weekend alike, and so are part of what is usual.
pub(super) fn is_weekend(day: u32) -> bool {
    matches!((day + 4) % 7, 0 | 6)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIOR: Prior = Prior { spread: 0.6, worth: 4.0, least: 0.4, memory: 20.0, edge: 2.5 };

    #[test]
    fn weekends_are_saturday_and_sunday() {
        // 2026-11-21 is a Saturday.
        let saturday = 20_778;
        assert_eq!((0..7).map(|n| is_weekend(saturday + n)).collect::<Vec<_>>()[..3], [true, true, false]);
        assert!((2..7).all(|n| !is_weekend(saturday + n)));
    }

    #[test]
    fn a_burst_is_far_out_and_hardly_learnt() {
        let mut level = Level::default();
        assert_eq!(level.excess(100, false, &PRIOR), None);
        for count in [90, 110, 100, 80, 120, 100, 95, 105, 100, 100] {
            level.learn(count, false, &PRIOR);
        }
        assert!(level.excess(150, false, &PRIOR).unwrap() < 1.5);
        assert!(level.excess(1_000, false, &PRIOR).unwrap() > 5.0);
        level.learn(1_000_000, false, &PRIOR);
        assert!(level.usual_count(false) < 130.0, "{}", level.usual_count(false));
        // A change for good is believed in the end.
        for _ in 0..60 {
            level.learn(1_000, false, &PRIOR);
        }
        assert!(level.excess(1_000, false, &PRIOR).unwrap() < 1.0);
    }

    #[test]
    fn weekends_have_a_level_of_their_own() {
        let mut level = Level::default();
        for _ in 0..4 {
            for _ in 0..5 {
                level.learn(200, false, &PRIOR);
            }
            for _ in 0..2 {
                level.learn(10, true, &PRIOR);
            }
        }
        assert!(level.excess(200, false, &PRIOR).unwrap().abs() < 0.2);
        assert!(level.excess(200, true, &PRIOR).unwrap() > 3.0);
    }
}
