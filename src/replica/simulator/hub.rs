//! A hub in memory: what the five functions and the triggers do, with transaction ids and snapshots as Postgres
//! has them.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::{
    core::{day_of, hour_of},
    journal::{self, Event},
    oracle::Five,
    sabotage::{self, Sabotage},
    tables::{KEPT, Stamped, Tables},
};
use crate::{
    model::{CounterId, Timestamp, Version},
    replica::{
        protocol::{Bounds, text::Shift},
        wire::{
            AdoptAnswer, AdoptRequest, Function, Greeting, HelloAnswer, HelloRequest, HubIdentity, KeptFrom,
            Marks, PROTOCOL, PullAnswer, PullRequest, PushAnswer, PushRequest, RowAnswers, Rows, SCHEMA,
        },
    },
};

/// Both ways to a hub that a history can run against.
pub trait HubPort {
    fn call(&mut self, function: &str, request: &str) -> Result<String, String>;
}

pub const HOME: Shift = Shift(0);

pub type Xid = u64;

/// How long an adopter is waited for, in milliseconds.
const ADOPTION: i64 = 600_000;

/// Everything that a dump or a backup of the cluster holds.
#[derive(Clone, Debug)]
pub struct Database {
    pub identity: HubIdentity,
    pub was: Vec<HubIdentity>,
    pub tables: BTreeMap<String, Tables>,
    /// Until when somebody adopts it, and nobody else may tell it anything.
    pub adopted_until: Option<i64>,
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
    /// Of a batch.
    pub bounds: Bounds,
    /// Rows that were refused.
    pub refused: u64,
    /// How often its transaction ids have begun anew.
    lives: usize,
}

