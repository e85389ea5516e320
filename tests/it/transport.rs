//! Callers' connections: bytes, their limits, and who breaks them.

use std::{
    io,
    sync::{Mutex, Once},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::join_all;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytide::{demo::upstream::Behaviour, model::Counts};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinHandle,
    time::Instant,
};

use crate::{
    harness::{Keytide, Setup, TOKEN, chat, error_code, until, upstream},
    scripted::PATIENCE,
};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "good-key-0123456789abcdef";
const SOON: Duration = Duration::from_millis(150);

/// Panics of keytide's own threads, which tokio would swallow.
static PANICS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn watch_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if thread.name().is_some_and(|name| name.starts_with("keytide")) {
                PANICS.lock().unwrap().push(info.to_string());
            }
            before(info);
        }));
    });
}

fn no_panics() {
    let panics = PANICS.lock().unwrap();
    assert!(panics.is_empty(), "{panics:?}");
}

/// A connection that sends exactly what it is told to.
struct Wire {
    socket: TcpStream,
    read: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    fn code(&self) -> String {
        let value: Value = serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"));
        assert!(value["error"]["message"].is_string() && value["error"]["type"].is_string(), "{value}");
        value["error"]["code"].as_str().unwrap().to_owned()
    }
}

impl Wire {
    async fn to(keytide: &Keytide) -> Self {
        Self { socket: TcpStream::connect(keytide.app.address()).await.unwrap(), read: Vec::new() }
    }

    async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.socket.write_all(bytes.as_ref()).await.unwrap();
    }

    async fn more(&mut self) -> io::Result<usize> {
        tokio::time::timeout(PATIENCE, self.socket.read_buf(&mut self.read)).await.expect("bytes in time")
    }

    async fn line(&mut self) -> String {
        loop {
            if let Some(at) = self.read.windows(2).position(|window| window == b"\r\n") {
                let line: Vec<u8> = self.read.drain(..at + 2).collect();
                return String::from_utf8(line[..at].to_vec()).unwrap();
            }
            assert_ne!(self.more().await.unwrap(), 0, "the connection ended in a line");
        }
    }

    async fn exactly(&mut self, length: usize) -> Vec<u8> {
        while self.read.len() < length {
            assert_ne!(self.more().await.unwrap(), 0, "the connection ended in a body");
        }
        self.read.drain(..length).collect()
    }

    async fn answer(&mut self) -> Answer {
        let mut head = self.line().await;
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        loop {
            let line = self.line().await;
            if line.is_empty() {
                break;
            }
            head.push('\n');
            head.push_str(&line.to_ascii_lowercase());
        }
        let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let mut body = Vec::new();
        if let Some(length) = value("content-length:") {
            body = self.exactly(length.parse().unwrap()).await;
        } else if value("transfer-encoding:") == Some("chunked") {
            loop {
                let size = usize::from_str_radix(&self.line().await, 16).unwrap();
                body.extend(self.exactly(size).await);
                self.line().await;
                if size == 0 {
                    break;
                }
            }
        } else if status >= 200 && status != 204 && status != 304 {
            while matches!(self.more().await, Ok(1..)) {}
            body = std::mem::take(&mut self.read);
        }
        Answer { status, head, body }
    }

    /// Whether the other side ends the connection without another byte.
    async fn ends(&mut self) -> bool {
        self.read.is_empty() && matches!(self.more().await, Ok(0) | Err(_))
    }
}

fn request(body: &[u8], more: &str) -> Vec<u8> {
    let mut request = format!(
        "POST {CHAT} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: {}\r\n{more}\r\n",
        body.len()
    )
    .into_bytes();
    request.extend_from_slice(body);
    request
}

fn chat_bytes(stream: bool) -> Vec<u8> {
    chat(stream).to_string().into_bytes()
}

