//! The one table from what went wrong to what the caller reads.
//!
//! The texts are for callers: they name no key, no address and no inner error. What the log says is written
//! where the failure happened.

use std::borrow::Cow;

use http::{HeaderValue, Response, StatusCode, header};

use super::body::Body;
use crate::{
    ledger::Refusal,
    model::{
        Timestamp, UserId,
        error_body::{ErrorBody, shorten},
    },
};

/// An answer that keytide gives itself, in OpenAI's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: Cow<'static, str>,
    pub param: Option<&'static str>,
    /// Whole seconds for `Retry-After`.
    pub retry_after: Option<u64>,
    /// For 405: what is allowed.
    pub allow: Option<&'static str>,
    /// For 429: the limit per minute that was reached.
    pub limit: Option<u32>,
    /// Whose request was refused, where that is known: it is noted in the log of their day. Boxed to keep
    /// results small.
    pub user: Option<Box<UserId>>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            allow: None,
            limit: None,
            user: None,
        }
    }

    pub fn of(self, user: Option<UserId>) -> Self {
        Self { user: user.map(Box::new), ..self }
    }

    /// What the log of a user's day calls it.
    pub fn refusal(&self) -> Option<Refusal> {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => Some(Refusal::RateLimit),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(Refusal::Auth),
            status if status.is_server_error() => Some(Refusal::Server),
            _ => None,
        }
    }

    pub fn bad_request(code: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn param(self, param: &'static str) -> Self {
        Self { param: Some(param), ..self }
    }

    /// `Retry-After` is rounded up: a caller that obeys it must not come too early.
    pub fn retry_at(self, at: Timestamp, now: Timestamp) -> Self {
        let seconds = at.since(now).as_millis().div_ceil(1000).max(1);
        Self { retry_after: Some(u64::try_from(seconds).unwrap_or(u64::MAX)), ..self }
    }

    pub fn no_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "missing_token",
            "No token was sent: put yours in the header \"Authorization: Bearer <token>\" or \"x-api-key\".",
        )
    }

    pub fn bad_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "invalid_api_key",
            "This token is not valid for this provider: check it, or ask the operator for one.",
        )
    }

    pub fn expired_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "token_expired",
            "This token has expired: ask the operator for a new one.",
        )
    }

    pub fn model_not_allowed(model: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "model_not_allowed",
            format!("This token may not use the model \"{}\".", shorten(model)),
        )
        .param("model")
    }

    pub fn too_many_requests(limit: u32, reset: Timestamp, now: Timestamp) -> Self {
        let error = Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "rate_limit_exceeded",
            format!("This token may send {limit} requests per minute: wait and try again."),
        );
        Self { limit: Some(limit), ..error.retry_at(reset, now) }
    }

    pub fn unknown_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_path",
            "There is nothing at this path: clients use /v1/… or /{provider}/v1/…, and /api/… for Ollama's own API.",
        )
    }

    pub fn unknown_provider(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "unknown_provider",
            format!("There is no provider \"{}\" here.", shorten(name)),
        )
    }

    pub fn provider_disabled(name: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "provider_disabled",
            format!("The provider \"{name}\" is switched off in the configuration."),
        )
    }

    pub fn method_not_allowed(allow: &'static str) -> Self {
        let error = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            format!("This path takes {allow} only."),
        );
        Self { allow: Some(allow), ..error }
    }

    pub fn not_native(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_native_api",
            format!("The provider \"{name}\" does not speak Ollama's API: use /{name}/v1/…."),
        )
    }

    pub fn body_too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!("The body is larger than {limit} bytes, the most that is taken here."),
        )
    }

    pub fn encoded_body() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "unsupported_encoding",
            "The body is compressed: send it as it is, without Content-Encoding.",
        )
    }

    pub fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "The body did not arrive in time: send the request again.",
        )
    }

    pub fn body_broken() -> Self {
        Self::bad_request("body_truncated", "The body ended before it was complete.")
    }

    pub fn too_many_headers() -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            "headers_too_large",
            "The request has too many or too large headers.",
        )
    }

    pub fn query_too_long() -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "query_too_long", "The path's query is too long.")
    }

    pub fn upstream(status: StatusCode, code: &'static str, message: &'static str) -> Self {
        Self::new(status, code, message)
    }

    /// The body alone: `{"error":{…}}`.
    pub fn json(&self) -> String {
        let body = ErrorBody::new(self.status.as_u16(), self.code, &self.message, self.param);
        serde_json::to_string(&body).unwrap_or_default()
    }

    pub fn response(&self) -> Response<Body> {
        let mut response = Response::new(Body::full(self.json()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(allow));
        }
        if let Some(limit) = self.limit {
            // The names that OpenAI's client libraries and their users know.
            headers.insert("x-ratelimit-limit-requests", HeaderValue::from(limit));
            headers.insert("x-ratelimit-remaining-requests", HeaderValue::from_static("0"));
            if let Some(seconds) = self.retry_after
                && let Ok(value) = HeaderValue::from_str(&format!("{seconds}s"))
            {
                headers.insert("x-ratelimit-reset-requests", value);
            }
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_openai_s_shape() {
        let error = ApiError::model_not_allowed("x\"y");
        let value: serde_json::Value = serde_json::from_str(&error.json()).unwrap();
        assert_eq!(value["error"]["code"], "model_not_allowed");
        assert_eq!(value["error"]["type"], "permission_error");
        assert_eq!(value["error"]["param"], "model");
        assert!(value["error"]["message"].as_str().unwrap().contains("x\"y"));
    }

    #[test]
    fn retry_after_is_rounded_up() {
        let error = ApiError::too_many_requests(5, Timestamp(1_001), Timestamp(0));
        assert_eq!(error.response().headers()["retry-after"], "2");
        assert_eq!(error.response().headers()["x-ratelimit-reset-requests"], "2s");
    }

    #[test]
    fn a_caller_s_words_are_kept_short() {
        assert!(ApiError::unknown_provider(&"长".repeat(5000)).message.len() < 400);
    }
}
