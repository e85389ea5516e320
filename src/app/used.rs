//! What was used of limits today before this process began.

use crate::{
    guard::{Meters, Used},
    model::{SpanKind, Tally, Timestamp, Zone},
    store::{Error, Store},
};

/// Also of tokens and users that are gone: they may come back.
///
/// # Errors
/// The store cannot be read.
pub(super) async fn today(store: &Store, zone: &Zone, now: Timestamp) -> Result<Meters, Error> {
    let (day, meters) = (zone.day_of(now), Meters::default());
    for (id, tally) in store.counted().await?.all(SpanKind::TokenDay, day.day.0)? {
        meters.seed(id, day, used(&tally));
    }
    Ok(meters)
}

pub(super) fn used(day: &Tally) -> Used {
    let requests = day.success.saturating_add(day.failure).saturating_add(day.other);
    Used { requests, tokens: day.prompt_tokens.saturating_add(day.completion_tokens) }
}
