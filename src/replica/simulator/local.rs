//! What a store does by itself: counts, edits of people, and healths, as they reach its shelf.

use super::{
    shelf::{MemoryShelf, digest},
    tables::hours_kept,
};
use crate::{
    model::{
        CounterId, Health, KeyId, KeyRecord, KeyVersions, Limits, Secret, Stamps, Tally, Timestamp, TokenId,
        TokenRecord, TokenVersions, Version,
    },
    store::shelf::{CORE, Dirty, Gone, KeyEntry, Row, Shelf, TokenEntry},
};

pub fn count(shelf: &mut MemoryShelf, provider: &str, id: &CounterId, more: &Tally) {
    let mut view = shelf.view(provider, id).unwrap();
    view.add(more);
    shelf.set_view(provider, id, &view).unwrap();
    if shelf.is_replicated(provider) {
        let mut open = shelf.open(provider, id).unwrap().unwrap_or_default();
        open.add(more);
        shelf.set_open(provider, id, Some(&open)).unwrap();
    }
}

pub fn soil(shelf: &mut MemoryShelf, provider: &str, row: Row, more: Dirty) {
    // The core says whose each key is.
    if provider != CORE && matches!(row, Row::Key(_)) {
        soil(shelf, CORE, row, CHANGED);
    }
    if !shelf.is_replicated(provider) {
        return;
    }
    let was = shelf.dirty_row(provider, row).unwrap().unwrap_or_default();
    let dirty = Dirty {
        added: (was.added || more.added) && !more.gone,
        gone: (was.gone && !more.added) || more.gone,
        changed: (was.changed || more.changed) && !more.gone,
    };
    shelf.set_dirty(provider, row, Some(dirty)).unwrap();
}

pub const ADDED: Dirty = Dirty { added: true, gone: false, changed: true };
pub const CHANGED: Dirty = Dirty { added: false, gone: false, changed: true };
pub const GONE: Dirty = Dirty { added: false, gone: true, changed: false };

pub fn add_key(shelf: &mut MemoryShelf, provider: &str, text: &str, stamps: &Stamps, now: Timestamp) -> bool {
    let id = KeyId::derive(provider, text);
    if shelf.key(provider, id).unwrap().is_some() {
        return false;
    }
    let row = Row::Key(id);
    if let Some(gone) = shelf.gone(provider, row).unwrap() {
        stamps.observe(gone.version);
        shelf.set_gone(provider, row, None).unwrap();
    }
    let version = stamps.next(now);
    let entry = KeyEntry {
        record: KeyRecord::new(Secret::new(text), now),
        versions: KeyVersions::all(version),
        health: Health { epoch: version, ..Health::default() },
    };
    shelf.put_key(provider, id, &entry).unwrap();
    soil(shelf, provider, row, ADDED);
    true
}

/// Sets one field; returns its version.
pub fn edit_key(
    shelf: &mut MemoryShelf,
    provider: &str,
    id: KeyId,
    stamps: &Stamps,
    now: Timestamp,
    change: impl FnOnce(&mut KeyRecord, &mut KeyVersions, Version),
) -> Option<Version> {
    let mut entry = shelf.key(provider, id).unwrap()?;
    let version = stamps.next(now);
    change(&mut entry.record, &mut entry.versions, version);
    shelf.put_key(provider, id, &entry).unwrap();
    soil(shelf, provider, Row::Key(id), CHANGED);
    Some(version)
}

pub fn change_health(
    shelf: &mut MemoryShelf,
    provider: &str,
    id: KeyId,
    change: impl FnOnce(&mut Health) -> bool,
) {
    let Some(mut entry) = shelf.key(provider, id).unwrap() else { return };
    if change(&mut entry.health) {
        shelf.put_key(provider, id, &entry).unwrap();
        soil(shelf, provider, Row::Key(id), CHANGED);
    }
}

