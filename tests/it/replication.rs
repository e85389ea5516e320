//! Several keytides, each in a process of its own, and one hub: what they count and what people decide must come to
//! the same everywhere, whatever is killed, cut or kept away meanwhile.

mod cutter;
mod node;

use std::{collections::BTreeMap, time::Duration};

use keytide::demo::upstream::{Behaviour, StatusReply, Upstream, UpstreamOptions};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    harness::TOKEN,
    pg::{self, Cluster},
    process::PATIENCE,
};
use node::{Load, Node};

/// Calls of keytide's own, which its books leave out.
const LISTS: [&str; 2] = ["/v1/models", "/api/tags"];
const KEYS: usize = 12;

fn key(n: usize) -> String {
    format!("key-{n:02}-0123456789abcdef")
}

/// Some keys fail now and then, so that there is health to agree on.
fn behaviour(n: usize) -> Behaviour {
    let turns = |bad: Behaviour, good: usize| {
        let mut steps = vec![Behaviour::Good; good];
        steps.push(bad);
        Behaviour::Cycle(steps)
    };
    match n {
        0 => turns(StatusReply::new(429).header("retry-after-ms", "700").into(), 9),
        1 => turns(Behaviour::status(503), 11),
        _ => Behaviour::Good,
    }
}

struct World {
    cluster: Cluster,
    upstream: Upstream,
    nodes: Vec<Node>,
}

impl World {
    async fn new(nodes: usize) -> Self {
        let cluster = Cluster::start(pg::Options::default());
        let url = cluster.url("postgres", "postgres");
        node::keytide(&["schema", "apply"], &url);
        let upstream = Upstream::start(UpstreamOptions::default()).await.unwrap();
        for n in 0..KEYS {
            upstream.set_behaviour(key(n), behaviour(n));
        }
        let mut world = Self { cluster, upstream, nodes: Vec::new() };
        for n in 0..nodes {
            let node = Node::start(&world.upstream, &world.cluster, n).await;
            world.nodes.push(node);
        }
        world
    }

    /// Keys and a token, given to the first and then known to all.
    async fn stock(&self) {
        let keys: Vec<_> = (0..KEYS).map(key).collect();
        let first = &self.nodes[0];
        let added = first.post("/admin/api-keys/import", &json!({"provider": "ollama", "keys": keys})).await;
        assert_eq!(added["added"], KEYS, "{added}");
        first.post("/admin/tokens", &json!({"name": "test", "token": TOKEN})).await;
        self.settle().await;
        for node in &self.nodes {
            assert_eq!(node.stats().await["total_api_keys"], KEYS, "{} knows all keys", node.name);
        }
    }

    /// Rounds of all instances, until nothing waits anywhere and nothing moves any more.
    async fn settle(&self) {
        let deadline = Instant::now() + PATIENCE * 2;
        let mut before = None;
        loop {
            let mut waits = false;
            for node in &self.nodes {
                let status = node.sync_now().await;
                waits |= status.is_none_or(|status| {
                    let streams = status["hubs"][0]["streams"].as_array().unwrap().clone();
                    streams.iter().any(|stream| {
                        stream["pending_rows"] != 0 || stream["open_rows"] != 0 || stream["state"] != "ok"
                    })
                });
            }
            let mut picture = Vec::new();
            for node in &self.nodes {
                picture.push(node.picture().await);
            }
            let same = picture.windows(2).all(|two| two[0] == two[1]);
            if !waits && same && before.as_ref() == Some(&picture) {
                return;
            }
            assert!(Instant::now() < deadline, "they do not come to rest: {picture:#?}");
            before = Some(picture);
        }
    }

    fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        let text = self.cluster.psql(sql);
        text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
    }

    /// What the hub holds, in the words of a node's picture.
    fn hub_picture(&self) -> Value {
        let number = |text: &str| text.parse::<i64>().unwrap();
        let total = &self.sql(
            "SELECT total_requests, success_count, failure_count, prompt_tokens, completion_tokens \
             FROM ollama_api_global_stats",
        )[0];
        let keys: BTreeMap<_, _> = self
            .sql(
                "SELECT k.api_key, coalesce(s.total_requests, 0), coalesce(s.success_count, 0), \
                 coalesce(s.failure_count, 0) FROM ollama_api_keys k LEFT JOIN ollama_api_key_stats s USING (api_key)",
            )
            .into_iter()
            .map(|row| {
                let id = keytide::model::KeyId::derive("ollama", &row[0]).to_string();
                (id, json!([number(&row[1]), number(&row[2]), number(&row[3])]))
            })
            .collect();
        let models: BTreeMap<_, _> = self
            .sql("SELECT model, total_requests, success_count, failure_count FROM ollama_api_model_stats")
            .into_iter()
            .map(|row| (row[0].clone(), json!([number(&row[1]), number(&row[2]), number(&row[3])])))
            .collect();
        let tokens: BTreeMap<_, _> = self
            .sql("SELECT name, request_count FROM ollama_api_client_tokens")
            .into_iter()
            .map(|row| (row[0].clone(), json!(number(&row[1]))))
            .collect();
        json!({
            "total": [number(&total[0]), number(&total[1]), number(&total[2]), number(&total[3]), number(&total[4])],
            "keys": keys, "models": models, "tokens": tokens,
        })
    }

    /// Hub and all instances agree on every number; returns the total of requests.
    async fn agree(&self) -> i64 {
        self.settle().await;
        let hub = self.hub_picture();
        for node in &self.nodes {
            let mut picture = node.picture().await;
            picture.as_object_mut().unwrap().remove("states");
            assert_eq!(picture, hub, "{} and the hub", node.name);
        }
        hub["total"][0].as_i64().unwrap()
    }

    /// Attempts that the provider has seen, by key.
    async fn attempts(&self) -> BTreeMap<String, i64> {
        tokio::time::timeout(PATIENCE, self.upstream.tally().idle()).await.unwrap();
        let tally = self.upstream.tally();
        (0..KEYS)
            .map(|n| {
                let key = key(n);
                let attempts = tally.sum(|of, at| of == key && !LISTS.contains(&at)).attempts;
                (keytide::model::KeyId::derive("ollama", &key).to_string(), attempts as i64)
            })
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counts_are_exact_whatever_happens_to_the_hub() {
    let mut world = World::new(3).await;
    world.stock().await;
    // Somebody else's transaction, open throughout.
    let open = world.cluster.connect("postgres", "postgres").await;
    open.batch_execute("BEGIN; CREATE TABLE elsewhere (n int); SELECT pg_current_xact_id()").await.unwrap();
    let loads: Vec<_> = world.nodes.iter().map(Load::start).collect();
    let beat = Duration::from_millis(1200);
    for round in 0..4 {
        tokio::time::sleep(beat).await;
        // The hub commits, and its answer is lost.
        world.nodes[round % 3].cutter.cut_next_answer("keytide_push");
        tokio::time::sleep(beat).await;
        // One is kept away, and edits meanwhile.
        let away = &world.nodes[(round + 1) % 3];
        away.cutter.refuse(true);
        let note = json!({"note": format!("round {round}")});
        away.edit(&key(5), &note).await;
        tokio::time::sleep(beat).await;
        away.cutter.refuse(false);
        if round == 1 {
            world.cluster.kill9();
            tokio::time::sleep(beat).await;
            world.cluster.restart();
        }
    }
    let mut seen = 0;
    for load in loads {
        seen += load.answered().await;
    }
    let total = world.agree().await;
    assert_eq!(total, seen, "every request once");
    let hub = world.hub_picture();
    for (id, attempts) in world.attempts().await {
        assert_eq!(hub["keys"][&id][0], attempts, "attempts of {id}");
    }
    drop(open);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_instances_lose_nothing_that_was_answered() {
    let mut world = World::new(3).await;
    world.stock().await;
    let (mut least, mut most) = (0, 0);
    for round in 0..6 {
        let loads: Vec<_> = world.nodes.iter().map(Load::start).collect();
        tokio::time::sleep(Duration::from_millis(900 + 250 * round)).await;
        let victim = round as usize % 3;
        world.nodes[victim].kill();
        for load in loads {
            let (answered, cut) = load.seen().await;
            least += answered;
            most += answered + cut;
        }
        world.nodes[victim].restart().await;
        let total = world.agree().await;
        assert!((least..=most).contains(&total), "round {round}: {least} ≤ {total} ≤ {most}");
        // What was lost is known now.
        (least, most) = (total, total);
    }
    let hub = world.hub_picture();
    for (id, attempts) in world.attempts().await {
        let counted = hub["keys"][&id][0].as_i64().unwrap();
        assert!(counted <= attempts, "{id}: {counted} counted, {attempts} made");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn decisions_arrive_everywhere_and_none_is_undone() {
    let world = World::new(3).await;
    world.stock().await;
    let [a, b, c] = &world.nodes[..] else { panic!() };
    // At the same time, on three instances, fields of one key.
    a.edit(&key(3), &json!({"note": "from a"})).await;
    b.edit(&key(3), &json!({"weight": 7})).await;
    c.edit(&key(3), &json!({"username": "carol"})).await;
    a.switch("disable", &key(4), json!({})).await;
    b.delete(&key(6)).await;
    // An edit elsewhere does not bring a deleted key back.
    c.edit(&key(6), &json!({"note": "too late"})).await;
    world.settle().await;
    for node in &world.nodes {
        let three = node.key(&key(3)).await.unwrap();
        assert_eq!(
            (&three["note"], &three["weight"], &three["username"]),
            (&json!("from a"), &json!(7), &json!("carol")),
            "{}",
            node.name
        );
        assert_eq!(node.key(&key(4)).await.unwrap()["status"], "disabled");
        assert!(node.key(&key(6)).await.is_none(), "{} still has a deleted key", node.name);
    }
    // A person in the table editor.
    world.sql(&format!("UPDATE ollama_api_keys SET status = 'active' WHERE api_key = '{}'", key(4)));
    world.sql(&format!("UPDATE ollama_api_keys SET status = 'disabled' WHERE api_key = '{}'", key(5)));
    world.sql(&format!("DELETE FROM ollama_api_keys WHERE api_key = '{}'", key(7)));
    world.sql("INSERT INTO ollama_api_keys (api_key, username) VALUES ('by-hand-0123456789abcdef', 'dora')");
    c.post("/admin/api-keys", &json!({"provider": "ollama", "key": key(6)})).await;
    world.settle().await;
    for node in &world.nodes {
        assert_eq!(node.key(&key(4)).await.unwrap()["status"], "active", "{}", node.name);
        assert_eq!(node.key(&key(5)).await.unwrap()["status"], "disabled", "{}", node.name);
        assert!(node.key(&key(7)).await.is_none(), "{}", node.name);
        assert_eq!(node.key("by-hand-0123456789abcdef").await.unwrap()["username"], "dora", "{}", node.name);
        assert!(node.key(&key(6)).await.is_some(), "{} lacks a key that was added again", node.name);
    }
}
