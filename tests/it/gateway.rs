//! The data plane over real sockets: what callers see, and what the books say afterwards.

use keytide::{demo::upstream::Behaviour, model::Counts};
use serde_json::{Value, json};

use crate::harness::{Setup, TOKEN, chat, error_code, upstream};

const PATHS: [&str; 10] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/api/chat",
    "/api/generate",
    "/api/embed",
    "/api/embeddings",
    "/api/show",
];

fn anything(stream: bool) -> Value {
    json!({
        "model": "demo-small", "stream": stream, "max_tokens": 100,
        "messages": [{"role": "user", "content": "one two three"}],
        "prompt": "one two three", "input": "one two three",
    })
}

#[tokio::test]
async fn every_client_path_is_served_and_counted() {
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &["good-key-of-the-first-account"]).start().await;
    let mut requests = 0;
    for path in PATHS {
        for prefix in ["", "/ollama"] {
            for stream in [false, true] {
                let answer = keytide.post(&format!("{prefix}{path}"), &anything(stream)).await;
                let status = answer.status();
                assert!(answer.headers().contains_key("x-request-id"));
                let text = answer.text().await.unwrap();
                assert_eq!(status, 200, "{prefix}{path} {text}");
                requests += 1;
            }
        }
    }
    let books = keytide.settled("ollama", requests).await;
    assert_eq!(books.total.counts, Counts { success: requests, ..Counts::default() });
    let tally = upstream.tally().total();
    assert_eq!((tally.attempts, tally.completed), (requests, requests));
    assert_eq!(books.total.prompt_tokens, tally.reported.prompt);
    assert_eq!(books.total.completion_tokens, tally.reported.completion);
    keytide.stop().await;
}

#[tokio::test]
async fn bodies_pass_through_byte_for_byte() {
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &["good-key-of-the-first-account"]).start().await;
    let body =
        "{ \"messages\" : [ {\"role\":\"user\",\"content\":\"\\u00e9 x\"}],\n \"model\":\"demo-small\"  }";
    let answer = keytide
        .client
        .post(format!("{}/v1/chat/completions?beta=1", keytide.url))
        .header("x-api-key", TOKEN)
        .header("cookie", "secret=1")
        .header("x-forwarded-for", "10.1.1.1")
        .header("accept-encoding", "br, gzip")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    let seen = upstream.tally().last_request().unwrap();
    assert_eq!(&seen.body[..], body.as_bytes());
    let text = format!("{:?}", seen.headers);
    assert!(!text.contains(TOKEN) && !text.contains("secret=1") && !text.contains("10.1.1.1"), "{text}");
    assert_eq!(seen.headers["accept-encoding"], "identity");
    assert_eq!(seen.headers["content-type"], "application/json");
    keytide.stop().await;
}

#[tokio::test]
async fn a_failing_key_is_replaced_before_the_caller_sees_anything() {
    let upstream = upstream().await;
    let bad = ["dead-key-0123456789abcdef", "quota-key-0123456789abcdef"];
    let keytide = Setup::new(&upstream, "")
        .keys("ollama", &bad)
        .keys("ollama", &["good-key-0123456789abcdef"])
        .start()
        .await;
    for n in 1..=10 {
        for stream in [false, true] {
            let answer = keytide.post("/v1/chat/completions", &chat(stream)).await;
            assert_eq!(answer.status(), 200, "request {n}");
            answer.bytes().await.unwrap();
        }
    }
    let books = keytide.settled("ollama", 20).await;
    assert_eq!(books.total.counts.success, 20);
    let failures: u64 = books.keys.values().map(|usage| usage.counts.failure).sum();
    // Each bad key was met once and then left alone.
    assert_eq!(failures, 2);
    assert_eq!(upstream.tally().total().attempts, 22);
    keytide.stop().await;
}

