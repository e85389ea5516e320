//! What is asked of a hub and what its answers mean: a state machine without I/O, clock or randomness.
//!
//! [`Machine`] is one hub's. In a round it gives [`Call`]s one after another and takes their answers in; all that
//! must survive is on the [`Shelf`](crate::store::shelf::Shelf), written in the transaction of the call. What it
//! has in memory is where it is in a round: after any error it forgets that and asks the hub again.
//!
//! - `document` is what lies on the shelf: a stream's position, its lanes, its batches;
//! - `machine` has the rounds' calls, `answer` reads what a hub says to them, `answers` what that does, `failures`
//!   what it does that none comes;
//! - `walk` goes through more rows than one transaction should change, step by step;
//! - `seal` makes batches, `split` makes more of one, `confirm` ends them, `position` compares where the hub says a
//!   stream is with where it is here: confirmed without an answer, forked, rolled back; `identity` does so for the
//!   hub itself;
//! - `page` takes a page in, `state` its keys and tokens, `people` its users, `counters` its numbers, `sets` who was
//!   counted in them; `shares` tells the core whose keys are; `resync` is what follows a full
//!   pull; `text` turns rows into the wire's and back;
//! - `obstacles` is what a hub says that it cannot do, `apart` keeps one stream's from the others, `others` is who else
//!   there is;
//! - `attach` brings in what was there before the first hub, `adopt` makes another database the hub;
//! - `clock` measures the hub's.
//!
//! The invariants, for every counter row: view = base + confirmed + sealed + open, of which the base is what the
//! hub said last; what a batch holds is in no other batch; a delta leaves the view only when its row has come back
//! with it.

/// Whether the simulator breaks this rule, to see whether it notices. Outside of its tests nobody does.
macro_rules! broken {
    ($rule:ident) => {{
        #[cfg(test)]
        let broken = {
            use crate::replica::simulator::sabotage;
            sabotage::on(sabotage::Sabotage::$rule)
        };
        #[cfg(not(test))]
        let broken = false;
        broken
    }};
}

mod adopt;
mod answer;
mod answers;
mod apart;
mod attach;
mod clock;
mod confirm;
#[cfg(test)]
mod core_tests;
mod counters;
pub(in crate::replica) mod document;
mod failures;
mod identity;
mod machine;
mod obstacles;
mod others;
mod page;
mod people;
mod position;
mod resync;
mod round;
mod seal;
mod sets;
mod shares;
mod split;
mod state;
mod status;
mod stream;
pub(in crate::replica) mod text;
mod walk;

use uuid::Uuid;

pub use document::{HubNote, Resync, Stop, Why, keep_sizes, sizes_before};
pub use machine::{Machine, Sealing};
pub use obstacles::Obstacles;
pub use others::Others;
pub use status::{LaneStatus, StreamStatus};

use super::wire::{Function, HubIdentity, MissingRow};
use crate::{
    model::{CounterId, KeyId, SpanId, Tally, TokenId, UserId},
    store::{
        self,
        shelf::{KeyEntry, Shelf, TokenEntry, UserEntry},
    },
};

/// A hub as it is configured.
#[derive(Clone, Debug)]
pub struct Hub {
    pub name: String,
    pub streams: Vec<StreamOf>,
    /// All that are configured, whatever hub is theirs: the core tells whose each key is.
    pub providers: Vec<String>,
    pub bounds: Bounds,
    /// For people: this machine's name, and keytide's version.
    pub instance_name: String,
    pub version: String,
    /// Whether this hub's clock is the one that versions are made of: true of one hub.
    pub keeps_time: bool,
}

/// A provider, and the prefix of its tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamOf {
    pub provider: String,
    pub stream: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Of a batch.
    pub rows: usize,
    pub bytes: usize,
    /// Of a page.
    pub page: u32,
    /// Rows that are looked at in one transaction where all are gone through.
    pub stride: usize,
    /// Batches and pages of one stream in one round.
    pub calls: u32,
    /// Of confirmed batches, kept in case the hub is rolled back.
    pub kept_bytes: u64,
    /// When more batches wait, those that were never sent are made anew.
    pub queue: u64,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            rows: 2000,
            bytes: 512 * 1024,
            page: 2000,
            stride: 1000,
            calls: 500,
            kept_bytes: 64 << 20,
            queue: 64,
        }
    }
}

/// What a round is to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// Registers, learns of other instances and of missing tables.
    pub hello: bool,
    /// The statistics lane too.
    pub stats: bool,
    /// Somebody is held to limits by day: what others have used of them.
    pub limits: bool,
    /// Push and nothing else: at shutdown.
    pub only_push: bool,
}

/// What to call. The request holds keys and tokens: no `Debug`.
#[derive(Clone, PartialEq)]
pub struct Call {
    /// Answers to another one are not taken.
    pub id: u64,
    pub function: Function,
    pub request: String,
}

