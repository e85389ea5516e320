//! Has the hub keep to its storage budget, and remembers how large it was.
//!
//! The hub does the work itself, one caller at a time; instances take turns in asking it to. What no function can do,
//! VACUUM, is run where the way to the hub allows for it, and advised where not. A hub that its host has made
//! read-only for its size is asked all the same: deleting is what opens it again.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::{Serialize, de::DeserializeOwned};
use tokio::time::Instant;
use tracing::{info, warn};

use super::task::Task;
use crate::{
    model::{
        History, Rung,
        budget::{Advice, AdviceCode, Step},
    },
    replica::{
        protocol, space,
        status::NoteCode,
        transport::ErrorKind,
        wire::{DidRow, Function, PROTOCOL, RetainAnswer, RetainRequest, SizesAnswer, SizesRequest},
    },
};

/// How often a hub is asked to forget what it keeps no more, by all instances together.
const RETAIN_EVERY: Duration = Duration::from_secs(300);
/// However many there are, each hears from the hub how it stands.
const RETAIN_AT_LEAST_EVERY: Duration = Duration::from_secs(1800);
/// Calls of that at a time; what is left comes with the next round.
const RETAIN_CALLS: usize = 20;
/// How many rows the hub may take in a call: at most, and at least, as slow as it may be. Halved when no answer comes in
/// time, and doubled after so many times that all of it was done.
const MOST_ROWS: u32 = 5_000;
const LEAST_ROWS: u32 = 100;
const CALM: u32 = 12;
/// Tables of which much is gone, at a time.
const VACUUMS: usize = 8;
/// How often sizes are read when nobody looks.
const MEASURE_EVERY: Duration = Duration::from_secs(3600);
/// What is shown of what was done.
const DID: usize = 20;

/// What the task knows of its hub's space.
pub(super) struct Room {
    budget: Option<u64>,
    /// Whether rows of single requests are to be kept there.
    logs: Arc<AtomicBool>,
    /// What that was when the hub was measured last.
    measured_with_logs: bool,
    /// Of the providers' tables.
    prefixes: Vec<String>,
    retained_at: Option<Instant>,
    measured_at: Option<Instant>,
    /// Read from the store when it is first needed.
    history: Option<History>,
    rung: Option<Rung>,
    /// What could not be vacuumed from here.
    to_vacuum: Vec<String>,
    /// What the hub could not write anew in the time of a call.
    large: Vec<String>,
    /// Rows in a call, and how often that went well.
    rows: u32,
    calm: u32,
}

impl Room {
    pub(super) fn new(budget: Option<u64>, logs: Arc<AtomicBool>, prefixes: Vec<String>) -> Self {
        Self {
            budget,
            logs,
            measured_with_logs: false,
            prefixes,
            retained_at: None,
            measured_at: None,
            history: None,
            rung: None,
            to_vacuum: Vec::new(),
            large: Vec::new(),
            rows: MOST_ROWS,
            calm: 0,
        }
    }

    /// The hub did not come to an end in the time that a call has. Not long, and it is asked for less.
    fn too_much(&mut self) {
        if self.rows > LEAST_ROWS {
            self.retained_at = None;
        }
        (self.rows, self.calm) = ((self.rows / 2).max(LEAST_ROWS), 0);
    }

    fn went_well(&mut self) {
        self.calm += 1;
        if self.calm >= CALM {
            (self.rows, self.calm) = (self.rows.saturating_mul(2).min(MOST_ROWS), 0);
        }
    }
}

impl Task {
    /// After a round that the hub has answered.
    pub(super) async fn care(&mut self) {
        let alive = u32::try_from(self.steps.lock().others().alive).unwrap_or(u32::MAX).max(1);
        let every = RETAIN_EVERY.saturating_mul(alive).min(RETAIN_AT_LEAST_EVERY);
        let mut changed = false;
        if self.room.retained_at.is_none_or(|at| at.elapsed() >= every) {
            self.room.retained_at = Some(Instant::now());
            changed = self.retain().await;
        }
        let is_new = self.room.logs.load(Ordering::Relaxed) != self.room.measured_with_logs;
        if changed || is_new || self.room.measured_at.is_none_or(|at| at.elapsed() >= MEASURE_EVERY) {
            self.measure().await;
        }
    }

