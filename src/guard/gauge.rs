//! What is left of a limit, for those it concerns.

use crate::model::Timestamp;

/// What a limit counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Minute,
    DayRequests,
    DayTokens,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    #[default]
    Token,
    User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gauge {
    pub of: Of,
    pub whose: Whose,
    pub limit: u64,
    /// Once this one is counted.
    pub remaining: u64,
    pub reset: Timestamp,
}

/// There was no room; nothing was counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded(pub Gauge);

/// What a caller is told of its limits: of several that count the same, the one that is reached first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    pub requests: Option<Gauge>,
    pub tokens: Option<Gauge>,
}

impl Gauge {
    pub(super) fn of(of: Of, limit: u64, left: u64, reset: Timestamp) -> Result<Self, Exceeded> {
        let gauge = |remaining| Self { of, whose: Whose::Token, limit, remaining, reset };
        match (left, of) {
            (0, _) => Err(Exceeded(gauge(0))),
            // What a request uses of them is known at its end.
            (left, Of::DayTokens) => Ok(gauge(left)),
            (left, _) => Ok(gauge(left - 1)),
        }
    }

    /// The one with less left; of equal ones the one that holds for longer.
    pub(super) fn tighter(self, other: Self) -> Self {
        let rank = |gauge: &Self| (gauge.remaining, std::cmp::Reverse(gauge.reset));
        if rank(&other) < rank(&self) { other } else { self }
    }

    fn whose(self, whose: Whose) -> Self {
        Self { whose, ..self }
    }
}

impl Exceeded {
    pub(super) fn whose(self, whose: Whose) -> Self {
        Self(self.0.whose(whose))
    }
}

impl Gauges {
    pub(super) fn whose(self, whose: Whose) -> Self {
        let of = |gauge: Option<Gauge>| gauge.map(|gauge| gauge.whose(whose));
        Self { requests: of(self.requests), tokens: of(self.tokens) }
    }

    pub(super) fn with(self, other: Self) -> Self {
        let tighter = |a: Option<Gauge>, b: Option<Gauge>| match (a, b) {
            (Some(a), Some(b)) => Some(a.tighter(b)),
            (a, b) => a.or(b),
        };
        Self { requests: tighter(self.requests, other.requests), tokens: tighter(self.tokens, other.tokens) }
    }

    pub fn is_empty(&self) -> bool {
        self.requests.is_none() && self.tokens.is_none()
    }
}
