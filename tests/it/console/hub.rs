//! What is shown of a hub, in step and out of reach.

use std::time::Duration;

use keytide::model::Delta;
use tokio::time::Instant;

use super::{
    Visitor, World,
    browser::{Browser, skipped},
};
use crate::{
    pg::{Cluster, Options},
    replication::node,
};

/// Of a hub in that cluster, made ready.
pub fn settings(cluster: &Cluster) -> String {
    let url = cluster.url("postgres", "postgres");
    node::keytide(&["schema", "apply"], &url);
    format!("[sync]\ndatabase_url = \"{url}\"\ninterval = \"1s\"\ninstance = \"east\"\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_is_shown_in_step_and_out_of_reach() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let mut cluster = Cluster::start(Options::default());
    let world = World::configured(&settings(&cluster), &["sk-one-0123456789"], Delta::default()).await;
    let visitor = Visitor::sign_in(&world).await;
    assert!(visitor.post_on("/storage/sync", &[]).await.contains("are in step."));
    let page = visitor.page("/storage").await;
    for says in ["Replication: default", "in step", "east", "this one", "ollama_api_keys", "Full in"] {
        assert!(page.contains(says), "{says}: {page}");
    }
    assert!(visitor.page("/").await.contains("What needs attention"));
    let tidied = visitor.post_on("/storage/retain", &[]).await;
    assert!(tidied.contains("news good") && tidied.contains("File and hubs are not over their budgets."));
    cluster.stop();
    let tidied = visitor.post_on("/storage/retain", &[]).await;
    let says = "Could not be tidied up, nor measured: the hub &quot;default&quot;.";
    assert!(tidied.contains(says) && !tidied.contains("news good"), "{tidied}");
    let refused = visitor.post_on("/storage/sync", &[]).await;
    assert!(refused.contains("The hub &quot;default&quot; is not in step: "), "{refused}");
    assert!(!refused.contains("are in step") && !refused.contains("news good"), "{refused}");
    let page = visitor.page("/storage").await;
    assert!(page.contains("failing, tried again"), "{page}");
    assert!(visitor.page("/").await.contains("is not in step. Serving and counting go on."));
    if skipped(&["BROWSER_TESTS"]) {
        return;
    }
    let browser = Browser::start(&world, (1280, 900)).await;
    browser.sign_in(&world).await;
    browser.sees(".attention", "is not in step").await;
    browser.go("/storage").await;
    browser.sees(".state", "failing, tried again").await;
    browser.is_accessible().await;
    browser.fits().await;
    browser.prefer("zh", "dark").await;
    browser.go("/storage").await;
    browser.sees(".news.bad", "无法连接中心库").await;
    browser.speaks_chinese().await;
    browser.is_accessible().await;
    browser.press(".original summary").await;
    browser.fits().await;
    browser.ends_well().await;
}

#[tokio::test]
async fn statistics_that_are_not_public_are_shown_to_nobody_outside() {
    let world = World::configured("", &["sk-one-0123456789"], Delta::default()).await;
    let client = super::plain_client();
    assert_eq!(client.get(world.url("/stats")).send().await.unwrap().status(), 200);
    let mut config = world.keytide.config.clone();
    config.server.public_stats = false;
    let visitor = Visitor::sign_in(&world).await;
    let waits = visitor.page("/settings?search=server.idle_timeout").await.contains("at the next start");
    config.server.gateway.idle_timeout += Duration::from_millis(7);
    let mut loaded = super::loaded(&world.keytide);
    loaded.config = config;
    world.keytide.app.reload(&loaded).await.unwrap();
    let page = visitor.page("/settings?search=server.idle_timeout").await;
    assert!(page.contains("at the next start") && !waits, "{page}");
    // What was shown a moment ago may be shown for a moment more.
    let deadline = Instant::now() + Duration::from_secs(30);
    let closed = loop {
        assert!(Instant::now() < deadline, "they are still shown");
        let answer = client.get(world.url("/stats")).send().await.unwrap();
        if answer.status() != 200 {
            break answer;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(closed.status(), 404);
    assert!(closed.text().await.unwrap().contains("Public statistics are switched off here."));
}
