//! What the tables take, beside what the documents estimate.
//!
//! Each test measures a part and holds it to bytes per row; with `HUB_WHOLE` set it measures all of it, which takes from
//! minutes to an hour. They print what they find.

use std::collections::BTreeMap;

use keytide::replica::schema;
use serde_json::json;
use tokio_postgres::Client;

use super::{FIRST, OLLAMA, call, rows};
use crate::{
    hub::skipped,
    pg::{Cluster, Options},
};

/// A hub that fills itself, see fill.sql. Days go by in seconds, so autovacuum looks every second and not every minute; all
/// else of it is as Postgres has it by default.
pub async fn hub_to_fill() -> (Cluster, Client) {
    let settings = vec![("autovacuum_naptime".to_owned(), "1".to_owned())];
    let cluster = Cluster::start(Options { settings, ..Options::default() });
    let client = cluster.database("hub").await;
    let left = schema::apply(&client, &[OLLAMA], false).await.unwrap().left;
    assert!(left.problems.is_empty(), "{left:#?}");
    client.batch_execute(include_str!("fill.sql")).await.unwrap();
    (cluster, client)
}

pub fn whole() -> bool {
    std::env::var_os("HUB_WHOLE").is_some()
}

/// A function of fill.sql, as a transaction of its own.
pub async fn fill(client: &Client, call: &str) {
    rows(client, &format!("SELECT fill.{call}")).await;
}

pub async fn number(client: &Client, sql: &str) -> i64 {
    rows(client, sql).await.parse().unwrap_or_else(|error| panic!("{sql}: {error}"))
}

/// Until there is no more to do, as instances do it; then what a caller is advised to vacuum. Returns the highest rung, and the last.
pub async fn retain(client: &Client, budget: Option<i64>) -> (i64, i64) {
    let mut highest = 0;
    for _ in 0..200 {
        let answer = call(client, "keytide_retain", &json!({"protocol": 1, "budget": budget})).await;
        assert_eq!(answer["status"], "ok", "{answer:#}");
        for table in answer["vacuum"].as_array().into_iter().flatten() {
            client.batch_execute(&format!("VACUUM ANALYZE {}", table.as_str().unwrap())).await.unwrap();
        }
        let rung = answer["rung"].as_i64().unwrap();
        highest = highest.max(rung);
        if answer["more"] == false {
            return (highest, rung);
        }
    }
    panic!("retention does not come to an end");
}

#[derive(Clone, Copy, Default)]
struct Size {
    rows: i64,
    bytes: i64,
}

impl Size {
    fn per_row(&self) -> f64 {
        self.bytes as f64 / self.rows as f64
    }
}

/// Of each table, its parts together, with indexes.
async fn sizes(client: &Client) -> BTreeMap<String, Size> {
    let sql = "SELECT name, sum(rows), sum(heap + rest) FROM fill.sizes() GROUP BY name HAVING sum(rows) > 0";
    let found = rows(client, sql).await;
    let of = |line: &str| {
        let mut fields = line.split('|');
        let name = fields.next().unwrap().to_owned();
        let [rows, bytes] = [(); 2].map(|()| fields.next().unwrap().parse().unwrap());
        (name, Size { rows, bytes })
    };
    found.lines().map(of).collect()
}

/// One line of the table that is printed: a document's estimate for so many rows, and what they take here, projected from those
/// measured. No row may take more than `most` bytes.
fn compare(found: &BTreeMap<String, Size>, table: &str, estimate: f64, of_rows: i64, most: f64) {
    let size = found.get(table).copied().unwrap_or_default();
    let projected = size.per_row() * of_rows as f64 / 1e6;
    println!(
        "{table:<24} {of_rows:>8} rows: estimated {estimate:>5.2} MB, here {projected:>5.2} MB ({:.0} bytes a row, {} rows measured)",
        size.per_row(),
        size.rows
    );
    // Whatever a table holds, it and its index take some pages: of a part that is much.
    let most = if whole() { most } else { most * 1.5 };
    assert!(
        size.rows > 0 && size.per_row() <= most,
        "{table}: {:.1} bytes a row, not {most}",
        size.per_row()
    );
}

/// The guide: 10,000 keys with 30 days of hours are about 18 MB.
#[tokio::test(flavor = "multi_thread")]
async fn a_provider_takes_what_the_guide_estimates() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub_to_fill().await;
    let (keys, models, hours) = if whole() { (10_000, 1_000, 720) } else { (2_000, 300, 80) };
    for low in (1..=keys).step_by(1_000) {
        fill(&client, &format!("keys({low}, {})", low + 999)).await;
    }
    for at in 1..=4 {
        for low in (1..=keys).step_by(1_000) {
            fill(&client, &format!("key_stats({low}, {}, {at})", low + 999)).await;
        }
    }
    fill(&client, &format!("models({models}, NULL)")).await;
    for hour in 0..hours {
        fill(&client, &format!("models(50, keytide_hour() - {})", hours - 1 - hour)).await;
    }
    let found = sizes(&client).await;
    compare(&found, "ollama_api_keys", 2.0, 10_000, 400.0);
    compare(&found, "ollama_api_key_stats", 5.0, 10_000, 600.0);
    compare(&found, "ollama_api_model_stats", 1.0, 1_000, 500.0);
    compare(&found, "ollama_api_model_hourly", 10.0, 36_000, 280.0);
}

