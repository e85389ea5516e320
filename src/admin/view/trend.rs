//! What was counted, over time.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::ModelStats;
use crate::model::{Timestamp, Usage};

/// Counted per client request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Trend {
    pub provider: String,
    /// Days begin and end in it.
    pub time_zone: String,
    /// The last 24, oldest first.
    pub hours: Vec<TrendSpan>,
    /// The last 30, oldest first; none where a full disk has made hours go after a week.
    pub days: Vec<TrendSpan>,
    /// The 50 most used of the last 24 hours.
    pub recent_models: Vec<ModelStats>,
    #[schema(value_type = String, format = DateTime)]
    pub timestamp: Timestamp,
}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TrendSpan {
    #[schema(value_type = String, format = DateTime)]
    pub start: Timestamp,
    pub requests: u64,
    pub success: u64,
    pub failure: u64,
    pub other: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl TrendSpan {
    pub fn new(start: Timestamp, usage: &Usage) -> Self {
        Self {
            start,
            requests: usage.counts.total(),
            success: usage.counts.success,
            failure: usage.counts.failure,
            other: usage.counts.other,
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
        }
    }
}
