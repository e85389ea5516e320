//! Counting, on the request path: a few additions under a lock that is almost never contended.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::sync::{Notify, watch};

use super::{Books, ModelNames, ModelRef};
use crate::model::{
    CounterId, Counts, Delta, Health, Hour, KeyId, KeyUsage, ProviderDelta, Tally, Timestamp, TokenId, Usage,
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
    fn counts(self) -> Counts {
        match self {
            Self::Success => Counts::SUCCESS,
            Self::Failure => Counts::FAILURE,
            Self::Other => Counts::OTHER,
        }
    }
}

/// The end of a client's request.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    pub model: ModelRef,
    pub token: TokenId,
    pub kind: Kind,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// One thing to count: an attempt, a request's end, or both at once.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub attempt: Option<(KeyId, Kind)>,
    pub request: Option<Ending>,
}

/// Names the collection that takes an entry in: see [`CommitWatch::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(pub(super) u64);

/// Key and token ids are already uniformly distributed, so their low half is hash enough.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u32(&mut self, value: u32) {
        // Hours and model numbers are small: spread them over the high bits that the table looks at.
        self.0 = (self.0.rotate_left(32) ^ u64::from(value)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }
    fn write_u128(&mut self, value: u128) {
        self.0 = value as u64;
    }
}

type ById<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// What one core counted since the last collection.
#[derive(Default)]
struct Shard {
    keys: ById<KeyId, KeyUsage>,
    hours: ById<(u32, u32), Usage>,
    tokens: ById<TokenId, Usage>,
}

/// Its own cache line, so that cores do not slow each other down.
#[repr(align(128))]
#[derive(Default)]
struct Aligned(Mutex<Shard>);

/// One provider's part of the ledger.
pub struct ProviderLedger {
    name: Box<str>,
    pub models: ModelNames,
    shards: Box<[Aligned]>,
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
            for model in books.models.keys() {
                models.learn(model);
            }
        }
        drop(state);
        let provider = Arc::new(ProviderLedger {
            name: name.into(),
            models,
            shards: (0..self.shards).map(|_| Aligned::default()).collect(),
            shared: self.shared.clone(),
        });
        let mut providers = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        providers.push((provider.clone(), health));
        provider
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

    /// Drops hourly rows past their retention from the totals in memory.
    pub fn forget_old_hours(&self, now: Timestamp) {
        self.lock().books.forget_old_hours(now);
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
            let mut delta = provider.drain();
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
        let shard = &self.shards[shard % self.shards.len()];
        let mut shard = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((key, kind)) = entry.attempt {
            let usage = shard.keys.entry(key).or_default();
            usage.counts.add(&kind.counts());
            let at = Some(now);
            usage.last_used = usage.last_used.max(at);
            match kind {
                Kind::Success => usage.last_success = usage.last_success.max(at),
                Kind::Failure => usage.last_failure = usage.last_failure.max(at),
                Kind::Other => {}
            }
        }
        if let Some(ending) = &entry.request {
            let usage = Usage {
                counts: ending.kind.counts(),
                prompt_tokens: ending.prompt_tokens,
                completion_tokens: ending.completion_tokens,
                last_used: Some(now),
            };
            shard.hours.entry((Hour::of(now).0, ending.model.0)).or_default().add(&usage);
            shard.tokens.entry(ending.token).or_default().add(&usage);
        }
        // Under the shard's lock: see `collect_into`.
        Ticket(self.shared.open.load(Ordering::SeqCst))
    }

    fn drain(&self) -> ProviderDelta {
        let mut delta = ProviderDelta::default();
        for shard in &self.shards {
            let mut shard = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, usage) in shard.keys.drain() {
                delta.keys.entry(id).or_default().add(&usage);
            }
            for ((hour, model), usage) in shard.hours.drain() {
                let name: Box<str> = (*self.models.name(ModelRef(model))).into();
                delta.hours.entry((Hour(hour), name)).or_default().add(&usage);
            }
            for (id, usage) in shard.tokens.drain() {
                delta.tokens.entry(id).or_default().add(&usage);
            }
        }
        delta
    }
}
