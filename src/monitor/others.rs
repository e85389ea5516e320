//! What everybody else meets at the same time: an outage of a provider is no abuse of any of its callers.

use crate::model::Timestamp;

use super::Subject;

/// The latest of each of the subjects that were seen last. One entry each, so that nobody who is loud can make
/// its own failures look like everybody's.
#[derive(Debug, Default)]
pub(super) struct Others {
    list: Vec<Latest>,
}

#[derive(Clone, Copy, Debug)]
struct Latest {
    subject: Subject,
    at: Timestamp,
    provider: u32,
    model: Option<u32>,
    is_bad: bool,
    novel: u32,
}

/// What is known of the others, without the subject itself.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mood {
    /// The share of them whose latest request ended badly.
    pub(super) bad: f32,
    /// Keys that each of them touched today and did not know, on average.
    pub(super) novel: f32,
}

impl Others {
    const BOUND: usize = 64;
    /// Older ones say nothing of the present.
    const MILLIS: u64 = 10 * 60_000;

    pub(super) fn mood(&self, subject: Subject, provider: u32, model: Option<u32>, now: Timestamp) -> Mood {
        let (mut all, mut bad, mut novel) = (0.0, 0.0, 0.0);
        let (mut of_model, mut bad_of_model) = (0.0, 0.0);
        for latest in &self.list {
            let is_other = latest.subject != subject && latest.provider == provider;
            if !is_other || now.0.abs_diff(latest.at.0) > Self::MILLIS {
                continue;
            }
            all += 1.0;
            novel += latest.novel as f32;
            bad += f32::from(u8::from(latest.is_bad));
            if model.is_some() && latest.model == model {
                of_model += 1.0;
                bad_of_model += f32::from(u8::from(latest.is_bad));
            }
        }
        // One other who fails is no outage yet; of few the share is half believed.
        let share = |bad: f32, all: f32| bad / (all + 1.0);
        Mood { bad: share(bad, all).max(share(bad_of_model, of_model)), novel: share(novel, all) }
    }

    pub(super) fn tell(
        &mut self,
        subject: Subject,
        provider: u32,
        model: Option<u32>,
        at: Timestamp,
        is_bad: bool,
        novel: u32,
    ) {
        let latest = Latest { subject, at, provider, model, is_bad, novel };
        let place = self.list.iter().position(|latest| latest.subject == subject);
        if place.is_none() && self.list.len() < Self::BOUND {
            self.list.push(latest);
            return;
        }
        // The farthest in time, so that one told under a wrong clock does not stay for good.
        let oldest = || (0..self.list.len()).max_by_key(|place| self.list[*place].at.0.abs_diff(at.0));
        if let Some(place) = place.or_else(oldest) {
            self.list[place] = latest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    fn who(n: u32) -> Subject {
        Subject::Address(Ipv4Addr::from_bits(n).into())
    }

    #[test]
    fn one_who_is_loud_is_one_and_an_outage_is_of_its_provider() {
        let mut others = Others::default();
        for n in 0..1_000 {
            others.tell(who(0), 1, None, Timestamp(n), true, 9);
            others.tell(who(1 + n as u32 % 9), 1, Some(7), Timestamp(n), false, 1);
        }
        let now = Timestamp(1_000);
        assert_eq!(others.mood(who(0), 1, None, now), Mood { bad: 0.0, novel: 0.9 });
        assert_eq!(others.mood(who(1), 1, None, now).bad, 0.1);
        assert_eq!(others.mood(who(1), 2, None, now), Mood::default());
        assert_eq!(others.mood(who(1), 1, None, Timestamp(9_000_000)), Mood::default());
        // A model that fails for most of those who use it, among many who do not.
        for n in 1..5 {
            others.tell(who(n), 1, Some(8), now, true, 0);
        }
        assert!(others.mood(who(20), 1, Some(8), now).bad >= 0.8);
        assert!(others.mood(who(20), 1, Some(7), now).bad < 0.5);
    }
}
