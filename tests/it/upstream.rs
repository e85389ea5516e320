//! The loopback provider itself: its dialects, its failures and its tally.

use std::{io::Read, sync::Once, time::Duration};

use futures_util::{StreamExt, future::join_all};
use keytide::{
    demo::upstream::{Behaviour, Reset, StatusReply, Tokens, Upstream, UpstreamOptions},
    model::{Clock, Timestamp},
};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};

fn client() -> Client {
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::new()
}

async fn start() -> Upstream {
    Upstream::start(UpstreamOptions::default()).await.expect("a free port on loopback")
}

fn chat(stream: bool) -> Value {
    json!({"model": "demo-small", "stream": stream, "messages": [{"role": "user", "content": "How high is the tide?"}]})
}

async fn post(upstream: &Upstream, path: &str, key: &str, body: &Value) -> reqwest::Result<Response> {
    client().post(upstream.base_url() + path).bearer_auth(key).json(body).send().await
}

/// The data of each server-sent event.
fn events(text: &str) -> Vec<&str> {
    text.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
}

/// Every way of asking that has a text for an answer, and where its answer tells the two token counts.
const SPOKEN: [(&str, [&str; 2]); 6] = [
    ("/v1/chat/completions", ["/usage/prompt_tokens", "/usage/completion_tokens"]),
    ("/v1/completions", ["/usage/prompt_tokens", "/usage/completion_tokens"]),
    ("/v1/responses", ["/usage/input_tokens", "/usage/output_tokens"]),
    ("/v1/messages", ["/usage/input_tokens", "/usage/output_tokens"]),
    ("/api/chat", ["/prompt_eval_count", "/eval_count"]),
    ("/api/generate", ["/prompt_eval_count", "/eval_count"]),
];

/// A body that every one of them understands.
fn question(stream: bool) -> Value {
    json!({
        "model": "demo-small",
        "stream": stream,
        "max_tokens": 1000,
        "messages": [{"role": "user", "content": "one two three"}],
        "prompt": "one two three",
        "input": "one two three",
    })
}

#[tokio::test]
async fn every_dialect_tells_the_tokens_that_the_tally_has() {
    let upstream = start().await;
    for (path, places) in SPOKEN {
        let answer: Value =
            post(&upstream, path, path, &question(false)).await.unwrap().json().await.unwrap();
        let told = places.map(|place| answer.pointer(place).and_then(Value::as_u64).unwrap());
        let count = upstream.tally().key(path);
        assert_eq!((count.attempts, count.completed, count.status(200)), (1, 1, 1), "{path}");
        assert_eq!([count.tokens.prompt, count.tokens.completion], told, "{path}");
        assert_eq!((count.tokens, told[0]), (count.reported, 3), "{path}");
    }
}

#[tokio::test]
async fn every_dialect_streams_the_same_text_that_it_answers_whole() {
    let upstream = start().await;
    for (path, deltas, text) in [
        ("/v1/chat/completions", "/choices/0/delta/content", "/choices/0/message/content"),
        ("/v1/completions", "/choices/0/text", "/choices/0/text"),
        ("/v1/responses", "/delta", "/output/0/content/0/text"),
        ("/v1/messages", "/delta/text", "/content/0/text"),
        ("/api/chat", "/message/content", "/message/content"),
        ("/api/generate", "/response", "/response"),
    ] {
        let whole: Value = post(&upstream, path, "k", &question(false)).await.unwrap().json().await.unwrap();
        let response = post(&upstream, path, "k", &question(true)).await.unwrap();
        let kind = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = response.text().await.unwrap();
        let lines = if path.starts_with("/api") { body.lines().collect() } else { events(&body) };
        let mut streamed = String::new();
        for line in lines.iter().filter(|line| **line != "[DONE]") {
            let event: Value = serde_json::from_str(line).unwrap();
            streamed.push_str(event.pointer(deltas).and_then(Value::as_str).unwrap_or(""));
        }
        assert_eq!(Some(streamed.as_str()), whole.pointer(text).and_then(Value::as_str), "{path}");
        let ndjson = path.starts_with("/api");
        assert!(
            kind.starts_with(if ndjson { "application/x-ndjson" } else { "text/event-stream" }),
            "{path}"
        );
    }
    assert_eq!(upstream.tally().total().completed, 12);
}

