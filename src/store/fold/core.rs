//! What is counted by hour, day and person.

use super::{bump, open};
use crate::{
    model::{CoreDelta, CounterId, Delta, SetId, SpanId, SpanKind, Tally},
    store::{
        codec,
        desk::{Desk, optional},
        error::Fault,
        shelf::CORE,
        tables::{set_at, span_at},
    },
};

pub(super) fn apply(desk: &mut Desk<'_>, delta: &Delta) -> Result<(), Fault> {
    let replicates = desk.replicates(CORE)?;
    let attempts = delta.providers.values().flat_map(|of| &of.keys).map(|(id, more)| {
        let tally = Tally { last_success: None, last_failure: None, ..more.into() };
        (SpanId::new(SpanKind::KeyTotal, id.0, 0), tally)
    });
    let CoreDelta { tallies, sets } = &delta.core;
    let mut rows: Vec<_> = tallies.iter().map(|(id, tally)| (*id, *tally)).chain(attempts).collect();
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
    Ok(())
}

impl Desk<'_> {
    pub(in crate::store) fn set(&self, id: SetId) -> Result<crate::model::Set, Fault> {
        Ok(optional(self.sets.get(set_at(id))?, "a set")?.unwrap_or_default())
    }

    pub(in crate::store) fn open_set(&self, id: SetId) -> Result<crate::model::Set, Fault> {
        Ok(optional(self.open_sets.get(set_at(id))?, "what is new in a set")?.unwrap_or_default())
    }
}
