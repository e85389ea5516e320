//! Limits and strategies, as the provider sees them: exact under many callers at once.

use std::{collections::BTreeSet, time::Duration};

use crate::harness::{Keytide, Setup, TOKEN, chat, error_code};
use futures_util::future::join_all;
use keytide::{
    demo::upstream::{Behaviour, Upstream, UpstreamOptions},
    model::{Clock, Counts, Timestamp},
    pool::{self, Strategy},
};

const CHAT: &str = "/v1/chat/completions";
const CALLERS: usize = 64;
const START: Timestamp = Timestamp(1_790_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);
const KEYS: [&str; 5] =
    ["key-a-0123456789", "key-b-0123456789", "key-c-0123456789", "key-d-0123456789", "key-e-0123456789"];

async fn upstream() -> Upstream {
    let options = UpstreamOptions { prefixes: false, ..UpstreamOptions::default() };
    Upstream::start(options).await.unwrap()
}

fn setup(upstream: &Upstream, change: impl FnOnce(&mut pool::Options)) -> Setup {
    let mut setup = Setup::new(upstream, "");
    setup.clock = Clock::manual(START);
    change(&mut setup.config.providers.get_mut("ollama").unwrap().pool);
    setup
}

/// What each of many callers at once gets, `each` times in a row: status and `Retry-After`.
async fn crowd(keytide: &Keytide, each: usize, token: &str) -> Vec<(u16, String)> {
    let callers = (0..CALLERS).map(|caller| async move {
        let mut seen = Vec::new();
        for n in 0..each {
            let answer = keytide.post_as(token, CHAT, &chat((caller + n) % 2 == 0)).await;
            let retry = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
            seen.push((answer.status().as_u16(), retry.unwrap_or_default()));
            answer.bytes().await.unwrap();
        }
        seen
    });
    join_all(callers).await.concat()
}

fn served(seen: &[(u16, String)]) -> usize {
    seen.iter().filter(|(status, _)| *status == 200).count()
}

#[tokio::test]
async fn a_token_s_limit_is_exact() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, |_| {})
        .keys("ollama", &KEYS)
        .token("ollama", "sk-limited-0123456789", |token| token.limits.requests_per_minute = Some(50))
        .start()
        .await;
    for minute in 1..=2 {
        let seen = crowd(&keytide, 4, "sk-limited-0123456789").await;
        assert_eq!(served(&seen), 50, "minute {minute}");
        let refused = (429, "60".to_owned());
        assert!(seen.iter().filter(|(status, _)| *status != 200).all(|answer| *answer == refused));
        keytide.clock.advance(MINUTE - Duration::from_millis(1));
        assert_eq!(keytide.post_as("sk-limited-0123456789", CHAT, &chat(false)).await.status(), 429);
        keytide.clock.advance(Duration::from_millis(1));
    }
    // Another token is not held up by it.
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    let books = keytide.settled("ollama", 101).await;
    assert_eq!(books.total.counts, Counts { success: 101, ..Counts::default() });
    assert_eq!(upstream.tally().total().attempts, 101);
    keytide.stop().await;
}

#[tokio::test]
async fn a_key_s_requests_in_flight_are_exact() {
    for (limit, keys) in [(1, 3), (2, 3), (7, 1)] {
        let upstream = upstream().await;
        upstream.set_default(Behaviour::Slow { first_byte: Duration::from_millis(20) });
        let setup = setup(&upstream, |pool| pool.max_in_flight = Some(limit));
        let keytide = setup.keys("ollama", &KEYS[..keys]).start().await;
        let seen = crowd(&keytide, 4, TOKEN).await;
        let tally = upstream.tally();
        for key in &KEYS[..keys] {
            assert_eq!(tally.max_in_flight_of(key), u64::from(limit), "{keys} keys, limit {limit}");
        }
        let ok = served(&seen);
        assert!(ok >= keys * limit as usize && ok < seen.len(), "{ok}");
        // A key that is only busy is soon free again.
        assert!(seen.iter().all(|(status, retry)| *status == 200 || (*status, retry.as_str()) == (429, "1")));
        let books = keytide.settled("ollama", seen.len() as u64).await;
        let counts = Counts { success: ok as u64, failure: (seen.len() - ok) as u64, other: 0 };
        assert_eq!(books.total.counts, counts);
        assert_eq!(tally.total().completed, ok as u64);
        // Whatever the end of a request was, its place is free.
        for behaviour in [Behaviour::status(400), Behaviour::ErrorIn200 { code: 400 }, Behaviour::Good] {
            upstream.set_default(behaviour);
            for _ in 0..keys * limit as usize + 1 {
                let status = keytide.post(CHAT, &chat(false)).await.status();
                assert_ne!(status, 429);
            }
        }
        let counts = keytide.app.pool("ollama").unwrap().counts(keytide.clock.now());
        assert_eq!((counts.in_flight, counts.active), (0, keys));
        keytide.stop().await;
    }
}

