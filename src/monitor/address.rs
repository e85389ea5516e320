//! Who was turned away at the door, by address, and whether it is many addresses at once.

use serde::{Deserialize, Serialize};

use super::{
    baseline::{Level, Prior, is_weekend},
    event::{Finding, Kind},
    spread::{bit, estimate},
    track::Moment,
};

/// Different unknown tokens in an hour: nobody mistypes that many.
const TOKENS_AN_HOUR: f32 = 8.0;
const TOKENS_A_DAY: f32 = 16.0;
/// The same few again and again: a client that was forgotten asks once or twice a minute.
const TRIES_AN_HOUR: f32 = 600.0;
const LOGINS_AN_HOUR: f32 = 4.0;

/// One address. Its limits are the same for all: it has no habits that would excuse guessing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Door {
    hour: u32,
    tries: u32,
    logins: u32,
    tokens: u64,
    tokens_today: u64,
}

impl Door {
    /// Whether it is the address's first unknown token of the hour.
    pub(super) fn unknown(&mut self, token: Option<u32>, now: Moment, found: &mut Vec<Finding>) -> bool {
        self.advance(now);
        self.tries = self.tries.saturating_add(1);
        let bit = bit(token.unwrap_or(self.tries));
        self.tokens |= bit;
        self.tokens_today |= bit;
        let (tokens, today) = (estimate(self.tokens), estimate(self.tokens_today));
        let (hour, day) = (
            Finding::of_count(Kind::UnknownTokens, tokens, TOKENS_AN_HOUR, 0.0),
            Finding::of_count(Kind::UnknownTokens, today, TOKENS_A_DAY, 0.0),
        );
        found.push(if hour.score >= day.score { hour } else { day });
        found.push(Finding::of_count(Kind::TurnedAway, self.tries as f32, TRIES_AN_HOUR, 0.0));
        self.tries == 1
    }

    pub(super) fn login(&mut self, now: Moment, found: &mut Vec<Finding>) {
        self.advance(now);
        self.logins = self.logins.saturating_add(1);
        found.push(Finding::of_count(Kind::AdminLogin, self.logins as f32, LOGINS_AN_HOUR, 0.0));
    }

    fn advance(&mut self, now: Moment) {
        if now.hour != self.hour {
            let is_same_day = now.hour / 24 == self.hour / 24;
            let tokens_today = if is_same_day { self.tokens_today } else { 0 };
            *self = Self { hour: now.hour, tokens_today, ..Self::default() };
        }
    }
}

const HOURS: Prior = Prior { spread: 0.8, worth: 12.0, least: 0.5, memory: 168.0, edge: 2.5 };
const MANY_ADDRESSES: u32 = 30;
/// Before the usual number of addresses in an hour is known.
const MANY_UNKNOWN: u32 = 300;
const BEYOND: f32 = 5.0;

/// How many addresses were turned away in an hour, against what is usual: the net's noise is always there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Crowd {
    hour: u32,
    addresses: u32,
    hours: Level,
}

impl Crowd {
    pub(super) fn see(&mut self, now: Moment) -> Option<Finding> {
        if now.hour != self.hour {
            if self.addresses > 0 {
                self.hours.learn(self.addresses, is_weekend(self.hour / 24), &HOURS);
            }
            (self.hour, self.addresses) = (now.hour, 0);
        }
        self.addresses = self.addresses.saturating_add(1);
        let weekend = is_weekend(now.day);
        let excess = self.hours.excess(self.addresses, weekend, &HOURS).unwrap_or(0.0);
        let is_known = self.hours.learnt() >= 24;
        let least = if is_known { MANY_ADDRESSES } else { MANY_UNKNOWN };
        let score = if is_known { excess / BEYOND } else { 1.0 };
        (self.addresses >= least).then(|| {
            let usual = self.hours.usual_count(weekend);
            Finding::new(Kind::ManyAddresses, score, self.addresses as f32, usual)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scores(door: &mut Door, tokens: impl Iterator<Item = u32>, now: Moment) -> f32 {
        let mut found = Vec::new();
        tokens.for_each(|token| {
            door.unknown(Some(token.wrapping_mul(0x9e37_79b9)), now, &mut found);
        });
        found.iter().map(|finding| finding.score).fold(0.0, f32::max)
    }

    #[test]
    fn many_tokens_are_guesses_and_one_is_a_forgotten_client() {
        let now = Moment { minute: 600, hour: 10, day: 0 };
        assert!(scores(&mut Door::default(), 0..3, now) < 1.0);
        assert!(scores(&mut Door::default(), 0..20, now) >= 1.0);
        assert!(scores(&mut Door::default(), (0..500).map(|_| 7), now) < 1.0);
        assert!(scores(&mut Door::default(), (0..700).map(|_| 7), now) >= 1.0);
        // Slowly, over the day.
        let mut slow = Door::default();
        let hourly: Vec<_> = (0..8)
            .map(|hour| scores(&mut slow, hour * 5..hour * 5 + 5, Moment { minute: 0, hour, day: 0 }))
            .collect();
        assert!(hourly[0] < 1.0 && hourly[7] >= 1.0, "{hourly:?}");
        assert!(scores(&mut slow, 0..3, Moment { minute: 0, hour: 24, day: 1 }) < 1.0, "a new day");
    }
}
