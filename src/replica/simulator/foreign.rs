//! Other programs and people on the same tables, as the triggers take them, and what befalls the hub itself.

use super::{
    hub::Database,
    journal::{self, Event},
    local,
    oracle::{Five, add, five_of},
    shelf::{MemoryShelf, digest},
    world::{Focus, KEYS, MODELS, PROVIDERS, World},
};
use crate::{
    model::{CounterId, Health, KeyId, KeyRecord, KeyVersions, Secret, Timestamp, Version},
    replica::{protocol::text::hex, wire::GoneKind},
    store::shelf::{CORE, KeyEntry, Row, Shelf},
};

/// A statement of a transaction that stays open for a while.
#[derive(Clone, Copy, Debug)]
pub struct Statement {
    provider: usize,
    kind: u8,
    key: usize,
    model: usize,
    number: i64,
}

impl Statement {
    /// What they send to a database.
    pub fn sql(&self) -> String {
        let Self { provider, kind, key, model, number } = *self;
        let ((_, stream), k, m) = (PROVIDERS[provider], KEYS[key], MODELS[model]);
        let more = number - 5;
        match kind {
            0..3 => format!(
                "INSERT INTO {stream}_keys (api_key) SELECT '{k}'
                 WHERE NOT EXISTS (SELECT 1 FROM {stream}_keys WHERE api_key = '{k}')"
            ),
            3 => format!("DELETE FROM {stream}_keys WHERE api_key = '{k}'"),
            4..6 => format!("UPDATE {stream}_keys SET note = 'by hand {number}' WHERE api_key = '{k}'"),
            6..8 => {
                let enabled = number % 2 == 0;
                format!("UPDATE {stream}_keys SET enabled = {enabled} WHERE api_key = '{k}'")
            }
            8 => format!(
                "UPDATE {stream}_keys SET status = 'active', failed_until = NULL, consecutive_failures = 0,
                 auth_failures = 0, server_failures = 0, needs_verification = false WHERE api_key = '{k}'"
            ),
            // Lowered to 0 it would be a reset.
            9 => format!(
                "UPDATE {stream}_key_stats SET success_count = success_count + {more},
                 total_requests = total_requests + {more} WHERE api_key = '{k}' AND success_count + {more} > 0"
            ),
            10 => format!(
                "UPDATE {stream}_key_stats SET total_requests = 0, success_count = 0, failure_count = 0
                 WHERE api_key = '{k}'"
            ),
            11 => format!("DELETE FROM {stream}_key_stats WHERE api_key = '{k}'"),
            12 => format!("DELETE FROM {stream}_model_stats WHERE model = '{m}'"),
            _ => format!("DELETE FROM {stream}_global_stats"),
        }
    }
}

impl World {
    /// The hub forgets what is old. What somebody who is away adds meanwhile it can then not refuse.
    pub fn sweep(&mut self, away: usize, lossy: bool) {
        let now = self.now;
        self.say(|| "the hub forgets what is old".to_owned());
        for (provider, _) in &PROVIDERS[..self.providers] {
            for (row, dirty) in self.instances[away].shelf.dirty(provider, None, usize::MAX).unwrap() {
                let key = KEYS.iter().find(|key| row == Row::Key(KeyId::derive(provider, key)));
                if let (Some(key), true) = (key, dirty.added) {
                    self.oracle.unsure(provider, key);
                }
            }
            for (_, entry) in self.instances[away].shelf.keys(provider, None, usize::MAX).unwrap() {
                // The hub was recovered: what was deleted there may come back.
                if lossy {
                    self.oracle.may_come_back(provider, entry.record.secret.expose());
                }
            }
            for it in &mut self.instances {
                local::forget_hours(&mut it.shelf, provider, now);
            }
        }
        if self.core {
            let shelf = &self.instances[away].shelf;
            for (row, dirty) in shelf.dirty(CORE, None, usize::MAX).unwrap() {
                if let (Row::User(id), true) = (row, dirty.added) {
                    self.oracle.unsure(CORE, &id.to_string());
                }
            }
            for (id, _) in shelf.users(None, usize::MAX).unwrap() {
                if lossy {
                    self.oracle.may_come_back(CORE, &id.to_string());
                }
            }
            self.forget_all();
        }
        self.hub.sweep();
    }

