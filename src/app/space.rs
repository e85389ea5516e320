//! Keeps the file to its budget, and knows how large it and the hubs are.
//!
//! The file is measured every few minutes and whenever somebody looks. As it fills up, less of what is optional is kept:
//! the store drops what is too old for its rung, memory follows, and fewer confirmed batches lie about. Totals are
//! never touched. Free space inside the file goes back to the disk at a start, or by `keytide store compact`.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use tracing::{info, warn};

use super::replication::Hubs;
use crate::{
    admin::{self, view::HubSpace},
    config::Config,
    ledger::Ledger,
    model::{
        Clock, History, Rung, Space, TableSpace,
        budget::{Advice, AdviceCode, Step, file_share},
    },
    replica::{protocol, replicator::Replicator, space::soon},
    store::{self, Sizes, Store},
};

const MEASURE_EVERY: Duration = Duration::from_secs(300);
/// Of confirmed batches, when there is room.
const BATCHES: u64 = 64 << 20;
/// At least so much of them: a hub that is rolled back by a moment is told again what it lost.
const LEAST_BATCHES: u64 = 256 << 10;
/// The note that has how large the file was.
const NOTE: &str = "replica/sizes";

pub(super) struct Spaces {
    store: Store,
    hubs: Arc<Hubs>,
    ledger: Arc<Ledger>,
    clock: Clock,
    budget: Option<u64>,
    file: Mutex<Space>,
    /// One measurement at a time; read from the store by the first.
    history: tokio::sync::Mutex<Option<History>>,
}

