//! Batches: once, in order, and whatever their rows hold.

use keytide::replica::wire;
use serde_json::{Value, json};

use super::{Stream, call, digest, hub, rows, version};
use crate::hub::skipped;

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_applied_once_and_only_after_its_predecessor() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let first = stream.batch(&json!({"global": {"s": 5, "f": 2, "o": 1}}));
    for status in ["applied", "already", "already"] {
        let answer = call(&client, "keytide_push", &first).await;
        assert_eq!(answer["status"], status);
        serde_json::from_value::<wire::PushAnswer>(answer).unwrap();
    }
    let totals = "SELECT total_requests, success_count, failure_count FROM ollama_api_global_stats";
    assert_eq!(rows(&client, totals).await, "8|5|2");

    // Of a copied file: the same number, other content.
    let mut twin = first.clone();
    twin["digest"] = "other".into();
    assert_eq!(call(&client, "keytide_push", &twin).await["status"], "mismatch");
    (stream.seq, stream.digest) = (1, "other".to_owned());
    let follows_the_twin = stream.batch(&json!({"global": {"s": 1}}));
    let answer = call(&client, "keytide_push", &follows_the_twin).await;
    assert_eq!(
        (&answer["status"], &answer["seq"], &answer["digest"]),
        (&json!("mismatch"), &json!(1), &json!("d1"))
    );
    (stream.seq, stream.digest) = (2, "d2".to_owned());
    assert_eq!(call(&client, "keytide_push", &stream.batch(&json!({}))).await["status"], "mismatch", "a gap");
    assert_eq!(rows(&client, totals).await, "8|5|2");

    // Streams of another instance and another provider count for themselves.
    let mut other = Stream::new(2);
    other.push(&client, json!({"global": {"s": 1}})).await;
    assert_eq!(rows(&client, totals).await, "9|6|2");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_writes_nothing_works_on_a_hub_that_cannot_be_written() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let first = stream.batch(&json!({"global": {"s": 5}}));
    stream.push(&client, json!({"global": {"s": 5}})).await;
    client.batch_execute("SET default_transaction_read_only = on").await.unwrap();
    assert_eq!(call(&client, "keytide_push", &first).await["status"], "already");
    assert_eq!(call(&client, "keytide_push", &stream.batch(&json!({}))).await["status"], "read_only");
    stream.seq = 5;
    assert_eq!(call(&client, "keytide_push", &stream.batch(&json!({}))).await["status"], "mismatch");
    let hello = json!({"protocol": 1, "instance": stream.instance, "name": "a", "version": "1", "now": 0, "streams": []});
    let answer = call(&client, "keytide_hello", &hello).await;
    assert_eq!((&answer["status"], &answer["read_only"]), (&json!("ok"), &json!(true)));
    assert_eq!(call(&client, "keytide_retain", &json!({"protocol": 1})).await["status"], "read_only");
    let (page, _) = stream.pull(&client, "stats", None).await;
    assert_eq!(page["rows"]["global"]["s"], 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_stops_a_batch() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let hostile = json!({
        "gone": [{"t": "zz"}, 7, null, {"t": "key", "id": "nothex", "v": 5}, {"t": "key", "id": "0".repeat(32), "v": 1e99}],
        "keys": [7, null, [], "x", {"k": 5}, {"k": "h1", "a": "x", "add": 1}, {"k": "h2", "a": 1e300, "add": true},
            {"k": "h3", "a": -5, "add": true, "w": 1e9, "x": 1e30, "d": -7, "c": 1e40, "h": [1], "u": 5, "e": "no"},
            {"k": "h4", "a": 10, "add": true, "h": {"e": 9, "f": 1e20, "n": 1e20, "c": "bogus", "v": "yes"}},
            {"k": "h4", "a": 11, "add": true, "u": "twice"}, {"k": "", "a": 1, "add": true},
            {"k": "long ".repeat(4000), "a": 1, "add": true}],
        "tokens": [{"k": "ht", "a": 3, "add": true, "m": "x", "r": -4, "n": [1]}, {}],
        "key_stats": [{"k": "h3", "s": 1e300, "f": -5, "o": "7", "lu": 1e30}, {"k": "h3", "s": 9e14}, {"s": 4}, 5],
        "token_stats": [{"k": "ht", "s": "NaN", "p": 1e16}],
        "models": [{"m": "😀\u{202e}", "s": 1}, {"m": null, "s": 2}, {"s": 1}, {"m": "m".repeat(9000), "s": 1}],
        "hours": [{"h": 4e9, "m": "x", "s": 1}, {"h": -1, "m": "x"}, {"m": "x"}, {"h": "a"}],
        "global": {"s": 1e40, "p": -1}, "streams": [3], "unknown": [1],
    });
    let answer = stream.push(&client, hostile).await;
    assert_eq!(answer["clock"], json!([["gone", 4], ["keys", 6]]));
    assert_eq!(answer["expired"], json!([["hours", 0], ["hours", 1], ["hours", 2], ["hours", 3]]));
    for odd in [
        json!({"keys": {"a": 1}, "models": "x", "global": [1], "hours": null}),
        json!(7),
        json!(null),
        json!([1]),
    ] {
        stream.push(&client, odd).await;
    }
    // Sums stay within their type.
    for _ in 0..3 {
        rows(&client, "SELECT set_config('keytide.writer', 'on', false)").await;
        rows(&client, "UPDATE ollama_api_global_stats SET total_requests = 9223372036854775807").await;
        stream.push(&client, json!({"global": {"s": 1_000_000}, "key_stats": [{"k": "h3", "f": 5}]})).await;
    }
    assert_eq!(
        rows(&client, "SELECT total_requests FROM ollama_api_global_stats").await,
        i64::MAX.to_string()
    );
    for lane in ["state", "stats"] {
        let (page, _) = stream.pull(&client, lane, None).await;
        serde_json::from_value::<wire::Page>(page).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_field_goes_by_its_own_version() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let (mut one, mut two) = (Stream::new(1), Stream::new(2));
    let (a, b, c) = (version(-100), version(-50), version(-10));
    one.push(&client, json!({"keys": [{"k": "k", "a": a, "add": true, "u": "first", "n": "note"}]})).await;
    two.push(
        &client,
        json!({"keys": [{"k": "k", "a": a, "u": "later", "uv": c, "n": "older", "nv": b, "w": 9, "wv": b}]}),
    )
    .await;
    one.push(
        &client,
        json!({"keys": [{"k": "k", "a": a, "u": "lost", "uv": b, "nv": c, "e": false, "ev": b}]}),
    )
    .await;
    let shown = "SELECT username, note IS NULL, weight, enabled, status FROM ollama_api_keys";
    assert_eq!(rows(&client, shown).await, "later|t|9|f|disabled");
    // On equal versions the hub keeps what it has.
    two.push(&client, json!({"keys": [{"k": "k", "a": a, "u": "equal", "uv": c}]})).await;
    assert_eq!(rows(&client, shown).await, "later|t|9|f|disabled");
    // What changes nothing is no change.
    let (_, cursor) = one.pull(&client, "state", None).await;
    two.push(&client, json!({"keys": [{"k": "k", "a": a, "u": "later", "uv": c}]})).await;
    assert_eq!(one.pull(&client, "state", Some(&cursor)).await.0["rows"], json!({}));
    // Tokens too.
    one.push(&client, json!({"tokens": [{"k": "t", "a": a, "add": true, "n": "x", "r": 5}]})).await;
    two.push(
        &client,
        json!({"tokens": [{"k": "t", "a": a, "n": "y", "nv": b, "m": ["m"], "mv": b, "r": 1, "rv": a}]}),
    )
    .await;
    let shown = "SELECT name, allowed_models, requests_per_minute FROM ollama_api_client_tokens";
    assert_eq!(rows(&client, shown).await, "y|[\"m\"]|5");
}

#[tokio::test(flavor = "multi_thread")]
async fn health_goes_by_epoch_and_then_by_the_greater() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let (a, e, late) = (version(-100), version(-50), 1_900_000_000_000_i64);
    let health = |h: serde_json::Value| json!({"keys": [{"k": "k", "a": a, "h": h}]});
    stream.push(&client, json!({"keys": [{"k": "k", "a": a, "add": true}]})).await;
    stream.push(&client, json!({"key_stats": [{"k": "k", "f": 3}]})).await;
    stream.push(&client, health(json!({"e": a, "f": late, "c": "quota", "n": 3, "a": 1}))).await;
    stream.push(&client, health(json!({"e": a, "f": late - 5, "c": "server", "n": 2, "s": 4}))).await;
    stream.push(&client, health(json!({"e": a - 9, "f": late + 99, "c": "auth", "n": 90, "v": true}))).await;
    let shown = "SELECT (extract(epoch FROM failed_until) * 1000)::bigint, fail_cause, k.consecutive_failures, auth_failures,
        server_failures, needs_verification, status, s.consecutive_failures
        FROM ollama_api_keys k JOIN ollama_api_key_stats s USING (api_key)";
    assert_eq!(rows(&client, shown).await, format!("{late}|quota|3|1|4|f|active|3"));
    stream.push(&client, health(json!({"e": a, "f": late, "c": "auth", "v": true}))).await;
    assert_eq!(rows(&client, shown).await, format!("{late}|auth|3|1|4|t|failed|3"));
    stream.push(&client, health(json!({"e": e}))).await;
    assert_eq!(rows(&client, shown).await, "||0|0|0|f|active|0", "a later epoch replaces all");
    stream.push(&client, health(json!({"e": a, "f": late, "n": 9}))).await;
    assert_eq!(rows(&client, shown).await, "||0|0|0|f|active|0", "an earlier one changes nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_every_register_the_last_writer_wins() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let (mut one, mut two) = (Stream::new(1), Stream::new(2));
    let (a, b, c, d) = (version(-100), version(-50), version(-10), version(-5));
    let ms = version(0) / 1024 / 1000;
    let lists = [
        (
            "keys",
            vec![
                ("u", "uv", json!("first"), json!("then"), json!("late")),
                ("n", "nv", json!("first"), json!("then"), json!("late")),
                ("x", "xv", json!(ms + 1_000_000), json!(ms + 2_000_000), json!(ms + 3_000_000)),
                ("w", "wv", json!(2), json!(3), json!(4)),
                ("e", "ev", json!(null), json!(false), json!(null)),
                ("d", "dv", json!(ms + 1_000_000), json!(ms + 2_000_000), json!(ms + 3_000_000)),
            ],
        ),
        (
            "tokens",
            vec![
                ("n", "nv", json!("first"), json!("then"), json!("late")),
                ("x", "xv", json!(ms + 1_000_000), json!(ms + 2_000_000), json!(ms + 3_000_000)),
                ("m", "mv", json!(["first"]), json!(["then", "more"]), json!(["late"])),
                ("r", "rv", json!(1), json!(2), json!(3)),
            ],
        ),
    ];
    for (list, registers) in &lists {
        for (name, stamp, _, then, late) in registers {
            let key = format!("{list} {name}");
            // As told when it was added, of all its registers.
            let mut told = json!({"k": key, "a": a, "c": ms});
            for (name, _, first, ..) in registers {
                if !first.is_null() {
                    told[*name] = first.clone();
                }
            }
            let mut add = told.clone();
            add["add"] = json!(true);
            one.push(&client, json!({*list: [add]})).await;
            let write = |value: &Value, version: i64| {
                let mut row = told.clone();
                row[*name] = value.clone();
                row[*stamp] = json!(version);
                json!({*list: [row]})
            };
            let absent = &json!(null);
            for (said, batch, value, version) in [
                ("later", write(then, c), then, Some(c)),
                ("earlier", write(late, b), then, Some(c)),
                ("of the same time", write(late, c), then, Some(c)),
                ("from when it was added", json!({*list: [told]}), then, Some(c)),
                ("later, to nothing", write(absent, d), absent, Some(d)),
            ] {
                two.push(&client, batch).await;
                let mut expected = told.clone();
                expected[*name] = value.clone();
                expected[*stamp] = json!(version);
                if value.is_null() {
                    expected.as_object_mut().unwrap().remove(*name);
                }
                let (page, _) = one.pull(&client, "state", None).await;
                let found =
                    page["rows"][*list].as_array().unwrap().iter().find(|row| row["k"] == key.as_str());
                assert_eq!(found, Some(&expected), "{list}.{name} {said}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_future_is_refused_row_by_row() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let (now, ahead) = (version(0), version(400));
    let answer = stream
        .push(&client, json!({
            "gone": [{"t": "key", "id": "0".repeat(32), "v": ahead}],
            "keys": [{"k": "a", "a": now, "add": true}, {"k": "b", "a": now, "add": true, "uv": ahead},
                {"k": "c", "a": now, "add": true, "h": {"e": ahead}}, {"k": "d", "a": version(200), "add": true}],
            "tokens": [{"k": "t", "a": ahead, "add": true}],
        }))
        .await;
    assert_eq!(answer, json!({"clock": [["gone", 0], ["keys", 1], ["keys", 2], ["tokens", 0]]}));

    // Who missed the answer learns it with the refusal of another batch.
    stream.seq += 1;
    let refused = call(&client, "keytide_push", &stream.batch(&json!({}))).await;
    assert_eq!((&refused["status"], &refused["rows"]), (&json!("mismatch"), &answer));
    assert_eq!(rows(&client, "SELECT api_key FROM ollama_api_keys ORDER BY 1").await, "a\nd");
    assert_eq!(rows(&client, "SELECT count(*) FROM keytide_tombstones").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_keys_counts_rest_until_it_is_added_again() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let (mut one, mut two) = (Stream::new(1), Stream::new(2));
    let (a, b, c) = (version(-100), version(-50), version(-10));
    let id = digest(&client, "k").await;
    one.push(
        &client,
        json!({"keys": [{"k": "k", "a": a, "add": true}], "key_stats": [{"k": "k", "s": 3, "f": 1}]}),
    )
    .await;
    let ignored = one.push(&client, json!({"gone": [{"t": "key", "id": id, "v": a - 1}]})).await;
    assert_eq!(ignored, json!({}));
    assert_eq!(
        rows(&client, "SELECT count(*) FROM ollama_api_keys").await,
        "1",
        "a deletion from before it was added"
    );

    one.push(&client, json!({"gone": [{"t": "key", "id": id, "v": b}]})).await;
    assert_eq!(
        rows(&client, "SELECT api_key FROM ollama_api_keys UNION SELECT api_key FROM ollama_api_key_stats")
            .await,
        ""
    );
    let ghost = two
        .push(
            &client,
            json!({"keys": [{"k": "never seen", "a": c, "u": "x"}], "tokens": [{"k": "t", "a": c}]}),
        )
        .await;
    assert_eq!(ghost, json!({}), "what nobody deleted is not gone: it may have been lost here");
    assert_eq!(
        rows(&client, "SELECT api_key FROM ollama_api_keys UNION SELECT token FROM ollama_api_client_tokens")
            .await,
        ""
    );
    // A state version never makes a row, nor does an add from before the deletion; late counts are kept.
    let answer = two
        .push(&client, json!({
            "keys": [{"k": "k", "a": a, "u": "x", "uv": c}], "key_stats": [{"k": "k", "s": 2}], "global": {"s": 2},
        }))
        .await;
    assert_eq!(answer, json!({"gone": [["keys", 0], ["key_stats", 0]]}));
    let answer = two.push(&client, json!({"keys": [{"k": "k", "a": b, "add": true}]})).await;
    assert_eq!(answer, json!({"gone": [["keys", 0]]}));
    let retired = "SELECT total_requests, success_count, failure_count FROM keytide_retired";
    assert_eq!(rows(&client, retired).await, "6|5|1");
    let (page, cursor) = two.pull(&client, "state", None).await;
    assert_eq!(page["rows"]["gone"], json!([{"t": "key", "id": id, "v": b}]));

    two.push(&client, json!({"keys": [{"k": "k", "a": c, "add": true}], "key_stats": [{"k": "k", "s": 1}]}))
        .await;
    let stats = "SELECT total_requests, success_count, failure_count, success_rate FROM ollama_api_key_stats";
    assert_eq!(rows(&client, stats).await, "7|6|1|85.71");
    assert_eq!(rows(&client, retired).await + &rows(&client, "SELECT id FROM keytide_tombstones").await, "");
    let (page, _) = one.pull(&client, "state", Some(&cursor)).await;
    assert_eq!(page["rows"]["keys"][0]["a"], c);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_adds_the_later_says_when_it_was_created() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let created = "SELECT keytide_ms(created_at) FROM ollama_api_keys UNION ALL
        SELECT keytide_ms(created_at) FROM ollama_api_client_tokens";
    for reversed in [false, true] {
        let (_cluster, client) = hub().await;
        let mut batches = [(version(-100), 5000), (version(-50), 7000)].map(|(a, c)| {
            json!({"keys": [{"k": "k", "a": a, "c": c, "add": true}], "tokens": [{"k": "t", "a": a, "c": c, "add": true}]})
        });
        if reversed {
            batches.reverse();
        }
        let mut stream = Stream::new(1);
        for batch in batches {
            stream.push(&client, batch).await;
        }
        assert_eq!(rows(&client, created).await, "7000\n7000");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn revoked_tokens_are_remembered_for_good_and_keys_for_thirty_days() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let a = version(-100);
    let (key, token) = (digest(&client, "k").await, digest(&client, "t").await);
    stream
        .push(
            &client,
            json!({"tokens": [{"k": "t", "a": a, "add": true}], "token_stats": [{"k": "t", "s": 3, "p": 9}]}),
        )
        .await;
    stream
        .push(
            &client,
            json!({"gone": [{"t": "key", "id": key, "v": a}, {"t": "token", "id": token, "v": a + 1}]}),
        )
        .await;
    let old = "UPDATE keytide_tombstones SET deleted_at = now() - interval '31 days'";
    client.batch_execute(old).await.unwrap();
    client
        .batch_execute(
            "INSERT INTO ollama_api_model_hourly (provider, model, hour, requests)
             VALUES ('ollama', 'm', now() - interval '31 days', 1), ('ollama', 'm', now() - interval '29 days', 1)",
        )
        .await
        .unwrap();
    let answer = call(&client, "keytide_retain", &json!({"protocol": 1})).await;
    assert_eq!((&answer["tombstones"], &answer["hours"]), (&json!(1), &json!(1)));
    assert_eq!(rows(&client, "SELECT kind FROM keytide_tombstones").await, "token");
    let (page, _) = stream.pull(&client, "state", None).await;
    let swept = page["swept"].as_i64().unwrap();
    assert!(swept > version(-31 * 86_400) && swept < version(-29 * 86_400), "{swept}");
    let answer = stream.push(&client, json!({"tokens": [{"k": "t", "a": a, "add": true}]})).await;
    assert_eq!(answer, json!({"gone": [["tokens", 0]]}));
    stream.push(&client, json!({"tokens": [{"k": "t", "a": a + 2, "add": true}]})).await;
    assert_eq!(
        rows(&client, "SELECT request_count, prompt_tokens FROM ollama_api_client_tokens").await,
        "3|9"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_hour_is_answered_and_not_kept() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let hour = version(0) / 1024 / 3_600_000_000;
    let answer = stream
        .push(
            &client,
            json!({"hours": [{"h": hour - 721, "m": "m", "s": 1}, {"h": hour, "m": "m", "s": 2, "p": 7}]}),
        )
        .await;
    assert_eq!(answer, json!({"expired": [["hours", 0]]}));
    stream.push(&client, json!({"hours": [{"h": hour, "m": "m", "s": 2, "o": 1}]})).await;
    let shown = "SELECT requests, success, failure, prompt_tokens FROM ollama_api_model_hourly";
    assert_eq!(rows(&client, shown).await, "5|4|0|7");
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_are_not_used_up_and_steady_updates_stay_on_their_page() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let hour = version(0) / 1024 / 3_600_000_000;
    let a = version(-9);
    stream
        .push(
            &client,
            json!({"keys": [{"k": "k", "a": a, "add": true}], "tokens": [{"k": "t", "a": a, "add": true}]}),
        )
        .await;
    for at in 0..60 {
        stream
            .push(
                &client,
                json!({
                    "key_stats": [{"k": "k", "s": 1, "lu": 1_700_000_000_000_i64 + at}],
                    "token_stats": [{"k": "t", "s": 1, "lu": 1_700_000_000_000_i64 + at}],
                    "models": [{"m": "m", "s": 1, "lu": 1_700_000_000_000_i64 + at}],
                    "hours": [{"h": hour, "m": "m", "s": 1}], "global": {"s": 1},
                }),
            )
            .await;
    }
    let used = "SELECT last_value FROM ollama_api_model_stats_id_seq UNION ALL
                SELECT last_value FROM ollama_api_model_hourly_id_seq";
    assert_eq!(rows(&client, used).await, "1\n1");
    client.batch_execute("SELECT pg_stat_clear_snapshot()").await.unwrap();
    let mut hot = String::new();
    for _ in 0..100 {
        hot = rows(
            &client,
            "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
             WHERE relname ~ '^ollama_api_.*(stats|hourly|tokens)$' AND n_tup_upd < 55 ORDER BY 1",
        )
        .await;
        if hot.is_empty() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(hot, "", "the counters of the server's statistics have arrived");
    let cold = "SELECT relname, n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables
        WHERE relname ~ '^ollama_api_.*(stats|hourly|tokens)$' AND n_tup_hot_upd < n_tup_upd - 3 ORDER BY 1";
    assert_eq!(rows(&client, cold).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_and_missing_tables_are_said_so() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let stream = Stream::new(1);
    for function in ["keytide_hello", "keytide_push", "keytide_pull", "keytide_sizes", "keytide_retain"] {
        let answer = call(&client, function, &json!({"protocol": 99})).await;
        assert_eq!(answer["status"], "unsupported", "{function}");
        assert!(answer["hub"]["id"].is_string());
    }
    client.batch_execute("ALTER TABLE ollama_api_model_stats RENAME TO elsewhere").await.unwrap();
    client.batch_execute("ALTER TABLE openrouter_api_keys DROP COLUMN note").await.unwrap();
    let answer = call(&client, "keytide_push", &stream.batch(&json!({"global": {"s": 1}}))).await;
    assert_eq!((&answer["status"], &answer["seq"]), (&json!("missing"), &json!(0)));
    assert_eq!(answer["missing"][0]["what"][0], "table ollama_api_model_stats");
    let hello = json!({"protocol": 1, "instance": stream.instance, "name": "a", "version": "1", "now": 0,
        "streams": ["ollama_api", "openrouter_api", "'; DROP"]});
    let answer = call(&client, "keytide_hello", &hello).await;
    let answer: wire::HelloAnswer = serde_json::from_value(answer).unwrap();
    assert_eq!(answer.missing[1].what, ["column openrouter_api_keys.note"]);
    assert_eq!((answer.missing.len(), answer.instances.unwrap().len()), (3, 1));
    assert!(stream.pull(&client, "state", None).await.0["missing"].as_bool().unwrap());
}
