//! Keys switched on, off, and tried.

use std::convert::Infallible;

use axum::{
    Json as Answer,
    body::Body,
    extract::State as Extract,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, header};
use serde::Serialize;
use tracing::info;

use super::{
    ProviderEntry, Shared, State, blocking,
    error::ApiError,
    extract::{Json, Query},
    keys::AT_ONCE,
    listing::{self, Selection},
    view,
};
use crate::{
    model::{KeyId, KeyRecord, Timestamp},
    store::Change,
};

const CONCURRENCY: usize = 8;
const MAX_CONCURRENCY: usize = 64;
const MAX_RESULTS: usize = 1000;
pub(super) const NDJSON: &str = "application/x-ndjson";

#[derive(Clone, Copy)]
enum Switch {
    /// Also wipes what keytide concluded.
    On,
    Off {
        until: Option<Timestamp>,
    },
}

impl Switch {
    fn apply(self, record: KeyRecord) -> KeyRecord {
        match self {
            Self::On => KeyRecord { enabled: true, disabled_until: None, ..record },
            // The latest word holds: "until" also ends an earlier switching off for good.
            Self::Off { until } => KeyRecord { enabled: until.is_some(), disabled_until: until, ..record },
        }
    }
}

/// Switches keys on and wipes what was concluded about them.
#[utoipa::path(post, path = "/admin/keys/enable", tag = "keys", params(view::ProviderQuery),
    request_body = view::EnableKeys,
    responses((status = 200, body = view::Changed), (status = 400, body = view::ErrorBody)))]
pub(super) async fn enable(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::EnableKeys>,
) -> Result<Answer<view::Changed>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let view::EnableKeys { ids, all, status } = body;
    let changed = state.change(|state| async move {
        let selected = listing::select(&state, &provider, ids.as_deref(), all, status)?;
        switch(&state, &provider, selected, Switch::On).await
    });
    changed.await.map(Answer)
}

/// Switches keys off, for good or until a time.
#[utoipa::path(post, path = "/admin/keys/disable", tag = "keys", params(view::ProviderQuery),
    request_body = view::DisableKeys,
    responses((status = 200, body = view::Changed), (status = 400, body = view::ErrorBody)))]
pub(super) async fn disable(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::DisableKeys>,
) -> Result<Answer<view::Changed>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let view::DisableKeys { ids, all, status, until } = body;
    if until.is_some_and(|at| at <= state.clock.now()) {
        return Err(ApiError::bad_request(view::Code::InvalidTime, "\"until\" must lie in the future.")
            .param("until"));
    }
    let changed = state.change(|state| async move {
        let selected = listing::select(&state, &provider, ids.as_deref(), all, status)?;
        switch(&state, &provider, selected, Switch::Off { until }).await
    });
    changed.await.map(Answer)
}

async fn switch(
    state: &State,
    provider: &ProviderEntry,
    selected: Selection,
    switch: Switch,
) -> Result<view::Changed, ApiError> {
    let clears = matches!(switch, Switch::On);
    let mut changed = 0;
    for chunk in selected.found.chunks(AT_ONCE) {
        let now = state.clock.now();
        let (mut puts, mut replacements) = (Vec::new(), Vec::new());
        for id in chunk {
            let (Some(before), Some(view)) = (provider.pool.record(*id), provider.pool.get(*id, now)) else {
                continue;
            };
            let record = switch.apply(before.clone());
            let blemished = clears && view.health.is_blemished();
            let differs = record != before;
            if differs {
                puts.push(Change::PutKey { provider: (*provider.name).into(), record: record.clone() });
            }
            replacements.push((*id, record, differs || blemished));
        }
        state.store.change(puts).await.map_err(|error| match changed {
            0 => ApiError::store(&error),
            _ => ApiError::unavailable(format!("{changed} keys were changed, the others were not: {error}.")),
        })?;
        for (id, record, differs) in replacements {
            // Also of keys that are well: answers still under way to attempts from before must not count.
            let replaced = provider.pool.replace(id, record, clears, now).is_ok();
            changed += usize::from(replaced && differs);
        }
        tokio::task::yield_now().await;
    }
    if clears {
        // The journal keeps its order: what is flushed now stands behind all that was concluded before.
        state.flush.flush().await.map_err(|why| {
            ApiError::unavailable(format!(
                "The keys are switched on, but this cannot be kept at present ({why}): send it again later."
            ))
        })?;
    }
    info!(provider = &*provider.name, changed, on = clears, "keys switched");
    Ok(view::Changed { changed, missing: selected.missing })
}

