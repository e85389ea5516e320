//! The store's file and its backups, and the providers there are.

use std::path::{Path, PathBuf, absolute};

use axum::{Json as Answer, extract::State as Extract};
use futures_util::future::BoxFuture;
use http::StatusCode;
use serde::Deserialize;
use tracing::info;

use super::{
    Shared,
    error::ApiError,
    extract::{Json, Query},
    view,
};
use crate::{
    model::Space,
    pool::Strategy,
    store::{Error, Sizes},
};

/// For paths that take no parameters.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Nothing {}

/// What the control API asks of those who keep file and hubs to their budgets.
pub trait Spaces: Send + Sync {
    /// The file as it is now, measured and brought to the rung that follows from it.
    fn file(&self) -> BoxFuture<'_, Result<(Sizes, Space), Error>>;

    /// Has every hub keep to its budget now.
    fn retain(&self) -> BoxFuture<'_, ()>;

    /// Every hub as of the last minute, where it can be asked.
    fn hubs(&self) -> BoxFuture<'_, Vec<view::HubSpace>>;
}

/// The store's file and the hubs: how large they are against their budgets, how they grow, what was done about it, and
/// whether the file can be written.
#[utoipa::path(get, path = "/admin/storage", tag = "storage",
    responses((status = 200, body = view::Storage)))]
pub(super) async fn storage(
    Extract(state): Extract<Shared>,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<view::Storage> {
    Answer(look(&state).await)
}

/// Has the file and every hub that answers keep to their budgets now, and answers how they stand then: a place may be
/// over its budget all the same, and a hub that does not answer stands as it was last seen.
#[utoipa::path(post, path = "/admin/storage/retain", tag = "storage",
    responses((status = 200, body = view::Storage)))]
pub(super) async fn retain(
    Extract(state): Extract<Shared>,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<view::Storage> {
    state.spaces.retain().await;
    Answer(look(&state).await)
}

async fn look(state: &Shared) -> view::Storage {
    let measured = state.spaces.file().await;
    let unreadable = measured.as_ref().err().map(ToString::to_string);
    let problem = state.store.healthy().or(unreadable);
    let (sizes, local) =
        measured.map_or_else(|_| (None, Space::default()), |(sizes, space)| (Some(sizes), space));
    view::Storage {
        file: whole(state.store.file()),
        healthy: problem.is_none(),
        problem,
        file_bytes: sizes.as_ref().map(|sizes| sizes.file_bytes),
        journal_entries: sizes.as_ref().map(|sizes| sizes.journal_entries),
        tables: sizes.map(|sizes| sizes.tables),
        local,
        hubs: state.spaces.hubs().await,
    }
}

/// The path for whoever asks, whose current folder may be another one.
fn whole(file: &Path) -> String {
    absolute(file).unwrap_or_else(|_| file.to_owned()).display().to_string()
}

/// Copies the store into a new file on the server.
#[utoipa::path(post, path = "/admin/storage/backup", tag = "storage", request_body = view::Backup,
    responses((status = 200, body = view::BackupDone), (status = 400, body = view::ErrorBody),
        (status = 409, body = view::ErrorBody)))]
pub(super) async fn backup(
    Extract(state): Extract<Shared>,
    Query(Nothing {}): Query<Nothing>,
    Json(body): Json<view::Backup>,
) -> Result<Answer<view::BackupDone>, ApiError> {
    let to = PathBuf::from(&body.file);
    if !to.is_absolute() || body.file.contains('\0') || to.file_name().is_none() {
        let why = "\"file\" must be an absolute path on the server, like /var/backups/keytide.redb.";
        return Err(ApiError::bad_request(view::Code::InvalidPath, why).param("file"));
    }
    let failed = |error: Error| {
        let (status, code) = match error {
            Error::Exists(_) => (StatusCode::CONFLICT, view::Code::FileExists),
            Error::Permission { .. } | Error::NotAFolder(_) | Error::NotAFile(_) | Error::Missing(_) => {
                (StatusCode::BAD_REQUEST, view::Code::InvalidPath)
            }
            _ => (StatusCode::SERVICE_UNAVAILABLE, view::Code::StoreUnavailable),
        };
        ApiError::new(status, code, format!("There is no backup: {error}.")).param("file")
    };
    let unsealed = |why: String| {
        let message = format!(
            "There is no backup: what the hub has not been told could not be closed off ({why}), and with it in two files \
             it would count twice. See to that and try again, or stop keytide and copy the file.",
        );
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, view::Code::StoreUnavailable, message)
    };
    state.flush.prepare().await.map_err(unsealed)?;
    let frozen = {
        let _no_edits = state.edits.lock().await;
        // What was counted up to now belongs into it.
        let _held = state.flush.seal().await.map_err(unsealed)?;
        state.store.freeze().await.map_err(failed)?
    };
    state.store.backup_of(frozen, to.clone(), |_| ()).await.map_err(failed)?;
    let bytes = tokio::fs::metadata(&to).await.map_or(0, |found| found.len());
    info!(file = body.file, bytes, "the store was backed up");
    Ok(Answer(view::BackupDone { file: body.file, bytes }))
}

/// Lists the providers.
#[utoipa::path(get, path = "/admin/providers", tag = "providers",
    responses((status = 200, body = Vec<view::Provider>)))]
pub(super) async fn providers(
    Extract(state): Extract<Shared>,
    Query(Nothing {}): Query<Nothing>,
) -> Answer<Vec<view::Provider>> {
    let (providers, now) = (state.providers.load_full(), state.clock.now());
    let shown = providers.entries.iter().map(|entry| view::Provider {
        name: entry.name.to_string(),
        enabled: entry.enabled,
        default: *entry.name == *providers.default,
        table_prefix: entry.table_prefix.clone(),
        strategy: strategy(entry.strategy).to_owned(),
        base_url: entry.base_url.clone(),
        keys: entry.pool.counts(now).into(),
        tokens: entry.tokens.len(),
    });
    Answer(shown.collect())
}

/// As the configuration writes it.
fn strategy(strategy: Strategy) -> &'static str {
    match strategy {
        Strategy::RoundRobin => "round_robin",
        Strategy::LeastBusy => "least_busy",
        Strategy::Weighted => "weighted",
        Strategy::Random => "random",
        Strategy::Affinity => "affinity",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_named_for_every_folder() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(
            whole(Path::new("data/keytide.redb")),
            here.join("data/keytide.redb").display().to_string()
        );
        assert_eq!(whole(Path::new("/data/keytide.redb")), "/data/keytide.redb");
    }
}