pub fn delete_key(
    shelf: &mut MemoryShelf,
    provider: &str,
    id: KeyId,
    stamps: &Stamps,
    now: Timestamp,
) -> Option<Version> {
    let entry = shelf.key(provider, id).unwrap()?;
    let version = stamps.next(now);
    shelf.remove_key(provider, id).unwrap();
    let text = entry.record.secret;
    let gone = Gone { version, digest: digest(text.expose()), text: Some(text) };
    shelf.set_gone(provider, Row::Key(id), Some(gone)).unwrap();
    soil(shelf, provider, Row::Key(id), GONE);
    Some(version)
}

pub fn add_token(
    shelf: &mut MemoryShelf,
    provider: &str,
    text: &str,
    stamps: &Stamps,
    now: Timestamp,
) -> bool {
    let id = TokenId::derive(provider, text);
    if shelf.token(provider, id).unwrap().is_some() {
        return false;
    }
    let row = Row::Token(id);
    if let Some(gone) = shelf.gone(provider, row).unwrap() {
        stamps.observe(gone.version);
        shelf.set_gone(provider, row, None).unwrap();
    }
    let record = TokenRecord {
        secret: Secret::new(text),
        name: "a token".into(),
        created_at: now,
        expires_at: None,
        user: None,
        limits: Limits::default(),
    };
    let entry = TokenEntry { record, versions: TokenVersions::all(stamps.next(now)) };
    shelf.put_token(provider, id, &entry).unwrap();
    soil(shelf, provider, row, ADDED);
    true
}

pub fn edit_token(
    shelf: &mut MemoryShelf,
    provider: &str,
    id: TokenId,
    stamps: &Stamps,
    now: Timestamp,
    change: impl FnOnce(&mut TokenRecord, &mut TokenVersions, Version),
) {
    let Some(mut entry) = shelf.token(provider, id).unwrap() else { return };
    change(&mut entry.record, &mut entry.versions, stamps.next(now));
    shelf.put_token(provider, id, &entry).unwrap();
    soil(shelf, provider, Row::Token(id), CHANGED);
}

pub fn delete_token(
    shelf: &mut MemoryShelf,
    provider: &str,
    id: TokenId,
    stamps: &Stamps,
    now: Timestamp,
) -> Option<Version> {
    let entry = shelf.token(provider, id).unwrap()?;
    shelf.remove_token(provider, id).unwrap();
    let text = entry.record.secret;
    let version = stamps.next(now);
    let gone = Gone { version, digest: digest(text.expose()), text: Some(text) };
    shelf.set_gone(provider, Row::Token(id), Some(gone)).unwrap();
    soil(shelf, provider, Row::Token(id), GONE);
    Some(version)
}

/// Hours that the hub does not keep will not come back.
pub fn forget_hours(shelf: &mut MemoryShelf, provider: &str, now: i64) {
    let oldest = *hours_kept(now).start();
    for (id, mut inflight) in shelf.inflights(provider, None, usize::MAX).unwrap() {
        if matches!(id, CounterId::Hour(hour, _) if i64::from(hour.0) < oldest) {
            inflight.confirmed = None;
            let left = (!inflight.is_empty()).then_some(&inflight);
            shelf.set_inflight(provider, &id, left).unwrap();
        }
    }
    shelf.commit();
}

/// The highest version on the shelf: what stamps begin with after a start.
pub fn last_version(shelf: &MemoryShelf, provider: &str) -> Version {
    let mut last = Version::ZERO;
    for (_, entry) in shelf.keys(provider, None, usize::MAX).unwrap() {
        last = last.max(entry.versions.latest()).max(entry.health.epoch);
    }
    for (_, entry) in shelf.tokens(provider, None, usize::MAX).unwrap() {
        last = last.max(entry.versions.latest());
    }
    for (_, entry) in shelf.users(None, usize::MAX).unwrap() {
        last = last.max(entry.versions.latest());
    }
    for (_, gone) in shelf.all_gone(provider, None, usize::MAX).unwrap() {
        last = last.max(gone.version);
    }
    last
}
