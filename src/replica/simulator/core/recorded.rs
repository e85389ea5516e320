//! What instances have put into sets and seen happen, whatever became of it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use crate::{
    model::{Event, LastKey, Set, SetId, UsageLog},
    replica::{
        protocol::text::{self, Shift},
        wire::{EventRow, Rows},
    },
};

#[derive(Clone, Debug, Default)]
pub struct Recorded {
    pub sets: BTreeMap<SetId, Set>,
    /// When each key of a user's day was used last, by the true time.
    pub last: BTreeMap<SetId, BTreeMap<u32, i64>>,
    pub events: BTreeMap<Uuid, Event>,
    pub logs: BTreeMap<Uuid, UsageLog>,
    /// What a hub has ever not taken in any more.
    pub hours_from: u32,
    pub days_from: u32,
    /// Of files that were lost before they had met a hub.
    pub lost: Vec<(SetId, Set)>,
}

impl Recorded {
    /// All of them, also those keys of a user that are more than are kept.
    pub fn put_into(&mut self, id: SetId, more: &Set, now: i64) {
        self.sets.entry(id).or_default().members.extend(&more.members);
        if let Some(LastKey { key, .. }) = more.last {
            self.last.entry(id).or_default().insert(key, now);
        }
    }
}

/// What batches that nobody has any more would have told.
#[derive(Default)]
pub struct Doubtful {
    pub sets: BTreeMap<SetId, Set>,
    /// Events and requests.
    pub seen: BTreeSet<Uuid>,
}

impl Doubtful {
    pub fn take(&mut self, rows: &Rows) {
        for (id, some) in rows.sets.iter().filter_map(|row| text::set_of(row, Shift(0))) {
            self.sets.entry(id).or_default().members.extend(&some.members);
        }
        self.seen.extend(rows.events.iter().map(|row| row.x));
        self.seen.extend(rows.logs.iter().map(|row| row.x));
    }
}

/// Whether the hub has the event as it happened; its date is the hub's own affair.
pub fn is_of(row: &EventRow, event: &Event) -> bool {
    let told = text::event_row(event, Shift(0));
    EventRow { at: told.at, ..row.clone() } == told
}
