//! All troubles at once: instances and the hub are killed, answers are lost after their commit, and somebody else's
//! transaction is open throughout, while requests go on everywhere. In the end the hub, every instance's view, the
//! sum of all durable books and the files themselves say the same, within what was answered and what was cut off.

use std::{collections::BTreeMap, time::Duration};

use keytide::{
    model::{Clock, KeyId},
    store::{self, ProviderContents, Store},
};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{
    node::{Load, Node},
    world::{KEYS, World, key},
};
use crate::{hub::skipped, process::PATIENCE};

/// What each instance's durable books told, batch by batch: written in the transaction that applies the batch, and a
/// batch is on the instance's disk before it is sent.
const TOLD: &str = "
    CREATE TABLE elsewhere (n int);
    CREATE TABLE told (instance uuid, stream text, seq bigint, requests bigint, PRIMARY KEY (instance, stream, seq));
    ALTER FUNCTION keytide_push(jsonb) RENAME TO keytide_push_before;
    CREATE FUNCTION keytide_push(request jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
    DECLARE
        answer jsonb := public.keytide_push_before(request);
        global jsonb := request #> '{rows,global}';
    BEGIN
        IF answer ->> 'status' = 'applied' THEN
            INSERT INTO public.told VALUES ((request ->> 'instance')::uuid, request ->> 'stream', (request ->> 'seq')::bigint,
                coalesce((global ->> 's')::bigint, 0) + coalesce((global ->> 'f')::bigint, 0) + coalesce((global ->> 'o')::bigint, 0));
        END IF;
        RETURN answer;
    END $$";

/// Until the hub's next death.
async fn open_transaction(world: &World) -> tokio_postgres::Client {
    let open = world.cluster.connect("postgres", "postgres").await;
    open.batch_execute("BEGIN; INSERT INTO elsewhere VALUES (1); SELECT pg_current_xact_id()").await.unwrap();
    open
}

async fn id(node: &Node) -> String {
    let status = node.sync_now().await.unwrap();
    let instances = status["hubs"][0]["instances"].as_array().unwrap().clone();
    instances.iter().find(|of| of["own"] == true).unwrap()["id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_at_once() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let mut world = World::new(3).await;
    world.cluster.psql(TOLD);
    world.stock().await;
    let mut ids = Vec::new();
    for node in &world.nodes {
        ids.push(id(node).await);
    }
    let mut open = open_transaction(&world).await;
    // Requests answered by each instance, and those whose connection broke with it.
    let mut seen = [(0, 0); 3];
    let mut cuts = 0;
    let beat = Duration::from_millis(700);
    for round in 0..6 {
        let mut loads: Vec<_> =
            world.nodes.iter().enumerate().map(|(n, node)| (n, Load::start(node))).collect();
        sleep(beat).await;
        let (victim, other) = (round % 3, (round + 1) % 3);
        // The hub commits, and the answer is lost: of one that goes on, and of the one that is killed at once after.
        for n in [victim, other] {
            world.nodes[n].cutter.cut_next_answer("keytide_push");
        }
        world.nodes[other].edit(&key(5 + round), &json!({"note": format!("round {round}")})).await;
        sleep(beat).await;
        let lost = || [victim, other].iter().filter(|n| !world.nodes[**n].cutter.is_armed()).count();
        // On a busy machine a push takes longer than a beat.
        let deadline = Instant::now() + PATIENCE;
        while lost() == 0 {
            assert!(Instant::now() < deadline, "nobody pushes");
            sleep(Duration::from_millis(20)).await;
        }
        cuts += lost();
        // Both die at the same time, one or the other first.
        if round % 2 == 0 {
            world.nodes[victim].kill();
            world.cluster.kill9();
        } else {
            world.cluster.kill9();
            world.nodes[victim].kill();
        }
        // The instance comes back to a hub that is away, or the hub first.
        if round % 2 == 0 {
            world.nodes[victim].restart().await;
            loads.push((victim, Load::start(&world.nodes[victim])));
        }
        sleep(beat).await;
        world.cluster.restart();
        open = open_transaction(&world).await;
        if round % 2 == 1 {
            world.nodes[victim].restart().await;
            loads.push((victim, Load::start(&world.nodes[victim])));
        }
        // Rounds of those that have waited for the hub, beside the others' requests.
        for node in &world.nodes {
            node.sync_now().await;
        }
        sleep(beat).await;
        for (n, load) in loads {
            let (answered, cut) = load.seen().await;
            assert!(cut == 0 || n == victim, "nobody else's requests are cut off");
            seen[n] = (seen[n].0 + answered, seen[n].1 + cut);
        }
    }
    let total = world.agree().await;
    drop(open);
    assert!(cuts >= 6, "{cuts} answers were lost");
    assert!(seen.iter().all(|(_, cut)| *cut > 0), "every instance was killed under load: {seen:?}");

    // Each instance's durable books, and their sum.
    let told = world.sql("SELECT instance, sum(requests) FROM told GROUP BY 1");
    let told: BTreeMap<_, i64> =
        told.into_iter().map(|row| (row[0].clone(), row[1].parse().unwrap())).collect();
    for (id, (answered, cut)) in ids.iter().zip(seen) {
        let books = told[id];
        assert!(
            (answered..=answered + cut).contains(&books),
            "{id}: {answered} ≤ {books} ≤ {answered} + {cut}"
        );
    }
    assert_eq!(
        (told.len(), told.values().sum::<i64>()),
        (3, total),
        "the sum of all durable books: {told:?}"
    );

    let hub = world.hub_picture("ollama");
    for (id, attempts) in world.attempts().await {
        let counted = hub["keys"][&id][0].as_i64().unwrap();
        assert!(counted <= attempts, "{id}: {counted} counted, {attempts} made");
    }
    let states = world.nodes[0].picture().await["states"].clone();
    assert_eq!(states.as_object().unwrap().len(), KEYS);
    for node in &world.nodes {
        assert_eq!(node.picture().await["states"], states, "{}", node.name);
        for round in 0..6 {
            let note = node.key(&key(5 + round)).await.unwrap()["note"].clone();
            assert_eq!(note, format!("round {round}"), "{}", node.name);
        }
    }

    // And the files themselves.
    for n in 0..3 {
        world.nodes[n].stop().await;
    }
    for node in &world.nodes {
        let (store, mut contents) =
            Store::open(&store::Options::new(node.home.data()), Clock::System).unwrap();
        let ProviderContents { total: of_all, key_usage, models, hours, .. } =
            contents.providers.remove("ollama").unwrap();
        assert_eq!(of_all.counts.total() as i64, total, "{}", node.name);
        for sums in [models.values().collect::<Vec<_>>(), hours.values().collect()] {
            assert_eq!(sums.iter().map(|of| of.counts.total() as i64).sum::<i64>(), total, "{}", node.name);
        }
        for n in 0..KEYS {
            let id = KeyId::derive("ollama", &key(n));
            let counts = key_usage.get(&id).map(|of| of.counts).unwrap_or_default();
            let counts = json!([counts.total(), counts.success, counts.failure]);
            assert_eq!(counts, hub["keys"][id.to_string()], "{}: {}", node.name, key(n));
        }
        store.close().await.unwrap();
    }
}