#[tokio::test]
async fn a_key_s_requests_per_minute_are_exact() {
    let upstream = upstream().await;
    let setup = setup(&upstream, |pool| pool.requests_per_minute = Some(9));
    let keytide = setup.keys("ollama", &KEYS).start().await;
    for minute in 1..=3 {
        let seen = crowd(&keytide, 2, TOKEN).await;
        assert_eq!(served(&seen), 45, "minute {minute}");
        assert!(
            seen.iter().all(|(status, retry)| *status == 200 || (*status, retry.as_str()) == (429, "60"))
        );
        for key in KEYS {
            assert_eq!(upstream.tally().key(key).attempts, 9 * minute, "minute {minute}");
        }
        keytide.clock.advance(MINUTE);
    }
    keytide.stop().await;
}

#[tokio::test]
async fn only_allowed_models_are_served() {
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "[providers.ollama.aliases]\nfast = \"demo-large\"\n");
    setup.clock = Clock::manual(START);
    let keytide = setup
        .keys("ollama", &KEYS)
        .token("ollama", "sk-narrow-0123456789", |token| {
            token.limits.allowed_models = vec!["demo-small".into(), "fast".into(), "tide-*".into()];
        })
        .start()
        .await;
    let ask = async |path: &str, body: &str| {
        let request = keytide.client.post(format!("{}{path}", keytide.url));
        let answer = request.bearer_auth("sk-narrow-0123456789").body(body.to_owned()).send().await.unwrap();
        match answer.status().as_u16() {
            200 => (200, String::new()),
            _ => error_code(answer).await,
        }
    };
    let body = |model: &str| format!("{{{model},\"messages\":[{{\"role\":\"user\",\"content\":\"hi\"}}]}}");
    for (model, seen) in [
        ("\"model\":\"demo-small\"", "demo-small"),
        ("\"model\":\"demo\\u002dsmall\"", "demo-small"),
        ("\"mod\\u0065l\":\"fast\"", "demo-large"),
        ("\"model\":\"tide-9\"", "tide-9"),
    ] {
        assert_eq!(ask(CHAT, &body(model)).await.0, 200, "{model}");
        let sent = upstream.tally().last_request().unwrap().body;
        let sent: serde_json::Value = serde_json::from_slice(&sent).unwrap();
        assert_eq!(sent["model"], seen);
    }
    let attempts = upstream.tally().total().attempts;
    for (model, refused) in [
        ("\"model\":\"demo-large\"", (403, "model_not_allowed")),
        ("\"model\":\"demo\\u002dlarge\"", (403, "model_not_allowed")),
        ("\"model\":\"DEMO-SMALL\"", (403, "model_not_allowed")),
        ("\"model\":\"demo-small \"", (403, "model_not_allowed")),
        ("\"model\":\"tide\"", (403, "model_not_allowed")),
        ("\"model\":\"demo-small\",\"model\":\"demo-large\"", (400, "invalid_json")),
        ("\"model\":\"demo-small\",\"mod\\u0065l\":\"demo-large\"", (400, "invalid_json")),
        // Some providers do not tell upper from lower case, and take the last.
        ("\"model\":\"demo-small\",\"Model\":\"demo-large\"", (400, "invalid_json")),
        ("\"MODEL\":\"demo-large\",\"model\":\"demo-small\"", (400, "invalid_json")),
        ("\"Model\":\"demo-small\"", (400, "missing_model")),
    ] {
        for path in [CHAT, "/api/chat", "/v1/messages"] {
            let (status, code) = ask(path, &body(model)).await;
            assert_eq!((status, code.as_str()), refused, "{model} at {path}");
        }
    }
    assert_eq!(upstream.tally().total().attempts, attempts);
    keytide.stop().await;
}

#[tokio::test]
async fn tokens_and_keys_expire_on_the_dot() {
    let upstream = upstream().await;
    let end = START.saturating_add(MINUTE);
    let keytide = setup(&upstream, |_| {})
        .key("ollama", KEYS[0], |key| key.expires_at = Some(end))
        .key("ollama", KEYS[1], |key| key.disabled_until = Some(end.saturating_add(MINUTE)))
        .token("ollama", "sk-short-0123456789", |token| token.expires_at = Some(end))
        .start()
        .await;
    let ask = async |token: &str| {
        let answer = keytide.post_as(token, CHAT, &chat(false)).await;
        let retry = answer.headers().get("retry-after").map(|value| value.to_str().unwrap().to_owned());
        (answer.status().as_u16(), retry, answer.text().await.unwrap())
    };
    keytide.clock.advance(MINUTE - Duration::from_millis(1));
    assert_eq!(ask("sk-short-0123456789").await.0, 200);
    keytide.clock.advance(Duration::from_millis(1));
    let (status, _, text) = ask("sk-short-0123456789").await;
    assert!(status == 401 && text.contains("token_expired"), "{text}");
    // The one key has expired, the other returns in a minute.
    let (status, retry, text) = ask(TOKEN).await;
    assert!(status == 503 && text.contains("no_available_keys"), "{text}");
    assert_eq!(retry.as_deref(), Some("60"));
    keytide.clock.advance(MINUTE);
    assert_eq!(ask(TOKEN).await.0, 200);
    let tally = upstream.tally();
    assert_eq!((tally.key(KEYS[0]).attempts, tally.key(KEYS[1]).attempts), (1, 1));
    keytide.stop().await;
}

