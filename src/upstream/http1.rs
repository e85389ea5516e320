//! An HTTP/1 connection that is driven by whoever uses it.
//!
//! hyper's connections are usually tasks of their own, which hand over each part of an answer and wait until it is taken:
//! two tasks take turns for every event of a stream. Here the task that reads an answer drives the connection that
//! brings it, as far as it goes at once.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame};
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_rustls::MaybeHttpsStream;
use tracing::debug;

use super::{client::causes, late::LateIo};

/// How often both may answer each other before others have their turn.
const MOST_ROUNDS: usize = 32;

type Io = MaybeHttpsStream<LateIo>;

pub(super) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    driven: Driven,
}

/// The connection's own side.
struct Driven {
    /// `None` when it has ended.
    connection: Option<http1::Connection<Io, Full<Bytes>>>,
    bell: Arc<Bell>,
    /// Rings `bell`.
    waker: Waker,
}

/// What wakes whoever uses the connection. What the connection and its user tell each other needs nobody to be woken: both
/// are at work when they do.
#[derive(Default)]
struct Bell {
    user: AtomicWaker,
    is_at_work: AtomicBool,
    /// Since the connection was driven last.
    is_rung: AtomicBool,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_rung.store(true, Ordering::SeqCst);
        if !self.is_at_work.load(Ordering::SeqCst) {
            self.user.wake();
        }
    }
}

impl Http1 {
    pub(super) async fn new(io: Io) -> hyper::Result<Self> {
        let (sender, connection) = http1::handshake(io).await?;
        let bell = Arc::new(Bell::default());
        let waker = Waker::from(bell.clone());
        Ok(Self { sender, driven: Driven { connection: Some(connection), bell, waker } })
    }

    /// Whether the next request can be sent. What the provider did since the last one shows only when it is tried.
    pub(super) fn is_ready(&self) -> bool {
        !self.has_ended() && self.sender.is_ready()
    }

    /// The same, after a look at what the provider did meanwhile.
    pub(super) fn is_open(&mut self) -> bool {
        self.driven.step();
        self.is_ready()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.driven.connection.is_none()
    }

    /// Nobody uses it for now.
    pub(super) fn rest(&self) {
        self.driven.bell.user.take();
    }

    /// Sends a request and waits for the beginning of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        let mut sending = pin!(self.sender.try_send_request(request));
        self.driven.bell.is_rung.store(true, Ordering::SeqCst);
        poll_fn(|cx| self.driven.work(cx, |cx| sending.as_mut().poll(cx))).await
    }

    /// The next part of an answer that came over this connection.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        self.driven.work(cx, |cx| Pin::new(&mut *body).poll_frame(cx))
    }

    /// Waits until the next request can be sent; `false` when none can.
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        let sender = &self.sender;
        let ready = self.driven.work(cx, |_| match () {
            () if sender.is_ready() => Poll::Ready(true),
            () if sender.is_closed() => Poll::Ready(false),
            () => Poll::Pending,
        });
        ready.map(|ready| ready && !self.has_ended())
    }
}

impl Driven {
    /// Takes what the connection brings, and drives it whenever its bell has rung, until there is something or nothing
    /// more comes at once.
    fn work<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut take: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.bell.user.register(cx.waker());
        self.bell.is_at_work.store(true, Ordering::SeqCst);
        let mut taken = take(&mut Context::from_waker(&self.waker));
        for _ in 0..MOST_ROUNDS {
            if taken.is_ready() || !self.bell.is_rung.swap(false, Ordering::SeqCst) {
                break;
            }
            self.step();
            taken = take(&mut Context::from_waker(&self.waker));
        }
        self.bell.is_at_work.store(false, Ordering::SeqCst);
        if taken.is_pending() && self.bell.is_rung.load(Ordering::SeqCst) {
            // It rang after the last look, or others shall have their turn.
            cx.waker().wake_by_ref();
        }
        taken
    }

    fn step(&mut self) {
        let Some(open) = &mut self.connection else { return };
        if let Poll::Ready(ended) = Pin::new(open).poll(&mut Context::from_waker(&self.waker)) {
            // Whoever has sent something over it is told of its errors: here they only show why it ended.
            if let Err(error) = ended {
                debug!("a connection to the provider ended: {}", causes(&error));
            }
            self.connection = None;
        }
    }
}
