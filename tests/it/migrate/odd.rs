//! Tables that are not what is expected: a sentence that says what to do, and nothing is changed.

use keytide::replica::schema;

use super::{FIRST, OLLAMA, fill, hub, keytide, old};
use crate::{
    hub::skipped,
    pg::{Cluster, Options},
    schema::rows,
};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_log_is_said_and_left_alone() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    let url = cluster.url("hub", "postgres");
    let run = |arguments: &str| {
        let arguments: Vec<&str> = ["usage-logs"].into_iter().chain(arguments.split_whitespace()).collect();
        keytide(&arguments, &url)
    };
    run("").fails(1, "there is no table key_usage_logs");
    client.batch_execute(FIRST).await.unwrap();
    fill(&client, 500, 5, "NULL").await;
    // Before keytide's tables are there, it is looked at all the same.
    let seen = run("");
    assert!(
        seen.out.contains("500 rows") && seen.out.contains("run `keytide schema apply` first"),
        "{}{}",
        seen.out,
        seen.err
    );
    seen.fails(1, "1 thing is in the way");
    run("--run").fails(1, "run `keytide schema apply` first");
    schema::apply(&client, &[OLLAMA], false).await.unwrap();

    drop(client);
    let changes = [
        ("ALTER TABLE key_usage_logs RENAME shared_key_id TO key", "has no column shared_key_id"),
        (
            "ALTER TABLE key_usage_logs DROP COLUMN user_id",
            "has no column user_id; `ALTER TABLE key_usage_logs ADD COLUMN user_id uuid`",
        ),
        ("ALTER TABLE key_usage_logs ALTER shared_key_id TYPE text", "is of type text instead of uuid"),
        (
            "ALTER TABLE key_usage_logs ALTER created_at TYPE text",
            "key_usage_logs.created_at is of type text",
        ),
        (
            "ALTER TABLE key_usage_logs RENAME TO rest; CREATE VIEW key_usage_logs AS SELECT * FROM rest",
            "is no table of rows",
        ),
        (
            "CREATE TABLE key_usage_summary AS SELECT shared_key_id, 1 AS total_usage FROM key_usage_logs",
            "that keytide has not made",
        ),
        ("DROP TABLE key_usage_logs; SELECT keytide_usage_logs(true)", "the log that keytide itself keeps"),
        ("DROP TRIGGER keytide_write ON shared_keys", "trigger keytide_write on shared_keys is missing"),
    ];
    for (change, says) in changes {
        let name = "changed";
        let postgres = cluster.connect("postgres", "postgres").await;
        // A copy is made of what nobody is connected to.
        postgres
            .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'hub'")
            .await
            .unwrap();
        postgres.batch_execute(&format!("DROP DATABASE IF EXISTS {name}")).await.unwrap();
        copy(&postgres, name).await;
        let changed = cluster.connect(name, "postgres").await;
        changed.batch_execute(change).await.unwrap();
        keytide(&["usage-logs", "--run", "--database-url", &cluster.url(name, "postgres")], "")
            .fails(1, says);
        assert_eq!(rows(&changed, "SELECT to_regclass('keytide_migrations')").await, "", "{change}");
        drop(changed);
        postgres
            .batch_execute(&format!(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
            ))
            .await
            .unwrap();
    }
    // With what is missing made, empty, it is counted as unknown.
    let client = cluster.connect("hub", "postgres").await;
    client
        .batch_execute("ALTER TABLE key_usage_logs DROP COLUMN user_id, ADD COLUMN user_id uuid")
        .await
        .unwrap();
    run("--run").ok();
    assert_eq!(
        rows(&client, "SELECT sum(total_usage), sum(unique_users) FROM key_usage_summary").await,
        "500|0"
    );
    // What depends on the table keeps it.
    client.batch_execute("CREATE VIEW uses AS SELECT * FROM key_usage_logs").await.unwrap();
    run("--drop").fails(1, "view uses depends on table key_usage_logs");
    client.batch_execute("DROP VIEW uses").await.unwrap();
    run("--drop").ok();
    // The same rows from a backup would be counted again.
    client.batch_execute(FIRST).await.unwrap();
    run("--run").fails(1, "and is there again");
}

/// Whoever was just disconnected may still be there for a moment.
async fn copy(postgres: &tokio_postgres::Client, name: &str) {
    let deadline = tokio::time::Instant::now() + crate::process::PATIENCE;
    while let Err(error) = postgres.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE hub")).await {
        assert!(tokio::time::Instant::now() < deadline, "{error}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_is_told_so() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (cluster, client, _) = hub(None).await;
    client.batch_execute(FIRST).await.unwrap();
    fill(&client, 10, 5, "NULL").await;
    client.batch_execute("CREATE ROLE guest LOGIN").await.unwrap();
    let guest = cluster.url("hub", "guest");
    keytide(&["usage-logs"], &guest).fails(1, "may not read key_usage_logs");
    client
        .batch_execute("GRANT SELECT ON key_usage_logs TO guest; GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO guest")
        .await
        .unwrap();
    keytide(&["usage-logs"], &guest).fails(1, "may not read shared_keys");
    // The owner alone sees behind row level security.
    client
        .batch_execute(
            "GRANT SELECT ON shared_keys TO guest; ALTER TABLE shared_keys DISABLE ROW LEVEL SECURITY",
        )
        .await
        .unwrap();
    let seen = keytide(&["usage-logs"], &guest);
    assert!(seen.out.contains("does not own"), "{}{}", seen.out, seen.err);
    keytide(&["usage-logs", "--run"], &guest).fails(1, "use the database's owner");
    client.batch_execute("ALTER TABLE key_usage_logs ENABLE ROW LEVEL SECURITY").await.unwrap();
    keytide(&["usage-logs"], &guest).fails(1, "hides rows");
    keytide(&["usage-logs"], "").fails(2, "no database is named");
    keytide(&["usage-logs"], "postgres://nobody@127.0.0.1:1/x").fails(1, "127.0.0.1");
    // A parent of parts of its own shape is counted part by part; an open transaction keeps nothing from being counted.
    client
        .batch_execute(&format!(
            "DROP TABLE key_usage_logs; CREATE TABLE key_usage_logs (shared_key_id uuid, user_id uuid, created_at date) PARTITION BY LIST (shared_key_id);
             CREATE TABLE p1 PARTITION OF key_usage_logs FOR VALUES IN ('{}'); CREATE TABLE p2 PARTITION OF key_usage_logs DEFAULT;
             INSERT INTO key_usage_logs SELECT ('00000000-0000-4000-8000-' || lpad((g % 4)::text, 12, '0'))::uuid, NULL, '2024-01-01' FROM generate_series(1, 400) g",
            old(1)
        ))
        .await
        .unwrap();
    let url = cluster.url("hub", "postgres");
    let done = keytide(&["usage-logs", "--run", "--drop", "--json"], &url).json();
    assert_eq!((&done["entered"]["uses"], &done["dropped"]["rows"]), (&400.into(), &400.into()), "{done}");
}
