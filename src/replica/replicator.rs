//! The task that replicates with one hub: rounds when they are due, and what becomes of their answers.
//!
//! Every step of the protocol is one transaction of the store's. What a step changes is put into memory while
//! operators' edits are kept out, so that neither side's change can overwrite the other's. A failed step or call
//! ends the round; the next begins anew and asks the hub where things stand.

use std::{
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{Notify, OwnedMutexGuard, mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{
    pace::{self, Pace, Rhythm, Round},
    protocol::{self, Call, Effect, Hub, Machine, Note, Outcome, Wishes},
    status::{self, HubError, HubState, HubStatus},
    transport::{self, Transport},
    wire::{Function, PROTOCOL, RetainAnswer, RetainRequest},
    words::{self, Words},
};
use crate::{
    model::{Clock, Stamps, Timestamp},
    store::{self, Store},
};

/// After a change made here, how long to wait for others to go along.
const BURST: Duration = Duration::from_millis(500);
/// How often an instance says that it is alive.
const HELLO_EVERY: Duration = Duration::from_secs(300);
/// Instances heard of within this share the budget.
const ALIVE: Duration = Duration::from_secs(3 * 300);
/// How often the hub is asked to forget what is no longer kept.
const RETAIN_EVERY: Duration = Duration::from_secs(6 * 3600);
/// Calls of that at a time; what is left waits.
const RETAIN_CALLS: usize = 20;
/// How often a long round is looked at, and how often the log is told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOG_EVERY: Duration = Duration::from_secs(10);
/// A pause after a fault of our own, which may come again at once.
const AFTER_FAULT: Duration = Duration::from_secs(30);
/// What operators are shown of the past.
const NOTES: usize = 20;

/// What the replicator needs of the rest of keytide.
pub trait Mirror: Send + Sync + 'static {
    /// Keeps operators' edits out until the guard is dropped.
    fn lock(&self) -> BoxFuture<'_, OwnedMutexGuard<()>>;

    /// Puts into memory what the store holds already.
    fn apply(&self, effects: Vec<Effect>);

    /// Writes to the store what memory has counted and concluded.
    fn flush(&self) -> BoxFuture<'_, Result<(), String>>;
}

pub struct Options {
    pub hub: Hub,
    pub transport: Arc<dyn Transport>,
    pub interval: Duration,
    /// Bytes in 30 days, for all instances of the hub together.
    pub egress: Option<u64>,
}

pub struct Parts {
    pub store: Store,
    pub mirror: Arc<dyn Mirror>,
    pub stamps: Arc<Stamps>,
    pub clock: Clock,
    /// Sent whenever something has changed here that others should know soon.
    pub changes: watch::Receiver<()>,
}

enum Command {
    Now(oneshot::Sender<()>),
    Adopt(oneshot::Sender<Result<Vec<String>, String>>),
    Stop(Duration, oneshot::Sender<()>),
}

/// A handle to a running replicator.
pub struct Replicator {
    name: String,
    steps: Steps,
    mirror: Arc<dyn Mirror>,
    commands: mpsc::Sender<Command>,
    shared: Arc<Shared>,
    task: Mutex<Option<JoinHandle<()>>>,
}

struct Shared {
    /// A shutdown waits: a round ends where it is.
    stopping: CancellationToken,
    looking: AtomicBool,
    looked: Notify,
    status: Mutex<HubStatus>,
}

impl Shared {
    fn status(&self) -> std::sync::MutexGuard<'_, HubStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicator {
    /// Seals what the last process left open, and begins. Before anything is counted.
    ///
    /// # Errors
    /// The store's, or a record of an earlier run that cannot be read.
    pub async fn start(options: Options, parts: Parts) -> Result<Self, protocol::Error> {
        let Options { hub, transport, interval, egress } = options;
        let name = hub.name.clone();
        let status = HubStatus {
            name: name.clone(),
            transport: transport.kind().to_owned(),
            target: transport.target(),
            state: HubState::Connecting,
            last_success: None,
            next_round: None,
            lag_ms: 0,
            last_error: None,
            clock_offset_ms: None,
            clock_correction_ms: 0,
            traffic: status::Traffic::default(),
            streams: Vec::new(),
            instances: Vec::new(),
            notes: Vec::new(),
        };
        let shared = Arc::new(Shared {
            stopping: CancellationToken::new(),
            looking: AtomicBool::new(false),
            looked: Notify::new(),
            status: Mutex::new(status),
        });
        let machine = Machine::new(hub, parts.stamps.clone(), uuid::Uuid::new_v4());
        let steps = Steps {
            machine: Arc::new(Mutex::new(machine)),
            store: parts.store.clone(),
            clock: parts.clock.clone(),
        };
        let mirror = parts.mirror.clone();
        let mut task = Task {
            began: Instant::now(),
            steps: steps.clone(),
            parts,
            transport,
            shared: shared.clone(),
            rhythm: Rhythm::new(interval),
            pace: Pace::new(interval, egress),
            hello_at: None,
            retained_at: None,
            looked_at: Instant::now(),
            logged_at: Instant::now(),
            waiting_since: None,
        };
        let outcome = task.steps.step(|machine, shelf, now| machine.start(shelf, now)).await?;
        task.parts.mirror.apply(outcome.effects);
        task.note(outcome.notes);
        task.look_at_streams().await;
        let (commands, inbox) = mpsc::channel(8);
        let task = tokio::spawn(task.live(inbox));
        Ok(Self { name, steps, mirror, commands, shared, task: Mutex::new(Some(task)) })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Somebody looks at statistics: they are to be fresh.
    pub fn look(&self) {
        self.shared.looking.store(true, Ordering::Relaxed);
        self.shared.looked.notify_one();
    }

    /// As of the last round.
    pub fn status(&self) -> HubStatus {
        self.shared.status().clone()
    }

    /// Goes through a round now, statistics too; the status tells how it went.
    pub async fn now(&self) {
        let (done, over) = oneshot::channel();
        if self.commands.send(Command::Now(done)).await.is_ok() {
            // Dropped only by a replicator that has ended.
            let _ended = over.await;
        }
    }

    /// Makes the database that is reached now the hub; tells what was done.
    ///
    /// # Errors
    /// One sentence with what to do.
    pub async fn adopt(&self) -> Result<Vec<String>, String> {
        let (done, over) = oneshot::channel();
        let stopping = || "keytide is stopping; try again when it runs".to_owned();
        self.commands.send(Command::Adopt(done)).await.map_err(|_| stopping())?;
        over.await.unwrap_or_else(|_| Err(stopping()))
    }

    /// Seals everything open, for a copy of the file that is about to be made. Beside a round that is under way,
    /// which may be waiting for whoever asks for this.
    ///
    /// # Errors
    /// One sentence; nothing is sealed then.
    pub async fn seal(&self) -> Result<(), String> {
        let next_run = Some(uuid::Uuid::new_v4());
        let sealed = self.steps.step(move |machine, shelf, now| machine.seal_all(shelf, now, next_run)).await;
        let outcome = sealed.map_err(|error| error.to_string())?;
        // Numbers alone, as differences: beside a round's and in any order they come to the same.
        self.mirror.apply(outcome.effects);
        Ok(())
    }

    /// Seals what is open, sends it once if that takes no longer than `patience`, and ends. Whatever was not sent
    /// is sent by the next run.
    pub async fn stop(&self, patience: Duration) {
        // A round may have hundreds of calls before it.
        self.shared.stopping.cancel();
        let (done, over) = oneshot::channel();
        if self.commands.send(Command::Stop(patience, done)).await.is_ok() {
            let _ended = over.await;
        }
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ended = task.await;
        }
    }
}

/// The machine, locked inside the store's transactions, one after another.
#[derive(Clone)]
struct Steps {
    machine: Arc<Mutex<Machine>>,
    store: Store,
    clock: Clock,
}

impl Steps {
    fn lock(&self) -> std::sync::MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work of the machine's that changes nothing which memory holds.
    async fn step<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Machine, &mut dyn store::shelf::Shelf, Timestamp) -> Result<T, protocol::Error>
        + Send
        + 'static,
    ) -> Result<T, protocol::Error> {
        let (machine, now) = (self.machine.clone(), self.clock.now());
        let done = self
            .store
            .edit(move |shelf| {
                let mut machine = machine.lock().unwrap_or_else(PoisonError::into_inner);
                work(&mut machine, shelf, now)
            })
            .await;
        if done.is_err() {
            self.lock().forget();
        }
        done
    }
}

