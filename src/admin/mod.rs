//! The control API: what an operator asks and changes, in JSON.
//!
//! - `auth` lets in whoever shows the admin token, or has a `session`; `extract` reads questions, `view` is their JSON;
//! - `keys`, `listing`, `switch`, `import`, `export` are about keys, `tokens` and `users` about who calls, with
//!   their `limits`;
//! - `playground` tries things out the way callers do;
//! - `stats`, `trend`, `counted` and `storage` only read; `events` is what the monitor says; `sync` is replication.
//!
//! Invariants: a change is checked, then durable, then in force, in this order, and goes through to the end
//! when the caller leaves (`State::change`); changes are made one after another, so none is lost; no answer
//! and no log line shows a key or a token, except an export and the answer that creates a token.

mod auth;
mod counted;
mod error;
mod events;
mod export;
mod extract;
mod form;
mod import;
mod keys;
mod limits;
mod listing;
pub mod openapi;
mod playground;
mod session;
mod stats;
mod storage;
mod switch;
mod sync;
#[cfg(test)]
mod tests;
mod tokens;
mod trend;
mod users;
pub mod view;

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arc_swap::ArcSwap;
use axum::{
    Router, middleware,
    response::{IntoResponse, Json, Redirect, Response},
    routing::{delete, get, post},
};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use serde_json::{Value, json};

pub use error::ApiError;
pub use events::Watching;
pub use playground::Loopback;
pub use storage::Spaces;
pub use sync::{Refusal, Replication};

use crate::{
    guard::{Tokens, Users, Watch},
    ledger::Ledger,
    model::{Clock, KeyId},
    pool::{Pool, Strategy},
    store::Store,
};

/// Writes what was counted and concluded so far to the store.
pub trait Flush: Send + Sync {
    /// Resolves when it is on disk.
    fn flush(&self) -> BoxFuture<'_, Result<(), String>>;

    /// Does most of what `seal` does, while everybody goes on.
    ///
    /// # Errors
    /// As those of `seal`.
    fn prepare(&self) -> BoxFuture<'_, Result<(), String>>;

    /// As `flush`, and what a hub has not confirmed is put into batches; nothing more is counted until what is
    /// returned is dropped. A copy of the file as it is then holds nothing of which two instances could tell
    /// different stories.
    ///
    /// # Errors
    /// A sentence; a copy would hold such things then. Where no hub is told anything, a store that takes nothing
    /// more is none: it can still be copied.
    fn seal(&self) -> BoxFuture<'_, Result<Held<'_>, String>>;
}

/// Keeps the store as it is.
pub type Held<'a> = Box<dyn Send + 'a>;

/// Tries one key at its provider.
pub trait Probe: Send + Sync {
    fn probe(&self, provider: &str, id: KeyId) -> BoxFuture<'static, ProbeReport>;
}

/// How a probe ended. The key's state has learnt from it already.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeReport {
    pub ok: bool,
    /// For people; holds no secret.
    pub detail: String,
}

/// Whether a key has the form of this provider's keys.
pub type KeyPattern = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What the control API knows of a provider.
#[derive(Clone)]
pub struct ProviderEntry {
    pub name: Arc<str>,
    pub enabled: bool,
    pub table_prefix: String,
    /// As shown: only the host.
    pub base_url: String,
    pub strategy: Strategy,
    pub key_pattern: Option<KeyPattern>,
    pub pool: Arc<Pool>,
    pub tokens: Arc<Tokens>,
}

impl fmt::Debug for ProviderEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProviderEntry").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The providers under the configuration in force.
#[derive(Clone, Debug)]
pub struct Providers {
    pub entries: Vec<ProviderEntry>,
    pub default: String,
}

/// What a [`State`] is made of.
pub struct Parts {
    pub providers: Providers,
    pub store: Store,
    pub ledger: Arc<Ledger>,
    pub flush: Arc<dyn Flush>,
    pub probe: Arc<dyn Probe>,
    pub sync: Arc<dyn Replication>,
    pub spaces: Arc<dyn Spaces>,
    pub clock: Clock,
    pub users: Arc<Users>,
    pub watch: Arc<Watch>,
    pub watching: Arc<dyn Watching>,
    pub loopback: Arc<dyn Loopback>,
    pub admin_token: String,
    pub public_stats: bool,
    /// Held by whoever changes keys and tokens, from reading what is to be changed until the change is in force:
    /// operators here, and others where changes come from elsewhere too.
    pub edits: Arc<tokio::sync::Mutex<()>>,
}

