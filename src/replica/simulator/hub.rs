//! A hub in memory: what the five functions and the triggers do, with transaction ids and snapshots as Postgres
//! has them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    journal::{self, Event},
    oracle::Five,
    sabotage::{self, Sabotage},
    shelf::digest,
};
use crate::{
    model::{CounterId, Health, Version},
    replica::{
        protocol::text::{self, Shift, hex},
        wire::{
            AdoptAnswer, AdoptRequest, Ask, Function, GlobalRow, GoneKind, GoneRow, Greeting, HelloAnswer,
            HourRow, HubIdentity, KeyRow, KeyStatsRow, Lane, ModelRow, PROTOCOL, Page, PullAnswer,
            PullRequest, PushAnswer, PushRequest, RowAnswers, Rows, SCHEMA, StreamRow, Sums, TokenRow,
            TokenStatsRow,
        },
    },
    store::shelf::{KeyEntry, TokenEntry},
};

/// Both ways to a hub that a history can run against.
pub trait HubPort {
    fn call(&mut self, function: &str, request: &str) -> Result<String, String>;
}

const HOME: Shift = Shift(0);
pub const KEPT: i64 = 30 * 24 * 3_600_000;
const AHEAD: i64 = 300_000;

pub type Xid = u64;

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
}

/// Everything that a dump or a backup of the cluster holds.
#[derive(Clone, Debug)]
pub struct Database {
    pub identity: HubIdentity,
    pub was: Vec<HubIdentity>,
    pub tables: BTreeMap<String, Tables>,
    pub next_xid: Xid,
    /// Batches that are contained, for the oracle.
    pub applied: BTreeSet<(Uuid, u64, String)>,
    /// What other programs did to the totals, for the oracle.
    pub foreign: BTreeMap<(String, CounterId), Five>,
}

#[derive(Clone, Debug)]
pub struct ModelHub {
    pub db: Database,
    /// Transactions that have an id and have not ended.
    pub running: BTreeSet<Xid>,
    pub now: i64,
    pub read_only: bool,
    /// How often its transaction ids have begun anew.
    lives: usize,
}

/// The first hour that is wholly within what is kept, and the last that is believed.
fn hours_kept(now: i64) -> std::ops::RangeInclusive<i64> {
    let oldest = (now - KEPT).div_euclid(3_600_000) + i64::from((now - KEPT).rem_euclid(3_600_000) > 0);
    oldest..=oldest + 32 * 24
}

fn visible(xid: Xid, snapshot: &str) -> bool {
    let mut parts = snapshot.split(':');
    let xmin: Xid = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let xmax: Xid = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    if xid < xmin {
        return true;
    }
    xid < xmax && !parts.next().unwrap_or("").split(',').any(|running| running.parse() == Ok(xid))
}

impl ModelHub {
    pub fn new(id: Uuid, streams: &[&str], now: i64) -> Self {
        let tables = streams.iter().map(|stream| ((*stream).to_owned(), Tables::default())).collect();
        let identity = HubIdentity { id, system: "7000".to_owned(), timeline: 1 };
        let db = Database {
            identity,
            was: Vec::new(),
            tables,
            next_xid: 100,
            applied: BTreeSet::new(),
            foreign: BTreeMap::new(),
        };
        Self { db, running: BTreeSet::new(), now, read_only: false, lives: 0 }
    }

    pub fn begin(&mut self) -> Xid {
        let xid = self.db.next_xid;
        self.db.next_xid += 1;
        self.running.insert(xid);
        journal::note(|| Event::Begin { xid });
        xid
    }

    pub fn end(&mut self, xid: Xid) {
        self.running.remove(&xid);
    }

    /// With as many zeros before it as the hub has had lives: to tell a cursor of an earlier one by its text.
    pub fn snapshot(&self) -> String {
        let xmin = self.running.first().copied().unwrap_or(self.db.next_xid);
        let running: Vec<String> = self.running.iter().map(Xid::to_string).collect();
        format!("{}{xmin}:{}:{}", "0".repeat(self.lives), self.db.next_xid, running.join(","))
    }

    /// What a backup holds.
    pub fn keep(&self) -> Database {
        journal::note(|| Event::Kept);
        self.db.clone()
    }

    /// Recovered to the point in time of the last backup: transaction ids begin again there.
    pub fn recover(&mut self, earlier: Database) {
        journal::note(|| Event::Recovered);
        self.lives += 1;
        let timeline = self.db.identity.timeline + 1;
        self.db = earlier;
        self.db.identity.timeline = timeline;
        self.running.clear();
    }

