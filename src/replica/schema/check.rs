//! Looks at a hub and says what is missing or different, and what to do about each. Changes nothing.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::{CORE, CORE_STREAM, Error, Target};
use crate::replica::wire::SCHEMA;

const APPLY: &str =
    "run `keytide schema apply`, or paste what `keytide schema print` shows into the SQL editor";

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Problem {
    /// The provider's table prefix; `None` for what all providers share.
    pub stream: Option<String>,
    pub what: String,
    pub remedy: String,
    /// Replication works all the same.
    pub harmless: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// The schema that is there; `None` without one.
    pub schema: Option<u32>,
    pub problems: Vec<Problem>,
}

impl Report {
    /// Whether nothing keeps this hub from being used.
    pub fn is_sound(&self) -> bool {
        self.problems.iter().all(|problem| problem.harmless)
    }

    fn add(&mut self, stream: Option<&str>, what: impl Into<String>, remedy: impl Into<String>) {
        let (what, remedy) = (what.into(), remedy.into());
        self.problems.push(Problem { stream: stream.map(str::to_owned), what, remedy, harmless: false });
    }

    fn remark(&mut self, stream: Option<&str>, what: impl Into<String>, remedy: impl Into<String>) {
        self.add(stream, what, remedy);
        if let Some(last) = self.problems.last_mut() {
            last.harmless = true;
        }
    }
}

/// Rows as texts, NULL as an empty one. The simple protocol works behind every pooler.
pub(in crate::replica) async fn text(client: &Client, sql: &str) -> Result<Vec<Vec<String>>, Error> {
    let mut rows = Vec::new();
    for message in client.simple_query(sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            rows.push((0..row.len()).map(|at| row.get(at).unwrap_or_default().to_owned()).collect());
        }
    }
    Ok(rows)
}

async fn one(client: &Client, sql: &str) -> Result<String, Error> {
    Ok(text(client, sql).await?.into_iter().flatten().next().unwrap_or_default())
}

pub(in crate::replica) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// The version of the schema that is there, if there is one.
async fn version(client: &Client) -> Result<Option<u32>, Error> {
    if one(client, "SELECT to_regclass('public.keytide_settings')").await?.is_empty() {
        return Ok(None);
    }
    Ok(one(client, "SELECT schema_version FROM public.keytide_settings").await?.parse().ok())
}

/// A schema that a later keytide has made is left to that one.
pub(super) async fn newer(client: &Client) -> Result<Option<Problem>, Error> {
    Ok(version(client).await?.and_then(newer_than))
}

/// What there is to say of this version, if it is a later one.
pub fn newer_than(found: u32) -> Option<Problem> {
    (found > SCHEMA).then(|| Problem {
        stream: None,
        what: format!("the hub has schema {found}, and this keytide knows {SCHEMA}"),
        remedy: "use a keytide at least as new as the one that made it".to_owned(),
        harmless: false,
    })
}

