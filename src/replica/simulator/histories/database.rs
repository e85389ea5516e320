//! A database that is as the schema makes it, but for its clock: that is told.

use std::collections::BTreeMap;

use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

use super::pg::{Cluster, Options};
use crate::replica::{
    schema::{self, Target},
    simulator::{
        core::STREAM,
        tables::Tables,
        world::{PROVIDERS, STREAMS},
    },
    wire::{Ask, Function, GoneKind, HubIdentity, Lane, PROTOCOL, PullAnswer, PullRequest, Rows, Sums},
};

/// Beside the shipped text: a clock that stands where a session has put it, a backup of every table, and the order in
/// which batches were applied. That is noted last of all, while a batch holds all its locks.
const AROUND: &str = "
CREATE SCHEMA simulated;
CREATE FUNCTION simulated.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT '1970-01-01 00:00:00+00'::timestamptz
        + pg_catalog.current_setting('simulated.now')::bigint * '1 millisecond'::interval
$$;
SET simulated.now = '0';";
const BESIDE: &str = "
CREATE TABLE simulated.applied (n bigserial, instance uuid, stream text, seq bigint);
CREATE FUNCTION simulated.apply() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO simulated.applied (instance, stream, seq) VALUES (NEW.instance, NEW.stream, NEW.last_seq);
    RETURN NULL;
END $$;
CREATE TRIGGER simulated AFTER UPDATE ON public.keytide_streams FOR EACH ROW EXECUTE FUNCTION simulated.apply();
CREATE SCHEMA kept;";

pub struct Template {
    cluster: Cluster,
    /// Of the shipped schema.
    tables: Vec<String>,
}

/// One worker's, with sessions that stay: what they have planned once serves all histories.
pub struct Database<'a> {
    template: &'a Template,
    name: String,
    sessions: Vec<Client>,
    pub identity: HubIdentity,
}

/// The counts of what is deleted, by stream, kind and digest: with the last success and the last failure.
pub type Retired = BTreeMap<String, (Sums, Option<i64>, Option<i64>)>;

impl Template {
    pub async fn new() -> Self {
        let cluster = Cluster::start(Options::default());
        let client = cluster.database("template").await;
        client.batch_execute(AROUND).await.unwrap();
        let targets = PROVIDERS.map(|(provider, prefix)| Target { prefix, provider });
        for part in schema::parts(&targets).unwrap() {
            let sql = part.sql.replace("clock_timestamp()", "now()").replace("now()", "simulated.now()");
            // The hub's own function asks that clock.
            let sql = sql.replace("keytide_simulated.now()", "keytide_now()");
            client.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{}: {error:?}", part.name));
        }
        client.batch_execute("SELECT public.keytide_usage_logs(true)").await.unwrap();
        client.batch_execute(BESIDE).await.unwrap();
        // Parts of tables come and go with the time.
        let tables = "SELECT relname FROM pg_class
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition";
        let tables: Vec<String> =
            rows(&client, tables).await.unwrap().into_iter().map(|mut row| row.remove(0)).collect();
        for table in &tables {
            let sql = format!("CREATE TABLE kept.{table} (LIKE public.{table})");
            client.batch_execute(&sql).await.unwrap();
        }
        Self { cluster, tables }
    }

    pub async fn database(&self, number: u64) -> Database<'_> {
        let name = format!("histories{number}");
        let sql = format!("CREATE DATABASE {name} TEMPLATE template");
        self.cluster.connect("postgres", "postgres").await.batch_execute(&sql).await.unwrap();
        let identity = HubIdentity { id: Uuid::nil(), system: String::new(), timeline: 0 };
        let mut database = Database { template: self, name, sessions: Vec::new(), identity };
        let page = database.pull("alpha_api", Lane::State).await.unwrap();
        database.identity = page.greeting.hub;
        database
    }
}

