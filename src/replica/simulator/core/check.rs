//! The end of a world, as far as it is the core's.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    day_of, hour_of,
    recorded::{Doubtful, Recorded, is_of},
    tables::Core,
};
use crate::{
    model::{CounterId, KeyId, LastKey, Set, SetId, SetKind, SpanId, SpanKind, Timestamp, UserId},
    replica::{
        protocol::text::{self, Shift},
        simulator::{
            cuts,
            oracle::hub_counters,
            shelf::digest,
            world::{Instance, KEYS, PROVIDERS, World},
        },
        wire::{GoneKind, ShareRow},
    },
    store::{
        self,
        shelf::{CORE, Shelf},
    },
};

/// How far a date may be from the true time where clocks are level.
const LEVEL: i64 = 2000;

impl World {
    /// Whether the hub has taken such a row in since its period began, and whoever counted it has told it.
    pub fn is_span_kept(&self, id: &SpanId) -> bool {
        let (n, today) = (id.at.number(), day_of(self.now));
        let Recorded { hours_from, days_from, .. } = self.oracle.core;
        match id.kind {
            SpanKind::KeyTotal => true,
            SpanKind::KeyHour if n < hours_from => false,
            SpanKind::UserClasses | SpanKind::UserErrors | SpanKind::UserUses if n < days_from => false,
            // A hub that was emptied has of old ones what files keep.
            SpanKind::KeyHour if self.oracle.emptied => n + 48 >= hour_of(self.now) + 3,
            SpanKind::KeyHour => n + 30 * 24 >= hour_of(self.now) + 3,
            SpanKind::TokenDay => n + 2 >= today,
            _ => n + 30 > today,
        }
    }

    /// Whether the hub shows what becomes of it.
    pub fn is_span_shown(&self, id: &SpanId) -> bool {
        self.is_span_kept(id) && (id.kind != SpanKind::KeyHour || id.at.number() + 48 >= hour_of(self.now))
    }

    fn is_set_kept(&self, id: SetId) -> bool {
        let Recorded { hours_from, days_from, .. } = self.oracle.core;
        match id.kind {
            SetKind::KeyHour if id.at < hours_from => false,
            SetKind::UserKeys if id.at < days_from => false,
            SetKind::KeyHour => id.at + 26 >= hour_of(self.now) + 3,
            SetKind::KeyDay | SetKind::UserKeys => id.at + 8 > day_of(self.now),
        }
    }

    /// What a file has just forgotten does not come back to it.
    pub fn forget_before_check(&mut self) -> Result<(), String> {
        for (at, it) in self.instances.iter().enumerate() {
            let earlier = Timestamp(self.local(at).0 - 3_600_000);
            let is_old = |id: &CounterId| matches!(id, CounterId::Span(id) if !store::keeps(id, earlier));
            let views = it.shelf.views(CORE, None, usize::MAX).unwrap();
            if let Some(old) = views.iter().find(|(id, _)| is_old(id)) {
                return Err(format!("instance {at} has {old:?}, which nobody looks at any more"));
            }
        }
        self.forget_all();
        Ok(())
    }

    pub fn check_core(&self, level: bool) -> Result<(), String> {
        let tables = &self.hub.db.tables[super::STREAM];
        let Some(core) = &tables.core else { return Err("the core has no tables".to_owned()) };
        let (live, retired) = hub_counters(CORE, tables);
        self.check_totals(CORE, &live, &retired)?;
        self.oracle.check_state(CORE, tables)?;
        let mut doubtful = Doubtful::default();
        for ((of, batch), rows) in &self.oracle.unsent {
            if of == CORE && !cuts::are_elsewhere(batch, &self.hub.db.applied) {
                doubtful.take(rows);
            }
        }
        for (id, set) in &self.oracle.core.lost {
            doubtful.sets.entry(*id).or_default().members.extend(&set.members);
        }
        let sets = sets_of(core);
        self.check_sets(&sets, &doubtful, level)?;
        self.check_events(core, &doubtful)?;
        self.check_logs(core, &doubtful)?;
        self.check_shares(core)?;
        for at in 0..self.instances.len() {
            let it = &self.instances[at];
            self.check_quiet(at, CORE, super::STREAM)?;
            self.check_counters(at, CORE, &live)
                .and_then(|()| check_users(it, core))
                .and_then(|()| self.check_sets_of(it, &sets))
                .map_err(|error| format!("instance {at}, core: {error}"))?;
        }
        Ok(())
    }

