//! What an HTTP answer says: the function's value, or why there is none.

use std::{
    collections::HashMap,
    io::Read,
    time::{Duration, SystemTime},
};

use flate2::read::MultiGzDecoder;
use reqwest::{
    StatusCode,
    header::{CONTENT_ENCODING, HeaderMap, LOCATION, RETRY_AFTER},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    super::{
        sqlstate,
        transport::{Error, ErrorKind},
        wire::Function,
    },
    garbage,
};

/// Longer waits than this are asked for again.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// The body as text, decompressed, of at most `limit` bytes.
pub(super) fn decode(headers: &HeaderMap, bytes: Vec<u8>, limit: usize) -> Result<String, Error> {
    let encoding = headers.get(CONTENT_ENCODING).map_or(&b"identity"[..], |value| value.as_bytes());
    let bytes = match encoding.to_ascii_lowercase().as_slice() {
        b"identity" | b"" => bytes,
        b"gzip" | b"x-gzip" => {
            let mut plain = Vec::new();
            MultiGzDecoder::new(bytes.as_slice())
                .take(limit as u64 + 1)
                .read_to_end(&mut plain)
                .map_err(|_| garbage("the answer is not the gzip that it claims to be"))?;
            if plain.len() > limit {
                return Err(Error::too_long());
            }
            plain
        }
        _ => return Err(garbage("the answer is compressed in a way that nobody asked for")),
    };
    String::from_utf8(bytes).map_err(|_| garbage("the answer is not UTF-8"))
}

/// The function's value: the body itself, or the one field of the one row that some servers put around it.
pub(super) fn value(body: String, function: Function) -> Result<String, Error> {
    if let Ok([row]) = serde_json::from_str::<Vec<HashMap<String, &RawValue>>>(&body).as_deref()
        && let (1, Some(value)) = (row.len(), row.get(function.name()))
    {
        return Ok(value.get().to_owned());
    }
    match serde_json::from_str::<&RawValue>(&body) {
        Ok(value) if value.get() == "null" => Err(garbage("the function answered nothing")),
        Ok(_) => Ok(body),
        Err(_) if is_page(&body) => Err(garbage("a web page came back, not a hub's answer")),
        Err(_) => Err(garbage("the answer is not JSON")),
    }
}

/// PostgREST's, and in part the gateway's before it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Body {
    code: Option<String>,
    message: Option<String>,
    msg: Option<String>,
}

pub(super) fn error(status: StatusCode, headers: &HeaderMap, body: &str) -> Error {
    let mut error = explain(status, headers, body);
    error.retry_after = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok()).and_then(wait);
    error
}

fn explain(status: StatusCode, headers: &HeaderMap, body: &str) -> Error {
    let failed = |kind, detail| Error::new(kind, detail);
    if status.is_redirection() {
        let to = headers
            .get(LOCATION)
            .and_then(|to| to.to_str().ok())
            .and_then(|to| to.parse::<reqwest::Url>().ok());
        let to = to.as_ref().and_then(|to| to.host_str()).unwrap_or("another page");
        return failed(ErrorKind::Garbage, format!("the address leads on to {}", sqlstate::excerpt(to)));
    }
    let parsed = serde_json::from_str::<Body>(body).unwrap_or_default();
    let message = parsed.message.or(parsed.msg).unwrap_or_default();
    let code = parsed.code.unwrap_or_default();
    if let Some(kind) = postgrest(&code) {
        return failed(kind, format!("the hub's REST API answered {code}: {}", sqlstate::excerpt(&message)));
    }
    if code.len() == 5 && code.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_uppercase()) {
        return sqlstate::error(&code, &message);
    }
    let said = sqlstate::excerpt(&message);
    let said = if said.is_empty() { said } else { format!(": {said}") };
    let number = status.as_u16();
    let kind = match number {
        401 => ErrorKind::Credentials,
        // Supabase's answer to a project that is over its quota.
        402 => ErrorKind::Full,
        403 => ErrorKind::Forbidden,
        404 if is_page(body) || said.is_empty() => ErrorKind::Garbage,
        404 => ErrorKind::NoSchema,
        408 | 504 | 524 => ErrorKind::Timeout,
        413 => ErrorKind::TooLarge,
        429 | 503 => ErrorKind::Busy,
        502 | 520..=523 | 530 => ErrorKind::Unreachable,
        525 | 526 => ErrorKind::Certificate,
        // Supabase's own: the project is paused.
        540 => ErrorKind::ReadOnly,
        500.. => ErrorKind::Server,
        _ if is_page(body) => ErrorKind::Garbage,
        _ => ErrorKind::Server,
    };
    failed(kind, format!("the hub's REST API answered {number}{said}"))
}

/// PostgREST's own codes.
fn postgrest(code: &str) -> Option<ErrorKind> {
    Some(match code.strip_prefix("PGRST")? {
        "000" | "001" | "002" => ErrorKind::Unreachable,
        "003" => ErrorKind::Busy,
        // No such function, several of that name, or a schema that the API does not show.
        "202" | "203" | "106" => ErrorKind::NoSchema,
        "204" | "205" => ErrorKind::Missing,
        "300" | "301" | "302" | "303" => ErrorKind::Credentials,
        _ => ErrorKind::Server,
    })
}

