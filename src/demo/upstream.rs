//! A loopback LLM provider that answers like the real ones, and fails like them on demand.
//!
//! It speaks OpenAI's, Anthropic's and Ollama's dialects over HTTP/1.1 and h2c. Answers, token counts and
//! failures follow from the prompt, the key and the seed alone, so a run can be repeated. Its [`Tally`] is kept
//! apart from anything keytide counts: it is the witness that keytide's books are checked against.
//!
//! What a request gets is decided in this order:
//! 1. a prompt that contains `[[NNN]]` (400 to 599) gets that status, whatever its key;
//! 2. no key: 401, while [`UpstreamOptions::require_auth`] is set;
//! 3. the key's own [`Behaviour`], else the one its prefix names (`good-`, `limited-`, `dead-`, `flaky-`,
//!    `quota-`), else the default one;
//! 4. where that means a proper answer: 404, 405 and 400 for requests that a provider would refuse too.

mod answer;
mod anthropic;
mod ask;
mod behaviour;
mod draft;
mod keys;
mod ollama;
mod openai;
mod responses;
mod route;
mod serve;
mod speech;
mod tally;

use std::{
    fmt,
    future::Future,
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hyper::{rt::Executor, service::service_fn};
use hyper_util::{rt::TokioIo, server::conn::auto};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use behaviour::{Behaviour, Reset, StatusReply};
pub use tally::{Count, Recorded, Tally, Tokens};

use crate::model::Clock;
use keys::Shared;

#[derive(Clone, Debug)]
pub struct UpstreamOptions {
    /// Where resets and creation times come from.
    pub clock: Clock,
    /// Other seeds give other texts, ids and flaky moments.
    pub seed: u64,
    /// Between two events of a stream.
    pub token_delay: Duration,
    /// How many pieces a streamed text comes in; texts have at least as many words.
    pub chunks: usize,
    pub require_auth: bool,
    /// Whether a key's prefix may choose its behaviour.
    pub prefixes: bool,
    /// What the model lists show.
    pub models: Vec<String>,
    /// Whether models outside the list are refused with 404.
    pub strict_models: bool,
    /// How many of the latest requests the tally keeps.
    pub keep_requests: usize,
    /// Larger request bodies get 413.
    pub max_body: usize,
}

impl Default for UpstreamOptions {
    fn default() -> Self {
        Self {
            clock: Clock::System,
            seed: 0,
            token_delay: Duration::ZERO,
            chunks: 8,
            require_auth: true,
            prefixes: true,
            models: ["demo-small", "demo-large", "demo/tools", "demo-embed"].map(str::to_owned).to_vec(),
            strict_models: false,
            keep_requests: 256,
            max_body: 64 << 20,
        }
    }
}

/// A running provider. Dropping it cuts every connection; its tally outlives it.
pub struct Upstream {
    addr: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    tasks: Tasks,
    /// Ends accepting, and each connection after the answers it is writing.
    closing: CancellationToken,
    /// Cuts the connections that are left.
    cut: CancellationToken,
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upstream").field("base_url", &self.base_url()).finish_non_exhaustive()
    }
}

impl Upstream {
    /// How long `stop` waits for answers that are being written.
    const STOP_GRACE: Duration = Duration::from_secs(2);

    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub async fn start(options: UpstreamOptions) -> io::Result<Self> {
        Self::start_on("http", options, |tcp| std::future::ready(Ok(tcp))).await
    }

