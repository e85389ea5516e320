//! The monitor at work: what requests leave is told to it, what it says is written down, and what it remembers lives
//! through a restart.
//!
//! Invariants: an event that was told is written, or kept until it can be, or its loss is counted and said; a verdict
//! holds from the moment it is given, and is on disk soon after; what a person lifts is on disk before it is lifted.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use serde_json::{Map, Value};
use tokio::time::{Instant, MissedTickBehavior};
use tracing::warn;
use uuid::Uuid;

use crate::{
    admin::Watching,
    breather,
    config::MonitorOptions,
    guard::{Sentence, Watch},
    model::{Clock, Event, UserId},
    monitor::{self, Action, Monitor, Observation, Report, Snapshot, Subject, Verdict},
    observe,
    store::{Error, MOST_REMEMBERED, Store},
};

/// How long an observation waits at most: what is abnormal is seen within that time.
const COLLECT_EVERY: Duration = Duration::from_millis(200);
/// How often what the monitor has learnt is written. A killed process loses as much: habits are of days.
const SAVE_EVERY: Duration = Duration::from_secs(300);
/// Observations between two looks at who else wants to run.
const PART: usize = 1_024;
/// Events that wait for a store that takes nothing.
const MOST_WAITING: usize = 1_000;
/// From this severity on an event is in the log, too.
const LOGGED: u8 = 3;

/// Names, and the layouts of what is written under them.
const HABITS: (&str, u8) = ("monitor/habits", Snapshot::VERSION);
const VERDICTS: (&str, u8) = ("monitor/verdicts", Sentence::VERSION);

/// Whatever is configured can be written.
const _: () = assert!(Snapshot::MOST_BYTES <= MOST_REMEMBERED);

pub(super) struct Watcher {
    watch: Arc<Watch>,
    store: Store,
    clock: Clock,
    monitor: Mutex<Monitor>,
    events: Mutex<Events>,
    /// Verdicts were given that are not on disk yet.
    unwritten: AtomicBool,
    /// Held while verdicts are written, so that the last to be written are the last there were.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct Events {
    keep: Duration,
    waiting: VecDeque<Event>,
    /// By type and severity, since the start.
    counted: BTreeMap<(Box<str>, u8), u64>,
    dropped: u64,
}

