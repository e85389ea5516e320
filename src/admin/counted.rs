//! What was counted by hour and day: users' logs, shared keys' figures, keys' hours.
//!
//! Read in the store, where what was recorded until now is first brought to.

use axum::{
    Json as Answer,
    extract::{Path, State as Extract},
};

use super::{
    Shared, State, blocking,
    error::ApiError,
    extract::{Query, id},
    keys, view,
};
use crate::{
    model::{Day, Hour, KeyId, KeyUsage, Month, Set, SetId, SetKind, SpanId, SpanKind, Tally, UserId},
    store::{Counted, Error},
};

/// Days of users are kept a little longer, by zone.
const DAYS_KEPT: u32 = 32;
const DAYS_SHOWN: u32 = 30;
const MONTHS_KEPT: u32 = 25;
const HOURS_SHOWN: u32 = 48;
const WEEK: u32 = 7;

async fn counted(state: &State) -> Result<Counted, ApiError> {
    state.flush.flush().await.map_err(|why| {
        ApiError::unavailable(format!("What was counted last cannot be brought to the store: {why}."))
    })?;
    state.store.counted().await.map_err(|error| ApiError::store(&error))
}

/// What was counted of a user, day by day.
#[utoipa::path(get, path = "/admin/users/{id}/days", tag = "users",
    params(("id" = String, Path), view::DaysQuery),
    responses((status = 200, body = view::UserDays), (status = 400, body = view::ErrorBody),
        (status = 404, body = view::ErrorBody)))]
pub(super) async fn days(
    Extract(state): Extract<Shared>,
    Path(user): Path<String>,
    Query(query): Query<view::DaysQuery>,
) -> Result<Answer<view::UserDays>, ApiError> {
    let user: UserId = id(&user)?;
    let zone = state.ledger.zone();
    let today = zone.day_of(state.clock.now()).day;
    let to = query.to.unwrap_or(today);
    let from = query.from.unwrap_or(to.minus(DAYS_SHOWN - 1));
    if from > to {
        let why = format!("\"from\" is {from}, which is after \"to\", {to}.");
        return Err(ApiError::bad_request(view::Code::InvalidQuery, why).param("from"));
    }
    let found = counted(&state).await?;
    let (days, months) = blocking(move || {
        let days = days_of(&found, user, (from, to), today)?;
        let months = months_of(&found, user, (from.month(), to.month()), today.month())?;
        if days.is_empty() && months.is_empty() && !found.has_user(user)? {
            return Ok(None);
        }
        Ok::<_, Error>(Some((days, months)))
    })
    .await?
    .map_err(|error| ApiError::store(&error))?
    .ok_or_else(|| {
        ApiError::not_found(view::Code::UnknownUser, "There is no user of this id.").param("id")
    })?;
    Ok(Answer(view::UserDays { user, time_zone: zone.name().to_owned(), from, to, days, months }))
}

fn days_of(
    found: &Counted,
    user: UserId,
    (from, to): (Day, Day),
    today: Day,
) -> Result<Vec<view::UserDay>, Error> {
    // What lies in the future was counted before the clock was set back.
    let (from, to) = (from.max(today.minus(DAYS_KEPT)), to.min(Day(today.0.saturating_add(DAYS_KEPT))));
    let mut days = Vec::new();
    for day in from.0..=to.0 {
        let of = |kind| found.tally(&SpanId::new(kind, user.0, day));
        let keys = found.set(SetId { kind: SetKind::UserKeys, at: day, id: user.0 })?;
        if let Some(log_data) = log_data(of, &keys)? {
            days.push(view::UserDay { date: Day(day), log_data });
        }
    }
    Ok(days)
}

fn months_of(
    found: &Counted,
    user: UserId,
    (from, to): (Month, Month),
    present: Month,
) -> Result<Vec<view::UserMonth>, Error> {
    let from = from.0.max(present.0.saturating_sub(MONTHS_KEPT));
    let mut months = Vec::new();
    for month in (from..=to.0.min(present.0)).map(Month) {
        if let Some(log_data) = log_data(|kind| found.month(kind, user, month), &Set::default())? {
            months.push(view::UserMonth { month: month.to_string(), log_data });
        }
    }
    Ok(months)
}

