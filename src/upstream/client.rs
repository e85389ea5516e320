//! One attempt at the provider: a request out, a response back. Retries are the caller's business.
//!
//! The pool is our own. It belongs to one core and one provider, so that finding a connection is a pop from a list,
//! and a connection comes back from the answer's own end; a pool for any number of hosts, with tasks that watch
//! for connections to come back, took a fifth of all instructions of a request.

use std::{
    collections::VecDeque,
    error::Error as StdError,
    fmt,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, Uri, uri::PathAndQuery};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::Full;
use hyper::{body::Incoming, client::conn::http2};
use tokio::sync::oneshot;

pub use super::dial::BuildError;
use super::{
    dial::{Connection, Dialer},
    headers::Headers,
    http1::{AnswerError, Head, Http1, Unanswered},
    options::Options,
};

/// Idle connections are closed before most servers would do it from their side: after this many rounds of the
/// sweeper at the latest, which are 55 seconds.
const IDLE_ROUNDS: u32 = 5;
const SWEEP_EVERY: Duration = Duration::from_secs(11);
const MAX_IDLE: usize = 512;
/// For a connection that is made although another one came back.
const PATIENCE: Duration = Duration::from_secs(30);
/// Parts of an answer that are read although nobody wants them.
const MOST_UNWANTED: usize = 8;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to the provider: {0}")]
    Connect(String),
    #[error("the provider did not answer within {0:?}")]
    Timeout(Duration),
    #[error("the provider broke the connection: {0}")]
    Broken(String),
}

/// A connection pool to one provider. Made per data-plane core: its connections live on that core's runtime.
pub struct Client {
    pool: Arc<Pool>,
    first_byte_timeout: Duration,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// # Errors
    /// When the provider's `ca_file` cannot be used.
    pub fn new(options: &Options) -> Result<Self, BuildError> {
        let pool = Pool {
            dialer: Dialer::new(options)?,
            base: options.base_url.clone(),
            host: host(&options.base_url),
            idle: Mutex::default(),
        };
        Ok(Self { pool: Arc::new(pool), first_byte_timeout: options.first_byte_timeout })
    }

    /// Sends one request and waits for the response's head. `path` is whole: see [`Options::path`].
    ///
    /// # Errors
    /// When there is no response: nothing of the provider's came back.
    pub async fn send(
        &self,
        method: Method,
        path: &PathAndQuery,
        headers: &impl Headers,
        body: &Bytes,
    ) -> Result<Box<Response<Answer>>, Error> {
        tokio::time::timeout(self.first_byte_timeout, self.request(method, path, headers, body))
            .await
            .unwrap_or(Err(Error::Timeout(self.first_byte_timeout)))
    }

    /// As [`Client::send`], for those who watch the time themselves.
    ///
    /// # Errors
    /// As [`Client::send`], but for [`Error::Timeout`].
    pub async fn request(
        &self,
        method: Method,
        path: &PathAndQuery,
        headers: &impl Headers,
        body: &Bytes,
    ) -> Result<Box<Response<Answer>>, Error> {
        self.pool.request(method, path, headers, body).await
    }
}

/// An error with what caused it, in one line.
pub fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

/// What a server is told of whom it is asked as: the port only where it is not the scheme's own.
fn host(base: &Uri) -> Option<HeaderValue> {
    let authority = base.authority()?;
    let usual = if base.scheme_str() == Some("https") { 443 } else { 80 };
    let text = match authority.port_u16().filter(|port| *port != usual) {
        Some(port) => format!("{}:{port}", authority.host()),
        None => authority.host().to_owned(),
    };
    HeaderValue::try_from(text).ok()
}

struct Pool {
    dialer: Dialer,
    base: Uri,
    host: Option<HeaderValue>,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    /// With the sweeper's round in which they came back; the last one goes out first.
    http1: Vec<(Box<Http1>, u32)>,
    /// With the round in which it was used last.
    http2: Option<(http2::SendRequest<Full<Bytes>>, u32)>,
    /// Requests that are waiting for a connection of their own and would take any other.
    waiting: VecDeque<oneshot::Sender<Connection>>,
    round: u32,
    is_swept: bool,
}

impl Pool {
    async fn request(
        self: &Arc<Self>,
        method: Method,
        path: &PathAndQuery,
        headers: &impl Headers,
        body: &Bytes,
    ) -> Result<Box<Response<Answer>>, Error> {
        loop {
            let idle = self.idle().take();
            let (connection, is_used) = match idle {
                Some(connection) => (connection, true),
                None => self.connect().await?,
            };
            // One that was closed while it was idle is passed over where nothing has gone out.
            match connection {
                Connection::Http1(mut http1) => {
                    let head = Head { method: &method, path, host: self.host.as_ref(), headers };
                    match http1.send(&head, body).await {
                        Ok(response) => return Ok(Box::new(response.map(|()| Answer::http1(http1, self)))),
                        Err(Unanswered { is_unsent: true, .. }) if is_used => {}
                        Err(Unanswered { error, .. }) => return Err(Error::Broken(causes(&error))),
                    }
                }
                Connection::Http2(mut sender) => {
                    let mut request = Request::new(Full::new(body.clone()));
                    *request.method_mut() = method.clone();
                    *request.uri_mut() = self.absolute(path);
                    *request.headers_mut() = headers.to_map();
                    match sender.try_send_request(request).await {
                        Ok(response) => return Ok(Box::new(response.map(Answer::Http2))),
                        Err(mut error) => {
                            if !is_used || error.take_message().is_none() {
                                return Err(Error::Broken(causes(error.error())));
                            }
                        }
                    }
                }
            }
        }
    }

