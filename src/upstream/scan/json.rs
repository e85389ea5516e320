//! One JSON document, read as its bytes pass by and never held.
//!
//! The grammar is checked and the path of each value followed, so that a name counts only where an API puts
//! it: `"error"` inside a message's text or a tool's arguments means nothing. What is kept is one bounded
//! capture and a few numbers. UTF-8 is not checked, nor the grammar below [`CHECKED`] levels, where brackets
//! are only counted.

mod skim;

use std::borrow::Cow;

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};

pub use self::skim::{behind_space, end_of_text};
use super::meaning::{Findings, Kind, Node, is_hint};

/// Levels whose brackets are matched: one bit each.
const CHECKED: u32 = u128::BITS;
/// Levels at which names can mean something: `choices[].error.metadata.headers` is the sixth.
const NAMED: usize = 6;
/// Longest name or value that is looked at.
const CAPTURE: usize = 128;
/// More than any model reads or writes in one request, so that no answer can spoil a sum.
const MOST_TOKENS: u64 = 1_000_000_000;
const MOST_HINTS: usize = 8;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// A value must come.
    Value,
    /// After `[`: a value or the end.
    FirstElement,
    /// After `{`: a name or the end.
    FirstName,
    /// After a comma in an object.
    Name,
    Colon,
    /// After a value: a comma or the end of its container.
    Next,
    Text,
    Escape,
    /// `seen` of the four hex digits of `\u` have come.
    Unicode,
    /// Of which `number` has come.
    Number,
    /// `seen` of the letters of `literal` have come.
    Literal,
    Deep,
    DeepText,
    DeepEscape,
    Complete,
    /// Something followed the document.
    Trailing,
    Invalid,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Number {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    ESign,
    Exponent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Literal {
    True,
    False,
    Null,
}

/// The raw text between a string's quotes, or of a number, as far as there is room: where it comes in several parts, or
/// has to be looked at for its escapes.
#[derive(Clone, Copy, Debug)]
struct Capture {
    bytes: [u8; CAPTURE],
    len: usize,
    on: bool,
    escaped: bool,
    cut: bool,
}

impl Capture {
    fn start(&mut self, on: bool) {
        (self.on, self.len, self.escaped, self.cut) = (on, 0, false, false);
    }

    fn push(&mut self, more: &[u8]) {
        if !self.on {
            return;
        }
        let room = &mut self.bytes[self.len..];
        let fits = more.len().min(room.len());
        room[..fits].copy_from_slice(&more[..fits]);
        self.len += fits;
        self.cut |= fits < more.len();
    }

    /// Nothing of the text has come before.
    fn is_untouched(&self) -> bool {
        self.len == 0 && !self.escaped && !self.cut
    }

    fn text(&self) -> Option<Text<'_>> {
        let text = Text { raw: &self.bytes[..self.len], escaped: self.escaped, cut: self.cut };
        self.on.then_some(text)
    }
}

/// A text that is looked at.
#[derive(Clone, Copy)]
struct Text<'a> {
    raw: &'a [u8],
    escaped: bool,
    cut: bool,
}

impl<'a> Text<'a> {
    /// All of it, without escapes.
    fn plain(raw: &'a [u8]) -> Self {
        Self { raw: &raw[..raw.len().min(CAPTURE)], escaped: false, cut: raw.len() > CAPTURE }
    }

    /// What the bytes stand for; `None` for what was not captured whole or has a broken escape.
    fn unescaped(self) -> Option<Cow<'a, [u8]>> {
        if self.cut {
            return None;
        }
        if self.escaped {
            let quoted = [b"\"", self.raw, b"\""].concat();
            return serde_json::from_slice::<String>(&quoted).ok().map(|text| Cow::Owned(text.into_bytes()));
        }
        Some(Cow::Borrowed(self.raw))
    }
}

