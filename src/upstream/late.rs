//! Small writes of many connections, which go out together when all work at hand is done.
//!
//! Whatever is written to a connection wakes its reader at once. Where many requests are under way and processors are
//! few, the system then turns from the one who writes to the one who reads, and back, for every single answer. Writes
//! that follow each other closely find their readers awake: with 64 connections on two cores a sixth more requests
//! pass, each with a quarter less time in the kernel. Where there is only one thing to write, it goes out as soon.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use tokio::{
    io::{AsyncWrite, Interest},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::coop::has_budget_remaining,
};

/// What a connection keeps back. More than this goes out at once and is not copied.
const MOST_LATE: usize = 16 * 1024;
/// What of it is kept for the next writes, of whichever connection: so many pieces of at most so many bytes.
const MOST_SPARE: usize = 64;
const LARGEST_SPARE: usize = 2 * 1024;

/// Writes what connections have kept back. It ends when it and all of them are gone.
#[derive(Clone, Debug)]
pub struct LateWrites {
    due: Arc<Due>,
}

/// Connections that have something to write.
#[derive(Debug, Default)]
struct Due(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    connections: Vec<Arc<Shared>>,
    spare: Vec<BytesMut>,
    /// The task that writes, while it waits.
    task: Option<Waker>,
    /// Nobody writes any more.
    is_closed: bool,
}

/// Ends with the task that writes.
struct Task(Weak<Due>);

impl LateWrites {
    /// Starts on the runtime that it is called on: tasks that are ready by now come before what they write goes out.
    pub fn start() -> Self {
        let due = Arc::new(Due::default());
        let task = Task(Arc::downgrade(&due));
        tokio::spawn(async move {
            let (mut connections, mut spare) = (Vec::new(), Vec::new());
            poll_fn(move |cx| task.poll(&mut connections, &mut spare, cx)).await;
        });
        Self { due }
    }

    pub fn attach(&self, stream: TcpStream) -> LateIo {
        let (reader, stream) = stream.into_split();
        let writer = Writer {
            stream,
            late: BytesMut::new(),
            is_due: false,
            is_stuck: false,
            error: None,
            owner: None,
        };
        let shared = Shared { is_held_up: AtomicBool::new(false), writer: Mutex::new(writer) };
        LateIo {
            reader: TokioIo::new(reader),
            awaits_data: Awaits::Nothing,
            reader_waker: None,
            shared: Arc::new(shared),
            due: self.due.clone(),
        }
    }
}

impl Due {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Promises that it will be written, and hands out memory for that.
    fn put(&self, connection: &Arc<Shared>) -> Option<BytesMut> {
        let mut queue = self.lock();
        if queue.is_closed {
            return None;
        }
        queue.connections.push(connection.clone());
        let (task, spare) = (queue.task.take(), queue.spare.pop());
        drop(queue);
        if let Some(task) = task {
            task.wake();
        }
        Some(spare.unwrap_or_default())
    }

    fn close(&self) {
        let mut queue = self.lock();
        queue.is_closed = true;
        let (connections, task) = (std::mem::take(&mut queue.connections), queue.task.take());
        drop(queue);
        for connection in connections {
            connection.write(&mut Vec::new());
        }
        if let Some(task) = task {
            task.wake();
        }
    }
}

impl Drop for Due {
    fn drop(&mut self) {
        self.close();
    }
}

impl Task {
    /// `connections` and `spare` are empty, and only used for their memory.
    fn poll(
        &self,
        connections: &mut Vec<Arc<Shared>>,
        spare: &mut Vec<BytesMut>,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let Some(due) = self.0.upgrade() else { return Poll::Ready(()) };
        loop {
            {
                let mut queue = due.lock();
                let room = MOST_SPARE.saturating_sub(queue.spare.len());
                spare.truncate(room);
                queue.spare.append(spare);
                if queue.connections.is_empty() {
                    queue.task = Some(cx.waker().clone());
                    return Poll::Pending;
                }
                std::mem::swap(&mut queue.connections, connections);
            }
            for connection in connections.drain(..) {
                connection.write(spare);
            }
        }
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        if let Some(due) = self.0.upgrade() {
            due.close();
        }
    }
}

