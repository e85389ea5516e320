//! The one table from what went wrong to what the caller reads.
//!
//! The texts are for callers: they name no key, no address and no inner error. What the log says is written
//! where the failure happened.

use std::{borrow::Cow, net::IpAddr};

use http::{HeaderValue, Response, StatusCode, header};

use super::{body::Body, rates};
use crate::{
    guard::{self, Barred, Exceeded, Gauge, Of, Whose},
    ledger,
    model::{
        Timestamp, UserId,
        error_body::{ErrorBody, LimitDetail, names, shorten},
    },
};

names! {
    /// What went wrong, by name: callers' programs go by these.
    Code {
        AddressNotAllowed = "address_not_allowed",
        Blocked = "blocked",
        BodyTimeout = "body_timeout",
        BodyTooLarge = "body_too_large",
        BodyTruncated = "body_truncated",
        DailyRequestsExceeded = "daily_requests_exceeded",
        DailyTokensExceeded = "daily_tokens_exceeded",
        HeadersTooLarge = "headers_too_large",
        InternalError = "internal_error",
        InvalidApiKey = "invalid_api_key",
        InvalidJson = "invalid_json",
        InvalidType = "invalid_type",
        InvalidUtf8 = "invalid_utf8",
        KeysRejected = "keys_rejected",
        MethodNotAllowed = "method_not_allowed",
        MissingModel = "missing_model",
        MissingToken = "missing_token",
        ModelNotAllowed = "model_not_allowed",
        ModelNotFound = "model_not_found",
        NoAvailableKeys = "no_available_keys",
        NoNativeApi = "no_native_api",
        ProviderDisabled = "provider_disabled",
        QueryTooLong = "query_too_long",
        RateLimitExceeded = "rate_limit_exceeded",
        Throttled = "throttled",
        TokenExpired = "token_expired",
        UnknownPath = "unknown_path",
        UnknownProvider = "unknown_provider",
        UnsupportedEncoding = "unsupported_encoding",
        UpstreamBroken = "upstream_broken",
        UpstreamError = "upstream_error",
        UpstreamTimeout = "upstream_timeout",
        UpstreamUnreachable = "upstream_unreachable",
        UserDisabled = "user_disabled",
    }
}

