//! Ends and changes under way: stops, reloads, answers that stall.

use std::time::Duration;

use futures_util::StreamExt;
use keytide::{
    app::App,
    config::{Config, Loaded, Overrides},
    demo::upstream::{Behaviour, Upstream, UpstreamOptions},
    model::{Clock, Counts, Health, KeyId, Timestamp},
    store::{Change, Store},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    harness::{Keytide, Setup, TOKEN, chat, chat_with, error_code, setup_of, until, upstream},
    scripted::{PATIENCE, Scripted},
};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "good-key-0123456789abcdef";
const SOON: Duration = Duration::from_millis(150);

#[tokio::test]
async fn a_stop_lets_open_streams_end() {
    let mut upstream = Scripted::start().await;
    let lines = format!("base_url = \"{}\"", upstream.base_url());
    let keytide = setup_of("slow", &lines).keys("slow", &[KEY]).start().await;
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"tide\"}}]}\n\n";
    let request = chat(true);
    let (answer, mut asked) = tokio::join!(keytide.post(CHAT, &request), async {
        let mut asked = upstream.next().await;
        asked.begin_stream().await;
        asked.write(event.as_bytes()).await;
        asked
    });
    let mut stream = answer.bytes_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), event);
    let Keytide { app, dir, config, clock, .. } = keytide;
    let address = app.address();
    let stopping = tokio::spawn(app.stop());
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(address).await.is_ok() {
        assert!(Instant::now() < deadline, "new connections are still taken");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(!stopping.is_finished());
    asked.write(format!("{event}data: [DONE]\n\n").as_bytes()).await;
    drop(asked);
    let mut rest = Vec::new();
    while let Some(chunk) = stream.next().await {
        rest.extend_from_slice(&chunk.unwrap());
    }
    assert_eq!(String::from_utf8(rest).unwrap(), format!("{event}data: [DONE]\n\n"));
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap().unwrap();
    let app = App::start(config, clock).await.unwrap();
    let counts = app.ledger().read(|books| books.providers["slow"].total.counts);
    assert_eq!(counts, Counts::SUCCESS);
    app.stop().await.unwrap();
    drop(dir);
}

#[tokio::test]
async fn a_stop_cuts_and_counts_what_does_not_end() {
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.config.server.gateway.shutdown_timeout = SOON;
    let keytide = setup.start().await;
    upstream.set_behaviour(KEY, Behaviour::Stall { after: 1 });
    let mut streams = Vec::new();
    for _ in 0..3 {
        let mut stream = keytide.post(CHAT, &chat(true)).await.bytes_stream();
        stream.next().await.unwrap().unwrap();
        streams.push(stream);
    }
    upstream.set_behaviour(KEY, Behaviour::Hang);
    let body = chat(false);
    let waiting = keytide.client.post(format!("{}{CHAT}", keytide.url)).bearer_auth(TOKEN).json(&body).send();
    let waiting = tokio::spawn(waiting);
    until("all are under way", || upstream.tally().in_flight() == 4).await;
    let Keytide { app, dir, config, clock, .. } = keytide;
    tokio::time::timeout(PATIENCE, app.stop()).await.unwrap().unwrap();
    for mut stream in streams {
        let next = stream.next().await;
        assert!(matches!(next, None | Some(Err(_))), "{next:?}");
    }
    assert!(waiting.await.unwrap().is_err());
    tokio::time::timeout(PATIENCE, upstream.tally().idle()).await.unwrap();
    assert_eq!(upstream.tally().total().cancelled, 4);
    let app = App::start(config, clock).await.unwrap();
    let books = app.ledger().read(|books| books.providers["ollama"].clone());
    assert_eq!(books.total.counts, Counts { other: 4, ..Counts::default() });
    assert_eq!(books.keys[&KeyId::derive("ollama", KEY)].counts, books.total.counts);
    app.stop().await.unwrap();
    drop(dir);
}

