//! Sets, events and single requests. Sets and events are the same however often they are told, so nothing has to be
//! remembered of them beyond what is in no batch yet; requests have no numbers to be compared either, but a row that is
//! told twice is there twice.

use super::{Note, Result, stream::Stream, text};
use crate::{
    model::{CounterId, Period, Set, SetId, SetKind, SpanId, SpanKind, Timestamp},
    replica::wire::{Rows, SetRow},
    store::{
        self,
        shelf::{CORE, Seen},
    },
};

use super::seal::Draft;

/// Most members in one row.
const MEMBERS: usize = 500;

fn mark(id: SetId) -> Seen {
    Seen::Set { kind: id.kind, id: id.id, at: Period::new(id.at) }
}

impl Stream<'_> {
    pub fn is_core(&self) -> bool {
        self.provider == CORE
    }

    /// What is open of sets and events, as far as it fits in.
    pub fn seal_seen(&mut self, draft: &mut Draft) -> Result<()> {
        loop {
            // What was taken is gone from the list.
            let sets = self.shelf.open_sets(None, self.bounds.stride)?;
            if sets.is_empty() {
                break;
            }
            for (id, set) in sets {
                let told = self.seal_set(id, &set, 0, draft);
                self.shelf.put_open_set(id, &told.map_or_else(Set::default, |told| without(&set, told)))?;
                if told.is_some() {
                    return Ok(());
                }
            }
        }
        loop {
            let events = self.shelf.open_events(self.bounds.stride)?;
            if events.is_empty() {
                return Ok(());
            }
            for mut event in events {
                if self.shed {
                    event.details.clear();
                }
                if !draft.push(|rows| &mut rows.events, text::event_row(&event, self.shift)) {
                    return Ok(());
                }
                self.shelf.set_open_event(event.id, None)?;
            }
        }
    }

    /// Of a hub that has no room: what is optional is not owed to it any more, also when it has room again. It stays
    /// part of what is shown here. Were it left open, two copies of this file would both tell it one day.
    pub fn keep_back(&mut self) -> Result<()> {
        let mut rows = 0;
        let hours = SpanId::new(SpanKind::KeyHour, 0, 0);
        let mut after = Some(CounterId::Span(hours));
        loop {
            let opens = self.shelf.opens(self.provider, after.as_ref(), self.bounds.stride)?;
            let Some((last, _)) = opens.last() else { break };
            after = Some(last.clone());
            let is_hour = |id: &CounterId| matches!(id, CounterId::Span(id) if id.kind == SpanKind::KeyHour);
            let is_over = !is_hour(last);
            for (id, tally) in opens.iter().filter(|(id, _)| is_hour(id)) {
                self.shelf.set_open(self.provider, id, None)?;
                rows += 1;
                if self.is_shown(id) {
                    let mut inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
                    inflight.keep(tally);
                    self.put_inflight(id, inflight)?;
                }
            }
            if is_over {
                break;
            }
        }
        // In the order of their kinds, of which days come first.
        let mut after = Some(SetId { kind: SetKind::KeyDay, at: u32::MAX, id: u128::MAX });
        loop {
            let sets = self.shelf.open_sets(after, self.bounds.stride)?;
            let Some((last, _)) = sets.last() else { break };
            after = Some(*last);
            let is_over = last.kind != SetKind::KeyHour;
            for (id, _) in sets.iter().filter(|(id, _)| id.kind == SetKind::KeyHour) {
                self.shelf.put_open_set(*id, &Set::default())?;
                rows += 1;
            }
            if is_over {
                break;
            }
        }
        loop {
            let logs = self.shelf.open_logs(self.bounds.stride)?;
            if logs.is_empty() {
                break;
            }
            for log in &logs {
                self.shelf.set_open_log(log.id, None)?;
                rows += 1;
            }
        }
        if rows > 0 {
            self.out.notes.push(Note::KeptBack { rows });
        }
        Ok(())
    }

    /// Last of all: there may be as many as requests.
    /// In the order of their ids, which is that of requests.
    pub fn seal_logs(&mut self, draft: &mut Draft, until: Timestamp) -> Result<()> {
        loop {
            let logs = self.shelf.open_logs(self.bounds.stride)?;
            if logs.is_empty() {
                return Ok(());
            }
            for log in logs {
                if log.at > until || !draft.push(|rows| &mut rows.logs, text::log_row(&log, self.shift)) {
                    return Ok(());
                }
                self.shelf.set_open_log(log.id, None)?;
            }
        }
    }

    /// From behind the first `from` members on. Returns how many are told then, unless that is all.
    pub fn seal_set(&self, id: SetId, set: &Set, from: usize, draft: &mut Draft) -> Option<usize> {
        let members: Vec<u128> = set.members.iter().copied().skip(from).collect();
        let mut told = from;
        loop {
            let rest = (told == 0).then_some(set);
            let some = &members[told - from..members.len().min(told - from + MEMBERS)];
            if rest.is_none() && some.is_empty() {
                return None;
            }
            if !draft.push(|rows| &mut rows.sets, text::set_row(id, some, rest, self.shift)) {
                return Some(told);
            }
            told += some.len();
            if some.len() < MEMBERS {
                return None;
            }
        }
    }

    /// Sets from a place in all of them on, and after how many of its members each is to be told.
    pub fn sets_from(
        &self,
        after: Option<&(SetId, Option<usize>)>,
        max: usize,
    ) -> Result<Vec<(SetId, Set, usize)>> {
        let mut some = Vec::new();
        if let Some((id, Some(told))) = after {
            some.push((*id, self.shelf.set(*id)?, *told));
        }
        let sets = self.shelf.sets(after.map(|(id, _)| *id), max)?;
        some.extend(sets.into_iter().map(|(id, set)| (id, set, 0)));
        Ok(some)
    }

    /// What a batch has told of these is in no batch any more. With `logs` also requests, which nobody has told then.
    pub fn reopen(&mut self, rows: &Rows, logs: bool) -> Result<()> {
        if broken!(SeenStaysInBatches) {
            return Ok(());
        }
        let (shift, mut late) = (self.shift, 0);
        for (id, set) in rows.sets.iter().filter_map(|row| text::set_of(row, shift)) {
            late += u64::from(!self.tell_set(id, &set)?);
        }
        if late > 0 {
            self.say(|provider| Note::Expired { provider, rows: late });
        }
        for mut event in rows.events.iter().map(|row| text::event_of(row, shift)) {
            if !logs && broken!(EventsAreTwice) {
                event.id = uuid::Uuid::from_u128(!event.id.as_u128());
            }
            self.shelf.set_open_event(event.id, Some(&event))?;
        }
        for log in rows
            .logs
            .iter()
            .filter(|_| logs || broken!(LogsAreTwice))
            .filter_map(|row| text::log_of(row, shift))
        {
            self.shelf.set_open_log(log.id, Some(&log))?;
        }
        Ok(())
    }

    /// To be told again, as long as anybody takes it in; false if nobody does.
    fn tell_set(&mut self, id: SetId, some: &Set) -> Result<bool> {
        if !store::owes(id, self.now) {
            return Ok(false);
        }
        let mut open = self.shelf.open_set(id)?;
        if !open.add(id.kind, some).is_empty() {
            self.shelf.put_open_set(id, &open)?;
        }
        Ok(true)
    }

    pub fn take_sets(&mut self, rows: &[SetRow]) -> Result<()> {
        for row in rows {
            let Some((id, there)) = text::set_of(row, self.shift) else { continue };
            let mut here = self.shelf.set(id)?;
            if self.note.resync.is_some() {
                self.shelf.mark_seen(self.provider, &mark(id))?;
                // The hub may have lost what it was told.
                let lacking = there.clone().add(id.kind, &here);
                if !lacking.is_empty() && !broken!(SetsAreNotRetold) {
                    self.tell_set(id, &lacking)?;
                }
            }
            if store::keeps_set(id, self.now)
                && !broken!(SetsAreNotRead)
                && !here.add(id.kind, &there).is_empty()
            {
                self.shelf.put_set(id, &here)?;
            }
        }
        Ok(())
    }

    /// Sets that a pull of all rows has not shown are told again.
    pub fn settle_sets(&mut self, after: Option<SetId>) -> Result<Option<SetId>> {
        let sets = self.shelf.sets(after, self.bounds.stride)?;
        let last = sets.last().map(|(last, _)| *last);
        for (id, set) in sets {
            if !self.shelf.was_seen(self.provider, &mark(id))? && !broken!(SetsAreNotRetold) {
                self.tell_set(id, &set)?;
            }
        }
        Ok(last)
    }

    /// What of a set was there before this process began, for all that anyone can know; nothing where nobody takes it in
    /// any more.
    pub fn set_before_this(&self, id: SetId, set: &Set) -> Result<Set> {
        if !store::owes(id, self.now) {
            return Ok(Set::default());
        }
        let open = self.shelf.open_set(id)?;
        let members = set.members.difference(&open.members).copied().collect();
        Ok(Set {
            members,
            more: set.more && !open.more,
            last: set.last.filter(|last| open.last != Some(*last)),
        })
    }
}

