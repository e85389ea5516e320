//! The numbers in the books, and the deltas that move them.
//!
//! Every number is a sum, every date a maximum, so deltas can be merged in any order and grouping.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::{
    ById, Health, KeyId, Set, SetId, SpanId, SpanKind, Tally, Timestamp, TokenId, UsageLog, tally::signed,
};

/// Requests or attempts by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    pub success: u64,
    pub failure: u64,
    /// Ended for a reason that says nothing about the key: the request was at fault, or the caller left.
    pub other: u64,
}

impl Counts {
    pub const SUCCESS: Self = Self { success: 1, failure: 0, other: 0 };
    pub const FAILURE: Self = Self { success: 0, failure: 1, other: 0 };
    pub const OTHER: Self = Self { success: 0, failure: 0, other: 1 };

    pub fn total(&self) -> u64 {
        self.success + self.failure + self.other
    }

    /// Percent with two decimals, as the tables that people already have keep it; 0 when nothing was counted.
    pub fn success_rate(&self) -> f64 {
        match self.total() {
            0 => 0.0,
            total => (self.success as f64 * 10_000.0 / total as f64).round() / 100.0,
        }
    }

    pub fn add(&mut self, more: &Self) {
        self.success += more.success;
        self.failure += more.failure;
        self.other += more.other;
    }
}

/// What was counted for one key, per attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyUsage {
    pub counts: Counts,
    pub last_used: Option<Timestamp>,
    pub last_success: Option<Timestamp>,
    pub last_failure: Option<Timestamp>,
}

impl KeyUsage {
    pub fn add(&mut self, more: &Self) {
        self.counts.add(&more.counts);
        self.last_used = self.last_used.max(more.last_used);
        self.last_success = self.last_success.max(more.last_success);
        self.last_failure = self.last_failure.max(more.last_failure);
    }
}

/// What was counted for one key in one hour of one day: where zones are half an hour apart, a day may begin within one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyAttempts {
    pub usage: KeyUsage,
    /// Attempts whose answers had an end, and the milliseconds until then.
    pub timed: u64,
    pub millis: u64,
}

impl KeyAttempts {
    pub fn add(&mut self, more: &Self) {
        self.usage.add(&more.usage);
        self.timed += more.timed;
        self.millis += more.millis;
    }

    /// What of it is the key's day's, and its hour's.
    fn tallies(&self) -> [Tally; 2] {
        let of_day = Tally { last_success: None, last_failure: None, ..(&self.usage).into() };
        let (prompt_tokens, completion_tokens) = (signed(self.millis), signed(self.timed));
        [of_day, Tally { prompt_tokens, completion_tokens, last_used: None, ..of_day }]
    }
}

/// What was counted for a provider, a model, a model's hour or a token, per client request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    pub counts: Counts,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub last_used: Option<Timestamp>,
}

impl Usage {
    pub fn add(&mut self, more: &Self) {
        self.counts.add(&more.counts);
        self.prompt_tokens += more.prompt_tokens;
        self.completion_tokens += more.completion_tokens;
        self.last_used = self.last_used.max(more.last_used);
    }
}

/// Hours since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hour(pub u32);

impl Hour {
    pub const MILLIS: i64 = 3_600_000;

    pub fn of(at: Timestamp) -> Self {
        Self(u32::try_from(at.0.div_euclid(Self::MILLIS)).unwrap_or(0))
    }

    pub fn start(self) -> Timestamp {
        Timestamp(i64::from(self.0) * Self::MILLIS)
    }
}

/// What one provider's books have to take in.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProviderDelta {
    /// Attempts by the hour and the day, in days since 1970-01-01, in which they were.
    pub attempts: BTreeMap<(Hour, u32), ById<KeyId, KeyAttempts>>,
    /// Attempts of no known hour, as an older keytide wrote them. Where it counted hours and days at all, those are among
    /// the tallies beside them; nothing is counted here any more.
    pub keys: ById<KeyId, KeyUsage>,
    /// Requests by hour and model: the provider's and each model's totals are sums over these.
    pub hours: HashMap<(Hour, Box<str>), Usage>,
    pub tokens: ById<TokenId, Usage>,
    /// The latest health of keys whose health changed. Not a sum: a later delta's value replaces it.
    pub health: ById<KeyId, Health>,
}

impl ProviderDelta {
    pub fn is_empty(&self) -> bool {
        self.attempts.is_empty()
            && self.keys.is_empty()
            && self.hours.is_empty()
            && self.tokens.is_empty()
            && self.health.is_empty()
    }

    /// Attempts of keys. A key that was used in several hours is in it several times.
    pub fn usage_of_keys(&self) -> impl Iterator<Item = (KeyId, &KeyUsage)> {
        let by_hour = self.attempts.values().flatten().map(|(id, attempts)| (*id, &attempts.usage));
        by_hour.chain(self.keys.iter().map(|(id, usage)| (*id, usage)))
    }

