//! keytide beside nginx as a plain reverse proxy, in front of the same provider, in the same run: `scripts/bench`.
//!
//! Both are asked in turns, round by round; what is printed are medians, and medians of the ratios of each round. The machine's
//! two cores carry the client and the provider too. With `--instructions` it counts what one request takes of keytide's process
//! under callgrind, which no other load on the machine changes.

#![allow(clippy::unwrap_used, reason = "a bench that cannot go on has failed")]

#[path = "gateway/bare.rs"]
mod bare;
#[path = "gateway/instructions.rs"]
mod instructions;
#[path = "gateway/load.rs"]
mod load;
#[path = "../it/pg.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod pg;
#[path = "../it/process.rs"]
#[allow(dead_code, reason = "the tests need more of it")]
mod process;
#[path = "gateway/servers.rs"]
mod servers;
#[path = "gateway/upstream.rs"]
mod upstream;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use keytide::replica::schema;
use load::percentile;
use serde_json::{Value, json};
use servers::{Keytide, Setup, memory, processor};

struct Arguments {
    rounds: usize,
    seconds: f64,
    json: Option<PathBuf>,
    only: Option<String>,
}

impl Arguments {
    fn read() -> Result<Self, String> {
        let mut read = Self { rounds: 5, seconds: 4.0, json: None, only: None };
        let mut given = std::env::args().skip(1);
        while let Some(name) = given.next() {
            let mut value = || given.next().ok_or(format!("{name} needs a value"));
            match name.as_str() {
                // cargo says so to every bench.
                "--bench" => {}
                "--rounds" => read.rounds = value()?.parse().map_err(|_| "--rounds takes a number")?,
                "--seconds" => read.seconds = value()?.parse().map_err(|_| "--seconds takes a number")?,
                "--json" => read.json = Some(value()?.into()),
                "--only" => read.only = Some(value()?),
                other => return Err(format!("unknown option {other}; scripts/bench --help lists them")),
            }
        }
        if read.rounds == 0 || read.seconds < 1.0 {
            return Err("at least one round of one second".to_owned());
        }
        Ok(read)
    }

    fn wants(&self, case: &str) -> bool {
        self.only.as_ref().is_none_or(|only| case.contains(only.as_str()))
    }
}

fn main() -> ExitCode {
    let mut given = std::env::args().skip(1).filter(|argument| argument != "--bench");
    match given.next().as_deref() {
        Some("--upstream") => {
            upstream::serve(given.next().unwrap().parse().unwrap());
            return ExitCode::SUCCESS;
        }
        Some("--bare") => {
            let mut address = || given.next().unwrap().parse().unwrap();
            bare::serve(address(), address());
            return ExitCode::SUCCESS;
        }
        Some("--instructions") => return ExitCode::from(u8::from(run(instructions::count()))),
        _ => {}
    }
    match Arguments::read() {
        Ok(arguments) => {
            run(compare(arguments));
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("scripts/bench: {why}");
            ExitCode::from(2)
        }
    }
}

fn run<T>(work: impl Future<Output = T>) -> T {
    rustls::crypto::ring::default_provider().install_default().unwrap();
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(work)
}

/// What was seen, of a case and of who was asked: one figure for each round.
#[derive(Default)]
struct Seen(BTreeMap<String, BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>>);

