//! The monitor over real sockets: what is abnormal is told, and where the operator wants it, kept out.

use std::time::Duration;

use crate::endings::loaded;
use crate::harness::{Keytide, Setup, TOKEN, chat, error_code, upstream};
use keytide::{
    demo::upstream::{Behaviour, Reset, Upstream},
    model::{Clock, Timestamp},
};
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";
const START: Timestamp = Timestamp(1_790_000_000_000);
const MINUTE: Duration = Duration::from_secs(60);

fn setup(upstream: &Upstream, extra: &str) -> Setup {
    let mut setup = Setup::new(upstream, extra).keys("ollama", &["key-a-0123456789", "key-b-0123456789"]);
    setup.clock = Clock::manual(START);
    setup
}

/// Asks with the token until the answer is of this code; returns its body.
async fn until_code(keytide: &Keytide, token: &str, code: &str) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let body: Value = keytide.post_as(token, CHAT, &chat(false)).await.json().await.unwrap();
        if body["error"]["code"] == code {
            return body;
        }
        assert!(tokio::time::Instant::now() < deadline, "{code} never came: {body}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Asks for events until there are any like that.
async fn events(keytide: &Keytide, query: &str) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = keytide.admin("GET", &format!("/admin/events?{query}"), &json!({})).await;
        let found = found["events"].as_array().unwrap().clone();
        if !found.is_empty() {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "no event came: {query}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// So many tokens that nobody has, from one address.
async fn guess(keytide: &Keytide, address: &str, guesses: usize) {
    for n in 0..guesses {
        let request = keytide.client.post(format!("{}{CHAT}", keytide.url));
        let token = format!("sk-guess-{address}-{n}");
        let answer = request.bearer_auth(token).header("x-forwarded-for", address).json(&chat(false));
        let (status, code) = error_code(answer.send().await.unwrap()).await;
        assert!(
            matches!((status, code.as_str()), (401, "invalid_api_key") | (403, "blocked")),
            "{status} {code}"
        );
    }
}

#[tokio::test]
async fn whoever_guesses_tokens_is_kept_out_for_a_while() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, "[monitor.auth_fail]\nblock = 1\nspan = \"10m\"\n").start().await;
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    guess(&keytide, "127.0.0.1", 40).await;
    // Also with the right one: it may have been guessed.
    let body = until_code(&keytide, TOKEN, "blocked").await;
    assert_eq!(body["error"]["until"], START.saturating_add(MINUTE * 10).to_string());
    let found = events(&keytide, "type=auth_fail&severity=1").await;
    assert_eq!(found[0]["details"]["kind"], "unknown_tokens");
    assert_eq!(found[0]["details"]["subject"], "127.0.0.0/24", "never a whole address");
    assert!(!found[0].to_string().contains("sk-"), "{found:?}");
    // A restart forgets neither; and the operator's side was never closed.
    let before = keytide.admin("GET", "/admin/events", &json!({})).await;
    let keytide = keytide.restart().await;
    assert_eq!(error_code(keytide.post(CHAT, &chat(false)).await).await, (403, "blocked".to_owned()));
    assert_eq!(keytide.admin("GET", "/admin/events", &json!({})).await, before);
    keytide.clock.advance(MINUTE * 10 - Duration::from_millis(1));
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 403);
    keytide.clock.advance(Duration::from_millis(1));
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    let metrics = keytide.get("/metrics").await.text().await.unwrap();
    assert!(
        metrics.contains("keytide_refused_requests_total{provider=\"ollama\",code=\"blocked\"}"),
        "{metrics}"
    );
    keytide.stop().await;
}

#[tokio::test]
async fn a_person_lets_somebody_in_again_and_that_holds() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, "[monitor.auth_fail]\nblock = 1\n").start().await;
    guess(&keytide, "127.0.0.1", 40).await;
    until_code(&keytide, TOKEN, "blocked").await;
    let verdicts = keytide.admin("GET", "/admin/verdicts", &json!({})).await;
    assert_eq!(verdicts["verdicts"][0]["subject"], "address:127.0.0.1");
    keytide.admin("DELETE", "/admin/verdicts/address:127.0.0.1", &json!({})).await;
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    let keytide = keytide.restart().await;
    // It goes on, and is told; the person's word stands.
    guess(&keytide, "127.0.0.1", 200).await;
    keytide.clock.advance(MINUTE);
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    let verdicts = keytide.admin("GET", "/admin/verdicts", &json!({})).await;
    assert_eq!(verdicts["verdicts"], json!([]));
    keytide.stop().await;
}