    /// What is counted of keys by hour and day: each row once, or in parts where an hour is of two days.
    pub fn spans_of_keys(&self) -> Vec<(SpanId, Tally)> {
        let (mut rows, mut days) = (Vec::new(), ById::<_, Tally>::default());
        for ((hour, day), keys) in &self.attempts {
            for (id, attempts) in keys {
                let [of_day, of_hour] = attempts.tallies();
                days.entry(SpanId::new(SpanKind::KeyDay, id.0, *day)).or_default().add(&of_day);
                rows.push((SpanId::new(SpanKind::KeyHour, id.0, hour.0), of_hour));
            }
        }
        rows.extend(days);
        rows
    }

    /// Adds a later delta.
    pub fn add(&mut self, later: Self) {
        if self.is_empty() {
            *self = later;
        } else {
            self.add_all(&later);
        }
    }

    fn add_all(&mut self, later: &Self) {
        for (at, later) in &later.attempts {
            let keys = self.attempts.entry(*at).or_default();
            // Both are in the order of the same hashes: a table that grows meanwhile would fill from one end.
            keys.reserve(later.len().saturating_sub(keys.len()));
            for (id, attempts) in later {
                keys.entry(*id).or_default().add(attempts);
            }
        }
        for (id, usage) in &later.keys {
            self.keys.entry(*id).or_default().add(usage);
        }
        for (id, usage) in &later.hours {
            match self.hours.get_mut(id) {
                Some(sum) => sum.add(usage),
                None => drop(self.hours.insert(id.clone(), *usage)),
            }
        }
        for (id, usage) in &later.tokens {
            self.tokens.entry(*id).or_default().add(usage);
        }
        self.health.extend(later.health.iter().map(|(id, health)| (*id, health.clone())));
    }
}

/// What is counted by hour, day and person. Attempts of keys are not in it, but where an older keytide wrote it: what is
/// counted of them follows from those of providers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CoreDelta {
    pub tallies: ById<SpanId, Tally>,
    pub sets: ById<SetId, Set>,
    /// Requests of which a row is kept, where somebody wants that.
    pub logs: Vec<UsageLog>,
}

impl CoreDelta {
    pub fn is_empty(&self) -> bool {
        self.tallies.is_empty() && self.sets.is_empty() && self.logs.is_empty()
    }

    /// Adds a later delta.
    pub fn add(&mut self, later: Self) {
        if self.is_empty() && later.logs.len() <= UsageLog::MOST {
            *self = later;
        } else {
            self.add_all(&later);
        }
    }

    fn add_all(&mut self, later: &Self) {
        // As above.
        self.tallies.reserve(later.tallies.len().saturating_sub(self.tallies.len()));
        self.sets.reserve(later.sets.len().saturating_sub(self.sets.len()));
        for (id, tally) in &later.tallies {
            self.tallies.entry(*id).or_default().add(tally);
        }
        for (id, set) in &later.sets {
            self.sets.entry(*id).or_default().add(id.kind, set);
        }
        self.logs.extend_from_slice(&later.logs);
        let too_many = self.logs.len().saturating_sub(UsageLog::MOST);
        self.logs.drain(..too_many);
    }
}

/// What the books of all providers have to take in: the content of one journal entry.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Delta {
    pub providers: HashMap<Box<str>, ProviderDelta>,
    pub core: CoreDelta,
}

impl Delta {
    pub fn is_empty(&self) -> bool {
        self.providers.values().all(ProviderDelta::is_empty) && self.core.is_empty()
    }

    /// Adds a later delta.
    pub fn add(&mut self, later: Self) {
        for (provider, delta) in later.providers {
            self.providers.entry(provider).or_default().add(delta);
        }
        self.core.add(later.core);
    }

    /// Adds a later delta that others hold as well.
    pub fn add_all(&mut self, later: &Self) {
        for (provider, delta) in &later.providers {
            match self.providers.get_mut(provider) {
                Some(sum) => sum.add_all(delta),
                None => drop(self.providers.insert(provider.clone(), delta.clone())),
            }
        }
        self.core.add_all(&later.core);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_percent_with_two_decimals() {
        let counts = Counts { success: 2, failure: 1, other: 0 };
        assert_eq!(counts.success_rate(), 66.67);
        assert_eq!(Counts::default().success_rate(), 0.0);
    }

    #[test]
    fn hours_start_on_the_hour() {
        assert_eq!(Hour::of(Timestamp(3_600_000)), Hour(1));
        assert_eq!(Hour::of(Timestamp(3_599_999)), Hour(0));
        assert_eq!(Hour(1).start(), Timestamp(3_600_000));
    }
}