#[tokio::test]
async fn openai_streams_tell_usage_only_when_asked() {
    let upstream = start().await;
    let mut body = chat(true);
    post(&upstream, "/v1/chat/completions", "k", &body).await.unwrap().text().await.unwrap();
    let silent = upstream.tally().total();
    assert_eq!((silent.completed, silent.reported), (1, Tokens::default()));
    assert!(silent.tokens.completion > 0);

    body["stream_options"] = json!({"include_usage": true});
    let text = post(&upstream, "/v1/chat/completions", "k", &body).await.unwrap().text().await.unwrap();
    let events = events(&text);
    let usage: Value = serde_json::from_str(events[events.len() - 2]).unwrap();
    assert_eq!((usage["choices"].clone(), events[events.len() - 1]), (json!([]), "[DONE]"));
    assert_eq!(usage["usage"]["completion_tokens"], upstream.tally().total().reported.completion);
}

#[tokio::test]
async fn tools_are_called_whole_and_in_deltas() {
    let upstream = start().await;
    let mut body = chat(false);
    body["tools"] = json!([{"type": "function", "function": {"name": "height", "parameters":
        {"type": "object", "properties": {"place": {"type": "string"}}}}}]);
    let whole: Value =
        post(&upstream, "/v1/chat/completions", "k", &body).await.unwrap().json().await.unwrap();
    let call = &whole["choices"][0]["message"]["tool_calls"][0]["function"];
    assert_eq!(
        (call["name"].as_str(), call["arguments"].as_str()),
        (Some("height"), Some(r#"{"place":"tide"}"#))
    );
    assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
    body["stream"] = json!(true);
    let text = post(&upstream, "/v1/chat/completions", "k", &body).await.unwrap().text().await.unwrap();
    let arguments: String = events(&text)
        .iter()
        .filter_map(|event| serde_json::from_str::<Value>(event).ok())
        .filter_map(|event| {
            Some(event.pointer("/choices/0/delta/tool_calls/0/function/arguments")?.as_str()?.to_owned())
        })
        .collect();
    assert_eq!(arguments, r#"{"place":"tide"}"#);
}

#[tokio::test]
async fn keys_fail_as_they_are_told() {
    let clock = Clock::manual(Timestamp(784_111_777_000 - 30_000));
    let upstream = Upstream::start(UpstreamOptions { clock, ..UpstreamOptions::default() }).await.unwrap();
    let span = Duration::from_secs(30);
    let teapot = StatusReply::new(418).retry_after("7").header("x-kind", "green").body("{}");
    for (behaviour, status, header) in [
        (Behaviour::Dead, 401, None),
        (Behaviour::Forbidden, 403, None),
        (Behaviour::status(500), 500, None),
        (teapot.clone().into(), 418, Some(("retry-after", "7"))),
        (teapot.into(), 418, Some(("x-kind", "green"))),
        (Behaviour::RateLimited(Reset::Unsaid), 429, None),
        (Behaviour::RateLimited(Reset::Seconds(9)), 429, Some(("retry-after", "9"))),
        (
            Behaviour::RateLimited(Reset::HttpDate(span)),
            429,
            Some(("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")),
        ),
        (Behaviour::RateLimited(Reset::EpochMillis(span)), 429, Some(("x-ratelimit-reset", "784111777000"))),
        (Behaviour::QuotaUsed { resets_in: span }, 402, Some(("x-ratelimit-reset", "784111777000"))),
        (Behaviour::Flaky { percent: 0 }, 200, None),
    ] {
        upstream.set_behaviour("key", behaviour.clone());
        let response = post(&upstream, "/v1/chat/completions", "key", &chat(true)).await.unwrap();
        assert_eq!(response.status().as_u16(), status, "{behaviour:?}");
        if let Some((name, value)) = header {
            assert_eq!(response.headers()[name], value, "{behaviour:?}");
        }
        response.bytes().await.unwrap();
    }
    let total = upstream.tally().total();
    assert_eq!((total.completed, total.failed, total.status(429)), (1, 10, 4));
}

#[tokio::test]
async fn a_limited_key_answers_n_times_a_minute() {
    let clock = Clock::manual(Timestamp(1_000_000));
    let upstream = Upstream::start(UpstreamOptions { clock: clock.clone(), ..UpstreamOptions::default() })
        .await
        .unwrap();
    upstream.set_default(Behaviour::RateLimitedAfter { n: 2 });
    let ask = || async { post(&upstream, "/v1/chat/completions", "k", &chat(false)).await.unwrap() };
    assert_eq!([ask().await.status(), ask().await.status()], [200, 200]);
    clock.advance(Duration::from_millis(20_500));
    let refused = ask().await;
    assert_eq!((refused.status().as_u16(), &refused.headers()["retry-after"]), (429, &"40".parse().unwrap()));
    clock.advance(Duration::from_secs(40));
    assert_eq!(ask().await.status(), 200);
}

#[tokio::test]
async fn prefixes_prompts_and_missing_keys_choose_the_answer() {
    let upstream = start().await;
    let status = |key: &'static str, text: &'static str| {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        let upstream = &upstream;
        async move { post(upstream, "/v1/chat/completions", key, &body).await.unwrap().status().as_u16() }
    };
    assert_eq!(status("good-1", "hi").await, 200);
    assert_eq!(status("dead-1", "hi").await, 401);
    assert_eq!(status("quota-1", "hi").await, 402);
    assert_eq!(status("dead-1", "please [[400]]").await, 400);
    assert_eq!(status("", "hi").await, 401);
    for (path, expected) in [("/nothing", 404), ("/v1/models/none", 404), ("/v1/models/demo%2Ftools", 200)] {
        let response = client().get(upstream.base_url() + path).bearer_auth("k").send().await.unwrap();
        assert_eq!(response.status().as_u16(), expected, "{path}");
    }
    let wrong = client().get(upstream.base_url() + "/v1/chat/completions").bearer_auth("k");
    assert_eq!(wrong.send().await.unwrap().status(), StatusCode::METHOD_NOT_ALLOWED);
    let head = client().head(upstream.base_url() + "/v1/models").bearer_auth("k").send().await.unwrap();
    assert_eq!(head.status(), StatusCode::METHOD_NOT_ALLOWED);
    let garbage = client().post(upstream.base_url() + "/v1/responses").bearer_auth("k").body("{").send();
    assert_eq!(garbage.await.unwrap().status(), StatusCode::BAD_REQUEST);
    upstream.tally().idle().await;
    assert_eq!(upstream.tally().total().cancelled, 0);
}

#[tokio::test]
async fn errors_hide_in_a_200_whole_and_in_streams() {
    let upstream = start().await;
    for (path, _) in SPOKEN {
        upstream.set_default(Behaviour::ErrorIn200 { code: 429 });
        for stream in [false, true] {
            let response = post(&upstream, path, "k", &question(stream)).await.unwrap();
            assert_eq!(response.status(), 200);
            let text = response.text().await.unwrap();
            let json = events(&text).first().map_or(text.trim(), |first| first);
            let error: Value = serde_json::from_str(json).unwrap();
            assert!(!error["error"].is_null() || error["type"] == "error", "{path} {text}");
        }
        upstream.set_default(Behaviour::ErrorMidStream { after: 5, code: 502 });
        let text = post(&upstream, path, "k", &question(true)).await.unwrap().text().await.unwrap();
        let count = if path.starts_with("/api") { text.lines().count() } else { events(&text).len() };
        assert_eq!(count, 6, "{path} {text}");
        assert!(text.contains("502") && !text.contains("[DONE]"), "{path} {text}");
    }
    let total = upstream.tally().total();
    assert_eq!((total.failed, total.completed, total.status(200)), (18, 0, 18));
}

#[tokio::test]
async fn answers_break_off_where_they_are_told_to() {
    let upstream = start().await;
    let path = "/v1/chat/completions";
    upstream.set_default(Behaviour::Refuse);
    assert!(post(&upstream, path, "k", &chat(true)).await.is_err());

    upstream.set_default(Behaviour::BrokenStream { after: 3 });
    let mut stream = post(&upstream, path, "k", &chat(true)).await.unwrap().bytes_stream();
    let (mut got, mut broken) = (Vec::new(), false);
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => got.extend(chunk),
            Err(_) => broken = true,
        }
    }
    assert_eq!((events(&String::from_utf8(got).unwrap()).len(), broken), (3, true));

    upstream.set_default(Behaviour::BrokenStream { after: 0 });
    for stream in [true, false] {
        let response = post(&upstream, path, "k", &chat(stream)).await.unwrap();
        assert!(response.status() == 200 && response.bytes().await.is_err());
    }

    upstream.set_default(Behaviour::BrokenLength);
    for stream in [true, false] {
        let response = post(&upstream, path, "k", &chat(stream)).await.unwrap();
        assert!(response.content_length().is_some_and(|length| length > 100));
        assert!(response.bytes().await.is_err());
    }
    upstream.tally().idle().await;
    let total = upstream.tally().total();
    assert_eq!((total.attempts, total.broken, total.status(200)), (6, 6, 5));
}

/// Waits for what must come true soon.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let wait = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test]
async fn hang_ups_are_counted_as_cancelled() {
    let options = UpstreamOptions { token_delay: Duration::from_secs(2), ..UpstreamOptions::default() };
    let upstream = Upstream::start(options).await.unwrap();
    let tally = upstream.tally();
    upstream.set_behaviour("hang", Behaviour::Hang);
    upstream.set_behaviour("stall", Behaviour::Stall { after: 1 });
    upstream.set_behaviour("slow", Behaviour::Slow { first_byte: Duration::from_secs(60) });
    for (key, answers) in [("hang", 0), ("slow", 0), ("stall", 1), ("good", 1)] {
        let request = client().post(upstream.base_url() + "/v1/chat/completions").bearer_auth(key);
        let reading = tokio::spawn(async move { request.json(&chat(true)).send().await?.bytes().await });
        until("it is on its way", || tally.requests().len() as u64 == tally.total().attempts).await;
        until("it has got that far", || {
            let count = tally.key(key);
            (count.attempts, count.in_flight(), count.status(200)) == (1, 1, answers)
        })
        .await;
        reading.abort();
        until("the hang-up is noticed", || tally.in_flight() == 0).await;
        let count = tally.key(key);
        assert_eq!((count.cancelled, count.status(200), count.completed), (1, answers, 0), "{key}");
    }
}

#[tokio::test]
async fn gzip_huge_and_slow_answers_are_whole() {
    let upstream = start().await;
    let path = "/v1/chat/completions";
    upstream.set_default(Behaviour::Gzip);
    for stream in [true, false] {
        let response = post(&upstream, path, "k", &chat(stream)).await.unwrap();
        assert_eq!(response.headers()["content-encoding"], "gzip");
        let (zipped, mut text) = (response.bytes().await.unwrap(), String::new());
        flate2::read::GzDecoder::new(&*zipped).read_to_string(&mut text).unwrap();
        assert!(text.contains(if stream { "[DONE]" } else { "total_tokens" }), "{text}");
    }
    upstream.set_default(Behaviour::Huge { bytes: 3_000_000 });
    for (path, _) in SPOKEN {
        for stream in [true, false] {
            let body = post(&upstream, path, "huge", &question(stream)).await.unwrap().text().await.unwrap();
            assert!(body.len() > 3_000_000 && !body.contains("@here"), "{path} {stream}");
            if !stream {
                serde_json::from_str::<Value>(&body).unwrap();
            }
        }
    }
    upstream.set_default(Behaviour::Slow { first_byte: Duration::from_millis(120) });
    let begun = std::time::Instant::now();
    assert_eq!(post(&upstream, path, "k", &chat(false)).await.unwrap().status(), 200);
    assert!(begun.elapsed() >= Duration::from_millis(120));
    let total = upstream.tally().total();
    assert_eq!((total.completed, total.attempts), (15, 15));
}

#[tokio::test]
async fn embeddings_come_as_numbers_and_in_base64() {
    let upstream = start().await;
    let mut body = json!({"model": "demo-embed", "input": ["low tide", "high tide"], "dimensions": 3});
    let plain: Value = post(&upstream, "/v1/embeddings", "k", &body).await.unwrap().json().await.unwrap();
    assert_eq!(plain["data"][1]["embedding"].as_array().unwrap().len(), 3);
    assert_ne!(plain["data"][0]["embedding"], plain["data"][1]["embedding"]);
    assert_eq!(plain["usage"]["prompt_tokens"], 4);
    body["encoding_format"] = json!("base64");
    let packed: Value = post(&upstream, "/v1/embeddings", "k", &body).await.unwrap().json().await.unwrap();
    // 3 floats of 4 bytes: 12 bytes, 16 characters.
    assert_eq!(packed["data"][0]["embedding"].as_str().unwrap().len(), 16);
    let native: Value = post(&upstream, "/api/embed", "k", &body).await.unwrap().json().await.unwrap();
    assert_eq!(native["embeddings"][1], plain["data"][1]["embedding"]);
    assert_eq!(upstream.tally().total().reported.prompt, 12);
}

#[tokio::test]
async fn requests_are_kept_as_they_came() {
    let options = UpstreamOptions { keep_requests: 2, ..UpstreamOptions::default() };
    let upstream = Upstream::start(options).await.unwrap();
    for n in 0..3 {
        post(&upstream, "/api/v1/chat/completions?x=1", &format!("k{n}"), &chat(false)).await.unwrap();
    }
    let kept = upstream.tally().requests();
    assert_eq!(kept.iter().map(|request| &*request.key).collect::<Vec<_>>(), ["k1", "k2"]);
    let last = upstream.tally().last_request().unwrap();
    assert_eq!(
        (last.uri.to_string().as_str(), last.endpoint),
        ("/api/v1/chat/completions?x=1", "/v1/chat/completions")
    );
    assert_eq!(serde_json::from_slice::<Value>(&last.body).unwrap(), chat(false));
    assert_eq!(last.headers["authorization"], "Bearer k2");
}

#[tokio::test]
async fn speaks_h2c() {
    let upstream = start().await;
    client();
    let h2 = Client::builder().http2_prior_knowledge().build().unwrap();
    let url = upstream.base_url() + "/v1/chat/completions";
    let response = h2.post(&url).bearer_auth("k").json(&chat(true)).send().await.unwrap();
    assert_eq!(response.version(), reqwest::Version::HTTP_2);
    assert!(response.text().await.unwrap().ends_with("[DONE]\n\n"));
    upstream.set_default(Behaviour::Refuse);
    assert!(h2.post(&url).bearer_auth("k").json(&chat(true)).send().await.is_err());
    upstream.set_default(Behaviour::Hang);
    let hanging = h2.post(&url).bearer_auth("k").json(&chat(true)).timeout(Duration::from_millis(100)).send();
    assert!(hanging.await.is_err());
    let tally = upstream.tally();
    tally.idle().await;
    let total = tally.total();
    assert_eq!((total.completed, total.broken, total.cancelled), (1, 1, 1));

    let hanging = tokio::spawn(h2.post(&url).bearer_auth("k").json(&chat(true)).send());
    until("it hangs", || tally.in_flight() == 1).await;
    tokio::time::timeout(Duration::from_secs(20), upstream.kill()).await.expect("killing does not wait");
    assert!(hanging.await.unwrap().is_err());
    assert_eq!((tally.total().cancelled, tally.in_flight()), (2, 0));
}

#[tokio::test]
async fn speaks_tls_through_an_accept_hook() {
    client();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    let upstream =
        Upstream::start_tls(UpstreamOptions::default(), move |tcp| acceptor.accept(tcp)).await.unwrap();
    let root = reqwest::Certificate::from_der(made.cert.der()).unwrap();
    let trusting = Client::builder().tls_certs_only([root]).build().unwrap();
    let url = upstream.base_url() + "/api/version";
    assert!(url.starts_with("https://127.0.0.1:"));
    let response = trusting.get(&url).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test]
async fn stopping_lets_streams_end_and_killing_does_not() {
    let options = UpstreamOptions { token_delay: Duration::from_millis(30), ..UpstreamOptions::default() };
    for (kill, whole) in [(false, true), (true, false)] {
        let upstream = Upstream::start(options.clone()).await.unwrap();
        let (tally, url) = (upstream.tally(), upstream.base_url());
        let response = post(&upstream, "/v1/chat/completions", "k", &chat(true)).await.unwrap();
        let reading = tokio::spawn(response.bytes());
        if kill {
            upstream.kill().await
        } else {
            upstream.stop().await
        }
        assert_eq!(reading.await.unwrap().is_ok(), whole);
        assert_eq!((tally.total().completed, tally.total().cancelled), if whole { (1, 0) } else { (0, 1) });
        assert!(client().get(url).send().await.is_err(), "nobody listens any more");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crowd_is_counted_exactly() {
    let upstream = start().await;
    upstream.set_behaviour("mixed", Behaviour::Cycle(vec![Behaviour::Good, Behaviour::status(503)]));
    let client = client();
    let url = upstream.base_url() + "/v1/chat/completions";
    let crowd = (0..64).map(|n| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move {
            let (mut good, mut bad, mut tokens) = (0, 0, 0);
            for _ in 0..10 {
                let key = if n % 3 == 0 { "mixed" } else { "good-1" };
                let response = client.post(&url).bearer_auth(key).json(&chat(false)).send().await.unwrap();
                if response.status() == 200 {
                    let answer: Value = response.json().await.unwrap();
                    good += 1;
                    tokens += answer["usage"]["completion_tokens"].as_u64().unwrap();
                } else {
                    bad += 1;
                }
            }
            (good, bad, tokens)
        })
    });
    let seen = join_all(crowd).await.into_iter().map(Result::unwrap);
    let seen = seen.fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    upstream.tally().idle().await;
    let total = upstream.tally().total();
    assert_eq!((total.completed, total.failed, total.tokens.completion), seen);
    assert_eq!((total.attempts, total.cancelled), (640, 0));
    assert_eq!(upstream.tally().keys()["mixed"].status(503), 110);
    assert!(upstream.tally().max_in_flight() <= 64);
}
