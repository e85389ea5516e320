//! `keytide migrate`, as a person runs it.

mod kv;
mod odd;
mod usage_logs;

use std::process::{Child, Command, Stdio};

use keytide::{
    model::KeyId,
    replica::schema::{self, Target},
};
use serde_json::Value;
use tokio_postgres::Client;

use crate::pg::{Cluster, Options};

const OLLAMA: Target<'static> = Target { prefix: "ollama_api", provider: "ollama" };

/// The log as the plan found it.
const FIRST: &str =
    "CREATE TABLE key_usage_logs (id UUID PRIMARY KEY, shared_key_id UUID, user_id UUID, request_data JSONB,
    response_data JSONB, created_at TIMESTAMP)";
/// And as the plan's second option has it.
const SLIM: &str = "CREATE TABLE key_usage_logs (id BIGSERIAL PRIMARY KEY, shared_key_id UUID NOT NULL, user_id UUID NOT NULL,
    usage_type SMALLINT, status_code SMALLINT, created_at TIMESTAMP);
    CREATE INDEX idx_key_usage_logs_cleanup ON key_usage_logs(created_at)";

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    #[track_caller]
    fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.out, self.err);
        self.out
    }

    #[track_caller]
    fn json(self) -> Value {
        serde_json::from_str(&self.ok()).unwrap()
    }

    /// Fails, with this among what it says.
    #[track_caller]
    fn fails(self, code: i32, says: &str) {
        assert!(self.code == code && self.err.contains(says), "{} {}{}", self.code, self.out, self.err);
    }
}

fn command(arguments: &[&str], url: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keytide"));
    command.env_clear().env("DATABASE_URL", url).arg("migrate").args(arguments).current_dir("/tmp");
    command
}

fn keytide(arguments: &[&str], url: &str) -> Ran {
    let done = command(arguments, url).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ran { code: done.status.code().unwrap(), out: text(&done.stdout), err: text(&done.stderr) }
}

fn started(arguments: &[&str], url: &str) -> Child {
    command(arguments, url).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// A database with keytide's tables, and its URL.
async fn hub(version: Option<u32>) -> (Cluster, Client, String) {
    let cluster = Cluster::start(Options { version, ..Options::default() });
    let client = cluster.database("hub").await;
    schema::apply(&client, &[OLLAMA], false).await.unwrap();
    let url = cluster.url("hub", "postgres");
    (cluster, client, url)
}

/// An id that an older program made.
fn old(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

fn key(text: &str) -> String {
    KeyId::derive("ollama", text).to_string()
}

/// Rows as those of a program at work: `keys` ids in turn, of 97 users.
async fn fill(client: &Client, rows: u32, keys: u32, payload: &str) {
    let sql = format!(
        "INSERT INTO key_usage_logs SELECT gen_random_uuid(), ('00000000-0000-4000-8000-' || lpad((g % {keys})::text, 12, '0'))::uuid,
            ('00000000-0000-4000-9000-' || lpad((g * 31 % 97)::text, 12, '0'))::uuid, {payload}, '{{}}',
            timestamp '2024-01-01' + g * interval '7 seconds' FROM generate_series(1, {rows}) g"
    );
    client.batch_execute(&sql).await.unwrap();
}
