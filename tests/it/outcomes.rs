//! The outcome table: what every answer of a provider does to the key, to the books and to the caller.

use std::{collections::BTreeMap, time::Duration};

use futures_util::{StreamExt, future::join_all};
use keytide::{
    demo::upstream::{Behaviour, Reset, StatusReply, Tally, Upstream, UpstreamOptions},
    model::{Cause, Clock, Counts, KeyId, Status, Timestamp},
    pool::KeyView,
};
use serde_json::{Value, json};

use crate::{
    harness::{Keytide, Setup, TOKEN, chat, chat_with, config, error_code},
    scripted::{PATIENCE, Scripted},
};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "the-only-key-0123456789abcdef";
/// On a whole second, as HTTP's dates are.
const START: Timestamp = Timestamp(1_790_000_000_000);
const HOUR: u64 = 3600;

/// An upstream that shares its clock with the keytide in front of it.
async fn timed() -> (Upstream, Clock) {
    let clock = Clock::manual(START);
    let options = UpstreamOptions { clock: clock.clone(), prefixes: false, ..UpstreamOptions::default() };
    (Upstream::start(options).await.unwrap(), clock)
}

fn setup(upstream: &Upstream, clock: &Clock, extra: &str) -> Setup {
    let mut setup = Setup::new(upstream, extra).token("openrouter", "sk-router-0123456789", |_| {});
    setup.clock = clock.clone();
    for provider in setup.config.providers.values_mut() {
        provider.upstream.first_byte_timeout = Duration::from_millis(300);
        provider.gateway.retry_backoff = Duration::from_millis(1);
    }
    setup
}

impl Keytide {
    fn key(&self, provider: &str, key: &str) -> KeyView {
        let pool = self.app.pool(provider).unwrap();
        pool.get(KeyId::derive(provider, key), self.clock.now()).unwrap()
    }

    fn key_counts(&self, provider: &str, key: &str) -> Counts {
        let books = self.books(provider);
        books.keys.get(&KeyId::derive(provider, key)).map(|usage| usage.counts).unwrap_or_default()
    }

    async fn ask_of(&self, provider: &str, body: &Value) -> reqwest::Response {
        let token = if provider == "openrouter" { "sk-router-0123456789" } else { TOKEN };
        self.post_as(token, &format!("/{provider}{CHAT}"), body).await
    }
}

