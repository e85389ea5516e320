//! One JSON document, read as its bytes pass by and never held.
//!
//! The grammar is checked and the path of each value followed, so that a name counts only where an API puts
//! it: `"error"` inside a message's text or a tool's arguments means nothing. What is kept is one bounded
//! capture and a few numbers. UTF-8 is not checked, nor the grammar below [`CHECKED`] levels, where brackets
//! are only counted.

use std::borrow::Cow;

use http::header::{HeaderName, HeaderValue, RETRY_AFTER};
use memchr::memchr2;

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
    /// So many hex digits of `\u` are still to come.
    Unicode(u8),
    Number(Number),
    /// With how many of its letters have come.
    Literal(Literal, u8),
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

/// The raw text between a string's quotes, or of a number, as far as there is room.
#[derive(Debug)]
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

    fn raw(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// What the bytes stand for; `None` for what was not captured whole or has a broken escape.
    fn unescaped(&self) -> Option<Cow<'_, [u8]>> {
        if !self.on || self.cut {
            return None;
        }
        if self.escaped {
            let quoted = [b"\"", self.raw(), b"\""].concat();
            return serde_json::from_slice::<String>(&quoted).ok().map(|text| Cow::Owned(text.into_bytes()));
        }
        Some(Cow::Borrowed(self.raw()))
    }
}

#[derive(Debug)]
pub(super) struct Document {
    state: State,
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
        if let State::Number(number) = self.state {
            self.end_number(number);
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
        while let Some(&byte) = bytes.get(at) {
            match self.state {
                State::Text => {
                    at += self.text(&bytes[at..]);
                    continue;
                }
                State::Number(number) => {
                    at += self.number(number, &bytes[at..]);
                    continue;
                }
                State::Invalid | State::Trailing => return,
                State::Escape => self.escape(byte),
                State::Unicode(left) => {
                    self.capture.push(&[byte]);
                    self.state = match left {
                        _ if !byte.is_ascii_hexdigit() => State::Invalid,
                        1 => State::Text,
                        _ => State::Unicode(left - 1),
                    };
                }
                State::Literal(literal, seen) => self.literal(literal, seen, byte),
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
            (b'-', _) => self.begin_number(Number::Minus),
            (b'0', _) => self.begin_number(Number::Zero),
            (b'1'..=b'9', _) => self.begin_number(Number::Whole),
            (b't', _) => self.state = State::Literal(Literal::True, 1),
            (b'f', _) => self.state = State::Literal(Literal::False, 1),
            (b'n', _) => self.state = State::Literal(Literal::Null, 1),
            _ => self.state = State::Invalid,
        }
        if let State::Number(_) = self.state {
            self.capture.push(&[byte]);
        }
    }

    fn begin_number(&mut self, number: Number) {
        self.capture.start(self.node.is_read());
        self.state = State::Number(number);
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
        let stop = memchr2(b'"', b'\\', bytes).unwrap_or(bytes.len());
        let span = &bytes[..stop];
        // No early exit, so that it runs over many bytes at once.
        if span.iter().fold(false, |found, byte| found | (*byte < 0x20)) {
            self.state = State::Invalid;
            return bytes.len();
        }
        self.capture.push(span);
        match bytes.get(stop) {
            None => stop,
            Some(b'"') => {
                self.end_text();
                stop + 1
            }
            Some(_) => {
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
            b'u' => State::Unicode(4),
            _ => State::Invalid,
        };
    }

    /// Reads on inside a number; returns how many bytes were its.
    fn number(&mut self, mut number: Number, bytes: &[u8]) -> usize {
        let mut len = 0;
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
                    self.end_number(number);
                    return len;
                }
            };
            len += 1;
        }
        self.capture.push(bytes);
        self.state = State::Number(number);
        len
    }

    fn end_number(&mut self, number: Number) {
        if !matches!(number, Number::Zero | Number::Whole | Number::Fraction | Number::Exponent) {
            self.state = State::Invalid;
            return;
        }
        if self.node.is_read() {
            self.read(false);
        }
        self.end_value();
    }

    fn literal(&mut self, literal: Literal, seen: u8, byte: u8) {
        let letters: &[u8] = match literal {
            Literal::True => b"true",
            Literal::False => b"false",
            Literal::Null => b"null",
        };
        let seen = usize::from(seen);
        if letters.get(seen) != Some(&byte) {
            self.state = State::Invalid;
        } else if seen + 1 == letters.len() {
            self.end_literal(literal);
        } else {
            self.state = State::Literal(literal, seen as u8 + 1);
        }
    }

    fn end_literal(&mut self, literal: Literal) {
        match (self.node, literal) {
            (Node::Done, Literal::True) => self.found.done = true,
            (Node::Done, Literal::False) => self.found.done = false,
            (Node::Error, Literal::True) => _ = self.found.report(),
            _ => {}
        }
        self.end_value();
    }

    fn end_text(&mut self) {
        if !self.naming {
            if self.node.is_read() {
                self.read(true);
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
        if let Some(name) = self.capture.unescaped() {
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
    fn read(&mut self, quoted: bool) {
        if self.node == Node::Error {
            self.bare_error(quoted);
            return;
        }
        let Some(text) = self.capture.unescaped() else { return };
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
    fn bare_error(&mut self, quoted: bool) {
        let text = String::from_utf8_lossy(self.capture.raw());
        if text.is_empty() || (!quoted && text.trim_start_matches(['-', '0', '.']).is_empty()) {
            return;
        }
        let report = self.found.error.get_or_insert_default();
        let place = if quoted { &mut report.text } else { &mut report.code };
        *place = Some(text.into());
    }
}
