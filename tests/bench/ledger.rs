//! Counting a request, from ten keys to a million: the line should be flat. And what a flush costs, and a start.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use keytide::{
    ledger::{
        Attempt, Books, Caller, Class, Ending, Entry, Flusher, Kind, Ledger, ModelRef, ProviderBooks,
        ProviderLedger, Sink,
    },
    model::{Counts, Delta, KeyId, KeyRecord, KeyUsage, ProviderDelta, Secret, Timestamp, TokenId, UserId},
    store::{self, Change, Store},
};
use tokio::runtime::Runtime;

const NOW: Timestamp = Timestamp(1_750_000_000_000);
/// Requests between two collections: 20,000 a second at the default flush interval.
const PER_FLUSH: u64 = 2_000;
const CHANGED: usize = 1_000;

/// Takes everything and keeps nothing.
struct Nowhere;

impl Sink for Nowhere {
    async fn append(&self, delta: Delta) -> Result<(), (Delta, String)> {
        black_box(delta);
        Ok(())
    }
}

struct File(Store);

impl Sink for File {
    async fn append(&self, delta: Delta) -> Result<(), (Delta, String)> {
        let delta = Arc::new(delta);
        let appended = self.0.append(delta.clone()).await;
        appended.map_err(|error| (Arc::unwrap_or_clone(delta), error.to_string()))
    }
}

/// A ledger that has seen every key before, as after a start.
fn ledger(ids: &[KeyId]) -> (Arc<Ledger>, Arc<ProviderLedger>, ModelRef) {
    let used = KeyUsage { counts: Counts::SUCCESS, last_used: Some(NOW), ..KeyUsage::default() };
    let keys = ids.iter().map(|id| (*id, used)).collect();
    let books = ProviderBooks { keys, ..ProviderBooks::default() };
    let ledger = Ledger::new(Books { providers: [("ollama".into(), books)].into() }, 1);
    let provider = ledger.add_provider("ollama", Box::new(Vec::new));
    let model = provider.models.learn("demo-small");
    (Arc::new(ledger), provider, model)
}

fn record(provider: &ProviderLedger, key: KeyId, model: ModelRef) {
    let ending = Ending {
        model,
        kind: Kind::Success,
        class: Class::Conversation,
        used_keys: true,
        prompt_tokens: 300,
        completion_tokens: 80,
        key: None,
        status: 200,
    };
    let caller = Caller { token: TokenId(7), user: Some(UserId(9)) };
    let attempt = Attempt { key, kind: Kind::Success, millis: Some(800) };
    let entry = Entry { caller, attempt: Some(attempt), request: Some(ending) };
    black_box(provider.record(0, &entry, NOW));
}

fn ids(count: usize) -> Vec<KeyId> {
    (0..count).map(|n| KeyId::derive("ollama", &format!("sk-or-v1-{n:064x}"))).collect()
}

fn record_one(c: &mut Criterion) {
    let runtime = runtime();
    for keys in [10, 1_000, 100_000, 1_000_000] {
        let ids = ids(keys);
        let (ledger, provider, model) = ledger(&ids);
        let flusher = Arc::new(Flusher::new(ledger, Nowhere, store::Options::FLUSH_INTERVAL));
        let mut next = ids.iter().cycle();
        c.benchmark_group("record").bench_function(BenchmarkId::from_parameter(keys), |bencher| {
            bencher.iter_custom(|mut left| {
                let mut spent = Duration::ZERO;
                while left > 0 {
                    let batch = left.min(PER_FLUSH);
                    let start = Instant::now();
                    for key in next.by_ref().take(batch as usize) {
                        record(&provider, *key, model);
                    }
                    spent += start.elapsed();
                    runtime.block_on(flusher.flush()).expect("nothing can fail");
                    left -= batch;
                }
                spent
            });
        });
    }
}

