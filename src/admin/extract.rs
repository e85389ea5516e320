//! From a request to checked values. What cannot be read is named by its place, never repeated: a body may
//! hold keys.

use std::{str::FromStr, sync::LazyLock, time::Duration};

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request},
};
use bytes::{Bytes, BytesMut};
use http::{StatusCode, request::Parts};
use http_body::Body as _;
use http_body_util::BodyExt;
use regex_lite::Regex;
use serde::{Deserialize, de::DeserializeOwned};

use super::{error::ApiError, view::Code};
use crate::model::{error_body::shorten, secret::mask};

pub(super) const MAX_BODY: usize = 1 << 20;
pub(super) const MAX_IMPORT: usize = 64 << 20;
/// The longest pause inside an upload.
const BODY_PAUSE: Duration = Duration::from_secs(30);
/// Field names are shorter; what is longer is something that slipped into a name's place.
const LONGEST_NAME: usize = 32;

/// Query parameters, none of them unknown.
pub(super) struct Query<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        match axum::extract::Query::try_from_uri(&parts.uri) {
            Ok(axum::extract::Query(value)) => Ok(Self(value)),
            Err(rejection) => {
                let text = rejection.body_text();
                let text = text.strip_prefix("Failed to deserialize query string: ").unwrap_or(&text);
                let error = ApiError::bad_request(
                    Code::InvalidQuery,
                    format!("The query cannot be read: {}.", presentable(text)),
                );
                Err(match named_in(text).or_else(|| text.split_once(": ").map(|(path, _)| path)) {
                    Some(name) => error.param(safe_name(name)),
                    None => error,
                })
            }
        }
    }
}

/// A JSON body, none of its fields unknown.
pub(super) struct Json<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for Json<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = read(request.into_body(), MAX_BODY).await?;
        parse_json(&body).map(Self)
    }
}

pub(super) fn parse_json<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Result<T, ApiError> {
    let body = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    if body.trim_ascii().is_empty() {
        return Err(ApiError::bad_request(Code::EmptyBody, "The body is empty: send JSON."));
    }
    // serde would take a list for an object whose fields stand in their order.
    if body.trim_ascii_start().starts_with(b"[") {
        let why = "The body cannot be read: it is a list, and an object belongs there, at line 1.";
        return Err(ApiError::bad_request(Code::InvalidBody, why));
    }
    serde_json::from_slice(body).map_err(|error| {
        let text = error.to_string();
        let code = if error.is_data() { Code::InvalidBody } else { Code::InvalidJson };
        let refused =
            ApiError::bad_request(code, format!("The body cannot be read: {}.", presentable(&text)));
        match named_in(&text) {
            Some(name) => refused.param(safe_name(name)),
            None => refused,
        }
    })
}

/// serde's sentence about a value without the value.
pub(super) fn presentable(text: &str) -> String {
    static QUOTED: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r#"string "(?:\\.|[^"\\])*""#).expect("a fixed pattern"));
    static NAMED: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(unknown (?:field|variant)) `([^`]*)`").expect("a fixed pattern"));
    // What the standard library says of a parameter that is to be a number.
    static NUMBER: LazyLock<Regex> = LazyLock::new(|| {
        let pattern = "invalid digit found in string|cannot parse integer from empty string|\
                       number too (?:large|small) to fit in target type";
        Regex::new(pattern).expect("a fixed pattern")
    });
    let text = QUOTED.replace_all(text, "a string");
    let text = NAMED.replace(&text, |found: &regex_lite::Captures<'_>| {
        format!("{} `{}`", &found[1], safe_name(&found[2]))
    });
    let text = NUMBER.replace(&text, "not a whole number in range");
    // An upper bound, for no sentence of serde's is longer; the position stands at its end.
    if text.chars().count() > 400 { shorten(&text) } else { text.into_owned() }
}

/// The field that serde complains of.
fn named_in(text: &str) -> Option<&str> {
    let rest = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|lead| text.split_once(lead).map(|(_, rest)| rest))?;
    rest.split_once('`').map(|(name, _)| name)
}

fn safe_name(name: &str) -> String {
    if name.chars().count() > LONGEST_NAME { mask(name) } else { name.to_owned() }
}

pub(super) async fn read(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let too_large = || {
        ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            Code::BodyTooLarge,
            format!("The body is larger than {limit} bytes, the most that is taken here: send it in parts."),
        )
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let mut all = BytesMut::new();
    loop {
        let frame = tokio::time::timeout(BODY_PAUSE, body.frame()).await.map_err(|_| {
            ApiError::new(
                StatusCode::REQUEST_TIMEOUT,
                Code::BodyTimeout,
                "The body did not arrive in time: send the request again.",
            )
        })?;
        match frame {
            None => return Ok(all.freeze()),
            Some(Err(_)) => {
                return Err(ApiError::bad_request(
                    Code::BodyTruncated,
                    "The body ended before it was complete: send the request again.",
                ));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    if all.len() + data.len() > limit {
                        return Err(too_large());
                    }
                    all.extend_from_slice(&data);
                }
            }
        }
    }
}

/// An id out of a path.
pub(super) fn id<T: FromStr>(text: &str) -> Result<T, ApiError> {
    text.parse().map_err(|_| {
        ApiError::bad_request(Code::InvalidId, "An id is a UUID like 97665549-effe-5e34-a023-53e3b2c34a6d.")
            .param("id")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::view::{AddKey, KeysQuery};

    #[test]
    fn what_is_wrong_is_named_and_values_are_not_repeated() {
        let secret = "sk-secret-0123456789abcdef0123456789";
        for (body, code, says) in [
            (format!("{{\"key\":\"a\",\"weight\":\"{secret}\"}}"), "invalid_body", "column"),
            (format!("{{\"{secret}\":1}}"), "invalid_body", "unknown field"),
            (format!("{{\"key\":\"a\",\"expires_at\":\"{secret}\"}}"), "invalid_body", "not a time"),
            (format!("{{\"key\":\"{secret}"), "invalid_json", "line 1"),
            (format!("[\"{secret}\"]"), "invalid_body", "line 1"),
            (format!("\"{secret}\\\"{secret}\""), "invalid_body", "a string"),
        ] {
            let error = parse_json::<AddKey>(body.as_bytes()).unwrap_err();
            assert_eq!((error.status.as_u16(), error.code.as_str()), (400, code), "{body}");
            assert!(error.message.contains(says), "{}", error.message);
            assert!(!format!("{error:?}").contains(secret), "{error:?}");
        }
        let unknown = parse_json::<AddKey>(b"{\"key\":\"a\",\"colour\":1}").unwrap_err();
        assert_eq!(unknown.param.as_deref(), Some("colour"));
        assert_eq!(parse_json::<AddKey>(b"{}").unwrap_err().param.as_deref(), Some("key"));
        assert_eq!(parse_json::<AddKey>(b" ").unwrap_err().code.as_str(), "empty_body");
    }

    #[tokio::test]
    async fn unknown_and_unreadable_parameters_are_named() {
        for (query, param) in [("colour=1", "colour"), ("page=x", "page"), ("status=on", "status")] {
            let (mut parts, ()) =
                http::Request::get(format!("/admin/api-keys?{query}")).body(()).unwrap().into_parts();
            let error = Query::<KeysQuery>::from_request_parts(&mut parts, &()).await.err().unwrap();
            assert_eq!((error.code.as_str(), error.param.as_deref()), ("invalid_query", Some(param)));
        }
    }
}
