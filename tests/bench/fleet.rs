//! A hundred thousand keys with statistics, and how long anybody who writes to the store has to wait meanwhile.

use std::time::{Duration, Instant};

use keytide::{
    model::{Clock, Counts, Delta, Hour, KeyId, KeyRecord, KeyUsage, ProviderDelta, Secret, Usage},
    store::{self, Change, Store},
};
use tokio::task::JoinHandle;

use super::{Instance, P, key, pg};

const MANY: usize = 100_000;

/// Counts one request again and again, as answers in strict durability do, and remembers the longest wait.
struct Requests {
    done: tokio::sync::watch::Sender<bool>,
    task: JoinHandle<Duration>,
}

impl Requests {
    fn begin(store: Store) -> Self {
        let (done, end) = tokio::sync::watch::channel(false);
        let task = tokio::spawn(async move {
            let now = Clock::System.now();
            let asked = Usage { counts: Counts::SUCCESS, ..Usage::default() };
            let provider = ProviderDelta {
                hours: [((Hour::of(now), "model".into()), asked)].into(),
                ..ProviderDelta::default()
            };
            let delta = Delta { providers: [(P.into(), provider)].into(), ..Delta::default() };
            let mut longest = Duration::ZERO;
            while !*end.borrow() {
                let begun = Instant::now();
                store.append(delta.clone()).await.unwrap();
                longest = longest.max(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            longest
        });
        Self { done, task }
    }

    async fn longest(self) -> Duration {
        self.done.send_replace(true);
        self.task.await.unwrap()
    }
}

/// The most memory that this process has had since the last call, in MiB.
fn memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let most = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0);
    let _reset = std::fs::write("/proc/self/clear_refs", "5");
    most / 1024
}

async fn told(what: &str, instance: &Instance, round: impl Future<Output = ()>) {
    memory();
    let (requests, begun) = (Requests::begin(instance.store.clone()), Instant::now());
    round.await;
    let took = begun.elapsed();
    let longest = requests.longest().await;
    println!(
        "{MANY} keys, {what}: {:.2} s; whoever writes waits {:.0} ms at most; {} MiB",
        took.as_secs_f64(),
        longest.as_secs_f64() * 1000.0,
        memory()
    );
}

pub async fn large(url: &str, cluster: &pg::Cluster) {
    let never = Duration::from_secs(3600);
    let now = Clock::System.now();
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&store::Options::new(dir.path()), Clock::System).unwrap();
    for some in 0..MANY / 1000 {
        let put = |n| Change::PutKey { provider: P.into(), record: KeyRecord::new(Secret::new(key(n)), now) };
        store.change((some * 1000..(some + 1) * 1000).map(put).collect()).await.unwrap();
    }
    let usage = |n: usize| KeyUsage {
        counts: Counts { success: n as u64 + 1, failure: 1, other: 0 },
        last_used: Some(now),
        last_success: Some(now),
        last_failure: Some(now),
    };
    let provider = ProviderDelta {
        keys: (0..MANY).map(|n| (KeyId::derive(P, &key(n)), usage(n))).collect(),
        ..ProviderDelta::default()
    };
    store.append(Delta { providers: [(P.into(), provider)].into(), ..Delta::default() }).await.unwrap();
    store.close().await.unwrap();

    let a = Instance::over(dir, url, never, None).await;
    told("first contact and all batches", &a, async {
        let _bytes = a.round().await;
    })
    .await;
    for n in 0..2 {
        let (took, sent, received) = a.round().await;
        println!(
            "{MANY} keys, round {n} with nothing to say: {took:?}, {sent} bytes sent, {received} received"
        );
    }
    let b = Instance::start(url, never, None).await;
    told("first pull", &b, async {
        let _bytes = b.round().await;
    })
    .await;
    let (took, ..) = b.round().await;
    println!("{MANY} keys, a round with nothing to say: {took:?}");

    // Another hub with the same rows: everything is pulled again, and what it lacks is settled.
    cluster.psql(
        "INSERT INTO keytide_lineage (hub_id, system, timeline, adopted_by)
         SELECT s.hub_id, (g -> 'hub' ->> 'system'), (g -> 'hub' ->> 'timeline')::bigint, gen_random_uuid()
         FROM keytide_settings s, keytide_greeting() g;
         UPDATE keytide_settings SET hub_id = gen_random_uuid();
         DELETE FROM keytide_tombstones;",
    );
    told("resync", &b, async {
        for _ in 0..3 {
            b.round().await;
        }
    })
    .await;

    // The hub forgets all rows: everything here is to be told again.
    cluster.psql(
        "INSERT INTO keytide_lineage (hub_id, system, timeline, adopted_by)
         SELECT s.hub_id, (g -> 'hub' ->> 'system'), (g -> 'hub' ->> 'timeline')::bigint, gen_random_uuid()
         FROM keytide_settings s, keytide_greeting() g;
         UPDATE keytide_settings SET hub_id = gen_random_uuid();
         BEGIN; SET LOCAL keytide.writer = 'on';
         DELETE FROM ollama_api_key_stats; DELETE FROM ollama_api_keys; COMMIT;
         DELETE FROM keytide_tombstones; DELETE FROM keytide_retired;",
    );
    told("resync with a hub that has lost all rows", &b, async {
        for _ in 0..3 {
            b.round().await;
        }
    })
    .await;
    a.replicator.stop(Duration::from_secs(1)).await;
    b.replicator.stop(Duration::from_secs(1)).await;
}
