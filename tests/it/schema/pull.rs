//! What has changed: every committed change, whatever else is running.

use keytide::replica::wire;
use serde_json::{Value, json};

use super::{Stream, call, hub, rows, version};
use crate::hub::skipped;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_commits_late_is_seen_and_none_is_seen_twice() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    // Left open throughout by someone else, in another database too.
    let strangers = cluster.connect("postgres", "postgres").await;
    strangers.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    let late = cluster.connect("hub", "postgres").await;
    late.batch_execute("BEGIN; INSERT INTO ollama_api_keys (api_key) VALUES ('late')").await.unwrap();
    stream.push(&client, json!({"keys": [{"k": "a", "a": version(-9), "add": true}]})).await;

    let (page, first) = stream.pull(&client, "state", None).await;
    assert_eq!(names(&page, "keys"), ["a"], "an open transaction hides nothing of others");
    let (page, second) = stream.pull(&client, "state", Some(&first)).await;
    assert_eq!(page["rows"], json!({}));
    late.batch_execute("COMMIT").await.unwrap();
    stream.push(&client, json!({"keys": [{"k": "b", "a": version(-9), "add": true}]})).await;
    let (page, third) = stream.pull(&client, "state", Some(&second)).await;
    assert_eq!(names(&page, "keys"), ["b", "late"], "below the stamps of what was seen before, and seen");
    assert_eq!(stream.pull(&client, "state", Some(&third)).await.0["rows"], json!({}));
    let (page, _) = stream.pull(&client, "state", Some(&first)).await;
    assert_eq!(names(&page, "keys"), ["b", "late"]);
}