    /// Dumped and restored into another cluster, whose transaction ids have only begun.
    pub fn move_house(&mut self, system: String) {
        journal::note(|| Event::Moved);
        self.lives += 1;
        self.db.identity.system = system;
        self.db.identity.timeline = 1;
        self.db.next_xid = 10;
        self.running.clear();
    }

    /// A new, empty database under the old URL.
    pub fn replace(&mut self, id: Uuid) {
        journal::note(|| Event::Emptied);
        self.lives += 1;
        self.db.identity = HubIdentity { id, system: id.to_string(), timeline: 1 };
        self.db.was.clear();
        self.db.next_xid = 10;
        self.running.clear();
        self.db.applied.clear();
        self.db.foreign.clear();
        self.db.tables.values_mut().for_each(|tables| *tables = Tables::default());
    }

    /// The version of an edit by other hands.
    pub fn foreign_version(&self, old: Version) -> Version {
        let now = self.now * 1000;
        Version(now.max((old.0 >> 10) + 1) << 10)
    }

    fn greeting(&self) -> Greeting {
        Greeting {
            hub: self.db.identity.clone(),
            schema: SCHEMA,
            now: self.now,
            was: self.db.was.clone(),
            read_only: self.read_only,
        }
    }

    /// Forgets what is kept for 30 days and is older.
    pub fn sweep(&mut self) {
        let now = self.now;
        journal::note(|| Event::Swept { at: now });
        let mut forgot = false;
        self.db.tables.values_mut().for_each(|tables| forgot |= tables.sweep(now));
        if forgot {
            let before = Version::at(crate::model::Timestamp(now - KEPT));
            self.db.tables.values_mut().for_each(|tables| tables.swept = tables.swept.max(before));
        }
    }

    pub fn hello(&mut self) -> String {
        let answer = HelloAnswer {
            greeting: self.greeting(),
            status: "ok".to_owned(),
            speaks: vec![PROTOCOL],
            missing: Vec::new(),
            instances: Vec::new(),
        };
        serde_json::to_string(&answer).unwrap()
    }

    /// Carried out in the transaction `xid`, which may have begun long ago.
    pub fn push(&mut self, request: &str, xid: Xid) -> String {
        let answer = self.take(request, xid);
        self.told(Function::Push, request, answer, Some(xid))
    }

    fn told(&self, function: Function, request: &str, answer: String, xid: Option<Xid>) -> String {
        journal::note(|| {
            let (request, answer) = (request.to_owned(), answer.clone());
            Event::Call { at: self.now, function, request, answer, xid }
        });
        answer
    }

    fn take(&mut self, request: &str, xid: Xid) -> String {
        if let Ok(request) = serde_json::from_str::<AdoptRequest>(request) {
            return self.adopt(&request);
        }
        let request: PushRequest = serde_json::from_str(request).unwrap();
        let greeting = self.greeting();
        let at_home = request.hub.as_ref().is_none_or(|hub| {
            let here = &self.db.identity;
            (&hub.id, &hub.system) == (&here.id, &here.system) || self.db.was.contains(hub)
        });
        if !at_home && !sabotage::on(Sabotage::HubTakesWhatIsForAnother) {
            let (status, rows) = ("elsewhere".to_owned(), RowAnswers::default());
            let answer =
                PushAnswer { greeting, status, seq: 0, digest: String::new(), rows, missing: Vec::new() };
            return serde_json::to_string(&answer).unwrap();
        }
        let (now, applied) = (self.now, &mut self.db.applied);
        let tables = self.db.tables.get_mut(&request.stream).unwrap();
        let held = tables.streams.get(&request.instance).map(|stream| stream.row.clone());
        let (seq, held_digest, answers) = held.unwrap_or_default();
        let same_digest = request.digest == held_digest || sabotage::on(Sabotage::HubIgnoresDigest);
        let follows = request.prev == held_digest || sabotage::on(Sabotage::HubIgnoresDigest);
        let (status, seq, digest, rows) =
            if request.seq == seq && same_digest && !sabotage::on(Sabotage::HubAppliesTwice) {
                ("already", seq, held_digest, answers)
            } else if (request.seq == seq + 1 && follows)
                || (request.seq == seq && same_digest && sabotage::on(Sabotage::HubAppliesTwice))
            {
                let answers = tables.apply(&request, xid, now);
                let stream = (request.seq, request.digest.clone(), answers.clone());
                tables.streams.insert(request.instance, Stamped { row: stream, xid });
                applied.insert((request.instance, request.seq, request.digest.clone()));
                ("applied", request.seq, request.digest, answers)
            } else {
                ("mismatch", seq, held_digest, answers)
            };
        let status = status.to_owned();
        let answer = PushAnswer { greeting, status, seq, digest, rows, missing: Vec::new() };
        serde_json::to_string(&answer).unwrap()
    }

