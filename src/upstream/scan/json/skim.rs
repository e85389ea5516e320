//! The fast way through a document: whole names and values that mean nothing by themselves, which is nearly all there is
//! in an answer.
//!
//! Token by token instead of byte by byte it takes a fraction of the instructions. Whatever is cut, escaped or wrong stays
//! where it is, for the states that know all of it.

use memchr::memchr2;

use super::{CHECKED, Document, State, Text};
use crate::upstream::scan::meaning::Node;

impl Document {
    /// Goes on from `at` as far as it can and returns where that is.
    pub(super) fn skim(&mut self, bytes: &[u8], mut at: usize) -> usize {
        // A name, its colon, a value and what follows it come one after the other, mostly.
        loop {
            if matches!(self.state, State::FirstName | State::Name) {
                at = behind_space(bytes, at);
                let container = self.container();
                match bytes.get(at) {
                    Some(b'"') if !matches!(container, Node::Error | Node::Headers) => {
                        let Some(name) = plain_text(bytes, at) else { return at };
                        self.node = container.child(name);
                        at += name.len() + 2;
                        self.state = State::Colon;
                    }
                    Some(b'}') if self.state == State::FirstName => {
                        self.close(b'}');
                        at += 1;
                    }
                    _ => return at,
                }
            }
            if self.state == State::Colon {
                at = behind_space(bytes, at);
                if bytes.get(at) != Some(&b':') {
                    return at;
                }
                self.state = State::Value;
                at += 1;
            }
            if matches!(self.state, State::Value | State::FirstElement) {
                at = behind_space(bytes, at);
                let Some(&byte) = bytes.get(at) else { return at };
                match byte {
                    b'"' => {
                        let Some(text) = plain_text(bytes, at) else { return at };
                        if self.node.is_read() {
                            self.read(Text::plain(text), true);
                        }
                        at += text.len() + 2;
                        self.end_value();
                    }
                    b'0'..=b'9' => {
                        let Some(number) = whole_number(&bytes[at..]) else { return at };
                        if self.node.is_read() {
                            self.read(Text::plain(number), false);
                        }
                        at += number.len();
                        self.end_value();
                    }
                    b'{' | b'[' if self.depth < CHECKED => {
                        self.open(byte == b'{');
                        at += 1;
                        continue;
                    }
                    b']' if self.state == State::FirstElement => {
                        self.close(byte);
                        at += 1;
                    }
                    b'n' if bytes[at..].starts_with(b"null") => {
                        at += 4;
                        self.end_value();
                    }
                    _ => return at,
                }
            }
            while self.state == State::Next {
                at = behind_space(bytes, at);
                match bytes.get(at) {
                    Some(&byte @ (b',' | b'}' | b']')) => self.next(byte),
                    _ => return at,
                }
                at += 1;
            }
            if !matches!(self.state, State::Name | State::Value) {
                return at;
            }
        }
    }
}

/// Where white space that begins at `at`, if any, is over.
#[inline]
pub fn behind_space(bytes: &[u8], mut at: usize) -> usize {
    while matches!(bytes.get(at), Some(b' ' | b'\n' | b'\r' | b'\t')) {
        at += 1;
    }
    at
}

/// The text behind the quotation mark at `at`, if all of it is there and it has no escapes.
fn plain_text(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let behind = bytes.get(at + 1..)?;
    let len = end_of_text(behind);
    (behind.get(len) == Some(&b'"')).then(|| &behind[..len])
}

/// A number of digits alone, if its end is there.
fn whole_number(bytes: &[u8]) -> Option<&[u8]> {
    let len = bytes.iter().position(|byte| !byte.is_ascii_digit())?;
    let is_whole = matches!(bytes[len], b',' | b'}' | b']' | b' ' | b'\n' | b'\r' | b'\t');
    (is_whole && (bytes[0] != b'0' || len == 1)).then(|| &bytes[..len])
}

/// Sets the high bit of each byte that ends a text, and perhaps of some behind the first.
#[inline]
fn ends(eight: &[u8; 8]) -> u64 {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let eight = u64::from_le_bytes(*eight);
    let is_zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
    let quote = is_zero(eight ^ (ONES * u64::from(b'"')));
    let backslash = is_zero(eight ^ (ONES * u64::from(b'\\')));
    let control = eight.wrapping_sub(ONES * 0x20) & !eight;
    (quote | backslash | control) & HIGHS
}

/// Where the plain text of a JSON string ends: at a quotation mark, a backslash, or what no string may hold.
#[inline]
pub fn end_of_text(bytes: &[u8]) -> usize {
    // Most names and many values end here.
    if let Some(eight) = bytes.first_chunk() {
        let ends = ends(eight);
        if ends != 0 {
            return ends.trailing_zeros() as usize / 8;
        }
        return end_of_long_text(bytes, eight.len());
    }
    end_of_long_text(bytes, 0)
}

/// `at` is where to begin.
fn end_of_long_text(bytes: &[u8], mut at: usize) -> usize {
    // Most texts are short values, for which a search that looks at more at once takes longer.
    const SHORT: usize = 64;
    while let Some(eight) = bytes.get(at..).and_then(<[u8]>::first_chunk) {
        let ends = ends(eight);
        if ends != 0 {
            return at + ends.trailing_zeros() as usize / 8;
        }
        at += 8;
        if at == SHORT {
            break;
        }
    }
    let rest = &bytes[at..];
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    if at < SHORT {
        return at + rest.iter().position(is_end).unwrap_or(rest.len());
    }
    // In blocks, so that what was looked through for the one is at hand for the other.
    const BLOCK: usize = 4 * 1024;
    for block in rest.chunks(BLOCK) {
        let stop = memchr2(b'"', b'\\', block).unwrap_or(block.len());
        let end =
            if least(&block[..stop]) < 0x20 { block.iter().position(is_end).unwrap_or(stop) } else { stop };
        at += end;
        if end < block.len() {
            break;
        }
    }
    at
}

/// The least of the bytes, many of which are compared at once.
fn least(bytes: &[u8]) -> u8 {
    let (chunks, rest) = bytes.as_chunks::<64>();
    let mut least = [u8::MAX; 64];
    for chunk in chunks {
        for (least, byte) in least.iter_mut().zip(chunk) {
            *least = (*least).min(*byte);
        }
    }
    least.iter().chain(rest).fold(u8::MAX, |least, byte| least.min(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_ends_at_the_same_byte_however_long_it_is() {
        let lengths = (0..300).chain(4_000..4_300).chain([8_191, 8_192, 8_300, 100_000]);
        for (n, length) in lengths.enumerate() {
            let mut text = vec![b'a'; length];
            assert_eq!(end_of_text(&text), length, "of {length} bytes, none ends it");
            let end = [b'"', b'\\', 0, b'\n', 0x1f][n % 5];
            for at in [0, 1, 7, 8, 63, 64, 65, 127, 128, 4_159, 4_160, length / 2, length.saturating_sub(1)] {
                // What is no ASCII, or nearly one of those, ends nothing.
                let rest = [0x7f, 0x80, 0xff, b' ', b'!', b'#', b'[', b']'];
                text.iter_mut().zip(rest.iter().cycle()).for_each(|(byte, other)| *byte = *other);
                if at < length {
                    text[length - 1] = b'"';
                    text[at] = end;
                    assert_eq!(end_of_text(&text), at, "{end:#x} at {at} of {length}");
                }
            }
        }
    }
}