impl ModelHub {
    pub fn new(id: Uuid, streams: &[&str], now: i64) -> Self {
        let tables = streams.iter().map(|stream| ((*stream).to_owned(), Tables::of(stream))).collect();
        let identity = HubIdentity { id, system: "7000".to_owned(), timeline: 1 };
        let db = Database {
            identity,
            was: Vec::new(),
            tables,
            adopted_until: None,
            next_xid: 100,
            applied: BTreeSet::new(),
            foreign: BTreeMap::new(),
        };
        Self {
            db,
            running: BTreeSet::new(),
            now,
            read_only: false,
            bounds: Bounds::default(),
            refused: 0,
            lives: 0,
        }
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
        self.db.adopted_until = None;
        self.db.next_xid = 10;
        self.running.clear();
        self.db.applied.clear();
        self.db.foreign.clear();
        self.db.tables.iter_mut().for_each(|(stream, tables)| *tables = Tables::of(stream));
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
            zone: Some("UTC".to_owned()),
        }
    }

    /// Forgets what is kept for 30 days and is older.
    pub fn sweep(&mut self) {
        let now = self.now;
        journal::note(|| Event::Swept { at: now });
        let xid = self.begin();
        self.end(xid);
        let cores = self.db.tables.values_mut().filter_map(|tables| tables.core.as_mut());
        cores.for_each(|core| core.retain(now, xid));
        let mut forgot = false;
        self.db.tables.values_mut().for_each(|tables| forgot |= tables.sweep(now));
        if forgot && !sabotage::on(Sabotage::HubSweepsSilently) {
            let before = Version::at(Timestamp(now - KEPT));
            self.db.tables.values_mut().for_each(|tables| tables.swept = tables.swept.max(before));
        }
    }

    /// A budget is used up: hours and days of users are kept for a week from now on.
    pub fn climb(&mut self) {
        let hours_from = (hour_of(self.now) / 24 - 7) * 24;
        let days_from = day_of(self.now) - 7;
        journal::note(|| Event::Climbed { hours_from, days_from });
        for core in self.db.tables.values_mut().filter_map(|tables| tables.core.as_mut()) {
            core.hours_from = core.hours_from.max(hours_from);
            core.days_from = core.days_from.max(days_from);
        }
    }

    /// What is older is absent because it was let go of.
    pub fn kept_from(&self) -> KeptFrom {
        let core = self.db.tables.values().find_map(|tables| tables.core.as_ref());
        let (hours_from, days_from) = core.map_or((0, 0), |core| (core.hours_from, core.days_from));
        KeptFrom {
            hours: hours_from.max(hour_of(self.now) - 719),
            days: days_from.max(day_of(self.now) - 30),
        }
    }

    pub fn hello(&mut self, request: &str) -> String {
        let request: HelloRequest = serde_json::from_str(request).unwrap();
        let answer = HelloAnswer {
            greeting: self.greeting(),
            status: "ok".to_owned(),
            speaks: vec![PROTOCOL],
            missing: Vec::new(),
            alive: Some(1),
            instances: request.list.then(Vec::new),
            reports: Vec::new(),
        };
        serde_json::to_string(&answer).unwrap()
    }

    /// Carried out in the transaction `xid`, which may have begun long ago.
    pub fn push(&mut self, request: &str, xid: Xid) -> Result<String, String> {
        let answer = self.take(request, xid)?;
        Ok(self.told(Function::Push, request, answer, Some(xid)))
    }

    fn told(&self, function: Function, request: &str, answer: String, xid: Option<Xid>) -> String {
        journal::note(|| {
            let (request, answer) = (request.to_owned(), answer.clone());
            Event::Call { at: self.now, function, request, answer, xid }
        });
        answer
    }

    fn take(&mut self, request: &str, xid: Xid) -> Result<String, String> {
        if let Ok(request) = serde_json::from_str::<AdoptRequest>(request) {
            return Ok(self.adopt(&request));
        }
        let request: PushRequest = serde_json::from_str(request).unwrap();
        check_shape(&request.rows, &self.bounds)?;
        let greeting = self.greeting();
        let at_home = request.hub.as_ref().is_none_or(|hub| {
            let here = &self.db.identity;
            (&hub.id, &hub.system) == (&here.id, &here.system) || self.db.was.contains(hub)
        });
        if !at_home && !sabotage::on(Sabotage::HubTakesWhatIsForAnother) {
            let (status, rows) = ("elsewhere".to_owned(), RowAnswers::default());
            let answer =
                PushAnswer { greeting, status, seq: 0, digest: String::new(), rows, missing: Vec::new() };
            return Ok(serde_json::to_string(&answer).unwrap());
        }
        let adopted = self.db.adopted_until.is_some_and(|until| until > self.now)
            && !sabotage::on(Sabotage::AdoptedHubTakesBatches);
        let (now, applied) = (self.now, &mut self.db.applied);
        let tables = self.db.tables.get_mut(&request.stream).unwrap();
        let held = tables.streams.get(&request.instance).map(|stream| stream.row.clone());
        let (seq, held_digest, answers) = held.unwrap_or_default();
        let same_digest = request.digest == held_digest || sabotage::on(Sabotage::HubIgnoresDigest);
        let follows = request.prev == held_digest || sabotage::on(Sabotage::HubIgnoresDigest);
        let (status, seq, digest, rows) =
            if request.seq == seq && same_digest && !sabotage::on(Sabotage::HubAppliesTwice) {
                let again = !sabotage::on(Sabotage::HubRepeatsNoAnswers);
                ("already", seq, held_digest, if again { answers } else { RowAnswers::default() })
            } else if (request.seq == seq + 1 && follows)
                || (request.seq > seq && sabotage::on(Sabotage::HubAcceptsGaps))
                || (request.seq == seq && same_digest && sabotage::on(Sabotage::HubAppliesTwice))
            {
                if adopted {
                    let (status, rows) = ("busy".to_owned(), RowAnswers::default());
                    let answer =
                        PushAnswer { greeting, status, seq, digest: held_digest, rows, missing: Vec::new() };
                    return Ok(serde_json::to_string(&answer).unwrap());
                }
                let mut said = tables.apply(&request, xid, now);
                // Whoever sends the next batch may not have heard it yet.
                said.uncertain = answers.adopted && answers.uncertain;
                let answers = said;
                self.refused += refused(&request.rows, &answers);
                let stream = (request.seq, request.digest.clone(), answers.clone());
                tables.streams.insert(request.instance, Stamped { row: stream, xid });
                applied.insert((request.instance, request.seq, request.digest.clone()));
                ("applied", request.seq, request.digest, answers)
            } else {
                let told = !sabotage::on(Sabotage::HubMismatchTellsNoAnswers);
                ("mismatch", seq, held_digest, if told { answers } else { RowAnswers::default() })
            };
        let status = status.to_owned();
        let answer = PushAnswer { greeting, status, seq, digest, rows, missing: Vec::new() };
        Ok(serde_json::to_string(&answer).unwrap())
    }

    fn adopt(&mut self, request: &AdoptRequest) -> String {
        let greeting = self.greeting();
        let known = self.db.was.contains(&request.was) || self.db.identity == request.was;
        let status = if known { "adopted" } else { "ok" };
        let (mut marks, mut rows) = (Marks::Unknown, RowAnswers::default());
        let elsewhere = {
            let (here, was) = (&self.db.identity, &request.was);
            (&here.id, &here.system) != (&was.id, &was.system)
        };
        if !known {
            self.db.adopted_until = Some(self.now + ADOPTION);
            let xid = self.begin();
            self.end(xid);
            match request.step.as_str() {
                "rows" => {
                    let now = self.now;
                    let tables = self.db.tables.get_mut(&request.stream).unwrap();
                    rows.clock = tables.adopt(&request.rows, xid, now).clock;
                }
                "restamp" if !sabotage::on(Sabotage::AdoptionKeepsStamps) => {
                    let next = self.db.next_xid;
                    self.db.tables.values_mut().for_each(|tables| tables.restamp(next, xid));
                }
                "look" => {
                    let tables = self.db.tables.get_mut(&request.stream).unwrap();
                    marks = tables.compare(&request.rows.streams, elsewhere, xid);
                }
                "end" => {
                    self.db.was.push(request.was.clone());
                    self.db.adopted_until = None;
                }
                _ => {}
            }
        }
        let status = status.to_owned();
        let answer = AdoptAnswer { greeting, status, left: 0, marks, rows, by: None, until: None };
        serde_json::to_string(&answer).unwrap()
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
}

