//! PgBouncer in transaction mode, as hosted databases have in front.

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::Path,
    process::Command,
};

use super::{PASSWORD, Server, USER, free_port, tool};

pub struct PgBouncer {
    pub port: u16,
    _server: Server,
    _dir: tempfile::TempDir,
}

impl PgBouncer {
    /// One connection to the server for everybody: what a call leaves behind on it, another one meets.
    pub async fn start(postgres: u16) -> Self {
        let program = tool("pgbouncer", "HUB_PGBOUNCER");
        // Another process may take the port before it does; then the next one is tried.
        for _ in 0..5 {
            let port = free_port();
            let dir = tempfile::Builder::new().prefix("keytide-pgbouncer-").tempdir_in("/tmp").unwrap();
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
            let (ini, users) = (dir.path().join("pgbouncer.ini"), dir.path().join("users"));
            fs::write(&users, format!("\"{USER}\" \"{PASSWORD}\"\n")).unwrap();
            let text = format!(
                "[databases]\n* = host=127.0.0.1 port={postgres}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
                 listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
                 pool_mode = transaction\ndefault_pool_size = 1\nmax_client_conn = 20\nserver_login_retry = 1\n\
                 client_tls_sslmode = disable\n",
                users.display()
            );
            fs::write(&ini, text).unwrap();
            if let Some(server) = Server::start(unprivileged(&program).arg(&ini), port).await {
                return Self { port, _server: server, _dir: dir };
            }
        }
        panic!("pgbouncer does not start");
    }
}

/// It refuses to run as root.
fn unprivileged(program: &Path) -> Command {
    let mut command = Command::new(program);
    if fs::metadata("/proc/self").unwrap().uid() == 0 {
        command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(program);
    }
    command.arg("-q");
    command
}
