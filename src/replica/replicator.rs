//! The task that replicates with one hub: rounds when they are due, and what becomes of their answers.
//!
//! Every step of the protocol is one transaction of the store's. What a step changes is put into memory while
//! operators' edits are kept out, so that neither side's change can overwrite the other's. A failed step or call
//! ends the round; the next begins anew and asks the hub where things stand.
//!
//! `task` goes through the rounds, `space` has the hub keep to its storage budget, `tell` is what operators see.

mod space;
mod task;
mod tell;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    sync::{Notify, OwnedMutexGuard, mpsc, oneshot, watch},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    pace::{Pace, Rhythm},
    protocol::{self, Effect, Hub, Machine, Note, Sealing},
    status::{HubState, HubStatus},
    transport::Transport,
};
use crate::{
    model::{Clock, Space, Stamps, Timestamp},
    store::{self, Store},
};
use space::Room;
use task::Task;

/// What the replicator needs of the rest of keytide.
pub trait Mirror: Send + Sync + 'static {
    /// Keeps operators' edits out until the guard is dropped.
    fn lock(&self) -> BoxFuture<'_, OwnedMutexGuard<()>>;

    /// Puts into memory what the store holds already.
    fn apply(&self, effects: Vec<Effect>);

    /// Whether anybody is held to limits by day, of which others may have used something.
    fn has_daily_limits(&self) -> bool;

    /// Writes to the store what memory has counted and concluded.
    fn flush(&self) -> BoxFuture<'_, Result<(), String>>;
}

