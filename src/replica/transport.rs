//! One call to one of the hub's functions: what a way to the hub has to be able to do, and how it can fail.

use std::{fmt, time::Duration};

use futures_util::future::BoxFuture;

use super::wire::Function;

/// Of an answer: pages are bounded far below.
pub(super) const MAX_ANSWER: usize = 64 << 20;

/// A way to a hub. Calls on one transport are made one after another.
pub trait Transport: Send + Sync {
    /// Calls `function` with `request`, a JSON text, and returns the JSON text that it answered. Ends well
    /// inside eight seconds.
    fn call<'a>(&'a self, function: Function, request: &'a str) -> BoxFuture<'a, Result<Reply, Error>>;

    /// Has the database take back what rows that are gone have left in a table, which is named as SQL names it.
    /// Returns false where this way cannot do that.
    fn vacuum<'a>(&'a self, _table: &'a str) -> BoxFuture<'a, Result<bool, Error>> {
        Box::pin(async { Ok(false) })
    }

    /// Where it leads, for people: scheme, host, port and database, never a user or a password.
    fn target(&self) -> String;

    /// `postgres` or `rest`.
    fn kind(&self) -> &'static str;

    /// Bytes as they went over the wire, as far as this side can know.
    fn traffic(&self) -> Traffic;
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub body: String,
    /// From sending to having read all of the answer.
    pub took: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    pub sent: u64,
    pub received: u64,
}

/// Why a call failed. Whether it was carried out is unknown unless the kind says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    pub kind: ErrorKind,
    /// What was seen, for people; without secrets and without text that a stranger could have put there at length.
    pub detail: String,
    /// When the hub asks to come back.
    pub retry_after: Option<Duration>,
}

impl Error {
    pub fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self { kind, detail: detail.into(), retry_after: None }
    }

    /// More came than [`MAX_ANSWER`].
    pub(super) fn too_long() -> Self {
        Self::new(ErrorKind::TooLarge, "the answer is larger than any of a hub's")
    }

    /// No answer came in the time that a call has.
    pub(super) fn late(function: Function, limit: Duration) -> Self {
        Self::new(ErrorKind::Timeout, format!("no answer to {} within {limit:?}", function.name()))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// No connection: name, route, refused, reset, in the middle of a call too.
    Unreachable,
    /// No answer in time, or the hub cancelled the statement.
    Timeout,
    /// The certificate is not trusted, has expired, or is for another name.
    Certificate,
    /// Wrong user, password or key.
    Credentials,
    /// The credentials are good, the right to call the function is missing.
    Forbidden,
    /// The functions are not there.
    NoSchema,
    /// Tables or columns that the function needs are not there.
    Missing,
    /// The database takes no writes at present.
    ReadOnly,
    /// Out of space, or over a quota.
    Full,
    /// Too many connections or requests.
    Busy,
    /// The request is larger than the hub takes, or its answer than it may be.
    TooLarge,
    /// The hub failed in another way.
    Server,
    /// What came back is not from a hub: a captive portal, another program.
    Garbage,
    /// The URL, the certificate file or another setting cannot be used.
    Settings,
}

impl ErrorKind {
    /// What to do, one sentence.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Unreachable => "check the network and the host and port in the URL; keytide goes on trying",
            Self::Timeout => "the hub is slow or far; keytide goes on with smaller batches and pages",
            Self::Certificate => {
                "name the authority's certificate with sslrootcert (Supabase signs with its own, to be had in its \
                 dashboard), and check that the certificate is in date"
            }
            Self::Credentials => "check the user and password in DATABASE_URL, or the service role key",
            Self::Forbidden => {
                "use the database's owner or the service role; `keytide schema apply` sets the rights"
            }
            Self::NoSchema | Self::Missing => {
                "run `keytide schema check` to see what is missing and `keytide schema apply` to add it"
            }
            Self::ReadOnly => {
                "the database takes no writes (a full project, a replica, or paused): free space or resume it; \
                 keytide keeps counting and sends later"
            }
            Self::Full => "free space on the hub; keytide keeps counting and sends later",
            Self::Busy => "the hub has too many callers; keytide comes back later",
            Self::TooLarge => "keytide goes on with smaller batches and pages",
            Self::Server => "look at the hub's own log; keytide goes on trying",
            Self::Garbage => {
                "what answered is not a keytide hub: check the URL, and that no portal or proxy stands between"
            }
            Self::Settings => "correct the setting and restart keytide",
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.detail, self.kind.advice())
    }
}

impl std::error::Error for Error {}
