//! What has to be true in the end, worked out from what was recorded and not from what was replicated.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    memory::Memory,
    shelf::digest,
    tables::{Numbers, Tables},
    world::{KEYS, PROVIDERS, TOKENS, World},
};
use crate::{
    model::{CounterId, Health, Hour, KeyId, Tally, Timestamp, TokenId, Version},
    replica::{
        protocol::{
            Note,
            document::{self, StreamNote},
            text::{self, Shift},
        },
        wire::{GoneKind, Lane, Rows, Sums},
    },
    store::shelf::Shelf,
};

pub type Five = [i64; 5];

/// A batch by who sent it, its number and its digest.
pub type BatchId = (Uuid, u64, String);

/// Something that was decided about a key.
#[derive(Clone, Debug)]
struct Said {
    version: Version,
    value: String,
    /// The instance; none for other hands.
    by: Option<usize>,
}

#[derive(Default)]
pub struct Oracle {
    /// Every increment that was durable on some instance.
    pub counted: BTreeMap<(String, CounterId), Five>,
    /// Batches that nobody has any more who could send them: what of them is not on the hub is lost.
    pub unsent: BTreeMap<(String, BatchId), Rows>,
    /// What was set, by key and field.
    set: BTreeMap<(String, String, String), Vec<Said>>,
    /// Adds and deletions, by key.
    lives: BTreeMap<(String, String), Vec<(Said, bool)>>,
    /// Keys of whose history something was lost that nobody can know.
    unsure: BTreeSet<(String, String)>,
    /// What was concluded about a key's health, anywhere.
    healths: BTreeMap<(String, String), Vec<Health>>,
    /// A file or a hub was lost, and with it what nobody else may know.
    doubtful: bool,
    /// The counts of deleted rows were nowhere but on a hub that is no more.
    pub emptied: bool,
    /// Confirmed batches were lost that nobody could send again: totals may lack as much as was reported.
    pub lossy: bool,
    /// Requests that were said to be missing, by provider.
    pub missed: BTreeMap<String, u64>,
    /// Rows that were said to be refused.
    pub refused: u64,
}

fn five(tally: &Tally) -> Five {
    [tally.success, tally.failure, tally.other, tally.prompt_tokens, tally.completion_tokens]
}

pub fn five_of(numbers: &Numbers) -> Five {
    let sums = &numbers.sums;
    [sums.s, sums.f, sums.o, sums.p, sums.q]
}

/// The increments of a batch.
fn fives(provider: &str, rows: &Rows) -> Vec<(CounterId, Five)> {
    let of = |sums: &Sums| [sums.s, sums.f, sums.o, sums.p, sums.q];
    let mut out = Vec::new();
    for row in &rows.key_stats {
        out.push((CounterId::Key(KeyId::derive(provider, row.k.expose())), [row.s, row.f, row.o, 0, 0]));
    }
    for row in &rows.token_stats {
        out.push((CounterId::Token(TokenId::derive(provider, row.k.expose())), of(&row.sums)));
    }
    for row in &rows.models {
        out.push((CounterId::Model(row.m.as_str().into()), of(&row.sums)));
    }
    for row in &rows.hours {
        out.push((CounterId::Hour(Hour(row.h), row.m.as_str().into()), of(&row.sums)));
    }
    out.extend(rows.global.iter().map(|row| (CounterId::Total, of(&row.sums))));
    out
}

pub fn add(to: &mut Five, more: &Five, sign: i64) {
    for (to, more) in to.iter_mut().zip(more) {
        *to += sign * more;
    }
}

impl Oracle {
    pub fn recorded(&mut self, provider: &str, id: &CounterId, tally: &Tally) {
        add(self.counted.entry((provider.to_owned(), id.clone())).or_default(), &five(tally), 1);
    }

    pub fn edited(
        &mut self,
        provider: &str,
        key: &str,
        field: &str,
        version: Version,
        value: &str,
        by: Option<usize>,
    ) {
        let at = (provider.to_owned(), key.to_owned(), field.to_owned());
        self.set.entry(at).or_default().push(Said { version, value: value.to_owned(), by });
    }

    pub fn existence(&mut self, provider: &str, key: &str, version: Version, added: bool, by: Option<usize>) {
        let said = Said { version, value: String::new(), by };
        self.lives.entry((provider.to_owned(), key.to_owned())).or_default().push((said, added));
    }

