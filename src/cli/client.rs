//! A client of the admin API.

use std::{error::Error as StdError, io, time::Duration};

use reqwest::{Body, Method, RequestBuilder, Response, StatusCode, Url, header, redirect};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use super::{
    error::Error,
    remote::is_loopback,
    table::plain,
    view::{Key, KeyPage},
};
use crate::model::Secret;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two parts of an answer. A provider that does not answer holds a probe up for minutes.
const READ_TIMEOUT: Duration = Duration::from_secs(600);
/// The most that one page of keys may hold.
const PAGE: u64 = 1000;

pub(super) struct Client {
    http: reqwest::Client,
    base: Url,
    token: Option<Secret>,
    /// Why no token was found, when there is something to say about it.
    hint: Option<String>,
    provider: Option<String>,
}

/// An answer as it came, and as it was understood.
pub(super) struct Reply<T> {
    pub(super) text: String,
    pub(super) value: T,
}

impl<T> Reply<T> {
    /// In one line. Strings in JSON hold no bare line breaks, so only spacing is lost.
    pub(super) fn one_line(&self) -> String {
        self.text.replace(['\n', '\r'], "")
    }
}

#[derive(Deserialize)]
struct Envelope {
    error: Detail,
}

#[derive(Deserialize)]
struct Detail {
    message: String,
    #[serde(default)]
    code: Option<String>,
}

impl Client {
    pub(super) fn new(base: Url, token: Option<Secret>, hint: Option<String>) -> Result<Self, Error> {
        // Only the first call in a process takes effect, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("keytide/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            // A redirect would carry the token to where nobody has sent it.
            .redirect(redirect::Policy::none());
        if is_loopback(&base) {
            builder = builder.no_proxy();
        }
        if base.scheme() == "http" {
            // A machine without certificates can still talk to itself.
            builder = builder.tls_certs_only([]);
        }
        let http = builder
            .build()
            .map_err(|error| Error::failed(format!("cannot set up the connection: {}", root(&error))))?;
        Ok(Self { http, base, token, hint, provider: None })
    }

    /// Every request after this one names the provider, if there is one.
    pub(super) fn for_provider(mut self, provider: Option<&str>) -> Self {
        self.provider = provider.map(str::to_owned);
        self
    }

    /// For what belongs to no provider.
    pub(super) fn for_none(&self) -> Self {
        let Self { http, base, token, hint, .. } = self;
        let (http, base, token, hint) = (http.clone(), base.clone(), token.clone(), hint.clone());
        Self { http, base, token, hint, provider: None }
    }

    pub(super) fn base(&self) -> &Url {
        &self.base
    }

    /// The server's address as people write it.
    pub(super) fn shown(&self) -> &str {
        self.base.as_str().trim_end_matches('/')
    }

    pub(super) fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Begins a request to a path under the base, like "admin/stats".
    pub(super) fn request(&self, method: Method, path: &str, query: &[(&str, &str)]) -> RequestBuilder {
        let mut url = self.base.clone();
        url.set_path(&format!("{}/{path}", self.base.path().trim_end_matches('/')));
        let named = self.provider.as_deref().map(|name| ("provider", name));
        let pairs: Vec<_> = named.into_iter().chain(query.iter().copied()).collect();
        if !pairs.is_empty() {
            url.query_pairs_mut().extend_pairs(pairs);
        }
        let request = self.http.request(method, url);
        match &self.token {
            Some(token) => request.bearer_auth(token.expose()),
            None => request,
        }
    }

