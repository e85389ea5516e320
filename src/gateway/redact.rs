//! Keeps pooled keys out of what callers read: some providers repeat the key in their error messages.

use std::io::Read;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, header};

/// What stands in a key's place.
const MASK: &[u8] = b"***";
/// What a compressed error may unfold to.
const MOST_UNFOLDED: u64 = 1 << 20;

/// The key of one attempt, as it would appear in an answer: without the scheme it was sent with.
#[derive(Clone)]
pub struct Redactor(HeaderValue);

impl Redactor {
    pub fn new(credential: &HeaderValue) -> Self {
        Self(credential.clone())
    }

    /// What the attempt is made with.
    pub fn credential(&self) -> &HeaderValue {
        &self.0
    }

    fn key(&self) -> &[u8] {
        let credential = self.0.as_bytes();
        credential.strip_prefix(b"Bearer ").unwrap_or(credential)
    }

    /// The text with every mention of the key masked; the same bytes where there is none.
    pub fn clean(&self, text: Bytes) -> Bytes {
        let key = self.key();
        if key.is_empty() {
            return text;
        }
        let finder = memchr::memmem::Finder::new(key);
        let mut rest = 0;
        let mut masked = BytesMut::new();
        for at in finder.find_iter(&text) {
            masked.extend_from_slice(&text[rest..at]);
            masked.extend_from_slice(MASK);
            rest = at + key.len();
        }
        if rest == 0 {
            return text;
        }
        masked.extend_from_slice(&text[rest..]);
        masked.freeze()
    }

    /// How many bytes at the end of a text may be the beginning of the key.
    pub fn begun_at_end(&self, text: &[u8]) -> usize {
        let key = self.key();
        let longest = key.len().saturating_sub(1).min(text.len());
        (1..=longest).rev().find(|len| text.ends_with(&key[..*len])).unwrap_or(0)
    }

    /// Takes out the headers that mention the key.
    pub fn clean_headers(&self, headers: &mut HeaderMap) {
        let mentions: Vec<_> = headers
            .iter()
            .filter(|(_, value)| memchr::memmem::find(value.as_bytes(), self.key()).is_some())
            .map(|(name, _)| name.clone())
            .collect();
        for name in mentions {
            headers.remove(name);
        }
    }

    /// An error's whole answer. A compressed body stays as it is unless it mentions the key, and is empty when
    /// it cannot be looked into.
    pub fn clean_error(&self, headers: &mut HeaderMap, body: Bytes) -> Bytes {
        self.clean_headers(headers);
        match headers.get(header::CONTENT_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"identity") => self.clean(body),
            Some(b"gzip" | b"x-gzip") => {
                let mut plain = Vec::new();
                let mut unfolded = flate2::read::MultiGzDecoder::new(&*body).take(MOST_UNFOLDED + 1);
                match unfolded.read_to_end(&mut plain) {
                    Ok(size) if size as u64 <= MOST_UNFOLDED => {
                        let plain = Bytes::from(plain);
                        let clean = self.clean(plain.clone());
                        if clean == plain {
                            return body;
                        }
                        headers.remove(header::CONTENT_ENCODING);
                        clean
                    }
                    _ => unreadable(headers),
                }
            }
            Some(_) => unreadable(headers),
        }
    }
}

fn unreadable(headers: &mut HeaderMap) -> Bytes {
    headers.remove(header::CONTENT_ENCODING);
    Bytes::new()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn redactor() -> Redactor {
        Redactor::new(&HeaderValue::from_static("Bearer sk-1"))
    }

    #[test]
    fn every_mention_is_masked_and_nothing_else() {
        for (text, clean) in [
            ("", ""),
            ("no key", "no key"),
            ("sk-1", "***"),
            ("a sk-1 b Bearer sk-1.", "a *** b Bearer ***."),
            ("sk-sk-1sk-1", "sk-******"),
        ] {
            assert_eq!(redactor().clean(text.into()), clean);
        }
    }

    #[test]
    fn the_beginning_of_a_key_is_seen() {
        for (text, begun) in [("", 0), ("x", 0), ("s", 1), ("x sk", 2), ("sk-", 3), ("sk-1", 0), ("sk-s", 1)]
        {
            assert_eq!(redactor().begun_at_end(text.as_bytes()), begun, "{text}");
        }
    }

    #[test]
    fn headers_and_compressed_bodies_are_looked_into() {
        let gzip = |text: &str| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            encoder.write_all(text.as_bytes()).unwrap();
            Bytes::from(encoder.finish().unwrap())
        };
        let clean = |encoding: &'static str, body: Bytes| {
            let mut headers = HeaderMap::new();
            headers.insert("x-echo", HeaderValue::from_static("Bearer sk-1"));
            headers.insert("x-other", HeaderValue::from_static("stays"));
            headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding));
            let body = redactor().clean_error(&mut headers, body);
            assert!(!headers.contains_key("x-echo") && headers.contains_key("x-other"));
            (body, headers.contains_key(header::CONTENT_ENCODING))
        };
        let harmless = gzip("harmless");
        assert_eq!(clean("gzip", harmless.clone()), (harmless.clone(), true));
        assert_eq!(clean("gzip", gzip("key sk-1")), ("key ***".into(), false));
        assert_eq!(clean("gzip", harmless.slice(..5)), (Bytes::new(), false));
        assert_eq!(clean("br", "anything".into()), (Bytes::new(), false));
    }
}
