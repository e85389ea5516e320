//! What one piece of a stream takes on its way through keytide, and through nobody: `cargo bench --bench relay`.
//!
//! Provider, keytide and caller are processes of their own on the loopback interface, as in `scripts/bench`; the provider writes its
//! pieces as fast as they are taken.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]
#![allow(dead_code, reason = "the bench beside nginx needs more of what both share")]

#[path = "gateway/load.rs"]
mod load;
#[path = "../it/process.rs"]
mod process;
#[path = "gateway/servers.rs"]
mod servers;
#[path = "gateway/upstream.rs"]
mod upstream;

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};
use servers::{Keytide, Setup};

fn main() {
    let mut given = std::env::args().skip(1);
    if given.next().as_deref() == Some("--upstream") {
        upstream::serve(given.next().unwrap().parse().unwrap());
        return;
    }
    rustls::crypto::ring::default_provider().install_default().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let mut criterion = Criterion::default().configure_from_args();
    let (_provider, provider) = runtime.block_on(servers::upstream());
    let keytide = runtime.block_on(Keytide::start(provider, Setup { keys: 10, limited: false, more: "" }));
    let mut group = criterion.benchmark_group("relay_one_piece");
    // The last two tell what was used, and that it is over.
    group.throughput(Throughput::Elements(upstream::CHUNKS as u64 + 2));
    for (name, address, token) in
        [("direct", provider.to_string(), "sk"), ("keytide", keytide.address.clone(), &keytide.token)]
    {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|count| {
                let start = Instant::now();
                for _ in 0..count {
                    let found = runtime.block_on(load::streams(&address, token, 1, false, Duration::ZERO));
                    assert_eq!(found.pieces, upstream::CHUNKS);
                }
                start.elapsed()
            });
        });
    }
    group.finish();
    criterion.final_summary();
}