    /// What an instance, or other hands, said may be lost: keys of which that is not `known` elsewhere are left out.
    pub fn doubt(&mut self, by: Option<usize>, known: impl Fn(&str, &str, &str, Version) -> bool) {
        self.doubtful = true;
        for ((provider, key), said) in &self.lives {
            let what = |added: bool| if added { "added" } else { "deleted" };
            let lost = |(said, added): &(Said, bool)| {
                said.by == by && !known(provider, key, what(*added), said.version)
            };
            if said.iter().any(lost) {
                self.unsure.insert((provider.clone(), key.clone()));
            }
        }
        for ((provider, key, field), said) in &self.set {
            if said.iter().any(|said| said.by == by && !known(provider, key, field, said.version)) {
                self.unsure.insert((provider.clone(), key.clone()));
            }
        }
    }

    /// Another one that has set the field with that version.
    pub fn tie(&self, provider: &str, key: &str, field: &str, version: Version, by: usize) -> Option<usize> {
        let said = self.set.get(&(provider.to_owned(), key.to_owned(), field.to_owned()))?;
        said.iter()
            .filter(|said| said.version == version)
            .find_map(|said| said.by.filter(|other| *other != by))
    }

    /// If it was ever deleted.
    pub fn may_come_back(&mut self, provider: &str, key: &str) {
        let at = (provider.to_owned(), key.to_owned());
        if self.lives.get(&at).is_some_and(|said| said.iter().any(|(_, added)| !added)) {
            self.unsure.insert(at);
        }
    }

    pub fn unsure(&mut self, provider: &str, key: &str) {
        self.unsure.insert((provider.to_owned(), key.to_owned()));
    }

    pub fn concluded(&mut self, provider: &str, key: &str, health: Health) {
        self.healths.entry((provider.to_owned(), key.to_owned())).or_default().push(health);
    }

    /// All that was concluded since the last reset, and nothing from before it. Dates only where clocks are `level`.
    fn check_health(&self, provider: &str, tables: &Tables, level: bool) -> Result<(), String> {
        for ((of, key), said) in self.healths.iter().filter(|((of, _), _)| of == provider) {
            let at = (of.clone(), key.clone());
            let deleted = self.lives.get(&at).is_none_or(|lives| lives.iter().any(|(_, added)| !added));
            if self.doubtful || deleted || self.unsure.contains(&at) {
                continue;
            }
            let Some(row) = tables.keys.get(key) else { continue };
            let added = row.row.versions.added;
            let mut all = text::of_age(Health::default(), added);
            for health in said {
                all.merge(&text::of_age(health.clone(), added));
            }
            let brief = |h: &Health| {
                let failed = h.failed_until.is_some();
                (
                    h.epoch,
                    failed,
                    h.failed_until.filter(|_| level),
                    h.consecutive_failures,
                    h.auth_failures,
                    h.server_failures,
                    h.needs_verification,
                )
            };
            if brief(&all) != brief(&row.row.health) {
                return Err(format!("{key} is {:?}, and all that was concluded is {all:?}", row.row.health));
            }
        }
        Ok(())
    }

    pub fn note(&mut self, note: &Note) {
        match note {
            Note::Uncertain { provider, requests } => {
                *self.missed.entry(provider.clone()).or_default() += requests;
            }
            Note::ResyncDone { provider, missing, .. } => {
                *self.missed.entry(provider.clone()).or_default() += missing;
            }
            Note::Gone { rows, .. } | Note::Expired { rows, .. } | Note::Clock { rows, .. } => {
                self.refused += rows;
            }
            _ => {}
        }
    }

    /// Of keys whose whole history is known: those that were deleted last stay away, the others are there, and
    /// every field has its latest value.
    fn check_state(&self, provider: &str, tables: &Tables) -> Result<(), String> {
        for ((of, key), said) in self.lives.iter().filter(|((of, _), _)| of == provider) {
            if self.unsure.contains(&(of.clone(), key.clone())) {
                continue;
            }
            let last = |added: bool| {
                said.iter().filter(|(_, kind)| *kind == added).map(|(said, _)| said.version).max()
            };
            let (added, deleted) = (last(true), last(false));
            let row = tables.keys.get(key);
            let there = row.is_some() || tables.tokens.contains_key(key);
            if there != (added > deleted) {
                return Err(format!("{key}: added {added:?}, deleted {deleted:?}, there: {there}"));
            }
            let (Some(row), None) = (row, deleted) else { continue };
            let at = |field: &str| (of.clone(), key.clone(), field.to_owned());
            let fields = [
                (
                    "note",
                    row.row.versions.note,
                    row.row.record.note.as_deref().unwrap_or_default().to_owned(),
                ),
                ("weight", row.row.versions.weight, row.row.record.weight.to_string()),
            ];
            for (field, version, value) in fields {
                let said = self.set.get(&at(field)).map(Vec::as_slice).unwrap_or_default();
                let last = said.iter().map(|said| said.version).max().unwrap_or_default();
                // Two copies of a file go by one id, and may say two things in the same microsecond: either will do.
                let last: Vec<&Said> = said.iter().filter(|said| said.version == last).collect();
                let same = last.iter().any(|said| said.version == version && said.value == value);
                if last.iter().any(|said| Some(said.version) > added) && !same {
                    return Err(format!("{key}: {field} is {value:?} of {version}, and {last:?} was said"));
                }
            }
        }
        Ok(())
    }
}