    fn adopt(&mut self, request: &AdoptRequest) -> String {
        let greeting = self.greeting();
        let known = self.db.was.contains(&request.was) || self.db.identity == request.was;
        let status = if known { "adopted" } else { "ok" };
        if !known {
            let xid = self.begin();
            self.end(xid);
            match request.step.as_str() {
                "rows" => {
                    let now = self.now;
                    let tables = self.db.tables.get_mut(&request.stream).unwrap();
                    tables.adopt(&request.rows, xid, now);
                }
                "restamp" if !sabotage::on(Sabotage::AdoptionKeepsStamps) => {
                    let next = self.db.next_xid;
                    self.db.tables.values_mut().for_each(|tables| tables.restamp(next, xid));
                }
                "end" => self.db.was.push(request.was.clone()),
                _ => {}
            }
        }
        let status = status.to_owned();
        serde_json::to_string(&AdoptAnswer { greeting, status, left: 0, by: None, until: None }).unwrap()
    }

    pub fn pull(&mut self, request: &str) -> Result<String, String> {
        let request: PullRequest = serde_json::from_str(request).unwrap();
        for cursor in request.asks.iter().filter_map(|ask| ask.cursor.as_deref()) {
            // As Postgres reads one.
            let numbers: Vec<_> = cursor.splitn(3, ':').take(2).map(str::parse::<Xid>).collect();
            if cursor.matches(':').count() != 2 || numbers.iter().any(Result::is_err) {
                return Err(format!("invalid input syntax for type pg_snapshot: {cursor:?}"));
            }
        }
        let snapshot = self.snapshot();
        let pages = request.asks.iter().map(|ask| self.page(request.instance, ask)).collect();
        let answer = PullAnswer { greeting: self.greeting(), status: "ok".to_owned(), snapshot, pages };
        Ok(serde_json::to_string(&answer).unwrap())
    }

    /// How many rows a lane has for somebody with that cursor.
    pub fn unseen(&self, stream: &str, lane: Lane, cursor: &str) -> usize {
        self.db.tables[stream].changed(lane, &|xid| !visible(xid, cursor)).len()
    }

    fn page(&self, instance: Uuid, ask: &Ask) -> Page {
        let tables = &self.db.tables[&ask.stream];
        let (seq, digest, answer) =
            tables.streams.get(&instance).map(|stream| stream.row.clone()).unwrap_or_default();
        let after: Option<(usize, String)> =
            // Read without trust.
            ask.after.clone().and_then(|after| serde_json::from_value(after).ok());
        let xmin_bound = sabotage::on(Sabotage::HubBoundsAtXmin);
        let bound = self.running.first().copied().unwrap_or(Xid::MAX);
        let wanted = |xid: Xid| {
            ask.cursor.as_ref().is_none_or(|cursor| !visible(xid, cursor)) && (!xmin_bound || xid < bound)
        };
        let mut rows = Rows::default();
        let mut left = ask.limit as usize;
        let mut next: Option<Value> = None;
        for (list, place, put) in tables.changed(ask.lane, &wanted) {
            if after.as_ref().is_some_and(|after| (list, &place) <= (after.0, &after.1)) {
                continue;
            }
            put(&mut rows);
            left -= 1;
            if left == 0 {
                // Perhaps there is more; the next page says so.
                next = Some(json!((list, place)));
                break;
            }
        }
        Page {
            stream: ask.stream.clone(),
            lane: ask.lane,
            seq,
            digest,
            answer,
            swept: tables.swept,
            rows,
            next,
            missing: false,
        }
    }
}

type Put<'a> = Box<dyn FnOnce(&mut Rows) + 'a>;

impl Tables {
    /// All that a pull would tell.
    pub fn everything(&self) -> Rows {
        let mut rows = Rows::default();
        for lane in [Lane::State, Lane::Stats] {
            self.changed(lane, &|_| true).into_iter().for_each(|(_, _, put)| put(&mut rows));
        }
        rows
    }

