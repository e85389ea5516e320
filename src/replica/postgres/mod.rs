//! To the hub over Postgres's own protocol, directly or through a pooler in transaction mode.
//!
//! Nothing here outlives a transaction: no named statement, no setting of the session, no lock. A call is one
//! transaction of three messages that go out together, so that it costs one round trip:
//!
//! ```text
//! BEGIN …; SET LOCAL statement_timeout …      SELECT public.keytide_push($1)      COMMIT
//! ```
//!
//! It has succeeded only when the commit has. VACUUM alone, which no transaction can hold, is a statement by itself. A broken connection is made anew by the next call; what to do about
//! the broken call, only the caller knows.

mod socket;
mod url;

use std::{
    fmt,
    future::poll_fn,
    io,
    sync::{Arc, OnceLock},
    task::{Poll, ready},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join3},
};
use rustls::ClientConfig;
use tokio::{sync::Mutex, time::Instant};
use tokio_postgres::{
    Client,
    config::{Config, SslMode, SslNegotiation},
    types::Type,
};

use self::{
    socket::{Handshaken, Meter, Unreadable},
    url::{Address, Place},
};
use super::{
    sqlstate, tls,
    transport::{Error, ErrorKind, Reply, Traffic, Transport},
    wire::Function,
};
use crate::model::Secret;

/// Between the statement's limit on the hub and our own: an answer in words beats silence.
const HEAD_START: Duration = Duration::from_millis(750);
const SHORTEST_STATEMENT: Duration = Duration::from_millis(250);
/// Replication waits for it.
const VACUUM_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub struct Options {
    /// `postgres://user:password@host:port/database?…`, as libpq knows it.
    pub url: Secret,
    /// Shown in the hub's list of connections, unless the URL names another.
    pub application_name: String,
    /// A shorter `connect_timeout` in the URL wins.
    pub connect_timeout: Duration,
    /// All of a call: connecting if need be, sending, the hub's work, and the answer.
    pub call_timeout: Duration,
}

impl Options {
    pub fn new(url: Secret) -> Self {
        Self {
            url,
            application_name: "keytide".to_owned(),
            connect_timeout: Duration::from_secs(4),
            call_timeout: Duration::from_millis(7_500),
        }
    }
}

pub struct Postgres {
    address: Address,
    tls: Arc<ClientConfig>,
    connect_timeout: Duration,
    call_timeout: Duration,
    meter: Arc<Meter>,
    /// Taken out for a call and put back only when nothing is left open on it.
    idle: Mutex<Option<Line>>,
    config: Config,
}

/// A connection.
struct Line {
    client: Client,
    /// Why it has ended, which those who wait for answers on it are not told.
    end: Arc<OnceLock<Error>>,
}

impl fmt::Debug for Postgres {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Postgres").field("target", &self.address.shown()).finish_non_exhaustive()
    }
}

impl Postgres {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// Of kind `Settings`, when the URL or its `sslrootcert` cannot be used.
    pub fn new(options: &Options) -> Result<Self, Error> {
        let address = Address::parse(&options.url)?;
        let tls = Arc::new(tls::client_config(address.check, &address.roots)?);
        let mut config = Config::new();
        config
            .user(&address.user)
            .dbname(&address.database)
            .application_name(address.application_name.as_ref().unwrap_or(&options.application_name))
            .channel_binding(address.channel_binding)
            // The handshake is made by `socket`.
            .ssl_mode(SslMode::Require)
            .ssl_negotiation(SslNegotiation::Direct);
        if let Some(password) = &address.password {
            config.password(password.expose());
        }
        if let Some(options) = &address.options {
            config.options(options);
        }
        let own = address.connect_timeout.unwrap_or(options.connect_timeout);
        Ok(Self {
            connect_timeout: own.min(options.connect_timeout),
            call_timeout: options.call_timeout,
            address,
            tls,
            meter: Arc::default(),
            idle: Mutex::default(),
            config,
        })
    }

