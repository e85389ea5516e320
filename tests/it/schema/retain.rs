//! How retention goes about it: in steps of a bounded size, beside others who work with the same tables.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{FIRST, Stream, at, call, core::id, hub, rows, wait_for};
use crate::{
    hub::skipped,
    pg::{Cluster, Options},
};

/// A use of key 1 by user 2 on each of these days.
async fn used(client: &Client, instance: u128, days: std::ops::Range<i64>) {
    let mut stream = Stream::core(instance);
    for day in days {
        at(client, day, 12).await;
        let (n, hour) = (FIRST + day, (FIRST + day) * 24 + 12);
        let batch = json!({"tallies": [{"t": "kd", "i": id(1), "n": n, "s": 1}, {"t": "kh", "i": id(1), "n": hour, "s": 1},
            {"t": "kt", "i": id(1), "s": 1}, {"t": "td", "i": id(1), "n": n, "s": 1}]});
        assert_eq!(stream.push(client, batch).await, json!({}), "{day}");
    }
}

async fn retain(client: &Client, more: Value) -> Value {
    let mut request = json!({"protocol": 1});
    request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    call(client, "keytide_retain", &request).await
}

fn did<'a>(answer: &'a Value, what: &str) -> Vec<&'a Value> {
    answer["did"].as_array().unwrap().iter().filter(|step| step["what"] == what).collect()
}

async fn someone_waits(client: &Client) {
    wait_for(client, "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted", "t").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_written_anew_in_a_call_that_does_nothing_else() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    used(&client, 1, 0..6).await;
    // One is large: 20,000 rows in half-empty pages.
    client
        .batch_execute(
            "INSERT INTO hourly_stats (hour_start, shared_key_id)
             SELECT timestamptz '2030-06-02 00:00Z' + g % 24 * interval '1 hour', gen_random_uuid() FROM generate_series(1, 20000) g",
        )
        .await
        .unwrap();
    at(&client, 6, 12).await;
    let (mut settled, mut calls) = (0, 0);
    let large = loop {
        let answer = retain(&client, json!({"most": 100})).await;
        calls += 1;
        let steps = answer["did"].as_array().unwrap().len();
        settled += did(&answer, "settled").len();
        assert!(did(&answer, "settled").is_empty() || steps == 1, "{answer:#}");
        assert!(
            calls > 1 || steps > 0 && answer["more"] == true,
            "what there is to write anew is for later: {answer:#}"
        );
        if answer["more"] == false {
            break answer["large"].clone();
        }
        assert!(calls < 50);
    };
    assert_eq!((settled, large), (11, json!(["public.hourly_stats_2030_06_02"])));
    // With time enough, it is done.
    let answer = retain(&client, json!({})).await;
    assert_eq!(did(&answer, "settled").len(), 1, "{answer:#}");
    assert_eq!(answer.get("large"), Some(&json!([])), "{answer:#}");
}

