//! The one place that knows every room: opens the store, fills the pools, starts the data plane and the tasks
//! behind it, and ends them in the order that loses nothing.
//!
//! Shutdown: no new connections; open requests end, or are cut after `shutdown_timeout` and counted as such;
//! the ledger's last delta is written; what the hubs have not heard is sealed and, if that is quick, sent; the store
//! folds its journal and closes.

mod admin_token;
mod loopback;
mod operator;
mod providers;
mod replication;
mod signals;
mod space;
mod used;
mod verify;
mod watcher;

use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context, anyhow};
use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    sync::{oneshot, watch},
    task::JoinHandle,
};
use tracing::{info, warn};

pub use admin_token::{AdminToken, FILE_NAME as ADMIN_TOKEN_FILE, generate as new_admin_token};
pub use signals::{Reload, run_demo, run_serve};

use crate::{
    config::{Config, Loaded},
    gateway::{self, Gateway, InForce, Live, serve::Workers},
    guard::{Users, Watch},
    ledger::{Books, Flusher, Ledger, ProviderBooks, Sink},
    model::{Clock, Delta},
    pool::Pool,
    store::{self, Durability, Store},
};
use operator::Operator;
use providers::Registry;
use replication::{Hubs, Memory};
use space::Spaces;
use watcher::Watcher;

/// A running keytide.
pub struct App {
    address: SocketAddr,
    admin_token: AdminToken,
    shared: Arc<Shared>,
    stop: oneshot::Sender<()>,
    accepting: JoinHandle<Workers>,
    flushing: JoinHandle<()>,
    background: Vec<JoinHandle<()>>,
}

/// What the background tasks and a reload work on.
pub(crate) struct Shared {
    /// As at the start: parts of it hold until the next one.
    started: Config,
    config: Mutex<Config>,
    registry: tokio::sync::Mutex<Registry>,
    operator: Operator,
    gateway: Arc<Gateway>,
    ledger: Arc<Ledger>,
    flusher: Arc<Flusher<StoreSink>>,
    hubs: Arc<Hubs>,
    store: Store,
    watcher: Arc<Watcher>,
    clock: Clock,
}

/// The store as the ledger's sink.
pub(crate) struct StoreSink {
    store: Store,
    /// Told of what other instances should know soon.
    changes: watch::Sender<()>,
    /// When it was last told of cooldowns.
    told: Mutex<Option<Instant>>,
}

/// While keys come and go all the time, other instances hear of it this often, or with the next round.
const COOLDOWNS_EVERY: Duration = Duration::from_secs(5);

impl StoreSink {
    fn tell(&self) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|at| at.elapsed() >= COOLDOWNS_EVERY) {
            *told = Some(Instant::now());
            self.changes.send_replace(());
        }
    }
}

impl Sink for StoreSink {
    async fn append(&self, delta: Delta) -> Result<(), (Delta, String)> {
        let of_state = delta.providers.values().any(|of| !of.health.is_empty());
        let delta = Arc::new(delta);
        match self.store.append(delta.clone()).await {
            Ok(()) => {
                if of_state {
                    self.tell();
                }
                Ok(())
            }
            Err(error) => Err((Arc::unwrap_or_clone(delta), error.to_string())),
        }
    }
}

impl App {
    /// Starts everything on the current runtime, which becomes the operator's side.
    ///
    /// # Errors
    /// One sentence that says what to do.
    pub async fn start(config: Config, clock: Clock) -> anyhow::Result<Self> {
        let address = config.server.gateway.listen;
        let listener = gateway::serve::bind(address).map_err(|why| anyhow!(why))?;
        Self::start_on(config, clock, listener).await
    }

