//! What belongs to no provider: users are the same everywhere, and what they use on a day and who used a key come to
//! the same numbers on every instance and on the hub.

use std::time::Duration;

use keytide::model::{KeyId, UserId};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{
    cutter::Cutter,
    node::{self, Node},
    world::{KEYS, World, key},
};
use crate::{
    harness::TOKEN,
    pg::{self, Cluster},
    process::PATIENCE,
};

const ANN: &str = "sk-ann-0123456789abcdef";
const BOB: &str = "sk-bob-0123456789abcdef";

impl Node {
    /// A user with a token.
    async fn user(&self, name: &str, token: &str) -> UserId {
        let user = self.post("/admin/users", &json!({"name": name})).await;
        let id = user["id"].as_str().unwrap().to_owned();
        let token = json!({"name": name, "token": token, "user": id});
        self.post("/admin/tokens?provider=ollama", &token).await;
        id.parse().unwrap()
    }

    async fn change(&self, user: UserId, change: Value) {
        let (status, body) = self.ask(Method::PATCH, &format!("/admin/users/{user}"), Some(&change)).await;
        assert_eq!(status, 200, "{body}");
    }

    /// That many, all of them served.
    async fn served(&self, token: &str, requests: usize) {
        for _ in 0..requests {
            assert_eq!(self.call(token).await, 200, "{}", self.name);
        }
    }

