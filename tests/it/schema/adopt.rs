//! Another database becomes the hub.

use serde_json::{Value, json};

use super::{Stream, call, hub, rows, version};

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_was_made_anew_is_adopted_once() {
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let a = version(-99);
    stream.push(&client, json!({"keys": [{"k": "k", "a": a, "add": true}], "key_stats": [{"k": "k", "s": 3}], "global": {"s": 3, "o": 2}})).await;
    // As after a dump and a restore: stamps ahead of this cluster's transactions, and nobody would see them change.
    rows(&client, "SELECT set_config('keytide.writer', 'on', false)").await;
    rows(&client, "UPDATE ollama_api_keys SET state_xid = '99999999'; UPDATE ollama_api_key_stats SET stats_xid = '99999999'").await;

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
    let ahead = "SELECT count(*) FROM ollama_api_keys WHERE state_xid > pg_current_xact_id()";
    assert_eq!(rows(&client, ahead).await, "0");
    let vector = json!({"streams": [{"i": uuid::Uuid::from_u128(1), "s": 40, "g": "d40"}, {"i": uuid::Uuid::from_u128(2), "s": 7, "g": "d7"}]});
    assert_eq!(adopt(step(1, "end", vector)).await["status"], "ok");
    let (page, _) = Stream::new(2).pull(&client, "stats", None).await;
    assert_eq!((&page["seq"], &page["digest"]), (&json!(7), &json!("d7")));
    (stream.seq, stream.digest) = (40, "d40".to_owned());
    stream.push(&client, json!({"global": {"s": 1}})).await;
    let answer = adopt(step(2, "begin", json!({}))).await;
    assert_eq!((&answer["status"], &answer["was"]), (&json!("adopted"), &json!([was])));
}