    /// The hub is recovered to an earlier point in time.
    pub fn lose(&mut self, database: Database) {
        self.say(|| "the hub is recovered to an earlier point".to_owned());
        self.doubt_hub();
        self.hub.recover(database);
        self.hub_restarted();
    }

    /// A key that the hub has not.
    pub fn add_by_hand(&mut self) {
        let (_, stream) = PROVIDERS[0];
        let keys = &self.hub.db.tables[stream].keys;
        if let Some(key) = KEYS.iter().rposition(|key| !keys.contains_key(*key)) {
            self.by_hand(0, key);
        }
    }

    /// One that it has is deleted by hand.
    pub fn delete_by_hand(&mut self) {
        let (_, stream) = PROVIDERS[0];
        let keys = &self.hub.db.tables[stream].keys;
        if let Some(key) = KEYS.iter().position(|key| keys.contains_key(*key)) {
            self.by_hand(3, key);
        }
    }

    fn by_hand(&mut self, kind: u8, key: usize) {
        let xid = self.hub.begin();
        self.foreign(Statement { provider: 0, kind, key, model: 0, number: 1 }, xid);
        self.hub.end(xid);
    }

    /// The hub has lost what it held; what other hands had told it is known where it had been read.
    pub fn doubt_hub(&mut self) {
        let shelves: Vec<&MemoryShelf> = self.instances.iter().map(|it| &it.shelf).collect();
        self.oracle.doubt(None, |provider, key, what, version| {
            let id = KeyId::derive(provider, key);
            shelves.iter().any(|shelf| {
                let entry = shelf.key(provider, id).unwrap();
                let gone = shelf.gone(provider, Row::Key(id)).unwrap();
                match (what, entry) {
                    ("deleted", None) => gone.is_some_and(|gone| gone.version >= version),
                    ("deleted", Some(entry)) => entry.versions.added > version,
                    ("added", Some(entry)) => entry.versions.added >= version,
                    ("note", Some(entry)) => entry.versions.note >= version,
                    (_, Some(entry)) => entry.versions.weight >= version,
                    (_, None) => gone.is_some_and(|gone| gone.version >= version),
                }
            })
        });
    }

