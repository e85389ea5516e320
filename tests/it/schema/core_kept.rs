//! What the hub keeps of the core, how long, and less of it as its storage budget is used up. Time is told to the hub.

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{FIRST, Stream, at, call, core::id, hub, rows};
use crate::{
    hub::skipped,
    pg::{Cluster, Options},
};

/// Ten attempts with key 1 by user 2 and others, at noon.
async fn uses(client: &Client, stream: &mut Stream, day: i64) -> Value {
    at(client, day, 12).await;
    let (n, hour) = (FIRST + day, (FIRST + day) * 24 + 12);
    let used = hour * 3_600_000;
    let batch = json!({
        "tallies": [{"t": "kd", "i": id(1), "n": n, "s": 9, "f": 1}, {"t": "kh", "i": id(1), "n": hour, "s": 9, "f": 1, "p": 100, "q": 1},
            {"t": "kt", "i": id(1), "s": 9, "f": 1, "lu": used}, {"t": "uu", "i": id(2), "n": n, "s": 10, "p": 7, "lu": used},
            {"t": "uc", "i": id(2), "n": n, "s": 1}],
        "sets": [{"t": "kd", "i": id(1), "n": n, "m": [id(2), id(3)]}, {"t": "kh", "i": id(1), "n": hour, "m": [id(2)]},
            {"t": "uk", "i": id(2), "n": n, "m": [format!("{day:08x}")], "k": format!("{day:08x}"), "at": used}]});
    stream.push(client, batch).await
}

/// Until there is no more to do; the rung.
async fn retain(client: &Client, budget: Option<i64>) -> i64 {
    for _ in 0..200 {
        let answer = call(client, "keytide_retain", &json!({"protocol": 1, "budget": budget})).await;
        assert_eq!(answer["status"], "ok", "{answer:#}");
        if answer["more"] == false {
            return answer["rung"].as_i64().unwrap();
        }
    }
    panic!("retention does not come to an end");
}

/// Which key was used last is told before when anything was, since members of sets come first.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_key_is_the_latest_in_whatever_order_instances_tell() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    at(&client, 0, 12).await;
    let noon = (FIRST * 24 + 12) * 3_600_000;
    let last = |key: &str, at: i64| json!({"sets": [{"t": "uk", "i": id(2), "n": FIRST, "m": [key], "k": key, "at": at}]});
    let used = |at: i64| json!({"tallies": [{"t": "uu", "i": id(2), "n": FIRST, "s": 1, "lu": at}]});
    let (mut one, mut two) = (Stream::core(1), Stream::core(2));
    one.push(&client, last("0000000b", noon - 1000)).await;
    two.push(&client, used(noon - 5000)).await;
    two.push(&client, last("0000000a", noon - 5000)).await;
    let (page, _) = two.pull(&client, "stats", None).await;
    let sets = &page["rows"]["sets"][0];
    assert_eq!((&sets["k"], &sets["at"]), (&json!("0000000b"), &json!(noon - 1000)), "{page:#}");
    one.push(&client, used(noon - 1000)).await;
    let sql = "SELECT log_data -> 'shared_key_usage' -> 'last_key_used', log_data -> 'shared_key_usage' -> 'last_key_at' FROM daily_logs";
    assert_eq!(rows(&client, sql).await, "\"0000000b\"|");
}

