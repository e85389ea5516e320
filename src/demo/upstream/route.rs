//! Which API a path belongs to.

use http::{Method, StatusCode};
use serde_json::{Value, json};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Endpoint {
    Chat,
    Completions,
    Embeddings,
    Responses,
    Messages,
    Models,
    Model(String),
    KeyInfo,
    OllamaChat,
    OllamaGenerate,
    OllamaEmbed,
    OllamaEmbeddings,
    OllamaShow,
    OllamaTags,
    OllamaVersion,
    OllamaRoot,
    Unknown(Dialect),
}

/// Whose shapes an answer has, and above all an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    OpenAi,
    Responses,
    Anthropic,
    Ollama,
}

impl Endpoint {
    pub(super) fn of(path: &str) -> Self {
        // OpenRouter has its API under /api/v1, the others under /v1.
        let path = path.strip_prefix("/api").filter(|rest| rest.starts_with("/v1/")).unwrap_or(path);
        match path {
            "/v1/chat/completions" => Self::Chat,
            "/v1/completions" => Self::Completions,
            "/v1/embeddings" => Self::Embeddings,
            "/v1/responses" => Self::Responses,
            "/v1/messages" => Self::Messages,
            "/v1/models" => Self::Models,
            "/v1/key" => Self::KeyInfo,
            "/api/chat" => Self::OllamaChat,
            "/api/generate" => Self::OllamaGenerate,
            "/api/embed" => Self::OllamaEmbed,
            "/api/embeddings" => Self::OllamaEmbeddings,
            "/api/show" => Self::OllamaShow,
            "/api/tags" => Self::OllamaTags,
            "/api/version" => Self::OllamaVersion,
            "/" => Self::OllamaRoot,
            _ => match path.strip_prefix("/v1/models/") {
                Some(id) if !id.is_empty() => Self::Model(percent_decoded(id)),
                _ if path.starts_with("/api") => Self::Unknown(Dialect::Ollama),
                _ => Self::Unknown(Dialect::OpenAi),
            },
        }
    }

    /// The name under which the tally keeps it.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Messages => "/v1/messages",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{id}",
            Self::KeyInfo => "/v1/key",
            Self::OllamaChat => "/api/chat",
            Self::OllamaGenerate => "/api/generate",
            Self::OllamaEmbed => "/api/embed",
            Self::OllamaEmbeddings => "/api/embeddings",
            Self::OllamaShow => "/api/show",
            Self::OllamaTags => "/api/tags",
            Self::OllamaVersion => "/api/version",
            Self::OllamaRoot => "/",
            Self::Unknown(_) => "(unknown)",
        }
    }

    /// `None` for paths that do not exist.
    pub(super) fn method(&self) -> Option<Method> {
        match self {
            Self::Unknown(_) => None,
            Self::Models
            | Self::Model(_)
            | Self::KeyInfo
            | Self::OllamaTags
            | Self::OllamaVersion
            | Self::OllamaRoot => Some(Method::GET),
            _ => Some(Method::POST),
        }
    }

    /// Whether anybody may ask, with a key or without.
    pub(super) fn is_public(&self) -> bool {
        matches!(self, Self::OllamaVersion | Self::OllamaRoot)
    }

    pub(super) fn dialect(&self) -> Dialect {
        match self {
            Self::Responses => Dialect::Responses,
            Self::Messages => Dialect::Anthropic,
            Self::OllamaChat
            | Self::OllamaGenerate
            | Self::OllamaEmbed
            | Self::OllamaEmbeddings
            | Self::OllamaShow
            | Self::OllamaTags
            | Self::OllamaVersion
            | Self::OllamaRoot => Dialect::Ollama,
            Self::Unknown(dialect) => *dialect,
            _ => Dialect::OpenAi,
        }
    }
}

impl Dialect {
    /// The body of an error answer, also of one that hides in a 200.
    pub(super) fn error(self, code: u16, message: &str) -> Value {
        match self {
            Self::OpenAi | Self::Responses => json!({"error": {
                "message": message,
                "type": openai_type(code),
                "param": null,
                "code": code,
            }}),
            Self::Anthropic => json!({
                "type": "error",
                "error": {"type": anthropic_type(code), "message": message},
            }),
            Self::Ollama => json!({"error": message}),
        }
    }
}

pub(super) fn openai_type(code: u16) -> &'static str {
    match code {
        401 => "authentication_error",
        402 => "insufficient_quota",
        403 => "permission_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

fn anthropic_type(code: u16) -> &'static str {
    match code {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

/// What a key's trouble is called in public.
pub(super) fn reason(status: StatusCode) -> &'static str {
    match status.as_u16() {
        401 => "The API key is not valid.",
        402 => "The credits of this key are used up.",
        403 => "This key may not do that.",
        404 => "There is nothing here.",
        429 => "Too many requests; try again later.",
        503 | 529 => "The model is overloaded; try again later.",
        500..=599 => "The provider failed to answer.",
        _ => "The request cannot be served.",
    }
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .filter(|_| first == b'%')
            .and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(code.unwrap_or(first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_prefixes_lead_to_the_same_place() {
        assert_eq!(Endpoint::of("/api/v1/chat/completions"), Endpoint::Chat);
        assert_eq!(Endpoint::of("/v1/models/demo%2Ftools"), Endpoint::Model("demo/tools".to_owned()));
        assert_eq!(Endpoint::of("/v1/models/demo/tools"), Endpoint::Model("demo/tools".to_owned()));
        assert_eq!(Endpoint::of("/api/chat"), Endpoint::OllamaChat);
        assert_eq!(Endpoint::of("/v1/models/"), Endpoint::Unknown(Dialect::OpenAi));
        assert_eq!(percent_decoded("a%zz%4"), "a%zz%4");
    }
}
