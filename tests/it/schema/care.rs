//! Greetings: what they cost, whom they name, and who is forgotten.

use keytide::replica::wire::HelloAnswer;
use serde_json::{Value, json};
use tokio_postgres::Client;
use uuid::Uuid;

use super::{Stream, call, hub, rows};
use crate::hub::skipped;

/// `list` as it stands in the request; nothing as older instances say it.
async fn greet(client: &Client, id: u128, list: Option<bool>) -> Value {
    let mut hello = json!({"protocol": 1, "instance": Uuid::from_u128(id), "name": format!("instance {id}"),
        "version": "1", "now": 0, "streams": ["ollama_api", "openrouter_api"]});
    if let Some(list) = list {
        hello["list"] = list.into();
    }
    call(client, "keytide_hello", &hello).await
}

fn named(answer: Value) -> Option<usize> {
    let answer: HelloAnswer = serde_json::from_value(answer).unwrap();
    answer.instances.map(|of| of.len())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_names_the_others_only_to_those_who_ask() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    for id in 1..=50 {
        greet(&client, id, Some(false)).await;
    }
    let short = greet(&client, 1, Some(false)).await;
    assert_eq!((&short["alive"], short.get("instances"), short.get("reports")), (&json!(50), None, None));
    assert!(short.to_string().len() < 500, "{} bytes: {short}", short.to_string().len());
    // Those that do not say are older ones, which count the others in the list.
    assert_eq!(named(greet(&client, 1, None).await), Some(50));
    assert_eq!(named(greet(&client, 1, Some(true)).await), Some(50));

    let aged = |id: u128, age: &str| {
        format!(
            "UPDATE keytide_instances SET last_seen = now() - interval '{age}' WHERE id = '{}'",
            Uuid::from_u128(id)
        )
    };
    client.batch_execute(&aged(2, "11 minutes")).await.unwrap();
    client.batch_execute(&aged(3, "31 days")).await.unwrap();
    let long = greet(&client, 1, Some(true)).await;
    assert_eq!((&long["alive"], long["reports"].as_array().unwrap().len()), (&json!(48), 0));
    assert_eq!(named(long), Some(49), "one was not seen for 30 days");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_not_seen_for_long_is_forgotten_and_goes_on_where_it_was() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    greet(&client, 1, None).await;
    greet(&client, 2, None).await;
    stream.push(&client, json!({"global": {"s": 3}})).await;
    client
        .batch_execute(
            "UPDATE keytide_instances SET last_seen = now() - interval '31 days' WHERE name = 'instance 1'",
        )
        .await
        .unwrap();
    let answer = call(&client, "keytide_retain", &json!({"protocol": 1})).await;
    assert_eq!((&answer["instances"], &answer["more"]), (&json!(1), &json!(false)));
    assert_eq!(rows(&client, "SELECT name FROM keytide_instances").await, "instance 2");
    greet(&client, 1, None).await;
    stream.push(&client, json!({"global": {"s": 4}})).await;
    assert_eq!(rows(&client, "SELECT last_seq FROM keytide_streams").await, "2");
    assert_eq!(rows(&client, "SELECT total_requests FROM ollama_api_global_stats").await, "7");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_ignored_is_told_to_whoever_looks() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    stream.push(&client, json!({"global": {"s": 9}, "models": [{"m": "m", "s": 9}]})).await;
    for _ in 0..3 {
        client
            .batch_execute("UPDATE ollama_api_global_stats SET total_requests = 5, success_count = 5")
            .await
            .unwrap();
    }
    client.batch_execute("UPDATE ollama_api_model_stats SET total_requests = 5").await.unwrap();
    let told = greet(&client, 1, Some(true)).await;
    let told: HelloAnswer = serde_json::from_value(told).unwrap();
    let said: Vec<_> =
        told.reports.iter().map(|of| (of.kind.as_str(), of.table.as_str(), of.count)).collect();
    assert_eq!(
        said,
        [("counter_lowered", "ollama_api_model_stats", 1), ("counter_lowered", "ollama_api_global_stats", 3)],
        "the latest first"
    );
    let sizes = call(&client, "keytide_sizes", &json!({"protocol": 1})).await;
    assert_eq!(sizes["reports"], serde_json::to_value(&told.reports).unwrap());
}