    pub fn statement(&mut self) -> Statement {
        let kinds: &[u8] = match self.focus {
            Focus::Lives => &[0, 3, 3],
            Focus::Counts => &[0, 9, 9, 9],
            Focus::Ties => &[0, 4],
            Focus::Hands => &[0, 4, 4, 6],
            Focus::Health => &[0, 8, 8],
            _ => &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13],
        };
        let k = self.some_key();
        Statement {
            provider: self.rng.usize(..self.providers),
            kind: kinds[self.rng.usize(..kinds.len())],
            key: KEYS.iter().position(|key| *key == k).unwrap_or(0),
            model: self.rng.usize(..MODELS.len()),
            number: self.rng.i64(1..20),
        }
    }

    /// Carried out in the transaction `xid`, at its end: until then it holds its rows.
    pub fn foreign(&mut self, statement: Statement, xid: u64) {
        self.say(|| format!("by other hands, in {xid}: {statement:?}"));
        journal::note(|| Event::Foreign { at: self.now, xid, statement });
        let Statement { provider, kind, key, model, number } = statement;
        let (provider, stream) = PROVIDERS[provider];
        let k = KEYS[key];
        let id = KeyId::derive(provider, k);
        let now = self.now;
        let fresh = self.hub.foreign_version(Version::ZERO);
        let hub = &self.hub;
        let later = |old: Version| hub.foreign_version(old);
        let here = hub.db.tables[stream].keys.get(k).map(|row| row.row.versions);
        let next = here.map(|v| (later(v.note), later(v.enabled)));
        let buried = hub.db.tables[stream].tombstones.get(&(GoneKind::Key, hex(&digest(k))));
        let again = later(buried.map_or(Version::ZERO, |tomb| tomb.row.v)).max(fresh);
        let tables = self.hub.db.tables.get_mut(stream).unwrap_or_else(|| unreachable!());
        let mut moved: Vec<(CounterId, Five)> = Vec::new();
        let mut shift = |id: CounterId, before: Five, after: Five| {
            let mut change = after;
            add(&mut change, &before, -1);
            moved.push((id, change));
        };
        match kind {
            0..3 => {
                if here.is_none() {
                    let entry = KeyEntry {
                        record: KeyRecord::new(Secret::new(k), Timestamp(now)),
                        versions: KeyVersions::all(again),
                        health: Health { epoch: again, ..Health::default() },
                    };
                    tables.add_key(k, entry, xid);
                    self.oracle.existence(provider, k, again, true, None);
                }
            }
            3 => {
                if let Some(v) = here {
                    let version = later_than(v.added, fresh);
                    tables.delete(GoneKind::Key, &hex(&digest(k)), version, xid, now);
                    self.oracle.existence(provider, k, version, false, None);
                }
            }
            4..6 => {
                let note = format!("by hand {number}");
                if let (Some(row), Some((version, _))) = (tables.keys.get_mut(k), next)
                    && row.row.record.note.as_deref() != Some(&*note)
                {
                    (row.row.record.note, row.row.versions.note) = (Some(note.as_str().into()), version);
                    row.xid = xid;
                    self.oracle.edited(provider, k, "note", version, &note, None);
                }
            }
            6..8 => {
                if let (Some(row), Some((_, version))) = (tables.keys.get_mut(k), next)
                    && row.row.record.enabled != (number % 2 == 0)
                {
                    row.row.record.enabled = number % 2 == 0;
                    row.row.versions.enabled = version;
                    row.xid = xid;
                }
            }
            8 => {
                // `active`: switched on, and a new epoch if there was anything to forget or to switch.
                if let (Some(row), Some((_, version))) = (tables.keys.get_mut(k), next)
                    && (!row.row.record.enabled || row.row.health.is_blemished())
                {
                    if !row.row.record.enabled {
                        (row.row.record.enabled, row.row.versions.enabled) = (true, version);
                    }
                    let epoch = later_than(row.row.health.epoch, fresh);
                    row.row.health = Health { epoch, ..Health::default() };
                    self.oracle.concluded(provider, k, row.row.health.clone());
                    row.xid = xid;
                }
            }
            9 => {
                // An older program counts: it raises what it read, or lowers it, which is ignored.
                if let Some(row) = tables.key_stats.get_mut(k) {
                    let before = five_of(&row.row);
                    if number > 5 || super::sabotage::on(super::sabotage::Sabotage::LowerIsTaken) {
                        row.row.sums.s += number - 5;
                    }
                    if number != 5 && before[0] + number > 5 {
                        row.xid = xid;
                    }
                    if number > 5 {
                        shift(CounterId::Key(id), before, five_of(&row.row));
                    }
                }
            }
            10 => {
                if let Some(row) = tables.key_stats.get_mut(k)
                    && five_of(&row.row) != [0; 5]
                {
                    let before = five_of(&row.row);
                    (row.row.sums.s, row.row.sums.f, row.row.sums.o) = (0, 0, 0);
                    row.xid = xid;
                    shift(CounterId::Key(id), before, five_of(&row.row));
                }
            }
            11 => {
                if let Some(row) = tables.key_stats.remove(k) {
                    tables.bury(GoneKind::KeyStats, hex(&digest(k)), fresh, xid, now);
                    shift(CounterId::Key(id), five_of(&row.row), [0; 5]);
                }
            }
            12 => {
                let m = MODELS[model];
                if let Some(row) = tables.models.remove(m) {
                    tables.bury(GoneKind::Model, m.to_owned(), fresh, xid, now);
                    shift(CounterId::Model(m.into()), five_of(&row.row), [0; 5]);
                }
            }
            _ => {
                if let Some(row) = tables.global.remove(&()) {
                    tables.bury(GoneKind::Global, "global".to_owned(), fresh, xid, now);
                    shift(CounterId::Total, five_of(&row.row), [0; 5]);
                }
            }
        }
        for (id, change) in moved {
            add(self.hub.db.foreign.entry((provider.to_owned(), id)).or_default(), &change, 1);
        }
    }
}

fn later_than(old: Version, fresh: Version) -> Version {
    fresh.max(Version(((old.0 >> 10) + 1) << 10))
}
