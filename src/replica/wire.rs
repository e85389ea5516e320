//! What goes over the wire: the one argument and the one answer of each of the hub's functions, as JSON.
//!
//! Names are short because there are many rows; each is explained where it is defined, and
//! `schema/README.md` explains them for people who read the SQL. Rows have the same shape in both directions:
//! pushed, counters are increments; pulled, they are totals. Times are milliseconds since the Unix epoch on the
//! hub's clock, versions are [`Version`]s, absent fields have their defaults.

mod core;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

pub use self::core::{EventRow, LogRow, SetRow, ShareRow, TallyRow, UserRow};
use crate::model::{Rung, Secret, Version, secret};

/// Both sides name it in every call; a hub of another make answers `unsupported`.
pub const PROTOCOL: u32 = 1;
/// The layout that `schema/` makes, as the hub's settings tell it.
pub const SCHEMA: u32 = 1;

/// The functions of the hub. Each takes one `jsonb` named `request` and returns one JSON value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    Hello,
    Push,
    Pull,
    Sizes,
    Retain,
}

impl Function {
    pub const ALL: [Self; 5] = [Self::Hello, Self::Push, Self::Pull, Self::Sizes, Self::Retain];

    pub fn name(self) -> &'static str {
        match self {
            Self::Hello => "keytide_hello",
            Self::Push => "keytide_push",
            Self::Pull => "keytide_pull",
            Self::Sizes => "keytide_sizes",
            Self::Retain => "keytide_retain",
        }
    }
}

/// Which database a hub is. Base, cursors and sequences belong to this, never to a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HubIdentity {
    /// Made by the schema; travels with a dump.
    pub id: Uuid,
    /// Postgres's `system_identifier`, in decimal.
    pub system: String,
    /// Grows by one whenever the cluster was promoted or recovered to a point in time.
    pub timeline: i64,
}

/// What every answer begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Greeting {
    pub hub: HubIdentity,
    pub schema: u32,
    /// The hub's clock.
    pub now: i64,
    /// Identities that this hub has been, if it was adopted.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub was: Vec<HubIdentity>,
    /// Nothing can be written at present.
    #[serde(default, skip_serializing_if = "is_default")]
    pub read_only: bool,
    /// The time zone in which days begin and end, by its name in the IANA database; absent from hubs that know of none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub zone: Option<String>,
}

/// The kinds of rows that can be deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GoneKind {
    Key,
    Token,
    User,
    /// Only the statistics, by another program's DELETE: they start again from nothing.
    KeyStats,
    Model,
    Global,
}

/// All rows of a batch or of a page. Lists are in the order of their fields here and, within, of primary keys
/// (bytewise, `COLLATE "C"`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rows {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<GoneRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<KeyRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tokens: Vec<TokenRow>,
    /// Of the core's stream, as all lists down to `logs` that are not of a provider's.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub users: Vec<UserRow>,
    /// Pushed only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shares: Vec<ShareRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub key_stats: Vec<KeyStatsRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub token_stats: Vec<TokenStatsRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hours: Vec<HourRow>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global: Option<GlobalRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tallies: Vec<TallyRow>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<SetRow>,
    /// Pushed only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<EventRow>,
    /// Pushed only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub logs: Vec<LogRow>,
    /// Pulled only: how far each instance's stream is contained in these totals.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub streams: Vec<StreamRow>,
}

impl Rows {
    pub fn count(&self) -> u64 {
        let lists = [
            self.gone.len(),
            self.keys.len(),
            self.tokens.len(),
            self.users.len(),
            self.shares.len(),
            self.key_stats.len(),
            self.token_stats.len(),
            self.models.len(),
            self.hours.len(),
            self.tallies.len(),
            self.sets.len(),
            self.events.len(),
            self.logs.len(),
            self.streams.len(),
        ];
        lists.iter().sum::<usize>() as u64 + u64::from(self.global.is_some())
    }
}

/// A deletion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GoneRow {
    pub t: GoneKind,
    /// Of a key or a token: the first 16 bytes of the SHA-256 of its text, in hex. Of a user: its id. Of a model: its name. Of the
    /// global row: `global`.
    pub id: String,
    /// Of the deletion: what was added before it is gone.
    pub v: Version,
}

