//! What replication costs, over a Postgres of its own: `cargo bench --bench replica`.
//!
//! Prints one line for each figure; with `-- large` those of many keys alone. The cluster runs with fsync off, on this machine; the way to it is the loopback
//! interface, without TLS.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

mod fleet;
#[path = "../it/pg.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod pg;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{BoxFuture, join_all};
use keytide::{
    model::{
        Cause, Clock, Counts, Delta, Health, Hour, KeyId, KeyRecord, KeyUsage, ProviderDelta, Secret, Usage,
        Version,
    },
    replica::{
        postgres::{self, Postgres},
        protocol::{Bounds, Effect, Hub, StreamOf},
        replicator::{Mirror, Options, Parts, Replicator},
        schema::{self, Target},
        transport::Transport,
        wire::{Ask, Function, Lane, PROTOCOL, PullAnswer, PullRequest},
    },
    store::{self, Change, Store},
};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};

const P: &str = "ollama";
const PREFIX: &str = "ollama_api";
const KEYS: usize = 10_000;
const RUNS: usize = 5;

fn key(n: usize) -> String {
    // As long as OpenRouter's.
    format!("sk-or-v1-{n:064x}")
}

struct Memory {
    edits: Arc<Mutex<()>>,
    effects: AtomicU64,
    seen: watch::Sender<u64>,
}

