//! From an address to a stream that Postgres's protocol can begin on: name, socket, and TLS where it is wanted.
//! Bytes are counted where they leave the process, under TLS.

use std::{
    convert::Infallible,
    future::{Ready, ready},
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpStream, UnixStream, lookup_host},
    time::Instant,
};
use tokio_postgres::tls::{ChannelBinding, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;

use super::{
    super::{
        tls,
        transport::{Error, ErrorKind, MAX_ANSWER, Traffic},
    },
    url::{Address, Encryption, Place},
};

/// Length 8, and the code that asks for TLS where a version would stand.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];
/// A hub that vanished without a word is noticed between calls, too.
const KEEPALIVE: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(super) struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    pub(super) fn read(&self) -> Traffic {
        Traffic { sent: self.sent.load(Ordering::Relaxed), received: self.received.load(Ordering::Relaxed) }
    }
}

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

struct Counted {
    inner: Box<dyn Io>,
    meter: Arc<Meter>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.meter.received.fetch_add((buf.filled().len() - before) as u64, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, bytes))?;
        self.meter.sent.fetch_add(written as u64, Ordering::Relaxed);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A stream on which the server is to speak Postgres's protocol next.
pub(super) struct Wire {
    inner: Box<dyn Io>,
    end_point: Option<Vec<u8>>,
    /// Until the first byte: a stranger's greeting, read as Postgres's, would be waited for as a message of a
    /// gigabyte.
    unheard: bool,
    /// Bytes that came since we said something: an answer, and whatever comes unasked.
    heard: usize,
}

impl Wire {
    fn new(inner: Box<dyn Io>, end_point: Option<Vec<u8>>) -> Self {
        Self { inner, end_point, unheard: true, heard: 0 }
    }
}

/// Why nothing more is read, for who asks why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("what answers does not speak Postgres's protocol")]
    NotPostgres,
    #[error("too much")]
    TooMuch,
}

impl Unreadable {
    pub(super) fn error(&self) -> Error {
        match self {
            Self::NotPostgres => Error::new(ErrorKind::Garbage, self.to_string()),
            Self::TooMuch => Error::too_long(),
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        if self.unheard
            && let Some(first) = buf.filled().get(before)
        {
            self.unheard = false;
            // Authentication, an error, a notice, or the protocol's version.
            if !matches!(first, b'R' | b'E' | b'N' | b'v') {
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Unreadable::NotPostgres)));
            }
        }
        // All of a message, and all rows, are kept until the last has come.
        self.heard += buf.filled().len() - before;
        if self.heard > MAX_ANSWER {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, Unreadable::TooMuch)));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.heard = 0;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

impl TlsStream for Wire {
    fn channel_binding(&self) -> ChannelBinding {
        match &self.end_point {
            Some(digest) => ChannelBinding::tls_server_end_point(digest.clone()),
            None => ChannelBinding::none(),
        }
    }
}

/// For tokio-postgres, which would make the handshake itself, and could then only say that it failed.
pub(super) struct Handshaken;

impl TlsConnect<Wire> for Handshaken {
    type Stream = Wire;
    type Error = Infallible;
    type Future = Ready<Result<Wire, Infallible>>;

    fn connect(self, wire: Wire) -> Self::Future {
        ready(Ok(wire))
    }
}

/// # Errors
/// When there is no such stream. Takes as long as the network does: the caller sets the limit, `deadline` only
/// divides it among a name's addresses.
pub(super) async fn dial(
    address: &Address,
    config: &Arc<ClientConfig>,
    meter: &Arc<Meter>,
    deadline: Instant,
) -> Result<Wire, Error> {
    let (inner, host): (Box<dyn Io>, &str) = match &address.place {
        Place::Unix(socket) => match UnixStream::connect(socket).await {
            Ok(stream) => (Box::new(stream), ""),
            Err(error) => return Err(unreachable(format!("no connection to {}: {error}", socket.display()))),
        },
        Place::Tcp { host, port } => (Box::new(tcp(host, *port, deadline).await?), host),
    };
    let mut stream = Counted { inner, meter: meter.clone() };
    if address.encryption == Encryption::Never {
        return Ok(Wire::new(Box::new(stream), None));
    }
    match ask_for_tls(&mut stream).await.map_err(|error| lost(host, &error))? {
        b'S' => secure(stream, config, host).await,
        b'N' if address.encryption == Encryption::Always => Err(Error::new(
            ErrorKind::Settings,
            format!(
                "{host} offers no TLS; DATABASE_URL needs sslmode=disable if the way to it is safe without"
            ),
        )),
        b'N' => Ok(Wire::new(Box::new(stream), None)),
        // Too busy, or too strict, for even this.
        b'E' => Err(Error::new(ErrorKind::Busy, format!("{host} refuses the connection before any login"))),
        _ => Err(Error::new(ErrorKind::Garbage, format!("{host} does not speak Postgres's protocol"))),
    }
}

async fn tcp(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, Error> {
    let addresses: Vec<SocketAddr> = match lookup_host((host, port)).await {
        Ok(addresses) => addresses.collect(),
        Err(error) => return Err(unreachable(format!("the name {host} has no address: {error}"))),
    };
    let mut last = String::from("its name has no address");
    for (index, address) in addresses.iter().enumerate() {
        // An address behind which everything is swallowed must not take the time of those after it.
        let left = deadline.saturating_duration_since(Instant::now());
        let share = left / u32::try_from(addresses.len() - index).unwrap_or(1);
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                let socket = SockRef::from(&stream);
                // Both are matters of comfort; a system that refuses them still connects.
                let _ = socket.set_tcp_nodelay(true);
                let _ = socket
                    .set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE));
                return Ok(stream);
            }
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => "it does not answer".clone_into(&mut last),
        }
    }
    let mut detail = format!("no connection to {host} port {port}: {last}");
    if !addresses.is_empty()
        && addresses.iter().all(|address| address.is_ipv6() && !address.ip().is_loopback())
    {
        detail += "; it has only IPv6 addresses, for which this machine needs IPv6 (Supabase's pooler has IPv4 too)";
    }
    Err(unreachable(detail))
}

async fn ask_for_tls(stream: &mut Counted) -> io::Result<u8> {
    stream.write_all(&SSL_REQUEST).await?;
    stream.flush().await?;
    // Exactly one byte: what else came unencrypted must not be taken for a part of what follows (CVE-2021-23222).
    stream.read_u8().await
}

async fn secure(stream: Counted, config: &Arc<ClientConfig>, host: &str) -> Result<Wire, Error> {
    let name = ServerName::try_from(host.to_owned()).map_err(|_| {
        Error::new(ErrorKind::Settings, format!("DATABASE_URL's host {host} cannot be a certificate's name"))
    })?;
    let stream = TlsConnector::from(config.clone())
        .connect(name, stream)
        .await
        .map_err(|error| tls::explain(&error, host).unwrap_or_else(|| lost(host, &error)))?;
    let end_point = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(|chain| chain.first())
        .and_then(|certificate| tls::end_point(certificate));
    Ok(Wire::new(Box::new(stream), end_point))
}

fn unreachable(detail: String) -> Error {
    Error::new(ErrorKind::Unreachable, detail)
}

fn lost(host: &str, error: &io::Error) -> Error {
    unreachable(format!("{host} broke the connection before any login: {error}"))
}
