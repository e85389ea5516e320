//! What keytide has to know of a caller's request, and the only thing it may change in it.

use std::{borrow::Cow, fmt, mem, ops::Range, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use http::{HeaderMap, Version, header, request::Parts};
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use serde::{
    Deserialize, Deserializer,
    de::{self, MapAccess, Visitor},
};
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::{
    ApiError, Code,
    body::RequestBody,
    class::{Carried, Content, has_elements},
    fields::{Fields, each_field, each_inner},
    route::Api,
    usage,
};
use crate::ledger::Class;

/// Reads a whole body, which must be at most `limit` bytes and keep coming.
///
/// # Errors
/// 413, 408 or 400, as it is the body's size, its pace or its end that is wrong.
pub async fn read_body(body: &mut RequestBody, limit: u64, pace: Duration) -> Result<Bytes, ApiError> {
    if body.size_hint().lower() > limit {
        return Err(ApiError::body_too_large(limit));
    }
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    while !body.is_end_stream() {
        // Mostly it came with the head, and no timer is needed.
        let frame = match poll_immediate(body.frame()).await {
            Some(frame) => Ok(frame),
            None => tokio::time::timeout(pace, body.frame()).await,
        };
        let frame = match frame {
            Err(_) => return Err(ApiError::body_timeout()),
            Ok(None) => break,
            Ok(Some(Err(_))) => return Err(ApiError::body_broken()),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(data) = frame.into_data() else { continue };
        if (first.len() + rest.len() + data.len()) as u64 > limit {
            return Err(ApiError::body_too_large(limit));
        }
        // Most bodies come in one piece, which is then passed on without a copy.
        if first.is_empty() && rest.is_empty() {
            first = data;
        } else {
            if rest.is_empty() {
                rest.reserve(first.len() + data.len());
                rest.extend_from_slice(&first);
                first = Bytes::new();
            }
            rest.extend_from_slice(&data);
        }
    }
    Ok(if rest.is_empty() { first } else { rest.freeze() })
}

/// What a refused caller may still send: how much, how long in all, and how long between two parts of it.
const MAX_DISCARDED: u64 = 64_000_000;
const DISCARD_TIME: Duration = Duration::from_secs(5);
const DISCARD_PACE: Duration = Duration::from_secs(1);

/// Takes in what a refused caller is still sending. A connection that is closed with bytes unread is reset,
/// and the caller sees that instead of the answer.
pub async fn discard_body(parts: &Parts, body: &mut RequestBody) {
    // Who waits for a "continue" sends nothing; HTTP/2 ends a single stream without any harm.
    if parts.headers.contains_key(header::EXPECT) || parts.version == Version::HTTP_2 {
        return;
    }
    if body.size_hint().lower() > MAX_DISCARDED {
        return;
    }
    let mut left = MAX_DISCARDED;
    let end = Instant::now() + DISCARD_TIME;
    while !body.is_end_stream() {
        let until = end.min(Instant::now() + DISCARD_PACE);
        let Ok(Some(Ok(frame))) = tokio::time::timeout_at(until, body.frame()).await else { return };
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        match left.checked_sub(size) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// A caller's request, read as far as keytide needs it.
#[derive(Debug)]
pub struct Asked {
    pub model: Box<str>,
    pub stream: bool,
    /// The stream is asked to tell what it used, which the caller has not asked for.
    pub hides_usage: bool,
    pub class: Class,
    /// As it goes to the provider.
    pub body: Bytes,
}

/// The fields that keytide looks at, each as it stands in the body.
#[derive(Default)]
struct Peek<'a> {
    model: Option<&'a str>,
    /// Ollama's older name for `model`.
    name: Option<&'a str>,
    stream: Option<&'a str>,
    stream_options: Option<&'a str>,
    /// They are there more than once, in whatever letters.
    repeats_options: bool,
    content: Content,
    /// In the field that is being passed.
    carried: Carried,
    /// There in other letters than small ones.
    like_model: bool,
    like_name: bool,
    /// What may not be there twice, and is.
    twice: Option<&'static str>,
}

impl<'a> Peek<'a> {
    fn of(text: &'a str) -> Result<Self, serde_json::Error> {
        let mut peek = Self::default();
        if each_field(text, &mut peek).is_some() && peek.twice.is_none() && peek.wrong().is_none() {
            return Ok(peek);
        }
        serde_json::from_str(text)
    }

    fn take(&mut self, name: &str, value: &'a str) {
        let carried = mem::take(&mut self.carried);
        let (place, known) = match name {
            "model" => (&mut self.model, "model"),
            "name" => (&mut self.name, "name"),
            "stream" => (&mut self.stream, "stream"),
            "stream_options" => {
                // Only where it matters to us is it an error: see `Asked::read`.
                self.repeats_options |= self.stream_options.replace(value).is_some();
                return;
            }
            "messages" => return self.content.messages = carried,
            "input" => return self.content.input = carried,
            "images" => return self.content.images = has_elements(value.as_bytes()),
            other => {
                self.like_model |= other.eq_ignore_ascii_case("model");
                self.like_name |= other.eq_ignore_ascii_case("name");
                self.repeats_options |= other.eq_ignore_ascii_case("stream_options");
                return;
            }
        };
        if place.replace(value).is_some() {
            self.twice = Some(known);
        }
    }

    fn wrong(&self) -> Option<&'static str> {
        // Go's decoder, which Ollama uses, takes any case, and the last of them: what was allowed here must be what is
        // served there.
        let is_twice =
            self.like_model && self.model.or(self.name).is_some() || self.like_name && self.name.is_some();
        is_twice.then_some("the model is there twice, in different letters")
    }
}

impl<'a> Fields<'a> for Peek<'a> {
    fn field(&mut self, name: &'a str, value: &'a str) {
        self.take(name, value);
    }

    fn inner(&mut self, name: &'a [u8], behind: &'a [u8]) {
        self.carried.note(name, behind);
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Peek<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Peek<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Peek<'de>, A::Error> {
                let mut peek = Peek::default();
                while let Some(name) = map.next_key::<Cow<'de, str>>()? {
                    let value = map.next_value::<&RawValue>()?.get();
                    each_inner(value, &mut peek);
                    peek.take(&name, value);
                    if let Some(twice) = peek.twice {
                        return Err(de::Error::duplicate_field(twice));
                    }
                }
                peek.wrong().map_or(Ok(peek), |wrong| Err(de::Error::custom(wrong)))
            }
        }
        deserializer.deserialize_map(Fields)
    }
}

