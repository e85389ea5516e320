//! The tables of one transaction, and the rules that hold for every row of keys and tokens, whoever writes it.
//!
//! Invariants: a health that is written is never of an earlier epoch than its key; of a provider that replicates,
//! every key and token is found by its digest, be it there or deleted.

use redb::WriteTransaction;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    codec::{self, Packed, Record},
    error::Fault,
    kept::{Kept, Undo},
    load::place,
    shelf::{Dirty, Gone, KeyEntry, Row, TokenEntry, UserEntry},
    tables::{
        BATCHES, CounterKey, DIGESTS, DIRTY, Dated, EVENTS, GONE, HEALTH, HOURS, INFLIGHT, Id, KEY_USAGE,
        KEY_VERSIONS, KEYS, META, MODELS, MONTHS, NOTES, OPEN, OPEN_EVENTS, OPEN_LOGS, OPEN_SETS, REPLICATED,
        RowKey, SEEN, SET_SIZES, SETS, TALLIES, TOKEN_USAGE, TOKEN_VERSIONS, TOKENS, TOTALS, USER_VERSIONS,
        USERS, read, row_at,
    },
};
use crate::model::{
    Health, KeyId, KeyRecord, KeyVersions, Secret, TokenId, TokenRecord, TokenVersions, UserId, Version,
    secret,
};

pub(super) struct Desk<'txn> {
    pub(super) meta: Kept<'txn, &'static str>,
    pub(super) keys: Kept<'txn, Id>,
    pub(super) key_versions: Kept<'txn, Id>,
    pub(super) healths: Kept<'txn, Id>,
    pub(super) key_usage: Kept<'txn, Id>,
    pub(super) tokens: Kept<'txn, Id>,
    pub(super) token_versions: Kept<'txn, Id>,
    pub(super) token_usage: Kept<'txn, Id>,
    pub(super) users: Kept<'txn, u128>,
    pub(super) user_versions: Kept<'txn, u128>,
    pub(super) models: Kept<'txn, (&'static str, &'static str)>,
    pub(super) hours: Kept<'txn, (&'static str, u32, &'static str)>,
    pub(super) totals: Kept<'txn, &'static str>,
    pub(super) tallies: Kept<'txn, Dated>,
    pub(super) months: Kept<'txn, Dated>,
    pub(super) sets: Kept<'txn, Dated>,
    pub(super) set_sizes: Kept<'txn, Dated>,
    pub(super) open_sets: Kept<'txn, Dated>,
    pub(super) events: Kept<'txn, (i64, u128)>,
    pub(super) open_events: Kept<'txn, u128>,
    pub(super) open_logs: Kept<'txn, u128>,
    pub(super) gone: Kept<'txn, RowKey>,
    pub(super) replicated: Kept<'txn, &'static str>,
    pub(super) digests: Kept<'txn, RowKey>,
    pub(super) dirty: Kept<'txn, RowKey>,
    pub(super) open: Kept<'txn, CounterKey>,
    pub(super) inflight: Kept<'txn, CounterKey>,
    pub(super) seen: Kept<'txn, CounterKey>,
    pub(super) batches: Kept<'txn, (&'static str, u64)>,
    pub(super) notes: Kept<'txn, &'static str>,
}

impl<'txn> Desk<'txn> {
    /// With `undoable`, what is written can be taken back.
    pub(super) fn new(txn: &'txn WriteTransaction, undoable: bool) -> Self {
        macro_rules! desk {
            ($($field:ident: $table:ident),* $(,)?) => {
                Self { $($field: Kept::new(txn, $table, undoable)),* }
            };
        }
        desk!(
            meta: META, keys: KEYS, key_versions: KEY_VERSIONS, healths: HEALTH, key_usage: KEY_USAGE,
            tokens: TOKENS, token_versions: TOKEN_VERSIONS, token_usage: TOKEN_USAGE, users: USERS,
            user_versions: USER_VERSIONS, models: MODELS,
            hours: HOURS, totals: TOTALS, tallies: TALLIES, months: MONTHS, sets: SETS, set_sizes: SET_SIZES,
            open_sets: OPEN_SETS, events: EVENTS, open_events: OPEN_EVENTS, open_logs: OPEN_LOGS, gone: GONE, replicated: REPLICATED, digests: DIGESTS, dirty: DIRTY,
            open: OPEN, inflight: INFLIGHT, seen: SEEN, batches: BATCHES, notes: NOTES,
        )
    }

