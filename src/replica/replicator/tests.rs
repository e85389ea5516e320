//! Rounds over a hub in memory, in a time that moves only when it is told to.

use std::{
    collections::VecDeque,
    sync::atomic::{AtomicBool, Ordering},
};

use futures_util::FutureExt;

use super::{
    super::{
        protocol::{Bounds, StreamOf},
        simulator::hub::{HubPort, ModelHub},
        status::HubState,
        transport::{Error, ErrorKind, Reply, Traffic},
        wire::{Function, HelloRequest, RetainRequest},
    },
    *,
};
use crate::{
    model::{CounterId, Delta, KeyId, KeyUsage, ProviderDelta, Tally},
    store,
};

const START: Timestamp = Timestamp(1_800_000_000_000);
/// How long anything may really take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What becomes of a call, other than that it is answered.
enum Fate {
    Panics,
    IsNeverAnswered,
    IsLate,
}

struct Port {
    hub: Mutex<ModelHub>,
    calls: Mutex<Vec<Function>>,
    /// Whether each greeting asked for the others' names.
    greetings: Mutex<Vec<bool>>,
    fates: Mutex<VecDeque<Fate>>,
    /// How many rows each call of retention was allowed, and whether all of those come too late.
    retained: Mutex<Vec<Option<u32>>>,
    is_slow: AtomicBool,
}

impl Port {
    fn new() -> Arc<Self> {
        let hub = ModelHub::new(uuid::Uuid::from_u128(7), &["alpha_api"], START.0);
        let (calls, greetings, fates, retained, is_slow) = Default::default();
        Arc::new(Self { hub: Mutex::new(hub), calls, greetings, fates, retained, is_slow })
    }

    fn next_call(&self, fate: Fate) {
        self.fates.lock().unwrap().push_back(fate);
    }

