//! The usual request over HTTP/1: one to a provider's API, with its head and its body at hand.
//!
//! A server for every request keeps a channel between a request's body and whoever reads it, with wakers at both ends, and
//! a state for each way in which HTTP may be spoken: of a small request they took a fifth of all atomic instructions. Here
//! one task reads what is usual, has it answered and writes the answer. On anything else, or anything that is wrong, the
//! connection goes to that server, with all that has come: what is allowed, and how it is refused, is said in one place.
//! Heads are parsed by `httparse`, as they are there.

use std::{
    cell::RefCell,
    fmt::Write as _,
    future::{Future, poll_fn},
    io,
    mem::MaybeUninit,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header, response};
use http_body::Body as HttpBody;
use httparse::Status;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWrite, task::coop::consume_budget, time::Instant};

use super::{
    Incoming, Outgoing,
    body::RequestBody,
    io::TimedIo,
    request::MAX_HEADERS,
    route::{Endpoint, Route},
    serve::Stop,
    timer::Timer,
};
use crate::upstream::wire::{Received, Unsent, content_length};

/// What is understood here and left out counts as well, as it does elsewhere.
const MOST_HEADERS: usize = MAX_HEADERS;
const MOST_HEAD: usize = 16 * 1024;
/// As much as the general server lets a connection hold before anybody takes it. Longer ones are taken in parts as they
/// arrive, once it is known who asks.
const MOST_BODY: usize = 128 * 1024;
/// How long the rest of a body is waited for here.
const AT_HAND: Duration = Duration::from_millis(100);
/// Parts of a stream that go out in one piece with what tells their length.
const SMALL_PART: usize = 4 * 1024;

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The connection is to be closed.
    Over,
    /// What has come is nothing for this place; nor was anything before it.
    Unusual { received: Bytes, is_first: bool },
}

/// Answers usual requests, one after the other.
///
/// # Errors
/// When the connection broke, or its caller left in the midst of an answer.
pub(super) async fn serve<A: Future<Output = Outgoing>>(
    io: &mut TokioIo<TimedIo>,
    stop: &mut Stop,
    answer: impl FnMut(Box<Incoming>) -> A,
) -> io::Result<End> {
    Connection::new(io, AT_HAND).serve(stop, answer).await
}

struct Connection<'a> {
    io: &'a mut TokioIo<TimedIo>,
    /// How long the rest of a body is waited for.
    at_hand: Duration,
    received: Received,
    unsent: Unsent,
}

enum Next {
    Request(Box<Incoming>),
    Unusual,
    /// The caller is done, or we are.
    Nothing,
}

impl<'a> Connection<'a> {
    fn new(io: &'a mut TokioIo<TimedIo>, at_hand: Duration) -> Self {
        Self { io, at_hand, received: Received::default(), unsent: Unsent::default() }
    }

    async fn serve<A: Future<Output = Outgoing>>(
        mut self,
        stop: &mut Stop,
        mut answer: impl FnMut(Box<Incoming>) -> A,
    ) -> io::Result<End> {
        let mut is_first = true;
        loop {
            // A caller who has sent many requests at once lets others have their turn.
            consume_budget().await;
            let request = match self.next(stop).await? {
                Next::Request(request) => request,
                Next::Unusual => {
                    return Ok(End::Unusual { received: self.received.bytes.split().freeze(), is_first });
                }
                Next::Nothing => return Ok(End::Over),
            };
            is_first = false;
            let response = self.while_there(pin!(answer(request))).await?;
            let closes = poll_fn(|cx| Poll::Ready(stop.is_told(cx))).await;
            if self.write(response, closes).await? {
                return Ok(End::Over);
            }
        }
    }

