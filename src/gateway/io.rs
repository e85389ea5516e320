//! A caller's connection, with limits on how long it may keep us waiting.
//!
//! A connection on which nothing is ever sent, or nothing more is asked, a request head that trickles in, and a caller
//! that stops taking its answer. hyper bounds some of it, by timers that are set with each request: here a timer exists
//! only while something is overdue, or for as long as the connection.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Instant;

use super::{options::Options, timer::Timer};
use crate::upstream::late::LateIo;

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
    retired: AtomicBool,
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

    /// Whether the connection has idled for too long, which shows when it is polled; those of HTTP/1 just end.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
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
    inner: LateIo,
    /// What was read already, and is to be read once more.
    unread: Bytes,
    activity: Arc<Activity>,
    /// Requests started when the last bytes were read: a head is complete when there is one more.
    heads_seen: usize,
    /// For the first byte; `None` once it is there.
    first: Option<Deadline>,
    head: Deadline,
    /// The first bytes of a head are there.
    is_in_head: bool,
    write: Deadline,
    /// For HTTP/2, whose pings and their answers pass all the time.
    idle: Deadline,
    /// For HTTP/1, between requests: goes off several times before it is over, and counts how often nothing was asked
    /// since.
    quiet: Deadline,
    quiet_rounds: u32,
    quiet_since: usize,
    stall: Deadline,
    parts_seen: usize,
}

/// Of an idle HTTP/1 connection's time.
const QUIET_ROUNDS: u32 = 4;

/// A timer that exists only while something is overdue, which is almost never.
struct Deadline {
    after: Duration,
    timer: Option<Timer>,
}

impl Deadline {
    fn new(after: Duration) -> Self {
        Self { after, timer: None }
    }

    fn start(&mut self) {
        if self.timer.is_none() {
            self.timer = Some(Timer::at(Instant::now() + self.after));
        }
    }

    fn clear(&mut self) {
        self.timer = None;
    }

    fn passed(&mut self, cx: &mut Context<'_>) -> bool {
        self.timer.as_mut().is_some_and(|timer| timer.passed(cx))
    }
}

impl TimedIo {
    pub fn new(inner: LateIo, activity: Arc<Activity>, options: &Options) -> Self {
        Self {
            inner,
            unread: Bytes::new(),
            activity,
            heads_seen: 0,
            first: Some(Deadline::new(options.idle_timeout)),
            head: Deadline::new(options.header_timeout),
            is_in_head: false,
            write: Deadline::new(options.write_timeout),
            idle: Deadline::new(options.idle_timeout),
            quiet: Deadline::new(options.idle_timeout / QUIET_ROUNDS),
            quiet_rounds: 0,
            quiet_since: 0,
            stall: Deadline::new(options.write_timeout),
            parts_seen: 0,
        }
    }

