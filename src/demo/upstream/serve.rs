//! One request: who asks, what it gets, and the answer that is made of both.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::{
    answer::{Answer, BrokenOff, Close, Frames, gzipped, line, named_sse, sse},
    anthropic,
    ask::Ask,
    behaviour::{Behaviour, Reset, StatusReply},
    draft::{Draft, Out, half},
    keys::Shared,
    ollama, openai, responses,
    route::{Dialect, Endpoint, reason},
    speech::{Said, with_huge_texts},
    tally::{Attempt, Ending, Recorded, Tokens},
};
use crate::model::Timestamp;

/// Why there is no proper answer.
struct Refusal {
    status: StatusCode,
    message: String,
}

impl Refusal {
    fn new(status: StatusCode) -> Self {
        Self { status, message: reason(status).to_owned() }
    }
}

/// The key of `Authorization: Bearer`, else of `x-api-key`.
fn key_of(headers: &HeaderMap) -> Arc<str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| {
        let (scheme, key) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
    });
    bearer.or_else(|| text("x-api-key")).unwrap_or_default().into()
}

pub(super) async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, BrokenOff> {
    let (head, body) = request.into_parts();
    let endpoint = Endpoint::of(head.uri.path());
    let key = key_of(&head.headers);
    let nth = shared.number();
    // From here on a hang-up drops the attempt, wherever it is, and that counts it.
    let attempt = shared.tally.begin(key.clone(), endpoint.name());
    let head_only = head.method == Method::HEAD;
    let method = head.method.clone();
    let body = match Limited::new(body, shared.options.max_body).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let sender = Sender { shared: &shared, endpoint: &endpoint, nth, head_only, attempt };
            return Ok(sender.refuse(&Refusal::new(StatusCode::PAYLOAD_TOO_LARGE), &[]));
        }
        Err(_) => return Err(BrokenOff),
    };
    shared.tally.record(Recorded {
        key: key.clone(),
        endpoint: endpoint.name(),
        method: head.method,
        uri: head.uri,
        version: head.version,
        headers: head.headers,
        body: body.clone(),
    });
    let sender = Sender { shared: &shared, endpoint: &endpoint, nth, head_only, attempt };
    let ask = sender.ask(&method, &body);

    let ordered = ask.as_ref().ok().and_then(Ask::ordered_status);
    if let Some(status) = ordered.and_then(|code| StatusCode::from_u16(code).ok()) {
        return Ok(sender.refuse(&Refusal::new(status), &[]));
    }
    if key.is_empty() && shared.options.require_auth && !endpoint.is_public() {
        return Ok(sender.refuse(&Refusal::new(StatusCode::UNAUTHORIZED), &[]));
    }
    sender.answer(shared.decide(&key), ask).await
}

/// All that is needed to answer one request.
struct Sender<'a> {
    shared: &'a Shared,
    endpoint: &'a Endpoint,
    nth: u64,
    head_only: bool,
    attempt: Attempt,
}

