//! From a log of uses to totals: exactly, once, and however often it is interrupted.

use serde_json::{Value, json};

use super::{FIRST, Ran, SLIM, fill, hub, key, keytide, old, started};
use crate::{
    hub::skipped,
    pg::installed,
    schema::{Stream, rows, wait_for},
};

/// What the plan's first step would have made of the log.
const PLAN: &str = "SELECT shared_key_id, count(*), count(DISTINCT user_id), max(created_at) FROM key_usage_logs GROUP BY 1 ORDER BY 1";
const SUMMARY: &str = "SELECT shared_key_id, total_usage, unique_users, last_used_at AT TIME ZONE 'UTC' FROM key_usage_summary ORDER BY 1";
const TOTALS: &str =
    "SELECT id, usage_stats ->> 'total_usage_count', usage_stats ->> 'unique_users', usage_stats ->> 'last_used_at', baseline
     FROM shared_keys ORDER BY id";

fn logs(arguments: &str, url: &str) -> Ran {
    let arguments: Vec<&str> = ["usage-logs"].into_iter().chain(arguments.split_whitespace()).collect();
    keytide(&arguments, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_becomes_totals_of_keys_once() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let versions = installed();
    for version in [versions.first(), versions.last()].into_iter().flatten() {
        once(*version).await;
    }
}

async fn once(version: u32) {
    let (_cluster, client, url) = hub(Some(version)).await;
    client.batch_execute(FIRST).await.unwrap();
    fill(&client, 30_000, 10, "jsonb_build_object('text', repeat(md5(g::text), 5))").await;
    // Rows that lack something; of the key 50 nothing has a date; of the key 1 there were figures already.
    client
        .batch_execute(&format!(
            "INSERT INTO key_usage_logs (id, shared_key_id, user_id, created_at) VALUES (gen_random_uuid(), NULL, '{user}', now()),
                (gen_random_uuid(), '{nine}', NULL, '2024-01-01'), (gen_random_uuid(), '{nine}', '{user}', 'infinity'),
                (gen_random_uuid(), '{fifty}', '{user}', NULL);
             INSERT INTO shared_keys (id, usage_stats) VALUES
                ('{one}', '{{\"total_usage_count\": 7, \"own\": true, \"unique_users\": 500, \"last_used_at\": \"2026-01-01T00:00:00Z\"}}'),
                ('{two}', '{{}}'), ('{fifty}', '{{}}')",
            user = old(77),
            nine = old(9),
            fifty = old(50),
            one = old(1),
            two = old(2),
        ))
        .await
        .unwrap();
    let state = "SELECT count(*), (SELECT count(*) FROM pg_class WHERE relname LIKE 'key%'), (SELECT sum(stats_xid::text::bigint) FROM shared_keys) FROM key_usage_logs";
    let before = rows(&client, state).await;
    let found = logs("--json", &url).json();
    let counts = [
        "rows",
        "rows_without_key",
        "rows_without_user",
        "rows_without_date",
        "ids",
        "linked_ids",
        "linked_rows",
        "archived_rows",
        "keys_with_totals",
    ];
    assert_eq!(
        counts.map(|name| found["survey"][name].clone()),
        [30_004, 1, 1, 2, 11, 3, 6_001, 24_003, 1].map(Value::from),
        "{found}"
    );
    assert!(found["survey"]["database_after"].as_u64() < found["survey"]["database"].as_u64(), "{found}");
    let said = logs("", &url).ok();
    for expected in [
        "30,004 rows",
        "1 row without a key",
        "2 rows without a date",
        "6,001 uses of 3 ids would be added",
        "24,003 uses of 8 ids would stay",
        "1 key has a total already",
        "nothing was changed: --run does it",
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    assert_eq!(rows(&client, state).await, before, "a dry run changes nothing");
    logs("--drop", &url).fails(2, "pass --run as well");

    let wanted = rows(&client, &PLAN.replace("max(created_at)", "max(nullif(created_at, 'infinity'))")).await;
    let done = logs("--run --json", &url).json();
    assert_eq!(done["entered"]["added_uses"], 6_001, "{done}");
    assert_eq!(rows(&client, SUMMARY).await, wanted);
    let totals = format!(
        "{}|3007|500|2026-01-01T00:00:00.000Z|3007\n{}|3000|97|2024-01-03T10:19:04.000Z|3000\n{}|1|1||1",
        old(1),
        old(2),
        old(50)
    );
    assert_eq!(rows(&client, TOTALS).await, totals);
    assert_eq!(
        rows(&client, "SELECT usage_stats -> 'own' FROM shared_keys WHERE baseline = 3007").await,
        "true"
    );
    // Every instance is told, and what is counted from now on comes on top.
    let mut core = Stream::core(1);
    let (page, _) = core.pull(&client, "stats", None).await;
    let told = page["rows"]["tallies"].as_array().unwrap().iter().find(|row| row["i"] == old(2)).unwrap();
    assert_eq!((&told["t"], &told["p"]), (&json!("kt"), &json!(3000)));
    core.push(&client, json!({"tallies": [{"t": "kt", "i": old(2), "s": 4}]})).await;
    let two = format!("SELECT usage_stats ->> 'total_usage_count' FROM shared_keys WHERE id = '{}'", old(2));
    assert_eq!(rows(&client, &two).await, "3004");

    let again = logs("--run --json", &url).json();
    assert_eq!((&again["entered"]["added_uses"], &again["entered"]["uses"]), (&json!(0), &json!(30_004)));
    assert_eq!(rows(&client, &two).await, "3004");
    // Rows that come between are neither lost nor counted twice.
    client
        .batch_execute(&format!(
            "INSERT INTO key_usage_logs (id, shared_key_id) VALUES (gen_random_uuid(), '{}'), (gen_random_uuid(), '{}')",
            old(2),
            old(3)
        ))
        .await
        .unwrap();
    logs("--drop", &url).fails(1, "was not dropped: rows came since it was counted (2)");
    let again = logs("--run --json", &url).json();
    assert_eq!(again["entered"]["added_uses"], 1);
    assert_eq!(rows(&client, &two).await, "3005");
    client
        .batch_execute(&format!(
            "DELETE FROM key_usage_logs WHERE created_at IS NULL AND shared_key_id = '{}'",
            old(3)
        ))
        .await
        .unwrap();
    logs("--drop", &url).fails(1, "rows went since it was counted (1)");
    assert!(logs("--run", &url).ok().contains("are gone from the table (1)"));
    let dropped = logs("--drop --json", &url).json();
    assert_eq!((&dropped["state"], &dropped["dropped"]["rows"]), (&json!("dropped"), &json!(30_005)));
    assert_eq!(
        rows(&client, "SELECT to_regclass('key_usage_logs') IS NULL, coalesce(to_regclass('keytide_migration_uses'), to_regclass('keytide_migration_users'), to_regclass('keytide_migration_days')) IS NULL, sum(total_usage) FROM key_usage_summary").await,
        "t|t|30006"
    );
    assert!(logs("--run --drop", &url).ok().contains("nothing is left to do"));
    let closed = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relname IN ('key_usage_summary', 'keytide_migrations') AND relrowsecurity";
    assert_eq!(rows(&client, closed).await.split(' ').count(), 2);
    // keytide's own log may take the name, and is not taken for the old one.
    client.batch_execute("SELECT keytide_usage_logs(true)").await.unwrap();
    assert!(logs("", &url).ok().contains("nothing is left to do"));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_killed_goes_on_and_counts_nothing_twice() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client, url) = hub(None).await;
    client.batch_execute(FIRST).await.unwrap();
    fill(&client, 40_000, 10, "jsonb_build_object('text', repeat(md5(g::text), 5))").await;
    client
        .batch_execute(&format!(
            "INSERT INTO shared_keys (id) SELECT DISTINCT shared_key_id FROM key_usage_logs; {HALT}"
        ))
        .await
        .unwrap();
    let plan = rows(&client, PLAN).await;
    client.batch_execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let mut run = started(&["usage-logs", "--run"], &url);
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted";
    wait_for(&client, waits, "1").await;
    let place = "SELECT page > 100 FROM keytide_migrations";
    assert_eq!(rows(&client, place).await, "t", "in the middle");
    run.kill().unwrap();
    run.wait().unwrap();
    client.batch_execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    wait_for(
        &client,
        "SELECT count(*) FROM pg_stat_activity WHERE datname = 'hub' AND pid <> pg_backend_pid()",
        "0",
    )
    .await;
    assert_eq!(rows(&client, "SELECT coalesce(sum(baseline), 0) FROM shared_keys").await, "0");
    let found = logs("--json", &url).json();
    assert_eq!(found["state"], "interrupted");

    let second = logs("--run", &url);
    assert!(second.err.contains("going on where the last run was interrupted"), "{}", second.err);
    second.ok();
    assert_eq!(rows(&client, SUMMARY).await, plan);
    assert_eq!(rows(&client, "SELECT sum(baseline), count(*) FROM shared_keys").await, "40000|10");
    logs("--drop", &url).ok();
}

/// What is counted first is made beforehand, with a gate after some pages.
const HALT: &str = "CREATE TABLE keytide_migration_uses (shared_key_id uuid NOT NULL, day integer NOT NULL, uses bigint NOT NULL, last_used_at timestamptz);
    CREATE FUNCTION halt() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF (SELECT page > 100 FROM public.keytide_migrations) THEN PERFORM pg_advisory_xact_lock(7); END IF; RETURN NULL;
    END $$;
    CREATE TRIGGER halt AFTER INSERT ON keytide_migration_uses FOR EACH STATEMENT EXECUTE FUNCTION halt()";

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_while_it_is_counted_is_counted() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client, url) = hub(None).await;
    client.batch_execute(FIRST).await.unwrap();
    fill(&client, 40_000, 10, "jsonb_build_object('text', repeat(md5(g::text), 5))").await;
    client
        .batch_execute(&format!(
            "INSERT INTO shared_keys (id) SELECT DISTINCT shared_key_id FROM key_usage_logs; {HALT}"
        ))
        .await
        .unwrap();
    client.batch_execute("SELECT pg_advisory_lock(7)").await.unwrap();
    let mut run = started(&["usage-logs", "--run"], &url);
    let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 7 AND NOT granted";
    wait_for(&client, waits, "1").await;
    // Rows on pages that were counted change places, some go, and others come.
    client
        .batch_execute(
            "UPDATE key_usage_logs SET response_data = '{\"done\": true}' WHERE created_at < '2024-01-01 02:00';
             DELETE FROM key_usage_logs WHERE created_at < '2024-01-01 00:10'",
        )
        .await
        .unwrap();
    fill(&client, 50, 10, "NULL").await;
    client.batch_execute("SELECT pg_advisory_unlock(7)").await.unwrap();
    let done = tokio::task::spawn_blocking(move || run.wait()).await.unwrap().unwrap();
    assert!(done.success());
    assert_eq!(rows(&client, SUMMARY).await, rows(&client, PLAN).await);
    assert_eq!(
        rows(&client, "SELECT sum(baseline) FROM shared_keys").await,
        rows(&client, "SELECT count(*) FROM key_usage_logs").await
    );
}