/// The plan: 1,000 users and 100 keys for 30 days are about 20 MB, of which their logs are 15; the slim log is 3.15 MB more.
#[tokio::test(flavor = "multi_thread")]
async fn people_take_what_the_plan_estimates() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub_to_fill().await;
    let (people, keys, days, step) = if whole() { (1_000, 100, 30, 1) } else { (200, 20, 12, 2) };
    fill(&client, &format!("users({people}, {keys})")).await;
    for day in FIRST..FIRST + days {
        for hour in (0..24).step_by(step) {
            let used = format!("uses({day}, {hour}, ARRAY(SELECT generate_series(1, {keys})), 3)");
            fill(&client, &used).await;
            // Each is told of a few times a day.
            let (part, of) = (hour as i64 / step as i64 % 4, people / 4);
            let days = format!("days({day}, {hour}, {}, {}, 2)", part * of + 1, part * of + of);
            fill(&client, &days).await;
        }
        retain(&client, None).await;
    }
    rows(&client, "SELECT keytide_usage_logs(true)").await;
    for day in 0..7 {
        for _ in 0..if whole() { 5 } else { 3 } {
            fill(&client, &format!("logs({}, 1000)", FIRST + days - 1 - day)).await;
        }
        fill(&client, &format!("at({}, 0)", FIRST + days - 1)).await;
    }
    let found = sizes(&client).await;
    compare(&found, "users", 0.5, 1_000, 400.0);
    compare(&found, "shared_keys", 0.1, 100, 5_000.0);
    compare(&found, "daily_logs", 15.0, 30_000, 900.0);
    compare(&found, "hourly_stats", 5.0, 72_000, 400.0);
    compare(&found, "key_usage_logs", 3.15, 35_000, 110.0);
    let log = number(&client, "SELECT avg(pg_column_size(log_data))::bigint FROM daily_logs").await;
    println!("a day's log alone is {log} bytes; its row, head and index beside it are the rest");
}

/// 10,000 keys that are all used in every hour, the case that breaks naive hourly rows, in 1 GB for 90 days.
#[tokio::test(flavor = "multi_thread")]
async fn every_key_in_every_hour_for_ninety_days_is_less_than_a_gigabyte() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub_to_fill().await;
    let keys = if whole() { 10_000 } else { 500 };
    for day in FIRST..FIRST + 3 {
        for hour in 0..24 {
            for low in (1..=keys).step_by(500) {
                let used =
                    format!("uses({day}, {hour}, ARRAY(SELECT generate_series({low}, {})), 2)", low + 499);
                fill(&client, &used).await;
            }
        }
        retain(&client, None).await;
    }
    // The first day is over and settled; the last is as it is written to.
    let day = async |table: &str, day: i64| {
        let part = format!("{table}_2030_06_{:02}", day + 1);
        number(&client, &format!("SELECT pg_total_relation_size('{part}')")).await
    };
    let busy = [day("hourly_stats", 2).await, day("keytide_key_days", 2).await];
    fill(&client, &format!("at({}, 43200000)", FIRST + 4)).await;
    retain(&client, None).await;
    let settled = [day("hourly_stats", 0).await, day("keytide_key_days", 0).await];
    let scale = 10_000.0 / keys as f64;
    let found = sizes(&client).await;
    let kept = ["shared_keys", "keytide_user_sets"].map(|table| found[table].bytes as f64 * scale / 1e6);
    let [hours, days] = settled.map(|bytes| bytes as f64 * scale / 1e6);
    let [busy_hours, busy_days] = busy.map(|bytes| bytes as f64 * scale / 1e6);
    println!(
        "10,000 keys in every hour, from {keys}: a day of hours {busy_hours:.1} MB while it is written to, {hours:.1} MB after; \
         of days {busy_days:.1} and {days:.1} MB; the keys {:.1} MB, who used them {:.1} MB",
        kept[0], kept[1]
    );
    // The keys of the provider and its models as the guide has them, an empty database, and who used a key: more than it will be,
    // since of hours it is kept for one day only.
    let rest = 19.0 + 10.0 + kept[0] + kept[1] * 8.0 / 3.0;
    let (mut from, mut rung, mut highest) = (0, 0, 0.0_f64);
    let mut line = Vec::new();
    for today in 0..90 {
        let kept_hours = (today - from) as f64;
        let used =
            rest + busy_days * 3.0 + days * f64::from(today.min(30)) + busy_hours * 3.0 + hours * kept_hours;
        highest = highest.max(used);
        let sql = format!("SELECT keytide_rung({rung}, {}, 1000000000)", (used * 1e6) as i64);
        rung = number(&client, &sql).await;
        from = from.max(today - [30, 23, 7, 1][rung as usize]);
        if today % 10 == 9 {
            line.push(format!("{}: {used:.0} MB", today + 1));
        }
    }
    println!("projected for a budget of 1 GB, by day: {}; at most {highest:.0} MB", line.join(", "));
    assert!(highest < 1_000.0, "{highest:.0} MB");
    assert!(hours < 40.0 && days < 2.0 && hours * 2.2 > busy_hours, "settled: {hours:.1} MB, {days:.1} MB");
}