impl Seen {
    fn add(&mut self, case: &str, who: &str, figures: &[(&'static str, f64)]) {
        let of = self.0.entry(case.to_owned()).or_default().entry(who.to_owned()).or_default();
        for (name, figure) in figures {
            of.entry(name).or_default().push(*figure);
        }
    }

    fn of(&self, case: &str, who: &str, name: &str) -> Option<&Vec<f64>> {
        self.0.get(case)?.get(who)?.get(name)
    }
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    let middle = figures.len() / 2;
    if figures.len() % 2 == 1 { figures[middle] } else { (figures[middle - 1] + figures[middle]) / 2.0 }
}

struct Target {
    name: &'static str,
    /// Whom plain requests go to, and whom streams.
    plain: String,
    streams: String,
    token: String,
    /// None for the provider itself.
    pid: Option<u32>,
}

/// Requests that come at their own pace.
const STEADY: &str = "steady 64";
/// About a third of what two cores can answer.
const STEADY_PER_SECOND: u32 = 10_000;
/// The same for so long that an instance replicates twice though it does so as seldom as by default.
const STEADY_FOR_LONG: &str = "steady, 75 seconds";
const LONG: Duration = Duration::from_secs(75);
/// All of them are used between two flushes, and between two rounds.
const STEADY_KEYS: usize = 1_000;
const ALONE: &str = "keytide, 1,000 keys";
const EVERY_SECOND: &str = "every second";
const BY_DEFAULT: &str = "replicating by default";
/// At full load, where keytide and its Postgres have two cores between them.
const REPLICATING: &str = "replicating";

/// With tables of its own in the database of that name.
async fn replicating(provider: SocketAddr, hub: &pg::Cluster, database: &str, interval: &str) -> Keytide {
    let client = hub.database(database).await;
    let target = schema::Target { prefix: "ollama_api", provider: "ollama" };
    schema::apply(&client, &[target], false).await.unwrap();
    let url = hub.url(database, "postgres");
    let more = format!("[sync]\ndatabase_url = \"{url}\"\n{interval}");
    Keytide::start(provider, Setup { keys: STEADY_KEYS, limited: false, more: &more }).await
}

async fn compare(arguments: Arguments) {
    let dir = tempfile::tempdir().unwrap();
    let (_provider, provider) = servers::upstream().await;
    let (nginx, plain, streams) = servers::nginx(dir.path(), provider).await;
    let base = Keytide::start(provider, Setup { keys: 10, limited: false, more: "" }).await;
    let direct = Target {
        name: "direct",
        plain: provider.to_string(),
        streams: provider.to_string(),
        token: "sk".to_owned(),
        pid: None,
    };
    let nginx = Target { name: "nginx", plain, streams, token: "sk".to_owned(), pid: Some(nginx.0.id()) };
    let target = |name: &'static str, keytide: &Keytide| Target {
        name,
        plain: keytide.address.clone(),
        streams: keytide.address.clone(),
        token: keytide.token.clone(),
        pid: Some(keytide.process.id()),
    };
    let ours = target("keytide", &base);
    let (forwarder, address) = servers::bare(provider).await;
    let bare = Target {
        name: "bare",
        plain: address.to_string(),
        streams: address.to_string(),
        token: "sk".to_owned(),
        pid: Some(forwarder.0.id()),
    };

    let many = Setup { keys: 100_000, limited: false, more: "" };
    let third = Setup { keys: 3_000, limited: true, more: "" };
    let strict = Setup { keys: 10, limited: false, more: "[store]\ndurability = \"strict\"" };
    let mut others = Vec::new();
    for (name, setup) in [("100k keys", many), ("a third failing", third), ("strict", strict)] {
        if arguments.wants(&format!("small 64, {name}")) {
            others.push((name, Keytide::start(provider, setup).await));
        }
    }
    let mut hubs = Vec::new();
    if arguments.wants("small 64, replicating") {
        let hub = pg::Cluster::start(pg::Options::default());
        others.push((REPLICATING, replicating(provider, &hub, "small", "interval = \"1s\"").await));
        hubs.push(hub);
    }
    if arguments.wants(STEADY) || arguments.wants(STEADY_FOR_LONG) {
        let setup = Setup { keys: STEADY_KEYS, limited: false, more: "" };
        others.push((ALONE, Keytide::start(provider, setup).await));
        let hub = pg::Cluster::start(pg::Options::default());
        for (case, name, interval) in
            [(STEADY, EVERY_SECOND, "interval = \"1s\""), (STEADY_FOR_LONG, BY_DEFAULT, "")]
        {
            if !arguments.wants(case) {
                continue;
            }
            let database = name.replace(' ', "_");
            others.push((name, replicating(provider, &hub, &database, interval).await));
        }
        let status = std::fs::read_to_string(hub.data().join("postmaster.pid")).unwrap();
        servers::stand_aside(status.lines().next().unwrap().parse().unwrap());
        hubs.push(hub);
    }
    let all: Vec<_> = others.iter().map(|(name, keytide)| (*name, target(name, keytide), keytide)).collect();

    let mut seen = Seen::default();
    let before: Vec<u64> = {
        let mut counted = vec![base.counted().await];
        for (_, _, keytide) in &all {
            counted.push(keytide.counted().await);
        }
        counted
    };
    let mut asked = vec![0.0; all.len() + 1];
    for round in 0..arguments.rounds {
        eprintln!("round {} of {}", round + 1, arguments.rounds);
        for connections in [1, 16, 64] {
            for large in [false, true] {
                let case = format!("{} {connections}", if large { "100 kB" } else { "small" });
                if !arguments.wants(&case) {
                    continue;
                }
                for who in [&direct, &nginx, &bare, &ours] {
                    let n = plain_of(&mut seen, &case, who, dir.path(), large, connections, &arguments);
                    asked[0] += if who.name == "keytide" { n } else { 0.0 };
                }
            }
            let case = format!("streams {connections}");
            if arguments.wants(&case) {
                for who in [&direct, &nginx, &ours] {
                    let n = streams_of(&mut seen, &case, who, connections, &arguments).await;
                    asked[0] += if who.name == "keytide" { n } else { 0.0 };
                }
            }
        }
        let steady =
            [(STEADY, EVERY_SECOND, arguments.seconds), (STEADY_FOR_LONG, BY_DEFAULT, LONG.as_secs_f64())];
        for (case, replicating, seconds) in steady {
            if !arguments.wants(case) || case == STEADY_FOR_LONG && round > 0 {
                continue;
            }
            for who in [&direct, &nginx, &bare] {
                steady_of(&mut seen, case, who, seconds);
            }
            for (n, (name, who, keytide)) in all.iter().enumerate() {
                if *name == ALONE {
                    asked[n + 1] += steady_of(&mut seen, case, who, seconds);
                } else if *name == replicating {
                    // A round with something to tell, after which the next one comes an interval later.
                    let warm = Duration::from_secs(1);
                    let first = load::steady(&who.plain, &who.token, 64, STEADY_PER_SECOND, warm);
                    asked[n + 1] += first.latencies.len() as f64;
                    keytide.replicate().await;
                    let before = keytide.batches().await;
                    asked[n + 1] += steady_of(&mut seen, case, who, seconds);
                    let told = keytide.batches().await - before;
                    assert!(
                        case == STEADY || told >= 4,
                        "{case}: {told} batches are not two rounds of two streams"
                    );
                }
            }
        }
        // Each beside nginx, and beside the plain keytide.
        for (n, (name, who, _)) in all.iter().enumerate() {
            let case = format!("small 64, {name}");
            if !arguments.wants(&case) || [ALONE, EVERY_SECOND, BY_DEFAULT].contains(name) {
                continue;
            }
            for who in [&direct, &nginx, who] {
                let requests = plain_of(&mut seen, &case, who, dir.path(), false, 64, &arguments);
                if who.name != "direct" && who.name != "nginx" {
                    asked[n + 1] += requests;
                }
            }
        }
        if arguments.wants("paced 1000") {
            for who in [&direct, &nginx, &ours] {
                let n = paced_of(&mut seen, "paced 1000", who, 1_000).await;
                asked[0] += if who.name == "keytide" { n } else { 0.0 };
            }
        }
    }
    print(&seen);
    // wrk breaks off what is open at its end: those are counted here, and not there.
    println!("\nbooks: requests that the clients saw answered, and that keytide has counted");
    let books =
        std::iter::once(("keytide", &base)).chain(all.iter().map(|(name, _, keytide)| (*name, *keytide)));
    for (n, (name, keytide)) in books.enumerate() {
        // Statistics are taken in every 100 ms.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let counted = keytide.counted().await - before[n];
        println!("  {name:<22} {:>9} {counted:>9}", asked[n]);
        assert!(counted as f64 >= asked[n], "{name}: requests were answered that are in no book");
    }
    if let Some(file) = &arguments.json {
        std::fs::write(file, format!("{:#}\n", document(&seen, &arguments))).unwrap();
        println!("\nwritten to {}", file.display());
    }
    // Not killed: one that was built for it notes at its end what it ran through.
    for keytide in others.into_iter().map(|(_, keytide)| keytide).chain([base]) {
        keytide.end().await;
    }
    drop(hubs);
}

fn plain_of(
    seen: &mut Seen,
    case: &str,
    who: &Target,
    dir: &std::path::Path,
    large: bool,
    connections: usize,
    arguments: &Arguments,
) -> f64 {
    let used = who.pid.map(processor);
    let found =
        load::plain(dir, &format!("http://{}", who.plain), &who.token, large, connections, arguments.seconds);
    // At the start none of the keys that will be refused has anything against it: three of them may be met in a row.
    let most = if case.ends_with("a third failing") { 100.0 + found.requests / 1_000.0 } else { 0.0 };
    assert!(
        found.failed <= most && found.requests > 0.0,
        "{case}, {}: {} of {} requests failed",
        who.name,
        found.failed,
        found.requests
    );
    let mut figures = vec![("per_second", found.per_second), ("p50_us", found.p50), ("p99_us", found.p99)];
    figures.extend(cost(who, used, found.requests));
    seen.add(case, who.name, &figures);
    found.requests
}

fn steady_of(seen: &mut Seen, case: &str, who: &Target, seconds: f64) -> f64 {
    let used = who.pid.map(processor);
    let time = Duration::from_secs_f64(seconds);
    let found = load::steady(&who.plain, &who.token, 64, STEADY_PER_SECOND, time);
    let requests = found.latencies.len() as f64;
    let mut figures = vec![
        ("per_second", requests / found.took.as_secs_f64()),
        ("p50_us", percentile(&found.latencies, 50.0)),
        ("p99_us", percentile(&found.latencies, 99.0)),
    ];
    figures.extend(cost(who, used, requests));
    seen.add(case, who.name, &figures);
    requests
}

/// Processor time of each request, and memory after them.
fn cost(who: &Target, used: Option<f64>, requests: f64) -> Vec<(&'static str, f64)> {
    let Some((pid, used)) = who.pid.zip(used) else { return Vec::new() };
    vec![("cpu_us", (processor(pid) - used) * 1e6 / requests), ("rss_mb", memory(pid))]
}

async fn streams_of(seen: &mut Seen, case: &str, who: &Target, clients: usize, arguments: &Arguments) -> f64 {
    let used = who.pid.map(processor);
    let time = Duration::from_secs_f64(arguments.seconds);
    let found = load::streams(&who.streams, &who.token, clients, false, time).await;
    assert_eq!(found.pieces, found.answers * upstream::CHUNKS, "{case}, {}", who.name);
    let pieces = found.pieces as f64;
    let mut figures = vec![
        ("per_second", pieces / found.took.as_secs_f64()),
        ("p50_us", percentile(&found.first, 50.0)),
        ("p99_us", percentile(&found.first, 99.0)),
    ];
    figures.extend(cost(who, used, found.answers as f64));
    seen.add(case, who.name, &figures);
    found.answers as f64
}

async fn paced_of(seen: &mut Seen, case: &str, who: &Target, clients: usize) -> f64 {
    let used = who.pid.map(processor);
    let at_rest = who.pid.map(memory);
    let asking = {
        let (address, token) = (who.streams.clone(), who.token.clone());
        tokio::spawn(async move { load::streams(&address, &token, clients, true, Duration::ZERO).await })
    };
    // All of them are open, and in their midst.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let half_way = who.pid.map(memory);
    let found = asking.await.unwrap();
    assert_eq!(
        (found.answers, found.pieces),
        (clients, clients * upstream::PACED_CHUNKS),
        "{case}, {}",
        who.name
    );
    let mut figures = vec![
        ("per_second", found.pieces as f64 / found.took.as_secs_f64()),
        ("p50_us", percentile(&found.relayed, 50.0)),
        ("p99_us", percentile(&found.relayed, 99.0)),
        ("last_us", found.relayed.last().copied().unwrap_or_default() as f64),
    ];
    if let (Some(at_rest), Some(half_way)) = (at_rest, half_way) {
        figures.push(("kb_a_stream", (half_way - at_rest) * 1024.0 / clients as f64));
    }
    figures.extend(cost(who, used, found.answers as f64));
    seen.add(case, who.name, &figures);
    found.answers as f64
}

/// Figures of keytide by those of nginx, round by round; the latency that each adds to the provider's own.
fn ratios(seen: &Seen, case: &str, who: &str) -> BTreeMap<&'static str, f64> {
    let mut ratios = BTreeMap::new();
    let of = |who: &str, name: &str| seen.of(case, who, name);
    for name in ["per_second", "cpu_us"] {
        if let (Some(ours), Some(theirs)) = (of(who, name), of("nginx", name)) {
            ratios
                .insert(name, median(ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect()));
        }
    }
    for name in ["p50_us", "p99_us"] {
        if let (Some(ours), Some(theirs), Some(direct)) =
            (of(who, name), of("nginx", name), of("direct", name))
        {
            let added = ours.iter().zip(theirs).zip(direct);
            // Where nginx adds nothing that can be seen, there is nothing to compare with.
            let each: Vec<f64> = added
                .filter(|((_, theirs), direct)| *theirs > *direct)
                .map(|((ours, theirs), direct)| (ours - direct) / (theirs - direct))
                .collect();
            if !each.is_empty() {
                ratios.insert(if name == "p50_us" { "added_p50" } else { "added_p99" }, median(each));
            }
        }
    }
    ratios
}