impl Spaces {
    pub(super) fn new(
        config: &Config,
        store: &Store,
        hubs: &Arc<Hubs>,
        ledger: &Arc<Ledger>,
        clock: &Clock,
    ) -> Self {
        let budget = config.budget.local;
        let spaces = Self {
            store: store.clone(),
            hubs: hubs.clone(),
            ledger: ledger.clone(),
            clock: clock.clone(),
            budget,
            file: Mutex::new(Space { budget_bytes: budget, ..Space::default() }),
            history: tokio::sync::Mutex::default(),
        };
        spaces.keep_batches(Rung::Normal);
        spaces
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As they were measured last, by the names that figures have for them.
    pub(super) fn latest(&self) -> Vec<(String, Space)> {
        let hubs = self.hubs.replicators.iter().map(|hub| (format!("hub/{}", hub.name()), hub.space()));
        std::iter::once(("file".to_owned(), self.space().clone())).chain(hubs).collect()
    }

    /// Until the end.
    pub(super) async fn watch(self: Arc<Self>) {
        let mut tick = tokio::time::interval(MEASURE_EVERY);
        loop {
            tick.tick().await;
            if let Err(error) = self.measure().await {
                warn!("how large the file is cannot be found out: {error}");
            }
            let rung = self.space().rung;
            self.ledger.forget_old_hours(self.clock.now(), Store::model_hours_kept(rung));
        }
    }

    async fn measure(&self) -> Result<(Sizes, Space), store::Error> {
        let mut history = self.history.lock().await;
        let mut sizes = self.store.size().await?;
        let before = self.space().rung;
        let rung = before.next(sizes.used(), self.budget);
        if rung != before {
            self.climb(before, rung, &sizes).await?;
            sizes = self.store.size().await?;
        }
        let now = self.clock.now();
        let mut tables: Vec<_> = sizes.tables.iter().map(|table| self.table(table)).collect();
        tables.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
        let mut past = match history.take() {
            Some(past) => past,
            None => self.store.edit(|shelf| protocol::sizes_before(shelf, NOTE)).await.map_err(of_store)?,
        };
        if past.is_due(now) {
            past.note(now, &tables);
            let stored = past.clone();
            self.store
                .edit(move |shelf| protocol::keep_sizes(shelf, NOTE, &stored))
                .await
                .map_err(of_store)?;
        }
        past.project(now, &mut tables);
        *history = Some(past);
        let mut space = self.space();
        space.used_bytes = Some(sizes.used());
        space.total_bytes = Some(sizes.file_bytes);
        (space.rung, space.rung_means) = (rung, rung.means(true).to_owned());
        space.measured_at = Some(now);
        space.tables = tables;
        space.advice = advice(&space, &sizes);
        Ok((sizes, space.clone()))
    }

    fn table(&self, table: &store::TableSize) -> TableSpace {
        TableSpace {
            name: table.name.clone(),
            rows: table.rows,
            bytes: table.bytes(),
            reusable_bytes: table.fragmented_bytes,
            share_bytes: file_share(&table.name, self.budget),
            ..TableSpace::default()
        }
    }

    /// A step up or down, said and done.
    async fn climb(&self, before: Rung, rung: Rung, sizes: &Sizes) -> Result<(), store::Error> {
        self.store.keep(rung).await?;
        self.keep_batches(rung);
        let now = self.clock.now();
        self.ledger.forget_old_hours(now, Store::model_hours_kept(rung));
        let (used, budget, number, means) = (sizes.used(), self.budget, rung.number(), rung.means(true));
        if rung > before {
            warn!(rung = number, used, budget, "the file's storage budget is used up further: {means}");
        } else {
            info!(rung = number, used, budget, "the file has room again: {means}");
        }
        let event = Step { place: "file", from: before, to: rung, used: Some(used), budget }.event(now);
        self.store.record_events(vec![event], Step::KEEP).await?;
        let mut space = self.space();
        space.retained_at = Some(now);
        space.did = vec![format!("rung {}: {means}", rung.number())];
        // Kept even where what follows fails: the step is taken.
        space.rung = rung;
        Ok(())
    }

    fn keep_batches(&self, rung: Rung) {
        let all = self.budget.map_or(BATCHES, |budget| (budget / 4).min(BATCHES));
        let bytes = (all >> (2 * u32::from(rung.number()))).max(LEAST_BATCHES);
        self.hubs.replicators.iter().for_each(|hub| hub.keep_batches(bytes));
    }
}

fn of_store(error: protocol::Error) -> store::Error {
    match error {
        protocol::Error::Store(error) => error,
        // Nothing else is done there.
        protocol::Error::Garbage(_) | protocol::Error::Document(_) => store::Error::Closed,
    }
}

fn advice(space: &Space, sizes: &Sizes) -> Vec<Advice> {
    let mut advice = Vec::new();
    let free = sizes.file_bytes.saturating_sub(sizes.used());
    if space.budget_bytes.is_some_and(|budget| sizes.file_bytes > budget / 2) && free > sizes.file_bytes / 2 {
        advice.push(Advice::new(
            AdviceCode::Compact,
            "more than half of the file is free: stop keytide and run `keytide store compact`, or restart it when the file is \
             near to its budget",
        ));
    }
    if space.rung >= Rung::Bare {
        advice.push(Advice::new(
            AdviceCode::RaiseBudget,
            "raise [budget] local, or delete keys, tokens and users that are not needed any more",
        ));
    }
    if sizes.dropped_logs > 0 {
        let rows = sizes.dropped_logs;
        let text = format!("{rows} rows of the usage log were dropped before a hub had them");
        advice.push(Advice::new(AdviceCode::LogsDropped, text));
    }
    if sizes.dropped_late > 0 {
        let rows = sizes.dropped_late;
        let text = format!(
            "{rows} counts of hours and days, and of who used what, were dropped before a hub had them, which was away for too long: \
             its figures of those days lack them, the totals do not"
        );
        advice.push(Advice::new(AdviceCode::CountsDropped, text));
    }
    advice.extend(soon(&space.tables));
    advice
}

impl admin::Spaces for Spaces {
    fn file(&self) -> BoxFuture<'_, Result<(Sizes, Space), store::Error>> {
        Box::pin(self.measure())
    }

    fn retain(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            join_all(self.hubs.replicators.iter().map(Replicator::retain)).await;
        })
    }

    fn hubs(&self) -> BoxFuture<'_, Vec<HubSpace>> {
        Box::pin(async {
            join_all(self.hubs.replicators.iter().map(Replicator::measure)).await;
            let hubs = self.hubs.replicators.iter().map(|hub| {
                let status = hub.status();
                HubSpace {
                    hub: status.name,
                    transport: status.transport,
                    target: status.target,
                    space: hub.space(),
                }
            });
            hubs.collect()
        })
    }
}
