//! From an admitted request to its answer: keys are tried in a bounded loop until one serves it.

use std::{collections::VecDeque, net::IpAddr, pin::pin, sync::Arc};

use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, header};
use http_body::Body as HttpBody;
use tracing::{debug, warn};

use super::{
    ApiError, Outgoing,
    body::Body,
    cache::{self, AnswerCache},
    call::{Call, Closing},
    door::Seen,
    patience::Patience,
    peek::{End, Peeked, concat, peek, read_error_body, read_some},
    provider::Provider,
    redact::Redactor,
    relay::{Relay, Start},
    request::Asked,
    route::Api,
    usage,
    verdict::{
        LastError, broken_answer, closing_of_error, effect_of, is_rate_limited, last_error, no_key,
        of_body_error, of_client_error, unreachable_provider,
    },
};
use crate::{
    guard::Caller,
    ledger::{CommitWatch, Kind},
    model::{Effect, KeyId, Timestamp},
    pool::Ask,
    upstream::{
        client::{self, Answer},
        headers::{RequestHeaders, keep_for_caller},
        inspect::Inspector,
        outcome::Treat,
        scan::Framing,
    },
};

/// Most keys that are tried for one request, whatever is configured.
pub const MAX_ATTEMPTS: usize = 10;

/// What is forwarded, and for whom.
pub struct Forward<'a> {
    pub core: usize,
    pub provider: &'a Arc<Provider>,
    pub caller: &'a Caller,
    pub address: IpAddr,
    pub api: Api,
    pub query: Option<&'a str>,
    pub headers: &'a HeaderMap,
    pub asked: Asked,
    /// Set where an answer ends only after the commit that counts it.
    pub strict: Option<CommitWatch>,
    pub patience: &'a Patience,
    pub now: Timestamp,
}

