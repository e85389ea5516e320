//! The totals in memory: what every reader of statistics sees.

use std::collections::{BTreeMap, HashMap};

use crate::model::{Delta, Hour, KeyId, KeyUsage, ProviderDelta, Timestamp, TokenId, Usage};

/// Hourly rows older than this are dropped; the totals keep what they counted.
pub const HOURS_KEPT: u32 = 30 * 24;

/// The totals of every provider.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub providers: HashMap<Box<str>, ProviderBooks>,
}

/// The totals of one provider.
#[derive(Clone, Debug, Default)]
pub struct ProviderBooks {
    /// Per client request: the sum over all models.
    pub total: Usage,
    /// Per attempt. Outlives its key, so that adding a key again continues its counts.
    pub keys: HashMap<KeyId, KeyUsage>,
    pub models: HashMap<Box<str>, Usage>,
    pub hours: BTreeMap<(Hour, Box<str>), Usage>,
    pub tokens: HashMap<TokenId, Usage>,
}

impl Books {
    pub fn add(&mut self, delta: &Delta) {
        for (name, delta) in &delta.providers {
            self.providers.entry(name.clone()).or_default().add(delta);
        }
    }

    /// Drops hourly rows that are past their retention.
    pub fn forget_old_hours(&mut self, now: Timestamp) {
        let oldest = Hour(Hour::of(now).0.saturating_sub(HOURS_KEPT));
        for provider in self.providers.values_mut() {
            while let Some(first) = provider.hours.first_entry() {
                if first.key().0 >= oldest {
                    break;
                }
                first.remove();
            }
        }
    }
}

impl ProviderBooks {
    pub fn add(&mut self, delta: &ProviderDelta) {
        for (id, usage) in &delta.keys {
            self.keys.entry(*id).or_default().add(usage);
        }
        for ((hour, model), usage) in &delta.hours {
            self.total.add(usage);
            self.models.entry(model.clone()).or_default().add(usage);
            self.hours.entry((*hour, model.clone())).or_default().add(usage);
        }
        for (id, usage) in &delta.tokens {
            self.tokens.entry(*id).or_default().add(usage);
        }
    }
}