#[tokio::test]
async fn many_requests_on_one_http2_connection() {
    watch_panics();
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &[KEY]).start().await;
    let h2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    let answers = join_all((0..60).map(|n| {
        let request = h2.post(format!("{}{CHAT}", keytide.url)).bearer_auth(TOKEN).json(&chat(n % 2 == 0));
        async move {
            let answer = request.send().await.unwrap();
            let seen = (answer.version(), answer.status().as_u16());
            (seen, answer.text().await.unwrap())
        }
    }))
    .await;
    for (n, (seen, text)) in answers.into_iter().enumerate() {
        assert_eq!(seen, (http::Version::HTTP_2, 200));
        assert_eq!(text.ends_with("data: [DONE]\n\n"), n % 2 == 0);
    }
    assert_eq!(keytide.settled("ollama", 60).await.total.counts.success, 60);
    // A stream that its caller resets is a call that its caller left.
    upstream.set_behaviour(KEY, Behaviour::Hang);
    let hung = h2.post(format!("{}{CHAT}", keytide.url)).bearer_auth(TOKEN).json(&chat(true));
    let hung = tokio::spawn(hung.send());
    until("the upstream is asked", || upstream.tally().in_flight() == 1).await;
    hung.abort();
    assert_eq!(keytide.settled("ollama", 61).await.total.counts.other, 1);
    tokio::time::timeout(PATIENCE, upstream.tally().idle()).await.unwrap();
    keytide.stop().await;
    no_panics();
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &[KEY]).start().await;
    let h2 = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for client in [&keytide.client, &h2] {
        for path in ["/v1/models", "/v1/models/none", "/nowhere/v1/models", "/health", "/nowhere"] {
            let url = format!("{}{path}", keytide.url);
            let get = client.get(&url).bearer_auth(TOKEN).send().await.unwrap();
            let head = client.head(&url).bearer_auth(TOKEN).send().await.unwrap();
            assert_eq!(head.status(), get.status(), "{path}");
            for name in ["content-length", "content-type"] {
                assert_eq!(head.headers().get(name), get.headers().get(name), "{path}: {name}");
            }
            assert!(head.bytes().await.unwrap().is_empty(), "{path}");
        }
    }
    keytide.stop().await;
}

#[tokio::test]
async fn a_connection_is_kept_and_may_be_pipelined() {
    watch_panics();
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &[KEY]).start().await;
    let mut wire = Wire::to(&keytide).await;
    for stream in [false, true] {
        wire.send(request(&chat_bytes(stream), "")).await;
        assert_eq!(wire.answer().await.status, 200);
    }
    // Errors do not cost the connection either.
    wire.send(request(b"{}", "")).await;
    assert_eq!(wire.answer().await.code(), "missing_model");
    let mut all = Vec::new();
    for n in 0..5 {
        let body = json!({"model": format!("model-{n}"), "messages": [{"role": "user", "content": "hi"}]});
        all.extend(request(body.to_string().as_bytes(), ""));
    }
    wire.send(all).await;
    for n in 0..5 {
        let body: Value = serde_json::from_slice(&wire.answer().await.body).unwrap();
        assert_eq!(body["model"], format!("model-{n}"));
    }
    keytide.settled("ollama", 7).await;
    keytide.stop().await;
    no_panics();
}

/// Usual requests are served by other code than the rest.
#[tokio::test]
async fn requests_of_every_kind_may_follow_each_other() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    watch_panics();
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &[KEY]).start().await;
    let usual = request(&chat_bytes(false), "");
    let list = format!("GET /v1/models HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {TOKEN}\r\n\r\n")
        .into_bytes();
    let chunked = {
        let body = String::from_utf8(chat_bytes(true)).unwrap();
        let size = body.len();
        format!(
            "POST {CHAT} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {TOKEN}\r\ntransfer-encoding: chunked\r\n\r\n\
             {size:x}\r\n{body}\r\n0\r\n\r\n"
        )
        .into_bytes()
    };
    let kinds = [&usual, &list, &chunked];
    let mut served = 0;
    for first in kinds {
        for second in kinds {
            // One after the other, and all at once.
            let mut wire = Wire::to(&keytide).await;
            for one in [first, second, first] {
                wire.send(one).await;
                assert_eq!(wire.answer().await.status, 200);
            }
            wire.send([first.as_slice(), second, first].concat()).await;
            for _ in 0..3 {
                assert_eq!(wire.answer().await.status, 200);
            }
            served += [first, second, first].iter().filter(|one| ***one != list).count() as u64 * 2;
        }
    }
    // Between two proxies a connection is everybody's: it stays what it is.
    let mut wire = Wire::to(&keytide).await;
    wire.send(&usual).await;
    assert_eq!(wire.answer().await.status, 200);
    wire.send(PREFACE).await;
    while matches!(wire.more().await, Ok(1..)) {}
    assert!(wire.read.is_empty() || wire.read.starts_with(b"HTTP/1.1 400"), "{:?}", wire.read);
    keytide.settled("ollama", served + 1).await;
    keytide.stop().await;
    no_panics();
}

