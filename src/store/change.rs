//! What people decide, as rows: each field with the version that says when it was decided.

use redb::WriteTransaction;

use super::{
    desk::{Desk, digest, health_since, user_digest},
    error::Fault,
    kept::Undo,
    shelf::{CORE, Dirty, Gone, KeyEntry, Row, TokenEntry, UserEntry},
};
use crate::model::{
    Health, KeyId, KeyRecord, KeyVersions, Secret, TokenId, TokenRecord, TokenVersions, UserId, UserRecord,
    UserVersions, Version,
};

#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Adds the key or replaces its record; its health stays.
    PutKey {
        provider: Box<str>,
        record: KeyRecord,
    },
    /// Removes the key and its health; its statistics stay.
    DeleteKey {
        provider: Box<str>,
        id: KeyId,
    },
    /// Merges what was concluded about a key into what is known, after all that was appended before. Nothing
    /// happens when there is no such key.
    PutHealth {
        provider: Box<str>,
        id: KeyId,
        health: Health,
    },
    PutToken {
        provider: Box<str>,
        record: TokenRecord,
    },
    /// Removes the token; its statistics stay.
    DeleteToken {
        provider: Box<str>,
        id: TokenId,
    },
    PutUser {
        id: UserId,
        record: UserRecord,
    },
    /// Removes the user. Tokens stay, and are refused as long as their user is not there.
    DeleteUser {
        id: UserId,
    },
}

impl Change {
    fn row(&self) -> (&str, Row) {
        match self {
            Self::PutKey { provider, record } => (provider, Row::Key(record.id(provider))),
            Self::DeleteKey { provider, id } | Self::PutHealth { provider, id, .. } => {
                (provider, Row::Key(*id))
            }
            Self::PutToken { provider, record } => (provider, Row::Token(record.id(provider))),
            Self::DeleteToken { provider, id } => (provider, Row::Token(*id)),
            Self::PutUser { id, .. } | Self::DeleteUser { id } => (CORE, Row::User(*id)),
        }
    }

    /// Whether older health may still lie in the journal, to be folded first so that it cannot win later.
    pub(super) fn settles_health(&self) -> bool {
        matches!(self, Self::DeleteKey { .. } | Self::PutHealth { .. })
    }
}

/// Makes the changes, all of them of one `version`; returns what takes them back.
pub(super) fn apply(
    txn: &WriteTransaction,
    changes: &[Change],
    version: Version,
) -> Result<Vec<Undo>, Fault> {
    // In the order of the rows each page is touched once; changes of one row keep their order.
    let mut sorted: Vec<_> = changes.iter().map(|change| (change.row(), change)).collect();
    sorted.sort_by_key(|(row, _)| *row);
    let mut desk = Desk::new(txn, true);
    for ((provider, row), change) in sorted {
        match (row, change) {
            (Row::Key(id), Change::PutKey { record, .. }) => {
                put_key(&mut desk, provider, id, record, version)?;
            }
            (Row::Key(id), Change::PutHealth { health, .. }) => {
                desk.merge_health(provider, id, health)?;
            }
            (Row::Key(id), _) => {
                if let Some(record) = desk.remove_key(provider, id)? {
                    share(&mut desk, id)?;
                    delete(&mut desk, provider, row, &record.secret, version)?;
                }
            }
            (Row::Token(id), Change::PutToken { record, .. }) => {
                put_token(&mut desk, provider, id, record, version)?;
            }
            (Row::User(id), Change::PutUser { record, .. }) => put_user(&mut desk, id, record, version)?,
            (Row::User(id), _) => {
                if desk.remove_user(id)? {
                    let gone = Gone { version, digest: user_digest(id), text: None };
                    desk.set_gone(provider, row, Some(&gone))?;
                    desk.mark(provider, row, |dirty| *dirty = Dirty { gone: true, ..Dirty::default() })?;
                }
            }
            (Row::Token(id), _) => {
                if let Some(record) = desk.remove_token(provider, id)? {
                    delete(&mut desk, provider, row, &record.secret, version)?;
                }
            }
        }
    }
    Ok(desk.close())
}

fn put_key(
    desk: &mut Desk<'_>,
    provider: &str,
    id: KeyId,
    record: &KeyRecord,
    version: Version,
) -> Result<(), Fault> {
    let mut shares = true;
    let (entry, is_new) = match desk.key(provider, id)? {
        Some(before) => {
            let mut versions = before.versions;
            stamp_key(&mut versions, &before.record, record, version);
            if (&before.record, before.versions) == (record, versions) {
                return Ok(());
            }
            shares = (before.record.owner, before.record.enabled) != (record.owner, record.enabled);
            (KeyEntry { record: record.clone(), versions, health: before.health }, false)
        }
        None => {
            let versions = KeyVersions::all(version);
            (KeyEntry { record: record.clone(), versions, health: health_since(version, None) }, true)
        }
    };
    desk.put_key(provider, id, &entry)?;
    if shares {
        share(desk, id)?;
    }
    put(desk, provider, Row::Key(id), is_new)
}

