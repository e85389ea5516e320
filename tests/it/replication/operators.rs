//! What operators see of replication, through the commands that they run: against a running server, and against the
//! hub itself.

use std::process::Command;

use serde_json::{Value, json};

use super::{
    node::{self, Node},
    ways::project,
    world::World,
};
use crate::{
    hub::{self, pgbouncer::PgBouncer, postrust, postrust::Postrust, skipped},
    process::Home,
};

/// Exit code, stdout, stderr.
type Ran = (i32, String, String);

async fn keytide(arguments: &[&str], env: &[(&str, &str)]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keytide"));
    command.env_clear().args(arguments).envs(env.iter().copied()).current_dir(dir.path());
    let done = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code().unwrap(), text(&done.stdout), text(&done.stderr))
}

impl Node {
    /// A command that talks to this one.
    async fn run(&self, line: &str) -> Ran {
        let arguments: Vec<_> = line.split(' ').collect();
        keytide(&arguments, &[("KEYTIDE_URL", &self.url), ("KEYTIDE_ADMIN_TOKEN", node::ADMIN)]).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replication_from_the_command_line() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let mut world = World::new(2).await;
    world.stock().await;
    let mut served = world.nodes[0].serve("ollama", 9).await;
    world.is_exact(served).await;
    let node = &world.nodes[0];
    let (code, out, err) = node.run("sync status").await;
    assert_eq!(code, 0, "{out}{err}");
    for words in ["default: ok, ", " over postgres", "nothing waits", "ollama_api_*", "(this one)", " sent, "]
    {
        assert!(out.contains(words), "{words}: {out}");
    }
    assert_eq!(out.lines().filter(|line| line.ends_with(" ms")).count(), 2, "both instances: {out}");

    // Another program writes what it read an hour ago.
    world.sql("UPDATE ollama_api_global_stats SET total_requests = 1, success_count = 1");
    let (code, out, err) = node.run("sync now").await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(
        out.contains("a lowered counter in ollama_api_global_stats was ignored once, last at 20"),
        "{out}"
    );
    let (code, out, err) = node.run("sync status --json").await;
    let status: Value = serde_json::from_str(&out).unwrap();
    let hub = &status["hubs"][0];
    assert_eq!(
        (code, &hub["state"], hub["instances"].as_array().unwrap().len()),
        (0, &json!("ok"), 2),
        "{err}"
    );
    assert_eq!(
        (&hub["reports"][0]["kind"], &hub["reports"][0]["count"]),
        (&json!("counter_lowered"), &json!(1))
    );

    let (code, _, err) = node.run("sync now --hub other").await;
    assert!(code == 1 && err.contains("there are: default"), "{err}");
    let (code, _, err) = node.run("sync adopt --yes").await;
    assert!(code == 1 && err.contains("nothing has to be adopted"), "{err}");

    node.cutter.refuse(true);
    let (code, out, err) = node.run("sync now").await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(out.contains("default: failing, ") && out.contains("check the network"), "{out}");
    for command in ["sync status --json", "sync now --json"] {
        let (code, out, _) = node.run(command).await;
        let status: Value = serde_json::from_str(&out).unwrap();
        assert_eq!((code, &status["hubs"][0]["state"]), (1, &json!("failing")), "{command}");
    }
    node.cutter.refuse(false);

    // Another hub: it stops, and goes on when told to.
    world.cluster.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    world.apply_schema().await;
    served += world.nodes[1].serve("ollama", 4).await;
    let node = &world.nodes[0];
    let (code, out, _) = node.run("sync now").await;
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("default: stopped") && out.contains("keytide sync adopt"), "{out}");
    let (code, _, err) = node.run("sync adopt").await;
    assert!(code == 1 && err.contains("another database") && err.contains("--yes"), "{err}");
    let (code, out, err) = node.run("sync adopt --yes").await;
    assert!(code == 0 && out.contains("is the hub from now on"), "{out}{err}");
    world.is_exact(served).await;
    assert_eq!(world.nodes[0].run("sync status").await.0, 0);
    world.nodes[0].kill();
}

/// What `doctor` says of the hub: check, result, detail and advice.
struct Said(Vec<[String; 4]>);

