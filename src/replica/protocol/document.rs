//! What lies on the shelf beside rows: JSON behind a byte for its format, under names that begin with `replica/`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;
use uuid::Uuid;

use super::{Error, Result};
use crate::{
    model::{CounterId, History, KeyId, Rung, SetId, SpanKind, TokenId, UserId},
    replica::wire::{HubIdentity, KeptFrom, Lane, Rows},
    store::shelf::{Row, Shelf},
};

const FORMAT: u8 = 1;

/// A position in a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub seq: u64,
    pub digest: String,
}

/// A provider's stream to its hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct StreamNote {
    /// Under which the stream's batches go. Each stream has its own, since a fork of one must not make the
    /// batches of another ambiguous; of a file that never forked it is the file's.
    pub instance: Uuid,
    /// The process life whose deltas are open.
    pub run: Uuid,
    /// All that follows belongs to this database.
    #[serde(default)]
    pub hub: Option<HubIdentity>,
    pub sealed: Mark,
    pub confirmed: Mark,
    /// In the batches between the two.
    #[serde(default)]
    pub pending_rows: u64,
    /// The highest batch that was ever given to a transport.
    #[serde(default)]
    pub sent: u64,
    /// Attempts at the first batch that waits to which no answer came in time.
    #[serde(default)]
    pub late: u32,
    /// A batch that is too large for the hub or the way to it, and is taken apart once the hub shows that it can not
    /// be applied any more.
    #[serde(default)]
    pub refused: Option<u64>,
    /// Of a batch, when the hub or the way to it asked for less than is configured.
    #[serde(default)]
    pub rows: Option<usize>,
    /// The last counter that was sealed: the next batch goes on behind it, so that all get their turn.
    #[serde(default)]
    pub turn: Option<CounterId>,
    /// Of confirmed batches on the shelf.
    #[serde(default)]
    pub kept_bytes: u64,
    /// Requests in all confirmed batches.
    #[serde(default)]
    pub told: u64,
    /// Of batches that are not kept any more: after that one, so many requests had been told.
    #[serde(default)]
    pub forgotten: Vec<(u64, u64)>,
    #[serde(default)]
    pub state: LaneNote,
    #[serde(default)]
    pub stats: LaneNote,
    #[serde(default)]
    pub limits: LaneNote,
    #[serde(default)]
    pub resync: Option<Resync>,
    #[serde(default)]
    pub stopped: Option<Stop>,
    /// Nothing is asked of the hub before it has come to its end.
    #[serde(default)]
    pub walk: Option<Walk>,
    /// Marks of a resync that is over may still lie on the shelf.
    #[serde(default)]
    pub stale_marks: bool,
    /// Batches that were never sent are being made anew.
    #[serde(default)]
    pub merging: bool,
    /// The newest batch after a start did that.
    #[serde(default)]
    pub merged: u64,
    /// The batch that was confirmed last when it was said that what was told by then may be lost.
    #[serde(default)]
    pub unsure: Option<u64>,
}

/// Work on more rows than one transaction should change, and how far it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Walk {
    /// What was there before the first hub goes into batches.
    Attach(Part),
    /// What a pull of all rows has not shown.
    Settle(Part),
    /// Deletions that the hub has forgotten as well.
    ForgetDeletions(Option<Row>),
    /// Batches are taken apart or left to the copy, from the newest on; `fresh` becomes the stream's id.
    Fork { fresh: Uuid, taken: u64, told: bool, after: Option<CounterId> },
    /// Batches that the hub has forgotten wait again, from the newest on, until `to` is what was confirmed last.
    RollBack { to: Mark, batches: u64, settled: bool, after: Option<CounterId> },
    /// Batches of more rows than `rows` become several, from the newest on. `at` is the next one; it and those
    /// before it will be `more` in the end. The hub has one without rows in the place of the first.
    Split {
        rows: usize,
        at: u64,
        more: u64,
        #[serde(default)]
        fenced: bool,
    },
}

