use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    ledger::{Attempt, Books, Caller, Class, Ending, Entry, Kind},
    model::{Effect, Health, KeyId, Policy, Stamps, Timestamp, TokenId},
};

/// A store that can be told to fail.
#[derive(Default, Clone)]
struct Fake(Arc<FakeState>);

#[derive(Default)]
struct FakeState {
    broken: AtomicBool,
    books: Mutex<Books>,
    health: Mutex<Vec<Health>>,
    appends: Mutex<usize>,
}

impl Sink for Fake {
    async fn append(&self, delta: Delta) -> Result<(), (Delta, String)> {
        tokio::task::yield_now().await;
        if self.0.broken.load(Ordering::SeqCst) {
            return Err((delta, "no space left".to_owned()));
        }
        self.0.books.lock().unwrap().add(&delta);
        for provider in delta.providers.into_values() {
            self.0.health.lock().unwrap().extend(provider.health.into_values());
        }
        *self.0.appends.lock().unwrap() += 1;
        Ok(())
    }
}

const NOW: Timestamp = Timestamp(7_200_000);

fn entry(kind: Kind) -> Entry {
    Entry {
        caller: Caller { token: TokenId(9), user: None },
        attempt: Some(Attempt { key: KeyId(7), kind, millis: None }),
        request: Some(Ending {
            model: crate::ledger::ModelRef::OTHER,
            kind,
            class: Class::Conversation,
            used_keys: true,
            prompt_tokens: 3,
            completion_tokens: 2,
            key: None,
            status: 200,
        }),
    }
}

fn setup(shards: usize) -> (Arc<Ledger>, Arc<crate::ledger::ProviderLedger>, Fake) {
    let ledger = Arc::new(Ledger::new(Books::default(), shards));
    let provider = ledger.add_provider("p", Box::new(Vec::new));
    (ledger, provider, Fake::default())
}

#[tokio::test]
async fn concurrent_recording_is_exact() {
    let (ledger, provider, fake) = setup(2);
    let flusher = Arc::new(Flusher::new(ledger.clone(), fake.clone(), Duration::from_millis(1)));
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let provider = provider.clone();
            std::thread::spawn(move || {
                for _ in 0..10_000 {
                    provider.record(n, &entry(Kind::Success), NOW);
                }
            })
        })
        .collect();
    while threads.iter().any(|thread| !thread.is_finished()) {
        flusher.flush().await.unwrap();
    }
    flusher.flush().await.unwrap();
    let seen = ledger.read(|books| books.providers["p"].clone());
    let stored = fake.0.books.lock().unwrap().providers["p"].clone();
    for books in [seen, stored] {
        assert_eq!(books.total.counts.success, 40_000);
        assert_eq!(books.total.prompt_tokens, 120_000);
        assert_eq!(books.keys[&KeyId(7)].counts.success, 40_000);
        assert_eq!(books.tokens[&TokenId(9)].counts.success, 40_000);
    }
}

#[tokio::test]
async fn a_request_is_never_split() {
    let (ledger, provider, fake) = setup(1);
    let flusher = Arc::new(Flusher::new(ledger, fake.clone(), Duration::from_millis(1)));
    let recorder = std::thread::spawn(move || {
        for _ in 0..20_000 {
            provider.record(0, &entry(Kind::Success), NOW);
        }
    });
    while !recorder.is_finished() {
        flusher.flush().await.unwrap();
        let books = fake.0.books.lock().unwrap();
        if let Some(books) = books.providers.get("p") {
            assert_eq!(books.total.counts, books.keys[&KeyId(7)].counts);
        }
    }
}

#[tokio::test]
async fn a_failed_append_loses_nothing() {
    let (ledger, provider, fake) = setup(1);
    let flusher = Arc::new(Flusher::new(ledger.clone(), fake.clone(), Duration::from_millis(1)));
    fake.0.broken.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        provider.record(0, &entry(Kind::Failure), NOW);
        assert!(flusher.flush().await.is_err());
    }
    assert!(flusher.failing());
    // Whoever waits for a commit is let go while there can be none.
    let ticket = provider.record(0, &entry(Kind::Failure), NOW);
    assert!(!ledger.watch_commits().wait(ticket).await);
    fake.0.broken.store(false, Ordering::SeqCst);
    flusher.flush().await.unwrap();
    assert!(!flusher.failing());
    assert_eq!(fake.0.books.lock().unwrap().providers["p"].total.counts.failure, 4);
    assert_eq!(ledger.read(|books| books.providers["p"].total.counts.failure), 4);
}