/// A row for each minute of nine days, as of a log that is written all the time.
#[tokio::test(flavor = "multi_thread")]
async fn what_grows_old_every_minute_keeps_nothing_from_being_written_anew() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    rows(&client, "SELECT keytide_usage_logs(true)").await;
    used(&client, 1, 0..9).await;
    client
        .batch_execute(
            "SELECT keytide_part('key_usage_logs', 'day', '2030-06-01'::timestamp + g * interval '1 day') FROM generate_series(0, 9) g;
             INSERT INTO key_usage_logs (shared_key_id, user_id, usage_type, status_code, created_at)
             SELECT gen_random_uuid(), gen_random_uuid(), 1, 200, timestamp '2030-06-01' + g * interval '1 minute'
             FROM generate_series(0, 9 * 1440) g",
        )
        .await
        .unwrap();
    let mut settled = 0;
    for minute in 0..30 {
        let sql = format!(
            "SELECT set_config('keytide.now', (keytide_day({}) + interval '12 hours {minute} minutes')::text || 'Z', false)",
            FIRST + 9
        );
        rows(&client, &sql).await;
        let answer = retain(&client, json!({})).await;
        settled += did(&answer, "settled").len();
        assert_eq!(did(&answer, "dropped").is_empty(), minute > 0, "{minute}: {answer:#}");
    }
    assert!(settled >= 7, "{settled}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_asks_says_how_much_is_done_at_a_time() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    at(&client, 0, 12).await;
    client
        .batch_execute(&format!(
            "INSERT INTO keytide_token_days (day, token_id) SELECT {}, gen_random_uuid() FROM generate_series(1, 1000)",
            FIRST - 9
        ))
        .await
        .unwrap();
    for (most, expected, more) in
        [(json!(100), json!(400), true), (json!(-3), json!(400), true), (json!("x"), json!(200), false)]
    {
        let answer = retain(&client, json!({"most": most})).await;
        assert_eq!(
            (&did(&answer, "deleted")[0]["rows"], &answer["more"]),
            (&expected, &json!(more)),
            "{most}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_adopts_is_left_alone_and_waits_in_the_same_order() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let was = json!({"id": uuid::Uuid::from_u128(7), "system": "123", "timeline": 4});
    let step = |step: &str| {
        json!({"protocol": 1, "mode": "adopt", "step": step, "instance": uuid::Uuid::from_u128(1), "now": 0, "was": was,
            "stream": "core", "provider": "core", "rows": {}})
    };
    assert_eq!(call(&client, "keytide_push", &step("begin")).await["status"], "ok");
    assert_eq!(retain(&client, json!({})).await["status"], "busy");

    // Who is alone with the core may want the settings next.
    client
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('keytide core', 0))")
        .await
        .unwrap();
    let adopter = cluster.connect("hub", "postgres").await;
    let told = step("rows");
    let adopting = tokio::spawn(async move { call(&adopter, "keytide_push", &told).await });
    let watcher = cluster.connect("hub", "postgres").await;
    someone_waits(&watcher).await;
    client.batch_execute("SELECT 1 FROM keytide_settings FOR UPDATE NOWAIT; COMMIT").await.unwrap();
    assert_eq!(adopting.await.unwrap()["status"], "ok");

    assert_eq!(call(&client, "keytide_push", &step("end")).await["status"], "ok");
    assert_eq!(retain(&client, json!({})).await["status"], "ok");
    // Who began and was not seen again keeps nobody for ever.
    let gone =
        "UPDATE keytide_settings SET adopter = gen_random_uuid(), adopt_until = now() - interval '1 minute'";
    client.batch_execute(gone).await.unwrap();
    assert_eq!(retain(&client, json!({})).await["status"], "ok");
    // Others in the core for long: another time.
    watcher
        .batch_execute("BEGIN; SELECT pg_advisory_xact_lock_shared(hashtextextended('keytide core', 0))")
        .await
        .unwrap();
    assert_eq!(retain(&client, json!({})).await["status"], "busy");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_dropped_in_the_order_in_which_they_are_read() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    used(&client, 1, 0..1).await;
    at(&client, 33, 12).await;
    let reader = cluster.connect("hub", "postgres").await;
    reader
        .batch_execute("BEGIN; SET LOCAL statement_timeout = '500ms'; SELECT 1 FROM keytide_key_days")
        .await
        .unwrap();
    let watcher = cluster.connect("hub", "postgres").await;
    let retaining = tokio::spawn(async move {
        let answer = retain(&client, json!({})).await;
        (client, answer)
    });
    someone_waits(&watcher).await;
    reader.batch_execute("SELECT 1 FROM hourly_stats").await.unwrap();
    let (client, answer) = retaining.await.unwrap();
    assert_eq!(answer["status"], "ok", "{answer:#}");
    assert!(did(&answer, "dropped").is_empty(), "{answer:#}");
    reader.batch_execute("COMMIT").await.unwrap();
    let report = "SELECT kind, table_name, count FROM keytide_reports WHERE count > 0";
    assert_eq!(rows(&client, report).await, "locked|keytide_key_days|1");
    let answer = retain(&client, json!({})).await;
    let tables: Vec<_> = did(&answer, "dropped").iter().map(|step| step["table"].as_str().unwrap()).collect();
    assert_eq!(tables[..2], ["keytide_key_days", "hourly_stats"]);

    // Where somebody waits in the other order, it is retention that gives way.
    used(&client, 2, 34..35).await;
    at(&client, 70, 12).await;
    reader.batch_execute("BEGIN; LOCK TABLE hourly_stats IN ACCESS SHARE MODE").await.unwrap();
    client
        .batch_execute("BEGIN; SET LOCAL deadlock_timeout = '10ms'; LOCK TABLE keytide_key_days")
        .await
        .unwrap();
    let reading =
        tokio::spawn(async move { reader.batch_execute("SELECT 1 FROM keytide_key_days; COMMIT").await });
    someone_waits(&watcher).await;
    let shed = "SELECT parts FROM keytide_shed('hourly_stats', keytide_now() - interval '30 days', 100)";
    assert_eq!(rows(&client, shed).await, "0");
    client.batch_execute("COMMIT").await.unwrap();
    reading.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_of_another_owner_is_said_and_keeps_nothing_else() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let owner = cluster.database("hub").await;
    owner
        .batch_execute("CREATE ROLE keeper LOGIN; CREATE ROLE stranger; ALTER DATABASE hub OWNER TO keeper; ALTER SCHEMA public OWNER TO postgres; GRANT ALL ON SCHEMA public TO keeper")
        .await
        .unwrap();
    let client = cluster.connect("hub", "keeper").await;
    keytide::replica::schema::apply(&client, &[super::OLLAMA], false).await.unwrap();
    used(&client, 1, 0..2).await;
    owner.batch_execute("ALTER TABLE hourly_stats_2030_06_01 OWNER TO stranger").await.unwrap();
    at(&client, 40, 12).await;
    let answer = retain(&client, json!({})).await;
    assert_eq!(answer["status"], "ok", "{answer:#}");
    assert_eq!(rows(&client, "SELECT count(*) FROM keytide_key_days").await, "0");
    let left =
        "SELECT string_agg(part::text, ',') FROM keytide_parts('hourly_stats') WHERE ends < '2030-06-09'";
    assert_eq!(rows(&client, left).await, "hourly_stats_2030_06_01", "those that are ours go");
    let report = "SELECT kind, table_name, count FROM keytide_reports WHERE count > 0";
    assert_eq!(rows(&client, report).await, "not_owner|hourly_stats|1");
}

/// Who writes by hand can write more than a sum may be.
#[tokio::test(flavor = "multi_thread")]
async fn absurd_numbers_are_folded() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    at(&client, 0, 12).await;
    retain(&client, json!({})).await;
    client
        .batch_execute(&format!(
            "INSERT INTO daily_logs SELECT '{}', date '2030-06-01' + g, '{{\"api_call_count\": 1e19, \"upload_count\": 2}}' FROM generate_series(0, 2) g",
            id(2)
        ))
        .await
        .unwrap();
    at(&client, 40, 12).await;
    assert_eq!(did(&retain(&client, json!({})).await, "folded")[0]["rows"], 3);
    let folded = "SELECT log_data -> 'api_call_count', log_data -> 'upload_count' FROM monthly_logs";
    assert_eq!(rows(&client, folded).await, "4000000000000000000|6");
}