fn is_page(body: &str) -> bool {
    body.trim_start().starts_with('<')
}

/// Seconds or a date.
fn wait(text: &str) -> Option<Duration> {
    let wait = match text.trim().parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            httpdate::parse_http_date(text.trim()).ok()?.duration_since(SystemTime::now()).unwrap_or_default()
        }
    };
    Some(wait.min(LONGEST_WAIT))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};
    use reqwest::header::HeaderValue;

    use super::*;

    fn failure(status: u16, body: &str) -> Error {
        error(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body)
    }

    #[test]
    fn a_value_comes_bare_or_in_a_row_and_is_not_touched() {
        let value_of = |body: &str| value(body.to_owned(), Function::Hello).unwrap();
        let odd = r#"{"n": 12345678901234567890123.45600, "s":"\u00e9 é"}"#;
        assert_eq!(value_of(odd), odd);
        assert_eq!(value_of(&format!("[{{\"keytide_hello\": {odd}}}]")), odd);
        for body in [r#"[{"other":1}]"#, r#"[{"keytide_hello":1},{"keytide_hello":2}]"#, "[]", "17"] {
            assert_eq!(value_of(body), body);
        }
        for body in ["", "null", "<html>Log in</html>", "{"] {
            assert_eq!(
                value(body.to_owned(), Function::Hello).unwrap_err().kind,
                ErrorKind::Garbage,
                "{body}"
            );
        }
    }

    #[test]
    fn statuses_and_codes_have_their_kinds() {
        for (status, body, expected) in [
            (404, r#"{"code":"PGRST202","message":"Could not find the function"}"#, ErrorKind::NoSchema),
            (404, r#"{"code":"42883","message":"no function"}"#, ErrorKind::NoSchema),
            (404, r#"{"code":"42P01","message":"no table"}"#, ErrorKind::Missing),
            (401, r#"{"code":"42501","message":"permission denied"}"#, ErrorKind::Forbidden),
            (405, r#"{"code":"25006","message":"read-only"}"#, ErrorKind::ReadOnly),
            (503, r#"{"code":"53100","message":"disk full"}"#, ErrorKind::Full),
            (500, r#"{"code":"57014","message":"canceling statement"}"#, ErrorKind::Timeout),
            (401, r#"{"code":"PGRST301","message":"JWSError"}"#, ErrorKind::Credentials),
            (503, r#"{"code":"PGRST001","message":"no connection"}"#, ErrorKind::Unreachable),
            (504, r#"{"code":"PGRST003","message":"pool"}"#, ErrorKind::Busy),
            (401, r#"{"message":"Invalid API key","hint":"Double check"}"#, ErrorKind::Credentials),
            (404, r#"{"message":"no Route matched with those values"}"#, ErrorKind::NoSchema),
            (404, "<html>not here</html>", ErrorKind::Garbage),
            (404, "", ErrorKind::Garbage),
            (403, "", ErrorKind::Forbidden),
            (413, "", ErrorKind::TooLarge),
            (429, "", ErrorKind::Busy),
            (500, "", ErrorKind::Server),
            (502, "", ErrorKind::Unreachable),
            (503, "", ErrorKind::Busy),
            (504, "", ErrorKind::Timeout),
            (540, "", ErrorKind::ReadOnly),
            (400, "<html>", ErrorKind::Garbage),
            (302, "", ErrorKind::Garbage),
        ] {
            let error = failure(status, body);
            assert_eq!(error.kind, expected, "{status} {body}: {error}");
        }
    }

    #[test]
    fn long_texts_and_keys_stay_out_of_errors() {
        let key = "sk-or-v1-0123456789abcdef0123456789abcdef";
        let body = format!(r#"{{"code":"P0001","message":"{key} {}"}}"#, "x ".repeat(5_000));
        let error = failure(400, &body);
        assert!(error.detail.len() < 400 && !error.detail.contains(key), "{error}");
    }

    #[test]
    fn a_wait_is_seconds_or_a_date_and_never_endless() {
        let mut headers = HeaderMap::new();
        let mut waits = |text: &str| {
            headers.insert(RETRY_AFTER, HeaderValue::from_str(text).unwrap());
            error(StatusCode::TOO_MANY_REQUESTS, &headers, "").retry_after
        };
        assert_eq!(waits("17"), Some(Duration::from_secs(17)));
        assert_eq!(waits("999999999"), Some(LONGEST_WAIT));
        assert_eq!(waits("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(waits("soon"), None);
    }

    #[test]
    fn gzip_is_read_up_to_the_limit() {
        let gzip = |bytes: &[u8]| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(bytes).unwrap();
            encoder.finish().unwrap()
        };
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        assert_eq!(decode(&headers, gzip(b"{}"), 10).unwrap(), "{}");
        assert_eq!(decode(&headers, gzip(&[b' '; 100_000]), 1_000).unwrap_err().kind, ErrorKind::TooLarge);
        assert_eq!(decode(&headers, b"{}".to_vec(), 10).unwrap_err().kind, ErrorKind::Garbage);
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("br"));
        assert_eq!(decode(&headers, b"{}".to_vec(), 10).unwrap_err().kind, ErrorKind::Garbage);
    }
}
