//! The hours of the last day and the days of the last month.

use std::collections::{BTreeMap, HashMap};

use axum::{Json as Answer, extract::State as Extract};

use super::{
    Shared,
    error::ApiError,
    extract::Query,
    stats::{TOP_MODELS, TREND_HOURS, top},
    view::{self, ModelStats, TrendSpan},
};
use crate::{
    ledger::ProviderBooks,
    model::{Day, Hour, Timestamp, Usage, Zone},
};

const TREND_DAYS: u32 = 30;

/// Requests over time: 24 hours and 30 days, and the models of the last 24 hours.
#[utoipa::path(get, path = "/admin/trend", tag = "statistics", params(view::ProviderQuery),
    responses((status = 200, body = view::Trend), (status = 404, body = view::ErrorBody)))]
pub(super) async fn trend(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::Trend>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    state.sync.look();
    let (zone, now) = (state.ledger.zone(), state.clock.now());
    let found = state
        .ledger
        .read(|books| books.providers.get(&*provider.name).map(|books| Figures::of(books, &zone, now)));
    let Figures { hours, days, recent_models } =
        found.unwrap_or_else(|| Figures::of(&ProviderBooks::default(), &zone, now));
    Ok(Answer(view::Trend {
        provider: provider.name.to_string(),
        time_zone: zone.name().to_owned(),
        hours,
        days,
        recent_models,
        timestamp: now,
    }))
}

struct Figures {
    hours: Vec<TrendSpan>,
    days: Vec<TrendSpan>,
    recent_models: Vec<ModelStats>,
}

impl Figures {
    fn of(books: &ProviderBooks, zone: &Zone, now: Timestamp) -> Self {
        let (this_hour, today) = (Hour::of(now), zone.day_of(now).day);
        let first_hour = Hour(this_hour.0.saturating_sub(TREND_HOURS - 1));
        let first_day = today.minus(TREND_DAYS - 1);
        let mut hours: BTreeMap<Hour, Usage> =
            (first_hour.0..=this_hour.0).map(|hour| (Hour(hour), Usage::default())).collect();
        let mut days: BTreeMap<Day, Usage> =
            (first_day.0..=today.0).map(|day| (Day(day), Usage::default())).collect();
        let mut recent: HashMap<&str, Usage> = HashMap::new();
        let from = Hour(this_hour.0.saturating_sub((TREND_DAYS + 1) * 24));
        let mut of_hour = None;
        for ((hour, model), usage) in books.hours.range((from, "".into())..) {
            // A day has many rows of one hour, and only hours change the day.
            let day = match of_hour {
                Some((known, day)) if known == *hour => day,
                _ => zone.day_of(hour.start()).day,
            };
            of_hour = Some((*hour, day));
            if let Some(sum) = days.get_mut(&day) {
                sum.add(usage);
            }
            // What lies in the future was counted before the clock was set back.
            if let Some(sum) = hours.get_mut(hour) {
                sum.add(usage);
                recent.entry(model).or_default().add(usage);
            }
        }
        let models = top(recent.iter().map(|(name, usage)| (*name, usage)), TOP_MODELS);
        let start = |day: Day| zone.span(day).map_or(Timestamp(0), |span| span.start);
        Self {
            recent_models: models.into_iter().map(|(name, usage)| ModelStats::new(name, usage)).collect(),
            hours: hours.iter().map(|(hour, usage)| TrendSpan::new(hour.start(), usage)).collect(),
            days: days.iter().map(|(day, usage)| TrendSpan::new(start(*day), usage)).collect(),
        }
    }
}
