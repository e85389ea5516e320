//! How a stream stands, for the operator.

use uuid::Uuid;

use super::{
    Result, StreamOf,
    document::{self, LaneNote, Resync, Stop, StreamNote},
};
use crate::{
    replica::wire::HubIdentity,
    store::shelf::{CORE, Shelf},
};

/// Of sets, events and requests not more are counted: each time they are gone through.
const SOME: usize = 1000;

#[derive(Clone, Debug, PartialEq)]
pub struct StreamStatus {
    pub provider: String,
    pub stream: String,
    /// Under which its batches go.
    pub instance: Uuid,
    /// None before the first contact.
    pub hub: Option<HubIdentity>,
    pub stopped: Option<Stop>,
    pub sealed: u64,
    pub confirmed: u64,
    /// In batches that are not confirmed.
    pub pending_rows: u64,
    /// Keys, tokens and users with changes, and counters with counts, that are in no batch.
    pub dirty: u64,
    pub open: u64,
    pub state: LaneStatus,
    pub stats: LaneStatus,
    pub resync: Option<Resync>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LaneStatus {
    /// Whether it has been pulled whole at least once.
    pub current: bool,
    /// When the last complete pull began, in milliseconds of the hub's clock.
    pub complete: Option<i64>,
    /// Rows of a pull that is under way.
    pub rows: Option<u64>,
}

fn lane(note: &LaneNote) -> LaneStatus {
    LaneStatus {
        current: note.cursor.is_some(),
        complete: note.complete,
        rows: note.drain.as_ref().map(|drain| drain.rows),
    }
}

pub(super) fn of(shelf: &dyn Shelf, of: &StreamOf) -> Result<StreamStatus> {
    let mut open = shelf.open_len(&of.provider)?;
    if of.provider == CORE {
        let sets = shelf.open_sets(None, SOME)?.len();
        open += (sets + shelf.open_events(SOME)?.len() + shelf.open_logs(SOME)?.len()) as u64;
    }
    let note: StreamNote = document::read(shelf, &document::stream_name(&of.provider))?.unwrap_or_default();
    Ok(StreamStatus {
        provider: of.provider.clone(),
        stream: of.stream.clone(),
        instance: note.instance,
        stopped: note.stopped,
        sealed: note.sealed.seq,
        confirmed: note.confirmed.seq,
        pending_rows: note.pending_rows,
        dirty: shelf.dirty_len(&of.provider)?,
        open,
        state: lane(&note.state),
        stats: lane(&note.stats),
        resync: note.resync,
        hub: note.hub,
    })
}
