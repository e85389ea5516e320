//! Rows of the core's stream, which belong to no provider.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{Sums, is_default};
use crate::model::Version;

/// A user, as [`KeyRow`](super::KeyRow).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UserRow {
    pub i: Uuid,
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
    /// Note.
    #[serde(default, skip_serializing_if = "is_default")]
    pub o: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ov: Option<Version>,
    /// Enabled.
    #[serde(default, skip_serializing_if = "is_default")]
    pub e: Option<bool>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub ev: Option<Version>,
    /// Requests per minute.
    #[serde(default, skip_serializing_if = "is_default")]
    pub r: Option<u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub rv: Option<Version>,
    /// Requests per day.
    #[serde(default, skip_serializing_if = "is_default")]
    pub d: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub dv: Option<Version>,
    /// Tokens per day.
    #[serde(default, skip_serializing_if = "is_default")]
    pub t: Option<u64>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub tv: Option<Version>,
    /// Allowed models; absent or empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub m: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub mv: Option<Version>,
    /// Allowed addresses; absent or empty: all.
    #[serde(default, skip_serializing_if = "is_default")]
    pub ip: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub iv: Option<Version>,
}

/// Whose a key is. A later statement replaces an earlier one; any of a key that was added later, or deleted, all of those
/// of the time before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ShareRow {
    /// The key's id.
    pub i: Uuid,
    /// Its provider.
    pub p: String,
    /// Its owner.
    #[serde(default, skip_serializing_if = "is_default")]
    pub u: Option<Uuid>,
    /// False when it is disabled or deleted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub on: Option<bool>,
    /// When the key was added, or deleted.
    #[serde(default, skip_serializing_if = "is_default")]
    pub a: Version,
    /// How far its fields are: the sum of the versions of owner and enabled.
    pub v: Version,
}

/// What was counted of a key, token or user in one hour or day, or ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TallyRow {
    /// The code of a [`SpanKind`](crate::model::SpanKind).
    pub t: String,
    pub i: Uuid,
    /// Hours since the epoch, days since 1970-01-01, or nothing, as the kind has it.
    #[serde(default)]
    pub n: u32,
    #[serde(flatten)]
    pub sums: Sums,
}

/// Members of a set: told and read, they are added to those that are there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SetRow {
    /// The code of a [`SetKind`](crate::model::SetKind).
    pub t: String,
    pub i: Uuid,
    #[serde(default)]
    pub n: u32,
    /// Ids of users and tokens as 32 hex digits, short names of keys as 8.
    #[serde(default)]
    pub m: Vec<String>,
    /// There were more than are kept.
    #[serde(default, skip_serializing_if = "is_default")]
    pub more: bool,
    /// The key that was used last, and when.
    #[serde(default, skip_serializing_if = "is_default")]
    pub k: Option<String>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub at: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EventRow {
    /// Of the event itself: told twice, it counts once.
    pub x: Uuid,
    /// Type.
    pub e: String,
    /// Its user and key.
    #[serde(default, skip_serializing_if = "is_default")]
    pub u: Option<Uuid>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub i: Option<Uuid>,
    /// Severity, 1 to 5.
    pub y: u8,
    /// Details.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub d: Map<String, Value>,
    pub at: i64,
    /// How many it stands for; absent: 1.
    #[serde(default, skip_serializing_if = "is_default")]
    pub w: Option<u32>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogRow {
    pub x: Uuid,
    /// Key, and user or token.
    pub i: Uuid,
    pub u: Uuid,
    /// 1 a conversation, 2 an API call.
    pub y: u8,
    /// Status code.
    pub c: u16,
    pub at: i64,
}
