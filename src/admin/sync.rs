//! Replication as an operator sees and steers it.

use axum::{Json as Answer, extract::State as Extract};
use futures_util::future::BoxFuture;
use http::StatusCode;
use tracing::info;

use super::{
    Shared,
    error::ApiError,
    extract::{Json, Query},
    storage::Nothing,
    view,
};
use crate::replica::status::HubStatus;

/// What the control API asks of replication.
pub trait Replication: Send + Sync {
    /// As of the last rounds, with the names of the others as of a minute ago at most, where the hub can be asked.
    fn status(&self) -> BoxFuture<'_, Vec<HubStatus>>;

    /// Somebody looks at statistics: the next round reads them, however the budget stands.
    fn look(&self);

    /// A person has changed something that the other instances should know soon.
    fn changed(&self);

    /// Goes through a round of every hub, or of the one that is named, statistics too; returns how each stands
    /// after it.
    fn now(&self, hub: Option<String>) -> BoxFuture<'_, Result<Vec<HubStatus>, Refusal>>;

    /// Makes the database that is reached now the hub; returns what was done, for people.
    fn adopt(&self, hub: Option<String>) -> BoxFuture<'_, Result<Vec<String>, Refusal>>;
}

/// Why a wish cannot be fulfilled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The names of those there are.
    UnknownHub(Vec<String>),
    /// Nothing replicates.
    Off,
    /// One sentence with what to do.
    Failed(String),
}

/// How replication stands, hub by hub.
#[utoipa::path(get, path = "/admin/sync", tag = "sync", responses((status = 200, body = view::Sync)))]
pub(super) async fn status(
    Extract(state): Extract<Shared>,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<view::Sync> {
    Answer(view::Sync { hubs: state.sync.status().await })
}

/// Replicates now, and answers when it is done.
#[utoipa::path(post, path = "/admin/sync/now", tag = "sync", request_body = view::SyncHub,
    responses((status = 200, body = view::Sync), (status = 404, body = view::ErrorBody),
        (status = 409, body = view::ErrorBody), (status = 502, body = view::ErrorBody)))]
pub(super) async fn now(
    Extract(state): Extract<Shared>,
    Query(Nothing {}): Query<Nothing>,
    Json(body): Json<view::SyncHub>,
) -> Result<Answer<view::Sync>, ApiError> {
    let hubs = state.sync.now(body.hub).await.map_err(refused)?;
    Ok(Answer(view::Sync { hubs }))
}

/// Makes the database that is reached now the hub, from what this instance knows.
#[utoipa::path(post, path = "/admin/sync/adopt", tag = "sync", request_body = view::SyncHub,
    responses((status = 200, body = view::Adopted), (status = 404, body = view::ErrorBody),
        (status = 409, body = view::ErrorBody), (status = 502, body = view::ErrorBody)))]
pub(super) async fn adopt(
    Extract(state): Extract<Shared>,
    Query(Nothing {}): Query<Nothing>,
    Json(body): Json<view::SyncHub>,
) -> Result<Answer<view::Adopted>, ApiError> {
    // To its end, also when the caller leaves.
    let sync = state.sync.clone();
    let work = tokio::spawn(async move { sync.adopt(body.hub).await });
    let done = work.await.map_err(|failed| {
        tracing::error!("an adoption failed: {failed}");
        ApiError::internal()
    })?;
    let done = done.map_err(refused)?;
    info!("a hub was adopted: {}", done.join("; "));
    Ok(Answer(view::Adopted { done }))
}

fn refused(refusal: Refusal) -> ApiError {
    match refusal {
        Refusal::UnknownHub(known) => {
            let why = format!("There is no hub of this name; there are: {}.", known.join(", "));
            ApiError::not_found(view::Code::UnknownHub, why).param("hub")
        }
        Refusal::Off => ApiError::conflict(
            view::Code::SyncOff,
            "Nothing replicates: set DATABASE_URL, or [sync] in the configuration, and restart.",
        ),
        Refusal::Failed(why) => ApiError::new(StatusCode::BAD_GATEWAY, view::Code::HubFailed, why),
    }
}
