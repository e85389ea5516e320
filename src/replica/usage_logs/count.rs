//! Counting, page by page, so that it can be interrupted at any time.

use tokio_postgres::Client;

use super::{Entered, Error, Legacy, Link, NOBODY, enter, numbers, transaction};
use crate::replica::schema::{quoted, text};

/// About this many pieces, whatever the size, of at least half a megabyte and at most 32.
const PIECES: u64 = 100;
const PAGES: std::ops::RangeInclusive<u64> = 64..=4096;
/// No page has more rows than this: a row's place takes four bytes and its head 24, of a page of 8 kB.
const ROWS_OF_A_PAGE: u64 = 291;

/// The day of a row, of a session in UTC; -1 where no calendar has it.
const DAY: &str = "CASE WHEN created_at >= '1970-01-01' AND created_at < '10000-01-01'
    THEN created_at::date - '1970-01-01'::date ELSE -1 END";

/// Made for as long as it takes, but for the first: it says for good what was moved.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS public.keytide_migrations (
        source text PRIMARY KEY,
        state text NOT NULL DEFAULT 'counting',
        -- The next to be counted: which part of the table, and which of its pages.
        part integer NOT NULL DEFAULT 0,
        page bigint NOT NULL DEFAULT 0,
        rows bigint NOT NULL DEFAULT 0,
        started_at timestamptz NOT NULL DEFAULT now(),
        counted_at timestamptz,
        dropped_at timestamptz
    );
    CREATE TABLE IF NOT EXISTS public.keytide_migration_uses (
        shared_key_id uuid NOT NULL,
        day integer NOT NULL,
        uses bigint NOT NULL,
        last_used_at timestamptz
    );
    CREATE TABLE IF NOT EXISTS public.keytide_migration_users (
        shared_key_id uuid NOT NULL,
        user_id uuid NOT NULL
    );
    -- How many rows of each day the table had when it was counted last; until it is dropped.
    CREATE TABLE IF NOT EXISTS public.keytide_migration_days (
        shared_key_id uuid NOT NULL,
        day integer NOT NULL,
        rows_there bigint NOT NULL,
        PRIMARY KEY (shared_key_id, day)
    );
    CREATE TABLE IF NOT EXISTS public.key_usage_summary (
        shared_key_id uuid UNIQUE,
        total_usage bigint NOT NULL DEFAULT 0,
        unique_users bigint NOT NULL DEFAULT 0,
        last_used_at timestamptz,
        -- The key whose they are, and how many of them are in its total.
        key_id uuid,
        entered bigint NOT NULL DEFAULT 0
    );
    SELECT public.keytide_close('public.keytide_migrations'), public.keytide_close('public.keytide_migration_uses'),
        public.keytide_close('public.keytide_migration_users'), public.keytide_close('public.keytide_migration_days'),
        public.keytide_close('public.key_usage_summary');";

/// One count of the table, from where the last one was interrupted.
pub struct Run<'a> {
    client: &'a Client,
    legacy: &'a Legacy,
    /// Pages that were counted, and all of them.
    pub pages: (u64, u64),
    over: bool,
}

