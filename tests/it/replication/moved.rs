//! The hub itself changes: another cluster has its tables, or none, or it is as it was some time ago.

use std::process::Command;

use serde_json::json;

use super::world::{World, key};
use crate::pg::{self, Cluster};

impl World {
    /// An active hub of two instances, each of which has told it something.
    async fn of_two() -> (Self, i64) {
        let world = Self::new(2).await;
        world.stock().await;
        let served = world.serve(9).await;
        world.nodes[0].edit(&key(3), &json!({"note": "kept"})).await;
        world.nodes[1].delete(&key(6)).await;
        world.is_exact(served).await;
        (world, served)
    }

    async fn serve(&self, requests: i64) -> i64 {
        let mut served = 0;
        for node in &self.nodes {
            served += node.serve("ollama", requests).await;
        }
        served
    }

    /// All ways lead to another cluster from now on; returns the old one.
    fn move_to(&mut self, cluster: Cluster) -> Cluster {
        for node in &self.nodes {
            node.cutter.lead_to(cluster.port);
        }
        std::mem::replace(&mut self.cluster, cluster)
    }

    /// Every instance has stopped by itself, and says why and what to do.
    async fn stop_with(&self, words: &str) {
        for node in &self.nodes {
            let status = node.sync_now().await.unwrap();
            let hub = &status["hubs"][0];
            assert_eq!(hub["state"], "stopped", "{}: {hub:#}", node.name);
            let reason = hub["streams"][0]["reason"].as_str().unwrap_or_default();
            assert!(
                reason.contains(words) && reason.contains("keytide sync adopt"),
                "{}: {hub:#}",
                node.name
            );
        }
    }

    /// Of connections that are made from now on.
    fn writes(&self, setting: &str) {
        self.cluster.psql(&format!("SET TRANSACTION READ WRITE; ALTER DATABASE postgres {setting}"));
        for node in &self.nodes {
            node.cutter.lead_to(self.cluster.port);
        }
    }

    async fn adopt(&self) {
        let done = self.nodes[0].post("/admin/sync/adopt", &json!({})).await;
        assert!(!done["done"].as_array().unwrap().is_empty(), "{done}");
    }

    /// People's decisions have survived.
    async fn decisions_stand(&self) {
        for node in &self.nodes {
            assert_eq!(node.key(&key(3)).await.unwrap()["note"], "kept", "{}", node.name);
            assert!(node.key(&key(6)).await.is_none(), "{} has a deleted key", node.name);
        }
    }
}

/// What `pg_dump` makes of one, into the other.
fn dump(from: &Cluster, to: &Cluster) {
    let of = |cluster: &Cluster| {
        let socket = cluster.socket().display().to_string();
        [
            "-h".to_owned(),
            socket,
            "-p".to_owned(),
            cluster.port.to_string(),
            "-U".to_owned(),
            "postgres".to_owned(),
        ]
    };
    let dumped = Command::new("pg_dump").args(of(from)).arg("postgres").output().unwrap();
    assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), &dumped.stdout).unwrap();
    let restored = Command::new("psql")
        .args(of(to))
        .args(["-Xq", "-v", "ON_ERROR_STOP=1", "-d", "postgres", "-f"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(restored.status.success(), "{}", String::from_utf8_lossy(&restored.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_dumped_and_restored_elsewhere() {
    let (mut world, mut served) = World::of_two().await;
    let other = Cluster::start(pg::Options::default());
    dump(&world.cluster, &other);
    // After the dump: only the instances know of these.
    served += world.serve(5).await;
    world.nodes[1].edit(&key(4), &json!({"note": "after the dump"})).await;
    world.is_exact(served).await;
    let _old = world.move_to(other);
    served += world.serve(6).await;
    world.stop_with("another database").await;
    served += world.serve(7).await;
    world.adopt().await;
    world.is_exact(served).await;
    world.decisions_stand().await;
    assert_eq!(world.nodes[0].key(&key(4)).await.unwrap()["note"], "after the dump");
    served += world.serve(4).await;
    world.is_exact(served).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_emptied() {
    let (mut world, mut served) = World::of_two().await;
    world.cluster.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    world.apply_schema().await;
    served += world.serve(6).await;
    world.stop_with("another database").await;
    world.nodes[1].kill();
    world.nodes[1].restart().await;
    served += world.serve(7).await;
    // A database that takes no writes is no hub yet, and that is what is said.
    world.writes("SET default_transaction_read_only = on");
    for _ in 0..2 {
        let path = "/admin/sync/adopt";
        let (status, refusal) = world.nodes[0].ask(reqwest::Method::POST, path, Some(&json!({}))).await;
        assert!(status == 502 && refusal.to_string().contains("takes no writes"), "{refusal}");
    }
    world.writes("RESET default_transaction_read_only");
    world.adopt().await;
    world.is_exact(served).await;
    world.decisions_stand().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_as_it_was_before() {
    let (mut world, mut served) = World::of_two().await;
    let copy = world.cluster.copy();
    served += world.serve(5).await;
    world.nodes[1].edit(&key(4), &json!({"note": "after the copy"})).await;
    world.nodes[0].delete(&key(7)).await;
    world.is_exact(served).await;
    let old = world.move_to(copy);
    served += world.serve(6).await;
    // By themselves: what the hub has forgotten is kept.
    world.is_exact(served).await;
    world.decisions_stand().await;
    for node in &world.nodes {
        assert_eq!(node.key(&key(4)).await.unwrap()["note"], "after the copy", "{}", node.name);
        assert!(node.key(&key(7)).await.is_none(), "{}", node.name);
        let notes = node.sync().await["hubs"][0]["notes"].to_string();
        assert!(notes.contains("the hub had forgotten"), "{notes}");
    }
    drop(old);
}
