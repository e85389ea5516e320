//! Instances, a network between them and the hub, and time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use fastrand::Rng;
use uuid::Uuid;

use super::{
    hub::{HubPort, ModelHub},
    local,
    oracle::Oracle,
    shelf::MemoryShelf,
};
use crate::{
    model::{CounterId, KeyId, Stamps, Tally, Timestamp, TokenId, Version},
    replica::{
        protocol::{
            Bounds, Call, Effect, Error, Hub, Machine, Next, Note, Outcome, Sealing, StreamOf, Wishes,
            document::{self, Batch, Head, StreamNote, Walk},
        },
        transport::ErrorKind,
        wire::Function,
    },
    store::shelf::{KeyEntry, Row, Shelf, TokenEntry},
};

pub const PROVIDERS: [(&str, &str); 2] = [("alpha", "alpha_api"), ("beta", "beta_api")];
pub const KEYS: [&str; 6] = ["key-a", "key-b", "key-c", "key-d", "key-e", "key-f"];
pub const TOKENS: [&str; 3] = ["token-a", "token-b", "token-c"];
pub const MODELS: [&str; 3] = ["small", "large", "vision"];
pub const BEGIN: i64 = 1_790_000_000_000;

/// What happens more often than in other worlds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Focus {
    Everything,
    /// Few keys that are added, deleted and edited in many places.
    Lives,
    /// Few keys whose fields are set in the middle of rounds.
    Edits,
    Health,
    /// More batches than a round sends.
    Batches,
    /// Other programs that count.
    Counts,
    /// People at the tables.
    Hands,
    /// Batches that do not get through whole.
    Narrow,
}

/// What the instance's memory holds, moved by effects alone.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub keys: BTreeMap<(String, KeyId), KeyEntry>,
    pub tokens: BTreeMap<(String, TokenId), TokenEntry>,
    pub books: BTreeMap<(String, CounterId), Tally>,
}

impl Memory {
    pub fn of(shelf: &MemoryShelf) -> Self {
        let mut memory = Self::default();
        for (provider, _) in PROVIDERS {
            let at = || provider.to_owned();
            let keys = shelf.keys(provider, None, usize::MAX).unwrap();
            memory.keys.extend(keys.into_iter().map(|(id, entry)| ((at(), id), entry)));
            let tokens = shelf.tokens(provider, None, usize::MAX).unwrap();
            memory.tokens.extend(tokens.into_iter().map(|(id, entry)| ((at(), id), entry)));
            let views = shelf.views(provider, None, usize::MAX).unwrap();
            memory.books.extend(views.into_iter().map(|(id, tally)| ((at(), id), tally)));
        }
        memory
    }

    fn apply(&mut self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::KeyPut { provider, id, entry } => {
                self.keys.insert((provider, id), *entry);
            }
            Effect::KeyRemoved { provider, id } => {
                self.keys.remove(&(provider, id));
            }
            Effect::TokenPut { provider, id, entry } => {
                self.tokens.insert((provider, id), *entry);
            }
            Effect::TokenRemoved { provider, id } => {
                self.tokens.remove(&(provider, id));
            }
            Effect::Counter { provider, id, from, to } => {
                let at = (provider, id);
                let here = self.books.get(&at).copied().unwrap_or_default();
                if here != from {
                    return Err(format!("a counter moves from {from:?} where memory has {here:?}"));
                }
                if to == Tally::default() {
                    self.books.remove(&at);
                } else {
                    self.books.insert(at, to);
                }
            }
        }
        Ok(())
    }
}

pub struct Instance {
    pub shelf: MemoryShelf,
    pub machine: Machine,
    pub stamps: Arc<Stamps>,
    pub memory: Memory,
    /// Its clock minus the true one.
    pub skew: i64,
    pub cut_off: bool,
    /// A call that is on its way, and its answer when that is.
    pub waiting: Option<(Call, Option<String>)>,
    /// When it was sent.
    sent: i64,
    pub notes: Vec<Note>,
    /// Of its streams, by provider.
    pub ids: BTreeMap<String, Ids>,
    /// Requests that it has counted itself, by provider.
    own: BTreeMap<&'static str, i64>,
}

