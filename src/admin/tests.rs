//! Through the router, over a real store.

mod counted;
mod events;
mod imports;
mod keys;
mod playground;
mod rest;
mod session;
mod sync;
mod tokens;
mod users;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use axum::body::Body;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::Value;
use tempfile::TempDir;
use tower::ServiceExt;

use super::*;
use crate::{
    guard::Meters,
    ledger::{Attempt, Books, Caller, Class, Ending, Entry, Flusher, Kind, ProviderLedger, Sink},
    model::{Delta, Effect, Rung, Space, Timestamp, TokenId, Zone},
    monitor::Subject,
    observe,
    pool::{self, Ask},
    store::{self, ProviderContents, Sizes},
};

pub(super) const TOKEN: &str = "admin-token-for-tests";
pub(super) const START: Timestamp = Timestamp(1_800_000_000_000);

struct ToStore(Store);

impl Sink for ToStore {
    async fn append(&self, delta: Delta) -> Result<(), (Delta, String)> {
        let delta = Arc::new(delta);
        let appended = self.0.append(delta.clone()).await;
        appended.map_err(|error| (Arc::unwrap_or_clone(delta), error.to_string()))
    }
}

/// Seals nothing when it is told to fail, and counts how often it was to prepare that.
struct Flushing(Arc<Flusher<ToStore>>, Arc<AtomicBool>, Arc<AtomicUsize>);

impl Flush for Flushing {
    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.0.flush())
    }

    fn prepare(&self) -> BoxFuture<'_, Result<(), String>> {
        self.2.fetch_add(1, Ordering::SeqCst);
        Box::pin(async { Ok(()) })
    }

    fn seal(&self) -> BoxFuture<'_, Result<Held<'_>, String>> {
        Box::pin(async {
            if self.1.load(Ordering::SeqCst) {
                return Err("the disk is full".to_owned());
            }
            Ok(Box::new(self.0.pause().await?) as Held<'_>)
        })
    }
}

/// Says that a key is well when the list says so.
#[derive(Default)]
struct Probing {
    pools: Mutex<HashMap<String, Arc<Pool>>>,
}

impl Probe for Probing {
    fn probe(&self, provider: &str, id: KeyId) -> BoxFuture<'static, ProbeReport> {
        let pool = self.pools.lock().unwrap()[provider].clone();
        Box::pin(async move {
            tokio::task::yield_now().await;
            let ok = pool.get(id, START).is_some_and(|key| key.username.as_deref() != Some("bad"));
            let effect = if ok { Effect::Success } else { Effect::Auth { cooldown: None } };
            if let Some(lease) = pool.lease_for(id, START) {
                lease.finish(effect, START);
            }
            ProbeReport { ok, detail: if ok { "it answered 200" } else { "it answered 401" }.to_owned() }
        })
    }
}

/// The file, and one hub that is nearly full.
struct Measured(Store);

impl Spaces for Measured {
    fn file(&self) -> BoxFuture<'_, Result<(Sizes, Space), store::Error>> {
        Box::pin(async {
            let sizes = self.0.size().await?;
            let space = Space {
                used_bytes: Some(sizes.used()),
                total_bytes: Some(sizes.file_bytes),
                ..Space::default()
            };
            Ok((sizes, space))
        })
    }

    fn retain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn hubs(&self) -> BoxFuture<'_, Vec<view::HubSpace>> {
        let space =
            Space { budget_bytes: Some(100), used_bytes: Some(96), rung: Rung::Bare, ..Space::default() };
        let name = |text: &str| text.to_owned();
        let hub =
            view::HubSpace { hub: name("eu"), transport: name("rest"), target: name("https://h"), space };
        Box::pin(async { vec![hub] })
    }
}

/// Lifts in memory alone.
struct Lifting(Arc<Watch>);

impl Watching for Lifting {
    fn lift(&self, subject: Subject) -> BoxFuture<'_, Result<bool, store::Error>> {
        let found = self.0.verdicts.without(subject, START).is_some();
        self.0.verdicts.lift(subject, START);
        Box::pin(async move { Ok(found) })
    }
}

/// Says what it was asked.
struct Echo;

impl Loopback for Echo {
    fn call(
        &self,
        path: String,
        token: crate::model::Secret,
        body: Option<bytes::Bytes>,
    ) -> BoxFuture<'static, Result<axum::response::Response, String>> {
        let body: Value = body.map_or(Value::Null, |body| serde_json::from_slice(&body).unwrap());
        let said = json!({"path": path, "token": token.expose(), "body": body});
        Box::pin(async move { Ok(axum::response::IntoResponse::into_response(axum::Json(said))) })
    }
}

pub(super) struct World {
    pub(super) router: Router,
    pub(super) state: Arc<State>,
    pub(super) clock: Clock,
    pub(super) watch: Arc<Watch>,
    pub(super) meters: Arc<Meters>,
    pub(super) books: Arc<ProviderLedger>,
    pub(super) store: Store,
    pub(super) unsealable: Arc<AtomicBool>,
    pub(super) prepared: Arc<AtomicUsize>,
    dir: TempDir,
}

pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) text: String,
}

