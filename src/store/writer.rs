//! The one thread that writes: it commits whatever waits as one transaction, folds the journal every few
//! seconds, and after a failure opens the file again and goes on.
//!
//! Invariants: what was acknowledged is on disk; what was answered with an error is not, or is taken back
//! before the next write; nothing is written while nothing changes.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};

use super::{
    change::{self, Change},
    edit::Edit,
    error::{Error, Fault, guarded},
    events,
    fold::{self, Keeps},
    kept::Undo,
    memory,
    on_disk::OnDisk,
    tables::{Identity, JOURNAL, META},
};
use crate::{
    breather,
    model::{Clock, Delta, Event, Rung, Stamps, Timestamp, Version},
};

/// How long an entry may lie in the journal: short enough for a quick start, long enough for folds to be rare.
pub(super) const FOLD_EVERY: Duration = Duration::from_secs(2);
/// A journal of this size is folded at once.
const FOLD_BYTES: u64 = 2 << 20;
/// How many waiting requests one commit takes together.
pub(super) const GROUP: usize = 256;
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Written and removed after a failure: a disk that cannot take this much is not well yet.
const PROBE_BYTES: usize = 256 << 10;

pub(super) type Done<T = ()> = oneshot::Sender<Result<T, Error>>;
pub(super) type Opener = Box<dyn Fn() -> Result<(Database, Identity), Error> + Send>;

pub(super) enum Request {
    /// One delta, and as it is encoded.
    Append(Vec<u8>, Arc<Delta>, Done),
    Change(Vec<Change>, Done<Version>),
    Edit(Box<dyn Edit>),
    /// What is kept from now on; what is too old for that goes at once.
    Keep(Rung, Done),
    /// With how long events are kept.
    Events(Vec<Event>, Duration, Done),
    /// What is remembered under a name.
    Remember(&'static str, Vec<u8>, Done),
    Read(Done<ReadTransaction>),
    /// The same, with nothing left in the journal.
    Counted(Done<ReadTransaction>),
    Close(Done),
}

/// Requests that are committed together.
enum Work {
    Append(Vec<u8>, Arc<Delta>, Done),
    Change(Vec<Change>, Version, Done<Version>),
    Events(Vec<Event>, Duration, Done),
    Remember(&'static str, Vec<u8>, Done),
}

/// The last problem, until a write has succeeded again.
#[derive(Clone, Default)]
pub(super) struct Problem(Arc<Mutex<Option<Error>>>);

impl Problem {
    pub(super) fn get(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, problem: Option<Error>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = problem;
    }
}

/// What waits to be folded.
#[derive(Clone, Copy, Debug, Default)]
struct Journal {
    next: u64,
    entries: u64,
    bytes: u64,
}

impl Journal {
    fn read(database: &Database) -> Result<Self, Fault> {
        let table = database.begin_read()?.open_table(JOURNAL)?;
        let mut journal = Self { entries: table.len()?, ..Self::default() };
        for row in table.iter()? {
            let (seq, value) = row?;
            journal.next = seq.value() + 1;
            journal.bytes += value.value().len() as u64;
        }
        Ok(journal)
    }

    fn append(&mut self, txn: &WriteTransaction, entry: &[u8]) -> Result<u64, Fault> {
        let seq = self.next;
        txn.open_table(JOURNAL)?.insert(seq, entry)?;
        *self = Self { next: seq + 1, entries: self.entries + 1, bytes: self.bytes + entry.len() as u64 };
        Ok(seq)
    }
}

pub(super) struct Writer {
    file: PathBuf,
    open: Opener,
    identity: Identity,
    /// `None` after a failure: redb takes no more writes then, until the file is opened again.
    database: Option<Database>,
    journal: Journal,
    /// What the journal's entries add up to, so that a fold need not read them; unknown after a failure.
    unfolded: Option<Delta>,
    fold_at: Instant,
    undo: Vec<Undo>,
    retry_at: Instant,
    pause: Duration,
    problem: Problem,
    /// An instance id that a failed commit may have left in the file.
    unsure: Option<uuid::Uuid>,
    clock: Clock,
    stamps: Arc<Stamps>,
    keeps: Keeps,
}

impl Writer {
    /// Opens the file and folds what an earlier run left.
    pub(super) fn open(file: PathBuf, open: Opener, clock: Clock) -> Result<Self, Error> {
        let (database, identity) = open()?;
        let journal = guarded(|| Journal::read(&database)).map_err(|fault| fault.at(&file))?;
        let mut writer = Self {
            file,
            open,
            identity,
            database: Some(database),
            journal,
            unfolded: None,
            fold_at: Instant::now(),
            undo: Vec::new(),
            retry_at: Instant::now(),
            pause: RETRY_FIRST,
            problem: Problem::default(),
            unsure: None,
            clock,
            stamps: Arc::new(Stamps::new(identity.instance.as_u128(), 0, Version::ZERO)),
            keeps: Keeps::on(Rung::Normal),
        };
        writer.fold()?;
        // Nothing is left in it.
        writer.unfolded = Some(Delta::default());
        Ok(writer)
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity
    }

