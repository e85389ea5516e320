//! What was used of limits today before this process began.

use std::collections::HashMap;

use crate::{
    guard::Used,
    model::{DaySpan, SpanKind, Tally, Timestamp, TokenId, UserId, Zone},
    store::{Error, Store},
};

pub(super) struct UsedToday {
    pub day: DaySpan,
    /// Tokens and users.
    of: HashMap<u128, Used>,
}

impl UsedToday {
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn read(store: &Store, zone: &Zone, now: Timestamp) -> Result<Self, Error> {
        let day = zone.day_of(now);
        let rows = store.counted().await?.all(SpanKind::TokenDay, day.day.0)?;
        Ok(Self { day, of: rows.into_iter().map(|(id, tally)| (id, used(&tally))).collect() })
    }

    pub(super) fn token(&self, id: TokenId) -> Option<Used> {
        self.of.get(&id.0).copied()
    }

    pub(super) fn user(&self, id: UserId) -> Option<Used> {
        self.of.get(&id.0).copied()
    }
}

pub(super) fn used(day: &Tally) -> Used {
    let requests = day.success.saturating_add(day.failure).saturating_add(day.other);
    Used { requests, tokens: day.prompt_tokens.saturating_add(day.completion_tokens) }
}
