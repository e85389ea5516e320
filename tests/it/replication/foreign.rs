//! Instances under traffic and a program that was there before them, on the same tables: it knows only the guide's
//! columns, has no rights beyond its tables, and writes counters as absolute values that it read earlier.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keytide::model::KeyId;
use serde_json::json;
use tokio_postgres::Client;

use super::{
    node::Load,
    world::{World, key},
};

/// What the program's writes came to, row by row: only with this can the end be told exactly.
const ROLE_AND_AUDIT: &str = "
CREATE ROLE legacy LOGIN BYPASSRLS;
GRANT USAGE ON SCHEMA public TO legacy;
GRANT SELECT, INSERT, UPDATE, DELETE ON ollama_api_keys, ollama_api_key_stats, ollama_api_client_tokens,
    ollama_api_global_stats, ollama_api_model_stats, ollama_api_model_hourly TO legacy;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO legacy;
CREATE SCHEMA audit;
CREATE TABLE audit.raised (what text, id text, requests bigint);
CREATE FUNCTION audit.note() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    was jsonb := CASE WHEN TG_OP = 'UPDATE' THEN to_jsonb(OLD) ELSE '{}' END;
    now_is jsonb := to_jsonb(NEW);
BEGIN
    INSERT INTO audit.raised VALUES (TG_TABLE_NAME, now_is ->> TG_ARGV[0],
        (now_is ->> TG_ARGV[1])::bigint - coalesce((was ->> TG_ARGV[1])::bigint, 0));
    RETURN NULL;
END $$;
CREATE TRIGGER zz AFTER INSERT OR UPDATE ON ollama_api_key_stats FOR EACH ROW WHEN (session_user = 'legacy')
    EXECUTE FUNCTION audit.note('api_key', 'total_requests');
CREATE TRIGGER zz AFTER INSERT OR UPDATE ON ollama_api_global_stats FOR EACH ROW WHEN (session_user = 'legacy')
    EXECUTE FUNCTION audit.note('id', 'total_requests');
CREATE TRIGGER zz AFTER INSERT OR UPDATE ON ollama_api_model_stats FOR EACH ROW WHEN (session_user = 'legacy')
    EXECUTE FUNCTION audit.note('model', 'total_requests');
CREATE TRIGGER zz AFTER INSERT OR UPDATE ON ollama_api_model_hourly FOR EACH ROW WHEN (session_user = 'legacy')
    EXECUTE FUNCTION audit.note('model', 'requests');
CREATE TRIGGER zz AFTER INSERT OR UPDATE ON ollama_api_client_tokens FOR EACH ROW WHEN (session_user = 'legacy')
    EXECUTE FUNCTION audit.note('name', 'request_count');
";

fn added(n: usize) -> String {
    format!("legacy-{n:03}-0123456789abcdef")
}

/// The program: a round of everything it does, again and again.
struct Program {
    sql: Client,
    round: usize,
    deleted: Vec<String>,
}

impl Program {
    async fn run(mut self, stop: Arc<AtomicBool>) -> Self {
        while !stop.load(Ordering::SeqCst) {
            self.keys().await;
            for n in 0..6 {
                self.counts(&key((self.round + n) % 12)).await;
            }
            self.sql
                .batch_execute(
                    "DELETE FROM ollama_api_model_hourly WHERE created_at < NOW() - INTERVAL '30 days'",
                )
                .await
                .unwrap();
            self.round += 1;
        }
        self
    }

    async fn keys(&mut self) {
        let n = self.round;
        let (fresh, status) = (added(n), ["disabled", "active", "failed", "active"][n % 4]);
        self.sql
            .batch_execute(&format!(
                "INSERT INTO ollama_api_keys (api_key, username, status) VALUES ('{fresh}', 'N/A', 'active');
                 INSERT INTO ollama_api_key_stats (api_key, total_requests, success_count, failure_count, success_rate)
                     VALUES ('{fresh}', 0, 0, 0, 0) ON CONFLICT DO NOTHING;
                 UPDATE ollama_api_keys SET username = 'user-{n}' WHERE api_key = '{third}';
                 UPDATE ollama_api_keys SET status = '{status}' WHERE api_key = '{fourth}';
                 INSERT INTO ollama_api_model_hourly (provider, model, hour, requests, success, failure, created_at)
                     VALUES ('ollama', 'old', date_trunc('hour', now()) - interval '40 days', 1, 1, 0,
                             now() - interval '40 days')",
                third = key(3),
                fourth = key(4)
            ))
            .await
            .unwrap();
        // Some rounds later it goes again, with what was counted for it meanwhile.
        let old = match n {
            8 => Some(key(9)),
            n if n > 4 && n.is_multiple_of(2) => Some(added(n - 4)),
            _ => None,
        };
        if let Some(old) = old {
            let sql = format!("DELETE FROM ollama_api_keys WHERE api_key = '{old}'");
            self.sql.batch_execute(&sql).await.unwrap();
            self.deleted.push(old);
        }
    }

    /// One request more, as it would write it: read, then all of the row.
    async fn counts(&self, key: &str) {
        let tables = [
            ("ollama_api_key_stats", format!("api_key = '{key}'"), "total_requests", "success_count"),
            ("ollama_api_model_stats", "model = 'demo-small'".to_owned(), "total_requests", "success_count"),
            ("ollama_api_global_stats", "id = 'global'".to_owned(), "total_requests", "success_count"),
            (
                "ollama_api_model_hourly",
                "model = 'demo-small' AND hour = date_trunc('hour', now())".to_owned(),
                "requests",
                "success",
            ),
            ("ollama_api_client_tokens", "name = 'test'".to_owned(), "request_count", "0"),
        ];
        let mut read = Vec::new();
        for (table, of, total, good) in &tables {
            let sql = format!("SELECT {total}::bigint, {good}::bigint FROM {table} WHERE {of}");
            read.push(self.sql.query_opt(&sql, &[]).await.unwrap());
        }
        tokio::time::sleep(Duration::from_millis(15)).await;
        for ((table, of, total, good), row) in tables.iter().zip(read) {
            let Some(row) = row else { continue };
            let (requests, successes) = (row.get::<_, i64>(0) + 1, row.get::<_, i64>(1) + 1);
            let good = if *good == "0" { String::new() } else { format!(", {good} = {successes}") };
            let sql = format!("UPDATE {table} SET {total} = {requests}{good} WHERE {of}");
            self.sql.batch_execute(&sql).await.unwrap();
        }
    }
}

