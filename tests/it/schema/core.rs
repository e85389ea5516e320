//! Users, days, hours and events on the hub: every list of the stream `core`, pushed and pulled.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::{Stream, call, hub, rows, version};
use crate::{
    hub::skipped,
    pg::{self, Cluster, Options},
};

pub fn id(n: u128) -> String {
    uuid::Uuid::from_u128(n).to_string()
}

/// The hub's day and hour.
pub async fn now(client: &Client) -> (i64, i64) {
    let found = rows(client, "SELECT keytide_today(), keytide_hour()").await;
    let (day, hour) = found.split_once('|').unwrap();
    (day.parse().unwrap(), hour.parse().unwrap())
}

/// Every tally and set of full pulls with pages of `limit` rows, and how many rows came.
async fn everything(client: &Client, stream: &Stream, limit: u32) -> (BTreeMap<String, Value>, usize) {
    let (mut found, mut count, mut after) = (BTreeMap::new(), 0, Value::Null);
    loop {
        let ask =
            json!([{"stream": "core", "provider": "core", "lane": "stats", "after": after, "limit": limit}]);
        let request = json!({"protocol": 1, "instance": stream.instance, "asks": ask});
        let page = call(client, "keytide_pull", &request).await["pages"][0].clone();
        for list in ["tallies", "sets"] {
            for row in page["rows"][list].as_array().into_iter().flatten() {
                found.insert(format!("{list} {} {} {}", row["t"], row["i"], row["n"]), row.clone());
                count += 1;
            }
        }
        after = page["next"].clone();
        if after.is_null() {
            return (found, count);
        }
    }
}