/// Without the first members, and what goes with them.
fn without(set: &Set, told: usize) -> Set {
    if told == 0 {
        return set.clone();
    }
    Set { members: set.members.iter().copied().skip(told).collect(), ..Set::default() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, json};
    use uuid::Uuid;

    use super::*;
    use crate::{
        model::{Event, KeyId, Stamps, Tally, Timestamp, UsageLog, UsageType, UserId, Version},
        replica::{
            protocol::{Bounds, Outcome, document::StreamNote},
            simulator::shelf::MemoryShelf,
        },
        store::shelf::Shelf,
    };

    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    /// One of everything that can be open, sealed.
    fn sealed(shed: bool) -> (Rows, Vec<Note>, usize) {
        let mut shelf = MemoryShelf::new(Uuid::from_u128(1));
        shelf.set_replicated(CORE, true).unwrap();
        let one = Tally { success: 1, ..Tally::default() };
        for kind in SpanKind::ALL {
            shelf.set_open(CORE, &CounterId::Span(SpanId::new(*kind, 7, 500)), Some(&one)).unwrap();
        }
        for kind in SetKind::ALL {
            shelf.put_open_set(SetId { kind: *kind, at: 500, id: 7 }, &Set::of(3)).unwrap();
        }
        let id = Uuid::from_u128(9);
        let (key, user) = (KeyId(7), UserId(3));
        let log = UsageLog { id, key, user, usage_type: UsageType::Call, status: 200, at: NOW };
        shelf.set_open_log(id, Some(&log)).unwrap();
        let details: Map<_, _> = [("limit".to_owned(), json!(5))].into_iter().collect();
        let (user, key) = (Some(user), None);
        let event =
            Event { id, kind: "rate_limit".into(), user, key, severity: 2, details, at: NOW, weight: 1 };
        shelf.set_open_event(id, Some(&event)).unwrap();

        let (stamps, mut out) = (Stamps::new(1, 0, Version::ZERO), Outcome::default());
        let mut stream = Stream {
            shelf: &mut shelf,
            stamps: &stamps,
            provider: CORE,
            providers: &[],
            bounds: Bounds::default(),
            shift: text::Shift(0),
            now: NOW,
            out: &mut out,
            note: StreamNote::default(),
            shed,
        };
        assert!(!stream.seal(Uuid::nil()).unwrap(), "all of it fits");
        let rows = stream.batch(1).unwrap().unwrap().rows;
        let left = shelf.opens(CORE, None, 99).unwrap().len()
            + shelf.open_sets(None, 99).unwrap().len()
            + shelf.open_logs(99).unwrap().len()
            + shelf.open_events(99).unwrap().len();
        (rows, out.notes, left)
    }

    #[test]
    fn a_hub_without_room_is_told_what_is_exact_and_nothing_optional() {
        let (rows, notes, left) = sealed(false);
        assert_eq!((rows.tallies.len(), rows.sets.len(), rows.logs.len(), left), (7, 3, 1, 0));
        assert!(notes.is_empty() && !rows.events[0].d.is_empty());
        let (rows, notes, left) = sealed(true);
        let kinds: Vec<_> = rows.tallies.iter().map(|row| row.t.as_str()).collect();
        assert_eq!(kinds, ["kd", "kt", "td", "uc", "ue", "uu"]);
        let kinds: Vec<_> = rows.sets.iter().map(|row| row.t.as_str()).collect();
        assert_eq!((kinds, rows.logs.len(), rows.events.len(), left), (vec!["kd", "uk"], 0, 1, 0));
        assert!(rows.events[0].d.is_empty());
        assert_eq!(notes, [Note::KeptBack { rows: 3 }]);
    }
}
