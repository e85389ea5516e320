//! What an operator chooses for one provider's pool.

use crate::model::Policy;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub strategy: Strategy,
    pub cooldown_scope: CooldownScope,
    /// Requests that one key may have in flight.
    pub max_in_flight: Option<u32>,
    /// Requests that one key may begin in a minute.
    pub requests_per_minute: Option<u32>,
    pub policy: Policy,
    pub scheme: Scheme,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            strategy: Strategy::RoundRobin,
            cooldown_scope: CooldownScope::Key,
            max_in_flight: None,
            requests_per_minute: None,
            policy: Policy::default(),
            scheme: Scheme::Bearer,
        }
    }
}

/// Which of the keys that can be picked is picked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Every key once per round.
    #[default]
    RoundRobin,
    /// Of two keys drawn at random the one with fewer requests in flight.
    LeastBusy,
    /// In proportion to the keys' weights.
    Weighted,
    Random,
    /// A caller keeps to few keys, so that the provider's prompt caches stay warm.
    Affinity,
}

/// What a provider limits: each key, or all keys of an account together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CooldownScope {
    #[default]
    Key,
    Account,
}

/// How a key is written into its header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Scheme {
    /// `Bearer <key>`, as `Authorization` wants it.
    #[default]
    Bearer,
    /// The key alone, as headers like `x-api-key` want it.
    Bare,
}

impl Scheme {
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Bearer => "Bearer ",
            Self::Bare => "",
        }
    }
}
