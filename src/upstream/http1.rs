//! An HTTP/1 connection to a provider, driven by whoever uses it.
//!
//! Clients are usually made of two tasks: one owns the connection, the other one its user's request and answer, and what
//! passes between them goes through channels that would serve any two threads. Of a small request that took a fifth of
//! all instructions and a third of all atomic ones. Here whoever sends the request reads the answer, with nothing in
//! between; heads, chunks and trailers are parsed by `httparse`.

use std::{
    future::poll_fn,
    io,
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header, uri::PathAndQuery,
};
use httparse::Status;
use hyper_rustls::MaybeHttpsStream;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::has_budget_remaining,
};

use super::{
    headers::Headers,
    late::LateIo,
    wire::{Received, Unsent, content_length},
};

type Io = MaybeHttpsStream<LateIo>;

const MOST_HEADERS: usize = 100;
const MOST_HEAD: usize = 128 * 1024;
/// A chunk's length with its extensions, which nobody uses.
const MOST_CHUNK_HEAD: usize = 4 * 1024;
const MOST_TRAILERS: usize = 32;
const MOST_TRAILER_BYTES: usize = 16 * 1024;

/// What is wrong with a connection, or with what came over it.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the connection was closed before the answer had ended")]
    Cut,
    #[error("what came is no HTTP/1 answer: {0}")]
    Malformed(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// There is no answer.
#[derive(Debug)]
pub(super) struct Unanswered {
    pub(super) error: AnswerError,
    /// The connection had ended before anything was sent, so that another one may be tried.
    pub(super) is_unsent: bool,
}

/// A request without its body.
pub(super) struct Head<'a, H> {
    pub(super) method: &'a Method,
    pub(super) path: &'a PathAndQuery,
    /// Where `headers` have no other.
    pub(super) host: Option<&'a HeaderValue>,
    pub(super) headers: &'a H,
}

pub(super) struct Http1 {
    io: TokioIo<Io>,
    /// What of the request is not yet written.
    unsent: Unsent,
    is_flushed: bool,
    /// Why the request could not be written. Its answer may be here all the same.
    send_error: Option<io::Error>,
    received: Received,
    rest: Rest,
    /// After this answer the connection can be used for another one.
    is_kept: bool,
}

/// What is still to come of an answer's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    Nothing,
    Bytes(u64),
    ChunkHead,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    /// All until the connection is closed.
    Everything,
}

impl Http1 {
    pub(super) fn new(io: Io) -> Self {
        Self {
            io: TokioIo::new(io),
            unsent: Unsent::default(),
            is_flushed: true,
            send_error: None,
            received: Received::default(),
            rest: Rest::Nothing,
            is_kept: true,
        }
    }

    /// Whether the next request can be sent. What the provider did since the last one shows only when it is tried.
    pub(super) fn is_ready(&self) -> bool {
        self.is_kept
            && self.has_ended()
            && self.received.bytes.is_empty()
            && self.is_flushed
            && self.send_error.is_none()
    }

