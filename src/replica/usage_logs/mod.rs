//! The move from a row per request (`key_usage_logs`) to totals: count, enter, check, drop.
//!
//! 1. [`look`] reads the catalog and says what the table is; [`survey`] counts what is in it. Neither changes anything.
//! 2. [`Run`] counts the table part by part into `keytide_migration_uses`, by key and day, one transaction each, with its place in
//!    `keytide_migrations`: whoever is killed goes on from there. Then, in one transaction that keeps writers out, the sums
//!    are compared with the table, kept in `key_usage_summary`, and entered into `shared_keys` as what was used before
//!    keytide counted, which every instance pulls.
//! 3. [`drop`](drop::drop) compares once more under a lock that lets nobody in, and drops the table in the same transaction.
//!
//! - A use is entered once: `key_usage_summary` says of each id how many of its uses the key's total has, and, until the
//!   table is dropped, `keytide_migration_days` of which days they were: rows that go and rows that come are told apart.
//! - Nothing is entered that was not compared with the table, and nothing is dropped that was not entered or archived.
//! - `usage_stats` is added to; no total falls, and no time is invented.
//!
//! The id of all zeros stands for none. A table that keytide has made itself, for its own rows of seven days, is not
//! touched.

mod count;
mod drop;
mod enter;
mod look;
mod survey;

use tokio_postgres::{Client, error::SqlState};

pub use count::Run;
pub use drop::{Dropped, drop};
pub use enter::{Entered, enter_later};
pub use look::{Found, History, Legacy, State, known_ids, look};
pub use survey::{Survey, survey};

/// The name of the table in the plan.
pub const TABLE: &str = "key_usage_logs";
const NOBODY: &str = "'00000000-0000-0000-0000-000000000000'::uuid";

/// A legacy id, and the key whose uses it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub legacy: uuid::Uuid,
    pub key: uuid::Uuid,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The database refused, or is away.
    #[error("{0}")]
    Database(String),
    /// What is there does not allow it; says what to do.
    #[error("{0}")]
    Unfit(String),
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            return Self::Database(format!("the connection to the database failed: {error}"));
        };
        let said = db.message();
        let advice = match *db.code() {
            SqlState::INSUFFICIENT_PRIVILEGE => {
                "; use the database's owner, who has made these tables and keytide's"
            }
            SqlState::LOCK_NOT_AVAILABLE => "; somebody is working with the table: try again",
            SqlState::DEPENDENT_OBJECTS_STILL_EXIST => {
                let what = db.detail().unwrap_or_default().lines().next().unwrap_or_default();
                return Self::Database(format!(
                    "the database says: {said} ({what}); drop that first, then run this again"
                ));
            }
            SqlState::READ_ONLY_SQL_TRANSACTION => "; name the primary, not a copy that is only read",
            _ => "",
        };
        Self::Database(format!("the database says: {said}{advice}"))
    }
}

impl From<super::schema::Error> for Error {
    fn from(error: super::schema::Error) -> Self {
        Self::Database(error.to_string())
    }
}

/// All or nothing of `work`. Explicitly one that writes: a database that a host has made read-only for its size lets a
/// transaction say so, and this is what makes it smaller.
async fn transaction<T>(client: &Client, work: impl AsyncFnOnce() -> Result<T, Error>) -> Result<T, Error> {
    client
        .batch_execute(
            "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL statement_timeout = 0; \
             SET LOCAL lock_timeout = '30s'; SET LOCAL TIME ZONE 'UTC'; SET LOCAL client_min_messages = error; \
             SELECT pg_advisory_xact_lock(hashtextextended('keytide migrate', 0))",
        )
        .await?;
    match work().await {
        Ok(value) => {
            client.batch_execute("COMMIT").await?;
            Ok(value)
        }
        Err(error) => {
            // Without an answer the connection is gone, and the transaction with it.
            let _it_is_over_anyway = client.batch_execute("ROLLBACK").await;
            Err(error)
        }
    }
}

/// The one row of an answer, as numbers; an empty field is none.
async fn numbers<const N: usize>(client: &Client, sql: &str) -> Result<[u64; N], Error> {
    let row = super::schema::text(client, sql).await?.into_iter().next().unwrap_or_default();
    let mut numbers = [0; N];
    for (number, field) in numbers.iter_mut().zip(row) {
        *number = field.parse().unwrap_or(0);
    }
    Ok(numbers)
}

/// A name as it stands in SQL.
fn name(of: &str) -> String {
    format!("public.\"{}\"", of.replace('"', "\"\""))
}

/// Links as rows of two columns, `legacy` and `key`.
fn rows_of(links: &[Link]) -> String {
    let list = |id: fn(&Link) -> uuid::Uuid| {
        let ids: Vec<String> = links.iter().map(|link| id(link).to_string()).collect();
        format!("'{{{}}}'::uuid[]", ids.join(","))
    };
    format!("unnest({}, {}) AS link (legacy, key)", list(|link| link.legacy), list(|link| link.key))
}
