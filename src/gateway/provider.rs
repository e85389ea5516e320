//! One provider as the data plane serves it: what was configured, and the parts that live as long as the
//! process.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
};

use http::uri::PathAndQuery;
use tracing::error;

use super::{cache::AnswerCache, metrics::Metrics, models::Lists, options::ProviderOptions, route::Api};
use crate::{
    guard::{Tokens, Watch},
    ledger::ProviderLedger,
    model::Clock,
    pool::Pool,
    upstream::{self, client::Client},
};

/// What outlives a change of configuration.
#[derive(Clone)]
pub struct Lasting {
    pub pool: Arc<Pool>,
    pub tokens: Arc<Tokens>,
    pub ledger: Arc<ProviderLedger>,
    pub metrics: Arc<Metrics>,
    /// The same of all providers.
    pub watch: Arc<Watch>,
    pub clock: Clock,
}

pub struct Provider {
    pub options: ProviderOptions,
    pub upstream: upstream::Options,
    pub pool: Arc<Pool>,
    pub tokens: Arc<Tokens>,
    pub ledger: Arc<ProviderLedger>,
    pub metrics: Arc<Metrics>,
    pub watch: Arc<Watch>,
    pub lists: Arc<Lists>,
    pub clock: Clock,
    pub answers: Option<AnswerCache>,
    clients: Arc<Clients>,
    /// By the places of [`Api::ALL`].
    paths: [PathAndQuery; Api::ALL.len()],
}

/// One connection pool per core, made on the core that uses it.
pub struct Clients(Box<[OnceLock<Option<Client>>]>);

/// The provider's address cannot be combined with a path.
#[derive(Debug, thiserror::Error)]
#[error("base_url of provider \"{0}\" cannot be used with a path behind it")]
pub struct BadBase(String);

impl Provider {
    /// `before` is the same provider under the previous configuration: its connections are kept when nothing
    /// about them changed. `cores` includes the one that does keytide's own calls.
    ///
    /// # Errors
    /// When `base_url` does not make valid addresses.
    pub fn new(
        options: ProviderOptions,
        upstream: upstream::Options,
        lasting: Lasting,
        cores: usize,
        before: Option<&Self>,
    ) -> Result<Self, BadBase> {
        let mut paths = Api::ALL.map(|_| PathAndQuery::from_static("/"));
        for api in Api::ALL {
            paths[api as usize] = upstream.path(api.path()).map_err(|_| BadBase(options.name.clone()))?;
        }
        // What was fetched belongs to the address it came from.
        let (clients, lists) = match before {
            Some(before) if before.upstream == upstream => (before.clients.clone(), before.lists.clone()),
            _ => {
                let clients = (0..cores).map(|_| OnceLock::new()).collect();
                (Arc::new(Clients(clients)), Arc::default())
            }
        };
        let answers = options.cache.map(AnswerCache::new);
        let Lasting { pool, tokens, ledger, metrics, watch, clock } = lasting;
        Ok(Self {
            options,
            upstream,
            pool,
            tokens,
            ledger,
            metrics,
            watch,
            lists,
            clock,
            answers,
            clients,
            paths,
        })
    }

    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// The connections of `core`. `None` when TLS cannot be set up, which was logged.
    pub fn client(&self, core: usize) -> Option<&Client> {
        self.clients.0[core % self.clients.0.len()]
            .get_or_init(|| match Client::new(&self.upstream) {
                Ok(client) => Some(client),
                Err(why) => {
                    error!(provider = self.name(), "{why}");
                    None
                }
            })
            .as_ref()
    }

    /// What is asked for at the provider's host.
    pub fn path(&self, api: Api, query: Option<&str>) -> Option<PathAndQuery> {
        match query {
            None => Some(self.paths[api as usize].clone()),
            Some(query) => self.upstream.path(&format!("{}?{query}", api.path())).ok(),
        }
    }

    /// The provider's name for an alias.
    pub fn resolve(&self, model: &str) -> Option<&str> {
        self.options.aliases.get(model).map(String::as_str)
    }
}

/// The providers under the configuration in force.
#[derive(Default)]
pub struct Providers {
    by_name: HashMap<Box<str>, Arc<Provider>>,
    default: Option<Arc<Provider>>,
}

impl Providers {
    pub fn new(providers: impl IntoIterator<Item = Arc<Provider>>, default: &str) -> Self {
        let by_name: HashMap<Box<str>, _> =
            providers.into_iter().map(|provider| (provider.name().into(), provider)).collect();
        let default = by_name.get(default).cloned();
        Self { by_name, default }
    }

    /// The provider of that name, or the default provider.
    pub fn get(&self, name: Option<&str>) -> Option<&Arc<Provider>> {
        match name {
            Some(name) => self.by_name.get(name),
            None => self.default.as_ref(),
        }
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Provider>> {
        self.by_name.values()
    }
}
