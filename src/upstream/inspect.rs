//! A scanner for bodies as they are on the wire, compressed or not.

use std::io::{self, Write};

use flate2::write::GzDecoder;

use super::scan::{BodyError, Framing, Scanner, Tokens};

/// What one chunk may unfold to, whatever its size, and for each of its bytes: far more than text does, far
/// less than a chunk made to keep us busy.
const MOST_OUTPUT: usize = 1 << 20;
const MOST_RATIO: usize = 100;

#[derive(Debug)]
pub struct Inspector {
    body: Body,
    is_blind: bool,
    is_finished: bool,
}

#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // The large one is the usual one.
enum Body {
    Plain(Scanner),
    Gzip(Box<GzDecoder<Sink>>),
}

/// Where decompressed bytes go: to the scanner, as long as there are not too many of them.
#[derive(Debug)]
struct Sink {
    scanner: Scanner,
    allowed: usize,
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(left) = self.allowed.checked_sub(bytes.len()) else {
            self.allowed = 0;
            return Err(io::Error::other("the chunk unfolds to too much"));
        };
        self.allowed = left;
        self.scanner.feed(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Inspector {
    pub fn new(framing: Framing, gzip: bool) -> Self {
        let scanner = Scanner::new(framing);
        let body = if gzip {
            Body::Gzip(Box::new(GzDecoder::new(Sink { scanner, allowed: 0 })))
        } else {
            Body::Plain(scanner)
        };
        Self { body, is_blind: false, is_finished: false }
    }

    /// Takes in the next chunk of the body as it was received. Nothing is read after [`finish`](Self::finish).
    pub fn feed(&mut self, chunk: &[u8]) {
        match &mut self.body {
            Body::Plain(scanner) => scanner.feed(chunk),
            Body::Gzip(decoder) if !self.is_blind && !self.is_finished => {
                decoder.get_mut().allowed =
                    chunk.len().saturating_mul(MOST_RATIO).saturating_add(MOST_OUTPUT);
                // Flushed, so that what the chunk says is known before the chunk is passed on.
                let fed = decoder.write_all(chunk).and_then(|()| decoder.flush());
                self.is_blind = fed.is_err();
            }
            Body::Gzip(_) => {}
        }
    }

    /// The body has ended, well or not.
    pub fn finish(&mut self) {
        if std::mem::replace(&mut self.is_finished, true) {
            return;
        }
        match &mut self.body {
            Body::Plain(scanner) => scanner.finish(),
            Body::Gzip(decoder) => {
                if !self.is_blind {
                    decoder.get_mut().allowed = MOST_OUTPUT;
                    self.is_blind = decoder.try_finish().is_err();
                }
                decoder.get_mut().scanner.finish();
            }
        }
    }

    /// Whether the compressed form was broken, so that the rest went unread: what was found so far stands,
    /// but that something was not found means nothing.
    pub fn is_blind(&self) -> bool {
        self.is_blind
    }

    /// See [`Scanner::tokens`].
    pub fn tokens(&self) -> Option<Tokens> {
        self.scanner().tokens()
    }

    /// See [`Scanner::error`].
    pub fn error(&self) -> Option<&BodyError> {
        self.scanner().error()
    }

    /// See [`Scanner::is_done`].
    pub fn is_done(&self) -> bool {
        self.scanner().is_done()
    }

    /// See [`Scanner::saw_data`].
    pub fn saw_data(&self) -> bool {
        self.scanner().saw_data()
    }

    /// See [`Scanner::documents`].
    pub fn documents(&self) -> u64 {
        self.scanner().documents()
    }

    fn scanner(&self) -> &Scanner {
        match &self.body {
            Body::Plain(scanner) => scanner,
            Body::Gzip(decoder) => &decoder.get_ref().scanner,
        }
    }
}

#[cfg(test)]
mod tests {
    use flate2::{Compression, write::GzEncoder};
    use proptest::prelude::*;

    use super::*;

    const EVENTS: [&str; 3] = [
        "data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n",
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    ];

    /// Each event as it leaves a server that flushes after each.
    fn compressed() -> Vec<Vec<u8>> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        let mut chunks = Vec::new();
        for event in EVENTS {
            encoder.write_all(event.as_bytes()).unwrap();
            encoder.flush().unwrap();
            chunks.push(std::mem::take(encoder.get_mut()));
        }
        chunks.push(encoder.finish().unwrap());
        chunks
    }

    fn all(inspector: &Inspector) -> (Option<Tokens>, bool, bool, bool) {
        (inspector.tokens(), inspector.is_done(), inspector.saw_data(), inspector.is_blind())
    }

    const WHOLE: (Option<Tokens>, bool, bool, bool) =
        (Some(Tokens { prompt: 7, completion: 3 }), true, true, false);

    #[test]
    fn each_chunk_is_understood_as_it_comes() {
        let chunks = compressed();
        let mut inspector = Inspector::new(Framing::Sse, true);
        inspector.feed(&chunks[0]);
        assert!(inspector.saw_data() && inspector.tokens().is_none());
        inspector.feed(&chunks[1]);
        assert!(inspector.tokens().is_some() && !inspector.is_done());
        inspector.feed(&chunks[2]);
        assert!(inspector.is_done());
        inspector.feed(&chunks[3]);
        inspector.finish();
        assert_eq!(all(&inspector), WHOLE);
        inspector.finish();
        inspector.feed(b"late");
    }

    #[test]
    fn plain_bodies_need_no_decoder() {
        let mut inspector = Inspector::new(Framing::Sse, false);
        inspector.feed(EVENTS.concat().as_bytes());
        inspector.finish();
        assert_eq!(all(&inspector), WHOLE);
    }

    #[test]
    fn cuts_do_not_matter() {
        let body = compressed().concat();
        for cut in 0..=body.len() {
            let mut inspector = Inspector::new(Framing::Sse, true);
            inspector.feed(&body[..cut]);
            inspector.feed(&body[cut..]);
            inspector.finish();
            assert_eq!(all(&inspector), WHOLE, "cut at {cut}");
        }
    }

    #[test]
    fn what_unfolds_to_too_much_is_not_read() {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(&vec![b' '; 64 << 20]).unwrap();
        encoder.write_all(b"{\"usage\":{\"prompt_tokens\":1}}").unwrap();
        let mut inspector = Inspector::new(Framing::Json, true);
        inspector.feed(&encoder.finish().unwrap());
        inspector.finish();
        assert_eq!(all(&inspector), (None, false, false, true));
    }

    #[test]
    fn a_body_that_is_cut_or_no_gzip_leaves_what_was_found() {
        let chunks = compressed();
        let mut inspector = Inspector::new(Framing::Sse, true);
        inspector.feed(&chunks[0]);
        inspector.feed(&chunks[1]);
        inspector.finish();
        assert_eq!(all(&inspector), (WHOLE.0, false, true, true));

        let mut inspector = Inspector::new(Framing::Sse, true);
        inspector.feed(EVENTS[0].as_bytes());
        inspector.finish();
        assert_eq!(all(&inspector), (None, false, false, true));

        let mut inspector = Inspector::new(Framing::Sse, true);
        inspector.feed(&compressed().concat());
        inspector.feed(b"more");
        inspector.finish();
        assert_eq!(all(&inspector), (WHOLE.0, true, true, true));
    }

    proptest! {
        #[test]
        fn corruption_is_harmless(at in any::<prop::sample::Index>(), byte in any::<u8>(), size in 1usize..64) {
            let mut body = compressed().concat();
            let at = at.index(body.len());
            body[at] = byte;
            let mut inspector = Inspector::new(Framing::Sse, true);
            for chunk in body.chunks(size) {
                inspector.feed(chunk);
            }
            inspector.finish();
            inspector.feed(b"late");
        }
    }
}