/// The old program keeps a week: what its clean-up takes away is not made up for by what comes.
#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_clean_up_takes_hide_none_that_came() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client, url) = hub(None).await;
    client.batch_execute(SLIM).await.unwrap();
    let add = async |key: u32, day: u32, rows: u32| {
        let sql = format!(
            "INSERT INTO key_usage_logs (shared_key_id, user_id, created_at)
             SELECT '{}', '{}', timestamp '2024-01-{day:02} 00:00' + g * interval '1 second' FROM generate_series(0, {rows} - 1) g",
            old(key),
            old(77)
        );
        client.batch_execute(&sql).await.unwrap();
    };
    client
        .batch_execute(&format!("INSERT INTO shared_keys (id) VALUES ('{}'), ('{}')", old(1), old(2)))
        .await
        .unwrap();
    // Of the third nobody knows the key; the last row of a day is of its last second.
    for (key, day, rows) in [(1, 1, 300), (1, 2, 700), (2, 1, 86_400), (2, 3, 10), (3, 1, 50)] {
        add(key, day, rows).await;
    }
    let done = logs("--run --json", &url).json();
    assert_eq!((&done["entered"]["uses"], &done["entered"]["gone"]), (&json!(87_460), &json!(0)));
    // As many came as went, more, and fewer; of another day, and of one that is half gone.
    client
        .batch_execute("DELETE FROM key_usage_logs WHERE created_at < '2024-01-02 00:01:00'")
        .await
        .unwrap();
    for (key, day, rows) in [(1, 8, 360), (2, 8, 90_000), (2, 3, 5), (3, 8, 20)] {
        add(key, day, rows).await;
    }
    logs("--drop", &url).fails(1, "rows came (90385) and went (86810) since it was counted");
    let done = logs("--run --json", &url).json();
    let counts = ["rows_there", "uses", "added_uses", "archived_uses", "gone"];
    assert_eq!(
        counts.map(|name| done["entered"][name].clone()),
        [91_035, 177_845, 90_365, 70, 86_810].map(Value::from),
        "{done}"
    );
    // Who has lost what was counted is not told the same again as new.
    client.batch_execute("ALTER TABLE keytide_migration_days RENAME TO hidden").await.unwrap();
    for arguments in ["--run", "--drop"] {
        logs(arguments, &url).fails(1, "keytide_migration_days, which said which of its rows, is gone");
    }
    client.batch_execute("ALTER TABLE hidden RENAME TO keytide_migration_days").await.unwrap();
    // Between the last run and the end, too.
    client.batch_execute("DELETE FROM key_usage_logs WHERE created_at < '2024-01-03'").await.unwrap();
    add(1, 8, 640).await;
    logs("--drop", &url).fails(1, "rows came (640) and went (640) since it was counted");
    let done = logs("--run --drop --json", &url).json();
    assert_eq!((&done["entered"]["added_uses"], &done["entered"]["gone"]), (&json!(640), &json!(640)));
    let totals = "SELECT (SELECT string_agg(baseline::text, ' ' ORDER BY id) FROM shared_keys), sum(total_usage) FROM key_usage_summary";
    assert_eq!(rows(&client, totals).await, "2000 176415|178485");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_map_links_old_ids_to_keys_now_or_later() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client, url) = hub(None).await;
    client.batch_execute(SLIM).await.unwrap();
    let (one, two) = ("sk-secret-of-one", "sk-secret-of-two");
    client
        .batch_execute(&format!(
            "INSERT INTO ollama_api_keys (api_key) VALUES ('{one}'), ('{two}');
             INSERT INTO key_usage_logs (shared_key_id, user_id, created_at)
             SELECT ('00000000-0000-4000-8000-' || lpad((g % 3)::text, 12, '0'))::uuid, ('00000000-0000-4000-9000-' || lpad((g % 5)::text, 12, '0'))::uuid,
                timestamp '2024-01-01' + g * interval '1 minute' FROM generate_series(1, 300) g"
        ))
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let map = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    // Two old ids were the same key.
    let first = map("first.csv", format!("id,api_key\n{},{one}\n{},{}\n", old(0), old(1), key(one)));
    let wrong = map("wrong.csv", format!("{},{one}\n{},sk-secret-of-none\n", old(0), old(1)));
    let refused = logs(&format!("--run --map {wrong}"), &url);
    assert!(!refused.err.contains("secret"), "{}", refused.err);
    refused.fails(1, "the map names in line 2");
    let found = logs(&format!("--json --map {first}"), &url).json();
    assert_eq!(
        (&found["survey"]["linked_rows"], &found["survey"]["archived_rows"]),
        (&json!(200), &json!(100))
    );
    let said = logs(&format!("--run --map {first}"), &url).ok();
    assert!(
        said.contains("200 uses were added to the totals of 1 key")
            && said.contains("100 uses of 1 id are of no key"),
        "{said}"
    );
    assert!(!said.contains("secret"), "{said}");
    assert_eq!(rows(&client, TOTALS).await, format!("{}|200|5|2024-01-01T05:00:00.000Z|200", key(one)));
    logs("--drop", &url).ok();
    // The rest, when only the summary is left; and what has its key already stays with it.
    let later = map("later.json", json!({old(2): two, old(0): two}).to_string());
    let said = logs(&format!("--run --map {later}"), &url).ok();
    assert!(
        said.contains("100 uses were added to the totals of 1 key") && said.contains("1 id of the map stay"),
        "{said}"
    );
    let again = logs(&format!("--run --map {later}"), &url).ok();
    assert!(again.contains("nothing was new"), "{again}");
    let mut wanted = [(key(one), 200), (key(two), 100)];
    wanted.sort();
    let wanted: Vec<_> = wanted.iter().map(|(id, total)| format!("{id}|{total}")).collect();
    assert_eq!(rows(&client, "SELECT id, baseline FROM shared_keys ORDER BY id").await, wanted.join("\n"));
}

