//! What one provider's pool is told.

use crate::model::Policy;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub strategy: Strategy,
    pub cooldown_scope: CooldownScope,
    /// Requests that one key may have open at a time; `None` for no limit.
    pub max_in_flight: Option<u32>,
    /// Requests that one key may start per minute; `None` for no limit.
    pub requests_per_minute: Option<u32>,
    pub policy: Policy,
    /// What stands before the key in the header that carries it: `"Bearer "`, or nothing.
    pub credential_prefix: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: Strategy::default(),
            cooldown_scope: CooldownScope::default(),
            max_in_flight: None,
            requests_per_minute: None,
            policy: Policy::default(),
            credential_prefix: "Bearer ".to_owned(),
        }
    }
}

/// Which of the keys that can be picked is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in its turn.
    #[default]
    RoundRobin,
    /// Of two drawn at random, the one with fewer requests open.
    LeastBusy,
    /// In proportion to the keys' weights.
    Weighted,
    Random,
    /// A caller stays with few keys, so that the provider's prompt caches stay warm.
    Affinity,
}

/// What a rate limit or a used-up quota cools.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CooldownScope {
    /// The key that met it.
    #[default]
    Key,
    /// Every key of the same upstream account.
    Account,
}
