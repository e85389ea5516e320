//! Instances, a hub, and time.

use std::{collections::BTreeMap, sync::Arc};

use fastrand::Rng;
use uuid::Uuid;

use super::{
    core,
    files::{Ids, pending_of, stream_ids},
    hub::ModelHub,
    local,
    memory::Memory,
    network::Stray,
    oracle::Oracle,
    sabotage::{self, Sabotage},
    shelf::MemoryShelf,
};
use crate::{
    model::{CounterId, Stamps, Timestamp, Version},
    replica::protocol::{Bounds, Call, Effect, Hub, Machine, Note, Outcome, Sealing, Stop, StreamOf, Why},
    store::shelf::{CORE, Shelf},
};

pub const PROVIDERS: [(&str, &str); 2] = [("alpha", "alpha_api"), ("beta", "beta_api")];
/// With that of the core, which not every world has.
pub const STREAMS: [(&str, &str); 3] = [PROVIDERS[0], PROVIDERS[1], (CORE, core::STREAM)];
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
    /// Batches that arrive late, or are found too large on the way.
    Late,
    /// A clock that is far ahead.
    Clocks,
    /// Two providers.
    Pairs,
    /// Few batches may wait before they are made anew.
    Queues,
    /// The same field of the same key is set in several places in the same microsecond.
    Ties,
    /// Batches that do not get through whole.
    Narrow,
    /// What is large is too late, on the way there and back.
    Slow,
    /// Users, and what is counted of them.
    People,
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
    pub sent: i64,
    pub notes: Vec<Note>,
    /// Of its streams, by provider.
    pub ids: BTreeMap<String, Ids>,
    /// Requests that it has counted itself, by provider.
    pub own: BTreeMap<&'static str, i64>,
    /// The hour in which it looked last for what it need not keep.
    pub looked: u32,
}

pub struct World {
    pub rng: Rng,
    pub hub: ModelHub,
    pub now: i64,
    pub instances: Vec<Instance>,
    pub strays: Vec<Stray>,
    pub oracle: Oracle,
    pub providers: usize,
    /// Whether there is a stream of the core.
    pub core: bool,
    pub trace: Option<Vec<String>>,
    pub bounds: Bounds,
    /// Per thousand.
    pub loss: u32,
    /// Nothing takes counts away: neither other hands nor a lost file or hub.
    pub steady: bool,
    /// Besides, every answer is heard.
    pub calm: bool,
    /// No batch is lost that was confirmed less than a week ago.
    pub keeps: bool,
    /// What the hub answers is true.
    pub honest: bool,
    /// Larger batches are refused on the way, now and then.
    pub gate: usize,
    /// And larger ones than this always.
    pub limit: Option<usize>,
    /// Larger requests do not come in time, nor do answers of more than twice that.
    pub slow: Option<usize>,
    /// Whether something did not get through for its size, since that was last looked at.
    pub refused: bool,
    /// Writes of the largest transaction so far.
    pub most_writes: usize,
    pub focus: Focus,
    uuids: u128,
}

impl World {
    pub fn new(seed: u64, count: usize, pair: bool, traced: bool) -> Result<Self, String> {
        Self::with_core(seed, count, pair, false, traced)
    }

    pub fn with_core(seed: u64, count: usize, pair: bool, core: bool, traced: bool) -> Result<Self, String> {
        let mut rng = Rng::with_seed(seed);
        let providers = 1 + usize::from(rng.u8(..4) == 0 || pair);
        let streams = PROVIDERS[..providers].iter().map(|(_, stream)| *stream);
        let streams: Vec<&str> = streams.chain(core.then_some(core::STREAM)).collect();
        let mut hub = ModelHub::new(Uuid::from_u128(0xb0b), &streams, BEGIN);
        let bounds = Bounds {
            rows: *rng.choice(&[1, 3, 8, 50][..]).unwrap_or(&8),
            bytes: *rng.choice(&[300, 4000, 100_000][..]).unwrap_or(&4000),
            page: *rng.choice(&[1, 2, 5, 100][..]).unwrap_or(&5),
            stride: [1, 2, 1000][(seed % 3) as usize],
            calls: 400,
            kept_bytes: 1 << 20,
            queue: 64,
        };
        hub.bounds = bounds;
        let loss = *rng.choice(&[0, 30, 150][..]).unwrap_or(&0);
        let mut world = Self {
            hub,
            now: BEGIN,
            instances: Vec::new(),
            strays: Vec::new(),
            oracle: Oracle::default(),
            providers,
            core,
            trace: traced.then(Vec::new),
            bounds,
            loss,
            steady: false,
            calm: false,
            keeps: true,
            honest: true,
            gate: usize::MAX,
            limit: None,
            slow: None,
            refused: false,
            most_writes: 0,
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

    /// All of them, with the prefixes of their tables.
    pub fn streams(&self) -> Vec<(&'static str, &'static str)> {
        let core = self.core.then_some(STREAMS[2]);
        PROVIDERS[..self.providers].iter().copied().chain(core).collect()
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
        let few = matches!(
            self.focus,
            Focus::Ties | Focus::Late | Focus::Lives | Focus::Edits | Focus::Health | Focus::Counts
        );
        let few = if self.focus == Focus::Ties { 1 } else { 2 * usize::from(few) };
        KEYS[self.rng.usize(..if few > 0 { few } else { KEYS.len() })]
    }

    pub fn chance(&mut self, per_thousand: u32) -> bool {
        self.rng.u32(..1000) < per_thousand
    }

    fn engine(&mut self, shelf: &MemoryShelf) -> (Machine, Arc<Stamps>) {
        let streams = self.streams().into_iter();
        let streams = streams
            .map(|(provider, stream)| StreamOf { provider: provider.to_owned(), stream: stream.to_owned() });
        let last = STREAMS.iter().map(|(provider, _)| local::last_version(shelf, provider)).max();
        let id = shelf.instance_id().as_u128();
        let id = if sabotage::on(Sabotage::StampsBearNoWriter) { 1 } else { id };
        let stamps = Arc::new(Stamps::new(id, 0, last.unwrap_or(Version::ZERO)));
        let hub = Hub {
            name: "main".to_owned(),
            streams: streams.collect(),
            providers: PROVIDERS.iter().map(|(provider, _)| (*provider).to_owned()).collect(),
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
            looked: 0,
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
    pub fn seal(&mut self, at: usize, sealing: Sealing) -> Result<(), String> {
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
    }

    /// What no instance has reason to say.
    fn judge(&self, at: usize, note: &Note) -> Result<(), String> {
        match note {
            _ if !self.honest => Ok(()),
            Note::Stopped { stop: Stop::RolledBack(_), .. } if self.keeps => {
                Err(format!("instance {at} does not keep what it told a few days ago"))
            }
            Note::ResyncBegun { why: Why::Clock, .. } if self.instances[at].skew.abs() <= 900 => {
                Err(format!("instance {at} takes its clock for wrong"))
            }
            _ => Ok(()),
        }
    }

    /// A transaction has been committed: memory follows.
    pub fn take(&mut self, at: usize, outcome: Outcome) -> Result<(), String> {
        self.bury_thrown(at, &outcome)?;
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
            self.judge(at, &note)?;
            self.oracle.note(&note);
            self.instances[at].notes.push(note);
        }
        Ok(())
    }

    /// The same world with other bounds.
    pub fn rebound(mut self) -> Result<Self, String> {
        self.hub.bounds = self.bounds;
        for at in 0..self.instances.len() {
            self.crash(at)?;
        }
        Ok(self)
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
