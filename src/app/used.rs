//! What was used of limits today before this process began.

use std::collections::HashMap;

use crate::{
    guard::Used,
    model::{DaySpan, SpanKind, Tally, Timestamp, TokenId, UserId, Zone},
    store::{Contents, Error, Store},
};

pub(super) struct UsedToday {
    pub day: DaySpan,
    pub tokens: HashMap<TokenId, Used>,
    pub users: HashMap<UserId, Used>,
}

impl UsedToday {
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn read(
        store: &Store,
        contents: &Contents,
        zone: &Zone,
        now: Timestamp,
    ) -> Result<Self, Error> {
        let day = zone.day_of(now);
        let counted = store.counted().await?;
        let of = |kind| {
            let rows = counted.all(kind, day.day.0)?;
            Ok::<_, Error>(rows.into_iter().map(|(id, tally)| (id, used(&tally))))
        };
        let tokens: HashMap<_, _> = of(SpanKind::TokenDay)?.map(|(id, used)| (TokenId(id), used)).collect();
        let mut users: HashMap<_, _> = of(SpanKind::UserUses)?.map(|(id, used)| (UserId(id), used)).collect();
        // Requests for which no key was used are in the days of their tokens alone.
        let mut asked: HashMap<UserId, i64> = HashMap::new();
        for (id, record) in contents.providers.values().flat_map(|of| &of.tokens) {
            if let (Some(user), Some(used)) = (record.user, tokens.get(id)) {
                *asked.entry(user).or_default() += used.requests;
            }
        }
        for (user, requests) in asked {
            let used = users.entry(user).or_default();
            used.requests = used.requests.max(requests);
        }
        Ok(Self { day, tokens, users })
    }
}

pub(super) fn used(day: &Tally) -> Used {
    let requests = day.success.saturating_add(day.failure).saturating_add(day.other);
    Used { requests, tokens: day.prompt_tokens.saturating_add(day.completion_tokens) }
}