/// The hub's numbers by this side's names; of deleted rows too.
pub fn hub_counters(
    provider: &str,
    tables: &Tables,
) -> (BTreeMap<CounterId, Numbers>, BTreeMap<CounterId, Numbers>) {
    let mut live = BTreeMap::new();
    let mut retired = BTreeMap::new();
    for (k, row) in &tables.key_stats {
        live.insert(CounterId::Key(KeyId::derive(provider, k)), row.row.clone());
    }
    for (k, row) in &tables.token_stats {
        live.insert(CounterId::Token(TokenId::derive(provider, k)), row.row.clone());
    }
    for (m, row) in &tables.models {
        live.insert(CounterId::Model(m.as_str().into()), row.row.clone());
    }
    for ((h, m), row) in &tables.hours {
        live.insert(CounterId::Hour(Hour(*h), m.as_str().into()), row.row.clone());
    }
    for row in tables.global.values() {
        live.insert(CounterId::Total, row.row.clone());
    }
    for ((kind, id), numbers) in &tables.retired {
        let key = KEYS.iter().find(|key| *kind == GoneKind::Key && text::hex(&digest(key)) == *id);
        let token = TOKENS.iter().find(|token| *kind == GoneKind::Token && text::hex(&digest(token)) == *id);
        if let Some(key) = key {
            retired.insert(CounterId::Key(KeyId::derive(provider, key)), numbers.clone());
        }
        if let Some(token) = token {
            retired.insert(CounterId::Token(TokenId::derive(provider, token)), numbers.clone());
        }
    }
    (live, retired)
}

impl World {
    pub fn check(&self) -> Result<(), String> {
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
        Ok(())
    }

    /// What has been pulled is not pulled again and again.
    fn check_quiet(&self, at: usize, provider: &str, stream: &str) -> Result<(), String> {
        let note: Option<StreamNote> =
            document::read(&self.instances[at].shelf, &document::stream_name(provider)).unwrap();
        let Some(note) = note else { return Ok(()) };
        for (lane, cursor) in [(Lane::State, note.state.cursor), (Lane::Stats, note.stats.cursor)] {
            let again = cursor.map_or(0, |cursor| self.hub.unseen(stream, lane, &cursor));
            if again > 0 {
                return Err(format!("instance {at} would pull {again} rows of {lane:?} again for ever"));
            }
        }
        Ok(())
    }

    fn check_totals(
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
            if of != provider || self.hub.db.applied.contains(batch) {
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
        let rows = matches!(id, CounterId::Key(_) | CounterId::Token(_));
        self.oracle.lossy && !more && (rows || reported > 0 && lacks(3) <= reported)
    }

    fn check_instance(
        &self,
        at: usize,
        provider: &str,
        tables: &Tables,
        live: &BTreeMap<CounterId, Numbers>,
    ) -> Result<(), String> {
        let it = &self.instances[at];
        let shelf = &it.shelf;
        let all = usize::MAX;
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
            if comes_back && inflight.confirmed.is_some() {
                return Err(format!("{id:?} is there, and does not end what was confirmed: {inflight:?}"));
            }
        }
        // Of rows that are no more there may be confirmed deltas, which their return will end.
        let shift = Shift(it.stamps.offset_ms());
        let views: BTreeMap<CounterId, Tally> =
            shelf.views(provider, None, all).unwrap().into_iter().collect();
        let oldest = self.now / 3_600_000 - 30 * 24 + 24;
        for id in views.keys().chain(live.keys()) {
            if matches!(id, CounterId::Hour(hour, _) if i64::from(hour.0) <= oldest) {
                continue;
            }
            let here = views.get(id).copied().unwrap_or_default();
            let there = live.get(id).cloned().unwrap_or_default();
            if five(&here) != five_of(&there) || shift.out(here.last_used) != there.sums.lu {
                return Err(format!("{id:?} is {here:?} here and {there:?} on the hub"));
            }
        }
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
        if it.memory != Memory::of(shelf) {
            return Err("memory and shelf differ".to_owned());
        }
        if shelf.len() > 5000 {
            return Err(format!("{} rows on the shelf", shelf.len()));
        }
        Ok(())
    }
}