    pub(super) fn stamps(&self) -> &Arc<Stamps> {
        &self.stamps
    }

    pub(super) fn problem(&self) -> Problem {
        self.problem.clone()
    }

    /// Serves until told to close or until nobody can ask any more.
    pub(super) fn run(mut self, timer: &tokio::runtime::Runtime, mut requests: mpsc::Receiver<Request>) {
        loop {
            let first = timer.block_on(async {
                match self.wake_at() {
                    None => Ok(requests.recv().await),
                    Some(at) => tokio::time::timeout_at(at.into(), requests.recv()).await,
                }
            });
            match first {
                // A failure is kept as the problem, and tried again after a pause.
                Err(_) => drop(self.work_due()),
                Ok(None) => {
                    // Nobody is left to tell, and the journal keeps what cannot be folded now.
                    drop(self.finish());
                    return;
                }
                Ok(Some(first)) => {
                    let mut batch = vec![first];
                    while batch.len() < GROUP
                        && let Ok(more) = requests.try_recv()
                    {
                        batch.push(more);
                    }
                    if let Some(done) = self.serve(batch) {
                        // From here on `Closed` is the answer.
                        drop(requests);
                        let _ = done.send(self.finish());
                        return;
                    }
                }
            }
        }
    }

    fn wake_at(&self) -> Option<Instant> {
        match &self.database {
            None => Some(self.retry_at),
            Some(_) if self.journal.entries > 0 => Some(self.fold_at),
            Some(_) => None,
        }
    }

    fn work_due(&mut self) -> Result<(), Error> {
        if self.database.is_none() {
            self.reopen()?;
        }
        if self.journal.entries > 0 && self.fold_at <= Instant::now() {
            self.fold()?;
        }
        Ok(())
    }

    /// Returns who asked to close, if somebody did.
    fn serve(&mut self, batch: Vec<Request>) -> Option<Done> {
        let mut group = Vec::new();
        for request in batch {
            match request {
                Request::Append(entry, delta, done) => group.push(Work::Append(entry, delta, done)),
                Request::Change(changes, done) => {
                    if changes.iter().any(Change::settles_health) {
                        self.commit(std::mem::take(&mut group));
                        if let Err(error) = self.fold() {
                            let _ = done.send(Err(error));
                            continue;
                        }
                    }
                    let version = self.stamps.next(self.clock.now());
                    group.push(Work::Change(changes, version, done));
                }
                Request::Events(events, keep, done) => group.push(Work::Events(events, keep, done)),
                Request::Remember(name, bytes, done) => group.push(Work::Remember(name, bytes, done)),
                Request::Edit(edit) => {
                    self.commit(std::mem::take(&mut group));
                    self.edit(edit);
                }
                Request::Keep(rung, done) => {
                    self.commit(std::mem::take(&mut group));
                    self.keeps = Keeps::on(rung);
                    let _ = done.send(self.fold_all(true));
                }
                Request::Read(reply) => {
                    self.commit(std::mem::take(&mut group));
                    let _ = reply.send(self.read());
                }
                Request::Counted(reply) => {
                    self.commit(std::mem::take(&mut group));
                    let _ = reply.send(self.fold().and_then(|()| self.read()));
                }
                Request::Close(done) => {
                    self.commit(group);
                    return Some(done);
                }
            }
        }
        self.commit(group);
        // Also when requests never cease long enough for the timer.
        if self.database.is_some()
            && self.journal.entries > 0
            && (self.journal.bytes >= FOLD_BYTES || self.fold_at <= Instant::now())
        {
            drop(self.fold());
        }
        None
    }