pub struct State {
    providers: ArcSwap<Providers>,
    store: Store,
    ledger: Arc<Ledger>,
    flush: Arc<dyn Flush>,
    probe: Arc<dyn Probe>,
    sync: Arc<dyn Replication>,
    spaces: Arc<dyn Spaces>,
    clock: Clock,
    users: Arc<Users>,
    watch: Arc<Watch>,
    watching: Arc<dyn Watching>,
    loopback: Arc<dyn Loopback>,
    configuration: ArcSwap<view::Configuration>,
    /// Only its digest is kept.
    admin_token: ArcSwap<[u8; 32]>,
    public_stats: AtomicBool,
    guesses: auth::Guesses,
    sessions: session::Sessions,
    edits: Arc<tokio::sync::Mutex<()>>,
}

impl State {
    pub fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            providers,
            store,
            ledger,
            flush,
            probe,
            sync,
            spaces,
            clock,
            users,
            watch,
            watching,
            loopback,
            admin_token,
            public_stats,
            edits,
        } = parts;
        Arc::new(Self {
            providers: ArcSwap::from_pointee(providers),
            store,
            ledger,
            flush,
            probe,
            sync,
            spaces,
            clock,
            users,
            watch,
            watching,
            loopback,
            configuration: ArcSwap::default(),
            admin_token: ArcSwap::from_pointee(auth::digest(&admin_token)),
            public_stats: AtomicBool::new(public_stats),
            guesses: auth::Guesses::default(),
            sessions: session::Sessions::default(),
            edits,
        })
    }

    /// For a reload of the configuration.
    pub fn set_providers(&self, providers: Providers) {
        self.providers.store(Arc::new(providers));
    }

    /// Whoever has shown another one is signed out.
    pub fn set_admin_token(&self, token: &str) {
        let digest = auth::digest(token);
        if *self.admin_token.swap(Arc::new(digest)) != digest {
            self.sessions.end_all();
        }
    }

    /// What is shown of it.
    pub fn set_configuration(&self, configuration: view::Configuration) {
        self.configuration.store(Arc::new(configuration));
    }

    pub fn set_public_stats(&self, on: bool) {
        self.public_stats.store(on, Ordering::Relaxed);
    }

    /// The provider of that name, or the default provider.
    fn provider(&self, name: Option<&str>) -> Result<ProviderEntry, ApiError> {
        let providers = self.providers.load();
        let name = name.unwrap_or(&providers.default);
        let found = providers.entries.iter().find(|entry| *entry.name == *name);
        found.cloned().ok_or_else(|| ApiError::unknown_provider(name))
    }

    /// As [`State::provider`], where both the query and the body may name it.
    fn provider_of(&self, query: Option<&str>, body: Option<&str>) -> Result<ProviderEntry, ApiError> {
        if let (Some(query), Some(body)) = (query, body)
            && query != body
        {
            return Err(ApiError::bad_request(
                view::Code::ProviderMismatch,
                "The query and the body name different providers: name it once.",
            )
            .param("provider"));
        }
        self.provider(query.or(body))
    }

    /// Makes a change, alone and to its end: a caller that leaves must not part the disk from the memory.
    async fn change<T: Send + 'static, F>(
        self: &Arc<Self>,
        work: impl FnOnce(Arc<Self>) -> F,
    ) -> Result<T, ApiError>
    where
        F: Future<Output = Result<T, ApiError>> + Send + 'static,
    {
        let (state, work) = (self.clone(), work(self.clone()));
        let task = tokio::spawn(async move {
            let _alone = state.edits.lock().await;
            let done = work.await;
            state.sync.changed();
            done
        });
        task.await.unwrap_or_else(|failed| {
            tracing::error!("a change failed: {failed}");
            Err(ApiError::internal())
        })
    }
}

