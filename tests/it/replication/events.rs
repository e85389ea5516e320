//! What was abnormal is told to the hub, each event once.

use std::time::Duration;

use serde_json::Value;

use super::{node::Node, world::World};

impl Node {
    /// So many tokens that nobody has.
    async fn guess(&self, round: usize, guesses: usize) {
        for n in 0..guesses {
            assert_eq!(self.call(&format!("sk-guess-{round}-{n}-0123456789")).await, 401);
        }
    }

    /// Id, type and severity.
    async fn events(&self) -> Vec<[String; 3]> {
        let page = self.get("/admin/events?pageSize=1000").await;
        let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let of = |event: &Value| [text(&event["id"]), text(&event["type"]), text(&event["severity"])];
        page["events"].as_array().unwrap().iter().map(of).collect()
    }

    async fn until_events(&self, least: usize) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while self.events().await.len() < least {
            assert!(tokio::time::Instant::now() < deadline, "{} told no event", self.name);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_event_is_at_the_hub_once() {
    let mut world = World::new(2).await;
    world.stock().await;
    for at in [0, 1] {
        world.nodes[at].guess(at, 12).await;
        world.nodes[at].until_events(1).await;
        // The hub has it, and nobody hears of that.
        world.nodes[at].cutter.cut_next_answer("keytide_push");
        world.nodes[at].sync_now().await;
        world.nodes[at].kill();
        world.nodes[at].restart().await;
        // A killed process forgets what it was learning, and then says it anew.
        let before = world.nodes[at].events().await.len();
        world.nodes[at].guess(at + 2, 40).await;
        world.nodes[at].until_events(before + 1).await;
    }
    world.settle().await;
    let mut told = Vec::new();
    for node in &world.nodes {
        told.extend(node.events().await);
    }
    told.sort();
    assert!(told.len() >= 4, "{told:?}");
    let mut hub = world.sql("SELECT event, event_type, severity FROM security_events");
    hub.sort();
    assert_eq!(hub, told);
    let details = world.sql("SELECT DISTINCT details ->> 'kind', details ->> 'subject' FROM security_events");
    assert_eq!(details, [["unknown_tokens".to_owned(), "127.0.0.0/24".to_owned()]]);
}
