//! `kill -9` at random moments under load, and the books afterwards: compared with what callers saw, and with
//! the provider's own tally, which lives in this process and so survives.
//!
//! What the file holds after a kill is the truth: it is read from a copy, so that the next start of keytide
//! itself finds the journal as the kill left it.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use keytide::{
    demo::upstream::{Behaviour, StatusReply, Upstream, UpstreamOptions},
    model::{
        Clock, Counts, Day, Delta, Hour, KeyId, KeyUsage, ProviderDelta, SetId, SetKind, SpanId, SpanKind,
        Tally, Timestamp, Usage,
    },
    store::{self, Contents, Durability, ProviderContents, Store, offline},
};
use tokio::time::Instant;

use crate::{
    harness::{Setup, TOKEN, chat, chat_with, client},
    process::{Home, PATIENCE, Process, copy_store},
};

const CLIENTS: usize = 12;
const ATTEMPTS: u64 = 3;
/// Rounds for each durability where `CRASH_ROUNDS` does not say.
const ROUNDS: usize = 5;
const FLUSH_INTERVAL: Duration = Duration::from_millis(50);
/// What the scheduler may add to an interval on a busy machine.
const SLACK: Duration = Duration::from_millis(150);
/// About when the journal is folded, in a process that has something to fold from its start.
const FOLD: Duration = Duration::from_secs(2);
/// Calls of keytide's own, which its books leave out.
const LISTS: [&str; 2] = ["/v1/models", "/api/tags"];

fn rounds() -> usize {
    match std::env::var("CRASH_ROUNDS") {
        Ok(text) => text.parse().expect("CRASH_ROUNDS must be a number"),
        Err(_) => ROUNDS,
    }
}

/// Keys of every kind of trouble, back soon after each.
fn keys() -> Vec<(String, Behaviour)> {
    let limited = StatusReply::new(429).header("retry-after-ms", "80").into();
    let turns = |bad: Behaviour, good: usize| {
        let mut steps = vec![Behaviour::Good; good];
        steps.push(bad);
        Behaviour::Cycle(steps)
    };
    let mut keys = vec![
        ("dying".to_owned(), turns(Behaviour::Dead, 9)),
        ("slow-down".to_owned(), turns(limited, 5)),
        ("overloaded".to_owned(), turns(Behaviour::status(503), 7)),
        ("breaking".to_owned(), turns(Behaviour::BrokenStream { after: 3 }, 6)),
        ("hiding".to_owned(), turns(Behaviour::ErrorIn200 { code: 502 }, 6)),
    ];
    keys.extend((0..5).map(|n| (format!("steady-{n}"), Behaviour::Good)));
    for (key, _) in &mut keys {
        key.push_str("-0123456789abcdef");
    }
    keys
}

struct World {
    upstream: Upstream,
    home: Home,
    keys: Vec<(String, Behaviour)>,
}

impl World {
    async fn new(durability: Durability) -> Self {
        let delay = UpstreamOptions { token_delay: Duration::from_millis(2), ..UpstreamOptions::default() };
        let upstream = Upstream::start(delay).await.unwrap();
        let keys = keys();
        let mut setup = Setup::new(&upstream, "");
        for (key, behaviour) in &keys {
            upstream.set_behaviour(key.as_str(), behaviour.clone());
            setup = setup.key("ollama", key, |_| {});
        }
        let home = Home::new(&config(&upstream, durability));
        setup.fill(&home.data()).await;
        Self { upstream, home, keys }
    }

    async fn truth(&self) -> Truth {
        tokio::time::timeout(PATIENCE, self.upstream.tally().idle()).await.unwrap();
        let books = read(&self.home.data()).await;
        let tally = self.upstream.tally();
        let attempts = |key: &str| tally.sum(|of, at| of == key && !LISTS.contains(&at)).attempts;
        let keys = self.keys.iter().map(|(key, _)| {
            let usage = books.key_usage.get(&KeyId::derive("ollama", key)).copied().unwrap_or_default();
            (key.clone(), (usage.counts, attempts(key)))
        });
        let keys = keys.collect();
        // All of it was asked for with one token.
        let token: u64 = books.token_usage.values().map(|usage| usage.counts.total()).sum();
        assert_eq!(token, books.total.counts.total(), "the token's requests are all requests");
        let reported = tally.total().reported;
        Truth { total: books.total, keys, reported: (reported.prompt, reported.completion) }
    }
}

pub fn config(upstream: &Upstream, durability: Durability) -> String {
    let base = upstream.base_url();
    let durability = match durability {
        Durability::Relaxed => "relaxed",
        Durability::Strict => "strict",
    };
    format!(
        r#"
        [server]
        listen = "127.0.0.1:0"
        workers = 2
        shutdown_timeout = "5s"
        [store]
        durability = "{durability}"
        flush_interval = "{}ms"
        [providers.openrouter]
        enabled = false
        [providers.ollama]
        base_url = "{base}"
        retry_backoff = "5ms"
        max_attempts = {ATTEMPTS}
        policy.server_first = "100ms"
        policy.server_max = "200ms"
        status.401.cooldown = "1s"
        "#,
        FLUSH_INTERVAL.as_millis()
    )
}

