//! To the hub over its REST API: PostgREST, as Supabase runs it.
//!
//! A call is one POST to `rpc/<function>`, one transaction on the other side. Answers may come gzipped; requests
//! do not, since PostgREST reads none.

mod answer;

use std::{
    error::Error as StdError,
    fmt,
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use futures_util::{FutureExt, future::BoxFuture};
use reqwest::{
    Client, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
    redirect,
};
use serde::Deserialize;
use tokio::time::Instant;

use super::{
    tls::{self, Check, Roots},
    transport::{Error, ErrorKind, MAX_ANSWER, Reply, Traffic, Transport},
    wire::Function,
};
use crate::model::Secret;

/// Of an answer that is an error: of a firewall's page the beginning tells enough.
const MAX_ERROR: usize = 64 << 10;
/// A status line, and the separators of a header line.
const STATUS_LINE: usize = 17;
const HEADER_SEPARATORS: usize = 4;

#[derive(Clone, Debug)]
pub struct Options {
    /// `https://<project>.supabase.co/rest/v1`, or wherever a PostgREST listens.
    pub base: String,
    pub service_key: Secret,
    pub connect_timeout: Duration,
    /// All of a call: connecting if need be, sending, the hub's work, and the answer.
    pub call_timeout: Duration,
}

impl Options {
    pub fn new(base: impl Into<String>, service_key: Secret) -> Self {
        Self {
            base: base.into(),
            service_key,
            connect_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_millis(7_500),
        }
    }
}

pub struct Rest {
    base: Url,
    http: Client,
    headers: HeaderMap,
    call_timeout: Duration,
    warnings: Vec<String>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl fmt::Debug for Rest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rest").field("target", &self.target()).finish_non_exhaustive()
    }
}

impl Rest {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// Of kind `Settings`, when the address or the key cannot be used.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let base = base_url(&options.base)?;
        let headers = headers(&options.service_key)?;
        let mut tls = tls::client_config(Check::ChainAndName, &Roots::Public)?;
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let mut http = Client::builder()
            .user_agent(concat!("keytide/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(options.connect_timeout)
            .tls_backend_preconfigured(tls)
            // A redirect would carry the key to where nobody has sent it.
            .redirect(redirect::Policy::none());
        let mut warnings = Vec::new();
        if is_loopback(&base) {
            http = http.no_proxy();
        } else if base.scheme() == "http" {
            warnings
                .push("the hub's REST address is not https: the service key travels in the open".to_owned());
        }
        let http = http.build().map_err(|error| settings(format!("no HTTP client: {error}")))?;
        Ok(Self {
            base,
            http,
            headers,
            call_timeout: options.call_timeout,
            warnings,
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
        })
    }

    /// What of the settings deserves a word, though they can be used.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    async fn post(&self, function: Function, request: &str) -> Result<Reply, Error> {
        let mut url = self.base.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(["rpc", function.name()]);
        }
        let body = format!("{{\"request\":{request}}}");
        // "POST ", the path, " HTTP/1.1" and the blank line after the headers.
        let head = url.path().len() + 18 + size(&self.headers);
        self.sent.fetch_add((head + body.len()) as u64, Ordering::Relaxed);
        let sent = Instant::now();
        let mut response = self
            .http
            .post(url)
            .headers(self.headers.clone())
            .body(body)
            .send()
            .await
            .map_err(|error| self.broken(&error))?;
        let head = STATUS_LINE + size(response.headers());
        self.received.fetch_add(head as u64, Ordering::Relaxed);
        let status = response.status();
        // As it comes and as it is.
        let limit = if status.is_success() { MAX_ANSWER } else { MAX_ERROR };
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.broken(&error))? {
            self.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            bytes.extend_from_slice(&chunk);
            if bytes.len() > limit {
                if status.is_success() {
                    return Err(Error::too_long());
                }
                break;
            }
        }
        let text = answer::decode(response.headers(), bytes, limit);
        if !status.is_success() {
            return Err(answer::error(status, response.headers(), &text.unwrap_or_default()));
        }
        let body = answer::value(text?, function)?;
        Ok(Reply { body, took: sent.elapsed() })
    }

    /// reqwest's errors name the address, which is no secret; the key is in none of them.
    fn broken(&self, error: &reqwest::Error) -> Error {
        let host = self.base.host_str().unwrap_or_default();
        if let Some(error) = tls::explain(error, host) {
            return error;
        }
        let root = root(error);
        if root.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse) || error.is_decode() {
            return garbage(&format!("{host} does not answer in proper HTTP"));
        }
        let what = if error.is_connect() && error.is_timeout() {
            format!("no connection to {host}: it does not answer")
        } else if error.is_connect() {
            format!("no connection to {host}: {root}")
        } else {
            format!("the connection to {host} broke: {root}")
        };
        Error::new(ErrorKind::Unreachable, what)
    }
}

impl Transport for Rest {
    fn call<'a>(&'a self, function: Function, request: &'a str) -> BoxFuture<'a, Result<Reply, Error>> {
        async move {
            match tokio::time::timeout(self.call_timeout, self.post(function, request)).await {
                Ok(result) => result,
                Err(_) => Err(Error::late(function, self.call_timeout)),
            }
        }
        .boxed()
    }

    fn target(&self) -> String {
        self.base.as_str().trim_end_matches('/').to_owned()
    }