/// An answer that keytide gives itself, in OpenAI's shape.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    pub status: StatusCode,
    pub code: Code,
    pub message: Cow<'static, str>,
    pub param: Option<&'static str>,
    /// Whole seconds for `Retry-After`.
    pub retry_after: Option<u64>,
    /// For 405: what is allowed.
    pub allow: Option<&'static str>,
    /// For 429: the limit of ours that was reached, and when.
    pub exceeded: Option<Box<(Exceeded, Timestamp)>>,
    /// For a block: until when. Boxed as the next one.
    pub until: Option<Box<Timestamp>>,
    /// Whose request was refused, where that is known: it is noted in the log of their day. Boxed to keep
    /// results small.
    pub user: Option<Box<UserId>>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            param: None,
            retry_after: None,
            allow: None,
            exceeded: None,
            until: None,
            user: None,
        }
    }

    pub fn of(self, user: Option<UserId>) -> Self {
        Self { user: user.map(Box::new), ..self }
    }

    /// What the log of a user's day calls it.
    pub fn refusal(&self) -> Option<ledger::Refusal> {
        match self.status {
            StatusCode::TOO_MANY_REQUESTS => Some(ledger::Refusal::RateLimit),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Some(ledger::Refusal::Auth),
            status if status.is_server_error() => Some(ledger::Refusal::Server),
            _ => None,
        }
    }

    pub fn bad_request(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
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
            Code::MissingToken,
            "No token was sent: put yours in the header \"Authorization: Bearer <token>\" or \"x-api-key\".",
        )
    }

    pub fn bad_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Code::InvalidApiKey,
            "This token is not valid for this provider: check it, or ask the operator for one.",
        )
    }

    pub fn expired_token() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Code::TokenExpired,
            "This token has expired: ask the operator for a new one.",
        )
    }

    pub fn model_not_allowed(model: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Code::ModelNotAllowed,
            format!("This token may not use the model \"{}\".", shorten(model)),
        )
        .param("model")
    }

    pub fn user_disabled() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            Code::UserDisabled,
            "The user of this token is disabled: ask the operator.",
        )
    }

    pub fn refused(refusal: guard::Refusal) -> Self {
        match refusal {
            guard::Refusal::Unknown => Self::bad_token(),
            guard::Refusal::Expired(_, user) => Self::expired_token().of(user),
            guard::Refusal::UserDisabled(user) => Self::user_disabled().of(Some(user)),
        }
    }

    pub fn address_not_allowed(address: IpAddr) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            Code::AddressNotAllowed,
            format!("This token may not be used from {address}: ask the operator to allow it."),
        )
    }

    pub fn too_many_requests(exceeded: Exceeded, now: Timestamp) -> Self {
        let Exceeded(gauge) = exceeded;
        let who = match gauge.whose {
            Whose::Token => "This token",
            Whose::User => "The user of this token",
        };
        let limit = gauge.limit;
        let (code, message) = match gauge.of {
            Of::Minute => (
                Code::RateLimitExceeded,
                format!("{who} may send {limit} requests per minute: wait and try again."),
            ),
            Of::DayRequests => (
                Code::DailyRequestsExceeded,
                format!("{who} may send {limit} requests per day, and has: again from {}.", gauge.reset),
            ),
            Of::DayTokens => (
                Code::DailyTokensExceeded,
                format!("{who} may use {limit} tokens per day, and has: again from {}.", gauge.reset),
            ),
        };
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, code, message);
        Self { exceeded: Some(Box::new((exceeded, now))), ..error.retry_at(gauge.reset, now) }
    }

    /// What a verdict of the monitor keeps out.
    pub fn barred(barred: Barred, now: Timestamp) -> Self {
        match barred {
            Barred::Blocked { until } => {
                let error = Self::new(
                    StatusCode::FORBIDDEN,
                    Code::Blocked,
                    format!(
                        "Nothing is taken from here until {until}, since what came was not usual: ask the \
                         operator."
                    ),
                );
                Self { until: Some(Box::new(until)), ..error.retry_at(until, now) }
            }
            Barred::Throttled { limit, reset } => {
                let error = Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    Code::Throttled,
                    format!(
                        "What came from here was not usual: for now {limit} requests per minute are taken."
                    ),
                );
                let (of, whose) = (Of::Minute, Whose::Token);
                let gauge = Gauge { of, whose, limit: limit.into(), remaining: 0, reset };
                Self { exceeded: Some(Box::new((Exceeded(gauge), now))), ..error.retry_at(reset, now) }
            }
        }
    }

    pub fn unknown_path() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Code::UnknownPath,
            "There is nothing at this path: clients use /v1/… or /{provider}/v1/…, and /api/… for Ollama's own API.",
        )
    }

    pub fn unknown_provider(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Code::UnknownProvider,
            format!("There is no provider \"{}\" here.", shorten(name)),
        )
    }

    pub fn provider_disabled(name: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::ProviderDisabled,
            format!("The provider \"{name}\" is switched off in the configuration."),
        )
    }

    pub fn method_not_allowed(allow: &'static str) -> Self {
        let error = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            Code::MethodNotAllowed,
            format!("This path takes {allow} only."),
        );
        Self { allow: Some(allow), ..error }
    }

    pub fn not_native(name: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            Code::NoNativeApi,
            format!("The provider \"{name}\" does not speak Ollama's API: use /{name}/v1/…."),
        )
    }

    pub fn body_too_large(limit: u64) -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::BodyTooLarge,
            format!("The body is larger than {limit} bytes, the most that is taken here."),
        )
    }

    pub fn encoded_body() -> Self {
        Self::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Code::UnsupportedEncoding,
            "The body is compressed: send it as it is, without Content-Encoding.",
        )
    }

    pub fn body_timeout() -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            Code::BodyTimeout,
            "The body did not arrive in time: send the request again.",
        )
    }

    pub fn body_broken() -> Self {
        Self::bad_request(Code::BodyTruncated, "The body ended before it was complete.")
    }

    pub fn too_many_headers() -> Self {
        Self::new(
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Code::HeadersTooLarge,
            "The request has too many or too large headers.",
        )
    }

    pub fn query_too_long() -> Self {
        Self::new(StatusCode::URI_TOO_LONG, Code::QueryTooLong, "The path's query is too long.")
    }

    pub fn upstream(status: StatusCode, code: Code, message: &'static str) -> Self {
        Self::new(status, code, message)
    }

    /// The body alone: `{"error":{…}}`.
    pub fn json(&self) -> String {
        let limit = self.exceeded.as_ref().map(|exceeded| {
            let gauge = exceeded.0.0;
            LimitDetail { limit: gauge.limit, remaining: gauge.remaining, reset: gauge.reset }
        });
        let body = ErrorBody::new(self.status.as_u16(), self.code.as_str(), &self.message, self.param)
            .with_limit(limit)
            .with_until(self.until.as_deref().copied());
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
        if let Some((exceeded, now)) = self.exceeded.as_deref() {
            rates::refuse(exceeded, *now, headers);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::Gauge;

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
        let error = ApiError::too_many_requests(exceeded(Of::Minute, 1_001), Timestamp(0));
        assert_eq!(error.response().headers()["retry-after"], "2");
        assert_eq!(error.response().headers()["x-ratelimit-reset-requests"], "2s");
    }

    fn exceeded(of: Of, reset: i64) -> Exceeded {
        let whose = Whose::User;
        Exceeded(Gauge { of, whose, limit: 5, remaining: 0, reset: Timestamp(reset) })
    }

    #[test]
    fn limits_are_told_in_the_body_too() {
        for (of, code, kind) in [
            (Of::Minute, "rate_limit_exceeded", "requests"),
            (Of::DayRequests, "daily_requests_exceeded", "requests"),
            (Of::DayTokens, "daily_tokens_exceeded", "tokens"),
        ] {
            let error = ApiError::too_many_requests(exceeded(of, 3_723_000), Timestamp(0));
            let value: serde_json::Value = serde_json::from_str(&error.json()).unwrap();
            let told = &value["error"];
            assert_eq!((&told["code"], &told["type"]), (&code.into(), &"rate_limit_error".into()));
            assert_eq!((&told["limit"], &told["remaining"]), (&5.into(), &0.into()));
            assert_eq!(told["reset"], "1970-01-01T01:02:03Z");
            let response = error.response();
            let header = |name: &str| response.headers()[&format!("x-ratelimit-{name}-{kind}")].clone();
            assert_eq!(
                (header("limit"), header("remaining"), header("reset")),
                ("5".parse().unwrap(), "0".parse().unwrap(), "1h2m3s".parse().unwrap())
            );
            // Nobody waits until tomorrow.
            let again = response.headers().get("x-should-retry").map(|value| value.to_str().unwrap());
            assert_eq!(again, (of != Of::Minute).then_some("false"));
        }
        let plain = ApiError::bad_token().json();
        assert!(!plain.contains("limit") && !plain.contains("reset"), "{plain}");
    }

    #[test]
    fn a_verdict_says_how_long_it_holds() {
        let blocked = ApiError::barred(Barred::Blocked { until: Timestamp(3_600_000) }, Timestamp(500));
        let value: serde_json::Value = serde_json::from_str(&blocked.json()).unwrap();
        assert_eq!(
            (&value["error"]["code"], &value["error"]["type"]),
            (&"blocked".into(), &"permission_error".into())
        );
        assert_eq!(value["error"]["until"], "1970-01-01T01:00:00Z");
        assert_eq!(
            (blocked.status.as_u16(), blocked.response().headers()["retry-after"].to_str().unwrap()),
            (403, "3600")
        );
        let throttled =
            ApiError::barred(Barred::Throttled { limit: 3, reset: Timestamp(60_000) }, Timestamp(0));
        let value: serde_json::Value = serde_json::from_str(&throttled.json()).unwrap();
        assert_eq!((throttled.status.as_u16(), &value["error"]["code"]), (429, &"throttled".into()));
        assert_eq!(
            (&value["error"]["limit"], &value["error"]["reset"]),
            (&3.into(), &"1970-01-01T00:01:00Z".into())
        );
        assert_eq!(throttled.response().headers()["x-ratelimit-reset-requests"], "1m0s");
    }

    #[test]
    fn a_caller_s_words_are_kept_short() {
        assert!(ApiError::unknown_provider(&"长".repeat(5000)).message.len() < 400);
    }
}