#[tokio::test]
async fn pages_of_other_origins_may_call() {
    let upstream = upstream().await;
    let extra = "cors_origins = [\"https://a.example\"]\n";
    for (any, origin, allowed) in [
        (true, "https://b.example", Some("*")),
        (false, "https://a.example", Some("https://a.example")),
        (false, "https://b.example", None),
    ] {
        let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
        if !any {
            setup.config.server.gateway.cors_origins = vec![extra.split('"').nth(1).unwrap().to_owned()];
        }
        let keytide = setup.start().await;
        let url = format!("{}{CHAT}", keytide.url);
        let answer = keytide
            .client
            .request(http::Method::OPTIONS, &url)
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,content-type,x-stainless-lang")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), 204);
        let header = |answer: &reqwest::Response, name: &str| {
            answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned())
        };
        assert_eq!(header(&answer, "access-control-allow-origin").as_deref(), allowed);
        let asked = header(&answer, "access-control-allow-headers").unwrap();
        assert!(asked.contains("authorization") && asked.contains("x-stainless-lang"));
        assert!(header(&answer, "access-control-allow-methods").unwrap().contains("POST"));
        // Answers and errors alike can be read.
        for token in [TOKEN, "sk-wrong"] {
            let request = keytide.client.post(&url).header("origin", origin).bearer_auth(token);
            let answer = request.json(&chat(false)).send().await.unwrap();
            assert_eq!(header(&answer, "access-control-allow-origin").as_deref(), allowed);
            let exposed = header(&answer, "access-control-expose-headers");
            assert_eq!(exposed.is_some_and(|names| names.contains("x-request-id")), allowed.is_some());
        }
        keytide.stop().await;
    }
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    watch_panics();
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &[KEY]).start().await;
    let body = chat_bytes(false);
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let long = |length: usize| format!("x-long: {}\r\n", "a".repeat(length));
    // Three of them are the request's own.
    for (headers, status) in [
        (many(70), 200),
        (long(50_000), 200),
        (many(77), 200),
        (many(78), 431),
        (many(90), 431),
        (long(66_000), 431),
    ] {
        let mut wire = Wire::to(&keytide).await;
        wire.send(request(&body, &headers)).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "{} bytes of headers", headers.len());
        if status == 431 {
            assert_eq!(answer.code(), "headers_too_large");
        }
    }
    // Beyond all reason: still a clean refusal.
    for headers in [many(200), many(5000), long(300_000)] {
        let mut wire = Wire::to(&keytide).await;
        let _may_break = wire.socket.write_all(&request(&body, &headers)).await;
        let mut text = Vec::new();
        let _may_break = wire.socket.read_to_end(&mut text).await;
        assert!(text.starts_with(b"HTTP/1.1 431 "), "{:?}", String::from_utf8_lossy(&text));
    }
    assert_eq!(keytide.books("ollama").total.counts.total(), 3);
    keytide.stop().await;
    no_panics();
}

