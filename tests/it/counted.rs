//! Users' days over real sockets: what each request is counted as, and on which day.

use std::time::Duration;

use keytide::{
    demo::upstream::Behaviour,
    model::{Clock, KeyId, Timestamp, UserId},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::harness::{Keytide, Setup, chat, upstream};

const ANNA: UserId = UserId(0xa);
const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "good-key-of-the-first-account";
/// 1.5 s before midnight.
const EVENING: Timestamp = Timestamp(1_800_057_598_500);

const OPEN: &str = "sk-anna-0123456789abcdef";
const NARROW: &str = "sk-anna-narrow-0123456789";
const EXPIRED: &str = "sk-anna-expired-0123456789";
const LIMITED: &str = "sk-anna-limited-0123456789";

async fn admin(keytide: &Keytide, path: &str) -> Value {
    let token = keytide.app.admin_token().secret.expose().to_owned();
    let answer =
        keytide.client.get(format!("{}{path}", keytide.url)).bearer_auth(token).send().await.unwrap();
    let status = answer.status();
    let text = answer.text().await.unwrap();
    assert_eq!(status, StatusCode::OK, "{text}");
    serde_json::from_str(&text).unwrap()
}

async fn days(keytide: &Keytide) -> Vec<Value> {
    admin(keytide, &format!("/admin/users/{ANNA}/days")).await["days"].as_array().unwrap().clone()
}

/// Sends a request and takes the whole answer.
async fn ask(keytide: &Keytide, token: &str, path: &str, body: &Value) -> u16 {
    let answer = keytide.post_as(token, path, body).await;
    let status = answer.status().as_u16();
    drop(answer.bytes().await);
    status
}

fn with_image(text: &str) -> Value {
    let image = json!({"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}});
    let content = json!([{"type": "text", "text": text}, image]);
    json!({"model": "demo-small", "messages": [{"role": "user", "content": content}]})
}

#[tokio::test]
async fn every_request_of_a_user_is_in_their_day_once() {
    let upstream = upstream().await;
    let (dead, breaking) = ("dead-key-0123456789", "breaking-key-0123456789");
    upstream.set_behaviour(dead, Behaviour::status(503));
    upstream.set_behaviour(breaking, Behaviour::BrokenStream { after: 2 });
    let extra = "[providers.dead]\nbase_url = \"BASE\"\nretry_backoff = \"1ms\"\n\
                 [providers.breaking]\nbase_url = \"BASE\"\nretry_backoff = \"1ms\"\n";
    let of_anna = |token: &mut keytide::model::TokenRecord| token.user = Some(ANNA);
    let mut setup = Setup::new(&upstream, &extra.replace("BASE", &upstream.base_url()))
        .keys("ollama", &[KEY])
        .keys("dead", &[dead])
        .keys("breaking", &[breaking]);
    for provider in ["ollama", "dead", "breaking"] {
        setup = setup.token(provider, OPEN, of_anna);
    }
    let setup = setup
        .token("ollama", NARROW, |token| {
            of_anna(token);
            token.limits.allowed_models = vec!["other".into()];
        })
        .token("ollama", EXPIRED, |token| {
            of_anna(token);
            token.expires_at = Some(Timestamp(1));
        })
        .token("ollama", LIMITED, |token| {
            of_anna(token);
            token.limits.requests_per_minute = Some(1);
        });
    let keytide = setup.user(ANNA.0, |_| {}).start().await;

    for (token, path, body, status) in [
        (OPEN, CHAT, chat(false), 200),
        (OPEN, CHAT, chat(true), 200),
        (OPEN, CHAT, chat(false), 200),
        (OPEN, CHAT, with_image("what is this?"), 200),
        (OPEN, "/v1/embeddings", json!({"model": "demo-small", "input": "x"}), 200),
        (OPEN, CHAT, json!({"model": 7}), 400),
        (NARROW, CHAT, chat(false), 403),
        (EXPIRED, CHAT, chat(false), 401),
        (LIMITED, CHAT, chat(false), 200),
        (LIMITED, CHAT, chat(false), 429),
        (OPEN, &format!("/dead{CHAT}"), chat(false), 503),
        (OPEN, &format!("/breaking{CHAT}"), chat(true), 200),
        // Nobody's.
        (crate::harness::TOKEN, CHAT, chat(false), 200),
    ] {
        assert_eq!(ask(&keytide, token, path, &body).await, status, "{path} {body}");
    }
    let list =
        keytide.client.get(format!("{}/v1/models", keytide.url)).bearer_auth(OPEN).send().await.unwrap();
    assert_eq!(list.status(), 200);
    let books = keytide.settled("ollama", 7).await;
    keytide.settled("dead", 1).await;
    keytide.settled("breaking", 1).await;

    let found = days(&keytide).await;
    assert_eq!(found.len(), 1);
    let log = &found[0]["log_data"];
    let count = |name: &str| log[name].as_u64().unwrap();
    assert_eq!(
        (count("conversation_count"), count("upload_count"), count("api_call_count")),
        (6, 1, 2),
        "{log}"
    );
    assert_eq!(log["error_stats"], json!({"rate_limit_hits": 1, "auth_failures": 2, "server_errors": 2}));
    let used = &log["shared_key_usage"];
    let calls = ["total_calls", "successful_calls", "failed_calls", "other_calls"]
        .map(|name| used[name].as_u64().unwrap());
    assert_eq!(calls, [8, 6, 2, 0]);
    let mut keys = [("ollama", KEY), ("dead", dead), ("breaking", breaking)]
        .map(|(of, key)| KeyId::derive(of, key).short());
    keys.sort();
    assert_eq!((&used["keys_used"], &used["keys_used_more"]), (&json!(keys), &json!(false)));
    assert_eq!(used["last_key_used"], KeyId::derive("breaking", breaking).short());
    assert!(used["prompt_tokens"].as_u64().unwrap() < books.total.prompt_tokens, "one request was another's");

    // Two of whom one is a token without a user.
    let shared = admin(&keytide, "/admin/shared-keys").await["keys"][0]["usage_stats"].clone();
    assert_eq!(
        (&shared["usage_count_today"], &shared["active_users_today"]),
        (&json!(7), &json!(2)),
        "{shared}"
    );
    let id = KeyId::derive("ollama", KEY);
    let hours = admin(&keytide, &format!("/admin/keys/{id}/hours")).await["hours"].clone();
    let hour = &hours[0];
    assert_eq!((&hour["total_requests"], &hour["unique_users"]), (&json!(7), &json!(2)), "{hours}");
    assert!(hour["avg_response_time"].is_u64());

    let keytide = keytide.restart().await;
    assert_eq!(days(&keytide).await, found);
    keytide.stop().await;
}

#[tokio::test]
async fn midnight_under_load_moves_every_request_to_one_day() {
    const CALLERS: usize = 16;
    const EACH: usize = 30;
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.clock = Clock::manual(EVENING);
    let setup = setup.user(ANNA.0, |_| {}).token("ollama", OPEN, |token| token.user = Some(ANNA));
    let keytide = setup.start().await;
    let callers = (0..CALLERS).map(|_| async {
        for _ in 0..EACH {
            // Time goes on by 3.84 s in all.
            keytide.clock.advance(Duration::from_millis(8));
            assert_eq!(ask(&keytide, OPEN, CHAT, &chat(false)).await, 200);
        }
    });
    futures_util::future::join_all(callers).await;
    let all = (CALLERS * EACH) as u64;
    let books = keytide.settled("ollama", all).await;
    // And the clock is set back, as far as that goes with this one: another process begins before midnight.
    let found = days(&keytide).await;
    assert_eq!(found.len(), 2, "{found:?}");
    let counts: Vec<u64> =
        found.iter().map(|day| day["log_data"]["conversation_count"].as_u64().unwrap()).collect();
    assert_eq!(counts.iter().sum::<u64>(), all);
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    let tokens = |day: &Value| day["log_data"]["shared_key_usage"]["completion_tokens"].as_u64().unwrap();
    assert_eq!(found.iter().map(tokens).sum::<u64>(), books.total.completion_tokens);

    let Keytide { app, dir, config, client, .. } = keytide;
    app.stop().await.unwrap();
    let clock = Clock::manual(EVENING);
    let app = keytide::app::App::start(config.clone(), clock.clone()).await.unwrap();
    let url = format!("http://{}", app.address());
    let keytide = Keytide { app, url, dir, config, clock, client };
    assert_eq!(ask(&keytide, OPEN, CHAT, &chat(false)).await, 200);
    keytide.settled("ollama", all + 1).await;
    let path = format!("/admin/users/{ANNA}/days?to=2027-01-31");
    let again = admin(&keytide, &path).await["days"].clone();
    let counts_now: Vec<u64> = again
        .as_array()
        .unwrap()
        .iter()
        .map(|day| day["log_data"]["conversation_count"].as_u64().unwrap())
        .collect();
    assert_eq!(counts_now, [counts[0] + 1, counts[1]]);
    keytide.stop().await;
}
