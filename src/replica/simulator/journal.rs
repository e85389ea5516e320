//! What a history asks of its hub, and what befalls the hub, in order: all that is needed to ask another hub the
//! same. Kept for the thread that lives the history, while somebody wants it.

use std::{cell::RefCell, collections::BTreeMap};

use super::{foreign::Statement, hub::Xid, tables::Tables};
use crate::replica::wire::Function;

#[derive(Clone, Debug)]
pub enum Event {
    /// A transaction has an id. Most are used and end at once.
    Begin { xid: Xid },
    /// With the hub's clock, and the transaction if there is one.
    Call { at: i64, function: Function, request: String, answer: String, xid: Option<Xid> },
    /// By other hands.
    Foreign { at: i64, xid: Xid, statement: Statement },
    /// The hub was backed up,
    Kept,
    /// and is again as it was then.
    Recovered,
    /// Restored from a dump in another cluster, whose transactions have only begun.
    Moved,
    /// A new database stands in its place.
    Emptied,
    /// What is old was forgotten.
    Swept { at: i64 },
    /// For want of space it keeps nothing from before these.
    Climbed { hours_from: u32, days_from: u32 },
    /// All that the hub holds now.
    Holds { at: i64, tables: BTreeMap<String, Tables> },
}

thread_local! {
    static EVENTS: RefCell<Option<Vec<Event>>> = const { RefCell::new(None) };
}

pub fn note(event: impl FnOnce() -> Event) {
    EVENTS.with_borrow_mut(|events| {
        if let Some(events) = events {
            events.push(event());
        }
    });
}

/// What `live` does, as events.
pub fn of<T>(live: impl FnOnce() -> T) -> (T, Vec<Event>) {
    EVENTS.set(Some(Vec::new()));
    let lived = live();
    (lived, EVENTS.take().unwrap_or_default())
}
