//! Picking a key and giving it back, from ten keys to a million: the line should be flat.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use keytide::{
    model::{Effect, Health, KeyRecord, Secret, Timestamp},
    pool::{Ask, Options, Pool, Strategy},
};

const NOW: Timestamp = Timestamp(1_750_000_000_000);
/// Picks per reading of the clock.
const BATCH: u64 = 64;

fn pick(c: &mut Criterion) {
    let strategies = [
        ("round_robin", Strategy::RoundRobin),
        ("least_busy", Strategy::LeastBusy),
        ("weighted", Strategy::Weighted),
        ("random", Strategy::Random),
        ("affinity", Strategy::Affinity),
    ];
    for keys in [10, 1_000, 100_000, 1_000_000] {
        let pool = Pool::new("ollama", Options::default());
        for n in 0..keys {
            let mut record = KeyRecord::new(Secret::new(format!("sk-or-v1-{n:064x}")), NOW);
            record.weight = 1 + n as u16 % 1000;
            pool.insert(record, Health::default(), NOW).expect("each key is new");
        }
        for (name, strategy) in strategies {
            pool.set_options(Options { strategy, ..Options::default() }, NOW);
            let mut caller = 0;
            c.benchmark_group(format!("pick_and_finish/{name}")).bench_function(
                BenchmarkId::from_parameter(keys),
                |bencher| {
                    bencher.iter(|| {
                        caller += 1;
                        let lease = pool.pick(&Ask { exclude: &[], caller }, NOW).expect("all keys are free");
                        black_box(&lease).key_id();
                        lease.finish(Effect::Success, NOW);
                    });
                },
            );
        }
        // The pick by itself: what it hands out is given back outside the measured time.
        pool.set_options(Options::default(), NOW);
        c.benchmark_group("pick/round_robin").bench_function(BenchmarkId::from_parameter(keys), |bencher| {
            let mut leases = Vec::with_capacity(BATCH as usize);
            bencher.iter_custom(|mut left| {
                let mut spent = Duration::ZERO;
                while left > 0 {
                    let batch = left.min(BATCH);
                    let start = Instant::now();
                    for _ in 0..batch {
                        leases.push(pool.pick(&Ask::default(), NOW).expect("all keys are free"));
                    }
                    spent += start.elapsed();
                    leases.clear();
                    left -= batch;
                }
                spent
            });
        });
    }
}

criterion_group!(benches, pick);
criterion_main!(benches);