#[tokio::test]
async fn the_caller_s_faults_are_named_and_stay_out_of_the_books() {
    watch_panics();
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &[KEY]).start().await;
    let deep = format!("{{\"model\":\"m\",\"x\":{}", "[".repeat(200_000));
    let cases: &[(&[u8], u16, &str)] = &[
        (b"", 400, "invalid_json"),
        (b"   ", 400, "invalid_json"),
        (b"\0", 400, "invalid_json"),
        (b"null", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\"x\"", 400, "invalid_json"),
        (b"{", 400, "invalid_json"),
        (b"{\"model\":\"m\"", 400, "invalid_json"),
        (b"{\"model\":\"m\"}}", 400, "invalid_json"),
        (b"{\"model\":\"m\",}", 400, "invalid_json"),
        (b"{'model':'m'}", 400, "invalid_json"),
        (b"{\"model\":\"\\ud800\"}", 400, "invalid_type"),
        (b"{\"model\":\"m\",\"model\":\"n\"}", 400, "invalid_json"),
        (b"\xef\xbb\xbf{\"model\":\"m\"}", 400, "invalid_json"),
        (b"{\"model\":\"m\xc3\"}", 400, "invalid_utf8"),
        (b"\x1f\x8b\x08\x00", 400, "invalid_utf8"),
        (deep.as_bytes(), 400, "invalid_json"),
        (b"{}", 400, "missing_model"),
        (b"{\"model\":null}", 400, "missing_model"),
        (b"{\"model\":\"\"}", 400, "missing_model"),
        (b"{\"model\":5}", 400, "invalid_type"),
        (b"{\"model\":true}", 400, "invalid_type"),
        (b"{\"model\":[\"m\"]}", 400, "invalid_type"),
        (b"{\"model\":{\"m\":\"m\"}}", 400, "invalid_type"),
        (b"{\"model\":\"m\",\"stream\":1}", 400, "invalid_type"),
        (b"{\"model\":\"m\",\"stream\":\"true\"}", 400, "invalid_type"),
        (b"{\"model\":\"m\",\"stream\":[]}", 400, "invalid_type"),
    ];
    for (body, status, code) in cases {
        let mut wire = Wire::to(&keytide).await;
        wire.send(request(body, "connection: close\r\n")).await;
        let answer = wire.answer().await;
        let shown = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
        assert_eq!((answer.status, answer.code().as_str()), (*status, *code), "{shown:?}");
    }
    let target = |method: &str, path: &str| {
        let token = format!("host: here\r\nauthorization: Bearer {TOKEN}\r\n");
        format!("{method} {path} HTTP/1.1\r\n{token}content-length: 0\r\nconnection: close\r\n\r\n")
    };
    for method in ["GET", "PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "BREW", "M-SEARCH"] {
        let mut wire = Wire::to(&keytide).await;
        wire.send(target(method, CHAT)).await;
        let answer = wire.answer().await;
        assert_eq!((answer.status, answer.code().as_str()), (405, "method_not_allowed"), "{method}");
        assert!(answer.head.contains("allow: post"), "{}", answer.head);
        let mut wire = Wire::to(&keytide).await;
        wire.send(target(method, "/v1/models")).await;
        assert_eq!(wire.answer().await.status, if method == "GET" { 200 } else { 405 }, "{method}");
    }
    let long = format!("{CHAT}/{}", "a".repeat(20_000));
    let query = |length: usize| format!("{CHAT}?q={}", "a".repeat(length));
    for path in [
        "/v1",
        "/v1/",
        "/api",
        "/v1/chat",
        "/v1/chat/completions/more",
        "/v1/chat%2Fcompletions",
        "/v1//chat/completions",
        "//v1/chat/completions",
        "/v1/../v1/chat/completions",
        "/v1/./chat/completions",
        "/V1/chat/completions",
        "/%6fllama/v1/chat/completions",
        "/nobody/v1/chat/completions",
        "/ollama//v1/chat/completions",
        "/ollama/ollama/v1/chat/completions",
        "/%00/v1/chat/completions",
        "/%ff%fe/api/chat",
        "/v1/models/%00",
        "/v1/models/%ff",
        "/;/v1/x",
        "*",
        "http://elsewhere/v1/nothing",
        "/v1/chat/completions#fragment",
        "v1/chat/completions",
        "/v1/chat completions",
        &long,
        &query(30_000),
        &query(65_400),
        &query(70_000),
    ] {
        for method in ["GET", "POST", "OPTIONS"] {
            let mut wire = Wire::to(&keytide).await;
            wire.send(target(method, path)).await;
            let status = wire.answer().await.status;
            assert!((400..500).contains(&status), "{method} {} {status}", &path[..path.len().min(60)]);
        }
    }
    // A query that cannot go on to the provider is the caller's fault too.
    for (length, status) in [(1_000, 200), (30_000, 414), (65_400, 414)] {
        let mut wire = Wire::to(&keytide).await;
        let text = String::from_utf8(request(&chat_bytes(false), "connection: close\r\n")).unwrap();
        wire.send(text.replacen(CHAT, &query(length), 1)).await;
        assert_eq!(wire.answer().await.status, status, "a query of {length} bytes");
    }
    for garbage in [
        "\r\n\r\n\r\n",
        "GET\r\n\r\n",
        "GET / HTTP/9.9\r\n\r\n",
        "\u{16}\u{3}\u{1}\0\u{5}hello",
        "GET / HTTP/1.1\r\nbad header\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: -1\r\n\r\n",
        "POST / HTTP/1.1\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello",
    ] {
        let mut wire = Wire::to(&keytide).await;
        wire.send(garbage).await;
        let _half = wire.socket.shutdown().await;
        let mut text = Vec::new();
        let _may_break = wire.socket.read_to_end(&mut text).await;
        assert!(text.is_empty() || text.starts_with(b"HTTP/1.1 4"), "{:?}", String::from_utf8_lossy(&text));
    }
    assert_eq!(keytide.settled("ollama", 1).await.total.counts.success, 1, "refusals are in no books");
    assert_eq!(upstream.tally().endpoint(CHAT).attempts, 1);
    keytide.stop().await;
    no_panics();
}