/// What one line of the table says.
#[derive(Clone, Copy, Debug)]
struct Line {
    /// The key's cooldown in seconds, and why.
    cooldown: Option<(u64, Cause)>,
    attempt: Counts,
    request: Counts,
    /// What the caller reads when there is no other key: status, and code where it is ours.
    caller: (u16, &'static str),
}

const SERVED: Line =
    Line { cooldown: None, attempt: Counts::SUCCESS, request: Counts::SUCCESS, caller: (200, "") };

const fn fault(status: u16) -> Line {
    Line { cooldown: None, attempt: Counts::OTHER, request: Counts::FAILURE, caller: (status, "") }
}

const fn failure(seconds: u64, cause: Cause, status: u16, code: &'static str) -> Line {
    Line {
        cooldown: Some((seconds, cause)),
        attempt: Counts::FAILURE,
        request: Counts::FAILURE,
        caller: (status, code),
    }
}

const LIMITED: &str = "rate_limit_exceeded";

fn lines() -> Vec<(&'static str, Behaviour, [Line; 2])> {
    use Behaviour as B;
    let both = |line: Line| [line, line];
    let limited = |seconds| both(failure(seconds, Cause::RateLimit, 429, LIMITED));
    let auth = failure(HOUR, Cause::Auth, 503, "keys_rejected");
    let broken = failure(5, Cause::Server, 502, "upstream_broken");
    // A stream that has begun can only end with an event.
    let late = failure(5, Cause::Server, 200, "upstream_broken");
    let secs = Duration::from_secs;
    let mut lines = vec![
        ("good", B::Good, both(SERVED)),
        ("gzip", B::Gzip, both(SERVED)),
        ("401", B::Dead, both(auth)),
        (
            "402 with a reset",
            B::QuotaUsed { resets_in: secs(7200) },
            both(failure(7200, Cause::Quota, 429, LIMITED)),
        ),
        ("402", B::status(402), both(failure(6 * HOUR, Cause::Quota, 429, LIMITED))),
        ("429", B::RateLimited(Reset::Unsaid), limited(60)),
        ("429 seconds", B::RateLimited(Reset::Seconds(30)), limited(30)),
        ("429 date", B::RateLimited(Reset::HttpDate(secs(90))), limited(90)),
        ("429 epoch", B::RateLimited(Reset::EpochMillis(secs(45))), limited(45)),
        ("408", B::status(408), limited(60)),
        ("425", B::status(425), limited(60)),
        ("refuse", B::Refuse, both(broken)),
        ("hang", B::Hang, both(failure(5, Cause::Server, 504, "upstream_timeout"))),
        ("error 400 in 200", B::ErrorIn200 { code: 400 }, both(fault(200))),
        ("error 401 in 200", B::ErrorIn200 { code: 401 }, both(auth)),
        (
            "error 402 in 200",
            B::ErrorIn200 { code: 402 },
            both(failure(6 * HOUR, Cause::Quota, 429, LIMITED)),
        ),
        ("error 429 in 200", B::ErrorIn200 { code: 429 }, limited(60)),
        (
            "error 502 in 200",
            B::ErrorIn200 { code: 502 },
            both(failure(5, Cause::Server, 502, "upstream_error")),
        ),
        ("broken at once", B::BrokenStream { after: 0 }, both(broken)),
        ("broken", B::BrokenStream { after: 3 }, [broken, late]),
        ("broken length", B::BrokenLength, [broken, late]),
        ("late 400", B::ErrorMidStream { after: 3, code: 400 }, both(fault(200))),
        ("late 401", B::ErrorMidStream { after: 3, code: 401 }, [auth, failure(HOUR, Cause::Auth, 200, "")]),
        (
            "late 429",
            B::ErrorMidStream { after: 3, code: 429 },
            [failure(60, Cause::RateLimit, 429, LIMITED), failure(60, Cause::RateLimit, 200, "")],
        ),
        (
            "late 502",
            B::ErrorMidStream { after: 3, code: 502 },
            [failure(5, Cause::Server, 502, "upstream_error"), failure(5, Cause::Server, 200, "")],
        ),
    ];
    for status in [500, 502, 503, 504, 529, 599] {
        lines.push(("5xx", B::status(status), both(failure(5, Cause::Server, status, ""))));
    }
    for status in [400, 404, 405, 409, 413, 415, 422] {
        lines.push(("4xx", B::status(status), both(fault(status))));
    }
    lines
}

/// A JSON error, or the one that a stream ended with.
fn error_of(text: &str) -> Value {
    let last =
        text.lines().rev().filter_map(|line| line.strip_prefix("data: ")).find(|data| *data != "[DONE]");
    serde_json::from_str(last.unwrap_or(text)).unwrap_or_else(|_| panic!("no JSON in {text:?}"))
}

async fn check_lines(provider: &str, lines: Vec<(&'static str, Behaviour, [Line; 2])>) {
    let (upstream, clock) = timed().await;
    let keytide = setup(&upstream, &clock, "").keys(provider, &[KEY]).start().await;
    let mut requests = Counts::default();
    let mut attempts = Counts::default();
    for (name, behaviour, expected) in lines {
        for (stream, line) in [false, true].into_iter().zip(expected) {
            let what = format!("{provider}, {name}, {behaviour:?}, stream {stream}");
            let before = upstream.tally().total().attempts;
            upstream.set_behaviour(KEY, behaviour.clone());
            let answer = keytide.ask_of(provider, &chat(stream)).await;
            assert!(answer.headers().contains_key("x-request-id"), "{what}");
            let (status, code) = line.caller;
            assert_eq!(answer.status(), status, "{what}");
            let retry_after = answer.headers().get("retry-after").cloned();
            let gzip = answer.headers().contains_key("content-encoding");
            let body = answer.bytes().await.unwrap();
            assert_eq!(gzip, behaviour == Behaviour::Gzip, "{what}");
            if status != 200 || line.attempt != Counts::SUCCESS {
                let error = error_of(std::str::from_utf8(&body).unwrap());
                assert!(error["error"]["message"].is_string(), "{what}: {error}");
                if !code.is_empty() {
                    assert_eq!(error["error"]["code"], code, "{what}");
                }
            }
            requests.add(&line.request);
            attempts.add(&line.attempt);
            let books = keytide.settled(provider, requests.total()).await;
            assert_eq!(books.total.counts, requests, "{what}");
            assert_eq!(keytide.key_counts(provider, KEY), attempts, "{what}");
            // Never twice with the same key.
            assert_eq!(upstream.tally().total().attempts, before + 1, "{what}");
            let view = keytide.key(provider, KEY);
            match line.cooldown {
                None => {
                    assert_eq!((view.status, view.health.failed_until), (Status::Active, None), "{what}");
                }
                Some((seconds, cause)) => {
                    let until = clock.now().saturating_add(Duration::from_secs(seconds));
                    assert_eq!(
                        (view.status, view.health.failed_until, view.health.cause),
                        (Status::Failed, Some(until), cause),
                        "{what}"
                    );
                    assert_eq!(view.health.consecutive_failures, 1, "{what}");
                    if status == 429 {
                        assert_eq!(retry_after.unwrap(), seconds.to_string().as_str(), "{what}");
                    }
                    clock.advance(Duration::from_secs(seconds));
                }
            }
            // Back by itself, and a success wipes the slate.
            upstream.set_behaviour(KEY, Behaviour::Good);
            let answer = keytide.ask_of(provider, &chat(stream)).await;
            assert_eq!(answer.status(), 200, "after {what}");
            answer.bytes().await.unwrap();
            requests.add(&Counts::SUCCESS);
            attempts.add(&Counts::SUCCESS);
            keytide.settled(provider, requests.total()).await;
            let view = keytide.key(provider, KEY);
            assert_eq!((view.status, view.health.consecutive_failures), (Status::Active, 0), "{what}");
            assert_eq!(view.in_flight, 0, "{what}");
        }
    }
    let tally = upstream.tally().total();
    let books = keytide.books(provider);
    assert_eq!(books.total.prompt_tokens, tally.reported.prompt);
    assert_eq!(books.total.completion_tokens, tally.reported.completion);
    assert_eq!(tally.attempts, attempts.total());
    keytide.stop().await;
}

#[tokio::test]
async fn every_line_of_the_table() {
    let mut all = lines();
    let auth = failure(HOUR, Cause::Auth, 503, "keys_rejected");
    all.push(("403", Behaviour::Forbidden, [auth, auth]));
    check_lines("ollama", all).await;
}

#[tokio::test]
async fn every_line_of_the_table_where_403_is_moderation() {
    let mut all = lines();
    all.push(("403", Behaviour::Forbidden, [fault(403), fault(403)]));
    check_lines("openrouter", all).await;
}

#[tokio::test]
async fn answers_are_passed_on_byte_for_byte() {
    let mut upstream = Scripted::start().await;
    let keytide = setup_for(&upstream.base_url()).keys("ollama", &[KEY]).start().await;
    let request = chat(false);
    let error = "{ \"error\" : {\"message\":\"caf\\u00e9 – no\",\n\"code\":null} }";
    let served = "{ \"choices\" : [],\n \"usage\":{\"prompt_tokens\":1, \"completion_tokens\":2}}\n";
    for (status, body) in
        [(400, error), (422, error), (404, "plain"), (413, ""), (200, served), (201, served)]
    {
        let (answer, ()) = tokio::join!(keytide.post(CHAT, &request), async {
            upstream
                .next()
                .await
                .answer(status, "content-type: application/json\r\nx-more: 1\r\n", body)
                .await;
        });
        assert_eq!(
            (answer.status().as_u16(), answer.headers()["x-more"].as_bytes()),
            (status, b"1".as_slice())
        );
        assert_eq!(answer.text().await.unwrap(), body);
    }
    // Nothing to read is an answer too.
    for (status, counts) in [(204, Counts::SUCCESS), (304, Counts::FAILURE)] {
        let before = keytide.books("ollama").total.counts;
        let (answer, ()) = tokio::join!(keytide.post(CHAT, &request), async {
            let text = format!("HTTP/1.1 {status} X\r\nconnection: close\r\n\r\n");
            upstream.next().await.write(text.as_bytes()).await;
        });
        assert_eq!(answer.status(), status);
        assert_eq!(answer.text().await.unwrap(), "");
        let mut expected = before;
        expected.add(&counts);
        let after = keytide.settled("ollama", expected.total()).await;
        assert_eq!(after.total.counts, expected, "{status}");
    }
    keytide.stop().await;
}

/// As [`Setup::new`], for a provider of another kind.
fn setup_for(base: &str) -> Setup {
    let toml = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\nshutdown_timeout = \"5s\"\n\
         [providers.ollama]\nbase_url = \"{base}\"\nretry_backoff = \"1ms\"\n\
         [providers.openrouter]\nbase_url = \"{base}\"\nretry_backoff = \"1ms\"\n"
    );
    Setup::with(config(&toml))
}

#[tokio::test]
async fn the_ladder_of_refusals_ends_with_a_probe() {
    let (upstream, clock) = timed().await;
    let keytide = setup(&upstream, &clock, "").keys("ollama", &[KEY]).start().await;
    upstream.set_behaviour(KEY, Behaviour::Dead);
    let mut hours = Vec::new();
    for n in 1..=5u32 {
        assert_eq!(error_code(keytide.post(CHAT, &chat(false)).await).await.1, "keys_rejected");
        let health = keytide.key("ollama", KEY).health;
        assert_eq!((health.auth_failures, health.consecutive_failures), (n, n));
        let span = health.failed_until.unwrap().since(clock.now());
        hours.push((span.as_secs() / HOUR, health.needs_verification));
        if !health.needs_verification {
            clock.advance(span);
        }
    }
    assert_eq!(hours, [(1, false), (1, false), (6, false), (24, false), (24, true)]);
    // Time alone does not bring it back: every probe finds it dead.
    let attempts = upstream.tally().endpoint(CHAT).attempts;
    clock.advance(Duration::from_secs(365 * 24 * HOUR));
    let (status, code) = error_code(keytide.post(CHAT, &chat(false)).await).await;
    assert_eq!((status, code.as_str()), (503, "no_available_keys"));
    assert_eq!(upstream.tally().endpoint(CHAT).attempts, attempts);
    // A probe that succeeds does. A start looks for keys that are due at once, and remembers that this one is.
    upstream.set_behaviour(KEY, Behaviour::Good);
    let keytide = keytide.restart().await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while keytide.key("ollama", KEY).status != Status::Active {
        assert!(tokio::time::Instant::now() < deadline, "no probe came");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    keytide.stop().await;
}

#[tokio::test]
async fn server_failures_double_their_pause() {
    let (upstream, clock) = timed().await;
    let keytide = setup(&upstream, &clock, "").keys("ollama", &[KEY]).start().await;
    upstream.set_behaviour(KEY, Behaviour::status(503));
    let mut pauses = Vec::new();
    for _ in 0..8 {
        assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 503);
        let health = keytide.key("ollama", KEY).health;
        assert!(!health.needs_verification);
        let span = health.failed_until.unwrap().since(clock.now());
        pauses.push(span.as_secs());
        clock.advance(span);
    }
    assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 300, 300]);
    keytide.stop().await;
}