/// A key: each field that a person sets with its own version. A field that is absent has its default (no
/// value, weight 1, enabled) at version `a`; one whose version is given and value absent has no value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyRow {
    /// The key itself.
    #[serde(with = "secret::exposed")]
    pub k: Secret,
    /// When it was added: only a later deletion removes it.
    pub a: Version,
    /// Created at, for people.
    #[serde(default)]
    pub c: i64,
    /// Pushed only: a person has added it, so it may be created. Without this a missing row stays missing.
    #[serde(default, skip_serializing_if = "is_default")]
    pub add: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pub u: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub uv: Option<Version>,
    /// Note.
    #[serde(default, skip_serializing_if = "is_default")]
    pub n: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub nv: Option<Version>,
    /// Expires at.
    #[serde(default, skip_serializing_if = "is_default")]
    pub x: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub xv: Option<Version>,
    /// Weight.
    #[serde(default, skip_serializing_if = "is_default")]
    pub w: Option<u16>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub wv: Option<Version>,
    /// Enabled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub e: Option<bool>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ev: Option<Version>,
    /// Disabled until.
    #[serde(default, skip_serializing_if = "is_default")]
    pub d: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub dv: Option<Version>,
    /// Owner: the user who shares it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ow: Option<Uuid>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub owv: Option<Version>,
    /// Absent: clean since it was added.
    #[serde(default, skip_serializing_if = "is_default")]
    pub h: Option<HealthRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthRow {
    /// Epoch: the version of the last reset; absent: that of the key's `a`. A later epoch replaces all, within one the
    /// maxima hold.
    #[serde(skip_serializing_if = "is_default")]
    pub e: Version,
    /// Failed until.
    #[serde(skip_serializing_if = "is_default")]
    pub f: Option<i64>,
    /// Why: `rate_limit`, `quota`, `auth`, `server`; goes with the later deadline.
    #[serde(skip_serializing_if = "is_default")]
    pub c: Option<String>,
    /// Consecutive failures; of the key itself; of the provider.
    #[serde(skip_serializing_if = "is_default")]
    pub n: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub a: u32,
    #[serde(skip_serializing_if = "is_default")]
    pub s: u32,
    /// Needs verification.
    #[serde(skip_serializing_if = "is_default")]
    pub v: bool,
}

/// A client token's settings, as [`KeyRow`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenRow {
    #[serde(with = "secret::exposed")]
    pub k: Secret,
    pub a: Version,
    #[serde(default)]
    pub c: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub add: bool,
    /// Name.
    #[serde(default, skip_serializing_if = "is_default")]
    pub n: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub nv: Option<Version>,
    /// Expires at.
    #[serde(default, skip_serializing_if = "is_default")]
    pub x: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub xv: Option<Version>,
    /// Allowed models; absent or empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub m: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub mv: Option<Version>,
    /// Requests per minute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub r: Option<u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub rv: Option<Version>,
    /// Its user.
    #[serde(default, skip_serializing_if = "is_default")]
    pub us: Option<Uuid>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub usv: Option<Version>,
    /// Requests per day.
    #[serde(default, skip_serializing_if = "is_default")]
    pub rd: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub rdv: Option<Version>,
    /// Tokens per day.
    #[serde(default, skip_serializing_if = "is_default")]
    pub td: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub tdv: Option<Version>,
    /// Allowed addresses; absent or empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ad: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub adv: Option<Version>,
}

/// Success, failure, other: increments when pushed, totals when pulled.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KeyStatsRow {
    #[serde(with = "secret::exposed")]
    pub k: Secret,
    #[serde(default, skip_serializing_if = "is_default")]
    pub s: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub f: i64,
    #[serde(default, skip_serializing_if = "is_default")]
    pub o: i64,
    /// Last used, last success, last failure.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lu: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ls: Option<i64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub lf: Option<i64>,
}