#[tokio::test]
async fn bodies_are_bounded_however_they_come() {
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.config.server.gateway.max_body = 10_000;
    let keytide = setup.start().await;
    let padded = |length: usize| {
        let text = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]}).to_string();
        text.clone() + &" ".repeat(length - text.len())
    };
    for (length, status) in [(10_000, 200), (10_001, 413)] {
        let mut wire = Wire::to(&keytide).await;
        wire.send(request(padded(length).as_bytes(), "")).await;
        assert_eq!(wire.answer().await.status, status, "declared");
        let mut wire = Wire::to(&keytide).await;
        let head = format!(
            "POST {CHAT} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {TOKEN}\r\ntransfer-encoding: chunked\r\n\r\n"
        );
        wire.send(head).await;
        for piece in padded(length).as_bytes().chunks(999) {
            wire.send(format!("{:x}\r\n", piece.len())).await;
            wire.send(piece).await;
            wire.send("\r\n").await;
        }
        wire.send("0\r\n\r\n").await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, status, "chunked");
        if status == 413 {
            assert_eq!(answer.code(), "body_too_large");
        }
    }
    // Declared and never sent: refused at the first word.
    let mut wire = Wire::to(&keytide).await;
    wire.send(format!(
        "POST {CHAT} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 99999999999\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.answer().await.code(), "body_too_large");
    assert_eq!(keytide.books("ollama").total.counts.total(), 2);
    keytide.stop().await;
}

/// A caller that is still sending must get to read why it is refused, and not a broken connection.
#[tokio::test]
async fn refusals_reach_callers_that_are_still_uploading() {
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.config.server.gateway.max_body = 1_000_000;
    let keytide = setup.start().await;
    let body = vec![b' '; 6_000_000];
    for _ in 0..5 {
        for (token, code) in [("sk-wrong", "invalid_api_key"), (TOKEN, "body_too_large")] {
            let mut wire = Wire::to(&keytide).await;
            let head = format!(
                "POST {CHAT} HTTP/1.1\r\nhost: here\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n",
                body.len()
            );
            wire.send(head).await;
            let sent = wire.socket.write_all(&body).await;
            assert!(sent.is_ok(), "{code}: the upload broke: {sent:?}");
            assert_eq!(wire.answer().await.code(), code);
        }
    }
    keytide.stop().await;
}

#[tokio::test]
async fn slow_and_broken_uploads_end() {
    watch_panics();
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.config.server.gateway.body_timeout = SOON;
    setup.config.server.gateway.header_timeout = SOON;
    setup.config.server.gateway.idle_timeout = Duration::from_millis(400);
    let keytide = setup.start().await;
    let body = chat_bytes(false);
    // A body that stops coming.
    let mut wire = Wire::to(&keytide).await;
    let whole = request(&body, "");
    wire.send(&whole[..whole.len() - 5]).await;
    let answer = wire.answer().await;
    assert_eq!((answer.status, answer.code().as_str()), (408, "body_timeout"));
    // A body that ends too early, by length and by chunks.
    let mut wire = Wire::to(&keytide).await;
    wire.send(&whole[..whole.len() - 5]).await;
    wire.socket.shutdown().await.unwrap();
    let mut text = String::new();
    let _may_break = wire.socket.read_to_string(&mut text).await;
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 400 "), "{text}");
    // A head that trickles in, a byte at a time, for ever.
    let mut wire = Wire::to(&keytide).await;
    let begun = Instant::now();
    wire.send(format!("POST {CHAT} HTTP/1.1\r\nhost: here\r\n")).await;
    loop {
        assert!(begun.elapsed() < PATIENCE, "a slow head keeps its connection");
        if wire.socket.write_all(b"x").await.is_err() {
            break;
        }
        let mut byte = [0; 64];
        let read = tokio::time::timeout(Duration::from_millis(10), wire.socket.read(&mut byte)).await;
        if matches!(read, Ok(Ok(0) | Err(_))) {
            break;
        }
    }
    assert!(begun.elapsed() >= SOON, "closed too early");
    // A connection on which nothing is asked, before and after a request.
    let mut wire = Wire::to(&keytide).await;
    assert!(wire.ends().await);
    let mut wire = Wire::to(&keytide).await;
    wire.send(&whole).await;
    assert_eq!(wire.answer().await.status, 200);
    assert!(wire.ends().await);
    // An answer that takes longer than all of these is not cut.
    upstream.set_behaviour(KEY, Behaviour::Slow { first_byte: Duration::from_millis(700) });
    let mut wire = Wire::to(&keytide).await;
    wire.send(&whole).await;
    assert_eq!(wire.answer().await.status, 200);
    assert_eq!(keytide.settled("ollama", 2).await.total.counts.success, 2);
    keytide.stop().await;
    no_panics();
}

#[tokio::test]
async fn a_caller_that_takes_nothing_is_cut() {
    watch_panics();
    let upstream = upstream().await;
    upstream.set_behaviour(KEY, Behaviour::Huge { bytes: 1 << 30 });
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.config.server.gateway.write_timeout = SOON;
    let keytide = setup.start().await;
    for (n, stream) in [(1, false), (2, true)] {
        let mut wire = Wire::to(&keytide).await;
        wire.send(request(&chat_bytes(stream), "")).await;
        let books = keytide.settled("ollama", n).await;
        assert_eq!(books.total.counts, Counts { other: n, ..Counts::default() });
        assert_eq!(books.keys.values().next().unwrap().counts, books.total.counts);
        tokio::time::timeout(PATIENCE, upstream.tally().idle()).await.expect("cancelled upstream");
        assert_eq!(upstream.tally().total().cancelled, n);
        // What had been written can be read, then it is over.
        let mut rest = Vec::new();
        let _broken = tokio::time::timeout(PATIENCE, wire.socket.read_to_end(&mut rest)).await.unwrap();
        assert!(rest.starts_with(b"HTTP/1.1 200 ") && rest.len() < 1 << 30);
    }
    keytide.stop().await;
    no_panics();
}

/// A caller over HTTP/2 that has room for so many bytes of an answer, and its connection.
async fn h2_caller(
    keytide: &Keytide,
    room: u32,
) -> (SendRequest<Full<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let tcp = TcpStream::connect(keytide.app.address()).await.unwrap();
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    builder.initial_stream_window_size(room).initial_connection_window_size(room);
    let (sender, connection) = builder.handshake(TokioIo::new(tcp)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn h2_request(keytide: &Keytide, stream: bool) -> http::Request<Full<Bytes>> {
    http::Request::post(format!("{}{CHAT}", keytide.url))
        .header("authorization", format!("Bearer {TOKEN}"))
        .body(chat(stream).to_string().into())
        .unwrap()
}

#[tokio::test]
async fn an_http2_connection_ends_when_nothing_is_asked_on_it() {
    watch_panics();
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.config.server.gateway.idle_timeout = SOON;
    let keytide = setup.start().await;
    let (mut caller, connection) = h2_caller(&keytide, 1 << 20).await;
    // An answer that takes longer is not cut.
    upstream.set_behaviour(KEY, Behaviour::Slow { first_byte: SOON * 4 });
    let begun = Instant::now();
    for _ in 0..2 {
        let answer = caller.send_request(h2_request(&keytide, true)).await.unwrap();
        assert_eq!(answer.status(), 200);
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        assert!(text.ends_with(b"data: [DONE]\n\n"));
    }
    assert!(begun.elapsed() >= SOON * 8);
    // The caller is told, so this is no error.
    tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().unwrap();
    assert_eq!(keytide.settled("ollama", 2).await.total.counts.success, 2);
    keytide.stop().await;
    no_panics();
}

#[tokio::test]
async fn an_http2_caller_that_takes_nothing_is_cut() {
    watch_panics();
    let upstream = upstream().await;
    upstream.set_behaviour(KEY, Behaviour::Huge { bytes: 1 << 30 });
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.config.server.gateway.write_timeout = SOON;
    let keytide = setup.start().await;
    let (mut caller, connection) = h2_caller(&keytide, 1024).await;
    let answer = caller.send_request(h2_request(&keytide, true)).await.unwrap();
    assert_eq!(answer.status(), 200);
    let books = keytide.settled("ollama", 1).await;
    assert_eq!(books.total.counts, Counts::OTHER);
    tokio::time::timeout(PATIENCE, upstream.tally().idle()).await.unwrap();
    assert!(tokio::time::timeout(PATIENCE, connection).await.unwrap().unwrap().is_err());
    drop(answer);
    keytide.stop().await;
    no_panics();
}

#[tokio::test]
async fn older_and_careful_clients() {
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &[KEY]).start().await;
    for stream in [false, true] {
        let mut wire = Wire::to(&keytide).await;
        let text = String::from_utf8(request(&chat_bytes(stream), "")).unwrap();
        wire.send(text.replace("HTTP/1.1", "HTTP/1.0")).await;
        let answer = wire.answer().await;
        assert_eq!(answer.status, 200);
        assert!(!answer.head.contains("chunked"), "{}", answer.head);
        assert_eq!(answer.body.ends_with(b"data: [DONE]\n\n"), stream);
        assert!(wire.ends().await);
    }
    // Asks before it sends.
    let body = chat_bytes(false);
    let mut wire = Wire::to(&keytide).await;
    let whole = request(&body, "expect: 100-continue\r\n");
    wire.send(&whole[..whole.len() - body.len()]).await;
    assert_eq!(wire.answer().await.status, 100);
    wire.send(&body).await;
    assert_eq!(wire.answer().await.status, 200);
    assert!(!upstream.tally().last_request().unwrap().headers.contains_key("expect"));
    // And need not send what is refused.
    let mut wire = Wire::to(&keytide).await;
    let refused = String::from_utf8(whole).unwrap().replace(TOKEN, "sk-wrong");
    wire.send(&refused[..refused.len() - body.len()]).await;
    assert_eq!(wire.answer().await.code(), "invalid_api_key");
    assert_eq!(keytide.settled("ollama", 3).await.total.counts.success, 3);
    keytide.stop().await;
}

#[tokio::test]
async fn compressed_bodies_are_refused_in_words() {
    let upstream = upstream().await;
    let keytide = Setup::new(&upstream, "").keys("ollama", &["good-key-0123456789abcdef"]).start().await;
    let ask = async |encoding: &str| {
        let request = keytide.client.post(format!("{}/v1/chat/completions", keytide.url));
        let request = request.bearer_auth(TOKEN).header("content-encoding", encoding).json(&chat(false));
        request.send().await.unwrap()
    };
    assert_eq!(error_code(ask("gzip").await).await, (415, "unsupported_encoding".into()));
    assert_eq!(ask("identity").await.status(), 200);
    assert_eq!(keytide.settled("ollama", 1).await.total.counts.success, 1);
    keytide.stop().await;
}
