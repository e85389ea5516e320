//! Who asks: wrk for whole answers, and clients of our own for streams.

use std::{
    io::{Read, Write},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use memchr::memmem;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::upstream::now;

/// What one run of wrk saw: requests a second, and microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Plain {
    pub requests: f64,
    pub per_second: f64,
    pub p50: f64,
    pub p99: f64,
    pub failed: f64,
}

/// The request's body, as small as a first question or of about 100 kB, which is answered with as much.
pub fn body(large: bool) -> Value {
    let content = if large { "lorem ipsum ".repeat(8_500) } else { "Say hello.".to_owned() };
    json!({"model": if large { "large" } else { "bench" }, "messages": [{"role": "user", "content": content}]})
}

pub fn plain(dir: &Path, url: &str, token: &str, large: bool, connections: usize, seconds: f64) -> Plain {
    let script = dir.join(if large { "large.lua" } else { "small.lua" });
    let text = format!(
        "wrk.method = 'POST'\nwrk.headers['Authorization'] = 'Bearer {token}'\nwrk.headers['Content-Type'] = 'application/json'\n\
         wrk.body = [==[{}]==]\n\
         function done(summary, latency)\n\
           local failed = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.status + summary.errors.timeout\n\
           io.write(string.format('FOUND %d %d %f %f %d %f\\n', summary.requests, summary.duration, latency:percentile(50), latency:percentile(99), failed, summary.bytes))\n\
         end\n",
        body(large)
    );
    std::fs::write(&script, text).unwrap();
    let threads = connections.min(2).to_string();
    let output = Command::new("wrk")
        .args(["-t", &threads, "-c", &connections.to_string(), "-d", &format!("{}s", seconds.ceil())])
        .arg("-s")
        .arg(&script)
        .arg(format!("{url}/v1/chat/completions"))
        .output()
        .expect("wrk is installed");
    let text = String::from_utf8_lossy(&output.stdout);
    let found = text.lines().find_map(|line| line.strip_prefix("FOUND "));
    let found = found.unwrap_or_else(|| panic!("wrk: {text}{}", String::from_utf8_lossy(&output.stderr)));
    let n: Vec<f64> = found.split(' ').map(|number| number.parse().unwrap()).collect();
    if n[0] > 0.0 && n[4] == 0.0 {
        let is_as_large = n[5] / n[0] > body(true).to_string().len() as f64 * 0.9;
        assert_eq!(is_as_large, large, "answers have {:.0} bytes each", n[5] / n[0]);
    }
    Plain { requests: n[0], per_second: n[0] / n[1] * 1e6, p50: n[2], p99: n[3], failed: n[4] }
}

/// What clients of streams saw.
#[derive(Clone, Debug, Default)]
pub struct Streams {
    pub answers: usize,
    pub pieces: usize,
    pub took: Duration,
    /// From the request to the first piece, in microseconds, sorted.
    pub first: Vec<u64>,
    /// From a piece's writing to its reading, sorted.
    pub relayed: Vec<u64>,
}

pub fn percentile(sorted: &[u64], percent: f64) -> f64 {
    let at = (sorted.len() as f64 * percent / 100.0) as usize;
    sorted.get(at.min(sorted.len().saturating_sub(1))).map_or(0.0, |n| *n as f64)
}

/// What was seen of requests that come at their own pace.
#[derive(Clone, Debug, Default)]
pub struct Steady {
    pub took: Duration,
    /// Of each answer, in microseconds, sorted.
    pub latencies: Vec<u64>,
}

/// Small whole answers at a rate that leaves the machine time: what each takes then does not depend on how many the
/// others let through. Connections take turns, each a thread.
#[allow(clippy::disallowed_methods, reason = "each client is a thread of its own")]
pub fn steady(address: &str, token: &str, connections: u32, per_second: u32, time: Duration) -> Steady {
    let request = request(token, &body(false));
    let begun = Instant::now() + Duration::from_millis(50);
    let each = Duration::from_secs(1) * connections / per_second;
    let ask = |n: u32| {
        let mut connection = std::net::TcpStream::connect(address).unwrap();
        connection.set_nodelay(true).unwrap();
        let (mut due, mut read) = (begun + each * n / connections, Vec::new());
        let mut latencies = Vec::new();
        while due < begun + time {
            // A client that is woken late has not waited for anybody; one whose last answer came late has.
            let is_late = Instant::now() > due;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let asked = if is_late { due } else { Instant::now() };
            connection.write_all(request.as_bytes()).unwrap();
            read_answer(&mut connection, &mut read);
            latencies.push(asked.elapsed().as_micros() as u64);
            due += each;
        }
        latencies
    };
    let mut latencies: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..connections).map(|n| scope.spawn(move || ask(n))).collect();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    latencies.sort_unstable();
    Steady { took: begun.elapsed(), latencies }
}