impl Watcher {
    /// With what an earlier run remembered.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(super) async fn start(
        options: &MonitorOptions,
        watch: Arc<Watch>,
        store: Store,
        clock: Clock,
    ) -> Result<Arc<Self>, Error> {
        let sentences: Option<Vec<Sentence>> = store.recall(VERDICTS.0, VERDICTS.1).await?;
        watch.verdicts.restore(sentences.unwrap_or_default());
        watch.verdicts.tidy(clock.now());
        let habits: Option<Snapshot> = store.recall(HABITS.0, HABITS.1).await?;
        let monitor = match habits {
            Some(habits) => Monitor::restore(options.watch.clone(), habits),
            None => Monitor::new(options.watch.clone()),
        };
        let events = Events { keep: options.keep, ..Events::default() };
        Ok(Arc::new(Self {
            watch,
            store,
            clock,
            monitor: Mutex::new(monitor),
            events: Mutex::new(events),
            unwritten: AtomicBool::new(false),
            writing: tokio::sync::Mutex::default(),
        }))
    }

    /// For a reload of the configuration.
    pub(super) fn reload(&self, options: &MonitorOptions) {
        self.watch.set_on(options.watch.enabled);
        self.monitor().set_options(options.watch.clone());
        self.events().keep = options.keep;
    }

    pub(super) async fn run(self: Arc<Self>) {
        let mut tick = tokio::time::interval(COLLECT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut lists, mut seen, mut saved) = (Vec::new(), false, Instant::now());
        loop {
            tick.tick().await;
            seen |= self.round(&mut lists).await;
            if saved.elapsed() >= SAVE_EVERY {
                saved = Instant::now();
                if std::mem::take(&mut seen) {
                    self.save().await;
                }
                self.forget_old_events().await;
            }
        }
    }

    /// The last of it, when nothing is served any more and `run` has ended.
    pub(super) async fn finish(&self) {
        self.round(&mut Vec::new()).await;
        let now = self.clock.now();
        self.take(|monitor| monitor.flush(now));
        self.write_events().await;
        self.save().await;
        let left = self.events().waiting.len();
        if left > 0 {
            warn!(events = left, "the store did not take the last security events");
        }
    }

    /// Takes an event in that is written at the next round, also from those who are no monitor.
    pub(super) fn record(&self, event: Event) {
        if event.severity >= LOGGED {
            let details = Value::Object(event.details.clone());
            warn!(
                kind = %event.kind, severity = event.severity, user = event.user.map(UserId::short),
                key = event.key.map(|key| key.short()), %details, "a security event"
            );
        }
        let mut events = self.events();
        *events.counted.entry((event.kind.clone(), event.severity)).or_default() += 1;
        if events.waiting.len() < MOST_WAITING {
            events.waiting.push_back(event);
        } else {
            events.dropped += 1;
        }
    }

    /// What the metrics show.
    pub(super) fn reading(&self) -> observe::Watched {
        let now = self.clock.now();
        let sentences = self.watch.verdicts.list(now);
        let events = self.events();
        observe::Watched {
            events: events
                .counted
                .iter()
                .map(|((kind, severity), n)| (kind.to_string(), *severity, *n))
                .collect(),
            events_dropped: events.dropped,
            observations_lost: self.watch.lost(),
            blocked: sentences.iter().filter(|sentence| sentence.block.is_some()).count(),
            throttled: sentences.iter().filter(|sentence| sentence.throttle.is_some()).count(),
        }
    }

    /// Returns whether anything was observed.
    async fn round(&self, lists: &mut Vec<Vec<Observation>>) -> bool {
        let seen = self.watch.collect(lists);
        let mut decided = Vec::new();
        for part in seen.chunks(PART) {
            decided.extend(self.take(|monitor| {
                let _rests = breather::begin();
                let mut all = Report::default();
                for seen in part {
                    breather::step();
                    all.add(monitor.observe(seen));
                }
                all
            }));
            tokio::task::yield_now().await;
        }
        let now = self.clock.now();
        decided.extend(self.take(|monitor| monitor.tick(now)));
        say(&decided);
        self.watch.verdicts.tidy(now);
        if self.unwritten.swap(false, Ordering::SeqCst) {
            self.write_verdicts().await;
        }
        self.write_events().await;
        !seen.is_empty()
    }

    /// Puts in force what the monitor says, and keeps it; returns what it has decided.
    fn take(&self, tell: impl FnOnce(&mut Monitor) -> Report) -> Vec<Verdict> {
        let Report { events, verdicts } = tell(&mut self.monitor());
        if self.watch.verdicts.apply(&verdicts, self.clock.now()) {
            self.unwritten.store(true, Ordering::SeqCst);
        }
        events.iter().for_each(|event| self.record(told(event)));
        verdicts
    }

    async fn write_verdicts(&self) {
        let _alone = self.writing.lock().await;
        let kept = self.watch.verdicts.kept(self.clock.now());
        if self.store.remember(VERDICTS.0, VERDICTS.1, kept).await.is_err() {
            // They hold all the same; the store has said what is wrong with it.
            self.unwritten.store(true, Ordering::SeqCst);
        }
    }

    async fn write_events(&self) {
        let (batch, keep) = {
            let events = self.events();
            (events.waiting.iter().cloned().collect::<Vec<_>>(), events.keep)
        };
        let count = batch.len();
        // Told twice, an event is the same: its id says so.
        if count > 0 && self.store.record_events(batch, keep).await.is_ok() {
            self.events().waiting.drain(..count);
        }
    }

    /// Those that are too old while no new ones come.
    async fn forget_old_events(&self) {
        let keep = self.events().keep;
        let now = self.clock.now();
        // The store has said what is wrong with it.
        let Ok(events) = self.store.events().await else { return };
        let is_due = events.oldest().is_ok_and(|at| at.is_some_and(|at| now.since(at) > keep));
        if is_due && let Err(error) = self.store.record_events(Vec::new(), keep).await {
            warn!("old security events are still there, and are let go of later: {error}");
        }
    }

    async fn save(&self) {
        let habits = self.monitor().snapshot();
        if let Err(error) = self.store.remember(HABITS.0, HABITS.1, habits).await {
            warn!("what the monitor has learnt was not written, and is tried again later: {error}");
        }
    }

    fn monitor(&self) -> MutexGuard<'_, Monitor> {
        self.monitor.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn events(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watching for Watcher {
    fn lift(&self, subject: Subject) -> BoxFuture<'_, Result<bool, Error>> {
        Box::pin(async move {
            let _alone = self.writing.lock().await;
            let now = self.clock.now();
            let Some(without) = self.watch.verdicts.without(subject, now) else { return Ok(false) };
            self.store.remember(VERDICTS.0, VERDICTS.1, without).await?;
            self.watch.verdicts.lift(subject, now);
            Ok(true)
        })
    }
}

