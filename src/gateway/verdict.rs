//! What a failed attempt means for its key, and what the caller reads of it.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};

use super::{ApiError, Code, call::Closing, provider::Provider};
use crate::{
    model::{Effect, Timestamp},
    pool::{NoKey, Reason},
    upstream::{
        client,
        inspect::Inspector,
        outcome::{Rule, Treat},
        reset,
        scan::{BodyError, Framing},
    },
};

/// What no provider's header can exceed.
const MAX_RATE_LIMIT: Duration = Duration::from_secs(24 * 3600);
const MAX_QUOTA: Duration = Duration::from_secs(31 * 24 * 3600);

/// What the last failed attempt leaves for the caller, in case there is no other.
pub(super) enum LastError {
    /// The provider's own answer, which may be passed on.
    Answer { status: StatusCode, headers: HeaderMap, body: Bytes },
    /// What the caller reads instead.
    Ours(ApiError),
}

/// What a failed attempt means for its key. The provider's word on when to come back stands over our default.
pub(super) fn effect_of(rule: Rule, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Effect {
    let cooldown = rule.cooldown.or(rule.treat_as.default_cooldown()).unwrap_or_default();
    let until = |max: Duration| {
        let told = reset::retry_at(headers, now).or_else(|| told_in_body(body, now));
        reset::bounded(told.unwrap_or_else(|| now.saturating_add(cooldown)), now, max)
    };
    match rule.treat_as {
        Treat::Success => Effect::Success,
        Treat::Request => Effect::None,
        Treat::Auth => Effect::Auth { cooldown: rule.cooldown },
        Treat::Quota => Effect::Quota { until: until(MAX_QUOTA) },
        Treat::RateLimit => Effect::RateLimit { until: until(MAX_RATE_LIMIT) },
        Treat::Server => Effect::Server { cooldown: rule.cooldown },
    }
}

fn told_in_body(body: &[u8], now: Timestamp) -> Option<Timestamp> {
    let mut inspector = Inspector::new(Framing::Json, false);
    inspector.feed(body);
    inspector.finish();
    inspector.error().and_then(|error| reset::retry_at_in_body(error, now))
}

/// How a request ends whose answer carries an error: as if the provider had said so with a status.
pub(super) fn closing_of_error(provider: &Provider, error: &BodyError) -> Closing {
    let rule = provider.upstream.rules.lookup(error.status.unwrap_or(502));
    let now = provider.clock.now();
    let cooldown = rule.cooldown.or(rule.treat_as.default_cooldown()).unwrap_or_default();
    let until = |max| {
        reset::bounded(
            reset::retry_at_in_body(error, now).unwrap_or_else(|| now.saturating_add(cooldown)),
            now,
            max,
        )
    };
    match rule.treat_as {
        // An error is no success, whatever number it carries.
        Treat::Success | Treat::Request => Closing::REQUEST_FAULT,
        Treat::Auth => Closing::failure(Effect::Auth { cooldown: rule.cooldown }),
        Treat::Quota => Closing::failure(Effect::Quota { until: until(MAX_QUOTA) }),
        Treat::RateLimit => Closing::failure(Effect::RateLimit { until: until(MAX_RATE_LIMIT) }),
        Treat::Server => Closing::failure(Effect::Server { cooldown: rule.cooldown }),
    }
}

/// The provider's answer is passed on where it is about the provider or the rate. What is about the key is
/// nobody's business but the operator's, and a caller would take it for a word on its own token.
pub(super) fn last_error(status: StatusCode, rule: Rule, headers: HeaderMap, body: Bytes) -> LastError {
    if matches!(rule.treat_as, Treat::Auth | Treat::Quota) {
        return LastError::Ours(rejected_keys());
    }
    let is_json = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(Framing::of)
        .is_some_and(|framing| framing == Framing::Json);
    if is_json && !body.is_empty() {
        return LastError::Answer { status, headers, body };
    }
    LastError::Ours(match rule.treat_as {
        Treat::RateLimit => ApiError::upstream(
            StatusCode::TOO_MANY_REQUESTS,
            Code::RateLimitExceeded,
            "The provider asks to slow down: wait and try again.",
        ),
        _ => ApiError::upstream(
            if status.is_server_error() { status } else { StatusCode::BAD_GATEWAY },
            Code::UpstreamError,
            "The provider answered with an error: try again.",
        ),
    })
}

pub(super) fn of_client_error(error: &client::Error) -> ApiError {
    match error {
        client::Error::Connect(_) => unreachable_provider(),
        client::Error::Timeout(_) => ApiError::upstream(
            StatusCode::GATEWAY_TIMEOUT,
            Code::UpstreamTimeout,
            "The provider did not answer in time: try again.",
        ),
        client::Error::Broken(_) => broken_answer(),
    }
}

pub(super) fn of_body_error(effect: Effect) -> ApiError {
    match effect {
        Effect::Auth { .. } | Effect::Quota { .. } => rejected_keys(),
        Effect::RateLimit { .. } => ApiError::upstream(
            StatusCode::TOO_MANY_REQUESTS,
            Code::RateLimitExceeded,
            "The provider asks to slow down: wait and try again.",
        ),
        _ => ApiError::upstream(
            StatusCode::BAD_GATEWAY,
            Code::UpstreamError,
            "The provider answered with an error: try again.",
        ),
    }
}

fn rejected_keys() -> ApiError {
    ApiError::upstream(
        StatusCode::SERVICE_UNAVAILABLE,
        Code::KeysRejected,
        "The provider refused every key that was tried: try again, or ask the operator.",
    )
}

pub(super) fn broken_answer() -> ApiError {
    ApiError::upstream(
        StatusCode::BAD_GATEWAY,
        Code::UpstreamBroken,
        "The provider broke off its answer: try again.",
    )
}

pub(super) fn unreachable_provider() -> ApiError {
    ApiError::upstream(
        StatusCode::BAD_GATEWAY,
        Code::UpstreamUnreachable,
        "The provider cannot be reached: try again.",
    )
}

pub(super) fn is_rate_limited(none: &NoKey) -> bool {
    matches!(none.reason, Reason::RateLimited { .. })
}

pub(super) fn no_key(provider: &str, none: &NoKey, now: Timestamp) -> ApiError {
    match none.reason {
        Reason::Empty => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::NoAvailableKeys,
            format!(
                "There are no keys for \"{provider}\" yet: add one with `keytide keys add --provider {provider}` \
                 or POST /admin/api-keys."
            ),
        ),
        Reason::RateLimited { retry_at } => ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            Code::RateLimitExceeded,
            format!("All keys for \"{provider}\" are at their limits: wait and try again."),
        )
        .retry_at(retry_at, now),
        Reason::Unavailable { retry_at } => {
            let error = ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                Code::NoAvailableKeys,
                format!("No key for \"{provider}\" can be used at present: try again later."),
            );
            match retry_at {
                Some(at) => error.retry_at(at, now),
                None => error,
            }
        }
        Reason::Excluded => ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::NoAvailableKeys,
            format!("Every key for \"{provider}\" that can be used was tried: try again."),
        ),
    }
}