/// What a stream goes by.
#[derive(Clone, Copy, Debug)]
pub struct Ids {
    pub instance: Uuid,
    /// The life that counts in it.
    pub run: Uuid,
    /// Whether it is about to take another id.
    forks: bool,
}

/// A request that arrives after its sender has given up.
struct Stray {
    function: Function,
    request: String,
    /// Its transaction has begun and not ended.
    xid: Option<u64>,
    /// When whoever carries it gives it up.
    until: i64,
}

/// In milliseconds.
const STRAYING: i64 = 3_000_000;

pub struct World {
    pub rng: Rng,
    pub hub: ModelHub,
    pub now: i64,
    pub instances: Vec<Instance>,
    strays: Vec<Stray>,
    pub oracle: Oracle,
    pub providers: usize,
    pub trace: Option<Vec<String>>,
    pub bounds: Bounds,
    /// Per thousand.
    pub loss: u32,
    /// Bytes of a push that get through.
    pub limit: Option<usize>,
    /// Whether one did not, since that was last looked at.
    refused: bool,
    /// Writes of the largest transaction so far.
    pub most_writes: usize,
    /// Nothing takes counts away: neither other hands nor a lost file or hub.
    pub steady: bool,
    pub focus: Focus,
    uuids: u128,
}

impl World {
    pub fn new(seed: u64, count: usize, traced: bool) -> Result<Self, String> {
        let mut rng = Rng::with_seed(seed);
        let providers = 1 + usize::from(rng.u8(..4) == 0);
        let streams: Vec<&str> = PROVIDERS[..providers].iter().map(|(_, stream)| *stream).collect();
        let hub = ModelHub::new(Uuid::from_u128(0xb0b), &streams, BEGIN);
        let bounds = Bounds {
            rows: *rng.choice(&[1, 3, 8, 50][..]).unwrap_or(&8),
            bytes: *rng.choice(&[300, 4000, 100_000][..]).unwrap_or(&4000),
            page: *rng.choice(&[1, 2, 5, 100][..]).unwrap_or(&5),
            stride: [1, 2, 1000][(seed % 3) as usize],
            calls: 400,
            kept_bytes: 1 << 20,
        };
        let loss = *rng.choice(&[0, 30, 150][..]).unwrap_or(&0);
        let mut world = Self {
            hub,
            now: BEGIN,
            instances: Vec::new(),
            strays: Vec::new(),
            oracle: Oracle::default(),
            providers,
            trace: traced.then(Vec::new),
            bounds,
            loss,
            limit: None,
            refused: false,
            most_writes: 0,
            steady: false,
            focus: Focus::Everything,
            uuids: u128::from(seed) << 64,
            rng,
        };
        for _ in 0..count {
            let skew = match world.rng.u8(..6) {
                0 => world.rng.i64(-7_200_000..7_200_000),
                1 => world.rng.i64(-200_000..200_000),
                _ => world.rng.i64(-500..500),
            };
            let shelf = MemoryShelf::new(world.uuid());
            world.boot(shelf, skew)?;
        }
        Ok(world)
    }

