//! The tables of one prefix, and what a push, a deletion and an adoption do to their rows.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    core::{self, Core},
    hub::{HOME, Xid},
    merge::{merge_key, merge_token},
    sabotage::{self, Sabotage},
    shelf::digest,
};
use crate::{
    model::Version,
    replica::{
        protocol::text::{self, hex},
        wire::{GoneKind, KeyRow, Marks, PushRequest, RowAnswers, Rows, StreamRow, Sums, TokenRow},
    },
    store::shelf::{KeyEntry, TokenEntry},
};

pub const KEPT: i64 = 30 * 24 * 3_600_000;
pub const AHEAD: i64 = 300_000;

/// A row and the transaction that changed it last.
#[derive(Clone, Debug)]
pub struct Stamped<T> {
    pub row: T,
    pub xid: Xid,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Numbers {
    pub sums: Sums,
    pub last_success: Option<i64>,
    pub last_failure: Option<i64>,
}

impl Numbers {
    fn add(&mut self, more: &Self) {
        let sums = &mut self.sums;
        sums.s += more.sums.s;
        sums.f += more.sums.f;
        sums.o += more.sums.o;
        sums.p += more.sums.p;
        sums.q += more.sums.q;
        sums.lu = sums.lu.max(more.sums.lu);
        self.last_success = self.last_success.max(more.last_success);
        self.last_failure = self.last_failure.max(more.last_failure);
    }
}

#[derive(Clone, Debug)]
pub struct Tombstone {
    pub v: Version,
    pub at: i64,
}

/// The first hour that is wholly within what is kept, and the last that is believed.
pub fn hours_kept(now: i64) -> std::ops::RangeInclusive<i64> {
    let oldest = (now - KEPT).div_euclid(3_600_000) + i64::from((now - KEPT).rem_euclid(3_600_000) > 0);
    oldest..=oldest + 32 * 24
}

/// The tables of one prefix.
#[derive(Clone, Debug, Default)]
pub struct Tables {
    pub keys: BTreeMap<String, Stamped<KeyEntry>>,
    pub tokens: BTreeMap<String, Stamped<TokenEntry>>,
    pub key_stats: BTreeMap<String, Stamped<Numbers>>,
    pub token_stats: BTreeMap<String, Stamped<Numbers>>,
    pub models: BTreeMap<String, Stamped<Numbers>>,
    pub hours: BTreeMap<(u32, String), Stamped<Numbers>>,
    pub global: BTreeMap<(), Stamped<Numbers>>,
    pub tombstones: BTreeMap<(GoneKind, String), Stamped<Tombstone>>,
    pub retired: BTreeMap<(GoneKind, String), Numbers>,
    pub streams: BTreeMap<Uuid, Stamped<(u64, String, RowAnswers)>>,
    pub swept: Version,
    /// Of the core's stream, which has these and no keys of its own.
    pub core: Option<Box<Core>>,
}

impl Tables {
    pub fn of(stream: &str) -> Self {
        Self { core: (stream == core::STREAM).then(Box::default), ..Self::default() }
    }

    pub fn apply(&mut self, request: &PushRequest, xid: Xid, now: i64) -> RowAnswers {
        if self.core.is_some() {
            return self.apply_core(&request.rows, xid, now, false);
        }
        let mut answers = self.apply_state(&request.rows, xid, now);
        for (at, row) in request.rows.key_stats.iter().enumerate() {
            if answers != RowAnswers::default() && sabotage::on(Sabotage::HubStopsAtARow) {
                return answers;
            }
            let more = Numbers {
                sums: Sums { s: row.s, f: row.f, o: row.o, lu: row.lu, ..Sums::default() },
                last_success: row.ls,
                last_failure: row.lf,
            };
            let k = row.k.expose();
            if self.keys.contains_key(k) {
                bump(&mut self.key_stats, k.to_owned(), &more, xid);
                self.tombstones.remove(&(GoneKind::KeyStats, hex(&digest(k))));
            } else {
                self.retire(GoneKind::Key, k, &more);
                answers.gone.push(("key_stats".to_owned(), at));
            }
        }
        for (at, row) in request.rows.token_stats.iter().enumerate() {
            let more = Numbers { sums: row.sums.clone(), ..Numbers::default() };
            let k = row.k.expose();
            if self.tokens.contains_key(k) {
                bump(&mut self.token_stats, k.to_owned(), &more, xid);
            } else {
                self.retire(GoneKind::Token, k, &more);
                answers.gone.push(("token_stats".to_owned(), at));
            }
        }
        if answers != RowAnswers::default() && sabotage::on(Sabotage::HubStopsAtARow) {
            return answers;
        }
        for row in &request.rows.models {
            bump(
                &mut self.models,
                row.m.clone(),
                &Numbers { sums: row.sums.clone(), ..Numbers::default() },
                xid,
            );
            self.tombstones.remove(&(GoneKind::Model, row.m.clone()));
        }
        for (at, row) in request.rows.hours.iter().enumerate() {
            if !hours_kept(now).contains(&i64::from(row.h)) {
                answers.expired.push(("hours".to_owned(), at));
                continue;
            }
            bump(&mut self.hours, (row.h, row.m.clone()), &of_hour(&row.sums), xid);
        }
        if let Some(row) = &request.rows.global {
            bump(&mut self.global, (), &Numbers { sums: row.sums.clone(), ..Numbers::default() }, xid);
            self.tombstones.remove(&(GoneKind::Global, "global".to_owned()));
        }
        answers
    }

