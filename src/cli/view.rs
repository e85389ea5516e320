//! What the admin API answers, as far as the command line shows it.

use serde::{Deserialize, Serialize};

use crate::model::{Space, Timestamp};

#[derive(Deserialize)]
pub(super) struct KeyPage {
    pub(super) provider: String,
    pub(super) page: u64,
    pub(super) pages: u64,
    pub(super) total: u64,
    pub(super) keys: Vec<Key>,
}

#[derive(Deserialize)]
pub(super) struct Key {
    pub(super) id: String,
    pub(super) key: String,
    pub(super) status: String,
    #[serde(default)]
    pub(super) username: Option<String>,
    #[serde(default)]
    pub(super) note: Option<String>,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) expires_at: Option<Timestamp>,
    #[serde(default)]
    pub(super) failed_until: Option<Timestamp>,
    #[serde(default)]
    pub(super) disabled_until: Option<Timestamp>,
    #[serde(default)]
    pub(super) owner: Option<String>,
    #[serde(default)]
    pub(super) stats: KeyStats,
}

#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyStats {
    pub(super) total_requests: u64,
    pub(super) success_rate: f64,
    pub(super) last_used: Option<Timestamp>,
}

#[derive(Deserialize)]
pub(super) struct Imported {
    pub(super) provider: String,
    pub(super) added: u64,
    pub(super) existing: u64,
    pub(super) invalid: u64,
    #[serde(default)]
    pub(super) blank: u64,
    #[serde(default)]
    pub(super) dry_run: bool,
    #[serde(default)]
    pub(super) existing_lines: Vec<Line>,
    #[serde(default)]
    pub(super) invalid_lines: Vec<Line>,
    #[serde(default)]
    pub(super) truncated: bool,
}

#[derive(Deserialize)]
pub(super) struct Line {
    pub(super) line: u64,
    #[serde(default)]
    pub(super) reason: Option<String>,
    #[serde(default)]
    pub(super) key: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct Changed {
    #[serde(alias = "deleted")]
    pub(super) changed: u64,
    #[serde(default)]
    pub(super) missing: Vec<String>,
}

#[derive(Deserialize)]
pub(super) struct Probed {
    pub(super) id: String,
    pub(super) ok: bool,
    #[serde(default)]
    pub(super) status: String,
    #[serde(default)]
    pub(super) detail: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct ProbeSummary {
    pub(super) checked: u64,
    pub(super) ok: u64,
    pub(super) failed: u64,
}

#[derive(Deserialize)]
pub(super) struct TokenList {
    pub(super) provider: String,
    pub(super) tokens: Vec<Token>,
}

#[derive(Deserialize)]
pub(super) struct Token {
    pub(super) id: String,
    /// Masked, except in the answer to its creation.
    pub(super) token: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) expires_at: Option<Timestamp>,
    #[serde(default)]
    pub(super) expired: bool,
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(flatten)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) request_count: u64,
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
    #[serde(default)]
    pub(super) last_used: Option<Timestamp>,
}

/// The limits of a token or a user, and what was used of them today.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Limits {
    pub(super) requests_per_minute: Option<u64>,
    pub(super) requests_per_day: Option<u64>,
    pub(super) tokens_per_day: Option<u64>,
    pub(super) allowed_models: Option<Vec<String>>,
    pub(super) allowed_addresses: Option<Vec<String>>,
    pub(super) requests_today: u64,
    pub(super) tokens_today: u64,
}

#[derive(Deserialize)]
pub(super) struct UserPage {
    pub(super) page: u64,
    pub(super) pages: u64,
    pub(super) total: u64,
    pub(super) users: Vec<User>,
}

#[derive(Deserialize)]
pub(super) struct User {
    pub(super) id: String,
    pub(super) name: String,
    #[serde(default)]
    pub(super) note: Option<String>,
    pub(super) enabled: bool,
    #[serde(default)]
    pub(super) created_at: Option<Timestamp>,
    #[serde(flatten)]
    pub(super) limits: Limits,
    #[serde(default)]
    pub(super) day_ends_at: Option<Timestamp>,
    #[serde(default)]
    pub(super) tokens: Vec<OwnToken>,
}

#[derive(Deserialize)]
pub(super) struct OwnToken {
    pub(super) provider: String,
    pub(super) id: String,
    pub(super) name: String,
}

#[derive(Deserialize)]
pub(super) struct EventPage {
    pub(super) page: u64,
    pub(super) pages: u64,
    pub(super) total: u64,
    pub(super) events: Vec<Event>,
}

#[derive(Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) severity: u8,
    pub(super) at: Timestamp,
    #[serde(default)]
    pub(super) user: Option<String>,
    #[serde(default)]
    pub(super) key: Option<String>,
    #[serde(default)]
    pub(super) weight: u64,
    #[serde(default)]
    pub(super) details: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
pub(super) struct Verdicts {
    pub(super) in_force: bool,
    pub(super) verdicts: Vec<Verdict>,
}

#[derive(Deserialize)]
pub(super) struct Verdict {
    pub(super) subject: String,
    pub(super) action: String,
    #[serde(default)]
    pub(super) factor: Option<f32>,
    pub(super) until: Timestamp,
}

#[derive(Deserialize)]
pub(super) struct Stats {
    pub(super) provider: String,
    pub(super) total_api_keys: u64,
    pub(super) active_keys: u64,
    pub(super) failed_keys: u64,
    #[serde(default)]
    pub(super) disabled_keys: u64,
    #[serde(default)]
    pub(super) expired_keys: u64,
    pub(super) total_client_tokens: u64,
    pub(super) total_requests: u64,
    pub(super) success_rate: f64,
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
    #[serde(default)]
    pub(super) models: Vec<Model>,
}

#[derive(Deserialize)]
pub(super) struct Model {
    pub(super) model: String,
    pub(super) total_requests: u64,
    pub(super) success_rate: f64,
    #[serde(default)]
    pub(super) prompt_tokens: u64,
    #[serde(default)]
    pub(super) completion_tokens: u64,
    #[serde(default)]
    pub(super) last_used: Option<Timestamp>,
}

#[derive(Deserialize)]
pub(super) struct Provider {
    pub(super) name: String,
}

#[derive(Deserialize)]
pub(super) struct Storage {
    pub(super) file: String,
    pub(super) healthy: bool,
    #[serde(default)]
    pub(super) problem: Option<String>,
    #[serde(flatten)]
    pub(super) sizes: crate::store::Sizes,
    #[serde(default)]
    pub(super) local: Space,
    #[serde(default)]
    pub(super) hubs: Vec<HubSpace>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct HubSpace {
    pub(super) hub: String,
    #[serde(default)]
    pub(super) transport: String,
    #[serde(default)]
    pub(super) target: String,
    #[serde(flatten)]
    pub(super) space: Space,
}

#[derive(Deserialize)]
pub(super) struct Backup {
    pub(super) file: String,
    pub(super) bytes: u64,
}
