//! What both sides of HTTP/1 need of a connection: what was read and not yet taken, what is to be written and not yet is.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What is read at once; more as long as there is more.
const LEAST_READ: usize = 8 * 1024;
const MOST_READ: usize = 128 * 1024;
/// Where memory is not yet taken.
const FIRST_READ: usize = 256;
/// Is copied: to share its memory costs more where nothing else does, and keeps all of it for as long as this is of use.
const SMALL: usize = 4 * 1024;
/// A head's, which is no bound.
const USUAL_HEAD: usize = 1024;

/// What a `Content-Length` says, if it says nothing but a number.
pub fn content_length(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// What has come and is not yet taken.
#[derive(Debug)]
pub struct Received {
    pub bytes: BytesMut,
    read_size: usize,
    /// More memory was needed than an idle connection may keep.
    is_grown: bool,
}

impl Default for Received {
    fn default() -> Self {
        Self { bytes: BytesMut::new(), read_size: LEAST_READ, is_grown: false }
    }
}

impl Received {
    /// As [`Self::poll_more`], for what may be long in coming: until then no memory is taken.
    pub fn poll_begin(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() > 0 {
            return self.poll_more(io, cx);
        }
        let mut first = [0; FIRST_READ];
        let mut buffer = ReadBuf::new(&mut first);
        ready!(Pin::new(io).poll_read(cx, &mut buffer))?;
        self.bytes.extend_from_slice(buffer.filled());
        Poll::Ready(Ok(buffer.filled().len()))
    }

    /// Reads more of the `all` bytes that are to come with those that are here: they get their place at once, instead of
    /// one that grows and has them copied each time.
    pub fn poll_all(
        &mut self,
        all: usize,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() < all {
            self.reserve(all - self.bytes.len());
        }
        pin!(io.read_buf(&mut self.bytes)).poll(cx)
    }

    /// Reads more; 0 at the connection's end.
    pub fn poll_more(
        &mut self,
        io: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if self.bytes.capacity() - self.bytes.len() < self.read_size / 2 {
            self.reserve(self.read_size);
        }
        let room = self.bytes.capacity() - self.bytes.len();
        let came = ready!(pin!(io.read_buf(&mut self.bytes)).poll(cx))?;
        if came == room {
            self.read_size = (self.read_size * 2).min(MOST_READ);
        } else if came < self.read_size / 4 {
            self.read_size = (self.read_size / 2).max(LEAST_READ);
        }
        Poll::Ready(Ok(came))
    }

    /// The first `size` bytes.
    pub fn take(&mut self, size: usize) -> Bytes {
        if size > SMALL {
            return self.bytes.split_to(size).freeze();
        }
        let taken = Bytes::copy_from_slice(&self.bytes[..size]);
        self.bytes.advance(size);
        taken
    }

    fn reserve(&mut self, more: usize) {
        self.bytes.reserve(more);
        self.is_grown |= self.bytes.capacity() > 2 * LEAST_READ;
    }

    /// Nothing is expected for now.
    pub fn rest(&mut self) {
        if self.is_grown && self.bytes.len() <= LEAST_READ {
            self.bytes = BytesMut::from(&*self.bytes);
            self.is_grown = false;
        }
    }
}

/// What is not yet written: a head, or whatever is small, and behind it what is not copied for that.
#[derive(Debug, Default)]
pub struct Unsent {
    pub head: BytesMut,
    pub body: Bytes,
    /// As [`Received::is_grown`].
    is_grown: bool,
}

impl Unsent {
    /// Forgets what is there, for a head.
    pub fn begin(&mut self) -> &mut BytesMut {
        self.clear();
        self.head.reserve(USUAL_HEAD);
        &mut self.head
    }

    /// What comes behind the head.
    pub fn put_body(&mut self, body: &Bytes) {
        if body.len() <= SMALL {
            self.head.extend_from_slice(body);
        } else {
            self.body = body.clone();
        }
    }

    pub fn clear(&mut self) {
        self.head.clear();
        // It may be large, and what comes next be long in coming.
        self.body = Bytes::new();
    }

    /// Writes all of it; whether the connection passed it on is for `poll_flush` to say.
    pub fn poll_write(
        &mut self,
        io: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        // Before what is written goes out of sight.
        self.is_grown |= self.head.capacity() > LEAST_READ;
        while self.head.has_remaining() || self.body.has_remaining() {
            let parts = [IoSlice::new(&self.head), IoSlice::new(&self.body)];
            let written = ready!(Pin::new(&mut *io).poll_write_vectored(cx, &parts))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_head = written.min(self.head.len());
            self.head.advance(of_head);
            self.body.advance(written - of_head);
        }
        // Its last byte is written, and would keep all of its memory.
        self.body = Bytes::new();
        Poll::Ready(Ok(()))
    }

    /// What was written may be long in being answered.
    pub fn let_go(&mut self) {
        self.clear();
        if self.head.capacity() > 2 * USUAL_HEAD {
            self.head = BytesMut::new();
        }
    }

    /// Nothing is to be written for now.
    pub fn rest(&mut self) {
        if std::mem::take(&mut self.is_grown) {
            self.head = BytesMut::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn what_is_expected_has_its_place_from_the_beginning() {
        let sent: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
        let mut received = Received::default();
        // Its last part comes alone: too little room for a usual read, and enough for all that is expected.
        let (begun, last) = sent.split_at(sent.len() - 10);
        let mut io = begun;
        poll_fn(|cx| received.poll_begin(&mut io, cx)).await.unwrap();
        assert!(poll_fn(|cx| received.poll_all(sent.len(), &mut io, cx)).await.unwrap() > 0);
        let room = received.bytes.capacity();
        while !io.is_empty() {
            assert!(poll_fn(|cx| received.poll_all(sent.len(), &mut io, cx)).await.unwrap() > 0);
        }
        io = last;
        assert_eq!(poll_fn(|cx| received.poll_all(sent.len(), &mut io, cx)).await.unwrap(), last.len());
        assert!(received.bytes == sent);
        assert_eq!(received.bytes.capacity(), room);

        // More than that, and with nothing expected, is read as ever.
        io = last;
        assert_eq!(poll_fn(|cx| received.poll_all(sent.len(), &mut io, cx)).await.unwrap(), last.len());
        io = &sent;
        while !io.is_empty() {
            assert!(poll_fn(|cx| received.poll_more(&mut io, cx)).await.unwrap() > 0);
        }
        assert!(received.bytes == [&sent, last, &sent].concat());
    }

    #[tokio::test]
    async fn nothing_large_is_kept_for_a_beginning() {
        for all in [9_000, 20_000, 100_000] {
            let mut received = Received::default();
            let sent = vec![0; all];
            let mut io = &*sent;
            poll_fn(|cx| received.poll_all(all, &mut io, cx)).await.unwrap();
            received.rest();
            assert_eq!(received.bytes.len(), all);
            received.bytes.advance(all - 1);
            received.rest();
            assert_eq!(received.bytes.as_ref(), [0]);
            assert!(received.bytes.capacity() <= 2 * LEAST_READ, "{}", received.bytes.capacity());
        }
        let mut received = Received::default();
        assert_eq!(poll_fn(|cx| received.poll_all(100_000, &mut &[][..], cx)).await.unwrap(), 0);
        received.rest();
        assert_eq!(received.bytes.capacity(), 0);
    }
}