fn flush(c: &mut Criterion) {
    const KEYS: usize = 100_000;
    let runtime = runtime();
    let ids = ids(KEYS);
    let (ledger, provider, model) = ledger(&ids);
    let dir = tempfile::tempdir().expect("a folder for the stores");
    let open = |name: &str| {
        let (store, _) = Store::open(&store::Options::new(dir.path().join(name)), NOW).expect("a new store");
        let keys = (0..KEYS).map(|n| Change::PutKey {
            provider: "ollama".into(),
            record: KeyRecord::new(Secret::new(format!("sk-or-v1-{n:064x}")), NOW),
        });
        runtime.block_on(store.change(keys.collect())).expect("the store takes the keys");
        store
    };
    let (alone, with_hub) = (open("alone"), open("with-hub"));
    let switched_on = with_hub.edit(|shelf| shelf.set_replicated("ollama", true));
    runtime.block_on(switched_on).expect("the store takes the switch");
    let collected = Arc::new(Flusher::new(ledger.clone(), Nowhere, store::Options::FLUSH_INTERVAL));
    let to = |store: &Store| {
        Arc::new(Flusher::new(ledger.clone(), File(store.clone()), store::Options::FLUSH_INTERVAL))
    };
    let (stored, replicated) = (to(&alone), to(&with_hub));
    // Scattered over all keys.
    let mut next = ids.iter().step_by(KEYS / CHANGED - 1).cycle();
    let mut flush_after = |bencher: &mut criterion::Bencher<'_>, flush: &dyn Fn()| {
        bencher.iter_custom(|count| {
            let mut spent = Duration::ZERO;
            for _ in 0..count {
                for key in next.by_ref().take(CHANGED) {
                    record(&provider, *key, model);
                }
                let start = Instant::now();
                flush();
                spent += start.elapsed();
            }
            spent
        });
    };
    let mut group = c.benchmark_group("flush_1000_of_100000_keys");
    group.throughput(Throughput::Elements(CHANGED as u64)).sample_size(50);
    group.bench_function("collect", |bencher| {
        flush_after(bencher, &|| runtime.block_on(collected.flush()).expect("nothing can fail"));
    });
    group.bench_function("collect_and_commit", |bencher| {
        flush_after(bencher, &|| runtime.block_on(stored.flush()).expect("the store takes the delta"));
    });
    group.bench_function("collect_and_commit_with_a_hub", |bencher| {
        flush_after(bencher, &|| runtime.block_on(replicated.flush()).expect("the store takes the delta"));
    });
    // A fold is due with every edit; what it moves is one flush.
    for (name, store, flusher) in [("fold", &alone, &stored), ("fold_with_a_hub", &with_hub, &replicated)] {
        group.bench_function(name, |bencher| {
            flush_after(bencher, &|| {
                runtime.block_on(flusher.flush()).expect("the store takes the delta");
                let read = store.edit(|shelf| shelf.note("none"));
                runtime.block_on(read).expect("the store reads");
            });
        });
    }
    group.finish();
    for store in [alone, with_hub] {
        runtime.block_on(store.close()).expect("the store closes");
    }
}

/// Opening the file of an instance that has these keys, each of which was used: what a start waits for.
fn load(c: &mut Criterion) {
    let runtime = runtime();
    let dir = tempfile::tempdir().expect("a folder for the stores");
    let mut group = c.benchmark_group("load");
    group.sample_size(10);
    for keys in [10, 1_000, 100_000, 1_000_000] {
        let options = store::Options::new(dir.path().join(keys.to_string()));
        let (store, _) = Store::open(&options, NOW).expect("a new store");
        let records = (0..keys).map(|n| Change::PutKey {
            provider: "ollama".into(),
            record: KeyRecord::new(Secret::new(format!("sk-or-v1-{n:064x}")), NOW),
        });
        runtime.block_on(store.change(records.collect())).expect("the store takes the keys");
        let used = KeyUsage { counts: Counts::SUCCESS, last_used: Some(NOW), ..KeyUsage::default() };
        let mut delta = Delta::default();
        let keys_used = ids(keys).into_iter().map(|id| (id, used)).collect();
        delta
            .providers
            .insert("ollama".into(), ProviderDelta { keys: keys_used, ..ProviderDelta::default() });
        runtime.block_on(store.append(delta)).expect("the store takes the delta");
        runtime.block_on(store.close()).expect("the store closes");
        group.bench_function(BenchmarkId::from_parameter(keys), |bencher| {
            bencher.iter_custom(|count| {
                let mut spent = Duration::ZERO;
                for _ in 0..count {
                    let start = Instant::now();
                    let (store, contents) = Store::open(&options, NOW).expect("the store opens");
                    spent += start.elapsed();
                    black_box(&contents);
                    runtime.block_on(store.close()).expect("the store closes");
                }
                spent
            });
        });
    }
    group.finish();
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

criterion_group!(benches, record_one, flush, load);
criterion_main!(benches);
