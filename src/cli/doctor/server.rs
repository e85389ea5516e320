//! The running server, if there is one, and the address that it would listen on.

use std::{
    io::ErrorKind,
    net::{SocketAddr, TcpListener},
    time::{Duration, SystemTime},
};

use reqwest::{Method, header};

use super::Report;
use crate::{
    cli::{
        client::{Client, Reply},
        error::Error,
        remote::{TOKEN_FILE, read_token},
        view::Storage,
    },
    config::Loaded,
};

/// More than this apart, two clocks are not the same time.
const SKEW: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(10);

pub(super) enum Server {
    Absent,
    /// Something is there, and it does not answer as asked.
    Refuses(String),
    Ours {
        storage: Box<Storage>,
        skew: Option<Duration>,
    },
}

impl Server {
    pub(super) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours { .. })
    }

    pub(super) fn storage(&self) -> Option<&Storage> {
        match self {
            Self::Ours { storage, .. } => Some(storage),
            Self::Absent | Self::Refuses(_) => None,
        }
    }
}

pub(super) async fn look(client: &Client) -> Server {
    let asked = async {
        let response = client.open(client.request(Method::GET, "health", &[])).await;
        let skew = response.ok().and_then(|response| {
            let date = response.headers().get(header::DATE)?.to_str().ok()?;
            let (theirs, ours) = (httpdate::parse_http_date(date).ok()?, SystemTime::now());
            Some(ours.duration_since(theirs).unwrap_or_else(|early| early.duration()))
        });
        let reply: Reply<Storage> = client.get("admin/storage", &[]).await?;
        Ok(Server::Ours { storage: Box::new(reply.value), skew })
    };
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(Ok(server)) => server,
        Ok(Err(Error::Unreachable(_))) => Server::Absent,
        Ok(Err(error)) => Server::Refuses(error.to_string()),
        Err(_) => Server::Refuses(format!("{} did not answer in time", client.shown())),
    }
}

pub(super) fn report(server: &Server, client: &Client, loaded: &Loaded, is_named: bool, report: &mut Report) {
    let url = client.shown();
    match server {
        Server::Ours { skew, .. } => {
            report.ok("server", format!("keytide answers at {url}"));
            report.ok("admin token", "the server accepts it");
            match skew {
                Some(skew) if *skew > SKEW => report.fail(
                    "server's clock",
                    format!("{} seconds from this machine's", skew.as_secs()),
                    "set both, for instance with `timedatectl set-ntp true`",
                ),
                Some(_) => report.ok("server's clock", "the same as this machine's"),
                None => {}
            }
        }
        Server::Refuses(why) => {
            report.fail(
                "server",
                why.as_str(),
                "stop what listens there, or pass the right --url and --admin-token",
            );
        }
        Server::Absent if is_named => {
            report.fail("server", format!("no keytide answers at {url}"), "start it, or check --url");
        }
        Server::Absent => {
            listen(loaded.config.server.gateway.listen, report);
            token(client, loaded, report);
        }
    }
}

/// Whether the next start will get its address.
fn listen(address: SocketAddr, report: &mut Report) {
    const CHECK: &str = "address";
    match TcpListener::bind(address) {
        Ok(_) => report.ok(CHECK, format!("no server is running, and {address} is free for it")),
        Err(error) => {
            let advice = match error.kind() {
                ErrorKind::AddrInUse => "stop the program that has it, or change server.listen",
                ErrorKind::PermissionDenied => "use a port from 1024 on in server.listen",
                ErrorKind::AddrNotAvailable => "use an address of this machine in server.listen",
                _ => "change server.listen",
            };
            report.fail(CHECK, format!("{address} cannot be listened on: {error}"), advice);
        }
    }
}

fn token(client: &Client, loaded: &Loaded, report: &mut Report) {
    const CHECK: &str = "admin token";
    let source = loaded.sources.get("server.admin_token").map_or("the configuration", String::as_str);
    let dir = &loaded.config.store.dir;
    match read_token(dir) {
        _ if loaded.config.server.admin_token.is_some() => {
            report.ok(CHECK, format!("it comes from {source}"))
        }
        Ok(Some(_)) => report.ok(CHECK, format!("it is in {}", dir.join(TOKEN_FILE).display())),
        Ok(None) if client.has_token() => report.ok(CHECK, "it is given"),
        Ok(None) => report.ok(CHECK, "there is none yet; the first start makes it"),
        Err(why) => report.fail(
            CHECK,
            why,
            "run this as the user that runs keytide, or make a new one with `keytide admin-token reset`",
        ),
    }
}
