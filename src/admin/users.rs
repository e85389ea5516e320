//! Users: made, listed, changed, deleted.

use std::{cmp::Ordering, collections::HashMap, sync::Arc};

use axum::{
    Json as Answer,
    extract::{Path, State as Extract},
};
use http::StatusCode;
use tracing::info;
use uuid::Uuid;

use super::{
    Shared, State, blocking,
    error::ApiError,
    extract::{Json, Query, id},
    form::{self, Fault},
    limits::{self, Wish},
    listing::{Cut, contains},
    view::{self, Code, Order, OwnToken, UserSort},
};
use crate::{
    guard,
    model::{Limits, UserId, UserRecord},
    store::Change,
};

/// Lists users.
#[utoipa::path(get, path = "/admin/users", tag = "users", params(view::UsersQuery),
    responses((status = 200, body = view::UserPage), (status = 400, body = view::ErrorBody)))]
pub(super) async fn list(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::UsersQuery>,
) -> Result<Answer<view::UserPage>, ApiError> {
    let cut = Cut::of(query.page, query.page_size)?;
    state.sync.look();
    blocking(move || Answer(page(&state, &query, cut))).await
}

fn page(state: &State, query: &view::UsersQuery, cut: Cut) -> view::UserPage {
    let needle = query.search.as_deref().unwrap_or_default().trim().to_lowercase();
    let is_wanted = |user: &Arc<guard::User>| {
        query.enabled.is_none_or(|enabled| user.record.enabled == enabled)
            && (needle.is_empty()
                || contains(&user.record.name, &needle)
                || user.id.to_string().starts_with(&needle))
    };
    let (now, zone) = (state.clock.now(), state.users.zone());
    let mut users = state.users.list();
    users.retain(is_wanted);
    let sort = query.sort.unwrap_or_default();
    // Read once: they move while they are compared.
    let mut users: Vec<_> = users
        .into_iter()
        .map(|user| {
            let used = match sort {
                UserSort::RequestsToday => user.used(now, &zone).1.requests,
                UserSort::TokensToday => user.used(now, &zone).1.tokens,
                UserSort::CreatedAt | UserSort::Name => 0,
            };
            (user, used)
        })
        .collect();
    let descending = query.order.unwrap_or_default() == Order::Desc;
    users.sort_unstable_by(|(a, used_a), (b, used_b)| {
        let order = match sort {
            UserSort::CreatedAt => a.record.created_at.cmp(&b.record.created_at),
            UserSort::Name => by_name(&a.record.name, &b.record.name),
            UserSort::RequestsToday | UserSort::TokensToday => used_a.cmp(used_b),
        };
        (if descending { order.reverse() } else { order }).then_with(|| a.id.cmp(&b.id))
    });
    let total = users.len();
    let mut own = own_tokens(state);
    let users = users[cut.range(total)]
        .iter()
        .map(|(user, _)| shown(state, user, own.remove(&user.id).unwrap_or_default()))
        .collect();
    let pages = total.div_ceil(cut.page_size);
    view::UserPage { page: cut.page, page_size: cut.page_size, total, pages, users }
}

fn by_name(a: &str, b: &str) -> Ordering {
    a.to_lowercase().cmp(&b.to_lowercase()).then_with(|| a.cmp(b))
}

fn own_tokens(state: &State) -> HashMap<UserId, Vec<OwnToken>> {
    let mut own = HashMap::<_, Vec<_>>::new();
    for provider in &state.providers.load().entries {
        for token in provider.tokens.list() {
            if let Some(user) = token.record.user {
                own.entry(user).or_default().push(OwnToken {
                    provider: provider.name.to_string(),
                    id: token.id,
                    name: token.record.name.to_string(),
                });
            }
        }
    }
    own
}