    fn apply_state(&mut self, rows: &Rows, xid: Xid, now: i64) -> RowAnswers {
        let mut answers = RowAnswers::default();
        let future = Version::at(crate::model::Timestamp(now + AHEAD));
        let strict = !sabotage::on(Sabotage::HubBelievesAnyClock);
        for (at, row) in rows.gone.iter().enumerate() {
            if answers != RowAnswers::default() && sabotage::on(Sabotage::HubStopsAtARow) {
                return answers;
            }
            if row.v > future && strict {
                answers.clock.push(("gone".to_owned(), at));
            } else {
                self.delete(row.t, &row.id, row.v, xid, now);
            }
        }
        for (at, row) in rows.keys.iter().enumerate() {
            let latest =
                [row.uv, row.nv, row.xv, row.wv, row.ev, row.dv, Some(row.a), row.h.as_ref().map(|h| h.e)];
            if latest.iter().flatten().any(|version| *version > future) && strict {
                answers.clock.push(("keys".to_owned(), at));
            } else if !self.push_key(row, xid) {
                answers.gone.push(("keys".to_owned(), at));
            }
        }
        for (at, row) in rows.tokens.iter().enumerate() {
            let latest = [row.nv, row.xv, row.mv, row.rv, Some(row.a)];
            if latest.iter().flatten().any(|version| *version > future) && strict {
                answers.clock.push(("tokens".to_owned(), at));
            } else if !self.push_token(row, xid) {
                answers.gone.push(("tokens".to_owned(), at));
            }
        }
        answers
    }

    pub fn retire(&mut self, kind: GoneKind, k: &str, more: &Numbers) {
        if sabotage::on(Sabotage::HubDropsRetired) {
            return;
        }
        self.retired.entry((kind, hex(&digest(k)))).or_default().add(more);
    }

    /// Of what was added before `v`.
    pub fn delete(&mut self, kind: GoneKind, id: &str, v: Version, xid: Xid, now: i64) {
        let (found, stats) = match kind {
            GoneKind::Key => {
                let k = self.keys.keys().find(|k| hex(&digest(k)) == id).cloned();
                if let Some(k) = &k {
                    if self.keys[k].row.versions.added >= v {
                        return;
                    }
                    self.keys.remove(k);
                }
                let stats = k.as_ref().and_then(|k| self.key_stats.remove(k));
                (k, stats)
            }
            GoneKind::Token => {
                let k = self.tokens.keys().find(|k| hex(&digest(k)) == id).cloned();
                if let Some(k) = &k {
                    if self.tokens[k].row.versions.added >= v {
                        return;
                    }
                    self.tokens.remove(k);
                }
                let stats = k.as_ref().and_then(|k| self.token_stats.remove(k));
                (k, stats)
            }
            _ => return,
        };
        if let (Some(k), Some(stats)) = (found, stats) {
            self.retire(kind, &k, &stats.row);
        }
        self.bury(kind, id.to_owned(), v, xid, now);
    }