impl Asked {
    /// `resolve` gives the provider's name for an alias; with `counts_tokens` the answer has to tell what it used.
    ///
    /// # Errors
    /// 400 that names what is wrong, and where.
    pub fn read<'o>(
        api: Api,
        body: Bytes,
        counts_tokens: bool,
        resolve: impl FnOnce(&str) -> Option<&'o str>,
    ) -> Result<Self, ApiError> {
        if body.is_empty() {
            return Err(ApiError::bad_request(Code::InvalidJson, "The body is empty: send a JSON object."));
        }
        let text = simdutf8::compat::from_utf8(&body).map_err(|error| {
            ApiError::bad_request(
                Code::InvalidUtf8,
                format!("The body is not valid UTF-8 at byte {}.", error.valid_up_to()),
            )
        })?;
        if !text.trim_start().starts_with('{') {
            return Err(ApiError::bad_request(Code::InvalidJson, "The body must be a JSON object."));
        }
        let peek = Peek::of(text).map_err(|error| {
            ApiError::bad_request(Code::InvalidJson, format!("The body is not valid JSON: {error}."))
        })?;
        let stream = match peek.stream {
            None | Some("null") => api.streams_by_default(),
            Some("true") => true,
            Some("false") => false,
            Some(_) => {
                return Err(ApiError::bad_request(Code::InvalidType, "\"stream\" must be true or false.")
                    .param("stream"));
            }
        };
        let named = peek.model.or(if api.is_native() { peek.name } else { None });
        let Some(raw) = named else {
            return Err(ApiError::bad_request(Code::MissingModel, "\"model\" is missing.").param("model"));
        };
        let model: Cow<'_, str> = read_string(raw)?;
        if model.trim().is_empty() {
            return Err(ApiError::bad_request(Code::MissingModel, "\"model\" is empty.").param("model"));
        }
        let class = peek.content.class(api);
        let target = resolve(&model).filter(|target| *target != model);
        // Other APIs' streams tell it by themselves.
        let asks_usage = counts_tokens && stream && matches!(api, Api::ChatCompletions | Api::Completions);
        let options = if asks_usage { asking_usage(&peek)? } else { None };
        let hides_usage = options.is_some();
        // What stands around a change stays as the caller wrote it.
        let mut changes = Vec::new();
        if let Some(target) = target {
            changes.push((place(text, raw), serde_json::to_string(target).unwrap_or_default()));
        }
        if let Some(options) = options {
            changes.push(match peek.stream_options {
                Some(before) => (place(text, before), options),
                None => {
                    let begin = text.find('{').map_or(0, |at| at + 1);
                    (begin..begin, format!("\"stream_options\":{options},"))
                }
            });
        }
        let model = target.map_or_else(|| Box::from(&*model), Box::from);
        let body = if changes.is_empty() { body } else { changed(text, changes) };
        Ok(Self { model, stream, hides_usage, class, body })
    }
}