    /// Has somebody else read `bytes` anew.
    pub fn put_back(&mut self, bytes: Bytes) {
        self.unread = bytes;
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
                self.activity.retired.store(true, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Ends an HTTP/1 connection on which nothing was asked for `idle_timeout`, and up to a quarter more.
    fn watch_quiet(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // The last bytes of an answer may still be on their way out when the answer itself is gone.
        let is_busy = !self.activity.awaits_head() || self.write.timer.is_some();
        if self.quiet_since != self.heads_seen {
            self.quiet_since = self.heads_seen;
            self.quiet_rounds = 0;
        }
        self.quiet.start();
        while self.quiet.passed(cx) {
            self.quiet_rounds = if is_busy { 0 } else { self.quiet_rounds + 1 };
            if self.quiet_rounds > QUIET_ROUNDS {
                return Err(io::ErrorKind::TimedOut.into());
            }
            self.quiet.clear();
            self.quiet.start();
        }
        Ok(())
    }

    fn wrote<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
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
        mut buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let poll = if self.unread.is_empty() {
            Pin::new(&mut self.inner).poll_read(cx, buffer)
        } else {
            let size = buffer.remaining().min(self.unread.len());
            buffer.put_slice(&self.unread.split_to(size));
            Poll::Ready(Ok(()))
        };
        if let Some(first) = &mut self.first {
            if poll.is_ready() {
                self.first = None;
            } else {
                // Whatever the version will be, which the first bytes tell.
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
            self.is_in_head = false;
        }
        if !self.activity.awaits_head() {
            if poll.is_pending() {
                if self.activity.is_multiplexed() {
                    self.watch_multiplexed(cx)?;
                } else {
                    // Once the answer is over, nobody may come to read before the time is up.
                    self.watch_quiet(cx)?;
                }
            }
            return poll;
        }
        match poll {
            Poll::Ready(Ok(())) => {
                // The first bytes of a head, or more of it.
                self.is_in_head = true;
                poll
            }
            Poll::Ready(Err(_)) => poll,
            Poll::Pending if self.is_in_head => {
                // It came in parts, of which this was not the last: it has until the deadline to become whole.
                self.head.start();
                if self.head.passed(cx) {
                    return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                }
                Poll::Pending
            }
            Poll::Pending => {
                if self.first.is_none() {
                    self.watch_quiet(cx)?;
                }
                Poll::Pending
            }
        }
    }
}

impl Write for TimedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.quiet_rounds = 0;
        let poll = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.wrote(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.quiet_rounds = 0;
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bytes);
        self.wrote(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.wrote(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_shutdown(cx);
        self.wrote(cx, poll)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::future::poll_immediate;
    use hyper::rt::ReadBuf;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
        time::timeout,
    };

    use super::*;
    use crate::upstream::late::LateWrites;

    async fn read(io: &mut TimedIo) -> io::Result<usize> {
        let mut bytes = [0; 16];
        let mut buffer = ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, buffer.unfilled())).await?;
        Ok(buffer.filled().len())
    }

    async fn write_at_once(io: &mut TimedIo) -> bool {
        let poll = poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_write(cx, &[0; 1 << 16]))).await;
        poll.map(|written| assert!(written.unwrap() > 0)).is_ready()
    }

    const IDLE: Duration = Duration::from_secs(4);

    /// A connection on which one request was asked and answered, as far as hyper knows.
    async fn connection() -> (TimedIo, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
        let activity = Arc::new(Activity::default());
        // No answer is cut here, however far the clock goes on by itself.
        let write_timeout = Duration::from_secs(86_400);
        let options = Options { idle_timeout: IDLE, write_timeout, ..Options::default() };
        let mut io = TimedIo::new(LateWrites::start().attach(ours), activity.clone(), &options);
        caller.write_all(b"x").await.unwrap();
        assert_eq!(read(&mut io).await.unwrap(), 1);
        activity.request_started(Version::HTTP_11);
        assert!(timeout(2 * IDLE, read(&mut io)).await.is_err(), "closed in the midst of a request");
        activity.request_ended();
        (io, caller)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_nothing_is_asked_on_it() {
        let (mut io, mut caller) = connection().await;
        for _ in 0..3 {
            assert!(timeout(IDLE * 3 / 4, read(&mut io)).await.is_err(), "closed too early");
            caller.write_all(b"x").await.unwrap();
            assert_eq!(read(&mut io).await.unwrap(), 1);
            io.activity.request_started(Version::HTTP_11);
            assert!(timeout(Duration::from_millis(1), read(&mut io)).await.is_err());
            io.activity.request_ended();
        }
        let ended = timeout(2 * IDLE, read(&mut io)).await.expect("it ends");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_who_takes_nothing_cannot_hold_up_the_end() {
        let (mut io, _caller) = connection().await;
        // Whatever is left goes out before the end.
        while write_at_once(&mut io).await {}
        let kept = poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, b"the last"))).await;
        assert!(matches!(kept, Poll::Ready(Ok(8))));
        let ended = poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await;
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_on_its_way_is_not_idle() {
        let (mut io, mut caller) = connection().await;
        while write_at_once(&mut io).await {}
        assert!(timeout(3 * IDLE, read(&mut io)).await.is_err(), "cut while the caller takes its time");
        let mut all = [0; 1 << 16];
        while !write_at_once(&mut io).await {
            // When all is read there is nothing to wait for, but the runtime has to look what can be written.
            let _some_or_nothing = poll_immediate(caller.read(&mut all)).await;
            tokio::task::yield_now().await;
        }
        let ended = timeout(2 * IDLE, read(&mut io)).await.expect("it ends");
        assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
