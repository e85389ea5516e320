//! Many callers, many failures, and sums that agree to the last request.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::join_all};
use keytide::{
    demo::upstream::{Behaviour, Reset, Upstream, UpstreamOptions},
    ledger::ProviderBooks,
    model::{Clock, Counts, KeyId, Timestamp},
    store::Durability,
};
use serde_json::{Value, json};

use crate::harness::{Keytide, Setup};

const CHAT: &str = "/v1/chat/completions";
const ROUTER: &str = "sk-router-0123456789";
const CALLERS: u64 = 64;
const EACH: u64 = 47;
const GOOD_KEYS: usize = 16;
const BAD_KEYS: usize = 8;

/// Every way to fail, with the kind that each is counted as at the key.
fn ways() -> Vec<(Behaviour, Counts)> {
    use Behaviour as B;
    let (good, bad, fault) = (Counts::SUCCESS, Counts::FAILURE, Counts::OTHER);
    vec![
        (B::status(500), bad),
        (B::Dead, bad),
        (B::Good, good),
        (B::status(400), fault),
        (B::RateLimited(Reset::Unsaid), bad),
        (B::Refuse, bad),
        (B::ErrorIn200 { code: 400 }, fault),
        (B::Gzip, good),
        (B::Hang, bad),
        (B::ErrorIn200 { code: 429 }, bad),
        (B::ErrorMidStream { after: 3, code: 502 }, bad),
        (B::BrokenStream { after: 2 }, bad),
        (B::status(422), fault),
        (B::Forbidden, bad),
        (B::Good, good),
        (B::QuotaUsed { resets_in: Duration::from_secs(600) }, bad),
        (B::BrokenLength, bad),
        (B::RateLimited(Reset::Seconds(30)), bad),
        (B::ErrorIn200 { code: 502 }, bad),
        (B::BrokenStream { after: 0 }, bad),
        (B::status(404), fault),
        (B::Stall { after: 2 }, bad),
        (B::ErrorIn200 { code: 401 }, bad),
        (B::Good, good),
        (B::RateLimited(Reset::HttpDate(Duration::from_secs(90))), bad),
        (B::status(408), bad),
        (B::ErrorMidStream { after: 2, code: 429 }, bad),
        (B::ErrorIn200 { code: 402 }, bad),
        (B::status(529), bad),
    ]
}

fn question(caller: u64, n: u64) -> Value {
    let stream = (caller + n).is_multiple_of(2);
    let model = ["demo-small", "demo-large", "demo/tools"][(n % 3) as usize];
    let mut body = json!({"model": model,
        "stream": stream, "messages": [{"role": "user", "content": format!("{caller} asks about tide {n}")}]});
    if stream && n % 4 < 2 {
        body["stream_options"] = json!({"include_usage": true});
    }
    body
}

/// What one caller saw, as the table has it: success or failure, and nothing else.
async fn ask(keytide: &Keytide, body: &Value) -> bool {
    let answer = keytide.post(CHAT, body).await;
    let status = answer.status().as_u16();
    let gzip = answer.headers().get("content-encoding").is_some_and(|value| value == "gzip");
    let bytes = answer.bytes().await.unwrap_or_else(|error| panic!("{status}, then {error}"));
    let mut text = String::new();
    if gzip {
        std::io::Read::read_to_string(&mut flate2::read::GzDecoder::new(&*bytes), &mut text).unwrap();
    } else {
        text = String::from_utf8(bytes.to_vec()).unwrap();
    }
    let failed = text.contains("\"error\":{\"");
    match (status, body["stream"].as_bool().unwrap()) {
        (200, true) if !failed => assert!(text.ends_with("data: [DONE]\n\n"), "{text}"),
        (200, false) if !failed => assert!(text.contains("\"choices\""), "{text}"),
        (200, _) => assert!(failed, "{text}"),
        (400 | 404 | 408 | 422 | 429 | 500 | 502 | 503 | 504 | 529, _) => {
            let error: Value = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{status} {text:?}"));
            assert!(error["error"]["message"].is_string(), "{status} {text}");
        }
        _ => panic!("{status} {text}"),
    }
    status == 200 && !failed
}

/// Asks another provider, whose answers never end, and leaves at some moment of it.
async fn ask_and_leave(keytide: &Keytide, moment: u64) {
    let url = format!("{}/openrouter{CHAT}", keytide.url);
    let request = keytide.client.post(url).bearer_auth(ROUTER).json(&question(0, 0)).send();
    let mut stream = request.await.unwrap().bytes_stream();
    // Events may come together: no more than the first piece is sure to come.
    for _ in 0..moment % 2 {
        stream.next().await.unwrap().unwrap();
    }
}

struct Sums {
    books: ProviderBooks,
    left: ProviderBooks,
}

fn read(keytide: &Keytide) -> Sums {
    Sums { books: keytide.books("ollama"), left: keytide.books("openrouter") }
}

