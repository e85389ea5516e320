//! One attempt at the provider: a request out, a response back. Retries are the caller's business.

use std::{
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use base64::prelude::{BASE64_STANDARD, Engine};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Uri, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::{
        self,
        connect::{
            HttpConnector,
            proxy::{SocksV5, Tunnel},
        },
    },
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::net::TcpStream;
use tower_service::Service;

use super::options::{Login, Options, Proxy};

type BoxError = Box<dyn StdError + Send + Sync>;

/// Idle upstream connections are closed before most servers would do it from their side.
const IDLE_CONNECTION: Duration = Duration::from_secs(55);
const MAX_IDLE_PER_HOST: usize = 512;
/// All requests of a core may share one HTTP/2 connection. When it is lost without a word, no request on it is
/// answered, and the system notices only after a quarter of an hour.
const H2_PING: Duration = Duration::from_secs(20);
const H2_PONG: Duration = Duration::from_secs(10);

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

/// Why a client cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error("cannot read ca_file {path}: {why}; it must hold PEM certificates")]
    CaFile { path: String, why: String },
    #[error("TLS cannot be set up: {0}")]
    Tls(String),
}

/// A connection pool to one provider. Made per data-plane core: its connections live on that core's runtime.
pub struct Client {
    inner: legacy::Client<HttpsConnector<Route>, Full<Bytes>>,
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
        let tls = tls_config(options)?;
        let connector = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http();
        let connector = if options.http2 {
            connector.enable_http1().enable_http2().wrap_connector(Route::new(options))
        } else {
            connector.enable_http1().wrap_connector(Route::new(options))
        };
        let inner = legacy::Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(MAX_IDLE_PER_HOST)
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .http2_adaptive_window(true)
            .http2_keep_alive_interval(H2_PING)
            .http2_keep_alive_timeout(H2_PONG)
            .build(connector);
        Ok(Self { inner, first_byte_timeout: options.first_byte_timeout })
    }

    /// Sends one request and waits for the response's head.
    ///
    /// # Errors
    /// When there is no response: nothing of the provider's came back.
    pub async fn send(
        &self,
        method: Method,
        uri: Uri,
        headers: HeaderMap,
        body: Bytes,
    ) -> Result<Response<Incoming>, Error> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        match tokio::time::timeout(self.first_byte_timeout, self.inner.request(request)).await {
            Err(_) => Err(Error::Timeout(self.first_byte_timeout)),
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) if error.is_connect() => Err(Error::Connect(causes(&error))),
            Ok(Err(error)) => Err(Error::Broken(causes(&error))),
        }
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
enum Route {
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
        match &options.proxy {
            None => Self::Direct(connector),
            Some(Proxy::Http { uri, login }) => {
                let tunnel = Tunnel::new(uri.clone(), connector);
                Self::Http(match login.as_ref().and_then(basic_auth) {
                    Some(value) => tunnel.with_auth(value),
                    None => tunnel,
                })
            }
            Some(Proxy::Socks5 { uri, login, local_dns }) => {
                let socks = SocksV5::new(uri.clone(), connector).local_dns(*local_dns);
                Self::Socks(match login {
                    Some(login) => socks.with_auth(login.user.clone(), login.password.expose().to_owned()),
                    None => socks,
                })
            }
        }
    }
}

fn basic_auth(login: &Login) -> Option<HeaderValue> {
    let plain = format!("{}:{}", login.user, login.password.expose());
    let mut value = HeaderValue::from_str(&format!("Basic {}", BASE64_STANDARD.encode(plain))).ok()?;
    value.set_sensitive(true);
    Some(value)
}

