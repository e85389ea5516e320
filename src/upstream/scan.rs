//! Reads token counts, errors and the end of a response out of its body while the body is relayed.
//!
//! A scanner takes in every byte once, in chunks cut anywhere, keeps a few hundred of them and never fails: what
//! it does not understand it passes over. Only documents that are complete and well formed count.
//! `tests::cuts_do_not_matter`, `tests::memory_is_bounded` and `tests::noise_is_harmless` guard this.

mod error;
mod framing;
mod json;
mod meaning;
mod silent;
#[cfg(test)]
mod tests;

pub use error::BodyError;
pub use framing::Framing;
pub use json::{behind_space, end_of_text};

use error::Report;
use framing::{Cutter, Piece};
use json::Document;
use meaning::{Findings, Kind};

/// As the upstream counted them. A stream's numbers are running totals: the last of each is the right one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tokens {
    pub prompt: u64,
    pub completion: u64,
}

#[derive(Debug)]
pub struct Scanner {
    cutter: Cutter,
    reader: Reader,
    is_finished: bool,
}

impl Scanner {
    pub fn new(framing: Framing) -> Self {
        let reader = Reader {
            framing,
            document: Document::new(),
            prompt: None,
            completion: None,
            error: None,
            is_done: false,
            documents: 0,
        };
        Self { cutter: Cutter::new(framing), reader, is_finished: false }
    }

    /// Takes in the next chunk of the body. Nothing is read after [`finish`](Self::finish).
    pub fn feed(&mut self, chunk: &[u8]) {
        if !self.is_finished {
            self.cutter.feed(chunk, &mut |piece| self.reader.take(piece));
        }
    }

    /// The body has ended, well or not: takes in a last line or event that lacks its end.
    pub fn finish(&mut self) {
        if !std::mem::replace(&mut self.is_finished, true) {
            self.cutter.finish(&mut |piece| self.reader.take(piece));
        }
    }

    /// `None` when the body has named no number of tokens so far; a number that was not named is 0.
    pub fn tokens(&self) -> Option<Tokens> {
        let Reader { prompt, completion, .. } = self.reader;
        prompt.or(completion)?;
        Some(Tokens { prompt: prompt.unwrap_or(0), completion: completion.unwrap_or(0) })
    }

    /// The first error that the body reported.
    pub fn error(&self) -> Option<&BodyError> {
        self.reader.error.as_deref()
    }

    /// Whether the body has said that it is over: `[DONE]` or an API's own last event in a stream of events,
    /// Ollama's `"done":true` in a stream of lines, the end of the value in a single document.
    pub fn is_done(&self) -> bool {
        self.reader.is_done
    }

    /// Whether there was at least one whole document, or one event or line that was neither a comment nor
    /// blank.
    pub fn saw_data(&self) -> bool {
        self.documents() > 0
    }

    /// How many documents, or events or lines that were neither comments nor blank, there were so far.
    pub fn documents(&self) -> u64 {
        self.reader.documents
    }
}

/// Gathers what the documents of a body say.
#[derive(Debug)]
struct Reader {
    framing: Framing,
    document: Document,
    prompt: Option<u64>,
    completion: Option<u64>,
    error: Option<Box<BodyError>>,
    is_done: bool,
    documents: u64,
}

impl Reader {
    fn take(&mut self, piece: Piece<'_>) {
        match piece {
            // Its one document is over; what follows is none of it.
            _ if self.framing == Framing::Json && self.is_done => {}
            Piece::Data(bytes) => {
                self.document.feed(bytes);
                if self.framing == Framing::Json && self.document.is_complete() {
                    self.end_body();
                }
            }
            Piece::Silent => self.documents += 1,
            Piece::End { .. } if self.framing == Framing::Json => self.end_body(),
            Piece::End { event, sentinel } => {
                self.documents += u64::from(!self.document.is_blank());
                self.is_done |= sentinel;
                if let Some(found) = self.document.take() {
                    self.gather(found, event);
                }
            }
        }
    }

    fn end_body(&mut self) {
        if let Some(found) = self.document.take_first() {
            (self.is_done, self.documents) = (true, 1);
            self.gather(found, "");
        }
    }

    fn gather(&mut self, mut found: Findings, event: &str) {
        self.prompt = found.prompt().or(self.prompt);
        self.completion = found.completion().or(self.completion);
        let kind = if found.kind == Kind::Unsaid { Kind::of(event) } else { found.kind };
        self.is_done |= match self.framing {
            Framing::Json => true,
            Framing::Sse => matches!(kind, Kind::Last | Kind::Failed),
            Framing::Ndjson => found.done,
        };
        if self.error.is_none() {
            let says_so = matches!(kind, Kind::Error | Kind::Failed);
            let report = match (found.error.take(), says_so) {
                (Some(report), _) => Some(*report),
                (None, true) => Some(Report { code: found.code.take(), ..Report::default() }),
                (None, false) => None,
            };
            self.error = report.map(|report| Box::new(report.into()));
        }
    }
}