    fn kind(&self) -> &'static str {
        "rest"
    }

    fn traffic(&self) -> Traffic {
        Traffic { sent: self.sent.load(Ordering::Relaxed), received: self.received.load(Ordering::Relaxed) }
    }
}

fn settings(detail: impl Into<String>) -> Error {
    Error::new(ErrorKind::Settings, detail.into())
}

fn garbage(detail: &str) -> Error {
    Error::new(ErrorKind::Garbage, detail.to_owned())
}

fn root<'a>(error: &'a (dyn StdError + 'static)) -> &'a (dyn StdError + 'static) {
    let mut error = error;
    while let Some(cause) = error.source() {
        error = cause;
    }
    error
}

/// As text, one line each: HTTP/2 packs them, and tells nobody how well.
fn size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_SEPARATORS).sum()
}

fn base_url(text: &str) -> Result<Url, Error> {
    let bad = || settings("the REST address must be like https://project.supabase.co/rest/v1");
    let mut url: Url = text.trim().parse().map_err(|_| bad())?;
    let Some(host) = url.host_str().filter(|_| matches!(url.scheme(), "http" | "https")) else {
        return Err(bad());
    };
    if !url.username().is_empty() || url.password().is_some() || url.query().is_some() {
        return Err(settings("the REST address must not hold a user, a password or parameters"));
    }
    // The project's own address is easily taken for its API's.
    if host.ends_with(".supabase.co") && matches!(url.path(), "" | "/") {
        url.set_path("/rest/v1");
    }
    Ok(url)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn headers(key: &Secret) -> Result<HeaderMap, Error> {
    let text = key.expose().trim();
    if text.starts_with("sb_publishable_") || claims_to_be_anonymous(text) {
        return Err(settings(
            "the service key is the one for anonymous visitors; keytide needs the service role's (secret) key",
        ));
    }
    let secret = |text: &str| {
        let mut value = HeaderValue::from_str(text)
            .map_err(|_| settings("the service key has characters that no key has"))?;
        value.set_sensitive(true);
        Ok(value)
    };
    let mut headers = HeaderMap::new();
    headers.insert(HeaderName::from_static("apikey"), secret(text)?);
    // Supabase's newer keys are no tokens, and are refused where a token belongs.
    if !text.starts_with("sb_") {
        headers.insert(header::AUTHORIZATION, secret(&format!("Bearer {text}"))?);
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    // An API may show several schemas, of which another is the first.
    headers.insert(HeaderName::from_static("content-profile"), HeaderValue::from_static("public"));
    Ok(headers)
}

/// Supabase's older keys are JSON Web Tokens that say whose they are, and both kinds look the same.
fn claims_to_be_anonymous(key: &str) -> bool {
    #[derive(Deserialize)]
    struct Claims {
        role: String,
    }
    let claims = key
        .split('.')
        .nth(1)
        .and_then(|payload| BASE64_URL_SAFE_NO_PAD.decode(payload).ok())
        .and_then(|payload| serde_json::from_slice::<Claims>(&payload).ok());
    claims.is_some_and(|claims| claims.role == "anon")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(base: &str, key: &str) -> Result<Rest, Error> {
        Rest::new(&Options::new(base, Secret::new(key)))
    }

    fn token(claims: &str) -> String {
        format!("eyJhbGciOiJIUzI1NiJ9.{}.signature", BASE64_URL_SAFE_NO_PAD.encode(claims))
    }

    #[test]
    fn tokens_go_in_two_headers_and_secret_keys_in_one() {
        let legacy = headers(&Secret::new(token("{\"role\":\"service_role\"}"))).unwrap();
        assert!(legacy.contains_key("apikey") && legacy.contains_key("authorization"));
        let modern = headers(&Secret::new("sb_secret_0123456789abcdef")).unwrap();
        assert!(modern.contains_key("apikey") && !modern.contains_key("authorization"));
        for headers in [&legacy, &modern] {
            assert!(!format!("{headers:?}").contains("0123456789"));
        }
    }

    #[test]
    fn keys_that_cannot_work_are_refused_in_words() {
        let anon = token("{\"iss\":\"supabase\",\"role\":\"anon\"}");
        for key in [anon.as_str(), "sb_publishable_0123456789abcdef", "two\nlines-0123456789"] {
            let error = new("https://p.supabase.co/rest/v1", key).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Settings);
            assert!(!error.to_string().contains(key) && !error.to_string().contains("0123456789"), "{error}");
        }
    }

    #[test]
    fn addresses_are_completed_and_refused() {
        for (written, target) in [
            ("https://p.supabase.co", "https://p.supabase.co/rest/v1"),
            ("https://p.supabase.co/rest/v1/", "https://p.supabase.co/rest/v1"),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000"),
        ] {
            let rest = new(written, "sb_secret_0123456789abcdef").unwrap();
            assert_eq!(rest.target(), target);
            assert!(rest.warnings().is_empty());
        }
        assert_eq!(new("http://postgrest.lan:3000", "sb_secret_x").unwrap().warnings().len(), 1);
        for written in
            ["postgres://h/db", "nothing", "https://u:hunter2@h/rest", "https://h/rest?apikey=hunter2"]
        {
            let error = new(written, "sb_secret_x").unwrap_err();
            assert_eq!(error.kind, ErrorKind::Settings, "{written}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }
}