fn print(seen: &Seen) {
    println!(
        "\n{:<26} {:<22} {:>10} {:>9} {:>9} {:>9} {:>8}   beside nginx",
        "case", "who", "per second", "p50 us", "p99 us", "cpu us", "RSS MB"
    );
    for (case, who) in &seen.0 {
        for (name, figures) in who {
            let shown = |figure: &str| {
                figures
                    .get(figure)
                    .map_or_else(|| "-".to_owned(), |all| format!("{:.0}", median(all.clone())))
            };
            let beside = if name == "nginx" || name == "direct" {
                String::new()
            } else {
                let ratios = ratios(seen, case, name);
                let all: Vec<String> =
                    ratios.iter().map(|(name, ratio)| format!("{name} {ratio:.2}")).collect();
                all.join(", ")
            };
            let more: Vec<String> = ["last_us", "kb_a_stream"]
                .iter()
                .filter(|name| figures.contains_key(**name))
                .map(|name| format!("; {name} {}", shown(name)))
                .collect();
            println!(
                "{case:<26} {name:<22} {:>10} {:>9} {:>9} {:>9} {:>8}   {beside}{}",
                shown("per_second"),
                shown("p50_us"),
                shown("p99_us"),
                shown("cpu_us"),
                shown("rss_mb"),
                more.concat()
            );
        }
    }
    println!(
        "\nOf plain requests, p50 and p99 are those of answers; of streams, of their first piece, and \"per second\" counts pieces;\n\
         of paced ones (1,000 streams of {} pieces a second), how long a piece was under way.",
        upstream::PACE
    );
}

fn document(seen: &Seen, arguments: &Arguments) -> Value {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let model =
        read("/proc/cpuinfo").lines().find_map(|line| line.strip_prefix("model name").map(str::to_owned));
    let cases: Vec<Value> = seen
        .0
        .iter()
        .map(|(case, who)| {
            let medians: serde_json::Map<String, Value> = who
                .iter()
                .map(|(name, figures)| {
                    let all: serde_json::Map<String, Value> = figures
                        .iter()
                        .map(|(figure, rounds)| ((*figure).to_owned(), json!(median(rounds.clone()))))
                        .collect();
                    let ratios = if name == "nginx" || name == "direct" {
                        BTreeMap::new()
                    } else {
                        ratios(seen, case, name)
                    };
                    (name.clone(), json!({"medians": all, "beside_nginx": ratios}))
                })
                .collect();
            json!({"case": case, "who": medians})
        })
        .collect();
    json!({
        "keytide": env!("CARGO_PKG_VERSION"),
        "cores": std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        "processor": model.map(|text| text.trim_start_matches([' ', '\t', ':']).to_owned()),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "cases": cases,
    })
}
