//! What has to come of batches in whatever order they arrive.
//!
//! Left out is what the rules let depend on the order: what is said of a key's fields while it is not there is said to
//! nobody, since only an add makes a row.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::{
    super::{core::hour_of, shelf::digest},
    crowd::Pushed,
    database::Retired,
    order::same,
};
use crate::{
    model::Version,
    replica::{
        protocol::text::{self, Shift, hex},
        wire::{KeyRow, RowAnswers, Rows},
    },
};

/// Fields and their versions; those without are as old as the row.
const KEY: [(&str, &str); 7] =
    [("u", "uv"), ("n", "nv"), ("x", "xv"), ("w", "wv"), ("e", "ev"), ("d", "dv"), ("c", "a")];
const TOKEN: [(&str, &str); 5] = [("n", "nv"), ("x", "xv"), ("m", "mv"), ("r", "rv"), ("c", "a")];

/// Keys and tokens, by kind and text, of which something was said while they were not there.
pub type Unheard = BTreeSet<(String, String, String)>;

/// Of `stream`, which holds this at `now`.
pub fn check(
    stream: &str,
    now: i64,
    pushed: &[Pushed],
    unheard: &Unheard,
    held: &Rows,
    retired: &Retired,
) -> Result<(), String> {
    let applied: Vec<(Value, &RowAnswers)> = pushed
        .iter()
        .filter(|(request, answer)| request.stream == stream && answer.status == "applied")
        .map(|(request, answer)| (json!(request.rows), &answer.rows))
        .collect();
    let held = json!(held);
    let mut expected = counted(&applied);
    // Of the hours of keys only the last ones are shown.
    let is_shown = |at: &str| {
        let hour = at.strip_prefix("kh ").and_then(|at| at.rsplit(' ').next()?.parse::<u32>().ok());
        hour.is_none_or(|hour| hour + 49 >= hour_of(now))
    };
    expected.retain(|at, _| is_shown(at));
    let there = counts(stream, &held, retired);
    same("the sum of all batches", &expected, &there, stream)?;
    for (name, kind, fields) in [("keys", "key", &KEY[..]), ("tokens", "token", &TOKEN[..])] {
        for (k, said) in said(&applied, name, kind) {
            let was_heard = !unheard.contains(&(stream.to_owned(), kind.to_owned(), k.clone()));
            check_row(stream, kind, &k, &said, fields, was_heard, &held, retired)?;
        }
    }
    Ok(())
}

type Counts = BTreeMap<String, [i64; 8]>;

/// Sums, and the last of dates.
fn count(counts: &mut Counts, at: String, row: &Value) {
    let counts = counts.entry(at).or_default();
    for (n, name) in ["s", "f", "o", "p", "q", "lu", "ls", "lf"].iter().enumerate() {
        let number = row[*name].as_i64().unwrap_or_default();
        counts[n] = if n < 5 { counts[n] + number } else { counts[n].max(number) };
    }
}

fn count_all(counts: &mut Counts, rows: &Value, expired: &[(String, usize)]) {
    let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
    for (name, kind) in [("key_stats", "key"), ("token_stats", "token")] {
        for row in list(rows, name) {
            count(counts, format!("{kind} {}", hex(&digest(&text(row, "k")))), row);
        }
    }
    list(rows, "models").for_each(|row| count(counts, format!("model {}", text(row, "m")), row));
    for (at, row) in list(rows, "hours").enumerate() {
        if !expired.contains(&("hours".to_owned(), at)) {
            let mut row = row.clone();
            row["lu"].take();
            count(counts, format!("hour {} {}", row["h"], text(&row, "m")), &row);
        }
    }
    for (at, row) in list(rows, "tallies").enumerate() {
        if !expired.contains(&("tallies".to_owned(), at)) {
            // The last use of a user's day may be that of its last key.
            let mut sums = row.clone();
            sums["lu"].take();
            count(counts, format!("{} {} {}", text(row, "t"), text(row, "i"), row["n"]), &sums);
        }
    }
    if rows["global"].is_object() {
        count(counts, "global".to_owned(), &rows["global"]);
    }
}

fn counted(applied: &[(Value, &RowAnswers)]) -> Counts {
    let mut counts = Counts::new();
    applied.iter().for_each(|(rows, answers)| count_all(&mut counts, rows, &answers.expired));
    counts.retain(|_, counts| *counts != [0; 8]);
    counts
}