struct Task {
    began: Instant,
    steps: Steps,
    parts: Parts,
    transport: Arc<dyn Transport>,
    shared: Arc<Shared>,
    rhythm: Rhythm,
    pace: Pace,
    hello_at: Option<Instant>,
    retained_at: Option<Instant>,
    looked_at: Instant,
    logged_at: Instant,
    /// Since when something made here has been waiting to be confirmed.
    waiting_since: Option<Timestamp>,
}

/// When a change is there; never, if nobody is left to change anything.
async fn changed(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Why a round ended before its end.
enum Broken {
    Call(transport::Error),
    Protocol(protocol::Error),
    Flush(String),
    Fault(String),
}

impl Broken {
    fn words(&self) -> Words {
        match self {
            Self::Call(error) => error.into(),
            Self::Protocol(error) => error.into(),
            Self::Flush(why) => Words {
                message: why.clone(),
                advice: "see to the store; keytide goes on by itself then".to_owned(),
            },
            Self::Fault(why) => {
                Words { message: why.clone(), advice: "report it; keytide tries again".to_owned() }
            }
        }
    }
}

impl Task {
    /// A fault of ours in one round must not end replication until the next start without a word.
    async fn live(mut self, mut inbox: mpsc::Receiver<Command>) {
        while AssertUnwindSafe(self.run(&mut inbox)).catch_unwind().await.is_err() {
            error!(hub = self.name(), "replication met a fault of its own and begins anew in a while");
            self.steps.lock().forget();
            let why = "keytide met a fault of its own, the log has it".to_owned();
            self.tell(Some(Broken::Fault(why)));
            self.shared.status().state = HubState::Failing;
            let pause = tokio::time::sleep(AFTER_FAULT);
            if self.shared.stopping.run_until_cancelled(pause).await.is_none() {
                return;
            }
        }
    }

    async fn run(&mut self, inbox: &mut mpsc::Receiver<Command>) {
        let mut next = Instant::now();
        let stopping = self.shared.stopping.clone();
        loop {
            self.shared.status().next_round = Some(self.wall(next));
            let command = tokio::select! {
                command = inbox.recv() => match command {
                    Some(command) => Some(command),
                    // Nobody holds the handle any more.
                    None => return,
                },
                () = tokio::time::sleep_until(next) => None,
                () = self.shared.looked.notified(), if self.rhythm.failures() == 0 => {
                    if !self.pace.is_due(self.parts.clock.now(), true) {
                        continue;
                    }
                    None
                }
                () = changed(&mut self.parts.changes), if self.rhythm.failures() == 0 => {
                    // A moment for those that come with it. Kept as a time, so that whatever wakes us before
                    // does not make us forget the change.
                    self.rhythm.wake();
                    next = next.min(Instant::now() + BURST);
                    continue;
                }
            };
            // What stops waits no longer than for the call that is under way to be let go: nothing of a round is
            // lost with it, the next one asks the hub where things stand.
            match command {
                None => {
                    let pause = stopping.run_until_cancelled(self.due(false)).await;
                    next = Instant::now() + pause.unwrap_or(HELLO_EVERY);
                }
                Some(Command::Now(done)) => {
                    let pause = stopping.run_until_cancelled(self.due(true)).await;
                    next = Instant::now() + pause.unwrap_or(HELLO_EVERY);
                    let _gone = done.send(());
                }
                Some(Command::Adopt(done)) => {
                    let adopted = stopping.run_until_cancelled(self.adopt()).await;
                    next = Instant::now();
                    if let Some(adopted) = adopted {
                        let _gone = done.send(adopted);
                    }
                }
                Some(Command::Stop(patience, done)) => {
                    self.last(patience).await;
                    let _gone = done.send(());
                    return;
                }
            }
        }
    }

    fn wall(&self, at: Instant) -> Timestamp {
        self.parts.clock.now().saturating_add(at.saturating_duration_since(Instant::now()))
    }

    /// A round, and how long to wait after it.
    async fn due(&mut self, all: bool) -> Duration {
        let now = self.parts.clock.now();
        let looking = self.shared.looking.swap(false, Ordering::Relaxed);
        let wishes = Wishes {
            hello: all || self.hello_at.is_none_or(|at| at.elapsed() >= HELLO_EVERY),
            stats: all || self.pace.is_due(now, looking),
            only_push: false,
        };
        let before = self.transport.traffic();
        let gone = self.round(wishes).await;
        let after = self.transport.traffic();
        let round = match &gone {
            Ok(moved) => {
                if wishes.hello {
                    self.hello_at = Some(Instant::now());
                }
                if wishes.stats {
                    self.pace.read(now, after.received.saturating_sub(before.received));
                }
                if *moved { Round::Moved } else { Round::Quiet }
            }
            Err(Broken::Call(error)) => Round::Failed(error.retry_after),
            Err(_) => Round::Failed(None),
        };
        if gone.is_ok() && self.retained_at.is_none_or(|at| at.elapsed() >= RETAIN_EVERY) {
            self.retained_at = Some(Instant::now());
            self.retain().await;
        }
        self.tell(gone.err());
        self.look_at_streams().await;
        self.rhythm.after(round, fastrand::f64())
    }

    /// All calls of one round; whether anything moved.
    async fn round(&mut self, wishes: Wishes) -> Result<bool, Broken> {
        // What memory holds belongs into the next batch.
        self.parts.mirror.flush().await.map_err(Broken::Flush)?;
        self.steps.lock().begin(wishes);
        Ok(self.calls().await?.0)
    }

    /// What is begun, to its end; whether anything moved, and what was said.
    async fn calls(&mut self) -> Result<(bool, Vec<Note>), Broken> {
        let (mut moved, mut notes) = (false, Vec::new());
        loop {
            let next = self.steps.step(|machine, shelf, now| machine.next(shelf, now)).await;
            let (call, outcome) = next.map_err(Broken::Protocol)?;
            // Counts that nobody can name any more: differences, for which no edit has to wait.
            self.parts.mirror.apply(outcome.effects);
            notes.extend(outcome.notes.clone());
            self.note(outcome.notes);
            let Some(call) = call else { return Ok((moved, notes)) };
            moved |= call.function == Function::Push;
            let (changed, said) = self.call(call).await?;
            moved |= changed;
            notes.extend(said);
            self.progress().await;
        }
    }

    /// In a long round, tells now and then how far it is.
    async fn progress(&mut self) {
        if self.looked_at.elapsed() < LOOK_EVERY {
            return;
        }
        self.look_at_streams().await;
        if self.logged_at.elapsed() < LOG_EVERY {
            return;
        }
        self.logged_at = Instant::now();
        for stream in self.shared.status().streams.iter() {
            if let Some(rows) = stream.resync_rows {
                info!(provider = stream.provider, rows, "reading everything the hub has");
            } else if stream.pending_rows + stream.open_rows > 0 {
                info!(
                    provider = stream.provider,
                    rows = stream.pending_rows + stream.open_rows,
                    "still to be sent"
                );
            }
        }
    }

    /// One call and what its answer does; whether that was anything.
    async fn call(&mut self, call: Call) -> Result<(bool, Vec<Note>), Broken> {
        let id = call.id;
        match self.transport.call(call.function, &call.request).await {
            Ok(reply) => {
                let fresh = uuid::Uuid::new_v4();
                let work = move |machine: &mut Machine, shelf: &mut dyn store::shelf::Shelf, now| {
                    machine.answered(shelf, id, &reply.body, reply.took, now, fresh)
                };
                let outcome = self.change(work).await.map_err(Broken::Protocol)?;
                let moved = !outcome.effects.is_empty();
                self.note(outcome.notes.clone());
                Ok((moved, outcome.notes))
            }
            Err(error) => {
                let kind = error.kind;
                let failed =
                    self.steps.step(move |machine, shelf, now| machine.failed(shelf, id, kind, now)).await;
                self.note(failed.map_err(Broken::Protocol)?.notes);
                Err(Broken::Call(error))
            }
        }
    }

    /// Has the hub forget what is no longer kept. Another time will do where it cannot.
    async fn retain(&self) {
        let request = RetainRequest { protocol: PROTOCOL };
        let request = serde_json::to_string(&request).unwrap_or_default();
        for _ in 0..RETAIN_CALLS {
            let answer: RetainAnswer = match self.transport.call(Function::Retain, &request).await {
                Ok(reply) => match serde_json::from_str(&reply.body) {
                    Ok(answer) => answer,
                    Err(_) => {
                        return warn!(hub = self.name(), "the hub's answer to retention cannot be read");
                    }
                },
                Err(error) => return warn!(hub = self.name(), "the hub could not forget old rows: {error}"),
            };
            if answer.hours + answer.tombstones > 0 {
                let RetainAnswer { hours, tombstones, .. } = answer;
                info!(hub = self.name(), hours, tombstones, "the hub has forgotten old rows");
            }
            if !answer.more {
                return;
            }
        }
    }

    /// As `step`; memory follows before any operator's edit comes between.
    async fn change(
        &self,
        work: impl FnOnce(
            &mut Machine,
            &mut dyn store::shelf::Shelf,
            Timestamp,
        ) -> Result<Outcome, protocol::Error>
        + Send
        + 'static,
    ) -> Result<Outcome, protocol::Error> {
        let alone = self.parts.mirror.lock().await;
        let outcome = self.steps.step(work).await?;
        self.parts.mirror.apply(outcome.effects.clone());
        drop(alone);
        Ok(outcome)
    }

    async fn adopt(&mut self) -> Result<Vec<String>, String> {
        let (mut done, mut refused) = (Vec::new(), None);
        // Providers were stopped one by one, and are adopted one by one.
        loop {
            let begun = self.steps.step(|machine, shelf, now| machine.begin_adoption(shelf, now)).await;
            if !begun.map_err(|error| error.to_string())? {
                break;
            }
            let notes = match self.calls().await {
                Ok((_, notes)) => notes,
                Err(broken) => {
                    let Words { message, advice } = broken.words();
                    return Err(format!("{message}; {advice}; what was done so far stays, run it again"));
                }
            };
            let before = done.len();
            for note in &notes {
                match note {
                    Note::Adopted { .. } | Note::AdoptedInexactly { .. } | Note::Moved { .. } => {
                        done.push(words::note(note));
                    }
                    Note::AdoptRefused { .. } | Note::ReadOnly | Note::Missing { .. } => {
                        refused = Some(words::note(note));
                    }
                    _ => {}
                }
            }
            if done.len() == before {
                break;
            }
        }
        match refused {
            Some(why) => Err(why),
            None if done.is_empty() => {
                Err("nothing has to be adopted: the hub is the one that this instance knows".to_owned())
            }
            None => Ok(done),
        }
    }

    /// At the end: everything into batches, and these to the hub if that is quick.
    async fn last(&mut self, patience: Duration) {
        let sealed = self.steps.step(|machine, shelf, now| machine.seal_all(shelf, now, None)).await;
        if let Err(error) = sealed {
            warn!(hub = self.name(), "what is open could not be sealed: {error}");
            return;
        }
        let wishes = Wishes { only_push: true, ..Wishes::default() };
        match tokio::time::timeout(patience, self.round(wishes)).await {
            Ok(Ok(_)) => info!(hub = self.name(), "all counts and changes are with the hub"),
            Ok(Err(broken)) => {
                let message = broken.words().message;
                info!(hub = self.name(), "the next start sends what is left: {message}");
            }
            Err(_) => info!(hub = self.name(), "the next start sends what is left: the hub is slow"),
        }
    }

    fn name(&self) -> String {
        self.shared.status().name.clone()
    }

    // --- what operators are told ---

    fn tell(&mut self, broken: Option<Broken>) {
        let now = self.parts.clock.now();
        let hindered = words::hindered(self.steps.lock().obstacles());
        let mut status = self.shared.status();
        let traffic = self.transport.traffic();
        let running = self.began.elapsed();
        status.traffic = status::Traffic {
            sent: traffic.sent,
            received: traffic.received,
            received_a_month: pace::a_month(traffic.received, running),
            budget_a_month: self.pace.share(),
            statistics_every_ms: self.pace.every().as_millis() as u64,
        };
        if broken.is_none() {
            status.last_success = Some(now);
        }
        // What the hub says that it cannot do has been noted when it began.
        let noted = broken.is_none();
        let Some(Words { message, advice }) = broken.map(|broken| broken.words()).or(hindered) else {
            if status.last_error.take().is_some() {
                info!(hub = status.name, "replication goes on");
            }
            return;
        };
        let times = status.last_error.as_ref().map_or(0, |before| before.times) + 1;
        let same = status.last_error.as_ref().is_some_and(|before| before.message == message);
        if !same && !noted {
            warn!(hub = status.name, "replication failed: {message}; {advice}");
        }
        status.last_error = Some(HubError { message, advice, at: now, times });
    }

    /// Reads from the store how each stream stands.
    async fn look_at_streams(&mut self) {
        self.looked_at = Instant::now();
        let looked =
            self.steps.step(|machine, shelf, _| Ok((machine.status(shelf)?, machine.clock(shelf)?))).await;
        let Ok((streams, (measured, applied))) = looked else { return };
        let own: Vec<_> = streams.iter().map(|stream| stream.instance).collect();
        let (instances, obstacles) = {
            let machine = self.steps.lock();
            (machine.instances().to_vec(), machine.obstacles().clone())
        };
        let now = self.parts.clock.now();
        let hub_now = now.0.saturating_add(applied);
        let live = |seen: i64| hub_now.saturating_sub(seen) < ALIVE.as_millis() as i64;
        self.pace.set_live(instances.iter().filter(|instance| live(instance.last_seen)).count());
        let waits =
            streams.iter().any(|stream| stream.confirmed < stream.sealed || stream.dirty + stream.open > 0);
        self.waiting_since = if waits { self.waiting_since.or(Some(now)) } else { None };

        let mut status = self.shared.status();
        status.streams = streams.into_iter().map(|stream| shown(stream, &obstacles)).collect();
        status.instances = instances
            .into_iter()
            .map(|instance| status::InstanceStatus {
                own: own.contains(&instance.id),
                id: instance.id,
                name: instance.name,
                version: instance.version,
                first_seen: Timestamp(instance.first_seen),
                last_seen: Timestamp(instance.last_seen),
                clock_offset_ms: instance.clock_offset,
            })
            .collect();
        status.clock_offset_ms = status.last_success.is_some().then_some(measured.saturating_neg());
        status.clock_correction_ms = applied;
        status.lag_ms = self.waiting_since.map_or(0, |since| now.since(since).as_millis() as u64);
        let any = |state| status.streams.iter().any(|stream| stream.state == state);
        status.state = if any(status::StreamState::Stopped) {
            HubState::Stopped
        } else if status.last_error.is_some() {
            HubState::Failing
        } else if status.last_success.is_none() {
            HubState::Connecting
        } else if any(status::StreamState::Resyncing) {
            HubState::Resyncing
        } else {
            HubState::Ok
        };
    }

    fn note(&self, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let at = self.parts.clock.now();
        let mut status = self.shared.status();
        for note in notes {
            let text = words::note(&note);
            // What the hub repeats every round is said once.
            if status.notes.first().is_some_and(|last| last.text == text) {
                continue;
            }
            warn!(hub = status.name, "{text}");
            status.notes.insert(0, status::Note { at, text });
        }
        status.notes.truncate(NOTES);
    }
}

fn shown(stream: protocol::StreamStatus, obstacles: &protocol::Obstacles) -> status::StreamStatus {
    use status::StreamState as State;
    let lacks = obstacles.missing.iter().find(|missing| missing.stream == stream.stream);
    let current = stream.state.current && stream.stats.current;
    let state = match (&stream.stopped, &stream.hub) {
        (Some(_), _) => State::Stopped,
        _ if lacks.is_some() => State::Missing,
        (None, None) => State::New,
        (None, Some(_)) if stream.resync.is_some() || !current => State::Resyncing,
        (None, Some(_)) => State::Ok,
    };
    let rows = stream.state.rows.unwrap_or(0) + stream.stats.rows.unwrap_or(0);
    status::StreamStatus {
        provider: stream.provider,
        table_prefix: stream.stream,
        state,
        reason: stream.stopped.as_ref().map(words::stopped).or(lacks.map(|lacks| lacks.what.join(", "))),
        pending_batches: stream.sealed.saturating_sub(stream.confirmed),
        pending_rows: stream.pending_rows,
        open_rows: stream.dirty + stream.open,
        confirmed_batch: stream.confirmed,
        last_pull: stream.state.complete.map(Timestamp),
        resync_rows: (state == State::Resyncing).then_some(rows),
    }
}
