//! Replication as the rest of keytide sees it: the replicators of all hubs, and the memory that they keep up.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::Context;
use futures_util::future::{BoxFuture, join_all};
use tokio::sync::{Mutex, OwnedMutexGuard, watch};
use tracing::{info, warn};

use super::{StoreSink, providers::Everyone, used::used};
use crate::{
    admin::{self, Refusal},
    config::{Config, DEFAULT_HUB},
    guard::{Meters, Users},
    ledger::{Flusher, Ledger},
    model::{Clock, CounterId, Day, SpanId, SpanKind, Tally, Zone},
    pool::InsertError,
    replica::{
        protocol::{self, Bounds, Effect, Hub, StreamOf},
        replicator::{self, Mirror, Parts, Replicator},
        route::{self, Route},
        status::{HubError, HubStatus},
    },
    store::{Store, shelf::CORE},
};

/// How long a shutdown waits for the hub.
const LAST_PUSH: Duration = Duration::from_secs(5);

/// One replicator for each hub; none when nothing replicates.
pub(super) struct Hubs {
    pub(super) replicators: Vec<Replicator>,
    pub(super) changes: watch::Sender<()>,
    /// Whether a row is kept of each request.
    logs: Arc<AtomicBool>,
}

impl Hubs {
    /// Those of that name, or all.
    fn named(&self, name: Option<&str>) -> Result<Vec<&Replicator>, Refusal> {
        if self.replicators.is_empty() {
            return Err(Refusal::Off);
        }
        let found: Vec<_> =
            self.replicators.iter().filter(|hub| name.is_none_or(|name| hub.name() == name)).collect();
        if found.is_empty() {
            return Err(Refusal::UnknownHub(
                self.replicators.iter().map(|hub| hub.name().to_owned()).collect(),
            ));
        }
        Ok(found)
    }

    /// Seals what is open, so that a copy of the file holds nothing that two could claim.
    pub(super) async fn seal(&self) -> Result<(), String> {
        for hub in &self.replicators {
            hub.seal().await?;
        }
        Ok(())
    }

    /// For a reload of the configuration: whether a row is kept of each request.
    pub(super) fn keep_logs(&self, on: bool) {
        self.logs.store(on, Ordering::Relaxed);
    }

    /// As of the last rounds.
    pub(super) fn states(&self) -> Vec<HubStatus> {
        self.replicators.iter().map(Replicator::status).collect()
    }

    /// Says again what keeps hubs from being replicated with, for somebody who has just changed something.
    pub(super) fn remind(&self) {
        for HubStatus { name, last_error, .. } in self.states() {
            if let Some(HubError { message, advice, .. }) = last_error {
                warn!(hub = name, "does not replicate: {message}; {advice}");
            }
        }
    }

    pub(super) async fn stop(&self) {
        join_all(self.replicators.iter().map(|hub| hub.stop(LAST_PUSH))).await;
    }
}

impl admin::Replication for Hubs {
    fn status(&self) -> BoxFuture<'_, Vec<HubStatus>> {
        Box::pin(async {
            join_all(self.replicators.iter().map(Replicator::list)).await;
            self.states()
        })
    }

    fn look(&self) {
        self.replicators.iter().for_each(Replicator::look);
    }

    fn changed(&self) {
        self.changes.send_replace(());
    }

    fn now(&self, hub: Option<String>) -> BoxFuture<'_, Result<Vec<HubStatus>, Refusal>> {
        Box::pin(async move {
            let hubs = self.named(hub.as_deref())?;
            join_all(hubs.iter().map(|hub| hub.now())).await;
            Ok(hubs.into_iter().map(Replicator::status).collect())
        })
    }

    fn adopt(&self, hub: Option<String>) -> BoxFuture<'_, Result<Vec<String>, Refusal>> {
        Box::pin(async move {
            match self.named(hub.as_deref())?.as_slice() {
                [hub] => hub.adopt().await.map_err(Refusal::Failed),
                several => {
                    let names: Vec<_> = several.iter().map(|hub| hub.name()).collect();
                    Err(Refusal::Failed(format!(
                        "there are several hubs ({}): name the one that is meant",
                        names.join(", ")
                    )))
                }
            }
        })
    }
}