/// The books in the file, as a start after this moment would find them.
pub async fn read(data: &Path) -> ProviderContents {
    contents(data, true).await.providers.remove("ollama").unwrap_or_default()
}

/// With `by_day`, also compares what was counted by day.
async fn contents(data: &Path, by_day: bool) -> Contents {
    let copy = tempfile::tempdir().unwrap();
    copy_store(data, copy.path());
    let report = offline::check(copy.path()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    let (store, contents) = Store::open(&store::Options::new(copy.path()), Timestamp(0)).unwrap();
    if by_day {
        by_day_and_in_all(&store, &contents).await;
    }
    store.close().await.unwrap();
    contents
}

/// What is counted by day comes to what is counted in all, whenever the process was killed.
async fn by_day_and_in_all(store: &Store, contents: &Contents) {
    let counted = store.counted().await.unwrap();
    let today = Day::of_utc(Clock::System.now()).0;
    let sum = |kind, id| {
        let mut sum = Tally::default();
        // Some tests have clocks of their own.
        (today - 1..=today).for_each(|day| sum.add(&counted.tally(&SpanId::new(kind, id, day)).unwrap()));
        Counts::from(&sum)
    };
    for (id, usage) in contents.providers.values().flat_map(|of| &of.key_usage) {
        assert_eq!(sum(SpanKind::KeyDay, id.0), usage.counts, "days of key {}", id.short());
        let all = counted.tally(&SpanId::new(SpanKind::KeyTotal, id.0, 0)).unwrap();
        assert_eq!(Counts::from(&all), usage.counts);
        let users = counted.members(SetId { kind: SetKind::KeyDay, at: today, id: id.0 }).unwrap();
        assert!(users <= 1 && (usage.counts.total() > 0 || users == 0));
    }
    for (id, usage) in contents.providers.values().flat_map(|of| &of.token_usage) {
        assert_eq!(sum(SpanKind::TokenDay, id.0), usage.counts, "days of token {}", id.short());
    }
}

/// Of a few on this machine's disk.
async fn slowest_commit() -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(&store::Options::new(dir.path()), Timestamp(0)).unwrap();
    let usage = Usage { counts: Counts::SUCCESS, ..Usage::default() };
    let provider = ProviderDelta { hours: [((Hour(1), "m".into()), usage)].into(), ..Default::default() };
    let delta = Delta { providers: [("p".into(), provider)].into(), ..Delta::default() };
    let mut slowest = Duration::ZERO;
    for _ in 0..10 {
        let begun = Instant::now();
        store.append(delta.clone()).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    store.close().await.unwrap();
    slowest
}

/// What the file holds, and what the provider has counted, at one moment without traffic.
struct Truth {
    total: Usage,
    /// By key: what the books count, and the attempts that the provider saw.
    keys: BTreeMap<String, (Counts, u64)>,
    /// Prompt and completion tokens that the provider told of.
    reported: (u64, u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Success,
    Failure,
    /// The connection broke: counted or not, as far as this caller can know.
    Cut,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    at: Instant,
    end: End,
}

/// Callers that go on until they are told to stop, or are cut off.
struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<tokio::task::JoinHandle<Vec<Seen>>>,
}

impl Load {
    fn start(url: &str, seed: u64) -> Self {
        let stop = Arc::<AtomicBool>::default();
        let http = client();
        let clients = (0..CLIENTS as u64)
            .map(|n| {
                let (url, stop, http) = (url.to_owned(), stop.clone(), http.clone());
                let dice = fastrand::Rng::with_seed(seed ^ (n << 32));
                tokio::spawn(async move { call_on(&http, &url, dice, &stop).await })
            })
            .collect();
        Self { stop, clients }
    }

    async fn seen(self) -> Vec<Seen> {
        self.stop.store(true, Ordering::SeqCst);
        let mut seen = Vec::new();
        for client in self.clients {
            seen.extend(client.await.unwrap());
        }
        seen
    }
}

async fn call_on(http: &reqwest::Client, url: &str, mut dice: fastrand::Rng, stop: &AtomicBool) -> Vec<Seen> {
    let mut seen = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let stream = dice.bool();
        let mut body = match dice.u8(..) % 12 {
            0 => chat_with("[[400]]", stream),
            _ => chat(stream),
        };
        if stream && dice.bool() {
            body["stream_options"] = serde_json::json!({"include_usage": true});
        }
        let end = match call(http, url, &body).await {
            Ok((200, text)) if stream && text.contains("data: [DONE]") => End::Success,
            // Broken off by the provider, which keytide told us.
            Ok((200, text)) if stream => {
                assert!(text.contains("\"error\""), "a stream ended without an end: {text}");
                End::Failure
            }
            Ok((200, _)) => End::Success,
            Ok((400 | 429 | 500..=599, _)) => End::Failure,
            Ok((status, text)) => panic!("status {status}: {text}"),
            Err(_) => End::Cut,
        };
        seen.push(Seen { at: Instant::now(), end });
        if end == End::Cut {
            break;
        }
    }
    seen
}