    pub fn say(&mut self, what: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(format!("{:>9} {}", self.now - BEGIN, what()));
        }
    }

    pub fn uuid(&mut self) -> Uuid {
        self.uuids += 1;
        Uuid::from_u128(self.uuids.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
    }

    /// One of the keys that this world is about.
    pub fn some_key(&mut self) -> &'static str {
        let few = matches!(self.focus, Focus::Lives | Focus::Edits | Focus::Health | Focus::Counts);
        KEYS[self.rng.usize(..if few { 2 } else { KEYS.len() })]
    }

    pub fn chance(&mut self, per_thousand: u32) -> bool {
        self.rng.u32(..1000) < per_thousand
    }

    fn engine(&mut self, shelf: &MemoryShelf) -> (Machine, Arc<Stamps>) {
        let streams = PROVIDERS[..self.providers].iter();
        let streams = streams.map(|(provider, stream)| StreamOf {
            provider: (*provider).to_owned(),
            stream: (*stream).to_owned(),
        });
        let last = PROVIDERS.iter().map(|(provider, _)| local::last_version(shelf, provider)).max();
        let id = shelf.instance_id().as_u128();
        let stamps = Arc::new(Stamps::new(id, 0, last.unwrap_or(Version::ZERO)));
        let hub = Hub {
            name: "main".to_owned(),
            streams: streams.collect(),
            bounds: self.bounds,
            instance_name: "simulated".to_owned(),
            version: "0".to_owned(),
            keeps_time: true,
        };
        let run = self.uuid();
        (Machine::new(hub, stamps.clone(), run), stamps)
    }

    /// A file becomes a running instance.
    pub fn boot(&mut self, mut shelf: MemoryShelf, skew: i64) -> Result<usize, String> {
        shelf.dies_at = None;
        shelf.give_up();
        let (machine, stamps) = self.engine(&shelf);
        let (memory, ids) = (Memory::of(&shelf), stream_ids(&shelf));
        let instance = Instance {
            shelf,
            machine,
            stamps,
            memory,
            skew,
            cut_off: false,
            waiting: None,
            sent: 0,
            notes: Vec::new(),
            ids,
            own: BTreeMap::new(),
        };
        self.instances.push(instance);
        let at = self.instances.len() - 1;
        self.start(at)?;
        Ok(at)
    }

    fn start(&mut self, at: usize) -> Result<(), String> {
        self.instances[at].ids = stream_ids(&self.instances[at].shelf);
        let it = &mut self.instances[at];
        let sealing = it.machine.start(&it.shelf).map_err(|error| format!("start: {error}"))?;
        self.seal(at, sealing)
    }

    /// Seals to the end, unless it dies before.
    fn seal(&mut self, at: usize, sealing: Sealing) -> Result<(), String> {
        let mut left = Some(sealing);
        while let Some(sealing) = left {
            left = self
                .work(at, |machine, shelf, now| {
                    machine.seal(shelf, now, sealing).map(|(outcome, left)| (left, outcome))
                })?
                .flatten();
        }
        Ok(())
    }

    /// The process dies and comes back; what was not committed is gone.
    pub fn crash(&mut self, at: usize) -> Result<(), String> {
        self.say(|| format!("{at} dies and comes back"));
        let mut shelf = self.instances[at].shelf.clone();
        shelf.dies_at = None;
        shelf.give_up();
        let (machine, stamps) = self.engine(&shelf);
        let it = &mut self.instances[at];
        it.memory = Memory::of(&shelf);
        (it.shelf, it.machine, it.stamps) = (shelf, machine, stamps);
        if let Some((call, None)) = it.waiting.take() {
            let _ = call;
        }
        self.start(at)
    }

    pub fn local(&self, at: usize) -> Timestamp {
        Timestamp(self.now + self.instances[at].skew)
    }

    pub fn pass(&mut self, ms: i64) {
        self.now += ms;
        self.hub.now = self.now;
        for lost in self.strays.extract_if(.., |stray| stray.until < self.now) {
            lost.xid.into_iter().for_each(|xid| self.hub.end(xid));
        }
    }

    /// A transaction has been committed: memory follows.
    fn take(&mut self, at: usize, outcome: Outcome) -> Result<(), String> {
        self.bury_thrown(at);
        let it = &mut self.instances[at];
        self.most_writes = self.most_writes.max(it.shelf.written());
        it.shelf.commit();
        it.ids = stream_ids(&it.shelf);
        for provider in it.ids.keys() {
            pending_of(&it.shelf, provider).map_err(|error| format!("instance {at}: {error}"))?;
        }
        for effect in outcome.effects {
            if let Effect::Counter { provider, id, .. } = &effect {
                base_of(&it.shelf, provider, id).map_err(|error| format!("instance {at}: {error}"))?;
            }
            it.memory.apply(effect).map_err(|error| format!("instance {at}: {error}"))?;
        }
        for (provider, own) in it.own.iter().filter(|_| self.steady) {
            let total = it.shelf.view(provider, &CounterId::Total).unwrap();
            if total.success + total.failure + total.other < *own {
                return Err(format!("instance {at} shows {total:?}, and has counted {own} itself"));
            }
        }
        for note in outcome.notes {
            self.say(|| format!("{at} notes {note:?}"));
            self.oracle.note(&note);
            self.instances[at].notes.push(note);
        }
        Ok(())
    }

    /// Batches that a fork throws away: those of this life are open again, the others are for the copy to tell.
    fn bury_thrown(&mut self, at: usize) {
        let it = &self.instances[at];
        for (provider, bytes) in &it.shelf.thrown {
            let Some(ids) = it.ids.get(provider).filter(|ids| ids.forks) else { continue };
            let Batch { head, rows } = Batch::decode(bytes).unwrap();
            if head.confirmed.is_some() || head.run != ids.run {
                let name = (provider.clone(), (ids.instance, head.seq, head.digest));
                self.oracle.unsent.insert(name, rows);
            }
        }
    }

    /// A file is lost: what of it the hub has not, nobody will tell.
    fn bury(&mut self, at: usize) -> Result<(), String> {
        // As a start would seal it, so that batches have the names that they have in a copy.
        self.crash(at)?;
        let it = &self.instances[at];
        for (provider, ids) in &it.ids {
            for seq in it.shelf.batches(provider, 0, usize::MAX).unwrap() {
                let bytes = it.shelf.batch(provider, seq).unwrap().unwrap_or_default();
                let Batch { head, rows } = Batch::decode(&bytes).unwrap();
                let name = (provider.clone(), (ids.instance, seq, head.digest));
                self.oracle.unsent.insert(name, rows);
            }
            // Of a provider that never met a hub nothing is in batches.
        }
        for (provider, _) in &PROVIDERS[..self.providers] {
            if !it.ids.contains_key(*provider) {
                for (id, tally) in it.shelf.views(provider, None, usize::MAX).unwrap() {
                    let lost = Tally::default().minus(&tally);
                    self.oracle.recorded(provider, &id, &lost);
                }
            }
        }
        Ok(())
    }

    /// The file as `store backup` copies it.
    pub fn backup(&mut self, at: usize) -> Result<MemoryShelf, String> {
        self.say(|| format!("{at} is backed up"));
        let next = self.uuid();
        self.instances[at].waiting = None;
        self.instances[at].machine.forget();
        self.seal(at, Sealing::new(Some(next)))?;
        Ok(self.instances[at].shelf.clone())
    }

    /// A backup takes the place of the file.
    pub fn restore(&mut self, at: usize, shelf: MemoryShelf) -> Result<(), String> {
        self.say(|| format!("{at} is restored"));
        self.bury(at)?;
        self.oracle.doubt(Some(at));
        self.instances[at].shelf = shelf;
        self.instances[at].waiting = None;
        self.crash(at)
    }

    /// A copy of the file becomes another instance.
    pub fn copy(&mut self, at: usize, shelf: MemoryShelf) -> Result<(), String> {
        let next = self.instances.len();
        self.say(|| format!("a copy of {at} is {next}"));
        let skew = self.instances[at].skew;
        self.boot(shelf, skew).map(drop)
    }

    /// The same world with other bounds.
    pub fn rebound(mut self) -> Result<Self, String> {
        for at in 0..self.instances.len() {
            self.crash(at)?;
        }
        Ok(self)
    }

    /// One instance makes the database that is there the hub.
    pub fn adopt(&mut self, at: usize) -> Result<(), String> {
        self.say(|| format!("{at} adopts the hub"));
        let now = self.local(at);
        let it = &mut self.instances[at];
        it.waiting = None;
        let begun = it.machine.begin_adoption(&mut it.shelf, now).map_err(|error| error.to_string())?;
        it.shelf.commit();
        if !begun {
            return Err("nothing to adopt".to_owned());
        }
        while self.step(at)? {}
        Ok(())
    }

    /// The hub forgets what is old. What somebody who is away adds meanwhile it can then not refuse.
    pub fn sweep(&mut self, away: usize) {
        let now = self.now;
        self.say(|| "the hub forgets what is old".to_owned());
        for (provider, stream) in &PROVIDERS[..self.providers] {
            for (row, dirty) in self.instances[away].shelf.dirty(provider, None, usize::MAX).unwrap() {
                let key = KEYS.iter().find(|key| row == Row::Key(KeyId::derive(provider, key)));
                if let (Some(key), true) = (key, dirty.added) {
                    self.oracle.unsure(provider, key);
                }
            }
            if let Some(tables) = self.hub.db.tables.get_mut(*stream) {
                tables.sweep(now);
            }
        }
    }

    /// Requests under way to a hub that is no more go nowhere.
    pub fn hub_restarted(&mut self) {
        self.strays.clear();
    }

    /// A step of the protocol in a transaction; `None` when it was given up.
    fn work<T>(
        &mut self,
        at: usize,
        work: impl FnOnce(&mut Machine, &mut MemoryShelf, Timestamp) -> Result<(T, Outcome), Error>,
    ) -> Result<Option<T>, String> {
        let now = self.local(at);
        let dies = self.loss > 0 && self.chance(4);
        let writes = self.rng.u64(1..20);
        let it = &mut self.instances[at];
        it.shelf.dies_at = dies.then_some(it.shelf.writes + writes);
        match work(&mut it.machine, &mut it.shelf, now) {
            Ok((value, outcome)) => {
                it.shelf.dies_at = None;
                self.take(at, outcome)?;
                Ok(Some(value))
            }
            Err(error) if it.shelf.dies_at.take().is_some() => {
                let _ = error;
                self.crash(at)?;
                Ok(None)
            }
            Err(error) => {
                it.shelf.give_up();
                it.machine.forget();
                it.waiting = None;
                Err(format!("instance {at}: {error}"))
            }
        }
    }

    pub fn begin(&mut self, at: usize, wishes: Wishes) {
        let it = &mut self.instances[at];
        it.waiting = None;
        it.machine.begin(wishes);
    }

    /// One step of a round: the next call, or its way there and back. False when the round is over.
    pub fn step(&mut self, at: usize) -> Result<bool, String> {
        let Some((call, answer)) = self.instances[at].waiting.take() else {
            match self.work(at, |machine, shelf, now| machine.next(shelf, now))? {
                Some(Next::Call(call)) => {
                    self.say(|| format!("{at} calls {} {}", call.function.name(), call.request));
                    self.instances[at].waiting = Some((call, None));
                    self.instances[at].sent = self.now;
                    return Ok(true);
                }
                Some(Next::Work) => return Ok(true),
                Some(Next::End) | None => return Ok(false),
            }
        };
        if let Some(body) = answer {
            let took = u64::try_from(self.now - self.instances[at].sent).unwrap_or(0);
            let (fresh, took) = (self.uuid(), Duration::from_millis(took));
            self.say(|| format!("{at} hears {body}"));
            self.work(at, |machine, shelf, now| {
                machine.answered(shelf, call.id, &body, took, now, fresh).map(|outcome| ((), outcome))
            })?;
            return Ok(true);
        }
        let too_large =
            call.function == Function::Push && self.limit.is_some_and(|limit| call.request.len() > limit);
        let fate = if self.instances[at].cut_off {
            Some(ErrorKind::Unreachable)
        } else if too_large {
            Some(ErrorKind::TooLarge)
        } else if self.chance(self.loss) {
            Some(
                *self
                    .rng
                    .choice(&[ErrorKind::Timeout, ErrorKind::Unreachable][..])
                    .unwrap_or(&ErrorKind::Timeout),
            )
        } else {
            None
        };
        let Some(kind) = fate else {
            let body = self.arrive(call.function, &call.request, None)?;
            if self.chance(self.loss / 3) {
                let until = self.now + STRAYING;
                self.strays.push(Stray {
                    function: call.function,
                    request: call.request.clone(),
                    xid: None,
                    until,
                });
            }
            self.instances[at].waiting = Some((call, Some(body)));
            return Ok(true);
        };
        if !too_large && !self.instances[at].cut_off {
            self.go_astray(&call)?;
        }
        self.refused |= too_large;
        self.say(|| format!("{at} gives up on {}", call.function.name()));
        self.work(at, |machine, shelf, now| {
            machine.failed(shelf, call.id, kind, now).map(|outcome| ((), outcome))
        })?;
        Ok(true)
    }

    /// What becomes of a request whose sender hears nothing.
    fn go_astray(&mut self, call: &Call) -> Result<(), String> {
        let (function, request, until) = (call.function, call.request.clone(), self.now + STRAYING);
        match self.rng.u8(..4) {
            0 => {}
            1 => drop(self.arrive(function, &request, None)?),
            2 => self.strays.push(Stray { function, request, xid: None, until }),
            _ => {
                let xid = (function == Function::Push).then(|| self.hub.begin());
                self.strays.push(Stray { function, request, xid, until });
            }
        }
        Ok(())
    }

    fn arrive(&mut self, function: Function, request: &str, xid: Option<u64>) -> Result<String, String> {
        if function != Function::Push {
            return self.hub.call(function.name(), request);
        }
        let xid = match xid {
            Some(xid) => xid,
            None => {
                // Those that hold the stream's row go first.
                while let Some(first) = self.strays.iter().position(|stray| stray.xid.is_some()) {
                    let stray = self.strays.remove(first);
                    self.arrive(stray.function, &stray.request, stray.xid)?;
                }
                self.hub.begin()
            }
        };
        let answer = self.hub.push(request, xid);
        self.hub.end(xid);
        Ok(answer)
    }

    /// One of the requests that are still under way arrives.
    pub fn stray(&mut self) -> Result<(), String> {
        if self.strays.is_empty() {
            return Ok(());
        }
        let which = self.rng.usize(..self.strays.len());
        let stray = self.strays.remove(which);
        self.say(|| format!("late: {} {}", stray.function.name(), stray.request));
        self.arrive(stray.function, &stray.request, stray.xid)?;
        Ok(())
    }

    pub fn settle_strays(&mut self) -> Result<(), String> {
        while !self.strays.is_empty() {
            self.stray()?;
        }
        Ok(())
    }

    /// A request and its attempt, as the fold writes them.
    pub fn traffic(&mut self, at: usize) {
        let (provider, _) = PROVIDERS[self.rng.usize(..self.providers)];
        let now = self.local(at);
        let model = MODELS[self.rng.usize(..MODELS.len())];
        let n = self.rng.i64(1..4);
        let kind = self.rng.u8(..3);
        let mut tally = Tally { last_used: Some(now), ..Tally::default() };
        match kind {
            0 => tally.success = n,
            1 => tally.failure = n,
            _ => tally.other = n,
        }
        let mut attempt = tally;
        if kind == 0 {
            attempt.last_success = Some(now);
            tally.prompt_tokens = self.rng.i64(0..50);
            tally.completion_tokens = self.rng.i64(0..50);
        } else if kind == 1 {
            attempt.last_failure = Some(now);
        }
        let mut rows = vec![
            (CounterId::Model(model.into()), tally),
            (CounterId::Hour(crate::model::Hour::of(now), model.into()), tally),
            (CounterId::Total, tally),
        ];
        let it = &mut self.instances[at];
        *it.own.entry(provider).or_default() += n;
        let keys = it.shelf.keys(provider, None, usize::MAX).unwrap();
        if !keys.is_empty() {
            rows.push((CounterId::Key(keys[self.rng.usize(..keys.len())].0), attempt));
        }
        let tokens = it.shelf.tokens(provider, None, usize::MAX).unwrap();
        if !tokens.is_empty() {
            rows.push((CounterId::Token(tokens[self.rng.usize(..tokens.len())].0), tally));
        }
        for (id, tally) in rows {
            local::count(&mut it.shelf, provider, &id, &tally);
            it.memory.books.entry((provider.to_owned(), id.clone())).or_default().add(&tally);
            self.oracle.recorded(provider, &id, &tally);
        }
        it.shelf.commit();
    }

    /// Rounds until nothing changes any more.
    pub fn heal(&mut self) -> Result<(), String> {
        self.say(|| "healing".to_owned());
        self.loss = 0;
        self.settle_strays()?;
        for it in &mut self.instances {
            it.cut_off = false;
            it.waiting = None;
        }
        let mut quiet = 0;
        for _ in 0..60 {
            self.pass(5000);
            let before = self.hub.db.next_xid;
            for at in 0..self.instances.len() {
                self.begin(at, Wishes { hello: true, stats: true, only_push: false });
                let mut steps = 0;
                while self.step(at)? {
                    steps += 1;
                    if steps > 5000 {
                        return Err(format!("instance {at}: a round that never ends"));
                    }
                }
            }
            let refused = std::mem::take(&mut self.refused);
            if refused {
                // Longer than anything refused can be in doubt.
                self.pass(2 * STRAYING);
            }
            quiet = if self.hub.db.next_xid == before && !refused { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(());
            }
        }
        Err("it never becomes quiet".to_owned())
    }
}

