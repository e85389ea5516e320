//! Counting, on the request path: a few additions under a lock that is almost never contended.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, watch};

use super::{
    Books, ModelNames, ModelRef,
    shard::{Shard, Told},
};
use crate::model::{
    CoreDelta, CounterId, Counts, Delta, Health, KeyId, ProviderDelta, Tally, Timestamp, TokenId, UserId,
    Zone,
};

/// How an attempt or a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Success,
    Failure,
    /// The request was at fault, or the caller left.
    Other,
}

impl Kind {
    pub(super) fn counts(self) -> Counts {
        match self {
            Self::Success => Counts::SUCCESS,
            Self::Failure => Counts::FAILURE,
            Self::Other => Counts::OTHER,
        }
    }
}

/// Who a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caller {
    pub token: TokenId,
    /// Whose token it is.
    pub user: Option<UserId>,
}

impl Caller {
    /// Who is counted among those who used a key.
    pub fn subject(self) -> u128 {
        self.user.map_or(self.token.0, |user| user.0)
    }
}

/// What a request was, for the logs of its user's days. Each is exactly one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Something was to be generated.
    Conversation,
    /// All else: embeddings, descriptions and lists of models.
    Call,
    /// It carried an image, a file or sound.
    Upload,
}

/// What a known user's request was refused for, or came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A limit of keytide's own was reached.
    RateLimit,
    /// The token or its user may not do this, or not any more.
    Auth,
    /// The answer was an error of the server's side.
    Server,
}

/// One use of a key.
#[derive(Clone, Copy, Debug)]
pub struct Attempt {
    pub key: KeyId,
    pub kind: Kind,
    /// How long it took until the answer had ended, where one did.
    pub millis: Option<u64>,
}

/// The end of a client's request.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub model: ModelRef,
    pub kind: Kind,
    pub class: Class,
    /// Whether any key was used for it.
    pub used_keys: bool,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    /// The last key that was used for it, and what was answered: for those who keep a row for each request.
    pub key: Option<KeyId>,
    pub status: u16,
}

/// One thing to count: an attempt, a request's end, or both at once.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub caller: Caller,
    pub attempt: Option<Attempt>,
    pub request: Option<Ending>,
}

/// Names the collection that takes an entry in: see [`CommitWatch::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// Its own cache line, so that cores do not slow each other down.
#[repr(align(128))]
#[derive(Default)]
struct Aligned(Mutex<Shard>);

/// One provider's part of the ledger.
pub struct ProviderLedger {
    name: Box<str>,
    pub models: ModelNames,
    shards: Box<[Aligned]>,
    /// Of whoever collects, one at a time.
    told: Mutex<Told>,
    shared: Arc<Shared>,
}

/// Where the latest health of changed keys comes from: the provider's pool.
pub type HealthSource = Box<dyn Fn() -> Vec<(KeyId, Health)> + Send + Sync>;

/// What is known of commits: the last collection in the store, and whether the store fails at present.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub committed: u64,
    pub failing: bool,
}

pub(super) struct Shared {
    /// The number of the collection that will take in what is recorded now.
    open: AtomicU64,
    /// Signalled by `strict` callers that wait for a commit.
    pub(super) wanted: Notify,
    pub(super) progress: watch::Sender<Progress>,
    /// In which days begin and end.
    zone: RwLock<Zone>,
    /// Whether a row is kept for each request.
    logs: AtomicBool,
}

impl Shared {
    fn zone(&self) -> Zone {
        self.zone.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// The ledger of all providers.
pub struct Ledger {
    shards: usize,
    pub(super) shared: Arc<Shared>,
    providers: RwLock<Vec<(Arc<ProviderLedger>, HealthSource)>>,
    pub(super) state: Mutex<State>,
}

pub(super) struct State {
    pub(super) books: Books,
    /// Collected, not yet in the store.
    pub(super) pending: Delta,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("shards", &self.shards).finish_non_exhaustive()
    }
}

impl Ledger {
    /// `books` as the store loaded them; `shards` is the number of data-plane cores.
    pub fn new(books: Books, shards: usize) -> Self {
        Self {
            shards: shards.max(1),
            shared: Arc::new(Shared {
                open: AtomicU64::new(1),
                wanted: Notify::new(),
                progress: watch::Sender::new(Progress::default()),
                zone: RwLock::default(),
                logs: AtomicBool::new(false),
            }),
            providers: RwLock::default(),
            state: Mutex::new(State { books, pending: Delta::default() }),
        }
    }

    /// Opens a provider's part. Model names that the books know keep their rows.
    pub fn add_provider(&self, name: &str, health: HealthSource) -> Arc<ProviderLedger> {
        let models = ModelNames::default();
        let state = self.lock();
        if let Some(books) = state.books.providers.get(name) {
            models.learn_all(books.models.keys().map(AsRef::as_ref));
        }
        drop(state);
        let provider = Arc::new(ProviderLedger {
            name: name.into(),
            models,
            shards: (0..self.shards).map(|_| Aligned::default()).collect(),
            told: Mutex::default(),
            shared: self.shared.clone(),
        });
        let mut providers = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        providers.push((provider.clone(), health));
        provider
    }