async fn call(
    http: &reqwest::Client,
    url: &str,
    body: &serde_json::Value,
) -> Result<(u16, String), reqwest::Error> {
    let request = http.post(format!("{url}/v1/chat/completions")).bearer_auth(TOKEN).json(body);
    let answer = request.timeout(PATIENCE).send().await?;
    let status = answer.status().as_u16();
    Ok((status, answer.text().await?))
}

fn count(seen: &[Seen], wanted: impl Fn(&Seen) -> bool) -> u64 {
    seen.iter().filter(|one| wanted(one)).count() as u64
}

/// A round's truth must lie between what is certainly counted and what can have been counted at all.
fn check_round(before: &Truth, after: &Truth, seen: &[Seen], certain: impl Fn(&Seen) -> bool) {
    let cut = count(seen, |one| one.end == End::Cut);
    let answered = seen.len() as u64 - cut;
    let (old, new) = (before.total.counts, after.total.counts);
    let delta = Counts {
        success: new.success - old.success,
        failure: new.failure - old.failure,
        other: new.other - old.other,
    };
    for (end, counted) in [(End::Success, delta.success), (End::Failure, delta.failure)] {
        let least = count(seen, |one| one.end == end && certain(one));
        let most = count(seen, |one| one.end == end) + cut;
        assert!((least..=most).contains(&counted), "{end:?}: {least} ≤ {counted} ≤ {most} does not hold");
    }
    assert!(delta.other <= cut, "no caller left, yet {delta:?} with {cut} cut off");
    let certain = count(seen, |one| one.end != End::Cut && certain(one));
    let (least, most) = (certain, answered + cut);
    assert!((least..=most).contains(&delta.total()), "requests: {least} ≤ {delta:?} ≤ {most}");

    let (mut booked, mut made) = (0, 0);
    for (key, (counts, attempts)) in &after.keys {
        let (old_counts, old_attempts) = before.keys[key];
        let (counted, seen) = (counts.total() - old_counts.total(), attempts - old_attempts);
        assert!(counted <= seen, "{key}: {counted} attempts in the books, {seen} at the provider");
        booked += counted;
        made += seen;
    }
    // Requests whose counts may be missing, each with all of its attempts.
    let open = most - certain;
    assert!(made - booked <= open * ATTEMPTS, "attempts: {booked} of {made}, {open} requests may be missing");
}

async fn rounds_of(durability: Durability) {
    let world = World::new(durability).await;
    let commit = slowest_commit().await;
    println!("a commit takes up to {commit:?} here");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut dice = fastrand::Rng::with_seed(seed);
    let mut before = world.truth().await;
    let (mut answered, mut possible) = (0, 0);
    for round in 0..rounds() {
        let (process, url) = Process::start(&world.home).await;
        let started = Instant::now();
        let load = Load::start(&url, dice.u64(..));
        // Now and then long enough to hit the moment of a fold.
        let span = match round % 8 {
            7 => FOLD + Duration::from_millis(dice.u64(0..100)),
            _ => Duration::from_millis(dice.u64(50..400)),
        };
        tokio::time::sleep_until(started + span).await;
        let killed = Instant::now();
        process.kill();
        let seen = load.seen().await;
        let after = world.truth().await;
        let cut = count(&seen, |one| one.end == End::Cut);
        println!("round {round}: {span:?}, {} requests, {cut} cut, {:?}", seen.len(), after.total.counts);
        check_round(&before, &after, &seen, |one| match durability {
            Durability::Strict => true,
            // A flush is counted from the end of the one before, and takes a commit itself.
            Durability::Relaxed => one.at + FLUSH_INTERVAL + 2 * commit + SLACK <= killed,
        });
        answered += seen.len() as u64 - cut;
        possible += seen.len() as u64;
        before = after;
    }
    let total = before.total.counts.total();
    assert!(total <= possible, "{total} requests in the books, {possible} were made");
    if durability == Durability::Strict {
        assert!(total >= answered, "{total} requests in the books, {answered} were answered");
    }
    let tried: u64 = before.keys.values().map(|(counts, _)| counts.failure).sum();
    assert!(tried > 0 || rounds() < 2, "no key ever failed: this tests too little");
    clean_end(&world, before, dice.u64(..)).await;
}

