//! The local file: one redb database, written by one thread.
//!
//! - `file` makes, looks at and opens it; `overlay` lets it be looked at without being changed;
//! - `tables` and `codec` say how it is laid out; `load` reads it whole at a start;
//! - `writer` commits: deltas to the journal, `change` for what people decide, `fold` for the journal's way into
//!   the totals, and edits: `shelf` is what replication may do, `on_disk` does it;
//! - `desk` has the tables of one transaction, each of them `kept` so that what was written can be taken back;
//! - `counted` shows what was counted by hour, day and person, `events` what was abnormal; `memory` is for what other
//!   rooms remember;
//! - `backup` and `size` work beside a running writer, `offline` on a store that nobody uses.
//!
//! Deliberately absent: queries of what requests need. Whoever needs it keeps it in memory from [`Contents`] on.

mod backup;
mod change;
mod codec;
mod counted;
mod desk;
mod edit;
mod error;
mod events;
mod file;
mod fold;
mod kept;
mod load;
mod memory;
pub mod offline;
mod on_disk;
mod options;
mod overlay;
pub mod shelf;
mod size;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};

use tokio::sync::{mpsc, oneshot};

pub use backup::Progress;
pub use change::Change;
pub use counted::Counted;
pub use error::Error;
pub use events::Events;
pub use file::FILE_NAME;
pub use fold::{keeps, keeps_set, owes};
pub use load::{Contents, ProviderContents};
pub use memory::MOST as MOST_REMEMBERED;
pub use options::{Durability, Options};
pub use size::{Sizes, TableSize};

use crate::model::{Clock, Delta, Event, Rung, Stamps, Version};
use edit::Asked;
use shelf::Shelf;
use writer::{Opener, Problem, Request, Writer};

/// The store as it was at one moment.
pub struct Frozen(redb::ReadTransaction);

