//! What was counted by hour and day.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::model::{Day, KeyId, Set, Status, Tally, Timestamp, UserId};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DaysQuery {
    /// A date like 2026-12-31; 29 days before `to` when absent.
    #[param(value_type = Option<String>, format = Date)]
    pub from: Option<Day>,
    /// Today when absent.
    #[param(value_type = Option<String>, format = Date)]
    pub to: Option<Day>,
}

/// Days begin and end in this zone.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UserDays {
    #[schema(value_type = String, format = "uuid")]
    pub user: UserId,
    pub time_zone: String,
    #[schema(value_type = String, format = Date)]
    pub from: Day,
    #[schema(value_type = String, format = Date)]
    pub to: Day,
    /// Those on which something was counted, oldest first.
    pub days: Vec<UserDay>,
    /// What days that are kept no more came to, of the months from `from` to `to`.
    pub months: Vec<UserMonth>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UserDay {
    #[schema(value_type = String, format = Date)]
    pub date: Day,
    pub log_data: LogData,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UserMonth {
    /// Like 2026-12.
    pub month: String,
    pub log_data: LogData,
}

/// Each request is one of conversation, API call and upload.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LogData {
    pub conversation_count: u64,
    pub api_call_count: u64,
    pub upload_count: u64,
    pub shared_key_usage: SharedKeyUsage,
    pub error_stats: ErrorStats,
}

/// Requests for which at least one key was tried.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SharedKeyUsage {
    /// The sum of the next three.
    pub total_calls: u64,
    pub successful_calls: u64,
    pub failed_calls: u64,
    /// The caller went away.
    pub other_calls: u64,
    /// The first eight digits of the keys' ids: the 32 smallest.
    pub keys_used: Vec<String>,
    /// There were more than that.
    pub keys_used_more: bool,
    pub last_key_used: Option<String>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_usage_at: Option<Timestamp>,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ErrorStats {
    /// Refused here for a limit.
    pub rate_limit_hits: u64,
    /// Refused here for an expired token, or for what it may not do.
    pub auth_failures: u64,
    /// Answered with a status of 5xx, or broken off.
    pub server_errors: u64,
}

fn shown(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

fn short(key: u128) -> String {
    format!("{key:08x}")
}

impl LogData {
    pub fn new(classes: &Tally, uses: &Tally, errors: &Tally, keys: &Set) -> Self {
        let (success, failure, other) = (shown(uses.success), shown(uses.failure), shown(uses.other));
        Self {
            conversation_count: shown(classes.success),
            api_call_count: shown(classes.failure),
            upload_count: shown(classes.other),
            shared_key_usage: SharedKeyUsage {
                total_calls: success + failure + other,
                successful_calls: success,
                failed_calls: failure,
                other_calls: other,
                keys_used: keys.members.iter().map(|key| short(*key)).collect(),
                keys_used_more: keys.more,
                last_key_used: keys.last.map(|last| short(last.key.into())),
                last_usage_at: uses.last_used,
                prompt_tokens: shown(uses.prompt_tokens),
                completion_tokens: shown(uses.completion_tokens),
            },
            error_stats: ErrorStats {
                rate_limit_hits: shown(errors.success),
                auth_failures: shown(errors.failure),
                server_errors: shown(errors.other),
            },
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SharedKeyPage {
    pub provider: String,
    /// Days begin and end in it.
    #[serde(rename = "time_zone")]
    pub time_zone: String,
    pub page: usize,
    pub page_size: usize,
    pub total: usize,
    pub pages: usize,
    pub keys: Vec<SharedKey>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SharedKey {
    #[schema(value_type = String, format = "uuid")]
    pub id: KeyId,
    /// Masked.
    pub key: String,
    /// Who shares it.
    #[schema(value_type = Option<String>, format = "uuid")]
    pub user_id: Option<UserId>,
    /// Not switched off by a person.
    pub is_active: bool,
    pub status: Status,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    pub usage_stats: UsageStats,
}

/// Counted per attempt. The last seven days are today and the six before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct UsageStats {
    pub total_usage_count: u64,
    pub usage_count_today: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used_at: Option<Timestamp>,
    /// Different users, and tokens that have none.
    pub active_users_today: u32,
    /// 0 to 1, of all attempts; 0 without any.
    pub success_rate_7d: f64,
    pub avg_daily_usage_7d: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyHours {
    pub provider: String,
    #[schema(value_type = String, format = "uuid")]
    pub id: KeyId,
    /// Those of the last 48 in which it was used, oldest first.
    pub hours: Vec<KeyHour>,
}

/// Counted per attempt.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct KeyHour {
    #[schema(value_type = String, format = DateTime)]
    pub hour_start: Timestamp,
    pub total_requests: u64,
    pub successful_requests: u64,
    pub failed_requests: u64,
    /// Different users, and tokens that have none; final 26 hours later.
    pub unique_users: u32,
    /// Milliseconds from the request to the answer's end, of successful ones.
    pub avg_response_time: Option<u64>,
}

impl KeyHour {
    pub fn new(hour_start: Timestamp, tally: &Tally, unique_users: u32) -> Self {
        let (success, failure) = (shown(tally.success), shown(tally.failure));
        let (millis, timed) = (shown(tally.prompt_tokens), shown(tally.completion_tokens));
        Self {
            hour_start,
            total_requests: success + failure + shown(tally.other),
            successful_requests: success,
            failed_requests: failure,
            unique_users,
            avg_response_time: (timed > 0).then(|| (millis + timed / 2) / timed),
        }
    }
}
