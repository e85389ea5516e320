//! keytide in this process, over a loopback provider, a data folder of its own and real sockets.

use std::{path::Path, sync::Once, time::Duration};

use keytide::{
    app::App,
    config::{Config, Overrides},
    demo::upstream::{Upstream, UpstreamOptions},
    ledger::ProviderBooks,
    model::{Clock, Delta, KeyRecord, Limits, Secret, Timestamp, TokenRecord, UserId, UserRecord},
    store::{self, Change, Store},
};
use reqwest::Client;
use serde_json::{Value, json};

/// The token that every test server knows.
pub const TOKEN: &str = "sk-test-0123456789abcdef";

/// One client for plain and TLS connections alike.
pub fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::builder().pool_max_idle_per_host(256).build().unwrap()
}

/// What a test server starts with.
#[derive(Clone)]
pub struct Setup {
    pub config: Config,
    pub clock: Clock,
    keys: Vec<(Box<str>, KeyRecord)>,
    tokens: Vec<(Box<str>, TokenRecord)>,
    users: Vec<(UserId, UserRecord)>,
    counted: Delta,
}

/// A configuration as a file would give it.
pub fn config(toml: &str) -> Config {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, toml).unwrap();
    match Config::load(Some(&file), &Overrides::default(), std::iter::empty()) {
        Ok(loaded) => loaded.config,
        Err(error) => panic!("{error}"),
    }
}

impl Setup {
    /// `extra` is TOML behind a base configuration that points both providers at `upstream`.
    pub fn new(upstream: &Upstream, extra: &str) -> Self {
        let base = upstream.base_url();
        let toml = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\nshutdown_timeout = \"5s\"\n\
             [providers.ollama]\nbase_url = \"{base}\"\nretry_backoff = \"10ms\"\n\
             [providers.openrouter]\nbase_url = \"{base}\"\nretry_backoff = \"10ms\"\n{extra}"
        );
        Self::with(config(&toml))
    }

    pub fn with(config: Config) -> Self {
        let setup = Self {
            config,
            clock: Clock::System,
            keys: vec![],
            tokens: vec![],
            users: vec![],
            counted: Delta::default(),
        };
        setup.token("ollama", TOKEN, |_| {})
    }

    pub fn keys(self, provider: &str, keys: &[&str]) -> Self {
        keys.iter().fold(self, |setup, key| setup.key(provider, key, |_| {}))
    }

    pub fn key(mut self, provider: &str, key: &str, change: impl FnOnce(&mut KeyRecord)) -> Self {
        let mut record = KeyRecord::new(Secret::new(key), Timestamp(0));
        change(&mut record);
        self.keys.push((provider.into(), record));
        self
    }

    pub fn token(mut self, provider: &str, text: &str, change: impl FnOnce(&mut TokenRecord)) -> Self {
        let mut record = TokenRecord {
            secret: Secret::new(text),
            name: "test".into(),
            created_at: Timestamp(0),
            expires_at: None,
            user: None,
            limits: Limits::default(),
        };
        change(&mut record);
        self.tokens.push((provider.into(), record));
        self
    }

    pub fn user(mut self, id: u128, change: impl FnOnce(&mut UserRecord)) -> Self {
        let mut record = UserRecord {
            name: format!("user {id}").into(),
            note: None,
            created_at: Timestamp(0),
            enabled: true,
            limits: Limits::default(),
        };
        change(&mut record);
        self.users.push((UserId(id), record));
        self
    }

    /// As if an earlier run had counted that.
    pub fn counted(mut self, counted: Delta) -> Self {
        self.counted = counted;
        self
    }

    /// Puts keys, tokens and users into the data folder, as an earlier run would have left them.
    pub async fn fill(&self, dir: &Path) {
        let (store, _) = Store::open(&store::Options::new(dir), Timestamp(0)).unwrap();
        let keys = self.keys.iter().cloned();
        let tokens = self.tokens.iter().cloned();
        let changes = keys
            .map(|(provider, record)| Change::PutKey { provider, record })
            .chain(tokens.map(|(provider, record)| Change::PutToken { provider, record }))
            .chain(self.users.iter().cloned().map(|(id, record)| Change::PutUser { id, record }));
        store.change(changes.collect()).await.unwrap();
        if !self.counted.is_empty() {
            store.append(self.counted.clone()).await.unwrap();
        }
        store.close().await.unwrap();
    }

    pub async fn start(mut self) -> Keytide {
        let dir = tempfile::tempdir().unwrap();
        self.config.store.dir = dir.path().to_owned();
        self.fill(dir.path()).await;
        let app = App::start(self.config.clone(), self.clock.clone()).await.unwrap();
        let url = format!("http://{}", app.address());
        Keytide { app, url, dir, config: self.config, clock: self.clock, client: client() }
    }
}

