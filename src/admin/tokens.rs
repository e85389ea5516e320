//! Client tokens: made, listed, changed, revoked.

use std::collections::HashSet;

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
    form::Fault,
    limits::{self, Wish},
    listing::{Cut, contains},
    users, view,
};
use crate::{
    guard,
    model::{Limits, Secret, Timestamp, TokenId, TokenRecord, Usage},
    store::Change,
};

const MIN_OWN_LEN: usize = 16;
/// 48 characters of 62: more than 285 bits.
const RANDOM_LEN: usize = 48;

/// Lists tokens, oldest first; all of them where no page is asked for.
#[utoipa::path(get, path = "/admin/tokens", tag = "tokens", params(view::TokensQuery),
    responses((status = 200, body = view::TokenList), (status = 400, body = view::ErrorBody)))]
pub(super) async fn list(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::TokensQuery>,
) -> Result<Answer<view::TokenList>, ApiError> {
    let is_paged = query.page.is_some() || query.page_size.is_some();
    let cut = is_paged.then(|| Cut::of(query.page, query.page_size)).transpose()?;
    let provider = state.provider(query.provider.as_deref())?;
    state.sync.look();
    blocking(move || Answer(page(&state, &provider, query.search.as_deref().unwrap_or_default(), cut))).await
}

fn page(state: &State, provider: &ProviderEntry, search: &str, cut: Option<Cut>) -> view::TokenList {
    let mut tokens = provider.tokens.list();
    let needle = search.trim().to_lowercase();
    if !needle.is_empty() {
        let whole = TokenId::derive(&provider.name, search.trim());
        let is_theirs = |user| state.users.get(user).is_some_and(|user| contains(&user.record.name, &needle));
        tokens.retain(|token| {
            token.id == whole
                || contains(&token.record.name, &needle)
                || token.id.to_string().starts_with(&needle)
                || token.record.user.is_some_and(is_theirs)
        });
    }
    let total = tokens.len();
    let cut = cut.unwrap_or(Cut { page: 1, page_size: total.max(1) });
    let tokens = state.ledger.read(|books| {
        let books = books.providers.get(&*provider.name);
        let usage = |id| books.and_then(|books| books.tokens.get(id)).copied().unwrap_or_default();
        tokens[cut.range(total)].iter().map(|token| shown(state, token, &usage(&token.id))).collect()
    });
    view::TokenList {
        provider: provider.name.to_string(),
        page: cut.page,
        page_size: cut.page_size,
        total,
        pages: total.div_ceil(cut.page_size),
        tokens,
    }
}

/// Shows one token.
#[utoipa::path(get, path = "/admin/tokens/{id}", tag = "tokens",
    params(("id" = String, Path), view::ProviderQuery),
    responses((status = 200, body = view::Token), (status = 404, body = view::ErrorBody)))]
pub(super) async fn show(
    Extract(state): Extract<Shared>,
    Path(token): Path<String>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::Token>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    in_force(&state, &provider, id(&token)?).map(Answer)
}

fn shown(state: &State, token: &guard::Token, usage: &Usage) -> view::Token {
    let (now, record) = (state.clock.now(), &token.record);
    let (_, used) = token.used(now, &state.users.zone());
    let texts = |texts: &[Box<str>]| texts.iter().map(ToString::to_string).collect();
    view::Token {
        id: token.id,
        token: record.secret.masked(),
        name: record.name.to_string(),
        created_at: record.created_at,
        expires_at: record.expires_at,
        expired: record.is_expired(now),
        allowed_models: texts(&record.limits.allowed_models),
        user: record.user,
        user_name: record.user.and_then(|user| Some(state.users.get(user)?.record.name.to_string())),
        requests_per_minute: record.limits.requests_per_minute,
        requests_per_day: record.limits.requests_per_day,
        tokens_per_day: record.limits.tokens_per_day,
        allowed_addresses: texts(&record.limits.allowed_addresses),
        requests_today: u64::try_from(used.requests).unwrap_or(0),
        tokens_today: u64::try_from(used.tokens).unwrap_or(0),
        request_count: usage.counts.total(),
        success_count: usage.counts.success,
        failure_count: usage.counts.failure,
        other_count: usage.counts.other,
        prompt_tokens: usage.prompt_tokens,
        completion_tokens: usage.completion_tokens,
        last_used: usage.last_used,
    }
}

/// Makes a token; only this answer shows it.
#[utoipa::path(post, path = "/admin/tokens", tag = "tokens", params(view::ProviderQuery),
    request_body = view::AddToken,
    responses((status = 201, body = view::Token), (status = 400, body = view::ErrorBody),
        (status = 409, body = view::ErrorBody)))]