/// By how much meters are ahead of what the store shows of the same days.
#[derive(Default)]
pub(super) struct Heard {
    ahead: HashMap<SpanId, Tally>,
    /// The day on which it was looked through.
    last: Option<Day>,
}

/// What replication changes in memory, when the store has it already.
pub(super) struct Memory {
    pub(super) providers: Everyone,
    pub(super) ledger: Arc<Ledger>,
    pub(super) flusher: Arc<Flusher<StoreSink>>,
    pub(super) edits: Arc<Mutex<()>>,
    pub(super) clock: Clock,
    pub(super) users: Arc<Users>,
    pub(super) meters: Arc<Meters>,
    pub(super) heard: std::sync::Mutex<Heard>,
}

impl Memory {
    /// What others have counted on a day near this one is used of the same limits, as far as it was not heard of before.
    fn count(&self, id: &SpanId, from: &Tally, to: &Tally) {
        match id.kind {
            SpanKind::TokenDay => self.meter(id, &to.minus(from), None),
            SpanKind::KeyDay
            | SpanKind::KeyHour
            | SpanKind::KeyTotal
            | SpanKind::UserClasses
            | SpanKind::UserErrors
            | SpanKind::UserUses => {}
        }
    }

    /// The meters run ahead of the view by that much, until it follows.
    fn hear_of(&self, id: &SpanId, view: &Tally, to: &Tally) {
        self.meter(id, &Tally::default(), Some(to.minus(view)));
    }

    /// Moves a meter with its view, which it is `ahead` of from now on.
    fn meter(&self, id: &SpanId, moved: &Tally, ahead: Option<Tally>) {
        let (zone, now) = (self.users.zone(), self.clock.now());
        let today = zone.day_of(now).day;
        let is_near = |day: u32| day.abs_diff(today.0) <= 1;
        let Some(day) = zone.span(Day(id.at.number())).filter(|span| is_near(span.day.0)) else { return };
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.last.replace(today) != Some(today) {
            heard.ahead.retain(|id, _| is_near(id.at.number()));
        }
        let before = match ahead {
            Some(ahead) => heard.ahead.insert(*id, ahead),
            None => heard.ahead.remove(id),
        };
        let mut by = *moved;
        by.add(&ahead.unwrap_or_default());
        self.meters.shift(id.id, day, used(&by.minus(&before.unwrap_or_default())), now);
    }

    fn keep_days_in(&self, name: &str) {
        let Some(zone) = zone_of_hub(name, &self.users.zone()) else { return };
        self.ledger.set_zone(zone.clone());
        self.users.set_zone(zone);
    }
}

/// The hub's, if it is another one than ours.
fn zone_of_hub(name: &str, ours: &Zone) -> Option<Zone> {
    let ours = ours.name();
    match Zone::named(name) {
        Ok(zone) if zone.name() == ours => None,
        Ok(zone) => {
            let name = zone.name();
            warn!(
                "days begin and end in the hub's time zone {name}, since they are the same for all who use it, and not \
                 in {ours}; write time_zone = \"{name}\" under [limits], or give the hub yours: UPDATE keytide_settings SET \
                 time_zone = '{ours}'"
            );
            Some(zone)
        }
        Err(error) => {
            warn!("the hub's time zone cannot be used, and days begin and end in {ours}: {error}");
            None
        }
    }
}

/// Where days begin and end: as configured, unless the hub has said otherwise.
///
/// # Errors
/// The store cannot be read.
pub(super) async fn zone(config: &Config, store: &Store) -> anyhow::Result<Zone> {
    let ours = Zone::named(&config.limits.time_zone)?;
    if config.hubs().iter().all(|hub| hub.name != DEFAULT_HUB) {
        return Ok(ours);
    }
    let told = match store.edit(|shelf| protocol::zone_of(shelf, DEFAULT_HUB)).await {
        Ok(told) => told,
        // The replicator says so, and serving goes on.
        Err(protocol::Error::Document(_)) => None,
        Err(error) => return Err(error.into()),
    };
    Ok(told.and_then(|name| zone_of_hub(&name, &ours)).unwrap_or(ours))
}