    /// As [`App::start`], on a socket that is already open.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn start_on(config: Config, clock: Clock, listener: TcpListener) -> anyhow::Result<Self> {
        let (options, of_store) = (config.store.clone(), clock.clone());
        let (store, contents) = tokio::task::spawn_blocking(move || Store::open(&options, of_store))
            .await
            .context("opening the store failed")??;
        warn_of_open_folder(&config.store.dir);
        let admin_token = AdminToken::load(&config)?;
        let workers = match config.server.gateway.workers {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            count => count,
        };
        // One more than the data plane has, for keytide's own calls.
        let cores = workers + 1;
        let zone = replication::zone(&config, &store).await?;
        let ledger = Arc::new(Ledger::new(books_of(&contents), cores));
        ledger.keep_logs(config.usage_log);
        ledger.set_zone(zone.clone());
        let meters = Arc::new(used::today(&store, &zone, clock.now()).await?);
        let users = Arc::new(Users::new(zone, meters.clone()));
        contents.users.iter().for_each(|(id, record)| users.insert(*id, record.clone()));
        let strict = (config.store.durability == Durability::Strict).then(|| ledger.watch_commits());
        let watch = Arc::new(Watch::new(cores, config.monitor.watch.enabled));
        let watcher = Watcher::start(&config.monitor, watch.clone(), store.clone(), clock.clone()).await?;
        let mut registry = Registry::new(
            contents,
            providers::Common {
                ledger: ledger.clone(),
                watch: watch.clone(),
                clock: clock.clone(),
                cores,
                stamps: store.stamps().clone(),
                meters: meters.clone(),
            },
        );
        let live = Live::new(registry.apply(&config)?, config.server.gateway.clone());
        let live = Arc::new(ArcSwap::from_pointee(InForce::new(live, cores)));
        let changes = watch::Sender::new(());
        let sink = StoreSink { store: store.clone(), changes: changes.clone(), told: Mutex::default() };
        let flusher = Arc::new(Flusher::new(ledger.clone(), sink, config.store.flush_interval));
        let edits = Arc::<tokio::sync::Mutex<()>>::default();
        let memory = Memory {
            providers: registry.everyone(),
            ledger: ledger.clone(),
            flusher: flusher.clone(),
            edits: edits.clone(),
            clock: clock.clone(),
            users: users.clone(),
            meters: meters.clone(),
            heard: std::sync::Mutex::default(),
        };
        // Before anything is counted: what the last process left is told as its own.
        let hubs = Arc::new(replication::start(&config, &store, memory, changes).await?);
        let spaces = Arc::new(Spaces::new(&config, &store, &hubs, &ledger, &clock));
        let operator = Operator::new(operator::Parts {
            config: &config,
            live: &live,
            store: &store,
            ledger: &ledger,
            flusher: &flusher,
            hubs: &hubs,
            spaces: &spaces,
            clock: &clock,
            users: &users,
            watch: &watch,
            watcher: &watcher,
            admin_token: &admin_token.secret,
            core: workers,
            edits: &edits,
            address: listener.local_addr()?,
        });
        let gateway = Arc::new(Gateway::new(
            live,
            users,
            operator.router(),
            tokio::runtime::Handle::current(),
            strict,
            clock.clone(),
        ));
        let running = Workers::start(&gateway, &config.server.gateway, workers)
            .context("cannot start the data plane's threads")?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            started: config.clone(),
            config: Mutex::new(config),
            registry: tokio::sync::Mutex::new(registry),
            operator,
            gateway,
            ledger,
            flusher,
            hubs,
            store,
            watcher,
            clock,
        });
        let (stop, stopped) = oneshot::channel();
        let accepting = tokio::spawn(async move {
            tokio::select! {
                () = running.accept(&listener) => {}
                _ = stopped => {}
            }
            running
        });
        let flushing = tokio::spawn({
            let flusher = shared.flusher.clone();
            async move { flusher.run().await }
        });
        let background = vec![
            tokio::spawn(verify::run(shared.clone(), workers)),
            tokio::spawn(spaces.clone().watch()),
            tokio::spawn(shared.watcher.clone().run()),
        ];
        info!(%address, workers, "keytide is ready");
        Ok(Self { address, admin_token, shared, stop, accepting, flushing, background })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn admin_token(&self) -> &AdminToken {
        &self.admin_token
    }

    /// Shows the operator what was configured, and where.
    pub fn show_settings(&self, loaded: &Loaded) {
        let waiting = self.shared.started.restart_needed(&loaded.config);
        self.shared.operator.show_settings(loaded, &waiting);
    }

    /// The books and, through them, everything counted so far.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.shared.ledger
    }

    /// The keys of a provider that is in force.
    pub fn pool(&self, provider: &str) -> Option<Arc<Pool>> {
        self.shared.gateway.live().providers.get(Some(provider)).map(|provider| provider.pool.clone())
    }

    /// Puts a new configuration in force, as far as that goes without a restart.
    ///
    /// # Errors
    /// One sentence; the old configuration stays in force.
    pub async fn reload(&self, loaded: &Loaded) -> anyhow::Result<()> {
        let mut registry = self.shared.registry.lock().await;
        let started = &self.shared.started;
        let mut config = loaded.config.clone();
        for name in started.restart_needed(&config) {
            warn!("{name} has changed: the change takes effect at the next start");
        }
        // The data folder in use is where the admin token is.
        config.store = started.store.clone();
        let admin_token = AdminToken::load(&config)?;
        let live = Live::new(registry.apply(&config)?, config.server.gateway.clone());
        self.shared.operator.reload(&config, &live, &admin_token.secret);
        let live = InForce::new(live, registry.cores());
        self.show_settings(loaded);
        self.shared.ledger.keep_logs(config.usage_log);
        self.shared.hubs.keep_logs(config.usage_log);
        self.shared.gateway.replace(live);
        self.shared.watcher.reload(&config.monitor);
        *self.shared.config.lock().unwrap_or_else(PoisonError::into_inner) = config;
        info!("the configuration is reloaded");
        self.shared.hubs.remind();
        Ok(())
    }

    fn config(&self) -> Config {
        self.shared.config.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Stops in order. What had been answered is in the books when this returns.
    ///
    /// # Errors
    /// When the store could not take the last of it.
    pub async fn stop(self) -> anyhow::Result<()> {
        let patience = self.config().server.gateway.shutdown_timeout;
        let _either_way = self.stop.send(());
        let workers = self.accepting.await.context("the acceptor failed")?;
        tokio::task::spawn_blocking(move || workers.stop(patience)).await.context("the data plane failed")?;
        for task in self.background {
            task.abort();
            let _cut_short = task.await;
        }
        self.shared.watcher.finish().await;
        self.shared.flusher.stop();
        self.flushing.await.context("the flusher failed")?;
        let lost = self.shared.flusher.failing();
        self.shared.hubs.stop().await;
        self.shared.store.clone().close().await?;
        if lost {
            return Err(anyhow!("the store did not take the last statistics, see the log"));
        }
        info!("keytide has stopped");
        Ok(())
    }
}

/// keytide makes its folder for its owner alone; one that was there is not ours to change.
fn warn_of_open_folder(dir: &Path) {
    if std::fs::metadata(dir).is_ok_and(|found| found.permissions().mode() & 0o077 != 0) {
        warn!("the data folder {0} is open to others: `chmod 700 {0}` closes it", dir.display());
    }
}

fn books_of(contents: &store::Contents) -> Books {
    let providers = contents
        .providers
        .iter()
        .map(|(name, provider)| {
            let books = ProviderBooks {
                total: provider.total,
                keys: provider.key_usage.clone(),
                models: provider.models.clone(),
                hours: provider.hours.clone().into_iter().collect(),
                tokens: provider.token_usage.clone(),
            };
            (name.clone(), books)
        })
        .collect();
    Books { providers }
}