#[tokio::test]
async fn an_unreachable_provider_is_told_apart() {
    // A port that was free a moment ago, and is nobody's now.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", free.local_addr().unwrap());
    drop(free);
    let keytide = setup_for(&base).keys("ollama", &[KEY]).start().await;
    for stream in [false, true] {
        let (status, code) = error_code(keytide.post(CHAT, &chat(stream)).await).await;
        let expected = if stream { (503, "no_available_keys") } else { (502, "upstream_unreachable") };
        assert_eq!((status, code.as_str()), expected);
    }
    let books = keytide.settled("ollama", 2).await;
    assert_eq!(books.total.counts.failure, 2);
    assert_eq!(keytide.key_counts("ollama", KEY), Counts::FAILURE);
    assert_eq!(keytide.key("ollama", KEY).health.cause, Cause::Server);
    keytide.stop().await;
}

const MANY: [&str; 6] = [
    "key-a-0123456789",
    "key-b-0123456789",
    "key-c-0123456789",
    "key-d-0123456789",
    "key-e-0123456789",
    "key-f-0123456789",
];

fn most_per_key(tally: &Tally) -> u64 {
    tally.keys().values().map(|count| count.attempts).max().unwrap_or(0)
}

#[tokio::test]
async fn as_many_keys_as_configured_and_none_twice() {
    for (max, tried) in [(1, 1), (3, 3), (10, 6)] {
        for behaviour in
            [Behaviour::status(500), Behaviour::Dead, Behaviour::Refuse, Behaviour::ErrorIn200 { code: 502 }]
        {
            let (upstream, clock) = timed().await;
            upstream.set_default(behaviour.clone());
            let mut setup = setup(&upstream, &clock, "").keys("ollama", &MANY);
            setup.config.providers.get_mut("ollama").unwrap().gateway.max_attempts = max;
            let keytide = setup.start().await;
            let answer = keytide.post(CHAT, &chat(true)).await;
            assert!(answer.status().is_server_error(), "{behaviour:?}");
            let books = keytide.settled("ollama", 1).await;
            assert_eq!(books.total.counts, Counts::FAILURE);
            let failures: u64 = books.keys.values().map(|usage| usage.counts.failure).sum();
            assert_eq!(failures, tried, "{behaviour:?}, max_attempts {max}");
            assert_eq!((upstream.tally().total().attempts, most_per_key(&upstream.tally())), (tried, 1));
            keytide.stop().await;
        }
    }
}

