//! Several keytides, their provider and their hub, and how what each of them counts is compared.

use std::collections::BTreeMap;

use keytide::{
    demo::upstream::{Behaviour, StatusReply, Upstream, UpstreamOptions},
    model::KeyId,
    replica::schema,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::node::{self, Node};
use crate::{
    pg::{self, Cluster},
    process::PATIENCE,
    schema::{OLLAMA, OPENROUTER},
};

/// Calls of keytide's own, which its books leave out.
const LISTS: [&str; 2] = ["/v1/models", "/api/tags"];
pub const KEYS: usize = 12;

pub fn key(n: usize) -> String {
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

pub struct World {
    pub cluster: Cluster,
    /// Of the cluster, where the hub is.
    pub database: String,
    /// Whose the schema is.
    pub owner: String,
    pub upstream: Upstream,
    pub nodes: Vec<Node>,
}

impl World {
    /// So many instances on a hub that is in order.
    pub async fn new(nodes: usize) -> Self {
        let mut world = Self::over(Cluster::start(pg::Options::default())).await;
        node::keytide(&["schema", "apply"], &world.cluster.url("postgres", "postgres"));
        for n in 0..nodes {
            let node = Node::start(&world.upstream, &world.cluster, n).await;
            world.nodes.push(node);
        }
        world
    }

    /// A provider and a cluster, with nothing in it and nobody who uses it yet.
    pub async fn over(cluster: Cluster) -> Self {
        let upstream = Upstream::start(UpstreamOptions::default()).await.unwrap();
        for n in 0..KEYS {
            upstream.set_behaviour(key(n), behaviour(n));
        }
        Self {
            cluster,
            database: "postgres".to_owned(),
            owner: "postgres".to_owned(),
            upstream,
            nodes: Vec::new(),
        }
    }

    /// Not over the network: whatever stands in its way there.
    pub async fn apply_schema(&self) {
        let owner = self.cluster.connect(&self.database, &self.owner).await;
        let left = schema::apply(&owner, &[OLLAMA, OPENROUTER], false).await.unwrap().left;
        assert!(left.problems.is_empty(), "{left:#?}");
    }

    /// Keys and a token, given to the first and then known to all.
    pub async fn stock(&self) {
        self.nodes[0].stock("ollama").await;
        self.settle().await;
        for node in &self.nodes {
            assert_eq!(node.stats().await["total_api_keys"], KEYS, "{} knows all keys", node.name);
        }
    }

    /// Rounds of all instances, until nothing waits anywhere and nothing moves any more.
    pub async fn settle(&self) {
        let deadline = Instant::now() + PATIENCE * 2;
        let mut before = None;
        loop {
            let mut waits = false;
            for node in &self.nodes {
                let status = node.sync_now().await;
                waits |= status.is_none_or(|status| {
                    status["hubs"].as_array().unwrap().iter().any(|hub| !is_at_rest(hub))
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

    pub fn sql(&self, sql: &str) -> Vec<Vec<String>> {
        let text = self.cluster.psql_in(&self.database, sql);
        text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
    }

    /// What the hub holds of a provider, in the words of a node's picture.
    pub fn hub_picture(&self, provider: &str) -> Value {
        hub_picture(provider, |sql| self.sql(sql))
    }

    /// Hub and all instances agree on every number; returns the total of requests.
    pub async fn agree(&self) -> i64 {
        self.settle().await;
        self.compare("ollama").await
    }

    pub async fn compare(&self, provider: &str) -> i64 {
        let hub = self.hub_picture(provider);
        for node in &self.nodes {
            assert_eq!(numbers(node.picture_of(provider).await), hub, "{} and the hub", node.name);
        }
        total(&hub)
    }

    /// Every instance and the hub have every request once, and of each key every attempt that the provider saw.
    pub async fn is_exact(&self, requests: i64) {
        assert_eq!(self.agree().await, requests, "every request once");
        let hub = self.hub_picture("ollama");
        for (id, attempts) in self.attempts().await {
            // A key that was deleted takes its counts along.
            if let Some(of) = hub["keys"].get(&id) {
                assert_eq!(of[0], attempts, "attempts of {id}");
            }
        }
    }

    /// Attempts that the provider has seen, by key.
    pub async fn attempts(&self) -> BTreeMap<String, i64> {
        tokio::time::timeout(PATIENCE, self.upstream.tally().idle()).await.unwrap();
        (0..KEYS).map(|n| (KeyId::derive("ollama", &key(n)).to_string(), self.attempts_of(&key(n)))).collect()
    }

    pub fn attempts_of(&self, key: &str) -> i64 {
        self.upstream.tally().sum(|of, at| of == key && !LISTS.contains(&at)).attempts as i64
    }
}

/// A hub's entry of `/admin/sync` when nothing waits and nothing is wrong.
pub fn is_at_rest(hub: &Value) -> bool {
    hub["state"] == "ok"
        && hub["streams"]
            .as_array()
            .unwrap()
            .iter()
            .all(|stream| stream["pending_rows"] == 0 && stream["open_rows"] == 0 && stream["state"] == "ok")
}

/// A node's picture without what only instances say.
pub fn numbers(mut picture: Value) -> Value {
    picture.as_object_mut().unwrap().remove("states");
    picture
}

pub fn total(picture: &Value) -> i64 {
    picture["total"][0].as_i64().unwrap()
}

pub fn hub_picture(provider: &str, sql: impl Fn(&str) -> Vec<Vec<String>>) -> Value {
    let number = |text: &str| text.parse::<i64>().unwrap();
    let of = |what: &str| sql(&what.replace("PREFIX", &format!("{provider}_api")));
    let counts = |row: &[String]| json!([number(&row[1]), number(&row[2]), number(&row[3])]);
    let totals = of("SELECT total_requests, success_count, failure_count, prompt_tokens, completion_tokens \
                     FROM PREFIX_global_stats");
    let total: Vec<_> =
        totals.first().map_or(vec![0; 5], |row| row.iter().map(|text| number(text)).collect());
    let keys: BTreeMap<_, _> =
        of("SELECT k.api_key, coalesce(s.total_requests, 0), coalesce(s.success_count, 0), \
             coalesce(s.failure_count, 0) FROM PREFIX_keys k LEFT JOIN PREFIX_key_stats s USING (api_key)")
        .into_iter()
        .map(|row| (KeyId::derive(provider, &row[0]).to_string(), counts(&row)))
        .collect();
    let models: BTreeMap<_, _> =
        of("SELECT model, total_requests, success_count, failure_count FROM PREFIX_model_stats")
            .into_iter()
            .map(|row| (row[0].clone(), counts(&row)))
            .collect();
    let tokens: BTreeMap<_, _> = of("SELECT name, request_count FROM PREFIX_client_tokens")
        .into_iter()
        .map(|row| (row[0].clone(), json!(number(&row[1]))))
        .collect();
    json!({"total": total, "keys": keys, "models": models, "tokens": tokens})
}