impl Sender<'_> {
    /// What is asked, or what is wrong with it.
    fn ask(&self, method: &Method, body: &[u8]) -> Result<Ask, Refusal> {
        let wanted = self.endpoint.method().ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND))?;
        if wanted != *method {
            return Err(Refusal::new(StatusCode::METHOD_NOT_ALLOWED));
        }
        if wanted == Method::GET {
            return Ok(Ask::default());
        }
        let bad = |message: String| Refusal { status: StatusCode::BAD_REQUEST, message };
        let body: Value =
            serde_json::from_slice(body).map_err(|_| bad("The body is not valid JSON.".to_owned()))?;
        Ask::read(self.endpoint, &body).map_err(bad)
    }

    async fn answer(
        self,
        behaviour: Behaviour,
        ask: Result<Ask, Refusal>,
    ) -> Result<Response<Answer>, BrokenOff> {
        match &behaviour {
            Behaviour::Status(reply) => return Ok(self.reply(reply)),
            Behaviour::RateLimited(reset) => {
                let headers = self.reset_headers(*reset);
                return Ok(self.refuse(&Refusal::new(StatusCode::TOO_MANY_REQUESTS), &headers));
            }
            Behaviour::QuotaUsed { resets_in } => {
                let headers = self.reset_headers(Reset::EpochMillis(*resets_in));
                return Ok(self.refuse(&Refusal::new(StatusCode::PAYMENT_REQUIRED), &headers));
            }
            Behaviour::Dead => return Ok(self.refuse(&Refusal::new(StatusCode::UNAUTHORIZED), &[])),
            Behaviour::Forbidden => return Ok(self.refuse(&Refusal::new(StatusCode::FORBIDDEN), &[])),
            Behaviour::Refuse => {
                self.attempt.end(Ending::Broken);
                return Err(BrokenOff);
            }
            // Ends when the caller gives up: then this future is dropped, and the attempt with it.
            Behaviour::Hang => std::future::pending().await,
            Behaviour::Slow { first_byte } => tokio::time::sleep(*first_byte).await,
            _ => {}
        }
        let ask = match ask {
            Ok(ask) => ask,
            Err(refusal) => return Ok(self.refuse(&refusal, &[])),
        };
        let huge = match behaviour {
            Behaviour::Huge { bytes } => Some(bytes),
            _ => None,
        };
        Ok(match self.draft(&ask, huge) {
            Ok(draft) => self.send_draft(&behaviour, draft),
            Err(refusal) => self.refuse(&refusal, &[]),
        })
    }

    fn reset_headers(&self, reset: Reset) -> Vec<(String, String)> {
        let at = |span: Duration| self.shared.now().saturating_add(span);
        let http_date = |at: Timestamp| {
            jiff::fmt::rfc2822::DateTimePrinter::new().timestamp_to_rfc9110_string(&at.calendar()?).ok()
        };
        match reset {
            Reset::Unsaid => None,
            Reset::Seconds(seconds) => Some(("retry-after", seconds.to_string())),
            Reset::HttpDate(span) => http_date(at(span)).map(|date| ("retry-after", date)),
            Reset::EpochMillis(span) => Some(("x-ratelimit-reset", at(span).0.to_string())),
        }
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// # Errors
    /// When the model is not there.
    fn draft(&self, ask: &Ask, huge: Option<u64>) -> Result<Draft, Refusal> {
        let options = &self.shared.options;
        let now = self.shared.now();
        let missing = |model: &str| Refusal {
            status: StatusCode::NOT_FOUND,
            message: format!("The model `{model}` does not exist."),
        };
        let listed = |model: &str| options.models.iter().any(|name| name == model);
        if options.strict_models && self.endpoint.method() == Some(Method::POST) && !listed(&ask.model) {
            return Err(missing(&ask.model));
        }
        let stamp = openai::Stamp { model: ask.model.clone(), created: now.0.div_euclid(1000) };
        let said = || Said::new(ask, options.seed, self.nth, options.chunks, huge);
        let spoken = |whole: fn(&openai::Stamp, &Said) -> Value| {
            let said = said();
            Draft::whole(&whole(&stamp, &said), huge, said.tokens)
        };
        let streamed = |said: Said, make: &dyn Fn(Said) -> Frames, told: bool| {
            let tokens = said.tokens;
            let frames = match huge {
                Some(bytes) => with_huge_texts(make(said), bytes),
                None => make(said),
            };
            Draft::stream(self.endpoint.dialect(), frames, tokens, told)
        };
        let heard = Tokens { prompt: ask.prompt_tokens(), completion: 0 };
        let plain = |value: Value| Draft::whole(&value, None, Tokens::default());
        Ok(match self.endpoint {
            Endpoint::Chat if ask.stream => {
                streamed(said(), &|said| openai::chat_stream(&stamp, ask, said), ask.include_usage)
            }
            Endpoint::Chat => spoken(openai::chat),
            Endpoint::Completions if ask.stream => {
                streamed(said(), &|said| openai::completion_stream(&stamp, ask, said), ask.include_usage)
            }
            Endpoint::Completions => spoken(openai::completion),
            Endpoint::Responses if ask.stream => {
                streamed(said(), &|said| responses::stream(&stamp, said), true)
            }
            Endpoint::Responses => spoken(responses::whole),
            Endpoint::Messages if ask.stream => {
                streamed(said(), &|said| anthropic::stream(&stamp, said), true)
            }
            Endpoint::Messages => spoken(anthropic::whole),
            Endpoint::OllamaChat if ask.stream => {
                streamed(said(), &|said| ollama::chat_stream(ask, said, now), true)
            }
            Endpoint::OllamaChat => {
                let said = said();
                Draft::whole(&ollama::chat(ask, &said, now), huge, said.tokens)
            }
            Endpoint::OllamaGenerate if ask.stream => {
                streamed(said(), &|said| ollama::generate_stream(ask, said, now), true)
            }
            Endpoint::OllamaGenerate => {
                let said = said();
                Draft::whole(&ollama::generate(ask, &said, now), huge, said.tokens)
            }
            Endpoint::Embeddings => Draft::whole(&openai::embeddings(&stamp, ask, options.seed), None, heard),
            Endpoint::OllamaEmbed => Draft::whole(&ollama::embed(ask, options.seed), None, heard),
            Endpoint::OllamaEmbeddings => Draft {
                reported: Tokens::default(),
                ..Draft::whole(&ollama::embeddings(ask, options.seed), None, heard)
            },
            Endpoint::Models => plain(openai::models(&options.models, stamp.created)),
            Endpoint::Model(id) if listed(id) => plain(openai::model(id, stamp.created)),
            Endpoint::Model(id) => return Err(missing(id)),
            Endpoint::KeyInfo => plain(openai::key_info(self.shared.tally.key(self.attempt.key()).completed)),
            Endpoint::OllamaShow if listed(&ask.model) => plain(ollama::show(now)),
            Endpoint::OllamaShow => return Err(missing(&ask.model)),
            Endpoint::OllamaTags => plain(ollama::tags(&options.models, now)),
            Endpoint::OllamaVersion => plain(ollama::version()),
            Endpoint::OllamaRoot => Draft {
                kind: "text/plain; charset=utf-8",
                ..Draft::of_bytes(Bytes::from_static(b"Ollama is running"))
            },
            Endpoint::Unknown(_) => return Err(Refusal::new(StatusCode::NOT_FOUND)),
        })
    }

    /// Sends the answer in the way that the key's behaviour says.
    fn send_draft(self, behaviour: &Behaviour, draft: Draft) -> Response<Answer> {
        let Draft { kind, streamed, frames, length, tokens, reported } = draft;
        let mut out =
            Out { kind, streamed, frames, length, close: Close::End(Ending::Completed { tokens, reported }) };
        let mut headers = Vec::new();
        match *behaviour {
            Behaviour::ErrorIn200 { code } => {
                out.frames = Box::new(std::iter::once(self.hidden_error(code, streamed)));
                out.length = None;
                out.close = Close::End(Ending::Failed);
            }
            Behaviour::ErrorMidStream { after, code } => {
                let error =
                    if streamed { self.late_error(code, after) } else { self.hidden_error(code, false) };
                let before = if streamed { after } else { 0 };
                out.frames = Box::new(out.frames.take(before).chain([error]));
                out.length = None;
                out.close = Close::End(Ending::Failed);
            }
            Behaviour::BrokenStream { after } => {
                out = out.part(after);
                out.close = Close::Cut;
            }
            Behaviour::Stall { after } => {
                out = out.part(after);
                out.close = Close::Stall;
            }
            Behaviour::BrokenLength => {
                let all = out.frames.collect::<Vec<_>>().concat();
                headers.push((header::CONTENT_LENGTH.to_string(), all.len().to_string()));
                out.frames = half(all);
                out.length = None;
                out.close = Close::Cut;
            }
            Behaviour::Gzip => {
                headers.push((header::CONTENT_ENCODING.to_string(), "gzip".to_owned()));
                out.frames = gzipped(out.frames);
                out.length = None;
            }
            _ => {}
        }
        self.send(StatusCode::OK, &headers, out)
    }

    fn error_text(code: u16) -> String {
        let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        format!("{} (status {code})", reason(status))
    }

    /// An error where an answer should be: the whole body, or the first event.
    fn hidden_error(&self, code: u16, streamed: bool) -> Bytes {
        let dialect = self.endpoint.dialect();
        let text = Self::error_text(code);
        let error = dialect.error(code, &text);
        match (streamed, dialect) {
            (false, _) => error.to_string().into(),
            (true, Dialect::Ollama) => line(&error),
            (true, Dialect::Anthropic) => named_sse(&error),
            (true, Dialect::Responses) => responses::error_event(code, &text, 0),
            (true, Dialect::OpenAi) => sse(&error),
        }
    }

    /// An error after events that were fine.
    fn late_error(&self, code: u16, after: usize) -> Bytes {
        let text = Self::error_text(code);
        match self.endpoint.dialect() {
            Dialect::OpenAi => openai::error_event(code, &text),
            Dialect::Responses => responses::error_event(code, &text, after),
            Dialect::Anthropic | Dialect::Ollama => self.hidden_error(code, true),
        }
    }

    fn refuse(self, refusal: &Refusal, headers: &[(String, String)]) -> Response<Answer> {
        let code = refusal.status.as_u16();
        let body = self.endpoint.dialect().error(code, &refusal.message).to_string();
        let out = Out { close: Close::End(Ending::Failed), ..Out::json(body.into()) };
        self.send(refusal.status, headers, out)
    }

    fn reply(self, reply: &StatusReply) -> Response<Answer> {
        let status = reply.status();
        let body = match &reply.body {
            Some(body) => body.clone(),
            None => self.endpoint.dialect().error(status.as_u16(), reason(status)).to_string(),
        };
        let mut out = Out::json(body.into());
        if !status.is_success() {
            out.close = Close::End(Ending::Failed);
        }
        self.send(status, &reply.headers, out)
    }

    fn send(self, status: StatusCode, headers: &[(String, String)], mut out: Out) -> Response<Answer> {
        let bodiless =
            matches!(status, StatusCode::NO_CONTENT | StatusCode::RESET_CONTENT | StatusCode::NOT_MODIFIED);
        if self.head_only || bodiless {
            out.frames = Box::new(std::iter::empty());
            out.length = None;
        }
        let pause = if out.streamed { self.shared.options.token_delay } else { Duration::ZERO };
        self.attempt.answered(status);
        let answer = Answer::new(out.frames, out.length, pause, out.close, self.attempt);
        let mut response = Response::new(answer);
        *response.status_mut() = status;
        let all = response.headers_mut();
        all.insert(header::CONTENT_TYPE, HeaderValue::from_static(out.kind));
        all.insert("x-request-id", HeaderValue::from(self.nth));
        if out.streamed {
            all.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        }
        for (name, value) in headers {
            match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                (Ok(name), Ok(value)) => {
                    all.insert(name, value);
                }
                _ => {
                    tracing::warn!(name, "the loopback provider was given a header that HTTP does not allow")
                }
            }
        }
        response
    }
}