/// Where a failure cools nothing, only the request's own memory keeps it from coming back to a key.
#[tokio::test]
async fn a_key_that_could_be_picked_again_is_not() {
    let (upstream, clock) = timed().await;
    upstream.set_default(Behaviour::status(500));
    let mut setup = setup(&upstream, &clock, "").keys("ollama", &MANY[..2]);
    let ollama = setup.config.providers.get_mut("ollama").unwrap();
    ollama.gateway.max_attempts = 10;
    (ollama.pool.policy.server_first, ollama.pool.policy.server_max) = (Duration::ZERO, Duration::ZERO);
    let keytide = setup.start().await;
    for n in 1..=3 {
        assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 500);
        assert_eq!((upstream.tally().total().attempts, most_per_key(&upstream.tally())), (2 * n, n));
    }
    keytide.stop().await;
}

#[tokio::test]
async fn another_key_serves_what_the_first_ones_could_not() {
    use Behaviour as B;
    for behaviour in [
        B::status(500),
        B::status(408),
        B::Dead,
        B::Forbidden,
        B::QuotaUsed { resets_in: Duration::from_secs(60) },
        B::RateLimited(Reset::Unsaid),
        B::Refuse,
        B::Hang,
        B::ErrorIn200 { code: 401 },
        B::ErrorIn200 { code: 502 },
        B::BrokenStream { after: 0 },
    ] {
        for stream in [false, true] {
            let (upstream, clock) = timed().await;
            upstream.set_behaviour(MANY[0], behaviour.clone());
            upstream.set_behaviour(MANY[1], behaviour.clone());
            let keytide = setup(&upstream, &clock, "").keys("ollama", &MANY[..3]).start().await;
            // In three rounds every key has had its turn.
            for _ in 0..3 {
                let answer = keytide.post(CHAT, &chat(stream)).await;
                assert_eq!(answer.status(), 200, "{behaviour:?}");
                let text = answer.text().await.unwrap();
                assert!(!text.contains("\"error\""), "{behaviour:?}: {text}");
            }
            let books = keytide.settled("ollama", 3).await;
            assert_eq!(books.total.counts.success, 3);
            for key in &MANY[..2] {
                assert_eq!(keytide.key_counts("ollama", key), Counts::FAILURE, "{behaviour:?}");
            }
            assert_eq!(upstream.tally().total().attempts, 5);
            keytide.stop().await;
        }
    }
}

