//! Providers through changes of configuration: pools, tokens and books live on, what is configured changes.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tracing::warn;

use crate::{
    config::{Config, ProviderConfig},
    gateway::{BadBase, Lasting, Provider, Providers, metrics::Metrics},
    guard::{Meters, Tokens, Watch},
    ledger::Ledger,
    model::{Clock, Stamps},
    pool::Pool,
    store::{Contents, ProviderContents},
};

/// As providers may say at most, see `gateway::verdict`.
const LONGEST_COOLDOWN: Duration = Duration::from_secs(31 * 24 * 3600);

/// Pools, tokens and books of every provider that was ever in force: one that the configuration leaves out for a while
/// goes on being replicated, and has to know everything when it comes back.
#[derive(Clone, Default)]
pub(super) struct Everyone(Arc<RwLock<HashMap<Box<str>, Lasting>>>);

impl Everyone {
    pub(super) fn get(&self, name: &str) -> Option<Lasting> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    pub(super) fn any(&self, is_so: impl FnMut(&Lasting) -> bool) -> bool {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().any(is_so)
    }

    fn insert(&self, name: &str, lasting: Lasting) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(name.into(), lasting);
    }
}

/// Every provider that was ever in force, and what the store holds of those that were not.
pub(super) struct Registry {
    lasting: Everyone,
    /// As last configured.
    known: HashMap<Box<str>, Arc<Provider>>,
    dormant: HashMap<Box<str>, ProviderContents>,
    common: Common,
}

/// What all providers share.
pub(super) struct Common {
    pub ledger: Arc<Ledger>,
    pub watch: Arc<Watch>,
    pub clock: Clock,
    pub cores: usize,
    pub stamps: Arc<Stamps>,
    pub meters: Arc<Meters>,
}

impl Registry {
    pub(super) fn new(contents: Contents, common: Common) -> Self {
        let (lasting, known) = (Everyone::default(), HashMap::new());
        Self { lasting, known, dormant: contents.providers, common }
    }

    pub(super) fn everyone(&self) -> Everyone {
        self.lasting.clone()
    }

    pub(super) fn cores(&self) -> usize {
        self.common.cores
    }

    /// The providers that a configuration puts in force. One that it leaves out keeps its keys and books.
    ///
    /// # Errors
    /// When a provider cannot be set up; nothing has changed then.
    pub(super) fn apply(&mut self, config: &Config) -> Result<Providers, BadBase> {
        let mut fresh = Vec::new();
        for (name, configured) in &config.providers {
            let before = self.known.get(name.as_str()).cloned();
            let lasting = match self.lasting.get(name) {
                Some(lasting) => lasting,
                None => self.awaken(name, configured),
            };
            let provider = Provider::new(
                configured.gateway.clone(),
                configured.upstream.clone(),
                lasting,
                self.common.cores,
                before.as_deref(),
            )?;
            fresh.push((Arc::new(provider), configured));
        }
        let now = self.common.clock.now();
        for (provider, configured) in &fresh {
            provider.pool.set_options(configured.pool.clone(), now);
            self.known.insert(provider.name().into(), provider.clone());
        }
        Ok(Providers::new(fresh.into_iter().map(|(provider, _)| provider), &config.server.default_provider))
    }

    fn awaken(&mut self, name: &str, configured: &ProviderConfig) -> Lasting {
        let contents = self.dormant.remove(name).unwrap_or_default();
        let now = self.common.clock.now();
        let pool = Pool::stamped(name, configured.pool.clone(), self.common.stamps.clone());
        // No cooldown is longer; one that seems so was set while the clock was ahead.
        let latest = now.saturating_add(LONGEST_COOLDOWN);
        for (id, record, mut health) in contents.keys {
            health.failed_until = health.failed_until.map(|at| at.min(latest));
            if let Err(error) = pool.insert_as(id, record, health, now) {
                // Imports refuse such keys, so this one was written by other hands.
                warn!(provider = name, key = %id.short(), "a stored key cannot be used: {error}");
            }
        }
        let tokens = Arc::new(Tokens::new(self.common.meters.clone()));
        for (_, record) in contents.tokens {
            tokens.insert(name, record);
        }
        let source = pool.clone();
        let ledger = self.common.ledger.add_provider(name, Box::new(move || source.drain_changed()));
        let Common { watch, clock, cores, .. } = &self.common;
        let (watch, clock, metrics) = (watch.clone(), clock.clone(), Arc::new(Metrics::new(*cores)));
        let lasting = Lasting { pool, tokens, ledger, metrics, watch, clock };
        self.lasting.insert(name, lasting.clone());
        lasting
    }
}
