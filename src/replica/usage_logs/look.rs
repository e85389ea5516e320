//! What the table is, as far as the catalog tells.

use tokio_postgres::Client;

use super::{Error, name};
use crate::{
    model::KeyId,
    replica::schema::{quoted, text},
};

/// What stands under the table's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// keytide's own rows of seven days.
    Own,
    Legacy(Legacy),
}

/// A table that can be counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Legacy {
    pub table: String,
    /// Its tables of rows, which are one unless it has parts, as they stand in SQL.
    pub(super) parts: Vec<String>,
    /// Of `created_at`: a moment, as SQL.
    pub(super) moment: &'static str,
    /// Whether the server finds a range of pages without reading the others.
    pub(super) has_ranges: bool,
    pub heap: u64,
    pub indexes: u64,
    pub toast: u64,
    /// What has to be done before it can be counted, each a sentence.
    pub obstacles: Vec<String>,
    /// What is worth knowing.
    pub remarks: Vec<String>,
}

impl Legacy {
    pub fn bytes(&self) -> u64 {
        self.heap + self.indexes + self.toast
    }

    /// Moments outside of what a calendar of people has are none.
    pub(super) fn last(&self) -> String {
        format!(
            "max({}) FILTER (WHERE created_at >= '1970-01-01' AND created_at < '10000-01-01')",
            self.moment
        )
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Counting,
    Counted,
    Dropped,
}

/// How far an earlier run has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    pub table: String,
    pub state: State,
    pub rows: u64,
    /// When it came so far.
    pub at: String,
}

const OWN_COLUMNS: &str = "id bigint, shared_key_id uuid, user_id uuid, usage_type smallint, status_code smallint, \
                           created_at timestamp without time zone";

/// # Errors
/// When the database cannot be asked, or what is there is no log of uses.
pub async fn look(client: &Client, table: &str) -> Result<(Found, Option<History>), Error> {
    let history = history(client).await?;
    let sql = format!(
        "SELECT c.relkind, row_security_active(c.oid), has_table_privilege(c.oid, 'SELECT'),
            pg_has_role(c.relowner, 'MEMBER'), current_setting('server_version_num'),
            coalesce(has_table_privilege(to_regclass('public.shared_keys'), 'SELECT'), true)
         FROM pg_class c WHERE c.oid = to_regclass({})",
        quoted(&name(table))
    );
    let Some(row) = text(client, &sql).await?.into_iter().next() else {
        return Ok((Found::Nothing, history));
    };
    let [kind, hides, may_read, is_owner, version, may_read_keys] =
        <[String; 6]>::try_from(row).map_err(|_| Error::Database("the catalog answers oddly".to_owned()))?;
    let unfit = |why: String| Err(Error::Unfit(why));
    if kind != "r" && kind != "p" {
        return unfit(format!(
            "{table} is no table of rows (a view, perhaps): name the table itself with --table"
        ));
    }
    for (may, what) in [(may_read, table), (may_read_keys, "shared_keys")] {
        if may == "f" {
            return unfit(format!("this user may not read {what}: use the database's owner"));
        }
    }
    if hides == "t" {
        return unfit(format!(
            "row level security hides rows of {table} from this user: use the table's owner"
        ));
    }
    let columns = columns(client, table).await?;
    let shape: Vec<String> = columns.iter().map(|(name, kind)| format!("{name} {kind}")).collect();
    if kind == "p" && shape.join(", ") == OWN_COLUMNS {
        return Ok((Found::Own, history));
    }
    let moment = fit(table, &columns)?;
    if let Some(History { table: before, state, at, .. }) = &history {
        if *state == State::Dropped && before == table {
            return unfit(format!(
                "{table} was moved and dropped on {at}, and is there again: its rows would be counted a second time; if they \
                 are others, rename key_usage_summary and DELETE FROM keytide_migrations, then run this again"
            ));
        }
        if *state != State::Dropped && before != table {
            return unfit(format!(
                "the move of {before} is not over: finish it with --table {before} --run --drop"
            ));
        }
    }
    let mut legacy = Legacy {
        table: table.to_owned(),
        parts: parts(client, table).await?,
        moment,
        has_ranges: version.parse::<u32>().is_ok_and(|version| version >= 140_000),
        heap: 0,
        indexes: 0,
        toast: 0,
        obstacles: obstacles(client).await?,
        remarks: Vec::new(),
    };
    for part in &legacy.parts {
        let part = quoted(part);
        let sql = format!(
            "SELECT pg_table_size({part}) - coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0), pg_indexes_size({part}),
                coalesce(pg_total_relation_size(nullif(c.reltoastrelid, 0)), 0)
             FROM pg_class c WHERE c.oid = {part}::regclass"
        );
        let [heap, indexes, toast] = super::numbers(client, &sql).await?;
        (legacy.heap, legacy.indexes, legacy.toast) =
            (legacy.heap + heap, legacy.indexes + indexes, legacy.toast + toast);
    }
    if is_owner == "f" {
        legacy.remarks.push(format!("this user does not own {table}, so --run and --drop will be refused"));
    }
    if columns.iter().all(|(name, _)| name != "usage_type")
        && columns.iter().any(|(name, _)| name == "request_data")
    {
        legacy
            .remarks
            .push("request_data and response_data are not kept: dropping the table deletes them".to_owned());
    }
    Ok((Found::Legacy(legacy), history))
}