#[tokio::test]
async fn when_all_keys_are_cooling_the_caller_learns_when_to_come_back() {
    for error_in_body in [false, true] {
        let (upstream, clock) = timed().await;
        for (key, seconds) in MANY.iter().zip([50, 20, 90]) {
            let reply = if error_in_body {
                let body = json!({"error": {"code": 429, "message": "slow down",
                    "metadata": {"headers": {"retry-after": seconds.to_string()}}}});
                StatusReply::new(200).body(body.to_string())
            } else {
                StatusReply::new(429).retry_after(seconds.to_string())
            };
            upstream.set_behaviour(*key, reply.into());
        }
        // As many keys as attempts, so that the last attempt is also the last key.
        let keytide = setup(&upstream, &clock, "").keys("ollama", &MANY[..3]).start().await;
        for n in 0..2 {
            let answer = keytide.post(CHAT, &chat(false)).await;
            assert_eq!(answer.headers()["retry-after"], "20", "request {n}, in the body {error_in_body}");
            assert_eq!(error_code(answer).await, (429, LIMITED.to_owned()));
        }
        assert_eq!(upstream.tally().total().attempts, 3);
        clock.advance(Duration::from_secs(5));
        let answer = keytide.post(CHAT, &chat(false)).await;
        assert_eq!(answer.headers()["retry-after"], "15");
        assert_eq!(keytide.settled("ollama", 3).await.total.counts.failure, 3);
        keytide.stop().await;
    }
}

#[tokio::test]
async fn a_long_error_does_not_mention_the_key() {
    let mut upstream = Scripted::start().await;
    let keytide = setup_for(&upstream.base_url()).keys("ollama", &[KEY]).start().await;
    let body = chat(false);
    let filler = "x".repeat(100_000);
    let (answer, ()) = tokio::join!(keytide.post(CHAT, &body), async {
        let mut asked = upstream.next().await;
        let head =
            format!("HTTP/1.1 400 X\r\nconnection: close\r\nx-echo: Bearer {KEY}\r\nx-other: y\r\n\r\n");
        asked.write(format!("{head}{filler}{}", &KEY[..9]).as_bytes()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        asked.write(format!("{} and {KEY}, {}", &KEY[9..], &KEY[..5]).as_bytes()).await;
    });
    assert_eq!(answer.status(), 400);
    assert!(answer.headers().contains_key("x-other") && !answer.headers().contains_key("x-echo"));
    assert_eq!(answer.text().await.unwrap(), format!("{filler}*** and ***, {}", &KEY[..5]));
    assert_eq!(keytide.settled("ollama", 1).await.total.counts, Counts::FAILURE);
    assert_eq!(keytide.key_counts("ollama", KEY), Counts::OTHER);
    keytide.stop().await;
}

#[tokio::test]
async fn attempts_used_up_leave_the_last_error() {
    let (upstream, clock) = timed().await;
    let body = r#"{"error":{"message":"no room","type":"server_error","code":"crowded","param":null}}"#;
    upstream.set_default(StatusReply::new(503).body(body).header("x-why", "crowded").into());
    let keytide = setup(&upstream, &clock, "").keys("ollama", &MANY).start().await;
    let answer = keytide.post(CHAT, &chat(true)).await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["x-why"].as_bytes()),
        (503, b"crowded".as_slice())
    );
    assert_eq!(answer.text().await.unwrap(), body);
    keytide.stop().await;
}

#[tokio::test]
async fn an_account_cools_as_a_whole_where_the_provider_says_so() {
    for (provider, tried) in [("openrouter", 2), ("ollama", 4)] {
        for behaviour in [
            Behaviour::RateLimited(Reset::Seconds(30)),
            Behaviour::QuotaUsed { resets_in: Duration::from_secs(30) },
        ] {
            let (upstream, clock) = timed().await;
            let mut setup = setup(&upstream, &clock, "");
            for (n, key) in MANY.iter().enumerate() {
                upstream.set_behaviour(*key, behaviour.clone());
                // Three of one account, one of another, two of none.
                let account = ["tide", "tide", " tide ", "ebb", "N/A", ""][n];
                setup = setup.key(provider, key, |record| record.username = Some(account.into()));
            }
            for key in &MANY[3..] {
                upstream.set_behaviour(*key, Behaviour::Good);
            }
            let keytide = setup.start().await;
            for _ in 0..6 {
                let answer = keytide.ask_of(provider, &chat(false)).await;
                assert_eq!(answer.status(), 200, "{provider}");
            }
            keytide.settled(provider, 6).await;
            let failed: u64 = keytide.books(provider).keys.values().map(|usage| usage.counts.failure).sum();
            let cooling =
                MANY.iter().filter(|key| keytide.key(provider, key).status == Status::Failed).count();
            assert_eq!((failed, cooling), (tried - 1, 3), "{provider} {behaviour:?}");
            // An account's other keys made no attempt that could be held against them.
            let blamed = MANY.iter().filter(|key| keytide.key(provider, key).health.consecutive_failures > 0);
            assert_eq!(blamed.count() as u64, tried - 1, "{provider}");
            clock.advance(Duration::from_secs(30));
            assert!(MANY.iter().all(|key| keytide.key(provider, key).status == Status::Active));
            keytide.stop().await;
        }
    }
}

