//! One keytide of several, in a process of its own.

use std::{
    collections::BTreeMap,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use keytide::{demo::upstream::Upstream, model::KeyId};
use serde_json::{Value, json};

use super::{
    cutter::Cutter,
    world::{KEYS, key},
};
use crate::{
    harness::{TOKEN, chat, client},
    pg::Cluster,
    process::{Home, PATIENCE, Process},
};

pub const ADMIN: &str = "admin-token-of-the-tests";
const CALLERS: usize = 4;

/// Runs a command of keytide's to its end, with this hub.
pub fn keytide(arguments: &[&str], database_url: &str) -> String {
    let dir = tempfile::tempdir().unwrap();
    let done = Command::new(env!("CARGO_BIN_EXE_keytide"))
        .env_clear()
        .env("DATABASE_URL", database_url)
        .args(arguments)
        .current_dir(dir.path())
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(done.status.success(), "{arguments:?}: {}{}", text(&done.stdout), text(&done.stderr));
    text(&done.stdout)
}

/// Of a node's configuration: one hub for everything, reached through `port`.
pub fn hub(port: u16) -> String {
    hub_at(&format!("postgresql://postgres@127.0.0.1:{port}/postgres?sslmode=disable"))
}

pub fn hub_at(url: &str) -> String {
    format!("[sync]\ndatabase_url = \"{url}\"\ninterval = \"1s\"\n")
}

/// `openrouter` is its table of the configuration, if it is used; `hubs` those of the hubs.
pub fn config(upstream: &Upstream, openrouter: Option<&str>, hubs: &str) -> String {
    let provider = format!(
        r#"base_url = "{}"
        retry_backoff = "5ms"
        policy.server_first = "100ms"
        policy.server_max = "200ms""#,
        upstream.base_url()
    );
    let openrouter = openrouter
        .map_or("enabled = false".to_owned(), |more| format!("{provider}\nkey_pattern = \"^or-\"\n{more}"));
    format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        workers = 1
        admin_token = "{ADMIN}"
        [store]
        durability = "strict"
        flush_interval = "20ms"
        [providers.ollama]
        {provider}
        [providers.openrouter]
        {openrouter}
        {hubs}
        "#
    )
}

pub struct Node {
    pub name: String,
    pub cutter: Cutter,
    pub home: Home,
    pub process: Option<Process>,
    pub url: String,
    http: reqwest::Client,
}

impl Node {
    /// One provider, and this cluster as its hub.
    pub async fn start(upstream: &Upstream, cluster: &Cluster, n: usize) -> Self {
        let cutter = Cutter::start(cluster.port).await;
        let config = config(upstream, None, &hub(cutter.port));
        Self::with(n, cutter, &config).await
    }

    pub async fn with(n: usize, cutter: Cutter, config: &str) -> Self {
        Self::at_home(n, cutter, Home::new(config)).await
    }

    pub async fn at_home(n: usize, cutter: Cutter, home: Home) -> Self {
        let mut node = Self {
            name: format!("instance {n}"),
            cutter,
            home,
            process: None,
            url: String::new(),
            http: client(),
        };
        node.restart().await;
        node
    }

    pub async fn restart(&mut self) {
        let (process, url) = Process::start(&self.home).await;
        (self.process, self.url) = (Some(process), url);
    }

    pub fn kill(&mut self) {
        self.process.take().unwrap().kill();
    }