pub(super) async fn add(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::AddToken>,
) -> Result<(StatusCode, Answer<view::Token>), ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let record = record(body, state.clock.now())?;
    let added = state.change(|state| async move {
        let id = record.id(&provider.name);
        if let Some(user) = record.user {
            users::known(&state, user, "user", "The token was not made")?;
        }
        if provider.tokens.list().iter().any(|token| token.id == id) {
            return Err(ApiError::conflict(
                view::Code::TokenExists,
                format!("This token is there already, as {id}."),
            )
            .param("token"));
        }
        let put = Change::PutToken { provider: (*provider.name).into(), record: record.clone() };
        state.store.change(vec![put]).await.map_err(|error| ApiError::store(&error))?;
        let text = record.secret.expose().to_owned();
        provider.tokens.insert(&provider.name, record);
        info!(provider = &*provider.name, token = id.short(), "token created");
        Ok(view::Token { token: text, ..in_force(&state, &provider, id)? })
    });
    Ok((StatusCode::CREATED, Answer(added.await?)))
}

/// Changes what is said of a token; its text stays.
#[utoipa::path(patch, path = "/admin/tokens/{id}", tag = "tokens",
    params(("id" = String, Path), view::ProviderQuery), request_body = view::EditToken,
    responses((status = 200, body = view::Token), (status = 400, body = view::ErrorBody),
        (status = 404, body = view::ErrorBody)))]
pub(super) async fn edit(
    Extract(state): Extract<Shared>,
    Path(token): Path<String>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::EditToken>,
) -> Result<Answer<view::Token>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let id: TokenId = id(&token)?;
    let refused = |fault: Fault| refused("Nothing was changed", &fault);
    let name = body.name.as_deref().map(limits::name).transpose().map_err(refused)?;
    let wish = Wish {
        requests_per_minute: body.requests_per_minute,
        requests_per_day: body.requests_per_day,
        tokens_per_day: body.tokens_per_day,
        allowed_models: body.allowed_models,
        allowed_addresses: body.allowed_addresses,
    };
    let limits = wish.read().map_err(refused)?;
    let (expires_at, user) = (body.expires_at, body.user);
    let edited = state.change(move |state| async move {
        let before = provider.tokens.get(id).ok_or_else(|| unknown_token(&provider))?.record.clone();
        if let Some(Some(user)) = user {
            users::known(&state, user, "user", "Nothing was changed")?;
        }
        let record = TokenRecord {
            name: name.unwrap_or_else(|| before.name.clone()),
            expires_at: expires_at.unwrap_or(before.expires_at),
            user: user.unwrap_or(before.user),
            limits: limits.over(&before.limits),
            ..before.clone()
        };
        if record != before {
            let put = Change::PutToken { provider: (*provider.name).into(), record: record.clone() };
            state.store.change(vec![put]).await.map_err(|error| ApiError::store(&error))?;
            provider.tokens.insert(&provider.name, record);
            info!(provider = &*provider.name, token = id.short(), "token edited");
        }
        in_force(&state, &provider, id)
    });
    edited.await.map(Answer)
}

fn unknown_token(provider: &ProviderEntry) -> ApiError {
    ApiError::not_found(view::Code::UnknownToken, format!("\"{}\" has no token of this id.", provider.name))
        .param("id")
}

fn in_force(state: &State, provider: &ProviderEntry, id: TokenId) -> Result<view::Token, ApiError> {
    let token = provider.tokens.get(id).ok_or_else(|| unknown_token(provider))?;
    // A token that comes back goes on with its counts.
    let usage = state.ledger.read(|books| books.providers.get(&*provider.name)?.tokens.get(&id).copied());
    Ok(shown(state, &token, &usage.unwrap_or_default()))
}

fn refused(what: &str, fault: &Fault) -> ApiError {
    ApiError::bad_request(view::Code::InvalidTokenSettings, format!("{what}: {}.", fault.why))
        .param(fault.field)
}

