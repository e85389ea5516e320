//! From the counted uses into the totals of keys, once.

use serde::Serialize;
use tokio_postgres::Client;

use super::{Error, Link, NOBODY, count::has_summary, numbers, rows_of, transaction};
use crate::replica::schema::text;

/// What was entered, now and in earlier runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entered {
    /// That the table had when it was counted last.
    pub rows_there: u64,
    /// Ever counted.
    pub uses: u64,
    pub ids: u64,
    /// Of these, what is in the totals of keys.
    pub linked_ids: u64,
    pub linked_uses: u64,
    pub archived_ids: u64,
    pub archived_uses: u64,
    /// What this run has added to the totals, and of how many keys.
    pub added_uses: u64,
    pub keys: u64,
    /// Rows that were counted once and that the table no longer has.
    pub gone: u64,
    /// Ids that the map gives to another key than the one that has their uses already.
    pub elsewhere: u64,
}

/// Adds what is new of each id to the summary. Rows that are gone since were counted all the same: how many. Day by day,
/// since a clean-up takes those of old days while others come of new ones.
pub(super) async fn summarise(client: &Client) -> Result<u64, Error> {
    client
        .batch_execute(&format!(
            "CREATE TEMP TABLE keytide_counted ON COMMIT DROP AS
             SELECT shared_key_id AS k, day AS d, sum(uses)::bigint AS n, max(last_used_at) AS l
             FROM public.keytide_migration_uses GROUP BY 1, 2;
             CREATE TEMP TABLE keytide_new ON COMMIT DROP AS
             SELECT nullif(k, {NOBODY}) AS k, sum(greatest(coalesce(c.n, 0) - coalesce(t.rows_there, 0), 0))::bigint AS n,
                sum(greatest(coalesce(t.rows_there, 0) - coalesce(c.n, 0), 0))::bigint AS gone, max(c.l) AS l
             FROM keytide_counted c FULL JOIN (SELECT shared_key_id AS k, day AS d, rows_there FROM public.keytide_migration_days) t USING (k, d)
             GROUP BY 1"
        ))
        .await?;
    let [gone] = numbers(client, "SELECT sum(gone) FROM keytide_new").await?;
    client
        .batch_execute(&format!(
            "INSERT INTO public.key_usage_summary (shared_key_id) SELECT c.k FROM keytide_new c
             WHERE NOT EXISTS (SELECT 1 FROM public.key_usage_summary s WHERE s.shared_key_id IS NOT DISTINCT FROM c.k);
             UPDATE public.key_usage_summary s
             SET total_usage = s.total_usage + c.n, last_used_at = greatest(s.last_used_at, c.l)
             FROM keytide_new c WHERE s.shared_key_id IS NOT DISTINCT FROM c.k;
             UPDATE public.key_usage_summary s SET unique_users = greatest(s.unique_users, c.users)
             FROM (SELECT nullif(shared_key_id, {NOBODY}) AS k, count(DISTINCT user_id) FILTER (WHERE user_id <> {NOBODY}) AS users
                   FROM public.keytide_migration_users GROUP BY 1) c
             WHERE s.shared_key_id IS NOT DISTINCT FROM c.k;
             TRUNCATE public.keytide_migration_days;
             INSERT INTO public.keytide_migration_days SELECT k, d, n FROM keytide_counted"
        ))
        .await?;
    Ok(gone)
}

