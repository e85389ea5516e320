//! What was counted.

use std::{collections::HashMap, sync::atomic::Ordering};

use axum::{Json as Answer, extract::State as Extract};

use super::{
    Shared,
    error::ApiError,
    extract::Query,
    view::{self, ModelStats, PublicGlobal, PublicHour, PublicModel, PublicStats},
};
use crate::{
    ledger::ProviderBooks,
    model::{Counts, Hour, Usage},
};

pub(super) const TOP_MODELS: usize = 50;
const PUBLIC_TOP_MODELS: usize = 10;
pub(super) const TREND_HOURS: u32 = 24;
const STORAGE: &str = "redb";

/// The provider's totals, and its most used models.
#[utoipa::path(get, path = "/admin/stats", tag = "statistics", params(view::ProviderQuery),
    responses((status = 200, body = view::Stats), (status = 404, body = view::ErrorBody)))]
pub(super) async fn stats(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::Stats>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    state.sync.look();
    let now = state.clock.now();
    let keys = provider.pool.counts(now);
    let (total, models) = state.ledger.read(|books| match books.providers.get(&*provider.name) {
        Some(books) => {
            let all = books.models.iter().map(|(name, usage)| (&**name, usage));
            let models = top(all, TOP_MODELS).into_iter().map(|(name, usage)| ModelStats::new(name, usage));
            (books.total, models.collect())
        }
        None => (Usage::default(), Vec::new()),
    });
    Ok(Answer(view::Stats {
        provider: provider.name.to_string(),
        total_api_keys: keys.total,
        active_keys: keys.active,
        failed_keys: keys.failed,
        disabled_keys: keys.disabled,
        expired_keys: keys.expired,
        total_client_tokens: provider.tokens.len(),
        total_requests: total.counts.total(),
        success_count: total.counts.success,
        failure_count: total.counts.failure,
        other_count: total.counts.other,
        success_rate: total.counts.success_rate(),
        prompt_tokens: total.prompt_tokens,
        completion_tokens: total.completion_tokens,
        storage: STORAGE.to_owned(),
        timestamp: now,
        models,
    }))
}

/// The most used first; those that are used alike in the order of their names.
pub(super) fn top<'a, 'u>(
    models: impl Iterator<Item = (&'a str, &'u Usage)>,
    most: usize,
) -> Vec<(&'a str, &'u Usage)> {
    let mut models: Vec<_> = models.collect();
    models.sort_unstable_by_key(|(name, usage)| (std::cmp::Reverse(usage.counts.total()), *name));
    models.truncate(most);
    models
}

/// Statistics for everybody, where the operator shows them.
#[utoipa::path(get, path = "/admin/public-stats", tag = "statistics", params(view::ProviderQuery),
    security(()),
    responses((status = 200, body = PublicStats), (status = 404, body = view::ErrorBody)))]
pub(super) async fn public(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<PublicStats>, ApiError> {
    if !state.public_stats.load(Ordering::Relaxed) {
        return Err(ApiError::not_found(
            view::Code::PublicStatsOff,
            "Public statistics are switched off here.",
        ));
    }
    let provider = state.provider(query.provider.as_deref())?;
    let now = state.clock.now();
    let keys = provider.pool.counts(now);
    let this_hour = Hour::of(now);
    let figures = state
        .ledger
        .read(|books| books.providers.get(&*provider.name).map(|books| Figures::of(books, this_hour)));
    let Figures { total, top_models, recent_top_models, hourly_trend } =
        figures.unwrap_or_else(|| Figures::of(&ProviderBooks::default(), this_hour));
    Ok(Answer(PublicStats {
        global: PublicGlobal {
            total_requests: total.counts.total(),
            success_count: total.counts.success,
            failure_count: total.counts.failure,
            success_rate: total.counts.success_rate(),
            total_api_keys: keys.total,
            active_keys: keys.active,
            failed_keys: keys.failed,
            storage: STORAGE.to_owned(),
            last_updated: total.last_used,
        },
        top_models,
        recent_top_models,
        hourly_trend,
        timestamp: now,
    }))
}

struct Figures {
    total: Usage,
    top_models: Vec<PublicModel>,
    recent_top_models: Vec<PublicModel>,
    hourly_trend: Vec<PublicHour>,
}

impl Figures {
    fn of(books: &ProviderBooks, this_hour: Hour) -> Self {
        let first = Hour(this_hour.0.saturating_sub(TREND_HOURS - 1));
        let mut hours = vec![Counts::default(); TREND_HOURS as usize];
        let mut recent: HashMap<&str, Usage> = HashMap::new();
        for ((hour, model), usage) in books.hours.range((first, "".into())..) {
            // What lies in the future was counted before the clock was set back.
            if let Some(counts) = hours.get_mut((hour.0 - first.0) as usize) {
                counts.add(&usage.counts);
                recent.entry(model).or_default().add(usage);
            }
        }
        let public = |(name, usage): (&str, &Usage)| PublicModel {
            model: name.to_owned(),
            total_requests: usage.counts.total(),
            success_count: usage.counts.success,
            failure_count: usage.counts.failure,
            success_rate: usage.counts.success_rate(),
        };
        let all = books.models.iter().map(|(name, usage)| (&**name, usage));
        let recent = recent.iter().map(|(name, usage)| (*name, usage));
        let trend = hours.iter().zip(first.0..).map(|(counts, hour)| PublicHour {
            hour: Hour(hour).start(),
            requests: counts.total(),
            success: counts.success,
            failure: counts.failure,
        });
        Self {
            total: books.total,
            top_models: top(all, PUBLIC_TOP_MODELS).into_iter().map(public).collect(),
            recent_top_models: top(recent, PUBLIC_TOP_MODELS).into_iter().map(public).collect(),
            hourly_trend: trend.collect(),
        }
    }
}
