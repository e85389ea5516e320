//! A hub's space as an operator is told of it, made of what its functions answer.

use std::collections::BTreeMap;

use super::wire::{DidRow, SizeRow, SizesAnswer};
use crate::model::{
    Rung, Space, TableSpace,
    budget::{Advice, AdviceCode, hub_share},
};

/// Tables that are kept in parts, each named after the month or the day that it holds.
const IN_PARTS: [&str; 4] = ["daily_logs", "hourly_stats", "security_events", "key_usage_logs"];
/// What Supabase's free plan includes; beyond it a project is read-only.
pub const SUPABASE_FREE: u64 = 500_000_000;
/// From so many bytes on, giving free space back to the disk is worth locking a table.
const MUCH: u64 = 20_000_000;
/// A share that is reached later than that is no news.
const SOON_DAYS: u64 = 14;

/// Sums up parts; the largest first. `prefixes` are those of the providers' tables.
pub fn tables(rows: &[SizeRow], prefixes: &[String], budget: Option<u64>) -> Vec<TableSpace> {
    let mut sums: BTreeMap<String, TableSpace> = BTreeMap::new();
    for row in rows {
        let name = match row.schema.as_str() {
            "public" | "" => whole(&row.name).to_owned(),
            schema => format!("{schema}.{}", row.name),
        };
        let share_bytes = hub_share(&name, prefixes, budget);
        let sum =
            sums.entry(name.clone()).or_insert(TableSpace { name, share_bytes, ..TableSpace::default() });
        sum.rows = sum.rows.saturating_add(row.rows);
        sum.bytes = sum.bytes.saturating_add(row.heap).saturating_add(row.index).saturating_add(row.toast);
        sum.reusable_bytes = sum.reusable_bytes.saturating_add(row.reusable);
    }
    let mut tables: Vec<_> = sums.into_values().collect();
    tables.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    tables
}

/// The table that a part belongs to.
fn whole(name: &str) -> &str {
    let is_date = |rest: &str| {
        matches!(rest.len(), 8 | 11)
            && rest
                .bytes()
                .enumerate()
                .all(|(at, b)| if matches!(at, 0 | 5 | 8) { b == b'_' } else { b.is_ascii_digit() })
    };
    IN_PARTS.into_iter().find(|of| name.strip_prefix(of).is_some_and(is_date)).unwrap_or(name)
}

/// As far as one answer tells; growth and what was done before are not in it.
pub fn of(found: &SizesAnswer, prefixes: &[String], budget: Option<u64>) -> Space {
    let rung = found.rung.unwrap_or_default();
    Space {
        budget_bytes: budget,
        used_bytes: found.used.or(found.database),
        total_bytes: found.database,
        rung,
        rung_means: rung.means(false).to_owned(),
        tables: tables(&found.tables, prefixes, budget),
        ..Space::default()
    }
}

/// What an operator should do about it. `to_vacuum` are tables for which this instance could not run VACUUM itself, `large`
/// those that the hub could not write anew, `target` where the hub is.
pub fn advice(space: &Space, to_vacuum: &[String], large: &[String], target: &str) -> Vec<Advice> {
    let mut advice = Vec::new();
    if let Some(why) = beyond_plan(target, space.budget_bytes) {
        advice.push(Advice::new(AdviceCode::BeyondPlan, why));
    }
    if !to_vacuum.is_empty() {
        let all: Vec<_> = to_vacuum.iter().map(|table| format!("VACUUM {table};")).collect();
        let all = all.join(" ");
        let text =
            format!("rows that are gone still take space; run in the SQL editor, each by itself: {all}");
        advice.push(Advice::new(AdviceCode::Vacuum, text));
    }
    for table in large.iter().filter(|table| is_table(table)) {
        let text = format!(
            "{table} is too large for the hub to write anew in the few seconds of a call; run in the SQL editor, each by itself, \
             while it is locked: ALTER TABLE {table} SET (fillfactor = 100); VACUUM FULL {table};"
        );
        advice.push(Advice::new(AdviceCode::Rewrite, text));
    }
    if space.rung >= Rung::Early {
        let rows = space
            .tables
            .iter()
            .filter(|table| table.reusable_bytes >= MUCH && table.reusable_bytes * 2 > table.bytes);
        advice.extend(rows.map(|table| {
            let megabytes = table.reusable_bytes / 1_000_000;
            let name = &table.name;
            let text = format!(
                "`VACUUM FULL {name}` gives {megabytes} MB back to the disk; {name} is locked meanwhile"
            );
            Advice::new(AdviceCode::VacuumFull, text)
        }));
    }
    if space.rung >= Rung::Bare {
        advice.push(Advice::new(
            AdviceCode::RaiseBudget,
            "make room: delete what is not keytide's, or raise [budget] hub if the plan allows for it",
        ));
    }
    advice.extend(soon(&space.tables));
    advice
}