/// One line, however many there are: an attack comes from thousands of addresses.
fn say(decided: &[Verdict]) {
    let Some(Verdict { subject, action, until }) = decided.first() else { return };
    match decided.len() {
        1 => warn!(%subject, ?action, %until, "the monitor has decided"),
        verdicts => {
            let is_address = |verdict: &&Verdict| matches!(verdict.subject, Subject::Address(_));
            let addresses = decided.iter().filter(is_address).count();
            let is_block = |verdict: &&Verdict| matches!(verdict.action, Action::Block { .. });
            let blocks = decided.iter().filter(is_block).count();
            warn!(verdicts, blocks, addresses, first = %subject, "the monitor has decided of many");
        }
    }
}

/// As it is kept.
fn told(event: &monitor::Event) -> Event {
    let user = match event.subject {
        Subject::User(id) => Some(UserId(id.as_u128())),
        _ => None,
    };
    let details = match event.details() {
        Value::Object(details) => details,
        _ => Map::new(),
    };
    Event {
        id: Uuid::new_v4(),
        kind: event.event_type().as_str().into(),
        user,
        key: event.key,
        severity: event.severity,
        details,
        at: event.at,
        weight: event.weight,
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use crate::{
        model::Timestamp,
        monitor::{AuthFailure, EventType, Options, Rule, What},
        store,
    };

    const NOW: Timestamp = Timestamp(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn blocking() -> MonitorOptions {
        let rule =
            Rule { event: Some(EventType::AuthFail), severity: 1, action: Action::Block { span: HOUR } };
        let watch = Options { actions: vec![rule], ..Options::default() };
        MonitorOptions { watch, ..MonitorOptions::default() }
    }

    async fn start(dir: &std::path::Path, clock: &Clock) -> (Arc<Watcher>, Store) {
        let (store, _) = Store::open(&store::Options::new(dir), clock.clone()).unwrap();
        let watch = Arc::new(Watch::new(1, true));
        let watcher = Watcher::start(&blocking(), watch, store.clone(), clock.clone()).await.unwrap();
        (watcher, store)
    }

    fn guess(watcher: &Watcher, address: IpAddr, tokens: std::ops::Range<u32>) {
        for token in tokens {
            let why = AuthFailure::Unknown;
            let token = Some(token.wrapping_mul(0x9e37_79b9));
            let seen = Observation {
                at: watcher.clock.now(),
                subject: Subject::at(address),
                address: Some(address),
                key: None,
                provider: 1,
                model: None,
                what: What::AuthFailed { why, token },
            };
            watcher.watch.tell(0, seen);
        }
    }

    async fn kept(store: &Store) -> Vec<Event> {
        let events = store.events().await.unwrap();
        events.list((Timestamp(0), Timestamp::MAX), |_| true, 0, 100).unwrap().1
    }

    #[tokio::test]
    async fn what_was_said_and_decided_outlives_a_crash() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let (watcher, store) = start(dir.path(), &clock).await;
        guess(&watcher, address, 0..40);
        assert!(watcher.round(&mut Vec::new()).await);
        assert!(watcher.watch.check(Subject::at(address), None, NOW).is_err());
        let before = kept(&store).await;
        assert!(!before.is_empty() && before.iter().all(|event| *event.kind == *"auth_fail"));
        // Without the end that a stop has.
        store.close().await.unwrap();
        let (watcher, store) = start(dir.path(), &clock).await;
        assert_eq!(kept(&store).await, before);
        assert!(watcher.watch.check(Subject::at(address), None, NOW).is_err());
        assert!(watcher.lift(Subject::at(address)).await.unwrap());
        assert!(!watcher.lift(Subject::at(address)).await.unwrap());
        store.close().await.unwrap();
        let (watcher, store) = start(dir.path(), &clock).await;
        assert!(watcher.watch.check(Subject::at(address), None, NOW).is_ok());
        store.close().await.unwrap();
    }

    #[test]
    #[ignore = "prints times"]
    fn what_it_costs() {
        use crate::monitor::End;
        const USERS: u32 = 1_000;
        let (watch, mut lists) = (Watch::new(1, true), Vec::new());
        let mut monitor = Monitor::new(Options::default());
        let (mut telling, mut observing) = (Duration::ZERO, Duration::ZERO);
        const ROUNDS: u32 = 50;
        const EACH: u32 = 10_000;
        for round in 0..ROUNDS {
            let begun = std::time::Instant::now();
            for n in 0..EACH {
                let seen = Observation {
                    at: Timestamp(NOW.0 + i64::from(round) * 3_600_000 + i64::from(n)),
                    subject: Subject::of_user(UserId(u128::from(n % USERS))),
                    address: Some(IpAddr::from([192, 0, 2, 7])),
                    key: Some(crate::model::KeyId(u128::from(n % 100))),
                    provider: 1,
                    model: Some(7),
                    what: What::Ended { end: End::Success, status: 200 },
                };
                watch.tell(0, std::hint::black_box(seen));
            }
            telling += begun.elapsed();
            let begun = std::time::Instant::now();
            let all = watch.collect(&mut lists);
            let events: usize = all.iter().map(|seen| monitor.observe(seen).events.len()).sum();
            observing += begun.elapsed();
            std::hint::black_box(events);
        }
        println!("telling {:?}, observing {:?} each", telling / (ROUNDS * EACH), observing / (ROUNDS * EACH));
    }

    #[tokio::test]
    async fn what_a_storm_has_counted_is_told_at_a_stop() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
        let (watcher, store) = start(dir.path(), &clock).await;
        for n in 0..40 {
            guess(&watcher, IpAddr::from([198, 51, n, 7]), 0..40);
        }
        watcher.round(&mut Vec::new()).await;
        let is_storm = |event: &Event| event.details["kind"] == "storm";
        assert!(!kept(&store).await.iter().any(is_storm));
        watcher.reload(&MonitorOptions { keep: HOUR * 24, ..blocking() });
        watcher.finish().await;
        let kept = kept(&store).await;
        let storm = kept.iter().find(|event| is_storm(event)).unwrap();
        assert_eq!((kept.len(), storm.details["auth_fail"].as_u64()), (31, Some(u64::from(storm.weight))));
        assert!(storm.weight >= 10, "{storm:?}");
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn what_was_learnt_outlives_a_stop() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
        let address: IpAddr = "192.0.2.7".parse().unwrap();
        let (watcher, store) = start(dir.path(), &clock).await;
        // Neither half is abnormal.
        guess(&watcher, address, 0..5);
        watcher.finish().await;
        assert!(kept(&store).await.is_empty());
        store.close().await.unwrap();
        let (watcher, store) = start(dir.path(), &clock).await;
        guess(&watcher, address, 5..11);
        watcher.round(&mut Vec::new()).await;
        assert!(!kept(&store).await.is_empty());
        store.close().await.unwrap();
    }

    #[tokio::test]
    async fn events_wait_for_a_store_that_takes_nothing_and_no_more_than_so_many() {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Clock::manual(NOW));
        let (watcher, store) = start(dir.path(), &clock).await;
        store.clone().close().await.unwrap();
        let event = |n: u128| Event {
            id: Uuid::from_u128(n),
            kind: "storage".into(),
            user: None,
            key: None,
            severity: 2,
            details: Map::new(),
            at: NOW,
            weight: 1,
        };
        (0..MOST_WAITING as u128 + 5).for_each(|n| watcher.record(event(n)));
        watcher.round(&mut Vec::new()).await;
        assert_eq!(watcher.events().waiting.len(), MOST_WAITING);
        let reading = watcher.reading();
        assert_eq!((reading.events_dropped, reading.events), (5, vec![("storage".to_owned(), 2, 1_005)]));
    }
}
