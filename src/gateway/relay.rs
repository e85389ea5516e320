//! An answer passed on as it arrives.
//!
//! The relay owns the [`Call`], so that the answer's end, its breaking off and the caller's leaving each count
//! the request exactly once. It holds at most one unfinished event of a stream: what breaks off in the middle
//! of an event can then still end with an error event that client libraries understand.

use std::{
    collections::VecDeque,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep};
use tracing::warn;

use super::{
    ApiError, Code, LOOK_EVERY,
    body::BodyError,
    call::{Call, Closing},
    peek::concat,
    redact::Redactor,
    route::Api,
    usage,
    verdict::closing_of_error,
};
use crate::{
    ledger::{CommitWatch, Ticket},
    upstream::{client::Answer, inspect::Inspector, scan::Framing},
};

/// Longest unfinished event that is held back.
const MAX_HELD: usize = 64 * 1024;

pub struct Relay {
    upstream: Answer,
    inspector: Option<Inspector>,
    redactor: Redactor,
    is_error: bool,
    framing: Option<Framing>,
    /// See [`Asked::hides_usage`](super::request::Asked::hides_usage).
    hides_usage: bool,
    api: Api,
    /// How the request is counted if nothing in the body says otherwise.
    closing: Closing,
    call: Box<Call>,
    ready: VecDeque<Bytes>,
    /// The beginning of an event whose end has not arrived.
    held: Vec<Bytes>,
    held_bytes: usize,
    /// Part of an unfinished event has gone out, since it was too long to hold.
    torn: bool,
    /// Something has come since the last look.
    is_heard: bool,
    /// When the provider has been silent for too long, as of the last look: every part of an answer that read the
    /// clock would pay for what is almost never asked.
    silent_at: Instant,
    /// Never later than `silent_at`.
    look: Pin<Box<Sleep>>,
    idle_timeout: Duration,
    strict: Option<CommitWatch>,
    commit: Option<Pin<Box<dyn Future<Output = bool> + Send>>>,
    ended: bool,
    remaining: Option<u64>,
}

/// What [`Relay::new`] takes.
pub struct Start {
    pub upstream: Answer,
    /// What was read of the body already.
    pub head: VecDeque<Bytes>,
    /// Has seen `head`.
    pub inspector: Option<Inspector>,
    /// Knows the key that the attempt was made with.
    pub redactor: Redactor,
    /// The whole body is an error's text: the key is masked in it, so its length must not be declared.
    pub is_error: bool,
    pub framing: Option<Framing>,
    pub hides_usage: bool,
    pub api: Api,
    pub closing: Closing,
    pub call: Box<Call>,
    pub idle_timeout: Duration,
    /// Set where an answer ends only after the commit that counts it.
    pub strict: Option<CommitWatch>,
    /// The whole body's length, where it was declared and may be declared again.
    pub length: Option<u64>,
}

impl Relay {
    pub fn new(start: Start) -> Self {
        let Start {
            upstream,
            head,
            inspector,
            redactor,
            is_error,
            framing,
            hides_usage,
            api,
            closing,
            call,
            idle_timeout,
            strict,
            length,
        } = start;
        let now = Instant::now();
        let mut relay = Self {
            upstream,
            inspector,
            redactor,
            is_error,
            framing,
            hides_usage: hides_usage && framing == Some(Framing::Sse),
            api,
            closing,
            call,
            ready: VecDeque::new(),
            held: Vec::new(),
            held_bytes: 0,
            torn: false,
            is_heard: false,
            silent_at: now + idle_timeout,
            look: Box::pin(tokio::time::sleep_until(now + idle_timeout.min(LOOK_EVERY))),
            idle_timeout,
            strict,
            commit: None,
            ended: false,
            remaining: length,
        };
        for bytes in head {
            relay.enqueue(bytes);
        }
        relay.check_verdict();
        if relay.has_all() {
            relay.end();
        }
        relay
    }

    pub fn size_hint(&self) -> SizeHint {
        self.remaining.map(SizeHint::with_exact).unwrap_or_default()
    }

