//! The lists of models that clients ask for: fetched from the provider, kept for a while, with the names that
//! the configuration adds.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::warn;

use super::{
    ApiError,
    body::Body,
    forward::{effect_of, read_error_body},
    provider::Provider,
};
use crate::{
    guard::Token,
    model::{Effect, KeyId, Timestamp},
    pool::{Ask, Lease},
    upstream::{client::request_headers, outcome::Treat},
};

/// Far above the longest list that any provider has.
const MAX_LIST: usize = 16 * 1024 * 1024;
/// How long a failed fetch is not repeated while there is an older list.
const RETRY_MS: i64 = 10_000;

/// A provider's lists, as it gave them.
#[derive(Debug, Default)]
pub struct Lists {
    openai: tokio::sync::Mutex<Slot>,
    tags: tokio::sync::Mutex<Slot>,
}

#[derive(Debug, Default)]
struct Slot {
    kept: Option<Kept>,
    /// How and when the last fetch failed.
    failed: Option<(Instant, ApiError)>,
}

#[derive(Debug, Clone)]
struct Kept {
    entries: Arc<Vec<Value>>,
    fetched: Timestamp,
}

/// Which list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    OpenAi,
    Tags,
}

impl List {
    const fn path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/models",
            Self::Tags => "/api/tags",
        }
    }

    const fn name_field(self) -> &'static str {
        match self {
            Self::OpenAi => "id",
            Self::Tags => "name",
        }
    }
}

/// The answer to a request for a list; `token` narrows it to what the caller may use.
pub async fn answer(
    provider: &Provider,
    core: usize,
    list: List,
    token: Option<&Token>,
) -> Result<Response<Body>, ApiError> {
    let entries = entries(provider, core, list, token).await?;
    Ok(json_response(&match list {
        List::OpenAi => json!({"object": "list", "data": entries}),
        List::Tags => json!({"models": entries}),
    }))
}

/// The answer to a request for one model.
pub async fn answer_one(
    provider: &Provider,
    core: usize,
    encoded: &str,
    token: Option<&Token>,
) -> Result<Response<Body>, ApiError> {
    let id = percent_encoding::percent_decode_str(encoded).decode_utf8_lossy();
    let found = entries(provider, core, List::OpenAi, token)
        .await?
        .into_iter()
        .find(|entry| entry["id"].as_str() == Some(&*id));
    match found {
        Some(entry) => Ok(json_response(&entry)),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "model_not_found",
            "There is no such model here: GET /v1/models lists those there are.",
        )),
    }
}