impl Said {
    async fn of(config: &str) -> Self {
        let home = Home::new(config);
        let path = home.dir.path().join("config.toml");
        let (data, path) = (home.data().display().to_string(), path.display().to_string());
        // No server is asked, only the hub.
        let server = "http://127.0.0.1:1";
        let arguments = ["doctor", "--json", "--url", server, "--config", &path, "--data-dir", &data];
        let (_, out, err) = keytide(&arguments, &[]).await;
        let all: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{err}"));
        let text = |of: &Value, name: &str| of[name].as_str().unwrap_or_default().to_owned();
        let of_hub =
            all["checks"].as_array().unwrap().iter().filter(|of| text(of, "check").starts_with("hub "));
        Self(of_hub.map(|of| ["check", "result", "detail", "advice"].map(|name| text(of, name))).collect())
    }

    fn has(&self, check: &str, result: &str, words: &str) {
        let found = self.0.iter().any(|of| of[0] == check && of[1] == result && of[2].contains(words));
        assert!(found, "{check}: {result}: {words}: {:#?}", self.0);
    }

    fn is_well(&self) {
        let ill = self.0.iter().find(|of| of[1] != "ok");
        assert!(!self.0.is_empty() && ill.is_none(), "{:#?}", self.0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_doctor_looks_at_the_hub_through_its_pooler() {
    if skipped(&["HUB_TESTS", "HUB_PGBOUNCER"]) {
        return;
    }
    let world = project().await;
    let pooler = PgBouncer::start(world.cluster.port).await;
    let (user, password) = (hub::USER, hub::ENCODED);
    let config = |port: u16, query: &str| {
        let url = format!("postgresql://{user}:{password}@127.0.0.1:{port}/keytide?{query}sslmode=disable");
        node::config(&world.upstream, None, &node::hub_at(&url))
    };
    let pooled = config(pooler.port, "pgbouncer=true&");
    let said = Said::of(&pooled).await;
    said.has("hub default", "ok", "answers over postgres");
    said.has("hub default pooler", "ok", "transaction mode");
    said.has("hub default clock", "ok", "the same as this machine's");
    said.has("hub default schema", "ok", "closed to anon, authenticated and PUBLIC");
    said.is_well();
    let direct = Said::of(&config(world.cluster.port, "")).await;
    direct.has("hub default pooler", "ok", "none is named");
    direct.is_well();

    world.sql(
        "GRANT SELECT ON ollama_api_keys TO anon; GRANT SELECT (token) ON ollama_api_client_tokens TO PUBLIC",
    );
    let said = Said::of(&pooled).await;
    said.has("hub default schema", "failed", "the role anon has rights on the table ollama_api_keys");
    said.has(
        "hub default schema",
        "failed",
        "everybody (PUBLIC) has rights on the column ollama_api_client_tokens.token",
    );
    world.apply_schema().await;
    world.sql(
        "INSERT INTO ollama_api_global_stats (id, total_requests, success_count) VALUES ('global', 9, 9); \
         UPDATE ollama_api_global_stats SET total_requests = 3, success_count = 3",
    );
    let said = Said::of(&pooled).await;
    said.has(
        "hub default reports",
        "warning",
        "a lowered counter in ollama_api_global_stats was ignored once",
    );
    world.sql("UPDATE keytide_settings SET schema_version = 99");
    Said::of(&pooled).await.has("hub default schema", "failed", "the hub has schema 99");
    world.sql("DROP FUNCTION keytide_pull(jsonb)");
    Said::of(&pooled).await.has("hub default", "failed", "keytide_pull");
    Said::of(&config(1, "")).await.has("hub default", "failed", "connection");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_seen_over_rest_is_not_claimed() {
    if skipped(&["HUB_TESTS", "HUB_POSTRUST"]) {
        return;
    }
    let world = project().await;
    let api = Postrust::start_for(world.cluster.port, "anon").await;
    let service = postrust::key("service_role");
    let env = [("SUPABASE_REST_URL", api.base.as_str()), ("SUPABASE_SERVICE_ROLE_KEY", &service)];
    let config = node::config(
        &world.upstream,
        None,
        &format!("[sync]\nrest_url = \"{}\"\nservice_key = \"{service}\"\n", api.base),
    );
    let (code, out, err) = keytide(&["schema", "check"], &env).await;
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("is not seen over REST") && !out.contains("complete"), "{out}");
    Said::of(&config).await.has("hub default schema", "ok", "over REST the rights are not seen");

    world.sql("UPDATE keytide_settings SET schema_version = 99");
    let (code, out, err) = keytide(&["schema", "check"], &env).await;
    assert!(code == 1 && out.contains("the hub has schema 99, and this keytide knows 1"), "{out}{err}");
    let (code, out, _) = keytide(&["schema", "check", "--json"], &env).await;
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["sound"], &report["rights_seen"]), (1, &json!(false), &json!(false)));
    Said::of(&config).await.has("hub default schema", "failed", "the hub has schema 99");
}
