//! What reaching one provider takes.

use std::{path::PathBuf, time::Duration};

use http::{
    HeaderName, HeaderValue, Method, Uri, header,
    uri::{InvalidUri, PathAndQuery},
};

use super::outcome::StatusRules;
use crate::model::Secret;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Scheme, host and path prefix. A request's path is appended to it; see [`Options::base`].
    pub base_url: Uri,
    /// The header that carries the key.
    pub auth_header: HeaderName,
    /// Sent with every request. Values that may be secret are marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub proxy: Option<Proxy>,
    /// A PEM file of certificate authorities to trust besides the public ones.
    pub ca_file: Option<PathBuf>,
    pub connect_timeout: Duration,
    /// From the request sent to the first byte of the answer.
    pub first_byte_timeout: Duration,
    /// Between two parts of the answer's body.
    pub idle_timeout: Duration,
    pub rules: StatusRules,
    pub probe: Probe,
    /// Whether HTTP/2 is offered to the provider.
    pub http2: bool,
}

impl Options {
    pub fn new(base_url: Uri) -> Self {
        Self {
            base_url,
            auth_header: header::AUTHORIZATION,
            headers: Vec::new(),
            proxy: None,
            ca_file: None,
            connect_timeout: Duration::from_secs(10),
            first_byte_timeout: Duration::from_secs(180),
            idle_timeout: Duration::from_secs(180),
            rules: StatusRules::default(),
            probe: Probe::default(),
            http2: true,
        }
    }

    /// The base URL as text that a path can follow: without the slash that an [`http::Uri`] without a path
    /// prints at its end.
    pub fn base(&self) -> String {
        self.base_url.to_string().trim_end_matches('/').to_owned()
    }

    /// What is asked for at the provider's host: `path`, which may have a query, behind the base URL's own.
    ///
    /// # Errors
    /// When they make no valid path together.
    pub fn path(&self, path: &str) -> Result<PathAndQuery, InvalidUri> {
        PathAndQuery::try_from(format!("{}{path}", self.base_url.path().trim_end_matches('/')))
    }
}

/// A server on this machine, which is what tests and the demo talk to.
impl Default for Options {
    fn default() -> Self {
        Self::new(Uri::from_static("http://localhost"))
    }
}

/// A way around for connections to the provider. `uri` is always `http://host:port`, which is where the
/// proxy itself is dialled.
#[derive(Clone, Debug, PartialEq)]
pub enum Proxy {
    /// Tunnels with CONNECT.
    Http { uri: Uri, login: Option<Login> },
    Socks5 {
        uri: Uri,
        login: Option<Login>,
        /// Names are resolved here (`socks5://`) rather than by the proxy (`socks5h://`).
        local_dns: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    pub user: String,
    pub password: Secret,
}

/// A cheap request that tells whether a key works.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    pub method: Method,
    /// Appended to the base URL; begins with a slash.
    pub path: String,
    /// JSON.
    pub body: Option<String>,
}

impl Default for Probe {
    fn default() -> Self {
        Self { method: Method::GET, path: "/v1/models".to_owned(), body: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_ends_without_a_slash() {
        for (given, base) in [
            ("https://ollama.com", "https://ollama.com"),
            ("https://ollama.com/", "https://ollama.com"),
            ("https://openrouter.ai/api", "https://openrouter.ai/api"),
        ] {
            assert_eq!(Options::new(given.parse().unwrap()).base(), base);
        }
    }
}
