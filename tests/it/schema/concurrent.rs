//! Many batches at once: none waits in a circle, none is lost.

use serde_json::{Value, json};

use super::{Stream, hub, rows, version};
use crate::hub::skipped;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_batches_neither_deadlock_nor_lose_a_count() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    const WRITERS: u64 = 8;
    const ROUNDS: u64 = 12;
    let (cluster, client) = hub().await;
    let a = version(-60);
    let hour = version(0) / 1024 / 3_600_000_000;
    // Adding is done one after another; what comes then is not.
    let added = |name: &str| {
        (0..41).map(|n| json!({"k": format!("{name}{n}"), "a": a, "add": true})).collect::<Vec<_>>()
    };
    let zero = (0..41).map(|n| json!({"k": format!("k{n}")})).collect::<Vec<_>>();
    Stream::new(100)
        .push(&client, json!({"keys": added("k"), "tokens": added("t"), "key_stats": zero}))
        .await;
    let mut tasks = Vec::new();
    for writer in 0..WRITERS {
        let client = cluster.connect("hub", "postgres").await;
        tasks.push(tokio::spawn(async move {
            let mut stream = Stream::new(u128::from(writer) + 1);
            for round in 0..ROUNDS {
                // Each names the same rows in an order of its own, and some are new to all at once.
                let mut names: Vec<u64> = (0..40).map(|n| (n * (2 * writer + 1) + round) % 41).collect();
                names.sort_by_key(|n| (n * 7919 + writer * 31 + round) % 41);
                let list = |f: &dyn Fn(u64) -> Value| names.iter().map(|n| f(*n)).collect::<Vec<_>>();
                let batch = json!({
                    "keys": list(&|n| json!({"k": format!("k{n}"), "a": a, "u": format!("w{writer}"),
                        "uv": version(0), "h": {"e": a, "n": round}})),
                    "tokens": list(&|n| json!({"k": format!("t{n}"), "a": a})),
                    "key_stats": list(&|n| json!({"k": format!("k{n}"), "s": 1})),
                    "token_stats": list(&|n| json!({"k": format!("t{n}"), "s": 1})),
                    "models": list(&|n| json!({"m": format!("m{round}-{n}"), "s": 1})),
                    "hours": list(&|n| json!({"h": hour - n as i64, "m": format!("m{round}"), "s": 1})),
                    "global": {"s": 40},
                });
                assert_eq!(stream.push(&client, batch).await, json!({}));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let expected = WRITERS * ROUNDS * 40;
    let sums = "SELECT (SELECT sum(total_requests) FROM ollama_api_key_stats), (SELECT sum(request_count) FROM ollama_api_client_tokens),
        (SELECT sum(total_requests) FROM ollama_api_model_stats), (SELECT sum(requests) FROM ollama_api_model_hourly),
        (SELECT total_requests FROM ollama_api_global_stats)";
    assert_eq!(rows(&client, sums).await, vec![expected.to_string(); 5].join("|"));
    assert!(!cluster.log().contains("deadlock"), "{}", cluster.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn deleting_adding_and_counting_at_once_loses_no_count() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let mut tasks = Vec::new();
    for writer in 0..6_u64 {
        let client = cluster.connect("hub", "postgres").await;
        tasks.push(tokio::spawn(async move {
            let mut stream = Stream::new(u128::from(writer) + 1);
            let ids: Vec<String> = futures_util::future::join_all((0..5).map(|n| {
                let name = format!("k{n}");
                let client = &client;
                async move { super::digest(client, &name).await }
            }))
            .await;
            for _ in 0..25 {
                let batch = match writer {
                    0 => json!({"gone": ids.iter().map(|id| json!({"t": "key", "id": id, "v": version(0)})).collect::<Vec<_>>()}),
                    1 => json!({"keys": (0..5).map(|n| json!({"k": format!("k{n}"), "a": version(0), "add": true})).collect::<Vec<_>>()}),
                    _ => json!({"key_stats": (0..5).map(|n| json!({"k": format!("k{n}"), "s": 1})).collect::<Vec<_>>()}),
                };
                stream.push(&client, batch).await;
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let sums = "SELECT coalesce((SELECT sum(total_requests) FROM ollama_api_key_stats), 0)
        + coalesce((SELECT sum(total_requests) FROM keytide_retired), 0)";
    assert_eq!(rows(&client, sums).await, (4 * 25 * 5).to_string());
    assert!(!cluster.log().contains("deadlock"), "{}", cluster.log());
    // What is there is not also deleted.
    let both = "SELECT count(*) FROM ollama_api_keys k JOIN keytide_tombstones t ON t.id = keytide_digest(k.api_key) AND t.version >= k.added_v";
    assert_eq!(rows(&client, both).await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_same_batch_sent_twice_at_once_counts_once() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    stream.push(&client, json!({"global": {"s": 1}})).await;
    // Held up in the middle, so that all of them are under way at once.
    client.batch_execute("BEGIN; SELECT 1 FROM ollama_api_global_stats FOR UPDATE").await.unwrap();
    let batch = stream.batch(&json!({"global": {"s": 1}, "models": [{"m": "m", "s": 1}]}));
    let mut tasks = Vec::new();
    for _ in 0..6 {
        let (client, batch) = (cluster.connect("hub", "postgres").await, batch.clone());
        tasks.push(tokio::spawn(async move {
            super::call(&client, "keytide_push", &batch).await["status"].clone()
        }));
    }
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    client.batch_execute("COMMIT").await.unwrap();
    let mut applied = 0;
    for task in tasks {
        let status = task.await.unwrap();
        applied += i32::from(status == "applied");
        assert!(status == "applied" || status == "already", "{status}");
    }
    assert_eq!(applied, 1);
    assert_eq!(rows(&client, "SELECT total_requests FROM ollama_api_global_stats").await, "2");
}

/// Whether it ends, or waits for somebody else's lock.
pub async fn waits<T>(client: &tokio_postgres::Client, task: &tokio::task::JoinHandle<T>) -> bool {
    loop {
        let locked =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'hub' AND wait_event_type = 'Lock'";
        if rows(client, locked).await != "0" {
            return true;
        }
        if task.is_finished() {
            return false;
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Other hands add what was deleted, outside of the order that batches keep among themselves, while a late batch
/// still brings counts of it: before it has ended, and after it has looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_that_come_while_other_hands_add_their_key_again_are_its() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let late = || async { cluster.connect("hub", "postgres").await };
    let (mut stream, mut others) = (Stream::new(1), 1);
    for (list, kind, add, total) in [
        (
            "keys",
            "key",
            "INSERT INTO ollama_api_keys (api_key) VALUES ('NAME')",
            "SELECT (SELECT total_requests FROM ollama_api_key_stats WHERE api_key = 'NAME')",
        ),
        (
            "tokens",
            "token",
            "INSERT INTO ollama_api_client_tokens (token, name) VALUES ('NAME', 'n')",
            "SELECT (SELECT request_count FROM ollama_api_client_tokens WHERE token = 'NAME')",
        ),
    ] {
        // With counts that were retired before, and without.
        for (batch_first, counted) in [(true, 4), (false, 4), (true, 0), (false, 0)] {
            let name = format!("{kind}-{batch_first}-{counted}");
            let with_name = |sql: &str| sql.replace("NAME", &name);
            let stats = |n: i64| json!({format!("{kind}_stats"): [{"k": name, "s": n}]});
            stream.push(&client, json!({list: [{"k": name, "a": version(-60), "add": true}]})).await;
            if counted > 0 {
                stream.push(&client, stats(counted)).await;
            }
            let id = super::digest(&client, &name).await;
            stream.push(&client, json!({"gone": [{"t": kind, "id": id, "v": version(-30)}]})).await;

            let (batch, hands) = (late().await, late().await);
            others += 1;
            let mut other = Stream::new(others);
            if batch_first {
                batch.batch_execute("BEGIN").await.unwrap();
                assert_ne!(other.push(&batch, stats(3)).await, json!({}), "{name}: it was there");
                let sql = with_name(add);
                let adding = tokio::spawn(async move { hands.batch_execute(&sql).await.unwrap() });
                waits(&client, &adding).await;
                batch.batch_execute("COMMIT").await.unwrap();
                adding.await.unwrap();
            } else {
                hands.batch_execute(&format!("BEGIN; {}", with_name(add))).await.unwrap();
                let rows = stats(3);
                let pushing = tokio::spawn(async move { other.push(&batch, rows).await });
                waits(&client, &pushing).await;
                hands.batch_execute("COMMIT").await.unwrap();
                assert_eq!(pushing.await.unwrap(), json!({}), "{name}: its key is there");
            }
            assert_eq!(rows(&client, &with_name(total)).await, (counted + 3).to_string(), "{name}");
            assert_eq!(rows(&client, "SELECT count(*) FROM keytide_retired").await, "0", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_row_that_other_hands_make_meanwhile_is_counted_too() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let hour = version(0) / 1024 / 3_600_000_000;
    let mut one = Stream::new(1);
    let held = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NEW; END $$;";
    client.batch_execute(held).await.unwrap();
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND NOT granted";
    let make_model = "INSERT INTO ollama_api_model_stats (provider, model, total_requests, success_count)
        VALUES ('ollama', 'new', 1, 1)";
    let make_hour = format!(
        "INSERT INTO ollama_api_model_hourly (provider, model, hour, requests, success)
        VALUES ('ollama', 'new', 'epoch'::timestamptz + {hour} * '1 hour'::interval, 1, 1)"
    );
    for (list, table, make) in
        [("models", "ollama_api_model_stats", make_model), ("hours", "ollama_api_model_hourly", &*make_hour)]
    {
        let row = |model: &str| json!({"m": model, "h": hour, "s": 1});
        one.push(&client, json!({list: [row("old")]})).await;
        // The first batch stops while it updates what is there: after it has looked, and before it makes the rest.
        let trigger =
            format!("CREATE TRIGGER hold BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION hold()");
        client.batch_execute(&trigger).await.unwrap();
        client.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
        let (other, batch) =
            (cluster.connect("hub", "postgres").await, json!({list: [row("old"), row("new")]}));
        let pushing = tokio::spawn(async move {
            one.push(&other, batch).await;
            one
        });
        while rows(&client, waits).await != "1" {
            tokio::task::yield_now().await;
        }
        client.batch_execute(make).await.unwrap();
        client.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
        one = pushing.await.unwrap();
        let counted = format!(
            "SELECT model, {} FROM {table} ORDER BY model",
            if list == "hours" { "requests" } else { "total_requests" }
        );
        assert_eq!(rows(&client, &counted).await, "new|2\nold|2", "{list}");
    }
}

/// One batch has looked when a row was not there yet, the other one finds it: each would hold what the other needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_that_make_rows_go_one_after_another() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    // A batch stops before it makes "b".
    let held = "CREATE FUNCTION hold() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN PERFORM pg_advisory_xact_lock_shared(77); RETURN NEW; END $$;
        CREATE TRIGGER hold BEFORE INSERT ON ollama_api_model_stats FOR EACH ROW
        WHEN (NEW.model = 'b' AND current_setting('keytide.writer', true) = 'on') EXECUTE FUNCTION hold();
        SELECT pg_advisory_lock(77)";
    client.batch_execute(held).await.unwrap();
    let push = |n: u128, pusher: tokio_postgres::Client| {
        let batch = json!({"models": [{"m": "a", "s": 1}, {"m": "b", "s": 1}]});
        tokio::spawn(async move { Stream::new(n).push(&pusher, batch).await })
    };
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = 'hub' AND wait_event_type = 'Lock'";
    let one = push(1, cluster.connect("hub", "postgres").await);
    while rows(&client, waiting).await != "1" {
        tokio::task::yield_now().await;
    }
    let make = "INSERT INTO ollama_api_model_stats (provider, model) VALUES ('ollama', 'b')";
    client.batch_execute(make).await.unwrap();
    let two = push(2, cluster.connect("hub", "postgres").await);
    while rows(&client, waiting).await != "2" {
        tokio::task::yield_now().await;
    }
    client.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
    assert_eq!((one.await.unwrap(), two.await.unwrap()), (json!({}), json!({})));
    let counted = "SELECT model, total_requests FROM ollama_api_model_stats ORDER BY model";
    assert_eq!(rows(&client, counted).await, "a|2\nb|2");
    assert!(!cluster.log().contains("deadlock"), "{}", cluster.log());
}