    /// Commits all of it as one, then tells everybody.
    fn commit(&mut self, group: Vec<Work>) {
        if group.is_empty() {
            return;
        }
        let (mut undo, mut journal, now) = (Vec::new(), None, self.clock.now());
        let result = self.transact(|txn, before| {
            let mut after = before;
            for work in &group {
                match work {
                    Work::Append(entry, ..) => {
                        undo.push(Undo::insertion(JOURNAL, &after.append(txn, entry)?));
                    }
                    Work::Change(changes, version, _) => {
                        undo.append(&mut change::apply(txn, changes, *version)?);
                    }
                    Work::Events(events, keep, _) => {
                        let keep = i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
                        let oldest = Timestamp(now.0.saturating_sub(keep));
                        undo.append(&mut events::record(txn, events, oldest, now)?);
                    }
                    // Whoever is told that it failed remembers it again: nothing is taken back.
                    Work::Remember(name, bytes, _) => memory::put(txn, name, bytes)?,
                }
            }
            journal = Some(after);
            Ok(())
        });
        match (&result, journal) {
            (Ok(()), Some(journal)) => {
                if self.journal.entries == 0 {
                    self.fold_at = Instant::now() + FOLD_EVERY;
                }
                self.journal = journal;
            }
            _ => self.undo.append(&mut undo),
        }
        let mut appended = Vec::new();
        for work in group {
            let result = result.clone();
            match work {
                Work::Append(_, delta, done) => {
                    if result.is_ok() {
                        appended.push(delta);
                    } else {
                        // Whoever is told has it to itself again.
                        drop(delta);
                    }
                    drop(done.send(result));
                }
                Work::Events(_, _, done) | Work::Remember(_, _, done) => {
                    drop(done.send(result));
                }
                Work::Change(_, version, done) => drop(done.send(result.map(|()| version))),
            }
        }
        // Nobody waits for this. Where it cannot be added up, a fold reads the entries, and says so.
        if let Some(mut sum) = self.unfolded.take() {
            let added = guarded(|| {
                appended.iter().for_each(|delta| sum.add_all(delta));
                Ok(())
            });
            self.unfolded = added.is_ok().then_some(sum);
        }
    }

    /// With nothing left in the journal, so that the edit sees all that was counted.
    fn edit(&mut self, mut edit: Box<dyn Edit>) {
        let stored = self.fold().and_then(|()| self.work(&mut *edit));
        edit.done(stored);
    }

    fn work(&mut self, edit: &mut dyn Edit) -> Result<(), Error> {
        let before = self.identity.instance;
        let mut kept = None;
        self.ready()?;
        let Some(database) = &self.database else { return Err(Error::Closed) };
        let result = guarded(|| {
            let _rests = breather::begin();
            let txn = database.begin_write()?;
            let mut shelf = OnDisk::new(&txn, &self.file, before);
            let keep = edit.work(&mut shelf);
            let written = shelf.close()?;
            if !keep || written.undo.is_empty() {
                return Ok(txn.abort()?);
            }
            kept = Some(written);
            Ok(txn.commit()?)
        });
        match result.map_err(|fault| fault.at(&self.file)) {
            Ok(()) => {
                if let Some(written) = kept {
                    self.identity.instance = written.instance;
                    self.stamps.set_writer(written.instance.as_u128());
                    self.stamps.observe(written.latest);
                }
                self.pause = RETRY_FIRST;
                self.recovered();
                Ok(())
            }
            Err(error) => {
                if let Some(written) = kept {
                    self.undo = written.undo;
                    self.unsure = Some(written.instance);
                }
                Err(self.failed(error))
            }
        }
    }

    fn fold(&mut self) -> Result<(), Error> {
        if self.database.is_some() && self.journal.entries == 0 {
            return Ok(());
        }
        self.fold_all(false)
    }

