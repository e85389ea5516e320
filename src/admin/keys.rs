//! Keys one by one and as lists.

use axum::{
    Json as Answer,
    extract::{Path, State as Extract},
};
use http::StatusCode;
use tracing::{error, info};

use super::{
    ProviderEntry, Shared, State, blocking,
    error::ApiError,
    extract::{Json, Query, id},
    form,
    listing::{self, Cut, Listed, Wanted},
    users, view,
};
use crate::{
    model::{Health, KeyId, KeyRecord, KeyUsage},
    pool::KeyView,
    store::Change,
};

/// Changes in one transaction: large enough to be quick, small enough for the books' commits to get between.
pub(super) const AT_ONCE: usize = 20_000;
/// Keys put into or taken out of the pool before others get a turn.
const IN_A_ROW: usize = 256;

/// Lists keys.
#[utoipa::path(get, path = "/admin/api-keys", tag = "keys", params(view::KeysQuery),
    responses((status = 200, body = view::KeyPage)))]
pub(super) async fn list(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::KeysQuery>,
) -> Result<Answer<view::KeyPage>, ApiError> {
    let (listed, provider) = page(&state, query).await?;
    let (pages, now) = (listed.pages(), state.clock.now());
    Ok(Answer(view::KeyPage {
        provider: provider.name.to_string(),
        page: listed.cut.page,
        page_size: listed.cut.page_size,
        total: listed.total,
        pages,
        keys: listed.keys.into_iter().map(|(key, usage)| view::Key::new(key, &usage, now)).collect(),
    }))
}

/// Lists keys' statistics.
#[utoipa::path(get, path = "/admin/keys/stats", tag = "keys", params(view::KeysQuery),
    responses((status = 200, body = view::KeyStatsPage)))]
pub(super) async fn stats(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::KeysQuery>,
) -> Result<Answer<view::KeyStatsPage>, ApiError> {
    let (listed, provider) = page(&state, query).await?;
    let pages = listed.pages();
    let row = |(key, usage): (KeyView, KeyUsage)| view::KeyStatsRow {
        id: key.id,
        key: key.secret,
        username: key.username.map(Into::into),
        status: key.status,
        stats: view::KeyStats::new(&usage),
        consecutive_failures: key.health.consecutive_failures,
    };
    Ok(Answer(view::KeyStatsPage {
        provider: provider.name.to_string(),
        page: listed.cut.page,
        page_size: listed.cut.page_size,
        total: listed.total,
        pages,
        keys: listed.keys.into_iter().map(row).collect(),
    }))
}

pub(super) async fn page(
    state: &Shared,
    query: view::KeysQuery,
) -> Result<(Listed, ProviderEntry), ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let cut = Cut::of(query.page, query.page_size)?;
    state.sync.look();
    let state = state.clone();
    blocking(move || (listing::list(&state, &provider, &query, cut), provider)).await
}

/// Lists the ids of all keys that are wanted, for a change of them.
#[utoipa::path(get, path = "/admin/api-keys/ids", tag = "keys", params(view::KeyIdsQuery),
    responses((status = 200, body = view::KeyIds)))]
pub(super) async fn ids(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::KeyIdsQuery>,
) -> Result<Answer<view::KeyIds>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let now = state.clock.now();
    blocking(move || {
        let wanted = Wanted::new(query.status, query.search.as_deref(), &provider);
        let ids = listing::ids_of(&provider.pool, &wanted, now);
        Answer(view::KeyIds { provider: provider.name.to_string(), ids })
    })
    .await
}

/// Shows one key.
#[utoipa::path(get, path = "/admin/api-keys/{id}", tag = "keys",
    params(("id" = String, Path), view::ProviderQuery),
    responses((status = 200, body = view::Key), (status = 404, body = view::ErrorBody)))]
pub(super) async fn show(
    Extract(state): Extract<Shared>,
    Path(key): Path<String>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::Key>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    shown(&state, &provider, id(&key)?).map(Answer)
}

fn shown(state: &State, provider: &ProviderEntry, id: KeyId) -> Result<view::Key, ApiError> {
    let now = state.clock.now();
    let key = provider.pool.get(id, now).ok_or_else(|| unknown_key(provider))?;
    let usage = state.ledger.read(|books| {
        let books = books.providers.get(&*provider.name)?;
        books.keys.get(&id).copied()
    });
    Ok(view::Key::new(key, &usage.unwrap_or_default(), now))
}