fn read_answer(connection: &mut std::net::TcpStream, read: &mut Vec<u8>) {
    read.clear();
    let mut whole = None;
    while whole.is_none_or(|whole| read.len() < whole) {
        let at = read.len();
        read.resize(at + 4096, 0);
        let n = connection.read(&mut read[at..]).unwrap();
        assert!(n > 0, "an answer was cut off: {}", String::from_utf8_lossy(read));
        read.truncate(at + n);
        if let (None, Some(end)) = (whole, memmem::find(read, b"\r\n\r\n")) {
            let head = String::from_utf8_lossy(&read[..end]).to_ascii_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.expect("a declared length").trim().parse().unwrap();
            whole = Some(end + 4 + length);
        }
    }
}

fn request(token: &str, body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// So many clients at a time, each of which asks again until the time is over; or once, for a paced stream.
pub async fn streams(address: &str, token: &str, clients: usize, paced: bool, time: Duration) -> Streams {
    let begun = Instant::now();
    let model = if paced { "paced" } else { "bench" };
    let body =
        json!({"model": model, "stream": true, "messages": [{"role": "user", "content": "Say hello."}]});
    let request = request(token, &body);
    let until = if paced { begun } else { begun + time };
    let tasks: Vec<_> = (0..clients)
        .map(|n| {
            let (address, request) = (address.to_owned(), request.clone());
            tokio::spawn(async move {
                if paced {
                    // They do not all begin at once, and not all of them write at the same moment.
                    tokio::time::sleep(Duration::from_micros(1_000 * n as u64)).await;
                }
                client(&address, &request, until).await
            })
        })
        .collect();
    let mut all = Streams::default();
    for task in tasks {
        let one = task.await.unwrap();
        all.answers += one.answers;
        all.pieces += one.pieces;
        all.first.extend(one.first);
        all.relayed.extend(one.relayed);
    }
    all.took = begun.elapsed();
    all.first.sort_unstable();
    all.relayed.sort_unstable();
    all
}

/// The bytes of a body out of its chunks, whose bounds each proxy draws anew.
#[derive(Default)]
struct Chunks {
    /// Of the chunk that is being read; with the line's end behind it.
    left: usize,
    ended: bool,
}

impl Chunks {
    /// Takes what is whole from the beginning of `read`.
    fn take(&mut self, read: &mut Vec<u8>, body: &mut Vec<u8>) {
        let mut at = 0;
        while !self.ended && at < read.len() {
            if self.left == 0 {
                let Some(end) = memmem::find(&read[at..], b"\r\n") else { break };
                let digits = std::str::from_utf8(&read[at..at + end]).unwrap();
                let size =
                    usize::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("a chunk of {digits:?}"));
                if size == 0 {
                    // And the line's end that ends the body.
                    self.ended = read.len() >= at + end + 4;
                    if !self.ended {
                        break;
                    }
                }
                at += end + 2;
                self.left = size + 2;
            }
            let taken = self.left.min(read.len() - at);
            let data = taken.min(self.left.saturating_sub(2));
            body.extend_from_slice(&read[at..at + data]);
            at += taken;
            self.left -= taken;
        }
        read.drain(..at);
    }
}

async fn client(address: &str, request: &str, until: Instant) -> Streams {
    let mut seen = Streams::default();
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.set_nodelay(true).unwrap();
    let (mut read, mut body) = (Vec::with_capacity(64 * 1024), Vec::with_capacity(64 * 1024));
    let mark = memmem::Finder::new(b"\"at\":");
    loop {
        let asked = now();
        connection.write_all(request.as_bytes()).await.unwrap();
        read.clear();
        body.clear();
        let (mut chunks, mut at, mut head, mut is_first) = (Chunks::default(), 0, true, true);
        while !chunks.ended {
            let n = connection.read_buf(&mut read).await.unwrap();
            assert!(n > 0, "an answer was cut off: {}", String::from_utf8_lossy(&read));
            let arrived = now();
            if head {
                let Some(end) = memmem::find(&read, b"\r\n\r\n") else { continue };
                assert!(read.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&read));
                read.drain(..end + 4);
                head = false;
            }
            chunks.take(&mut read, &mut body);
            while let Some(found) = mark.find(&body[at..]) {
                let digits = &body[at + found + 5..];
                let Some(end) = digits.iter().position(|byte| !byte.is_ascii_digit()) else { break };
                let written: u64 = std::str::from_utf8(&digits[..end]).unwrap().parse().unwrap();
                seen.pieces += 1;
                seen.relayed.push(arrived.saturating_sub(written));
                if std::mem::take(&mut is_first) {
                    seen.first.push(arrived.saturating_sub(asked));
                }
                at += found + 5 + end;
            }
        }
        assert!(body.ends_with(b"data: [DONE]\n\n"), "a stream without its end");
        seen.answers += 1;
        if Instant::now() >= until {
            return seen;
        }
    }
}
