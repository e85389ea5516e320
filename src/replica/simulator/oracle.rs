//! What has to be true in the end, worked out from what was recorded and not from what was replicated.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    core::recorded::Recorded,
    shelf::digest,
    tables::{Numbers, Tables},
    world::{KEYS, TOKENS},
};
use crate::{
    model::{CounterId, Health, Hour, KeyId, Tally, TokenId, Version},
    replica::{
        protocol::{Note, text},
        wire::{GoneKind, Rows, Sums},
    },
    store::shelf::{KeyEntry, UserEntry},
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
    pub core: Recorded,
}

pub fn five(tally: &Tally) -> Five {
    [tally.success, tally.failure, tally.other, tally.prompt_tokens, tally.completion_tokens]
}

pub fn five_of(numbers: &Numbers) -> Five {
    let sums = &numbers.sums;
    [sums.s, sums.f, sums.o, sums.p, sums.q]
}

/// The increments of a batch.
pub fn fives(provider: &str, rows: &Rows) -> Vec<(CounterId, Five)> {
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
    out.extend(rows.tallies.iter().filter_map(|row| Some((text::tally_of(row)?, of(&row.sums)))));
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

    pub fn is_unsure(&self, provider: &str, key: &str) -> bool {
        self.unsure.contains(&(provider.to_owned(), key.to_owned()))
    }

    pub fn concluded(&mut self, provider: &str, key: &str, health: Health) {
        self.healths.entry((provider.to_owned(), key.to_owned())).or_default().push(health);
    }

    /// All that was concluded since the last reset, and nothing from before it. Dates only where clocks are `level`.
    pub fn check_health(&self, provider: &str, tables: &Tables, level: bool) -> Result<(), String> {
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
            Note::LogsLeftOut { logs } => self.core.logs.retain(|id, _| !logs.contains(id)),
            _ => {}
        }
    }

    /// Of keys whose whole history is known: those that were deleted last stay away, the others are there, and
    /// every field has its latest value.
    pub fn check_state(&self, provider: &str, tables: &Tables) -> Result<(), String> {
        for ((of, key), said) in self.lives.iter().filter(|((of, _), _)| of == provider) {
            if self.unsure.contains(&(of.clone(), key.clone())) {
                continue;
            }
            let last = |added: bool| {
                said.iter().filter(|(_, kind)| *kind == added).map(|(said, _)| said.version).max()
            };
            let (added, deleted) = (last(true), last(false));
            let row = fields_of(tables, key);
            let there = row.is_some() || tables.tokens.contains_key(key);
            if there != (added > deleted) {
                return Err(format!("{key}: added {added:?}, deleted {deleted:?}, there: {there}"));
            }
            let (Some(row), None) = (row, deleted) else { continue };
            let at = |field: &str| (of.clone(), key.clone(), field.to_owned());
            for (field, version, value) in row {
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

/// A key or a user, as the hub has it: what is set of it, with the versions.
fn fields_of(tables: &Tables, key: &str) -> Option<Vec<(&'static str, Version, String)>> {
    if let Some(core) = &tables.core {
        let UserEntry { record, versions } = &core.users.get(&key.parse().ok()?)?.row;
        let minute = record.limits.requests_per_minute.map(|limit| limit.to_string());
        return Some(vec![
            ("name", versions.name, record.name.to_string()),
            ("enabled", versions.enabled, record.enabled.to_string()),
            ("requests_per_minute", versions.limits.requests_per_minute, minute.unwrap_or_default()),
        ]);
    }
    let KeyEntry { record, versions, .. } = &tables.keys.get(key)?.row;
    Some(vec![
        ("note", versions.note, record.note.as_deref().unwrap_or_default().to_owned()),
        ("weight", versions.weight, record.weight.to_string()),
    ])
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
    for (id, sums) in tables.core.iter().flat_map(|core| core.counters()) {
        live.insert(id, Numbers { sums, ..Numbers::default() });
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
