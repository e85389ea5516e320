//! Trying things out: a call under one of the tokens there are, by the way that every caller's request goes, so that
//! it is limited, counted and answered as theirs are. And the configuration in force.

use axum::{
    Json as Answer,
    extract::State as Extract,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use super::{
    ProviderEntry, Shared,
    error::ApiError,
    extract::{Json, Query},
    view,
};
use crate::model::{Secret, TokenId};

/// A request to keytide itself, as a caller would send it.
pub trait Loopback: Send + Sync {
    /// GET without a body, else POST.
    ///
    /// # Errors
    /// A sentence, when there was no answer.
    fn call(
        &self,
        path: String,
        token: Secret,
        body: Option<Bytes>,
    ) -> BoxFuture<'static, Result<Response, String>>;
}

/// Id, label, description, system prompt, message, temperature.
const TEMPLATES: [(&str, &str, &str, &str, &str, f32); 4] = [
    ("hello", "Say hello", "The shortest way to see that it works", "", "Hello! Who are you?", 0.7),
    (
        "explain",
        "Explain",
        "A short answer in plain words",
        "Answer in at most three sentences, in plain words.",
        "Why are there two tides a day?",
        0.3,
    ),
    (
        "json",
        "JSON only",
        "Whether a model keeps to a form",
        "Answer with JSON alone, without a fence around it.",
        "Give me three rivers with their length in kilometres.",
        0.0,
    ),
    (
        "code",
        "Code",
        "A small program",
        "Answer with code and no explanation.",
        "Reverse a string in Rust.",
        0.2,
    ),
];

/// Prompts to begin with.
#[utoipa::path(get, path = "/api/test-templates", tag = "playground", security(()),
    responses((status = 200, body = view::Templates)))]
pub(super) async fn templates() -> Answer<view::Templates> {
    let text = str::to_owned;
    let templates = TEMPLATES.map(|(id, label, description, system, message, temperature)| view::Template {
        id: text(id),
        label: text(label),
        description: text(description),
        system_prompt: text(system),
        user_message: text(message),
        temperature,
    });
    Answer(view::Templates { templates: templates.into() })
}

/// Asks a model under one of the tokens, and passes the answer on as it comes.
#[utoipa::path(post, path = "/admin/playground", tag = "playground", params(view::ProviderQuery),
    request_body = view::Trial,
    responses((status = 200, description = "The provider's answer, as a caller gets it"),
        (status = 404, body = view::ErrorBody), (status = 502, body = view::ErrorBody)))]
pub(super) async fn ask(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::ProviderQuery>,
    Json(trial): Json<view::Trial>,
) -> Result<Response, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let token = secret(&provider, trial.token)?;
    let system = trial.system.filter(|text| !text.trim().is_empty());
    let system = system.map(|text| json!({"role": "system", "content": text}));
    let message = json!({"role": "user", "content": trial.message});
    let messages: Vec<_> = system.into_iter().chain([message]).collect();
    let mut body = json!({"model": trial.model, "messages": messages, "stream": trial.stream});
    if let Some(temperature) = trial.temperature {
        body["temperature"] = json!(temperature);
    }
    let path = format!("/{}/v1/chat/completions", provider.name);
    answered(state.loopback.call(path, token, Some(body.to_string().into())).await)
}

/// The models that a token may use.
#[utoipa::path(get, path = "/admin/playground/models", tag = "playground", params(view::TrialModelsQuery),
    responses((status = 200, description = "OpenAI's list of models"), (status = 404, body = view::ErrorBody),
        (status = 502, body = view::ErrorBody)))]
pub(super) async fn models(
    Extract(state): Extract<Shared>,
    Query(query): Query<view::TrialModelsQuery>,
) -> Result<Response, ApiError> {
    let provider = state.provider(query.provider.as_deref())?;
    let token = secret(&provider, query.token)?;
    answered(state.loopback.call(format!("/{}/v1/models", provider.name), token, None).await)
}

fn secret(provider: &ProviderEntry, id: TokenId) -> Result<Secret, ApiError> {
    provider.tokens.get(id).map(|token| token.record.secret.clone()).ok_or_else(|| {
        let why = format!("\"{}\" has no token of this id.", provider.name);
        ApiError::not_found(view::Code::UnknownToken, why).param("token")
    })
}

fn answered(answer: Result<Response, String>) -> Result<Response, ApiError> {
    let answer = answer.map(|mut answer| {
        // A provider's answer is never a page of this origin.
        let is = answer.headers().get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if !is.starts_with(b"text/event-stream") {
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        answer
    });
    answer.map(IntoResponse::into_response).map_err(|why| {
        ApiError::new(StatusCode::BAD_GATEWAY, view::Code::NoAnswer, format!("There was no answer: {why}."))
    })
}

/// Every setting in force, and where its value comes from.
#[utoipa::path(get, path = "/admin/config", tag = "operator", responses((status = 200, body = view::Configuration)))]
pub(super) async fn configuration(Extract(state): Extract<Shared>) -> Answer<view::Configuration> {
    Answer((*state.configuration.load_full()).clone())
}
