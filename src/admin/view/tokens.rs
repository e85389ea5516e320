//! Client tokens.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{keys::present, users::Amount};
use crate::model::{Timestamp, TokenId, UserId};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Token {
    #[schema(value_type = String, format = "uuid")]
    pub id: TokenId,
    /// Masked, except in the answer that creates it.
    pub token: String,
    pub name: String,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    pub expired: bool,
    /// Empty means all; a trailing `*` matches any ending.
    pub allowed_models: Vec<String>,
    /// Whose it is; their limits hold as well.
    #[schema(value_type = Option<String>, format = "uuid")]
    pub user: Option<UserId>,
    /// Null where there is no such user any more.
    #[serde(default)]
    pub user_name: Option<String>,
    pub requests_per_minute: Option<u32>,
    pub requests_per_day: Option<u64>,
    /// Prompt and completion tokens together.
    pub tokens_per_day: Option<u64>,
    /// Empty means all; networks in CIDR notation.
    pub allowed_addresses: Vec<String>,
    /// Of the day under way, in the time zone of `[limits]`.
    pub requests_today: u64,
    pub tokens_today: u64,
    pub request_count: u64,
    pub success_count: u64,
    pub failure_count: u64,
    pub other_count: u64,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub last_used: Option<Timestamp>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct TokenList {
    pub provider: String,
    pub page: usize,
    #[serde(rename = "pageSize")]
    pub page_size: usize,
    pub total: usize,
    pub pages: usize,
    pub tokens: Vec<Token>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct TokensQuery {
    /// The default provider when absent.
    pub provider: Option<String>,
    /// From 1; without page and pageSize all are listed.
    pub page: Option<usize>,
    /// 50 when only the page is named, at most 1000.
    #[param(maximum = 1000)]
    pub page_size: Option<usize>,
    /// In the name or that of the user, the beginning of the id, or a whole token; upper and lower case are the same.
    pub search: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddToken {
    /// 1 to 128 characters.
    pub name: String,
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Timestamp>,
    #[serde(default)]
    pub allowed_models: Option<Vec<String>>,
    /// The id of the user whose it is.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub user: Option<UserId>,
    /// 1 to 1,000,000.
    #[serde(default)]
    #[schema(value_type = Option<u32>)]
    pub requests_per_minute: Option<Amount>,
    /// 1 to 1,000,000,000.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub requests_per_day: Option<Amount>,
    /// 1 to 1,000,000,000,000.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    pub tokens_per_day: Option<Amount>,
    /// Addresses, and networks in CIDR notation.
    #[serde(default)]
    pub allowed_addresses: Option<Vec<String>>,
    /// An own value of 16 to 256 visible ASCII characters; a random one is made when absent.
    #[serde(default)]
    pub token: Option<String>,
}

/// Absent fields stay as they are; null clears.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EditToken {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Option<Timestamp>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub user: Option<Option<UserId>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>)]
    pub requests_per_minute: Option<Option<Amount>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub requests_per_day: Option<Option<Amount>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>)]
    pub tokens_per_day: Option<Option<Amount>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub allowed_models: Option<Option<Vec<String>>>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub allowed_addresses: Option<Option<Vec<String>>>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteTokens {
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<TokenId>,
    /// Whole tokens.
    pub tokens: Vec<String>,
}