fn shown(state: &State, user: &guard::User, tokens: Vec<OwnToken>) -> view::User {
    let (day, used) = user.used(state.clock.now(), &state.users.zone());
    let UserRecord { name, note, created_at, enabled, limits } = &user.record;
    let texts = |texts: &[Box<str>]| texts.iter().map(ToString::to_string).collect();
    view::User {
        id: user.id,
        name: name.to_string(),
        note: note.as_ref().map(ToString::to_string),
        enabled: *enabled,
        created_at: *created_at,
        requests_per_minute: limits.requests_per_minute,
        requests_per_day: limits.requests_per_day,
        tokens_per_day: limits.tokens_per_day,
        allowed_models: texts(&limits.allowed_models),
        allowed_addresses: texts(&limits.allowed_addresses),
        requests_today: u64::try_from(used.requests).unwrap_or(0),
        tokens_today: u64::try_from(used.tokens).unwrap_or(0),
        day_ends_at: day.end,
        tokens,
    }
}

/// Shows one user.
#[utoipa::path(get, path = "/admin/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 200, body = view::User), (status = 404, body = view::ErrorBody)))]
pub(super) async fn show(
    Extract(state): Extract<Shared>,
    Path(user): Path<String>,
) -> Result<Answer<view::User>, ApiError> {
    in_force(&state, id(&user)?).map(Answer)
}

fn in_force(state: &State, id: UserId) -> Result<view::User, ApiError> {
    let user = state.users.get(id).ok_or_else(unknown_user)?;
    Ok(shown(state, &user, own_tokens(state).remove(&id).unwrap_or_default()))
}

fn unknown_user() -> ApiError {
    ApiError::not_found(
        Code::UnknownUser,
        "There is no user of this id: GET /admin/users lists those there are.",
    )
    .param("id")
}

/// Whether there is such a user for a token or a key to belong to.
pub(super) fn known(
    state: &State,
    user: UserId,
    param: &'static str,
    otherwise: &str,
) -> Result<(), ApiError> {
    if state.users.get(user).is_some() {
        return Ok(());
    }
    let why =
        format!("{otherwise}: there is no user of the id {user}; GET /admin/users lists those there are.");
    Err(ApiError::bad_request(Code::UnknownUser, why).param(param))
}

/// Makes a user.
#[utoipa::path(post, path = "/admin/users", tag = "users", request_body = view::AddUser,
    responses((status = 201, body = view::User), (status = 400, body = view::ErrorBody),
        (status = 409, body = view::ErrorBody)))]
pub(super) async fn add(
    Extract(state): Extract<Shared>,
    Json(body): Json<view::AddUser>,
) -> Result<(StatusCode, Answer<view::User>), ApiError> {
    let refused = |fault: Fault| refused("The user was not made", &fault);
    let name = limits::name(&body.name).map_err(refused)?;
    let note = form::text(body.note).map_err(note_fault).map_err(refused)?;
    let wish = Wish {
        requests_per_minute: Some(body.requests_per_minute),
        requests_per_day: Some(body.requests_per_day),
        tokens_per_day: Some(body.tokens_per_day),
        allowed_models: Some(body.allowed_models),
        allowed_addresses: Some(body.allowed_addresses),
    };
    let limits = wish.read().map_err(refused)?.over(&Limits::default());
    let enabled = body.enabled.unwrap_or(true);
    let created_at = state.clock.now();
    let record = UserRecord { name, note, created_at, enabled, limits };
    let added = state.change(move |state| async move {
        if state.users.len() >= UserRecord::MAX_COUNT {
            let why = format!("There are {} users, the most that there can be.", UserRecord::MAX_COUNT);
            return Err(ApiError::conflict(Code::TooManyUsers, why));
        }
        is_free(&state, &record.name, None)?;
        let id = UserId(Uuid::new_v4().as_u128());
        put(&state, id, record).await?;
        info!(user = id.short(), "user created");
        in_force(&state, id)
    });
    Ok((StatusCode::CREATED, Answer(added.await?)))
}

fn note_fault(flaw: view::Flaw) -> Fault {
    let why = form::says(flaw);
    Fault { field: "note", why: format!("note {why}") }
}