    /// Until another round by itself has gone through.
    async fn next_round(&self) {
        let last = async || self.sync().await["hubs"][0]["last_success"].clone();
        let (before, deadline) = (last().await, Instant::now() + PATIENCE);
        while last().await == before {
            assert!(Instant::now() < deadline, "{} has no rounds", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The day that a user has, if any.
    async fn day(&self, user: UserId) -> Value {
        self.get(&format!("/admin/users/{user}/days")).await["days"][0]["log_data"].clone()
    }

    /// Uses of each key, and by how many today.
    async fn shared(&self) -> Vec<(String, i64, i64)> {
        let page = self.get("/admin/shared-keys?provider=ollama&pageSize=100").await;
        let of = |key: &Value| {
            let stats = &key["usage_stats"];
            let number = |name: &str| stats[name].as_i64().unwrap();
            assert_eq!(number("total_usage_count"), number("usage_count_today"), "{key}");
            (
                key["id"].as_str().unwrap().to_owned(),
                number("total_usage_count"),
                number("active_users_today"),
            )
        };
        let mut keys: Vec<_> = page["keys"].as_array().unwrap().iter().map(of).collect();
        keys.sort();
        keys
    }
}

impl World {
    fn hub_day(&self, user: UserId) -> Value {
        let rows = self.sql(&format!("SELECT log_data FROM daily_logs WHERE user_id = '{user}'"));
        rows.first().map_or(Value::Null, |row| serde_json::from_str(&row.join("|")).unwrap())
    }

    /// All instances and the hub say the same of a user's day; returns it.
    async fn one_day(&self, user: UserId) -> Value {
        let hub = self.hub_day(user);
        let used = &hub["shared_key_usage"];
        for node in &self.nodes {
            let day = node.day(user).await;
            let here = &day["shared_key_usage"];
            for name in ["conversation_count", "api_call_count", "upload_count", "error_stats"] {
                assert_eq!(day[name], hub[name], "{name} on {}: {day:#} {hub:#}", node.name);
            }
            for name in ["total_calls", "successful_calls", "failed_calls", "keys_used", "last_key_used"] {
                assert_eq!(here[name], used[name], "{name} on {}: {day:#} {hub:#}", node.name);
            }
            for name in ["prompt_tokens", "completion_tokens"] {
                assert_eq!(here[name].as_u64(), used[name].as_u64(), "{name} on {}", node.name);
            }
        }
        hub
    }

    /// Of every key the hub and all instances have each attempt once, and as many users.
    async fn keys_agree(&self) -> Vec<(String, i64, i64)> {
        let attempts = self.attempts().await;
        let mut hub: Vec<_> = self
            .sql("SELECT id, usage_stats ->> 'total_usage_count', usage_stats ->> 'active_users_today' FROM shared_keys \
                  WHERE provider = 'ollama'")
            .into_iter()
            .map(|row| {
                let number = |at: usize| row[at].parse().unwrap_or(0);
                (row[0].clone(), number(1), number(2))
            })
            .collect();
        hub.sort();
        assert_eq!(hub.len(), KEYS, "{hub:?}");
        for (id, uses, _) in &hub {
            assert_eq!(*uses, attempts[id], "attempts of {id}");
        }
        for node in &self.nodes {
            assert_eq!(node.shared().await, hub, "{}", node.name);
        }
        hub
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_are_the_same_everywhere_and_so_are_their_days() {
    let world = World::new(2).await;
    world.stock().await;
    let [a, b] = &world.nodes[..] else { panic!() };
    let ann = a.user("Ann", ANN).await;
    world.settle().await;
    let bob = b.user("Bob", BOB).await;
    world.settle().await;
    a.edit(&key(3), &json!({"owner": bob})).await;
    assert_eq!(b.get(&format!("/admin/users/{ann}")).await["name"], "Ann");

    // Each goes round all keys, in two places.
    a.served(ANN, 2 * KEYS).await;
    b.served(ANN, 7).await;
    b.served(BOB, 2 * KEYS).await;
    a.served(BOB, 5).await;
    a.served(TOKEN, 2 * KEYS).await;
    world.settle().await;
    assert_eq!(world.one_day(ann).await["conversation_count"], 2 * KEYS + 7);
    let hub = world.one_day(bob).await;
    assert_eq!(hub["shared_key_usage"]["successful_calls"], 2 * KEYS + 5);
    for (id, _, users) in world.keys_agree().await {
        // Those that fail now and then are passed by.
        let fails = [0, 1].map(|n| KeyId::derive("ollama", &key(n)).to_string()).contains(&id);
        assert!(users == 3 || fails && users > 0, "{id} was used by {users}");
    }
    let owner = world.sql("SELECT user_id, is_active FROM shared_keys WHERE user_id IS NOT NULL");
    assert_eq!(owner, [[bob.to_string(), "t".to_owned()]]);

    // What one decides holds for the other.
    b.change(ann, json!({"enabled": false})).await;
    assert_eq!(b.call(ANN).await, 401);
    world.settle().await;
    assert_eq!(a.call(ANN).await, 401);
    world.sql(&format!("UPDATE users SET enabled = true, note = 'by hand' WHERE id = '{ann}'"));
    world.settle().await;
    for node in &world.nodes {
        node.served(ANN, 1).await;
        assert_eq!(node.get(&format!("/admin/users/{ann}")).await["note"], "by hand");
    }

    // A limit of the day is used up in both places together.
    let used = 2 * KEYS + 5;
    a.change(bob, json!({"requests_per_day": used + 4})).await;
    a.served(BOB, 3).await;
    world.settle().await;
    b.served(BOB, 1).await;
    assert_eq!(b.call(BOB).await, 429);
    world.settle().await;
    assert_eq!(a.call(BOB).await, 429);
    let token = b.get("/admin/tokens?provider=ollama").await;
    let token = token["tokens"].as_array().unwrap().iter().find(|token| token["name"] == "Bob").unwrap();
    assert_eq!(token["requests_today"], used + 4, "{token}");
    assert_eq!(b.get(&format!("/admin/users/{bob}")).await["requests_today"], used + 4);
    world.settle().await;
    assert_eq!(world.one_day(bob).await["error_stats"]["rate_limit_hits"], 2);

    // What no key was used for is charged as well.
    a.change(bob, json!({"requests_per_day": used + 6})).await;
    let ids: Vec<_> = (0..KEYS).map(|n| KeyId::derive("ollama", &key(n))).collect();
    a.post("/admin/keys/disable", &json!({"ids": ids})).await;
    for _ in 0..2 {
        assert_eq!(a.call(BOB).await, 503);
    }
    world.settle().await;
    assert_eq!(b.get(&format!("/admin/users/{bob}")).await["requests_today"], used + 6);
    assert_eq!(b.call(BOB).await, 429);
    world.settle().await;

    // Nor does a token that is made again begin its day anew, wherever it is.
    let again = format!("/admin/tokens/{}?provider=ollama", token["id"].as_str().unwrap());
    assert_eq!(b.ask(Method::DELETE, &again, None).await.0, 200);
    world.settle().await;
    assert_eq!(a.call(BOB).await, 401);
    b.post("/admin/tokens?provider=ollama", &json!({"name": "Bob", "token": BOB, "user": bob})).await;
    world.settle().await;
    for node in [a, b] {
        let tokens = node.get("/admin/tokens?provider=ollama").await;
        let token = tokens["tokens"].as_array().unwrap().iter().find(|token| token["name"] == "Bob").unwrap();
        assert_eq!(token["requests_today"], used + 6, "{}", node.name);
        assert_eq!(node.call(BOB).await, 429);
    }
    world.settle().await;

    let (status, _) = a.ask(Method::DELETE, &format!("/admin/users/{ann}"), None).await;
    assert!(status < 300, "{status}");
    world.settle().await;
    assert_eq!(b.ask(Method::GET, &format!("/admin/users/{ann}"), None).await.0, 404);
    assert_eq!(b.call(ANN).await, 401);
    assert_eq!(world.sql(&format!("SELECT count(*) FROM users WHERE id = '{ann}'"))[0][0], "0");
}

/// As many requests as may be in a step, until it is refused; whether it was.
async fn ask_on(node: &Node, token: &str, served: &mut usize) -> bool {
    for _ in 0..STEP {
        match node.call(token).await {
            200 => *served += 1,
            429 => return true,
            status => panic!("{status} on {}", node.name),
        }
    }
    false
}

/// What an instance serves between two rounds.
const STEP: usize = 5;

/// Both serve at the same rate and come to the limit together. Of what the other has used since its last push and
/// this one's last pull nobody can know: that is how far they go beyond it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_the_day_is_passed_by_what_two_rounds_bring_however_little_may_be_read() {
    const LIMIT: usize = 60;
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    world.apply_schema().await;
    for n in 0..2 {
        let cutter = Cutter::start(world.cluster.port).await;
        // Statistics that are read once are paid for for hours.
        let hubs = format!("{}[budget]\negress = \"10MB/month\"\n", node::hub(cutter.port));
        let config = node::config(&world.upstream, None, &hubs);
        world.nodes.push(Node::with(n, cutter, &config).await);
    }
    world.stock().await;
    let [a, b] = &world.nodes[..] else { panic!() };
    let ann = a.user("Ann", ANN).await;
    a.change(ann, json!({"requests_per_day": LIMIT})).await;
    world.settle().await;
    let (mut served, mut refused) = (0, [false; 2]);
    while refused != [true; 2] {
        for (node, refused) in [a, b].into_iter().zip(&mut refused) {
            *refused = ask_on(node, ANN, &mut served).await;
        }
        for node in [a, b] {
            node.next_round().await;
        }
    }
    assert!(served >= LIMIT, "{served}");
    assert!(served <= LIMIT + 3 * STEP, "{served} were served of {LIMIT}");
    println!("{} of {LIMIT} too many, at {STEP} an instance and round", served - LIMIT);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_is_in_a_day_whatever_is_killed() {
    let mut world = World::new(2).await;
    world.stock().await;
    let ann = world.nodes[0].user("Ann", ANN).await;
    world.settle().await;
    let mut answered = 0;
    for round in 0..4 {
        for (at, requests) in [(0, 7), (1, 5)] {
            world.nodes[at].served(ANN, requests).await;
            answered += requests;
        }
        match round {
            // The hub has it, and nobody hears of that.
            0 => world.nodes[0].cutter.cut_next_answer("keytide_push"),
            1 => world.nodes[1].cutter.refuse(true),
            2 => world.nodes[1].cutter.refuse(false),
            _ => {}
        }
        let victim = round % 2;
        if round > 0 {
            world.nodes[victim].sync_now().await;
        }
        world.nodes[victim].kill();
        world.nodes[victim].restart().await;
    }
    world.settle().await;
    assert_eq!(world.one_day(ann).await["shared_key_usage"]["successful_calls"], answered);
    let keys = world.keys_agree().await;
    assert!(keys.iter().all(|(_, _, users)| *users <= 1), "{keys:?}");
    // An instance that comes to it later has all of it.
    let late = Node::start(&world.upstream, &world.cluster, 2).await;
    world.nodes.push(late);
    world.settle().await;
    world.one_day(ann).await;
    world.keys_agree().await;
    let asked = world.nodes[2].get(&format!("/admin/users/{ann}")).await;
    assert_eq!(asked["requests_today"], answered, "{asked}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_without_the_cores_tables_has_the_providers() {
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    world.apply_schema().await;
    world.sql("ALTER TABLE hourly_stats RENAME TO elsewhere");
    for n in 0..2 {
        let cutter = Cutter::start(world.cluster.port).await;
        let config = node::config(&world.upstream, None, &node::hub(cutter.port));
        world.nodes.push(Node::with(n, cutter, &config).await);
    }
    let [a, b] = &world.nodes[..] else { panic!() };
    a.stock("ollama").await;
    let ann = a.user("Ann", ANN).await;
    a.served(ANN, 9).await;
    for _ in 0..3 {
        a.sync_now().await;
        let status = b.sync_now().await.unwrap();
        let [ollama, _, core] = &status["hubs"][0]["streams"].as_array().unwrap()[..] else { panic!() };
        assert_eq!((&ollama["state"], &core["state"]), (&json!("ok"), &json!("missing")), "{status:#}");
        assert!(core["reason"].as_str().unwrap().contains("hourly_stats"), "{status:#}");
    }
    assert_eq!(world.compare("ollama").await, 9);
    let said = a.process.as_ref().unwrap().log();
    assert_eq!(said.matches("(core: table hourly_stats); run `keytide schema apply`").count(), 1, "{said}");
    assert_eq!(b.ask(Method::GET, &format!("/admin/users/{ann}"), None).await.0, 404);
    assert_eq!(b.call(ANN).await, 401, "of a user who is not known");

    world.sql("ALTER TABLE elsewhere RENAME TO hourly_stats");
    world.settle().await;
    b.served(ANN, 2).await;
    world.settle().await;
    assert_eq!(world.one_day(ann).await["shared_key_usage"]["successful_calls"], 11);
    world.keys_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_emptied_has_all_of_it_again() {
    let world = World::new(2).await;
    world.stock().await;
    let [a, b] = &world.nodes[..] else { panic!() };
    let ann = a.user("Ann", ANN).await;
    world.settle().await;
    a.served(ANN, 15).await;
    b.served(ANN, 9).await;
    world.settle().await;
    let before = (world.one_day(ann).await, world.keys_agree().await);
    world.cluster.psql("DROP SCHEMA public CASCADE; CREATE SCHEMA public");
    world.apply_schema().await;
    for node in &world.nodes {
        let status = node.sync_now().await.unwrap();
        let streams = status["hubs"][0]["streams"].as_array().unwrap();
        assert!(streams.iter().all(|stream| stream["state"] == "stopped"), "{status:#}");
    }
    b.post("/admin/sync/adopt", &json!({})).await;
    world.settle().await;
    assert_eq!((world.one_day(ann).await, world.keys_agree().await), before);
    assert_eq!(world.sql("SELECT name FROM users"), [["Ann"]]);
    a.served(ANN, 3).await;
    world.settle().await;
    assert_eq!(world.one_day(ann).await["conversation_count"], 27);
    world.keys_agree().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn days_are_the_hubs() {
    let mut world = World::new(1).await;
    world.stock().await;
    let ann = world.nodes[0].user("Ann", ANN).await;
    let zone = async |node: &Node| node.get(&format!("/admin/users/{ann}/days")).await["time_zone"].clone();
    assert_eq!(zone(&world.nodes[0]).await, "UTC");
    world.sql("UPDATE keytide_settings SET time_zone = 'Pacific/Kiritimati'");
    world.settle().await;
    assert_eq!(zone(&world.nodes[0]).await, "Pacific/Kiritimati");
    world.nodes[0].served(ANN, 3).await;
    world.settle().await;
    world.one_day(ann).await;
    let date = "SELECT date = (now() AT TIME ZONE 'Pacific/Kiritimati')::date FROM daily_logs";
    assert_eq!(world.sql(date), [["t"]]);
    // And are from the next start on, before anything is heard of the hub.
    world.nodes[0].stop().await;
    world.nodes[0].cutter.refuse(true);
    world.nodes[0].restart().await;
    assert_eq!(zone(&world.nodes[0]).await, "Pacific/Kiritimati");
    let user = world.nodes[0].get(&format!("/admin/users/{ann}")).await;
    assert_eq!(user["requests_today"], 3, "{user}");
}