impl<'a> Run<'a> {
    /// Begins, or goes on with what was begun.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn start(client: &'a Client, legacy: &'a Legacy) -> Result<Self, Error> {
        let source = quoted(&legacy.table);
        transaction(client, async || {
            is_known(client, legacy).await?;
            client.batch_execute(TABLES).await?;
            let going = format!(
                "SELECT count(*) FROM public.keytide_migrations WHERE source = {source} AND state = 'counting'"
            );
            if numbers(client, &going).await? != [1] {
                client
                    .batch_execute(&format!(
                        "TRUNCATE public.keytide_migration_uses, public.keytide_migration_users;
                         INSERT INTO public.keytide_migrations AS m (source) VALUES ({source})
                         ON CONFLICT (source) DO UPDATE SET state = 'counting', part = 0, page = 0, rows = 0"
                    ))
                    .await?;
            }
            Ok(())
        })
        .await?;
        let mut run = Self { client, legacy, pages: (0, 0), over: false };
        run.pages = run.place().await?.2;
        Ok(run)
    }

    /// Whether some of it was counted before.
    pub fn goes_on(&self) -> bool {
        self.pages.0 > 0
    }

    /// The part and the page that are next, and how many pages that makes of how many.
    async fn place(&self) -> Result<(usize, u64, (u64, u64)), Error> {
        let at = format!(
            "SELECT part, page FROM public.keytide_migrations WHERE source = {} AND state = 'counting'",
            quoted(&self.legacy.table)
        );
        let [part, page] = numbers(self.client, &at).await?;
        let part = usize::try_from(part).unwrap_or(usize::MAX);
        let (mut done, mut all) = (page, 0);
        for (nth, name) in self.legacy.parts.iter().enumerate() {
            let pages = pages(self.client, name).await?;
            all += pages;
            if nth < part {
                done += pages;
            }
        }
        Ok((part, page, (done.min(all), all)))
    }

    /// Counts the next pages. False when there are no more.
    ///
    /// # Errors
    /// When the database refuses; what was counted before stays counted.
    pub async fn step(&mut self) -> Result<bool, Error> {
        if self.over {
            return Ok(false);
        }
        let (client, legacy) = (self.client, self.legacy);
        let (over, pages) = transaction(client, async || {
            let (part, page, (done, all)) = self.place().await?;
            let Some(name) = legacy.parts.get(part) else { return Ok((true, (all, all))) };
            let end = pages(client, name).await?;
            let next = (page + (all / PIECES).clamp(*PAGES.start(), *PAGES.end())).min(end);
            if page < next {
                client.batch_execute(&uses(legacy, name, &range(legacy, page, next))).await?;
            }
            let (to_part, to_page) = if next >= end { (part + 1, 0) } else { (part, next) };
            client
                .batch_execute(&format!(
                    "UPDATE public.keytide_migrations SET part = {to_part}, page = {to_page} WHERE source = {}",
                    quoted(&legacy.table)
                ))
                .await?;
            Ok((to_part >= legacy.parts.len(), (done + next.saturating_sub(page), all)))
        })
        .await?;
        (self.over, self.pages) = (over, pages);
        Ok(true)
    }

    /// Keeps writers out, compares the sums with the table, and enters them: all of it or nothing.
    ///
    /// # Errors
    /// When the database refuses; then nothing was entered.
    pub async fn finish(self, links: &[Link]) -> Result<Entered, Error> {
        let Self { client, legacy, .. } = self;
        transaction(client, async || {
            let lock = format!("LOCK TABLE {} IN SHARE MODE", super::name(&legacy.table));
            client.batch_execute(&lock).await?;
            if differences(client, legacy).await? > 0 {
                // Somebody wrote while it was counted, perhaps into pages that were done. Nobody does now.
                client
                    .batch_execute("TRUNCATE public.keytide_migration_uses, public.keytide_migration_users")
                    .await?;
                for part in &legacy.parts {
                    client.batch_execute(&uses(legacy, part, "true")).await?;
                }
                let left = differences(client, legacy).await?;
                if left > 0 {
                    return Err(Error::Unfit(format!(
                        "the sums of {left} ids do not come to what {} holds; nothing was entered. Please report this",
                        legacy.table
                    )));
                }
            }
            let gone = enter::summarise(client).await?;
            let [rows_there] = numbers(client, "SELECT sum(rows_there) FROM public.keytide_migration_days").await?;
            let entered = Entered { rows_there, gone, ..enter::enter(client, links).await? };
            client
                .batch_execute(&format!(
                    "UPDATE public.keytide_migrations SET state = 'counted', counted_at = now(), rows = {} WHERE source = {};
                     DROP TABLE public.keytide_migration_uses, public.keytide_migration_users",
                    entered.rows_there,
                    quoted(&legacy.table)
                ))
                .await?;
            Ok(entered)
        })
        .await
    }
}

async fn pages(client: &Client, part: &str) -> Result<u64, Error> {
    let sql = format!("SELECT pg_relation_size({}) / current_setting('block_size')::bigint", quoted(part));
    let [pages] = numbers(client, &sql).await?;
    Ok(pages)
}