    async fn next(&mut self, stop: &mut Stop) -> io::Result<Next> {
        self.received.rest();
        self.unsent.rest();
        let mut head = None;
        let mut timer: Option<Timer> = None;
        poll_fn(|cx| {
            loop {
                if head.is_none() && !self.received.bytes.is_empty() {
                    match parse(&self.received.bytes) {
                        Parsed::Usual(usual) => head = Some(usual),
                        Parsed::Unusual => return Poll::Ready(Ok(Next::Unusual)),
                        Parsed::Partial => {}
                    }
                }
                if let Some(head) = head.take_if(|head| self.received.bytes.len() >= head.length + head.body)
                {
                    return Poll::Ready(Ok(Next::Request(self.take(head))));
                }
                let came = match &head {
                    Some(head) => self.received.poll_all(head.length + head.body, self.io, cx)?,
                    None => self.received.poll_begin(self.io, cx)?,
                };
                match came {
                    Poll::Ready(0) if self.received.bytes.is_empty() => {
                        return Poll::Ready(Ok(Next::Nothing));
                    }
                    Poll::Ready(0) => return Poll::Ready(Ok(Next::Unusual)),
                    Poll::Ready(_) => {}
                    Poll::Pending if head.is_none() => {
                        // What was asked before is answered.
                        if stop.is_told(cx) {
                            return Poll::Ready(Ok(Next::Nothing));
                        }
                        self.flush(cx)?;
                        return Poll::Pending;
                    }
                    Poll::Pending => {
                        self.flush(cx)?;
                        let timer = timer.get_or_insert_with(|| Timer::at(Instant::now() + self.at_hand));
                        if timer.passed(cx) {
                            return Poll::Ready(Ok(Next::Unusual));
                        }
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }

    fn take(&mut self, head: Usual) -> Box<Incoming> {
        self.received.bytes.advance(head.length);
        let body = self.received.take(head.body);
        // Its answer may take long, and nobody else may need its body by then.
        self.received.rest();
        let mut request = head.request;
        request.body = RequestBody::Whole(body);
        request
    }

    /// Waits for an answer as long as the caller does.
    async fn while_there<T>(&mut self, mut answer: Pin<&mut impl Future<Output = T>>) -> io::Result<T> {
        poll_fn(|cx| match answer.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Ok(answer)),
            Poll::Pending => {
                self.look(cx)?;
                Poll::Pending
            }
        })
        .await
    }

    /// The last bytes of an answer may still be on their way out, and a caller who does not take them is cut.
    fn flush(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let _goes_on_beside = Pin::new(&mut *self.io).poll_flush(cx)?;
        Ok(())
    }

    /// Whether the caller is still there, who may send the next request already.
    fn look(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        self.flush(cx)?;
        if self.received.bytes.is_empty()
            && let Poll::Ready(0) = self.received.poll_begin(self.io, cx)?
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Writes an answer to its end, and whether it was the last.
    async fn write(&mut self, response: Outgoing, closes: bool) -> io::Result<bool> {
        let (head, body) = response.into_parts();
        let mut body = pin!(body);
        let mut framing = match head.status {
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => Framing::NoBody,
            _ => body.size_hint().exact().map_or(Framing::Chunked, Framing::Length),
        };
        let closes = write_head(self.unsent.begin(), &head, framing, closes);
        let mut is_over = matches!(framing, Framing::NoBody | Framing::Length(0));
        poll_fn(|cx| {
            loop {
                let mut is_pending = false;
                // The head goes out with the first part, and small parts with each other.
                while !is_over && self.unsent.body.is_empty() && self.unsent.head.len() < SMALL_PART {
                    match body.as_mut().poll_frame(cx) {
                        Poll::Ready(Some(part)) => {
                            let part = part.map_err(io::Error::other)?;
                            if let Ok(part) = part.into_data() {
                                is_over = framing.put(part, &mut self.unsent)?;
                            }
                        }
                        Poll::Ready(None) => {
                            framing.end(&mut self.unsent)?;
                            is_over = true;
                        }
                        Poll::Pending => {
                            is_pending = true;
                            break;
                        }
                    }
                }
                ready!(self.unsent.poll_write(self.io, cx))?;
                framing.end_part(&mut self.unsent);
                if !self.unsent.head.is_empty() {
                    continue;
                }
                if is_over {
                    return Pin::new(&mut *self.io).poll_flush(cx);
                }
                if is_pending {
                    self.look(cx)?;
                    return Poll::Pending;
                }
            }
        })
        .await
        .map(|()| closes)
    }
}

/// How an answer's body is told from what follows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    NoBody,
    /// What is left of a length that was declared.
    Length(u64),
    Chunked,
    /// In the midst of a chunk's data, which is being written.
    InChunk,
}

impl Framing {
    /// Takes a part of the body, and whether it is the last one for sure.
    fn put(&mut self, part: Bytes, unsent: &mut Unsent) -> io::Result<bool> {
        match self {
            Self::Length(left) => {
                let rest = left.checked_sub(part.len() as u64);
                *left = rest.ok_or_else(|| io::Error::other("a body is longer than it was said to be"))?;
                unsent.body = part;
                return Ok(*left == 0);
            }
            // A chunk without data would be the end.
            _ if part.is_empty() => {}
            _ => {
                // Into memory, which takes everything.
                let _written = write!(unsent.head, "{:x}\r\n", part.len());
                if part.len() <= SMALL_PART {
                    unsent.head.extend_from_slice(&part);
                    unsent.head.extend_from_slice(b"\r\n");
                } else {
                    unsent.body = part;
                    *self = Self::InChunk;
                }
            }
        }
        Ok(false)
    }

    /// All that was put is written.
    fn end_part(&mut self, unsent: &mut Unsent) {
        if *self == Self::InChunk {
            unsent.head.extend_from_slice(b"\r\n");
            *self = Self::Chunked;
        }
    }

    fn end(&mut self, unsent: &mut Unsent) -> io::Result<()> {
        match self {
            Self::NoBody | Self::Length(0) => Ok(()),
            Self::Length(_) => Err(io::ErrorKind::UnexpectedEof.into()),
            Self::Chunked | Self::InChunk => {
                unsent.head.extend_from_slice(b"0\r\n\r\n");
                Ok(())
            }
        }
    }
}

/// A request that can be answered here: its head, and how long that and its body are.
struct Usual {
    /// Its body is not there yet.
    request: Box<Incoming>,
    length: usize,
    body: usize,
}

enum Parsed {
    Usual(Usual),
    Partial,
    Unusual,
}

fn parse(received: &[u8]) -> Parsed {
    let mut headers = [const { MaybeUninit::uninit() }; MOST_HEADERS];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(received, &mut headers) {
        Ok(Status::Complete(length)) => usual(&parsed, length).map_or(Parsed::Unusual, Parsed::Usual),
        Ok(Status::Partial) if received.len() <= MOST_HEAD => Parsed::Partial,
        _ => Parsed::Unusual,
    }
}

/// `None` where anything is said that this place does not know all about.
fn usual(parsed: &httparse::Request<'_, '_>, length: usize) -> Option<Usual> {
    let (Some("POST"), Some(1), Some(path)) = (parsed.method, parsed.version, parsed.path) else {
        return None;
    };
    let uri: Uri = path.starts_with('/').then(|| path.parse().ok())??;
    if !matches!(Route::of(uri.path()), Route::Client { endpoint: Endpoint::Forward(_), .. }) {
        return None;
    }
    let mut headers = HeaderMap::with_capacity(parsed.headers.len());
    let mut body = None;
    for header in &*parsed.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        // What is understood here is of no use further on.
        if name == header::CONTENT_LENGTH {
            let told = usize::try_from(content_length(std::str::from_utf8(header.value).ok()?)?).ok()?;
            if told > MOST_BODY || body.replace(told).is_some() {
                return None;
            }
            continue;
        }
        if name == header::CONNECTION {
            if !header.value.eq_ignore_ascii_case(b"keep-alive") {
                return None;
            }
            continue;
        }
        if [header::TRANSFER_ENCODING, header::EXPECT, header::UPGRADE, header::TE].contains(&name) {
            return None;
        }
        headers.append(name, HeaderValue::from_bytes(header.value).ok()?);
    }
    let mut request = Box::<Incoming>::from(Request::new(RequestBody::Whole(Bytes::new())));
    request.head.method = Method::POST;
    request.head.uri = uri;
    request.head.headers = headers;
    Some(Usual { request, length, body: body.unwrap_or(0) })
}

/// Writes an answer's head, and returns whether the connection ends with it.
fn write_head(out: &mut BytesMut, head: &response::Parts, framing: Framing, closes: bool) -> bool {
    let mut line = |parts: [&[u8]; 4]| parts.iter().for_each(|part| out.extend_from_slice(part));
    let reason = head.status.canonical_reason().unwrap_or("<none>");
    line([b"HTTP/1.1 ", head.status.as_str().as_bytes(), b" ", reason.as_bytes()]);
    let (mut closes, mut is_dated) = (closes, false);
    for (name, value) in &head.headers {
        if *name == header::CONNECTION {
            closes |= value.as_bytes().eq_ignore_ascii_case(b"close");
        } else if ![header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(name) {
            is_dated |= *name == header::DATE;
            line([b"\r\n", name.as_str().as_bytes(), b": ", value.as_bytes()]);
        }
    }
    if closes {
        line([b"\r\n", b"connection", b": ", b"close"]);
    }
    match framing {
        Framing::NoBody => {}
        Framing::Length(length) => {
            line([b"\r\n", b"content-length", b": ", itoa::Buffer::new().format(length).as_bytes()]);
        }
        Framing::Chunked | Framing::InChunk => out.extend_from_slice(b"\r\ntransfer-encoding: chunked"),
    }
    if !is_dated {
        write_date(out);
    }
    out.extend_from_slice(b"\r\n\r\n");
    closes
}

thread_local! {
    /// The header for a second, which is written anew with the next one.
    static DATE: RefCell<(u64, String)> = const { RefCell::new((0, String::new())) };
}

fn write_date(out: &mut BytesMut) {
    let now = SystemTime::now();
    let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    DATE.with_borrow_mut(|(written, text)| {
        if *written != second || text.is_empty() {
            (*written, *text) = (second, format!("\r\ndate: {}", httpdate::fmt_http_date(now)));
        }
        out.extend_from_slice(text.as_bytes());
    });
}

#[cfg(test)]
#[path = "usual_tests.rs"]
mod tests;
