//! A body that keeps the tally: it knows whether it was taken to its end.

use std::{
    fmt,
    future::Future,
    io::Write,
    iter::Peekable,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http_body::{Body, Frame, SizeHint};
use serde_json::Value;
use tokio::time::Sleep;

use super::tally::{Attempt, Ending};

/// The pieces of a body, made one by one as they are sent.
pub(super) type Frames = Box<dyn Iterator<Item = Bytes> + Send>;

/// What follows the last piece.
#[derive(Clone, Copy, Debug)]
pub(super) enum Close {
    /// The proper end of the body.
    End(Ending),
    /// The connection is cut.
    Cut,
    /// Nothing, for ever.
    Stall,
}

pub(super) struct Answer {
    frames: Peekable<Frames>,
    /// Between two pieces.
    pause: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    close: Close,
    /// Present until the ending is counted.
    attempt: Option<Attempt>,
    /// Bytes, when known and kept to.
    length: Option<u64>,
    flushed: bool,
}

/// The provider broke its answer off on purpose.
#[derive(Debug, thiserror::Error)]
#[error("the answer is broken off here")]
pub(super) struct BrokenOff;

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("close", &self.close).finish_non_exhaustive()
    }
}

impl Answer {
    /// What was written before a cut must reach the wire first: the connection drops its buffer with an error.
    const BEFORE_CUT: Duration = Duration::from_millis(5);

    pub(super) fn new(
        frames: Frames,
        length: Option<u64>,
        pause: Duration,
        close: Close,
        attempt: Attempt,
    ) -> Self {
        let mut answer = Self {
            frames: frames.peekable(),
            pause,
            sleep: None,
            close,
            attempt: Some(attempt),
            length,
            flushed: false,
        };
        answer.count_if_over();
        answer
    }

    /// A connection that has got all it was promised does not ask again, so the last piece is the end.
    fn count_if_over(&mut self) {
        if let Close::End(ending) = self.close
            && self.frames.peek().is_none()
            && let Some(attempt) = self.attempt.take()
        {
            attempt.end(ending);
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        let this = self.get_mut();
        loop {
            if let Some(sleep) = &mut this.sleep {
                ready!(sleep.as_mut().poll(cx));
                this.sleep = None;
            }
            if let Some(piece) = this.frames.next() {
                this.count_if_over();
                if !this.pause.is_zero() && this.frames.peek().is_some() {
                    this.sleep = Some(Box::pin(tokio::time::sleep(this.pause)));
                }
                return Poll::Ready(Some(Ok(Frame::data(piece))));
            }
            match this.close {
                Close::End(_) => return Poll::Ready(None),
                // The connection drops this body when the caller leaves.
                Close::Stall => return Poll::Pending,
                Close::Cut if this.flushed => {
                    let Some(attempt) = this.attempt.take() else { return Poll::Ready(None) };
                    attempt.end(Ending::Broken);
                    return Poll::Ready(Some(Err(BrokenOff)));
                }
                Close::Cut => {
                    this.flushed = true;
                    this.sleep = Some(Box::pin(tokio::time::sleep(Self::BEFORE_CUT)));
                }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.attempt.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// One server-sent event.
pub(super) fn sse(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

/// One server-sent event with its name, which is also its `type`.
pub(super) fn named_sse(value: &Value) -> Bytes {
    let name = value.get("type").and_then(Value::as_str).unwrap_or("message");
    format!("event: {name}\ndata: {value}\n\n").into()
}

/// One line of NDJSON.
pub(super) fn line(value: &Value) -> Bytes {
    format!("{value}\n").into()
}

/// The same pieces in gzip, each flushed, so that a stream still flows.
pub(super) fn gzipped(frames: Frames) -> Frames {
    let mut frames = frames;
    let mut encoder = Some(GzEncoder::new(Vec::new(), Compression::fast()));
    Box::new(std::iter::from_fn(move || {
        let mut open = encoder.take()?;
        let Some(piece) = frames.next() else {
            return open.finish().ok().map(Bytes::from);
        };
        // Writing to memory does not fail.
        open.write_all(&piece).and_then(|()| open.flush()).ok()?;
        let out = std::mem::take(open.get_mut());
        encoder = Some(open);
        Some(out.into())
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    #[test]
    fn gzipped_pieces_are_one_gzip_file() {
        let pieces = ["data: 1\n\n", "data: 2\n\n"].map(Bytes::from);
        let zipped: Vec<Bytes> = gzipped(Box::new(pieces.into_iter())).collect();
        assert_eq!(zipped.len(), 3);
        let mut text = String::new();
        flate2::read::GzDecoder::new(&*zipped.concat()).read_to_string(&mut text).unwrap();
        assert_eq!(text, "data: 1\n\ndata: 2\n\n");
    }
}