/// Compares the hub with what this keytide would make of it.
///
/// # Errors
/// When the hub cannot be asked.
pub async fn check(client: &Client, targets: &[Target<'_>]) -> Result<Report, Error> {
    let mut report = Report::default();
    let server: u32 = one(client, "SHOW server_version_num").await?.parse().unwrap_or_default();
    if server < 130_000 {
        report.add(
            None,
            format!("the server is Postgres {}", server / 10_000),
            "keytide needs Postgres 13 or later",
        );
        return Ok(report);
    }
    report.schema = version(client).await?;
    if report.schema.is_none() {
        report.add(None, "the schema is not there", APPLY);
        return Ok(report);
    }
    if let Some(problem) = newer(client).await? {
        report.problems.push(problem);
        return Ok(report);
    }
    functions(client, &mut report).await?;
    let can_ask = text(client, "SELECT to_regprocedure('public.keytide_missing(text)')").await?;
    if can_ask.iter().flatten().any(|found| !found.is_empty()) {
        stream(client, CORE_STREAM, &mut report).await?;
        for target in targets {
            stream(client, target.prefix, &mut report).await?;
            hot_indexes(client, target.prefix, &mut report).await?;
        }
    }
    rights(client, targets, &mut report).await?;
    Ok(report)
}

/// Names and bodies of the functions that this keytide would make.
fn bodies() -> Vec<(&'static str, &'static str)> {
    let mut found = Vec::new();
    for (_, sql) in CORE {
        for text in sql.split("CREATE OR REPLACE FUNCTION public.").skip(1) {
            let name = text.split('(').next().unwrap_or_default();
            if let Some(body) = text.split("$$").nth(1) {
                found.push((name, body));
            }
        }
    }
    found
}

async fn functions(client: &Client, report: &mut Report) -> Result<(), Error> {
    let rows = text(
        client,
        "SELECT proname, prosrc FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'keytide\\_%'",
    )
    .await?;
    for (name, body) in bodies() {
        match rows.iter().find(|row| row[0] == name) {
            None => report.add(None, format!("the function {name} is missing"), APPLY),
            Some(row) if row[1].trim() != body.trim() => {
                report.add(
                    None,
                    format!("the function {name} is not the one that this keytide knows"),
                    APPLY,
                );
            }
            Some(_) => {}
        }
    }
    Ok(())
}

async fn stream(client: &Client, prefix: &str, report: &mut Report) -> Result<(), Error> {
    let missing = text(client, &format!("SELECT unnest(public.keytide_missing({}))", quoted(prefix))).await?;
    for what in missing.into_iter().flatten() {
        let (what, remedy) = if what.starts_with("default for ") || what.contains(" without the ") {
            let remedy = "somebody else's table has the name that keytide uses: change it that way, or rename it and run \
                          `keytide schema apply`, which makes keytide's own";
            (format!("{what} is missing"), remedy.to_owned())
        } else if what.contains(" of another make ") {
            let remedy =
                "run `keytide schema apply --convert`, which moves the rows and compares them; or rename it";
            (what, remedy.to_owned())
        } else if what.contains(") instead of ") {
            let remedy = "run `keytide schema apply`, which widens it; where that changes nothing, a view or rule of yours uses \
                          the column: drop it, apply, and make it again";
            (what, remedy.to_owned())
        } else if what.contains(" instead of ") {
            (
                what,
                "run `keytide schema apply --convert`, which changes the type and keeps the values"
                    .to_owned(),
            )
        } else if let Some(table) = what.strip_prefix("unique index on ") {
            let remedy = duplicates(client, table).await?;
            (format!("{what} is missing"), remedy.unwrap_or_else(|| APPLY.to_owned()))
        } else {
            (format!("{what} is missing"), APPLY.to_owned())
        };
        report.add(Some(prefix), what, remedy);
    }
    Ok(())
}

/// Every update of a row in a statistics table would have to change such an index too.
async fn hot_indexes(client: &Client, prefix: &str, report: &mut Report) -> Result<(), Error> {
    let hot = text(
        client,
        &format!(
            "SELECT DISTINCT i.indexrelid::regclass, i.indrelid::regclass, a.attname
             FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey)
             WHERE c.relnamespace = 'public'::regnamespace AND NOT i.indisunique
               AND c.relname IN (SELECT {} || p FROM unnest('{{_key_stats,_client_tokens,_global_stats,_model_stats,_model_hourly}}'::text[]) p)
               AND a.attname IN ('last_used', 'last_success', 'last_failure', 'total_requests', 'success_count', 'failure_count',
                                 'success_rate', 'request_count', 'requests', 'success', 'failure', 'updated_at', 'stats_xid')
             ORDER BY 1, 3",
            quoted(prefix)
        ),
    )
    .await?;
    for row in hot {
        report.remark(
            Some(prefix),
            format!("the index {} is on {}.{}, which changes with every request", row[0], row[1], row[2]),
            format!("it makes the table grow; if nothing of yours needs it: DROP INDEX {};", row[0]),
        );
    }
    Ok(())
}

/// What to do about rows that stand twice; `table` is `name (columns)`.
async fn duplicates(client: &Client, table: &str) -> Result<Option<String>, Error> {
    let Some((name, columns)) = table.split_once(" (") else { return Ok(None) };
    let columns = columns.trim_end_matches(')');
    let sql = format!(
        "SELECT count(*) FROM (SELECT 1 FROM public.\"{name}\" GROUP BY {columns} HAVING count(*) > 1) d"
    );
    let twice = one(client, &sql).await?;
    Ok((twice != "0").then(|| {
        format!(
            "{twice} values stand more than once, so it cannot be made: merge them (SELECT {columns}, count(*) FROM {name} \
             GROUP BY {columns} HAVING count(*) > 1 lists them), then run `keytide schema apply`"
        )
    }))
}

/// Those of the core that keytide uses; not tables of the same name that are somebody else's.
const CORE_TABLES: &str = "SELECT t.oid FROM pg_class t
    WHERE t.relnamespace = 'public'::regnamespace
      AND t.relname IN ('users', 'shared_keys', 'daily_logs', 'monthly_logs', 'hourly_stats', 'security_events', 'key_usage_logs')
      AND (t.relkind = 'p' OR t.relname = 'monthly_logs' AND t.relkind = 'r'
           OR EXISTS (SELECT 1 FROM pg_trigger g WHERE g.tgrelid = t.oid AND g.tgname = 'keytide_write'))";