fn names(page: &Value, list: &str) -> Vec<String> {
    let of = |row: &Value| {
        row["k"].as_str().or(row["m"].as_str()).or(row["i"].as_str()).unwrap_or_default().to_owned()
    };
    page["rows"][list].as_array().into_iter().flatten().map(of).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_end_and_leave_nothing_out() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let a = version(-9);
    let keys: Vec<Value> = (0..25).map(|n| json!({"k": format!("k{n:02}é"), "a": a, "add": true})).collect();
    let stats: Vec<Value> = (0..25).map(|n| json!({"k": format!("k{n:02}é"), "s": n + 1})).collect();
    let tokens: Vec<Value> =
        ["t", "t1", "t2", "t3"].iter().map(|k| json!({"k": k, "a": a, "add": true})).collect();
    let hour = version(0) / 1024 / 3_600_000_000;
    stream
        .push(&client, json!({
            "gone": [{"t": "key", "id": "0".repeat(32), "v": 1}, {"t": "token", "id": "1".repeat(32), "v": 1}],
            "keys": keys, "tokens": tokens, "key_stats": stats, "token_stats": [{"k": "t", "s": 1}],
            "models": [{"m": "m:1"}, {"m": "m"}], "hours": [{"h": hour, "m": "m:1"}, {"h": hour - 1, "m": "x"}], "global": {"s": 1},
        }))
        .await;
    for lane in ["state", "stats"] {
        for limit in [1, 3, 7, 1000] {
            let (mut after, mut seen, mut turns) = (Value::Null, Vec::new(), 0);
            loop {
                let asks = json!([{"stream": "ollama_api", "provider": "ollama", "lane": lane, "after": after, "limit": limit}]);
                let answer = call(
                    &client,
                    "keytide_pull",
                    &json!({"protocol": 1, "instance": stream.instance, "asks": asks}),
                )
                .await;
                let page: wire::Page = serde_json::from_value(answer["pages"][0].clone()).unwrap();
                assert_eq!((page.seq, page.digest.as_str()), (1, "d1"));
                for (list, rows) in answer["pages"][0]["rows"].as_object().unwrap() {
                    let many = rows.as_array().cloned().unwrap_or_else(|| vec![rows.clone()]);
                    seen.extend(many.into_iter().map(|row| format!("{list} {row}")));
                }
                after = page.next.unwrap_or_default();
                turns += 1;
                if after.is_null() {
                    break;
                }
                assert!(turns < 100, "{after}");
            }
            let all = seen.len();
            seen.sort();
            seen.dedup();
            assert_eq!(
                (seen.len(), all),
                if lane == "state" { (31, 31) } else { (35, 35) },
                "{lane} by {limit}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_does_not_flood_the_urgent_lane() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let a = version(-9);
    stream
        .push(
            &client,
            json!({"tokens": [{"k": "t", "a": a, "add": true}], "keys": [{"k": "k", "a": a, "add": true}]}),
        )
        .await;
    let (_, cursor) = stream.pull(&client, "state", None).await;
    stream.push(&client, json!({"token_stats": [{"k": "t", "s": 1}], "key_stats": [{"k": "k", "s": 1}], "global": {"s": 1}})).await;
    assert_eq!(stream.pull(&client, "state", Some(&cursor)).await.0["rows"], json!({}));
    let (page, cursor) = stream.pull(&client, "stats", Some(&cursor)).await;
    assert_eq!(
        (names(&page, "token_stats"), names(&page, "key_stats")),
        (vec!["t".into()], vec!["k".into()])
    );
    assert_eq!(page["rows"]["streams"][0]["s"], 2);
    stream.push(&client, json!({"tokens": [{"k": "t", "a": a, "n": "x", "nv": a + 1}]})).await;
    let (page, _) = stream.pull(&client, "stats", Some(&cursor)).await;
    assert_eq!(page["rows"].as_object().unwrap().keys().collect::<Vec<_>>(), ["streams"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_is_read_in_one_snapshot_and_writes_nothing() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    stream.push(&client, json!({"global": {"s": 1}})).await;
    let before =
        rows(&client, "SELECT pg_current_xact_id_if_assigned(), pg_snapshot_xmax(pg_current_snapshot())")
            .await;
    for lane in ["state", "stats"] {
        stream.pull(&client, lane, None).await;
    }
    call(&client, "keytide_sizes", &json!({"protocol": 1})).await;
    let after =
        rows(&client, "SELECT pg_current_xact_id_if_assigned(), pg_snapshot_xmax(pg_current_snapshot())")
            .await;
    assert_eq!(before, after, "no transaction id was taken");
    let kinds = "SELECT proname, provolatile, prosecdef, proconfig FROM pg_proc
        WHERE proname IN ('keytide_pull', 'keytide_sizes') ORDER BY 1";
    assert_eq!(
        rows(&client, kinds).await,
        "keytide_pull|s|t|{\"search_path=\\\"\\\"\"}\nkeytide_sizes|s|t|{\"search_path=\\\"\\\"\"}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_no_longer_than_what_it_says() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let (a, ms) = (version(-9), version(0) / 1024 / 1000);
    let k = "k".repeat(73);
    let key = json!({"k": k, "a": a, "add": true, "c": ms, "u": "someone@example.com", "w": 1, "e": true,
        "h": {"e": a, "f": ms, "c": "rate_limit", "n": 12}});
    let stats = json!({"k": k, "s": 1_234_567, "f": 89, "lu": ms, "ls": ms, "lf": ms});
    stream.push(&client, json!({"keys": [key], "key_stats": [stats], "global": {"s": 3, "lu": ms}})).await;
    for (lane, most) in [("state", 200), ("stats", 170)] {
        let asks = json!([{"stream": "ollama_api", "provider": "ollama", "lane": lane, "limit": 9}]);
        let request = json!({"protocol": 1, "instance": stream.instance, "asks": asks}).to_string();
        let text = rows(&client, &format!("SELECT keytide_pull('{request}')::text")).await;
        let row = &text[text.find("[{\"k\":").unwrap() + 1..];
        let row = &row[..row.find("}]").unwrap() + 1];
        let read: Value = serde_json::from_str(row).unwrap();
        assert_eq!(row.len(), read.to_string().len(), "without blanks: {row}");
        assert!(
            row.len() <= most && read.as_object().unwrap().len() > 4,
            "{lane}: {} bytes: {row}",
            row.len()
        );
        assert!(!row.contains("null"), "{row}");
    }
}