    /// Now, since somebody has asked for it.
    pub(super) async fn care_now(&mut self) {
        self.room.retained_at = Some(Instant::now());
        self.retain().await;
        self.measure().await;
    }

    /// Has the hub forget what it keeps no more. Another time will do where it cannot. Returns whether its sizes have
    /// changed by it.
    async fn retain(&mut self) -> bool {
        let request =
            RetainRequest { protocol: PROTOCOL, budget: self.room.budget, most: Some(self.room.rows) };
        let (mut all, mut last) = (Vec::new(), None);
        for calls in 1.. {
            let answer = match self.ask::<_, RetainAnswer>(Function::Retain, &request).await {
                Ok(answer) => answer,
                Err(why) => {
                    if why == Some(ErrorKind::Timeout) {
                        self.room.too_much();
                    }
                    break;
                }
            };
            if answer.status != "ok" {
                break;
            }
            let RetainAnswer { hours, tombstones, instances, .. } = answer;
            if hours + tombstones + instances > 0 {
                info!(hub = self.name(), hours, tombstones, instances, "the hub has forgotten old rows");
            }
            all.extend(answer.did.iter().cloned());
            self.room.went_well();
            let more = answer.more;
            last = Some(answer);
            if !more {
                break;
            }
            if calls >= RETAIN_CALLS {
                self.room.retained_at = None;
                break;
            }
        }
        let Some(answer) = last else { return false };
        self.room.large.clone_from(&answer.large);
        let vacuumed = self.vacuum(&answer.vacuum).await;
        self.note_rung(&answer).await;
        let did = self.note_did(all, vacuumed);
        let now = self.parts.clock.now();
        let mut space = self.shared.space();
        space.retained_at = Some(now);
        space.used_bytes = answer.used.or(space.used_bytes);
        if did.is_empty() {
            return false;
        }
        space.did = did;
        true
    }

    /// Steps of one kind on one table are one.
    fn note_did(&self, rows: Vec<DidRow>, vacuumed: Vec<String>) -> Vec<String> {
        let mut sums: Vec<DidRow> = Vec::new();
        for row in rows {
            match sums.iter_mut().find(|sum| (&sum.what, &sum.table) == (&row.what, &row.table)) {
                Some(sum) => {
                    sum.rows = sum.rows.saturating_add(row.rows);
                    sum.parts = sum.parts.saturating_add(row.parts);
                }
                None => sums.push(row),
            }
        }
        let mut did: Vec<String> = sums.iter().map(space::did).collect();
        did.extend(vacuumed.into_iter().map(|table| format!("{table}: vacuumed")));
        did.truncate(DID);
        if !did.is_empty() {
            info!(hub = self.name(), "retention: {}", did.join("; "));
        }
        did
    }

    /// Returns which it was.
    async fn vacuum(&mut self, tables: &[String]) -> Vec<String> {
        let mut done = Vec::new();
        self.room.to_vacuum.clear();
        for table in tables.iter().filter(|table| space::is_table(table)).take(VACUUMS) {
            let vacuum = self.transport.vacuum(table);
            match self.halt.run_until_cancelled(vacuum).await {
                None => break,
                Some(Ok(true)) => done.push(table.clone()),
                Some(Ok(false)) => self.room.to_vacuum.push(table.clone()),
                Some(Err(error)) => {
                    warn!(hub = self.name(), "{table} could not be vacuumed: {error}");
                    self.room.to_vacuum.push(table.clone());
                }
            }
        }
        done
    }

    /// Each step up or down the ladder is said, and remembered: what is optional is not sealed on its highest rung.
    async fn note_rung(&mut self, answer: &RetainAnswer) {
        let Some(rung) = answer.rung else { return };
        let before = match self.room.rung {
            Some(rung) => rung,
            None => match self.steps.step(|machine, shelf, _| machine.rung(shelf)).await {
                Ok(rung) => rung,
                Err(_) => return,
            },
        };
        if rung != before {
            let stored = self.steps.step(move |machine, shelf, _| machine.set_rung(shelf, rung)).await;
            if let Err(error) = stored {
                return warn!(hub = self.name(), "the hub's rung could not be kept: {error}");
            }
            self.tell_rung(before, rung, answer.used).await;
        }
        self.room.rung = Some(rung);
        let mut space = self.shared.space();
        (space.rung, space.rung_means) = (rung, rung.means(false).to_owned());
    }