/// A batch with something in every list, all of user 1 and key 2, at this hour of this day.
fn full(day: i64, hour: i64) -> Value {
    let (user, key, used) = (id(1), id(2), hour * 3_600_000 + 7);
    json!({
        "users": [{"i": user, "a": 5, "add": true, "n": "ann", "d": 9, "m": ["m"], "ip": ["10.0.0.0/8"]}],
        "shares": [{"i": key, "p": "ollama", "u": user, "v": 5}],
        "tallies": [
            {"t": "kd", "i": key, "n": day, "s": 3, "f": 1, "lu": used},
            {"t": "kh", "i": key, "n": hour, "s": 3, "f": 1, "o": 1, "p": 1000, "q": 3},
            {"t": "kt", "i": key, "s": 3, "f": 1, "lu": used},
            {"t": "td", "i": id(3), "n": day, "s": 3, "p": 8},
            {"t": "uc", "i": user, "n": day, "s": 1, "f": 2, "o": 3},
            {"t": "ue", "i": user, "n": day, "s": 4, "f": 5, "o": 6},
            {"t": "uu", "i": user, "n": day, "s": 3, "f": 1, "o": 1, "p": 10, "q": 20, "lu": used},
        ],
        "sets": [
            {"t": "kd", "i": key, "n": day, "m": [id(1).replace('-', ""), id(4)]},
            {"t": "kh", "i": key, "n": hour, "m": [id(1)]},
            {"t": "uk", "i": user, "n": day, "m": ["0000000b", "0000000a"], "k": "0000000b", "at": used},
        ],
        "events": [{"x": id(9), "e": "abuse", "u": user, "i": key, "y": 4, "d": {"kind": "frequency"}, "at": used, "w": 3}],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_list_is_pushed_and_pulled_on_every_version() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    for found in pg::installed() {
        let cluster = Cluster::start(Options { version: Some(found), ..Options::default() });
        let make = "CREATE ROLE owner LOGIN; CREATE ROLE anon";
        cluster.connect("postgres", "postgres").await.batch_execute(make).await.unwrap();
        let make = "CREATE DATABASE hub OWNER owner";
        cluster.connect("postgres", "postgres").await.batch_execute(make).await.unwrap();
        let client = cluster.connect("hub", "owner").await;
        let left = keytide::replica::schema::apply(&client, &[super::OLLAMA], false).await.unwrap().left;
        assert!(left.problems.is_empty(), "{found}: {left:#?}");
        let (day, hour) = now(&client).await;
        let mut stream = Stream::core(1);
        assert_eq!(stream.push(&client, full(day, hour)).await, json!({}), "{found}");
        let (page, _) = stream.pull(&client, "state", None).await;
        let mut user = page["rows"]["users"][0].clone();
        user.as_object_mut().unwrap().remove("c");
        assert_eq!(user, json!({"i": id(1), "a": 5, "n": "ann", "d": 9, "m": ["m"], "ip": ["10.0.0.0/8"]}));
        let (page, cursor) = stream.pull(&client, "stats", None).await;
        let mut told = full(day, hour);
        told["tallies"][2]["n"] = json!(0);
        assert_eq!(page["rows"]["tallies"], told["tallies"], "{found}");
        let hex = |n| id(n).replace('-', "");
        told["sets"][0]["m"] = json!([hex(1), hex(4)]);
        told["sets"][1]["m"] = json!([hex(1)]);
        told["sets"][2]["m"] = json!(["0000000a", "0000000b"]);
        assert_eq!(page["rows"]["sets"], told["sets"], "{found}");

        // What did not change is not told again, and what did, as totals.
        assert_eq!(stream.pull(&client, "stats", Some(&cursor)).await.0["rows"], json!({}));
        stream.push(&client, json!({"tallies": [{"t": "kh", "i": id(2), "n": hour, "s": 1}]})).await;
        let (page, _) = stream.pull(&client, "stats", Some(&cursor)).await;
        let expected = json!([{"t": "kh", "i": id(2), "n": hour, "s": 4, "f": 1, "o": 1, "p": 1000, "q": 3}]);
        assert_eq!(page["rows"]["tallies"], expected, "{found}");

        let share = "SELECT provider, user_id, is_active, usage_stats - 'last_used_at' FROM shared_keys";
        assert_eq!(
            rows(&client, share).await,
            format!(
                "ollama|{}|t|{{\"success_rate_7d\": 0.75, \"total_usage_count\": 4, \"usage_count_today\": 4, \
                 \"active_users_today\": 2, \"avg_daily_usage_7d\": 0.57}}",
                id(1)
            ),
            "{found}"
        );
        let hours = "SELECT total_requests, successful_requests, failed, unique_users, avg_response_time FROM hourly_stats";
        assert_eq!(rows(&client, hours).await, "6|4|1|1|333", "{found}");
        let log: Value =
            serde_json::from_str(&rows(&client, "SELECT log_data FROM daily_logs").await).unwrap();
        assert_eq!(
            (&log["conversation_count"], &log["api_call_count"], &log["upload_count"]),
            (&json!(1), &json!(2), &json!(3))
        );
        let used = &log["shared_key_usage"];
        assert_eq!(
            (&used["total_calls"], &used["successful_calls"], &used["failed_calls"], &used["other_calls"]),
            (&json!(5), &json!(3), &json!(1), &json!(1))
        );
        assert_eq!(
            (&used["keys_used"], &used["last_key_used"]),
            (&json!(["0000000a", "0000000b"]), &json!("0000000b"))
        );
        assert_eq!(log["error_stats"], json!({"rate_limit_hits": 4, "auth_failures": 5, "server_errors": 6}));
        let event = "SELECT event_type, severity, details, occurrences FROM security_events";
        assert_eq!(rows(&client, event).await, "abuse|4|{\"kind\": \"frequency\"}|3", "{found}");

        // Nobody else sees anything, of any part either.
        let open = "SELECT count(*) FILTER (WHERE NOT relrowsecurity), count(*) FILTER (WHERE has_table_privilege('anon', oid, 'SELECT')),
            count(*) FILTER (WHERE relispartition) > 6 FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p')";
        assert_eq!(rows(&client, open).await, "0|0|t", "{found}");
        assert_eq!(call(&client, "keytide_retain", &json!({"protocol": 1})).await["status"], "ok", "{found}");
        assert_eq!(
            rows(&client, "SELECT keytide_usage_logs(true)").await,
            "a row per request is kept for seven days"
        );
        stream.push(&client, json!({"logs": [{"x": id(5), "i": id(2), "u": id(1), "y": 2, "c": 200, "at": hour * 3_600_000}, {"i": id(2)}]})).await;
        let log = "SELECT shared_key_id, usage_type, status_code FROM key_usage_logs";
        assert_eq!(rows(&client, log).await, format!("{}|2|200", id(2)), "{found}");
        assert_eq!(
            rows(&client, "SELECT cleanup_key_usage_logs(); SELECT count(*) FROM key_usage_logs").await,
            "\n1"
        );
        assert!(
            keytide::replica::schema::check(&client, &[super::OLLAMA]).await.unwrap().problems.is_empty()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_said_of_a_key_ends_with_it_in_whatever_order_it_comes() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::core(1);
    // Added at 2, given to somebody at 9; deleted at 5 by whoever had not heard of that; added again at 7.
    let said = [
        json!({"p": "ollama", "u": id(3), "a": 2, "v": 9}),
        json!({"p": "ollama", "on": false, "a": 5, "v": 5}),
        json!({"p": "ollama", "u": id(4), "a": 7, "v": 7}),
    ];
    let whose = async |key: u128| {
        let sql = format!("SELECT user_id, is_active FROM shared_keys WHERE id = '{}'", id(key));
        rows(&client, &sql).await
    };
    for (key, order) in [(10, [0, 1, 2]), (11, [1, 0, 2]), (12, [2, 1, 0]), (13, [1, 2, 0])] {
        for (n, at) in order.into_iter().enumerate() {
            let mut row = said[at].clone();
            row["i"] = json!(id(key));
            stream.push(&client, json!({"shares": [row]})).await;
            let deleted = order[..=n].contains(&1) && !order[..=n].contains(&2);
            if deleted {
                assert_eq!(whose(key).await, "|f", "{order:?}");
            }
        }
        assert_eq!(whose(key).await, format!("{}|t", id(4)), "{order:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_any_size_hold_the_same() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let (day, hour) = now(&client).await;
    let mut stream = Stream::core(1);
    let mut tallies = Vec::new();
    for n in 0..9 {
        for (kind, period) in
            [("kd", day), ("kd", day - 1), ("kh", hour), ("kt", 0), ("td", day), ("uu", day), ("uc", day - 1)]
        {
            tallies.push(json!({"t": kind, "i": id(n), "n": period, "s": n + 1}));
        }
    }
    stream.push(&client, json!({"tallies": tallies, "sets": [{"t": "kd", "i": id(1), "n": day, "m": [id(1)]}, {"t": "uk", "i": id(1), "n": day, "m": ["0000000a"]}]})).await;
    let (whole, _) = everything(&client, &stream, 10_000).await;
    assert_eq!(whole.len(), tallies.len() + 2);
    for limit in [1, 2, 7, 64] {
        let (found, count) = everything(&client, &stream, limit).await;
        assert_eq!((&found, count), (&whole, whole.len()), "{limit}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_row_makes_a_batch_fail() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let mut stream = Stream::core(1);
    let (day, _) = now(&client).await;
    let strange = json!([null, 5, "x", [], {}, {"t": 5}, {"t": "kh", "i": 5, "n": "x"}, {"i": id(4)}, {"t": "user", "id": "x", "v": 1e30},
        {"i": id(4), "a": 7, "add": true, "m": "x", "ip": 5, "n": 5, "r": -5, "d": 1e40, "p": [], "u": {}, "v": "x"},
        {"t": "uk", "i": id(4), "n": day, "m": [1, null, {}, "zz"], "k": 5, "at": "x"}, {"t": "kd", "i": id(4), "n": 1e30, "s": 1e300},
        {"t": "kt", "i": id(4), "s": 1e300, "lu": 1e300}, {"t": "kt", "i": id(4), "s": 1e300}, {"t": "kd", "i": id(4), "n": day, "s": -9, "m": [id(1), "no"]},
        {"x": id(3), "e": "strange", "y": "x", "d": [1], "at": 1e300}, {"x": id(3), "e": "strange", "y": 77}]);
    for _ in 0..3 {
        let batch: Value = ["gone", "users", "shares", "tallies", "sets", "events", "logs"]
            .iter()
            .map(|list| ((*list).to_owned(), strange.clone()))
            .collect::<serde_json::Map<_, _>>()
            .into();
        stream.push(&client, batch).await;
        for wrong in [json!(5), json!({}), json!(null)] {
            stream.push(&client, json!({"gone": wrong, "users": wrong, "shares": wrong, "tallies": wrong, "sets": wrong, "events": wrong, "logs": wrong})).await;
        }
    }
    let found = "SELECT (SELECT string_agg(requests_per_day::text, ',') FROM users), (SELECT success_count FROM shared_keys),
        (SELECT count(*) FROM security_events), (SELECT users FROM keytide_key_days)";
    assert_eq!(rows(&client, found).await, "9223372036854775807|6000000000000000|1|1");
}

#[tokio::test(flavor = "multi_thread")]
async fn users_merge_field_by_field_with_what_people_edit() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let (mut one, mut two) = (Stream::core(1), Stream::core(2));
    let a = version(-100);
    one.push(
        &client,
        json!({"users": [{"i": id(1), "a": a, "add": true, "n": "one", "nv": version(-50), "r": 5}]}),
    )
    .await;
    // Older and equal loses, newer wins, each field for itself; an absent field is as old as the row.
    two.push(&client, json!({"users": [{"i": id(1), "a": a, "n": "two", "nv": version(-60), "o": "note", "ov": version(-60), "e": false, "ev": version(-40)}]})).await;
    let shown = "SELECT name, note, enabled, requests_per_minute FROM users";
    assert_eq!(rows(&client, shown).await, "one|note|f|5");
    two.push(&client, json!({"users": [{"i": id(1), "a": a, "n": "same", "nv": version(0) + (600_000_000 << 10)}, {"i": id(2), "a": a}]})).await;
    assert_eq!(
        rows(&client, shown).await,
        "one|note|f|5",
        "from the future; and nobody is made without `add`"
    );
    // A person's edit is later than both, of what it changed alone.
    let (_, cursor) = one.pull(&client, "state", None).await;
    client
        .batch_execute("UPDATE users SET enabled = true, versions = '{\"n\": 1}', added_v = 3")
        .await
        .unwrap();
    let (page, _) = one.pull(&client, "state", Some(&cursor)).await;
    let user = &page["rows"]["users"][0];
    assert_eq!((&user["n"], user.get("e"), &user["a"]), (&json!("one"), None, &json!(a)));
    assert!(
        user["ev"].as_i64().unwrap() > version(-5) && user["nv"].as_i64().unwrap() < version(-45),
        "{user}"
    );
    one.push(
        &client,
        json!({"users": [{"i": id(1), "a": a, "e": false, "ev": version(-5), "t": 7, "tv": version(-5)}]}),
    )
    .await;
    assert_eq!(rows(&client, "SELECT enabled, tokens_per_day FROM users").await, "t|7");

    // Deleted, by a batch or by hand, a user comes back only if added later.
    one.push(&client, json!({"gone": [{"t": "user", "id": id(1), "v": version(-1)}]})).await;
    let again = json!({"users": [{"i": id(1), "a": a, "add": true}]});
    assert_eq!(two.push(&client, again).await, json!({"gone": [["users", 0]]}));
    two.push(&client, json!({"users": [{"i": id(1), "a": version(0), "add": true, "n": "new"}]})).await;
    assert_eq!(two.pull(&client, "state", None).await.0["rows"].get("gone"), None);
    client
        .batch_execute(&format!(
            "DELETE FROM users; INSERT INTO users (id, name) VALUES ('{}', 'hand')",
            id(7)
        ))
        .await
        .unwrap();
    let (page, _) = two.pull(&client, "state", None).await;
    assert_eq!(
        (&page["rows"]["gone"][0]["id"], &page["rows"]["users"][0]["n"]),
        (&json!(id(1)), &json!("hand"))
    );
    client.batch_execute("TRUNCATE users").await.unwrap();
    let (page, _) = two.pull(&client, "state", None).await;
    assert_eq!((page["rows"]["gone"].as_array().unwrap().len(), page["rows"].get("users")), (2, None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn batches_side_by_side_count_exactly() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let (day, hour) = now(&client).await;
    let mut pushing = Vec::new();
    for instance in 0..6 {
        let client = cluster.connect("hub", "postgres").await;
        pushing.push(tokio::spawn(async move {
            let (mut rng, mut stream) = (fastrand::Rng::with_seed(instance), Stream::core(instance.into()));
            let (mut sums, mut members) = (BTreeMap::<String, i64>::new(), BTreeSet::new());
            for _ in 0..15 {
                let (mut tallies, mut sets) = (Vec::new(), Vec::new());
                for _ in 0..25 {
                    let (key, back, s) = (id(rng.u128(0..30)), rng.i64(0..2), rng.i64(1..9));
                    for (kind, n) in [
                        ("kd", day - back),
                        ("kh", hour - back),
                        ("kt", 0),
                        ("uu", day - back),
                        ("td", day - back),
                    ] {
                        tallies.push(json!({"t": kind, "i": key, "n": n, "s": s}));
                        *sums.entry(format!("tallies \"{kind}\" \"{key}\" {n}")).or_default() += s;
                    }
                    let user = id(rng.u128(0..20));
                    sets.push(json!({"t": "kd", "i": key, "n": day - back, "m": [user]}));
                    members.insert((format!("sets \"kd\" \"{key}\" {}", day - back), user.replace('-', "")));
                }
                rng.shuffle(&mut tallies);
                stream.push(&client, json!({"tallies": tallies, "sets": sets})).await;
            }
            (sums, members)
        }));
    }
    let (mut sums, mut members) =
        (BTreeMap::<String, i64>::new(), BTreeMap::<String, BTreeSet<String>>::new());
    for one in pushing {
        let (counted, used) = one.await.unwrap();
        counted.into_iter().for_each(|(row, s)| *sums.entry(row).or_default() += s);
        used.into_iter().for_each(|(row, user)| {
            members.entry(row).or_default().insert(user);
        });
    }
    let (found, _) = everything(&client, &Stream::core(1), 5000).await;
    assert_eq!(found.len(), sums.len() + members.len());
    for (row, s) in &sums {
        assert_eq!(found[row]["s"], json!(s), "{row}");
    }
    for (row, users) in &members {
        assert_eq!(found[row]["m"], json!(users), "{row}");
    }
    // A key's figures are those of its days, whoever changed which of them last.
    let wrong = "SELECT count(*) FROM shared_keys k WHERE usage_stats -> 'usage_count_today' IS DISTINCT FROM to_jsonb(
            (SELECT coalesce(sum(success), 0) FROM keytide_key_days d WHERE d.key_id = k.id AND day = keytide_today()))
        OR usage_stats -> 'avg_daily_usage_7d' IS DISTINCT FROM to_jsonb(trim_scale(
            (SELECT round(coalesce(sum(success), 0) / 7, 2) FROM keytide_key_days d WHERE d.key_id = k.id)))
        OR usage_stats -> 'active_users_today' IS DISTINCT FROM to_jsonb(
            (SELECT coalesce(max(users), 0) FROM keytide_key_days d WHERE d.key_id = k.id AND day = keytide_today()))";
    assert_eq!(rows(&client, wrong).await, "0");
}

/// Two batches that touch the same in different rows, or make the same row: whoever is second sees what the first did.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_second_of_two_batches_counts_upon_the_first() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client) = hub().await;
    let (day, hour) = now(&client).await;
    let (mut one, mut two) = (Stream::core(1), Stream::core(2));
    let tally = |kind: &str, n: i64| json!({"t": kind, "i": id(1), "n": n, "s": 7});
    one.push(&client, json!({"tallies": [tally("kd", day), tally("kd", day - 1)]})).await;
    let figures = "SELECT usage_stats -> 'avg_daily_usage_7d' FROM shared_keys";
    let cases = [
        (tally("kd", day), tally("kd", day - 1), figures, "4"),
        (
            tally("uu", day),
            tally("uu", day),
            "SELECT log_data -> 'shared_key_usage' -> 'total_calls' FROM daily_logs",
            "14",
        ),
        (tally("td", day), tally("td", day), "SELECT success FROM keytide_token_days", "14"),
        (tally("kh", hour), tally("kh", hour), "SELECT total_requests FROM hourly_stats", "14"),
        (tally("kt", 0), tally("kt", 0), "SELECT success_count FROM shared_keys", "14"),
    ];
    for (first, second, found, expected) in cases {
        let (holding, other) =
            (cluster.connect("hub", "postgres").await, cluster.connect("hub", "postgres").await);
        holding.batch_execute("BEGIN").await.unwrap();
        one.push(&holding, json!({"tallies": [first]})).await;
        let pushing = tokio::spawn(async move {
            two.push(&other, json!({"tallies": [second]})).await;
            two
        });
        super::concurrent::waits(&client, &pushing).await;
        holding.batch_execute("COMMIT").await.unwrap();
        two = pushing.await.unwrap();
        assert_eq!(rows(&client, found).await, expected, "{found}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_hub_takes_the_core_over_once() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let (day, hour) = now(&client).await;
    let mut stream = Stream::core(1);
    stream.push(&client, full(day, hour)).await;
    let was = json!({"id": id(7), "system": "123", "timeline": 4});
    let adopt = async |step: &str, rows: Value| {
        let request = json!({"protocol": 1, "mode": "adopt", "step": step, "instance": stream.instance, "now": 0, "was": was,
            "stream": "core", "provider": "core", "rows": rows});
        call(&client, "keytide_push", &request).await["status"].clone()
    };
    assert_eq!(adopt("begin", json!({})).await, "ok");
    let told = json!({"users": [{"i": id(5), "a": 5, "n": "lost"}],
        "tallies": [{"t": "kt", "i": id(2), "s": 2, "f": 9, "p": 4}, {"t": "kd", "i": id(2), "n": day, "s": 9}, {"t": "kh", "i": id(2), "n": hour, "s": 9},
            {"t": "uu", "i": id(1), "n": day, "s": 2, "f": 9}, {"t": "td", "i": id(3), "n": day, "s": 9}],
        "sets": [{"t": "uk", "i": id(1), "n": day, "m": ["0000000c"]}]});
    for _ in 0..2 {
        assert_eq!(adopt("rows", told.clone()).await, "ok", "again changes nothing");
    }
    let found = "SELECT (SELECT string_agg(name, ',' ORDER BY name) FROM users),
        (SELECT (success_count, failure_count, baseline, usage_stats -> 'total_usage_count') FROM shared_keys),
        (SELECT (success, failure) FROM keytide_key_days), (SELECT (total_requests, successful_requests, failed) FROM hourly_stats),
        (SELECT log_data -> 'shared_key_usage' -> 'total_calls' FROM daily_logs), (SELECT success FROM keytide_token_days)";
    assert_eq!(rows(&client, found).await, "ann,lost|(3,9,4,16)|(9,1)|(11,9,1)|13|9");
    rows(&client, "SELECT set_config('keytide.writer', 'on', false); UPDATE daily_logs SET stats_xid = '99999999'; UPDATE keytide_key_days SET stats_xid = '99999999'").await;
    assert_eq!(adopt("restamp", json!({})).await, "ok");
    let ahead =
        "SELECT count(*) FROM (SELECT stats_xid FROM daily_logs UNION ALL SELECT stats_xid FROM keytide_key_days) t
        WHERE stats_xid > pg_current_xact_id()";
    assert_eq!(rows(&client, ahead).await, "0");
    let vector = json!({"streams": [{"i": stream.instance, "s": 40, "g": "d40"}]});
    assert_eq!(adopt("end", vector).await, "ok");
    assert_eq!(adopt("begin", json!({})).await, "adopted");
}
