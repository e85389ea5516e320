//! Reading of an answer what has to be known before its first byte goes out.

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use futures_util::future::poll_immediate;
use http_body::Body as HttpBody;
use http_body_util::BodyExt;
use tokio::time::Instant;

use crate::upstream::{
    client::{self, Answer},
    inspect::Inspector,
    scan::Framing,
};

/// How much of an answer may be looked at before the first byte goes out: enough for any error object.
const MAX_PEEK: usize = 64 * 1024;
/// An error's body beyond this is not read.
const MAX_ERROR_BODY: usize = 64 * 1024;
/// How long an error's body may take to arrive.
const ERROR_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// A stream that has sent nothing but comments for so long is passed on, so that the caller sees a sign of
/// life.
const MAX_COMMENTS: Duration = Duration::from_secs(5);
/// How long the end of a transfer is waited for when the document in it is whole.
const MAX_SILENT_END: Duration = Duration::from_millis(100);

pub(super) struct Peeked {
    pub(super) head: VecDeque<Bytes>,
    pub(super) end: End,
}

pub(super) enum End {
    /// The whole body is in `head`.
    Complete,
    More(Answer),
    Broken(String),
}

/// Reads until the body shows whether it is an error: the whole of a small document, the first event of a
/// stream.
pub(super) async fn peek(
    mut body: Answer,
    inspector: &mut Inspector,
    framing: Option<Framing>,
    timeout: Duration,
) -> Peeked {
    let mut head = VecDeque::new();
    let mut size = 0;
    let mut begun = None;
    loop {
        if body.is_end_stream() {
            inspector.finish();
            return Peeked { head, end: End::Complete };
        }
        // Of a stream the first event decides, of a document its end.
        let decided = framing != Some(Framing::Json) && inspector.saw_data();
        if decided || size > MAX_PEEK {
            return Peeked { head, end: End::More(body) };
        }
        let comments_only = size > 0 && framing == Some(Framing::Sse);
        let whole = framing == Some(Framing::Json) && inspector.is_done();
        // Mostly the next part is there, and no clock is looked at.
        let frame = match poll_immediate(body.frame()).await {
            Some(frame) => Ok(frame),
            None => {
                // Some providers keep a slow answer alive with white space: each part begins the wait anew.
                let now = Instant::now();
                let begun = *begun.get_or_insert(now);
                let until = match () {
                    () if comments_only => (now + timeout).min(begun + MAX_COMMENTS),
                    () if whole => now + timeout.min(MAX_SILENT_END),
                    () => now + timeout,
                };
                tokio::time::timeout_at(until, body.frame()).await
            }
        };
        match frame {
            Err(_) if comments_only || whole => return Peeked { head, end: End::More(body) },
            // Every byte of the answer is here, only the transfer's end is not clean.
            Ok(Some(Err(_))) if whole => return Peeked { head, end: End::Complete },
            Err(_) => {
                return Peeked { head, end: End::Broken("no first event in time".to_owned()) };
            }
            Ok(None) => {
                inspector.finish();
                return Peeked { head, end: End::Complete };
            }
            Ok(Some(Err(error))) => {
                return Peeked { head, end: End::Broken(client::causes(&*error)) };
            }
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    inspector.feed(&data);
                    size += data.len();
                    head.push_back(data);
                }
            }
        }
    }
}

pub(super) fn concat(mut head: VecDeque<Bytes>) -> Bytes {
    match head.len() {
        0 => Bytes::new(),
        1 => head.pop_front().unwrap_or_default(),
        _ => {
            let mut whole = BytesMut::with_capacity(head.iter().map(Bytes::len).sum());
            for part in head {
                whole.extend_from_slice(&part);
            }
            whole.freeze()
        }
    }
}

/// What can be had of an error's body in short time: it only adds to what the status says.
pub(super) async fn read_error_body(body: Answer) -> Bytes {
    match read_some(body).await {
        Peeked { head, end: End::Complete } => concat(head),
        _ => Bytes::new(),
    }
}

/// Reads a body to its end unless it is long or slow.
pub(super) async fn read_some(mut body: Answer) -> Peeked {
    let mut head = VecDeque::new();
    let mut size = 0;
    let until = Instant::now() + ERROR_BODY_TIMEOUT;
    while size <= MAX_ERROR_BODY {
        match tokio::time::timeout_at(until, body.frame()).await {
            Ok(Some(Ok(frame))) => {
                if let Ok(data) = frame.into_data() {
                    size += data.len();
                    head.push_back(data);
                }
            }
            Ok(None) => return Peeked { head, end: End::Complete },
            Ok(Some(Err(error))) => return Peeked { head, end: End::Broken(client::causes(&*error)) },
            Err(_) => break,
        }
    }
    Peeked { head, end: End::More(body) }
}
