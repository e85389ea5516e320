//! Statistics, providers, the store, and errors.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    model::{Space, Timestamp, Usage},
    pool::StateCounts,
    store::TableSize,
};

/// Counted per client request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Stats {
    pub provider: String,
    pub total_api_keys: usize,
    pub active_keys: usize,
    pub failed_keys: usize,
    pub disabled_keys: usize,
    pub expired_keys: usize,
    pub total_client_tokens: usize,
    pub total_requests: u64,
    pub success_count: u64,
    pub failure_count: u64,
    pub other_count: u64,
    /// Percent.
    pub success_rate: f64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub storage: String,
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
    /// The 50 most used.
    pub models: Vec<ModelStats>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ModelStats {
    pub model: String,
    pub total_requests: u64,
    pub success_count: u64,
    pub failure_count: u64,
    pub other_count: u64,
    pub success_rate: f64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Timestamp>,
}

impl ModelStats {
    pub fn new(model: &str, usage: &Usage) -> Self {
        Self {
            model: model.to_owned(),
            total_requests: usage.counts.total(),
            success_count: usage.counts.success,
            failure_count: usage.counts.failure,
            other_count: usage.counts.other,
            success_rate: usage.counts.success_rate(),
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            last_used: usage.last_used,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublicStats {
    pub global: PublicGlobal,
    /// The 10 most used.
    pub top_models: Vec<PublicModel>,
    /// The 10 most used of the last 24 hours.
    pub recent_top_models: Vec<PublicModel>,
    /// The last 24 hours, oldest first.
    pub hourly_trend: Vec<PublicHour>,
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublicGlobal {
    pub total_requests: u64,
    pub success_count: u64,
    pub failure_count: u64,
    /// Percent.
    pub success_rate: f64,
    pub total_api_keys: usize,
    pub active_keys: usize,
    pub failed_keys: usize,
    pub storage: String,
    /// When a request was last counted; null when none was.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_updated: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublicModel {
    pub model: String,
    pub total_requests: u64,
    pub success_count: u64,
    pub failure_count: u64,
    pub success_rate: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PublicHour {
    /// Its start.
    #[schema(value_type = String, format = DateTime)]
    pub hour: Timestamp,
    pub requests: u64,
    pub success: u64,
    pub failure: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Provider {
    pub name: String,
    pub enabled: bool,
    pub default: bool,
    pub table_prefix: String,
    pub strategy: String,
    /// Only the host.
    pub base_url: String,
    pub keys: KeyCounts,
    pub tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeyCounts {
    pub total: usize,
    pub active: usize,
    pub disabled: usize,
    pub failed: usize,
    pub expired: usize,
    pub in_flight: usize,
}

impl From<StateCounts> for KeyCounts {
    fn from(counts: StateCounts) -> Self {
        let StateCounts { total, active, disabled, failed, expired, in_flight } = counts;
        Self { total, active, disabled, failed, expired, in_flight }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Storage {
    pub file: String,
    pub healthy: bool,
    /// What keeps the store from being written.
    pub problem: Option<String>,
    /// Null, as the rest, when the file cannot be read.
    pub file_bytes: Option<u64>,
    pub journal_entries: Option<u64>,
    pub tables: Option<Vec<TableSize>>,
    /// The file against its budget.
    pub local: Space,
    /// Every hub's database, as it was measured within the last minute where it can be asked.
    pub hubs: Vec<HubSpace>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HubSpace {
    /// As the configuration names it.
    pub hub: String,
    /// `postgres` or `rest`.
    pub transport: String,
    /// Scheme, host, port and database.
    pub target: String,
    #[serde(flatten)]
    pub space: Space,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// An absolute path on the server; nothing may be there.
    pub file: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct BackupDone {
    pub file: String,
    pub bytes: u64,
}

/// The shape of every error.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorDetail {
    pub message: String,
    pub r#type: String,
    pub code: String,
    pub param: Option<String>,
}