    /// In an orderly way, to its end.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        process.signal("TERM");
        let status = process.ended().await;
        assert!(status.success(), "{}: {status}", self.name);
    }

    /// Keys and a token.
    pub async fn stock(&self, provider: &str) {
        let prefix = if provider == "openrouter" { "or-" } else { "" };
        let keys: Vec<_> = (0..KEYS).map(|n| format!("{prefix}{}", key(n))).collect();
        let added = self.post("/admin/api-keys/import", &json!({"provider": provider, "keys": keys})).await;
        assert_eq!(added["added"], KEYS, "{added}");
        let path = format!("/admin/tokens?provider={provider}");
        self.post(&path, &json!({"name": "test", "token": TOKEN})).await;
    }

    /// So many requests, one after another, each of which is answered well. Returns their number.
    pub async fn serve(&self, provider: &str, requests: i64) -> i64 {
        for n in 0..requests {
            let asked = self
                .http
                .post(format!("{}/{provider}/v1/chat/completions", self.url))
                .bearer_auth(TOKEN)
                .json(&chat(n % 2 == 0));
            let answer = asked.timeout(PATIENCE).send().await.unwrap();
            let status = answer.status();
            let body = answer.text().await.unwrap();
            assert_eq!(status, 200, "{}: {body}", self.name);
        }
        requests
    }

    /// A request with that token; returns its status.
    pub async fn call(&self, token: &str) -> u16 {
        let asked = self.http.post(format!("{}/v1/chat/completions", self.url)).bearer_auth(token);
        let answer = asked.json(&chat(false)).timeout(PATIENCE).send().await.unwrap();
        let status = answer.status().as_u16();
        answer.bytes().await.unwrap();
        status
    }

    pub async fn ask(&self, method: reqwest::Method, path: &str, body: Option<&Value>) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url)).bearer_auth(ADMIN);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.timeout(PATIENCE).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    pub async fn get(&self, path: &str) -> Value {
        let (status, body) = self.ask(reqwest::Method::GET, path, None).await;
        assert_eq!(status, 200, "GET {path}: {body}");
        body
    }

    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(reqwest::Method::POST, path, Some(body)).await;
        assert!((200..300).contains(&status), "POST {path}: {status} {answer}");
        answer
    }

    pub async fn stats(&self) -> Value {
        self.get("/admin/stats?provider=ollama").await
    }

    /// How replication stands.
    pub async fn sync(&self) -> Value {
        self.get("/admin/sync").await
    }

    /// A round now; `None` when the hub could not be reached.
    pub async fn sync_now(&self) -> Option<Value> {
        let (status, body) = self.ask(reqwest::Method::POST, "/admin/sync/now", Some(&json!({}))).await;
        (status == 200).then_some(body)
    }

    pub async fn key(&self, key: &str) -> Option<Value> {
        let id = KeyId::derive("ollama", key);
        let (status, body) = self.ask(reqwest::Method::GET, &format!("/admin/api-keys/{id}"), None).await;
        (status == 200).then_some(body)
    }

    pub async fn edit(&self, key: &str, change: &Value) {
        let id = KeyId::derive("ollama", key);
        let path = format!("/admin/api-keys/{id}");
        let (status, body) = self.ask(reqwest::Method::PATCH, &path, Some(change)).await;
        assert_eq!(status, 200, "{body}");
    }

    pub async fn switch(&self, how: &str, key: &str, mut body: Value) {
        body["ids"] = json!([KeyId::derive("ollama", key)]);
        self.post(&format!("/admin/keys/{how}"), &body).await;
    }

    pub async fn delete(&self, key: &str) {
        let id = KeyId::derive("ollama", key);
        let (status, body) = self.ask(reqwest::Method::DELETE, &format!("/admin/api-keys/{id}"), None).await;
        assert_eq!(status, 200, "{body}");
    }

    /// Every number and every state that all instances have to agree on.
    pub async fn picture(&self) -> Value {
        self.picture_of("ollama").await
    }

    pub async fn picture_of(&self, provider: &str) -> Value {
        let stats = self.get(&format!("/admin/stats?provider={provider}")).await;
        let page = self.get(&format!("/admin/api-keys?provider={provider}&pageSize=500")).await;
        let (mut keys, mut states) = (BTreeMap::new(), BTreeMap::new());
        for key in page["keys"].as_array().unwrap() {
            let id = key["id"].as_str().unwrap().to_owned();
            let of = &key["stats"];
            keys.insert(id.clone(), json!([of["total_requests"], of["success_count"], of["failure_count"]]));
            states.insert(
                id,
                json!([
                    key["status"],
                    key["username"],
                    key["note"],
                    key["weight"],
                    key["expires_at"],
                    key["disabled_until"],
                    key["failed_until"],
                    key["consecutive_failures"]
                ]),
            );
        }
        let models: BTreeMap<_, _> = stats["models"]
            .as_array()
            .unwrap()
            .iter()
            .map(|of| {
                let counts = json!([of["total_requests"], of["success_count"], of["failure_count"]]);
                (of["model"].as_str().unwrap().to_owned(), counts)
            })
            .collect();
        let listed = self.get(&format!("/admin/tokens?provider={provider}")).await;
        let tokens: BTreeMap<_, _> = listed["tokens"]
            .as_array()
            .unwrap()
            .iter()
            .map(|token| (token["name"].as_str().unwrap().to_owned(), token["request_count"].clone()))
            .collect();
        json!({
            "total": [stats["total_requests"], stats["success_count"], stats["failure_count"],
                stats["prompt_tokens"], stats["completion_tokens"]],
            "keys": keys, "models": models, "tokens": tokens, "states": states,
        })
    }
}

/// Callers of one instance, until they are told to stop or are cut off.
pub struct Load {
    stop: Arc<AtomicBool>,
    callers: Vec<tokio::task::JoinHandle<(i64, i64)>>,
}

impl Load {
    pub fn start(node: &Node) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let callers = (0..CALLERS).map(|n| {
            let (stop, http, url) = (stop.clone(), node.http.clone(), node.url.clone());
            tokio::spawn(async move {
                let (mut answered, mut cut) = (0, 0);
                while !stop.load(Ordering::SeqCst) {
                    let asked = http
                        .post(format!("{url}/v1/chat/completions"))
                        .bearer_auth(TOKEN)
                        .json(&chat((answered as usize + n).is_multiple_of(2)));
                    let whole = async { asked.timeout(PATIENCE).send().await?.bytes().await };
                    match whole.await {
                        Ok(_) => answered += 1,
                        Err(_) => {
                            cut += 1;
                            break;
                        }
                    }
                    // Traffic that leaves the machine room for what is tested.
                    tokio::time::sleep(std::time::Duration::from_millis(2)).await;
                }
                (answered, cut)
            })
        });
        Self { callers: callers.collect(), stop }
    }

    /// Requests that were answered, and those whose connection broke.
    pub async fn seen(self) -> (i64, i64) {
        self.stop.store(true, Ordering::SeqCst);
        let (mut answered, mut cut) = (0, 0);
        for caller in self.callers {
            let (more, broken) = caller.await.unwrap();
            answered += more;
            cut += broken;
        }
        (answered, cut)
    }

    /// As `seen`, of a load that nothing has cut.
    pub async fn answered(self) -> i64 {
        let (answered, cut) = self.seen().await;
        assert_eq!(cut, 0, "a request was cut off");
        answered
    }
}