pub(super) fn unknown_key(provider: &ProviderEntry) -> ApiError {
    ApiError::not_found(view::Code::UnknownKey, format!("\"{}\" has no key of this id.", provider.name))
        .param("id")
}

/// Adds one key.
#[utoipa::path(post, path = "/admin/api-keys", tag = "keys", params(view::ProviderQuery),
    request_body = view::AddKey,
    responses((status = 201, body = view::Key), (status = 400, body = view::ErrorBody),
        (status = 409, body = view::ErrorBody)))]
pub(super) async fn add(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::AddKey>,
) -> Result<(StatusCode, Answer<view::Key>), ApiError> {
    let provider = state.provider_of(query.provider.as_deref(), body.provider.as_deref())?;
    let view::AddKey { key, username, note, expires_at, weight, owner, .. } = body;
    let row = view::KeyRow { key: key.trim().to_owned(), username, expires_at, note, weight, owner };
    let record = form::record(row, state.clock.now()).map_err(|(_, fault)| {
        let code = if fault.field == "key" { view::Code::InvalidKey } else { view::Code::InvalidBody };
        ApiError::bad_request(code, format!("The key was not added: {}.", fault.why)).param(fault.field)
    })?;
    form::belongs(&state.providers.load(), &provider, record.secret.expose()).map_err(|(flaw, why)| {
        let is_others = flaw == view::Flaw::OtherProvider;
        let code = if is_others { view::Code::WrongProvider } else { view::Code::WrongForm };
        ApiError::bad_request(code, format!("The key was not added: {why}.")).param("key")
    })?;
    let added = state.change(|state| async move {
        let id = record.id(&provider.name);
        if let Some(owner) = record.owner {
            users::known(&state, owner, "owner", "The key was not added")?;
        }
        if provider.pool.contains(id) {
            let why = format!("This key is there already, as {id}.");
            return Err(ApiError::conflict(view::Code::KeyExists, why).param("key"));
        }
        insert(&state, &provider, &[record]).await?;
        info!(provider = &*provider.name, key = id.short(), "key added");
        shown(&state, &provider, id)
    });
    Ok((StatusCode::CREATED, Answer(added.await?)))
}

/// Makes new keys durable, then puts them in force.
///
/// A key that comes back was perhaps deleted with news of its health still on the way. So what is on the way
/// is written first, and the first change settles: the store then folds its journal before it makes it, and a
/// fold drops the health of keys that are not there.
pub(super) async fn insert(
    state: &State,
    provider: &ProviderEntry,
    records: &[KeyRecord],
) -> Result<(), ApiError> {
    let now = state.clock.now();
    let name: Box<str> = (*provider.name).into();
    let failed = |done: usize, why: &str| match done {
        0 => ApiError::unavailable(format!("Nothing was changed: {why}.")),
        _ => ApiError::unavailable(format!(
            "{done} keys were added, the others were not: {why}. Send the same again later: those that are \
             there are not added twice."
        )),
    };
    state.flush.flush().await.map_err(|why| failed(0, &why))?;
    for (chunk, done) in records.chunks(AT_ONCE).zip((0..).step_by(AT_ONCE)) {
        let settle =
            (done == 0).then(|| Change::DeleteKey { provider: name.clone(), id: chunk[0].id(&name) });
        let puts =
            chunk.iter().map(|record| Change::PutKey { provider: name.clone(), record: record.clone() });
        let changes = settle.into_iter().chain(puts).collect();
        let added = state.store.change(changes).await.map_err(|error| failed(done, &error.to_string()))?;
        // Its health begins where the store says: nothing that was concluded before says anything about it.
        let health = Health { epoch: added, ..Health::default() };
        for part in chunk.chunks(IN_A_ROW) {
            for record in part {
                if let Err(why) = provider.pool.insert(record.clone(), health.clone(), now) {
                    error!(provider = &*provider.name, "a stored key is not in force: {why}");
                }
            }
            tokio::task::yield_now().await;
        }
    }
    Ok(())
}

/// Changes what people say about a key.
#[utoipa::path(patch, path = "/admin/api-keys/{id}", tag = "keys",
    params(("id" = String, Path), view::ProviderQuery), request_body = view::EditKey,
    responses((status = 200, body = view::Key), (status = 404, body = view::ErrorBody)))]
