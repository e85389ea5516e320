//! The operator's side: what the admin API and the observers are given of the other rooms.

use std::sync::Arc;

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;

use super::{StoreSink, loopback::Loopback, replication::Hubs, space::Spaces, verify, watcher::Watcher};
use crate::{
    admin::{self, ProbeReport, view},
    config::{self, Config, Loaded, Setting},
    console,
    gateway::{InForce, Live},
    guard::{Users, Watch},
    ledger::{Flusher, Ledger},
    model::{Clock, KeyId, Secret},
    observe,
    store::Store,
};

/// Both, for a reload to reach.
pub(super) struct Operator {
    admin: Arc<admin::State>,
    observe: Arc<observe::State>,
    clock: Clock,
}

pub(super) struct Parts<'a> {
    pub config: &'a Config,
    pub live: &'a Arc<ArcSwap<InForce>>,
    pub store: &'a Store,
    pub ledger: &'a Arc<Ledger>,
    pub flusher: &'a Arc<Flusher<StoreSink>>,
    pub hubs: &'a Arc<Hubs>,
    pub spaces: &'a Arc<Spaces>,
    pub clock: &'a Clock,
    pub users: &'a Arc<Users>,
    pub watch: &'a Arc<Watch>,
    pub watcher: &'a Arc<Watcher>,
    pub admin_token: &'a Secret,
    /// The core of keytide's own calls.
    pub core: usize,
    /// Shared with whatever else changes keys and tokens.
    pub edits: &'a Arc<tokio::sync::Mutex<()>>,
    /// Where keytide listens.
    pub address: std::net::SocketAddr,
}

impl Operator {
    pub(super) fn new(parts: Parts<'_>) -> Self {
        let Parts {
            config,
            live,
            store,
            ledger,
            flusher,
            hubs,
            spaces,
            clock,
            users,
            admin_token,
            core,
            edits,
            address,
            ..
        } = parts;
        let (watch, watcher) = (parts.watch, parts.watcher);
        let admin = admin::State::new(admin::Parts {
            providers: administered(config, live.load().own()),
            store: store.clone(),
            ledger: ledger.clone(),
            flush: Arc::new(Flush { flusher: flusher.clone(), hubs: hubs.clone() }),
            probe: Arc::new(Probe { live: live.clone(), core }),
            sync: hubs.clone(),
            spaces: spaces.clone(),
            clock: clock.clone(),
            users: users.clone(),
            watch: watch.clone(),
            watching: watcher.clone(),
            loopback: Arc::new(Loopback::new(address)),
            admin_token: admin_token.expose().to_owned(),
            public_stats: config.server.public_stats,
            edits: edits.clone(),
        });
        let (failing, replicating, measured) = (flusher.clone(), hubs.clone(), spaces.clone());
        let watcher = watcher.clone();
        let observe = observe::State::new(observe::Parts {
            providers: observed(live.load().own()),
            store: store.clone(),
            ledger: ledger.clone(),
            clock: clock.clone(),
            flush_failing: Box::new(move || failing.failing()),
            hubs: Box::new(move || replicating.states()),
            spaces: Box::new(move || measured.latest()),
            watched: Box::new(move || watcher.reading()),
        });
        Self { admin, observe, clock: clock.clone() }
    }

    pub(super) fn router(&self) -> axum::Router {
        let pages = console::router(admin::router(self.admin.clone()), self.clock.clone());
        admin::operator_router(self.admin.clone(), observe::router(self.observe.clone()), pages)
    }

    /// `waiting` are names of settings, or of their groups, that take effect at the next start.
    pub(super) fn show_settings(&self, loaded: &Loaded, waiting: &[&str]) {
        let settings = config::describe(loaded).into_iter();
        let waits = |name: &str| {
            waiting
                .iter()
                .any(|of| name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('.')))
        };
        let settings = settings.map(|Setting { name, value, source }| {
            let at_next_start = waits(&name);
            view::Setting { name, value, source, at_next_start }
        });
        let file = loaded.file.as_ref().map(|file| file.display().to_string());
        self.admin.set_configuration(view::Configuration { file, settings: settings.collect() });
    }

    pub(super) fn reload(&self, config: &Config, live: &Live, admin_token: &Secret) {
        self.admin.set_providers(administered(config, live));
        self.admin.set_admin_token(admin_token.expose());
        self.admin.set_public_stats(config.server.public_stats);
        self.observe.set_providers(observed(live));
    }
}

fn administered(config: &Config, live: &Live) -> admin::Providers {
    let entries = config.providers.iter().filter_map(|(name, configured)| {
        let provider = live.providers.get(Some(name))?;
        let pattern = configured.key_pattern.clone();
        Some(admin::ProviderEntry {
            name: name.as_str().into(),
            enabled: configured.enabled(),
            table_prefix: configured.table_prefix.clone(),
            base_url: configured.upstream.base_url.host().unwrap_or_default().to_owned(),
            strategy: configured.pool.strategy,
            key_pattern: pattern
                .map(|pattern| Arc::new(move |key: &str| pattern.matches(key)) as admin::KeyPattern),
            pool: provider.pool.clone(),
            tokens: provider.tokens.clone(),
        })
    });
    admin::Providers { entries: entries.collect(), default: config.server.default_provider.clone() }
}

fn observed(live: &Live) -> Vec<observe::ProviderEntry> {
    let mut entries: Vec<_> = live
        .providers
        .iter()
        .map(|provider| observe::ProviderEntry {
            name: provider.name().into(),
            enabled: provider.options.enabled,
            pool: provider.pool.clone(),
            metrics: provider.metrics.clone(),
        })
        .collect();
    entries.sort_by(|a, b| a.name.cmp(&b.name));
    entries
}

struct Flush {
    flusher: Arc<Flusher<StoreSink>>,
    hubs: Arc<Hubs>,
}

impl admin::Flush for Flush {
    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.flusher.flush())
    }

    fn prepare(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.hubs.seal())
    }

    fn seal(&self) -> BoxFuture<'_, Result<admin::Held<'_>, String>> {
        Box::pin(async {
            let held = match self.flusher.pause().await {
                Ok(held) => Box::new(held) as admin::Held<'_>,
                Err(_) if self.hubs.replicators.is_empty() => Box::new(()),
                Err(why) => return Err(why),
            };
            self.hubs.seal().await?;
            Ok(held)
        })
    }
}

struct Probe {
    live: Arc<ArcSwap<InForce>>,
    core: usize,
}

impl admin::Probe for Probe {
    fn probe(&self, provider: &str, id: KeyId) -> BoxFuture<'static, ProbeReport> {
        let (provider, core) = (self.live.load().own().providers.get(Some(provider)).cloned(), self.core);
        Box::pin(async move {
            let (ok, detail) = match provider {
                Some(provider) => verify::probe(&provider, core, id).await,
                None => (false, "the provider is no longer configured".to_owned()),
            };
            ProbeReport { ok, detail }
        })
    }
}