    /// All members that anybody has put into them, and nobody else.
    fn check_sets(
        &self,
        sets: &BTreeMap<SetId, Set>,
        doubtful: &Doubtful,
        level: bool,
    ) -> Result<(), String> {
        if let Some(id) = sets.keys().find(|id| !self.oracle.core.sets.contains_key(id)) {
            return Err(format!("the hub has {id:?}, into which nobody has put anything"));
        }
        for (id, all) in self.oracle.core.sets.iter().filter(|(id, _)| self.is_set_kept(**id)) {
            let none = Set::default();
            let (there, maybe) = (sets.get(id).unwrap_or(&none), doubtful.sets.get(id));
            let expected: BTreeSet<u128> = match id.kind {
                SetKind::UserKeys => all.members.iter().copied().take(Set::MOST_KEYS).collect(),
                _ => all.members.clone(),
            };
            let wrong = || format!("the hub has {there:?} of {id:?}, and {all:?} were put into it");
            let known = |member: &u128| maybe.is_some_and(|maybe| maybe.members.contains(member));
            let whole = maybe.is_none();
            let is_more = id.kind == SetKind::UserKeys && all.members.len() > Set::MOST_KEYS;
            let lacks = expected.difference(&there.members).any(|member| !known(member));
            let has = there.members.difference(&all.members).next().is_some();
            if has || (whole || !is_more) && lacks || whole && there.more != is_more {
                return Err(wrong());
            }
            let Some(last) = self.oracle.core.last.get(id).filter(|_| whole && level) else { continue };
            let latest = last.values().max().copied().unwrap_or_default();
            let told = there.last.and_then(|of| last.get(&of.key)).copied().unwrap_or_default();
            if told + LEVEL < latest {
                return Err(format!("{}; the last ones were {last:?}", wrong()));
            }
        }
        Ok(())
    }

    /// What happened is known to a hub alone, when it has been told.
    fn has_hub_lost(&self) -> bool {
        self.oracle.emptied || self.oracle.lossy
    }

    /// Each once, as it happened.
    fn check_events(&self, core: &Core, doubtful: &Doubtful) -> Result<(), String> {
        let recorded = &self.oracle.core.events;
        for (id, row) in &core.events {
            if !recorded.get(id).is_some_and(|event| is_of(row, event)) {
                return Err(format!("the hub has {row:?}, and that happened: {:?}", recorded.get(id)));
            }
        }
        let oldest = self.now - super::BEGUN_FOR;
        let lost = recorded.iter().filter(|_| !self.has_hub_lost()).find(|(id, event)| {
            event.at.0 > oldest && !doubtful.seen.contains(*id) && !core.events.contains_key(*id)
        });
        lost.map_or(Ok(()), |(_, event)| Err(format!("the hub has not heard of {event:?}")))
    }

    /// A row for each, and only one.
    fn check_logs(&self, core: &Core, doubtful: &Doubtful) -> Result<(), String> {
        let mut there = BTreeSet::new();
        for row in &core.logs {
            if !there.insert(row.x) {
                return Err(format!("the hub has {row:?} twice"));
            }
        }
        let oldest = self.now - 6 * super::DAY;
        let mut lost = self.oracle.core.logs.iter().filter(|(id, log)| {
            !self.has_hub_lost() && log.at.0 > oldest && !doubtful.seen.contains(*id) && !there.contains(*id)
        });
        lost.next().map_or(Ok(()), |(_, log)| Err(format!("the hub has no row of {log:?}")))
    }

