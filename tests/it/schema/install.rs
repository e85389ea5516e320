//! Applying: twice, over what is there, by an ordinary owner, on every version.

use keytide::replica::schema::{self, Target};
use serde_json::json;

use super::{OLLAMA, OPENROUTER, Stream, hub, rows, version};
use crate::{
    hub::skipped,
    pg::{self, Cluster, Options},
};

/// All that is defined, in words.
const SHAPE: &str = "
    SELECT 'column', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull::text, pg_get_expr(d.adbin, d.adrelid)
    FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
    LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
    UNION ALL SELECT 'table', c.relname, c.relacl::text, c.relrowsecurity::text, c.reloptions::text, c.relfilenode::text
    FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace
    UNION ALL SELECT 'trigger', tgrelid::regclass::text, pg_get_triggerdef(oid), '', '', '' FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL SELECT 'function', p.proname, pg_get_functiondef(p.oid), p.proacl::text, '', ''
    FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.prokind = 'f'
    UNION ALL SELECT 'settings', hub_id::text, installed_at::text, '', '', '' FROM keytide_settings
    ORDER BY 1, 2, 3, 4";

/// Its README's tables, as someone may have made them years ago.
pub const GUIDE: &str = "
    CREATE TABLE ollama_api_keys (api_key TEXT PRIMARY KEY, username TEXT NOT NULL DEFAULT 'N/A', status TEXT NOT NULL DEFAULT 'active'
        CHECK (status IN ('active', 'disabled', 'failed', 'expired')), created_at TIMESTAMPTZ, expires_at TIMESTAMPTZ,
        failed_until TIMESTAMPTZ, disabled_until TIMESTAMPTZ, consecutive_failures INTEGER);
    CREATE TABLE ollama_api_key_stats (api_key TEXT PRIMARY KEY REFERENCES ollama_api_keys, total_requests BIGINT, success_count BIGINT,
        failure_count BIGINT, success_rate NUMERIC(5,2), last_used TIMESTAMPTZ, last_success TIMESTAMPTZ, last_failure TIMESTAMPTZ,
        consecutive_failures INTEGER);
    CREATE INDEX guide_last_used ON ollama_api_key_stats (last_used);
    CREATE TABLE ollama_api_client_tokens (token TEXT PRIMARY KEY, name TEXT NOT NULL, created_at TIMESTAMPTZ, expires_at TIMESTAMPTZ, request_count BIGINT);
    CREATE TABLE ollama_api_global_stats (id TEXT PRIMARY KEY, total_requests BIGINT, success_count BIGINT, failure_count BIGINT, updated_at TIMESTAMPTZ);
    CREATE TABLE ollama_api_model_stats (id SERIAL PRIMARY KEY, provider TEXT, model TEXT, total_requests BIGINT, success_count BIGINT,
        failure_count BIGINT, last_used TIMESTAMPTZ, UNIQUE (provider, model));
    CREATE TABLE ollama_api_model_hourly (id SERIAL PRIMARY KEY, provider TEXT, model TEXT, hour TIMESTAMPTZ, requests BIGINT, success BIGINT, failure BIGINT);
    INSERT INTO ollama_api_keys (api_key, username, status, disabled_until, failed_until, expires_at, consecutive_failures) VALUES
        ('active', 'ann', 'active', NULL, NULL, NULL, NULL), ('expired', 'N/A', 'expired', NULL, NULL, NULL, 0),
        ('failed', 'N/A', 'failed', NULL, NULL, NULL, 2), ('off', '', 'disabled', NULL, NULL, NULL, 0),
        ('timed', 'bob', 'disabled', '2099-01-01Z', NULL, NULL, 0);
    INSERT INTO ollama_api_key_stats VALUES ('active', 10, 6, 3, 60.00, '2024-01-01Z', NULL, NULL, 0);
    INSERT INTO ollama_api_client_tokens VALUES ('t', 'app', '2024-01-01Z', NULL, 7);
    INSERT INTO ollama_api_global_stats VALUES ('global', 10, 6, 3, now());
    INSERT INTO ollama_api_model_stats (provider, model, total_requests, success_count, failure_count) VALUES ('ollama', 'm', 10, 6, 3);
    INSERT INTO ollama_api_model_hourly (provider, model, hour, requests, success, failure) VALUES ('ollama', 'm', date_trunc('hour', now()), 10, 6, 3)";