    /// What of the URL deserves a word, though it can be used.
    pub fn warnings(&self) -> &[String] {
        &self.address.warnings
    }

    /// A connection of the caller's own, for statements that are not the five functions. It ends when the client
    /// is dropped.
    ///
    /// # Errors
    /// When there is no connection within the connect timeout.
    pub async fn connect(&self) -> Result<Client, Error> {
        Ok(self.line().await?.client)
    }

    async fn line(&self) -> Result<Line, Error> {
        let deadline = Instant::now() + self.connect_timeout;
        match tokio::time::timeout_at(deadline, self.connect_by(deadline)).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(
                ErrorKind::Unreachable,
                format!("{} did not let us in within {:?}", self.address.shown(), self.connect_timeout),
            )),
        }
    }

    async fn connect_by(&self, deadline: Instant) -> Result<Line, Error> {
        let wire = socket::dial(&self.address, &self.tls, &self.meter, deadline).await?;
        let (client, mut connection) =
            self.config.connect_raw(wire, Handshaken).await.map_err(|error| explain(&error))?;
        let end = Arc::<OnceLock<Error>>::default();
        let told = end.clone();
        // Notices are not for our log: tokio-postgres would write them there, and they may quote rows.
        tokio::spawn(poll_fn(move |cx| {
            while let Some(message) = ready!(connection.poll_message(cx)) {
                let Err(error) = message else { continue };
                let _first = told.set(explain(&error));
                break;
            }
            Poll::Ready(())
        }));
        Ok(Line { client, end })
    }

    async fn call_by(&self, deadline: Instant, function: Function, request: &str) -> Result<Reply, Error> {
        let mut idle = self.idle.lock().await;
        let line = match idle.take() {
            Some(line) if !line.client.is_closed() => line,
            _ => self.line().await?,
        };
        let (result, is_clean) = transaction(&line, deadline, function, request).await;
        if is_clean && !line.client.is_closed() {
            *idle = Some(line);
        }
        result
    }
}

/// The second value tells whether the connection is as it was before.
async fn transaction(
    Line { client, end }: &Line,
    deadline: Instant,
    function: Function,
    request: &str,
) -> (Result<Reply, Error>, bool) {
    let sent = Instant::now();
    let left = deadline.saturating_duration_since(sent);
    let limit = left.saturating_sub(HEAD_START).max(SHORTEST_STATEMENT).as_millis();
    // A database that its host has closed for its size is opened again by deleting, for which a transaction may ask.
    let access = if function == Function::Retain { " READ WRITE" } else { "" };
    // The isolation that pushes are written for, whatever the database's default; and a hub that loses us between
    // the statement and the commit shall not keep the rows locked.
    let begin = format!(
        "BEGIN ISOLATION LEVEL READ COMMITTED{access}; \
         SET LOCAL statement_timeout = {limit}; SET LOCAL idle_in_transaction_session_timeout = {limit}"
    );
    // Text in both directions: the database does not touch a digit of it, and all types are known beforehand.
    let call = format!("SELECT public.{}($1::jsonb)::text", function.name());
    // Polled in this order, they are sent in this order.
    let (begun, answered, ended) = join3(
        client.batch_execute(&begin),
        client.query_typed(&call, &[(&request, Type::TEXT)]),
        client.batch_execute("COMMIT"),
    )
    .await;
    let is_clean = begun.is_ok() && ended.is_ok();
    let result = match (begun, answered, ended) {
        (Err(error), ..) | (_, Err(error), _) | (.., Err(error)) => {
            let why = end.get().filter(|_| error.is_closed());
            Err(why.cloned().unwrap_or_else(|| explain(&error)))
        }
        (_, Ok(rows), _) => match rows.as_slice() {
            [row] => match row.try_get::<_, Option<&str>>(0) {
                Ok(Some(body)) => Ok(Reply { body: body.to_owned(), took: sent.elapsed() }),
                Ok(None) => Err(garbage(format!("{} answered nothing", function.name()))),
                Err(_) => Err(garbage(format!("{} did not answer with text", function.name()))),
            },
            rows => Err(garbage(format!("{} answered {} rows", function.name(), rows.len()))),
        },
    };
    (result, is_clean)
}