    /// The same, after a look at what the provider did meanwhile.
    pub(super) fn is_open(&mut self) -> bool {
        let mut byte = [0];
        let mut nobody = Context::from_waker(Waker::noop());
        self.is_ready()
            && Pin::new(&mut self.io).poll_read(&mut nobody, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Nobody uses it for now.
    pub(super) fn rest(&mut self) {
        self.received.rest();
        self.unsent.rest();
        match self.io.inner_mut() {
            MaybeHttpsStream::Http(io) => io.rest(),
            MaybeHttpsStream::Https(tls) => tls.inner_mut().get_mut().0.inner_mut().rest(),
        }
    }

    /// Whether all of the answer's body was taken.
    pub(super) fn has_ended(&self) -> bool {
        self.rest == Rest::Nothing
    }

    /// How much of the body is still to be taken, where that is known.
    pub(super) fn length(&self) -> Option<u64> {
        match self.rest {
            Rest::Nothing => Some(0),
            Rest::Bytes(left) => Some(left),
            _ => None,
        }
    }

    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        head: &Head<'_, impl Headers>,
        body: &Bytes,
    ) -> Result<Response<()>, Unanswered> {
        let mut is_begun = false;
        poll_fn(|cx| {
            if !is_begun {
                // An idle connection brings nothing but its end; and from here on what comes is told.
                if let Poll::Ready(came) = self.poll_receive(cx) {
                    let error = match came {
                        Ok(0) => AnswerError::Cut,
                        Ok(_) => malformed("it came before it was asked for"),
                        Err(error) => error.into(),
                    };
                    return Poll::Ready(Err(Unanswered { error, is_unsent: true }));
                }
                if !has_budget_remaining() {
                    // Nobody has looked, and the task's next turn is at hand.
                    return Poll::Pending;
                }
                self.begin(head, body);
                is_begun = true;
                let _goes_on_below = self.poll_send(cx);
                return Poll::Pending;
            }
            let _goes_on_beside = self.poll_send(cx);
            self.poll_head(head.method, cx).map_err(|error| Unanswered { error, is_unsent: false })
        })
        .await
    }

    fn begin(&mut self, head: &Head<'_, impl Headers>, body: &Bytes) {
        write_head(self.unsent.begin(), head, body.len());
        self.unsent.put_body(body);
        self.is_flushed = false;
        // Until its answer says so.
        self.is_kept = false;
    }

    /// Writes what is unsent, as far as it goes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_flushed {
            return Poll::Ready(());
        }
        self.send_error = ready!(self.poll_write_all(cx)).err();
        self.unsent.let_go();
        self.is_flushed = true;
        Poll::Ready(())
    }

    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.unsent.poll_write(&mut self.io, cx))?;
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.received.poll_more(&mut self.io, cx)
    }

    fn poll_head(
        &mut self,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Response<()>, AnswerError>> {
        loop {
            if let Some(response) = self.take_head(method)? {
                return Poll::Ready(Ok(response));
            }
            if ready!(self.poll_receive(cx))? == 0 {
                return Poll::Ready(Err(self.send_error.take().map_or(AnswerError::Cut, AnswerError::Io)));
            }
        }
    }

    /// Takes the head from what has come, if it is whole, and passes over those that only say that there will be one.
    fn take_head(&mut self, method: &Method) -> Result<Option<Response<()>>, AnswerError> {
        while !self.received.bytes.is_empty() {
            let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
            let mut parsed = httparse::Response::new(&mut []);
            let length = match httparse::ParserConfig::default().parse_response_with_uninit_headers(
                &mut parsed,
                &self.received.bytes,
                &mut headers,
            ) {
                Ok(Status::Complete(length)) => length,
                Ok(Status::Partial) if self.received.bytes.len() <= MOST_HEAD => return Ok(None),
                Ok(Status::Partial) => return Err(malformed("its head is too long")),
                Err(error) => return Err(AnswerError::Malformed(error.to_string())),
            };
            let status = StatusCode::from_u16(parsed.code.unwrap_or_default())
                .map_err(|error| AnswerError::Malformed(error.to_string()))?;
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(malformed("it goes on in a protocol that was not asked for"));
            }
            if status.is_informational() {
                self.received.bytes.advance(length);
                continue;
            }
            let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
            let (headers, said) = read_headers(parsed.headers)?;
            self.received.bytes.advance(length);
            (self.rest, self.is_kept) = said.framing(method, status, version)?;
            let mut response = Response::new(());
            *response.status_mut() = status;
            *response.version_mut() = version;
            *response.headers_mut() = headers;
            self.settle()?;
            return Ok(Some(response));
        }
        Ok(None)
    }

    /// The next part of the body.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerError>>> {
        let _goes_on_beside = self.poll_send(cx);
        loop {
            self.settle()?;
            match &mut self.rest {
                Rest::Nothing => return Poll::Ready(None),
                Rest::Bytes(left) | Rest::Chunk(left) if !self.received.bytes.is_empty() => {
                    let size = usize::try_from(*left)
                        .map_or(self.received.bytes.len(), |left| left.min(self.received.bytes.len()));
                    *left -= size as u64;
                    // A stream's parts share the memory that they came in, as they would all be copied.
                    let part = match self.rest {
                        Rest::Chunk(_) => self.received.bytes.split_to(size).freeze(),
                        _ => self.received.take(size),
                    };
                    // Where the body's end is here as well, that is known with its last part; what is wrong with it is
                    // told when more is asked for.
                    let _told_later = self.settle();
                    return Poll::Ready(Some(Ok(part)));
                }
                Rest::Everything if !self.received.bytes.is_empty() => {
                    return Poll::Ready(Some(Ok(self.received.bytes.split().freeze())));
                }
                _ => {}
            }
            if ready!(self.poll_receive(cx))? == 0 {
                if self.rest != Rest::Everything {
                    return Poll::Ready(Some(Err(AnswerError::Cut)));
                }
                self.rest = Rest::Nothing;
            }
        }
    }

    /// Passes over what has come and is no data. What is wrong stays where it is.
    fn settle(&mut self) -> Result<(), AnswerError> {
        loop {
            let (length, next) = match self.rest {
                Rest::Bytes(0) => (0, Rest::Nothing),
                Rest::Chunk(0) => (0, Rest::ChunkEnd),
                // The parser takes no digit at all for a 0.
                Rest::ChunkHead
                    if self.received.bytes.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) =>
                {
                    return Err(malformed("a chunk has no length"));
                }
                Rest::ChunkHead => match httparse::parse_chunk_size(&self.received.bytes) {
                    Ok(Status::Complete((length, 0))) => (length, Rest::Trailers),
                    Ok(Status::Complete((length, size))) => (length, Rest::Chunk(size)),
                    Ok(Status::Partial) if self.received.bytes.len() <= MOST_CHUNK_HEAD => return Ok(()),
                    _ => return Err(malformed("a chunk has no length")),
                },
                Rest::ChunkEnd => match self.received.bytes.get(..2) {
                    Some(b"\r\n") => (2, Rest::ChunkHead),
                    Some(_) => return Err(malformed("a chunk is longer than it says")),
                    None => return Ok(()),
                },
                Rest::Trailers if self.received.bytes.starts_with(b"\r\n") => (2, Rest::Nothing),
                Rest::Trailers => {
                    let mut trailers = [httparse::EMPTY_HEADER; MOST_TRAILERS];
                    match httparse::parse_headers(&self.received.bytes, &mut trailers) {
                        Ok(Status::Complete((length, _))) => (length, Rest::Nothing),
                        Ok(Status::Partial) if self.received.bytes.len() <= MOST_TRAILER_BYTES => {
                            return Ok(());
                        }
                        _ => return Err(malformed("what follows the last chunk is no header")),
                    }
                }
                Rest::Nothing | Rest::Bytes(_) | Rest::Chunk(_) | Rest::Everything => return Ok(()),
            };
            self.received.bytes.advance(length);
            self.rest = next;
        }
    }
}

