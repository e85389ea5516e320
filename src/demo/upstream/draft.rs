//! Answers on their way from what is said to what is sent.

use bytes::Bytes;
use serde_json::Value;

use super::{
    answer::{Close, Frames},
    route::Dialect,
    speech::with_huge_text,
    tally::{Ending, Tokens},
};

/// The answer before it is known how it will be sent.
pub(super) struct Draft {
    pub(super) kind: &'static str,
    pub(super) streamed: bool,
    pub(super) frames: Frames,
    pub(super) length: Option<u64>,
    pub(super) tokens: Tokens,
    pub(super) reported: Tokens,
}

/// A body that is about to be sent.
pub(super) struct Out {
    pub(super) kind: &'static str,
    pub(super) streamed: bool,
    pub(super) frames: Frames,
    pub(super) length: Option<u64>,
    pub(super) close: Close,
}

impl Out {
    pub(super) fn json(body: Bytes) -> Self {
        let Draft { kind, streamed, frames, length, tokens, reported } = Draft::of_bytes(body);
        Self { kind, streamed, frames, length, close: Close::End(Ending::Completed { tokens, reported }) }
    }

    /// The first `events` of a stream; of anything else, the first half.
    pub(super) fn part(self, events: usize) -> Self {
        let frames = if self.streamed {
            Box::new(self.frames.take(events))
        } else {
            half(self.frames.collect::<Vec<_>>().concat())
        };
        Self { frames, length: None, ..self }
    }
}

pub(super) fn half(mut all: Vec<u8>) -> Frames {
    all.truncate(all.len() / 2);
    Box::new(std::iter::once(all.into()))
}

impl Draft {
    pub(super) fn of_bytes(body: Bytes) -> Self {
        Self {
            kind: "application/json",
            streamed: false,
            length: Some(body.len() as u64),
            frames: Box::new(std::iter::once(body)),
            tokens: Tokens::default(),
            reported: Tokens::default(),
        }
    }

    pub(super) fn whole(value: &Value, huge: Option<u64>, tokens: Tokens) -> Self {
        let text = value.to_string();
        let draft = match huge.and_then(|bytes| with_huge_text(&text, bytes)) {
            Some((frames, length)) => Self { frames, length: Some(length), ..Self::of_bytes(Bytes::new()) },
            None => Self::of_bytes(text.into()),
        };
        Self { tokens, reported: tokens, ..draft }
    }

    pub(super) fn stream(dialect: Dialect, frames: Frames, tokens: Tokens, told: bool) -> Self {
        let kind = match dialect {
            Dialect::Ollama => "application/x-ndjson",
            _ => "text/event-stream; charset=utf-8",
        };
        let reported = if told { tokens } else { Tokens::default() };
        Self { kind, streamed: true, frames, length: None, tokens, reported }
    }
}
