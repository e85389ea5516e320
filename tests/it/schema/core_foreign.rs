//! Tables that have the core's names and are somebody else's, and what other programs do to ours.

use keytide::replica::schema::{self, Error};
use serde_json::{Value, json};

use super::{OLLAMA, Stream, call, core::id, core::now, hub, rows};
use crate::{
    hub::skipped,
    pg::{Cluster, Options},
};

#[tokio::test(flavor = "multi_thread")]
async fn an_applications_own_users_are_left_as_they_are() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    let theirs = format!(
        "CREATE SCHEMA auth; CREATE TABLE auth.users (id uuid PRIMARY KEY);
         CREATE TABLE users (id uuid PRIMARY KEY REFERENCES auth.users, email text NOT NULL, name varchar(80) UNIQUE, CHECK (length(name) > 1));
         ALTER TABLE users ENABLE ROW LEVEL SECURITY; CREATE POLICY own ON users USING (true);
         INSERT INTO auth.users VALUES ('{0}'); INSERT INTO users VALUES ('{0}', 'a@b', 'ann');
         CREATE VIEW monthly_logs AS SELECT 1 AS month;
         CREATE TABLE key_usage_logs (id uuid PRIMARY KEY, shared_key_id uuid, user_id uuid, request_data jsonb, created_at timestamp)",
        id(1)
    );
    client.batch_execute(&theirs).await.unwrap();
    let shape = "SELECT string_agg(attname || atttypmod, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'users'::regclass AND attnum > 0
        UNION ALL SELECT count(*)::text FROM pg_trigger WHERE tgrelid = 'users'::regclass AND NOT tgisinternal";
    let before = rows(&client, shape).await;
    let left = schema::apply(&client, &[OLLAMA], false).await.unwrap().left;
    assert_eq!(rows(&client, shape).await, before);
    let found: Vec<&str> = left.problems.iter().map(|problem| problem.what.as_str()).collect();
    for expected in [
        "table monthly_logs of another make instead of a plain table",
        "default for users.email, which may not be empty is missing",
        "table users without the constraint users_id_fkey is missing",
        "table users without the constraint users_name_check is missing",
        "table users without the unique index users_name_key is missing",
        "column users.versions is missing",
    ] {
        assert!(found.contains(&expected), "{expected}: {found:#?}");
    }
    // That stream is missing, and the others go on.
    let mut core = Stream::core(1);
    let answer = call(&client, "keytide_push", &core.batch(&json!({"users": []}))).await;
    assert_eq!((&answer["status"], &answer["missing"][0]["stream"]), (&json!("missing"), &json!("core")));
    assert_eq!(core.pull(&client, "state", None).await.0["missing"], true);
    Stream::new(1).push(&client, json!({"global": {"s": 1}})).await;
    assert_eq!(call(&client, "keytide_retain", &json!({"protocol": 1})).await["status"], "ok");
    let refused = client.batch_execute("SELECT keytide_usage_logs(true)").await.unwrap_err();
    assert_eq!(
        refused.as_db_error().unwrap().message(),
        "there is a table key_usage_logs of another make already, and its rows are left alone"
    );
    // Nor does a conversion touch it.
    schema::apply(&client, &[OLLAMA], true).await.unwrap();
    assert_eq!(rows(&client, shape).await, before);
    // Renamed, ours comes.
    client.batch_execute("ALTER TABLE users RENAME TO people; DROP VIEW monthly_logs").await.unwrap();
    assert!(schema::apply(&client, &[OLLAMA], false).await.unwrap().left.problems.is_empty());
    core.push(&client, json!({"users": [{"i": id(1), "a": 1, "add": true}]})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_plans_tables_are_taken_with_what_they_hold() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    let plan = format!(
        "CREATE TABLE shared_keys (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), api_key text, is_active boolean DEFAULT true);
         ALTER TABLE shared_keys ADD COLUMN IF NOT EXISTS usage_stats JSONB DEFAULT '{{}}';
         INSERT INTO shared_keys (id, usage_stats) VALUES ('{0}', '{{\"total_usage_count\": 100, \"unique_users\": 4, \"last_used_at\": \"2024-01-15T10:30:00Z\"}}');
         CREATE TABLE daily_logs (id bigserial PRIMARY KEY, user_id uuid, date date, log_data jsonb);
         INSERT INTO daily_logs (user_id, date, log_data) SELECT '{1}', current_date - g, '{{\"conversation_count\": 15, \"api_call_count\": 45,
            \"shared_key_usage\": {{\"key_123\": 10, \"key_456\": 5}}, \"last_usage_at\": \"2024-01-15T10:30:00Z\", \"own\": 1}}' FROM generate_series(0, 40) g;
         CREATE TABLE hourly_stats (id bigserial PRIMARY KEY, hour_start timestamp, shared_key_id uuid, total_requests integer,
            successful_requests integer, unique_users integer, avg_response_time integer);
         INSERT INTO hourly_stats (hour_start, shared_key_id, total_requests, successful_requests, unique_users, avg_response_time)
            SELECT date_trunc('day', now() AT TIME ZONE 'UTC') - interval '1 hour' * g, '{0}', 5, 4, 2, 100 FROM generate_series(1, 50) g;
         CREATE TABLE security_events (id bigserial PRIMARY KEY, event_type varchar(50), user_id uuid, shared_key_id uuid, severity smallint,
            details jsonb, created_at timestamp, origin text);
         INSERT INTO security_events (event_type, severity, created_at) VALUES ('abuse', 9, now()), (NULL, NULL, now())",
        id(1), id(2)
    );
    client.batch_execute(&plan).await.unwrap();
    let left = schema::apply(&client, &[], false).await.unwrap().left;
    assert!(
        left.problems.iter().any(|problem| problem.what
            == "table daily_logs of another make instead of one partitioned by date"
            && problem.remedy.contains("--convert")),
        "{left:#?}"
    );
    // Twice the same day: nobody knows which is right.
    client
        .batch_execute("INSERT INTO daily_logs (user_id, date) SELECT user_id, date FROM daily_logs LIMIT 1")
        .await
        .unwrap();
    let refused = schema::apply(&client, &[], true).await.unwrap_err();
    assert!(
        matches!(&refused, Error::Refused(why) if why.contains("daily_logs holds 1 values of (user_id, date) more than once")),
        "{refused}"
    );
    assert_eq!(rows(&client, "SELECT count(*) FROM daily_logs").await, "42", "nothing was changed");
    client.batch_execute("DELETE FROM daily_logs WHERE log_data IS NULL").await.unwrap();
    let applied = schema::apply(&client, &[], true).await.unwrap();
    assert!(applied.left.problems.is_empty(), "{applied:#?}");
    assert!(
        applied.done.contains(&"made daily_logs a table in parts, with its 41 rows".to_owned()),
        "{:#?}",
        applied.done
    );
    assert_eq!(rows(&client, "SELECT count(*) FROM security_events_before_keytide").await, "2");
    assert_eq!(
        rows(&client, "SELECT event_type, severity FROM security_events ORDER BY 1").await,
        "abuse|5\nunknown|1"
    );
    assert_eq!(
        rows(&client, "SELECT count(*), sum(failed), sum(response_ms) FROM hourly_stats").await,
        "50|50|25000"
    );

    // The older shape is read, and made the new one when it is touched; totals from before are the baseline.
    let (day, _) = now(&client).await;
    let mut stream = Stream::core(1);
    let (page, _) = stream.pull(&client, "stats", None).await;
    let today = |page: &Value, kind: &str| {
        let rows = page["rows"]["tallies"].as_array().unwrap().iter();
        rows.clone().find(|row| row["t"] == kind && (row["n"] == day || row["n"] == 0)).unwrap().clone()
    };
    let last = 1_705_314_600_000_i64;
    assert_eq!(today(&page, "uu"), json!({"t": "uu", "i": id(2), "n": day, "o": 15, "lu": last}));
    assert_eq!(today(&page, "kt"), json!({"t": "kt", "i": id(1), "n": 0, "p": 100}));
    stream
        .push(
            &client,
            json!({"tallies": [{"t": "uu", "i": id(2), "n": day, "s": 1}, {"t": "kt", "i": id(1), "s": 3}]}),
        )
        .await;
    let log: Value = serde_json::from_str(
        &rows(&client, "SELECT log_data FROM daily_logs WHERE date = current_date").await,
    )
    .unwrap();
    assert_eq!(
        log,
        json!({"own": 1, "conversation_count": 15, "api_call_count": 45, "upload_count": 0,
            "shared_key_usage": {"total_calls": 16, "successful_calls": 1, "failed_calls": 0, "other_calls": 15,
                "keys_used": ["key_123", "key_456"], "last_key_used": null, "last_usage_at": "2024-01-15T10:30:00.000Z"},
            "error_stats": {"rate_limit_hits": 0, "auth_failures": 0, "server_errors": 0}})
    );
    let figures = "SELECT usage_stats -> 'total_usage_count', usage_stats -> 'unique_users', usage_stats ->> 'last_used_at' FROM shared_keys";
    assert_eq!(rows(&client, figures).await, "103|4|2024-01-15T10:30:00.000Z");
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_of_keys_outlive_what_other_programs_do() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::core(1);
    stream.push(&client, json!({"tallies": [{"t": "kt", "i": id(1), "s": 3, "f": 1, "o": 1}], "shares": [{"i": id(1), "p": "ollama", "u": id(2), "v": 5}]})).await;
    let figures = "SELECT usage_stats -> 'total_usage_count', usage_stats -> 'unique_users', success_count, user_id IS NULL FROM shared_keys";
    // The plan's migration as it is written: more is taken, less is not.
    client.batch_execute("UPDATE shared_keys SET usage_stats = jsonb_build_object('total_usage_count', 1250, 'unique_users', 7, 'last_used_at', now())").await.unwrap();
    assert_eq!(rows(&client, figures).await, "1250|7|3|f");
    client
        .batch_execute("UPDATE shared_keys SET usage_stats = '{}', success_count = 0, user_id = NULL")
        .await
        .unwrap();
    assert_eq!(rows(&client, figures).await, "1250||3|t");
    assert_eq!(
        rows(
            &client,
            "SELECT count FROM keytide_reports WHERE kind = 'counter_lowered' AND table_name = 'shared_keys'"
        )
        .await,
        "1"
    );
    // An owner that a person has set stands against what was said before.
    stream.push(&client, json!({"shares": [{"i": id(1), "p": "ollama", "u": id(2), "v": 6}], "tallies": [{"t": "kt", "i": id(1), "s": 1}]})).await;
    assert_eq!(rows(&client, figures).await, "1251||4|t");
    for (delete, total) in [("DELETE FROM shared_keys", "1252||5|t"), ("TRUNCATE shared_keys", "1253||6|t")] {
        client.batch_execute(delete).await.unwrap();
        stream.push(&client, json!({"tallies": [{"t": "kt", "i": id(1), "s": 1}]})).await;
        assert_eq!(rows(&client, figures).await, total, "{delete}");
    }
    client
        .batch_execute(&format!("DELETE FROM shared_keys; INSERT INTO shared_keys (id) VALUES ('{}')", id(1)))
        .await
        .unwrap();
    assert_eq!(
        rows(
            &client,
            "SELECT success_count, baseline, (SELECT count(*) FROM keytide_retired) FROM shared_keys"
        )
        .await,
        "6|1245|0"
    );

    // A log that somebody edits is told to the instances.
    let (day, _) = now(&client).await;
    stream.push(&client, json!({"tallies": [{"t": "uc", "i": id(2), "n": day, "s": 5}]})).await;
    let (_, cursor) = stream.pull(&client, "stats", None).await;
    client
        .batch_execute("UPDATE daily_logs SET log_data = log_data || '{\"conversation_count\": 9}'")
        .await
        .unwrap();
    let (page, _) = stream.pull(&client, "stats", Some(&cursor)).await;
    let told = page["rows"]["tallies"].as_array().unwrap().iter().find(|row| row["t"] == "uc").unwrap();
    assert_eq!(told["s"], 9);
}