pub struct Keytide {
    pub app: App,
    pub url: String,
    pub dir: tempfile::TempDir,
    pub config: Config,
    pub clock: Clock,
    pub client: Client,
}

impl Keytide {
    pub async fn post(&self, path: &str, body: &Value) -> reqwest::Response {
        self.post_as(TOKEN, path, body).await
    }

    pub async fn post_as(&self, token: &str, path: &str, body: &Value) -> reqwest::Response {
        self.client.post(format!("{}{path}", self.url)).bearer_auth(token).json(body).send().await.unwrap()
    }

    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(TOKEN).send().await.unwrap()
    }

    /// A change by an operator.
    pub async fn admin(&self, method: &str, path: &str, body: &Value) -> Value {
        let method = method.parse().unwrap();
        let token = self.app.admin_token().secret.expose();
        let request = self.client.request(method, format!("{}{path}", self.url)).bearer_auth(token);
        let answer = request.json(body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }

    /// What the books hold of a provider, with everything counted so far.
    pub fn books(&self, provider: &str) -> ProviderBooks {
        self.app.ledger().read(|books| books.providers.get(provider).cloned().unwrap_or_default())
    }

    /// Waits until the books have counted `total` requests: an answer's end reaches its reader first.
    pub async fn settled(&self, provider: &str, total: u64) -> ProviderBooks {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        loop {
            let books = self.books(provider);
            if books.total.counts.total() >= total || tokio::time::Instant::now() > deadline {
                assert_eq!(books.total.counts.total(), total, "requests in the books");
                return books;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn stop(self) -> tempfile::TempDir {
        self.app.stop().await.unwrap();
        self.dir
    }

    pub async fn restart(self) -> Self {
        let Self { app, dir, config, clock, client, .. } = self;
        app.stop().await.unwrap();
        let app = App::start(config.clone(), clock.clone()).await.unwrap();
        let url = format!("http://{}", app.address());
        Self { app, url, dir, config, clock, client }
    }
}

pub async fn upstream() -> Upstream {
    Upstream::start(UpstreamOptions::default()).await.unwrap()
}

pub fn chat(stream: bool) -> Value {
    chat_with("How high is the tide?", stream)
}

pub fn chat_with(text: &str, stream: bool) -> Value {
    json!({"model": "demo-small", "stream": stream, "messages": [{"role": "user", "content": text}]})
}

pub async fn error_code(response: reqwest::Response) -> (u16, String) {
    let status = response.status().as_u16();
    let body: Value = response.json().await.unwrap();
    (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
}

/// A setup whose only provider, and the default one, is `name`.
pub fn setup_of(name: &str, lines: &str) -> Setup {
    let toml = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\ndefault_provider = \"{name}\"\n\
         [providers.{name}]\nretry_backoff = \"1ms\"\n{lines}\n"
    );
    Setup::with(config(&toml)).token(name, TOKEN, |_| {})
}

/// Waits for a condition that is sure to come.
pub async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(tokio::time::Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}