    /// Whose each key is, as the key's own row has it.
    fn check_shares(&self, core: &Core) -> Result<(), String> {
        for (provider, stream) in &PROVIDERS[..self.providers] {
            let tables = &self.hub.db.tables[*stream];
            for (key, row) in tables.keys.iter().filter(|(key, _)| !self.oracle.is_unsure(provider, key)) {
                let id = KeyId::derive(provider, key);
                let is_whose = |share: &ShareRow| {
                    let own = text::share_row(provider, id, &row.row);
                    (&share.p, share.u, share.on) == (&own.p, own.u, own.on)
                };
                let share = core.keys.get(&Uuid::from_u128(id.0)).and_then(|key| key.row.share.as_ref());
                if !share.is_some_and(is_whose) {
                    return Err(format!(
                        "{provider}: {key} is {:?}, and shared as {share:?}",
                        row.row.record
                    ));
                }
            }
            for (_, at) in tables.tombstones.keys().filter(|(kind, _)| *kind == GoneKind::Key) {
                let known = KEYS.iter().find(|key| text::hex(&digest(key)) == *at);
                let Some(key) = known.filter(|key| !self.oracle.is_unsure(provider, key)) else { continue };
                let id = Uuid::from_u128(KeyId::derive(provider, key).0);
                let share = core.keys.get(&id).and_then(|key| key.row.share.as_ref());
                if share.is_some_and(|share| share.on != Some(false)) {
                    return Err(format!("{provider}: {key} is deleted, and shared as {share:?}"));
                }
            }
        }
        Ok(())
    }

    fn check_sets_of(&self, it: &Instance, sets: &BTreeMap<SetId, Set>) -> Result<(), String> {
        let shelf = &it.shelf;
        let all = usize::MAX;
        let open = (shelf.open_sets(None, all).unwrap(), shelf.open_events(all).unwrap());
        if !open.0.is_empty() || !open.1.is_empty() || !shelf.open_logs(all).unwrap().is_empty() {
            return Err(format!("open at the end: {open:?}"));
        }
        let shift = Shift(it.stamps.offset_ms());
        let here: BTreeMap<SetId, Set> = shelf.sets(None, all).unwrap().into_iter().collect();
        let ids: BTreeSet<SetId> = here.keys().chain(sets.keys()).copied().collect();
        for id in ids.into_iter().filter(|id| self.is_set_kept(*id)) {
            let brief = |set: Option<&Set>, shift: Shift| {
                set.map(|set| {
                    let last = set.last.map(|last| (shift.out(Some(last.at)), last.key));
                    (set.members.clone(), set.more, last)
                })
            };
            let (here, there) = (brief(here.get(&id), shift), brief(sets.get(&id), Shift(0)));
            if here != there {
                return Err(format!("{id:?} is {here:?} here and {there:?} on the hub"));
            }
        }
        Ok(())
    }
}

fn sets_of(core: &Core) -> BTreeMap<SetId, Set> {
    let mut sets = BTreeMap::new();
    for ((t, at, id), users) in &core.sets {
        let Some(kind) = SetKind::of_code(t) else { continue };
        let members = users.row.iter().filter_map(|member| u128::from_str_radix(member, 16).ok()).collect();
        let set = Set { members, ..Set::default() };
        sets.insert(SetId { kind, at: *at, id: id.as_u128() }, set);
    }
    for ((at, id), day) in &core.user_days {
        let row = &day.row;
        let number = |key: &String| u32::from_str_radix(key, 16).ok();
        let members = row.keys.iter().filter_map(number).map(u128::from).collect();
        let last =
            row.last.as_ref().and_then(|(at, key)| Some(LastKey { at: Timestamp(*at), key: number(key)? }));
        let set = Set { members, more: row.more, last };
        if !set.is_empty() {
            sets.insert(SetId { kind: SetKind::UserKeys, at: *at, id: id.as_u128() }, set);
        }
    }
    sets
}

fn check_users(it: &Instance, core: &Core) -> Result<(), String> {
    let users = it.shelf.users(None, usize::MAX).unwrap();
    if users.len() != core.users.len() {
        return Err(format!("{} users here and {} on the hub", users.len(), core.users.len()));
    }
    let shift = Shift(it.stamps.offset_ms());
    for (id, here) in users {
        let here = text::user_row(id, &here, false, shift);
        let there =
            core.users.get(&here.i).map(|row| text::user_row(UserId(id.0), &row.row, false, Shift(0)));
        if there.as_ref() != Some(&here) {
            return Err(format!("user {id} is {here:?} here and {there:?} on the hub"));
        }
    }
    Ok(())
}