impl Forward<'_> {
    pub async fn run(&self) -> Outgoing {
        let provider = self.provider;
        let (caller, class) = (self.caller.clone(), self.asked.class);
        let seen = Seen::of(self.address, provider.name(), &self.asked.model);
        let mut call =
            Call::open(provider.clone(), self.core, caller, class, &self.asked.model, seen, self.now);
        let cache_key = match &provider.answers {
            Some(_) if !self.asked.stream => Some(AnswerCache::key(self.api, self.query, &self.asked.body)),
            _ => None,
        };
        if let (Some(answers), Some(key)) = (&provider.answers, &cache_key)
            && let Some(answer) = answers.get(key, self.now)
        {
            return self.repeat(call, &answer).await;
        }
        let (Some(client), Some(path)) = (provider.client(self.core), provider.path(self.api, self.query))
        else {
            return self.refuse(&mut call, unreachable_provider()).await;
        };
        let body = &self.asked.body;
        let mut tried = [KeyId(0); MAX_ATTEMPTS];
        let attempts = (provider.options.max_attempts as usize).clamp(1, MAX_ATTEMPTS);
        let mut last = None;
        for attempt in 0..attempts {
            let now = provider.clock.now();
            let ask = Ask { exclude: &tried[..attempt], caller: self.caller.token().0 as u64 };
            let lease = match provider.pool.pick(&ask, now) {
                Ok(lease) => lease,
                Err(none) => {
                    let error = match last.take() {
                        Some(error) if !is_rate_limited(&none) => error,
                        _ => LastError::Ours(no_key(provider.name(), &none, now)),
                    };
                    return self.give_up(call, error).await;
                }
            };
            tried[attempt] = lease.key_id();
            let redactor = Redactor::new(lease.credential());
            let headers = RequestHeaders {
                caller: self.headers,
                options: &provider.upstream,
                credential: redactor.credential(),
                has_body: true,
            };
            call.begin_attempt(lease, now);
            let limit = provider.upstream.first_byte_timeout;
            // Made where it stays, and gone with this line: nothing of it goes on through a pause.
            let sent = self.patience.within(pin!(client.request(Method::POST, &path, &headers, body))).await;
            let sent = sent.unwrap_or(Err(client::Error::Timeout(limit)));
            let tries_left = attempt + 1 < attempts;
            match sent {
                Err(error) => {
                    warn!(provider = provider.name(), key = %tried[attempt].short(), "{error}");
                    call.attempt_failed(Effect::Server { cooldown: None });
                    last = Some(LastError::Ours(of_client_error(&error)));
                    self.back_off(attempt, tries_left).await;
                }
                Ok(response) => {
                    let status = response.status();
                    let rule = provider.upstream.rules.judge(status.as_u16(), response.headers());
                    match rule.treat_as {
                        Treat::Success => {
                            let served = pin!(self.serve(call, response, cache_key, &redactor)).await;
                            match served {
                                Served::Answered(response) => return response,
                                Served::Failed { call: returned, error, retry_soon } => {
                                    call = returned;
                                    last = Some(*error);
                                    if !retry_soon {
                                        self.back_off(attempt, tries_left).await;
                                    }
                                }
                            }
                        }
                        Treat::Request => {
                            return self.pass_on(call, response, &redactor).await;
                        }
                        _ => {
                            let (mut parts, body) = response.into_parts();
                            let body = read_error_body(body).await;
                            let body = redactor.clean_error(&mut parts.headers, body);
                            let effect = effect_of(rule, &parts.headers, &body, provider.clock.now());
                            debug!(
                                provider = provider.name(), key = %tried[attempt].short(),
                                status = status.as_u16(), ?effect, "an attempt failed"
                            );
                            call.attempt_failed(effect);
                            last = Some(last_error(status, rule, parts.headers, body));
                            if matches!(rule.treat_as, Treat::Server) {
                                self.back_off(attempt, tries_left).await;
                            }
                        }
                    }
                }
            }
        }
        // With as many keys as attempts this is the first moment at which it shows that all are cooling.
        let now = provider.clock.now();
        let error = match (provider.pool.why_none(now), last) {
            (Some(none), _) if is_rate_limited(&none) => LastError::Ours(no_key(provider.name(), &none, now)),
            (_, last) => last.unwrap_or_else(|| LastError::Ours(unreachable_provider())),
        };
        self.give_up(call, error).await
    }

    /// An answer that was given before.
    async fn repeat(&self, mut call: Box<Call>, answer: &cache::Answer) -> Outgoing {
        self.provider.metrics.cache_hit();
        let ticket = call.close_from_cache();
        self.commit(ticket).await;
        let mut response = Outgoing::new(Response::new(Body::full(answer.body.clone())));
        *response.headers_mut() = answer.headers.clone();
        response.headers_mut().insert("x-keytide-cache", HeaderValue::from_static("hit"));
        response
    }

    /// A successful status: looks at the body's beginning before anything goes out.
    async fn serve(
        &self,
        mut call: Box<Call>,
        response: Box<Response<Answer>>,
        cache_key: Option<[u8; 32]>,
        redactor: &Redactor,
    ) -> Served {
        let provider = self.provider;
        let (mut parts, body) = response.into_parts();
        call.answers(parts.status);
        let framing = parts
            .headers
            .get(header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .and_then(Framing::of);
        let encoding = parts.headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes);
        let gzip = matches!(encoding, Some(b"gzip" | b"x-gzip"));
        let readable = gzip || matches!(encoding, None | Some(b"identity"));
        let mut inspector = framing.filter(|_| readable).map(|framing| Inspector::new(framing, gzip));
        let length = body.size_hint().exact();
        let peeked = match &mut inspector {
            Some(inspector) => peek(body, inspector, framing, provider.upstream.first_byte_timeout).await,
            // An answer without a body is never asked for one, so it is counted here.
            None if body.is_end_stream() => Peeked { head: VecDeque::new(), end: End::Complete },
            None => Peeked { head: VecDeque::new(), end: End::More(body) },
        };
        let error = inspector.as_ref().and_then(Inspector::error);
        if let (Some(error), true) = (error, !matches!(peeked.end, End::Broken(_))) {
            let closing = closing_of_error(provider, error);
            if closing.attempt == Kind::Failure {
                debug!(provider = provider.name(), code = ?error.code, "an answer carried an error");
                call.attempt_failed(closing.effect);
                let retry_soon = !matches!(closing.effect, Effect::Server { .. });
                let error = Box::new(LastError::Ours(of_body_error(closing.effect)));
                return Served::Failed { call, error, retry_soon };
            }
        }
        match peeked.end {
            End::Broken(why) => {
                warn!(provider = provider.name(), "an answer broke off before its first event: {why}");
                call.attempt_failed(Effect::Server { cooldown: None });
                let error = Box::new(LastError::Ours(broken_answer()));
                Served::Failed { call, error, retry_soon: false }
            }
            End::Complete => {
                let closing = match error {
                    Some(error) => closing_of_error(provider, error),
                    None => Closing::SUCCESS,
                };
                let tokens = inspector.as_ref().and_then(Inspector::tokens);
                let ticket = call.close(closing, tokens);
                self.commit(ticket).await;
                let mut body = concat(peeked.head);
                if error.is_some() {
                    body = redactor.clean_error(&mut parts.headers, body);
                }
                if self.asked.hides_usage && framing == Some(Framing::Sse) && !gzip {
                    body = usage::without(body);
                }
                let mut answer = answer_head(parts);
                if let (Some(answers), Some(key)) = (&provider.answers, cache_key)
                    && closing == Closing::SUCCESS
                    && answer.status() == StatusCode::OK
                    && framing == Some(Framing::Json)
                {
                    answers.put(key, answer.headers().clone(), body.clone(), provider.clock.now());
                }
                *answer.body_mut() = Body::full(body);
                Served::Answered(answer)
            }
            End::More(body) => {
                let streams = matches!(framing, Some(Framing::Sse | Framing::Ndjson));
                // A stream may end with an event of ours, so its length is not the provider's to say.
                let length = length.filter(|_| !streams);
                let mut answer = answer_head(parts);
                *answer.body_mut() = Body::relay(Relay::new(Start {
                    upstream: body,
                    head: peeked.head,
                    inspector,
                    redactor: redactor.clone(),
                    is_error: false,
                    framing: framing.filter(|_| !gzip),
                    hides_usage: self.asked.hides_usage,
                    api: self.api,
                    closing: Closing::SUCCESS,
                    call,
                    idle_timeout: provider.upstream.idle_timeout,
                    strict: self.strict.clone(),
                    length,
                }));
                Served::Answered(answer)
            }
        }
    }

    /// The provider's word on a request that was at fault, as it is.
    async fn pass_on(
        &self,
        mut call: Box<Call>,
        response: Box<Response<Answer>>,
        redactor: &Redactor,
    ) -> Outgoing {
        let (mut parts, body) = response.into_parts();
        call.answers(parts.status);
        let Peeked { head, end } = read_some(body).await;
        match end {
            End::Complete => {
                let ticket = call.close(Closing::REQUEST_FAULT, None);
                self.commit(ticket).await;
                let body = redactor.clean_error(&mut parts.headers, concat(head));
                let mut answer = answer_head(parts);
                *answer.body_mut() = Body::full(body);
                answer
            }
            End::Broken(why) => {
                warn!(provider = self.provider.name(), "an error's text broke off: {why}");
                call.answers(StatusCode::BAD_GATEWAY);
                let ticket = call.close(Closing::failure(Effect::Server { cooldown: None }), None);
                self.commit(ticket).await;
                Box::new(broken_answer().response())
            }
            // Longer, or slower, than anything that is about a key.
            End::More(body) => {
                redactor.clean_headers(&mut parts.headers);
                let mut answer = answer_head(parts);
                *answer.body_mut() = Body::relay(Relay::new(Start {
                    upstream: body,
                    head,
                    inspector: None,
                    redactor: redactor.clone(),
                    is_error: true,
                    framing: None,
                    hides_usage: false,
                    api: self.api,
                    closing: Closing::REQUEST_FAULT,
                    call,
                    idle_timeout: self.provider.upstream.idle_timeout,
                    strict: self.strict.clone(),
                    length: None,
                }));
                answer
            }
        }
    }

    async fn give_up(&self, mut call: Box<Call>, error: LastError) -> Outgoing {
        call.answers(match &error {
            LastError::Ours(error) => error.status,
            LastError::Answer { status, .. } => *status,
        });
        let ticket = call.close_unserved();
        self.commit(ticket).await;
        match error {
            LastError::Ours(error) => Box::new(error.response()),
            LastError::Answer { status, mut headers, body } => {
                keep_for_caller(&mut headers);
                let mut response = Outgoing::new(Response::new(Body::full(body)));
                *response.status_mut() = status;
                *response.headers_mut() = headers;
                response
            }
        }
    }

    async fn refuse(&self, call: &mut Call, error: ApiError) -> Outgoing {
        call.answers(error.status);
        let ticket = call.close_unserved();
        self.commit(ticket).await;
        Box::new(error.response())
    }

    async fn commit(&self, ticket: crate::ledger::Ticket) {
        if let Some(watch) = &self.strict {
            watch.wait(ticket).await;
        }
    }

    /// A jittered pause that doubles with each attempt, before another key meets the same trouble.
    async fn back_off(&self, attempt: usize, tries_left: bool) {
        let base = self.provider.options.retry_backoff;
        if tries_left && !base.is_zero() {
            let pause = base.saturating_mul(1 << attempt.min(5));
            tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }
}

enum Served {
    Answered(Outgoing),
    Failed { call: Box<Call>, error: Box<LastError>, retry_soon: bool },
}

/// The provider's status and headers, as far as they are the caller's business.
fn answer_head(parts: http::response::Parts) -> Outgoing {
    let mut answer = Outgoing::new(Response::new(Body::empty()));
    *answer.status_mut() = parts.status;
    *answer.headers_mut() = parts.headers;
    keep_for_caller(answer.headers_mut());
    answer
}