/// A handle to the open store; clones share it.
#[derive(Clone)]
pub struct Store {
    file: PathBuf,
    requests: mpsc::Sender<Request>,
    problem: Problem,
    stamps: Arc<Stamps>,
    thread: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Store {
    /// Opens the store in the data folder, creating both when they are missing, and reads all of it. Blocks for
    /// as long as that takes.
    ///
    /// # Errors
    /// A file that is in use, damaged, foreign, empty, newer or not accessible. It is left as it was.
    pub fn open(options: &Options, clock: impl Into<Clock>) -> Result<(Self, Contents), Error> {
        let clock = clock.into();
        file::prepare_dir(&options.dir)?;
        let path = options.dir.join(FILE_NAME);
        file::create_if_missing(&path, clock.now())?;
        if let Some(budget) = options.budget {
            file::shrink(&path, budget)?;
        }
        let again = path.clone();
        let opened = Self::start(path.clone(), Box::new(move || file::open(&again)), clock)?;
        file::sweep_drafts(&path);
        Ok(opened)
    }

    fn start(file: PathBuf, open: Opener, clock: Clock) -> Result<(Self, Contents), Error> {
        let mut writer = Writer::open(file.clone(), open, clock)?;
        let instance = writer.identity().instance;
        let snapshot = writer.snapshot()?;
        let contents =
            error::guarded(|| load::contents(&snapshot, instance)).map_err(|fault| fault.at(&file))?;
        drop(snapshot);
        let (problem, stamps) = (writer.problem(), writer.stamps().clone());
        stamps.observe(contents.last_version);
        let (requests, inbox) = mpsc::channel(writer::GROUP);
        let failed = |error: std::io::Error| Error::io(&file, &error);
        // Only its timer is used: redb blocks, so it stays off every runtime that serves.
        let timer = tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)?;
        let thread = thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || writer.run(&timer, inbox))
            .map_err(failed)?;
        let thread = Arc::new(Mutex::new(Some(thread)));
        Ok((Self { file, requests, problem, stamps, thread }, contents))
    }

    /// The file itself.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Adds a delta to the books; it is on disk when this returns.
    ///
    /// Health in it replaces what was appended before, and is merged into what is known. Cancelling leaves it open whether the delta was
    /// taken in, so do not.
    ///
    /// # Errors
    /// The delta was not taken in and may be appended again, alone or with later ones: it counts once.
    pub async fn append(&self, delta: impl Into<Arc<Delta>>) -> Result<(), Error> {
        let delta = delta.into();
        if delta.is_empty() {
            return Ok(());
        }
        let entry = codec::encode(&*delta);
        self.ask(|done| Request::Append(entry, delta, done)).await
    }

    /// Makes the changes, all or none, in their order; they are on disk when this returns. What they set has
    /// the version that is returned: also the epoch in which the health of a new key begins.
    ///
    /// # Errors
    /// None of them was made.
    pub async fn change(&self, changes: Vec<Change>) -> Result<Version, Error> {
        if changes.is_empty() {
            return Ok(Version::ZERO);
        }
        self.ask(|done| Request::Change(changes, done)).await
    }

    /// Does `work` as one transaction, with all that was appended so far in the totals and in what is open. What
    /// it wrote is on disk when this returns; nothing of it is there when it, or the store, gives an error.
    ///
    /// Everything else waits meanwhile, so `work` neither blocks nor takes long. Cancelling leaves it open
    /// whether it was done.
    ///
    /// # Errors
    /// Those of `work`, and of the store.
    pub async fn edit<T, E>(
        &self,
        work: impl FnOnce(&mut dyn Shelf) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let asked = Request::Edit(Box::new(Asked::new(work, reply)));
        self.requests.send(asked).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or_else(|_| Err(Error::Closed.into()))
    }

    /// What makes the versions of this instance's changes, for all who make any. Of this machine's time, until
    /// somebody who knows the hub's tells how far off that is.
    pub fn stamps(&self) -> &Arc<Stamps> {
        &self.stamps
    }

    /// What keeps the store from being written right now, in words for an operator.
    pub fn healthy(&self) -> Option<String> {
        self.problem.get().map(|error| error.to_string())
    }

    /// What was counted by hour, day and person, with everything appended so far in it.
    ///
    /// # Errors
    /// The file cannot be written or read.
    pub async fn counted(&self) -> Result<Counted, Error> {
        let snapshot = self.ask(Request::Counted).await?;
        Ok(Counted::new(snapshot, self.file.clone()))
    }

    /// Keeps events, and lets go of those that are older than `keep`, or too many; where [`shelf::CORE`] replicates, the hub
    /// is told of them. Recorded again, an event is the same.
    ///
    /// # Errors
    /// None of them was recorded.
    pub async fn record_events(&self, events: Vec<Event>, keep: Duration) -> Result<(), Error> {
        self.ask(|done| Request::Events(events, keep, done)).await
    }

    /// # Errors
    /// The file cannot be read.
    pub async fn events(&self) -> Result<Events, Error> {
        Ok(Events::new(self.snapshot().await?, self.file.clone()))
    }

    /// Writes down what a room remembers under a name, in place of what was there. `version` is that of its layout.
    ///
    /// # Errors
    /// It was not written, or is too large to be.
    pub async fn remember<T>(&self, name: &'static str, version: u8, value: T) -> Result<(), Error>
    where
        T: Serialize + Send + 'static,
    {
        let file = self.file.clone();
        let packed = move || {
            let bytes = memory::pack(version, &value);
            bytes.ok_or(Error::TooLarge { file, name })
        };
        let bytes = blocking(packed).await?;
        self.ask(|done| Request::Remember(name, bytes, done)).await
    }

    /// What was remembered under a name; `None` where that is nothing, or in another layout.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn recall<T>(&self, name: &'static str, version: u8) -> Result<Option<T>, Error>
    where
        T: DeserializeOwned + Send + 'static,
    {
        let (snapshot, file) = (self.snapshot().await?, self.file.clone());
        blocking(move || {
            let bytes = error::guarded(|| memory::get(&snapshot, name)).map_err(|fault| fault.at(&file))?;
            let found = memory::unpack(version, &bytes);
            if found.is_none() && !bytes.is_empty() {
                tracing::warn!(name, "what was remembered is in another layout, and begun anew");
            }
            Ok(found)
        })
        .await
    }

    /// Copies a consistent snapshot, with everything acknowledged so far, into a new file that appears under its
    /// name when it is complete.
    ///
    /// # Errors
    /// The file exists already, cannot be written, or the snapshot cannot be read.
    pub async fn backup(
        &self,
        to: PathBuf,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<(), Error> {
        let frozen = self.freeze().await?;
        self.backup_of(frozen, to, progress).await
    }

    /// The store as it is now, for [`Store::backup_of`].
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn freeze(&self) -> Result<Frozen, Error> {
        self.snapshot().await.map(Frozen)
    }

    /// As [`Store::backup`], of an earlier moment.
    ///
    /// # Errors
    /// As [`Store::backup`].
    pub async fn backup_of(
        &self,
        frozen: Frozen,
        to: PathBuf,
        progress: impl FnMut(Progress) + Send + 'static,
    ) -> Result<(), Error> {
        let from = self.file.clone();
        blocking(move || backup::write(&frozen.0, &from, &to, progress)).await
    }

    /// Keeps from now on what is kept on this rung, and drops at once what is not any more.
    ///
    /// # Errors
    /// The file cannot be written; it is tried again with the next fold then.
    pub async fn keep(&self, rung: Rung) -> Result<(), Error> {
        self.ask(|done| Request::Keep(rung, done)).await
    }

    /// For how many hours those of models are shown on this rung.
    pub fn model_hours_kept(rung: Rung) -> u32 {
        fold::Keeps::on(rung).model_hours
    }

    /// How large the file and its tables are.
    ///
    /// # Errors
    /// The file cannot be read.
    pub async fn size(&self) -> Result<Sizes, Error> {
        let (snapshot, file) = (self.snapshot().await?, self.file.clone());
        blocking(move || size::measure(&snapshot, &file)).await
    }

    /// Folds what is left, closes the file and ends the thread. Clones of this handle get [`Error::Closed`].
    ///
    /// # Errors
    /// The last commit failed; what was acknowledged is on disk all the same.
    pub async fn close(self) -> Result<(), Error> {
        let closed = self.ask(Request::Close).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            let _ = tokio::task::spawn_blocking(|| thread.join()).await;
        }
        closed
    }

    async fn snapshot(&self) -> Result<redb::ReadTransaction, Error> {
        self.ask(Request::Read).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Request,
    ) -> Result<T, Error> {
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| Error::Closed)?;
        answer.await.unwrap_or(Err(Error::Closed))
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        // Only a runtime that is shutting down drops the work.
        Err(_) => Err(Error::Closed),
    }
}