    /// Closes all tables; what comes back takes back what was written. Empty when nothing was.
    pub(super) fn close(self) -> Vec<Undo> {
        macro_rules! close {
            ($($field:ident),* $(,)?) => {
                [$(self.$field.close()),*].into_iter().flatten().collect()
            };
        }
        close!(
            meta,
            keys,
            key_versions,
            healths,
            key_usage,
            tokens,
            token_versions,
            token_usage,
            users,
            user_versions,
            models,
            hours,
            totals,
            tallies,
            months,
            sets,
            set_sizes,
            open_sets,
            events,
            open_events,
            open_logs,
            gone,
            replicated,
            digests,
            dirty,
            open,
            inflight,
            seen,
            batches,
            notes,
        )
    }

    pub(super) fn replicates(&self, provider: &str) -> Result<bool, Fault> {
        self.replicated.has(provider)
    }

    // --- keys ---

    pub(super) fn key(&self, provider: &str, id: KeyId) -> Result<Option<KeyEntry>, Fault> {
        match self.keys.get((provider, id.0))? {
            Some(value) => self.key_entry(provider, id, value.value()).map(Some),
            None => Ok(None),
        }
    }

    /// The rest of a key whose record was read already.
    pub(super) fn key_entry(&self, provider: &str, id: KeyId, record: &[u8]) -> Result<KeyEntry, Fault> {
        let record: KeyRecord = read(record, || place("key", provider, id.0))?;
        let versions = match self.key_versions.get((provider, id.0))? {
            Some(value) => read_packed(value.value(), || place("versions of key", provider, id.0))?,
            None => KeyVersions::all(Version::at(record.created_at)),
        };
        let health = self.stored_health(provider, id)?;
        Ok(KeyEntry { record, versions, health: health_since(versions.added, health) })
    }

    fn stored_health(&self, provider: &str, id: KeyId) -> Result<Option<Health>, Fault> {
        let Some(value) = self.healths.get((provider, id.0))? else { return Ok(None) };
        read(value.value(), || place("health of key", provider, id.0)).map(Some)
    }

    pub(super) fn put_key(&mut self, provider: &str, id: KeyId, entry: &KeyEntry) -> Result<(), Fault> {
        let at = (provider, id.0);
        let is_new = self.replicates(provider)? && !self.keys.has(at)?;
        self.keys.put(at, &codec::encode(&entry.record))?;
        self.key_versions.put(at, &codec::encode(&Packed::from(entry.versions)))?;
        self.put_health(provider, id, entry.versions.added, &entry.health)?;
        if is_new {
            self.put_digest(provider, Row::Key(id), digest(&entry.record.secret))?;
        }
        Ok(())
    }

    /// Returns the record that was there.
    pub(super) fn remove_key(&mut self, provider: &str, id: KeyId) -> Result<Option<KeyRecord>, Fault> {
        let at = (provider, id.0);
        let Some(record) = self.keys.remove(at)? else { return Ok(None) };
        let record: KeyRecord = read(&record, || place("key", provider, id.0))?;
        self.key_versions.remove(at)?;
        self.healths.remove(at)?;
        self.forget_digest(provider, Row::Key(id), digest(&record.secret))?;
        Ok(Some(record))
    }

    fn put_health(
        &mut self,
        provider: &str,
        id: KeyId,
        added: Version,
        health: &Health,
    ) -> Result<(), Fault> {
        // What everybody assumes need not be written.
        if *health == health_since(added, None) {
            self.healths.remove((provider, id.0))?;
        } else {
            self.healths.put((provider, id.0), &codec::encode(health))?;
        }
        Ok(())
    }

    /// Takes in what was concluded about a key. A key that was deleted while its last outcomes were on their
    /// way has no health any more, and what was concluded before it was added again says nothing.
    pub(super) fn merge_health(&mut self, provider: &str, id: KeyId, health: &Health) -> Result<(), Fault> {
        let at = (provider, id.0);
        let (added, health) = match self.key_versions.get(at)? {
            Some(value) => {
                let versions: KeyVersions =
                    read_packed(value.value(), || place("versions of key", provider, id.0))?;
                (versions.added, health.clone())
            }
            None => match self.keys.get(at)? {
                Some(value) => {
                    let record: KeyRecord = read(value.value(), || place("key", provider, id.0))?;
                    let added = Version::at(record.created_at);
                    // From a file, and perhaps a journal, without versions.
                    (added, health_since(added, Some(health.clone())))
                }
                None => return Ok(()),
            },
        };
        let mut merged = health_since(added, self.stored_health(provider, id)?);
        if merged.merge(&health) {
            self.put_health(provider, id, added, &merged)?;
            self.mark(provider, Row::Key(id), |dirty| dirty.changed = true)?;
        }
        Ok(())
    }

