//! How a body is cut into documents: one whole, one a line, or server-sent events.

use memchr::{memchr, memchr2};

use super::silent::is_silent;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// One document.
    Json,
    /// Server-sent events, each with a document in its data.
    Sse,
    /// A document on each line.
    Ndjson,
}

impl Framing {
    /// Reads a `Content-Type`; `None` for bodies that nothing can be read from.
    pub fn of(content_type: &str) -> Option<Self> {
        match content_type {
            "application/json" => return Some(Self::Json),
            "text/event-stream" => return Some(Self::Sse),
            _ => {}
        }
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            "application/json" => Some(Self::Json),
            "text/event-stream" => Some(Self::Sse),
            "application/x-ndjson"
            | "application/ndjson"
            | "application/json-lines"
            | "application/jsonl"
            | "application/x-jsonlines" => Some(Self::Ndjson),
            other if other.starts_with("application/") && other.ends_with("+json") => Some(Self::Json),
            _ => None,
        }
    }
}

/// What a body is made of.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece<'a> {
    /// The next bytes of the current document.
    Data(&'a [u8]),
    /// A whole document that needs no reading: see [`is_silent`].
    Silent,
    /// The current document is over. `event` is its SSE event name, `sentinel` whether it was `[DONE]`.
    End { event: &'a str, sentinel: bool },
}

const PLAIN_END: Piece<'static> = Piece::End { event: "", sentinel: false };
const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Cuts a body into pieces, wherever its chunks are cut.
#[derive(Debug)]
pub(super) struct Cutter {
    framing: Framing,
    /// How much of a byte order mark has been seen; `None` once the body has begun.
    bom: Option<usize>,
    sse: Sse,
    /// Of lines: the one under way has begun.
    is_in_line: bool,
}

impl Cutter {
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, bom: Some(0), sse: Sse::default(), is_in_line: false }
    }

    pub(super) fn feed(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        while let Some(seen) = self.bom {
            let Some((first, rest)) = bytes.split_first() else { return };
            if *first == BOM[seen] {
                bytes = rest;
                self.bom = Some(seen + 1).filter(|seen| *seen < BOM.len());
            } else {
                // It was none: what was held back belongs to the body.
                self.bom = None;
                self.cut(&BOM[..seen], emit);
            }
        }
        self.cut(bytes, emit);
    }

    pub(super) fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        match self.framing {
            Framing::Json | Framing::Ndjson => emit(PLAIN_END),
            Framing::Sse => self.sse.finish(emit),
        }
    }

    fn cut(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        match self.framing {
            Framing::Json => emit(Piece::Data(bytes)),
            Framing::Sse => self.sse.feed(bytes, emit),
            Framing::Ndjson => {
                while let Some(end) = memchr(b'\n', bytes) {
                    let line = &bytes[..end];
                    if !std::mem::take(&mut self.is_in_line) && is_silent(line) {
                        emit(Piece::Silent);
                    } else {
                        emit(Piece::Data(line));
                        emit(PLAIN_END);
                    }
                    bytes = &bytes[end + 1..];
                }
                self.is_in_line |= !bytes.is_empty();
                emit(Piece::Data(bytes));
            }
        }
    }
}

/// A few bytes and whether there were more.
#[derive(Debug)]
struct Short<const N: usize> {
    bytes: [u8; N],
    len: usize,
    cut: bool,
}

impl<const N: usize> Default for Short<N> {
    fn default() -> Self {
        Self { bytes: [0; N], len: 0, cut: false }
    }
}

impl<const N: usize> Short<N> {
    fn push(&mut self, more: &[u8]) {
        let fits = more.len().min(N - self.len);
        self.bytes[self.len..self.len + fits].copy_from_slice(&more[..fits]);
        self.len += fits;
        self.cut |= fits < more.len();
    }

    fn clear(&mut self) {
        (self.len, self.cut) = (0, false);
    }

    fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes, or nothing when they did not fit: what is too long is none of the names we know.
    fn whole(&self) -> &[u8] {
        if self.cut { b"?" } else { &self.bytes[..self.len] }
    }
}