/// What others have used of limits by day can be read without all the rest.
#[tokio::test(flavor = "multi_thread")]
async fn uses_of_limits_have_a_lane_of_their_own() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    at(&client, 0, 12).await;
    let mut stream = Stream::core(1);
    uses(&client, &mut stream, 0).await;
    let (page, nothing) = stream.pull(&client, "limits", None).await;
    assert_eq!(page["rows"], json!({}));
    assert_eq!(page["kept"], json!({"h": FIRST * 24 + 12 - 719, "d": FIRST - 30}));
    let row = json!({"t": "td", "i": id(7), "n": FIRST, "s": 3, "p": 10});
    stream.push(&client, json!({"tallies": [row]})).await;
    for cursor in [None, Some(nothing.as_str())] {
        let (page, _) = stream.pull(&client, "limits", cursor).await;
        assert_eq!(page["rows"], json!({"tallies": [row]}));
    }
    let (page, after) = stream.pull(&client, "limits", None).await;
    assert_eq!(page["next"], Value::Null);
    assert_eq!(stream.pull(&client, "limits", Some(&after)).await.0["rows"], json!({}));
    // On the last rung hours are kept for a day, and days of users for a week.
    retain(&client, Some(1)).await;
    let (page, _) = stream.pull(&client, "stats", Some(&after)).await;
    assert_eq!(page["kept"], json!({"h": (FIRST - 1) * 24, "d": FIRST - 7}));
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_move_on_at_midnight_for_keys_that_nobody_uses_too() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::core(1);
    for day in 0..8 {
        assert_eq!(uses(&client, &mut stream, day).await, json!({}), "{day}");
    }
    let figures = "SELECT usage_stats -> 'total_usage_count', usage_stats -> 'usage_count_today', usage_stats -> 'active_users_today',
        usage_stats -> 'success_rate_7d', usage_stats -> 'avg_daily_usage_7d', usage_stats -> 'own' FROM shared_keys";
    client.batch_execute("UPDATE shared_keys SET usage_stats = usage_stats || '{\"own\": 1}'").await.unwrap();
    assert_eq!(rows(&client, figures).await, "80|10|2|0.9|10|1");
    for (day, hour, expected) in [
        (7, 23, "80|10|2|0.9|10|1"),
        (8, 0, "80|0|0|0.9|8.57|1"),
        (13, 5, "80|0|0|0.9|1.43|1"),
        (14, 5, "80|0|0|0|0|1"),
    ] {
        at(&client, day, hour).await;
        retain(&client, None).await;
        assert_eq!(rows(&client, figures).await, expected, "day {day}");
    }
    // Midnight is where the hub's people live.
    let wrong =
        client.batch_execute("UPDATE keytide_settings SET time_zone = 'Mars/Olympus'").await.unwrap_err();
    assert_eq!(wrong.as_db_error().unwrap().message(), "there is no time zone \"Mars/Olympus\"");
    client.batch_execute("UPDATE keytide_settings SET time_zone = 'Asia/Tokyo'").await.unwrap();
    at(&client, 20, 14).await;
    assert_eq!(rows(&client, "SELECT keytide_today()").await, (FIRST + 20).to_string());
    at(&client, 20, 15).await;
    assert_eq!(rows(&client, "SELECT keytide_today()").await, (FIRST + 21).to_string());
    let hello = json!({"protocol": 1, "instance": stream.instance, "streams": ["core"]});
    let hello = call(&client, "keytide_hello", &hello).await;
    assert_eq!((&hello["zone"], &hello["missing"]), (&json!("Asia/Tokyo"), &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_time_is_not_for_strangers_to_tell() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let role = "CREATE ROLE stranger LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO stranger;
        GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO stranger";
    client.batch_execute(role).await.unwrap();
    let stranger = cluster.connect("hub", "stranger").await;
    for (who, told) in [(&client, "t"), (&stranger, "f")] {
        who.batch_execute("SET keytide.now = '2001-01-01 00:00Z'").await.unwrap();
        assert_eq!(rows(who, "SELECT keytide_now() < '2002-01-01'").await, told);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_too_late_is_answered_and_counted_nowhere_else() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::core(1);
    at(&client, 60, 12).await;
    let (day, hour) = (FIRST + 60, (FIRST + 60) * 24 + 12);
    let tally = |kind: &str, n: i64| json!({"t": kind, "i": id(1), "n": n, "s": 1});
    let set = |kind: &str, n: i64| json!({"t": kind, "i": id(1), "n": n, "m": [if kind == "uk" { "0000000a".to_owned() } else { id(1) }]});
    let event =
        |back: i64| json!({"x": id(50 + back as u128), "e": "abuse", "at": (hour - back * 24) * 3_600_000});
    // The last that is kept, and the first that is not; what lies days ahead is not either.
    let answer = stream
        .push(&client, json!({
            "tallies": [tally("kh", (day - 30) * 24), tally("kh", (day - 30) * 24 - 1), tally("kd", day - 30), tally("kd", day - 31),
                tally("uu", day - 30), tally("uu", day - 31), tally("td", day - 2), tally("td", day - 3), tally("kt", 0), tally("kd", day + 9),
                tally("kh", hour + 99)],
            "sets": [set("kh", hour - 26), set("kh", hour - 27), set("kd", day - 8), set("kd", day - 9), set("uk", day - 8), set("uk", day - 9)],
            "events": [event(29), event(31)], "logs": [{"i": id(1), "u": id(1), "y": 1, "at": hour * 3_600_000}]}))
        .await;
    let late: Vec<Value> =
        [("tallies", [1, 3, 5, 7, 9, 10].as_slice()), ("sets", &[1, 3, 5]), ("events", &[1]), ("logs", &[0])]
            .iter()
            .flat_map(|(list, places)| places.iter().map(move |at| json!([list, at])))
            .collect();
    assert_eq!(answer, json!({"expired": late}));
    let found = "SELECT (SELECT count(*) FROM hourly_stats), (SELECT sum(success) FROM keytide_key_days), (SELECT count(*) FROM daily_logs),
        (SELECT sum(success) FROM keytide_token_days), (SELECT success_count FROM shared_keys), (SELECT count(*) FROM keytide_user_sets),
        (SELECT count(*) FROM security_events)";
    // The set of an hour and that of a day bring their rows.
    assert_eq!(rows(&client, found).await, "2|1|2|1|1|2|1");
    let said = "SELECT table_name, count FROM keytide_reports WHERE kind = 'late' AND count > 0 ORDER BY 1";
    assert_eq!(
        rows(&client, said).await,
        "daily_logs|3\nhourly_stats|2\nkey_usage_logs|1\nkeytide_key_days|2\nkeytide_user_sets|2\nsecurity_events|1"
    );

    // The same event, again and in another batch, is one.
    stream.push(&client, json!({"events": [event(29), event(28), event(28)]})).await;
    assert_eq!(rows(&client, "SELECT count(*) FROM security_events").await, "2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ladder_sheds_what_is_least_missed_and_counts_stay_exact() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::core(1);
    for day in 0..40 {
        assert_eq!(uses(&client, &mut stream, day).await, json!({}), "{day}");
        if day == 35 {
            // A new day's parts are there before it comes; over days are written without free space.
            assert_eq!(retain(&client, None).await, 0);
            let parts =
                "SELECT count(*) FILTER (WHERE reloptions = '{fillfactor=100}'), count(*) FROM pg_class
                WHERE relname LIKE 'hourly_stats_2030%' AND relkind = 'r'";
            assert_eq!(rows(&client, parts).await, "30|33");
        }
    }
    let kept = "SELECT (SELECT count(*) FROM hourly_stats), (SELECT min(date) FROM daily_logs), (SELECT count(*) FROM keytide_key_days),
        (SELECT string_agg(log_data -> 'shared_key_usage' ->> 'total_calls', '+' ORDER BY month) FROM monthly_logs)";
    // A budget of which so much is used.
    let share = async |percent: i64| {
        let used: i64 = rows(&client, "SELECT keytide_used()").await.parse().unwrap();
        Some(used * 100 / percent)
    };
    assert_eq!(retain(&client, share(50).await).await, 0);
    assert_eq!(rows(&client, kept).await, "31|2030-06-10|31|90");
    assert_eq!(retain(&client, share(76).await).await, 1);
    assert_eq!(rows(&client, kept).await, "24|2030-06-17|31|160");
    assert_eq!(retain(&client, share(90).await).await, 2);
    assert_eq!(rows(&client, kept).await, "8|2030-07-03|31|300+20");
    let month: Value = serde_json::from_str(
        &rows(&client, "SELECT log_data FROM monthly_logs WHERE month = '2030-06-01'").await,
    )
    .unwrap();
    let of = &month["shared_key_usage"];
    assert_eq!(
        (&month["conversation_count"], &of["prompt_tokens"], &of["last_key_used"]),
        (&json!(30), &json!(210), &json!("0000001d"))
    );
    assert_eq!(of["keys_used"].as_array().unwrap().len(), 30);
    assert_eq!(of["last_usage_at"], "2030-06-30T12:00:00.000Z");
    assert_eq!(retain(&client, share(97).await).await, 3);
    assert_eq!(rows(&client, kept).await, "2|2030-07-03|31|300+20");
    // Hours stay with who has them; days and totals are counted on.
    let answer = uses(&client, &mut stream, 39).await;
    assert_eq!(answer, json!({"expired": [["tallies", 1], ["sets", 1]]}));
    assert_eq!(
        rows(
            &client,
            "SELECT success_count + failure_count, usage_stats -> 'usage_count_today' FROM shared_keys"
        )
        .await,
        "410|20"
    );
    // Down again, not at the same point; what was folded stays folded.
    assert_eq!(retain(&client, share(60).await).await, 0);
    let late =
        stream.push(&client, json!({"tallies": [{"t": "uu", "i": id(2), "n": FIRST + 31, "s": 1}]})).await;
    assert_eq!(late, json!({"expired": [["tallies", 0]]}));
    assert_eq!(
        rows(&client, "SELECT array_agg(keytide_rung(was, 88, 100)) FROM generate_series(0, 3) was").await,
        "{2,2,2,2}"
    );
    assert_eq!(
        rows(&client, "SELECT array_agg(keytide_rung(was, 81, 100)) FROM generate_series(0, 3) was").await,
        "{1,1,2,2}"
    );
    let sizes = call(&client, "keytide_sizes", &json!({"protocol": 1})).await;
    assert!(sizes["tables"].as_array().unwrap().iter().all(|table| table["reusable"].is_i64()), "{sizes:#}");
    assert!(sizes["used"].as_i64().unwrap() <= sizes["database"].as_i64().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_are_pushed_to_all_day_do_not_grow() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let settings = vec![("autovacuum".to_owned(), "off".to_owned())];
    let cluster = Cluster::start(Options { settings, ..Options::default() });
    let client = cluster.database("hub").await;
    keytide::replica::schema::apply(&client, &[], false).await.unwrap();
    let mut stream = Stream::core(1);
    at(&client, 0, 12).await;
    let (day, hour) = (FIRST, FIRST * 24 + 12);
    let sizes = "SELECT string_agg(relname || ' ' || pg_relation_size(oid) || ' ' || pg_indexes_size(oid), ', ' ORDER BY relname)
        FROM pg_class WHERE relname IN ('hourly_stats_2030_06_01', 'keytide_key_days_2030_06_01', 'shared_keys', 'keytide_user_sets', 'keytide_token_days')";
    let mut early = String::new();
    for round in 0..40 {
        let (mut tallies, mut sets) = (Vec::new(), Vec::new());
        for n in 0..300 {
            for (kind, period) in [("kd", day), ("kh", hour), ("kt", 0), ("td", day)] {
                tallies.push(json!({"t": kind, "i": id(n), "n": period, "s": 3, "p": 100, "q": 3, "lu": hour * 3_600_000 + round}));
            }
            sets.push(json!({"t": "kd", "i": id(n), "n": day, "m": [id(1)]}));
        }
        stream.push(&client, json!({"tallies": tallies, "sets": sets})).await;
        if round == 4 {
            early = rows(&client, sizes).await;
        }
    }
    assert_eq!(rows(&client, sizes).await, early);
    let live = "SELECT string_agg(t.name, ',') FROM (
        SELECT 'hours' AS name, pg_relation_size('hourly_stats_2030_06_01') AS size, sum(pg_column_size(h.*) + 8) AS live FROM hourly_stats h
        UNION ALL SELECT 'days', pg_relation_size('keytide_key_days_2030_06_01'), sum(pg_column_size(h.*) + 8) FROM keytide_key_days h
        UNION ALL SELECT 'keys', pg_relation_size('shared_keys'), sum(pg_column_size(h.*) + 8) FROM shared_keys h) t
        WHERE size > live * 2.3 + 8192";
    assert_eq!(
        rows(&client, live).await,
        "",
        "no more than twice what is in them, and what of a page is left"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_are_made_for_whatever_is_still_kept() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::core(1);
    // An instance that comes with a month of its own, and one of another layout made by hand.
    at(&client, 0, 12).await;
    let by_hand =
        "CREATE TABLE mine PARTITION OF hourly_stats FOR VALUES FROM ('2030-05-20Z') TO ('2030-05-25Z')";
    client.batch_execute(by_hand).await.unwrap();
    let tallies: Vec<Value> = (0..30)
        .flat_map(|back| {
            [
                json!({"t": "kh", "i": id(1), "n": (FIRST - back) * 24, "s": 1}),
                json!({"t": "uu", "i": id(1), "n": FIRST - back, "s": 1}),
            ]
        })
        .collect();
    assert_eq!(stream.push(&client, json!({"tallies": tallies})).await, json!({}));
    let found = "SELECT (SELECT count(*) FROM hourly_stats), (SELECT count(*) FROM mine), (SELECT count(*) FROM daily_logs),
        (SELECT string_agg(part::text, ',') FROM keytide_parts('daily_logs') WHERE ends < '2030-12-01')";
    let parts = rows(&client, found).await;
    assert!(
        parts.starts_with("30|5|30|") && parts.ends_with("daily_logs_2030_05,daily_logs_2030_06"),
        "{parts}"
    );
    // Something in the way of a part: its rows are answered, the others are counted.
    client.batch_execute("CREATE TABLE hourly_stats_2030_06_02 (x int)").await.unwrap();
    at(&client, 1, 12).await;
    let hour = (FIRST + 1) * 24;
    let answer = stream
        .push(
            &client,
            json!({"tallies": [{"t": "kh", "i": id(1), "n": hour, "s": 1}, {"t": "kt", "i": id(1), "s": 1}]}),
        )
        .await;
    assert_eq!(answer, json!({"expired": [["tallies", 0]]}));
    assert_eq!(rows(&client, "SELECT success_count FROM shared_keys").await, "1");
    // Likewise of a month of events, of a day of single requests, and of a day of keys.
    rows(&client, "SELECT keytide_usage_logs(true)").await;
    client
        .batch_execute(
            "CREATE TABLE security_events_2030_09 (x int); CREATE TABLE key_usage_logs_2030_09_02 (x int);
             CREATE TABLE keytide_key_days_2030_09_02 (x int)",
        )
        .await
        .unwrap();
    at(&client, 93, 12).await;
    let now = (FIRST + 93) * 86_400_000;
    let answer = stream
        .push(
            &client,
            json!({"events": [{"x": id(50), "e": "abuse", "at": now - 3 * 86_400_000}, {"x": id(51), "e": "abuse", "at": now}],
                "logs": [{"i": id(1), "u": id(1), "y": 1, "at": now - 86_400_000}, {"i": id(1), "u": id(1), "y": 1, "at": now}],
                "tallies": [{"t": "kd", "i": id(1), "n": FIRST + 93, "s": 1}]}),
        )
        .await;
    assert_eq!(answer, json!({"expired": [["tallies", 0], ["events", 1], ["logs", 1]]}));
    let said = "SELECT table_name FROM keytide_reports WHERE kind = 'no_partition' AND count > 0 ORDER BY 1";
    assert_eq!(rows(&client, said).await, "hourly_stats\nkey_usage_logs\nkeytide_key_days\nsecurity_events");
}
