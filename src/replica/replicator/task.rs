//! Rounds, one after another, and what ends them.

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{Command, Parts, Shared, Steps, space::Room};
use crate::{
    model::Timestamp,
    replica::{
        pace::{Pace, Rhythm, Round},
        protocol::{self, Call, Machine, Next, Note, Outcome, Sealing, Wishes},
        status::{HubState, Trouble},
        transport::{self, Transport},
        wire::Function,
        words::{self, Words},
    },
    store::{self, shelf::CORE},
};

/// After a change made here, how long to wait for others to go along.
const BURST: Duration = Duration::from_millis(500);
/// How often an instance says that it is alive.
const HELLO_EVERY: Duration = Duration::from_secs(300);
/// How often a long round is looked at, and how often the log is told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const LOG_EVERY: Duration = Duration::from_secs(10);
/// A pause after a fault of our own, which may come again at once.
const AFTER_FAULT: Duration = Duration::from_secs(30);

pub(super) struct Task {
    pub(super) began: Instant,
    pub(super) steps: Steps,
    pub(super) parts: Parts,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) shared: Arc<Shared>,
    /// Ends what is under way, between two changes: none is made of which memory and operators do not hear.
    pub(super) halt: CancellationToken,
    pub(super) rhythm: Rhythm,
    pub(super) pace: Pace,
    pub(super) hello_at: Option<Instant>,
    pub(super) room: Room,
    pub(super) looked_at: Instant,
    pub(super) logged_at: Instant,
    /// Since when something made here has been waiting to be confirmed.
    pub(super) waiting_since: Option<Timestamp>,
    /// Why streams could not be read when they were last asked for by themselves.
    pub(super) unread: HashMap<String, String>,
}