fn record(body: view::AddToken, now: Timestamp) -> Result<TokenRecord, ApiError> {
    let refused = |fault: Fault| refused("The token was not made", &fault);
    let because = |field, why: &str| refused(Fault { field, why: why.to_owned() });
    let name = limits::name(&body.name).map_err(refused)?;
    if body.expires_at.is_some_and(|at| at <= now) {
        return Err(because("expires_at", "expires_at must lie in the future"));
    }
    let wish = Wish {
        requests_per_minute: Some(body.requests_per_minute),
        requests_per_day: Some(body.requests_per_day),
        tokens_per_day: Some(body.tokens_per_day),
        allowed_models: Some(body.allowed_models),
        allowed_addresses: Some(body.allowed_addresses),
    };
    let limits = wish.read().map_err(refused)?.over(&Limits::default());
    let secret = match body.token {
        Some(own) => {
            let length = MIN_OWN_LEN..=TokenRecord::MAX_SECRET_LEN;
            if !length.contains(&own.len()) || !own.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(because("token", "an own value must have 16 to 256 visible ASCII characters"));
            }
            own
        }
        None => random_token()?,
    };
    Ok(TokenRecord {
        secret: Secret::new(secret),
        name,
        created_at: now,
        expires_at: body.expires_at,
        user: body.user,
        limits,
    })
}

fn random_token() -> Result<String, ApiError> {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut token = "sk-".to_owned();
    while token.len() < "sk-".len() + RANDOM_LEN {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|why| {
            error!("the system gives no random numbers: {why}");
            ApiError::internal()
        })?;
        // 248 is the largest multiple of 62 in a byte: what lies above would make some digits likelier.
        let fair =
            bytes.iter().filter(|byte| **byte < 248).map(|byte| DIGITS[usize::from(*byte) % 62] as char);
        let left = "sk-".len() + RANDOM_LEN - token.len();
        token.extend(fair.take(left));
    }
    Ok(token)
}

/// Revokes one token; its statistics stay.
#[utoipa::path(delete, path = "/admin/tokens/{id}", tag = "tokens",
    params(("id" = String, Path), view::ProviderQuery),
    responses((status = 200, body = view::Deleted), (status = 404, body = view::ErrorBody)))]
pub(super) async fn delete_one(
    Extract(state): Extract<Shared>,
    Path(token): Path<String>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::Deleted>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let id: TokenId = id(&token)?;
    let deleted = state.change(move |state| async move {
        let (deleted, _) = revoke(&state, &provider, &[id]).await?;
        if deleted == 0 {
            return Err(unknown_token(&provider));
        }
        Ok(view::Deleted { deleted, missing: None })
    });
    deleted.await.map(Answer)
}

/// Revokes the tokens named; their statistics stay.
#[utoipa::path(delete, path = "/admin/tokens", tag = "tokens", params(view::ProviderQuery),
    request_body = view::DeleteTokens,
    responses((status = 200, body = view::Deleted), (status = 400, body = view::ErrorBody)))]
pub(super) async fn delete_many(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    Json(body): Json<view::DeleteTokens>,
) -> Result<Answer<view::Deleted>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let named = body.tokens.iter().map(|token| TokenId::derive(&provider.name, token.trim()));
    let mut ids: Vec<TokenId> = body.ids.iter().copied().chain(named).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.is_empty() {
        return Err(ApiError::bad_request(
            view::Code::InvalidSelection,
            "Say which tokens: send \"ids\": […] or \"tokens\": […].",
        )
        .param("ids"));
    }
    let deleted = state.change(move |state| async move {
        let (deleted, missing) = revoke(&state, &provider, &ids).await?;
        let missing = missing.iter().map(TokenId::to_string).collect();
        Ok(view::Deleted { deleted, missing: Some(missing) })
    });
    deleted.await.map(Answer)
}

async fn revoke(
    state: &State,
    provider: &ProviderEntry,
    ids: &[TokenId],
) -> Result<(usize, Vec<TokenId>), ApiError> {
    let known: HashSet<_> = provider.tokens.list().iter().map(|token| token.id).collect();
    let (found, missing): (Vec<TokenId>, Vec<_>) = ids.iter().partition(|id| known.contains(id));
    let delete = |id: &TokenId| Change::DeleteToken { provider: (*provider.name).into(), id: *id };
    let changes = found.iter().map(delete).collect();
    state.store.change(changes).await.map_err(|error| ApiError::store(&error))?;
    let now = state.clock.now();
    let deleted = found.iter().filter(|id| provider.tokens.remove(**id, now).is_some()).count();
    info!(provider = &*provider.name, deleted, "tokens revoked");
    Ok((deleted, missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_tokens_are_long_and_differ() {
        let (a, b) = (random_token().unwrap(), random_token().unwrap());
        assert_ne!(a, b);
        assert!(a.len() == 51 && a.starts_with("sk-") && a[3..].bytes().all(|b| b.is_ascii_alphanumeric()));
    }
}