impl World {
    /// By table and row.
    fn raised(&self) -> BTreeMap<(String, String), i64> {
        self.sql("SELECT what, id, sum(requests) FROM audit.raised GROUP BY 1, 2")
            .into_iter()
            .map(|row| ((row[0].clone(), row[1].clone()), row[2].parse().unwrap()))
            .collect()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_program_and_instances_count_on_the_same_tables() {
    let world = World::new(2).await;
    world.stock().await;
    world.sql(ROLE_AND_AUDIT);
    let stop = Arc::<AtomicBool>::default();
    let sql = world.cluster.connect("postgres", "legacy").await;
    let program = tokio::spawn(Program { sql, round: 0, deleted: vec![] }.run(stop.clone()));
    let loads: Vec<_> = world.nodes.iter().map(Load::start).collect();
    for n in 0..10 {
        world.nodes[n % 2].edit(&key(3), &json!({"note": format!("note {n}")})).await;
        for node in &world.nodes {
            node.sync_now().await;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let mut seen = 0;
    for load in loads {
        seen += load.answered().await;
    }
    stop.store(true, Ordering::SeqCst);
    let program = program.await.unwrap();
    assert!(program.round > 8 && program.deleted.contains(&key(9)), "{} rounds", program.round);
    world.agree().await;

    // Nothing of what instances counted is lost, and of the program's counts what its writes raised.
    let raised = world.raised();
    let of = |what: &str, id: &str| {
        raised.get(&(format!("ollama_api_{what}"), id.to_owned())).copied().unwrap_or(0)
    };
    let hub = world.hub_picture("ollama");
    assert!(of("global_stats", "global") > 0);
    assert_eq!(hub["total"][0], seen + of("global_stats", "global"), "of {seen}");
    assert_eq!(hub["models"]["demo-small"][0], seen + of("model_stats", "demo-small"));
    assert_eq!(hub["tokens"]["test"], seen + of("client_tokens", "test"));
    let hours = world.sql("SELECT sum(requests) FROM ollama_api_model_hourly WHERE model = 'demo-small'");
    assert_eq!(hours[0][0], (seen + of("model_hourly", "demo-small")).to_string());
    let all = (0..12).map(key).chain((0..program.round).map(added));
    for text in all {
        let attempts = world.attempts_of(&text) + of("key_stats", &text);
        let id = KeyId::derive("ollama", &text).to_string();
        if !program.deleted.contains(&text) {
            assert_eq!(hub["keys"][&id][0], attempts, "{text}");
            continue;
        }
        let retired = world.sql(&format!(
            "SELECT coalesce(sum(total_requests), 0) FROM keytide_retired WHERE kind = 'key' AND id = keytide_digest('{text}')"
        ));
        assert_eq!(retired[0][0], attempts.to_string(), "{text}, which is deleted");
        for node in &world.nodes {
            assert!(node.key(&text).await.is_none(), "{} still has {text}", node.name);
        }
    }
    // What it removed stays removed, and rates are as it writes them.
    assert_eq!(world.sql("SELECT count(*) FROM ollama_api_model_hourly WHERE model = 'old'")[0][0], "0");
    let wrong = world.sql(
        "SELECT count(*) FROM ollama_api_key_stats WHERE total_requests > 0
         AND success_rate <> round(100.0 * success_count / total_requests, 2)",
    );
    assert_eq!(wrong[0][0], "0");
    let sql = world.cluster.connect("postgres", "legacy").await;
    sql.batch_execute(&format!(
        "UPDATE ollama_api_keys SET status = 'disabled' WHERE api_key = '{}';
         UPDATE ollama_api_keys SET status = 'disabled', disabled_until = now() + interval '2 hours' WHERE api_key = '{}';
         UPDATE ollama_api_keys SET status = 'failed' WHERE api_key = '{}';
         UPDATE ollama_api_keys SET status = 'expired' WHERE api_key = '{}';
         UPDATE ollama_api_global_stats SET total_requests = total_requests - 3",
        key(5), key(6), key(7), key(8)
    ))
    .await
    .unwrap();
    world.agree().await;
    assert_eq!(world.hub_picture("ollama")["total"], hub["total"], "a lower number is not believed");
    for node in &world.nodes {
        let state = async |n: usize| node.key(&key(n)).await.unwrap();
        let third = state(3).await;
        assert_eq!(third["username"], format!("user-{}", program.round - 1), "{}", node.name);
        assert_eq!(third["note"], "note 9", "{}", node.name);
        assert_eq!(
            (&state(5).await["status"], &state(5).await["disabled_until"]),
            (&json!("disabled"), &json!(null))
        );
        assert!(state(6).await["disabled_until"].is_string(), "{}", state(6).await);
        assert!(state(7).await["failed_until"].is_string(), "{}", state(7).await);
        assert_eq!(state(8).await["status"], "expired", "{}", node.name);
        let fresh = added(program.round - 1);
        let fresh = node.key(&fresh).await.unwrap();
        assert_eq!(fresh["username"], json!(null), "N/A is no account");
    }
}