/// Rows of which an operator is to hear.
fn refused(rows: &Rows, answers: &RowAnswers) -> u64 {
    let expired = answers.expired.iter().filter(|(list, at)| match list.as_str() {
        "hours" | "events" => true,
        "tallies" => rows.tallies[*at].t != "kh",
        "sets" => true,
        _ => false,
    });
    (answers.gone.len() + answers.clock.len() + expired.count()) as u64
}

/// A batch is bounded, and its rows come in the order in which everybody locks them.
fn check_shape(rows: &Rows, bounds: &Bounds) -> Result<(), String> {
    fn sorted<T, K: Ord>(rows: &[T], key: impl Fn(&T) -> K) -> bool {
        rows.windows(2).all(|pair| key(&pair[0]) < key(&pair[1]))
    }
    let in_order = sorted(&rows.gone, |row| (row.t, row.id.clone()))
        && sorted(&rows.keys, |row| row.k.clone())
        && sorted(&rows.tokens, |row| row.k.clone())
        && sorted(&rows.key_stats, |row| row.k.clone())
        && sorted(&rows.token_stats, |row| row.k.clone())
        && sorted(&rows.models, |row| row.m.clone())
        && sorted(&rows.hours, |row| (row.m.clone(), row.h))
        && sorted(&rows.users, |row| row.i)
        && sorted(&rows.shares, |row| row.i)
        && sorted(&rows.tallies, |row| (row.t.clone(), row.i, row.n))
        && sorted(&rows.sets, |row| (row.t.clone(), row.i, row.n, row.m.clone()))
        && sorted(&rows.events, |row| row.x)
        && sorted(&rows.logs, |row| row.x);
    if !in_order {
        return Err("a batch's rows are out of order".to_owned());
    }
    let count = rows.count() as usize;
    // The lists' names come on top.
    let size = serde_json::to_vec(rows).unwrap().len().saturating_sub(200);
    if count > 1 && (count > bounds.rows || size > bounds.bytes) {
        return Err(format!("a batch of {count} rows and {size} bytes"));
    }
    Ok(())
}

impl HubPort for ModelHub {
    fn call(&mut self, function: &str, request: &str) -> Result<String, String> {
        match function {
            "keytide_hello" => {
                let answer = self.hello(request);
                Ok(self.told(Function::Hello, request, answer, None))
            }
            "keytide_push" => {
                let xid = self.begin();
                let answer = self.push(request, xid);
                self.end(xid);
                answer
            }
            "keytide_pull" => {
                let answer = self.pull(request)?;
                Ok(self.told(Function::Pull, request, answer, None))
            }
            other => Err(format!("there is no {other}")),
        }
    }
}
