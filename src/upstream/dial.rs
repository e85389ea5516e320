//! Connections to one provider: straight or through a proxy, with or without TLS.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::{HeaderValue, Uri};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::connect::{
        Connection as _, HttpConnector,
        proxy::{SocksV5, Tunnel},
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::net::TcpStream;
use tower_service::Service;
use tracing::debug;

use super::{
    client::{Error, causes},
    http1::Http1,
    late::{LateIo, LateWrites},
    options::{Login, Options, Proxy},
};

type BoxError = Box<dyn StdError + Send + Sync>;

/// All requests of a core may share one HTTP/2 connection. When it is lost without a word, no request on it is
/// answered, and the system notices only after a quarter of an hour.
const H2_PING: Duration = Duration::from_secs(20);
const H2_PONG: Duration = Duration::from_secs(10);

/// Why no connection can ever be made with these options.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read ca_file {path}: {why}; it must hold PEM certificates")]
    CaFile { path: String, why: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// A connection that requests can be sent on: over HTTP/1 one at a time, over HTTP/2 any number.
pub(super) enum Connection {
    Http1(Box<Http1>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// Makes connections to one provider.
#[derive(Clone)]
pub(super) struct Dialer {
    connector: HttpsConnector<Route>,
    to: Uri,
}

impl Dialer {
    pub(super) fn new(options: &Options) -> Result<Self, BuildError> {
        let tls = tls_config(options)?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = if options.http2 {
            connector.enable_http1().enable_http2().wrap_connector(Route::new(options))
        } else {
            connector.enable_http1().wrap_connector(Route::new(options))
        };
        Ok(Self { connector, to: options.base_url.clone() })
    }

    /// Makes one. Over HTTP/2 a task drives it, which ends with it; over HTTP/1 whoever uses it does.
    pub(super) async fn dial(mut self) -> Result<Connection, Error> {
        let refused = |error: BoxError| Error::Connect(causes(&*error));
        let broken = |error: hyper::Error| Error::Broken(causes(&error));
        std::future::poll_fn(|cx| self.connector.poll_ready(cx)).await.map_err(refused)?;
        let io = self.connector.call(self.to).await.map_err(refused)?;
        if io.connected().is_negotiated_h2() {
            let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .adaptive_window(true)
                .keep_alive_interval(H2_PING)
                .keep_alive_timeout(H2_PONG)
                .handshake(io)
                .await
                .map_err(broken)?;
            tokio::spawn(async move {
                // Whoever has sent something over it is told of its errors: here they only show why it ended.
                if let Err(error) = connection.await {
                    debug!("a connection to the provider ended: {}", causes(&error));
                }
            });
            return Ok(Connection::Http2(sender));
        }
        Ok(Connection::Http1(Box::new(Http1::new(io))))
    }
}

fn tls_config(options: &Options) -> Result<rustls::ClientConfig, BuildError> {
    let mut roots = rustls::RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.to_vec() };
    if let Some(path) = &options.ca_file {
        let fail = |why: &dyn fmt::Display| BuildError::CaFile {
            path: path.display().to_string(),
            why: why.to_string(),
        };
        let certificates = CertificateDer::pem_file_iter(path).map_err(|why| fail(&why))?;
        let mut found = 0;
        for certificate in certificates {
            let certificate = certificate.map_err(|why| fail(&why))?;
            roots.add(certificate).map_err(|why| fail(&why))?;
            found += 1;
        }
        if found == 0 {
            return Err(fail(&"no certificate in it"));
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|why| BuildError::Tls(why.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}

/// The way to the provider: straight, or through a proxy.
#[derive(Clone)]
struct Route {
    way: Way,
    /// Started with the first connection, on the runtime that it lives on.
    late: Arc<OnceLock<LateWrites>>,
}

#[derive(Clone)]
enum Way {
    Direct(HttpConnector),
    Http(Tunnel<HttpConnector>),
    Socks(SocksV5<HttpConnector>),
}

impl Route {
    fn new(options: &Options) -> Self {
        let mut connector = HttpConnector::new();
        // The TLS layer above wants to see https URIs pass through.
        connector.enforce_http(false);
        // Without it small writes wait for acknowledgements, and streams stall for 40 ms.
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(options.connect_timeout));
        connector.set_keepalive(Some(Duration::from_secs(60)));
        let way = match &options.proxy {
            None => Way::Direct(connector),
            Some(Proxy::Http { uri, login }) => {
                let tunnel = Tunnel::new(uri.clone(), connector);
                Way::Http(match login.as_ref().and_then(basic_auth) {
                    Some(value) => tunnel.with_auth(value),
                    None => tunnel,
                })
            }
            Some(Proxy::Socks5 { uri, login, local_dns }) => {
                let socks = SocksV5::new(uri.clone(), connector).local_dns(*local_dns);
                Way::Socks(match login {
                    Some(login) => socks.with_auth(login.user.clone(), login.password.expose().to_owned()),
                    None => socks,
                })
            }
        };
        Self { way, late: Arc::default() }
    }
}

fn basic_auth(login: &Login) -> Option<HeaderValue> {
    let plain = format!("{}:{}", login.user, login.password.expose());
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(plain))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Service<Uri> for Route {
    type Response = LateIo;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match &mut self.way {
            Way::Direct(connector) => connector.poll_ready(cx).map_err(Into::into),
            Way::Http(connector) => connector.poll_ready(cx).map_err(Into::into),
            Way::Socks(connector) => connector.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let late = self.late.clone();
        match &mut self.way {
            Way::Direct(connector) => Box::pin(attached(connector.call(uri), late)),
            Way::Http(connector) => Box::pin(attached(connector.call(uri), late)),
            Way::Socks(connector) => Box::pin(attached(connector.call(uri), late)),
        }
    }
}

async fn attached<E: Into<BoxError>>(
    connecting: impl Future<Output = Result<TokioIo<TcpStream>, E>>,
    late: Arc<OnceLock<LateWrites>>,
) -> Result<LateIo, BoxError> {
    let stream = connecting.await.map_err(Into::into)?.into_inner();
    Ok(late.get_or_init(LateWrites::start).attach(stream))
}