/// When a change is there; never, if nobody is left to change anything.
async fn changed(changes: &mut watch::Receiver<()>) {
    if changes.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Why a round did not do all that it was to do.
pub(super) enum Broken {
    Call(transport::Error),
    /// It came to its end, but one stream's batch was not taken, or its pages were not to be had.
    Part(transport::Error),
    Protocol(protocol::Error),
    Flush(String),
    Fault(String),
    /// It was to halt.
    Halted,
}

impl Broken {
    pub(super) fn words(&self) -> Words {
        match self {
            Self::Call(error) | Self::Part(error) => error.into(),
            Self::Protocol(error) => error.into(),
            Self::Flush(why) => Words {
                trouble: Trouble::Store,
                message: why.clone(),
                advice: "see to the store; keytide goes on by itself then".to_owned(),
            },
            Self::Fault(why) => Words {
                trouble: Trouble::Fault,
                message: why.clone(),
                advice: "report it; keytide tries again".to_owned(),
            },
            Self::Halted => Words {
                trouble: Trouble::Halted,
                message: "keytide is stopping".to_owned(),
                advice: "try again when it runs".to_owned(),
            },
        }
    }
}

impl Task {
    /// A fault of ours in one round must not end replication until the next start without a word.
    pub(super) async fn live(mut self, mut inbox: mpsc::Receiver<Command>) {
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

    /// Seals what the last process left open, as its own.
    pub(super) async fn begin(&mut self) -> Result<(), protocol::Error> {
        let sealed = async {
            let sealing = self.steps.step(|machine, shelf, _| machine.start(shelf)).await?;
            self.steps.seal(sealing, &*self.parts.mirror, &self.halt).await
        };
        match sealed.await {
            Ok(_) => {}
            // A newer keytide's, or damaged. What is counted stays in the file until one comes that can read it.
            Err(error @ protocol::Error::Document(_)) => {
                self.tell(Some(Broken::Protocol(error.clone())));
                let _the_first = self.shared.unreadable.set(error);
            }
            Err(error) => return Err(error),
        }
        self.look_at_streams().await;
        Ok(())
    }

    async fn run(&mut self, inbox: &mut mpsc::Receiver<Command>) {
        let mut next = Instant::now();
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
            match command {
                None => {
                    let pause = self.due(false).await;
                    next = Instant::now() + pause;
                }
                Some(Command::Now(done)) => {
                    let pause = self.due(true).await;
                    next = Instant::now() + pause;
                    let _gone = done.send(());
                }
                Some(Command::List(done)) => {
                    // A round since may have done it.
                    if self.shared.listing.load(Ordering::Relaxed) {
                        let pause = self.due(false).await;
                        next = Instant::now() + pause;
                    }
                    let _gone = done.send(());
                }
                Some(Command::Measure(done)) => {
                    // Somebody else who looked may have had it done.
                    if self.shared.measuring.swap(false, Ordering::Relaxed) {
                        self.measure().await;
                    }
                    let _gone = done.send(());
                }
                Some(Command::Retain(done)) => {
                    self.care_now().await;
                    let _gone = done.send(());
                }
                Some(Command::Adopt(done)) => {
                    let adopted = self.adopt().await;
                    next = Instant::now();
                    let _gone = done.send(adopted);
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
        let list = self.shared.listing.swap(false, Ordering::Relaxed) || all;
        if list {
            self.steps.lock().ask_names();
        }
        // Only what belongs to no provider has them.
        let has_core = self.shared.status().streams.iter().any(|stream| stream.provider == CORE);
        let wishes = Wishes {
            hello: list || self.hello_at.is_none_or(|at| at.elapsed() >= HELLO_EVERY),
            stats: all || self.pace.is_due(now, looking),
            limits: has_core && self.parts.mirror.has_daily_limits(),
            only_push: false,
        };
        let whole = {
            use crate::replica::status::StreamState::{New, Resyncing};
            self.shared.status().streams.iter().any(|stream| matches!(stream.state, New | Resyncing))
        };
        let gone = self.round(wishes).await;
        if matches!(gone, Err(Broken::Halted)) {
            return HELLO_EVERY;
        }
        if matches!(gone, Ok(_) | Err(Broken::Part(_))) {
            if wishes.hello {
                self.hello_at = Some(Instant::now());
            }
            if wishes.stats {
                self.pace.read(now, self.transport.traffic().received, whole);
            }
        }
        if wishes.limits {
            // Others may use something at any time, however little happens here.
            self.rhythm.wake();
        }
        let round = match &gone {
            Ok(true) => Round::Moved,
            // Nothing keeps the others waiting.
            Ok(false) | Err(Broken::Part(_)) => Round::Quiet,
            Err(Broken::Call(error)) => Round::Failed(error.retry_after),
            Err(_) => Round::Failed(None),
        };
        if gone.is_ok() {
            self.care().await;
        }
        self.tell(gone.err());
        self.look_at_streams().await;
        self.rhythm.after(round, fastrand::f64())
    }

    /// All calls of one round; whether anything moved.
    async fn round(&mut self, wishes: Wishes) -> Result<bool, Broken> {
        if let Some(error) = self.shared.unreadable.get() {
            return Err(Broken::Protocol(error.clone()));
        }
        // What memory holds belongs into the next batch.
        self.parts.mirror.flush().await.map_err(Broken::Flush)?;
        self.steps.lock().begin(wishes);
        Ok(self.calls().await?.0)
    }

    /// What is begun, to its end; whether anything moved, and what was said.
    async fn calls(&mut self) -> Result<(bool, Vec<Note>), Broken> {
        let (mut moved, mut notes) = (false, Vec::new());
        let (mut hindered, mut served) = (None, false);
        loop {
            let (next, outcome) = self.change(|machine, shelf, now| machine.next(shelf, now)).await?;
            moved |= !outcome.effects.is_empty();
            notes.extend(outcome.notes);
            let call = match next {
                Next::Call(call) => call,
                Next::Work => {
                    self.progress().await;
                    continue;
                }
                Next::End => {
                    return match hindered {
                        None => Ok((moved, notes)),
                        Some(error) if served => Err(Broken::Part(error)),
                        Some(error) => Err(Broken::Call(error)),
                    };
                }
            };
            let function = call.function;
            moved |= function == Function::Push;
            match self.call(call).await {
                Ok((changed, said)) => {
                    served |= function != Function::Hello;
                    moved |= changed;
                    notes.extend(said);
                }
                // What was too much at once goes on in smaller parts.
                Err(Broken::Call(_)) if self.steps.lock().is_adopting() => {}
                Err(Broken::Call(error)) if self.steps.lock().is_in_round() => {
                    hindered.get_or_insert(error);
                }
                Err(broken) => return Err(broken),
            }
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
        let (id, is_pull) = (call.id, call.function == Function::Pull);
        let asked = self.transport.call(call.function, &call.request);
        // Nothing is lost with it: the next round asks the hub where things stand.
        let Some(answer) = self.halt.run_until_cancelled(asked).await else { return Err(Broken::Halted) };
        match answer {
            Ok(reply) => {
                let fresh = uuid::Uuid::new_v4();
                let work = move |machine: &mut Machine, shelf: &mut dyn store::shelf::Shelf, now| {
                    let outcome = machine.answered(shelf, id, &reply.body, reply.took, now, fresh)?;
                    Ok(((), outcome))
                };
                let ((), outcome) = self.change(work).await.inspect_err(|broken| {
                    if let Broken::Protocol(error @ protocol::Error::Garbage(_)) = broken {
                        self.blame(is_pull, &error.to_string());
                    }
                })?;
                Ok((!outcome.effects.is_empty(), outcome.notes))
            }
            Err(error) => {
                let kind = error.kind;
                let failed =
                    self.steps.step(move |machine, shelf, now| machine.failed(shelf, id, kind, now)).await;
                let notes = failed.map_err(Broken::Protocol)?.notes;
                self.shared.note(self.parts.clock.now(), notes);
                self.blame(is_pull, &error.detail);
                Err(Broken::Call(error))
            }
        }
    }

    /// Remembers why a stream could not be read, if it was one's failure.
    fn blame(&mut self, is_pull: bool, why: &str) {
        let culprit = self.steps.lock().culprit().map(str::to_owned);
        if let (true, Some(stream)) = (is_pull, culprit) {
            self.unread.insert(stream, why.to_owned());
        }
    }

    /// As `step`; memory follows before any operator's edit comes between, and operators hear of it.
    async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(
            &mut Machine,
            &mut dyn store::shelf::Shelf,
            Timestamp,
        ) -> Result<(T, Outcome), protocol::Error>
        + Send
        + 'static,
    ) -> Result<(T, Outcome), Broken> {
        let alone = self.halt.run_until_cancelled(self.parts.mirror.lock()).await.ok_or(Broken::Halted)?;
        let (value, outcome) = self.steps.step(work).await.map_err(Broken::Protocol)?;
        self.parts.mirror.apply(outcome.effects.clone());
        drop(alone);
        self.shared.note(self.parts.clock.now(), outcome.notes.clone());
        Ok((value, outcome))
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
                    let Words { message, advice, .. } = broken.words();
                    return Err(format!("{message}; {advice}; what was done so far stays, run it again"));
                }
            };
            let before = done.len();
            for note in &notes {
                match note {
                    Note::Adopted { .. } | Note::AdoptedInexactly { .. } | Note::Moved { .. } => {
                        done.push(words::note(note));
                    }
                    Note::AdoptRefused { .. } => refused = Some(words::note(note)),
                    _ => {}
                }
            }
            if done.len() == before {
                break;
            }
        }
        let hindered = words::hindered(self.steps.lock().obstacles());
        if let Some(Words { message, advice, .. }) = hindered.filter(|_| refused.is_some() || done.is_empty())
        {
            return Err(format!("{message}; {advice}"));
        }
        match refused {
            Some(why) => Err(why),
            None if done.is_empty() => {
                Err("nothing has to be adopted: the hub is the one that this instance knows".to_owned())
            }
            None => Ok(done),
        }
    }

    /// At the end: everything into batches, and these to the hub, as far as that is quick.
    async fn last(&mut self, patience: Duration) {
        if self.shared.unreadable.get().is_some() {
            return;
        }
        self.halt = CancellationToken::new();
        let (halt, limit) = (self.halt.clone(), tokio::time::sleep(patience));
        let limit = tokio::spawn(async move {
            limit.await;
            halt.cancel();
        });
        match self.steps.seal(Sealing::new(None), &*self.parts.mirror, &self.halt).await {
            Ok(true) => self.last_round().await,
            Ok(false) => info!(hub = self.name(), "the next start sends what is left: it is much"),
            Err(error) => warn!(hub = self.name(), "what is open could not be sealed: {error}"),
        }
        limit.abort();
    }

    async fn last_round(&mut self) {
        let wishes = Wishes { only_push: true, ..Wishes::default() };
        match self.round(wishes).await {
            Ok(_) => info!(hub = self.name(), "all counts and changes are with the hub"),
            Err(Broken::Halted) => {
                info!(hub = self.name(), "the next start sends what is left: the hub is slow");
            }
            Err(broken) => {
                let message = broken.words().message;
                info!(hub = self.name(), "the next start sends what is left: {message}");
            }
        }
    }

    pub(super) fn name(&self) -> String {
        self.shared.status().name.clone()
    }
}
