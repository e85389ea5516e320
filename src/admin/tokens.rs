//! Client tokens: made, listed, revoked.

use std::collections::HashSet;

use axum::{
    Json as Answer,
    extract::{Path, State as Extract},
};
use http::StatusCode;
use tracing::{error, info};

use super::{
    ProviderEntry, Shared, State,
    error::ApiError,
    extract::{Json, Query, id},
    view,
};
use crate::{
    model::{Limits, Secret, Timestamp, TokenId, TokenRecord, Usage},
    store::Change,
};

const MIN_OWN_LEN: usize = 16;
/// 48 characters of 62: more than 285 bits.
const RANDOM_LEN: usize = 48;

/// Lists tokens, oldest first.
#[utoipa::path(get, path = "/admin/tokens", tag = "tokens", params(view::ProviderQuery),
    responses((status = 200, body = view::TokenList)))]
pub(super) async fn list(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
) -> Result<Answer<view::TokenList>, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    state.sync.look();
    let (tokens, now) = (provider.tokens.list(), state.clock.now());
    let tokens = state.ledger.read(|books| {
        let books = books.providers.get(&*provider.name);
        let usage = |id| books.and_then(|books| books.tokens.get(id)).copied().unwrap_or_default();
        tokens.iter().map(|token| shown(token.id, &token.record, &usage(&token.id), now)).collect()
    });
    Ok(Answer(view::TokenList { provider: provider.name.to_string(), tokens }))
}

fn shown(id: TokenId, record: &TokenRecord, usage: &Usage, now: Timestamp) -> view::Token {
    view::Token {
        id,
        token: record.secret.masked(),
        name: record.name.to_string(),
        created_at: record.created_at,
        expires_at: record.expires_at,
        expired: record.is_expired(now),
        allowed_models: record.limits.allowed_models.iter().map(ToString::to_string).collect(),
        requests_per_minute: record.limits.requests_per_minute,
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
        if provider.tokens.list().iter().any(|token| token.id == id) {
            return Err(ApiError::conflict("token_exists", format!("This token is there already, as {id}."))
                .param("token"));
        }
        let put = Change::PutToken { provider: (*provider.name).into(), record: record.clone() };
        state.store.change(vec![put]).await.map_err(|error| ApiError::store(&error))?;
        let now = state.clock.now();
        let token = view::Token {
            token: record.secret.expose().to_owned(),
            ..shown(id, &record, &usage(&state, &provider, id), now)
        };
        provider.tokens.insert(&provider.name, record);
        info!(provider = &*provider.name, token = id.short(), "token created");
        Ok(token)
    });
    Ok((StatusCode::CREATED, Answer(added.await?)))
}

/// A token that comes back goes on with its counts.
fn usage(state: &State, provider: &ProviderEntry, id: TokenId) -> Usage {
    let usage = state.ledger.read(|books| books.providers.get(&*provider.name)?.tokens.get(&id).copied());
    usage.unwrap_or_default()
}

fn record(body: view::AddToken, now: Timestamp) -> Result<TokenRecord, ApiError> {
    let refused = |param: &'static str, why: &str| {
        ApiError::bad_request("invalid_token_settings", format!("The token was not made: {why}."))
            .param(param)
    };
    let view::AddToken { name, expires_at, allowed_models, requests_per_minute, token } = body;
    let name = name.trim();
    if !(1..=TokenRecord::MAX_NAME_LEN).contains(&name.chars().count()) || name.chars().any(char::is_control)
    {
        return Err(refused("name", "its name must have 1 to 128 characters and no line breaks"));
    }
    if expires_at.is_some_and(|at| at <= now) {
        return Err(refused("expires_at", "expires_at must lie in the future"));
    }
    if requests_per_minute.is_some_and(|limit| !(1..=Limits::MAX_PER_MINUTE).contains(&limit)) {
        return Err(refused("requests_per_minute", "requests_per_minute must be from 1 to 1000000"));
    }
    let models = allowed_models.unwrap_or_default();
    if models.len() > Limits::MAX_MODELS {
        return Err(refused("allowed_models", "at most 256 models can be named"));
    }
    let mut allowed_models: Vec<Box<str>> = Vec::with_capacity(models.len());
    for model in &models {
        let model = model.trim();
        if model.is_empty() || model.len() > Limits::MAX_MODEL_LEN || model.chars().any(char::is_control) {
            return Err(refused("allowed_models", "a model's name must have 1 to 256 characters"));
        }
        if !allowed_models.iter().any(|known| **known == *model) {
            allowed_models.push(model.into());
        }
    }
    let secret = match token {
        Some(own) => {
            let length = MIN_OWN_LEN..=TokenRecord::MAX_SECRET_LEN;
            if !length.contains(&own.len()) || !own.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(refused("token", "an own value must have 16 to 256 visible ASCII characters"));
            }
            own
        }
        None => random_token()?,
    };
    Ok(TokenRecord {
        secret: Secret::new(secret),
        name: name.into(),
        created_at: now,
        expires_at,
        user: None,
        limits: Limits { allowed_models, requests_per_minute, ..Limits::default() },
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
            let why = format!("\"{}\" has no token of this id.", provider.name);
            return Err(ApiError::not_found("unknown_token", why).param("id"));
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
            "invalid_selection",
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
    let deleted = found.iter().filter(|id| provider.tokens.remove(**id).is_some()).count();
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