    pub fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            if let Some(commit) = &mut self.commit {
                ready!(commit.as_mut().poll(cx));
                self.commit = None;
            }
            if let Some(bytes) = self.ready.pop_front() {
                if let Some(remaining) = &mut self.remaining {
                    *remaining = remaining.saturating_sub(bytes.len() as u64);
                }
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            if let Some(error) = self.cut_if_revoked() {
                return Poll::Ready(Some(Err(error)));
            }
            if self.ended {
                continue;
            }
            match Pin::new(&mut self.upstream).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Ok(bytes) = frame.into_data() else { continue };
                    self.is_heard = true;
                    if let Some(inspector) = &mut self.inspector {
                        inspector.feed(&bytes);
                    }
                    self.enqueue(bytes);
                    self.check_verdict();
                    if self.upstream.is_end_stream() || self.has_all() {
                        self.end();
                    }
                }
                Poll::Ready(None) => self.end(),
                Poll::Ready(Some(Err(error))) => {
                    let why = crate::upstream::client::causes(&*error);
                    if let Some(error) = self.break_off(&why) {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Poll::Pending => {
                    ready!(self.look.as_mut().poll(cx));
                    let now = Instant::now();
                    if std::mem::take(&mut self.is_heard) {
                        self.silent_at = now + self.idle_timeout;
                    }
                    if now < self.silent_at {
                        self.look.as_mut().reset(self.silent_at.min(now + LOOK_EVERY));
                        continue;
                    }
                    if let Some(error) = self.break_off("nothing came within idle_timeout") {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
        }
    }

    /// Whether every byte of a declared length has arrived. The caller's connection asks for nothing beyond them,
    /// so this is the end even where the provider says so later, in a frame of its own (HTTP/2).
    fn has_all(&self) -> bool {
        self.remaining
            .is_some_and(|remaining| remaining <= self.ready.iter().map(|bytes| bytes.len() as u64).sum())
    }

    /// Passes bytes on up to the last event that is whole.
    fn enqueue(&mut self, mut bytes: Bytes) {
        if self.is_error {
            return self.enqueue_masked(bytes);
        }
        let boundary = match self.framing {
            Some(Framing::Sse) => end_of_last_event(&bytes).or_else(|| self.blank_line_across(&bytes)),
            Some(Framing::Ndjson) => bytes.iter().rposition(|byte| *byte == b'\n').map(|at| at + 1),
            _ => Some(bytes.len()),
        };
        if let Some(boundary) = boundary {
            let whole = bytes.split_to(boundary);
            if self.hides_usage && !self.torn {
                self.held.push(whole);
                self.hide_usage();
            } else {
                self.release_held();
                self.ready.extend(Some(whole).filter(|whole| !whole.is_empty()));
            }
            self.torn = false;
        }
        if bytes.is_empty() {
            return;
        }
        self.held_bytes += bytes.len();
        self.held.push(bytes);
        // Many tiny pieces would take more memory than their bytes.
        if self.torn || self.held_bytes > MAX_HELD || self.held.len() > 64 {
            self.release_held();
            self.torn = true;
        }
    }

    /// Passes an error's text on up to what may be the beginning of the key.
    fn enqueue_masked(&mut self, bytes: Bytes) {
        let mut text = VecDeque::from(std::mem::take(&mut self.held));
        text.push_back(bytes);
        let mut clean = self.redactor.clean(concat(text));
        let begun = clean.split_off(clean.len() - self.redactor.begun_at_end(&clean));
        self.ready.extend(Some(clean).filter(|bytes| !bytes.is_empty()));
        self.held.extend(Some(begun).filter(|bytes| !bytes.is_empty()));
    }

    /// A blank line whose first half came with the bytes before.
    fn blank_line_across(&self, bytes: &[u8]) -> Option<usize> {
        let before = self.held.last()?.last()?;
        match (before, bytes) {
            (b'\n', [b'\r', b'\n', ..]) => Some(2),
            (b'\n' | b'\r', [b'\n' | b'\r', ..]) => Some(1),
            _ => None,
        }
    }

    /// Passes whole events on, but for the one that the caller has not asked for.
    fn hide_usage(&mut self) {
        let events = usage::without(concat(std::mem::take(&mut self.held).into()));
        self.held_bytes = 0;
        self.ready.extend(Some(events).filter(|events| !events.is_empty()));
    }

    fn release_held(&mut self) {
        self.ready.extend(self.held.drain(..));
        self.held_bytes = 0;
    }

    /// Counts the request as soon as the body has said how it ended: what is passed on after that changes
    /// nothing, and neither does a caller that leaves once it has seen the last event.
    fn check_verdict(&mut self) {
        let Some(inspector) = &self.inspector else { return };
        if self.call.is_closed() {
            return;
        }
        self.call.heard(inspector.tokens(), inspector.documents());
        if let Some(error) = inspector.error() {
            let closing = closing_of_error(self.call.provider(), error);
            self.redact();
            self.close(closing);
        } else if inspector.is_done() {
            self.close(self.closing);
        }
    }

    /// The event that carries an error is whole by now, and has not gone out.
    fn redact(&mut self) {
        let whole = concat(std::mem::take(&mut self.ready));
        self.ready.extend(Some(self.redactor.clean(whole)).filter(|bytes| !bytes.is_empty()));
    }

    fn close(&mut self, closing: Closing) {
        if self.call.is_closed() {
            return;
        }
        let tokens = self.inspector.as_ref().and_then(Inspector::tokens);
        let ticket = self.call.close(closing, tokens);
        self.await_commit(ticket);
    }

    fn await_commit(&mut self, ticket: Ticket) {
        if let Some(watch) = self.strict.clone() {
            self.commit = Some(Box::pin(async move { watch.wait(ticket).await }));
        }
    }

    fn end(&mut self) {
        self.ended = true;
        if self.hides_usage && !self.torn {
            self.hide_usage();
        }
        self.release_held();
        if let Some(inspector) = &mut self.inspector {
            inspector.finish();
        }
        self.check_verdict();
        self.close(self.closing);
    }

    /// The provider stopped in the middle of its answer. Returns the error that breaks the caller's connection
    /// where nothing else can tell the caller.
    fn break_off(&mut self, why: &str) -> Option<BodyError> {
        self.ended = true;
        if self.call.is_closed() {
            // The answer was over, only its end was not clean.
            self.release_held();
            return None;
        }
        warn!(provider = self.call.provider().name(), "an answer broke off: {why}");
        let tokens = self.inspector.as_ref().and_then(Inspector::tokens);
        let ticket = self.call.close_broken(tokens);
        self.await_commit(ticket);
        self.end_with(&ApiError::new(StatusCode::BAD_GATEWAY, Code::UpstreamBroken, BROKEN))
    }

    /// A caller that is no longer one gets no more of an answer; the upstream call is cancelled with it.
    fn cut_if_revoked(&mut self) -> Option<BodyError> {
        let refusal = self.call.revoked().filter(|_| !self.call.is_closed())?;
        self.ended = true;
        let ticket = self.call.close_left();
        self.await_commit(ticket);
        self.end_with(&ApiError::refused(refusal))
    }

    /// Tells the caller why nothing more comes, in an event where the answer is made of events.
    fn end_with(&mut self, error: &ApiError) -> Option<BodyError> {
        let event = match self.framing {
            Some(Framing::Sse) if !self.torn => sse_error(self.api, error),
            Some(Framing::Ndjson) if !self.torn => ndjson_error(error),
            _ => return Some(Box::new(io::Error::other(error.message.clone()))),
        };
        self.held.clear();
        self.ready.push_back(event);
        None
    }
}

const BROKEN: &str = "The provider broke off its answer.";

fn sse_error(api: Api, error: &ApiError) -> Bytes {
    let event = match api {
        Api::Messages => {
            let kind = if error.status.is_server_error() { "api_error" } else { "authentication_error" };
            let error = serde_json::json!({"type": kind, "message": error.message});
            format!("event: error\ndata: {}\n\n", serde_json::json!({"type": "error", "error": error}))
        }
        _ => format!("data: {}\n\n", error.json()),
    };
    event.into()
}

fn ndjson_error(error: &ApiError) -> Bytes {
    format!("{}\n", serde_json::json!({"error": error.message})).into()
}

/// Where the last blank line ends: LF LF, CR LF CR LF or CR CR.
fn end_of_last_event(bytes: &[u8]) -> Option<usize> {
    let mut end = bytes.len();
    while let Some(at) = bytes[..end].iter().rposition(|byte| matches!(byte, b'\n' | b'\r')) {
        let line_end = at + 1;
        let before = match &bytes[..line_end] {
            [.., b'\r', b'\n'] => line_end - 2,
            _ => line_end - 1,
        };
        if matches!(bytes[..before].last(), Some(b'\n' | b'\r')) {
            return Some(line_end);
        }
        end = before;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_at_blank_lines() {
        for (text, end) in [
            ("data: a\n\n", Some(9)),
            ("data: a\r\n\r\n", Some(11)),
            ("data: a\r\rdata: b", Some(9)),
            ("data: a\n\ndata: b\n", Some(9)),
            ("data: a\n", None),
            ("", None),
            ("\n", None),
            (": comment\n\n: more", Some(11)),
        ] {
            assert_eq!(end_of_last_event(text.as_bytes()), end, "{text:?}");
        }
    }

    #[test]
    fn error_events_are_json() {
        for api in [Api::ChatCompletions, Api::Messages] {
            let error = ApiError::new(StatusCode::BAD_GATEWAY, Code::UpstreamBroken, BROKEN);
            let event = String::from_utf8(sse_error(api, &error).to_vec()).unwrap();
            let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
            let value: serde_json::Value = serde_json::from_str(data).unwrap();
            assert_eq!(value["error"]["message"], BROKEN);
        }
        assert!(
            serde_json::from_slice::<serde_json::Value>(&ndjson_error(&ApiError::user_disabled())).is_ok()
        );
    }
}