    // --- tokens ---

    pub(super) fn token(&self, provider: &str, id: TokenId) -> Result<Option<TokenEntry>, Fault> {
        match self.tokens.get((provider, id.0))? {
            Some(value) => self.token_entry(provider, id, value.value()).map(Some),
            None => Ok(None),
        }
    }

    pub(super) fn token_entry(
        &self,
        provider: &str,
        id: TokenId,
        record: &[u8],
    ) -> Result<TokenEntry, Fault> {
        let record: TokenRecord = read(record, || place("token", provider, id.0))?;
        let versions = match self.token_versions.get((provider, id.0))? {
            Some(value) => read_packed(value.value(), || place("versions of token", provider, id.0))?,
            None => TokenVersions::all(Version::at(record.created_at)),
        };
        Ok(TokenEntry { record, versions })
    }

    pub(super) fn put_token(&mut self, provider: &str, id: TokenId, entry: &TokenEntry) -> Result<(), Fault> {
        let at = (provider, id.0);
        let is_new = self.replicates(provider)? && !self.tokens.has(at)?;
        self.tokens.put(at, &codec::encode(&entry.record))?;
        self.token_versions.put(at, &codec::encode(&Packed::from(entry.versions)))?;
        if is_new {
            self.put_digest(provider, Row::Token(id), digest(&entry.record.secret))?;
        }
        Ok(())
    }

    pub(super) fn remove_token(&mut self, provider: &str, id: TokenId) -> Result<Option<TokenRecord>, Fault> {
        let at = (provider, id.0);
        let Some(record) = self.tokens.remove(at)? else { return Ok(None) };
        let record: TokenRecord = read(&record, || place("token", provider, id.0))?;
        self.token_versions.remove(at)?;
        self.forget_digest(provider, Row::Token(id), digest(&record.secret))?;
        Ok(Some(record))
    }

    // --- users ---

    pub(super) fn user(&self, id: UserId) -> Result<Option<UserEntry>, Fault> {
        let Some(value) = self.users.get(id.0)? else { return Ok(None) };
        let record = read(value.value(), || user_place("user", id))?;
        let versions = match self.user_versions.get(id.0)? {
            Some(value) => read_packed(value.value(), || user_place("versions of user", id))?,
            None => {
                let why = codec::Error::Broken("a user without versions".to_owned());
                return Err(Fault::Row(why, user_place("user", id)));
            }
        };
        Ok(Some(UserEntry { record, versions }))
    }

    pub(super) fn put_user(&mut self, id: UserId, entry: &UserEntry) -> Result<(), Fault> {
        self.users.put(id.0, &codec::encode(&entry.record))?;
        self.user_versions.put(id.0, &codec::encode(&Packed::from(entry.versions)))
    }

    /// Returns whether it was there.
    pub(super) fn remove_user(&mut self, id: UserId) -> Result<bool, Fault> {
        self.user_versions.remove(id.0)?;
        Ok(self.users.remove(id.0)?.is_some())
    }

    // --- all of them ---

    pub(super) fn gone(&self, provider: &str, row: Row) -> Result<Option<Gone>, Fault> {
        let found: Option<GoneRecord> = optional(self.gone.get(row_at(provider, row))?, "a deletion")?;
        Ok(found.map(Into::into))
    }

    pub(super) fn set_gone(&mut self, provider: &str, row: Row, gone: Option<&Gone>) -> Result<(), Fault> {
        let at = row_at(provider, row);
        if let Some(gone) = gone {
            self.gone.put(at, &codec::encode(&GoneRecord::from(gone)))?;
            if self.replicates(provider)? {
                self.put_digest(provider, row, gone.digest)?;
            }
            return Ok(());
        }
        if let Some(old) = self.gone.remove(at)? {
            let old: GoneRecord = read(&old, || "a deletion".to_owned())?;
            self.forget_digest(provider, row, old.digest)?;
        }
        Ok(())
    }