/// Whoever restricts something badly does not want it to be free.
#[tokio::test(flavor = "multi_thread")]
async fn a_limit_that_is_none_lets_nobody_in() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    for n in 1..=5 {
        client
            .batch_execute(&format!("INSERT INTO users (id, name) VALUES ('{}', 'user {n}')", id(n)))
            .await
            .unwrap();
    }
    let written = [
        "requests_per_minute = -1, requests_per_day = -5, tokens_per_day = -7",
        "allowed_addresses = '\"10.0.0.0/8\"', allowed_models = '{\"a\": 1}'",
        "allowed_addresses = '[7]', allowed_models = '[null, \"m\"]'",
        "allowed_addresses = '[]', allowed_models = 'null'",
        "requests_per_minute = 2147483647",
    ];
    for (n, set) in (1..).zip(written) {
        client.batch_execute(&format!("UPDATE users SET {set} WHERE id = '{}'", id(n))).await.unwrap();
    }
    let page = Stream::core(1).pull(&client, "state", None).await.0;
    let users = page["rows"]["users"].as_array().unwrap();
    let of = |n: usize, field: &str| users[n - 1][field].clone();
    assert_eq!((of(1, "r"), of(1, "d"), of(1, "t")), (json!(0), json!(0), json!(0)));
    assert_eq!((of(2, "ip"), of(2, "m")), (json!([""]), json!([""])));
    assert_eq!((of(3, "ip"), of(3, "m")), (json!([""]), json!(["m"])));
    assert_eq!((of(4, "ip"), of(4, "m")), (Value::Null, Value::Null));
    assert_eq!(of(5, "r"), json!(1_000_000));
}

