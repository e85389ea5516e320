//! Providers with hubs of their own: each hub gets what is its, and one that is away holds up no other.

use serde_json::json;

use super::{
    cutter::Cutter,
    node::{self, Node},
    world::{World, hub_picture, numbers, total},
};
use crate::pg::{self, Cluster};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_provider_has_its_hub_and_its_troubles() {
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    let second = Cluster::start(pg::Options::default());
    world.apply_schema().await;
    let other = World::over(second).await;
    other.apply_schema().await;
    let ways = [Cutter::start(world.cluster.port).await, Cutter::start(other.cluster.port).await];
    let url = |way: &Cutter| format!("postgresql://postgres@127.0.0.1:{}/postgres?sslmode=disable", way.port);
    let hubs = format!(
        "{}\n[hubs.second]\ndatabase_url = \"{}\"\ninterval = \"1s\"\n",
        node::hub(ways[0].port),
        url(&ways[1])
    );
    let config = node::config(&world.upstream, Some("hub = \"second\""), &hubs);
    let spare = Cutter::start(world.cluster.port).await;
    world.nodes.push(Node::with(0, spare, &config).await);
    let node = &world.nodes[0];
    node.stock("ollama").await;
    node.stock("openrouter").await;
    let providers = ["ollama", "openrouter"];
    let mut served = [0; 2];
    for away in [None, Some(0), Some(1), None] {
        if let Some(away) = away {
            ways[away as usize].refuse(true);
        }
        for (at, provider) in providers.iter().enumerate() {
            served[at] += node.serve(provider, 7 + at as i64).await;
        }
        let status = node.sync_now().await.unwrap();
        for (at, cluster) in [&world.cluster, &other.cluster].into_iter().enumerate() {
            let hub = &status["hubs"][at];
            assert_eq!(hub["name"], ["default", "second"][at]);
            // With that of the core, which goes to one hub.
            assert_eq!(hub["streams"].as_array().unwrap().len(), [2, 1][at]);
            let is_away = away == Some(at as i32);
            assert_eq!(hub["state"] == "failing", is_away, "{status:#}");
            let there =
                cluster.psql(&format!("SELECT total_requests FROM {}_api_global_stats", providers[at]));
            assert_eq!(there == served[at].to_string(), !is_away, "{}: {there}", providers[at]);
        }
        ways.iter().for_each(|way| way.refuse(false));
    }
    world.settle().await;
    for (at, cluster) in [&world.cluster, &other.cluster].into_iter().enumerate() {
        let rows = |sql: &str| {
            let text = cluster.psql(sql);
            text.lines().map(|line| line.split('|').map(str::to_owned).collect()).collect()
        };
        let hub = hub_picture(providers[at], rows);
        assert_eq!(numbers(world.nodes[0].picture_of(providers[at]).await), hub);
        assert_eq!(total(&hub), served[at]);
        let others = hub_picture(providers[1 - at], rows);
        assert_eq!((&others["keys"], total(&others)), (&json!({}), 0), "nothing of the other provider");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_go_to_the_first_hub_also_when_no_provider_does() {
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    world.apply_schema().await;
    let way = Cutter::start(world.cluster.port).await;
    let first = node::hub(way.port);
    let hubs =
        format!("{first}\n[hubs.away]\ndatabase_url = \"postgresql://postgres@127.0.0.1:1/postgres\"\n");
    let config = node::config(&world.upstream, Some("hub = \"away\""), &hubs);
    let config = config.replace("[providers.ollama]\n", "[providers.ollama]\nhub = \"away\"\n");
    world.nodes.push(Node::with(0, way, &config).await);
    let node = &world.nodes[0];
    node.post("/admin/users", &json!({"name": "Ann"})).await;
    node.ask(reqwest::Method::POST, "/admin/sync/now", Some(&json!({"hub": "default"}))).await;
    let hub = node.sync().await["hubs"][0].clone();
    assert_eq!((&hub["name"], &hub["state"]), (&json!("default"), &json!("ok")), "{hub:#}");
    assert_eq!(world.sql("SELECT name FROM users"), [["Ann"]]);
}