pub fn loaded(toml: &str) -> Loaded {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("config.toml");
    std::fs::write(&file, toml).unwrap();
    match Config::load(Some(&file), &Overrides::default(), std::iter::empty()) {
        Ok(loaded) => loaded,
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test]
async fn a_reload_takes_effect_and_drops_nothing() {
    let mut old = Scripted::start().await;
    let new = upstream().await;
    let toml = |base: &str, lines: &str| {
        format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nworkers = 2\n\
             [providers.ollama]\nbase_url = \"{base}\"\nretry_backoff = \"1ms\"\n{lines}"
        )
    };
    let keytide =
        Setup::with(crate::harness::config(&toml(&old.base_url(), ""))).keys("ollama", &[KEY]).start().await;
    let event = "data: {\"choices\":[{\"delta\":{\"content\":\"tide\"}}]}\n\n";
    let request = chat(true);
    let (answer, mut asked) = tokio::join!(keytide.post(CHAT, &request), async {
        let mut asked = old.next().await;
        asked.begin_stream().await;
        asked.write(event.as_bytes()).await;
        asked
    });
    let mut stream = answer.bytes_stream();
    assert_eq!(stream.next().await.unwrap().unwrap(), event);
    let alias = "aliases.fast = \"demo-large\"\nheaders.X-Title = \"tide\"\n";
    keytide.app.reload(&loaded(&toml(&new.base_url(), alias))).await.unwrap();
    // The same connection, another provider behind it, an alias and a header.
    let body = json!({"model": "fast", "messages": [{"role": "user", "content": "hi"}]});
    let served: Value = keytide.post(CHAT, &body).await.json().await.unwrap();
    assert_eq!(served["model"], "demo-large");
    let seen = new.tally().last_request().unwrap();
    assert_eq!((seen.headers["x-title"].as_bytes(), &*seen.key), (b"tide".as_slice(), KEY));
    let off = toml(&new.base_url(), "enabled = false\n");
    keytide.app.reload(&loaded(&off)).await.unwrap();
    let refused = error_code(keytide.post(CHAT, &body).await).await;
    assert_eq!(refused, (503, "provider_disabled".to_owned()));
    keytide.app.reload(&loaded(&toml(&new.base_url(), "requests_per_minute = 1\n"))).await.unwrap();
    assert_eq!(keytide.post(CHAT, &chat(false)).await.status(), 200);
    let limited = error_code(keytide.post(CHAT, &chat(false)).await).await;
    assert_eq!(limited, (429, "rate_limit_exceeded".to_owned()));
    // All the while the stream was open.
    asked.write(format!("{event}data: [DONE]\n\n").as_bytes()).await;
    drop(asked);
    let mut rest = Vec::new();
    while let Some(chunk) = stream.next().await {
        rest.extend_from_slice(&chunk.unwrap());
    }
    assert!(rest.ends_with(b"data: [DONE]\n\n"));
    let books = keytide.settled("ollama", 4).await;
    assert_eq!(books.total.counts, Counts { success: 3, failure: 1, other: 0 });
    assert!(old.is_quiet());
    // A provider that the file no longer has is gone, and comes back with its keys and books.
    let elsewhere = "[server]\nlisten = \"127.0.0.1:0\"\n[providers.ollama]\nenabled = false\n";
    keytide.app.reload(&loaded(elsewhere)).await.unwrap();
    keytide.app.reload(&loaded(&toml(&new.base_url(), ""))).await.unwrap();
    assert_eq!(keytide.post(CHAT, &chat_with("back", false)).await.status(), 200);
    assert_eq!(keytide.settled("ollama", 5).await.keys.len(), 1);
    keytide.stop().await;
}

#[tokio::test]
async fn an_answer_that_stalls_is_broken_off() {
    let upstream = upstream().await;
    let mut setup = Setup::new(&upstream, "").keys("ollama", &[KEY]);
    setup.clock = Clock::manual(Timestamp(1_790_000_000_000));
    setup.config.providers.get_mut("ollama").unwrap().upstream.idle_timeout = SOON;
    let keytide = setup.start().await;
    upstream.set_behaviour(KEY, Behaviour::Stall { after: 2 });
    let text = keytide.post(CHAT, &chat(true)).await.text().await.unwrap();
    assert!(text.contains("upstream_broken"), "{text}");
    assert_eq!(keytide.settled("ollama", 1).await.total.counts, Counts::FAILURE);
    keytide.clock.advance(Duration::from_secs(5));
    let text = keytide.post("/api/chat", &chat(true)).await.text().await.unwrap();
    let last: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(last["error"].is_string(), "{text}");
    tokio::time::timeout(PATIENCE, upstream.tally().idle()).await.unwrap();
    keytide.stop().await;
}

#[tokio::test]
async fn keys_that_wait_for_a_probe_do_not_wait_for_each_other() {
    let upstream = upstream().await;
    upstream.set_default(Behaviour::Hang);
    let keys = ["first-key-0123456789", "second-key-0123456789", "third-key-0123456789"];
    let mut setup = Setup::new(&upstream, "").keys("ollama", &keys);
    let dir = tempfile::tempdir().unwrap();
    setup.config.store.dir = dir.path().to_owned();
    setup.fill(dir.path()).await;
    let (store, _) = Store::open(&setup.config.store, Timestamp(0)).unwrap();
    let health = Health {
        needs_verification: true,
        failed_until: Some(Timestamp(0)),
        epoch: store.stamps().next(Timestamp(0)),
        ..Health::default()
    };
    let changes = keys.map(|key| Change::PutHealth {
        provider: "ollama".into(),
        id: KeyId::derive("ollama", key),
        health: health.clone(),
    });
    store.change(changes.to_vec()).await.unwrap();
    store.close().await.unwrap();
    let app = App::start(setup.config.clone(), setup.clock.clone()).await.unwrap();
    until("all are probed", || upstream.tally().in_flight() == keys.len() as u64).await;
    app.stop().await.unwrap();
}

#[tokio::test]
async fn a_list_of_models_goes_with_the_address_it_came_from() {
    let offering = async |model: &str| {
        let options = UpstreamOptions { models: vec![model.to_owned()], ..UpstreamOptions::default() };
        Upstream::start(options).await.unwrap()
    };
    let (old, new) = (offering("model-of-old").await, offering("model-of-new").await);
    let toml = |upstream: &Upstream| {
        let base = upstream.base_url();
        format!("[server]\nlisten = \"127.0.0.1:0\"\n[providers.ollama]\nbase_url = \"{base}\"\n")
    };
    let keytide = Setup::with(crate::harness::config(&toml(&old))).keys("ollama", &[KEY]).start().await;
    let listed = async || {
        let list: Value = keytide.get("/v1/models").await.json().await.unwrap();
        list["data"][0]["id"].as_str().unwrap().to_owned()
    };
    assert_eq!(listed().await, "model-of-old");
    keytide.app.reload(&loaded(&toml(&new))).await.unwrap();
    assert_eq!(listed().await, "model-of-new");
    keytide.app.reload(&loaded(&toml(&new))).await.unwrap();
    assert_eq!(listed().await, "model-of-new");
    // Fetched once from each.
    assert_eq!((old.tally().total().attempts, new.tally().total().attempts), (1, 1));
    keytide.stop().await;
}
