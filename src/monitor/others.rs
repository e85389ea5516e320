//! What everybody else meets at the same time: an outage of a provider is no abuse of any of its callers.

use std::hash::{BuildHasher, Hash};

use crate::model::Timestamp;

use super::recent::Recent;

/// The latest of each of the subjects that were seen last. One entry each, so that nobody who is loud can make
/// its own failures look like everybody's.
#[derive(Debug)]
pub(super) struct Others<K, S> {
    latest: Recent<K, Latest, S>,
    /// Over all of `latest`, so that nobody has to go through it for each request. Those that stand for nothing are gone.
    sums: Vec<Sum>,
}

/// How a subject's last request ended, and where.
#[derive(Clone, Copy, Debug)]
pub(super) struct Latest {
    pub(super) at: Timestamp,
    pub(super) provider: u32,
    pub(super) model: Option<u32>,
    pub(super) is_bad: bool,
    pub(super) novel: u32,
}

#[derive(Clone, Copy, Debug)]
struct Sum {
    provider: u32,
    model: Option<u32>,
    all: u32,
    bad: u32,
    novel: u64,
}

/// What is known of the others, without the subject itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mood {
    /// The share of them whose latest request ended badly.
    pub(super) bad: f32,
    /// Keys that each of them touched today and did not know, on average.
    pub(super) novel: f32,
}

impl<K: Copy + Eq + Hash, S: BuildHasher + Default> Default for Others<K, S> {
    fn default() -> Self {
        Self { latest: Recent::new(Self::BOUND), sums: Vec::new() }
    }
}

impl<K: Copy + Eq + Hash, S: BuildHasher + Default> Others<K, S> {
    const BOUND: usize = 64;
    /// Older ones say nothing of the present.
    const MILLIS: u64 = 10 * 60_000;

    pub(super) fn mood(&mut self, subject: K, provider: u32, model: Option<u32>, now: Timestamp) -> Mood {
        // Also what was told under a wrong clock.
        while self.latest.oldest().is_some_and(|(_, latest)| now.0.abs_diff(latest.at.0) > Self::MILLIS) {
            if let Some((_, latest)) = self.latest.pop_oldest() {
                self.count(&latest, false);
            }
        }
        let own = self.latest.get(&subject).filter(|latest| latest.provider == provider);
        let (mut all, mut bad, mut novel) = (0, 0, 0);
        let (mut of_model, mut bad_of_model) = (0, 0);
        for sum in self.sums.iter().filter(|sum| sum.provider == provider) {
            let own = own.filter(|latest| latest.model == sum.model);
            let (its, its_bad) = own.map_or((0, 0), |latest| (1, u32::from(latest.is_bad)));
            all += sum.all - its;
            bad += sum.bad - its_bad;
            novel += sum.novel - own.map_or(0, |latest| latest.novel.into());
            if model.is_some() && sum.model == model {
                (of_model, bad_of_model) = (sum.all - its, sum.bad - its_bad);
            }
        }
        // One other who fails is no outage yet; of few the share is half believed.
        let share = |bad: f32, all: u32| bad / (all as f32 + 1.0);
        Mood {
            bad: share(bad as f32, all).max(share(bad_of_model as f32, of_model)),
            novel: share(novel as f32, all),
        }
    }

    pub(super) fn tell(&mut self, subject: K, latest: Latest) {
        if self.latest.is_full()
            && self.latest.get(&subject).is_none()
            && let Some((_, forgotten)) = self.latest.pop_oldest()
        {
            self.count(&forgotten, false);
        }
        let mut is_known = true;
        let place = self.latest.touch(subject, || {
            is_known = false;
            latest
        });
        let before = std::mem::replace(place, latest);
        if is_known {
            self.count(&before, false);
        }
        self.count(&latest, true);
    }