impl Transport for Postgres {
    fn call<'a>(&'a self, function: Function, request: &'a str) -> BoxFuture<'a, Result<Reply, Error>> {
        async move {
            let deadline = Instant::now() + self.call_timeout;
            match tokio::time::timeout_at(deadline, self.call_by(deadline, function, request)).await {
                Ok(result) => result,
                // The connection was dropped with the future: nothing of this call can be taken for the next one's.
                Err(_) => Err(Error::late(function, self.call_timeout)),
            }
        }
        .boxed()
    }

    fn vacuum<'a>(&'a self, table: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        async move {
            // On a connection of its own: it may take a while, and is nothing that a transaction can hold. A table
            // that others are at is left for another time.
            let statement = format!("VACUUM (ANALYZE, SKIP_LOCKED) {table}");
            let client = self.connect().await?;
            match tokio::time::timeout(VACUUM_TIMEOUT, client.batch_execute(&statement)).await {
                Ok(done) => done.map(|()| true).map_err(|error| explain(&error)),
                Err(_) => Err(Error::new(
                    ErrorKind::Timeout,
                    format!("VACUUM of {table} took more than {VACUUM_TIMEOUT:?}"),
                )),
            }
        }
        .boxed()
    }

    fn target(&self) -> String {
        self.address.shown()
    }

    fn kind(&self) -> &'static str {
        "postgres"
    }

    fn traffic(&self) -> Traffic {
        self.meter.read()
    }
}

fn garbage(detail: String) -> Error {
    Error::new(ErrorKind::Garbage, detail)
}

/// Where a URL leads and for whom; nothing if it cannot be used, or leads to a socket.
pub(super) fn host_and_user(url: &Secret) -> Option<(String, String)> {
    let address = Address::parse(url).ok()?;
    match address.place {
        Place::Tcp { host, .. } => Some((host, address.user)),
        Place::Unix(_) => None,
    }
}

/// tokio-postgres's error in this room's words; for [`Postgres::connect`]'s callers too.
pub fn explain(error: &tokio_postgres::Error) -> Error {
    if let Some(answer) = error.as_db_error() {
        return sqlstate::error(answer.code().code(), answer.message());
    }
    let failed = |kind, detail: String| Error::new(kind, detail);
    let cause = std::error::Error::source(error);
    if let Some(broken) = cause.and_then(|cause| cause.downcast_ref::<io::Error>()) {
        if let Some(why) = broken.get_ref().and_then(|inner| inner.downcast_ref::<Unreadable>()) {
            return why.error();
        }
        return match broken.kind() {
            // The protocol's own: a length or a tag that cannot be.
            io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData => {
                garbage("what answers breaks Postgres's protocol".to_owned())
            }
            kind => failed(ErrorKind::Unreachable, format!("the connection to the hub broke: {kind}")),
        };
    }
    if error.is_closed() {
        return failed(ErrorKind::Unreachable, "the hub closed the connection".to_owned());
    }
    // Their kinds are private, their first words are not.
    let words = error.to_string();
    match words.as_str() {
        "authentication error" => {
            let why = cause.map(ToString::to_string).unwrap_or_default();
            failed(ErrorKind::Credentials, format!("the login was not accepted: {}", sqlstate::excerpt(&why)))
        }
        "invalid configuration" => {
            failed(ErrorKind::Credentials, "the hub wants a password, and DATABASE_URL has none".to_owned())
        }
        "unexpected message from server" | "error parsing response from server" => {
            garbage("what answers breaks Postgres's protocol".to_owned())
        }
        _ => failed(ErrorKind::Server, words),
    }
}