impl Database<'_> {
    /// That many sessions.
    pub async fn sessions(&mut self, count: usize) -> &[Client] {
        while self.sessions.len() < count {
            let client = self.template.cluster.connect(&self.name, "postgres").await;
            // Within which every call has to end.
            client.batch_execute("SET statement_timeout = '8s'; SET simulated.now = '0'").await.unwrap();
            self.sessions.push(client);
        }
        &self.sessions[..count]
    }

    pub async fn session(&mut self, at: usize) -> &Client {
        &self.sessions(at + 1).await[at]
    }

    /// No row is anywhere, as in a new database.
    pub async fn empty(&mut self) -> Result<(), String> {
        let kept = ["keytide_settings", "keytide_providers", "keytide_reports"];
        let mut sql = "SET session_replication_role = replica;".to_owned();
        for table in self.template.tables.iter().filter(|table| !kept.contains(&table.as_str())) {
            sql.push_str(&format!("DELETE FROM public.{table};"));
        }
        sql.push_str(
            "UPDATE public.keytide_settings SET swept = 0, adopter = NULL, adopt_until = NULL,
                 rung = DEFAULT, hours_from = DEFAULT, days_from = DEFAULT;
             DELETE FROM simulated.applied; SET session_replication_role = origin;
             SET simulated.now = '0'; SELECT public.keytide_parts_ahead();",
        );
        run(self.session(0).await, &sql).await
    }

    pub async fn keep(&mut self) -> Result<(), String> {
        let copy = |table: &String| {
            format!("DELETE FROM kept.{table}; INSERT INTO kept.{table} SELECT * FROM public.{table};")
        };
        let sql: String = self.template.tables.iter().map(copy).collect();
        run(self.session(0).await, &sql).await
    }

    /// Stamps and all, as a recovery to that point in time does.
    pub async fn recover(&mut self) -> Result<(), String> {
        let copy = |table: &String| {
            format!("DELETE FROM public.{table}; INSERT INTO public.{table} SELECT * FROM kept.{table};")
        };
        let sql: String = self.template.tables.iter().map(copy).collect();
        let sql =
            format!("SET session_replication_role = replica; {sql} SET session_replication_role = origin");
        run(self.session(0).await, &sql).await
    }

    /// Stamps lie ahead of all transactions, as after a dump and a restore.
    pub async fn move_house(&mut self) -> Result<(), String> {
        let columns = "SELECT format('public.%I', c.relname), a.attname FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
            WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
                AND NOT c.relispartition AND a.attname IN ('state_xid', 'stats_xid')";
        let client = self.session(0).await;
        let mut sql = "SET session_replication_role = replica;".to_owned();
        for row in rows(client, columns).await? {
            let (table, column) = (&row[0], &row[1]);
            let ahead = format!("(({column}::text)::bigint + 1000000000000)::text::xid8");
            sql.push_str(&format!("UPDATE {table} SET {column} = {ahead};"));
        }
        sql.push_str("SET session_replication_role = origin");
        run(client, &sql).await
    }

    async fn pull(&mut self, stream: &str, lane: Lane) -> Result<PullAnswer, String> {
        let provider = STREAMS.iter().find(|(_, of)| *of == stream).map_or("", |(provider, _)| *provider);
        let ask = Ask {
            stream: stream.to_owned(),
            provider: provider.to_owned(),
            lane,
            cursor: None,
            after: None,
            limit: 10_000,
        };
        let request = PullRequest { protocol: PROTOCOL, instance: Uuid::nil(), asks: vec![ask] };
        let request = serde_json::to_string(&request).unwrap();
        let answer = call(self.session(0).await, Function::Pull, &request).await?;
        serde_json::from_str(&answer).map_err(|error| format!("{error} in {answer}"))
    }

    /// All that a pull tells of a stream.
    pub async fn everything(&mut self, stream: &str) -> Result<Rows, String> {
        let mut state = self.pull(stream, Lane::State).await?.pages.remove(0);
        let stats = self.pull(stream, Lane::Stats).await?.pages.remove(0).rows;
        let Rows { gone, keys, tokens, users, .. } = state.rows;
        state.rows = Rows { gone, keys, tokens, users, ..stats };
        Ok(state.rows)
    }

    /// What no pull tells: whose keys are whose, what happened, and single requests.
    pub async fn untold(&mut self) -> Result<Vec<String>, String> {
        let sql = "SELECT concat_ws(' ', 'share', id, provider, user_id, is_active, share_v) FROM public.shared_keys WHERE share_v > 0
            UNION ALL SELECT concat_ws(' ', 'event', event, event_type, user_id, severity, occurrences, public.keytide_ms(created_at))
            FROM public.security_events
            UNION ALL SELECT concat_ws(' ', 'log', shared_key_id, user_id, usage_type, status_code,
                public.keytide_ms(created_at AT TIME ZONE 'UTC')) FROM public.key_usage_logs";
        let mut all: Vec<String> = rows(self.session(0).await, sql).await?.into_iter().flatten().collect();
        all.sort();
        Ok(all)
    }

    pub async fn retired(&mut self) -> Result<Retired, String> {
        let sql = "SELECT stream, kind, id, success_count, failure_count, total_requests - success_count - failure_count,
            prompt_tokens, completion_tokens, public.keytide_ms(last_used), public.keytide_ms(last_success),
            public.keytide_ms(last_failure) FROM public.keytide_retired";
        let mut retired = Retired::new();
        for row in rows(self.session(0).await, sql).await? {
            let number = |at: usize| row[at].parse::<i64>().ok();
            let count = |at: usize| number(at).unwrap_or_default();
            let sums =
                Sums { s: count(3), f: count(4), o: count(5), p: count(6), q: count(7), lu: number(8) };
            retired.insert(row[..3].join(" "), (sums, number(9), number(10)));
        }
        Ok(retired)
    }
}