async fn columns(client: &Client, table: &str) -> Result<Vec<(String, String)>, Error> {
    let sql = format!(
        "SELECT a.attname, format_type(a.atttypid, NULL) FROM pg_attribute a
         WHERE a.attrelid = to_regclass({}) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        quoted(&name(table))
    );
    Ok(text(client, &sql)
        .await?
        .into_iter()
        .filter_map(|row| <[String; 2]>::try_from(row).ok().map(|[name, kind]| (name, kind)))
        .collect())
}

/// How the table's moments are read, if its columns are those of a log of uses.
fn fit(table: &str, columns: &[(String, String)]) -> Result<&'static str, Error> {
    let wanted = [("shared_key_id", "uuid"), ("user_id", "uuid"), ("created_at", "timestamp")];
    let is = |name: &str| columns.iter().find(|(found, _)| found == name).map(|(_, kind)| kind.as_str());
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| is(name).is_none()).collect();
    if missing.iter().any(|(name, _)| *name == "shared_key_id") {
        return Err(Error::Unfit(format!(
            "{table} has no column shared_key_id, so it says nothing of keys: it is not the log that is meant; name that with --table"
        )));
    }
    if !missing.is_empty() {
        let names: Vec<_> = missing.iter().map(|(name, _)| *name).collect();
        let add: Vec<_> = missing.iter().map(|(name, kind)| format!("ADD COLUMN {name} {kind}")).collect();
        return Err(Error::Unfit(format!(
            "{table} has no column {}; `ALTER TABLE {table} {}` makes it, empty, and then it is counted as unknown",
            names.join(" and "),
            add.join(", ")
        )));
    }
    for (name, wanted) in &wanted[..2] {
        if let Some(kind) = is(name).filter(|kind| kind != wanted) {
            return Err(Error::Unfit(format!(
                "{table}.{name} is of type {kind} instead of uuid; `ALTER TABLE {table} ALTER COLUMN {name} TYPE uuid USING \
                 {name}::text::uuid` changes it, if all of them are"
            )));
        }
    }
    match is("created_at").unwrap_or_default() {
        "timestamp without time zone" => Ok("created_at AT TIME ZONE 'UTC'"),
        "timestamp with time zone" => Ok("created_at"),
        "date" => Ok("created_at::timestamp AT TIME ZONE 'UTC'"),
        kind => Err(Error::Unfit(format!(
            "{table}.created_at is of type {kind} instead of timestamp; change its type, then run this again"
        ))),
    }
}

/// A table with parts, or with children, has its rows in those.
async fn parts(client: &Client, table: &str) -> Result<Vec<String>, Error> {
    let sql = format!(
        "WITH RECURSIVE tree AS (
            SELECT to_regclass({})::oid AS oid
            UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
         SELECT format('%I.%I', n.nspname, c.relname) FROM tree JOIN pg_class c ON c.oid = tree.oid
         JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' ORDER BY c.oid",
        quoted(&name(table))
    );
    Ok(text(client, &sql).await?.into_iter().flatten().collect())
}

