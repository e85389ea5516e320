//! An upstream key as the pool keeps it: what people decided about it.

use serde::{Deserialize, Serialize};

use super::{Health, KeyId, Secret, Timestamp, UserId, secret};

/// What people set. Automatic escalation never touches these fields: it lives in [`Health`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    #[serde(with = "secret::exposed")]
    pub secret: Secret,
    /// The upstream account; keys of one account may share its limits.
    pub username: Option<Box<str>>,
    pub note: Option<Box<str>>,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    /// Share under the `weighted` strategy, 1 to [`KeyRecord::MAX_WEIGHT`].
    pub weight: u16,
    pub enabled: bool,
    pub disabled_until: Option<Timestamp>,
    /// The user who shares it, if it is anybody's.
    pub owner: Option<UserId>,
}

impl KeyRecord {
    pub const MAX_WEIGHT: u16 = 1000;
    /// Longer than any provider's keys; bounds what an import can make us keep.
    pub const MAX_SECRET_LEN: usize = 512;
    pub const MAX_TEXT_LEN: usize = 256;

    pub fn new(secret: Secret, now: Timestamp) -> Self {
        Self {
            secret,
            username: None,
            note: None,
            created_at: now,
            expires_at: None,
            weight: 1,
            enabled: true,
            disabled_until: None,
            owner: None,
        }
    }

    pub fn id(&self, provider: &str) -> KeyId {
        KeyId::derive(provider, self.secret.expose())
    }

    /// The account whose limits this key shares. Exports write `N/A` where there is none.
    pub fn account(&self) -> Option<&str> {
        account_of(self.username.as_deref())
    }

    /// In the order that matters: nothing brings an expired key back, and a person's word stands over ours.
    pub fn status(&self, health: &Health, now: Timestamp) -> Status {
        if self.expires_at.is_some_and(|at| at <= now) {
            Status::Expired
        } else if !self.enabled || self.disabled_until.is_some_and(|at| at > now) {
            Status::Disabled
        } else if health.needs_verification || health.failed_until.is_some_and(|at| at > now) {
            Status::Failed
        } else {
            Status::Active
        }
    }
}

/// See [`KeyRecord::account`].
pub fn account_of(username: Option<&str>) -> Option<&str> {
    username.map(str::trim).filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("n/a"))
}

/// Whether a key can be picked, and why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Active,
    Disabled,
    Failed,
    Expired,
}