impl Mirror for Memory {
    fn lock(&self) -> BoxFuture<'_, OwnedMutexGuard<()>> {
        Box::pin(self.edits.clone().lock_owned())
    }

    fn apply(&self, effects: Vec<Effect>) {
        let now = self.clock.now();
        for effect in effects {
            match effect {
                Effect::KeyPut { provider, id, entry } => {
                    let Some(of) = self.providers.get(&provider) else { continue };
                    let entry = *entry;
                    if of.pool.contains(id) {
                        // Only an operator could have removed it, and operators are kept out.
                        let _there = of.pool.apply_remote(id, entry.record, &entry.health, now);
                    } else if let Err(InsertError::NotAHeaderValue) =
                        of.pool.insert_as(id, entry.record, entry.health, now)
                    {
                        warn!(provider, key = id.short(), "a key from the hub cannot be sent in a header");
                    }
                }
                Effect::KeyRemoved { provider, id } => {
                    if let Some(of) = self.providers.get(&provider) {
                        of.pool.remove(id);
                    }
                }
                Effect::TokenPut { provider, entry, .. } => {
                    if let Some(of) = self.providers.get(&provider) {
                        of.tokens.insert(&provider, entry.record);
                    }
                }
                Effect::TokenRemoved { provider, id } => {
                    if let Some(of) = self.providers.get(&provider) {
                        of.tokens.remove(id, now);
                    }
                }
                Effect::UserPut { id, entry } => self.users.insert(id, entry.record),
                Effect::UserRemoved { id } => {
                    self.users.remove(id, now);
                }
                Effect::Zone { name } => self.keep_days_in(&name),
                Effect::Used { id, view, to } => self.hear_of(&id, &view, &to),
                Effect::Counter { id: CounterId::Span(id), from, to, .. } => self.count(&id, &from, &to),
                Effect::Counter { provider, id, from, to } => self.ledger.shift(&provider, &id, &from, &to),
            }
        }
    }

    fn has_daily_limits(&self) -> bool {
        self.users.have_daily_limits() || self.providers.any(|of| of.tokens.have_daily_limits())
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.flusher.flush())
    }
}

/// Starts a replicator for every hub that the configuration names.
///
/// # Errors
/// One sentence: a store that cannot be written. A hub that cannot be used is no reason not to serve.
pub(super) async fn start(
    config: &Config,
    store: &Store,
    memory: Memory,
    changes: watch::Sender<()>,
) -> anyhow::Result<Hubs> {
    let (clock, mirror) = (memory.clock.clone(), Arc::new(memory));
    let logs = Arc::new(AtomicBool::new(config.usage_log));
    let mut replicators = Vec::new();
    for hub in config.hubs() {
        let name = hub.name.clone();
        let Some(Route { transport, warnings }) = route::choose_or_wait(&hub.options.route) else { continue };
        for warning in warnings {
            warn!(hub = name, "{warning}");
        }
        info!(hub = name, transport = transport.kind(), target = transport.target(), "replicates");
        let bounds = Bounds {
            rows: hub.options.batch_rows as usize,
            bytes: usize::try_from(hub.options.batch_bytes).unwrap_or(usize::MAX),
            ..Bounds::default()
        };
        let streams = hub
            .providers
            .iter()
            .map(|(provider, prefix)| StreamOf { provider: provider.clone(), stream: prefix.clone() });
        // What belongs to no provider goes to one hub.
        let core =
            (name == DEFAULT_HUB).then(|| StreamOf { provider: CORE.to_owned(), stream: CORE.to_owned() });
        let options = replicator::Options {
            hub: Hub {
                name: name.clone(),
                streams: streams.chain(core).collect(),
                providers: config.providers.keys().cloned().collect(),
                bounds,
                instance_name: config.instance.clone().unwrap_or_else(machine_name),
                version: env!("CARGO_PKG_VERSION").to_owned(),
                keeps_time: replicators.is_empty(),
            },
            transport,
            interval: hub.options.interval,
            egress: config.budget.egress,
            budget: hub.budget,
            logs: if name == DEFAULT_HUB { logs.clone() } else { Arc::default() },
        };
        let parts = Parts {
            store: store.clone(),
            mirror: mirror.clone(),
            stamps: store.stamps().clone(),
            clock: clock.clone(),
            changes: changes.subscribe(),
        };
        let started = Replicator::start(options, parts).await;
        replicators.push(started.with_context(|| format!("the hub \"{name}\" cannot be replicated with"))?);
    }
    Ok(Hubs { replicators, changes, logs })
}

fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