/// The rows of some pages. Postgres 13 reads a whole table to find a range of it, but not to find rows by their places.
fn range(legacy: &Legacy, from: u64, to: u64) -> String {
    if legacy.has_ranges {
        return format!("ctid >= '({from},0)' AND ctid < '({to},0)'");
    }
    format!(
        "ctid = ANY (ARRAY(SELECT format('(%s,%s)', p, r)::tid FROM generate_series({from}, {}) p, \
         generate_series(1, {ROWS_OF_A_PAGE}) r))",
        to - 1
    )
}

/// Uses by key and day, of one part.
pub(super) fn by_day(legacy: &Legacy, part: &str, which: &str) -> String {
    format!(
        "SELECT coalesce(shared_key_id, {NOBODY}) AS k, {DAY} AS d, count(*) AS n, {} AS l FROM ONLY {part} WHERE {which} GROUP BY 1, 2",
        legacy.last()
    )
}

/// Who used which key, of one part.
fn by_user(part: &str, which: &str) -> String {
    format!(
        "SELECT DISTINCT coalesce(shared_key_id, {NOBODY}) AS k, coalesce(user_id, {NOBODY}) AS u FROM ONLY {part} WHERE {which}"
    )
}

fn uses(legacy: &Legacy, part: &str, which: &str) -> String {
    format!(
        "INSERT INTO public.keytide_migration_uses {};
         INSERT INTO public.keytide_migration_users {}",
        by_day(legacy, part, which),
        by_user(part, which)
    )
}

/// How many ids the table tells something else of than the sums do: other uses on a day, other users, or another last one.
async fn differences(client: &Client, legacy: &Legacy) -> Result<u64, Error> {
    let all = |of: &dyn Fn(&str) -> String| {
        legacy.parts.iter().map(|part| of(part)).collect::<Vec<_>>().join(" UNION ALL ")
    };
    let by_day = |rows: &str| format!("SELECT k, d, sum(n) AS n, max(l) AS l FROM ({rows}) p GROUP BY k, d");
    let users = |rows: &str| {
        format!("SELECT k, count(DISTINCT u) FILTER (WHERE u <> {NOBODY}) AS u FROM ({rows}) p GROUP BY k")
    };
    let sql = format!(
        "SELECT count(DISTINCT k) FROM (
            SELECT k FROM ({}) there FULL JOIN ({}) counted USING (k, d) WHERE (there.n, there.l) IS DISTINCT FROM (counted.n, counted.l)
            UNION ALL
            SELECT k FROM ({}) there FULL JOIN ({}) counted USING (k) WHERE there.u IS DISTINCT FROM counted.u) f",
        by_day(&all(&|part| self::by_day(legacy, part, "true"))),
        by_day("SELECT shared_key_id AS k, day AS d, uses AS n, last_used_at AS l FROM public.keytide_migration_uses"),
        users(&all(&|part| by_user(part, "true"))),
        users("SELECT shared_key_id AS k, user_id AS u FROM public.keytide_migration_users"),
    );
    let [found] = numbers(client, &sql).await?;
    Ok(found)
}

/// What was counted before is to be told from what is new.
pub(super) async fn is_known(client: &Client, legacy: &Legacy) -> Result<(), Error> {
    let lost = "SELECT to_regclass('public.keytide_migrations') IS NOT NULL AND to_regclass('public.keytide_migration_days') IS NULL";
    if text(client, lost).await?.concat().concat() != "t" {
        return Ok(());
    }
    let counted = format!(
        "SELECT count(*) FROM public.keytide_migrations WHERE source = {} AND counted_at IS NOT NULL AND dropped_at IS NULL",
        quoted(&legacy.table)
    );
    if numbers(client, &counted).await? == [0] {
        return Ok(());
    }
    Err(Error::Unfit(format!(
        "{} was counted before, and keytide_migration_days, which said which of its rows, is gone: they would be counted twice; \
         if none came since, drop the table by hand",
        legacy.table
    )))
}

/// Whether this is a table at all that a run has made; for whoever enters later.
pub(super) async fn has_summary(client: &Client) -> Result<bool, Error> {
    Ok(!text(client, "SELECT to_regclass('public.key_usage_summary')").await?.concat().concat().is_empty())
}
