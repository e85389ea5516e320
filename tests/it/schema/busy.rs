//! A hub that is written to all day and all year: nothing grows beyond its bounds, and no count is lost. As in `sizes`, the whole
//! of it comes with `HUB_WHOLE`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    FIRST, call, rows,
    sizes::{fill, hub_to_fill, number, retain, whole},
};
use crate::hub::skipped;

/// Pushes every 30 seconds, by which some of 10,000 keys have changed.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_day_of_pushes_no_table_is_twice_its_live_size() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub_to_fill().await;
    let (keys, many, rounds) = if whole() { (10_000, 500, 2_880) } else { (2_000, 150, 144) };
    for low in (1..=keys).step_by(1_000) {
        fill(&client, &format!("keys({low}, {})", low + 999)).await;
    }
    for round in 0..rounds {
        fill(&client, &format!("round({FIRST}, {}, {many}, {keys})", round * 2_880 / rounds)).await;
    }
    let told = number(&client, "SELECT sum(total_requests) FROM ollama_api_key_stats").await - keys;
    let counted =
        "SELECT sum(success_count + failure_count) FROM shared_keys UNION ALL SELECT sum(success + failure) FROM keytide_key_days
         UNION ALL SELECT sum(total_requests) FROM hourly_stats";
    assert_eq!(rows(&client, counted).await, [told; 3].map(|n| n.to_string()).join("\n"));

    // An index on what changes would have every update move its row. A month of days is written in full pages, where rows move
    // to those that others have left.
    let moved = "SELECT string_agg(relname, ', ') FROM pg_stat_user_tables
        WHERE n_tup_upd > 10000 AND n_tup_hot_upd * 10 < n_tup_upd * 9 AND relname NOT LIKE 'daily_logs%'";
    assert_eq!(rows(&client, moved).await, "");

    let found = rows(&client, "SELECT name, now, anew FROM fill.live()").await;
    let mut grown = Vec::new();
    for line in found.lines() {
        let fields: Vec<&str> = line.split('|').collect();
        let [now, anew] = [1, 2].map(|at| fields[at].parse::<f64>().unwrap());
        println!(
            "{:<32} {:>6.2} MB, written anew {:>6.2}: {:.2} times",
            fields[0],
            now / 1e6,
            anew / 1e6,
            now / anew
        );
        if now > 2.0 * anew {
            grown.push(fields[0]);
        }
    }
    assert!(found.lines().count() >= 6 && grown.is_empty(), "{grown:?}");
}

/// Full traffic with a small budget; in the middle of it somebody else fills the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_year_stays_within_its_budget_and_counts_exactly() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub_to_fill().await;
    // Small tables: the year is long, and each of its days has parts of its own.
    let (days, keys, people, budget, others) =
        if whole() { (365, 24, 24, 18_000_000, 80) } else { (45, 60, 60, 22_000_000, 130) };
    fill(&client, &format!("keys(1, {keys})")).await;
    fill(&client, &format!("users({people}, {keys})")).await;
    rows(&client, "SELECT keytide_usage_logs(true)").await;
    client
        .batch_execute("CREATE TABLE app (x text); ALTER TABLE app ALTER x SET STORAGE PLAIN")
        .await
        .unwrap();
    let database = "SELECT pg_database_size(current_database())";
    let hours = "SELECT coalesce(sum(heap + rest), 0)::bigint FROM fill.sizes() WHERE name = 'hourly_stats'";
    let (mut rungs, mut highest, mut largest, mut most_shed) = (BTreeSet::new(), 0, 0, 0);
    let mut rung = 0;
    for day in 0..days {
        let late = number(
            &client,
            &format!("SELECT jsonb_array_length(fill.whole_day({}, {keys}, {people}))", FIRST + day),
        )
        .await;
        // At the top of the ladder each hour of a key stays with who counted it, and its set; so does each request.
        let expected = if rung == 3 { keys * 24 * 2 + 500 } else { 0 };
        assert_eq!(late, expected, "day {day} at rung {rung}");
        let used = number(&client, "SELECT keytide_used()").await;
        highest = highest.max(used);
        assert!(used <= budget, "day {day}: {used} bytes are used, of {budget}");
        let before = (number(&client, database).await, number(&client, hours).await);
        largest = largest.max(before.0);
        let (now, last) = retain(&client, Some(budget)).await;
        let after = (number(&client, database).await, number(&client, hours).await);
        if now > rung {
            println!(
                "day {day}: rung {now} at {used} bytes; the database {} -> {}, hours {} -> {}",
                before.0, after.0, before.1, after.1
            );
            most_shed = most_shed.max(before.0 - after.0);
        }
        // The first time: who climbs again some days later has few hours left to let go of.
        if now == 3 && !rungs.contains(&3) {
            assert!(
                after.1 * 2 < before.1 && after.0 < before.0 - 500_000,
                "files shrink: {before:?} {after:?}"
            );
        }
        rung = last;
        rungs.extend([now, last]);
        if (days / 2..days / 2 + 10).contains(&day) {
            let sql = format!("INSERT INTO app SELECT repeat('x', 2000) FROM generate_series(1, {others})");
            client.batch_execute(&sql).await.unwrap();
        } else if day == days / 2 + 13 {
            client.batch_execute("DROP TABLE app").await.unwrap();
        }
    }
    println!(
        "at most {highest} of {budget} bytes were used, and the database with what is reusable in it was at most {largest}; \
         the rungs {rungs:?}"
    );
    assert_eq!(rungs, BTreeSet::from([0, 1, 2, 3]));
    assert!(most_shed > 500_000, "{most_shed}");
    // Every count, wherever it is by now.
    let uses = days * keys * 240;
    let sums = "SELECT (SELECT sum(total_requests) FROM ollama_api_key_stats), (SELECT total_requests FROM ollama_api_global_stats),
        (SELECT sum(success_count + failure_count) FROM shared_keys),
        (SELECT count(DISTINCT success_count) FROM shared_keys), (SELECT sum((usage_stats ->> 'total_usage_count')::bigint) FROM shared_keys),
        (SELECT sum((log_data -> 'shared_key_usage' ->> 'total_calls')::bigint) FROM (
            SELECT log_data FROM daily_logs UNION ALL SELECT log_data FROM monthly_logs) d)";
    assert_eq!(
        rows(&client, sums).await,
        format!("{}|{uses}|{uses}|1|{uses}|{}", uses + keys, days * people * 15)
    );

    // One that was closed for its size is freed by a session that may write again.
    client.batch_execute("ALTER DATABASE hub SET default_transaction_read_only = on").await.unwrap();
    let closed = cluster.connect("hub", "postgres").await;
    let retained = json!({"protocol": 1, "budget": 1_000_000});
    let answer = call(&closed, "keytide_retain", &retained).await;
    assert_eq!((&answer["status"], &answer["read_only"]), (&json!("read_only"), &json!(true)));
    let told = format!(
        "SET default_transaction_read_only = off; SELECT set_config('keytide.now', keytide_day({})::text || 'Z', false)",
        FIRST + days
    );
    rows(&closed, &told).await;
    let before = number(&closed, database).await;
    let answer: Value = call(&closed, "keytide_retain", &retained).await;
    assert_eq!((&answer["status"], &answer["rung"]), (&json!("ok"), &json!(3)));
    let after = number(&closed, database).await;
    assert!(after < before, "{before} -> {after}");
}