fn log_data(
    of: impl Fn(SpanKind) -> Result<Tally, Error>,
    keys: &Set,
) -> Result<Option<view::LogData>, Error> {
    let data = view::LogData::new(
        &of(SpanKind::UserClasses)?,
        &of(SpanKind::UserUses)?,
        &of(SpanKind::UserErrors)?,
        keys,
    );
    Ok(Some(data).filter(|data| *data != view::LogData::default()))
}

/// Lists keys with what their users made of them.
#[utoipa::path(get, path = "/admin/shared-keys", tag = "keys", params(view::KeysQuery),
    responses((status = 200, body = view::SharedKeyPage)))]
pub(super) async fn shared_keys(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::KeysQuery>,
) -> Result<Answer<view::SharedKeyPage>, ApiError> {
    let found = counted(&state).await?;
    let (listed, provider) = keys::page(&state, query).await?;
    let (pages, cut, total) = (listed.pages(), listed.cut, listed.total);
    let zone = state.ledger.zone();
    let today = zone.day_of(state.clock.now()).day;
    let (name, pool) = (provider.name.to_string(), provider.pool);
    let keys = blocking(move || {
        let row = |(key, usage): (crate::pool::KeyView, KeyUsage)| {
            let record = pool.record(key.id);
            Ok(view::SharedKey {
                user_id: record.as_ref().and_then(|record| record.owner),
                is_active: key.enabled,
                usage_stats: usage_stats(&found, key.id, &usage, today)?,
                id: key.id,
                key: key.secret,
                status: key.status,
                created_at: key.created_at,
            })
        };
        listed.keys.into_iter().map(row).collect::<Result<Vec<_>, Error>>()
    })
    .await?
    .map_err(|error| ApiError::store(&error))?;
    Ok(Answer(view::SharedKeyPage {
        provider: name,
        time_zone: zone.name().to_owned(),
        page: cut.page,
        page_size: cut.page_size,
        total,
        pages,
        keys,
    }))
}

fn usage_stats(found: &Counted, key: KeyId, usage: &KeyUsage, today: Day) -> Result<view::UsageStats, Error> {
    let of = |day: Day| found.tally(&SpanId::new(SpanKind::KeyDay, key.0, day.0));
    let mut week = Tally::default();
    for ago in 0..WEEK {
        week.add(&of(today.minus(ago))?);
    }
    // What a hub knows of from before keytide counted stands beside the attempts.
    let before = found.tally(&SpanId::new(SpanKind::KeyTotal, key.0, 0))?.prompt_tokens;
    let all = crate::model::Counts::from(&week);
    let rounded = |value: f64, digits: i32| (value * 10_f64.powi(digits)).round() / 10_f64.powi(digits);
    Ok(view::UsageStats {
        total_usage_count: usage.counts.total() + u64::try_from(before).unwrap_or(0),
        usage_count_today: crate::model::Counts::from(&of(today)?).total(),
        last_used_at: usage.last_used,
        active_users_today: found.members(SetId { kind: SetKind::KeyDay, at: today.0, id: key.0 })?,
        success_rate_7d: match all.total() {
            0 => 0.0,
            total => rounded(all.success as f64 / total as f64, 4),
        },
        avg_daily_usage_7d: rounded(all.total() as f64 / f64::from(WEEK), 2),
    })
}

/// What a key did in each of the last 48 hours.
#[utoipa::path(get, path = "/admin/keys/{id}/hours", tag = "keys",
    params(("id" = String, Path), view::ProviderQuery),
    responses((status = 200, body = view::KeyHours), (status = 404, body = view::ErrorBody)))]
pub(super) async fn hours(
    Extract(state): Extract<Shared>,
    Path(key): Path<String>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::KeyHours>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let id: KeyId = id(&key)?;
    if !provider.pool.contains(id) {
        return Err(keys::unknown_key(&provider));
    }
    let present = Hour::of(state.clock.now());
    let found = counted(&state).await?;
    let hours = blocking(move || {
        let mut hours = Vec::new();
        for hour in present.0.saturating_sub(HOURS_SHOWN - 1)..=present.0 {
            let tally = found.tally(&SpanId::new(SpanKind::KeyHour, id.0, hour))?;
            if !tally.counts_nothing() {
                let users = found.members(SetId { kind: SetKind::KeyHour, at: hour, id: id.0 })?;
                hours.push(view::KeyHour::new(Hour(hour).start(), &tally, users));
            }
        }
        Ok::<_, Error>(hours)
    })
    .await?
    .map_err(|error| ApiError::store(&error))?;
    Ok(Answer(view::KeyHours { provider: provider.name.to_string(), id, hours }))
}
