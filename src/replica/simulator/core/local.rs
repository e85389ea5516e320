//! What a store does by itself with rows of the core, as they reach its shelf.

use crate::{
    model::{
        KeyId, KeyRecord, KeyVersions, Limits, Set, SetId, Stamps, Timestamp, UserId, UserRecord,
        UserVersions, Version,
    },
    replica::simulator::{
        local::{self, ADDED, CHANGED, GONE, soil},
        shelf::{MemoryShelf, digest},
    },
    store::shelf::{CORE, Gone, Row, Shelf, UserEntry},
};

/// What is new in it waits to be told.
pub fn put_into(shelf: &mut MemoryShelf, id: SetId, more: &Set) {
    let mut all = shelf.set(id).unwrap();
    let new = all.add(id.kind, more);
    if new.is_empty() {
        return;
    }
    shelf.put_set(id, &all).unwrap();
    if shelf.is_replicated(CORE) {
        let mut untold = shelf.open_set(id).unwrap();
        untold.add(id.kind, &new);
        shelf.put_open_set(id, &untold).unwrap();
    }
}

/// Returns the version, if there was none of that id.
pub fn add_user(shelf: &mut MemoryShelf, id: UserId, stamps: &Stamps, now: Timestamp) -> Option<Version> {
    if shelf.user(id).unwrap().is_some() {
        return None;
    }
    if let Some(gone) = shelf.gone(CORE, Row::User(id)).unwrap() {
        stamps.observe(gone.version);
        shelf.set_gone(CORE, Row::User(id), None).unwrap();
    }
    let version = stamps.next(now);
    let record = UserRecord {
        name: "somebody".into(),
        note: None,
        created_at: now,
        enabled: true,
        limits: Limits::default(),
    };
    shelf.put_user(id, &UserEntry { record, versions: UserVersions::all(version) }).unwrap();
    soil(shelf, CORE, Row::User(id), ADDED);
    Some(version)
}

pub fn edit_user(
    shelf: &mut MemoryShelf,
    id: UserId,
    stamps: &Stamps,
    now: Timestamp,
    change: impl FnOnce(&mut UserRecord, &mut UserVersions, Version),
) -> Option<Version> {
    let mut entry = shelf.user(id).unwrap()?;
    let version = stamps.next(now);
    change(&mut entry.record, &mut entry.versions, version);
    shelf.put_user(id, &entry).unwrap();
    soil(shelf, CORE, Row::User(id), CHANGED);
    Some(version)
}

pub fn delete_user(shelf: &mut MemoryShelf, id: UserId, stamps: &Stamps, now: Timestamp) -> Option<Version> {
    shelf.user(id).unwrap()?;
    let version = stamps.next(now);
    shelf.remove_user(id).unwrap();
    let gone = Gone { version, digest: digest(&id.to_string()), text: None };
    shelf.set_gone(CORE, Row::User(id), Some(gone)).unwrap();
    soil(shelf, CORE, Row::User(id), GONE);
    Some(version)
}

pub fn share_key(
    shelf: &mut MemoryShelf,
    provider: &str,
    id: KeyId,
    owner: Option<UserId>,
    stamps: &Stamps,
    now: Timestamp,
) {
    let change = |record: &mut KeyRecord, versions: &mut KeyVersions, version| {
        (record.owner, versions.owner) = (owner, version);
    };
    local::edit_key(shelf, provider, id, stamps, now, change);
}