    fn count(&mut self, latest: &Latest, comes: bool) {
        let Latest { provider, model, is_bad, novel, .. } = *latest;
        let place = self.sums.iter().position(|sum| (sum.provider, sum.model) == (provider, model));
        let place = place.unwrap_or_else(|| {
            self.sums.push(Sum { provider, model, all: 0, bad: 0, novel: 0 });
            self.sums.len() - 1
        });
        let sum = &mut self.sums[place];
        let (bad, novel) = (u32::from(is_bad), u64::from(novel));
        if comes {
            (sum.all, sum.bad, sum.novel) = (sum.all + 1, sum.bad + bad, sum.novel + novel);
        } else {
            (sum.all, sum.bad, sum.novel) = (sum.all - 1, sum.bad - bad, sum.novel - novel);
        }
        if sum.all == 0 {
            self.sums.swap_remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::hash::RandomState;

    fn latest(model: Option<u32>, at: i64, is_bad: bool, novel: u32) -> Latest {
        Latest { at: Timestamp(at), provider: 1, model, is_bad, novel }
    }

    #[test]
    fn one_who_is_loud_is_one_and_an_outage_is_of_its_provider() {
        let mut others = Others::<u32, RandomState>::default();
        for n in 0..1_000 {
            others.tell(0, latest(None, n, true, 9));
            others.tell(1 + n as u32 % 9, latest(Some(7), n, false, 1));
        }
        let now = Timestamp(1_000);
        assert_eq!(others.mood(0, 1, None, now), Mood { bad: 0.0, novel: 0.9 });
        assert_eq!(others.mood(1, 1, None, now).bad, 0.1);
        assert_eq!(others.mood(1, 2, None, now), Mood::default());
        // A model that fails for most of those who use it, among many who do not.
        for n in 1..5 {
            others.tell(n, latest(Some(8), now.0, true, 0));
        }
        assert!(others.mood(20, 1, Some(8), now).bad >= 0.8);
        assert!(others.mood(20, 1, Some(7), now).bad < 0.5);
        assert_eq!(others.mood(1, 1, None, Timestamp(9_000_000)), Mood::default());
        assert!(others.sums.is_empty());
    }

    /// Beside what a walk through the last ones says, which is slower.
    #[test]
    fn the_sums_are_those_of_the_last_ones() {
        let mut random = fastrand::Rng::with_seed(7);
        let (mut others, mut list) = (Others::<u32, RandomState>::default(), Vec::<(u32, Latest)>::new());
        for n in 0..20_000 {
            // Some pass by, some stay away for long; and the clock is set back once.
            let at = if n < 10_000 { n * 7_000 } else { n * 7_000 - 3_600_000 };
            let one = Latest {
                provider: random.u32(0..2),
                novel: random.u32(0..9),
                ..latest([None, Some(7), Some(8)][random.usize(0..3)], at, random.u8(0..3) == 0, 0)
            };
            let subject = random.u32(0..if n % 4_000 < 2_000 { 30 } else { 200 });
            let mood = others.mood(subject, one.provider, one.model, one.at);
            while list.first().is_some_and(|(_, old)| old.at.0.abs_diff(at) > 600_000) {
                list.remove(0);
            }
            let share = |of: &dyn Fn(&Latest) -> bool, what: &dyn Fn(&Latest) -> u32| {
                let those: Vec<_> = list
                    .iter()
                    .filter(|(who, old)| *who != subject && old.provider == one.provider && of(old))
                    .collect();
                those.iter().map(|(_, old)| what(old)).sum::<u32>() as f32 / (those.len() as f32 + 1.0)
            };
            let bad = |old: &Latest| u32::from(old.is_bad);
            let of_model = |old: &Latest| one.model.is_some() && old.model == one.model;
            let expected = Mood {
                bad: share(&|_| true, &bad).max(share(&of_model, &bad)),
                novel: share(&|_| true, &|old| old.novel),
            };
            assert_eq!(mood, expected, "{n}");
            others.tell(subject, one);
            list.retain(|(who, _)| *who != subject);
            list.push((subject, one));
            if list.len() > 64 {
                list.remove(0);
            }
        }
    }
}