fn refused(what: &str, fault: &Fault) -> ApiError {
    ApiError::bad_request(Code::InvalidUserSettings, format!("{what}: {}.", fault.why)).param(fault.field)
}

/// People tell users apart by their names.
fn is_free(state: &State, name: &str, but_for: Option<UserId>) -> Result<(), ApiError> {
    let lower = name.to_lowercase();
    let is_same = |user: &guard::User| {
        Some(user.id) != but_for
            && (user.record.name.eq_ignore_ascii_case(name) || user.record.name.to_lowercase() == lower)
    };
    match state.users.list().iter().find(|user| is_same(user)) {
        None => Ok(()),
        Some(user) => Err(ApiError::conflict(
            Code::UserExists,
            format!("There is a user of this name already, with the id {}.", user.id),
        )
        .param("name")),
    }
}

/// Durable, then in force.
async fn put(state: &State, id: UserId, record: UserRecord) -> Result<(), ApiError> {
    let put = Change::PutUser { id, record: record.clone() };
    state.store.change(vec![put]).await.map_err(|error| ApiError::store(&error))?;
    state.users.insert(id, record);
    Ok(())
}

/// Changes what is said of a user. One that is disabled keeps tokens and figures; answers under way end.
#[utoipa::path(patch, path = "/admin/users/{id}", tag = "users", params(("id" = String, Path)),
    request_body = view::EditUser,
    responses((status = 200, body = view::User), (status = 400, body = view::ErrorBody),
        (status = 404, body = view::ErrorBody), (status = 409, body = view::ErrorBody)))]
pub(super) async fn edit(
    Extract(state): Extract<Shared>,
    Path(user): Path<String>,
    Json(body): Json<view::EditUser>,
) -> Result<Answer<view::User>, ApiError> {
    let id: UserId = id(&user)?;
    let refused = |fault: Fault| refused("Nothing was changed", &fault);
    let name = body.name.as_deref().map(limits::name).transpose().map_err(refused)?;
    let note = body.note.map(form::text).transpose().map_err(note_fault).map_err(refused)?;
    let wish = Wish {
        requests_per_minute: body.requests_per_minute,
        requests_per_day: body.requests_per_day,
        tokens_per_day: body.tokens_per_day,
        allowed_models: body.allowed_models,
        allowed_addresses: body.allowed_addresses,
    };
    let limits = wish.read().map_err(refused)?;
    let enabled = body.enabled;
    let edited = state.change(move |state| async move {
        let before = state.users.get(id).ok_or_else(unknown_user)?.record.clone();
        if let Some(name) = &name {
            is_free(&state, name, Some(id))?;
        }
        let record = UserRecord {
            name: name.unwrap_or_else(|| before.name.clone()),
            note: note.unwrap_or_else(|| before.note.clone()),
            enabled: enabled.unwrap_or(before.enabled),
            limits: limits.over(&before.limits),
            created_at: before.created_at,
        };
        if record != before {
            put(&state, id, record).await?;
            info!(user = id.short(), "user edited");
        }
        in_force(&state, id)
    });
    edited.await.map(Answer)
}

/// Deletes a user. The tokens stay, and are refused; what was counted stays too.
#[utoipa::path(delete, path = "/admin/users/{id}", tag = "users", params(("id" = String, Path)),
    responses((status = 200, body = view::Deleted), (status = 404, body = view::ErrorBody)))]
pub(super) async fn delete(
    Extract(state): Extract<Shared>,
    Path(user): Path<String>,
) -> Result<Answer<view::Deleted>, ApiError> {
    let id: UserId = id(&user)?;
    let deleted = state.change(move |state| async move {
        if state.users.get(id).is_none() {
            return Err(unknown_user());
        }
        let delete = Change::DeleteUser { id };
        state.store.change(vec![delete]).await.map_err(|error| ApiError::store(&error))?;
        state.users.remove(id, state.clock.now());
        info!(user = id.short(), "user deleted");
        Ok(view::Deleted { deleted: 1, missing: None })
    });
    deleted.await.map(Answer)
}