pub struct Options {
    pub hub: Hub,
    pub transport: Arc<dyn Transport>,
    pub interval: Duration,
    /// Bytes in 30 days, for all instances of the hub together.
    pub egress: Option<u64>,
    /// Bytes that the hub's database may have.
    pub budget: Option<u64>,
    /// Whether rows of single requests are to be kept there; a reload may change it.
    pub logs: Arc<AtomicBool>,
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
    /// Somebody looks at who else there is.
    List(oneshot::Sender<()>),
    /// Somebody looks at how large it is.
    Measure(oneshot::Sender<()>),
    /// It is to be kept to its budget now.
    Retain(oneshot::Sender<()>),
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

/// How old the names of the others may be for somebody who looks, and how long they are waited for.
const LIST_FRESH: Duration = Duration::from_secs(60);
const LIST_PATIENCE: Duration = Duration::from_secs(2);

struct Shared {
    /// A shutdown waits: a round ends where it is.
    stopping: CancellationToken,
    looking: AtomicBool,
    looked: Notify,
    listing: AtomicBool,
    measuring: AtomicBool,
    space: Mutex<Space>,
    /// Why this process cannot go on where the last one ended.
    unreadable: OnceLock<protocol::Error>,
    status: Mutex<HubStatus>,
}

impl Shared {
    fn status(&self) -> std::sync::MutexGuard<'_, HubStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn space(&self) -> std::sync::MutexGuard<'_, Space> {
        self.space.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replicator {
    /// Seals what the last process left open, and begins. Before anything is counted. Where the record of an earlier
    /// run cannot be read, the status says so, and nothing is sent or read.
    ///
    /// # Errors
    /// The store's.
    pub async fn start(options: Options, parts: Parts) -> Result<Self, protocol::Error> {
        let Options { hub, transport, interval, egress, budget, logs } = options;
        let name = hub.name.clone();
        let status = HubStatus {
            name: name.clone(),
            transport: transport.kind().to_owned(),
            target: transport.target(),
            ..HubStatus::default()
        };
        let shared = Arc::new(Shared {
            stopping: CancellationToken::new(),
            looking: AtomicBool::new(false),
            looked: Notify::new(),
            listing: AtomicBool::new(false),
            measuring: AtomicBool::new(false),
            space: Mutex::new(Space { budget_bytes: budget, ..Space::default() }),
            unreadable: OnceLock::new(),
            status: Mutex::new(status),
        });
        let providers = hub.streams.iter().filter(|of| of.provider != store::shelf::CORE);
        let room = Room::new(budget, logs, providers.map(|of| of.stream.clone()).collect());
        let machine = Machine::new(hub, parts.stamps.clone(), uuid::Uuid::new_v4());
        let steps = Steps {
            machine: Arc::new(Mutex::new(machine)),
            store: parts.store.clone(),
            clock: parts.clock.clone(),
            shared: shared.clone(),
        };
        let mirror = parts.mirror.clone();
        let mut task = Task {
            began: Instant::now(),
            steps: steps.clone(),
            parts,
            transport,
            halt: shared.stopping.clone(),
            shared: shared.clone(),
            rhythm: Rhythm::new(interval),
            pace: Pace::new(interval, egress),
            hello_at: None,
            room,
            looked_at: Instant::now(),
            logged_at: Instant::now(),
            waiting_since: None,
            unread: HashMap::new(),
        };
        task.begin().await?;
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

    /// Somebody looks at the status: if the hub is well, it is asked who else there is. Once a minute at most, since
    /// every such answer counts in the budget.
    pub async fn list(&self) {
        let (state, listed_at) = {
            let status = self.shared.status();
            (status.state, status.listed_at)
        };
        let now = self.steps.clock.now();
        let is_fresh = listed_at.is_some_and(|at| now >= at && now.since(at) < LIST_FRESH);
        if is_fresh || state != HubState::Ok || self.shared.listing.swap(true, Ordering::Relaxed) {
            return;
        }
        let (done, over) = oneshot::channel();
        if self.commands.try_send(Command::List(done)).is_ok() {
            let _as_it_was = tokio::time::timeout(LIST_PATIENCE, over).await;
        }
    }

    /// How many bytes of confirmed batches are kept, in case the hub is rolled back.
    pub fn keep_batches(&self, bytes: u64) {
        self.steps.lock().keep_batches(bytes);
    }

    /// Somebody looks at how large the hub is: it is asked, if it is well. Once a minute at most.
    pub async fn measure(&self) {
        let (state, at) = (self.shared.status().state, self.shared.space().measured_at);
        let now = self.steps.clock.now();
        let is_fresh = at.is_some_and(|at| now >= at && now.since(at) < LIST_FRESH);
        let answers = matches!(state, HubState::Ok | HubState::Resyncing | HubState::Failing);
        if is_fresh || !answers || self.shared.measuring.swap(true, Ordering::Relaxed) {
            return;
        }
        let (done, over) = oneshot::channel();
        if self.commands.try_send(Command::Measure(done)).is_ok() {
            let _as_it_was = tokio::time::timeout(LIST_PATIENCE, over).await;
        }
    }

    /// Has the hub keep to its budget now, and measures it; [`Replicator::space`] tells how it stands then.
    pub async fn retain(&self) {
        let (done, over) = oneshot::channel();
        if self.commands.send(Command::Retain(done)).await.is_ok() {
            let _ended = over.await;
        }
    }

    /// As it was measured last.
    pub fn space(&self) -> Space {
        self.shared.space().clone()
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
        if let Some(error) = self.shared.unreadable.get() {
            return Err(error.to_string());
        }
        let (steps, mirror) = (self.steps.clone(), self.mirror.clone());
        let sealing = Sealing::new(Some(uuid::Uuid::new_v4()));
        // To its end, also when whoever asked goes away: memory and operators hear of all that the store has.
        let sealed =
            tokio::spawn(async move { steps.seal(sealing, &*mirror, &CancellationToken::new()).await });
        match sealed.await {
            Ok(sealed) => sealed.map(drop).map_err(|error| error.to_string()),
            Err(fault) => Err(fault.to_string()),
        }
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
    shared: Arc<Shared>,
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

    /// Seals; whether to the end, or until that was to halt.
    async fn seal(
        &self,
        sealing: Sealing,
        mirror: &dyn Mirror,
        halt: &CancellationToken,
    ) -> Result<bool, protocol::Error> {
        let mut notes = Vec::new();
        let sealed = self.seal_on(sealing, mirror, halt, &mut notes).await;
        self.shared.note(self.clock.now(), notes);
        sealed
    }

    async fn seal_on(
        &self,
        sealing: Sealing,
        mirror: &dyn Mirror,
        halt: &CancellationToken,
        notes: &mut Vec<Note>,
    ) -> Result<bool, protocol::Error> {
        let mut left = Some(sealing);
        while let Some(sealing) = left {
            if halt.is_cancelled() {
                return Ok(false);
            }
            let (outcome, rest) =
                self.step(move |machine, shelf, now| machine.seal(shelf, now, sealing)).await?;
            // Numbers alone, as differences: beside a round's and in any order they come to the same.
            mirror.apply(outcome.effects);
            notes.extend(outcome.notes);
            left = rest;
        }
        Ok(true)
    }
}