fn malformed(why: &str) -> AnswerError {
    AnswerError::Malformed(why.to_owned())
}

fn write_head(out: &mut BytesMut, head: &Head<'_, impl Headers>, length: usize) {
    let mut line = |parts: [&[u8]; 4]| parts.iter().for_each(|part| out.extend_from_slice(part));
    line([head.method.as_str().as_bytes(), b" ", head.path.as_str().as_bytes(), b" HTTP/1.1\r\n"]);
    if let Some(host) = head.host.filter(|_| !head.headers.name_host()) {
        line([b"host", b": ", host.as_bytes(), b"\r\n"]);
    }
    head.headers.each(|name, value| {
        // How long the body is, and when the connection ends, is said here and nowhere else.
        if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION].contains(name) {
            line([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
    });
    if length > 0 || ![Method::GET, Method::HEAD].contains(head.method) {
        line([b"content-length", b": ", itoa::Buffer::new().format(length).as_bytes(), b"\r\n"]);
    }
    out.extend_from_slice(b"\r\n");
}

/// What an answer's head says of its body, and of the connection after it.
#[derive(Default)]
struct Said {
    closes: bool,
    keeps: bool,
    length: Option<Result<u64, AnswerError>>,
    /// By the last `Transfer-Encoding`: whether it ends in chunks.
    is_chunked: Option<bool>,
}

impl Said {
    /// Returns whether that was all that there is to know of it.
    fn hear(&mut self, name: &HeaderName, value: &[u8]) -> bool {
        // What is no ASCII says nothing, to us or to whoever else reads it.
        let text = || std::str::from_utf8(value).ok().filter(|text| text.is_ascii()).unwrap_or_default();
        if *name == header::CONTENT_LENGTH {
            // Equal ones may be repeated, in headers of their own or in one.
            for text in text().split(',') {
                let told = match (content_length(text.trim()), &self.length) {
                    (Some(told), Some(Ok(before))) if told != *before => Err(malformed("it has two lengths")),
                    (_, Some(Err(_))) => return true,
                    (Some(told), _) => Ok(told),
                    (None, _) => Err(malformed("its length is no number")),
                };
                self.length = Some(told);
            }
            return true;
        }
        if *name == header::TRANSFER_ENCODING {
            let last = text().rsplit(',').next();
            self.is_chunked = Some(last.is_some_and(|coding| coding.trim().eq_ignore_ascii_case("chunked")));
        } else if *name == header::CONNECTION {
            for word in text().split(',').map(str::trim) {
                self.closes |= word.eq_ignore_ascii_case("close");
                self.keeps |= word.eq_ignore_ascii_case("keep-alive");
            }
        }
        false
    }

    /// What is to come of the body, and whether the connection can be used again after it.
    fn framing(
        self,
        method: &Method,
        status: StatusCode,
        version: Version,
    ) -> Result<(Rest, bool), AnswerError> {
        let is_kept = !self.closes && (version == Version::HTTP_11 || self.keeps);
        if *method == Method::HEAD || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) {
            return Ok((Rest::Nothing, is_kept));
        }
        if let Some(is_chunked) = self.is_chunked {
            let rest = if is_chunked { Rest::ChunkHead } else { Rest::Everything };
            // Said in both ways, a length may be meant to make two readers of one connection disagree.
            let is_double = self.length.is_some();
            return Ok((rest, is_kept && is_chunked && !is_double && version == Version::HTTP_11));
        }
        Ok(match self.length.transpose()? {
            Some(length) => (Rest::Bytes(length), is_kept),
            None => (Rest::Everything, false),
        })
    }
}

/// The headers as a map, and what they say of the body.
fn read_headers(parsed: &[httparse::Header<'_>]) -> Result<(HeaderMap, Said), AnswerError> {
    let (mut headers, mut said) = (HeaderMap::with_capacity(parsed.len()), Said::default());
    for header in parsed {
        let name = HeaderName::from_bytes(header.name.as_bytes());
        let Ok(name) = name else { return Err(malformed("a header cannot be read")) };
        if !said.hear(&name, header.value) {
            let value = HeaderValue::from_bytes(header.value);
            headers.append(name, value.map_err(|_| malformed("a header cannot be read"))?);
        }
    }
    Ok((headers, said))
}

#[cfg(test)]
#[path = "http1_tests.rs"]
mod tests;