/// The event stream format of the HTML standard, except that an event cut off by the end of the body is still
/// handed on: upstreams forget the last empty line, and a document that is cut is noticed as such.
#[derive(Debug, Default)]
struct Sse {
    at: At,
    /// The line ended with CR: an LF that follows belongs to it.
    skip_lf: bool,
    name: Short<8>,
    event: Short<48>,
    /// The start of the data, to know `[DONE]` by.
    head: Short<16>,
    has_data: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    #[default]
    Name,
    /// After the colon: one space is not part of the value.
    Space(Field),
    Value(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Event,
    Ignored,
}

impl Sse {
    fn feed(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        if bytes.is_empty() {
            return;
        }
        if std::mem::take(&mut self.skip_lf) && bytes[0] == b'\n' {
            bytes = &bytes[1..];
        }
        loop {
            bytes = self.pass_silent(bytes, emit);
            let Some(end) = memchr2(b'\n', b'\r', bytes) else { break };
            self.line(&bytes[..end], emit);
            self.end_line(emit);
            let is_pair = bytes[end] == b'\r' && bytes.get(end + 1) == Some(&b'\n');
            self.skip_lf = bytes[end] == b'\r' && end + 1 == bytes.len();
            bytes = &bytes[end + 1 + usize::from(is_pair)..];
        }
        self.line(bytes, emit);
    }

    /// Passes over whole events that are nothing but a line of data and need no reading, which are nearly all.
    fn pass_silent<'a>(&self, mut bytes: &'a [u8], emit: &mut impl FnMut(Piece<'_>)) -> &'a [u8] {
        let is_between_events =
            self.at == At::Name && self.name.is_empty() && !self.has_data && self.event.is_empty();
        while is_between_events && let Some(rest) = bytes.strip_prefix(b"data:") {
            let data = rest.strip_prefix(b" ").unwrap_or(rest);
            let Some(end) = memchr2(b'\n', b'\r', data) else { break };
            let behind = match &data[end..] {
                [b'\n', b'\n', ..] => end + 2,
                [b'\r', b'\n', b'\r', b'\n', ..] => end + 4,
                _ => break,
            };
            if !is_silent(&data[..end]) {
                break;
            }
            emit(Piece::Silent);
            bytes = &data[behind..];
        }
        bytes
    }

    fn finish(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        self.end_line(emit);
        self.dispatch(emit);
    }

    /// Takes in a part of a line.
    fn line(&mut self, mut part: &[u8], emit: &mut impl FnMut(Piece<'_>)) {
        if self.at == At::Name {
            let Some(colon) = memchr(b':', part) else { return self.name.push(part) };
            self.name.push(&part[..colon]);
            part = &part[colon + 1..];
            self.at = At::Space(self.field(emit));
        }
        if let At::Space(field) = self.at {
            let Some(first) = part.first() else { return };
            part = &part[usize::from(*first == b' ')..];
            self.at = At::Value(field);
        }
        match self.at {
            At::Value(Field::Data) if !part.is_empty() => {
                self.head.push(part);
                emit(Piece::Data(part));
            }
            At::Value(Field::Event) => self.event.push(part),
            _ => {}
        }
    }

    /// A field's name is complete.
    fn field(&mut self, emit: &mut impl FnMut(Piece<'_>)) -> Field {
        match self.name.whole() {
            b"data" => {
                if self.has_data {
                    self.head.push(b"\n");
                    emit(Piece::Data(b"\n"));
                }
                self.has_data = true;
                Field::Data
            }
            b"event" => {
                self.event.clear();
                Field::Event
            }
            _ => Field::Ignored,
        }
    }

    fn end_line(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        if self.at == At::Name {
            if self.name.is_empty() {
                self.dispatch(emit);
            } else {
                // A name without a colon is a field with an empty value.
                self.field(emit);
            }
        }
        self.at = At::Name;
        self.name.clear();
    }

    fn dispatch(&mut self, emit: &mut impl FnMut(Piece<'_>)) {
        if std::mem::take(&mut self.has_data) {
            let event = std::str::from_utf8(self.event.whole()).unwrap_or("?");
            emit(Piece::End { event, sentinel: self.head.whole().trim_ascii() == b"[DONE]" });
        }
        self.event.clear();
        self.head.clear();
    }
}