/// A walk over all rows of a stream: those behind the given one come next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Keys(Option<KeyId>),
    Tokens(Option<TokenId>),
    Users(Option<UserId>),
    Gone(Option<Row>),
    /// The last key, and its provider.
    Shares(Option<(String, KeyId)>),
    Counters(Option<CounterId>),
    /// The last set; of one that is not told whole, after how many members it goes on.
    Sets(Option<(SetId, Option<usize>)>),
    /// In an adoption only.
    Streams(Option<Uuid>),
}

impl StreamNote {
    /// How many places in the stream are remembered with what had been told by then.
    const PLACES: usize = 16;

    /// The batch is not kept any more. The further back, the fewer places are remembered.
    pub fn forget(&mut self, seq: u64, told: u64) {
        self.forgotten.push((seq, told));
        if self.forgotten.len() > Self::PLACES {
            let mut nth = 0;
            self.forgotten.retain(|_| {
                nth += 1;
                nth % 2 == 1
            });
        }
    }

    pub fn lane(&mut self, lane: Lane) -> &mut LaneNote {
        match lane {
            Lane::State => &mut self.state,
            Lane::Stats => &mut self.stats,
            Lane::Limits => &mut self.limits,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LaneNote {
    /// The snapshot up to which everything is here.
    pub cursor: Option<String>,
    pub drain: Option<Drain>,
    /// When the last complete pull began, by the hub's clock.
    pub complete: Option<i64>,
    /// Rows of a page, while it has to be smaller than configured to come over in time.
    #[serde(default)]
    pub page: Option<u32>,
}

/// A pull that takes several pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Drain {
    /// The first page's.
    pub snapshot: String,
    pub began: i64,
    pub after: Value,
    pub rows: u64,
    /// The last batch of this instance's that is in the first page.
    #[serde(default)]
    pub contained: Option<u64>,
}

/// A pull of all rows, after which absence means something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resync {
    pub why: Why,
    pub state_done: bool,
    pub stats_done: bool,
    /// Requests that the hub's total lacks.
    pub missing: u64,
    /// The last batch of this instance's of which all counters have been shown, when they have.
    #[serde(default)]
    pub contained: Option<u64>,
    /// As of then.
    #[serde(default)]
    pub kept: KeptFrom,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// The hub has forgotten what it confirmed.
    RolledBack,
    /// It is another database, or was promoted or recovered to a point in time.
    Moved,
    /// Away for longer than deletions are remembered.
    Away,
    /// A copy of the file is believed to have told what lay here: the totals will show.
    Forked,
    /// This machine's clock was found to be wrong by another amount: dates are taken anew.
    Clock,
}

/// Why nothing is pushed or pulled until somebody acts; deltas go on coalescing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stop {
    /// The URL leads to another database, which does not know the old one.
    OtherHub(HubIdentity),
    /// The hub has forgotten more than is kept here: it is at this batch of ours.
    RolledBack(u64),
}

/// A batch: exactly what is sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    pub head: Head,
    pub rows: Rows,
}

/// What is to be known of a batch without reading its rows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Head {
    pub seq: u64,
    pub prev: String,
    pub digest: String,
    /// Of the process life that counted what is in it.
    pub run: Uuid,
    /// How many rows it has.
    pub rows: u64,
    /// When it was confirmed, by the hub's clock.
    #[serde(default)]
    pub confirmed: Option<i64>,
    /// Requests in the stream's batches up to this one, once it is confirmed.
    #[serde(default)]
    pub told: u64,
}

impl Head {
    pub fn mark(&self) -> Mark {
        Mark { seq: self.seq, digest: self.digest.clone() }
    }
}

impl Batch {
    /// Of the core, which counts none: attempts of keys.
    pub fn requests(&self) -> u64 {
        let totals = self.rows.global.iter().map(|row| &row.sums);
        let attempts = self.rows.tallies.iter().filter(|row| row.t == SpanKind::KeyTotal.code());
        let sums = totals.chain(attempts.map(|row| &row.sums));
        let sum = sums.flat_map(|of| [of.s, of.f, of.o]).fold(0, i64::saturating_add);
        u64::try_from(sum).unwrap_or(0)
    }

    /// The head and the rows, a line each.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = encode(&self.head);
        bytes.push(b'\n');
        bytes.extend(serde_json::to_vec(&self.rows).unwrap_or_default());
        bytes
    }

    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (head, rows) = lines(bytes)?;
        let rows = serde_json::from_slice(rows).map_err(|error| Error::Document(error.to_string()))?;
        Ok(Self { head: decode(head)?, rows })
    }
}

