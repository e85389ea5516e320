//! The versions of what people set: each field of a key, a token or a user is its own last-writer-wins register.

use serde::{Deserialize, Serialize};

use super::{LimitVersions, Version};

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
    pub owner: Version,
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
            owner: version,
        }
    }

    pub fn each_mut(&mut self) -> [&mut Version; 8] {
        let Self { added, username, note, expires_at, weight, enabled, disabled_until, owner } = self;
        [added, username, note, expires_at, weight, enabled, disabled_until, owner]
    }

    pub fn each(mut self) -> [Version; 8] {
        self.each_mut().map(|version| *version)
    }

    pub fn latest(&self) -> Version {
        self.each().into_iter().fold(self.added, Version::max)
    }
}

/// Of a [`TokenRecord`](super::TokenRecord).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenVersions {
    pub added: Version,
    pub name: Version,
    pub expires_at: Version,
    pub user: Version,
    pub limits: LimitVersions,
}

impl TokenVersions {
    pub fn all(version: Version) -> Self {
        let limits = LimitVersions::all(version);
        Self { added: version, name: version, expires_at: version, user: version, limits }
    }

    pub fn each_mut(&mut self) -> [&mut Version; 9] {
        let Self { added, name, expires_at, user, limits } = self;
        let [minute, requests, tokens, models, addresses] = limits.each_mut();
        [added, name, expires_at, user, minute, requests, tokens, models, addresses]
    }

    pub fn each(mut self) -> [Version; 9] {
        self.each_mut().map(|version| *version)
    }

    pub fn latest(&self) -> Version {
        self.each().into_iter().fold(self.added, Version::max)
    }
}

/// Of a [`UserRecord`](super::UserRecord).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserVersions {
    pub added: Version,
    pub name: Version,
    pub note: Version,
    pub enabled: Version,
    pub limits: LimitVersions,
}

impl UserVersions {
    pub fn all(version: Version) -> Self {
        let limits = LimitVersions::all(version);
        Self { added: version, name: version, note: version, enabled: version, limits }
    }

    pub fn each_mut(&mut self) -> [&mut Version; 9] {
        let Self { added, name, note, enabled, limits } = self;
        let [minute, requests, tokens, models, addresses] = limits.each_mut();
        [added, name, note, enabled, minute, requests, tokens, models, addresses]
    }

    pub fn each(mut self) -> [Version; 9] {
        self.each_mut().map(|version| *version)
    }

    pub fn latest(&self) -> Version {
        self.each().into_iter().fold(self.added, Version::max)
    }
}