#[derive(Debug)]
pub(super) struct Document {
    state: State,
    number: Number,
    literal: Literal,
    seen: u8,
    /// One bit for each open container, the innermost lowest; set for an object.
    kinds: u128,
    depth: u32,
    nodes: [Node; NAMED],
    /// What the value that is being read, or comes next, is.
    node: Node,
    /// Whether the string that is being read is a name.
    naming: bool,
    capture: Capture,
    header: Option<HeaderName>,
    found: Findings,
}

impl Document {
    pub(super) fn new() -> Self {
        Self {
            state: State::Value,
            number: Number::Minus,
            literal: Literal::Null,
            seen: 0,
            kinds: 0,
            depth: 0,
            nodes: [Node::Other; NAMED],
            node: Node::Root,
            naming: false,
            capture: Capture { bytes: [0; CAPTURE], len: 0, on: false, escaped: false, cut: false },
            header: None,
            found: Findings::default(),
        }
    }

    /// Makes ready for the next document and hands over what this one said, if it was a whole one.
    pub(super) fn take(&mut self) -> Option<Findings> {
        if self.state == State::Number {
            self.end_number();
        }
        let whole = self.state == State::Complete;
        let found = std::mem::take(&mut self.found);
        (self.state, self.kinds, self.depth, self.node) = (State::Value, 0, 0, Node::Root);
        self.header = None;
        whole.then_some(found)
    }

    /// Whether nothing but white space has come.
    pub(super) fn is_blank(&self) -> bool {
        self.state == State::Value && self.depth == 0
    }

    /// Whether the value at the top level has ended, whatever followed it.
    pub(super) fn is_complete(&self) -> bool {
        matches!(self.state, State::Complete | State::Trailing)
    }

    /// As [`take`](Self::take), for a body of one document, where what follows is of no interest.
    pub(super) fn take_first(&mut self) -> Option<Findings> {
        if self.state == State::Trailing {
            self.state = State::Complete;
        }
        self.take()
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        let mut at = 0;
        loop {
            at = self.skim(bytes, at);
            let Some(&byte) = bytes.get(at) else { return };
            match self.state {
                State::Text => {
                    at += self.text(&bytes[at..]);
                    continue;
                }
                State::Number => {
                    at += self.number(&bytes[at..]);
                    continue;
                }
                State::Invalid | State::Trailing => return,
                State::Escape => self.escape(byte),
                State::Unicode => {
                    self.capture.push(&[byte]);
                    self.seen += 1;
                    self.state = match self.seen {
                        _ if !byte.is_ascii_hexdigit() => State::Invalid,
                        4 => State::Text,
                        _ => State::Unicode,
                    };
                }
                State::Literal => self.literal(byte),
                State::Deep => self.deep(byte),
                State::DeepText => match byte {
                    b'"' => self.state = State::Deep,
                    b'\\' => self.state = State::DeepEscape,
                    _ => {}
                },
                State::DeepEscape => self.state = State::DeepText,
                _ if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') => {}
                State::Value | State::FirstElement | State::FirstName | State::Name => self.begin(byte),
                State::Colon if byte == b':' => self.state = State::Value,
                State::Next => self.next(byte),
                State::Colon => self.state = State::Invalid,
                State::Complete => self.state = State::Trailing,
            }
            at += 1;
        }
    }

    fn begin(&mut self, byte: u8) {
        let naming = matches!(self.state, State::FirstName | State::Name);
        match (byte, self.state) {
            (b'"', _) => {
                self.naming = naming;
                let on = if naming { self.container().has_names() } else { self.node.is_read() };
                self.capture.start(on);
                self.state = State::Text;
            }
            (b'}', State::FirstName) | (b']', State::FirstElement) => self.close(byte),
            _ if naming => self.state = State::Invalid,
            (b'{' | b'[', _) => self.open(byte == b'{'),
            (b'-', _) => self.begin_number(Number::Minus, byte),
            (b'0', _) => self.begin_number(Number::Zero, byte),
            (b'1'..=b'9', _) => self.begin_number(Number::Whole, byte),
            (b't', _) => self.begin_literal(Literal::True),
            (b'f', _) => self.begin_literal(Literal::False),
            (b'n', _) => self.begin_literal(Literal::Null),
            _ => self.state = State::Invalid,
        }
    }