pub(super) async fn edit(
    Extract(state): Extract<Shared>,
    Path(key): Path<String>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::EditKey>,
) -> Result<Answer<view::Key>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let id: KeyId = id(&key)?;
    let refused = |field: &'static str| {
        move |flaw| {
            let why = format!("Nothing was changed: {field} {}.", form::says(flaw));
            ApiError::bad_request(view::Code::InvalidBody, why).param(field)
        }
    };
    let username = body.username.map(form::text).transpose().map_err(refused("username"))?;
    let note = body.note.map(form::text).transpose().map_err(refused("note"))?;
    let weight = body.weight.map(form::weight).transpose().map_err(refused("weight"))?;
    let edited = state.change(|state| async move {
        let before = provider.pool.record(id).ok_or_else(|| unknown_key(&provider))?;
        if let Some(Some(owner)) = body.owner {
            users::known(&state, owner, "owner", "Nothing was changed")?;
        }
        let record = KeyRecord {
            username: username.unwrap_or_else(|| before.username.clone()),
            note: note.unwrap_or_else(|| before.note.clone()),
            weight: weight.unwrap_or(before.weight),
            expires_at: body.expires_at.unwrap_or(before.expires_at),
            owner: body.owner.unwrap_or(before.owner),
            ..before.clone()
        };
        if record != before {
            let put = Change::PutKey { provider: (*provider.name).into(), record: record.clone() };
            state.store.change(vec![put]).await.map_err(|error| ApiError::store(&error))?;
            let replaced = provider.pool.replace(id, record, false, state.clock.now());
            replaced.map_err(|_| unknown_key(&provider))?;
            info!(provider = &*provider.name, key = id.short(), "key edited");
        }
        shown(&state, &provider, id)
    });
    edited.await.map(Answer)
}

/// Deletes one key; its statistics stay.
#[utoipa::path(delete, path = "/admin/api-keys/{id}", tag = "keys",
    params(("id" = String, Path), view::ProviderQuery),
    responses((status = 200, body = view::Deleted), (status = 404, body = view::ErrorBody)))]
pub(super) async fn delete_one(
    Extract(state): Extract<Shared>,
    Path(key): Path<String>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::Deleted>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let id: KeyId = id(&key)?;
    let deleted = state.change(|state| async move {
        if !provider.pool.contains(id) {
            return Err(unknown_key(&provider));
        }
        remove(&state, &provider, &[id]).await
    });
    Ok(Answer(view::Deleted { deleted: deleted.await?, missing: None }))
}

/// Deletes the keys named; their statistics stay.
#[utoipa::path(delete, path = "/admin/api-keys", tag = "keys", params(view::ProviderQuery),
    request_body = view::DeleteKeys,
    responses((status = 200, body = view::Deleted), (status = 400, body = view::ErrorBody)))]
pub(super) async fn delete_many(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::DeleteKeys>,
) -> Result<Answer<view::Deleted>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let named = body.keys.iter().map(|key| KeyId::derive(&provider.name, key.trim()));
    let ids: Vec<KeyId> = body.ids.iter().copied().chain(named).collect();
    if ids.is_empty() {
        return Err(ApiError::bad_request(
            view::Code::InvalidSelection,
            "Say which keys: send \"ids\": […] or \"keys\": […].",
        )
        .param("ids"));
    }
    let deleted = state.change(|state| async move {
        let selected = listing::select(&state, &provider, Some(&ids), false, None)?;
        let deleted = remove(&state, &provider, &selected.found).await?;
        let missing = selected.missing.iter().map(KeyId::to_string).collect();
        Ok(view::Deleted { deleted, missing: Some(missing) })
    });
    deleted.await.map(Answer)
}

async fn remove(state: &State, provider: &ProviderEntry, ids: &[KeyId]) -> Result<usize, ApiError> {
    let mut deleted = 0;
    for chunk in ids.chunks(AT_ONCE) {
        let delete = |id: &KeyId| Change::DeleteKey { provider: (*provider.name).into(), id: *id };
        let result = state.store.change(chunk.iter().map(delete).collect()).await;
        result.map_err(|error| match deleted {
            0 => ApiError::store(&error),
            _ => ApiError::unavailable(format!("{deleted} keys were deleted, the others were not: {error}.")),
        })?;
        for part in chunk.chunks(IN_A_ROW) {
            deleted += part.iter().filter(|id| provider.pool.remove(**id).is_some()).count();
            tokio::task::yield_now().await;
        }
    }
    info!(provider = &*provider.name, deleted, "keys deleted");
    Ok(deleted)
}