/// SIGTERM under load: nothing that was answered is missing, and nothing else is there.
async fn clean_end(world: &World, before: Truth, seed: u64) {
    let (mut process, url) = Process::start(&world.home).await;
    let load = Load::start(&url, seed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(0));
    let seen = load.seen().await;
    let after = world.truth().await;
    let (old, new) = (before.total.counts, after.total.counts);
    assert_eq!(new.success - old.success, count(&seen, |one| one.end == End::Success));
    assert_eq!(new.failure - old.failure, count(&seen, |one| one.end == End::Failure));
    assert_eq!(new.other, old.other);
    for (key, (counts, attempts)) in &after.keys {
        let (old_counts, old_attempts) = before.keys[key];
        assert_eq!(counts.total() - old_counts.total(), attempts - old_attempts, "attempts of {key}");
    }
    let tokens = |usage: &Usage| (usage.prompt_tokens, usage.completion_tokens);
    let (old, new) = (tokens(&before.total), tokens(&after.total));
    let reported = (after.reported.0 - before.reported.0, after.reported.1 - before.reported.1);
    assert_eq!((new.0 - old.0, new.1 - old.1), reported, "tokens");
    println!("clean end: {} requests", seen.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_books_survive_every_kill() {
    rounds_of(Durability::Strict).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relaxed_books_lose_one_interval_at_most() {
    rounds_of(Durability::Relaxed).await;
}

/// A store whose journal is long: copied while it is open, as a kill would leave it.
async fn unfolded(keys: u32) -> tempfile::TempDir {
    let (dir, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (store, _) = Store::open(&store::Options::new(dir.path()), Timestamp(0)).unwrap();
    let used = KeyUsage { counts: Counts::SUCCESS, ..KeyUsage::default() };
    let asked = Usage { counts: Counts { success: keys.into(), ..Counts::default() }, ..Usage::default() };
    // Within what is kept of hours, whenever this runs.
    let hour = Hour::of(keytide::model::Clock::System.now());
    let provider = ProviderDelta {
        keys: (0..keys).map(|key| (KeyId::derive("ollama", &key.to_string()), used)).collect(),
        hours: [((hour, "demo-small".into()), asked)].into(),
        ..ProviderDelta::default()
    };
    let delta = Delta { providers: [("ollama".into(), provider)].into(), ..Delta::default() };
    for _ in 0..4 {
        store.append(delta.clone()).await.unwrap();
    }
    copy_store(dir.path(), copy.path());
    store.close().await.unwrap();
    copy
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_during_a_start_change_nothing() {
    let pristine = unfolded(2_000).await;
    let report = offline::check(pristine.path()).unwrap();
    assert!(report.journal_entries > 0, "nothing is left to fold: {report:?}");
    let expected = contents(pristine.path(), false).await;
    let upstream = Upstream::start(UpstreamOptions::default()).await.unwrap();
    let home = Home::new(&config(&upstream, Durability::Relaxed));
    copy_store(pristine.path(), &home.data());
    // How long a whole start takes here, so that kills fall into all of it.
    let begun = Instant::now();
    let (process, _) = Process::start(&home).await;
    let whole = begun.elapsed();
    process.kill();
    assert!(contents(&home.data(), false).await == expected, "a whole start has changed the books");
    let mut folded = 0;
    for round in 0..rounds() * 2 {
        // From where the last kill left it, and now and then from the beginning.
        if round % 3 == 0 {
            copy_store(pristine.path(), &home.data());
        }
        let process = Process::spawn(&home);
        tokio::time::sleep(whole.mul_f64(fastrand::f64() * 1.1)).await;
        process.kill();
        folded += u64::from(offline::check(&home.data()).unwrap().journal_entries == 0);
        assert!(contents(&home.data(), false).await == expected, "round {round} has changed the books");
    }
    println!("a start takes {whole:?}; {folded} of {} kills came after its fold", rounds() * 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_during_the_first_start_leave_a_folder_that_starts() {
    let upstream = Upstream::start(UpstreamOptions::default()).await.unwrap();
    let fresh = || Home::new(&config(&upstream, Durability::Relaxed));
    let begun = Instant::now();
    drop(Process::start(&fresh()).await);
    let whole = begun.elapsed();
    for round in 0..rounds() {
        let home = fresh();
        std::fs::remove_dir(home.data()).unwrap();
        // Twice, so that the second finds what the first one left.
        for _ in 0..2 {
            let process = Process::spawn(&home);
            tokio::time::sleep(whole.mul_f64(fastrand::f64())).await;
            process.kill();
        }
        let (mut process, _) = Process::start(&home).await;
        process.signal("TERM");
        assert_eq!(process.ended().await.code(), Some(0), "after round {round}");
        assert!(offline::check(&home.data()).unwrap().is_sound(), "after round {round}");
    }
}