#[tokio::test]
async fn what_was_in_flight_neither_shortens_nor_clears() {
    let mut upstream = Scripted::start().await;
    let clock = Clock::manual(START);
    let mut setup = setup_for(&upstream.base_url()).keys("ollama", &[KEY]);
    setup.clock = clock.clone();
    let keytide = setup.start().await;
    let body = chat(false);
    let callers = join_all((0..4).map(|_| keytide.post(CHAT, &body)));
    let script = async {
        let (one, two, three, four) =
            (upstream.next().await, upstream.next().await, upstream.next().await, upstream.next().await);
        let answered = async |n| {
            let deadline = tokio::time::Instant::now() + PATIENCE;
            while keytide.key_counts("ollama", KEY).total() < n {
                assert!(tokio::time::Instant::now() < deadline);
                tokio::task::yield_now().await;
            }
            keytide.key("ollama", KEY).health
        };
        one.answer(429, "retry-after: 100\r\n", "").await;
        let first = answered(1).await;
        assert_eq!(first.failed_until, Some(START.saturating_add(Duration::from_secs(100))));
        two.answer(429, "retry-after: 1\r\n", "").await;
        assert_eq!(answered(2).await.failed_until, first.failed_until, "shortened");
        three.json(200, "{\"choices\":[]}").await;
        let after = answered(3).await;
        assert_eq!((after.failed_until, after.consecutive_failures), (first.failed_until, 1), "cleared");
        four.json(500, "{}").await;
        let after = answered(4).await;
        assert_eq!((after.failed_until, after.cause), (first.failed_until, Cause::RateLimit));
        assert_eq!(after.consecutive_failures, 1, "a burst counts once");
    };
    let (answers, ()) = tokio::join!(callers, script);
    let mut statuses: Vec<_> = answers.iter().map(|answer| answer.status().as_u16()).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 429, 429, 429]);
    keytide.stop().await;
}

#[tokio::test]
async fn a_caller_that_leaves_ends_the_call_at_once() {
    let (upstream, clock) = timed().await;
    let mut setup = setup(&upstream, &clock, "").keys("ollama", &[KEY]);
    setup.config.providers.get_mut("ollama").unwrap().upstream.first_byte_timeout = Duration::from_secs(600);
    let keytide = setup.start().await;
    let mut left = 0;
    for (behaviour, stream) in [
        (Behaviour::Hang, false),
        (Behaviour::Hang, true),
        (Behaviour::Stall { after: 2 }, true),
        (Behaviour::Stall { after: 2 }, false),
    ] {
        upstream.set_behaviour(KEY, behaviour.clone());
        let before = upstream.tally().total().attempts;
        // A client of its own, whose connection goes with it.
        let client = crate::harness::client();
        let url = format!("{}{CHAT}", keytide.url);
        let request = client.post(url).bearer_auth(TOKEN).json(&chat(stream)).send();
        let waiting = tokio::spawn(async move {
            let mut stream = request.await.unwrap().bytes_stream();
            while stream.next().await.is_some() {}
        });
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while upstream.tally().total().attempts == before {
            assert!(tokio::time::Instant::now() < deadline);
            tokio::task::yield_now().await;
        }
        waiting.abort();
        drop(client);
        left += 1;
        let books = keytide.settled("ollama", left).await;
        assert_eq!(books.total.counts, Counts { other: left, ..Counts::default() }, "{behaviour:?}");
        assert_eq!(keytide.key_counts("ollama", KEY), books.total.counts);
        tokio::time::timeout(PATIENCE, upstream.tally().idle()).await.expect("cancelled upstream");
        assert_eq!(upstream.tally().total().cancelled, left);
        let view = keytide.key("ollama", KEY);
        assert_eq!((view.status, view.in_flight, view.health.consecutive_failures), (Status::Active, 0, 0));
    }
    keytide.stop().await;
}

/// Otherwise the provider would go on with what nobody waits for, and its key be lent to the next at the same time.
#[tokio::test]
async fn an_attempt_that_took_too_long_is_over_before_the_pause_behind_it() {
    let (upstream, clock) = timed().await;
    let mut setup = setup(&upstream, &clock, "").keys("ollama", &[KEY, "good-key-of-another-account"]);
    setup.config.providers.get_mut("ollama").unwrap().gateway.retry_backoff = Duration::from_secs(3600);
    let keytide = setup.start().await;
    upstream.set_default(Behaviour::Hang);
    let request = keytide.client.post(format!("{}{CHAT}", keytide.url)).bearer_auth(TOKEN).json(&chat(false));
    let waiting = tokio::spawn(request.send());
    crate::harness::until("it was given up", || upstream.tally().total().cancelled == 1).await;
    assert_eq!((upstream.tally().total().attempts, upstream.tally().in_flight()), (1, 0));
    assert!(!waiting.is_finished());
    waiting.abort();
    keytide.stop().await;
}