/// Tables that will have used up their shares before long.
pub fn soon(tables: &[TableSpace]) -> impl Iterator<Item = Advice> {
    tables.iter().filter_map(|table| {
        let name = &table.name;
        let text = match table.days_left? {
            0 => format!("table {name} is beyond its share of the budget"),
            1 => format!("at this rate table {name} reaches its share in a day"),
            days @ ..=SOON_DAYS => format!("at this rate table {name} reaches its share in {days} days"),
            _ => return None,
        };
        Some(Advice::new(AdviceCode::ShareSoon, text))
    })
}

/// Why rows of single requests are not kept there, though they are wanted.
pub fn without_logs(usage_logs: Option<&str>) -> Option<&'static str> {
    match usage_logs {
        Some("on") => None,
        Some("foreign") => Some(
            "usage_log is on, and the hub has a table key_usage_logs of another make: move its totals with `keytide migrate \
             usage-logs` and drop it, or rename it, then run `keytide schema apply --usage-logs`",
        ),
        Some(_) => {
            Some("usage_log is on, and the hub keeps no such rows: run `keytide schema apply --usage-logs`")
        }
        None => Some(
            "usage_log is on, and the hub's functions are older than that: run `keytide schema apply --usage-logs`",
        ),
    }
}

/// On Supabase's hosts a budget above the free plan's size deserves a word.
pub fn beyond_plan(target: &str, budget: Option<u64>) -> Option<String> {
    let host = target.split("://").last()?.split(['/', ':']).next()?;
    let is_supabase = [".supabase.co", ".supabase.com"].iter().any(|domain| host.ends_with(domain));
    (is_supabase && budget.is_none_or(|budget| budget > SUPABASE_FREE)).then(|| {
        "Supabase's free plan is read-only beyond 500 MB, and [budget] hub is above that: set it to \"450MB\" unless the \
         project is on a larger plan"
            .to_owned()
    })
}

/// What was done, for people; steps on the same table are added up by the caller.
pub fn did(row: &DidRow) -> String {
    let rows = |count: u64| if count == 1 { "1 row".to_owned() } else { format!("{count} rows") };
    let DidRow { what, table, rows: count, parts } = row;
    match (what.as_str(), parts) {
        ("dropped", 1..) => format!("{table}: {parts} parts dropped, with {}", rows(*count)),
        ("dropped" | "deleted", _) => format!("{table}: {} deleted", rows(*count)),
        ("folded", _) => format!("{table}: {} folded", rows(*count)),
        ("rolled", _) => format!("{table}: {} brought to the new day", rows(*count)),
        ("settled", _) => format!("{table}: compacted"),
        (what, _) => format!("{table}: {what} ({})", rows(*count)),
    }
}

