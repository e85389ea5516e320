//! What is counted by hour, day and person.

use redb::{ReadableTable, ReadableTableMetadata};

use super::{Keeps, bump, open};
use crate::{
    model::{CoreDelta, CounterId, Delta, KeyUsage, ProviderDelta, SetId, SpanId, SpanKind, Tally},
    store::{
        codec,
        desk::{Desk, optional},
        error::Fault,
        shelf::CORE,
        tables::{set_at, span_at},
    },
};

pub(super) fn apply(desk: &mut Desk<'_>, delta: &Delta, keeps: &Keeps) -> Result<(), Fault> {
    let replicates = desk.replicates(CORE)?;
    let used = delta.providers.values().flat_map(ProviderDelta::usage_of_keys);
    let ever = super::summed(used.map(|(id, more)| (id, *more)), KeyUsage::add);
    let ever = ever.iter().map(|(id, more)| {
        let tally = Tally { last_success: None, last_failure: None, ..more.into() };
        (SpanId::new(SpanKind::KeyTotal, id.0, 0), tally)
    });
    let of_keys = delta.providers.values().flat_map(ProviderDelta::spans_of_keys).chain(ever);
    let CoreDelta { tallies, sets, logs } = &delta.core;
    let mut rows: Vec<_> = tallies.iter().map(|(id, tally)| (*id, *tally)).chain(of_keys).collect();
    rows.sort_unstable_by_key(|(id, _)| span_at(id));
    for (id, more) in &rows {
        bump(&mut desk.tallies, span_at(id), more, Tally::add)?;
    }
    if replicates {
        // The order of that table is another.
        rows.sort_unstable_by_key(|(id, _)| *id);
        for (id, more) in rows {
            open(&mut desk.open, CORE, &CounterId::Span(id), &more)?;
        }
    }
    for (id, more) in super::in_order(sets) {
        let mut all = desk.set(*id)?;
        let new = all.add(id.kind, more);
        if new.is_empty() {
            continue;
        }
        desk.sets.put(set_at(*id), &codec::encode(&all))?;
        if replicates {
            let mut untold = desk.open_set(*id)?;
            untold.add(id.kind, &new);
            desk.open_sets.put(set_at(*id), &codec::encode(&untold))?;
        }
    }
    // Rows for a hub, and of no use without one.
    if replicates {
        for log in logs {
            desk.open_logs.put(log.id.as_u128(), &codec::encode(log))?;
        }
        if !logs.is_empty() {
            desk.bound_logs(keeps.logs)?;
        }
    }
    Ok(())
}

/// The rows of `META` that say how many rows of requests were dropped before a hub had them, and how many counters and sets,
/// which it takes in for so long only.
pub(in crate::store) const LOGS: &str = "dropped_logs";
pub(in crate::store) const LATE: &str = "dropped_late";

pub(in crate::store) fn dropped(value: &[u8]) -> u64 {
    value.try_into().map(u64::from_le_bytes).unwrap_or(0)
}

impl Desk<'_> {
    /// Drops the oldest, so that at most so many are left, and counts them.
    pub(super) fn bound_logs(&mut self, most: u64) -> Result<(), Fault> {
        let too_many = self.open_logs.rows()?.len()?.saturating_sub(most);
        if too_many == 0 {
            return Ok(());
        }
        let mut oldest = Vec::new();
        for row in self.open_logs.rows()?.iter()?.take(usize::try_from(too_many).unwrap_or(usize::MAX)) {
            oldest.push(row?.0.value());
        }
        for id in &oldest {
            self.open_logs.remove(*id)?;
        }
        self.count_dropped(LOGS, oldest.len() as u64)
    }

    pub(super) fn count_dropped(&mut self, what: &str, more: u64) -> Result<(), Fault> {
        if more == 0 {
            return Ok(());
        }
        let before = self.meta.get(what)?.map_or(0, |value| dropped(value.value()));
        self.meta.put(what, &before.saturating_add(more).to_le_bytes())
    }

    pub(in crate::store) fn set(&self, id: SetId) -> Result<crate::model::Set, Fault> {
        Ok(optional(self.sets.get(set_at(id))?, "a set")?.unwrap_or_default())
    }

    pub(in crate::store) fn open_set(&self, id: SetId) -> Result<crate::model::Set, Fault> {
        Ok(optional(self.open_sets.get(set_at(id))?, "what is new in a set")?.unwrap_or_default())
    }
}