async fn under_load(durability: Durability) {
    let begun = Instant::now();
    let clock = Clock::manual(Timestamp(1_790_000_000_000));
    let options = UpstreamOptions {
        clock: clock.clone(),
        prefixes: false,
        keep_requests: 0,
        ..UpstreamOptions::default()
    };
    let upstream = Upstream::start(options).await.unwrap();
    let ways = ways();
    let good: Vec<_> = (0..GOOD_KEYS).map(|n| format!("steady-key-{n}-0123456789")).collect();
    let bad: Vec<_> = (0..BAD_KEYS).map(|n| format!("moody-key-{n}-0123456789")).collect();
    let mut cycles = BTreeMap::new();
    for (n, key) in bad.iter().enumerate() {
        // Each begins elsewhere, so that all ways are met soon.
        let mut cycle = ways.clone();
        cycle.rotate_left(n * ways.len() / BAD_KEYS);
        upstream
            .set_behaviour(key.as_str(), Behaviour::Cycle(cycle.iter().map(|way| way.0.clone()).collect()));
        cycles.insert(key.clone(), cycle);
    }
    let leavers = "endless-key-0123456789";
    upstream.set_behaviour(leavers, Behaviour::Stall { after: 4 });
    let keys: Vec<&str> = good.iter().chain(&bad).map(String::as_str).collect();
    let mut setup = Setup::new(&upstream, "").keys("ollama", &keys).keys("openrouter", &[leavers]).token(
        "openrouter",
        ROUTER,
        |_| {},
    );
    setup.clock = clock.clone();
    setup.config.store.durability = durability;
    let ollama = setup.config.providers.get_mut("ollama").unwrap();
    ollama.upstream.first_byte_timeout = Duration::from_millis(400);
    ollama.upstream.idle_timeout = Duration::from_millis(400);
    ollama.gateway.retry_backoff = Duration::from_millis(1);
    let keytide = setup.start().await;

    // An hour every few requests, so that keys that cool are soon back.
    let asked = AtomicU64::new(0);
    let succeeded = Arc::new(AtomicU64::new(0));
    let left = AtomicU64::new(0);
    let callers = (0..CALLERS).map(|caller| {
        let (keytide, clock, asked, succeeded, left) = (&keytide, &clock, &asked, &succeeded, &left);
        async move {
            for n in 0..EACH {
                if (caller + n) % 16 == 0 {
                    ask_and_leave(keytide, caller + n / 3).await;
                    left.fetch_add(1, Ordering::Relaxed);
                }
                if asked.fetch_add(1, Ordering::Relaxed) % 8 == 0 {
                    clock.advance(Duration::from_secs(3600));
                }
                if ask(keytide, &question(caller, n)).await {
                    succeeded.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    });
    join_all(callers).await;
    let asked = asked.load(Ordering::Relaxed);
    let succeeded = succeeded.load(Ordering::Relaxed);
    let left = left.load(Ordering::Relaxed);
    assert_eq!(asked, CALLERS * EACH);
    keytide.settled("ollama", asked).await;
    keytide.settled("openrouter", left).await;
    let tally = upstream.tally();
    tokio::time::timeout(Duration::from_secs(10), tally.idle()).await.expect("nothing is left behind");

    let check = |sums: &Sums, when: &str| {
        let books = &sums.books;
        // Requests are what the callers saw.
        let seen = Counts { success: succeeded, failure: asked - succeeded, other: 0 };
        assert_eq!(books.total.counts, seen, "{when}");
        let mut of_tokens = Counts::default();
        books.tokens.values().for_each(|usage| of_tokens.add(&usage.counts));
        let mut of_models = Counts::default();
        books.models.values().for_each(|usage| of_models.add(&usage.counts));
        assert_eq!((of_tokens, of_models), (seen, seen), "{when}");
        // Attempts are what the provider saw.
        for key in &keys {
            let counts = books.keys[&KeyId::derive("ollama", key)].counts;
            let told = tally.sum(|of, at| of == *key && at == CHAT);
            assert_eq!(counts.total(), told.attempts, "{when}: {key}");
            assert_eq!(counts.success, told.completed, "{when}: {key}");
            let expected = match cycles.get(*key) {
                None => Counts { success: told.attempts, ..Counts::default() },
                Some(cycle) => {
                    let mut expected = Counts::default();
                    let turns = usize::try_from(told.attempts).unwrap();
                    cycle.iter().cycle().take(turns).for_each(|(_, counts)| expected.add(counts));
                    expected
                }
            };
            assert_eq!(counts, expected, "{when}: {key}");
        }
        let reported = tally.sum(|of, at| of != leavers && at == CHAT).reported;
        assert_eq!(
            (books.total.prompt_tokens, books.total.completion_tokens),
            (reported.prompt, reported.completion),
            "{when}"
        );
        let others = Counts { other: left, ..Counts::default() };
        assert_eq!(sums.left.total.counts, others, "{when}");
        assert_eq!(sums.left.keys[&KeyId::derive("openrouter", leavers)].counts, others, "{when}");
        assert_eq!((tally.key(leavers).attempts, tally.key(leavers).cancelled), (left, left));
    };
    check(&read(&keytide), "at the end");
    let counts = keytide.app.pool("ollama").unwrap().counts(clock.now());
    assert_eq!(counts.in_flight, 0);
    // Every way was met by somebody, or this proves little.
    let turns: u64 = bad.iter().map(|key| tally.key(key).attempts).sum();
    assert!(turns > ways.len() as u64 * 4, "only {turns} attempts with failing keys");
    let keytide = keytide.restart().await;
    check(&read(&keytide), "after a restart");
    keytide.stop().await;
    println!("{durability:?}: {asked} requests, {turns} attempts with failing keys, {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_agree_exactly() {
    under_load(Durability::Relaxed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sums_agree_exactly_when_every_answer_waits_for_its_commit() {
    under_load(Durability::Strict).await;
}
