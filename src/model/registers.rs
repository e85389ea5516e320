//! The versions of what people set: each field of a key or a token is its own last-writer-wins register.

use serde::{Deserialize, Serialize};

use super::Version;

/// Of a [`KeyRecord`](super::KeyRecord).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyVersions {
    /// When the key was added: only a later deletion removes it, and no field is older.
    pub added: Version,
    pub username: Version,
    pub note: Version,
    pub expires_at: Version,
    pub weight: Version,
    pub enabled: Version,
    pub disabled_until: Version,
}

impl KeyVersions {
    /// Of a key that was added whole.
    pub fn all(version: Version) -> Self {
        Self {
            added: version,
            username: version,
            note: version,
            expires_at: version,
            weight: version,
            enabled: version,
            disabled_until: version,
        }
    }

    pub fn latest(&self) -> Version {
        let Self { added, username, note, expires_at, weight, enabled, disabled_until } = *self;
        added.max(username).max(note).max(expires_at).max(weight).max(enabled).max(disabled_until)
    }
}

/// Of a [`TokenRecord`](super::TokenRecord).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenVersions {
    pub added: Version,
    pub name: Version,
    pub expires_at: Version,
    pub allowed_models: Version,
    pub requests_per_minute: Version,
}

impl TokenVersions {
    pub fn all(version: Version) -> Self {
        Self {
            added: version,
            name: version,
            expires_at: version,
            allowed_models: version,
            requests_per_minute: version,
        }
    }

    pub fn latest(&self) -> Version {
        let Self { added, name, expires_at, allowed_models, requests_per_minute } = *self;
        added.max(name).max(expires_at).max(allowed_models).max(requests_per_minute)
    }
}