#[tokio::test]
async fn a_ticket_is_committed_with_its_entry() {
    let (ledger, provider, fake) = setup(1);
    let flusher = Arc::new(Flusher::new(ledger.clone(), fake.clone(), Duration::from_secs(3600)));
    let running = tokio::spawn({
        let flusher = flusher.clone();
        async move { flusher.run().await }
    });
    for n in 1..=50 {
        let ticket = provider.record(0, &entry(Kind::Success), NOW);
        assert!(ledger.watch_commits().wait(ticket).await);
        assert!(fake.0.books.lock().unwrap().providers["p"].total.counts.success >= n);
    }
    flusher.stop();
    running.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_idle_ledger_writes_nothing_and_a_stop_writes_the_rest() {
    let (ledger, provider, fake) = setup(1);
    let flusher = Arc::new(Flusher::new(ledger, fake.clone(), Duration::from_millis(100)));
    let running = tokio::spawn({
        let flusher = flusher.clone();
        async move { flusher.run().await }
    });
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(*fake.0.appends.lock().unwrap(), 0);
    provider.record(0, &entry(Kind::Success), NOW);
    flusher.stop();
    running.await.unwrap();
    assert_eq!(*fake.0.appends.lock().unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stop_outwaits_a_store_that_is_just_recovering() {
    let (ledger, provider, fake) = setup(1);
    let flusher = Arc::new(Flusher::new(ledger, fake.clone(), Duration::from_millis(100)));
    let running = tokio::spawn({
        let flusher = flusher.clone();
        async move { flusher.run().await }
    });
    fake.0.broken.store(true, Ordering::SeqCst);
    provider.record(0, &entry(Kind::Success), NOW);
    flusher.stop();
    tokio::time::sleep(Duration::from_secs(5)).await;
    fake.0.broken.store(false, Ordering::SeqCst);
    running.await.unwrap();
    assert!(!flusher.failing());
    assert_eq!(fake.0.books.lock().unwrap().providers["p"].total.counts.success, 1);
    // One that stays broken does not keep the process for good.
    fake.0.broken.store(true, Ordering::SeqCst);
    provider.record(0, &entry(Kind::Success), NOW);
    flusher.stop();
    tokio::time::timeout(Duration::from_secs(30), flusher.run()).await.unwrap();
    assert!(flusher.failing());
}

#[tokio::test]
async fn health_goes_with_the_flush_and_the_latest_wins() {
    let ledger = Arc::new(Ledger::new(Books::default(), 1));
    let health = Arc::new(Mutex::new(Health::default()));
    let source = health.clone();
    ledger.add_provider("p", Box::new(move || vec![(KeyId(1), source.lock().unwrap().clone())]));
    let fake = Fake::default();
    let flusher = Arc::new(Flusher::new(ledger, fake.clone(), Duration::from_millis(1)));
    fake.0.broken.store(true, Ordering::SeqCst);
    flusher.flush().await.unwrap_err();
    health.lock().unwrap().apply(
        Effect::Auth { cooldown: None },
        true,
        NOW,
        &Policy::default(),
        &Stamps::default(),
    );
    fake.0.broken.store(false, Ordering::SeqCst);
    flusher.flush().await.unwrap();
    assert_eq!(fake.0.health.lock().unwrap().as_slice(), &[health.lock().unwrap().clone()]);
}

#[tokio::test]
async fn a_caller_that_stops_waiting_loses_nothing() {
    let (ledger, provider, fake) = setup(1);
    let flusher = Arc::new(Flusher::new(ledger.clone(), fake.clone(), Duration::from_secs(3600)));
    for n in 1..=20 {
        provider.record(0, &entry(Kind::Success), NOW);
        {
            let mut waiting = std::pin::pin!(flusher.flush());
            // Begun, and given up in the middle of the append.
            let _pending = futures_util::poll!(waiting.as_mut());
            tokio::task::yield_now().await;
        }
        flusher.flush().await.unwrap();
        assert_eq!(fake.0.books.lock().unwrap().providers["p"].total.counts.success, n);
    }
}
