//! Keys: lists, changes, checks.

use serde::{Deserialize, Deserializer, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::{
    model::{Cause, Health, KeyId, KeyUsage, Status, Timestamp, UserId},
    pool::KeyView,
};

/// Why a key cannot be picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    RateLimit,
    Quota,
    Auth,
    Server,
    Person,
    Expired,
    NeedsVerification,
}

impl Reason {
    pub fn of(status: Status, health: &Health) -> Option<Self> {
        match status {
            Status::Active => None,
            Status::Expired => Some(Self::Expired),
            Status::Disabled => Some(Self::Person),
            Status::Failed if health.needs_verification => Some(Self::NeedsVerification),
            Status::Failed => Some(match health.cause {
                Cause::RateLimit => Self::RateLimit,
                Cause::Quota => Self::Quota,
                Cause::Auth => Self::Auth,
                Cause::Server | Cause::None => Self::Server,
            }),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Key {
    #[schema(value_type = String, format = "uuid")]
    pub id: KeyId,
    /// Masked.
    pub key: String,
    pub username: Option<String>,
    pub note: Option<String>,
    pub status: Status,
    pub reason: Option<Reason>,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// Not picked before; null once that has passed.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub failed_until: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub disabled_until: Option<Timestamp>,
    pub enabled: bool,
    pub needs_verification: bool,
    pub weight: u16,
    /// The user who shares it.
    #[schema(value_type = Option<String>, format = "uuid")]
    pub owner: Option<UserId>,
    pub consecutive_failures: u32,
    pub in_flight: u32,
    pub stats: KeyStats,
}

impl Key {
    pub fn new(key: KeyView, usage: &KeyUsage, now: Timestamp) -> Self {
        Self {
            id: key.id,
            key: key.secret,
            username: key.username.map(Into::into),
            note: key.note.map(Into::into),
            status: key.status,
            reason: Reason::of(key.status, &key.health),
            created_at: key.created_at,
            expires_at: key.expires_at,
            failed_until: key.health.failed_until.filter(|at| *at > now),
            disabled_until: key.disabled_until.filter(|at| *at > now),
            enabled: key.enabled,
            needs_verification: key.health.needs_verification,
            weight: key.weight,
            owner: key.owner,
            consecutive_failures: key.health.consecutive_failures,
            in_flight: key.in_flight,
            stats: KeyStats::new(usage),
        }
    }
}

/// Counted per attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyStats {
    pub total_requests: u64,
    pub success_count: u64,
    pub failure_count: u64,
    pub other_count: u64,
    /// Percent.
    pub success_rate: f64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_success: Option<Timestamp>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_failure: Option<Timestamp>,
}

impl KeyStats {
    pub fn new(usage: &KeyUsage) -> Self {
        Self {
            total_requests: usage.counts.total(),
            success_count: usage.counts.success,
            failure_count: usage.counts.failure,
            other_count: usage.counts.other,
            success_rate: usage.counts.success_rate(),
            last_used: usage.last_used,
            last_success: usage.last_success,
            last_failure: usage.last_failure,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyPage {
    pub provider: String,
    pub page: usize,
    pub page_size: usize,
    pub total: usize,
    pub pages: usize,
    pub keys: Vec<Key>,
}

/// A key's figures, flat.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyStatsRow {
    #[schema(value_type = String, format = "uuid")]
    pub id: KeyId,
    /// Masked.
    pub key: String,
    pub username: Option<String>,
    pub status: Status,
    #[serde(flatten)]
    pub stats: KeyStats,
    pub consecutive_failures: u32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyStatsPage {
    pub provider: String,
    pub page: usize,
    pub page_size: usize,
    pub total: usize,
    pub pages: usize,
    pub keys: Vec<KeyStatsRow>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeySort {
    #[default]
    CreatedAt,
    Username,
    Status,
    TotalRequests,
    SuccessRate,
    LastUsed,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    #[default]
    Asc,
    Desc,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct KeysQuery {
    /// The default provider when absent.
    pub provider: Option<String>,
    /// From 1.
    pub page: Option<usize>,
    /// 50 when absent, at most 1000.
    #[param(maximum = 1000)]
    pub page_size: Option<usize>,
    pub status: Option<Status>,
    /// In the username or note, the beginning of the id, or a whole key; upper and lower case are the same.
    pub search: Option<String>,
    pub sort: Option<KeySort>,
    pub order: Option<Order>,
}

/// Which keys, as [`KeysQuery`] says it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct KeyIdsQuery {
    /// The default provider when absent.
    pub provider: Option<String>,
    pub status: Option<Status>,
    /// As in the list of keys.
    pub search: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyIds {
    pub provider: String,
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<KeyId>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ProviderQuery {
    /// The default provider when absent.
    pub provider: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddKey {
    pub key: String,
    #[serde(default)]
    pub provider: Option<String>,
    #[serde(default)]
    pub username: Option<String>,
    #[serde(default)]
    pub note: Option<String>,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    /// 1 to 1000.
    #[serde(default)]
    pub weight: Option<u16>,
    /// The id of the user who shares it.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub owner: Option<UserId>,
}

/// Absent fields stay as they are; null clears.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EditKey {
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub username: Option<Option<String>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub note: Option<Option<String>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Option<Timestamp>>,
    /// 1 to 1000; null means 1.
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u16>)]
    pub weight: Option<Option<u16>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub owner: Option<Option<UserId>>,
}

pub(super) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    from: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteKeys {
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<KeyId>,
    /// Whole keys.
    pub keys: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Deleted {
    pub deleted: usize,
    /// Ids that nothing goes by.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub missing: Option<Vec<String>>,
}

/// `ids`, or `all` (of one status).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EnableKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub ids: Option<Vec<KeyId>>,
    pub all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
}

/// `ids`, or `all` (of one status).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DisableKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub ids: Option<Vec<KeyId>>,
    pub all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// When the keys return by themselves; never, when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub until: Option<Timestamp>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Changed {
    /// Keys that are not as they were.
    pub changed: usize,
    /// Ids that nothing goes by.
    #[schema(value_type = Vec<String>)]
    pub missing: Vec<KeyId>,
}

/// `ids`, or `all` (of one status).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CheckKeys {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub ids: Option<Vec<KeyId>>,
    pub all: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// Calls at a time: 8 when absent, at most 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckResult {
    #[schema(value_type = String, format = "uuid")]
    pub id: KeyId,
    pub ok: bool,
    /// As it is after the check; null when there is no such key.
    pub status: Option<Status>,
    pub detail: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckSummary {
    pub checked: usize,
    pub ok: usize,
    pub failed: usize,
}

/// The last line of a streamed check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CheckEnd {
    pub summary: CheckSummary,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct CheckReport {
    #[serde(flatten)]
    pub summary: CheckSummary,
    /// The first 1000.
    pub results: Vec<CheckResult>,
}