impl Service<Uri> for Route {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        match self {
            Self::Direct(connector) => connector.poll_ready(cx).map_err(Into::into),
            Self::Http(connector) => connector.poll_ready(cx).map_err(Into::into),
            Self::Socks(connector) => connector.poll_ready(cx).map_err(Into::into),
        }
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        match self {
            Self::Direct(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
            Self::Http(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
            Self::Socks(connector) => {
                let connecting = connector.call(uri);
                Box::pin(async move { connecting.await.map_err(Into::into) })
            }
        }
    }
}

/// The request's headers as the provider gets them: what the caller sent, without what is between the caller
/// and keytide, with the pooled key and the provider's configured headers.
pub fn request_headers(caller: &HeaderMap, options: &Options, credential: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(caller.len() + options.headers.len() + 3);
    let listed = connection_listed(caller);
    for (name, value) in caller {
        if is_hop_by_hop(name) || is_private(name) || listed.contains(name.as_str()) {
            continue;
        }
        headers.append(name.clone(), value.clone());
    }
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers
        .insert(header::USER_AGENT, HeaderValue::from_static(concat!("keytide/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &options.headers {
        headers.insert(name.clone(), value.clone());
    }
    headers.insert(options.auth_header.clone(), credential);
    headers
}

/// The response's headers as the caller gets them.
pub fn response_headers(upstream: &HeaderMap, into: &mut HeaderMap) {
    let listed = connection_listed(upstream);
    for (name, value) in upstream {
        if is_hop_by_hop(name)
            || name == header::SET_COOKIE
            || name == header::CONTENT_LENGTH
            || name == "x-request-id"
            || name.as_str().starts_with("access-control-")
            || is_about_origin(name)
            || listed.contains(name.as_str())
        {
            continue;
        }
        into.append(name.clone(), value.clone());
    }
}

/// Headers that `Connection` names belong to that connection too.
struct Listed<'a>(Option<&'a HeaderMap>);

fn connection_listed(headers: &HeaderMap) -> Listed<'_> {
    Listed(headers.contains_key(header::CONNECTION).then_some(headers))
}

impl Listed<'_> {
    fn contains(&self, name: &str) -> bool {
        self.0.is_some_and(|headers| {
            headers
                .get_all(header::CONNECTION)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .any(|listed| listed.trim().eq_ignore_ascii_case(name))
        })
    }
}

fn is_hop_by_hop(name: &header::HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// What a provider says of its own address, which callers would take for a word on ours.
fn is_about_origin(name: &header::HeaderName) -> bool {
    matches!(
        name.as_str(),
        "alt-svc"
            | "strict-transport-security"
            | "clear-site-data"
            | "nel"
            | "report-to"
            | "reporting-endpoints"
    )
}

/// What tells the provider who the caller is, or is keytide's own business.
fn is_private(name: &header::HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "authorization"
            | "x-api-key"
            | "api-key"
            | "cookie"
            | "forwarded"
            | "via"
            | "x-real-ip"
            | "true-client-ip"
            | "x-client-ip"
            | "origin"
            | "referer"
            | "content-length"
            | "expect"
            | "x-request-id"
    ) || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with("cf-")
        || name.as_str().starts_with("sec-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_belongs_to_the_caller_stays_here() {
        let options = Options {
            headers: vec![(header::HeaderName::from_static("x-title"), HeaderValue::from_static("mine"))],
            ..Options::default()
        };
        let caller = map(&[
            ("authorization", "Bearer sk-caller"),
            ("x-api-key", "sk-caller"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "yes"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "br"),
            ("user-agent", "OpenAI/Python"),
            ("x-title", "theirs"),
            ("anthropic-version", "2023-06-01"),
            ("content-type", "application/json"),
        ]);
        let sent = request_headers(&caller, &options, HeaderValue::from_static("Bearer pooled"));
        let mut names: Vec<_> = sent.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "accept-encoding",
                "anthropic-version",
                "authorization",
                "content-type",
                "user-agent",
                "x-title"
            ]
        );
        assert_eq!(sent["authorization"], "Bearer pooled");
        assert_eq!(sent["accept-encoding"], "identity");
        assert_eq!(sent["x-title"], "mine");
        assert!(sent["user-agent"].to_str().unwrap().starts_with("keytide/"));
    }

    #[test]
    fn what_belongs_to_the_provider_stays_there() {
        let mut headers = HeaderMap::new();
        response_headers(
            &map(&[
                ("content-type", "application/json"),
                ("connection", "close, x-hop"),
                ("x-hop", "1"),
                ("set-cookie", "session=1"),
                ("x-request-id", "theirs"),
                ("access-control-allow-origin", "https://elsewhere"),
                ("alt-svc", "h3=\":443\""),
                ("strict-transport-security", "max-age=31536000; includeSubDomains"),
                ("clear-site-data", "*"),
                ("nel", "{}"),
                ("report-to", "{}"),
                ("x-ratelimit-remaining", "3"),
            ]),
            &mut headers,
        );
        assert_eq!(headers, map(&[("content-type", "application/json"), ("x-ratelimit-remaining", "3")]));
    }
}
