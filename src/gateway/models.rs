//! The lists of models that clients ask for: fetched from the provider, kept for a while, with the names that
//! the configuration adds.

use std::{collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use tracing::warn;

use super::{ApiError, Code, body::Body, peek::read_error_body, provider::Provider, verdict::effect_of};
use crate::{
    guard::Caller,
    model::{Effect, KeyId, Timestamp},
    pool::{Ask, Lease},
    upstream::{headers::RequestHeaders, outcome::Treat},
};

/// Far above the longest list that any provider has.
const MAX_LIST: usize = 16 * 1024 * 1024;
/// How long a failed fetch is not repeated: every try may cost keys their turn.
const RETRY: Duration = Duration::from_secs(10);

/// A provider's lists, as it gave them.
#[derive(Debug, Default)]
pub struct Lists {
    openai: tokio::sync::Mutex<Kept>,
    tags: tokio::sync::Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    list: Option<(Arc<Vec<Value>>, Timestamp)>,
    /// The last fetch, if it failed.
    failure: Option<(ApiError, Timestamp)>,
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

/// The answer to a request for a list; `caller` narrows it to what the caller may use.
pub async fn answer(
    provider: &Provider,
    core: usize,
    list: List,
    caller: Option<&Caller>,
) -> Result<Response<Body>, ApiError> {
    let entries = entries(provider, core, list, caller).await?;
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
    caller: Option<&Caller>,
) -> Result<Response<Body>, ApiError> {
    let id = percent_encoding::percent_decode_str(encoded).decode_utf8_lossy();
    let found = entries(provider, core, List::OpenAi, caller)
        .await?
        .into_iter()
        .find(|entry| entry["id"].as_str() == Some(&*id));
    match found {
        Some(entry) => Ok(json_response(&entry)),
        None => Err(ApiError::new(
            StatusCode::NOT_FOUND,
            Code::ModelNotFound,
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
    caller: Option<&Caller>,
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
    if let Some(caller) = caller {
        entries.retain(|entry| entry[field].as_str().is_some_and(|name| caller.allows_model(name)));
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
    let mut kept = match list {
        List::OpenAi => provider.lists.openai.lock().await,
        List::Tags => provider.lists.tags.lock().await,
    };
    let now = provider.clock.now();
    if let Some((entries, fetched)) = &kept.list
        && now.since(*fetched) < provider.options.models_ttl
    {
        return Ok(entries.clone());
    }
    let recent = |failure: &&(ApiError, Timestamp)| now.since(failure.1) < RETRY;
    let failure = match kept.failure.as_ref().filter(recent) {
        Some((error, _)) => error.clone(),
        None => match fetch(provider, core, list).await {
            Ok(entries) => {
                let names = entries.iter().filter_map(|entry| entry[list.name_field()].as_str());
                provider.ledger.models.learn_all(names);
                let entries = Arc::new(entries);
                *kept = Kept { list: Some((entries.clone(), now)), failure: None };
                return Ok(entries);
            }
            Err(NoList { error, was_asked }) => {
                // From its end on: who waited for it meanwhile shares it. Without a key nothing was asked,
                // and a key that comes is tried at once.
                kept.failure = was_asked.then(|| (error.clone(), provider.clock.now()));
                error
            }
        },
    };
    kept.list.as_ref().map(|(entries, _)| entries.clone()).ok_or(failure)
}

/// Why there is no list, and whether the provider was asked for it.
struct NoList {
    error: ApiError,
    was_asked: bool,
}

async fn fetch(provider: &Provider, core: usize, list: List) -> Result<Vec<Value>, NoList> {
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

fn no_list() -> NoList {
    let error = ApiError::upstream(
        StatusCode::BAD_GATEWAY,
        Code::UpstreamError,
        "The provider's list of models cannot be read: try again.",
    );
    NoList { error, was_asked: true }
}

/// One of keytide's own calls, tried with several keys. It tells the pool how the keys are, and stays out of
/// the books, which count callers' requests.
async fn call(
    provider: &Provider,
    core: usize,
    method: Method,
    path: &str,
    body: Bytes,
) -> Result<Bytes, NoList> {
    let mut tried: Vec<KeyId> = Vec::new();
    let attempts = provider.options.max_attempts.clamp(1, 10);
    for _ in 0..attempts {
        let ask = Ask { exclude: &tried, caller: 0 };
        let Ok(lease) = provider.pool.pick(&ask, provider.clock.now()) else { break };
        tried.push(lease.key_id());
        // Many providers show their lists to anyone: one that comes says nothing for the key.
        let listed = Effect::None;
        match once(provider, core, lease, method.clone(), path, body.clone(), listed).await {
            Outcome::Answer(status, body) if status.is_success() => return Ok(body),
            Outcome::Answer(status, _) => {
                warn!(provider = provider.name(), path, status = status.as_u16(), "no list of models");
                return Err(no_list());
            }
            Outcome::Failed(why) => warn!(provider = provider.name(), path, "no list of models: {why}"),
        }
    }
    let error = ApiError::upstream(
        StatusCode::SERVICE_UNAVAILABLE,
        Code::NoAvailableKeys,
        "The provider's list of models could not be fetched with the keys there are: try again later.",
    );
    Err(NoList { error, was_asked: !tried.is_empty() })
}

/// How one of keytide's own calls ended.
#[derive(Debug)]
pub enum Outcome {
    /// The key worked, whatever was said of the request.
    Answer(StatusCode, Bytes),
    /// In words.
    Failed(String),
}

/// One call with one key, whose state learns from it: of a success what `success` says.
pub async fn once(
    provider: &Provider,
    core: usize,
    lease: Lease,
    method: Method,
    path: &str,
    body: Bytes,
    success: Effect,
) -> Outcome {
    let accept = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("application/json"))]);
    let credential = lease.credential().clone();
    let headers = RequestHeaders {
        caller: &accept,
        options: &provider.upstream,
        credential: &credential,
        has_body: !body.is_empty(),
    };
    let (Some(client), Ok(path)) = (provider.client(core), provider.upstream.path(path)) else {
        return Outcome::Failed("the connection to the provider cannot be set up".to_owned());
    };
    let broken = Effect::Server { cooldown: None };
    let response = match client.send(method, &path, &headers, &body).await {
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
                    let effect = if status.is_success() { success } else { Effect::None };
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
