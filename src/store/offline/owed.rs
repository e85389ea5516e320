//! Whether what is kept for a hub can be read, and belongs to what there is.

use redb::{ReadTransaction, ReadableTable};

use crate::{
    model::{CounterId, KeyId, KeyVersions, Tally},
    store::{
        codec::Record,
        desk::{GoneRecord, read_packed},
        error::Fault,
        load::place,
        shelf::{CORE, Dirty, Inflight, Row},
        tables::{
            self, CounterKey, DIGESTS, DIRTY, GONE, INFLIGHT, KEY_VERSIONS, KEYS, OPEN, Of, TOKENS, USERS,
            counter_of, row_of,
        },
    },
};

pub(super) fn check(txn: &ReadTransaction, problems: &mut Vec<String>) -> Result<(), Fault> {
    versions(txn, problems)?;
    rows(txn, problems)?;
    counters::<Tally>(txn, OPEN, "an open delta", problems)?;
    counters::<Inflight>(txn, INFLIGHT, "a delta under way", problems)
}

fn versions(txn: &ReadTransaction, problems: &mut Vec<String>) -> Result<(), Fault> {
    let keys = txn.open_table(KEYS)?;
    for row in txn.open_table(KEY_VERSIONS)?.iter()? {
        let (at, value) = row?;
        let (provider, id) = at.value();
        let _: KeyVersions = read_packed(value.value(), || place("versions of key", provider, id))?;
        if keys.get((provider, id))?.is_none() {
            problems.push(format!("{} belong to no key", place("versions of key", provider, id)));
        }
    }
    Ok(())
}

fn rows(txn: &ReadTransaction, problems: &mut Vec<String>) -> Result<(), Fault> {
    let users = txn.open_table(USERS)?;
    let (keys, tokens, gone) = (txn.open_table(KEYS)?, txn.open_table(TOKENS)?, txn.open_table(GONE)?);
    let exists = |provider: &str, row: Row| match row {
        Row::Key(id) => Ok::<_, Fault>(keys.get((provider, id.0))?.is_some()),
        Row::Token(id) => Ok(tokens.get((provider, id.0))?.is_some()),
        Row::User(id) => Ok(users.get(id.0)?.is_some()),
    };
    let known = |(provider, kind, id): (&str, u8, u128), problems: &mut Vec<String>, what: &str| {
        let row = row_of(kind, id);
        if row.is_none() {
            problems.push(format!("{} is of no known kind", place(what, provider, id)));
        }
        row
    };
    for row in gone.iter()? {
        let (at, value) = row?;
        let (provider, _, id) = at.value();
        let _: GoneRecord = tables::read(value.value(), || place("deletion of", provider, id))?;
        known(at.value(), problems, "deletion of");
    }
    for row in txn.open_table(DIRTY)?.iter()? {
        let (at, value) = row?;
        let (provider, kind, id) = at.value();
        let dirty: Dirty = tables::read(value.value(), || place("change of", provider, id))?;
        let Some(row) = known(at.value(), problems, "change of") else { continue };
        if (provider, row) == (CORE, Row::Key(KeyId(id))) {
            // Of some provider: whose it is.
            continue;
        }
        let there =
            if dirty.gone { gone.get((provider, kind, id))?.is_some() } else { exists(provider, row)? };
        if !there {
            problems.push(format!("{} belongs to nothing", place("change of", provider, id)));
        }
    }
    for row in txn.open_table(DIGESTS)?.iter()? {
        let (at, value) = row?;
        let (provider, kind, digest) = at.value();
        let id = <[u8; 16]>::try_from(value.value()).ok().map(u128::from_be_bytes);
        let found = match id.and_then(|id| row_of(kind, id)) {
            Some(row) => exists(provider, row)? || gone.get(tables::row_at(provider, row))?.is_some(),
            None => false,
        };
        if !found {
            problems.push(format!("{} belongs to nothing", place("digest", provider, digest)));
        }
    }
    Ok(())
}

fn counters<T: Record>(
    txn: &ReadTransaction,
    table: Of<CounterKey>,
    what: &str,
    problems: &mut Vec<String>,
) -> Result<(), Fault> {
    for row in txn.open_table(table)?.iter()? {
        let (at, value) = row?;
        let (provider, kind, number, name) = at.value();
        let _: T = tables::read(value.value(), || format!("{what} of {provider}"))?;
        let id: Option<CounterId> = counter_of(kind, number, name);
        if id.is_none() {
            problems.push(format!("{what} of {provider} is of no known kind"));
        }
    }
    Ok(())
}
