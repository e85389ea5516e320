//! Lists of models, aliases, and answers that are repeated from memory.

use std::time::Duration;

use futures_util::future::join_all;
use keytide::{
    demo::upstream::{Behaviour, StatusReply, Upstream, UpstreamOptions},
    model::{Clock, Counts, Health, KeyId, KeyRecord, Secret, Status, Timestamp},
};
use serde_json::{Value, json};

use crate::harness::{Keytide, Setup, TOKEN, chat, chat_with, error_code};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "the-only-key-0123456789abcdef";
const START: Timestamp = Timestamp(1_790_000_000_000);
const ROUTER: &str = "sk-router-0123456789";

async fn upstream() -> Upstream {
    let options = UpstreamOptions { prefixes: false, ..UpstreamOptions::default() };
    Upstream::start(options).await.unwrap()
}

/// `lines` belong to the provider `ollama`.
fn setup(upstream: &Upstream, lines: &str) -> Setup {
    let base = upstream.base_url();
    let toml = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\n\
         [providers.openrouter]\nbase_url = \"{base}\"\nretry_backoff = \"0s\"\n\
         [providers.ollama]\nbase_url = \"{base}\"\nretry_backoff = \"0s\"\n{lines}"
    );
    let mut setup = Setup::with(crate::harness::config(&toml));
    setup.clock = Clock::manual(START);
    setup.keys("ollama", &[KEY]).keys("openrouter", &[KEY]).token("openrouter", ROUTER, |_| {})
}

const NAMES: &str = "models = [\"extra\", \"demo-small\"]\nmodels_ttl = \"60s\"\n\
                     aliases.fast = \"demo-large\"\naliases.ghost = \"nowhere\"\n";
const ALL: [&str; 7] = ["demo-embed", "demo-large", "demo-small", "demo/tools", "extra", "fast", "ghost"];

async fn get_as(keytide: &Keytide, token: &str, path: &str) -> (u16, Value) {
    let answer =
        keytide.client.get(format!("{}{path}", keytide.url)).bearer_auth(token).send().await.unwrap();
    let status = answer.status().as_u16();
    assert_eq!(answer.headers()["content-type"], "application/json");
    (status, answer.json().await.unwrap())
}

fn names(list: &Value) -> Vec<&str> {
    let (entries, field) = match list["data"].as_array() {
        Some(entries) => (entries, "id"),
        None => (list["models"].as_array().unwrap(), "name"),
    };
    let mut names: Vec<_> = entries.iter().map(|entry| entry[field].as_str().unwrap()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn lists_hold_what_the_provider_and_the_operator_name() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, NAMES)
        .token("ollama", "sk-narrow-0123456789", |token| {
            token.limits.allowed_models = vec!["fast".into(), "demo-s*".into()];
        })
        .start()
        .await;
    for (path, token, expected) in [
        ("/v1/models", TOKEN, &ALL[..]),
        ("/ollama/v1/models", TOKEN, &ALL),
        ("/v1/models/", TOKEN, &ALL),
        ("/v1/models?limit=1", TOKEN, &ALL),
        ("/api/tags", TOKEN, &ALL),
        ("/ollama/api/tags", TOKEN, &ALL),
        ("/v1/models", "sk-narrow-0123456789", &["demo-small", "fast"]),
        ("/api/tags", "sk-narrow-0123456789", &["demo-small", "fast"]),
        ("/openrouter/v1/models", ROUTER, &ALL[..4]),
    ] {
        let (status, list) = get_as(&keytide, token, path).await;
        assert_eq!((status, names(&list)), (200, expected.to_vec()), "{path}");
        if list["data"].is_array() {
            assert_eq!(list["object"], "list");
            for entry in list["data"].as_array().unwrap() {
                assert_eq!(entry["object"], "model");
                assert!(entry["created"].is_u64() && entry["owned_by"].is_string(), "{entry}");
            }
        }
    }
    let tags = get_as(&keytide, TOKEN, "/api/tags").await.1;
    let of =
        |name: &str| tags["models"].as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap();
    // An alias looks like the model behind it.
    assert_eq!((&of("fast")["model"], &of("fast")["size"]), (&json!("fast"), &of("demo-large")["size"]));
    for (id, status) in [
        ("demo-small", 200),
        ("demo/tools", 200),
        ("demo%2Ftools", 200),
        ("fast", 200),
        ("extra", 200),
        ("nobody", 404),
        ("demo-smal", 404),
        ("%FF", 404),
    ] {
        let (seen, entry) = get_as(&keytide, TOKEN, &format!("/v1/models/{id}")).await;
        assert_eq!(seen, status, "{id}: {entry}");
        match status {
            200 => assert_eq!(entry["id"], id.replace("%2F", "/")),
            _ => assert_eq!(entry["error"]["code"], "model_not_found"),
        }
    }
    assert_eq!(get_as(&keytide, "sk-narrow-0123456789", "/v1/models/extra").await.0, 404);
    assert_eq!(get_as(&keytide, ROUTER, "/openrouter/api/tags").await.1["error"]["code"], "no_native_api");
    let head =
        keytide.client.head(format!("{}/v1/models", keytide.url)).bearer_auth(TOKEN).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.bytes().await.unwrap().len()), (200, 0));
    // All that took one call for each list, and none of it is in the books.
    let tally = upstream.tally();
    assert_eq!((tally.endpoint("/v1/models").attempts, tally.endpoint("/api/tags").attempts), (2, 1));
    for provider in ["ollama", "openrouter"] {
        let books = keytide.books(provider);
        assert_eq!(books.total.counts.total(), 0);
        assert!(books.keys.is_empty());
    }
    keytide.stop().await;
}