fn asking_usage(peek: &Peek<'_>) -> Result<Option<String>, ApiError> {
    if peek.repeats_options {
        return Err(ApiError::bad_request(
            Code::InvalidJson,
            "The body is not valid JSON: \"stream_options\" is there twice, or in capital letters.",
        )
        .param("stream_options"));
    }
    usage::asking(peek.stream_options)
}

/// Where in `text` a value stands that is a slice of it.
fn place(text: &str, raw: &str) -> Range<usize> {
    let start = raw.as_ptr() as usize - text.as_ptr() as usize;
    start..start + raw.len()
}

fn changed(text: &str, mut changes: Vec<(Range<usize>, String)>) -> Bytes {
    changes.sort_unstable_by_key(|(at, _)| at.start);
    let more: usize = changes.iter().map(|(_, new)| new.len()).sum();
    let mut all = BytesMut::with_capacity(text.len() + more);
    let mut from = 0;
    for (at, new) in changes {
        all.extend_from_slice(&text.as_bytes()[from..at.start]);
        all.extend_from_slice(new.as_bytes());
        from = at.end;
    }
    all.extend_from_slice(&text.as_bytes()[from..]);
    all.freeze()
}

fn read_string(text: &str) -> Result<Cow<'_, str>, ApiError> {
    if text == "null" {
        return Err(ApiError::bad_request(Code::MissingModel, "\"model\" is null.").param("model"));
    }
    // Without escapes, which is nearly always, the text between the quotes is the value.
    if let Some(plain) = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'))
        && !plain.contains('\\')
    {
        return Ok(Cow::Borrowed(plain));
    }
    serde_json::from_str::<String>(text)
        .map(Cow::Owned)
        .map_err(|_| ApiError::bad_request(Code::InvalidType, "\"model\" must be a string.").param("model"))
}

/// The token that a caller sent, wherever client libraries put it.
pub fn token_of(headers: &HeaderMap) -> Option<&str> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let value = value.to_str().ok()?.trim();
        let (scheme, token) = value.split_once(' ').unwrap_or(("", value));
        if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() {
            return Some(token.trim());
        }
    }
    headers
        .get("x-api-key")
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

/// More than any client sends; hyper's own, much higher bound answers without a body.
pub const MAX_HEADERS: usize = 80;
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Far beyond what the APIs know, and short enough to go on behind any base URL.
const MAX_QUERY: usize = 16 * 1024;

pub fn check_head(parts: &Parts) -> Result<(), ApiError> {
    let headers = &parts.headers;
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if headers.len() > MAX_HEADERS || bytes > MAX_HEADER_BYTES {
        return Err(ApiError::too_many_headers());
    }
    if parts.uri.query().is_some_and(|query| query.len() > MAX_QUERY) {
        return Err(ApiError::query_too_long());
    }
    Ok(())
}

#[cfg(test)]
#[path = "request_tests.rs"]
mod tests;