impl Reply {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {}", self.text))
    }

    /// Status and code of an error, whose shape is checked.
    pub(super) fn error(&self) -> (u16, String) {
        let json = self.json();
        let error = json["error"].as_object().unwrap_or_else(|| panic!("no error: {}", self.text));
        assert!(
            ["message", "type", "code", "param"].iter().all(|field| error.contains_key(*field)),
            "{json}"
        );
        (self.status, error["code"].as_str().unwrap().to_owned())
    }
}

impl World {
    pub(super) fn new() -> Self {
        Self::open(tempfile::tempdir().unwrap())
    }

    /// Two providers: "alpha" takes what no other claims, "beta" keys that begin with "sk-be-".
    fn open(dir: TempDir) -> Self {
        let (store, contents) = Store::open(&store::Options::new(dir.path()), START).unwrap();
        let clock = Clock::manual(START);
        let meters = Arc::<Meters>::default();
        let users = Arc::new(Users::new(Zone::default(), meters.clone()));
        for (id, record) in &contents.users {
            users.insert(*id, record.clone());
        }
        let ledger = Arc::new(Ledger::new(Books::default(), 1));
        let (mut entries, mut observed, mut parts) = (Vec::new(), Vec::new(), Vec::new());
        let probing = Arc::new(Probing::default());
        for name in ["alpha", "beta"] {
            let pool = Pool::new(name, pool::Options::default());
            let tokens = Arc::new(Tokens::new(meters.clone()));
            let empty = ProviderContents::default();
            let found = contents.providers.get(name).unwrap_or(&empty);
            for (_, record, health) in &found.keys {
                pool.insert(record.clone(), health.clone(), START).unwrap();
            }
            for (_, record) in &found.tokens {
                tokens.insert(name, record.clone());
            }
            let drained = pool.clone();
            parts.push(ledger.add_provider(name, Box::new(move || drained.drain_changed())));
            probing.pools.lock().unwrap().insert(name.to_owned(), pool.clone());
            let of_beta: KeyPattern = Arc::new(|key: &str| key.starts_with("sk-be-"));
            observed.push(observe::ProviderEntry {
                name: name.into(),
                enabled: true,
                pool: pool.clone(),
                metrics: Arc::new(crate::gateway::metrics::Metrics::new(1)),
            });
            entries.push(ProviderEntry {
                name: name.into(),
                enabled: true,
                table_prefix: format!("{name}_api"),
                base_url: format!("{name}.example"),
                strategy: Strategy::RoundRobin,
                key_pattern: (name == "beta").then_some(of_beta),
                pool,
                tokens,
            });
        }
        let watch = Arc::new(Watch::new(1, true));
        let flusher = Arc::new(Flusher::new(
            ledger.clone(),
            ToStore(store.clone()),
            std::time::Duration::from_millis(100),
        ));
        let (unsealable, prepared) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let state = State::new(Parts {
            providers: Providers { entries, default: "alpha".to_owned() },
            store: store.clone(),
            ledger: ledger.clone(),
            flush: Arc::new(Flushing(flusher, unsealable.clone(), prepared.clone())),
            probe: probing,
            sync: Arc::new(sync::OneHub),
            spaces: Arc::new(Measured(store.clone())),
            clock: clock.clone(),
            users,
            watch: watch.clone(),
            watching: Arc::new(Lifting(watch.clone())),
            loopback: Arc::new(Echo),
            admin_token: TOKEN.to_owned(),
            public_stats: true,
            edits: Arc::default(),
        });
        let observe = observe::State::new(observe::Parts {
            providers: observed,
            store: store.clone(),
            ledger,
            clock: clock.clone(),
            flush_failing: Box::new(|| false),
            hubs: Box::new(Vec::new),
            spaces: Box::new(Vec::new),
            watched: Box::new(observe::Watched::default),
        });
        let router = operator_router(
            state.clone(),
            observe::router(observe),
            Router::new().route("/", get(index)).fallback(async || ApiError::unknown_path()),
        );
        let books = parts.swap_remove(0);
        Self { router, state, clock, watch, meters, books, store, unsealable, prepared, dir }
    }

    /// Ends this one as a crash would, and starts another from the same file.
    pub(super) async fn restart(self) -> Self {
        let Self { router, state, store, dir, .. } = self;
        store.close().await.unwrap();
        drop((router, state));
        Self::open(dir)
    }