/// A connection whose small writes go out a moment later. When it is dropped, what it kept back still goes out.
#[derive(Debug)]
pub struct LateIo {
    reader: TokioIo<OwnedReadHalf>,
    awaits_data: Awaits,
    /// Who came again to read although nothing had come: made known once, since each time costs.
    reader_waker: Option<Waker>,
    shared: Arc<Shared>,
    due: Arc<Due>,
}

/// Whether something has come since the last read, as far as that was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaits {
    Nothing,
    /// Somebody waits. Who comes again and again is made known.
    Somebody,
    Known,
}

#[derive(Debug)]
struct Shared {
    /// As [`Writer::is_held_up`], for those who would only look: a lock costs more than all else that is done here.
    is_held_up: AtomicBool,
    writer: Mutex<Writer>,
}

#[derive(Debug)]
struct Writer {
    stream: OwnedWriteHalf,
    late: BytesMut,
    /// It stands in the queue.
    is_due: bool,
    /// The connection takes no more for now: its owner has to try again.
    is_stuck: bool,
    /// What its owner has not been told yet.
    error: Option<io::Error>,
    owner: Option<Waker>,
}

impl Shared {
    fn with<T>(&self, act: impl FnOnce(&mut Writer) -> T) -> T {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let done = act(&mut writer);
        self.is_held_up.store(writer.is_held_up(), Ordering::Release);
        done
    }

    fn is_held_up(&self) -> bool {
        self.is_held_up.load(Ordering::Acquire)
    }

    fn write(&self, spare: &mut Vec<BytesMut>) {
        // Only then: whoever is woken looks at the flag.
        if let Some(owner) = self.with(|writer| writer.write(spare)) {
            owner.wake();
        }
    }
}

impl Writer {
    /// Writes what was kept back, as far as it goes. Who is returned has to go on; `spare` gets the memory that is free.
    fn write(&mut self, spare: &mut Vec<BytesMut>) -> Option<Waker> {
        self.is_due = false;
        if self.is_stuck || self.late.is_empty() {
            return None;
        }
        match self.stream.try_write(&self.late) {
            Ok(all) if all == self.late.len() => {
                // Most connections are idle most of the time: none of them keeps memory for its next answer.
                let mut late = std::mem::take(&mut self.late);
                late.clear();
                // What stands before a part that went out earlier is its memory, too.
                let _has_more = late.try_reclaim(late.capacity() + 1);
                if late.capacity() <= LARGEST_SPARE && spare.len() < MOST_SPARE {
                    spare.push(late);
                }
                return None;
            }
            Ok(some) => {
                self.late.advance(some);
                self.is_stuck = true;
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                self.is_stuck = true;
            }
            Err(error) => self.fail(error),
        }
        self.owner.take()
    }

    /// The same on the owner's behalf, to the end.
    fn poll_write_all(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(error) = self.error.take() {
            return Poll::Ready(Err(error));
        }
        while !self.late.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.late))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                some => self.late.advance(some),
            }
        }
        self.late = BytesMut::new();
        self.is_stuck = false;
        Poll::Ready(Ok(()))
    }

    /// What is kept back cannot go out: whoever writes or flushes next is told why.
    fn fail(&mut self, error: io::Error) {
        self.error = Some(error);
        self.late = BytesMut::new();
        self.is_stuck = false;
    }

    /// Its owner has something to write, or to be told, before anything else.
    fn is_held_up(&self) -> bool {
        self.is_stuck || self.error.is_some()
    }
}

impl LateIo {
    /// Nobody uses it for now, and whoever did is forgotten.
    pub(super) fn rest(&mut self) {
        (self.awaits_data, self.reader_waker) = (Awaits::Nothing, None);
        self.shared.with(|writer| writer.owner = None);
    }

    /// Nothing has come since `cx` was promised to be woken: to ask the runtime again costs two locks.
    fn still_awaits_data(&self, cx: &Context<'_>) -> bool {
        let stream: &TcpStream = self.reader.inner().as_ref();
        self.awaits_data == Awaits::Known
            && self.is_known(cx)
            && stream.try_io(Interest::READABLE, || Ok(())).is_err()
    }