    fn begin_literal(&mut self, literal: Literal) {
        (self.state, self.literal, self.seen) = (State::Literal, literal, 1);
    }

    fn begin_number(&mut self, number: Number, byte: u8) {
        self.capture.start(self.node.is_read());
        self.capture.push(&[byte]);
        (self.state, self.number) = (State::Number, number);
    }

    fn container(&self) -> Node {
        let level = (self.depth as usize).wrapping_sub(1);
        self.nodes.get(level).copied().unwrap_or(Node::Other)
    }

    fn open(&mut self, object: bool) {
        if self.depth == CHECKED {
            self.depth += 1;
            self.state = State::Deep;
            return;
        }
        if let Some(node) = self.nodes.get_mut(self.depth as usize) {
            *node = self.node.opened(object);
        }
        self.kinds = self.kinds << 1 | u128::from(object);
        self.depth += 1;
        self.node = self.container().element();
        self.state = if object { State::FirstName } else { State::FirstElement };
    }

    fn close(&mut self, byte: u8) {
        let object = self.kinds & 1 == 1;
        if self.depth == 0 || object != (byte == b'}') {
            self.state = State::Invalid;
            return;
        }
        self.kinds >>= 1;
        self.depth -= 1;
        self.end_value();
    }

    fn next(&mut self, byte: u8) {
        match byte {
            b',' if self.kinds & 1 == 1 => self.state = State::Name,
            b',' => {
                self.node = self.container().element();
                self.state = State::Value;
            }
            b'}' | b']' => self.close(byte),
            _ => self.state = State::Invalid,
        }
    }

    fn deep(&mut self, byte: u8) {
        match byte {
            b'{' | b'[' => match self.depth.checked_add(1) {
                Some(depth) => self.depth = depth,
                None => self.state = State::Invalid,
            },
            b'}' | b']' => {
                self.depth -= 1;
                if self.depth == CHECKED {
                    self.state = State::Next;
                }
            }
            b'"' => self.state = State::DeepText,
            _ => {}
        }
    }

    /// Reads on inside a string; returns how many bytes were its.
    fn text(&mut self, bytes: &[u8]) -> usize {
        let stop = end_of_text(bytes);
        let span = &bytes[..stop];
        if bytes.get(stop).is_some_and(|byte| *byte < 0x20) {
            self.state = State::Invalid;
            return bytes.len();
        }
        match bytes.get(stop) {
            None => {
                self.capture.push(span);
                stop
            }
            Some(b'"') if self.capture.is_untouched() => {
                // It lies here as a whole, as nearly all do.
                self.end_text(self.capture.on.then_some(Text::plain(span)));
                stop + 1
            }
            Some(b'"') => {
                self.capture.push(span);
                let capture = self.capture;
                self.end_text(capture.text());
                stop + 1
            }
            Some(_) => {
                self.capture.push(span);
                self.capture.push(b"\\");
                self.capture.escaped = true;
                self.state = State::Escape;
                stop + 1
            }
        }
    }

