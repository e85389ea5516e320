//! Client tokens.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::{Timestamp, TokenId};

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
    pub requests_per_minute: Option<u32>,
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
    pub tokens: Vec<Token>,
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
    /// 1 to 1,000,000.
    #[serde(default)]
    pub requests_per_minute: Option<u32>,
    /// An own value of 16 to 256 visible ASCII characters; a random one is made when absent.
    #[serde(default)]
    pub token: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DeleteTokens {
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<TokenId>,
    /// Whole tokens.
    pub tokens: Vec<String>,
}