    fn is_known(&self, cx: &Context<'_>) -> bool {
        self.reader_waker.as_ref().is_some_and(|known| known.will_wake(cx.waker()))
    }
}

impl Read for LateIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.shared.is_held_up() {
            // A TLS handshake that has flushed once only reads from then on.
            self.shared.with(|writer| {
                if writer.is_stuck
                    && let Poll::Ready(Err(error)) = writer.poll_write_all(cx)
                {
                    writer.fail(error);
                }
            });
        }
        if self.still_awaits_data(cx) {
            return Poll::Pending;
        }
        let poll = Pin::new(&mut self.reader).poll_read(cx, buffer);
        self.awaits_data = match self.awaits_data {
            // Who has had its turn is told to wait without being listened to: see tokio's `coop`.
            _ if poll.is_ready() || !has_budget_remaining() => Awaits::Nothing,
            _ if self.is_known(cx) => Awaits::Known,
            Awaits::Nothing => Awaits::Somebody,
            Awaits::Somebody | Awaits::Known => {
                self.reader_waker = Some(cx.waker().clone());
                Awaits::Known
            }
        };
        poll
    }
}

impl Write for LateIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { shared, due, .. } = &*self;
        shared.with(|writer| {
            let length: usize = parts.iter().map(|part| part.len()).sum();
            if writer.is_held_up() || writer.late.len() + length > MOST_LATE {
                ready!(writer.poll_write_all(cx))?;
            }
            if length > MOST_LATE {
                return Pin::new(&mut writer.stream).poll_write_vectored(cx, parts);
            }
            if length == 0 {
                return Poll::Ready(Ok(0));
            }
            let is_promised = writer.is_due
                || due.put(shared).is_some_and(|memory| {
                    if writer.late.is_empty() {
                        writer.late = memory;
                    }
                    true
                });
            writer.is_due = true;
            writer.late.reserve(length);
            for part in parts {
                writer.late.extend_from_slice(part);
            }
            // Each time: whoever made the connection may hand it on between two writes.
            if !writer.owner.as_ref().is_some_and(|owner| owner.will_wake(cx.waker())) {
                writer.owner = Some(cx.waker().clone());
            }
            if !is_promised {
                // The runtime is going down, and nobody else would write it.
                let _owner_is_at_work = writer.write(&mut Vec::new());
            }
            Poll::Ready(Ok(length))
        })
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done where all is written that the connection takes just now, or will be in a moment.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.shared.is_held_up() {
            return Poll::Ready(Ok(()));
        }
        self.shared
            .with(|writer| if writer.is_held_up() { writer.poll_write_all(cx) } else { Poll::Ready(Ok(())) })
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shared.with(|writer| {
            ready!(writer.poll_write_all(cx))?;
            Pin::new(&mut writer.stream).poll_shutdown(cx)
        })
    }
}