/// `MIGRATE_ROWS=1000000` is the whole: over 500 MB before, under 25 MB after.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_log_leaves_little() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let count: u32 = std::env::var("MIGRATE_ROWS").map_or(60_000, |rows| rows.parse().unwrap());
    let (_cluster, client, url) = hub(None).await;
    client.batch_execute(FIRST).await.unwrap();
    let payload = "jsonb_build_object('model', 'gpt-oss:20b', 'messages', (SELECT jsonb_agg(md5(g::text || i::text)) FROM generate_series(1, 9) i))";
    fill(&client, count, 100, payload).await;
    client
        .batch_execute(
            "CREATE INDEX ON key_usage_logs (shared_key_id, created_at);
             INSERT INTO shared_keys (id) SELECT DISTINCT shared_key_id FROM key_usage_logs",
        )
        .await
        .unwrap();
    let size = "SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace";
    let before: u64 = rows(&client, size).await.parse().unwrap();
    let begun = std::time::Instant::now();
    let done = logs("--run --drop --json", &url).json();
    let took = begun.elapsed();
    let after: u64 = rows(&client, size).await.parse().unwrap();
    let database = rows(&client, "SELECT pg_database_size('hub')").await;
    eprintln!(
        "{count} rows: {before} bytes before, {after} after ({database} with the catalog), in {took:?}"
    );
    assert_eq!(done["entered"]["added_uses"], count);
    assert_eq!(rows(&client, "SELECT sum(baseline) FROM shared_keys").await, count.to_string());
    assert!(before > 500 * u64::from(count) && after < 25_000_000, "{before} {after}");
}