/// A view is never less than what in it is not the hub's.
fn base_of(shelf: &MemoryShelf, provider: &str, id: &CounterId) -> Result<(), String> {
    let view = shelf.view(provider, id).unwrap();
    let mut base = view;
    let inflight = shelf.inflight(provider, id).unwrap().unwrap_or_default();
    inflight.sealed.iter().chain(&inflight.confirmed).for_each(|(_, tally)| base = base.minus(tally));
    if let Some(open) = shelf.open(provider, id).unwrap() {
        base = base.minus(&open);
    }
    let parts = [base.success, base.failure, base.other, base.prompt_tokens, base.completion_tokens];
    if parts.iter().any(|part| *part < 0) {
        return Err(format!("{id:?} is shown as {view:?}, and more is under way: {inflight:?}"));
    }
    Ok(())
}

/// How many rows wait, as it is shown and as the batches have it.
fn pending_of(shelf: &MemoryShelf, provider: &str) -> Result<(), String> {
    let note: StreamNote =
        document::read(shelf, &document::stream_name(provider)).unwrap().unwrap_or_default();
    let waiting = shelf.batches(provider, note.confirmed.seq + 1, usize::MAX).unwrap();
    let waiting = waiting.into_iter().map(|seq| shelf.batch(provider, seq).unwrap().unwrap_or_default());
    let rows: u64 = waiting.map(|bytes| Head::of(&bytes).unwrap().rows).sum();
    if rows != note.pending_rows {
        return Err(format!("{} rows are said to wait, and {rows} do", note.pending_rows));
    }
    Ok(())
}

/// Of each provider that has met a hub.
fn stream_ids(shelf: &MemoryShelf) -> BTreeMap<String, Ids> {
    let mut ids = BTreeMap::new();
    for (provider, _) in PROVIDERS {
        let note: Option<StreamNote> = document::read(shelf, &document::stream_name(provider)).unwrap();
        if let Some(note) = note {
            let forks = matches!(note.walk, Some(Walk::Fork { .. }));
            ids.insert(provider.to_owned(), Ids { instance: note.instance, run: note.run, forks });
        }
    }
    ids
}
