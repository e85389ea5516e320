//! Storage budgets through a running keytide: every rung is climbed and said, on the hub and in the file, and what is
//! exact stays exact. The hub is filled by a table of somebody else's: all of the database counts.

use std::process::Command;

use keytide::demo::upstream::{Upstream, UpstreamOptions};
use serde_json::{Value, json};

use crate::{
    pg::{self, Cluster},
    replication::{
        cutter::Cutter,
        node::{self, ADMIN, Node},
        world::World,
    },
};

/// A hub with something else in it, and one instance with keys and a token.
async fn world(more: &str, there: &str) -> World {
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    node::keytide(&["schema", "apply"], &world.cluster.url("postgres", "postgres"));
    if !there.is_empty() {
        world.sql(there);
    }
    let cutter = Cutter::start(world.cluster.port).await;
    let config = node::config(&world.upstream, None, &format!("{}{more}", node::hub(cutter.port)));
    world.nodes.push(Node::with(0, cutter, &config).await);
    world.stock().await;
    world
}

fn number(world: &World, sql: &str) -> i64 {
    world.sql(sql)[0][0].parse().unwrap()
}

/// Fills the database, or empties it, until that much of it counts.
fn fill(world: &World, bytes: i64) {
    world.sql("TRUNCATE filler");
    let used = number(world, "SELECT keytide_used()");
    // A row to a page.
    let rows = (bytes - used) / 8192;
    world.sql(&format!("INSERT INTO filler SELECT repeat('x', 7900) FROM generate_series(1, {rows})"));
}

async fn retained(node: &Node) -> Value {
    node.post("/admin/storage/retain", &json!({})).await
}

