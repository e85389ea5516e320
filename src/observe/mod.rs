//! Whether keytide lives, whether it is well, and its figures for Prometheus.

mod metrics;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::{
    Json, Router,
    extract::State as Extract,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{StatusCode, header};
use serde::{Deserialize, Serialize};

use crate::{
    gateway::metrics::Metrics,
    ledger::Ledger,
    model::{Clock, Rung, Space},
    pool::Pool,
    replica::status::{HubState, HubStatus},
    store::Store,
};

/// What is watched of a provider.
#[derive(Clone)]
pub struct ProviderEntry {
    pub name: Arc<str>,
    pub enabled: bool,
    pub pool: Arc<Pool>,
    pub metrics: Arc<Metrics>,
}

/// What a [`State`] is made of.
pub struct Parts {
    pub providers: Vec<ProviderEntry>,
    pub store: Store,
    pub ledger: Arc<Ledger>,
    pub clock: Clock,
    /// Whether the last flush failed.
    pub flush_failing: Box<dyn Fn() -> bool + Send + Sync>,
    /// How replication stands; empty where there is none.
    pub hubs: Box<dyn Fn() -> Vec<HubStatus> + Send + Sync>,
    /// The file and the hubs, as they were measured last, each by what the figures call it.
    pub spaces: Box<dyn Fn() -> Vec<(String, Space)> + Send + Sync>,
    pub watched: Box<dyn Fn() -> Watched + Send + Sync>,
}

/// What the monitor has come to.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// Type, severity, and how many since the start.
    pub events: Vec<(String, u8, u64)>,
    /// Events that could not be written.
    pub events_dropped: u64,
    pub observations_lost: u64,
    /// Users, tokens and addresses.
    pub blocked: usize,
    pub throttled: usize,
}

pub struct State {
    providers: ArcSwap<Vec<ProviderEntry>>,
    store: Store,
    ledger: Arc<Ledger>,
    clock: Clock,
    flush_failing: Box<dyn Fn() -> bool + Send + Sync>,
    hubs: Box<dyn Fn() -> Vec<HubStatus> + Send + Sync>,
    spaces: Box<dyn Fn() -> Vec<(String, Space)> + Send + Sync>,
    watched: Box<dyn Fn() -> Watched + Send + Sync>,
}

impl State {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts { providers, store, ledger, clock, flush_failing, hubs, spaces, watched } = parts;
        let providers = ArcSwap::from_pointee(providers);
        Arc::new(Self { providers, store, ledger, clock, flush_failing, hubs, spaces, watched })
    }

    /// For a reload of the configuration.
    pub fn set_providers(&self, providers: Vec<ProviderEntry>) {
        self.providers.store(Arc::new(providers));
    }
}

/// The answer of `/ready`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    pub ready: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// What an operator should know and what stops nothing.
    pub warnings: Vec<String>,
}

pub fn router(state: Arc<State>) -> Router {
    Router::new()
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics))
        .with_state(state)
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({"status": "ok", "version": env!("CARGO_PKG_VERSION")}))
}

async fn ready(Extract(state): Extract<Arc<State>>) -> (StatusCode, Json<Readiness>) {
    let (providers, now) = (state.providers.load_full(), state.clock.now());
    let mut reasons = Vec::new();
    // Anyone may ask, so the file is not named here: the log and /admin/storage say more.
    if state.store.healthy().is_some() {
        reasons.push("the store cannot be written: see the log".to_owned());
    } else if (state.flush_failing)() {
        reasons.push("the last statistics could not be written yet: see the log".to_owned());
    }
    if !providers.iter().any(|provider| provider.enabled) {
        reasons.push("no provider is switched on: see [providers] in the configuration".to_owned());
    }
    let mut warnings = Vec::new();
    for provider in providers.iter().filter(|provider| provider.enabled) {
        let counts = provider.pool.counts(now);
        if counts.total == 0 {
            warnings.push(format!("\"{}\" has no keys: add one with keytide keys add", provider.name));
        } else if counts.active == 0 {
            warnings.push(format!("\"{}\" has no key that can be picked at present", provider.name));
        }
    }
    // Requests do not need a hub, so it is no reason.
    for hub in (state.hubs)() {
        let how = match hub.state {
            HubState::Failing => "cannot be reached or used",
            HubState::Stopped => "is not the one that it was",
            _ => continue,
        };
        warnings.push(format!("the hub \"{}\" {how}: see keytide sync status", hub.name));
    }
    for (place, space) in (state.spaces)() {
        if space.rung >= Rung::Short {
            warnings.push(format!("the storage budget of {place} is nearly used up: see keytide store size"));
        }
    }
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons, warnings }))
}

async fn metrics(Extract(state): Extract<Arc<State>>) -> Response {
    let file_bytes = tokio::fs::metadata(state.store.file()).await.map(|found| found.len()).ok();
    match metrics::encode(&state, file_bytes) {
        Ok(text) => {
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, kind)], text).into_response()
        }
        Err(error) => {
            tracing::error!("the metrics cannot be written: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}