/// An application that has users of its own may show them to whom it likes, row by row.
const NOT_SHOWN: &str = "NOT (c.relname IN ('users', 'shared_keys') AND EXISTS (SELECT 1 FROM pg_policy p WHERE p.polrelid = c.oid))";

const FUNCTIONS: &str = "p.pronamespace = 'public'::regnamespace AND p.proname LIKE 'keytide\\_%'";

async fn rights(client: &Client, targets: &[Target<'_>], report: &mut Report) -> Result<(), Error> {
    let ours = format!("c.relname LIKE 'keytide\\_%' OR c.oid IN ({CORE_TABLES})");
    let ours = targets.iter().fold(ours, |sql, target| {
        let prefix = target.prefix;
        format!(
            "{sql} OR c.relname IN ('{prefix}_keys', '{prefix}_key_stats', '{prefix}_client_tokens', '{prefix}_global_stats', \
             '{prefix}_model_stats', '{prefix}_model_hourly')"
        )
    });
    // A partition is a table that can be read by its own name, whatever its parent's rights are.
    let tables = format!(
        "FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.oid IN (
             WITH RECURSIVE tree AS (
                 SELECT c.oid FROM pg_class c
                 WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND ({ours})
                 UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.oid)
             SELECT oid FROM tree)"
    );
    let open =
        text(client, &format!("SELECT c.relname {tables} AND NOT c.relrowsecurity ORDER BY 1")).await?;
    for table in open.into_iter().flatten() {
        report.add(None, format!("row level security is off for {table}"), APPLY);
    }
    let policies = text(
        client,
        &format!(
            "SELECT p.polname, c.relname FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
                  WHERE c.oid IN (SELECT c.oid {tables}) ORDER BY 1, 2"
        ),
    )
    .await?;
    for row in policies {
        let what = format!("the policy {} opens {} to others", row[0], row[1]);
        let remedy = format!("if that is not meant: DROP POLICY \"{}\" ON {};", row[0], row[1]);
        // See `NOT_SHOWN`.
        if matches!(row[1].as_str(), "users" | "shared_keys") {
            report.remark(None, what, remedy);
        } else {
            report.add(None, what, remedy);
        }
    }
    let everybody = text(
        client,
        &format!(
            "SELECT 'table ' || c.relname {tables} AND {NOT_SHOWN}
               AND EXISTS (SELECT 1 FROM aclexplode(c.relacl) a WHERE a.grantee = 0)
             UNION ALL
             SELECT 'column ' || c.relname || '.' || t.attname FROM pg_attribute t JOIN pg_class c ON c.oid = t.attrelid
             WHERE c.oid IN (SELECT c.oid {tables}) AND {NOT_SHOWN} AND EXISTS (SELECT 1 FROM aclexplode(t.attacl) a WHERE a.grantee = 0)
             UNION ALL
             SELECT 'function ' || p.proname FROM pg_proc p
             WHERE {FUNCTIONS}
               AND EXISTS (SELECT 1 FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
             ORDER BY 1"
        ),
    )
    .await?;
    let readable = text(
        client,
        &format!(
            "SELECT r.rolname, 'table ' || c.relname FROM pg_roles r CROSS JOIN (SELECT c.oid, c.relname {tables}) c
             WHERE r.rolname IN ('anon', 'authenticated')
               AND (has_table_privilege(r.oid, c.oid, 'DELETE, TRUNCATE')
                    OR has_any_column_privilege(r.oid, c.oid, 'SELECT, INSERT, UPDATE'))
               AND {NOT_SHOWN}
             UNION ALL
             SELECT r.rolname, 'function ' || p.proname FROM pg_roles r CROSS JOIN pg_proc p
             WHERE r.rolname IN ('anon', 'authenticated') AND {FUNCTIONS}
               AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
             ORDER BY 1, 2"
        ),
    )
    .await?;
    for what in everybody.iter().flatten() {
        report.add(None, format!("everybody (PUBLIC) has rights on the {what}"), APPLY);
    }
    // What everybody has, these have too.
    let said = |row: &Vec<String>| everybody.iter().flatten().any(|what| *what == row[1]);
    for row in readable.iter().filter(|row| !said(row)) {
        report.add(None, format!("the role {} has rights on the {}", row[0], row[1]), APPLY);
    }
    Ok(())
}