#[tokio::test(flavor = "multi_thread")]
async fn applying_twice_changes_nothing() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let (_cluster, client) = hub().await;
    let before = rows(&client, SHAPE).await;
    let again = schema::apply(&client, &[OLLAMA, OPENROUTER], false).await.unwrap();
    assert_eq!(
        again,
        schema::Applied { left: schema::Report { schema: Some(1), problems: vec![] }, done: vec![] }
    );
    assert_eq!(rows(&client, SHAPE).await, before);
    client.batch_execute(&schema::script(&[OLLAMA, OPENROUTER]).unwrap()).await.unwrap();
    assert_eq!(rows(&client, SHAPE).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guides_database_keeps_its_rows_and_is_read_right() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    client.batch_execute(GUIDE).await.unwrap();
    let places = "SELECT 'k', ctid, xmin FROM ollama_api_keys UNION ALL SELECT 's', ctid, xmin FROM ollama_api_key_stats
        UNION ALL SELECT 't', ctid, xmin FROM ollama_api_client_tokens UNION ALL SELECT 'g', ctid, xmin FROM ollama_api_global_stats
        UNION ALL SELECT 'm', ctid, xmin FROM ollama_api_model_stats UNION ALL SELECT 'h', ctid, xmin FROM ollama_api_model_hourly ORDER BY 1, 2";
    let before = rows(&client, places).await;
    let left = schema::apply(&client, &[OLLAMA], false).await.unwrap().left;
    assert_eq!(rows(&client, places).await, before, "no row was touched");
    assert!(left.is_sound(), "{left:#?}");
    assert!(left.problems[0].remedy.ends_with("DROP INDEX guide_last_used;"), "{left:#?}");

    let mut stream = Stream::new(1);
    let (page, cursor) = stream.pull(&client, "state", None).await;
    let keys = page["rows"]["keys"].as_array().unwrap();
    let installed =
        rows(&client, "SELECT keytide_ms(installed_at) FROM keytide_settings").await.parse::<i64>().unwrap();
    assert_eq!(keys[0], json!({"k": "active", "a": 0, "c": installed, "u": "ann"}));
    assert_eq!(
        (&keys[1]["k"], &keys[1]["x"], keys[1].get("u")),
        (&json!("expired"), &json!(installed), None)
    );
    assert_eq!(keys[2]["h"], json!({"f": installed + 3_600_000, "n": 2}));
    assert_eq!((&keys[3]["e"], keys[3].get("d")), (&json!(false), None));
    assert_eq!((keys[4].get("e"), &keys[4]["d"]), (None, &json!(4_070_908_800_000_i64)));
    assert_eq!(stream.pull(&client, "state", Some(&cursor)).await.0["rows"], json!({}));
    let (page, _) = stream.pull(&client, "stats", None).await;
    assert_eq!(page["rows"]["key_stats"][0]["o"], 1);
    assert_eq!(page["rows"]["token_stats"][0]["o"], 7);
    assert_eq!(page["rows"]["hours"].as_array().unwrap().len(), 1);

    // Both programs go on: without a key's account, over its foreign key, its check and its width.
    let v = version(-1);
    stream
        .push(&client, json!({
            "keys": [{"k": "new", "a": v, "add": true}, {"k": "off", "a": 0, "n": "note", "nv": v}, {"k": "active", "a": 0, "u": null, "uv": v}],
            "tokens": [{"k": "t2", "a": v, "add": true}], "key_stats": [{"k": "new", "s": 1}, {"k": "active", "f": 1}],
            "token_stats": [{"k": "t", "s": 1}], "models": [{"m": "m", "s": 1}, {"m": "n", "s": 1}], "global": {"s": 1},
        }))
        .await;
    let shown =
        "SELECT api_key, status, enabled FROM ollama_api_keys WHERE api_key IN ('off', 'new') ORDER BY 1";
    assert_eq!(rows(&client, shown).await, "new|active|t\noff|disabled|f");
    client.batch_execute("UPDATE ollama_api_keys SET status = 'active' WHERE status = 'failed'; DELETE FROM ollama_api_keys WHERE api_key = 'active'").await.unwrap();
    assert_eq!(rows(&client, "SELECT total_requests FROM keytide_retired").await, "11");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_another_make_are_named_and_converted_with_their_values() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    let odd = GUIDE.replace("TIMESTAMPTZ", "TIMESTAMP").replace("BIGINT", "INTEGER");
    client.batch_execute(&odd).await.unwrap();
    client.batch_execute("INSERT INTO ollama_api_model_hourly (provider, model, hour) SELECT provider, model, hour FROM ollama_api_model_hourly").await.unwrap();
    let left = schema::apply(&client, &[OLLAMA], false).await.unwrap().left;
    let wrong = |report: &schema::Report, text: &str| {
        report.problems.iter().any(|problem| problem.what.contains(text))
    };
    assert!(
        !left.is_sound()
            && wrong(
                &left,
                "column ollama_api_global_stats.total_requests of type integer instead of bigint"
            ),
        "{left:#?}"
    );
    assert!(wrong(&left, "unique index on ollama_api_model_hourly (hour, model, provider) is missing"));
    assert_eq!(
        super::call(&client, "keytide_push", &Stream::new(1).batch(&json!({}))).await["status"],
        "missing"
    );
    client.batch_execute("DELETE FROM ollama_api_model_hourly WHERE requests IS NULL").await.unwrap();
    let done = schema::apply(&client, &[OLLAMA], true).await.unwrap();
    assert!(done.left.is_sound(), "{:#?}", done.left);
    assert!(done.done.contains(&"changed column ollama_api_keys.disabled_until from timestamp without time zone to timestamp with time zone".to_owned()), "{:#?}", done.done);
    assert_eq!(rows(&client, "SELECT request_count FROM ollama_api_client_tokens").await, "7");
    let until = "SELECT disabled_until = '2099-01-01Z' FROM ollama_api_keys WHERE api_key = 'timed'";
    assert_eq!(rows(&client, until).await, "t");

    // What cannot become the other is refused, and nothing changes.
    client
        .batch_execute(
            "DROP TABLE ollama_api_global_stats; CREATE TABLE ollama_api_global_stats (id bytea PRIMARY KEY)",
        )
        .await
        .unwrap();
    let error = schema::apply(&client, &[OLLAMA], true).await.unwrap_err();
    assert!(error.to_string().contains("ollama_api_global_stats.id is of type bytea"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_provider_alone_any_prefix_and_newer_schemas() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let superuser = cluster.database("hub").await;
    let problems = schema::check(&superuser, &[OLLAMA]).await.unwrap().problems;
    assert_eq!(problems[0].what, "the schema is not there");
    let mine = Target { prefix: "my_llm", provider: "my-llm" };
    schema::apply(&superuser, &[mine], false).await.unwrap();
    assert_eq!(
        rows(&superuser, "SELECT to_regclass('ollama_api_keys') IS NULL, to_regclass('my_llm_keys') IS NULL")
            .await,
        "t|f"
    );
    let missing = schema::check(&superuser, &[mine, OLLAMA]).await.unwrap().problems;
    assert!(missing.iter().all(|problem| problem.stream.as_deref() == Some("ollama_api")), "{missing:#?}");
    superuser
        .batch_execute("UPDATE keytide_settings SET schema_version = 99; DROP FUNCTION keytide_retain(jsonb)")
        .await
        .unwrap();
    let newer = schema::check(&superuser, &[mine]).await.unwrap().problems;
    assert_eq!((newer.len(), newer[0].what.as_str()), (1, "the hub has schema 99, and this keytide knows 1"));
    assert!(schema::apply(&superuser, &[mine], false).await.is_err());
    superuser.batch_execute("UPDATE keytide_settings SET schema_version = 1; ALTER TABLE my_llm_keys DISABLE ROW LEVEL SECURITY").await.unwrap();
    superuser.batch_execute("DROP TRIGGER keytide_delete ON my_llm_keys").await.unwrap();
    let found: Vec<String> = schema::check(&superuser, &[mine])
        .await
        .unwrap()
        .problems
        .into_iter()
        .map(|problem| problem.what)
        .collect();
    assert_eq!(
        found,
        [
            "the function keytide_retain is missing",
            "trigger keytide_delete on my_llm_keys is missing",
            "row level security is off for my_llm_keys"
        ]
    );
    assert!(schema::apply(&superuser, &[mine], false).await.unwrap().left.problems.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ordinary_owner_can_do_it_on_every_version() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    for found in pg::installed() {
        let cluster = Cluster::start(Options { version: Some(found), ..Options::default() });
        cluster.connect("postgres", "postgres").await.batch_execute("CREATE ROLE owner LOGIN").await.unwrap();
        cluster
            .connect("postgres", "postgres")
            .await
            .batch_execute("CREATE DATABASE hub OWNER owner")
            .await
            .unwrap();
        let owner = cluster.connect("hub", "owner").await;
        owner.batch_execute(GUIDE).await.unwrap();
        let left = schema::apply(&owner, &[OLLAMA, OPENROUTER], false).await.unwrap().left;
        assert!(left.is_sound(), "{found}: {left:#?}");
        let mut stream = Stream::new(1);
        let a = version(-1);
        stream.push(&owner, json!({"keys": [{"k": "k", "a": a, "add": true}], "key_stats": [{"k": "k", "s": 2}], "global": {"s": 2},
            "models": [{"m": "m", "s": 2}], "hours": [{"h": a / 1024 / 3_600_000_000, "m": "m", "s": 2}]})).await;
        owner.batch_execute("UPDATE ollama_api_keys SET status = 'disabled' WHERE api_key = 'k'; DELETE FROM ollama_api_keys WHERE api_key = 'failed'").await.unwrap();
        let (page, _) = stream.pull(&owner, "state", None).await;
        assert_eq!(page["rows"]["keys"].as_array().unwrap().len(), 5, "{found}");
        assert_eq!(page["rows"]["gone"].as_array().unwrap().len(), 1);
        let (page, _) = stream.pull(&owner, "stats", None).await;
        assert_eq!(page["rows"]["global"]["s"], 8, "{found}");
        for function in ["keytide_sizes", "keytide_retain"] {
            assert_eq!(
                super::call(&owner, function, &json!({"protocol": 1})).await["status"],
                "ok",
                "{found}"
            );
        }
        let hello = json!({"protocol": 1, "instance": stream.instance, "name": "n", "version": "v", "now": 0, "streams": ["ollama_api"]});
        let hello = super::call(&owner, "keytide_hello", &hello).await;
        assert!(
            hello["hub"]["system"].as_str().unwrap().parse::<u64>().is_ok() && hello["missing"] == json!([]),
            "{found}"
        );
    }
}

/// A value that does not fit keeps all of a batch away, so that no column may be narrower than what batches hold.
#[tokio::test(flavor = "multi_thread")]
async fn columns_too_narrow_for_a_batch_are_widened_or_named() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    const NARROW: [(&str, &str, &str); 5] = [
        ("ollama_api_keys", "username", "username VARCHAR(50)"),
        ("ollama_api_keys", "api_key", "api_key VARCHAR(64)"),
        ("ollama_api_client_tokens", "name", "name VARCHAR(20)"),
        ("ollama_api_model_stats", "model", "model VARCHAR(100)"),
        ("ollama_api_key_stats", "success_rate", "success_rate NUMERIC(5,4)"),
    ];
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    let guide = GUIDE
        .replace("username TEXT", NARROW[0].2)
        .replace("ollama_api_keys (api_key TEXT", "ollama_api_keys (api_key VARCHAR(64)")
        .replace("name TEXT", NARROW[2].2)
        .replace(
            "model_stats (id SERIAL PRIMARY KEY, provider TEXT, model TEXT",
            "model_stats (id SERIAL PRIMARY KEY, provider TEXT, model VARCHAR(100)",
        )
        .replace("success_rate NUMERIC(5,2)", NARROW[4].2)
        .replace("60.00", "0.6");
    client.batch_execute(&guide).await.unwrap();
    // Something of theirs that one of the columns cannot be changed under.
    client.batch_execute("CREATE VIEW accounts AS SELECT username FROM ollama_api_keys").await.unwrap();
    let left = schema::apply(&client, &[OLLAMA], false).await.unwrap().left;
    let named: Vec<&str> = left.problems.iter().map(|problem| problem.what.as_str()).collect();
    let username =
        "column ollama_api_keys.username of type character varying(50) instead of character varying";
    assert!(!left.is_sound() && named.iter().any(|what| what.contains(username)), "{left:#?}");
    assert!(
        !named.iter().any(|what| what.contains("api_key ") || what.contains("success_rate")),
        "{left:#?}"
    );
    let refused = super::call(&client, "keytide_push", &Stream::new(1).batch(&json!({}))).await;
    assert_eq!(refused["status"], "missing", "nothing is tried that would not fit");
    assert!(refused["missing"].to_string().contains(username), "{refused}");

    client.batch_execute("DROP VIEW accounts").await.unwrap();
    let left = schema::apply(&client, &[OLLAMA], false).await.unwrap().left;
    assert!(left.is_sound(), "{left:#?}");
    let (key, long) = ("k".repeat(512), "u".repeat(256));
    let a = version(-1);
    let answer = Stream::new(1)
        .push(
            &client,
            json!({
                "keys": [{"k": key, "a": a, "add": true, "u": long, "n": long}],
                "tokens": [{"k": "t".repeat(256), "a": a, "add": true, "n": "n".repeat(128)}],
                "key_stats": [{"k": key, "s": 3}], "models": [{"m": "m".repeat(256), "s": 3}],
            }),
        )
        .await;
    assert_eq!(answer, json!({}));
    let there = "SELECT length(username), success_rate FROM ollama_api_keys JOIN ollama_api_key_stats USING (api_key) WHERE length(api_key) = 512";
    assert_eq!(rows(&client, there).await, "256|100.00");
    assert_eq!(rows(&client, "SELECT username FROM ollama_api_keys WHERE api_key = 'active'").await, "ann");
}

/// Programs from before the schema wrote totals beside their parts, and did not always write all of them.
#[tokio::test(flavor = "multi_thread")]
async fn totals_below_their_parts_are_read_and_counted_on_right() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = Cluster::start(Options::default());
    let client = cluster.database("hub").await;
    client.batch_execute(&GUIDE.replace("10, 6, 3", "5, 6, 3")).await.unwrap();
    schema::apply(&client, &[OLLAMA], false).await.unwrap();
    let mut stream = Stream::new(1);
    let counts = async |stream: &Stream| {
        let rows = stream.pull(&client, "stats", None).await.0["rows"].clone();
        let of = |row: &serde_json::Value| ["s", "f", "o"].map(|name| row[name].as_i64().unwrap_or(0));
        [&rows["key_stats"][0], &rows["models"][0], &rows["hours"][0], &rows["global"]].map(of)
    };
    assert_eq!(counts(&stream).await, [[6, 3, 0]; 4]);
    let hour = version(0) / 1024 / 3_600_000_000;
    // What is neither success nor failure is only in the total.
    let more = json!({"key_stats": [{"k": "active", "o": 2}], "models": [{"m": "m", "o": 2}],
        "hours": [{"h": hour, "m": "m", "o": 2}], "global": {"o": 2}});
    stream.push(&client, more).await;
    assert_eq!(counts(&stream).await, [[6, 3, 2]; 4]);
    let totals = "SELECT (SELECT total_requests FROM ollama_api_key_stats), (SELECT total_requests FROM ollama_api_model_stats),
        (SELECT requests FROM ollama_api_model_hourly), (SELECT total_requests FROM ollama_api_global_stats)";
    assert_eq!(rows(&client, totals).await, "11|11|11|11");

    // One that goes away and comes back before anybody has counted on it.
    client.batch_execute("SET session_replication_role = replica; UPDATE ollama_api_key_stats SET total_requests = 5; RESET session_replication_role").await.unwrap();
    client.batch_execute("DELETE FROM ollama_api_keys WHERE api_key = 'active'").await.unwrap();
    assert_ne!(stream.push(&client, json!({"key_stats": [{"k": "active", "o": 4}]})).await, json!({}));
    client.batch_execute("INSERT INTO ollama_api_keys (api_key) VALUES ('active')").await.unwrap();
    assert_eq!(counts(&stream).await[0], [6, 3, 4]);
}
