//! A Postgres cluster of a test's own, made from installed binaries and gone with the value that holds it.
//!
//! Binaries are looked for in `HUB_POSTGRES/NN/bin`, `target/postgres/NN/bin` (where `scripts/test` puts several
//! versions) and `/usr/lib/postgresql/NN/bin` (Debian's), in this order. Postgres refuses to run as root; then it
//! runs as `postgres`, else as `nobody`.

use std::{
    fs,
    net::TcpListener,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio_postgres::{Client, NoTls};

/// Of the superuser, where passwords are asked for.
pub const PASSWORD: &str = "correct horse";

#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Major version; `None` takes 15 if it is there, else the newest.
    pub version: Option<u32>,
    /// Off, a power cut would lose commits; a killed process does not.
    pub fsync: bool,
    /// Ask for passwords over TCP (the socket always trusts).
    pub passwords: bool,
    /// Only TLS over TCP; needs `ssl` settings and files.
    pub tls_only: bool,
    /// Lines of `postgresql.conf`.
    pub settings: Vec<(String, String)>,
    /// Files of the data folder, readable by the server alone.
    pub files: Vec<(String, String)>,
}

pub struct Cluster {
    dir: tempfile::TempDir,
    bin: PathBuf,
    pub port: u16,
    pub version: u32,
    server: Option<Child>,
}