    fn fold_all(&mut self, look: bool) -> Result<(), Error> {
        let (now, keeps, sum) = (self.clock.now(), self.keeps, self.unfolded.take());
        self.transact(|txn, _| fold::fold(txn, sum, now, &keeps, look))?;
        self.unfolded = Some(Delta::default());
        // The numbers go on: an entry to take back can never be mistaken for a later one.
        self.journal = Journal { next: self.journal.next, ..Journal::default() };
        Ok(())
    }

    fn read(&mut self) -> Result<ReadTransaction, Error> {
        let database = self.ready()?;
        guarded(|| Ok(database.begin_read()?)).map_err(|fault| fault.at(&self.file))
    }

    fn transact(
        &mut self,
        work: impl FnOnce(&WriteTransaction, Journal) -> Result<(), Fault>,
    ) -> Result<(), Error> {
        self.ready()?;
        let journal = self.journal;
        match self.attempt(|txn| work(txn, journal)) {
            Ok(()) => {
                self.pause = RETRY_FIRST;
                self.recovered();
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn attempt(&self, work: impl FnOnce(&WriteTransaction) -> Result<(), Fault>) -> Result<(), Error> {
        let Some(database) = &self.database else {
            return Err(self.problem.get().unwrap_or(Error::Closed));
        };
        guarded(|| {
            let _rests = breather::begin();
            let txn = database.begin_write()?;
            work(&txn)?;
            Ok(txn.commit()?)
        })
        .map_err(|fault| fault.at(&self.file))
    }

    fn ready(&mut self) -> Result<&Database, Error> {
        if self.database.is_none() {
            if Instant::now() < self.retry_at {
                return Err(self.problem.get().unwrap_or(Error::Closed));
            }
            self.reopen()?;
        }
        self.database.as_ref().ok_or(Error::Closed)
    }

    fn reopen(&mut self) -> Result<(), Error> {
        let reopened = (self.open)().and_then(|(database, identity)| {
            let is_ours = identity.created_at == self.identity.created_at
                && (identity.instance == self.identity.instance || Some(identity.instance) == self.unsure);
            if !is_ours {
                return Err(Error::Replaced(self.file.clone()));
            }
            self.database = Some(database);
            self.attempt(|txn| {
                for undo in self.undo.iter().rev() {
                    undo.apply(txn)?;
                }
                txn.open_table(META)?.insert("probe", vec![0; PROBE_BYTES].as_slice())?;
                Ok(())
            })?;
            self.attempt(|txn| {
                txn.open_table(META)?.remove("probe")?;
                Ok(())
            })
        });
        let read = reopened.and_then(|()| match &self.database {
            Some(database) => guarded(|| Journal::read(database)).map_err(|fault| fault.at(&self.file)),
            None => Err(Error::Closed),
        });
        match read {
            Ok(found) => {
                self.undo.clear();
                self.unsure = None;
                self.journal = Journal { next: self.journal.next.max(found.next), ..found };
                self.recovered();
                Ok(())
            }
            Err(error) => Err(self.failed(error)),
        }
    }

    fn recovered(&self) {
        if self.problem.get().is_some() {
            tracing::info!(file = %self.file.display(), "the store can be written again");
            self.problem.set(None);
        }
    }

    /// Lets go of the file and plans the next attempt.
    fn failed(&mut self, error: Error) -> Error {
        if self.problem.get().as_ref() != Some(&error) {
            tracing::error!(%error, "the store cannot be written; what is counted stays in memory");
        }
        self.problem.set(Some(error.clone()));
        self.unfolded = None;
        if let Some(database) = self.database.take() {
            drop(guarded(|| {
                drop(database);
                Ok(())
            }));
        }
        self.retry_at = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(RETRY_MAX);
        error
    }

    /// Folds and closes. One more attempt even when the next was planned for later.
    fn finish(&mut self) -> Result<(), Error> {
        if self.database.is_none() {
            self.reopen()?;
        }
        self.fold()?;
        match self.database.take() {
            Some(database) => guarded(|| Ok(database.close()?)).map_err(|fault| fault.at(&self.file)),
            None => Ok(()),
        }
    }

    /// For the first load, before the thread starts.
    pub(super) fn snapshot(&mut self) -> Result<ReadTransaction, Error> {
        self.read()
    }
}
