//! What is in the table, and what would become of it. Reads, and changes nothing.

use serde::Serialize;
use tokio_postgres::Client;

use super::{Error, Legacy, Link, NOBODY, numbers, rows_of};
use crate::replica::schema::text;

/// Of all rows, as they are now.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Survey {
    pub rows: u64,
    pub rows_without_key: u64,
    pub rows_without_user: u64,
    /// Without one that is of a calendar's.
    pub rows_without_date: u64,
    pub first: Option<String>,
    pub last: Option<String>,
    /// Different ids of keys.
    pub ids: u64,
    /// Of which keytide knows the key.
    pub linked_ids: u64,
    pub linked_rows: u64,
    pub archived_ids: u64,
    /// Those without an id among them.
    pub archived_rows: u64,
    /// The first of the ids that are of no key.
    pub archived: Vec<String>,
    /// Keys that have a total already: theirs is added to.
    pub keys_with_totals: u64,
    /// Bytes of the whole database, and about how many when the table is gone.
    pub database: u64,
    pub database_after: u64,
}

const SHOWN: usize = 10;
/// A row of `key_usage_summary` with its place in the index.
const ROW_BYTES: u64 = 200;
const EMPTY_TABLES: u64 = 80 << 10;

/// # Errors
/// When the database cannot be asked.
pub async fn survey(client: &Client, legacy: &Legacy, links: &[Link]) -> Result<Survey, Error> {
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0; SET LOCAL TIME ZONE 'UTC'",
        )
        .await?;
    let found = read(client, legacy, links).await;
    // Nothing was changed, so that it is as good as a commit, and right after an error, too.
    let ended = client.batch_execute("ROLLBACK").await;
    let found = found?;
    ended?;
    Ok(found)
}

async fn read(client: &Client, legacy: &Legacy, links: &[Link]) -> Result<Survey, Error> {
    let mut all = Vec::new();
    for part in &legacy.parts {
        all.push(format!(
            "SELECT shared_key_id AS k, count(*) AS n, count(*) FILTER (WHERE coalesce(user_id, {NOBODY}) = {NOBODY}) AS u,
                count({usable}) AS d, {last} AS l, min({usable}) AS f
             FROM ONLY {part} GROUP BY 1",
            usable = format_args!(
                "CASE WHEN created_at >= '1970-01-01' AND created_at < '10000-01-01' THEN {} END",
                legacy.moment
            ),
            last = legacy.last(),
        ));
    }
    let has_figures = "SELECT count(*) FROM pg_attribute WHERE attrelid = to_regclass('public.shared_keys') AND NOT attisdropped
        AND (attname, atttypid) IN (('id', 'uuid'::regtype), ('usage_stats', 'jsonb'::regtype))";
    let figures = if numbers(client, has_figures).await? == [2] {
        "SELECT id, CASE WHEN jsonb_typeof(usage_stats -> 'total_usage_count') = 'number'
                         THEN (usage_stats ->> 'total_usage_count')::numeric > 0 END AS used FROM public.shared_keys"
    } else {
        "SELECT NULL::uuid AS id, false AS used"
    };
    let has_summary = "SELECT 1 FROM pg_attribute WHERE attrelid = to_regclass('public.key_usage_summary') AND attname = 'key_id'";
    // Whoever was linked once stays so.
    let linked = if text(client, has_summary).await?.is_empty() {
        "SELECT NULL::uuid AS legacy, NULL::uuid AS key"
    } else {
        "SELECT shared_key_id AS legacy, key_id AS key FROM public.key_usage_summary WHERE key_id IS NOT NULL"
    };
    let sql = format!(
        "WITH per AS (
            SELECT nullif(k, {NOBODY}) AS k, sum(n) AS n, sum(u) AS u, sum(n) - sum(d) AS d, max(l) AS l, min(f) AS f
            FROM ({}) parts GROUP BY 1
         ), keys AS ({figures}), was AS ({linked}), found AS (
            SELECT per.*, coalesce(was.key, link.key, own.id) AS key
            FROM per LEFT JOIN was ON was.legacy = per.k LEFT JOIN {} ON link.legacy = per.k LEFT JOIN keys own ON own.id = per.k
         )
         SELECT sum(n), sum(n) FILTER (WHERE k IS NULL), sum(u), sum(d), count(k), count(key), sum(n) FILTER (WHERE key IS NOT NULL),
            (SELECT count(*) FROM keys WHERE keys.used AND keys.id IN (SELECT key FROM found)),
            pg_database_size(current_database()), to_char(min(f), 'YYYY-MM-DD HH24:MI'), to_char(max(l), 'YYYY-MM-DD HH24:MI'),
            (array_agg(k ORDER BY n DESC, k) FILTER (WHERE k IS NOT NULL AND key IS NULL))[1:{SHOWN}]
         FROM found",
        all.join(" UNION ALL "),
        rows_of(links),
    );
    let row = text(client, &sql).await?.into_iter().next().unwrap_or_default();
    let number = |at: usize| row.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let words = |at: usize| row.get(at).filter(|field| !field.is_empty()).cloned();
    let (rows, ids, linked_ids, linked_rows, database) =
        (number(0), number(4), number(5), number(6), number(8));
    let archived = words(11).unwrap_or_default();
    let archived = archived.trim_matches(['{', '}']).split(',').filter(|id| !id.is_empty());
    Ok(Survey {
        rows,
        rows_without_key: number(1),
        rows_without_user: number(2),
        rows_without_date: number(3),
        first: words(9),
        last: words(10),
        ids,
        linked_ids,
        linked_rows,
        archived_ids: ids - linked_ids,
        archived_rows: rows - linked_rows,
        archived: archived.map(str::to_owned).collect(),
        keys_with_totals: number(7),
        database,
        database_after: database.saturating_sub(legacy.bytes()) + EMPTY_TABLES + ids * ROW_BYTES,
    })
}