    fn escape(&mut self, byte: u8) {
        self.capture.push(&[byte]);
        self.state = match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => State::Text,
            b'u' => State::Unicode,
            _ => State::Invalid,
        };
        self.seen = 0;
    }

    /// Reads on inside a number; returns how many bytes were its.
    fn number(&mut self, bytes: &[u8]) -> usize {
        let (mut number, mut len) = (self.number, 0);
        for &byte in bytes {
            number = match (number, byte) {
                (Number::Minus, b'0') => Number::Zero,
                (Number::Minus | Number::Whole, b'0'..=b'9') => Number::Whole,
                (Number::Zero | Number::Whole, b'.') => Number::Point,
                (Number::Point | Number::Fraction, b'0'..=b'9') => Number::Fraction,
                (Number::Zero | Number::Whole | Number::Fraction, b'e' | b'E') => Number::E,
                (Number::E, b'+' | b'-') => Number::ESign,
                (Number::E | Number::ESign | Number::Exponent, b'0'..=b'9') => Number::Exponent,
                _ => {
                    self.capture.push(&bytes[..len]);
                    self.number = number;
                    self.end_number();
                    return len;
                }
            };
            len += 1;
        }
        self.capture.push(bytes);
        self.number = number;
        len
    }

    fn end_number(&mut self) {
        if !matches!(self.number, Number::Zero | Number::Whole | Number::Fraction | Number::Exponent) {
            self.state = State::Invalid;
            return;
        }
        let capture = self.capture;
        if let Some(text) = capture.text() {
            self.read(text, false);
        }
        self.end_value();
    }

    fn literal(&mut self, byte: u8) {
        let letters: &[u8] = match self.literal {
            Literal::True => b"true",
            Literal::False => b"false",
            Literal::Null => b"null",
        };
        let seen = usize::from(self.seen);
        if letters.get(seen) != Some(&byte) {
            self.state = State::Invalid;
        } else if seen + 1 == letters.len() {
            self.end_literal();
        } else {
            self.seen += 1;
        }
    }

    fn end_literal(&mut self) {
        match (self.node, self.literal) {
            (Node::Done, Literal::True) => self.found.done = true,
            (Node::Done, Literal::False) => self.found.done = false,
            (Node::Error, Literal::True) => _ = self.found.report(),
            _ => {}
        }
        self.end_value();
    }

    /// `text` is there where it means something.
    fn end_text(&mut self, text: Option<Text<'_>>) {
        if !self.naming {
            if let Some(text) = text {
                self.read(text, true);
            }
            self.end_value();
            return;
        }
        let container = self.container();
        if container == Node::Error {
            // An error object that holds anything at all is an error.
            self.found.report();
        }
        self.node = Node::Other;
        if let Some(name) = text.and_then(Text::unescaped) {
            self.node = container.child(&name);
            if container == Node::Headers && is_hint(&name) {
                self.header = HeaderName::from_bytes(&name).ok();
                self.node = Node::Header;
            }
        }
        self.state = State::Colon;
    }

    fn end_value(&mut self) {
        self.state = if self.depth == 0 { State::Complete } else { State::Next };
    }

    /// Takes in a string or number at a place that means something.
    fn read(&mut self, text: Text<'_>, quoted: bool) {
        if self.node == Node::Error {
            self.bare_error(text, quoted);
            return;
        }
        let Some(text) = text.unescaped() else { return };
        let Ok(text) = std::str::from_utf8(&text) else { return };
        match self.node {
            Node::Count(count) if !quoted => {
                if let Some(tokens) = text.parse().ok().filter(|tokens| *tokens <= MOST_TOKENS) {
                    self.found.counts[count as usize] = Some(tokens);
                }
            }
            Node::Type if quoted => self.found.kind = Kind::of(text),
            Node::RootCode => self.found.code = Some(text.into()),
            Node::ErrorCode => self.found.report().code = Some(text.into()),
            Node::ErrorType => self.found.report().kind = Some(text.into()),
            Node::ErrorStatus => self.found.report().status = Some(text.into()),
            Node::RetryAfter => {
                if let Ok(value) = HeaderValue::from_str(text) {
                    self.found.report().hints.insert(RETRY_AFTER, value);
                }
            }
            Node::Header => {
                let hints = &mut self.found.error.get_or_insert_default().hints;
                if let (Some(name), Ok(value)) = (self.header.take(), HeaderValue::from_str(text))
                    && (hints.len() < MOST_HINTS || hints.contains_key(&name))
                {
                    hints.insert(name, value);
                }
            }
            _ => {}
        }
    }

    /// `"error": "text"` as Ollama writes it, or a bare code.
    fn bare_error(&mut self, text: Text<'_>, quoted: bool) {
        let text = String::from_utf8_lossy(text.raw);
        if text.is_empty() || (!quoted && text.trim_start_matches(['-', '0', '.']).is_empty()) {
            return;
        }
        let report = self.found.error.get_or_insert_default();
        let place = if quoted { &mut report.text } else { &mut report.code };
        *place = Some(text.into());
    }
}