    /// The rows of a lane in the wire's order: the list's number in the lane, and the place in the list.
    fn changed<'a>(&'a self, lane: Lane, wanted: &'a dyn Fn(Xid) -> bool) -> Vec<(usize, String, Put<'a>)> {
        let mut out: Vec<(usize, String, Put<'a>)> = Vec::new();
        if lane == Lane::State {
            for ((t, id), tomb) in self.tombstones.iter().filter(|(_, row)| wanted(row.xid)) {
                let row = GoneRow { t: *t, id: id.clone(), v: tomb.row.v };
                let kind = serde_json::to_value(t).unwrap();
                let place = format!("{}:{id}", kind.as_str().unwrap());
                out.push((1, place, Box::new(move |rows| rows.gone.push(row))));
            }
            out.sort_by(|a, b| a.1.cmp(&b.1));
            for (k, key) in self.keys.iter().filter(|(_, row)| wanted(row.xid)) {
                let row = text::key_row(&key.row, false, HOME);
                out.push((2, k.clone(), Box::new(move |rows| rows.keys.push(row))));
            }
            for (k, token) in self.tokens.iter().filter(|(_, row)| wanted(row.xid)) {
                let row = text::token_row(&token.row, false, HOME);
                out.push((3, k.clone(), Box::new(move |rows| rows.tokens.push(row))));
            }
            return out;
        }
        for (k, stats) in self.key_stats.iter().filter(|(_, row)| wanted(row.xid)) {
            let (n, k) = (&stats.row, k.clone());
            out.push((
                1,
                k.clone(),
                Box::new(move |rows| {
                    rows.key_stats.push(KeyStatsRow {
                        k: crate::model::Secret::new(k),
                        s: n.sums.s,
                        f: n.sums.f,
                        o: n.sums.o,
                        lu: n.sums.lu,
                        ls: n.last_success,
                        lf: n.last_failure,
                    })
                }),
            ));
        }
        for (k, stats) in self.token_stats.iter().filter(|(_, row)| wanted(row.xid)) {
            let (sums, k) = (stats.row.sums.clone(), crate::model::Secret::new(k.as_str()));
            let at = k.expose().to_owned();
            out.push((2, at, Box::new(move |rows| rows.token_stats.push(TokenStatsRow { k, sums }))));
        }
        for (m, stats) in self.models.iter().filter(|(_, row)| wanted(row.xid)) {
            let (sums, m) = (stats.row.sums.clone(), m.clone());
            out.push((3, m.clone(), Box::new(move |rows| rows.models.push(ModelRow { m, sums }))));
        }
        for ((h, m), stats) in self.hours.iter().filter(|(_, row)| wanted(row.xid)) {
            let (sums, h, m) = (stats.row.sums.clone(), *h, m.clone());
            let at = format!("{h:010}:{m}");
            out.push((4, at, Box::new(move |rows| rows.hours.push(HourRow { h, m, sums }))));
        }
        for stats in self.global.values().filter(|row| wanted(row.xid)) {
            let sums = stats.row.sums.clone();
            out.push((5, "global".to_owned(), Box::new(move |rows| rows.global = Some(GlobalRow { sums }))));
        }
        for (i, stream) in self.streams.iter().filter(|(_, row)| wanted(row.xid)) {
            let row = StreamRow { i: *i, s: stream.row.0, g: stream.row.1.clone() };
            out.push((6, i.to_string(), Box::new(move |rows| rows.streams.push(row))));
        }
        out
    }

    fn apply(&mut self, request: &PushRequest, xid: Xid, now: i64) -> RowAnswers {
        let mut answers = RowAnswers::default();
        let future = Version::at(crate::model::Timestamp(now + AHEAD));
        let strict = !sabotage::on(Sabotage::HubBelievesAnyClock);
        for (at, row) in request.rows.gone.iter().enumerate() {
            if row.v > future && strict {
                answers.clock.push(("gone".to_owned(), at));
            } else {
                self.delete(row.t, &row.id, row.v, xid, now);
            }
        }
        for (at, row) in request.rows.keys.iter().enumerate() {
            let latest =
                [row.uv, row.nv, row.xv, row.wv, row.ev, row.dv, Some(row.a), row.h.as_ref().map(|h| h.e)];
            if latest.iter().flatten().any(|version| *version > future) && strict {
                answers.clock.push(("keys".to_owned(), at));
            } else if !self.push_key(row, xid) {
                answers.gone.push(("keys".to_owned(), at));
            }
        }
        for (at, row) in request.rows.tokens.iter().enumerate() {
            let latest = [row.nv, row.xv, row.mv, row.rv, Some(row.a)];
            if latest.iter().flatten().any(|version| *version > future) && strict {
                answers.clock.push(("tokens".to_owned(), at));
            } else if !self.push_token(row, xid) {
                answers.gone.push(("tokens".to_owned(), at));
            }
        }
        for (at, row) in request.rows.key_stats.iter().enumerate() {
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
    fn restamp(&mut self, ahead: Xid, xid: Xid) {
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
    }

    /// Counters are raised to what an instance knew.
    fn adopt(&mut self, rows: &Rows, xid: Xid, now: i64) {
        for row in &rows.gone {
            self.delete(row.t, &row.id, row.v, xid, now);
        }
        for row in &rows.keys {
            self.push_key(row, xid);
        }
        for row in &rows.tokens {
            self.push_token(row, xid);
        }
        for row in &rows.key_stats {
            let most = Numbers {
                sums: Sums { s: row.s, f: row.f, o: row.o, lu: row.lu, ..Sums::default() },
                last_success: row.ls,
                last_failure: row.lf,
            };
            raise(&mut self.key_stats, row.k.expose().to_owned(), &most, xid);
        }
        let of = |sums: &Sums| Numbers { sums: sums.clone(), ..Numbers::default() };
        for row in &rows.token_stats {
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
                let stream = (row.s, row.g.clone(), RowAnswers::default());
                self.streams.insert(row.i, Stamped { row: stream, xid });
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
    fn sweep(&mut self, now: i64) -> bool {
        let had = self.tombstones.len();
        self.tombstones.retain(|at, tomb| at.0 == GoneKind::Token || tomb.row.at >= now - KEPT);
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

/// A field goes to the later version; on equal ones it stays.
fn take<T>(here: &mut T, here_v: &mut Version, there: T, there_v: Version) {
    if there_v > *here_v {
        (*here, *here_v) = (there, there_v);
    }
}

fn merge_key(here: &mut KeyEntry, there: KeyEntry) {
    let (r, v, record, versions) = (&mut here.record, &mut here.versions, there.record, there.versions);
    if sabotage::on(Sabotage::HubTakesWholeRows) {
        let latest = |v: &crate::model::KeyVersions| {
            v.username.max(v.note).max(v.expires_at).max(v.weight).max(v.enabled).max(v.added)
        };
        if latest(&versions) > latest(v) {
            (*r, *v) = (record, versions);
        }
    } else {
        take(&mut r.created_at, &mut v.added, record.created_at, versions.added);
        take(&mut r.username, &mut v.username, record.username, versions.username);
        take(&mut r.note, &mut v.note, record.note, versions.note);
        take(&mut r.expires_at, &mut v.expires_at, record.expires_at, versions.expires_at);
        take(&mut r.weight, &mut v.weight, record.weight, versions.weight);
        take(&mut r.enabled, &mut v.enabled, record.enabled, versions.enabled);
        take(&mut r.disabled_until, &mut v.disabled_until, record.disabled_until, versions.disabled_until);
    }
    let added = here.versions.added;
    let floor = |health: Health| {
        if health.epoch < added { Health { epoch: added, ..Health::default() } } else { health }
    };
    let mut health = floor(here.health.clone());
    let other = floor(there.health);
    if sabotage::on(Sabotage::HubIgnoresEpochs) {
        let epoch = health.epoch.max(other.epoch);
        health.epoch = epoch;
        health.merge(&Health { epoch, ..other });
    } else {
        health.merge(&other);
    }
    here.health = health;
}

fn merge_token(here: &mut TokenEntry, there: TokenEntry) {
    let (r, v, record, versions) = (&mut here.record, &mut here.versions, there.record, there.versions);
    take(&mut r.created_at, &mut v.added, record.created_at, versions.added);
    take(&mut r.name, &mut v.name, record.name, versions.name);
    take(&mut r.expires_at, &mut v.expires_at, record.expires_at, versions.expires_at);
    take(&mut r.allowed_models, &mut v.allowed_models, record.allowed_models, versions.allowed_models);
    let limit = record.requests_per_minute;
    take(&mut r.requests_per_minute, &mut v.requests_per_minute, limit, versions.requests_per_minute);
}

impl HubPort for ModelHub {
    fn call(&mut self, function: &str, request: &str) -> Result<String, String> {
        match function {
            "keytide_hello" => {
                let answer = self.hello();
                Ok(self.told(Function::Hello, request, answer, None))
            }
            "keytide_push" => {
                let xid = self.begin();
                let answer = self.push(request, xid);
                self.end(xid);
                Ok(answer)
            }
            "keytide_pull" => {
                let answer = self.pull(request)?;
                Ok(self.told(Function::Pull, request, answer, None))
            }
            other => Err(format!("there is no {other}")),
        }
    }
}