/// The model's.
pub fn untold(tables: &BTreeMap<String, Tables>) -> Vec<String> {
    let Some(core) = tables.get(STREAM).and_then(|tables| tables.core.as_ref()) else { return Vec::new() };
    let mut all = Vec::new();
    for share in core.keys.values().filter_map(|key| key.row.share.as_ref()) {
        let user = share.u.map(|user| format!(" {user}")).unwrap_or_default();
        let on = if share.on == Some(false) { "f" } else { "t" };
        all.push(format!("share {} {}{user} {on} {}", share.i, share.p, share.v.0));
    }
    for event in core.events.values() {
        let user = event.u.map(|user| format!(" {user}")).unwrap_or_default();
        let weight = event.w.unwrap_or(1);
        all.push(format!("event {} {}{user} {} {weight} {}", event.x, event.e, event.y, event.at));
    }
    for log in &core.logs {
        all.push(format!("log {} {} {} {} {}", log.i, log.u, log.y, log.c, log.at));
    }
    all.sort();
    all
}

/// The model's.
pub fn retired(tables: &BTreeMap<String, Tables>) -> Retired {
    let mut retired = Retired::new();
    for (stream, tables) in tables {
        for ((kind, id), numbers) in &tables.retired {
            let kind = if *kind == GoneKind::Key { "key" } else { "token" };
            let numbers = (numbers.sums.clone(), numbers.last_success, numbers.last_failure);
            retired.insert(format!("{stream} {kind} {id}"), numbers);
        }
    }
    retired
}

pub async fn run(client: &Client, sql: &str) -> Result<(), String> {
    client.batch_execute(sql).await.map_err(|error| told(&error))
}

pub async fn call(client: &Client, function: Function, request: &str) -> Result<String, String> {
    call_at(client, None, function, request).await
}

/// When the hub's clock shows `at`.
pub async fn call_at(
    client: &Client,
    at: Option<i64>,
    function: Function,
    request: &str,
) -> Result<String, String> {
    let clock = at.map(|at| format!("SET simulated.now = '{at}';")).unwrap_or_default();
    let sql = format!("{clock} SELECT public.{}($json${request}$json$)", function.name());
    let mut answer = rows(client, &sql).await?;
    answer.pop().and_then(|mut row| row.pop()).ok_or_else(|| "no answer".to_owned())
}

/// What is NULL is an empty text.
pub async fn rows(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, String> {
    let mut all = Vec::new();
    for message in client.simple_query(sql).await.map_err(|error| told(&error))? {
        if let SimpleQueryMessage::Row(row) = message {
            all.push((0..row.len()).map(|at| row.get(at).unwrap_or("").to_owned()).collect());
        }
    }
    Ok(all)
}

fn told(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |db| format!("{db:?}"))
}