impl Connection for LateIo {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, io::ErrorKind};

    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::{coop::poll_proceed, yield_now},
    };

    use super::*;

    /// Both ends of a connection, of which ours keeps its writes back.
    async fn connection() -> (LateIo, TcpStream) {
        connection_of(&LateWrites::start()).await
    }

    async fn connection_of(writes: &LateWrites) -> (LateIo, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (ours, _) = listener.accept().await.unwrap();
        socket2::SockRef::from(&ours).set_send_buffer_size(4096).unwrap();
        (writes.attach(ours), peer)
    }

    async fn write(io: &mut LateIo, bytes: &[u8]) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, bytes)).await
    }

    #[tokio::test]
    async fn memory_of_small_writes_is_there_for_the_next() {
        let writes = LateWrites::start();
        let spare = || writes.due.lock().spare.len();
        let mut ends = Vec::new();
        for _ in 0..MOST_SPARE + 8 {
            ends.push(connection_of(&writes).await);
        }
        for _ in 0..3 {
            for (ours, _) in &mut ends {
                write_all(ours, b"small").await;
            }
            assert_eq!(spare(), 0);
            yield_now().await;
            assert_eq!(spare(), MOST_SPARE);
        }
        for (ours, peer) in &mut ends {
            let mut found = [0; 15];
            peer.read_exact(&mut found).await.unwrap();
            assert_eq!(&found, b"smallsmallsmall");
            // Nobody else needs as much.
            write_all(ours, &[b'x'; LARGEST_SPARE + 1]).await;
        }
        yield_now().await;
        assert_eq!(spare(), 0);
    }

    async fn write_all(io: &mut LateIo, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let written = write(io, bytes).await.unwrap();
            bytes = &bytes[written..];
        }
    }

    async fn flush(io: &mut LateIo) -> io::Result<()> {
        poll_fn(|cx| Pin::new(&mut *io).poll_flush(cx)).await
    }

    fn kept_back(io: &LateIo) -> usize {
        io.shared.with(|writer| writer.late.len())
    }

    /// Numbered bytes, so that what is lost, doubled or turned around shows.
    fn numbered(length: usize) -> Vec<u8> {
        (0..length.div_ceil(4)).flat_map(|number| (number as u32).to_le_bytes()).take(length).collect()
    }

    #[tokio::test]
    async fn what_is_written_goes_out_once_other_work_is_done() {
        let (mut io, mut peer) = connection().await;
        assert_eq!(write(&mut io, b"one ").await.unwrap(), 4);
        assert_eq!(write(&mut io, b"two").await.unwrap(), 3);
        assert_eq!(kept_back(&io), 7);
        flush(&mut io).await.unwrap();
        let mut read = [0; 7];
        peer.read_exact(&mut read).await.unwrap();
        assert_eq!(&read, b"one two");
        assert_eq!(io.shared.with(|writer| writer.late.capacity()), 0, "an idle connection keeps memory");
    }

    #[tokio::test]
    async fn nothing_is_lost_doubled_or_out_of_order_when_the_peer_is_slow() {
        let (mut io, mut peer) = connection().await;
        let all = numbered(3_000_000);
        let read = tokio::spawn(async move {
            let (mut read, mut buffer) = (Vec::new(), [0; 7000]);
            loop {
                match peer.read(&mut buffer).await.unwrap() {
                    0 => return read,
                    some => read.extend_from_slice(&buffer[..some]),
                }
                yield_now().await;
            }
        });
        let (mut rest, mut round) = (&all[..], 0);
        while !rest.is_empty() {
            // Small, of many sizes, and now and then larger than what is kept back.
            let most = if round % 17 == 0 { 100_000 } else { 1 + round * 37 % 3000 };
            let (part, after) = rest.split_at(most.min(rest.len()));
            write_all(&mut io, part).await;
            assert!(kept_back(&io) <= MOST_LATE);
            if round % 5 == 0 {
                flush(&mut io).await.unwrap();
            }
            if round % 3 == 0 {
                yield_now().await;
            }
            (rest, round) = (after, round + 1);
        }
        poll_fn(|cx| Pin::new(&mut io).poll_shutdown(cx)).await.unwrap();
        assert!(read.await.unwrap() == all);
    }

    #[tokio::test]
    async fn a_flush_waits_while_the_peer_takes_nothing() {
        let (mut io, mut peer) = connection().await;
        let mut written = 0;
        while poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_flush(cx).is_ready())).await {
            write_all(&mut io, &[7; 1000]).await;
            written += 1000;
            yield_now().await;
        }
        assert!(kept_back(&io) > 0);
        let reading = tokio::spawn(async move {
            let mut read = vec![0; written];
            peer.read_exact(&mut read).await.unwrap();
            peer
        });
        flush(&mut io).await.unwrap();
        assert_eq!(kept_back(&io), 0);
        let mut peer = reading.await.unwrap();
        write_all(&mut io, b"on").await;
        let mut read = [0; 2];
        peer.read_exact(&mut read).await.unwrap();
    }

    #[tokio::test]
    async fn who_wrote_last_is_woken_and_reading_goes_on_writing() {
        struct Flag(std::sync::atomic::AtomicBool);
        impl std::task::Wake for Flag {
            fn wake(self: Arc<Self>) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }
        let (mut io, mut peer) = connection().await;
        let last = Arc::new(Flag(false.into()));
        let mut written = 0;
        while !io.shared.with(|writer| writer.is_stuck) {
            // Two owners in one turn, as when a connection that was just made is handed on.
            write_all(&mut io, &[7; 1000]).await;
            let waker = Waker::from(last.clone());
            assert!(Pin::new(&mut io).poll_write(&mut Context::from_waker(&waker), &[7; 1000]).is_ready());
            written += 2000;
            yield_now().await;
        }
        assert!(last.0.load(std::sync::atomic::Ordering::Relaxed));
        let reading = tokio::spawn(async move {
            let mut read = vec![0; written];
            peer.read_exact(&mut read).await.unwrap();
            peer.write_all(b"all").await.unwrap();
            peer
        });
        let mut bytes = [0; 3];
        let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut io).poll_read(cx, buffer.unfilled())).await.unwrap();
        assert_eq!(buffer.filled(), b"all");
        drop(reading.await.unwrap());
    }

    async fn read(io: &mut LateIo) -> u8 {
        // More room than there is to read: the runtime then knows that nothing is left.
        let mut bytes = [0; 2];
        let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
        poll_fn(|cx| Pin::new(&mut *io).poll_read(cx, buffer.unfilled())).await.unwrap();
        buffer.filled()[0]
    }

    /// By the task itself: the one that is woken.
    async fn has_nothing(io: &mut LateIo) -> bool {
        let mut bytes = [0; 2];
        let mut buffer = hyper::rt::ReadBuf::new(&mut bytes);
        poll_fn(|cx| Poll::Ready(Pin::new(&mut *io).poll_read(cx, buffer.unfilled()).is_pending())).await
    }

    /// Whoever has done much in one turn is put off without being listened to, and comes again.
    #[tokio::test]
    async fn who_was_put_off_is_woken_all_the_same() {
        let (mut io, mut peer) = connection().await;
        for round in 0..3 {
            // Known, and then heard of.
            for _ in 0..3 {
                assert!(has_nothing(&mut io).await);
            }
            peer.write_all(&[round]).await.unwrap();
            assert_eq!(read(&mut io).await, round);
            poll_fn(|cx| {
                while has_budget_remaining() {
                    assert!(poll_proceed(cx).map(|spent| spent.made_progress()).is_ready());
                }
                Poll::Ready(())
            })
            .await;
            assert!(has_nothing(&mut io).await);
            yield_now().await;
            let (told, waited) = tokio::sync::oneshot::channel();
            let writing = tokio::spawn(async move {
                waited.await.unwrap();
                peer.write_all(&[7]).await.unwrap();
                peer
            });
            assert!(has_nothing(&mut io).await);
            told.send(()).unwrap();
            let came = tokio::time::timeout(std::time::Duration::from_secs(60), read(&mut io)).await;
            assert_eq!(came.expect("it waits for ever"), 7);
            peer = writing.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_dropped_connection_sends_what_it_kept_back() {
        let (mut io, mut peer) = connection().await;
        write_all(&mut io, b"the last words").await;
        drop(io);
        let mut read = String::new();
        peer.read_to_string(&mut read).await.unwrap();
        assert_eq!(read, "the last words");
    }

    #[tokio::test]
    async fn an_error_is_told_to_whoever_writes_or_flushes_next() {
        let (mut io, mut peer) = connection().await;
        // A connection that is closed with bytes unread is reset.
        write_all(&mut io, b"unread").await;
        peer.write_all(b"also unread").await.unwrap();
        peer.readable().await.unwrap();
        drop(peer);
        let error = loop {
            write(&mut io, b"more").await.unwrap();
            yield_now().await;
            if let Err(error) = flush(&mut io).await {
                break error;
            }
        };
        assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
        write(&mut io, b"more").await.unwrap();
        yield_now().await;
        assert_eq!(write(&mut io, b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}