impl Mirror for Memory {
    fn lock(&self) -> BoxFuture<'_, OwnedMutexGuard<()>> {
        Box::pin(self.edits.clone().lock_owned())
    }

    fn apply(&self, effects: Vec<Effect>) {
        let all = self.effects.fetch_add(effects.len() as u64, Ordering::SeqCst) + effects.len() as u64;
        self.seen.send_replace(all);
    }

    fn has_daily_limits(&self) -> bool {
        false
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

struct Instance {
    store: Store,
    memory: Arc<Memory>,
    replicator: Replicator,
    transport: Arc<dyn Transport>,
    changes: watch::Sender<()>,
    _dir: tempfile::TempDir,
}

impl Instance {
    async fn start(url: &str, interval: Duration, egress: Option<u64>) -> Self {
        Self::over(tempfile::tempdir().unwrap(), url, interval, egress).await
    }

    /// Over the store in that folder.
    async fn over(dir: tempfile::TempDir, url: &str, interval: Duration, egress: Option<u64>) -> Self {
        let (store, _) = Store::open(&store::Options::new(dir.path()), Clock::System).unwrap();
        let transport: Arc<dyn Transport> =
            Arc::new(Postgres::new(&postgres::Options::new(Secret::new(url))).unwrap());
        let memory = Arc::new(Memory {
            edits: Arc::default(),
            effects: AtomicU64::new(0),
            seen: watch::Sender::new(0),
        });
        let (changes, receiver) = watch::channel(());
        let options = Options {
            hub: Hub {
                name: "default".to_owned(),
                streams: vec![StreamOf { provider: P.to_owned(), stream: PREFIX.to_owned() }],
                providers: vec![P.to_owned()],
                bounds: Bounds::default(),
                instance_name: "bench".to_owned(),
                version: "0".to_owned(),
                keeps_time: true,
            },
            transport: transport.clone(),
            interval,
            egress,
            budget: None,
            logs: Arc::default(),
        };
        let parts = Parts {
            store: store.clone(),
            mirror: memory.clone(),
            stamps: store.stamps().clone(),
            clock: Clock::System,
            changes: receiver,
        };
        let replicator = Replicator::start(options, parts).await.unwrap();
        Self { store, memory, replicator, transport, changes, _dir: dir }
    }

    /// A round, and how long it took and what it sent and received.
    async fn round(&self) -> (Duration, u64, u64) {
        let (before, begun) = (self.transport.traffic(), Instant::now());
        self.replicator.now().await;
        let (took, after) = (begun.elapsed(), self.transport.traffic());
        let error = self.replicator.status().last_error;
        assert!(error.is_none(), "{error:?}");
        (took, after.sent - before.sent, after.received - before.received)
    }
}

fn used(count: u64) -> Delta {
    let now = Clock::System.now();
    let usage = KeyUsage {
        counts: Counts { success: count, failure: 1, other: 0 },
        last_used: Some(now),
        last_success: Some(now),
        last_failure: Some(now),
    };
    let asked = Usage { counts: Counts { success: count, ..Counts::default() }, ..Usage::default() };
    let provider = ProviderDelta {
        keys: (0..KEYS).map(|n| (KeyId::derive(P, &key(n)), usage)).collect(),
        hours: [((Hour::of(now), "model".into()), asked)].into(),
        ..ProviderDelta::default()
    };
    Delta { providers: [(P.into(), provider)].into(), ..Delta::default() }
}

/// Every key rests, until one second later each time.
fn resting(n: u64) -> Delta {
    let now = Clock::System.now();
    let epoch = Version::at(now);
    let health = |id| {
        let until = now.saturating_add(Duration::from_secs(3600 + n));
        let health = Health {
            failed_until: Some(until),
            cause: Cause::RateLimit,
            consecutive_failures: n as u32 + 1,
            epoch,
            ..Health::default()
        };
        (id, health)
    };
    let provider = ProviderDelta {
        health: (0..KEYS).map(|n| health(KeyId::derive(P, &key(n)))).collect(),
        ..ProviderDelta::default()
    };
    Delta { providers: [(P.into(), provider)].into(), ..Delta::default() }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

fn tell(what: &str, rounds: &[(Duration, u64)], rows: usize) {
    let rate = median(rounds.iter().map(|(took, _)| rows as f64 / took.as_secs_f64()).collect());
    let bytes = median(rounds.iter().map(|(_, bytes)| *bytes as f64 / rows as f64).collect());
    println!("{what}: {rate:.0} rows/s, {bytes:.0} bytes a row (median of {})", rounds.len());
}

/// Processor time that the cluster has taken so far.
fn cpu(cluster: &pg::Cluster) -> f64 {
    let sql = "SELECT string_agg(pid::text, ' ') FROM pg_stat_activity";
    let pids = cluster.psql(sql);
    let ticks: u64 = pids
        .split(' ')
        .filter_map(|pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).ok())
        .filter_map(|stat| {
            let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect();
            Some(fields.get(11)?.parse::<u64>().ok()? + fields.get(12)?.parse::<u64>().ok()?)
        })
        .sum();
    ticks as f64 / 100.0
}

#[tokio::main]
async fn main() {
    let cluster = pg::Cluster::start(pg::Options::default());
    let url = format!("{}?sslmode=disable", cluster.url("postgres", "postgres"));
    let client = Postgres::new(&postgres::Options::new(Secret::new(&*url))).unwrap().connect().await.unwrap();
    schema::apply(&client, &[Target { prefix: PREFIX, provider: P }], false).await.unwrap();
    if std::env::args().any(|argument| argument == "large") {
        return fleet::large(&url, &cluster).await;
    }
    let never = Duration::from_secs(3600);
    let (a, b) = (Instance::start(&url, never, None).await, Instance::start(&url, never, None).await);
    a.round().await;
    b.round().await;

    let put = |n| Change::PutKey {
        provider: P.into(),
        record: KeyRecord::new(Secret::new(key(n)), Clock::System.now()),
    };
    a.store.change((0..KEYS).map(put).collect()).await.unwrap();
    let (took, sent, _) = a.round().await;
    tell("push, keys added", &[(took, sent)], KEYS);
    let (took, _, received) = b.round().await;
    tell("pull, keys added", &[(took, received)], KEYS);

    let (mut pushes, mut pulls) = (Vec::new(), Vec::new());
    for n in 0..RUNS as u64 {
        a.store.append(used(n + 1)).await.unwrap();
        let (took, sent, _) = a.round().await;
        pushes.push((took, sent));
        let (took, _, received) = b.round().await;
        pulls.push((took, received));
        a.round().await;
    }
    tell("push, key statistics", &pushes, KEYS);
    tell("pull, key statistics", &pulls, KEYS);
    (pushes, pulls) = (Vec::new(), Vec::new());
    for n in 0..RUNS as u64 {
        a.store.append(resting(n)).await.unwrap();
        let (took, sent, _) = a.round().await;
        pushes.push((took, sent));
        let (took, _, received) = b.round().await;
        pulls.push((took, received));
        a.round().await;
    }
    tell("push, cooldowns", &pushes, KEYS);
    tell("pull, cooldowns", &pulls, KEYS);

    idle(&a).await;
    latency(&url, &a).await;
    many(&url, &cluster).await;
}

/// The one call of a round in which nothing has changed.
async fn idle(a: &Instance) {
    let mut request = PullRequest {
        protocol: PROTOCOL,
        instance: uuid::Uuid::new_v4(),
        asks: vec![Ask {
            stream: PREFIX.to_owned(),
            provider: P.to_owned(),
            lane: Lane::State,
            cursor: None,
            after: None,
            limit: 1,
        }],
    };
    let first = serde_json::to_string(&request).unwrap();
    let first = a.transport.call(Function::Pull, &first).await.unwrap();
    let first: PullAnswer = serde_json::from_str(&first.body).unwrap();
    request.asks[0].cursor = Some(first.snapshot);
    let request = serde_json::to_string(&request).unwrap();
    let (before, mut took) = (a.transport.traffic(), Vec::new());
    for _ in 0..200 {
        let begun = Instant::now();
        a.transport.call(Function::Pull, &request).await.unwrap();
        took.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    let after = a.transport.traffic();
    println!(
        "idle round at {KEYS} keys: {:.2} ms, {} bytes sent, {} received",
        median(took),
        (after.sent - before.sent) / 200,
        (after.received - before.received) / 200
    );
}

/// From a change on one instance to its effect on another that asks every second.
async fn latency(url: &str, a: &Instance) {
    let c = Instance::start(url, Duration::from_secs(1), None).await;
    c.round().await;
    let mut took = Vec::new();
    for n in 0..10 {
        let mut seen = c.memory.seen.subscribe();
        seen.mark_unchanged();
        let mut record = KeyRecord::new(Secret::new(key(1)), Clock::System.now());
        record.note = Some(format!("note {n}").into());
        let begun = Instant::now();
        a.store.change(vec![Change::PutKey { provider: P.into(), record }]).await.unwrap();
        a.changes.send_replace(());
        while seen.changed().await.is_ok() {
            let note = format!("note {n}");
            let id = KeyId::derive(P, &key(1));
            let found = c.store.edit::<_, store::Error>(move |shelf| shelf.key(P, id)).await.unwrap();
            if found.is_some_and(|entry| entry.record.note.as_deref() == Some(note.as_str())) {
                break;
            }
        }
        took.push(begun.elapsed().as_secs_f64());
    }
    println!(
        "a change on one instance has its effect on another (interval 1 s): {:.2} s (median of 10)",
        median(took)
    );
    c.replicator.stop(Duration::from_secs(1)).await;
}

/// Fifty instances, each counting and asking all the time, within the default budget, and what that takes of the hub.
async fn many(url: &str, cluster: &pg::Cluster) {
    const INSTANCES: usize = 50;
    let interval = Duration::from_millis(1500);
    let instances =
        join_all((0..INSTANCES).map(|_| Instance::start(url, interval, Some(5_000_000_000)))).await;
    join_all(instances.iter().map(Instance::round)).await;
    let one = |n: usize| {
        let usage =
            KeyUsage { counts: Counts::SUCCESS, last_used: Some(Clock::System.now()), ..KeyUsage::default() };
        let keys = (0..20).map(|k| (KeyId::derive(P, &key((n * 37 + k * 131) % KEYS)), usage));
        let provider = ProviderDelta { keys: keys.collect(), ..ProviderDelta::default() };
        Delta { providers: [(P.into(), provider)].into(), ..Delta::default() }
    };
    let traffic = || instances.iter().map(|i| i.transport.traffic().received).sum::<u64>();
    let (begun, cpu_before, bytes_before) = (Instant::now(), cpu(cluster), traffic());
    let mut rounds = 0;
    for n in 0..12 {
        join_all(instances.iter().enumerate().map(|(i, of)| {
            let delta = one(i + n * INSTANCES);
            async move { of.store.append(delta).await.unwrap() }
        }))
        .await;
        tokio::time::sleep(interval).await;
        rounds += INSTANCES;
    }
    let (took, taken) = (begun.elapsed().as_secs_f64(), cpu(cluster) - cpu_before);
    let bytes = traffic() - bytes_before;
    let a_round = taken / rounds as f64;
    println!(
        "{INSTANCES} instances, {rounds} rounds of 20 changed keys each in {took:.1} s: {:.1} ms of the hub's processor a \
         round, {} bytes received a round",
        a_round * 1000.0,
        bytes / rounds as u64
    );
    println!(
        "1,000 instances every 30 s would take {:.2} of one processor (projected)",
        a_round * 1000.0 / 30.0
    );
    for instance in &instances {
        instance.replicator.stop(Duration::from_secs(2)).await;
    }
}
