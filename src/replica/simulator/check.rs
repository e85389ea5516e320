//! The end of a world: every instance and the hub have the same, and it is what was recorded.

use std::collections::BTreeMap;

use super::{
    cuts,
    journal::{self, Event},
    memory::Memory,
    oracle::{Five, add, five, five_of, fives, hub_counters},
    tables::{Numbers, Tables},
    world::{PROVIDERS, World},
};
use crate::{
    model::{CounterId, KeyId, SpanKind, Tally, Timestamp, TokenId, Version},
    replica::{
        protocol::{
            document::{self, StreamNote},
            text::{self, Shift},
        },
        wire::Lane,
    },
    store::{self, shelf::Shelf},
};

impl World {
    pub fn check(&self) -> Result<(), String> {
        journal::note(|| Event::Holds { at: self.now, tables: self.hub.db.tables.clone() });
        let level = self.instances.iter().all(|it| it.skew.abs() <= 900);
        if self.calm && self.oracle.refused != self.hub.refused {
            return Err(format!(
                "{} rows were refused, and {} said so",
                self.hub.refused, self.oracle.refused
            ));
        }
        for (provider, stream) in &PROVIDERS[..self.providers] {
            let tables = &self.hub.db.tables[*stream];
            let (live, retired) = hub_counters(provider, tables);
            if let Some((id, numbers)) = retired.iter().find(|(id, _)| match id {
                CounterId::Key(id) => tables.keys.keys().any(|key| KeyId::derive(provider, key) == *id),
                CounterId::Token(id) => {
                    tables.tokens.keys().any(|token| TokenId::derive(provider, token) == *id)
                }
                _ => false,
            }) {
                return Err(format!("{provider}: {id:?} is there, and {numbers:?} of it are not"));
            }
            self.check_totals(provider, &live, &retired)?;
            let latest = Version::at(Timestamp(self.now + 300_000));
            if let Some((key, row)) = tables.keys.iter().find(|(_, row)| row.row.versions.added > latest) {
                return Err(format!("{key} was added at {:?}, which is yet to come", row.row.versions.added));
            }
            self.oracle.check_state(provider, tables).map_err(|error| format!("{provider}: {error}"))?;
            self.oracle
                .check_health(provider, tables, level)
                .map_err(|error| format!("{provider}: {error}"))?;
            for at in 0..self.instances.len() {
                self.check_quiet(at, provider, stream)?;
                self.check_instance(at, provider, tables, &live)
                    .map_err(|error| format!("instance {at}, {provider}: {error}"))?;
            }
        }
        if self.core {
            self.check_core(level)?;
        }
        Ok(())
    }

    /// What has been pulled is not pulled again and again.
    pub fn check_quiet(&self, at: usize, provider: &str, stream: &str) -> Result<(), String> {
        let note: Option<StreamNote> =
            document::read(&self.instances[at].shelf, &document::stream_name(provider)).unwrap();
        let Some(note) = note else { return Ok(()) };
        let cursors = [
            (Lane::State, note.state.cursor),
            (Lane::Stats, note.stats.cursor),
            (Lane::Limits, note.limits.cursor),
        ];
        for (lane, cursor) in cursors {
            let again = cursor.map_or(0, |cursor| self.hub.unseen(stream, lane, &cursor));
            if again > 0 {
                return Err(format!("instance {at} would pull {again} rows of {lane:?} again for ever"));
            }
        }
        Ok(())
    }

    /// Numbers and rows alone: all that was counted is on the hub, and every instance has what the hub has.
    pub fn check_numbers(&self) -> Result<(), String> {
        for (provider, stream) in &PROVIDERS[..self.providers] {
            let tables = &self.hub.db.tables[*stream];
            let (live, retired) = hub_counters(provider, tables);
            self.check_totals(provider, &live, &retired)?;
            for at in 0..self.instances.len() {
                self.check_instance(at, provider, tables, &live)
                    .map_err(|error| format!("instance {at}, {provider}: {error}"))?;
            }
        }
        Ok(())
    }

    pub fn check_totals(
        &self,
        provider: &str,
        live: &BTreeMap<CounterId, Numbers>,
        retired: &BTreeMap<CounterId, Numbers>,
    ) -> Result<(), String> {
        let mut expected: BTreeMap<CounterId, Five> = BTreeMap::new();
        for ((of, id), five) in self.oracle.counted.iter().chain(&self.hub.db.foreign) {
            if of == provider {
                add(expected.entry(id.clone()).or_default(), five, 1);
            }
        }
        for ((of, batch), rows) in &self.oracle.unsent {
            if of != provider || cuts::are_elsewhere(batch, &self.hub.db.applied) {
                continue;
            }
            for (id, five) in fives(provider, rows) {
                add(expected.entry(id).or_default(), &five, -1);
            }
        }
        let oldest = self.now / 3_600_000 - 30 * 24 + 24;
        let kept = |id: &CounterId| match id {
            CounterId::Hour(hour, _) => i64::from(hour.0) > oldest,
            CounterId::Key(_) | CounterId::Token(_) => !self.oracle.emptied,
            CounterId::Span(id) => self.is_span_kept(id),
            _ => true,
        };
        let mut there: BTreeMap<CounterId, Five> = BTreeMap::new();
        for (id, numbers) in live.iter().chain(retired) {
            add(there.entry(id.clone()).or_default(), &five_of(numbers), 1);
        }
        for id in expected.keys().chain(there.keys()).filter(|id| kept(id)) {
            let (expected, there) = (expected.get(id).copied(), there.get(id).copied());
            let (expected, there) = (expected.unwrap_or_default(), there.unwrap_or_default());
            if expected != there && !self.may_lack(provider, id, &expected, &there) {
                return Err(format!(
                    "{provider}: the hub has {there:?} of {id:?}, and {expected:?} were counted"
                ));
            }
        }
        Ok(())
    }

