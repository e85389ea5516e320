//! The data plane: one single-threaded runtime per core, each with its own connections to the providers, and
//! an acceptor that hands every new connection to the core with the fewest.
//!
//! Measured on bare forwarders, this shape passes a plain reverse proxy, while one shared multi-threaded
//! runtime stays a fifth below it.

use std::{
    borrow::Borrow,
    convert::Infallible,
    error::Error as StdError,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Context,
    thread::JoinHandle,
    time::Duration,
};

use http::Request;
use hyper::{body, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    task::coop::has_budget_remaining,
    time::Instant,
};
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};

use super::{
    Gateway, Incoming, LOOK_EVERY, Outgoing, Peer, RequestBody,
    io::{Activity, TimedIo},
    options::Options,
    timer::Spare,
    usual::{self, End},
};
use crate::{guard::Acquaintance, upstream::late::LateWrites};

/// Pending connections that the kernel keeps for us.
const BACKLOG: i32 = 4096;
/// After an accept that failed for lack of something (file descriptors, memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
const MAX_HEAD_BYTES: usize = 128 * 1024;
const MAX_H2_STREAMS: u32 = 256;
const H2_PING: Duration = Duration::from_secs(30);

/// Opens the listening socket.
///
/// # Errors
/// One sentence that names the address.
pub fn bind(address: SocketAddr) -> Result<TcpListener, String> {
    let open = || -> io::Result<TcpListener> {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM, Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!("{address} is in use by another program: stop it, or choose another [server] listen")
        }
        io::ErrorKind::PermissionDenied => {
            format!("{address} may not be opened: ports below 1024 need the right to do so")
        }
        _ => format!("cannot listen on {address}: {error}"),
    })
}

struct Worker {
    connections: mpsc::UnboundedSender<std::net::TcpStream>,
    /// Open connections, for the acceptor to compare.
    load: Arc<AtomicUsize>,
    thread: JoinHandle<()>,
}

/// The running data plane.
pub struct Workers {
    workers: Vec<Worker>,
    stop: watch::Sender<Option<Instant>>,
}

impl Workers {
    /// Starts `count` threads.
    ///
    /// # Errors
    /// When the system refuses a thread or a runtime.
    pub fn start(gateway: &Arc<Gateway>, options: &Options, count: usize) -> io::Result<Self> {
        let (stop, stopped) = watch::channel(None);
        let mut workers = Vec::with_capacity(count);
        for core in 0..count {
            let (sender, receiver) = mpsc::unbounded_channel();
            let load = Arc::new(AtomicUsize::new(0));
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = work(core, gateway.clone(), options.clone(), receiver, load.clone(), stopped.clone());
            let thread =
                std::thread::Builder::new().name(format!("keytide-core-{core}")).spawn(move || {
                    runtime.block_on(work);
                    // Not by dropping it, which would wait for every name that is still being resolved.
                    runtime.shutdown_background();
                })?;
            workers.push(Worker { connections: sender, load, thread });
        }
        Ok(Self { workers, stop })
    }

