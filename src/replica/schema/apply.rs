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
/// When the hub refuses, or a conversion would lose something. Then nothing has changed.
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
    client.batch_execute("COMMIT").await?;
    for (kind, name) in shape(client).await? {
        if !before.contains(&(kind.clone(), name.clone())) {
            done.push(format!("added {kind} {name}"));
        }
    }
    let left = check(client, targets).await?;
    Ok(Applied { done, left })
}

async fn run(client: &Client, targets: &[Target<'_>], convert: bool) -> Result<Vec<String>, Error> {
    let mut done = Vec::new();
    for part in core() {
        client.batch_execute(&part.sql).await?;
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

/// Tables and columns, indexes and functions by name.
async fn shape(client: &Client) -> Result<Vec<(String, String)>, Error> {
    let rows = text(
        client,
        "SELECT CASE c.relkind WHEN 'i' THEN 'index' ELSE 'table' END, c.relname FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'i')
         UNION ALL
         SELECT 'column', c.relname || '.' || a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND a.attnum > 0 AND NOT a.attisdropped
         UNION ALL
         SELECT DISTINCT 'function', p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
         ORDER BY 1, 2",
    )
    .await?;
    Ok(rows.into_iter().map(|mut row| (row.swap_remove(0), row.swap_remove(0))).collect())
}
