//! One provider as the data plane serves it: what was configured, and the parts that live as long as the
//! process.

use std::{
    borrow::Cow,
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

/// There is one for each core: whatever changes stands behind an `Arc` that all of them share.
#[derive(Clone)]
#[repr(align(128))]
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
    pub answers: Option<Arc<AnswerCache>>,
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
        let answers = options.cache.map(|options| Arc::new(AnswerCache::new(options)));
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
    pub fn path(&self, api: Api, query: Option<&str>) -> Option<Cow<'_, PathAndQuery>> {
        match query {
            None => Some(Cow::Borrowed(&self.paths[api as usize])),
            Some(query) => self.upstream.path(&format!("{}?{query}", api.path())).ok().map(Cow::Owned),
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

    /// The same providers, with counts of their own of who holds on to them: see [`InForce`](super::InForce).
    pub(super) fn twins(&self) -> Self {
        let twins = self.iter().map(|provider| Arc::new(Provider::clone(provider)));
        Self::new(twins, self.default.as_ref().map_or("", |provider| provider.name()))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        gateway::CacheOptions,
        ledger::{Books, Ledger},
        model::Timestamp,
        pool,
    };

    #[test]
    fn twins_share_all_that_changes_and_so_do_their_successors() {
        let lasting = Lasting {
            pool: Pool::new("p", pool::Options::default()),
            tokens: Arc::default(),
            ledger: Ledger::new(Books::default(), 3).add_provider("p", Box::new(Vec::new)),
            metrics: Arc::new(Metrics::new(3)),
            watch: Arc::new(Watch::new(3, true)),
            clock: Clock::manual(Timestamp(0)),
        };
        let options = ProviderOptions { cache: Some(CacheOptions::default()), ..ProviderOptions::new("p") };
        let provider = |before: Option<&Provider>| {
            Provider::new(options.clone(), upstream::Options::default(), lasting.clone(), 3, before).unwrap()
        };
        let first = provider(None);
        let second = Arc::new(provider(Some(&first)));
        let twins = Providers::new([second.clone()], "p").twins();
        let twin = twins.get(None).unwrap();
        assert!(!Arc::ptr_eq(&second, twin) && Arc::ptr_eq(twin, twins.get(Some("p")).unwrap()));
        for other in [&first, twin] {
            assert!(Arc::ptr_eq(&second.pool, &other.pool) && Arc::ptr_eq(&second.tokens, &other.tokens));
            assert!(
                Arc::ptr_eq(&second.ledger, &other.ledger) && Arc::ptr_eq(&second.metrics, &other.metrics)
            );
            assert!(Arc::ptr_eq(&second.watch, &other.watch) && Arc::ptr_eq(&second.lists, &other.lists));
            assert!(Arc::ptr_eq(&second.clients, &other.clients));
        }
        // One configuration's answers are not the next one's.
        let answers = second.answers.as_ref().unwrap();
        assert!(Arc::ptr_eq(answers, twin.answers.as_ref().unwrap()));
        assert!(!Arc::ptr_eq(answers, first.answers.as_ref().unwrap()));
    }
}
