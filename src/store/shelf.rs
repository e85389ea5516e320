//! What replication reads and writes of the store, row by row, inside one transaction of the writer's.
//!
//! The protocol's logic is written against this trait and against nothing else, so that a simulator can run it
//! over maps in memory. All or nothing of a transaction's writes is kept.
//!
//! Invariant, for every counter row of a provider that replicates: view = base + confirmed + sealed + open,
//! where only the base is not written down.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Error;
use crate::model::{
    CounterId, Event, Health, KeyId, KeyRecord, KeyVersions, Period, Secret, Set, SetId, SetKind, Tally,
    TokenId, TokenRecord, TokenVersions, UsageLog, UserId, UserRecord, UserVersions, Version, id,
};

#[derive(Clone, Debug, PartialEq)]
pub struct KeyEntry {
    pub record: KeyRecord,
    pub versions: KeyVersions,
    pub health: Health,
}

#[derive(Clone, Debug, PartialEq)]
pub struct TokenEntry {
    pub record: TokenRecord,
    pub versions: TokenVersions,
}

#[derive(Clone, Debug, PartialEq)]
pub struct UserEntry {
    pub record: UserRecord,
    pub versions: UserVersions,
}

/// Stands where the provider does, of rows that belong to none: users, and what is counted by day. No provider may be
/// called so.
pub const CORE: &str = "core";

/// A row whose state the hub has not been told yet, or that is to be told again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Row {
    Key(KeyId),
    Token(TokenId),
    User(UserId),
}

/// What of it. Kept by whoever changes a row: an add sets `added` and `changed` and ends `gone`, a delete leaves
/// `gone` alone, everything else adds `changed`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dirty {
    /// A person added it here: the hub may create it.
    pub added: bool,
    /// It was deleted here; [`Shelf::gone`] has when.
    pub gone: bool,
    /// Settings or health have changed.
    pub changed: bool,
}

/// A key or token that is no more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gone {
    pub version: Version,
    /// The first 16 bytes of the SHA-256 of its text: what the hub calls it.
    pub digest: [u8; 16],
    /// The text itself, while counts of it may still have to be told: the hub takes them by text. Whoever deletes
    /// a row leaves it here, the protocol takes it away. On disk spelt out, as in the records.
    pub text: Option<Secret>,
}

impl Gone {
    /// False where nothing is known but counts, which came before their row: should that be deleted before it is
    /// ever seen here, they have to be found by the digest.
    pub fn is_deletion(&self) -> bool {
        self.version > Version::default()
    }
}

/// Deltas of one row that are in batches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inflight {
    /// By batch: not yet confirmed. First what no batch will tell, under [`Self::NEVER_TOLD`].
    pub sealed: Vec<(u64, Tally)>,
    /// Confirmed up to the batch of this number, and the row has not come back yet.
    pub confirmed: Option<(u64, Tally)>,
}

impl Inflight {
    /// In place of a batch's number, which is 1 or more: the hub has no room for it, and it is shown here alone.
    pub const NEVER_TOLD: u64 = 0;

    pub fn keep(&mut self, tally: &Tally) {
        match self.sealed.first_mut() {
            Some((Self::NEVER_TOLD, kept)) => kept.add(tally),
            _ => self.sealed.insert(0, (Self::NEVER_TOLD, *tally)),
        }
    }

