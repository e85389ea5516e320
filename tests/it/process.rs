//! keytide in a process of its own, which can be killed.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::time::Instant;

/// How long anything may take that is expected to happen at once.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A configuration file and a data folder.
pub struct Home {
    pub dir: tempfile::TempDir,
}

impl Home {
    /// `config` must leave `[server] listen` and `[log]` alone.
    pub fn new(config: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = "[log]\nformat = \"json\"\nfilter = \"info\"\n";
        std::fs::write(dir.path().join("config.toml"), format!("{config}\n{log}")).unwrap();
        std::fs::create_dir(dir.path().join("data")).unwrap();
        Self { dir }
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

/// The keytide that was built beside this program, or another one that is named.
pub fn program() -> PathBuf {
    std::env::var_os("PROGRAM_UNDER_TEST").map_or_else(|| env!("CARGO_BIN_EXE_keytide").into(), PathBuf::from)
}

/// A running `keytide serve`. Killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Process {
    /// Starts it without waiting for it to be ready.
    pub fn spawn(home: &Home) -> Self {
        let mut child = Command::new(program())
            .env_clear()
            .arg("serve")
            .arg("--config")
            .arg(home.dir.path().join("config.toml"))
            .arg("--data-dir")
            .arg(home.data())
            .current_dir(home.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let log = Arc::<Mutex<Vec<Value>>>::default();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let read = log.clone();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let entry = serde_json::from_str(&line).unwrap_or(Value::String(line));
                read.lock().unwrap().push(entry);
            }
        });
        Self { child, log }
    }

    /// Starts it and returns it with its URL.
    pub async fn start(home: &Home) -> (Self, String) {
        let mut process = Self::spawn(home);
        let ready = process.logged("keytide is ready").await;
        let address = ready["fields"]["address"].as_str().unwrap().to_owned();
        (process, format!("http://{address}"))
    }

    /// Waits for a line of the log that contains `text`.
    pub async fn logged(&mut self, text: &str) -> Value {
        let deadline = Instant::now() + PATIENCE;
        loop {
            // Before the log, so that what it said last is seen.
            let ended = self.child.try_wait().unwrap();
            let found = self.log.lock().unwrap().iter().find(|line| says(line, text)).cloned();
            if let Some(line) = found {
                return line;
            }
            let late = Instant::now() > deadline;
            assert!(!late, "keytide never said {text:?}: {:#?}", self.log.lock().unwrap());
            if let Some(status) = ended {
                tokio::time::sleep(Duration::from_millis(50)).await;
                panic!("keytide ended ({status}): {:#?}", self.log.lock().unwrap());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// How many lines of the log contain `text`.
    pub fn times(&self, text: &str) -> usize {
        self.log.lock().unwrap().iter().filter(|line| says(line, text)).count()
    }

    /// All of it, as text.
    pub fn log(&self) -> String {
        serde_json::to_string(&*self.log.lock().unwrap()).unwrap()
    }

    /// As a power cut would: nothing of it runs any more when this returns.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.id());
        assert!(Command::new("sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "keytide does not end: {:#?}", self.log.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn says(line: &Value, text: &str) -> bool {
    line["fields"]["message"].as_str().is_some_and(|message| message.contains(text))
}

impl Drop for Process {
    fn drop(&mut self) {
        let _it_may_have_ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Copies a store as it lies on the disk.
pub fn copy_store(from: &Path, to: &Path) {
    let name = keytide::store::FILE_NAME;
    std::fs::copy(from.join(name), to.join(name)).unwrap();
}