/// The core says whose each key is.
fn share(desk: &mut Desk<'_>, id: KeyId) -> Result<(), Fault> {
    desk.mark(CORE, Row::Key(id), |dirty| dirty.changed = true)
}

fn put_token(
    desk: &mut Desk<'_>,
    provider: &str,
    id: TokenId,
    record: &TokenRecord,
    version: Version,
) -> Result<(), Fault> {
    let (versions, is_new) = match desk.token(provider, id)? {
        Some(before) => {
            let mut versions = before.versions;
            stamp_token(&mut versions, &before.record, record, version);
            if (&before.record, before.versions) == (record, versions) {
                return Ok(());
            }
            (versions, false)
        }
        None => (TokenVersions::all(version), true),
    };
    desk.put_token(provider, id, &TokenEntry { record: record.clone(), versions })?;
    put(desk, provider, Row::Token(id), is_new)
}

fn put_user(desk: &mut Desk<'_>, id: UserId, record: &UserRecord, version: Version) -> Result<(), Fault> {
    let (versions, is_new) = match desk.user(id)? {
        Some(before) => {
            let mut versions = before.versions;
            stamp_user(&mut versions, &before.record, record, version);
            if (&before.record, before.versions) == (record, versions) {
                return Ok(());
            }
            (versions, false)
        }
        None => (UserVersions::all(version), true),
    };
    desk.put_user(id, &UserEntry { record: record.clone(), versions })?;
    put(desk, CORE, Row::User(id), is_new)
}

/// Whoever adds it again has decided so later than it was deleted.
fn put(desk: &mut Desk<'_>, provider: &str, row: Row, is_new: bool) -> Result<(), Fault> {
    if is_new {
        desk.set_gone(provider, row, None)?;
    }
    desk.mark(provider, row, |dirty| {
        *dirty = Dirty { added: dirty.added || is_new, gone: false, changed: true };
    })
}

fn delete(
    desk: &mut Desk<'_>,
    provider: &str,
    row: Row,
    secret: &Secret,
    version: Version,
) -> Result<(), Fault> {
    // Counts of it may be on their way to the hub, which takes them by the text. Nobody else needs it.
    let text = desk.replicates(provider)?.then(|| secret.clone());
    desk.set_gone(provider, row, Some(&Gone { version, digest: digest(secret), text }))?;
    desk.mark(provider, row, |dirty| *dirty = Dirty { gone: true, ..Dirty::default() })
}

fn stamp_key(versions: &mut KeyVersions, before: &KeyRecord, now: &KeyRecord, version: Version) {
    let stamp = |field: &mut Version, differs: bool| {
        if differs {
            *field = version;
        }
    };
    stamp(&mut versions.username, before.username != now.username);
    stamp(&mut versions.note, before.note != now.note);
    stamp(&mut versions.expires_at, before.expires_at != now.expires_at);
    stamp(&mut versions.weight, before.weight != now.weight);
    // One decision of a person's: halves of two such would make a third that nobody took.
    let switched = (before.enabled, before.disabled_until) != (now.enabled, now.disabled_until);
    stamp(&mut versions.enabled, switched);
    stamp(&mut versions.disabled_until, switched);
    stamp(&mut versions.owner, before.owner != now.owner);
}

fn stamp_token(versions: &mut TokenVersions, before: &TokenRecord, now: &TokenRecord, version: Version) {
    let stamp = |field: &mut Version, differs: bool| {
        if differs {
            *field = version;
        }
    };
    stamp(&mut versions.name, before.name != now.name);
    stamp(&mut versions.expires_at, before.expires_at != now.expires_at);
    stamp(&mut versions.user, before.user != now.user);
    versions.limits.stamp(&before.limits, &now.limits, version);
}

fn stamp_user(versions: &mut UserVersions, before: &UserRecord, now: &UserRecord, version: Version) {
    let stamp = |field: &mut Version, differs: bool| {
        if differs {
            *field = version;
        }
    };
    stamp(&mut versions.name, before.name != now.name);
    stamp(&mut versions.note, before.note != now.note);
    stamp(&mut versions.enabled, before.enabled != now.enabled);
    versions.limits.stamp(&before.limits, &now.limits, version);
}
