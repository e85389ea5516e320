//! The hub's SQL on a real Postgres: each rule of replication that it keeps has a test that fails without it.

mod adopt;
mod busy;
mod care;
mod cli;
mod concurrent;
mod core;
mod core_foreign;
mod core_kept;
mod foreign;
mod install;
mod pull;
mod push;
mod retain;
mod rights;
mod sizes;

use std::time::Duration;

use keytide::replica::schema::{self, Target};
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::{
    pg::{Cluster, Options},
    process::PATIENCE,
};

pub const OLLAMA: Target<'static> = Target { prefix: "ollama_api", provider: "ollama" };
pub const OPENROUTER: Target<'static> = Target { prefix: "openrouter_api", provider: "openrouter" };

/// A version `seconds` from now.
pub fn version(seconds: i64) -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_micros() as i64;
    (now + seconds * 1_000_000) << 10 | 7
}

pub async fn hub() -> (Cluster, Client) {
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    let left = schema::apply(&client, &[OLLAMA, OPENROUTER], false).await.unwrap().left;
    assert!(left.problems.is_empty(), "{left:#?}");
    (cluster, client)
}

pub async fn call(client: &Client, function: &str, request: &Value) -> Value {
    try_call(client, function, request).await.unwrap_or_else(|error| panic!("{function}: {error:?}"))
}

pub async fn try_call(
    client: &Client,
    function: &str,
    request: &Value,
) -> Result<Value, tokio_postgres::Error> {
    let request = request.to_string();
    let sql = format!("SELECT {function}($text${request}$text$)::text");
    let rows = client.simple_query(&sql).await?;
    let text = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    Ok(serde_json::from_str(&text.unwrap()).unwrap())
}

/// Rows joined by `|`, lines by a newline.
pub async fn rows(client: &Client, sql: &str) -> String {
    let mut lines = Vec::new();
    for message in client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")) {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            let line: Vec<&str> = (0..row.len()).map(|at| row.get(at).unwrap_or("")).collect();
            lines.push(line.join("|"));
        }
    }
    lines.join("\n")
}

/// Until the rows are these.
pub async fn wait_for(client: &Client, sql: &str, expected: &str) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while rows(client, sql).await != expected {
        assert!(tokio::time::Instant::now() < deadline, "{sql} never was {expected}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The first of the days that these tests tell a hub of: 2030-06-01, in UTC.
pub const FIRST: i64 = 22_066;

/// Tells the hub what time it is: so many days after the first, and so many hours.
pub async fn at(client: &Client, day: i64, hour: i64) {
    let sql = format!(
        "SELECT set_config('keytide.now', (keytide_day({}) + interval '{hour} hours')::text || 'Z', false)",
        FIRST + day
    );
    rows(client, &sql).await;
}

/// One instance's stream of batches.
pub struct Stream {
    /// The table prefix.
    pub of: &'static str,
    pub instance: Uuid,
    pub seq: u64,
    pub digest: String,
}

impl Stream {
    pub fn new(id: u128) -> Self {
        Self { of: "ollama_api", instance: Uuid::from_u128(id), seq: 0, digest: String::new() }
    }

    /// Of what belongs to no provider.
    pub fn core(id: u128) -> Self {
        Self { of: "core", ..Self::new(id) }
    }

    /// The next batch, without having sent it.
    pub fn batch(&self, rows: &Value) -> Value {
        json!({
            "protocol": 1, "instance": self.instance, "now": 0, "stream": self.of,
            "provider": if self.of == "core" { "core" } else { "ollama" },
            "seq": self.seq + 1, "prev": self.digest, "digest": format!("d{}", self.seq + 1), "rows": rows,
        })
    }

    pub async fn push(&mut self, client: &Client, rows: Value) -> Value {
        let answer = call(client, "keytide_push", &self.batch(&rows)).await;
        assert_eq!(answer["status"], "applied", "{answer:#}");
        self.seq += 1;
        self.digest = format!("d{}", self.seq);
        answer["rows"].clone()
    }

    /// One page of a lane.
    pub async fn pull(&self, client: &Client, lane: &str, cursor: Option<&str>) -> (Value, String) {
        let asks =
            json!([{"stream": self.of, "provider": "ollama", "lane": lane, "cursor": cursor, "limit": 1000}]);
        let request = json!({"protocol": 1, "instance": self.instance, "asks": asks});
        let answer = call(client, "keytide_pull", &request).await;
        (answer["pages"][0].clone(), answer["snapshot"].as_str().unwrap().to_owned())
    }
}

/// The first 16 bytes of the SHA-256, in hex.
pub async fn digest(client: &Client, text: &str) -> String {
    rows(client, &format!("SELECT keytide_digest('{text}')")).await
}