    fn calls(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

impl Transport for Port {
    fn call<'a>(&'a self, function: Function, request: &'a str) -> BoxFuture<'a, Result<Reply, Error>> {
        self.calls.lock().unwrap().push(function);
        if function == Function::Hello {
            let request: HelloRequest = serde_json::from_str(request).unwrap();
            self.greetings.lock().unwrap().push(request.list);
        }
        let mut fate = self.fates.lock().unwrap().pop_front();
        let is_retention = function == Function::Retain;
        if is_retention {
            let request: RetainRequest = serde_json::from_str(request).unwrap();
            self.retained.lock().unwrap().push(request.most);
            fate = fate.or(self.is_slow.load(Ordering::Relaxed).then_some(Fate::IsLate));
        }
        Box::pin(async move {
            match fate {
                Some(Fate::Panics) => panic!("a fault that a test has made"),
                Some(Fate::IsNeverAnswered) => std::future::pending().await,
                Some(Fate::IsLate) => Err(Error::late(function, Duration::from_secs(7))),
                None if is_retention => {
                    Ok(Reply { body: r#"{"status": "ok"}"#.to_owned(), took: Duration::ZERO })
                }
                None => {
                    let answer = self.hub.lock().unwrap().call(function.name(), request);
                    let body = answer.map_err(|why| Error::new(ErrorKind::NoSchema, why))?;
                    Ok(Reply { body, took: Duration::ZERO })
                }
            }
        })
    }

    fn target(&self) -> String {
        "memory".to_owned()
    }

    fn kind(&self) -> &'static str {
        "memory"
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

type Happens = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Memory {
    edits: Arc<tokio::sync::Mutex<()>>,
    effects: Mutex<Vec<Effect>>,
    /// After so many changes, what happens as the next one begins.
    then: Mutex<Option<(usize, Happens)>>,
}

impl Mirror for Memory {
    fn lock(&self) -> BoxFuture<'_, OwnedMutexGuard<()>> {
        Box::pin(async {
            let left = self.then.lock().unwrap().take();
            match left {
                Some((0, happens)) => happens(),
                left => *self.then.lock().unwrap() = left.map(|(n, happens)| (n - 1, happens)),
            }
            self.edits.clone().lock_owned().await
        })
    }

    fn has_daily_limits(&self) -> bool {
        false
    }

    fn apply(&self, effects: Vec<Effect>) {
        self.effects.lock().unwrap().extend(effects);
    }

    fn flush(&self) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async { Ok(()) })
    }
}

struct Scene {
    replicator: Arc<Replicator>,
    port: Arc<Port>,
    memory: Arc<Memory>,
    store: Store,
    clock: Clock,
    changes: watch::Sender<()>,
    _dir: tempfile::TempDir,
}

impl Scene {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(START);
        let (store, _) = Store::open(&store::Options::new(dir.path()), clock.clone()).unwrap();
        let (port, memory, changes) = (Port::new(), Arc::<Memory>::default(), watch::Sender::new(()));
        let stream = StreamOf { provider: "alpha".to_owned(), stream: "alpha_api".to_owned() };
        let hub = Hub {
            name: "default".to_owned(),
            providers: vec![stream.provider.clone()],
            streams: vec![stream],
            bounds: Bounds::default(),
            instance_name: "test".to_owned(),
            version: "0".to_owned(),
            keeps_time: true,
        };
        let options = Options {
            hub,
            transport: port.clone(),
            interval: Duration::from_secs(600),
            egress: None,
            budget: None,
            logs: Arc::default(),
        };
        let parts = Parts {
            store: store.clone(),
            mirror: memory.clone(),
            stamps: store.stamps().clone(),
            clock: clock.clone(),
            changes: changes.subscribe(),
        };
        let replicator = Arc::new(Replicator::start(options, parts).await.unwrap());
        Self { replicator, port, memory, store, clock, changes, _dir: dir }
    }

    /// Counts of a key that was never added.
    async fn count_for_nobody(&self, requests: u64) -> KeyId {
        let nobody = KeyId::derive("alpha", "a key that was never added");
        let mut usage = KeyUsage::default();
        usage.counts.success = requests;
        let of = ProviderDelta { keys: [(nobody, usage)].into_iter().collect(), ..ProviderDelta::default() };
        let delta = Delta { providers: [("alpha".into(), of)].into(), ..Delta::default() };
        self.store.append(delta).await.unwrap();
        nobody
    }

    fn has_told(&self, what: &str) -> bool {
        self.replicator.status().notes.iter().any(|note| note.text.contains(what))
    }

    fn state(&self) -> HubState {
        self.replicator.status().state
    }
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

/// Until everybody waits who has nothing to do.
async fn at_rest() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

/// The store is a thread, for which paused time would not wait: it does for a blocking task, which also gives up when
/// `work` never ends.
async fn in_standing_time<T>(work: impl Future<Output = T>) -> T {
    let (done, end) = std::sync::mpsc::channel::<()>();
    let mut watching = tokio::task::spawn_blocking(move || end.recv_timeout(PATIENCE));
    tokio::select! {
        value = work => {
            drop(done);
            let _over = watching.await;
            value
        }
        _ = &mut watching => panic!("it never came to its end"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_fault_of_its_own_is_told_and_survived() {
    in_standing_time(async {
        let scene = Scene::new().await;
        scene.port.next_call(Fate::Panics);
        until(|| scene.state() == HubState::Failing).await;
        let error = scene.replicator.status().last_error.unwrap();
        assert!(error.message.contains("a fault of its own"), "{error:?}");
        at_rest().await;
        assert_eq!(scene.port.calls(), 1, "it rests");
        tokio::time::advance(Duration::from_secs(31)).await;
        until(|| scene.state() == HubState::Ok).await;
        assert_eq!(scene.replicator.status().last_error, None);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whoever_stops_does_not_wait_for_a_round() {
    in_standing_time(async {
        let scene = Scene::new().await;
        until(|| scene.state() == HubState::Ok).await;
        let before = scene.port.calls();
        scene.port.next_call(Fate::IsNeverAnswered);
        let replicator = scene.replicator.clone();
        let asked = tokio::spawn(async move { replicator.now().await });
        until(|| scene.port.calls() > before).await;
        scene.replicator.stop(Duration::from_secs(5)).await;
        asked.await.unwrap();
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_told_soon_whoever_looks_meanwhile() {
    in_standing_time(async {
        let scene = Scene::new().await;
        until(|| scene.state() == HubState::Ok).await;
        at_rest().await;
        let before = scene.port.calls();
        scene.changes.send_replace(());
        at_rest().await;
        // What was read a moment ago is fresh enough for this.
        scene.replicator.look();
        at_rest().await;
        assert_eq!(scene.port.calls(), before, "others may go along");
        tokio::time::advance(Duration::from_secs(1)).await;
        until(|| scene.port.calls() > before).await;
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn counts_that_nobody_can_name_leave_memory_too() {
    in_standing_time(async {
        let scene = Scene::new().await;
        until(|| scene.state() == HubState::Ok).await;
        let nobody = scene.count_for_nobody(3).await;
        scene.replicator.now().await;
        let gone = |effect: &Effect| {
            matches!(effect, Effect::Counter { id: CounterId::Key(id), from, to, .. }
                if *id == nobody && from.success == 3 && *to == Tally::default())
        };
        assert!(scene.memory.effects.lock().unwrap().iter().any(gone));
        let notes = scene.replicator.status().notes;
        assert!(notes[0].text.contains("3 requests of a key or token whose text nobody knows"), "{notes:?}");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn greetings_ask_for_names_only_when_somebody_looks() {
    in_standing_time(async {
        let scene = Scene::new().await;
        let greetings = || scene.port.greetings.lock().unwrap().clone();
        until(|| scene.state() == HubState::Ok).await;
        at_rest().await;
        assert_eq!(greetings(), [true], "the first of a process");
        let listed_at = scene.replicator.status().listed_at;
        assert!(listed_at.is_some());
        // What is a minute old will do.
        scene.replicator.list().await;
        assert_eq!(greetings(), [true]);
        // Nobody looks for a while.
        tokio::time::advance(Duration::from_secs(601)).await;
        until(|| greetings().len() > 1).await;
        assert_eq!(greetings(), [true, false]);
        at_rest().await;
        scene.clock.advance(Duration::from_secs(61));
        scene.port.hub.lock().unwrap().now += 61_000;
        scene.replicator.list().await;
        assert_eq!(greetings(), [true, false, true]);
        assert!(scene.replicator.status().listed_at > listed_at);
        scene.replicator.list().await;
        assert_eq!(greetings().len(), 3);
        scene.replicator.now().await;
        assert_eq!(greetings(), [true, false, true, true], "a person has asked");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_in_trouble_is_not_waited_for_by_those_who_look() {
    in_standing_time(async {
        let scene = Scene::new().await;
        scene.port.next_call(Fate::Panics);
        until(|| scene.state() == HubState::Failing).await;
        let before = scene.port.calls();
        scene.replicator.list().await;
        at_rest().await;
        assert_eq!(scene.port.calls(), before);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_hub_that_is_too_slow_for_it_is_asked_to_forget_less_at_a_time() {
    in_standing_time(async {
        let scene = Scene::new().await;
        until(|| scene.state() == HubState::Ok).await;
        at_rest().await;
        let retained = || std::mem::take(&mut *scene.port.retained.lock().unwrap());
        assert_eq!(retained(), [Some(5_000)]);
        scene.port.is_slow.store(true, Ordering::Relaxed);
        scene.replicator.retain().await;
        // Before the next five minutes are over, since it may go well now.
        for _ in 0..7 {
            scene.replicator.now().await;
        }
        assert_eq!(retained(), [5_000, 2_500, 1_250, 625, 312, 156, 100].map(Some), "and then as ever");
        scene.port.is_slow.store(false, Ordering::Relaxed);
        for _ in 0..25 {
            scene.replicator.retain().await;
        }
        let most: Vec<_> = retained().into_iter().flatten().collect();
        assert_eq!((most[11], most[12], most[23], most[24]), (100, 200, 200, 400));
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn what_sealing_finds_is_told() {
    in_standing_time(async {
        let scene = Scene::new().await;
        until(|| scene.state() == HubState::Ok).await;
        scene.count_for_nobody(3).await;
        scene.replicator.seal().await.unwrap();
        assert!(scene.has_told("3 requests of a key"), "{:?}", scene.replicator.status().notes);
        scene.count_for_nobody(4).await;
        scene.replicator.stop(Duration::from_secs(5)).await;
        assert!(scene.has_told("4 requests of a key"), "{:?}", scene.replicator.status().notes);
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_that_is_under_way_at_the_end_is_told() {
    in_standing_time(async {
        let scene = Scene::new().await;
        until(|| scene.state() == HubState::Ok).await;
        scene.port.hub.lock().unwrap().read_only = true;
        let (stopping, store) = (scene.replicator.shared.stopping.clone(), scene.store.clone());
        let (go_on, held) = std::sync::mpsc::channel::<()>();
        let happens = move || {
            // The change has to wait for this one.
            let long = store.edit(move |_| held.recv_timeout(PATIENCE).map_err(|_| store::Error::Closed));
            assert!(long.now_or_never().is_none());
            stopping.cancel();
        };
        // After the one that makes the greeting, when that is answered.
        *scene.memory.then.lock().unwrap() = Some((1, Box::new(happens)));
        let replicator = scene.replicator.clone();
        let asked = tokio::spawn(async move { replicator.now().await });
        until(|| scene.replicator.shared.stopping.is_cancelled()).await;
        at_rest().await;
        go_on.send(()).unwrap();
        asked.await.unwrap();
        assert!(scene.has_told("takes no writes"), "{:?}", scene.replicator.status().notes);
    })
    .await;
}
