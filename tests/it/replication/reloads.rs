//! A configuration that changes while replication goes on.

use keytide::replica::schema::{self, Target};
use serde_json::Value;
use tokio::time::Instant;

use super::{
    cutter::Cutter,
    node::{self, Node},
    world::{World, key},
};
use crate::{
    pg::{self, Cluster},
    process::PATIENCE,
    schema::OLLAMA,
};

const MINE: Target<'static> = Target { prefix: "mine_api", provider: "mine" };

impl Node {
    pub async fn reload(&self, config: &str, times: usize) {
        std::fs::write(self.home.dir.path().join("config.toml"), config).unwrap();
        let process = self.process.as_ref().unwrap();
        process.signal("HUP");
        let deadline = Instant::now() + PATIENCE;
        while process.times("is reloaded") < times {
            assert!(Instant::now() < deadline, "it is not reloaded");
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_provider_that_comes_back_knows_what_was_decided_meanwhile() {
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    let owner = world.cluster.connect("postgres", "postgres").await;
    let left = schema::apply(&owner, &[OLLAMA, MINE], false).await.unwrap().left;
    assert!(left.problems.is_empty(), "{left:#?}");
    let cutter = Cutter::start(world.cluster.port).await;
    let without = node::config(&world.upstream, None, &node::hub(cutter.port));
    let with = format!("{without}\n[providers.mine]\nbase_url = \"{}\"\n", world.upstream.base_url());
    world.nodes.push(Node::with(0, cutter, &with).await);
    let node = &world.nodes[0];
    node.stock("mine").await;
    node.serve("mine", 6).await;
    let before = world.attempts_of(&key(4));
    node.sync_now().await.unwrap();
    let log = "\n[log]\nformat = \"json\"\nfilter = \"info\"\n";

    node.reload(&format!("{without}{log}"), 1).await;
    for sql in [
        format!("UPDATE mine_api_keys SET username = 'eve' WHERE api_key = '{}'", key(3)),
        format!("DELETE FROM mine_api_keys WHERE api_key = '{}'", key(4)),
        "INSERT INTO mine_api_keys (api_key, username) VALUES ('by-hand-0123456789abcdef', 'dora')".to_owned(),
        "INSERT INTO mine_api_client_tokens (token, name) VALUES ('token-by-hand-0123456789', 'guest')".to_owned(),
        "UPDATE mine_api_global_stats SET total_requests = total_requests + 10, success_count = success_count + 10"
            .to_owned(),
    ] {
        world.sql(&sql);
    }
    node.sync_now().await.unwrap();
    node.reload(&format!("{with}{log}"), 2).await;

    let picture = node.picture_of("mine").await;
    assert_eq!(picture["total"][0], 16, "{picture:#}");
    assert_eq!(picture["tokens"]["guest"], 0, "{picture:#}");
    let names: Vec<&Value> = picture["states"].as_object().unwrap().values().map(|of| &of[1]).collect();
    assert_eq!(names.len(), 12, "one was deleted, one added: {picture:#}");
    assert!(names.contains(&&Value::from("eve")) && names.contains(&&Value::from("dora")), "{names:?}");
    assert_eq!(node.serve("mine", 13).await, 13);
    assert_eq!(world.attempts_of(&key(4)), before, "a deleted key is not used");
}
