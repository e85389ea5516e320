//! Users, and the limits that users and tokens have alike.

use serde::{Deserialize, Serialize};
use serde_json::Number;
use utoipa::{IntoParams, ToSchema};

use super::keys::{Order, present};
use crate::model::{Timestamp, TokenId, UserId};

/// A number as the caller wrote it: what is negative or huge is answered with the range that is allowed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Amount(pub Number);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct User {
    #[schema(value_type = String, format = "uuid")]
    pub id: UserId,
    pub name: String,
    pub note: Option<String>,
    /// The tokens of one that is not are refused.
    pub enabled: bool,
    #[schema(value_type = String, format = DateTime)]
    pub created_at: Timestamp,
    pub requests_per_minute: Option<u32>,
    pub requests_per_day: Option<u64>,
    /// Prompt and completion tokens together.
    pub tokens_per_day: Option<u64>,
    /// Empty means all; a trailing `*` matches any ending.
    pub allowed_models: Vec<String>,
    /// Empty means all; networks in CIDR notation.
    pub allowed_addresses: Vec<String>,
    /// Of the day under way, in the time zone of `[limits]`.
    pub requests_today: u64,
    pub tokens_today: u64,
    /// When that day ends.
    #[schema(value_type = String, format = DateTime)]
    pub day_ends_at: Timestamp,
    pub tokens: Vec<OwnToken>,
}

/// A token that belongs to a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OwnToken {
    pub provider: String,
    #[schema(value_type = String, format = "uuid")]
    pub id: TokenId,
    pub name: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct UserPage {
    pub page: usize,
    pub page_size: usize,
    pub total: usize,
    pub pages: usize,
    pub users: Vec<User>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum UserSort {
    #[default]
    CreatedAt,
    Name,
    RequestsToday,
    TokensToday,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
#[into_params(parameter_in = Query)]
pub struct UsersQuery {
    /// From 1.
    pub page: Option<usize>,
    /// 50 when absent, at most 1000.
    #[param(maximum = 1000)]
    pub page_size: Option<usize>,
    pub enabled: Option<bool>,
    /// In the name, or the beginning of the id; upper and lower case are the same.
    pub search: Option<String>,
    pub sort: Option<UserSort>,
    pub order: Option<Order>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddUser {
    /// 1 to 128 characters; no other user has it.
    pub name: String,
    #[serde(default)]
    pub note: Option<String>,
    /// True when absent.
    #[serde(default)]
    pub enabled: Option<bool>,
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
    #[serde(default)]
    pub allowed_models: Option<Vec<String>>,
    /// Addresses, and networks in CIDR notation.
    #[serde(default)]
    pub allowed_addresses: Option<Vec<String>>,
}

/// Absent fields stay as they are; null clears.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct EditUser {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(deserialize_with = "present", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub note: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
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