/// Whether that is a table's name as SQL writes it, schema first. It becomes part of a statement.
pub fn is_table(text: &str) -> bool {
    let (mut rest, mut parts) = (text, 0);
    loop {
        let after = match rest.strip_prefix('"') {
            Some(quoted) => {
                let Some(end) = quoted.replace("\"\"", "xx").find('"') else { return false };
                if end == 0 || quoted.contains('\0') {
                    return false;
                }
                &quoted[end + 1..]
            }
            None => {
                let is_part =
                    |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '$');
                let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
                if end == 0 || rest.starts_with(|c: char| c.is_ascii_digit()) {
                    return false;
                }
                &rest[end..]
            }
        };
        parts += 1;
        match after.strip_prefix('.') {
            Some(next) if parts < 2 => rest = next,
            _ => return after.is_empty() && parts == 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, heap: u64) -> SizeRow {
        SizeRow {
            schema: "public".to_owned(),
            name: name.to_owned(),
            rows: 1,
            heap,
            index: 1,
            ..SizeRow::default()
        }
    }

    #[test]
    fn parts_are_one_table_and_foreign_ones_are_named_with_their_schema() {
        let mut foreign = row("keys", 5);
        foreign.schema = "auth".to_owned();
        let rows =
            [row("daily_logs_2026_11", 10), row("daily_logs_2026_12", 20), row("daily_logs_old", 3), foreign];
        let found = tables(&rows, &[], Some(1_000));
        let brief: Vec<_> = found.iter().map(|t| (t.name.as_str(), t.bytes, t.rows, t.share_bytes)).collect();
        assert_eq!(
            brief,
            [("daily_logs", 32, 2, Some(200)), ("auth.keys", 6, 1, None), ("daily_logs_old", 4, 1, None)]
        );
        assert_eq!(whole("hourly_stats_2026_11_22"), "hourly_stats");
        assert_eq!(whole("hourly_stats_2026_1122"), "hourly_stats_2026_1122");
    }

    #[test]
    fn only_names_of_tables_become_part_of_a_statement() {
        for name in ["public.daily_logs_2026_11", "public.\"Mixed \"\"Case\"\"\"", "\"a.b\".c$d"] {
            assert!(is_table(name), "{name}");
        }
        for text in [
            "",
            "t",
            "public.",
            ".t",
            "public.t; DROP TABLE x",
            "public.t x",
            "a.b.c",
            "public.\"t",
            "public.\"\"",
            "Public.t",
            "1.t",
        ] {
            assert!(!is_table(text), "{text}");
        }
    }

    #[test]
    fn what_is_to_be_done_is_said() {
        let space = Space {
            budget_bytes: Some(1_000_000_000),
            rung: Rung::Bare,
            tables: vec![
                TableSpace {
                    name: "a".into(),
                    bytes: 50_000_000,
                    reusable_bytes: 30_000_000,
                    ..TableSpace::default()
                },
                TableSpace { name: "b".into(), days_left: Some(3), ..TableSpace::default() },
                TableSpace { name: "c".into(), days_left: Some(15), ..TableSpace::default() },
            ],
            ..Space::default()
        };
        let large = ["public.d".to_owned(), "public.e; DROP TABLE f".to_owned()];
        let target = "postgresql://db.abc.supabase.co:5432/postgres";
        let all = advice(&space, &["public.a".to_owned()], &large, target);
        let all = all.into_iter().map(|advice| advice.text).collect::<Vec<_>>().join("\n");
        assert!(!all.contains("DROP"), "{all}");
        for part in [
            "500 MB",
            "VACUUM FULL public.d;",
            "VACUUM public.a;",
            "`VACUUM FULL a` gives 30 MB",
            "make room",
            "table b reaches its share in 3 days",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert!(!all.contains("table c"), "{all}");
        let calm = Space { rung: Rung::Normal, tables: Vec::new(), ..space };
        assert!(advice(&calm, &[], &[], "https://supabase.co.example/rest/v1").is_empty());
    }

    #[test]
    fn budgets_within_the_free_plan_are_no_news() {
        assert!(beyond_plan("https://abc.supabase.co/rest/v1", Some(450_000_000)).is_none());
        assert!(beyond_plan("https://abc.supabase.co/rest/v1", None).is_some());
        assert!(
            beyond_plan("postgresql://aws-0-eu.pooler.supabase.com:6543/postgres", Some(SUPABASE_FREE + 1))
                .is_some()
        );
        assert!(beyond_plan("postgresql://127.0.0.1:5432/postgres", None).is_none());
    }
}