/// The counters that every row of requests has.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Sums {
    #[serde(skip_serializing_if = "is_default")]
    pub s: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub f: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub o: i64,
    /// Prompt and completion tokens.
    #[serde(skip_serializing_if = "is_default")]
    pub p: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub q: i64,
    #[serde(skip_serializing_if = "is_default")]
    pub lu: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenStatsRow {
    #[serde(with = "secret::exposed")]
    pub k: Secret,
    #[serde(flatten)]
    pub sums: Sums,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelRow {
    pub m: String,
    #[serde(flatten)]
    pub sums: Sums,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HourRow {
    /// Hours since the Unix epoch.
    pub h: u32,
    pub m: String,
    #[serde(flatten)]
    pub sums: Sums,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GlobalRow {
    #[serde(flatten)]
    pub sums: Sums,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamRow {
    /// The instance.
    pub i: Uuid,
    /// Its last applied batch, and that batch's digest.
    pub s: u64,
    pub g: String,
}

/// Says hello: registers this instance (or, every few minutes, that it is alive), and asks what the hub is.
/// On a hub that cannot be written it only asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HelloRequest {
    pub protocol: u32,
    pub instance: Uuid,
    /// For people: the machine's name.
    pub name: String,
    /// keytide's.
    pub version: String,
    /// This machine's clock.
    pub now: i64,
    /// The table prefixes that this instance wants to replicate.
    pub streams: Vec<String>,
    /// Whether the answer is to name the instances and what was ignored. Older instances do not say, and want it; older
    /// hubs do it always.
    #[serde(default = "yes")]
    pub list: bool,
}

fn yes() -> bool {
    true
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HelloAnswer {
    #[serde(flatten)]
    pub greeting: Greeting,
    /// `ok` or `unsupported` (then `speaks` lists the protocols that it knows).
    pub status: String,
    #[serde(default)]
    pub speaks: Vec<u32>,
    /// Of the streams asked for: those whose tables, columns or triggers are not all there, and what is missing.
    #[serde(default)]
    pub missing: Vec<MissingRow>,
    /// Instances seen within the last ten minutes; absent from older hubs.
    #[serde(default)]
    pub alive: Option<u64>,
    /// Those seen within 30 days, the latest first; absent when it was not asked for.
    #[serde(default)]
    pub instances: Option<Vec<InstanceRow>>,
    /// What was ignored, the latest first.
    #[serde(default)]
    pub reports: Vec<ReportRow>,
}

/// What the hub did not do as it was told by other hands, and how often.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ReportRow {
    /// `counter_lowered`: a write that lowered a counter left it as it was.
    pub kind: String,
    pub table: String,
    pub count: u64,
    #[serde(default)]
    pub last_at: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MissingRow {
    pub stream: String,
    /// `table ollama_api_keys`, `column ollama_api_keys.weight`, …
    pub what: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceRow {
    pub id: Uuid,
    pub name: String,
    pub version: String,
    pub first_seen: i64,
    pub last_seen: i64,
    /// Its clock minus the hub's when it was last seen, in milliseconds.
    pub clock_offset: i64,
}

/// Applies a batch, once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushRequest {
    pub protocol: u32,
    pub instance: Uuid,
    pub now: i64,
    /// The table prefix.
    pub stream: String,
    /// What the `provider` columns say.
    pub provider: String,
    /// From 1.
    pub seq: u64,
    /// Of the batch before; empty for the first.
    pub prev: String,
    /// Of this batch's rows: the first 16 bytes of the SHA-256 of their JSON, in hex.
    pub digest: String,
    /// The database that the batch is for. One of another id or system that has not been this one does nothing
    /// and answers `elsewhere`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<HubIdentity>,
    pub rows: Rows,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PushAnswer {
    #[serde(flatten)]
    pub greeting: Greeting,
    /// - `applied`: with the advance of the stream, in one transaction;
    /// - `already`: this very batch had been applied; `rows` is as it was answered then;
    /// - `mismatch`: it does not follow what the hub holds, which `seq` and `digest` tell, with `rows` as that was
    ///   answered; nothing was done;
    /// - `missing`: the stream's tables are not all there, nothing was done;
    /// - `elsewhere`: this is another database than the batch is for; nothing was done;
    /// - `read_only`, `unsupported`.
    pub status: String,
    /// Of the stream, after this call.
    #[serde(default)]
    pub seq: u64,
    #[serde(default)]
    pub digest: String,
    #[serde(default)]
    pub rows: RowAnswers,
    #[serde(default)]
    pub missing: Vec<MissingRow>,
}

/// Rows that were not applied as such: list name and position in it. Their counts have entered the totals, and
/// those of a deleted key or token its retired counts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RowAnswers {
    /// Its key or token was deleted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub gone: Vec<(String, usize)>,
    /// Its hour is no longer kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub expired: Vec<(String, usize)>,
    /// A version in it lies in the future: to be stamped anew.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub clock: Vec<(String, usize)>,
    /// The batch was not applied: whoever adopted this hub had it in the totals. No row was touched for it, and which
    /// of them would have been refused nobody knows.
    #[serde(skip_serializing_if = "is_default")]
    pub adopted: bool,
    /// Whoever adopted this hub did not know of the instance: what it had told may be missing in the totals.
    #[serde(skip_serializing_if = "is_default")]
    pub uncertain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lane {
    /// `gone`, `keys`, `tokens`; of the core `gone`, `users`.
    State,
    /// `key_stats`, `token_stats`, `models`, `hours`, `global`, `streams`; of the core `tallies`, `sets`, `streams`.
    Stats,
    /// Of the core alone: those of the `tallies` that count for limits by day.
    Limits,
}

/// Asks what has changed: all lanes of all streams in one call and one snapshot.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PullRequest {
    pub protocol: u32,
    pub instance: Uuid,
    pub asks: Vec<Ask>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ask {
    pub stream: String,
    pub provider: String,
    pub lane: Lane,
    /// A `pg_snapshot`: rows whose last change it saw are left out. Absent: all rows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
    /// Where the page before ended, as its `next` said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<Value>,
    /// Most rows of the page.
    pub limit: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PullAnswer {
    #[serde(flatten)]
    pub greeting: Greeting,
    /// `ok` or `unsupported`.
    pub status: String,
    /// This call's snapshot: the next cursor of every lane whose first page this is.
    pub snapshot: String,
    /// In the order of the asks.
    pub pages: Vec<Page>,
}

/// What the hub has let go of, so that its absence says nothing: hours, and days of users, before these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptFrom {
    /// Since 1970, as in hours of models and keys.
    #[serde(rename = "h")]
    pub hours: u32,
    /// Since 1970-01-01.
    #[serde(rename = "d")]
    pub days: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page {
    pub stream: String,
    pub lane: Lane,
    /// The asking instance's stream as of this snapshot: its last batch, that batch's digest, and how its rows
    /// were answered.
    #[serde(default)]
    pub seq: u64,
    #[serde(default)]
    pub digest: String,
    #[serde(default)]
    pub answer: RowAnswers,
    /// Deletions before this were forgotten: whoever pulled last before it cannot learn of them any more.
    #[serde(default)]
    pub swept: Version,
    #[serde(default)]
    pub kept: KeptFrom,
    #[serde(default)]
    pub rows: Rows,
    /// There is more: ask again with this as `after`.
    #[serde(default)]
    pub next: Option<Value>,
    /// The stream's tables are not all there.
    #[serde(default)]
    pub missing: bool,
}

/// Asks the hub to forget what it keeps no more, some thousand rows at a time, and more of it the nearer it is to its
/// budget.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetainRequest {
    pub protocol: u32,
    /// Bytes of the whole database; absent: any number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<u64>,
    /// About how many rows it may take at a time. Older hubs do as they like.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most: Option<u32>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RetainAnswer {
    /// `ok`, `busy` (another instance is at it, or adopts), `read_only`, `unsupported`.
    pub status: String,
    /// Deletions and hours that were forgotten.
    #[serde(default)]
    pub tombstones: u64,
    #[serde(default)]
    pub hours: u64,
    /// Unseen for that long.
    #[serde(default)]
    pub instances: u64,
    /// How far the ladder is climbed. Absent from older hubs, as what follows.
    #[serde(default)]
    pub rung: Option<Rung>,
    /// Bytes that count against the budget.
    #[serde(default)]
    pub used: Option<u64>,
    #[serde(default)]
    pub did: Vec<DidRow>,
    /// Tables that have much to give back, as SQL names them: VACUUM runs in no function.
    #[serde(default)]
    pub vacuum: Vec<String>,
    /// Likewise, tables that are over and too large to be written anew within a call of that size.
    #[serde(default)]
    pub large: Vec<String>,
    /// Ask again.
    #[serde(default)]
    pub more: bool,
}

/// A step of retention.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DidRow {
    /// `dropped`, `folded`, `deleted`, `settled`, `rolled`, …
    #[serde(default)]
    pub what: String,
    #[serde(default)]
    pub table: String,
    #[serde(default)]
    pub rows: u64,
    /// Of a table in parts.
    #[serde(default)]
    pub parts: u64,
}

/// Asks how large the hub's tables are, and what was ignored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizesRequest {
    pub protocol: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SizesAnswer {
    pub status: String,
    /// Bytes of all of it, and those that count against a budget.
    #[serde(default)]
    pub database: Option<u64>,
    #[serde(default)]
    pub used: Option<u64>,
    #[serde(default)]
    pub rung: Option<Rung>,
    /// Whether a row is kept of each request: `on`, `off`, or `foreign` where a table of another make has the place.
    #[serde(default)]
    pub usage_logs: Option<String>,
    #[serde(default)]
    pub tables: Vec<SizeRow>,
    #[serde(default)]
    pub reports: Vec<ReportRow>,
}

/// A table of the database, keytide's or not.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SizeRow {
    pub schema: String,
    pub name: String,
    pub rows: u64,
    /// Bytes.
    pub heap: u64,
    pub index: u64,
    pub toast: u64,
    /// Rows that are gone and still lie there.
    pub dead: u64,
    /// Bytes of the heap that other rows can have.
    pub reusable: u64,
}

/// `keytide_push` with `"mode": "adopt"`: makes this database the hub that the instance knew before.
/// Steps, each its own call: `begin` (takes the lock, 10 minutes; `busy` while another holds it, and so are pushes
/// until the end), `look` (with all that the instance knows of a stream in `rows.streams`: `marks` says how that compares
/// with what is here), `rows` (as often as needed; counters are raised to the totals given, state is merged and
/// created, streams are installed), `restamp` (until `left` is 0: stamps that lie ahead of this cluster's transaction
/// ids), `end` (records what this hub was, releases the lock).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdoptRequest {
    pub protocol: u32,
    pub mode: String,
    pub step: String,
    pub instance: Uuid,
    pub now: i64,
    /// The identity that this database takes over.
    pub was: HubIdentity,
    #[serde(default)]
    pub stream: String,
    #[serde(default)]
    pub provider: String,
    #[serde(default)]
    pub rows: Rows,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AdoptAnswer {
    #[serde(flatten)]
    pub greeting: Greeting,
    /// `ok`, `busy` (another instance adopts; `by` and `until` say who), `adopted` (`was` is known here
    /// already, nothing is left to do), `missing`, `read_only`, `unsupported`.
    pub status: String,
    #[serde(default)]
    pub left: u64,
    /// Of `look`.
    #[serde(default)]
    pub marks: Marks,
    /// Of `rows`: those with a version that lies in the future.
    #[serde(default)]
    pub rows: RowAnswers,
    #[serde(default)]
    pub by: Option<Uuid>,
    #[serde(default)]
    pub until: Option<i64>,
}

/// How far each instance's stream is on a hub, against what an adopter knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Marks {
    /// Nobody has told the hub what the adopter does not know.
    Behind,
    /// The adopter knows nothing that the hub does not have.
    Ahead,
    /// This is another database than the adopter knew, and only instances that it does not know have told it anything.
    /// Their streams are answered `uncertain` from now on.
    Apart,
    /// Each has something that the other does not.
    Mixed,
    /// The hub's functions are older.
    #[default]
    #[serde(other)]
    Unknown,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
