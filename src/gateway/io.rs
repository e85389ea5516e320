//! A caller's connection, with limits on how long it may keep us waiting.
//!
//! hyper bounds the time between requests of HTTP/1; this adds what it does not: a connection on which nothing is
//! ever sent, a request head that trickles in, a caller that stops taking its answer, and HTTP/2 connections on
//! which nothing is asked any more.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use http::Version;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    sync::Notify,
    time::{Instant, Sleep},
};

use super::options::Options;

/// What a connection is doing.
#[derive(Debug, Default)]
pub struct Activity {
    open: AtomicUsize,
    started: AtomicUsize,
    multiplexed: AtomicBool,
    /// Under HTTP/2: answers of which the connection has taken a part and asked for no more, which it does once
    /// the caller has room, and how many parts were taken.
    handed: AtomicUsize,
    parts: AtomicUsize,
    /// HTTP/2 only: nothing was asked for `idle_timeout`.
    retired: Notify,
}

impl Activity {
    pub fn request_started(&self, version: Version) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.started.fetch_add(1, Ordering::Relaxed);
        if version == Version::HTTP_2 {
            // Its frames arrive at any time and begin no head: pings keep such a connection in check.
            self.multiplexed.store(true, Ordering::Relaxed);
        }
    }

    pub fn request_ended(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn part_taken(&self) {
        self.handed.fetch_add(1, Ordering::Relaxed);
        self.parts.fetch_add(1, Ordering::Relaxed);
    }

    /// The next part is asked for, or nobody wants it any more.
    pub fn part_done(&self) {
        self.handed.fetch_sub(1, Ordering::Relaxed);
    }

    pub fn is_multiplexed(&self) -> bool {
        self.multiplexed.load(Ordering::Relaxed)
    }

    /// Waits until the connection has idled for too long; HTTP/1 is hyper's to watch.
    pub async fn retired(&self) {
        self.retired.notified().await;
    }

    fn is_idle(&self) -> bool {
        self.is_multiplexed() && self.open.load(Ordering::Relaxed) == 0
    }

    /// Whether all that is under way waits for the caller to take more.
    fn is_stalled(&self) -> bool {
        let open = self.open.load(Ordering::Relaxed);
        self.is_multiplexed() && open > 0 && self.handed.load(Ordering::Relaxed) == open
    }

    fn awaits_head(&self) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && !self.is_multiplexed()
    }
}

pub struct TimedIo {
    inner: TokioIo<TcpStream>,
    activity: Arc<Activity>,
    /// Requests started when the last bytes were read: a head is complete when there is one more.
    heads_seen: usize,
    /// For the first byte; `None` once it is there.
    first: Option<Deadline>,
    head: Deadline,
    write: Deadline,
    /// For HTTP/2, whose pings and their answers pass all the time.
    idle: Deadline,
    stall: Deadline,
    parts_seen: usize,
}

/// A timer that exists only while something is overdue, which is almost never.
struct Deadline {
    after: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        Self { after, sleep: None }
    }

    fn start(&mut self) {
        if self.sleep.is_none() {
            self.sleep = Some(Box::pin(tokio::time::sleep_until(Instant::now() + self.after)));
        }
    }

    fn clear(&mut self) {
        self.sleep = None;
    }

    fn passed(&mut self, cx: &mut Context<'_>) -> bool {
        self.sleep.as_mut().is_some_and(|sleep| sleep.as_mut().poll(cx).is_ready())
    }
}

impl TimedIo {
    pub fn new(stream: TcpStream, activity: Arc<Activity>, options: &Options) -> Self {
        Self {
            inner: TokioIo::new(stream),
            activity,
            heads_seen: 0,
            first: Some(Deadline::new(options.idle_timeout)),
            head: Deadline::new(options.header_timeout),
            write: Deadline::new(options.write_timeout),
            idle: Deadline::new(options.idle_timeout),
            stall: Deadline::new(options.write_timeout),
            parts_seen: 0,
        }
    }

    /// What may end an HTTP/2 connection from which nothing could be read just now.
    fn watch_multiplexed(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        let parts = self.activity.parts.load(Ordering::Relaxed);
        if parts != self.parts_seen || !self.activity.is_stalled() {
            self.parts_seen = parts;
            self.stall.clear();
        }
        if !self.activity.is_idle() {
            self.idle.clear();
        }
        if self.activity.is_stalled() {
            self.stall.start();
            if self.stall.passed(cx) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        } else if self.activity.is_idle() {
            self.idle.start();
            if self.idle.passed(cx) {
                // What is asked at this very moment is still answered.
                self.activity.retired.notify_one();
            }
        }
        Ok(())
    }

    fn wrote(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match poll {
            Poll::Ready(done) => {
                self.write.clear();
                Poll::Ready(done)
            }
            Poll::Pending => {
                self.write.start();
                if self.write.passed(cx) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
        }
    }
}

impl Read for TimedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Some(first) = &mut self.first {
            if poll.is_ready() {
                self.first = None;
            } else {
                // hyper's own timer starts only when it knows the version, which the first bytes tell.
                first.start();
                if first.passed(cx) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
            }
        }
        let started = self.activity.started.load(Ordering::Relaxed);
        if started != self.heads_seen || !self.activity.awaits_head() {
            if started != self.heads_seen {
                self.idle.clear();
            }
            self.heads_seen = started;
            self.head.clear();
        }
        if !self.activity.awaits_head() {
            if poll.is_pending() {
                self.watch_multiplexed(cx)?;
            }
            return poll;
        }
        match poll {
            Poll::Ready(Ok(())) => {
                // The first bytes of a head, or more of it: it has until the deadline to become whole.
                self.head.start();
                poll
            }
            Poll::Ready(Err(_)) => poll,
            Poll::Pending if self.head.passed(cx) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Write for TimedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.wrote(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