#[tokio::test]
async fn round_robin_gives_equal_shares() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, |_| {}).keys("ollama", &KEYS).start().await;
    let seen = crowd(&keytide, 10, TOKEN).await;
    assert_eq!(served(&seen), 640);
    for key in KEYS {
        assert_eq!(upstream.tally().key(key).attempts, 128, "{key}");
    }
    keytide.stop().await;
}

#[tokio::test]
async fn affinity_keeps_a_caller_to_its_key() {
    let upstream = upstream().await;
    let mut setup = setup(&upstream, |pool| pool.strategy = Strategy::Affinity).keys("ollama", &KEYS);
    let tokens: Vec<_> = (0..12).map(|n| format!("sk-caller-{n}-0123456789")).collect();
    for token in &tokens {
        setup = setup.token("ollama", token, |_| {});
    }
    let keytide = setup.start().await;
    let mut of_tokens = Vec::new();
    for token in &tokens {
        let before = upstream.tally().keys();
        for _ in 0..8 {
            assert_eq!(keytide.post_as(token, CHAT, &chat(false)).await.status(), 200);
        }
        let after = upstream.tally().keys().into_iter();
        let used: Vec<_> = after
            .filter(|(key, count)| before.get(key).is_none_or(|earlier| earlier.attempts < count.attempts))
            .collect();
        assert_eq!(used.len(), 1, "{token} got {} keys", used.len());
        of_tokens.push(used[0].0.clone());
    }
    assert!(of_tokens.iter().collect::<BTreeSet<_>>().len() > 1, "not all callers share one key");
    // When its key cools, a caller goes elsewhere, and comes back.
    upstream.set_behaviour(of_tokens[0].as_str(), Behaviour::status(429));
    assert_eq!(keytide.post_as(&tokens[0], CHAT, &chat(false)).await.status(), 200);
    upstream.set_behaviour(of_tokens[0].as_str(), Behaviour::Good);
    let before = upstream.tally().key(&of_tokens[0]).attempts;
    keytide.clock.advance(MINUTE);
    assert_eq!(keytide.post_as(&tokens[0], CHAT, &chat(false)).await.status(), 200);
    assert_eq!(upstream.tally().key(&of_tokens[0]).attempts, before + 1);
    keytide.stop().await;
}

#[tokio::test]
async fn weights_are_kept_about() {
    let upstream = upstream().await;
    let mut setup = setup(&upstream, |pool| pool.strategy = Strategy::Weighted);
    let weights = [1, 3, 6];
    for (key, weight) in KEYS.iter().zip(weights) {
        setup = setup.key("ollama", key, |record| record.weight = weight);
    }
    let keytide = setup.start().await;
    assert_eq!(served(&crowd(&keytide, 10, TOKEN).await), 640);
    for (key, weight) in KEYS.iter().zip(weights) {
        let share = upstream.tally().key(key).attempts as f64 / 640.0;
        let expected = f64::from(weight) / 10.0;
        // Six standard deviations.
        let slack = 6.0 * (expected * (1.0 - expected) / 640.0).sqrt();
        assert!((share - expected).abs() < slack, "{key} of weight {weight} got {share}");
    }
    keytide.stop().await;
}

#[tokio::test]
async fn the_less_busy_key_is_preferred_and_random_reaches_all() {
    let upstream = upstream().await;
    let setup = setup(&upstream, |pool| pool.strategy = Strategy::LeastBusy);
    let keytide = setup.keys("ollama", &KEYS[..2]).start().await;
    upstream.set_default(Behaviour::Hang);
    let url = format!("{}{CHAT}", keytide.url);
    let hung = tokio::spawn(keytide.client.post(url).bearer_auth(TOKEN).json(&chat(false)).send());
    while upstream.tally().in_flight() == 0 {
        tokio::task::yield_now().await;
    }
    upstream.set_default(Behaviour::Good);
    for _ in 0..20 {
        assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    }
    let mut attempts: Vec<_> = KEYS[..2].iter().map(|key| upstream.tally().key(key).attempts).collect();
    attempts.sort_unstable();
    assert_eq!(attempts, [1, 20]);
    hung.abort();
    keytide.stop().await;

    let upstream = self::upstream().await;
    let setup = self::setup(&upstream, |pool| pool.strategy = Strategy::Random);
    let keytide = setup.keys("ollama", &KEYS).start().await;
    assert_eq!(served(&crowd(&keytide, 5, TOKEN).await), 320);
    let shares: Vec<_> = KEYS.iter().map(|key| upstream.tally().key(key).attempts).collect();
    assert!(shares.iter().all(|share| (20..110).contains(share)), "{shares:?}");
    assert_ne!(shares, [64; 5]);
    keytide.stop().await;
}
