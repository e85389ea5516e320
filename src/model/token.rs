//! A client token: what callers send to keytide.

use serde::{Deserialize, Serialize};

use super::{Limits, Secret, Timestamp, TokenId, UserId, secret};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    #[serde(with = "secret::exposed")]
    pub secret: Secret,
    pub name: Box<str>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// Whose it is, if anybody's: their limits hold as well.
    pub user: Option<UserId>,
    pub limits: Limits,
}

impl TokenRecord {
    pub const MAX_NAME_LEN: usize = 128;
    pub const MAX_SECRET_LEN: usize = 256;

    pub fn id(&self, provider: &str) -> TokenId {
        TokenId::derive(provider, self.secret.expose())
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
