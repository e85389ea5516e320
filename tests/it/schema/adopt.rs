//! Another database becomes the hub.

use serde_json::{Value, json};

use super::{Stream, call, hub, rows, version};
use crate::hub::skipped;

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_was_made_anew_is_adopted_once() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let a = version(-99);
    stream.push(&client, json!({"keys": [{"k": "k", "a": a, "add": true}], "key_stats": [{"k": "k", "s": 3}], "global": {"s": 3, "o": 2}})).await;
    // As after a dump and a restore: stamps ahead of this cluster's transactions, and nobody would see them change.
    rows(&client, "SELECT set_config('keytide.writer', 'on', false)").await;
    rows(&client, "UPDATE ollama_api_keys SET state_xid = '99999999'; UPDATE ollama_api_key_stats SET stats_xid = '99999999'").await;
    rows(&client, "SELECT set_config('keytide.writer', '', false)").await;

    let was = json!({"id": uuid::Uuid::from_u128(7), "system": "123", "timeline": 4});
    let step = |instance: u128, step: &str, rows: Value| {
        json!({"protocol": 1, "mode": "adopt", "step": step, "instance": uuid::Uuid::from_u128(instance), "now": 0, "was": was,
            "stream": "ollama_api", "provider": "ollama", "rows": rows})
    };
    let adopt = async |request: Value| call(&client, "keytide_push", &request).await;
    assert_eq!(adopt(step(1, "rows", json!({}))).await["status"], "busy", "without having begun");
    assert_eq!(adopt(step(1, "begin", json!({}))).await["status"], "ok");
    let busy = adopt(step(2, "begin", json!({}))).await;
    assert_eq!((&busy["status"], &busy["by"]), (&json!("busy"), &json!(uuid::Uuid::from_u128(1))));

    let told = json!({"keys": [{"k": "k", "a": a}, {"k": "lost", "a": a, "u": "u"}],
        "tokens": [{"k": "t", "a": a}], "token_stats": [{"k": "t", "s": 8}],
        "key_stats": [{"k": "k", "s": 2, "f": 4, "o": 1}, {"k": "lost", "s": 9}], "models": [{"m": "m", "s": 5}],
        "global": {"s": 10, "o": 1}});
    for _ in 0..2 {
        assert_eq!(adopt(step(1, "rows", told.clone())).await["status"], "ok", "again changes nothing");
    }
    let stats = "SELECT api_key, total_requests, success_count, failure_count FROM ollama_api_key_stats
        UNION ALL SELECT id, total_requests, success_count, failure_count FROM ollama_api_global_stats
        UNION ALL SELECT model, total_requests, success_count, failure_count FROM ollama_api_model_stats
        UNION ALL SELECT token, request_count, success_count, failure_count FROM ollama_api_client_tokens ORDER BY 1";
    assert_eq!(rows(&client, stats).await, "global|12|10|0\nk|8|3|4\nlost|9|9|0\nm|5|5|0\nt|8|8|0");
    let left = adopt(step(1, "restamp", json!({}))).await;
    assert_eq!(left["left"], 0);
    let ahead = "SELECT (SELECT count(*) FROM ollama_api_keys WHERE state_xid > pg_current_xact_id()),
        (SELECT count(*) FROM ollama_api_key_stats WHERE stats_xid > pg_current_xact_id())";
    assert_eq!(rows(&client, ahead).await, "0|0");
    let vector = json!({"streams": [{"i": uuid::Uuid::from_u128(1), "s": 40, "g": "d40"}, {"i": uuid::Uuid::from_u128(2), "s": 7, "g": "d7"}]});
    assert_eq!(adopt(step(1, "end", vector)).await["status"], "ok");
    let (page, _) = Stream::new(2).pull(&client, "stats", None).await;
    assert_eq!((&page["seq"], &page["digest"]), (&json!(7), &json!("d7")));
    (stream.seq, stream.digest) = (40, "d40".to_owned());
    stream.push(&client, json!({"global": {"s": 1}})).await;
    let answer = adopt(step(2, "begin", json!({}))).await;
    assert_eq!((&answer["status"], &answer["was"]), (&json!("adopted"), &json!([was])));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_told_since_is_looked_at_first() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let (mut one, mut two) = (Stream::new(1), Stream::new(2));
    for stream in [&mut one, &mut two] {
        stream.push(&client, json!({"global": {"s": 3}})).await;
    }
    let here = call(&client, "keytide_hello", &hello(&one)).await["hub"].clone();
    let other = json!({"id": uuid::Uuid::from_u128(7), "system": "123", "timeline": 4});
    let back = json!({"id": here["id"], "system": here["system"], "timeline": -5});
    let step = |was: &Value, step: &str, rows: Value| {
        json!({"protocol": 1, "mode": "adopt", "step": step, "instance": uuid::Uuid::from_u128(3), "now": 0, "was": was,
            "stream": "ollama_api", "provider": "ollama", "rows": rows})
    };
    let adopt = async |request: Value| {
        let answer = call(&client, "keytide_push", &request).await;
        serde_json::from_value::<keytide::replica::wire::AdoptAnswer>(answer.clone()).unwrap();
        answer
    };
    let mark = |instance: u128, seq: u64, digest: &str| json!({"i": uuid::Uuid::from_u128(instance), "s": seq, "g": digest});
    assert_eq!(adopt(step(&other, "begin", json!({}))).await["status"], "ok");
    assert_eq!(adopt(step(&other, "begin", json!({}))).await.get("marks"), None);
    let known = [mark(1, 1, "d1"), mark(2, 1, "d1")];
    for (was, known, marks) in [
        (&other, json!(known), "behind"),
        (&other, json!([mark(1, 9, "d9"), known[1], mark(9, 4, "d4")]), "behind"),
        (&other, json!([known[0]]), "ahead"),
        (&other, json!([]), "ahead"),
        (&other, json!([known[0], mark(9, 4, "d4")]), "mixed"),
        (&other, json!([known[0], mark(2, 1, "other")]), "mixed"),
        (&back, json!([mark(9, 4, "d4")]), "mixed"),
    ] {
        let answer = adopt(step(was, "look", json!({"streams": known}))).await;
        assert_eq!(answer["marks"], marks, "{known} {answer}");
    }
    let (page, _) = one.pull(&client, "stats", None).await;
    assert_eq!(page["answer"], json!({}));
    let strange = adopt(step(&other, "look", json!({"streams": [mark(9, 4, "d4")]}))).await;
    assert_eq!(strange["marks"], "apart");
    let (page, _) = one.pull(&client, "stats", None).await;
    assert_eq!(page["answer"], json!({"adopted": true, "uncertain": true}));

    // What is half raised takes no batches; those that it has it knows.
    let busy = call(&client, "keytide_push", &one.batch(&json!({"global": {"s": 1}}))).await;
    assert_eq!((&busy["status"], &busy["seq"], &busy["digest"]), (&json!("busy"), &json!(1), &json!("d1")));
    serde_json::from_value::<keytide::replica::wire::PushAnswer>(busy).unwrap();

    // Told of the future, which nothing is made of, and nothing is counted for.
    let (now, later) = (version(-9), version(900));
    let told = json!({"gone": [{"t": "token", "id": "0123456789abcdef0123456789abcdef", "v": later}],
        "keys": [{"k": "a", "a": now}, {"k": "b", "a": later}], "tokens": [{"k": "t", "a": later}]});
    let answer = adopt(step(&other, "rows", told)).await;
    assert_eq!(answer["rows"], json!({"clock": [["gone", 0], ["keys", 1], ["tokens", 0]]}));
    assert_eq!(rows(&client, "SELECT api_key FROM ollama_api_keys").await, "a");
    assert_eq!(adopt(step(&other, "end", json!({}))).await["status"], "ok");

    // Said with the next batch as well, since its sender may have read nothing in between; then no more.
    assert_eq!(one.push(&client, json!({"global": {"s": 1}})).await, json!({"uncertain": true}));
    assert_eq!(one.push(&client, json!({"global": {"s": 1}})).await, json!({}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_for_another_database_is_left_alone() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let stream = Stream::new(1);
    let here = call(&client, "keytide_hello", &hello(&stream)).await["hub"].clone();
    let with = |field: &str, value: Value| {
        let mut hub = here.clone();
        hub[field] = value;
        hub
    };
    let other = with("id", json!(uuid::Uuid::from_u128(7)));
    let batch = |hub: &Value| {
        let mut batch = stream.batch(&json!({"global": {"s": 1}}));
        batch["hub"] = hub.clone();
        batch
    };
    let push = async |request: Value| call(&client, "keytide_push", &request).await;
    let nothing =
        "SELECT (SELECT count(*) FROM keytide_streams), (SELECT count(*) FROM ollama_api_global_stats)";
    for elsewhere in [&other, &with("system", json!("1")), &json!({}), &json!({"id": 7, "system": []})] {
        let answer = push(batch(elsewhere)).await;
        assert_eq!(answer["status"], "elsewhere", "{elsewhere}");
        assert_eq!(answer["hub"], here, "it says which database it is");
        serde_json::from_value::<keytide::replica::wire::PushAnswer>(answer).unwrap();
    }
    assert_eq!(rows(&client, nothing).await, "0|0");

    // Once this database has taken that one's place, it is that one.
    client
        .batch_execute(&format!(
            "INSERT INTO keytide_lineage (hub_id, system, timeline) VALUES ('{}', '{}', {})",
            other["id"].as_str().unwrap(),
            other["system"].as_str().unwrap(),
            other["timeline"]
        ))
        .await
        .unwrap();
    assert_eq!(push(batch(&other)).await["status"], "applied");
    // Before anything else is looked at: that it was applied already, too.
    assert_eq!(push(batch(&with("id", json!(uuid::Uuid::from_u128(8))))).await["status"], "elsewhere");
    for home in [&here, &with("timeline", json!(99)), &json!(null)] {
        assert_eq!(push(batch(home)).await["status"], "already", "{home}");
    }
}

fn hello(stream: &Stream) -> Value {
    json!({"protocol": 1, "instance": stream.instance, "name": "a", "version": "1", "now": 0, "streams": []})
}