#[tokio::test]
async fn whoever_goes_on_at_a_limit_is_left_with_a_part_of_it() {
    let upstream = upstream().await;
    let token = "sk-limited-0123456789";
    let keytide = setup(&upstream, "[monitor.rate_limit]\nthrottle = 1\nfactor = 0.5\n")
        .user(7, |user| user.limits.requests_per_minute = Some(4))
        .token("ollama", token, |token| token.user = Some(keytide::model::UserId(7)))
        .start()
        .await;
    // The first refusal of a verdict comes when the limit of the minute is open again.
    for _ in 0..300 {
        keytide.post_as(token, CHAT, &chat(false)).await;
    }
    let found = events(&keytide, "type=rate_limit").await;
    assert_eq!(found[0]["user"], "00000000-0000-0000-0000-000000000007");
    keytide.clock.advance(MINUTE);
    let mut codes = Vec::new();
    for _ in 0..4 {
        let answer = keytide.post_as(token, CHAT, &chat(false)).await;
        let reset = answer.headers().get("x-ratelimit-reset-requests").is_some();
        assert!(reset, "limits are told");
        codes.push(error_code(answer).await);
    }
    let served = codes.iter().filter(|(status, _)| *status == 200).count();
    assert_eq!(served, 2, "{codes:?}");
    assert!(codes[2..].iter().all(|refused| *refused == (429, "throttled".to_owned())), "{codes:?}");
    // Others are not held up.
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    keytide.stop().await;
}

#[tokio::test]
async fn a_key_that_fails_is_told_of_though_another_serves() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, "[monitor]\nwarm_up_days = 1\nwarm_up_requests = 10\n").start().await;
    let ask = async |every: Duration, requests: usize| {
        for _ in 0..requests {
            keytide.clock.advance(every);
            assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
        }
    };
    ask(MINUTE * 20, 400).await;
    // It rests for a minute, and is tried again with every second request.
    let key = "key-a-0123456789";
    upstream.set_behaviour(key, Behaviour::RateLimited(Reset::Unsaid));
    ask(MINUTE / 2 + Duration::from_secs(1), 240).await;
    let id = keytide::model::KeyId::derive("ollama", key);
    let found = events(&keytide, &format!("subject={id}")).await;
    let kinds: Vec<_> = found.iter().map(|event| &event["details"]["kind"]).collect();
    assert!(kinds.contains(&&json!("failure_rate")), "{found:?}");
    keytide.stop().await;
}

#[tokio::test]
async fn a_storm_is_told_as_one() {
    let upstream = upstream().await;
    let mut setup = setup(&upstream, "[monitor]\nstorm = 3\n");
    setup.config.server.gateway.trusted_proxies = vec!["127.0.0.1".to_owned()];
    let keytide = setup.start().await;
    for n in 0..12 {
        guess(&keytide, &format!("198.51.{n}.1"), 20).await;
    }
    events(&keytide, "type=auth_fail").await;
    // What the storm was is told when its minute is over.
    keytide.clock.advance(MINUTE * 2);
    let told = until_storm(&keytide).await;
    assert!(told["weight"].as_u64().unwrap() >= 9, "{told}");
    assert_eq!(told["details"]["auth_fail"], told["weight"]);
    let all = events(&keytide, "").await;
    assert_eq!(all.len(), 3 + 1, "{all:?}");
    let metrics = keytide.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("keytide_observations_lost_total 0"), "{metrics}");
    keytide.stop().await;
}

async fn until_storm(keytide: &Keytide) -> Value {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let found = events(keytide, "type=abuse").await;
        if let Some(storm) = found.into_iter().find(|event| event["details"]["kind"] == "storm") {
            return storm;
        }
        assert!(tokio::time::Instant::now() < deadline, "the storm was not told");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_reload_switches_it_on_and_off() {
    let upstream = upstream().await;
    let toml = |enabled: bool| {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n[providers.ollama]\nbase_url = \"{}\"\n\
             [monitor]\nenabled = {enabled}\n[monitor.auth_fail]\nblock = 1\n",
            upstream.base_url()
        )
    };
    let mut setup = Setup::with(crate::harness::config(&toml(false))).keys("ollama", &["key-a-0123456789"]);
    setup.clock = Clock::manual(START);
    let keytide = setup.start().await;
    guess(&keytide, "127.0.0.1", 40).await;
    keytide.app.reload(&loaded(&toml(true))).await.unwrap();
    // Nothing of what was before is known: these are too few.
    guess(&keytide, "127.0.0.1", 4).await;
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    guess(&keytide, "127.0.0.1", 40).await;
    until_code(&keytide, TOKEN, "blocked").await;
    keytide.app.reload(&loaded(&toml(false))).await.unwrap();
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    assert_eq!(keytide.admin("GET", "/admin/verdicts", &json!({})).await["in_force"], false);
    keytide.stop().await;
}