    /// Never more than was counted, and of requests no less than was reported. What else was told of deleted rows
    /// is in no total that an adopter knows.
    fn may_lack(&self, provider: &str, id: &CounterId, expected: &Five, there: &Five) -> bool {
        let lacks =
            |count: usize| expected[..count].iter().zip(there).map(|(all, here)| all - here).sum::<i64>();
        let more = expected.iter().zip(there).any(|(expected, there)| there > expected);
        let reported = self.oracle.missed.get(provider).copied().unwrap_or(0) as i64;
        let rows = match id {
            CounterId::Key(_) | CounterId::Token(_) => true,
            // A day's or hour's may be lost in another batch than the key's total.
            CounterId::Span(id) => id.kind != SpanKind::KeyTotal,
            _ => false,
        };
        self.oracle.lossy && !more && (rows || reported > 0 && lacks(3) <= reported)
    }

    fn check_instance(
        &self,
        at: usize,
        provider: &str,
        tables: &Tables,
        live: &BTreeMap<CounterId, Numbers>,
    ) -> Result<(), String> {
        self.check_counters(at, provider, live)?;
        self.check_rows(at, provider, tables)
    }

    pub fn check_counters(
        &self,
        at: usize,
        provider: &str,
        live: &BTreeMap<CounterId, Numbers>,
    ) -> Result<(), String> {
        let it = &self.instances[at];
        let shelf = &it.shelf;
        let all = usize::MAX;
        // What a file keeps is not always all that the hub does.
        let now = self.local(at);
        let is_kept = |id: &CounterId| match id {
            CounterId::Span(id) => store::keeps(id, now) && self.is_span_shown(id),
            _ => true,
        };
        let open = shelf.opens(provider, None, all).map_err(|error| error.to_string())?;
        if !open.is_empty() {
            return Err(format!("open at the end: {open:?}"));
        }
        let dirty = shelf.dirty(provider, None, all).unwrap();
        if !dirty.is_empty() {
            return Err(format!("dirty at the end: {dirty:?}"));
        }
        let inflight = shelf.inflights(provider, None, all).unwrap();
        if inflight.iter().any(|(_, inflight)| !inflight.sealed.is_empty()) {
            return Err(format!("sealed at the end: {inflight:?}"));
        }
        for (id, inflight) in &inflight {
            let comes_back = live.contains_key(id) || self.calm && matches!(id, CounterId::Hour(..));
            if comes_back && is_kept(id) && inflight.confirmed.is_some() {
                return Err(format!("{id:?} is there, and does not end what was confirmed: {inflight:?}"));
            }
        }
        // Of rows that are no more there may be confirmed deltas, which their return will end.
        let shift = Shift(it.stamps.offset_ms());
        let views: BTreeMap<CounterId, Tally> =
            shelf.views(provider, None, all).unwrap().into_iter().collect();
        let oldest = self.now / 3_600_000 - 30 * 24 + 24;
        for id in views.keys().chain(live.keys()) {
            if matches!(id, CounterId::Hour(hour, _) if i64::from(hour.0) <= oldest) || !is_kept(id) {
                continue;
            }
            let here = views.get(id).copied().unwrap_or_default();
            let there = live.get(id).cloned().unwrap_or_default();
            if five(&here) != five_of(&there) || shift.out(here.last_used) != there.sums.lu {
                return Err(format!("{id:?} is {here:?} here and {there:?} on the hub"));
            }
        }
        if it.memory != Memory::of(shelf) {
            return Err("memory and shelf differ".to_owned());
        }
        if shelf.len() > 5000 {
            return Err(format!("{} rows on the shelf", shelf.len()));
        }
        Ok(())
    }

    fn check_rows(&self, at: usize, provider: &str, tables: &Tables) -> Result<(), String> {
        let it = &self.instances[at];
        let (shelf, all) = (&it.shelf, usize::MAX);
        let shift = Shift(it.stamps.offset_ms());
        let keys = shelf.keys(provider, None, all).unwrap();
        if keys.len() != tables.keys.len() {
            return Err(format!("{} keys here and {} on the hub", keys.len(), tables.keys.len()));
        }
        for (_, here) in keys {
            let here = text::key_row(&here, false, shift);
            let there = tables.keys.get(here.k.expose()).map(|row| text::key_row(&row.row, false, Shift(0)));
            if there.as_ref() != Some(&here) {
                return Err(format!("key {} is {here:?} here and {there:?} on the hub", here.k.expose()));
            }
        }
        let tokens = shelf.tokens(provider, None, all).unwrap();
        if tokens.len() != tables.tokens.len() {
            return Err(format!("{} tokens here and {} on the hub", tokens.len(), tables.tokens.len()));
        }
        for (_, here) in tokens {
            let here = text::token_row(&here, false, shift);
            let there =
                tables.tokens.get(here.k.expose()).map(|row| text::token_row(&row.row, false, Shift(0)));
            if there.as_ref() != Some(&here) {
                return Err(format!("a token is {here:?} here and {there:?} on the hub"));
            }
        }
        Ok(())
    }
}
