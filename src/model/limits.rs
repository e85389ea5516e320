//! What a token or a user may use. Whatever both allow is allowed.

use serde::{Deserialize, Serialize};

use super::Version;

/// `None` and an empty list are no limit.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub requests_per_minute: Option<u32>,
    /// Of a day in the hub's time zone.
    pub requests_per_day: Option<u64>,
    /// Prompt and completion tokens together.
    pub tokens_per_day: Option<u64>,
    /// A trailing `*` matches any ending.
    pub allowed_models: Vec<Box<str>>,
    /// Addresses and networks in CIDR notation. One that cannot be read allows nothing.
    pub allowed_addresses: Vec<Box<str>>,
}

impl Limits {
    pub const MAX_PER_MINUTE: u32 = 1_000_000;
    pub const MAX_REQUESTS_PER_DAY: u64 = 1_000_000_000;
    pub const MAX_TOKENS_PER_DAY: u64 = 1_000_000_000_000;
    pub const MAX_MODELS: usize = 256;
    pub const MAX_MODEL_LEN: usize = 256;
    pub const MAX_ADDRESSES: usize = 64;
    pub const MAX_ADDRESS_LEN: usize = 64;

    /// Whether anything of it is counted by day.
    pub fn are_daily(&self) -> bool {
        self.requests_per_day.is_some() || self.tokens_per_day.is_some()
    }

    pub fn allows_model(&self, model: &str) -> bool {
        self.allowed_models.is_empty()
            || self.allowed_models.iter().any(|pattern| match pattern.strip_suffix('*') {
                Some(prefix) => model.starts_with(prefix),
                None => **pattern == *model,
            })
    }
}

/// Each field is its own last-writer-wins register.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitVersions {
    pub requests_per_minute: Version,
    pub requests_per_day: Version,
    pub tokens_per_day: Version,
    pub allowed_models: Version,
    pub allowed_addresses: Version,
}

impl LimitVersions {
    pub fn all(version: Version) -> Self {
        Self {
            requests_per_minute: version,
            requests_per_day: version,
            tokens_per_day: version,
            allowed_models: version,
            allowed_addresses: version,
        }
    }

    pub fn each_mut(&mut self) -> [&mut Version; 5] {
        let Self { requests_per_minute, requests_per_day, tokens_per_day, allowed_models, allowed_addresses } =
            self;
        [requests_per_minute, requests_per_day, tokens_per_day, allowed_models, allowed_addresses]
    }

    /// Stamps what differs between `before` and `now`.
    pub fn stamp(&mut self, before: &Limits, now: &Limits, version: Version) {
        let stamp = |field: &mut Version, differs: bool| {
            if differs {
                *field = version;
            }
        };
        stamp(&mut self.requests_per_minute, before.requests_per_minute != now.requests_per_minute);
        stamp(&mut self.requests_per_day, before.requests_per_day != now.requests_per_day);
        stamp(&mut self.tokens_per_day, before.tokens_per_day != now.tokens_per_day);
        stamp(&mut self.allowed_models, before.allowed_models != now.allowed_models);
        stamp(&mut self.allowed_addresses, before.allowed_addresses != now.allowed_addresses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn allowed_models() {
        let all = Limits::default();
        let some = Limits { allowed_models: vec!["llama3".into(), "gpt-*".into()], ..Limits::default() };
        assert!(all.allows_model("anything") && some.allows_model("llama3") && some.allows_model("gpt-4"));
        assert!(!some.allows_model("llama3:70b") && !some.allows_model("claude"));
    }

    #[test]
    fn only_what_differs_is_stamped() {
        let mut versions = LimitVersions::all(Version(1));
        let now = Limits { tokens_per_day: Some(5), ..Limits::default() };
        versions.stamp(&Limits::default(), &now, Version(2));
        assert_eq!(versions, LimitVersions { tokens_per_day: Version(2), ..LimitVersions::all(Version(1)) });
    }
}
