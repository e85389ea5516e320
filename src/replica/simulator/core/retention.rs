//! What of the core is kept how long: on the hub, as `schema/019` and `schema/023` have it, and in a file.

use std::collections::BTreeSet;

use super::{DAY, day_of, hour_of, tables::Core};
use crate::{
    model::{CounterId, Timestamp},
    replica::simulator::{hub::Xid, shelf::MemoryShelf},
    store::{
        self,
        shelf::{CORE, Inflight, Shelf},
    },
};

/// Which periods a hub takes in now.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    hour: i64,
    today: i64,
    hours_from: i64,
    days_from: i64,
}

impl Window {
    pub fn new(now: i64, hours_from: u32, days_from: u32) -> Self {
        let (hour, today) = (i64::from(hour_of(now)), i64::from(day_of(now)));
        Self { hour, today, hours_from: hours_from.into(), days_from: days_from.into() }
    }

    /// Whether it is looked at at all.
    pub fn is_near_tally(&self, kind: &str, n: u32) -> bool {
        let n = i64::from(n);
        match kind {
            "kt" => true,
            "kh" => (self.hour - 800..=self.hour + 48).contains(&n),
            _ => (self.today - 32..=self.today + 2).contains(&n),
        }
    }

    pub fn is_near_set(&self, kind: &str, n: u32) -> bool {
        let n = i64::from(n);
        match kind {
            "kh" => (self.hour - 27..=self.hour + 48).contains(&n),
            _ => (self.today - 9..=self.today + 2).contains(&n),
        }
    }

    pub fn takes_tally(&self, kind: &str, n: u32) -> bool {
        let from = match kind {
            "kt" => return true,
            "kh" => ((self.hour / 24 - 30) * 24).max(self.hours_from),
            "kd" => self.today - 30,
            "td" => self.today - 2,
            _ => (self.today - 30).max(self.days_from),
        };
        self.is_near_tally(kind, n) && i64::from(n) >= from
    }

    pub fn takes_set(&self, kind: &str, n: u32) -> bool {
        let from = match kind {
            "kh" => (self.hour - 26).max(self.hours_from),
            "kd" => self.today - 8,
            _ => (self.today - 8).max(self.days_from),
        };
        self.is_near_set(kind, n) && i64::from(n) >= from
    }
}

impl Core {
    /// The hub forgets what it does not keep, and a key that nobody uses has its midnight.
    pub fn retain(&mut self, now: i64, xid: Xid) {
        let (hour, today) = (hour_of(now), day_of(now));
        self.hours_from = self.hours_from.max((hour / 24 - 30) * 24);
        self.days_from = self.days_from.max(today - 30);
        let (hours_from, days_from) = (self.hours_from, self.days_from);
        self.key_hours.retain(|(n, _), _| *n >= hours_from);
        self.user_days.retain(|(n, _), _| *n >= days_from);
        self.events.retain(|_, event| event.at >= now - 30 * DAY);
        self.logs.retain(|log| log.at >= now - 7 * DAY);
        self.sets.retain(|(kind, n, _), _| match kind.as_str() {
            "kh" => *n >= hour - 26,
            _ => *n >= today - 8,
        });
        self.key_days.retain(|(n, _), _| *n >= today - 30);
        self.token_days.retain(|(n, _), _| *n >= today - 2);
        let is_idle = |day: &Option<u32>| day.is_some_and(|day| day < today);
        let idle: BTreeSet<_> =
            self.keys.iter().filter(|(_, key)| is_idle(&key.row.figures)).map(|(id, _)| *id).collect();
        self.work_out(idle, xid, today);
    }
}

/// A file forgets what is kept for a while: rows that are not shown any more, and members and deltas that no hub takes
/// in any more.
pub fn forget(shelf: &mut MemoryShelf, now: Timestamp) {
    let all = usize::MAX;
    for (id, _) in shelf.views(CORE, None, all).unwrap() {
        if matches!(id, CounterId::Span(span) if !store::keeps(&span, now)) {
            shelf.set_view(CORE, &id, &Default::default()).unwrap();
        }
    }
    for (id, _) in shelf.sets(None, all).unwrap() {
        if !store::keeps_set(id, now) {
            shelf.put_set(id, &Default::default()).unwrap();
        }
    }
    for (id, _) in shelf.open_sets(None, all).unwrap() {
        if !store::owes(id, now) {
            shelf.put_open_set(id, &Default::default()).unwrap();
        }
    }
    let is_owed = |id: &CounterId| match id {
        CounterId::Span(span) if span.kind == crate::model::SpanKind::KeyHour => {
            span.at.number() + 30 * 24 >= hour_of(now.0)
        }
        CounterId::Span(span) => store::keeps(span, now),
        _ => true,
    };
    for (id, _) in shelf.opens(CORE, None, all).unwrap() {
        if !is_owed(&id) {
            shelf.set_open(CORE, &id, None).unwrap();
        }
    }
    for (id, inflight) in shelf.inflights(CORE, None, all).unwrap() {
        if !is_owed(&id) && inflight.confirmed.is_some() {
            let left = Inflight { confirmed: None, ..inflight };
            shelf.set_inflight(CORE, &id, (!left.is_empty()).then_some(&left)).unwrap();
        }
    }
    shelf.commit();
}