/// Gives ids to their keys, and to the keys what they have not been given yet.
pub(super) async fn enter(client: &Client, links: &[Link]) -> Result<Entered, Error> {
    let elsewhere = format!(
        "SELECT count(*) FROM public.key_usage_summary s JOIN {} ON link.legacy = s.shared_key_id WHERE s.key_id <> link.key",
        rows_of(links)
    );
    let [elsewhere] = numbers(client, &elsewhere).await?;
    client
        .batch_execute(&format!(
            "UPDATE public.key_usage_summary s SET key_id = link.key FROM {}
             WHERE link.legacy = s.shared_key_id AND s.key_id IS NULL;
             UPDATE public.key_usage_summary s SET key_id = k.id FROM public.shared_keys k
             WHERE k.id = s.shared_key_id AND s.key_id IS NULL;
             CREATE TEMP TABLE keytide_entering ON COMMIT DROP AS
             SELECT s.key_id AS id, sum(s.total_usage - s.entered)::bigint AS n, max(s.last_used_at) AS l, max(s.unique_users) AS u
             FROM public.key_usage_summary s WHERE s.key_id IS NOT NULL GROUP BY 1",
            rows_of(links)
        ))
        .await?;
    users_of_several(client).await?;
    // As a batch does it: whoever makes rows is alone with the core, rows are locked by id, and instances pull what has
    // changed. Figures that are not keytide's stay as they are.
    client
        .batch_execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('keytide core', 0));
             SELECT set_config('keytide.writer', 'on', true);
             SELECT public.keytide_lock_shares(ARRAY(SELECT id FROM keytide_entering ORDER BY id));
             SELECT public.keytide_apply_shared(
                ARRAY(SELECT id FROM keytide_entering WHERE n > 0 ORDER BY id),
                ARRAY(SELECT ROW(row_number() OVER (ORDER BY id), 'kt', id, 0, 0, 0, 0, n, 0, l)::public.keytide_tally_row
                      FROM keytide_entering WHERE n > 0), false);
             UPDATE public.shared_keys k
             SET usage_stats = CASE WHEN jsonb_typeof(k.usage_stats) = 'object' THEN k.usage_stats ELSE '{}' END
                || jsonb_build_object('unique_users', greatest(
                    public.keytide_int(k.usage_stats -> 'unique_users', 0, 1000000000000000), e.u))
             FROM keytide_entering e WHERE k.id = e.id AND (e.n > 0 OR e.u > coalesce(
                    public.keytide_int(k.usage_stats -> 'unique_users', 0, 1000000000000000), 0));
             SELECT set_config('keytide.writer', '', true);
             UPDATE public.key_usage_summary SET entered = total_usage WHERE key_id IS NOT NULL",
        )
        .await?;
    let [added_uses, keys] =
        numbers(client, "SELECT sum(n), count(*) FROM keytide_entering WHERE n > 0").await?;
    let sums = "SELECT sum(total_usage), count(shared_key_id), count(key_id), sum(entered),
        sum(total_usage) FILTER (WHERE key_id IS NULL) FROM public.key_usage_summary";
    let [uses, ids, linked_ids, linked_uses, archived_uses] = numbers(client, sums).await?;
    Ok(Entered {
        rows_there: 0,
        uses,
        ids,
        linked_ids,
        linked_uses,
        archived_ids: ids - linked_ids,
        archived_uses,
        added_uses,
        keys,
        gone: 0,
        elsewhere,
    })
}

/// Of a key that had several ids, whoever used more than one of them is one user; only the rows tell that.
async fn users_of_several(client: &Client) -> Result<(), Error> {
    let counted = "SELECT to_regclass('public.keytide_migration_users')";
    if text(client, counted).await?.concat().concat().is_empty() {
        return Ok(());
    }
    client
        .batch_execute(&format!(
            "UPDATE keytide_entering e SET u = greatest(e.u, m.users)
             FROM (SELECT s.key_id, count(DISTINCT c.user_id) FILTER (WHERE c.user_id <> {NOBODY}) AS users
                   FROM public.key_usage_summary s JOIN public.keytide_migration_users c ON c.shared_key_id = s.shared_key_id
                   WHERE s.key_id IN (SELECT key_id FROM public.key_usage_summary GROUP BY 1 HAVING count(*) > 1)
                   GROUP BY 1) m
             WHERE m.key_id = e.id"
        ))
        .await?;
    Ok(())
}

/// Links what was archived, when the table itself is gone.
///
/// # Errors
/// When the database refuses; then nothing was entered.
pub async fn enter_later(client: &Client, links: &[Link]) -> Result<Entered, Error> {
    if !has_summary(client).await? {
        return Err(Error::Unfit(
            "key_usage_summary is gone, and with it what the old ids were used: there is nothing left to link".to_owned(),
        ));
    }
    transaction(client, async || enter(client, links).await).await
}