    pub(super) fn put_digest(&mut self, provider: &str, row: Row, digest: [u8; 16]) -> Result<(), Fault> {
        let (_, kind, id) = row_at(provider, row);
        self.digests.put((provider, kind, u128::from_be_bytes(digest)), &id.to_be_bytes())
    }

    /// When neither the row nor its deletion is left.
    fn forget_digest(&mut self, provider: &str, row: Row, digest: [u8; 16]) -> Result<(), Fault> {
        let (_, kind, id) = row_at(provider, row);
        let there = match row {
            Row::Key(_) => self.keys.has((provider, id))?,
            Row::Token(_) => self.tokens.has((provider, id))?,
            Row::User(_) => self.users.has(id)?,
        };
        if !there && !self.gone.has((provider, kind, id))? {
            self.digests.remove((provider, kind, u128::from_be_bytes(digest)))?;
        }
        Ok(())
    }

    pub(super) fn dirty(&self, provider: &str, row: Row) -> Result<Option<Dirty>, Fault> {
        optional(self.dirty.get(row_at(provider, row))?, "a change")
    }

    pub(super) fn set_dirty(&mut self, provider: &str, row: Row, dirty: Option<Dirty>) -> Result<(), Fault> {
        let at = row_at(provider, row);
        match dirty.filter(|dirty| *dirty != Dirty::default()) {
            Some(dirty) => self.dirty.put(at, &codec::encode(&dirty)),
            None => self.dirty.remove(at).map(drop),
        }
    }

    /// Notes what the hub has to be told, where there is one.
    pub(super) fn mark(
        &mut self,
        provider: &str,
        row: Row,
        note: impl FnOnce(&mut Dirty),
    ) -> Result<(), Fault> {
        if !self.replicates(provider)? {
            return Ok(());
        }
        let mut dirty = self.dirty(provider, row)?.unwrap_or_default();
        note(&mut dirty);
        self.set_dirty(provider, row, Some(dirty))
    }
}

/// A [`Gone`] in the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GoneRecord {
    version: Version,
    digest: [u8; 16],
    text: Option<Text>,
}

/// Spelt out, which a secret by itself never is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Text(#[serde(with = "secret::exposed")] Secret);

impl From<&Gone> for GoneRecord {
    fn from(gone: &Gone) -> Self {
        Self { version: gone.version, digest: gone.digest, text: gone.text.clone().map(Text) }
    }
}

impl From<GoneRecord> for Gone {
    fn from(record: GoneRecord) -> Self {
        let GoneRecord { version, digest, text } = record;
        Self { version, digest, text: text.map(|Text(secret)| secret) }
    }
}

/// Kinds of digests: as in [`row_at`].
pub(super) const KEY: u8 = 0;
pub(super) const TOKEN: u8 = 1;

/// What names a deletion of a user, whose id is no secret.
pub(super) fn user_digest(id: UserId) -> [u8; 16] {
    id.0.to_be_bytes()
}

pub(super) fn user_place(what: &str, id: UserId) -> String {
    format!("{what} {id}")
}

/// What the hub calls a deleted key or token: the first 16 bytes of the SHA-256 of its text.
pub(super) fn digest(secret: &Secret) -> [u8; 16] {
    let whole: [u8; 32] = Sha256::digest(secret.expose().as_bytes()).into();
    let mut digest = [0; 16];
    digest.copy_from_slice(&whole[..16]);
    digest
}

/// The health of a key that was added then: a new key is well, and files from before versions say nothing of
/// when that was.
pub(super) fn health_since(added: Version, stored: Option<Health>) -> Health {
    let stored = stored.unwrap_or_default();
    Health { epoch: stored.epoch.max(added), ..stored }
}

pub(super) fn read_packed<T>(bytes: &[u8], place: impl FnOnce() -> String) -> Result<T, Fault>
where
    Packed<T>: Record + Into<T>,
{
    read::<Packed<T>>(bytes, place).map(Into::into)
}

pub(super) fn optional<T: Record>(
    value: Option<redb::AccessGuard<'_, &'static [u8]>>,
    what: &str,
) -> Result<Option<T>, Fault> {
    value.map(|value| read(value.value(), || what.to_owned())).transpose()
}