    async fn tell_rung(&self, before: Rung, rung: Rung, used: Option<u64>) {
        let (number, means, budget) = (rung.number(), rung.means(false), self.room.budget);
        if rung > before {
            warn!(
                hub = self.name(),
                rung = number,
                used,
                budget,
                "the hub's storage budget is used up further: {means}"
            );
        } else {
            info!(hub = self.name(), rung = number, used, budget, "the hub has room again: {means}");
        }
        let place = format!("hub/{}", self.name());
        let event =
            Step { place: &place, from: before, to: rung, used, budget }.event(self.parts.clock.now());
        if let Err(error) = self.parts.store.record_events(vec![event], Step::KEEP).await {
            warn!(hub = self.name(), "the step has no event: {error}");
        }
    }

    /// How large the hub is now.
    pub(super) async fn measure(&mut self) {
        self.room.measured_at = Some(Instant::now());
        let logs = self.room.logs.load(Ordering::Relaxed);
        self.room.measured_with_logs = logs;
        let request = SizesRequest { protocol: PROTOCOL };
        let Ok(found) = self.ask::<_, SizesAnswer>(Function::Sizes, &request).await else { return };
        if found.status != "ok" {
            return;
        }
        let now = self.parts.clock.now();
        let mut fresh = space::of(&found, &self.room.prefixes, self.room.budget);
        if let Err(error) = self.remember(&fresh.tables).await {
            warn!(hub = self.name(), "how large the hub was could not be kept: {error}");
        }
        if let Some(history) = &self.room.history {
            history.project(now, &mut fresh.tables);
        }
        fresh.measured_at = Some(now);
        fresh.advice =
            space::advice(&fresh, &self.room.to_vacuum, &self.room.large, &self.transport.target());
        if let Some(why) = space::without_logs(found.usage_logs.as_deref()).filter(|_| logs) {
            self.shared.say(now, NoteCode::NoUsageLogs, why);
            fresh.advice.push(Advice::new(AdviceCode::NoUsageLogs, why));
        }
        let mut space = self.shared.space();
        (fresh.retained_at, fresh.did) = (space.retained_at, std::mem::take(&mut space.did));
        fresh.kept_back = space.kept_back;
        *space = fresh;
    }

    /// A sample each six hours, in the store.
    async fn remember(&mut self, tables: &[crate::model::TableSpace]) -> Result<(), protocol::Error> {
        let name = format!("replica/sizes/{}", self.name());
        let mut history = match self.room.history.take() {
            Some(history) => history,
            None => {
                let name = name.clone();
                self.steps.step(move |_, shelf, _| protocol::sizes_before(shelf, &name)).await?
            }
        };
        let now = self.parts.clock.now();
        if history.is_due(now) {
            history.note(now, tables);
            let stored = history.clone();
            self.steps.step(move |_, shelf, _| protocol::keep_sizes(shelf, &name, &stored)).await?;
        }
        self.room.history = Some(history);
        Ok(())
    }

    /// Where there is no answer that can be read, that is said, and another time will do. Why, if the call failed.
    async fn ask<Q: Serialize, A: DeserializeOwned>(
        &self,
        function: Function,
        request: &Q,
    ) -> Result<A, Option<ErrorKind>> {
        let request = serde_json::to_string(request).unwrap_or_default();
        let asked = self.transport.call(function, &request);
        match self.halt.run_until_cancelled(asked).await.ok_or(None)? {
            Ok(reply) => serde_json::from_str(&reply.body).map_err(|_| {
                warn!(hub = self.name(), "the hub's answer to {} cannot be read", function.name());
                None
            }),
            Err(error) => {
                warn!(hub = self.name(), "the hub did not answer {}: {error}", function.name());
                Err(Some(error.kind))
            }
        }
    }
}