type Shared = Arc<State>;

/// Work that computes for a while, away from the tasks that answer others.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|failed| {
        tracing::error!("a request's work failed: {failed}");
        ApiError::internal()
    })
}

/// The control API alone, as the web pages ask it; `/` says what is here.
pub fn router(state: Arc<State>) -> Router {
    paths(state).route("/", get(index)).fallback(async || ApiError::unknown_path())
}

fn paths(state: Arc<State>) -> Router {
    let closed = Router::new()
        .route("/admin/stats", get(stats::stats))
        .route("/admin/trend", get(trend::trend))
        .route("/admin/api-keys", get(keys::list).post(keys::add).delete(keys::delete_many))
        .route("/admin/api-keys/ids", get(keys::ids))
        .route("/admin/api-keys/{id}", get(keys::show).patch(keys::edit).delete(keys::delete_one))
        .route("/admin/api-keys/import", post(import::import))
        .route("/admin/api-keys/export", post(export::export))
        .route("/admin/keys/stats", get(keys::stats))
        .route("/admin/keys/{id}/hours", get(counted::hours))
        .route("/admin/shared-keys", get(counted::shared_keys))
        .route("/admin/users/{id}/days", get(counted::days))
        .route("/admin/keys/enable", post(switch::enable))
        .route("/admin/keys/disable", post(switch::disable))
        .route("/admin/keys/health-check", post(switch::health_check))
        .route("/admin/tokens", get(tokens::list).post(tokens::add).delete(tokens::delete_many))
        .route("/admin/tokens/{id}", get(tokens::show).patch(tokens::edit).delete(tokens::delete_one))
        .route("/admin/users", get(users::list).post(users::add))
        .route("/admin/users/{id}", get(users::show).patch(users::edit).delete(users::delete))
        .route("/admin/events", get(events::list))
        .route("/admin/verdicts", get(events::verdicts))
        .route("/admin/verdicts/{subject}", delete(events::lift))
        .route("/admin/storage", get(storage::storage))
        .route("/admin/storage/retain", post(storage::retain))
        .route("/admin/storage/backup", post(storage::backup))
        .route("/admin/providers", get(storage::providers))
        .route("/admin/config", get(playground::configuration))
        .route("/admin/playground", post(playground::ask))
        .route("/admin/playground/models", get(playground::models))
        .route("/admin/sync", get(sync::status))
        .route("/admin/sync/now", post(sync::now))
        .route("/admin/sync/adopt", post(sync::adopt))
        .route("/admin/session", get(session::show).delete(session::end))
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::require));
    Router::new()
        .merge(closed)
        .route("/admin/session", post(session::begin))
        .route("/admin/public-stats", get(stats::public))
        .route("/openapi.json", get(openapi::serve))
        .route("/api/test-templates", get(playground::templates))
        .with_state(state)
}

/// Everything that is not a provider's API; `observers` are the paths for supervision, `pages` those for people, of
/// which one is at `/`, and what answers where there is nothing.
pub fn operator_router(admin: Arc<State>, observers: Router, pages: Router) -> Router {
    paths(admin)
        .merge(observers)
        .merge(pages)
        .method_not_allowed_fallback(not_allowed)
        .layer(middleware::map_response(guarded))
}

/// Whoever types the address of a form, or loads its answer anew, gets to the pages.
async fn not_allowed(method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let accepts = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if method == Method::GET && accepts.contains("text/html") && !uri.path().starts_with("/admin/") {
        return Redirect::to("/").into_response();
    }
    ApiError::method_not_allowed().into_response()
}

/// What is said in JSON is never read as a page.
async fn guarded(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers
        .entry(header::CONTENT_SECURITY_POLICY)
        .or_insert(HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"));
    response
}

async fn index() -> Json<Value> {
    Json(json!({
        "name": "keytide",
        "version": env!("CARGO_PKG_VERSION"),
        "links": {
            "health": "/health",
            "ready": "/ready",
            "metrics": "/metrics",
            "openapi": "/openapi.json",
            "models": "/v1/models",
            "admin": "/admin/stats",
            "public_stats": "/admin/public-stats",
        },
    }))
}
