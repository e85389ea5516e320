//! The fast way through a document: whole names and values that mean nothing by themselves, which is nearly all there is
//! in an answer.
//!
//! Token by token instead of byte by byte it takes a quarter of the instructions. Whatever is cut, escaped, read for its
//! meaning or wrong stays where it is, for the states that know all of it.

use memchr::memchr2;

use super::{CHECKED, Document, State};
use crate::upstream::scan::meaning::Node;

impl Document {
    /// Goes on from `at` as far as it can and returns where that is.
    pub(super) fn skim(&mut self, bytes: &[u8], mut at: usize) -> usize {
        while let Some(&byte) = bytes.get(at) {
            match (self.state, byte) {
                (State::FirstName | State::Name, b'"') => {
                    let container = self.container();
                    if matches!(container, Node::Error | Node::Headers) {
                        return at;
                    }
                    let Some(name) = plain_text(&bytes[at..]) else { return at };
                    self.node = container.child(name);
                    at += name.len() + 2;
                    self.state = State::Colon;
                }
                (State::Colon, b':') => {
                    self.state = State::Value;
                    at += 1;
                }
                (State::Value | State::FirstElement, b'"') if !self.node.is_read() => {
                    let Some(text) = plain_text(&bytes[at..]) else { return at };
                    at += text.len() + 2;
                    self.end_value();
                }
                (State::Value | State::FirstElement, b'1'..=b'9') if !self.node.is_read() => {
                    let Some(len) = whole_number(&bytes[at..]) else { return at };
                    at += len;
                    self.end_value();
                }
                (State::Value | State::FirstElement, b'n')
                    if !self.node.is_read() && bytes[at..].starts_with(b"null") =>
                {
                    at += 4;
                    self.end_value();
                }
                (State::Value | State::FirstElement, b'{' | b'[') if self.depth < CHECKED => {
                    self.open(byte == b'{');
                    at += 1;
                }
                (State::Next, b',' | b'}' | b']') => {
                    self.next(byte);
                    at += 1;
                }
                (
                    State::Value
                    | State::FirstElement
                    | State::FirstName
                    | State::Name
                    | State::Colon
                    | State::Next,
                    b' ' | b'\n' | b'\r' | b'\t',
                ) => at += 1,
                _ => return at,
            }
        }
        at
    }
}

/// The text behind a quotation mark, if all of it is there and it has no escapes.
fn plain_text(bytes: &[u8]) -> Option<&[u8]> {
    let behind = bytes.get(1..)?;
    let len = end_of_text(behind);
    (behind.get(len) == Some(&b'"')).then(|| &behind[..len])
}

/// The length of a number of digits alone, if its end is there.
fn whole_number(bytes: &[u8]) -> Option<usize> {
    let len = bytes.iter().position(|byte| !byte.is_ascii_digit())?;
    matches!(bytes[len], b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t').then_some(len)
}

/// Where the plain text of a JSON string ends: at a quotation mark, a backslash, or what no string may hold.
pub fn end_of_text(bytes: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    // Sets the high bit of each byte that ends a text, and perhaps of some behind the first.
    let ends = |eight: &[u8; 8]| {
        let eight = u64::from_le_bytes(*eight);
        let is_zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
        let quote = is_zero(eight ^ (ONES * u64::from(b'"')));
        let backslash = is_zero(eight ^ (ONES * u64::from(b'\\')));
        let control = eight.wrapping_sub(ONES * 0x20) & !eight;
        (quote | backslash | control) & HIGHS
    };
    // Most texts are names and short values, for which a search that looks at more at once takes longer.
    const SHORT: usize = 64;
    let short = &bytes[..bytes.len().min(SHORT)];
    let (eights, tail) = short.as_chunks();
    for (n, eight) in eights.iter().enumerate() {
        let ends = ends(eight);
        if ends != 0 {
            return n * 8 + ends.trailing_zeros() as usize / 8;
        }
    }
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    if short.len() < SHORT {
        let at = tail.iter().position(is_end).unwrap_or(tail.len());
        return short.len() - tail.len() + at;
    }
    let rest = &bytes[SHORT..];
    let stop = memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
    // No early exit, so that it runs over many bytes at once.
    let has_control = rest[..stop].iter().fold(false, |found, byte| found | (*byte < 0x20));
    let end = if has_control { rest.iter().position(is_end).unwrap_or(stop) } else { stop };
    SHORT + end
}