    fn absolute(&self, path: &PathAndQuery) -> Uri {
        let mut parts = self.base.clone().into_parts();
        parts.path_and_query = Some(path.clone());
        Uri::from_parts(parts).unwrap_or_else(|_| Uri::from(path.clone()))
    }

    /// Makes a connection, or takes one that comes back meanwhile; also whether it was used before.
    async fn connect(self: &Arc<Self>) -> Result<(Connection, bool), Error> {
        let (back, mut comes_back) = oneshot::channel();
        {
            let mut idle = self.idle();
            // Of requests that were given up while they waited.
            idle.waiting.retain(|waiting| !waiting.is_closed());
            idle.waiting.push_back(back);
        }
        let mut dialing = Box::pin(self.dialer.clone().dial());
        tokio::select! {
            biased;
            Ok(connection) = &mut comes_back => {
                // Who is in such a hurry that one connection was not enough will need the other one as well.
                let pool = Arc::downgrade(self);
                tokio::spawn(async move {
                    let dialed = tokio::time::timeout(PATIENCE, dialing).await;
                    if let (Ok(Ok(connection)), Some(pool)) = (dialed, pool.upgrade()) {
                        pool.put(connection);
                    }
                });
                Ok((connection, true))
            }
            dialed = &mut dialing => {
                let connection = dialed?;
                if let Connection::Http2(sender) = &connection {
                    self.put(Connection::Http2(sender.clone()));
                }
                Ok((connection, false))
            }
        }
    }

    fn put(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle();
        idle.put(connection);
        if !idle.is_empty() && !std::mem::replace(&mut idle.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(self)));
        }
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Idle {
    fn is_empty(&self) -> bool {
        self.http1.is_empty() && self.http2.is_none()
    }

    fn take(&mut self) -> Option<Connection> {
        if let Some((sender, last)) = &mut self.http2 {
            if !sender.is_closed() {
                *last = self.round;
                return Some(Connection::Http2(sender.clone()));
            }
            self.http2 = None;
        }
        let (http1, _) = self.http1.pop()?;
        Some(Connection::Http1(http1))
    }

    fn put(&mut self, connection: Connection) {
        match connection {
            Connection::Http1(mut http1) => {
                http1.rest();
                while let Some(waiting) = self.waiting.pop_front() {
                    match waiting.send(Connection::Http1(http1)) {
                        Err(Connection::Http1(unwanted)) => http1 = unwanted,
                        _ => return,
                    }
                }
                if self.http1.len() < MAX_IDLE {
                    self.http1.push((http1, self.round));
                }
            }
            Connection::Http2(sender) => {
                for waiting in self.waiting.drain(..) {
                    // Whoever has gone does not need it.
                    let _gone = waiting.send(Connection::Http2(sender.clone()));
                }
                if self.http2.as_ref().is_none_or(|(sender, _)| sender.is_closed()) {
                    self.http2 = Some((sender, self.round));
                }
            }
        }
    }
}

/// Closes what has been idle for long, as long as there is anything.
async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.idle();
        idle.round = idle.round.wrapping_add(1);
        let round = idle.round;
        let is_fresh = |since: u32| round.wrapping_sub(since) < IDLE_ROUNDS;
        idle.http1.retain_mut(|(http1, since)| is_fresh(*since) && http1.is_open());
        // Requests under way on it go on: it ends with the last of them.
        idle.http2.take_if(|(http2, last)| !is_fresh(*last) || http2.is_closed());
        if idle.is_empty() {
            idle.is_swept = false;
            return;
        }
    }
}

/// An answer's body, which gives its connection back when it has ended. When it is dropped while more is to come, the
/// connection is closed, and the provider knows that nobody is listening any more.
pub enum Answer {
    Http1(Lease),
    Http2(Incoming),
}

/// A connection that belongs to one answer, until its body has ended, and then to the pool.
pub struct Lease {
    http1: Option<Box<Http1>>,
    pool: Arc<Pool>,
}

/// Why an answer broke off.
pub type BodyError = Box<dyn StdError + Send + Sync>;

impl Answer {
    fn http1(http1: Box<Http1>, pool: &Arc<Pool>) -> Self {
        let mut lease = Lease { http1: Some(http1), pool: pool.clone() };
        lease.give_back_at_end();
        Self::Http1(lease)
    }
}

impl Lease {
    fn give_back_at_end(&mut self) {
        let Some(http1) = self.http1.take_if(|http1| http1.has_ended()) else { return };
        // Otherwise it is closed: where the provider said so, or answered before all of the request was sent.
        if http1.is_ready() {
            self.pool.put(Connection::Http1(http1));
        }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, AnswerError>>> {
        let Some(http1) = &mut self.http1 else { return Poll::Ready(None) };
        let poll = http1.poll_frame(cx);
        match &poll {
            Poll::Ready(Some(Err(_))) => self.http1 = None,
            Poll::Ready(_) => self.give_back_at_end(),
            Poll::Pending => {}
        }
        poll
    }
}

/// Where the rest of an answer that is not wanted any more is here already, its connection goes on.
impl Drop for Lease {
    fn drop(&mut self) {
        let mut nobody = Context::from_waker(Waker::noop());
        for _ in 0..MOST_UNWANTED {
            if self.http1.is_none() || !matches!(self.poll_frame(&mut nobody), Poll::Ready(Some(Ok(_)))) {
                return;
            }
        }
    }
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Http1(lease) => {
                lease.poll_frame(cx).map(|part| part.map(|part| part.map(Frame::data).map_err(Into::into)))
            }
            Self::Http2(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(lease) => lease.http1.is_none(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(Lease { http1: None, .. }) => SizeHint::with_exact(0),
            Self::Http1(Lease { http1: Some(http1), .. }) => {
                http1.length().map(SizeHint::with_exact).unwrap_or_default()
            }
            Self::Http2(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