impl Head {
    pub fn of(batch: &[u8]) -> Result<Self> {
        decode(lines(batch)?.0)
    }

    /// The same batch with this head.
    pub fn put_before(&self, batch: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = encode(self);
        bytes.push(b'\n');
        bytes.extend_from_slice(lines(batch)?.1);
        Ok(bytes)
    }
}

fn lines(batch: &[u8]) -> Result<(&[u8], &[u8])> {
    let end = batch.iter().position(|byte| *byte == b'\n');
    let end = end.ok_or_else(|| Error::Document("a batch without rows".to_owned()))?;
    Ok((&batch[..end], &batch[end + 1..]))
}

/// What is known of a hub as such.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HubNote {
    /// To be added to this machine's clock to get the hub's, in milliseconds.
    pub offset: i64,
    /// As it was measured last.
    #[serde(default)]
    pub measured: i64,
    /// In which days begin and end.
    #[serde(default)]
    pub zone: Option<String>,
    /// How far the hub's storage budget is used up.
    #[serde(default)]
    pub rung: Rung,
}

/// How far each instance is contained in the totals that were pulled.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Vector {
    pub of: BTreeMap<Uuid, Mark>,
    /// Whether all totals are of one moment. Otherwise some contain more than this says.
    pub exact: bool,
}

impl Vector {
    /// More instances than any hub has; a bound on what a strange hub can make us keep.
    pub const MAX: usize = 20_000;
}

pub fn encode<T: Serialize>(content: &T) -> Vec<u8> {
    let mut bytes = vec![FORMAT];
    // Maps with text keys and numbers: nothing that JSON cannot say.
    bytes.extend(serde_json::to_vec(content).unwrap_or_default());
    bytes
}

pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, json)) => {
            serde_json::from_slice(json).map_err(|error| Error::Document(error.to_string()))
        }
        Some((newer, _)) => Err(Error::Document(format!("format {newer} is newer than this keytide"))),
        None => Err(Error::Document("it is empty".to_owned())),
    }
}

pub fn read<T: DeserializeOwned>(shelf: &dyn Shelf, name: &str) -> Result<Option<T>> {
    shelf.note(name)?.map(|bytes| decode(&bytes)).transpose()
}

pub fn write<T: Serialize>(shelf: &mut dyn Shelf, name: &str, content: &T) -> Result<()> {
    Ok(shelf.set_note(name, Some(&encode(content)))?)
}

/// How large a hub was: nothing where that is not known, or cannot be read, since it is only for projections.
pub fn sizes_before(shelf: &dyn Shelf, name: &str) -> Result<History> {
    Ok(shelf.note(name)?.and_then(|bytes| decode(&bytes).ok()).unwrap_or_default())
}

pub fn keep_sizes(shelf: &mut dyn Shelf, name: &str, sizes: &History) -> Result<()> {
    write(shelf, name, sizes)
}

/// The id that the file had before any fork.
pub const ORIGIN: &str = "replica/origin";

pub fn stream_name(provider: &str) -> String {
    format!("replica/stream/{provider}")
}

pub fn vector_name(provider: &str) -> String {
    format!("replica/vector/{provider}")
}

pub fn hub_name(hub: &str) -> String {
    format!("replica/hub/{hub}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_keytide_wrote_opens() {
        let older = r#"{"instance":"00000000-0000-0000-0000-000000000001","run":"00000000-0000-0000-0000-000000000002",
            "sealed":{"seq":7,"digest":"b"},"confirmed":{"seq":3,"digest":"a"},"doubtful":4,"doubted_at":9,"refused":4,
            "state":{"cursor":"1:2:","drain":null,"complete":5},"walk":{"split":{"rows":2,"at":6,"more":3}}}"#;
        let note: StreamNote = decode(&[&[FORMAT], older.as_bytes()].concat()).unwrap();
        assert_eq!((note.refused, note.late, note.state.page), (Some(4), 0, None));
        assert_eq!(note.walk, Some(Walk::Split { rows: 2, at: 6, more: 3, fenced: false }));
    }
}