/// Also where it has parts, and has exactly the columns of keytide's own.
#[tokio::test(flavor = "multi_thread")]
async fn retention_lets_go_of_no_log_but_its_own() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    client
        .batch_execute(
            "CREATE TABLE key_usage_logs (id bigint, shared_key_id uuid, user_id uuid, usage_type smallint,
                status_code smallint, created_at timestamp) PARTITION BY RANGE (created_at);
             CREATE TABLE theirs_old PARTITION OF key_usage_logs FOR VALUES FROM (MINVALUE) TO ('2026-01-01');
             CREATE TABLE theirs PARTITION OF key_usage_logs DEFAULT;
             INSERT INTO key_usage_logs (id, created_at) VALUES (1, '2020-01-01'), (2, '2026-02-01')",
        )
        .await
        .unwrap();
    let retain = json!({"protocol": 1, "budget": 1});
    for _ in 0..3 {
        assert_eq!(call(&client, "keytide_retain", &retain).await["status"], "ok");
    }
    assert_eq!(rows(&client, "SELECT count(*) FROM key_usage_logs").await, "2");
    // Whoever switches the log on has it take that table.
    rows(&client, "SELECT keytide_usage_logs(true)").await;
    assert_eq!(call(&client, "keytide_retain", &retain).await["status"], "ok");
    assert_eq!(rows(&client, "SELECT count(*) FROM key_usage_logs").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_provider_is_called_core() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let refused = client.batch_execute("SELECT keytide_install('core', 'x')").await.unwrap_err();
    assert!(refused.as_db_error().unwrap().message().contains("cannot be called \"core\""));
}
