//! Runs the schema on a hub: one transaction, and what it has changed.

use tokio_postgres::Client;

use super::{Error, Target, check, check::text, convert, core, provider_part};

/// What was done, for people, and what is still wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    pub done: Vec<String>,
    pub left: check::Report,
}

/// Makes what is missing. With `convert`, columns of another type that hold the same are made to fit.
///
/// # Errors
/// When the hub refuses, or a conversion would lose something. Then nothing has changed; the error tells where that is
/// not certain.
pub async fn apply(client: &Client, targets: &[Target<'_>], convert: bool) -> Result<Applied, Error> {
    let before = shape(client).await?;
    let newer = check::newer(client).await?;
    if let Some(problem) = newer {
        return Err(Error::Unsafe(format!("{}: {}", problem.what, problem.remedy)));
    }
    client.batch_execute("BEGIN").await?;
    let done = run(client, targets, convert).await;
    if done.is_err() {
        // The connection is the caller's own and goes with it; what matters is that nothing stays.
        let _it_is_over_anyway = client.batch_execute("ROLLBACK").await;
    }
    let mut done = done?;
    client.batch_execute("COMMIT").await.map_err(doubtful)?;
    let unseen = |error: Error| Error::Unseen(error.to_string());
    done.extend(changes(&before, &shape(client).await.map_err(unseen)?));
    let left = check(client, targets).await.map_err(unseen)?;
    Ok(Applied { done, left })
}

/// A hub that answers has not committed, unless it was shut down at that moment.
fn doubtful(error: tokio_postgres::Error) -> Error {
    let refused = error.as_db_error().is_some_and(|db| !db.code().code().starts_with("57P"));
    match Error::from(error) {
        Error::Refused(why) if !refused => Error::Doubtful(why),
        error => error,
    }
}

/// Has the hub keep a row for each request from now on; returns what it says to that.
///
/// # Errors
/// When it refuses: a table of that name and of another make stands there.
pub async fn keep_usage_logs(client: &Client) -> Result<String, Error> {
    match client.query_typed("SELECT public.keytide_usage_logs(true)", &[]).await {
        Ok(rows) => {
            let said = rows.first().and_then(|row| row.try_get::<_, Option<String>>(0).ok().flatten());
            Ok(said.unwrap_or_else(|| "a row per request is kept".to_owned()))
        }
        Err(error) => match error.as_db_error().and_then(|db| Some((db.message(), db.hint()?))) {
            Some((message, hint)) => Err(Error::Refused(format!("{message}. {hint}"))),
            None => Err(error.into()),
        },
    }
}

async fn run(client: &Client, targets: &[Target<'_>], convert: bool) -> Result<Vec<String>, Error> {
    let mut done = Vec::new();
    for part in core() {
        client.batch_execute(&part.sql).await?;
    }
    if convert {
        done.extend(convert::convert_core(client).await?);
    }
    for target in targets {
        let part = provider_part(*target)?;
        if convert {
            done.extend(convert::convert(client, target.prefix).await?);
        }
        client.batch_execute(&part.sql).await?;
    }
    Ok(done)
}

/// What is new, without the parts of tables that are new themselves; functions, of which there are many, as numbers.
fn changes(before: &[Thing], after: &[Thing]) -> Vec<String> {
    let known = |kind: &str, name: &str| before.iter().any(|thing| thing.kind == kind && thing.name == name);
    let (mut done, mut added, mut replaced) = (Vec::new(), 0, 0);
    for thing in after.iter().filter(|thing| !before.contains(thing)) {
        let Thing { kind, name, of } = thing;
        match kind.as_str() {
            "function" if known(kind, name) => replaced += 1,
            "function" => added += 1,
            "table" => done.push(format!("added table {name}")),
            _ if known("table", of) => done.push(format!("added {kind} {name}")),
            _ => {}
        }
    }
    for (count, how) in [(added, "added"), (replaced, "replaced")] {
        match count {
            0 => {}
            1 => done.push(format!("{how} 1 function")),
            count => done.push(format!("{how} {count} functions")),
        }
    }
    done
}

#[derive(PartialEq, Eq)]
struct Thing {
    kind: String,
    name: String,
    /// Of columns and indexes: the table. Of functions: a hash of their text.
    of: String,
}

/// Tables and columns, indexes and functions by name.
async fn shape(client: &Client) -> Result<Vec<Thing>, Error> {
    let rows = text(
        client,
        "SELECT 'table', c.relname, '' FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
         UNION ALL
         SELECT 'index', c.relname, t.relname FROM pg_index i
         JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
         WHERE c.relnamespace = 'public'::regnamespace
         UNION ALL
         SELECT 'column', c.relname || '.' || a.attname, c.relname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
           AND NOT c.relispartition
         UNION ALL
         SELECT 'function', p.oid::regprocedure::text, md5(p.prosrc) FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
         ORDER BY 1, 2",
    )
    .await?;
    let thing = |row: Vec<String>| {
        let [kind, name, of] = <[String; 3]>::try_from(row).ok()?;
        Some(Thing { kind, name, of })
    };
    Ok(rows.into_iter().filter_map(thing).collect())
}