#[tokio::test]
async fn a_list_is_fetched_once_and_outlives_its_provider() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, NAMES).start().await;
    let path = "/v1/models";
    let fetches = || upstream.tally().endpoint("/v1/models").attempts;
    let crowd = async || {
        for (status, list) in join_all((0..32).map(|_| get_as(&keytide, TOKEN, path))).await {
            assert_eq!((status, names(&list)), (200, ALL.to_vec()));
        }
    };
    crowd().await;
    assert_eq!(fetches(), 1);
    keytide.clock.advance(Duration::from_millis(59_999));
    crowd().await;
    assert_eq!(fetches(), 1);
    keytide.clock.advance(Duration::from_millis(1));
    crowd().await;
    assert_eq!(fetches(), 2);
    // The provider fails: the old list is served, and the provider left in peace for a while.
    upstream.set_default(Behaviour::status(500));
    keytide.clock.advance(Duration::from_secs(60));
    crowd().await;
    assert_eq!(fetches(), 3);
    keytide.clock.advance(Duration::from_secs(9));
    crowd().await;
    assert_eq!(fetches(), 3);
    upstream.set_default(Behaviour::Good);
    keytide.clock.advance(Duration::from_secs(1));
    crowd().await;
    assert_eq!(fetches(), 4);
    keytide.stop().await;
}

#[tokio::test]
async fn a_list_says_nothing_for_the_key_that_fetched_it() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, "").start().await;
    let pool = keytide.app.pool("ollama").unwrap();
    let id = KeyId::derive("ollama", KEY);
    let refused = Health { auth_failures: 2, consecutive_failures: 2, ..Health::default() };
    pool.insert(pool.remove(id).unwrap(), refused.clone(), START).unwrap();
    assert_eq!(get_as(&keytide, TOKEN, "/v1/models").await.0, 200);
    assert_eq!(pool.get(id, START).unwrap().health, refused);
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    assert_eq!(pool.get(id, START).unwrap().health.auth_failures, 0);
    keytide.stop().await;
}

#[tokio::test]
async fn a_provider_that_lists_nothing_is_left_in_peace_for_a_while() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, "").keys("ollama", &["another-key-0123456789"]).start().await;
    let pool = keytide.app.pool("ollama").unwrap();
    upstream.set_default(StatusReply::new(200).body("no list").into());
    let fetches = || upstream.tally().endpoint("/v1/models").attempts;
    let crowd = async || {
        for (status, answer) in join_all((0..8).map(|_| get_as(&keytide, TOKEN, "/v1/models"))).await {
            assert_eq!((status, &answer["error"]["code"]), (502, &json!("upstream_error")));
        }
    };
    crowd().await;
    keytide.clock.advance(Duration::from_millis(9_999));
    crowd().await;
    assert_eq!(fetches(), 1);
    upstream.set_default(Behaviour::Good);
    keytide.clock.advance(Duration::from_millis(1));
    assert_eq!(get_as(&keytide, TOKEN, "/v1/models").await.0, 200);
    // Without a key nothing is asked, and nothing remembered.
    for id in [KEY, "another-key-0123456789"].map(|key| KeyId::derive("ollama", key)) {
        pool.remove(id).unwrap();
    }
    assert_eq!(get_as(&keytide, TOKEN, "/api/tags").await.1["error"]["code"], "no_available_keys");
    pool.insert(KeyRecord::new(Secret::new(KEY), START), Health::default(), START).unwrap();
    assert_eq!(get_as(&keytide, TOKEN, "/api/tags").await.0, 200);
    keytide.stop().await;
}

