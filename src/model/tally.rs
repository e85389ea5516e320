//! Counters as replication moves them: signed, so that what one side has more or less can be said.

use serde::{Deserialize, Serialize};

use super::{Counts, Hour, KeyId, KeyUsage, SpanId, Timestamp, TokenId, Usage};

/// Names one row of counters of a provider, or of none.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum CounterId {
    Key(KeyId),
    Token(TokenId),
    Model(Box<str>),
    Hour(Hour, Box<str>),
    /// All requests of the provider.
    Total,
    /// Of none.
    Span(SpanId),
}

/// The numbers of one row. Sums may be negative in a difference; dates are maxima.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    pub success: i64,
    pub failure: i64,
    pub other: i64,
    pub prompt_tokens: i64,
    pub completion_tokens: i64,
    pub last_used: Option<Timestamp>,
    /// Of keys only.
    pub last_success: Option<Timestamp>,
    pub last_failure: Option<Timestamp>,
}

impl Tally {
    /// Whether adding it would change nothing but dates.
    pub fn counts_nothing(&self) -> bool {
        (self.success, self.failure, self.other, self.prompt_tokens, self.completion_tokens)
            == (0, 0, 0, 0, 0)
    }

    pub fn add(&mut self, more: &Self) {
        self.success = self.success.saturating_add(more.success);
        self.failure = self.failure.saturating_add(more.failure);
        self.other = self.other.saturating_add(more.other);
        self.prompt_tokens = self.prompt_tokens.saturating_add(more.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(more.completion_tokens);
        self.last_used = self.last_used.max(more.last_used);
        self.last_success = self.last_success.max(more.last_success);
        self.last_failure = self.last_failure.max(more.last_failure);
    }

    /// Whether it is as much or more, of everything that is counted.
    pub fn holds(&self, less: &Self) -> bool {
        let left = self.minus(less);
        [left.success, left.failure, left.other, left.prompt_tokens, left.completion_tokens]
            .iter()
            .all(|count| *count >= 0)
    }

    /// The sums less those of `less`; dates stay.
    #[must_use]
    pub fn minus(&self, less: &Self) -> Self {
        Self {
            success: self.success.saturating_sub(less.success),
            failure: self.failure.saturating_sub(less.failure),
            other: self.other.saturating_sub(less.other),
            prompt_tokens: self.prompt_tokens.saturating_sub(less.prompt_tokens),
            completion_tokens: self.completion_tokens.saturating_sub(less.completion_tokens),
            ..*self
        }
    }
}

/// More than fits is as much as fits.
pub(crate) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What is less than nothing is shown as nothing.
fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

impl From<&KeyUsage> for Tally {
    fn from(usage: &KeyUsage) -> Self {
        Self {
            success: signed(usage.counts.success),
            failure: signed(usage.counts.failure),
            other: signed(usage.counts.other),
            last_used: usage.last_used,
            last_success: usage.last_success,
            last_failure: usage.last_failure,
            ..Self::default()
        }
    }
}

impl From<&Usage> for Tally {
    fn from(usage: &Usage) -> Self {
        Self {
            success: signed(usage.counts.success),
            failure: signed(usage.counts.failure),
            other: signed(usage.counts.other),
            prompt_tokens: signed(usage.prompt_tokens),
            completion_tokens: signed(usage.completion_tokens),
            last_used: usage.last_used,
            ..Self::default()
        }
    }
}

impl From<&Tally> for Counts {
    fn from(tally: &Tally) -> Self {
        Self {
            success: unsigned(tally.success),
            failure: unsigned(tally.failure),
            other: unsigned(tally.other),
        }
    }
}

impl From<&Tally> for KeyUsage {
    fn from(tally: &Tally) -> Self {
        Self {
            counts: tally.into(),
            last_used: tally.last_used,
            last_success: tally.last_success,
            last_failure: tally.last_failure,
        }
    }
}

impl From<&Tally> for Usage {
    fn from(tally: &Tally) -> Self {
        Self {
            counts: tally.into(),
            prompt_tokens: unsigned(tally.prompt_tokens),
            completion_tokens: unsigned(tally.completion_tokens),
            last_used: tally.last_used,
        }
    }
}
