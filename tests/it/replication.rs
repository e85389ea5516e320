//! Several keytides, each in a process of its own, and one hub: what they count and what people decide must come to
//! the same everywhere, whatever is killed, cut or kept away meanwhile.

mod copies;
mod core;
pub mod cutter;
mod events;
mod foreign;
mod hubs;
mod moved;
pub mod node;
mod operators;
mod reloads;
mod settings;
mod storm;
mod troubles;
mod ways;
pub mod world;

use std::time::Duration;

use serde_json::json;

use node::Load;
use world::{World, key};

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
    world.is_exact(seen).await;
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
    let hub = world.hub_picture("ollama");
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