    /// The same behind TLS, or whatever else `accept` makes of a connection; `base_url` then says `https`.
    ///
    /// # Errors
    /// When the port cannot be opened.
    pub async fn start_tls<A, F, S>(options: UpstreamOptions, accept: A) -> io::Result<Self>
    where
        A: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::start_on("https", options, accept).await
    }

    async fn start_on<A, F, S>(scheme: &'static str, options: UpstreamOptions, accept: A) -> io::Result<Self>
    where
        A: Fn(TcpStream) -> F + Send + Sync + 'static,
        F: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let upstream = Self {
            addr: listener.local_addr()?,
            scheme,
            shared: Arc::new(Shared::new(options)),
            tasks: Tasks(TaskTracker::new()),
            closing: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let connections = Connections {
            shared: upstream.shared.clone(),
            tasks: upstream.tasks.clone(),
            closing: upstream.closing.clone(),
            cut: upstream.cut.clone(),
        };
        let closing = upstream.closing.clone();
        upstream.tasks.0.spawn(async move {
            // Dropping this future closes the listener.
            closing.run_until_cancelled(accept_all(listener, accept, connections)).await;
        });
        Ok(upstream)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Scheme and authority, without a trailing slash. The `/v1` paths are also there under `/api/v1`.
    pub fn base_url(&self) -> String {
        format!("{}://{}", self.scheme, self.addr)
    }

    /// The tally stays readable after the provider has stopped.
    pub fn tally(&self) -> Arc<Tally> {
        self.shared.tally.clone()
    }

    /// Replaces what `key` gets from now on; its turn in a cycle and its rate window begin anew.
    pub fn set_behaviour(&self, key: impl Into<Box<str>>, behaviour: Behaviour) {
        self.shared.set_behaviour(key.into(), behaviour);
    }

    /// What keys get that have neither a behaviour of their own nor a prefix that names one.
    pub fn set_default(&self, behaviour: Behaviour) {
        self.shared.set_default(behaviour);
    }

    /// Stops listening, lets answers end for up to two seconds, then cuts what is left.
    pub async fn stop(self) {
        self.closing.cancel();
        self.tasks.0.close();
        if tokio::time::timeout(Self::STOP_GRACE, self.tasks.0.wait()).await.is_err() {
            self.cut.cancel();
            self.tasks.0.wait().await;
        }
    }

    /// Stops at once, in the middle of whatever is being written: a provider that dies.
    pub async fn kill(self) {
        self.closing.cancel();
        self.cut.cancel();
        self.tasks.0.close();
        self.tasks.0.wait().await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.closing.cancel();
        self.cut.cancel();
    }
}

/// Every task in one tracker, the streams of h2 connections included.
#[derive(Clone)]
struct Tasks(TaskTracker);

impl<F> Executor<F> for Tasks
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, future: F) {
        self.0.spawn(future);
    }
}

#[derive(Clone)]
struct Connections {
    shared: Arc<Shared>,
    tasks: Tasks,
    closing: CancellationToken,
    cut: CancellationToken,
}

async fn accept_all<A, F, S>(listener: TcpListener, accept: A, connections: Connections)
where
    A: Fn(TcpStream) -> F,
    F: Future<Output = io::Result<S>> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    loop {
        let tcp = match listener.accept().await {
            Ok((tcp, _)) => tcp,
            Err(error) => {
                // Out of descriptors, most likely: some will come back.
                tracing::debug!(%error, "the loopback provider could not accept a connection");
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        // Without it small stream events wait for the other side's delayed acknowledgement.
        if let Err(error) = tcp.set_nodelay(true) {
            tracing::debug!(%error, "the loopback provider could not set TCP_NODELAY");
        }
        let (handshake, connections) = (accept(tcp), connections.clone());
        let cut = connections.cut.clone();
        connections.tasks.clone().0.spawn(async move {
            cut.run_until_cancelled(async move {
                match handshake.await {
                    Ok(io) => connections.serve(io).await,
                    Err(error) => tracing::debug!(%error, "the loopback provider refused a connection"),
                }
            })
            .await;
        });
    }
}

impl Connections {
    async fn serve<S>(self, io: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let shared = self.shared;
        let service = service_fn(move |request| serve::serve(shared.clone(), request));
        let builder = auto::Builder::new(self.tasks);
        let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(io), service));
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.closing.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            // Broken connections are this provider's trade: hang-ups by callers and by itself.
            tracing::trace!(%error, "a connection to the loopback provider ended early");
        }
    }
}
