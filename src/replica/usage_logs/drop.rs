//! The end of the old table.

use serde::Serialize;
use tokio_postgres::Client;

use super::{
    Error, Legacy, NOBODY,
    count::{by_day, is_known},
    name, numbers, transaction,
};
use crate::replica::schema::quoted;

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Dropped {
    pub rows: u64,
    pub bytes: u64,
    /// Of the whole database, afterwards.
    pub database: u64,
    /// A function of the plan that deletes from the table, and fails from now on.
    pub cleanup_stays: bool,
}

/// Drops the table if its rows are those that were counted. Nobody can write between the look and the end.
///
/// # Errors
/// When rows came or went since, or the database refuses; then the table is as it was.
pub async fn drop(client: &Client, legacy: &Legacy) -> Result<Dropped, Error> {
    let table = name(&legacy.table);
    let rows = transaction(client, async || {
        client.batch_execute(&format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE")).await?;
        let rows = check(client, legacy).await?;
        client
            .batch_execute(&format!(
                "DROP TABLE {table}, public.keytide_migration_days;
                 UPDATE public.keytide_migrations SET state = 'dropped', dropped_at = now() WHERE source = {}",
                quoted(&legacy.table)
            ))
            .await?;
        Ok(rows)
    })
    .await?;
    let after = "SELECT pg_database_size(current_database()), count(*) FROM pg_proc
        WHERE oid = to_regprocedure('public.cleanup_key_usage_logs()')";
    let [database, cleanup] = numbers(client, after).await?;
    Ok(Dropped { rows, bytes: legacy.bytes(), database, cleanup_stays: cleanup > 0 })
}

/// The table against what was counted, and what was counted against the totals of keys.
async fn check(client: &Client, legacy: &Legacy) -> Result<u64, Error> {
    is_known(client, legacy).await?;
    let there: Vec<String> = legacy.parts.iter().map(|part| by_day(legacy, part, "true")).collect();
    // Rows that went are not made up for by rows that came on another day.
    let sql = format!(
        "WITH there AS (SELECT k, d, sum(n) AS n, max(l) AS l FROM ({}) p GROUP BY k, d)
         SELECT sum(greatest(coalesce(t.n, 0) - coalesce(c.rows_there, 0), 0)), sum(greatest(coalesce(c.rows_there, 0) - coalesce(t.n, 0), 0)),
            sum(t.n),
            (SELECT count(*) FROM (SELECT k, max(l) AS l FROM there GROUP BY k) t
             LEFT JOIN public.key_usage_summary s ON coalesce(s.shared_key_id, {NOBODY}) = t.k
             WHERE t.l > s.last_used_at OR t.l IS NOT NULL AND s.last_used_at IS NULL),
            (SELECT count(*) FROM public.key_usage_summary WHERE key_id IS NOT NULL AND entered <> total_usage)
         FROM there t FULL JOIN public.keytide_migration_days c ON c.shared_key_id = t.k AND c.day = t.d",
        there.join(" UNION ALL ")
    );
    let [came, went, rows, later, owed] = numbers(client, &sql).await?;
    if came + went + later + owed > 0 {
        let how = match (came, went) {
            (0, 0) => "its rows are others than those that were counted".to_owned(),
            (came, 0) => format!("rows came since it was counted ({came})"),
            (0, went) => format!("rows went since it was counted ({went})"),
            (came, went) => format!("rows came ({came}) and went ({went}) since it was counted"),
        };
        return Err(Error::Unfit(format!(
            "{} was not dropped: {how}; run this with --run again, which counts what is new",
            legacy.table
        )));
    }
    // Somebody may have set a total back, or another database may have taken this one's place.
    let [short] = numbers(
        client,
        "SELECT count(*) FROM (SELECT key_id, sum(entered) AS n FROM public.key_usage_summary WHERE key_id IS NOT NULL GROUP BY 1) e
         JOIN public.shared_keys k ON k.id = e.key_id WHERE coalesce(k.baseline, 0) < e.n",
    )
    .await?;
    if short > 0 {
        return Err(Error::Unfit(format!(
            "{} was not dropped: the totals of {short} keys are lower than what was entered into them; look at shared_keys.baseline \
             before anything is deleted",
            legacy.table
        )));
    }
    Ok(rows)
}