    /// In which days begin and end: UTC until it is told.
    pub fn zone(&self) -> Zone {
        self.shared.zone()
    }

    /// What is recorded from now on is of days in this zone; what was before stays where it is.
    pub fn set_zone(&self, zone: Zone) {
        *self.shared.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        for (provider, _) in providers.iter() {
            for shard in 0..self.shards {
                provider.shard(shard).forget_bounds();
            }
        }
    }

    /// Whether a row is kept for each request from now on: none until it is told.
    pub fn keep_logs(&self, on: bool) {
        self.shared.logs.store(on, Ordering::Relaxed);
    }

    /// Reads the books, with everything recorded so far in them.
    pub fn read<T>(&self, read: impl FnOnce(&Books) -> T) -> T {
        let mut state = self.lock();
        self.collect_into(&mut state);
        read(&state.books)
    }

    /// Moves a row of a provider's books as the store moved it: by the difference from `from` to `to`, since
    /// what was counted meanwhile is in the books and not yet in the store.
    pub fn shift(&self, provider: &str, id: &CounterId, from: &Tally, to: &Tally) {
        if let CounterId::Model(model) | CounterId::Hour(_, model) = id {
            let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
            if let Some((known, _)) = providers.iter().find(|(known, _)| *known.name == *provider) {
                known.models.learn(model);
            }
        }
        self.lock().books.shift(provider, id, from, to);
    }

    /// Drops hourly rows that are older than `kept` hours from the totals in memory.
    pub fn forget_old_hours(&self, now: Timestamp, kept: u32) {
        self.lock().books.forget_old_hours(now, kept);
    }

    pub fn watch_commits(&self) -> CommitWatch {
        CommitWatch(self.shared.clone())
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Moves what the shards hold into the totals and the pending delta; returns this collection's number.
    pub(super) fn collect_into(&self, state: &mut State) -> u64 {
        // Before the shards are drained: an entry that reads the old number is drained below at the latest.
        let number = self.shared.open.fetch_add(1, Ordering::SeqCst);
        let providers = self.providers.read().unwrap_or_else(PoisonError::into_inner);
        for (provider, health) in providers.iter() {
            let mut core = CoreDelta::default();
            let mut delta = provider.drain(&mut core);
            state.pending.core.add(core);
            delta.health = health().into_iter().collect();
            if delta.is_empty() {
                continue;
            }
            state.books.providers.entry(provider.name.clone()).or_default().add(&delta);
            state.pending.providers.entry(provider.name.clone()).or_default().add(delta);
        }
        number
    }
}

/// For those who answer only after the commit (`durability = "strict"`).
#[derive(Clone)]
pub struct CommitWatch(Arc<Shared>);

impl fmt::Debug for CommitWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CommitWatch")
    }
}

impl CommitWatch {
    /// Waits until the store holds what `ticket` was given for. While the store fails, it does not wait: the
    /// answer is worth more to the caller than the wait, and the counts stay in memory until they can be
    /// written. Returns whether the commit was seen.
    pub async fn wait(&self, ticket: Ticket) -> bool {
        let mut progress = self.0.progress.subscribe();
        self.0.wanted.notify_one();
        match progress.wait_for(|seen| seen.committed >= ticket.0 || seen.failing).await {
            Ok(seen) => seen.committed >= ticket.0,
            Err(_) => false,
        }
    }
}

impl ProviderLedger {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Counts one entry on `shard`, which is the caller's core.
    pub fn record(&self, shard: usize, entry: &Entry, now: Timestamp) -> Ticket {
        let mut shard = self.shard(shard);
        shard.record(entry, now, || self.shared.zone());
        if let Some(ending) = &entry.request
            && self.shared.logs.load(Ordering::Relaxed)
        {
            shard.log(entry.caller, ending, now);
        }
        // Under the shard's lock: see `collect_into`.
        Ticket(self.shared.open.load(Ordering::SeqCst))
    }

    /// Counts that a caller was told which models there are: a call of the user's, and nothing in the provider's books
    /// or the token's day, which is for limits.
    pub fn note_listing(&self, shard: usize, caller: Caller, now: Timestamp) {
        self.shard(shard).listed(caller, now, || self.shared.zone());
    }

    /// Counts what is in no books for the log of a user's day.
    pub fn note_refusal(&self, shard: usize, user: UserId, what: Refusal, now: Timestamp) {
        self.shard(shard).refused(user, what, now, || self.shared.zone());
    }

    fn shard(&self, shard: usize) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[shard % self.shards.len()];
        shard.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn drain(&self, core: &mut CoreDelta) -> ProviderDelta {
        let mut delta = ProviderDelta::default();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.begin();
        for shard in 0..self.shards.len() {
            let taken = self.shard(shard).take();
            let spare = taken.put_into(&self.models, &mut delta, core, &mut told);
            self.shard(shard).give_back(spare);
        }
        delta
    }
}