    /// Accepts until the future is dropped.
    pub async fn accept(&self, listener: &TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    if let Err(error) = self.hand_over(stream) {
                        debug!("a connection was lost before it was served: {error}");
                    }
                }
                Err(error) if is_about_one_connection(&error) => {}
                Err(error) => {
                    warn!("cannot accept connections for the moment: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn hand_over(&self, stream: TcpStream) -> io::Result<()> {
        // Without it small writes wait for acknowledgements, and streams stall for 40 ms.
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let least = self.workers.iter().min_by_key(|worker| worker.load.load(Ordering::Relaxed));
        if let Some(worker) = least {
            worker.load.fetch_add(1, Ordering::Relaxed);
            // A worker's receiver lives until the acceptor is gone.
            let _worker_is_there = worker.connections.send(stream);
        }
        Ok(())
    }

    /// Lets open requests end, for at most `patience`, and ends the threads. Blocks: call it where that is
    /// allowed.
    pub fn stop(self, patience: Duration) {
        self.stop.send_replace(Some(Instant::now() + patience));
        for worker in self.workers {
            drop(worker.connections);
            if worker.thread.join().is_err() {
                warn!("a data-plane thread had panicked");
            }
        }
    }
}

/// Ends when the data plane is told to stop, or nobody is left to tell it.
async fn told(stop: &mut watch::Receiver<Option<Instant>>) {
    let _either_way = stop.wait_for(Option::is_some).await.map(drop);
}

fn is_about_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

async fn work(
    core: usize,
    gateway: Arc<Gateway>,
    options: Options,
    mut connections: mpsc::UnboundedReceiver<std::net::TcpStream>,
    load: Arc<AtomicUsize>,
    mut stop: watch::Receiver<Option<Instant>>,
) {
    let tracker = TaskTracker::new();
    // A timer that comes before all others makes the runtime write to itself, in case that it sleeps. Those of requests
    // come after this one, so that none of them does.
    tokio::spawn(async {
        let mut tick = tokio::time::interval(LOOK_EVERY / 2);
        loop {
            tick.tick().await;
        }
    });
    let late = LateWrites::start();
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        // It would set two timers with each request: see `TimedIo`.
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(H2_PING)
        .max_concurrent_streams(MAX_H2_STREAMS)
        .max_header_list_size(MAX_HEAD_BYTES as u32);
    let builder = Arc::new(builder);
    loop {
        let stream = tokio::select! {
            stream = connections.recv() => match stream {
                Some(stream) => stream,
                None => break,
            },
            () = told(&mut stop) => break,
        };
        let stream = match TcpStream::from_std(stream) {
            Ok(stream) => stream,
            Err(error) => {
                debug!("a connection was lost before it was served: {error}");
                load.fetch_sub(1, Ordering::Relaxed);
                continue;
            }
        };
        let Ok(address) = stream.peer_addr().map(|peer| peer.ip()) else {
            // It is closed already.
            load.fetch_sub(1, Ordering::Relaxed);
            continue;
        };
        let activity = Arc::new(Activity::default());
        let io = TimedIo::new(late.attach(stream), activity.clone(), &options);
        let peer = Peer {
            gateway: gateway.clone(),
            core,
            address,
            known: Acquaintance::default(),
            timer: Spare::default(),
        };
        let (load, stop, builder) = (Load(load.clone()), Stop::new(stop.clone()), builder.clone());
        tracker.spawn(async move {
            let _load = load;
            if let Err(error) = serve(io, peer, activity, stop, &builder).await {
                debug!("a connection ended: {error}");
            }
        });
    }
    tracker.close();
    let deadline = stop.borrow().unwrap_or_else(Instant::now);
    if tokio::time::timeout_at(deadline, tracker.wait()).await.is_err() {
        warn!(core, open = tracker.len(), "cutting requests that did not end in time");
        // What they have said so far still goes out.
        tokio::task::yield_now().await;
    }
    // Returning drops the runtime, and with it every request that is still open: each counts itself.
}

async fn serve(
    io: TimedIo,
    peer: Peer,
    activity: Arc<Activity>,
    mut stop: Stop,
    builder: &auto::Builder<TokioExecutor>,
) -> Result<(), Box<dyn StdError + Send + Sync>> {
    let peer = Arc::new(peer);
    let mut io = TokioIo::new(io);
    let answer_usual = |request| answer(&peer, &activity, request);
    let (received, is_first) = match usual::serve(&mut io, &mut stop, answer_usual).await? {
        End::Over => return Ok(io.shutdown().await?),
        End::Unusual { received, is_first } => (received, is_first),
    };
    let mut io = io.into_inner();
    io.put_back(received);
    // Where HTTP/1 was spoken already, nothing may turn it into another protocol.
    let builder = if is_first { builder } else { &builder.clone().http1_only() };
    let service = service_fn(|request: Request<body::Incoming>| {
        let request = request.map(RequestBody::Arriving).into();
        let answered = answer(peer.clone(), activity.clone(), request);
        async move { Ok::<_, Infallible>(*answered.await) }
    });
    let mut connection = pin!(builder.serve_connection(io, service));
    let mut is_ending = false;
    poll_fn(|cx| {
        let polled = connection.as_mut().poll(cx);
        let ends = stop.is_told(cx) || activity.is_retired();
        if polled.is_pending() && ends && !std::mem::replace(&mut is_ending, true) {
            connection.as_mut().graceful_shutdown();
            return connection.as_mut().poll(cx);
        }
        polled
    })
    .await
}

/// A request is under way as soon as this is called.
fn answer(
    peer: impl Borrow<Arc<Peer>>,
    activity: impl Borrow<Arc<Activity>>,
    request: Box<Incoming>,
) -> impl Future<Output = Outgoing> {
    activity.borrow().request_started(request.head.version);
    let started = Started(Some(activity));
    async move {
        let peer = peer.borrow();
        let mut response = peer.gateway.handle(peer, request).await;
        started.goes_on_with(response.body_mut());
        response
    }
}

/// The signal to come to an end, as one connection's task hears it.
pub(super) struct Stop {
    signal: watch::Receiver<Option<Instant>>,
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_watched: bool,
    is_told: bool,
}

impl Stop {
    pub(super) fn new(signal: watch::Receiver<Option<Instant>>) -> Self {
        let mut watched = signal.clone();
        let told = Box::pin(async move { told(&mut watched).await });
        Self { signal, told, is_watched: false, is_told: false }
    }

    /// Whether it was given; if not, the task that asks is woken when it is. A connection asks several times with each
    /// request: the signal is looked for once, by its one task as ever after, and then when it is there.
    pub(super) fn is_told(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.is_told && (!self.is_watched || self.signal.has_changed().unwrap_or(true)) {
            self.is_told = self.told.as_mut().poll(cx).is_ready();
            // Who has had its turn is told to wait without being listened to: see tokio's `coop`.
            self.is_watched = has_budget_remaining();
        }
        self.is_told
    }
}

/// A request whose answer has not begun: from then on its body tells when it ends.
struct Started<A: Borrow<Arc<Activity>>>(Option<A>);

impl<A: Borrow<Arc<Activity>>> Started<A> {
    fn goes_on_with(mut self, body: &mut super::Body) {
        if let Some(activity) = self.0.take() {
            body.attach(activity.borrow().clone());
        }
    }
}

impl<A: Borrow<Arc<Activity>>> Drop for Started<A> {
    fn drop(&mut self) {
        if let Some(activity) = &self.0 {
            activity.borrow().request_ended();
        }
    }
}

struct Load(Arc<AtomicUsize>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