    /// A batch that was answered waits again: what the hub had no room for then is part of what it tells. Of an hour that
    /// has more of it, as much as the batch holds.
    pub fn tell_after_all(&mut self, tally: &Tally) {
        if let Some((Self::NEVER_TOLD, kept)) = self.sealed.first_mut()
            && kept.holds(tally)
        {
            *kept = kept.minus(tally);
            if kept.counts_nothing() {
                self.sealed.remove(0);
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.sealed.is_empty() && self.confirmed.is_none()
    }
}

type Result<T> = std::result::Result<T, Error>;

/// Reads see the transaction's own writes. `provider` is a provider's name. Where a method returns a list, it is
/// in the order of ids, begins after `after`, and has at most `max` rows; only [`Shelf::views`] of spans are in the order
/// of kind, period and id.
pub trait Shelf {
    fn instance(&self) -> Uuid;
    fn set_instance(&mut self, id: Uuid) -> Result<()>;

    /// Small documents by name, as the protocol writes them. Names begin with `replica/`.
    fn note(&self, name: &str) -> Result<Option<Vec<u8>>>;
    fn set_note(&mut self, name: &str, value: Option<&[u8]>) -> Result<()>;
    /// Whether deltas of this provider are to be kept open for a hub, and its changes as dirty. From the moment
    /// it is switched on; what was there before is the protocol's to bring in, also by its [digest](Self::set_digest).
    fn set_replicated(&mut self, provider: &str, on: bool) -> Result<()>;
    fn replicates(&self, provider: &str) -> Result<bool>;

    fn key(&self, provider: &str, id: KeyId) -> Result<Option<KeyEntry>>;
    /// Does not make it dirty.
    fn put_key(&mut self, provider: &str, id: KeyId, entry: &KeyEntry) -> Result<()>;
    fn remove_key(&mut self, provider: &str, id: KeyId) -> Result<()>;
    fn keys(&self, provider: &str, after: Option<KeyId>, max: usize) -> Result<Vec<(KeyId, KeyEntry)>>;

    fn token(&self, provider: &str, id: TokenId) -> Result<Option<TokenEntry>>;
    fn put_token(&mut self, provider: &str, id: TokenId, entry: &TokenEntry) -> Result<()>;
    fn remove_token(&mut self, provider: &str, id: TokenId) -> Result<()>;
    fn tokens(
        &self,
        provider: &str,
        after: Option<TokenId>,
        max: usize,
    ) -> Result<Vec<(TokenId, TokenEntry)>>;

    /// What is known to be deleted, here or elsewhere.
    fn gone(&self, provider: &str, row: Row) -> Result<Option<Gone>>;
    fn set_gone(&mut self, provider: &str, row: Row, gone: Option<Gone>) -> Result<()>;
    fn all_gone(&self, provider: &str, after: Option<Row>, max: usize) -> Result<Vec<(Row, Gone)>>;
    /// From now on the row is found by its digest, as those are that are written while the provider replicates.
    fn set_digest(&mut self, provider: &str, row: Row, digest: [u8; 16]) -> Result<()>;
    /// The key that has this digest, be it there or [gone](Self::gone): the hub's word for a deleted one.
    fn key_by_digest(&self, provider: &str, digest: [u8; 16]) -> Result<Option<KeyId>>;
    fn token_by_digest(&self, provider: &str, digest: [u8; 16]) -> Result<Option<TokenId>>;

    fn dirty(&self, provider: &str, after: Option<Row>, max: usize) -> Result<Vec<(Row, Dirty)>>;
    fn dirty_row(&self, provider: &str, row: Row) -> Result<Option<Dirty>>;
    fn set_dirty(&mut self, provider: &str, row: Row, dirty: Option<Dirty>) -> Result<()>;
    fn dirty_len(&self, provider: &str) -> Result<u64>;

    /// What this instance shows; nothing where there is no row. There may be rows of keys and tokens that are not
    /// there (yet, or any more). One that is set to the default is removed.
    fn view(&self, provider: &str, id: &CounterId) -> Result<Tally>;
    fn set_view(&mut self, provider: &str, id: &CounterId, value: &Tally) -> Result<()>;
    fn views(&self, provider: &str, after: Option<&CounterId>, max: usize)
    -> Result<Vec<(CounterId, Tally)>>;

    /// Counted here, in no batch yet. Also of rows that were deleted meanwhile.
    fn open(&self, provider: &str, id: &CounterId) -> Result<Option<Tally>>;
    fn set_open(&mut self, provider: &str, id: &CounterId, value: Option<&Tally>) -> Result<()>;
    fn opens(&self, provider: &str, after: Option<&CounterId>, max: usize)
    -> Result<Vec<(CounterId, Tally)>>;
    fn open_len(&self, provider: &str) -> Result<u64>;

    fn inflight(&self, provider: &str, id: &CounterId) -> Result<Option<Inflight>>;
    fn set_inflight(&mut self, provider: &str, id: &CounterId, value: Option<&Inflight>) -> Result<()>;
    fn inflights(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result<Vec<(CounterId, Inflight)>>;

    /// Sets belong to [`CORE`]. One that is set to the default is removed; putting one opens nothing.
    fn set(&self, id: SetId) -> Result<Set>;
    fn put_set(&mut self, id: SetId, set: &Set) -> Result<()>;
    fn sets(&self, after: Option<SetId>, max: usize) -> Result<Vec<(SetId, Set)>>;
    /// What was put into a set here and is in no batch yet. Kept while [`CORE`] replicates.
    fn open_set(&self, id: SetId) -> Result<Set>;
    fn put_open_set(&mut self, id: SetId, set: &Set) -> Result<()>;
    fn open_sets(&self, after: Option<SetId>, max: usize) -> Result<Vec<(SetId, Set)>>;

    /// Of [`CORE`], as all that follows: what is in no batch yet, the first ones in the order of their ids.
    fn open_events(&self, max: usize) -> Result<Vec<Event>>;
    fn set_open_event(&mut self, id: Uuid, event: Option<&Event>) -> Result<()>;
    fn open_logs(&self, max: usize) -> Result<Vec<UsageLog>>;
    fn set_open_log(&mut self, id: Uuid, log: Option<&UsageLog>) -> Result<()>;

    fn user(&self, id: UserId) -> Result<Option<UserEntry>>;
    /// Does not make it dirty.
    fn put_user(&mut self, id: UserId, entry: &UserEntry) -> Result<()>;
    fn remove_user(&mut self, id: UserId) -> Result<()>;
    fn users(&self, after: Option<UserId>, max: usize) -> Result<Vec<(UserId, UserEntry)>>;

    /// Sealed batches and, for a while, confirmed ones, as the protocol writes them.
    fn batch(&self, provider: &str, seq: u64) -> Result<Option<Vec<u8>>>;
    fn set_batch(&mut self, provider: &str, seq: u64, batch: Option<&[u8]>) -> Result<()>;
    /// Their numbers in order, from `from` on.
    fn batches(&self, provider: &str, from: u64, max: usize) -> Result<Vec<u64>>;

    /// Marks of a full resync: the rows that have come by so far.
    fn mark_seen(&mut self, provider: &str, mark: &Seen) -> Result<()>;
    fn was_seen(&self, provider: &str, mark: &Seen) -> Result<bool>;
    /// Forgets as many as that; returns whether more may be left.
    fn forget_seen(&mut self, provider: &str, max: usize) -> Result<bool>;
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Seen {
    Row(Row),
    Counter(CounterId),
    Set {
        kind: SetKind,
        #[serde(with = "id::as_uuid")]
        id: u128,
        at: Period,
    },
}
