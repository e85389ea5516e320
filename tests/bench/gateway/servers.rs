//! What is measured: nginx and keytide in processes of their own, what they cost the processor, and what they hold.

use std::{
    fs,
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::{Value, json};

use super::process::{Home, Process};

/// Ends with us.
pub struct Running(pub Child);

impl Drop for Running {
    fn drop(&mut self) {
        // nginx ends its workers when it is asked to, not when it is killed.
        let _asked = Command::new("kill").arg(self.0.id().to_string()).status();
        let _reaped = self.0.wait();
    }
}

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

async fn until_it_listens(address: &str) {
    for _ in 0..2_000 {
        if tokio::net::TcpStream::connect(address).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("nobody listens on {address}");
}

/// This program again, as the provider.
pub async fn upstream() -> (Running, SocketAddr) {
    ourselves("--upstream", &[]).await
}

/// This program again, as a forwarder that does nothing else.
pub async fn bare(provider: SocketAddr) -> (Running, SocketAddr) {
    ourselves("--bare", &[provider]).await
}

async fn ourselves(role: &str, more: &[SocketAddr]) -> (Running, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let mut program = Command::new(std::env::current_exe().unwrap());
    program.arg(role).arg(address.to_string()).args(more.iter().map(SocketAddr::to_string));
    let running = Running(program.spawn().unwrap());
    until_it_listens(&address.to_string()).await;
    (running, address)
}

/// A plain reverse proxy with one worker per core and connections that are kept. Streams go through a port of their own, where it
/// does not collect what it passes on.
pub async fn nginx(dir: &Path, upstream: SocketAddr) -> (Running, String, String) {
    let [plain, streams] = [(); 2].map(|()| format!("127.0.0.1:{}", free_port()));
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {}/nginx-{name};\n", dir.display()))
        .collect();
    let server = |listen: &str, buffering: &str| {
        format!(
            "server {{ listen {listen}; location / {{ proxy_pass http://provider; proxy_http_version 1.1;
             proxy_set_header Connection \"\"; proxy_buffering {buffering}; proxy_buffers 32 8k; }} }}"
        )
    };
    let text = format!(
        "daemon off; worker_processes auto; error_log stderr crit; pid {dir}/nginx.pid;
         events {{ worker_connections 8192; }}
         http {{ access_log off; keepalive_requests 1000000000; tcp_nodelay on;
         client_max_body_size 32m; client_body_buffer_size 256k; {paths}
         upstream provider {{ server {upstream}; keepalive 1024; keepalive_requests 1000000000; }}
         {} {} }}",
        server(&plain, "on"),
        server(&streams, "off"),
        dir = dir.display()
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, text).unwrap();
    let program = if Path::new("/usr/sbin/nginx").exists() { "/usr/sbin/nginx" } else { "nginx" };
    let child = Command::new(program)
        .arg("-c")
        .arg(&file)
        .arg("-p")
        .arg(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("nginx is installed");
    let running = Running(child);
    until_it_listens(&streams).await;
    (running, plain, streams)
}

/// What a keytide is started with.
pub struct Setup<'a> {
    pub keys: usize,
    /// Every third key is refused by the provider, for a second.
    pub limited: bool,
    pub more: &'a str,
}

pub struct Keytide {
    pub process: Process,
    pub address: String,
    pub token: String,
    home: Home,
}

pub fn config(upstream: SocketAddr, more: &str) -> String {
    format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nshutdown_timeout = \"5s\"\n{more}\n[providers.ollama]\nbase_url = \"http://{upstream}\"\n[providers.openrouter]\nenabled = false\n"
    )
}

impl Keytide {
    pub async fn start(upstream: SocketAddr, setup: Setup<'_>) -> Self {
        let home = Home::new(&config(upstream, setup.more));
        let (process, url) = Process::start(&home).await;
        let keys = (0..setup.keys).map(|n| match n % 3 {
            0 if setup.limited => format!("limited-{n:056x}"),
            _ => format!("working-{n:056x}"),
        });
        let token = fill(&home, &url, keys.collect()).await;
        Self { process, address: url.trim_start_matches("http://").to_owned(), token, home }
    }

    /// As an operator would end it.
    pub async fn end(mut self) {
        self.process.signal("TERM");
        let status = self.process.ended().await;
        assert!(status.success(), "{status}");
    }

    /// How many requests its books say it has counted.
    pub async fn counted(&self) -> u64 {
        self.ask("/admin/stats", None).await["total_requests"].as_u64().unwrap()
    }

    /// Goes through a round; the next one comes an interval later, if there was something to tell.
    pub async fn replicate(&self) {
        self.ask("/admin/sync/now", Some(json!({}))).await;
    }

    /// Batches that hubs have confirmed.
    pub async fn batches(&self) -> u64 {
        let status = self.ask("/admin/sync", None).await;
        let hubs = status["hubs"].as_array().unwrap_or_else(|| panic!("{status}"));
        let streams = hubs.iter().flat_map(|hub| hub["streams"].as_array().into_iter().flatten());
        streams.map(|stream| stream["confirmed_batch"].as_u64().unwrap_or_else(|| panic!("{status}"))).sum()
    }

    async fn ask(&self, path: &str, body: Option<Value>) -> Value {
        ask(&self.home, &format!("http://{}", self.address), path, body).await
    }
}

/// Brings the keys, and a token to call with.
pub async fn fill(home: &Home, url: &str, keys: Vec<String>) -> String {
    for some in keys.chunks(20_000) {
        let brought = ask(home, url, "/admin/api-keys/import", Some(json!({"keys": some}))).await;
        assert_eq!(brought["added"], some.len(), "{brought}");
    }
    let made = ask(home, url, "/admin/tokens", Some(json!({"name": "bench"}))).await;
    made["token"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned()
}

async fn ask(home: &Home, url: &str, path: &str, body: Option<Value>) -> Value {
    let token = fs::read_to_string(home.data().join("admin-token")).unwrap();
    let client = reqwest::Client::new();
    let request = match body {
        Some(body) => client.post(format!("{url}{path}")).json(&body),
        None => client.get(format!("{url}{path}")),
    };
    let answer = request.bearer_auth(token.trim()).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

/// From now on it and those that it starts take only processor time that nobody else wants, as if they had another machine.
///
/// Where the kernel gives each session its share of the processor, as for desktops, that does not help: each server process of
/// Postgres is a session.
pub fn stand_aside(pid: u32) {
    let groups = fs::read_to_string("/proc/sys/kernel/sched_autogroup_enabled").unwrap_or_default();
    if groups.trim() == "1" {
        eprintln!(
            "kernel.sched_autogroup_enabled is 1: the Postgres of the steady cases takes its share of the processor. \
             Set it to 0 meanwhile for what a Postgres on another machine would leave."
        );
    }
    let idle = |pid: u32| {
        Command::new("chrt")
            .args(["--idle", "--pid", "0"])
            .arg(pid.to_string())
            .status()
            .expect("chrt is installed, of util-linux")
            .success()
    };
    assert!(idle(pid), "chrt cannot set process {pid} aside");
    // Those that it starts later take after it.
    for child in family(pid).into_iter().skip(1) {
        let is_done = idle(child) || !Path::new(&format!("/proc/{child}")).exists();
        assert!(is_done, "chrt cannot set process {child} aside");
    }
}

/// The process and those that it has started.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

/// Seconds of processor time so far; of single hundredths.
pub fn processor(pid: u32) -> f64 {
    let of = |pid: u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        let [user, system] = [11, 12].map(|at| fields[at].parse::<f64>().unwrap());
        (user + system) / 100.0
    };
    family(pid).into_iter().map(of).sum()
}

/// Megabytes resident.
pub fn memory(pid: u32) -> f64 {
    let of = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    };
    family(pid).into_iter().map(of).sum()
}
