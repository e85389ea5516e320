//! Providers through changes of configuration: pools, tokens and books live on, what is configured changes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tracing::warn;

use crate::{
    config::{Config, ProviderConfig},
    gateway::{BadBase, Lasting, Provider, Providers},
    guard::Tokens,
    ledger::Ledger,
    model::{Clock, Stamps},
    pool::Pool,
    store::{Contents, ProviderContents},
};

/// As providers may say at most, see `gateway::verdict`.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(31 * 24 * 3600);

/// Every provider that was ever in force, and what the store holds of those that were not.
pub(super) struct Registry {
    lasting: HashMap<Box<str>, Lasting>,
    /// As last configured.
    known: HashMap<Box<str>, Arc<Provider>>,
    dormant: HashMap<Box<str>, ProviderContents>,
    ledger: Arc<Ledger>,
    clock: Clock,
    cores: usize,
    stamps: Arc<Stamps>,
}

impl Registry {
    pub(super) fn new(
        contents: Contents,
        ledger: Arc<Ledger>,
        clock: Clock,
        cores: usize,
        stamps: Arc<Stamps>,
    ) -> Self {
        Self {
            lasting: HashMap::new(),
            known: HashMap::new(),
            dormant: contents.providers,
            ledger,
            clock,
            cores,
            stamps,
        }
    }

    /// The providers that a configuration puts in force. One that it leaves out keeps its keys and books.
    ///
    /// # Errors
    /// When a provider cannot be set up; nothing has changed then.
    pub(super) fn apply(&mut self, config: &Config) -> Result<Providers, BadBase> {
        let mut fresh = Vec::new();
        for (name, configured) in &config.providers {
            let before = self.known.get(name.as_str()).cloned();
            let lasting = match self.lasting.get(name.as_str()) {
                Some(lasting) => lasting.clone(),
                None => self.awaken(name, configured),
            };
            let provider = Provider::new(
                configured.gateway.clone(),
                configured.upstream.clone(),
                lasting,
                self.cores,
                before.as_deref(),
            )?;
            fresh.push((Arc::new(provider), configured));
        }
        let now = self.clock.now();
        for (provider, configured) in &fresh {
            provider.pool.set_options(configured.pool.clone(), now);
            self.known.insert(provider.name().into(), provider.clone());
        }
        Ok(Providers::new(fresh.into_iter().map(|(provider, _)| provider), &config.server.default_provider))
    }

    fn awaken(&mut self, name: &str, configured: &ProviderConfig) -> Lasting {
        let contents = self.dormant.remove(name).unwrap_or_default();
        let now = self.clock.now();
        let pool = Pool::stamped(name, configured.pool.clone(), self.stamps.clone());
        // No cooldown is longer; one that seems so was set while the clock was ahead.
        let latest = now.saturating_add(LONGEST_COOLDOWN);
        for (id, record, mut health) in contents.keys {
            health.failed_until = health.failed_until.map(|at| at.min(latest));
            if let Err(error) = pool.insert_as(id, record, health, now) {
                // Imports refuse such keys, so this one was written by other hands.
                warn!(provider = name, key = %id.short(), "a stored key cannot be used: {error}");
            }
        }
        let tokens = Arc::new(Tokens::default());
        for (_, record) in contents.tokens {
            tokens.insert(name, record);
        }
        let source = pool.clone();
        let ledger = self.ledger.add_provider(name, Box::new(move || source.drain_changed()));
        let lasting = Lasting { pool, tokens, ledger, metrics: Arc::default(), clock: self.clock.clone() };
        self.lasting.insert(name.into(), lasting.clone());
        lasting
    }
}
