//! Other programs and people on the same tables: what they write arrives like any other change.

use serde_json::{Value, json};

use super::{Stream, digest, hub, rows, try_call, version};
use crate::hub::skipped;

async fn key(client: &tokio_postgres::Client) -> Value {
    Stream::new(99).pull(client, "state", None).await.0["rows"]["keys"][0].clone()
}

fn near(value: &Value, seconds: i64) -> bool {
    (value.as_i64().unwrap_or_default() - (version(seconds) >> 10) / 1000).abs() < 60_000
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_differs_is_stamped_and_later_than_before() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    // From an instance whose clock is ahead of the hub's.
    let ahead = version(200);
    stream
        .push(
            &client,
            json!({"keys": [{"k": "k", "a": version(-9), "add": true, "u": "u", "uv": ahead, "n": "n"}]}),
        )
        .await;
    let (_, cursor) = stream.pull(&client, "state", None).await;
    client
        .batch_execute(
            "UPDATE ollama_api_keys SET username = 'u', status = 'active', created_at = created_at",
        )
        .await
        .unwrap();
    assert_eq!(
        stream.pull(&client, "state", Some(&cursor)).await.0["rows"],
        json!({}),
        "the same again is no edit"
    );
    client.batch_execute("UPDATE ollama_api_keys SET username = 'by hand'").await.unwrap();
    let row = key(&client).await;
    assert_eq!(row["u"], "by hand");
    assert!(row["uv"].as_i64().unwrap() > ahead, "a slow hub loses no edit");
    assert!(row.get("nv").is_none() && row.get("ev").is_none() && row.get("h").is_none(), "{row}");
    assert_eq!(
        stream.pull(&client, "state", Some(&cursor)).await.0["rows"]["keys"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_else_a_pushs_transaction_does_is_stamped() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let stream = Stream::new(1);
    client.batch_execute("INSERT INTO ollama_api_keys (api_key) VALUES ('k'); BEGIN").await.unwrap();
    super::call(&client, "keytide_push", &stream.batch(&json!({"global": {"s": 1}}))).await;
    client.batch_execute("UPDATE ollama_api_keys SET username = 'x'; COMMIT").await.unwrap();
    assert!(key(&client).await["uv"].is_i64());
}

#[tokio::test(flavor = "multi_thread")]
async fn status_is_read_as_the_guide_means_it() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let write = async |sql: &str| {
        client.batch_execute(&format!("UPDATE ollama_api_keys SET {sql}")).await.unwrap();
        key(&client).await
    };
    client
        .batch_execute("INSERT INTO ollama_api_keys (api_key, username) VALUES ('k', 'N/A')")
        .await
        .unwrap();
    assert!(key(&client).await.get("u").is_none(), "N/A is no account");
    let row = write("status = 'disabled'").await;
    assert_eq!((&row["e"], row.get("d")), (&json!(false), None));
    let row = write("disabled_until = now() + interval '2 hours'").await;
    assert!(row.get("e").is_none() && near(&row["d"], 7200), "timed: {row}");
    let row = write("status = 'active'").await;
    assert!(row.get("e").is_none() && row.get("d").is_none() && row["h"]["e"].is_i64(), "{row}");
    let epoch = row["h"]["e"].as_i64().unwrap();
    let row = write("status = 'failed', consecutive_failures = 3").await;
    assert!(near(&row["h"]["f"], 3600), "{row}");
    assert_eq!(
        (&row["h"]["n"], row["h"]["e"].as_i64().unwrap()),
        (&json!(3), epoch),
        "raised in the same epoch"
    );
    let row = write("failed_until = now() + interval '5 minutes'").await;
    assert!(row["h"]["e"].as_i64().unwrap() > epoch && near(&row["h"]["f"], 300), "shortened: a new epoch");
    let epoch = row["h"]["e"].as_i64().unwrap();
    let row = write("consecutive_failures = 0").await;
    assert!(row["h"]["e"].as_i64().unwrap() > epoch);
    let row = write("status = 'active'").await;
    assert!(row["h"].get("f").is_none());
    let row = write("status = 'expired'").await;
    assert!(near(&row["x"], 0), "{row}");
    // As an upsert, whose values pass the insert's trigger too.
    client
        .batch_execute(
            "INSERT INTO ollama_api_keys (api_key, status) VALUES ('k', 'failed')
             ON CONFLICT (api_key) DO UPDATE SET status = excluded.status",
        )
        .await
        .unwrap();
    assert!(near(&key(&client).await["h"]["f"], 3600));
    let row = write("enabled = false").await;
    assert_eq!(row["e"], false);
    assert_eq!(rows(&client, "SELECT status FROM ollama_api_keys").await, "disabled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lowered_counter_is_ignored_and_reported_and_a_reset_is_a_reset() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::new(1);
    let hour = version(0) / 1024 / 3_600_000_000;
    stream
        .push(&client, json!({
            "keys": [{"k": "k", "a": version(-9), "add": true}], "key_stats": [{"k": "k", "s": 90, "f": 10}],
            "tokens": [{"k": "t", "a": version(-9), "add": true}], "token_stats": [{"k": "t", "s": 90}],
            "models": [{"m": "m", "s": 90}], "hours": [{"h": hour, "m": "m", "s": 90}], "global": {"s": 90},
        }))
        .await;
    client
        .batch_execute(
            "UPDATE ollama_api_key_stats SET total_requests = 99, success_count = 91;
             UPDATE ollama_api_client_tokens SET request_count = 80;
             UPDATE ollama_api_model_stats SET total_requests = 80; UPDATE ollama_api_model_hourly SET requests = 80;
             UPDATE ollama_api_global_stats SET total_requests = 80, success_count = 80",
        )
        .await
        .unwrap();
    let all = "SELECT total_requests, success_count, success_rate FROM ollama_api_key_stats
        UNION ALL SELECT request_count, success_count, 0 FROM ollama_api_client_tokens
        UNION ALL SELECT total_requests, success_count, 0 FROM ollama_api_model_stats
        UNION ALL SELECT requests, success, 0 FROM ollama_api_model_hourly
        UNION ALL SELECT total_requests, success_count, 0 FROM ollama_api_global_stats";
    // A success more is a request more, whatever was read of the total.
    assert_eq!(rows(&client, all).await, "101|91|90.10\n90|90|0\n90|90|0\n90|90|0\n90|90|0");
    let reported = "SELECT count(*), sum(count) FROM keytide_reports WHERE count > 0";
    assert_eq!(rows(&client, reported).await, "5|5");
    client
        .batch_execute(
            "UPDATE ollama_api_key_stats SET total_requests = 0, success_count = 0, failure_count = 0, success_rate = 0;
             UPDATE ollama_api_client_tokens SET request_count = 0; UPDATE ollama_api_model_stats SET total_requests = 0",
        )
        .await
        .unwrap();
    let (page, _) = stream.pull(&client, "stats", None).await;
    assert_eq!(page["rows"]["token_stats"], json!([{"k": "t"}]));
    assert!(page["rows"]["key_stats"][0].get("s").is_none());
    assert!(page["rows"]["models"][0].get("s").is_none(), "{page}");
    // One that is raised counts on top, and the rate follows whoever writes.
    stream.push(&client, json!({"key_stats": [{"k": "k", "s": 1}]})).await;
    client
        .batch_execute(
            "UPDATE ollama_api_key_stats SET total_requests = 4, failure_count = 3, success_rate = 77",
        )
        .await
        .unwrap();
    stream.push(&client, json!({"key_stats": [{"k": "k", "s": 1}]})).await;
    assert_eq!(
        rows(&client, "SELECT total_requests, success_rate FROM ollama_api_key_stats").await,
        "5|40.00"
    );
    client.batch_execute("UPDATE ollama_api_key_stats SET success_rate = 1").await.unwrap();
    assert_eq!(rows(&client, "SELECT success_rate FROM ollama_api_key_stats").await, "40.00");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_renaming_and_emptying_leave_tombstones_and_keep_counts() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let stream = Stream::new(1);
    let fill = "INSERT INTO ollama_api_keys (api_key) VALUES ('a'), ('b');
        INSERT INTO ollama_api_key_stats (api_key, total_requests, success_count, success_rate) VALUES ('a', 3, 3, 100), ('b', 4, 0, 0)";
    client.batch_execute(fill).await.unwrap();
    client.batch_execute("DELETE FROM ollama_api_keys WHERE api_key = 'a'").await.unwrap();
    let graves = async || rows(&client, "SELECT kind, id FROM keytide_tombstones ORDER BY 1, 2").await;
    let (a, b, c) = (digest(&client, "a").await, digest(&client, "b").await, digest(&client, "c").await);
    assert_eq!(graves().await, format!("key|{a}"));
    client.batch_execute("UPDATE ollama_api_keys SET api_key = 'c' WHERE api_key = 'b'").await.unwrap();
    let mut expected = [format!("key|{a}"), format!("key|{b}")];
    expected.sort();
    assert_eq!(graves().await, expected.join("\n"));
    assert_eq!(rows(&client, "SELECT count(*), sum(total_requests) FROM keytide_retired").await, "2|7");
    assert_eq!(rows(&client, "SELECT count(*) FROM ollama_api_key_stats").await, "0");

    // Added again by hand: above its tombstone, with its counts.
    let grave = rows(&client, &format!("SELECT version FROM keytide_tombstones WHERE id = '{a}'")).await;
    client.batch_execute("INSERT INTO ollama_api_keys (api_key) VALUES ('a')").await.unwrap();
    let added = rows(&client, "SELECT added_v FROM ollama_api_keys WHERE api_key = 'a'").await;
    assert!(added.parse::<i64>().unwrap() > grave.parse().unwrap());
    assert_eq!(rows(&client, "SELECT api_key, total_requests FROM ollama_api_key_stats").await, "a|3");
    assert_eq!(graves().await, format!("key|{b}"));

    client.batch_execute("TRUNCATE ollama_api_keys, ollama_api_key_stats").await.unwrap();
    let mut expected = [format!("key|{a}"), format!("key|{b}"), format!("key|{c}")];
    expected.sort();
    assert_eq!(graves().await, expected.join("\n"));
    assert_eq!(rows(&client, "SELECT sum(total_requests) FROM keytide_retired").await, "7");

    // Statistics alone: they start again from nothing, and are there again with the next count.
    client
        .batch_execute("INSERT INTO ollama_api_keys (api_key) VALUES ('a'); DELETE FROM ollama_api_key_stats")
        .await
        .unwrap();
    client.batch_execute("INSERT INTO ollama_api_model_stats (provider, model) VALUES ('ollama', 'm'); DELETE FROM ollama_api_model_stats").await.unwrap();
    client.batch_execute("INSERT INTO ollama_api_global_stats (id, total_requests) VALUES ('global', 5); TRUNCATE ollama_api_global_stats").await.unwrap();
    let (page, _) = stream.pull(&client, "state", None).await;
    let kinds: Vec<_> =
        page["rows"]["gone"].as_array().unwrap().iter().map(|row| (&row["t"], &row["id"])).collect();
    for row in [("key_stats", a.as_str()), ("model", "m"), ("global", "global")] {
        assert!(kinds.contains(&(&json!(row.0), &json!(row.1))), "{kinds:?}");
    }
    Stream::new(2)
        .push(
            &client,
            json!({"key_stats": [{"k": "a", "s": 1}], "models": [{"m": "m", "s": 1}], "global": {"s": 1}}),
        )
        .await;
    assert_eq!(rows(&client, "SELECT count(*) FROM keytide_tombstones WHERE kind <> 'key'").await, "0");
    // The guide's clean-up is no news.
    client
        .batch_execute(
            "INSERT INTO ollama_api_model_hourly (provider, model, hour) VALUES ('ollama', 'm', now())",
        )
        .await
        .unwrap();
    client
        .batch_execute("DELETE FROM ollama_api_model_hourly WHERE created_at < NOW() + INTERVAL '30 days'")
        .await
        .unwrap();
    assert_eq!(rows(&client, "SELECT count(*) FROM keytide_tombstones WHERE kind = 'hour'").await, "0");
    // A token.
    client.batch_execute("INSERT INTO ollama_api_client_tokens (token, name) VALUES ('t', 'n'); UPDATE ollama_api_client_tokens SET request_count = 5; DELETE FROM ollama_api_client_tokens").await.unwrap();
    client
        .batch_execute("INSERT INTO ollama_api_client_tokens (token, name) VALUES ('t', 'n')")
        .await
        .unwrap();
    assert_eq!(rows(&client, "SELECT request_count FROM ollama_api_client_tokens").await, "5");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_with_rights_on_its_tables_alone_goes_on_working() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    client
        .batch_execute(
            "CREATE ROLE legacy LOGIN BYPASSRLS; CREATE ROLE anon LOGIN; CREATE ROLE authenticated; CREATE ROLE service_role LOGIN BYPASSRLS;
             GRANT USAGE ON SCHEMA public TO PUBLIC;
             GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON ALL TABLES IN SCHEMA public TO anon;
             GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO anon, authenticated, service_role;
             GRANT SELECT, INSERT, UPDATE, DELETE ON ollama_api_keys, ollama_api_key_stats, ollama_api_client_tokens TO legacy",
        )
        .await
        .unwrap();
    let report = keytide::replica::schema::check(&client, &[super::OLLAMA]).await.unwrap();
    let open = "the role anon has rights on the function keytide_push";
    assert!(report.problems.iter().any(|problem| problem.what == open), "{report:#?}");
    let left = keytide::replica::schema::apply(&client, &[super::OLLAMA, super::OPENROUTER], false)
        .await
        .unwrap()
        .left;
    assert_eq!(left.problems, []);

    let legacy = cluster.connect("hub", "legacy").await;
    legacy
        .batch_execute(
            "INSERT INTO ollama_api_keys (api_key) VALUES ('k'); UPDATE ollama_api_keys SET status = 'disabled';
             INSERT INTO ollama_api_key_stats (api_key, total_requests) VALUES ('k', 4);
             INSERT INTO ollama_api_client_tokens (token) VALUES ('t'); DELETE FROM ollama_api_client_tokens;
             DELETE FROM ollama_api_keys",
        )
        .await
        .unwrap();
    assert_eq!(rows(&client, "SELECT total_requests FROM keytide_retired WHERE kind = 'key'").await, "4");
    for who in ["legacy", "anon"] {
        let outsider = cluster.connect("hub", who).await;
        for function in ["keytide_hello", "keytide_push", "keytide_pull", "keytide_sizes", "keytide_retain"] {
            let error = try_call(&outsider, function, &json!({"protocol": 1})).await.unwrap_err();
            assert_eq!(error.code().unwrap().code(), "42501", "{who} {function}");
        }
        assert!(outsider.simple_query("SELECT * FROM keytide_settings").await.is_err());
    }
    let service = cluster.connect("hub", "service_role").await;
    let mut stream = Stream::new(1);
    stream
        .push(
            &service,
            json!({"keys": [{"k": "s", "a": version(0), "add": true}], "key_stats": [{"k": "s", "s": 1}]}),
        )
        .await;
    assert!(service.simple_query("SELECT keytide_digest('x')").await.is_err());
    let anon = cluster.connect("hub", "anon").await;
    assert!(anon.simple_query("SELECT * FROM ollama_api_keys").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_write_a_table_needs_no_rights_on_ours() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let tables = "ollama_api_keys, ollama_api_key_stats, ollama_api_client_tokens, ollama_api_global_stats,
        ollama_api_model_stats, ollama_api_model_hourly";
    client
        .batch_execute(&format!(
            "CREATE ROLE legacy LOGIN BYPASSRLS; GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON {tables} TO legacy;
             GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO legacy"
        ))
        .await
        .unwrap();
    let legacy = cluster.connect("hub", "legacy").await;
    let write = async |sql: &str| {
        legacy.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    };
    for (insert, update, table) in [
        ("(api_key) VALUES ('k'), ('kept')", "username = 'u'", "ollama_api_keys"),
        ("(api_key, total_requests) VALUES ('k', 9)", "total_requests = 4", "ollama_api_key_stats"),
        ("(token) VALUES ('t')", "name = 'n'", "ollama_api_client_tokens"),
        ("(id, total_requests) VALUES ('global', 9)", "total_requests = 4", "ollama_api_global_stats"),
        ("(model, total_requests) VALUES ('m', 9)", "total_requests = 4", "ollama_api_model_stats"),
        ("(model, hour, requests) VALUES ('m', now(), 9)", "requests = 4", "ollama_api_model_hourly"),
    ] {
        write(&format!("INSERT INTO {table} {insert}")).await;
        write(&format!("UPDATE {table} SET {update}")).await;
    }
    let buried = "SELECT kind, id FROM keytide_tombstones ORDER BY kind";
    assert_eq!(rows(&client, buried).await, "");
    for delete in [
        "ollama_api_model_hourly",
        "ollama_api_model_stats",
        "ollama_api_global_stats",
        "ollama_api_client_tokens",
        "ollama_api_key_stats",
        "ollama_api_keys WHERE api_key = 'k'",
    ] {
        write(&format!("DELETE FROM {delete}")).await;
    }
    let (key, token) = (digest(&client, "k").await, digest(&client, "t").await);
    assert_eq!(
        rows(&client, buried).await,
        format!("global|global\nkey|{key}\nkey_stats|{key}\nmodel|m\ntoken|{token}")
    );
    write(&format!("TRUNCATE {tables}")).await;
    assert_eq!(rows(&client, "SELECT count(*) FROM keytide_tombstones WHERE kind = 'key'").await, "2");
    let open = "SELECT DISTINCT p.proname FROM pg_trigger t JOIN pg_proc p ON p.oid = t.tgfoid
        WHERE t.tgname LIKE 'keytide%' AND NOT (p.prosecdef AND p.proconfig @> '{\"search_path=\\\"\\\"\"}')";
    assert_eq!(rows(&client, open).await, "", "run with the writer's rights");
}
