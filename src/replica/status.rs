//! What an operator is told of replication: plain data, made by the replicator and shown by the control API.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::wire::ReportRow;
use crate::model::Timestamp;

/// One hub, as seen from here.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HubStatus {
    /// As the configuration names it; `default` for `[sync]`.
    pub name: String,
    /// `postgres`, `rest`, or `off`.
    pub transport: String,
    /// Scheme, host, port and database; never a user or a password.
    pub target: String,
    pub state: HubState,
    /// When the last round went through to its end.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_success: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub next_round: Option<Timestamp>,
    /// How long the oldest change made here has been waiting for the hub, in milliseconds; 0 when none waits.
    pub lag_ms: u64,
    pub last_error: Option<HubError>,
    /// This machine's clock minus the hub's as measured, in milliseconds.
    pub clock_offset_ms: Option<i64>,
    /// What of that is allowed for: differences within what clocks that are kept have count as none.
    pub clock_correction_ms: i64,
    pub traffic: Traffic,
    pub streams: Vec<StreamStatus>,
    /// Every instance that the hub has seen within 30 days, this one too.
    pub instances: Vec<InstanceStatus>,
    /// What the hub ignored of other programs' writes, the latest first.
    pub reports: Vec<Report>,
    /// When the hub named both.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub listed_at: Option<Timestamp>,
    /// The latest things that an operator should have read, newest first.
    pub notes: Vec<Note>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum HubState {
    /// No hub is configured.
    Off,
    /// No round has ended yet.
    #[default]
    Connecting,
    /// All is told and known, as of the last round.
    Ok,
    /// The first or a renewed reading of everything is under way.
    Resyncing,
    /// The last round failed; it is tried again.
    Failing,
    /// Nothing is sent or read until somebody decides: see the streams and `keytide sync adopt`.
    Stopped,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HubError {
    /// What kind of trouble it is: what to do goes by it.
    pub code: Trouble,
    /// What was seen.
    pub message: String,
    /// What to do about it.
    pub advice: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Failed rounds since the last good one.
    pub times: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Trouble {
    Busy,
    Certificate,
    Credentials,
    /// What is kept here of the hub is a newer keytide's, or damaged.
    Document,
    /// Of keytide's own making.
    Fault,
    Forbidden,
    Full,
    /// What answers is no hub.
    Garbage,
    /// keytide is stopping.
    Halted,
    /// Tables or columns.
    Missing,
    NoSchema,
    ReadOnly,
    Server,
    Settings,
    /// The local file.
    Store,
    Timeout,
    TooLarge,
    Unreachable,
    /// The hub's functions are another keytide's.
    Unsupported,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Traffic {
    /// Bytes since the start of this process.
    pub sent: u64,
    pub received: u64,
    /// Received in 30 days if it goes on as in the last day, or as since the start.
    pub received_a_month: Option<u64>,
    /// This instance's part of the budget.
    pub budget_a_month: Option<u64>,
    /// How long statistics wait for each other at present, in milliseconds.
    pub statistics_every_ms: u64,
}

/// One provider's way to the hub.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct StreamStatus {
    pub provider: String,
    pub table_prefix: String,
    pub state: StreamState,
    pub stopped: Option<StopCode>,
    /// Why it is stopped, what is missing, or what went wrong.
    pub reason: Option<String>,
    /// Sealed and not yet confirmed.
    pub pending_batches: u64,
    pub pending_rows: u64,
    /// Rows of counters, keys and tokens that no batch holds yet.
    pub open_rows: u64,
    /// The last batch that the hub has confirmed.
    pub confirmed_batch: u64,
    /// When all that the hub had was last known here.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_pull: Option<Timestamp>,
    /// Rows read so far by the resync that is under way.
    pub resync_rows: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// The hub has not been asked yet.
    New,
    Ok,
    Resyncing,
    /// The hub lacks this provider's tables or columns.
    Missing,
    /// This provider's tables cannot be read; it is tried again.
    Failing,
    /// Another database, or an older state of it, stands where the hub was.
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StopCode {
    /// Another database stands where the hub was.
    OtherHub,
    /// The hub is back further than what is kept here.
    RolledBack,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InstanceStatus {
    #[schema(value_type = String)]
    pub id: Uuid,
    pub name: String,
    pub version: String,
    /// Whether it is this one.
    pub own: bool,
    #[schema(value_type = String, format = DateTime)]
    pub first_seen: Timestamp,
    #[schema(value_type = String, format = DateTime)]
    pub last_seen: Timestamp,
    /// Its clock minus the hub's, in milliseconds.
    pub clock_offset_ms: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Report {
    /// `counter_lowered`: a write that lowered a counter left it as it was.
    pub kind: String,
    pub table: String,
    pub count: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_at: Option<Timestamp>,
    /// All of that as a sentence.
    pub text: String,
}

impl From<&ReportRow> for Report {
    fn from(row: &ReportRow) -> Self {
        let ReportRow { kind, table, count, last_at } = row;
        let last_at = last_at.map(Timestamp);
        let what = match kind.as_str() {
            "counter_lowered" => format!("a lowered counter in {table} was ignored"),
            "unreadable" => format!("a row in {table} that cannot be read was left out"),
            "late" => format!("what came too late for {table} was left out"),
            "no_partition" => format!("{table} has no part for some of its rows, which were left out"),
            "locked" => format!("{table} was in use, and its oldest part was not dropped"),
            "not_owner" => format!("a part of {table} that belongs to another owner was not dropped"),
            other => format!("{table}: {other}"),
        };
        let times = if *count == 1 { "once".to_owned() } else { format!("{count} times") };
        let last = last_at.map(|at| format!(", last at {at}")).unwrap_or_default();
        let text = format!("{what} {times}{last}");
        Self { kind: kind.clone(), table: table.clone(), count: *count, last_at, text }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Note {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub code: NoteCode,
    pub text: String,
}

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum NoteCode {
    Adopted,
    AdoptedInexactly,
    AdoptRefused,
    /// Versions from the future.
    Clock,
    /// A copy of the file that was made while keytide ran is in use.
    Copied,
    /// Hours and days that are no longer kept.
    Expired,
    /// Another instance goes by the same file.
    Forked,
    /// Deleted elsewhere.
    Gone,
    /// The hub has no room for what is optional.
    KeptBack,
    LogsLeftOut,
    /// Counts of keys and tokens that nobody knows any more.
    Lost,
    Missing,
    Moved,
    NoUsageLogs,
    ReadOnly,
    Resumed,
    ResyncBegun,
    ResyncDone,
    /// Done, and some requests are not in the hub's total.
    ResyncIncomplete,
    RolledBack,
    Stopped,
    /// Some requests may be missing since the hub was adopted.
    Uncertain,
    Unsupported,
}