    /// Stamps that lie ahead of this cluster's transactions.
    pub fn restamp(&mut self, ahead: Xid, xid: Xid) {
        fn all<K: Ord, T>(rows: &mut BTreeMap<K, Stamped<T>>, ahead: Xid, xid: Xid) {
            rows.values_mut().filter(|row| row.xid >= ahead).for_each(|row| row.xid = xid);
        }
        all(&mut self.keys, ahead, xid);
        all(&mut self.tokens, ahead, xid);
        all(&mut self.key_stats, ahead, xid);
        all(&mut self.token_stats, ahead, xid);
        all(&mut self.models, ahead, xid);
        all(&mut self.hours, ahead, xid);
        all(&mut self.global, ahead, xid);
        all(&mut self.tombstones, ahead, xid);
        all(&mut self.streams, ahead, xid);
        self.core.iter_mut().for_each(|core| core.restamp(ahead, xid));
    }

    /// Counters are raised to what an instance knew.
    pub fn adopt(&mut self, rows: &Rows, xid: Xid, now: i64) -> RowAnswers {
        let answers = match self.core {
            Some(_) => self.apply_core(rows, xid, now, true),
            None => self.apply_state(rows, xid, now),
        };
        // Rows of counts are of rows that are there.
        for row in rows.key_stats.iter().filter(|row| self.keys.contains_key(row.k.expose())) {
            let most = Numbers {
                sums: Sums { s: row.s, f: row.f, o: row.o, lu: row.lu, ..Sums::default() },
                last_success: row.ls,
                last_failure: row.lf,
            };
            raise(&mut self.key_stats, row.k.expose().to_owned(), &most, xid);
        }
        let of = |sums: &Sums| Numbers { sums: sums.clone(), ..Numbers::default() };
        for row in rows.token_stats.iter().filter(|row| self.tokens.contains_key(row.k.expose())) {
            raise(&mut self.token_stats, row.k.expose().to_owned(), &of(&row.sums), xid);
        }
        for row in &rows.models {
            raise(&mut self.models, row.m.clone(), &of(&row.sums), xid);
        }
        for row in &rows.hours {
            raise(&mut self.hours, (row.h, row.m.clone()), &of_hour(&row.sums), xid);
        }
        if let Some(row) = &rows.global {
            raise(&mut self.global, (), &of(&row.sums), xid);
        }
        for row in &rows.streams {
            let held = self.streams.get(&row.i).map_or(0, |stream| stream.row.0);
            if row.s > held && !sabotage::on(Sabotage::AdoptionForgetsStreams) {
                let answer = RowAnswers { adopted: true, ..RowAnswers::default() };
                let stream = (row.s, row.g.clone(), answer);
                self.streams.insert(row.i, Stamped { row: stream, xid });
            }
        }
        answers
    }

    /// What an adopter knows of everybody's streams, against what is here: in a database that he does not know, if
    /// that is `elsewhere`.
    pub fn compare(&mut self, known: &[StreamRow], elsewhere: bool, xid: Xid) -> Marks {
        let held = |i: &Uuid| self.streams.get(i).filter(|held| held.row.0 > 0);
        let known_of = |i: &Uuid| known.iter().find(|row| row.i == *i);
        let behind = self.streams.iter().filter(|(_, held)| held.row.0 > 0).all(|(i, held)| {
            known_of(i).is_some_and(|row| held.row.0 < row.s || (held.row.0, &held.row.1) == (row.s, &row.g))
        });
        let ahead = known.iter().all(|row| {
            held(&row.i)
                .is_some_and(|held| held.row.0 > row.s || (held.row.0, &held.row.1) == (row.s, &row.g))
        });
        let strange = elsewhere && known.iter().all(|row| held(&row.i).is_none());
        match (behind, ahead, strange) {
            (true, _, _) => Marks::Behind,
            (false, true, _) => Marks::Ahead,
            (false, false, false) => Marks::Mixed,
            (false, false, true) => {
                for held in self.streams.values_mut().filter(|held| held.row.0 > 0) {
                    held.row.2.adopted = true;
                    held.row.2.uncertain = !sabotage::on(Sabotage::StrangersAreNotTold);
                    held.xid = xid;
                }
                Marks::Apart
            }
        }
    }

    fn refused(&self, kind: GoneKind, k: &str, added: Version) -> bool {
        if sabotage::on(Sabotage::HubIgnoresTombstones) {
            return false;
        }
        self.tombstones.get(&(kind, hex(&digest(k)))).is_some_and(|tomb| added <= tomb.row.v)
    }