async fn text(node: &Node, path: &str) -> String {
    reqwest::get(format!("{}{path}", node.url)).await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_rung_of_a_hub_is_climbed_and_said_and_totals_stay_exact() {
    const BUDGET: i64 = 100_000_000;
    let filler = "CREATE TABLE filler (t text); ALTER TABLE filler ALTER COLUMN t SET STORAGE PLAIN";
    let world = world("[budget]\nhub = \"100MB\"\n", filler).await;
    let node = &world.nodes[0];
    let hours = "SELECT coalesce(sum(total_requests), 0) FROM hourly_stats";
    let mut served = 0;
    for (percent, rung) in [(40, 0), (75, 1), (88, 2), (97, 3), (40, 0)] {
        fill(&world, BUDGET / 100 * percent);
        let storage = retained(node).await;
        let hub = &storage["hubs"][0];
        assert_eq!((&hub["hub"], &hub["rung"]), (&json!("default"), &json!(rung)), "{hub}");
        let used = hub["used_bytes"].as_i64().unwrap();
        assert!((used - BUDGET / 100 * percent).abs() < 3_000_000, "{used} at {percent} %");
        assert_eq!(
            (&hub["budget_bytes"], hub["tables"][0]["name"].as_str()),
            (&json!(BUDGET), Some("filler"))
        );
        let before = number(&world, hours);
        served += node.serve("ollama", 12).await;
        world.is_exact(served).await;
        let attempts: i64 = world.attempts().await.values().sum();
        let shared = "SELECT sum((usage_stats ->> 'total_usage_count')::bigint) FROM shared_keys";
        assert_eq!(number(&world, shared), attempts, "what keys were ever used, at {percent} %");
        let told = number(&world, hours) - before;
        assert_eq!(told > 0, rung < 3, "hours of keys, {told}, at {percent} %");
        let metrics = text(node, "/metrics").await;
        assert!(
            metrics.contains(&format!("keytide_storage_rung{{where=\"hub/default\"}} {rung}")),
            "{metrics}"
        );
        assert_eq!(text(node, "/ready").await.contains("storage budget of hub/default"), rung >= 2);
    }
    let process = node.process.as_ref().unwrap();
    assert_eq!(process.times("the hub's storage budget is used up further"), 3);
    assert_eq!(process.times("the hub has room again"), 1);
    assert_eq!(process.times("the hub has no room for what is optional"), 1, "once, whatever is kept back");
    let storage = retained(node).await;
    assert!(storage["hubs"][0]["kept_back"].as_u64().unwrap() > 0, "{storage}");
    let metrics = text(node, "/metrics").await;
    assert!(metrics.contains("keytide_storage_bytes{where=\"hub/default\",table=\"filler\"}"), "{metrics}");
    assert!(metrics.contains("keytide_storage_budget_bytes{where=\"hub/default\"} 100000000"), "{metrics}");

    // Each step is an event, also at the hub, where there was no room for the details of one.
    let events = node.get("/admin/events?type=storage").await;
    let steps: Vec<_> =
        events["events"].as_array().unwrap().iter().map(|event| &event["details"]["rung"]).collect();
    assert_eq!(steps, [0, 3, 2, 1], "{events}");
    world.settle().await;
    let told =
        "SELECT count(*), count(*) FILTER (WHERE details ->> 'place' = 'hub/default') FROM security_events
                WHERE event_type = 'storage'";
    assert_eq!(world.sql(told)[0], ["4", "3"]);

    // The same for people, through the server, and without one from the hub itself.
    let shown =
        node::keytide(&["store", "size", "--url", &node.url, "--admin-token", ADMIN], "postgres://unused");
    assert!(shown.contains("hub default, postgres://") && shown.contains(" in use of 100.0 MB, "), "{shown}");
    assert!(shown.contains("in use of 256.0 MB, "), "{shown}");
    let alone = tempfile::tempdir().unwrap();
    std::fs::create_dir(alone.path().join("data")).unwrap();
    let data = alone.path().join("data");
    crate::process::copy_store(&node.home.data(), &data);
    let url = world.cluster.url("postgres", "postgres");
    let shown = node::keytide(&["store", "size", "--json", "--data-dir", data.to_str().unwrap()], &url);
    let shown: Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["hubs"][0]["tables"][0]["name"], "filler", "{shown}");
    assert_eq!((&shown["hubs"][0]["rung"], &shown["local"]["rung"]), (&json!(0), &json!(0)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_was_closed_for_its_size_is_freed() {
    let world = world("", "").await;
    let node = &world.nodes[0];
    let mut served = node.serve("ollama", 6).await;
    world.is_exact(served).await;
    world.sql(
        "SET session_replication_role = replica; INSERT INTO ollama_api_model_hourly (model, hour, requests)
         SELECT 'm' || n, now() - '40 days'::interval, 1 FROM generate_series(1, 3000) n",
    );
    let old = "SELECT count(*) FROM ollama_api_model_hourly WHERE hour < now() - '31 days'::interval";
    assert_eq!(number(&world, old), 3000);
    // As Supabase does it.
    let close = |to: &str| {
        world.cluster.psql_in(
            "template1",
            &format!("ALTER DATABASE postgres SET default_transaction_read_only = {to}"),
        );
        let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'postgres'";
        world.cluster.psql_in("template1", others);
    };
    close("on");
    served += node.serve("ollama", 6).await;
    while !node.sync_now().await.unwrap()["hubs"][0]["last_error"]["message"]
        .to_string()
        .contains("takes no writes")
    {}
    assert_eq!(number(&world, old), 3000);
    let storage = retained(node).await;
    assert_eq!(number(&world, old), 0, "{storage}");
    let waits = node.sync_now().await.unwrap();
    assert!(waits["hubs"][0]["last_error"]["message"].to_string().contains("takes no writes"), "{waits}");
    close("off");
    while !node.sync_now().await.unwrap()["hubs"][0]["last_error"].is_null() {}
    world.is_exact(served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_fills_up_keeps_less_and_counts_all() {
    const BUDGET: u64 = 4_000_000;
    const MANY: usize = 800;
    let upstream = Upstream::start(UpstreamOptions::default()).await.unwrap();
    let config = node::config(&upstream, None, "[budget]\nlocal = \"4MB\"\n");
    let mut node = Node::with(0, Cutter::start(1).await, &config).await;
    node.stock("ollama").await;
    let (mut served, mut visited, mut keys) = (0, Vec::new(), Vec::new());
    while visited.last() != Some(&3) {
        assert!(keys.len() < 100_000, "{visited:?}");
        let more: Vec<_> =
            (keys.len()..keys.len() + MANY).map(|n| format!("filler-{n:06}-0123456789abcdef")).collect();
        let list = json!({"provider": "openrouter", "keys": more.iter().map(|key| format!("sk-or-{key}")).collect::<Vec<_>>()});
        node.post("/admin/api-keys/import", &list).await;
        keys.extend(more);
        let local = node.get("/admin/storage").await["local"].clone();
        let (rung, used) = (local["rung"].as_u64().unwrap(), local["used_bytes"].as_u64().unwrap());
        // Some goes with the step.
        let least = [0, 65, 80, 90][rung as usize];
        assert!(used * 100 >= BUDGET * least, "rung {rung} at {used}");
        if visited.last() != Some(&rung) {
            visited.push(rung);
            served += node.serve("ollama", 5).await;
        }
    }
    assert_eq!(visited, [0, 1, 2, 3]);
    assert_eq!(node.process.as_ref().unwrap().times("the file's storage budget is used up further"), 3);
    let storage = node.get("/admin/storage").await;
    assert!(storage["local"]["advice"].to_string().contains("raise [budget] local"), "{storage}");
    served += node.serve("ollama", 5).await;
    assert_eq!(node.stats().await["total_requests"], served);

    for some in keys.chunks(2000) {
        let gone: Vec<_> = some.iter().map(|key| format!("sk-or-{key}")).collect();
        let path = "/admin/api-keys?provider=openrouter";
        let (status, body) = node.ask(reqwest::Method::DELETE, path, Some(&json!({"keys": gone}))).await;
        assert_eq!(status, 200, "{body}");
    }
    let storage = node.get("/admin/storage").await;
    assert_eq!(storage["local"]["rung"], 0, "{storage}");
    assert_eq!(node.process.as_ref().unwrap().times("the file has room again"), 1);
    let before = storage["file_bytes"].as_u64().unwrap();
    assert!(before > BUDGET * 7 / 10, "{before}");
    assert!(storage["local"]["advice"].to_string().contains("keytide store compact"), "{storage}");
    node.stop().await;
    node.restart().await;
    node.process.as_mut().unwrap().logged("the store was compacted").await;
    let after = node.get("/admin/storage").await["file_bytes"].as_u64().unwrap();
    assert!(after < before, "{before} → {after}");
    assert_eq!(node.stats().await["total_requests"], served);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_kept_of_each_request_where_somebody_wants_that() {
    let mut world = world("[usage_log]\nenabled = false\n", "").await;
    let url = world.cluster.url("postgres", "postgres");
    let advice = async |node: &Node| node.get("/admin/storage").await["hubs"][0]["advice"].to_string();
    assert!(!advice(&world.nodes[0]).await.contains("usage-logs"));
    // Switched on while it runs, the hub's part of it is said with the next round.
    let file = world.nodes[0].home.dir.path().join("config.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("[usage_log]\nenabled = false", "[usage_log]\nenabled = true"))
        .unwrap();
    let process = world.nodes[0].process.as_mut().unwrap();
    process.signal("HUP");
    process.logged("the configuration is reloaded").await;
    let node = &world.nodes[0];
    node.sync_now().await.unwrap();
    let said = advice(node).await;
    assert!(said.contains("schema apply --usage-logs"), "{said}");
    let said = node::keytide(&["schema", "apply", "--usage-logs"], &url);
    assert!(said.contains("kept for seven days"), "{said}");
    let storage = retained(node).await;
    assert!(!storage["hubs"][0]["advice"].to_string().contains("usage-logs"), "{storage}");
    let served = node.serve("ollama", 8).await;
    world.is_exact(served).await;
    let rows = "SELECT count(*), count(DISTINCT shared_key_id) > 1, min(usage_type), max(usage_type), min(status_code),
                max(status_code), bool_and(created_at > now() AT TIME ZONE 'UTC' - '1 hour'::interval) FROM key_usage_logs";
    assert_eq!(world.sql(rows)[0], ["8", "t", "1", "1", "200", "200", "t"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_of_another_make_gets_no_rows_of_requests() {
    let legacy = "CREATE TABLE key_usage_logs (id serial PRIMARY KEY, shared_key_id uuid, user_id uuid, created_at timestamptz)";
    let world = world("[usage_log]\nenabled = true\n", legacy).await;
    let node = &world.nodes[0];
    retained(node).await;
    let notes = node.sync().await["hubs"][0]["notes"].to_string();
    assert!(notes.contains("a table key_usage_logs of another make"), "{notes}");
    let done = Command::new(env!("CARGO_BIN_EXE_keytide"))
        .env_clear()
        .env("DATABASE_URL", world.cluster.url("postgres", "postgres"))
        .args(["schema", "apply", "--usage-logs"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(!done.status.success() && said.contains("of another make already"), "{said}");
    assert!(said.contains("keytide migrate usage-logs"), "{said}");
    let served = node.serve("ollama", 4).await;
    world.is_exact(served).await;
    assert_eq!(number(&world, "SELECT count(*) FROM key_usage_logs"), 0);
}