    /// Sends a request and returns a successful response's head.
    pub(super) async fn open(&self, request: RequestBuilder) -> Result<Response, Error> {
        let response = request.send().await.map_err(|error| self.transport(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let text = response.text().await.unwrap_or_default();
        Err(self.refusal(status, &text))
    }

    pub(super) async fn send<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<Reply<T>, Error> {
        let response = self.open(request).await?;
        let text = response.text().await.map_err(|error| self.transport(&error))?;
        let value = serde_json::from_str(&text).map_err(|_| self.not_ours("not as keytide does"))?;
        Ok(Reply { text: text.trim_end().to_owned(), value })
    }

    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Reply<T>, Error> {
        self.send(self.request(Method::GET, path, query)).await
    }

    pub(super) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Reply<T>, Error> {
        self.send(self.request(Method::POST, path, &[]).json(body)).await
    }

    pub(super) async fn patch<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Reply<T>, Error> {
        self.send(self.request(Method::PATCH, path, &[]).json(body)).await
    }

    pub(super) async fn delete<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &Value,
    ) -> Result<Reply<T>, Error> {
        self.send(self.request(Method::DELETE, path, &[]).json(body)).await
    }

    /// All keys that `query` finds, page by page.
    pub(super) async fn all_keys(&self, query: &[(&str, &str)]) -> Result<Vec<Key>, Error> {
        let mut keys = Vec::new();
        let size = PAGE.to_string();
        for page in 1u64.. {
            let number = page.to_string();
            let paging = [("page", number.as_str()), ("pageSize", &size)];
            let query: Vec<_> = query.iter().copied().chain(paging).collect();
            let found: Reply<KeyPage> = self.get("admin/api-keys", &query).await?;
            let last = found.value.keys.is_empty() || page >= found.value.pages;
            keys.extend(found.value.keys);
            if last {
                break;
            }
        }
        Ok(keys)
    }

    /// Sends `body` as it is, telling `progress` how many bytes of it have gone.
    pub(super) fn upload(
        request: RequestBuilder,
        body: Vec<u8>,
        progress: impl Fn(u64) + Send + Sync + 'static,
    ) -> RequestBuilder {
        const PIECE: usize = 64 << 10;
        let length = body.len();
        let body = bytes::Bytes::from(body);
        let pieces = (0..length).step_by(PIECE).map(move |at| {
            let end = (at + PIECE).min(length);
            progress(end as u64);
            Ok::<_, io::Error>(body.slice(at..end))
        });
        request
            .header(header::CONTENT_LENGTH, length)
            .body(Body::wrap_stream(futures_util::stream::iter(pieces)))
    }

    pub(super) fn transport(&self, error: &reqwest::Error) -> Error {
        let url = self.shown();
        if is_refused(error) {
            return Error::Unreachable(format!(
                "no keytide answers at {url}; start it with `keytide serve`, or name another address with --url"
            ));
        }
        if error.is_timeout() {
            return Error::Unreachable(format!("{url} did not answer in time; try again, or check --url"));
        }
        let why = root(error);
        match error.is_connect() {
            true => Error::Unreachable(format!("cannot reach {url} ({why}); check --url")),
            false => Error::failed(format!("the connection to {url} broke ({why}); try again")),
        }
    }

    fn refusal(&self, status: StatusCode, text: &str) -> Error {
        let detail = serde_json::from_str::<Envelope>(text).ok().map(|envelope| envelope.error);
        if status == StatusCode::UNAUTHORIZED {
            return Error::failed(self.unauthorized());
        }
        if status.is_redirection() {
            return self.not_ours("with a redirect");
        }
        match detail {
            Some(detail) if !detail.message.is_empty() => {
                let mut message = plain(&detail.message);
                // The advice of an endpoint that knows nothing of the command line.
                let advice = match detail.code.as_deref() {
                    Some("unknown_provider") => "see `keytide stats` for their names",
                    Some("unknown_path") => "check the address given with --url",
                    _ => return Error::failed(message),
                };
                message.truncate(message.trim_end_matches('.').len());
                Error::failed(format!("{message}; {advice}"))
            }
            _ => self.not_ours(&format!("{status}, which is not keytide's way")),
        }
    }

    fn unauthorized(&self) -> String {
        let how = "pass --admin-token TOKEN or set KEYTIDE_ADMIN_TOKEN; a server that made its own token keeps \
                   it in its data folder, in the file admin-token";
        let url = self.shown();
        match (&self.token, &self.hint) {
            (Some(_), _) => format!("{url} does not accept this admin token; {how}"),
            (None, Some(hint)) => format!("{url} wants the admin token, and {hint}; {how}"),
            (None, None) => format!("{url} wants the admin token; {how}"),
        }
    }

    fn not_ours(&self, what: &str) -> Error {
        Error::failed(format!("{} answered {what}; check the address given with --url", self.shown()))
    }
}

/// The innermost cause, which is the one that people can do something about.
pub(super) fn root(error: &dyn StdError) -> String {
    let mut last = error;
    while let Some(cause) = last.source() {
        last = cause;
    }
    plain(&last.to_string())
}

fn is_refused(error: &reqwest::Error) -> bool {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(cause) = next {
        if let Some(error) = cause.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::ConnectionRefused
        {
            return true;
        }
        next = cause.source();
    }
    false
}