#[tokio::test]
async fn without_keys_there_is_503() {
    let (upstream, clock) = timed().await;
    let keytide =
        setup(&upstream, &clock, "").key("openrouter", KEY, |record| record.enabled = false).start().await;
    for provider in ["ollama", "openrouter"] {
        let (status, code) = error_code(keytide.ask_of(provider, &chat(false)).await).await;
        assert_eq!((status, code.as_str()), (503, "no_available_keys"), "{provider}");
        assert_eq!(keytide.settled(provider, 1).await.total.counts, Counts::FAILURE);
        assert!(keytide.books(provider).keys.is_empty());
    }
    assert_eq!(upstream.tally().total().attempts, 0);
    keytide.stop().await;
}

/// An answer's head and body as text, with nothing decoded but gzip.
async fn all_of(answer: reqwest::Response) -> String {
    use std::io::Read;
    let head = format!("{:?}", answer.headers());
    let gzip = answer.headers().get("content-encoding").is_some();
    let mut body = Vec::new();
    let mut stream = answer.bytes_stream();
    while let Some(Ok(chunk)) = stream.next().await {
        body.extend_from_slice(&chunk);
    }
    let mut text = String::new();
    if gzip && flate2::read::GzDecoder::new(&*body).read_to_string(&mut text).is_ok() {
        return head + &text;
    }
    head + &String::from_utf8_lossy(&body)
}

#[tokio::test]
async fn no_answer_repeats_a_key() {
    use std::io::Write;
    let mut upstream = Scripted::start().await;
    let clock = Clock::manual(START);
    let mut setup = setup_for(&upstream.base_url()).keys("ollama", &[KEY]);
    setup.clock = clock.clone();
    let keytide = setup.start().await;
    let told = format!("The key {KEY} may not do that");
    let body = json!({"error": {"message": told, "code": null}}).to_string();
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(body.as_bytes()).unwrap();
    let gzip = gzip.finish().unwrap();
    let error_event = |code: u16| format!("data: {}\n\n", json!({"error": {"message": told, "code": code}}));
    let first = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
    let mut requests = 0;
    let json = "content-type: application/json\r\n";
    let mut heads: Vec<(u16, String, Vec<u8>)> = Vec::new();
    for status in [400, 401, 402, 403, 404, 422, 429, 500, 503] {
        heads.push((status, json.to_owned(), body.clone().into_bytes()));
        heads.push((status, "content-type: text/plain\r\n".to_owned(), told.clone().into_bytes()));
        heads.push((status, format!("{json}x-echo: Bearer {KEY}\r\n"), b"{\"error\":{}}".to_vec()));
        heads.push((status, format!("{json}content-encoding: gzip\r\n"), gzip.clone()));
    }
    for code in [400, 401, 429, 502] {
        let told = json!({"error": {"message": told, "code": code}}).to_string();
        heads.push((200, json.to_owned(), told.into_bytes()));
        let sse = "content-type: text/event-stream\r\n".to_owned();
        heads.push((200, sse.clone(), error_event(code).into_bytes()));
        heads.push((200, sse.clone(), format!("{first}{}", error_event(code)).into_bytes()));
        heads.push((200, sse, format!("{first}{first}{}data: [DONE]\n\n", error_event(code)).into_bytes()));
    }
    for (status, headers, body) in heads {
        let what = format!("{status} {headers:?} {}", String::from_utf8_lossy(&body));
        let request = chat(true);
        let (answer, ()) = tokio::join!(keytide.post(CHAT, &request), async {
            let mut asked = upstream.next().await;
            let head = format!(
                "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {}\r\n{headers}\r\n",
                body.len()
            );
            asked.write(head.as_bytes()).await;
            asked.write(&body).await;
        });
        let status_seen = answer.status().as_u16();
        let text = all_of(answer).await;
        assert!(!text.contains(KEY), "{what}\ngave {status_seen} {text}");
        requests += 1;
        let books = keytide.settled("ollama", requests).await;
        assert_eq!(books.total.counts, Counts { failure: requests, ..Counts::default() }, "{what}");
        let pool = keytide.app.pool("ollama").unwrap();
        let id = KeyId::derive("ollama", KEY);
        pool.replace(id, pool.record(id).unwrap(), true, clock.now()).unwrap();
    }
    // A stream whose error comes after what has long gone out, in pieces.
    let request = chat(true);
    let (answer, ()) = tokio::join!(
        async {
            let answer = keytide.post(CHAT, &request).await;
            all_of(answer).await
        },
        async {
            let mut asked = upstream.next().await;
            asked.begin_stream().await;
            asked.write(first.as_bytes()).await;
            for piece in error_event(400).as_bytes().chunks(7) {
                asked.write(piece).await;
                tokio::task::yield_now().await;
            }
            asked.write(first.as_bytes()).await;
        }
    );
    assert!(answer.contains("\"a\"") && !answer.contains(KEY), "{answer}");
    assert!(answer.contains("\"error\""), "{answer}");
    keytide.stop().await;
}