    /// Whether it was taken: not what was deleted later than it was added.
    fn push_key(&mut self, row: &KeyRow, xid: Xid) -> bool {
        let k = row.k.expose();
        let there = text::key_entry(row, HOME);
        if let Some(here) = self.keys.get_mut(k) {
            let before = here.row.clone();
            merge_key(&mut here.row, there);
            if here.row != before {
                here.xid = xid;
            }
            return true;
        }
        if self.refused(GoneKind::Key, k, row.a) {
            return false;
        }
        if row.add || sabotage::on(Sabotage::StateCreatesRows) {
            self.add_key(k, there, xid);
        }
        true
    }

    pub fn add_key(&mut self, k: &str, entry: KeyEntry, xid: Xid) {
        self.keys.insert(k.to_owned(), Stamped { row: entry, xid });
        let at = (GoneKind::Key, hex(&digest(k)));
        self.tombstones.remove(&at);
        if sabotage::on(Sabotage::HubKeepsRetired) {
            return;
        }
        if let Some(back) = self.retired.remove(&at) {
            bump(&mut self.key_stats, k.to_owned(), &back, xid);
        }
    }

    fn push_token(&mut self, row: &TokenRow, xid: Xid) -> bool {
        let k = row.k.expose();
        let there = text::token_entry(row, HOME);
        if let Some(here) = self.tokens.get_mut(k) {
            let before = here.row.clone();
            merge_token(&mut here.row, there);
            if here.row != before {
                here.xid = xid;
            }
            return true;
        }
        if self.refused(GoneKind::Token, k, row.a) {
            return false;
        }
        if row.add || sabotage::on(Sabotage::StateCreatesRows) {
            self.tokens.insert(k.to_owned(), Stamped { row: there, xid });
            let at = (GoneKind::Token, hex(&digest(k)));
            self.tombstones.remove(&at);
            // One row holds a token and its counts.
            let back = self.retired.remove(&at).unwrap_or_default();
            bump(&mut self.token_stats, k.to_owned(), &back, xid);
        }
        true
    }

    /// Forgets old deletions of keys, and old hours. Returns whether a deletion was among them.
    pub fn sweep(&mut self, now: i64) -> bool {
        let had = self.tombstones.len();
        self.tombstones.retain(|at, tomb| {
            let for_good = at.0 == GoneKind::Token && !sabotage::on(Sabotage::TokensAreForgotten);
            for_good || tomb.row.at >= now - KEPT
        });
        self.hours.retain(|(hour, _), _| i64::from(*hour) >= *hours_kept(now).start());
        self.tombstones.len() < had
    }

    /// Writes a tombstone, or moves one forward.
    pub fn bury(&mut self, kind: GoneKind, id: String, v: Version, xid: Xid, now: i64) {
        let at = (kind, id);
        if self.tombstones.get(&at).is_none_or(|tomb| tomb.row.v < v) {
            self.tombstones.insert(at, Stamped { row: Tombstone { v, at: now }, xid });
        }
    }
}

/// Of an hour nobody asks when in it.
fn of_hour(sums: &Sums) -> Numbers {
    Numbers { sums: Sums { lu: None, ..sums.clone() }, ..Numbers::default() }
}

fn raise<K: Ord>(rows: &mut BTreeMap<K, Stamped<Numbers>>, at: K, most: &Numbers, xid: Xid) {
    let row = rows.entry(at).or_insert_with(|| Stamped { row: Numbers::default(), xid });
    if sabotage::on(Sabotage::AdoptionLowers) {
        *row = Stamped { row: most.clone(), xid };
        return;
    }
    let (sums, to) = (&mut row.row.sums, &most.sums);
    (sums.s, sums.f, sums.o) = (sums.s.max(to.s), sums.f.max(to.f), sums.o.max(to.o));
    (sums.p, sums.q, sums.lu) = (sums.p.max(to.p), sums.q.max(to.q), sums.lu.max(to.lu));
    row.row.last_success = row.row.last_success.max(most.last_success);
    row.row.last_failure = row.row.last_failure.max(most.last_failure);
    row.xid = xid;
}

fn bump<K: Ord>(rows: &mut BTreeMap<K, Stamped<Numbers>>, at: K, more: &Numbers, xid: Xid) {
    let row = rows.entry(at).or_insert_with(|| Stamped { row: Numbers::default(), xid });
    row.row.add(more);
    row.xid = xid;
}