    pub(super) fn path(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    pub(super) fn pool(&self, provider: &str) -> Arc<Pool> {
        self.state.provider(Some(provider)).unwrap().pool
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        Reply {
            status: parts.status.as_u16(),
            headers: parts.headers,
            text: String::from_utf8(bytes.to_vec()).unwrap(),
        }
    }

    pub(super) async fn call(&self, method: &str, path: &str, body: impl Into<Body>) -> Reply {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {TOKEN}"))
            .body(body.into());
        self.send(request.unwrap()).await
    }

    pub(super) async fn get(&self, path: &str) -> Reply {
        self.call("GET", path, "").await
    }

    pub(super) async fn json(&self, method: &str, path: &str, body: Value) -> Reply {
        self.call(method, path, body.to_string()).await
    }

    /// Adds a key to alpha; returns its id.
    pub(super) async fn add(&self, key: &str) -> String {
        let reply = self.json("POST", "/admin/api-keys", json!({"key": key})).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// One attempt that ends as `effect` says.
    pub(super) fn attempt(&self, effect: Effect) {
        let now = self.clock.now();
        self.pool("alpha").pick(&Ask::default(), now).unwrap().finish(effect, now);
    }

    pub(super) fn count(&self, key: &str, kind: Kind, model: &str, at: Timestamp) {
        let ending = Ending {
            model: self.books.models.learn(model),
            kind,
            class: Class::Conversation,
            used_keys: true,
            prompt_tokens: 10,
            completion_tokens: 5,
            key: None,
            status: 200,
        };
        let entry = Entry {
            caller: Caller { token: TokenId::derive("alpha", "sk-token"), user: None },
            attempt: Some(Attempt { key: KeyId::derive("alpha", key), kind, millis: Some(250) }),
            request: Some(ending),
        };
        self.books.record(0, &entry, at);
    }
}

#[tokio::test]
async fn unknown_paths_and_methods_have_the_same_shape() {
    let world = World::new();
    assert_eq!(world.get("/nothing").await.error(), (404, "unknown_path".to_owned()));
    assert_eq!(world.get("/admin/nothing").await.error(), (404, "unknown_path".to_owned()));
    for (method, path) in [("PUT", "/admin/stats"), ("POST", "/health"), ("DELETE", "/")] {
        let reply = world.call(method, path, "").await;
        assert_eq!(reply.error(), (405, "method_not_allowed".to_owned()), "{path}");
        assert!(reply.headers["allow"].to_str().unwrap().contains("GET"));
    }
    assert_eq!(world.get("/").await.json()["name"], "keytide");
}

#[tokio::test]
async fn every_described_path_is_there_and_takes_its_methods() {
    let world = World::new();
    let document: Value = world.get("/openapi.json").await.json();
    assert_eq!(document["openapi"], "3.1.0");
    let id = uuid::Uuid::nil().to_string();
    let mut seen = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        if path.starts_with("/v1") || path.starts_with("/api/") {
            continue;
        }
        for method in item.as_object().unwrap().keys() {
            let reply = world
                .call(&method.to_uppercase(), &path.replace("{id}", &id).replace("{subject}", "user:x"), "")
                .await;
            assert_ne!(reply.status, 405, "{method} {path}");
            assert!(!reply.text.contains("unknown_path"), "{method} {path}");
            seen += 1;
            let opens = (path.as_str(), method.as_str()) == ("/admin/session", "post");
            if path.starts_with("/admin") && path != "/admin/public-stats" && !opens {
                let bare = Request::builder().method(method.to_uppercase().as_str()).uri(path);
                let reply = world.send(bare.body(Body::empty()).unwrap()).await;
                assert_eq!(reply.error(), (401, "invalid_admin_token".to_owned()), "{method} {path}");
            }
        }
    }
    assert_eq!(seen, 46 + 5);
    // What is referred to is there.
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(document["components"]["schemas"][name].is_object(), "{name}");
    }
    assert!(document["paths"]["/v1/chat/completions"]["post"].is_object());
}

#[tokio::test(start_paused = true)]
async fn only_the_admin_token_opens_and_guessing_is_slow() {
    let world = World::new();
    let send = |header: &'static str, value: String| {
        let request = Request::get("/admin/providers").header(header, value).body(Body::empty()).unwrap();
        world.send(request)
    };
    assert_eq!(send("x-admin-token", TOKEN.to_owned()).await.status, 200);
    assert_eq!(send("authorization", format!("bearer {TOKEN}")).await.status, 200);
    assert_eq!(send("authorization", format!("Basic {TOKEN}")).await.status, 401);
    let start = tokio::time::Instant::now();
    for _ in 0..5 {
        let reply = send("x-admin-token", "wrong".to_owned()).await;
        assert_eq!(reply.error(), (401, "invalid_admin_token".to_owned()));
    }
    assert_eq!(start.elapsed().as_secs(), 0);
    send("x-admin-token", "wrong".to_owned()).await;
    send("authorization", "Bearer wrong".to_owned()).await;
    assert_eq!(start.elapsed().as_secs(), 3);
    // From the same place the right one waits as any other, and then it is taken.
    assert_eq!(send("x-admin-token", TOKEN.to_owned()).await.status, 200);
    assert_eq!(start.elapsed().as_secs(), 3 + 4);
    let many =
        futures_util::future::join_all((0..50).map(|_| send("x-admin-token", "wrong".to_owned()))).await;
    let refused = many.iter().filter(|reply| reply.status == StatusCode::TOO_MANY_REQUESTS).count();
    assert_eq!(refused, 50 - 6);
    assert_eq!(start.elapsed().as_secs(), 7 + 4 + 8 + 4 * 10, "one after the other");
    world.state.set_admin_token("another");
    assert_eq!(send("x-admin-token", "another".to_owned()).await.status, 200);
    assert_eq!(start.elapsed().as_secs(), 59 + 10, "no longer than the longest wait");
}
