//! A running keytide that is told to stop: in order, in time, or at once.

use std::time::Duration;

use keytide::{
    demo::upstream::{Behaviour, Upstream, UpstreamOptions},
    model::Counts,
    store::{Durability, offline},
};
use tokio::time::Instant;

use crate::{
    crash::{config, read},
    harness::{Setup, TOKEN, chat, client},
    process::{Home, PATIENCE, Process},
};

/// A keytide of its own in front of one key.
async fn with_one_key(behaviour: Behaviour, patience: &str) -> (Upstream, Home, Process, String) {
    let delay = UpstreamOptions { token_delay: Duration::from_millis(40), ..UpstreamOptions::default() };
    let upstream = Upstream::start(delay).await.unwrap();
    let key = "one-0123456789abcdef";
    upstream.set_behaviour(key, behaviour);
    let toml = config(&upstream, Durability::Relaxed).replace("\"5s\"", &format!("\"{patience}\""));
    let home = Home::new(&toml);
    Setup::new(&upstream, "").keys("ollama", &[key]).fill(&home.data()).await;
    let (process, url) = Process::start(&home).await;
    (upstream, home, process, url)
}

async fn open_stream(url: &str) -> reqwest::Response {
    let request = client().post(format!("{url}/v1/chat/completions")).bearer_auth(TOKEN).json(&chat(true));
    let mut answer = request.send().await.unwrap();
    assert!(answer.chunk().await.unwrap().is_some());
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_lets_open_streams_end() {
    let (_upstream, home, mut process, url) = with_one_key(Behaviour::Good, "10s").await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        streams.push(open_stream(&url).await);
    }
    process.signal("TERM");
    process.logged("stopping").await;
    for stream in streams {
        assert!(stream.text().await.unwrap().ends_with("data: [DONE]\n\n"));
    }
    assert_eq!(process.ended().await.code(), Some(0));
    assert!(client().get(&url).send().await.is_err(), "nobody listens any more");
    assert_eq!(read(&home.data()).await.total.counts, Counts { success: 4, ..Counts::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_cuts_streams_that_do_not_end_in_time() {
    let (_upstream, home, mut process, url) = with_one_key(Behaviour::Stall { after: 3 }, "1s").await;
    let stream = open_stream(&url).await;
    process.signal("TERM");
    assert!(stream.text().await.is_err(), "the stream was cut");
    assert_eq!(process.ended().await.code(), Some(0));
    assert_eq!(read(&home.data()).await.total.counts, Counts { other: 1, ..Counts::default() });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_ends_it_at_once() {
    for (first, second) in [("TERM", "TERM"), ("INT", "TERM"), ("TERM", "INT")] {
        let (_upstream, home, mut process, url) = with_one_key(Behaviour::Stall { after: 3 }, "30s").await;
        let stream = open_stream(&url).await;
        process.signal(first);
        process.logged("stopping").await;
        let told = Instant::now();
        process.signal(second);
        let status = process.ended().await;
        // It ended by itself, and says that it was not in order.
        assert!(status.code().is_some_and(|code| code != 0), "{status}");
        assert!(told.elapsed() < Duration::from_secs(10), "it took {:?}", told.elapsed());
        drop(stream);
        assert!(offline::check(&home.data()).unwrap().is_sound());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_taken_back_needs_no_restart() {
    let (_upstream, home, mut process, _url) = with_one_key(Behaviour::Good, "1s").await;
    let file = home.dir.path().join("config.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    for (times, workers) in [(1, "workers = 3"), (2, "workers = 3"), (3, "workers = 2")] {
        std::fs::write(&file, config.replace("workers = 2", workers)).unwrap();
        process.signal("HUP");
        let deadline = Instant::now() + PATIENCE;
        while process.times("is reloaded") < times {
            assert!(Instant::now() < deadline, "it is not reloaded");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    assert_eq!(process.times("server.workers has changed"), 2);
    process.signal("TERM");
    assert_eq!(process.ended().await.code(), Some(0));
}