fn counts(stream: &str, held: &Value, retired: &Retired) -> Counts {
    let mut counts = Counts::new();
    count_all(&mut counts, held, &[]);
    for (at, (sums, success, failure)) in retired {
        let Some(at) = at.strip_prefix(stream).and_then(|at| at.strip_prefix(' ')) else { continue };
        let mut row = json!(sums);
        (row["ls"], row["lf"]) = (json!(success), json!(failure));
        count(&mut counts, at.to_owned(), &row);
    }
    counts.retain(|_, counts| *counts != [0; 8]);
    counts
}

/// Of one key or token.
#[derive(Default)]
struct Said {
    rows: Vec<Value>,
    added: Option<i64>,
    /// The age of the youngest that was spoken of without having been added.
    spoken_of: Option<i64>,
    deleted: Option<i64>,
}

fn list<'a>(rows: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    rows[name].as_array().into_iter().flatten()
}

fn said(applied: &[(Value, &RowAnswers)], name: &str, kind: &str) -> BTreeMap<String, Said> {
    let mut all: BTreeMap<String, Said> = BTreeMap::new();
    for (rows, answers) in applied {
        for (at, row) in list(rows, name).enumerate() {
            let said = all.entry(row["k"].as_str().unwrap().to_owned()).or_default();
            let place = (name.to_owned(), at);
            if answers.clock.contains(&place) {
                continue;
            }
            let a = row["a"].as_i64();
            if row["add"] == true {
                said.added = said.added.max(a);
            } else {
                said.spoken_of = said.spoken_of.max(a);
            }
            said.rows.push(row.clone());
        }
    }
    for (k, said) in &mut all {
        let id = hex(&digest(k));
        for (rows, answers) in applied {
            for (at, row) in list(rows, "gone").enumerate() {
                if row["t"] == kind
                    && row["id"] == id.as_str()
                    && !answers.clock.contains(&("gone".to_owned(), at))
                {
                    said.deleted = said.deleted.max(row["v"].as_i64());
                }
            }
        }
    }
    all
}

/// Deletions against adds by version; and of one that was never deleted, every field as it was set last.
#[expect(clippy::too_many_arguments, reason = "all that is known of one row")]
fn check_row(
    stream: &str,
    kind: &str,
    k: &str,
    said: &Said,
    fields: &[(&str, &str)],
    was_heard: bool,
    held: &Value,
    retired: &Retired,
) -> Result<(), String> {
    // Added by other hands, who are not here. Or an instance was told that it is gone, and not when: it takes that for
    // as old as the add, and of the two the first holds.
    if said.spoken_of > said.added || said.deleted.is_some() && said.added == said.deleted {
        return Ok(());
    }
    let id = hex(&digest(k));
    let (rows, stats) = if kind == "key" { ("keys", "key_stats") } else { ("tokens", "token_stats") };
    let find = |name: &str| list(held, name).find(|row| row["k"] == k);
    let (row, buried) =
        (find(rows), list(held, "gone").find(|row| row["t"] == kind && row["id"] == id.as_str()));
    let what = |text: &str| {
        Err(format!(
            "{stream}: {kind} {k}: {text}: added {:?}, deleted {:?}, there {row:?}",
            said.added, said.deleted
        ))
    };
    let is_alive = said.added > said.deleted;
    if row.is_some() != is_alive {
        return what("there or not");
    }
    if buried.map(|row| row["v"].as_i64()) != said.deleted.filter(|_| !is_alive).map(Some) {
        return what("its tombstone");
    }
    let has_retired = retired.contains_key(&format!("{stream} {kind} {id}"));
    if is_alive && has_retired || !is_alive && find(stats).is_some() {
        return what("where its counts are");
    }
    let Some(row) = row else { return Ok(()) };
    if row["a"].as_i64() != said.added {
        return what("since when");
    }
    if said.deleted.is_some() || !was_heard {
        return Ok(());
    }
    for (field, version) in fields {
        let of = |row: &Value| row[*version].as_i64().max(row["a"].as_i64());
        let latest = said.rows.iter().map(of).max().flatten();
        // Two copies of a file may say two things in the same microsecond; and a date is shifted by whoever says it.
        let values: BTreeSet<String> =
            said.rows.iter().filter(|row| of(row) == latest).map(|row| row[*field].to_string()).collect();
        if of(row) != latest || !values.contains(&row[*field].to_string()) {
            return what(&format!("{field} is to be one of {values:?} of {latest:?}"));
        }
    }
    if kind == "key" {
        let health = |row: &Value| {
            let row: KeyRow = serde_json::from_value(row.clone()).unwrap();
            text::of_age(text::key_entry(&row, Shift(0)).health, Version(said.added.unwrap_or_default()))
        };
        let mut all = health(&said.rows[0]);
        for row in &said.rows {
            all.merge(&health(row));
        }
        if health(row) != all {
            return what(&format!("its health is to be {all:?}"));
        }
    }
    Ok(())
}