#[tokio::test]
async fn providers_share_nothing() {
    let (upstream, clock) = timed().await;
    let keytide =
        setup(&upstream, &clock, "").keys("ollama", &[KEY]).keys("openrouter", &[KEY, MANY[0]]).start().await;
    assert_ne!(KeyId::derive("ollama", KEY), KeyId::derive("openrouter", KEY));
    upstream.set_behaviour(KEY, Behaviour::RateLimited(Reset::Seconds(500)));
    // The other provider's good key is no fallback.
    for _ in 0..2 {
        let (status, code) = error_code(keytide.ask_of("ollama", &chat(false)).await).await;
        assert_eq!((status, code.as_str()), (429, LIMITED));
    }
    assert_eq!(upstream.tally().key(MANY[0]).attempts, 0);
    // The same key's text elsewhere is another key: neither cooled nor counted.
    assert_eq!(keytide.key("ollama", KEY).status, Status::Failed);
    assert_eq!(keytide.key("openrouter", KEY).status, Status::Active);
    assert!(keytide.books("openrouter").keys.is_empty());
    assert_eq!(keytide.books("openrouter").total.counts.total(), 0);
    upstream.set_behaviour(KEY, Behaviour::Good);
    for _ in 0..4 {
        assert_eq!(keytide.ask_of("openrouter", &chat(false)).await.status(), 200);
    }
    let books = keytide.settled("openrouter", 4).await;
    let by_key: BTreeMap<_, _> = books.keys.iter().map(|(id, usage)| (*id, usage.counts.success)).collect();
    let derive = |key| KeyId::derive("openrouter", key);
    assert_eq!(by_key, BTreeMap::from([(derive(KEY), 2), (derive(MANY[0]), 2)]));
    assert_eq!(keytide.books("ollama").total.counts, Counts { failure: 2, ..Counts::default() });
    assert_eq!(keytide.key("ollama", KEY).status, Status::Failed);
    // A token opens its own provider only, whatever the path and the header.
    for (token, provider) in [(TOKEN, "openrouter"), ("sk-router-0123456789", "ollama")] {
        for path in [CHAT, "/v1/models", "/v1/messages"] {
            let url = format!("{}/{provider}{path}", keytide.url);
            let request =
                if path == "/v1/models" { keytide.client.get(url) } else { keytide.client.post(url) };
            let answer = request.header("x-api-key", token).json(&chat(false)).send().await.unwrap();
            assert_eq!(error_code(answer).await, (401, "invalid_api_key".to_owned()), "{provider}{path}");
        }
    }
    assert_eq!(keytide.settled("openrouter", 4).await.tokens.len(), 1);
    keytide.stop().await;
}

#[tokio::test]
async fn a_rule_of_the_operator_stands_over_the_table() {
    let (upstream, clock) = timed().await;
    let extra = "[providers.ollama.status.418]\ntreat_as = \"quota\"\ncooldown = \"7s\"\n\
                 [providers.ollama.status.500]\ntreat_as = \"request\"\n\
                 [providers.ollama.status.401]\ncooldown = \"9s\"\n";
    let keytide = setup(&upstream, &clock, extra).keys("ollama", &[KEY]).start().await;
    for (status, told, seconds) in [(418, 429, 7), (401, 503, 9)] {
        assert_eq!(keytide.post(CHAT, &chat_with(&format!("[[{status}]]"), true)).await.status(), told);
        let until = keytide.key("ollama", KEY).health.failed_until.unwrap();
        assert_eq!(until.since(clock.now()), Duration::from_secs(seconds));
        clock.advance(Duration::from_secs(seconds));
    }
    assert_eq!(keytide.post(CHAT, &chat_with("[[500]]", false)).await.status(), 500);
    assert_eq!(keytide.key("ollama", KEY).status, Status::Active);
    keytide.stop().await;
}

#[tokio::test]
async fn a_whole_answer_does_not_wait_for_the_end_of_its_transfer() {
    let mut upstream = Scripted::start().await;
    let keytide = setup_for(&upstream.base_url()).keys("ollama", &[KEY]).start().await;
    let served = "{\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4}}";
    let request = chat(false);
    let (answer, asked) = tokio::join!(keytide.post(CHAT, &request), async {
        let mut asked = upstream.next().await;
        // One chunk, and never the one that ends the body.
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        asked.write(format!("{head}{:x}\r\n{served}\r\n", served.len()).as_bytes()).await;
        asked
    });
    // The provider is still there, silent, and the answer is here and in the books.
    let mut answer = answer;
    assert_eq!(answer.chunk().await.unwrap().unwrap(), served);
    let books = keytide.settled("ollama", 1).await;
    assert_eq!((books.total.counts, books.total.completion_tokens), (Counts::SUCCESS, 4));
    assert_eq!(keytide.key_counts("ollama", KEY), Counts::SUCCESS);
    drop((answer, asked));
    keytide.stop().await;
}