#[tokio::test]
async fn a_provider_that_lists_nothing() {
    for (lines, expected) in [("", None), (NAMES, Some(vec!["demo-small", "extra", "fast", "ghost"]))] {
        for behaviour in [
            Behaviour::status(404),
            Behaviour::status(500),
            Behaviour::Dead,
            Behaviour::Refuse,
            Behaviour::BrokenLength,
            StatusReply::new(200).body("no list").into(),
            StatusReply::new(200).body("{\"data\":7}").into(),
        ] {
            let upstream = upstream().await;
            upstream.set_default(behaviour.clone());
            let keytide = setup(&upstream, lines).start().await;
            for path in ["/v1/models", "/api/tags"] {
                let (status, list) = get_as(&keytide, TOKEN, path).await;
                match &expected {
                    Some(expected) => assert_eq!((status, names(&list)), (200, expected.clone())),
                    None => {
                        assert!((502..=503).contains(&status), "{behaviour:?} {status}");
                        assert!(list["error"]["code"].is_string() && !list.to_string().contains(KEY));
                    }
                }
            }
            // What the key did here tells how it is.
            let pool = keytide.app.pool("ollama").unwrap();
            let view = pool.scan(0, 1, START).0.remove(0);
            let is_its_fault =
                !matches!(&behaviour, Behaviour::Status(reply) if reply.code == 404 || reply.code == 200);
            assert_eq!(view.status == Status::Failed, is_its_fault, "{behaviour:?}");
            assert_eq!(view.in_flight, 0);
            keytide.stop().await;
        }
    }
}

#[tokio::test]
async fn lists_are_public_only_where_configured() {
    let upstream = upstream().await;
    for public in [false, true] {
        let mut setup = setup(&upstream, NAMES);
        setup.config.server.gateway.public_models = public;
        let keytide = setup.start().await;
        for path in ["/v1/models", "/v1/models/fast", "/api/tags", "/openrouter/v1/models"] {
            let answer = keytide.client.get(format!("{}{path}", keytide.url)).send().await.unwrap();
            match public {
                true => assert_eq!(answer.status(), 200, "{path}"),
                false => assert_eq!(error_code(answer).await, (401, "missing_token".to_owned()), "{path}"),
            }
            // A wrong token is wrong all the same.
            assert_eq!(get_as(&keytide, "sk-wrong", path).await.0, 401, "{path}");
        }
        let answer =
            keytide.client.post(format!("{}{CHAT}", keytide.url)).json(&chat(false)).send().await.unwrap();
        assert_eq!(error_code(answer).await, (401, "missing_token".to_owned()));
        keytide.stop().await;
    }
}

#[tokio::test]
async fn an_alias_is_what_the_provider_sees() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, NAMES).start().await;
    for path in [
        CHAT,
        "/v1/completions",
        "/v1/responses",
        "/v1/messages",
        "/v1/embeddings",
        "/api/chat",
        "/api/generate",
    ] {
        let body = json!({"model": "fast", "prompt": "hi", "input": "hi", "max_tokens": 9,
            "messages": [{"role": "user", "content": "model: fast"}]});
        assert_eq!(keytide.post(path, &body).await.status(), 200, "{path}");
        let seen = upstream.tally().last_request().unwrap();
        let sent = body.to_string().replace("\"model\":\"fast\"", "\"model\":\"demo-large\"");
        assert_eq!(std::str::from_utf8(&seen.body).unwrap(), sent, "{path}");
    }
    assert_eq!(keytide.post("/api/show", &json!({"name": "fast"})).await.status(), 200);
    assert_eq!(upstream.tally().last_request().unwrap().body, "{\"name\":\"demo-large\"}");
    // The books know the model, not its alias, and nothing that only callers have named.
    assert_eq!(keytide.post(CHAT, &chat_with("[[404]]", false)).await.status(), 404);
    let ghost = json!({"model": "made-up", "messages": [{"role": "user", "content": "[[404]]"}]});
    assert_eq!(keytide.post(CHAT, &ghost).await.status(), 404);
    let books = keytide.settled("ollama", 10).await;
    let mut models: Vec<_> =
        books.models.iter().map(|(name, usage)| (&**name, usage.counts.total())).collect();
    models.sort_unstable();
    assert_eq!(models, [("(other)", 2), ("demo-large", 8)]);
    keytide.stop().await;
}

fn is_hit(answer: &reqwest::Response) -> bool {
    answer.headers().get("x-keytide-cache").is_some_and(|value| value == "hit")
}

