//! What can be done with a store that no keytide is using.

mod owed;

use std::{
    collections::{HashMap, HashSet},
    fs,
    io::{self, Write},
    path::Path,
};

use redb::{Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata};
use serde::Serialize;
use uuid::Uuid;

use super::{
    FILE_NAME, Sizes, counted,
    error::{Error, Fault, guarded},
    file::{self, Draft},
    load::{self, Contents, place},
    size,
    tables::{self, HEALTH, JOURNAL, KEYS, REPLICATED},
};
use crate::model::{Delta, Health, Usage};

/// What a check found. Rows are named by id, never by what they hold.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    pub file_bytes: u64,
    pub instance: Uuid,
    pub keys: u64,
    pub tokens: u64,
    pub models: u64,
    pub hours: u64,
    /// Deltas that the next start will move into the totals.
    pub journal_entries: u64,
    /// Empty when all is well.
    pub problems: Vec<String>,
}

impl Report {
    pub fn is_sound(&self) -> bool {
        self.problems.is_empty()
    }
}

/// Verifies every page's checksum, reads every row, and compares ids and sums. Changes nothing.
///
/// # Errors
/// The file is in use, foreign, newer, or so damaged that its rows cannot be listed.
pub fn check(dir: &Path) -> Result<Report, Error> {
    check_file(&store_in(dir)?)
}

/// How large the file and its tables are. Changes nothing.
///
/// # Errors
/// As for [`check`].
pub fn size_of(dir: &Path) -> Result<Sizes, Error> {
    let file = store_in(dir)?;
    let (database, _) = file::inspect(&file)?;
    size::measure(&snapshot(&database, &file)?, &file)
}

/// Gives free space back to the file system; returns the file's size before and after.
///
/// # Errors
/// As for [`check`], or the disk is full: compacting needs room to move rows about.
pub fn compact(dir: &Path) -> Result<(u64, u64), Error> {
    let file = store_in(dir)?;
    let length = || fs::metadata(&file).map(|found| found.len()).map_err(|error| Error::io(&file, &error));
    let before = length()?;
    let (mut database, _) = file::open(&file)?;
    guarded(|| {
        // One round frees what the last one has moved.
        while database.compact()? {}
        Ok(database.close()?)
    })
    .map_err(|fault| fault.at(&file))?;
    Ok((before, length()?))
}

/// Puts a backup into place as the store of `dir`, after checking it. Keeps the instance's identity.
///
/// # Errors
/// The backup is not sound, or `dir` has a store already.
pub fn restore(from: &Path, dir: &Path) -> Result<Report, Error> {
    let report = check_file(from)?;
    if let Some(problem) = report.problems.first() {
        return Err(Error::corrupt(from, problem));
    }
    file::prepare_dir(dir)?;
    let file = dir.join(FILE_NAME);
    let (draft, mut raw) = Draft::new(&file)?;
    let mut source = fs::File::open(from).map_err(|error| Error::io(from, &error))?;
    io::copy(&mut source, &mut raw).and_then(|_| raw.flush()).map_err(|error| Error::io(&file, &error))?;
    drop(raw);
    draft.publish()?;
    Ok(report)
}

fn store_in(dir: &Path) -> Result<std::path::PathBuf, Error> {
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => Err(Error::NotAFolder(dir.to_owned())),
        _ => Ok(dir.join(FILE_NAME)),
    }
}

fn snapshot(database: &Database, file: &Path) -> Result<ReadTransaction, Error> {
    guarded(|| Ok(database.begin_read()?)).map_err(|fault| fault.at(file))
}

pub(super) fn check_file(file: &Path) -> Result<Report, Error> {
    let (database, identity) = file::inspect(file)?;
    let file_bytes = fs::metadata(file).map_err(|error| Error::io(file, &error))?.len();
    let txn = snapshot(&database, file)?;
    guarded(|| {
        let contents = load::contents(&txn, identity.instance)?;
        let mut problems = Vec::new();
        ids(&contents, &mut problems);
        healths(&txn, &mut problems)?;
        owed::check(&txn, &mut problems)?;
        counted::check(&txn)?;
        sums(&contents, &replicated(&txn)?, &mut problems);
        let providers = contents.providers.values();
        Ok(Report {
            file_bytes,
            instance: identity.instance,
            keys: providers.clone().map(|found| found.keys.len() as u64).sum(),
            tokens: providers.clone().map(|found| found.tokens.len() as u64).sum(),
            models: providers.clone().map(|found| found.models.len() as u64).sum(),
            hours: providers.map(|found| found.hours.len() as u64).sum(),
            journal_entries: journal(&txn)?,
            problems,
        })
    })
    .map_err(|fault| fault.at(file))
}

fn ids(contents: &Contents, problems: &mut Vec<String>) {
    for (provider, found) in &contents.providers {
        let keys = found.keys.iter().filter(|(id, record, _)| *id != record.id(provider));
        problems.extend(keys.map(|(id, ..)| format!("key {id} of {provider} stands under another key's id")));
        let tokens = found.tokens.iter().filter(|(id, record)| *id != record.id(provider));
        problems.extend(
            tokens.map(|(id, _)| format!("token {id} of {provider} stands under another token's id")),
        );
    }
}

/// Also reads the healths that a load passes over.
fn healths(txn: &ReadTransaction, problems: &mut Vec<String>) -> Result<(), Fault> {
    let keys = txn.open_table(KEYS)?;
    for row in txn.open_table(HEALTH)?.iter()? {
        let (at, value) = row?;
        let (provider, id) = at.value();
        let _: Health = tables::read(value.value(), || place("health of key", provider, id))?;
        if ReadableTable::get(&keys, (provider, id))?.is_none() {
            problems.push(format!("{} belongs to no key", place("health of key", provider, id)));
        }
    }
    Ok(())
}

fn journal(txn: &ReadTransaction) -> Result<u64, Fault> {
    let table = txn.open_table(JOURNAL)?;
    for row in table.iter()? {
        let (seq, value) = row?;
        let _: Delta = tables::read(value.value(), || format!("journal entry {}", seq.value()))?;
    }
    Ok(table.len()?)
}

fn replicated(txn: &ReadTransaction) -> Result<HashSet<Box<str>>, Fault> {
    txn.open_table(REPLICATED)?.iter()?.map(|row| Ok(row?.0.value().into())).collect()
}

/// A provider's total is the sum of its models; a model's hours, of which old ones are gone, exceed it nowhere.
/// Not so where a hub has a say: others may reset or lower single rows there.
fn sums(contents: &Contents, replicated: &HashSet<Box<str>>, problems: &mut Vec<String>) {
    let ours = contents.providers.iter().filter(|(name, _)| !replicated.contains(*name));
    for (provider, found) in ours {
        let mut total = Usage::default();
        found.models.values().for_each(|usage| total.add(usage));
        if total != found.total {
            problems.push(format!("the total of {provider} is not the sum of its models"));
        }
        let mut hours: HashMap<&str, Usage> = HashMap::new();
        for ((_, model), usage) in &found.hours {
            hours.entry(model).or_default().add(usage);
        }
        for (model, sum) in hours {
            if !found.models.get(model).is_some_and(|usage| covers(usage, &sum)) {
                problems.push(format!("the hours of model {model} of {provider} exceed its total"));
            }
        }
    }
}

fn covers(total: &Usage, part: &Usage) -> bool {
    total.counts.success >= part.counts.success
        && total.counts.failure >= part.counts.failure
        && total.counts.other >= part.counts.other
        && total.prompt_tokens >= part.prompt_tokens
        && total.completion_tokens >= part.completion_tokens
        && total.last_used >= part.last_used
}
