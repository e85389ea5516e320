//! A client token: what a caller shows to keytide.

use serde::{Deserialize, Serialize};

use super::{Secret, Timestamp, TokenId, secret};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    #[serde(with = "secret::exposed")]
    pub secret: Secret,
    pub name: Box<str>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// Model names this token may ask for; empty means all. A trailing `*` matches any ending.
    pub allowed_models: Vec<Box<str>>,
    pub requests_per_minute: Option<u32>,
}

impl TokenRecord {
    pub const MAX_NAME_LEN: usize = 128;
    pub const MAX_SECRET_LEN: usize = 256;
    pub const MAX_ALLOWED_MODELS: usize = 256;

    pub fn id(&self, provider: &str) -> TokenId {
        TokenId::derive(provider, self.secret.expose())
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    pub fn allows_model(&self, model: &str) -> bool {
        self.allowed_models.is_empty()
            || self.allowed_models.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => model.starts_with(prefix),
                None => **pattern == *model,
            })
    }
}