#[tokio::test]
async fn equal_requests_are_answered_from_memory_where_configured() {
    let upstream = upstream().await;
    let cache = "cache.enabled = true\ncache.ttl = \"60s\"\ncache.max_size = \"1MB\"\naliases.fast = \"demo-large\"\n";
    let keytide = setup(&upstream, cache)
        .token("ollama", "sk-other-0123456789", |_| {})
        .token("ollama", "sk-narrow-0123456789", |token| {
            token.limits.allowed_models = vec!["demo-large".into()]
        })
        .start()
        .await;
    let first = keytide.post(CHAT, &chat(false)).await;
    assert!(!is_hit(&first));
    let id = first.headers()["x-request-id"].clone();
    let text = first.text().await.unwrap();
    for token in [TOKEN, "sk-other-0123456789"] {
        let again = keytide.post_as(token, CHAT, &chat(false)).await;
        assert!(is_hit(&again) && again.headers()["x-request-id"] != id);
        assert_eq!(again.headers()["content-type"], "application/json");
        assert_eq!(again.text().await.unwrap(), text);
    }
    // Who may not use the model gets nothing from memory either.
    let refused = error_code(keytide.post_as("sk-narrow-0123456789", CHAT, &chat(false)).await).await;
    assert_eq!(refused, (403, "model_not_allowed".to_owned()));
    assert_eq!(upstream.tally().total().attempts, 1);
    let books = keytide.settled("ollama", 3).await;
    assert_eq!(books.total.counts, Counts { success: 3, ..Counts::default() });
    // No key worked for the repetitions, and no tokens were spent.
    assert_eq!(books.keys.values().next().unwrap().counts, Counts::SUCCESS);
    assert_eq!(books.total.prompt_tokens, upstream.tally().total().reported.prompt);
    // Another body, path, query or provider is another request; a stream is always new.
    let url = |path: &str| format!("{}{path}", keytide.url);
    for n in 0..2 {
        let other = keytide.post(CHAT, &chat_with("Else?", false)).await;
        assert_eq!(is_hit(&other), n == 1);
        let query =
            keytide.client.post(url("/v1/chat/completions?a=1")).bearer_auth(TOKEN).json(&chat(false));
        assert_eq!(is_hit(&query.send().await.unwrap()), n == 1);
        assert_eq!(is_hit(&keytide.post("/api/chat", &chat(false)).await), n == 1);
        assert!(!is_hit(&keytide.post(CHAT, &chat(true)).await));
        assert!(!is_hit(
            &keytide
                .post("/api/chat", &json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}))
                .await
        ));
        assert!(!is_hit(&keytide.post_as(ROUTER, "/openrouter/v1/chat/completions", &chat(false)).await));
    }
    // Errors are never repeated from memory.
    for behaviour in [Behaviour::status(400), Behaviour::ErrorIn200 { code: 400 }, Behaviour::status(404)] {
        upstream.set_default(behaviour);
        for _ in 0..2 {
            assert!(!is_hit(&keytide.post(CHAT, &chat_with("Wrong?", false)).await));
        }
    }
    upstream.set_default(Behaviour::Good);
    keytide.clock.advance(Duration::from_millis(59_999));
    assert!(is_hit(&keytide.post(CHAT, &chat(false)).await));
    keytide.clock.advance(Duration::from_millis(1));
    assert!(!is_hit(&keytide.post(CHAT, &chat(false)).await));
    keytide.stop().await;
}

#[tokio::test]
async fn remembered_answers_are_bounded() {
    let upstream = upstream().await;
    let keytide = setup(&upstream, "cache.enabled = true\ncache.max_size = \"1MB\"\n").start().await;
    let size = 50_000;
    let body = json!({"choices": [], "text": "a".repeat(size)}).to_string();
    upstream.set_default(StatusReply::new(200).body(body).into());
    let mut hits = 0;
    for round in 0..2 {
        for n in 0..60 {
            let answer = keytide.post(CHAT, &chat_with(&format!("Question {n}"), false)).await;
            assert_eq!(answer.status(), 200);
            hits += usize::from(is_hit(&answer));
        }
        assert!(round == 1 || hits == 0);
    }
    assert!(hits <= 1_000_000 / size, "{hits} answers of {size} bytes were kept");
    // A small one that is asked for again and again is.
    upstream.set_default(Behaviour::Good);
    keytide.post(CHAT, &chat_with("Small", false)).await;
    assert!(is_hit(&keytide.post(CHAT, &chat_with("Small", false)).await));
    keytide.stop().await;
}

#[tokio::test]
async fn a_provider_that_hangs_holds_callers_up_once() {
    let upstream = upstream().await;
    upstream.set_default(Behaviour::Hang);
    let keys: Vec<String> = (0..16).map(|n| format!("any-key-0123456789abcdef-{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let mut setup = Setup::new(&upstream, "").keys("ollama", &keys);
    let ollama = setup.config.providers.get_mut("ollama").unwrap();
    ollama.gateway.max_attempts = 1;
    ollama.upstream.first_byte_timeout = Duration::from_millis(300);
    let keytide = setup.start().await;
    let answers = join_all((0..8).map(|_| keytide.get("/v1/models"))).await;
    assert!(answers.iter().all(|answer| answer.status() == 503));
    // Whoever waited for the first fetch got its error; only a caller that came later asks again.
    assert!(upstream.tally().total().attempts < 4, "{}", upstream.tally().total().attempts);
    keytide.stop().await;
}