#[tokio::test]
async fn refusals_have_their_status_and_stay_out_of_the_books() {
    let upstream = upstream().await;
    let keytide =
        Setup::new(&upstream, "[providers.third]\nbase_url = \"http://127.0.0.1:9\"\nenabled = false\n")
            .keys("ollama", &["good-key-0123456789abcdef"])
            .token("ollama", "sk-narrow-0123456789", |token| {
                token.limits.allowed_models = vec!["other-*".into()]
            })
            .token("ollama", "sk-once-0123456789", |token| token.limits.requests_per_minute = Some(1))
            .token("ollama", "sk-old-0123456789", |token| {
                token.expires_at = Some(keytide::model::Timestamp(1))
            })
            .token("openrouter", "sk-router-0123456789", |_| {})
            .token("third", "sk-third-0123456789", |_| {})
            .start()
            .await;
    let path = "/v1/chat/completions";
    let ask =
        async |token: &str, path: &str| error_code(keytide.post_as(token, path, &chat(false)).await).await;
    assert_eq!(ask("sk-wrong", path).await, (401, "invalid_api_key".into()));
    assert_eq!(ask("sk-router-0123456789", path).await, (401, "invalid_api_key".into()));
    assert_eq!(ask(TOKEN, "/openrouter/v1/chat/completions").await, (401, "invalid_api_key".into()));
    assert_eq!(ask("sk-old-0123456789", path).await, (401, "token_expired".into()));
    assert_eq!(ask("sk-narrow-0123456789", path).await, (403, "model_not_allowed".into()));
    assert_eq!(ask(TOKEN, "/nobody/v1/chat/completions").await, (404, "unknown_provider".into()));
    assert_eq!(ask(TOKEN, "/v1/nothing").await, (404, "unknown_path".into()));
    assert_eq!(
        ask("sk-third-0123456789", "/third/v1/chat/completions").await,
        (503, "provider_disabled".into())
    );
    assert_eq!(ask("sk-router-0123456789", "/openrouter/api/chat").await, (404, "no_native_api".into()));
    let none = ask("sk-router-0123456789", "/openrouter/v1/chat/completions").await;
    assert_eq!(none, (503, "no_available_keys".into()));
    assert_eq!(keytide.post_as("sk-once-0123456789", path, &chat(false)).await.status(), 200);
    let limited = keytide.post_as("sk-once-0123456789", path, &chat(false)).await;
    assert!(limited.headers().contains_key("retry-after"));
    assert_eq!(error_code(limited).await, (429, "rate_limit_exceeded".into()));
    let get = keytide.get(path).await;
    assert_eq!(get.headers()["allow"], "POST");
    assert_eq!(error_code(get).await, (405, "method_not_allowed".into()));
    let books = keytide.settled("ollama", 1).await;
    assert_eq!(books.total.counts.success, 1);
    // A request that no key could serve is a failure of its own provider, and of no other.
    assert_eq!(keytide.books("openrouter").total.counts.failure, 1);
    keytide.stop().await;
}

#[tokio::test]
async fn streams_arrive_as_they_are_sent() {
    use futures_util::StreamExt;
    let upstream = upstream().await;
    upstream.set_behaviour("stalls-0123456789abcdef", Behaviour::Stall { after: 3 });
    let keytide = Setup::new(&upstream, "").keys("ollama", &["stalls-0123456789abcdef"]).start().await;
    let answer = keytide.post("/v1/chat/completions", &chat(true)).await;
    let mut stream = answer.bytes_stream();
    // The provider says nothing more, and yet the first events are here.
    let first = stream.next().await.unwrap().unwrap();
    assert!(first.starts_with(b"data: "));
    drop(stream);
    let books = keytide.settled("ollama", 1).await;
    assert_eq!(books.total.counts, Counts { other: 1, ..Counts::default() });
    let key = books.keys.values().next().unwrap();
    assert_eq!(key.counts, Counts { other: 1, ..Counts::default() });
    // The provider was told at once that nobody listens any more.
    upstream.tally().idle().await;
    assert_eq!(upstream.tally().total().cancelled, 1);
    keytide.stop().await;
}

#[tokio::test]
async fn books_and_cooldowns_survive_a_restart() {
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "")
        .keys("ollama", &["dead-key-0123456789abcdef", "good-key-0123456789abcdef"])
        .start()
        .await;
    for _ in 0..5 {
        assert_eq!(keytide.post("/v1/chat/completions", &chat(false)).await.status(), 200);
    }
    let before = keytide.settled("ollama", 5).await;
    let keytide = keytide.restart().await;
    let after = keytide.books("ollama");
    assert_eq!((after.total, &after.keys, &after.hours), (before.total, &before.keys, &before.hours));
    for _ in 0..5 {
        assert_eq!(keytide.post("/v1/chat/completions", &chat(false)).await.status(), 200);
    }
    // The dead key was not tried again.
    assert_eq!(upstream.tally().total().attempts, 11);
    keytide.stop().await;
}