/// Tries keys with a cheap call; what comes of it decides their state as any attempt does.
#[utoipa::path(post, path = "/admin/keys/health-check", tag = "keys", params(view::ProviderQuery),
    request_body = view::CheckKeys,
    responses((status = 200, description = "One report, or with Accept: application/x-ndjson a CheckResult \
        per line as it is known and a CheckEnd", content((view::CheckReport = "application/json"),
        (view::CheckResult = "application/x-ndjson"))),
        (status = 400, body = view::ErrorBody)))]
pub(super) async fn health_check(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    headers: HeaderMap,
    Json(body): Json<view::CheckKeys>,
) -> Result<Response, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let concurrency = body.concurrency.unwrap_or(CONCURRENCY);
    if !(1..=MAX_CONCURRENCY).contains(&concurrency) {
        return Err(ApiError::bad_request(
            view::Code::InvalidBody,
            format!("\"concurrency\" must be from 1 to {MAX_CONCURRENCY}."),
        )
        .param("concurrency"));
    }
    let view::CheckKeys { ids, all, status, .. } = body;
    let (looking, of) = (state.clone(), provider.clone());
    let selected = blocking(move || listing::select(&looking, &of, ids.as_deref(), all, status)).await??;
    info!(provider = &*provider.name, keys = selected.found.len(), "keys are being checked");
    let mut results = check(state, provider, selected, concurrency).boxed();
    let accepts = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    if accepts.into_iter().any(|accept| accept.contains(NDJSON)) {
        let body = Body::from_stream(lines(results));
        return Ok(([(header::CONTENT_TYPE, NDJSON)], body).into_response());
    }
    let mut report = view::CheckReport::default();
    while let Some(result) = results.next().await {
        count(&mut report.summary, &result);
        if report.results.len() < MAX_RESULTS {
            report.results.push(result);
        }
    }
    Ok(Answer(report).into_response())
}

fn check(
    state: Shared,
    provider: ProviderEntry,
    selected: Selection,
    concurrency: usize,
) -> impl Stream<Item = view::CheckResult> + Send {
    let missing = |id: KeyId| view::CheckResult {
        id,
        ok: false,
        status: None,
        detail: "there is no key of this id".to_owned(),
    };
    let probes = stream::iter(selected.found).map(move |id| {
        let (state, provider) = (state.clone(), provider.clone());
        async move {
            let report = state.probe.probe(&provider.name, id).await;
            let status = provider.pool.get(id, state.clock.now()).map(|key| key.status);
            view::CheckResult { id, ok: report.ok, status, detail: report.detail }
        }
    });
    stream::iter(selected.missing).map(missing).chain(probes.buffer_unordered(concurrency))
}

fn count(summary: &mut view::CheckSummary, result: &view::CheckResult) {
    summary.checked += 1;
    *(if result.ok { &mut summary.ok } else { &mut summary.failed }) += 1;
}

fn lines(
    results: impl Stream<Item = view::CheckResult> + Send,
) -> impl Stream<Item = Result<Bytes, Infallible>> + Send {
    let start = (Box::pin(results), Some(view::CheckSummary::default()));
    stream::unfold(start, |(mut results, summary)| async move {
        let mut summary = summary?;
        Some(match results.next().await {
            Some(result) => {
                count(&mut summary, &result);
                (Ok(line(&result)), (results, Some(summary)))
            }
            None => (Ok(line(&view::CheckEnd { summary })), (results, None)),
        })
    })
}

pub(super) fn line(value: &impl Serialize) -> Bytes {
    let mut line = serde_json::to_vec(value).unwrap_or_default();
    line.push(b'\n');
    line.into()
}