/// What of keytide's own is not there, and what is there instead.
async fn obstacles(client: &Client) -> Result<Vec<String>, Error> {
    const APPLY: &str = "run `keytide schema apply` first";
    let there = "SELECT to_regprocedure('public.keytide_missing(text)'),
        (SELECT min(oid::text) FROM pg_proc WHERE proname = 'keytide_apply_shared' AND pronamespace = 'public'::regnamespace)";
    if text(client, there).await?.iter().flatten().any(String::is_empty) {
        return Ok(vec![format!("keytide's tables are not in this database: {APPLY}")]);
    }
    let mut found = Vec::new();
    for what in text(client, "SELECT unnest(public.keytide_missing('core'))").await?.into_iter().flatten() {
        // The others have no part in this.
        if what.contains("shared_keys") {
            found.push(format!("the {what} is missing: {APPLY}"));
        }
    }
    let strangers = "SELECT count(*) FROM pg_class c WHERE c.oid = to_regclass('public.key_usage_summary')
        AND NOT EXISTS (SELECT 1 FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'entered' AND NOT a.attisdropped)";
    if super::numbers(client, strangers).await? == [1] {
        found.push(
            "there is a key_usage_summary that keytide has not made: if its totals are in shared_keys already, only the old \
             table is left to be dropped, by hand; else rename it, and run this again"
                .to_owned(),
        );
    }
    Ok(found)
}

/// What an earlier run has left.
async fn history(client: &Client) -> Result<Option<History>, Error> {
    if text(client, "SELECT to_regclass('public.keytide_migrations')").await?.concat().concat().is_empty() {
        return Ok(None);
    }
    let sql = "SELECT source, state, rows, to_char(coalesce(dropped_at, counted_at, started_at) AT TIME ZONE 'UTC', 'YYYY-MM-DD')
        FROM public.keytide_migrations ORDER BY started_at DESC LIMIT 1";
    let row = text(client, sql).await?.into_iter().next().and_then(|row| <[String; 4]>::try_from(row).ok());
    Ok(row.map(|[table, state, rows, at]| History {
        table,
        state: match state.as_str() {
            "dropped" => State::Dropped,
            "counted" => State::Counted,
            _ => State::Counting,
        },
        rows: rows.parse().unwrap_or(0),
        at,
    }))
}

/// The ids of all keys that the hub has of these providers, each with its table prefix, and of those it has figures of.
///
/// # Errors
/// When the database cannot be asked.
pub async fn known_ids(client: &Client, providers: &[(String, String)]) -> Result<Vec<KeyId>, Error> {
    const PAGE: usize = 10_000;
    let mut known = Vec::new();
    for (provider, prefix) in providers {
        let table = name(&format!("{prefix}_keys"));
        let sql = format!("SELECT to_regclass({})", quoted(&table));
        if text(client, &sql).await?.concat().concat().is_empty() {
            continue;
        }
        let mut after = String::new();
        loop {
            let sql = format!(
                "SELECT api_key FROM {table} WHERE api_key > $1 COLLATE \"C\" ORDER BY api_key COLLATE \"C\" LIMIT {PAGE}"
            );
            // As a parameter: no text of a key stands in a statement that might be logged.
            let rows = client.query_typed(&sql, &[(&after, tokio_postgres::types::Type::TEXT)]).await?;
            for row in &rows {
                after = row.try_get(0)?;
                known.push(KeyId::derive(provider, &after));
            }
            if rows.len() < PAGE {
                break;
            }
        }
    }
    let figures = "SELECT id FROM public.shared_keys";
    if !text(client, "SELECT to_regclass('public.shared_keys')").await?.concat().concat().is_empty() {
        known.extend(
            text(client, figures).await?.into_iter().flatten().filter_map(|id| id.parse::<KeyId>().ok()),
        );
    }
    Ok(known)
}
