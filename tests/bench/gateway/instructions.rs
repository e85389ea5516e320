//! Instructions of one request, by callgrind: two runs that differ in the number of their requests alone, so that start, stop and
//! what goes on beside drop out.

use std::{
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    load,
    process::{self, Home},
    servers,
};

const FEW: usize = 500;
const MANY: usize = 2_500;
/// What was counted last, beside this file.
const RECORDED: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/gateway/instructions.txt");
/// A little moves with the time that a run takes.
const ALLOWED: f64 = 1.03;

/// Prints them and compares them with those recorded; `KEEP=1` records them.
///
/// Returns whether one takes more than is allowed.
pub async fn count() -> bool {
    let mut lines = String::new();
    let recorded = std::fs::read_to_string(RECORDED).unwrap_or_default();
    let mut more = false;
    for (name, large, stream) in
        [("small", false, false), ("100 kB", true, false), ("stream of 100 pieces", false, true)]
    {
        let few = one_run(FEW, large, stream).await;
        let many = one_run(MANY, large, stream).await;
        let each = (many - few) / (MANY - FEW) as f64;
        let was = recorded
            .lines()
            .find_map(|line| line.strip_prefix(&format!("{name}: ")))
            .and_then(|n| n.parse::<f64>().ok());
        let beside = was.map_or_else(
            || "nothing recorded".to_owned(),
            |was| format!("{:+.1} % to {was}", (each / was - 1.0) * 100.0),
        );
        println!("{name}: {each:.0} instructions a request ({beside})");
        more |= was.is_some_and(|was| each > was * ALLOWED);
        lines += &format!("{name}: {each:.0}\n");
    }
    if std::env::var_os("KEEP").is_some() {
        std::fs::write(RECORDED, lines).unwrap();
        println!("recorded in {RECORDED}");
    } else if more {
        eprintln!(
            "more than {:.0} % above what is recorded: find what costs it, or record it with KEEP=1",
            (ALLOWED - 1.0) * 100.0
        );
        return true;
    }
    false
}

async fn one_run(requests: usize, large: bool, stream: bool) -> f64 {
    let (_provider, provider) = servers::upstream().await;
    let home = Home::new(&servers::config(provider, "workers = 1\n[store]\nflush_interval = \"10s\"\n"));
    let out = home.dir.path().join("callgrind.out");
    let port = servers::free_port();
    let mut child = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(process::program())
        .arg("serve")
        .arg("--config")
        .arg(home.dir.path().join("config.toml"))
        .arg("--data-dir")
        .arg(home.data())
        .arg("--listen")
        .arg(format!("127.0.0.1:{port}"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("valgrind is installed");
    let address = format!("127.0.0.1:{port}");
    let deadline = Instant::now() + Duration::from_secs(120);
    // It listens before it is ready, and has its token by then.
    while TcpStream::connect(&address).await.is_err() || !home.data().join("admin-token").exists() {
        assert!(Instant::now() < deadline, "keytide does not start under valgrind");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let keys = (0..10).map(|n| format!("working-{n:056x}")).collect();
    let token = servers::fill(&home, &format!("http://{address}"), keys).await;
    ask(&address, &token, requests, large, stream).await;
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    child.wait().unwrap();
    total(&out)
}

/// One after another, on one connection.
async fn ask(address: &str, token: &str, requests: usize, large: bool, stream: bool) {
    let mut body = load::body(large);
    if stream {
        body["stream"] = Value::Bool(true);
    }
    let body = body.to_string();
    let text = format!(
        "POST /v1/chat/completions HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut connection = TcpStream::connect(address).await.unwrap();
    connection.set_nodelay(true).unwrap();
    let mut read = Vec::new();
    for _ in 0..requests {
        connection.write_all(text.as_bytes()).await.unwrap();
        read.clear();
        loop {
            assert!(connection.read_buf(&mut read).await.unwrap() > 0, "an answer was cut off");
            let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
            assert!(head.starts_with("http/1.1 200"), "{head}");
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map(|n| n.parse::<usize>().unwrap());
            if length
                .map_or_else(|| read.ends_with(b"\r\n0\r\n\r\n"), |length| read.len() >= end + 4 + length)
            {
                break;
            }
        }
    }
}

fn total(out: &Path) -> f64 {
    if let Some(kept) = std::env::var_os("CALLGRIND_OUT") {
        std::fs::copy(out, kept).unwrap();
    }
    let text = std::fs::read_to_string(out).unwrap();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("totals: ").or_else(|| line.strip_prefix("summary: ")));
    line.unwrap().trim().parse().unwrap()
}
