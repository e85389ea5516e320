//! What the gateway is told, as a whole and per provider.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub listen: SocketAddr,
    /// The largest request body, in bytes.
    pub max_body: u64,
    /// For a caller to send a request's head.
    pub header_timeout: Duration,
    /// Between two parts of a request's body.
    pub body_timeout: Duration,
    /// For a caller that takes nothing of its answer.
    pub write_timeout: Duration,
    /// For a connection between two requests.
    pub idle_timeout: Duration,
    /// For open requests to end after the process was told to stop.
    pub shutdown_timeout: Duration,
    /// Threads that serve callers; 0 for one per core.
    pub workers: usize,
    /// Origins that browsers may call from; `*` for any.
    pub cors_origins: Vec<String>,
    /// Whether the model lists are shown without a token.
    pub public_models: bool,
    /// Networks of proxies that are believed what `X-Forwarded-For` says.
    pub trusted_proxies: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 8787)),
            max_body: 32_000_000,
            header_timeout: Duration::from_secs(15),
            body_timeout: Duration::from_secs(30),
            write_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(75),
            shutdown_timeout: Duration::from_secs(30),
            workers: 0,
            cors_origins: vec!["*".to_owned()],
            public_models: false,
            trusted_proxies: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ProviderOptions {
    pub name: String,
    /// A provider switched off answers 503 and keeps its keys and books.
    pub enabled: bool,
    /// Model names that callers may use, and what the provider calls those models.
    pub aliases: BTreeMap<String, String>,
    /// Keys tried for one request, at least 1.
    pub max_attempts: u32,
    /// The pause before the next key after a server-side failure; jittered.
    pub retry_backoff: Duration,
    /// Whether Ollama's own API is served beside OpenAI's.
    pub ollama_native: bool,
    /// Models to list besides those that the provider lists itself.
    pub models: Vec<String>,
    /// How long a fetched model list is used.
    pub models_ttl: Duration,
    /// Answers to repeat for equal requests that do not stream; `None` for never.
    pub cache: Option<CacheOptions>,
}

impl ProviderOptions {
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            enabled: true,
            aliases: BTreeMap::new(),
            max_attempts: 3,
            retry_backoff: Duration::from_millis(100),
            ollama_native: false,
            models: Vec::new(),
            models_ttl: Duration::from_secs(300),
            cache: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheOptions {
    pub ttl: Duration,
    /// What all cached answers of the provider may take together.
    pub max_bytes: u64,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self { ttl: Duration::from_secs(300), max_bytes: 64_000_000 }
    }
}