impl Cluster {
    /// Blocks until it takes connections.
    pub fn start(options: Options) -> Self {
        let (version, bin) = find(options.version);
        // Not below the caller's own TMPDIR, which may be too long for a socket or closed to others.
        let dir = tempfile::Builder::new().prefix("keytide-pg-").tempdir_in("/tmp").unwrap();
        let mut cluster = Self { dir, bin, port: 0, version, server: None };
        if let Some((uid, gid)) = other_user() {
            chown(cluster.dir.path(), Some(uid), Some(gid)).unwrap();
        }
        cluster.write("password", PASSWORD);
        let made = cluster
            .command("initdb")
            .args([
                "--no-sync",
                "--username=postgres",
                "--encoding=UTF8",
                "--locale=C",
                "--auth=trust",
                "--pwfile",
            ])
            .arg(cluster.dir.path().join("password"))
            .arg("--pgdata")
            .arg(cluster.data())
            .output()
            .unwrap();
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let (host, method) = (
            if options.tls_only { "hostssl" } else { "host" },
            if options.passwords { "scram-sha-256" } else { "trust" },
        );
        cluster.write(
            "data/pg_hba.conf",
            &format!("local all all trust\n{host} all all 127.0.0.1/32 {method}\n"),
        );
        let mut settings = format!(
            "listen_addresses = '127.0.0.1'\nunix_socket_directories = '{}'\nfsync = {fsync}\nfull_page_writes = {fsync}\n\
             password_encryption = 'scram-sha-256'\nmax_connections = 100\nlog_checkpoints = off\n",
            cluster.dir.path().display(),
            fsync = if options.fsync { "on" } else { "off" },
        );
        for (name, value) in &options.settings {
            settings.push_str(&format!("{name} = '{value}'\n"));
        }
        cluster.write("data/postgresql.auto.conf", &settings);
        for (name, text) in &options.files {
            cluster.write(&format!("data/{name}"), text);
        }
        cluster.run();
        cluster
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// Where its socket lies.
    pub fn socket(&self) -> &Path {
        self.dir.path()
    }

    /// Over TCP; with a password where one is asked for, add it.
    pub fn url(&self, database: &str, user: &str) -> String {
        format!("postgresql://{user}@127.0.0.1:{}/{database}", self.port)
    }

    pub async fn connect(&self, database: &str, user: &str) -> Client {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket()).port(self.port).dbname(database).user(user);
        let (client, connection) = config.connect(NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A new, empty database.
    pub async fn database(&self, name: &str) -> Client {
        let sql = format!("CREATE DATABASE {name}");
        self.connect("postgres", "postgres").await.batch_execute(&sql).await.unwrap();
        self.connect(name, "postgres").await
    }

    /// Runs statements as the superuser in database `postgres`, through the socket; returns what `psql -At` prints.
    pub fn psql(&self, sql: &str) -> String {
        self.psql_in("postgres", sql)
    }

    pub fn psql_in(&self, database: &str, sql: &str) -> String {
        let done = Command::new("psql")
            .args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-c", sql])
            .arg("-h")
            .arg(self.socket())
            .arg("-p")
            .arg(self.port.to_string())
            .output()
            .unwrap();
        assert!(done.status.success(), "psql: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).trim_end().to_owned()
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// As a power cut would, all of its processes at once.
    pub fn kill9(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        let children = children_of(server.id());
        let _it_may_have_ended = server.kill();
        let _reaped = server.wait();
        for child in children {
            signal("KILL", child);
        }
    }

    /// An orderly, fast end: open transactions are rolled back.
    pub fn stop(&mut self) {
        let Some(mut server) = self.server.take() else { return };
        signal("INT", server.id());
        let _reaped = server.wait();
    }

    /// Starts it again on the same port, after `stop` or `kill9`, or ends it first.
    pub fn restart(&mut self) {
        self.stop();
        self.run();
    }

    /// A cluster is told from its copy by nothing but where it listens: this one's files in another folder.
    pub fn copy(&mut self) -> Self {
        self.stop();
        let dir = tempfile::Builder::new().prefix("keytide-pg-").tempdir_in("/tmp").unwrap();
        let copied =
            Command::new("cp").arg("-a").arg(self.dir.path().join(".")).arg(dir.path()).status().unwrap();
        assert!(copied.success());
        let conf = dir.path().join("data/postgresql.auto.conf");
        let text = fs::read_to_string(&conf).unwrap();
        let text = text.replace(&*self.dir.path().to_string_lossy(), &dir.path().to_string_lossy());
        fs::write(&conf, text).unwrap();
        let mut copy = Self { dir, bin: self.bin.clone(), port: 0, version: self.version, server: None };
        self.run();
        copy.run();
        copy
    }

    fn run(&mut self) {
        let fixed = self.port != 0;
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.server.is_none() {
            if !fixed {
                // Another process may take it before the server does; then the next one is tried.
                self.port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            }
            let log =
                fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).unwrap();
            let mut server = self
                .command("postgres")
                .arg("-D")
                .arg(self.data())
                .args(["-p", &self.port.to_string()])
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn()
                .unwrap();
            let status = self.data().join("postmaster.pid");
            let own = server.id().to_string();
            loop {
                let text = fs::read_to_string(&status).unwrap_or_default();
                let is_own = text.lines().next() == Some(own.as_str());
                if is_own && text.lines().last().is_some_and(|line| line.trim() == "ready") {
                    self.server = Some(server);
                    break;
                }
                // Right after a kill -9 the old shared memory may still be held.
                if server.try_wait().unwrap().is_some() {
                    break;
                }
                if Instant::now() > deadline {
                    let _it_may_have_ended = server.kill();
                    panic!("postgres does not start: {}", self.log());
                }
                pause();
            }
            assert!(Instant::now() < deadline, "postgres does not start: {}", self.log());
        }
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((uid, gid)) = other_user() {
            chown(&path, Some(uid), Some(gid)).unwrap();
        }
    }

    /// A server program, as a user that it agrees to run as; its process is the program's own.
    fn command(&self, program: &str) -> Command {
        let path = self.bin.join(program);
        let Some((uid, gid)) = other_user() else { return Command::new(path) };
        let lower = |more: &[&str]| {
            let mut command = Command::new("setpriv");
            command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]).args(more);
            command
        };
        // Binaries in root's own folders stay readable for it.
        let reads = &["--inh-caps=+dac_override", "--ambient-caps=+dac_override"][..];
        let plain = lower(&[]).args(["test", "-x"]).arg(&path).status().unwrap().success();
        let mut command = lower(if plain { &[] } else { reads });
        command.arg(path).current_dir("/tmp").env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin");
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The major versions whose binaries are here, in rising order. Where `HUB_VERSIONS` names some, as `scripts/test` does
/// after installing them, those have to be among them.
pub fn installed() -> Vec<u32> {
    let mut found: Vec<u32> = places().into_iter().map(|(version, _)| version).collect();
    found.sort_unstable();
    found.dedup();
    let wanted = std::env::var("HUB_VERSIONS").unwrap_or_default();
    let missing = missing(&wanted, &found);
    assert!(
        missing.is_empty(),
        "of the versions in HUB_VERSIONS, {missing:?} are not installed; scripts/test installs them"
    );
    found
}

fn missing(wanted: &str, found: &[u32]) -> Vec<u32> {
    let wanted = wanted.split_whitespace().map(|version| version.parse().unwrap());
    wanted.filter(|version| !found.contains(version)).collect()
}

#[test]
fn versions_that_were_installed_are_missed() {
    assert_eq!(missing("13 15 18", &[13, 15]), [18]);
    assert!(missing("", &[15]).is_empty() && missing("15", &[13, 15]).is_empty());
}

fn places() -> Vec<(u32, PathBuf)> {
    let roots = [
        std::env::var_os("HUB_POSTGRES").map(PathBuf::from).unwrap_or_default(),
        Path::new(env!("CARGO_MANIFEST_DIR")).join("target/postgres"),
        PathBuf::from("/usr/lib/postgresql"),
    ];
    let mut found = Vec::new();
    for root in roots.iter().filter(|root| root.is_absolute()) {
        for entry in fs::read_dir(root).into_iter().flatten().flatten() {
            let version = entry.file_name().to_str().and_then(|name| name.parse().ok());
            let bin = entry.path().join("bin");
            if let (Some(version), true) = (version, bin.join("postgres").exists()) {
                found.push((version, bin));
            }
        }
    }
    found
}

fn find(version: Option<u32>) -> (u32, PathBuf) {
    let found = places();
    let wanted = version.or_else(|| found.iter().map(|(version, _)| *version).find(|version| *version == 15));
    let newest = found.iter().map(|(version, _)| *version).max();
    let wanted = wanted.or(newest).expect("no Postgres server is installed; scripts/test installs one");
    let Some(place) = found.into_iter().find(|(version, _)| *version == wanted) else {
        panic!("no binaries of Postgres {wanted} are installed; scripts/test installs them")
    };
    place
}

/// Whom the server runs as when this process is root.
fn other_user() -> Option<(u32, u32)> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    ["postgres", "nobody"].iter().find_map(|name| {
        let line = passwd.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

fn children_of(parent: u32) -> Vec<u32> {
    let mut children = Vec::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        // After the name, which may hold anything: state, parent.
        let after = stat.rsplit(") ").next().unwrap_or_default();
        if after.split(' ').nth(1) == Some(&parent.to_string()) {
            children.push(pid);
        }
    }
    children
}

fn signal(name: &str, pid: u32) {
    let _it_may_have_ended =
        Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).stderr(Stdio::null()).status();
}

#[expect(clippy::disallowed_methods, reason = "a test's own thread waits for another process")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

/// Whether any of these variables says `skip`: `HUB_TESTS` for all that needs a Postgres, `HUB_PGBOUNCER` and
/// `HUB_POSTRUST` for what needs these. Without it, a program that is missing fails the test.
pub fn skipped(variables: &[&str]) -> bool {
    let named = variables.iter().find(|name| std::env::var_os(name).is_some_and(|value| value == "skip"));
    if let Some(name) = named {
        eprintln!("{name}=skip: not run");
    }
    named.is_some()
}