/// What comes next in a round.
#[derive(Clone, PartialEq)]
pub enum Next {
    Call(Call),
    /// Something here comes first, and a part of it is done: to be asked again, in another transaction.
    Work,
    /// Nothing: it is over.
    End,
}

/// What a transaction did, for memory and for people. Of one that failed it is to be thrown away.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct Outcome {
    pub effects: Vec<Effect>,
    pub notes: Vec<Note>,
}

/// A change of the store that pool, tokens or books have to take over.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    KeyPut {
        provider: String,
        id: KeyId,
        entry: Box<KeyEntry>,
    },
    KeyRemoved {
        provider: String,
        id: KeyId,
    },
    TokenPut {
        provider: String,
        id: TokenId,
        entry: Box<TokenEntry>,
    },
    TokenRemoved {
        provider: String,
        id: TokenId,
    },
    UserPut {
        id: UserId,
        entry: Box<UserEntry>,
    },
    UserRemoved {
        id: UserId,
    },
    /// Days begin and end in this time zone from now on, whatever is configured: they are the same for all of a hub.
    Zone {
        name: String,
    },
    /// The hub knows of more uses of a limit than the store's view, which has them when all statistics are read.
    Used {
        id: SpanId,
        view: Tally,
        to: Tally,
    },
    /// The store's view went from one to the other.
    Counter {
        provider: String,
        id: CounterId,
        from: Tally,
        to: Tally,
    },
}

/// What an operator has to hear, once.
#[derive(Clone, Debug, PartialEq)]
pub enum Note {
    /// Another instance goes by the same file. This one has taken another id; `taken` requests in batches that
    /// were sealed before this process began count as told by the other. Those that this process has counted are told
    /// again, and of a copy that was made while it ran up to `doubled` of them may have been in it.
    Forked {
        provider: String,
        instance: Uuid,
        taken: u64,
        doubled: u64,
    },
    /// A copy of the file that was made while this process ran has told what this process had counted by then.
    Copied {
        provider: String,
    },
    /// The hub had forgotten batches, and is told them again.
    RolledBack {
        provider: String,
        batches: u64,
    },
    Stopped {
        provider: String,
        stop: Stop,
    },
    Resumed {
        provider: String,
    },
    /// The hub is another database now, which has taken over the old one's place.
    Moved {
        provider: String,
        to: HubIdentity,
    },
    ResyncBegun {
        provider: String,
        why: Why,
    },
    /// `missing` requests were known here and are not in the hub's total.
    ResyncDone {
        provider: String,
        why: Why,
        missing: u64,
    },
    /// Versions from the future, which were made anew.
    Clock {
        provider: String,
        rows: u64,
    },
    /// Of a push: rows that someone else had deleted, and hours that are not kept any more.
    Gone {
        provider: String,
        rows: u64,
    },
    Expired {
        provider: String,
        rows: u64,
    },
    /// Rows of requests that an earlier process had counted before there was a hub, which a copy of the file may tell too.
    LogsLeftOut {
        logs: Vec<Uuid>,
    },
    /// The hub was rolled back further than this instance's batches are kept, and has been adopted: of what it
    /// told since, up to so many requests may be missing.
    Uncertain {
        provider: String,
        requests: u64,
    },
    /// Counts of a key or token whose text nobody knows any more.
    Lost {
        provider: String,
        requests: u64,
    },
    /// Rows of what is optional that the hub has no room for: they are not told.
    KeptBack {
        rows: u64,
    },
    Missing {
        missing: Vec<MissingRow>,
    },
    ReadOnly,
    /// The hub speaks other protocols.
    Unsupported {
        speaks: Vec<u32>,
    },
    Adopted {
        to: HubIdentity,
    },
    /// Some counts may be missing or twice in the new hub, where its counters were `raised`: the last pull took several
    /// pages. Where they were not, since others had told it something meanwhile, those of instances that are no more
    /// may be missing.
    AdoptedInexactly {
        provider: String,
        raised: bool,
    },
    /// Another instance adopts until then, by the hub's clock; or it cannot be done now.
    AdoptRefused {
        by: Option<Uuid>,
        until: Option<i64>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the hub answered what no hub answers ({0})")]
    Garbage(String),
    #[error("the store's own record of replication cannot be read ({0})")]
    Document(String),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

/// The time zone of the hub of that name, as it told it last.
///
/// # Errors
/// The shelf's.
pub fn zone_of(shelf: &dyn Shelf, hub: &str) -> Result<Option<String>> {
    Ok(document::read::<HubNote>(shelf, &document::hub_name(hub))?.and_then(|note| note.zone))
}

fn garbage(what: impl Into<String>) -> Error {
    Error::Garbage(what.into())
}