fn json_response(value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::full(value.to_string()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

async fn entries(
    provider: &Provider,
    core: usize,
    list: List,
    token: Option<&Token>,
) -> Result<Vec<Value>, ApiError> {
    let mut entries = match fetched(provider, core, list).await {
        Ok(entries) => Vec::clone(&*entries),
        // Some providers list nothing, which is what `models` is for.
        Err(_) if !provider.options.models.is_empty() => Vec::new(),
        Err(error) => return Err(error),
    };
    let field = list.name_field();
    let mut names: HashSet<String> =
        entries.iter().filter_map(|entry| entry[field].as_str()).map(str::to_owned).collect();
    let options = &provider.options;
    for model in &options.models {
        if names.insert(model.clone()) {
            entries.push(entry(list, model, None, provider.name()));
        }
    }
    for (alias, target) in &options.aliases {
        if names.insert(alias.clone()) {
            let like = entries.iter().find(|entry| entry[field].as_str() == Some(target)).cloned();
            entries.push(entry(list, alias, like, provider.name()));
        }
    }
    if let Some(token) = token {
        entries.retain(|entry| entry[field].as_str().is_some_and(|name| token.record.allows_model(name)));
    }
    Ok(entries)
}

/// An entry for a name that the configuration adds, with what is known of its target.
fn entry(list: List, name: &str, like: Option<Value>, owner: &str) -> Value {
    let mut entry = like.unwrap_or_else(|| json!({}));
    match list {
        List::OpenAi => {
            entry["id"] = json!(name);
            complete(&mut entry, owner);
        }
        List::Tags => {
            entry["name"] = json!(name);
            entry["model"] = json!(name);
        }
    }
    entry
}

/// Fills in what OpenAI's shape requires and some providers leave out.
fn complete(entry: &mut Value, owner: &str) {
    if let Some(fields) = entry.as_object_mut() {
        fields.entry("object").or_insert_with(|| json!("model"));
        fields.entry("created").or_insert_with(|| json!(0));
        fields.entry("owned_by").or_insert_with(|| json!(owner));
    }
}

/// The provider's own list: as kept, or fetched anew. An old list is better than none.
async fn fetched(provider: &Provider, core: usize, list: List) -> Result<Arc<Vec<Value>>, ApiError> {
    // Held while fetching: whoever asks meanwhile gets the same list, or the same error.
    let asked = Instant::now();
    let mut slot = match list {
        List::OpenAi => provider.lists.openai.lock().await,
        List::Tags => provider.lists.tags.lock().await,
    };
    let now = provider.clock.now();
    if let Some(kept) = &slot.kept
        && now.since(kept.fetched) < provider.options.models_ttl
    {
        return Ok(kept.entries.clone());
    }
    if let Some((_, error)) = slot.failed.as_ref().filter(|(at, _)| *at > asked) {
        return Err(error.clone());
    }
    match fetch(provider, core, list).await {
        Ok(entries) => {
            for entry in &entries {
                if let Some(name) = entry[list.name_field()].as_str() {
                    provider.ledger.models.learn(name);
                }
            }
            let entries = Arc::new(entries);
            *slot = Slot { kept: Some(Kept { entries: entries.clone(), fetched: now }), failed: None };
            Ok(entries)
        }
        Err(error) => match &mut slot.kept {
            Some(kept) => {
                let ttl = i64::try_from(provider.options.models_ttl.as_millis()).unwrap_or(i64::MAX);
                kept.fetched = Timestamp(now.0.saturating_sub(ttl).saturating_add(RETRY_MS));
                Ok(kept.entries.clone())
            }
            None => {
                slot.failed = Some((Instant::now(), error.clone()));
                Err(error)
            }
        },
    }
}

async fn fetch(provider: &Provider, core: usize, list: List) -> Result<Vec<Value>, ApiError> {
    let body = call(provider, core, Method::GET, list.path(), Bytes::new()).await?;
    let value: Value = serde_json::from_slice(&body).map_err(|_| no_list())?;
    let found = match value {
        Value::Array(entries) => Some(entries),
        Value::Object(mut fields) => {
            ["data", "models"].into_iter().find_map(|field| match fields.remove(field) {
                Some(Value::Array(entries)) => Some(entries),
                _ => None,
            })
        }
        _ => None,
    };
    let mut entries = found.ok_or_else(no_list)?;
    if list == List::OpenAi {
        for entry in &mut entries {
            // Ollama's own shape names a model `name`.
            if entry["id"].is_null()
                && let Some(name) = entry["name"].as_str()
            {
                *entry = json!({"id": name});
            }
            complete(entry, provider.name());
        }
    }
    entries.retain(|entry| entry[list.name_field()].is_string());
    Ok(entries)
}

fn no_list() -> ApiError {
    ApiError::upstream(
        StatusCode::BAD_GATEWAY,
        "upstream_error",
        "The provider's list of models cannot be read: try again.",
    )
}

/// One of keytide's own calls, tried with several keys. It tells the pool how the keys are, and stays out of
/// the books, which count callers' requests.
async fn call(
    provider: &Provider,
    core: usize,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, ApiError> {
    let mut tried: Vec<KeyId> = Vec::new();
    let attempts = provider.options.max_attempts.clamp(1, 10);
    for _ in 0..attempts {
        let ask = Ask { exclude: &tried, caller: 0 };
        let Ok(lease) = provider.pool.pick(&ask, provider.clock.now()) else { break };
        tried.push(lease.key_id());
        match once(provider, core, lease, method.clone(), path, body.clone()).await {
            Outcome::Answer(status, body) if status.is_success() => return Ok(body),
            Outcome::Answer(status, _) => {
                warn!(provider = provider.name(), path, status = status.as_u16(), "no list of models");
                return Err(no_list());
            }
            Outcome::Failed(why) => warn!(provider = provider.name(), path, "no list of models: {why}"),
        }
    }
    Err(ApiError::upstream(
        StatusCode::SERVICE_UNAVAILABLE,
        "no_available_keys",
        "The provider's list of models could not be fetched with the keys there are: try again later.",
    ))
}

/// How one of keytide's own calls ended.
#[derive(Debug)]
pub enum Outcome {
    /// The key worked, whatever was said of the request.
    Answer(StatusCode, Bytes),
    /// In words.
    Failed(String),
}

/// One call with one key, whose state learns from it.
pub async fn once(
    provider: &Provider,
    core: usize,
    lease: Lease,
    method: Method,
    path: &str,
    body: Bytes,
) -> Outcome {
    let mut headers = request_headers(&HeaderMap::new(), &provider.upstream, lease.credential().clone());
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if !body.is_empty() {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    let (Some(client), Some(uri)) = (provider.client(core), provider.uri_of(path, None)) else {
        return Outcome::Failed("the connection to the provider cannot be set up".to_owned());
    };
    let broken = Effect::Server { cooldown: None };
    let response = match client.send(method, uri, headers, body).await {
        Ok(response) => response,
        Err(error) => {
            lease.finish(broken, provider.clock.now());
            return Outcome::Failed(error.to_string());
        }
    };
    let status = response.status();
    let rule = provider.upstream.rules.judge(status.as_u16(), response.headers());
    let (parts, body) = response.into_parts();
    match rule.treat_as {
        Treat::Success | Treat::Request => {
            let read =
                tokio::time::timeout(provider.upstream.idle_timeout, Limited::new(body, MAX_LIST).collect());
            match read.await {
                Ok(Ok(body)) => {
                    let effect = if status.is_success() { Effect::Success } else { Effect::None };
                    lease.finish(effect, provider.clock.now());
                    Outcome::Answer(status, body.to_bytes())
                }
                Ok(Err(_)) | Err(_) => {
                    lease.finish(broken, provider.clock.now());
                    Outcome::Failed("the provider broke off its answer".to_owned())
                }
            }
        }
        _ => {
            let body = read_error_body(body).await;
            let now = provider.clock.now();
            lease.finish(effect_of(rule, &parts.headers, &body, now), now);
            Outcome::Failed(format!("the provider answered {}", status.as_u16()))
        }
    }
}
