//! Settings and records that make a hub unusable from here. Requests are served and counted as with any other hub in
//! trouble, an operator is told what is wrong and what to do, and when it is put right everything arrives, once.

use keytide::{
    model::Clock,
    replica::transport::ErrorKind,
    store::{self, Store},
};

use super::{
    cutter::Cutter,
    node::{self, Node},
    world::World,
};
use crate::{
    hub::tls::{self, Age, Authority},
    pg::{self, Cluster},
    process::{Home, Process},
};

const PASSWORD: &str = "the-right-horse-77";
const LOG: &str = "\n[log]\nformat = \"json\"\nfilter = \"info\"\n";

impl Node {
    /// It serves, and says this of its hub.
    async fn suffers(&self, words: &str, advice: &str) {
        let status = self.sync_now().await.unwrap();
        let hub = &status["hubs"][0];
        assert_eq!(hub["state"], "failing", "{status:#}");
        let error = &hub["last_error"];
        assert!(error["message"].as_str().unwrap_or_default().contains(words), "{words}: {status:#}");
        assert_eq!(error["advice"], advice, "{status:#}");
        let log = self.process.as_ref().unwrap().log();
        assert!(log.contains(words), "the log says it too: {log}");
        assert!(!format!("{status}{log}").contains(PASSWORD), "{status}{log}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_there_yet() {
    let authority = Authority::new("ours");
    let mut world =
        World::over(Cluster::start(tls::options(&authority.issue(&["127.0.0.1"], Age::Valid)))).await;
    world.cluster.psql(&format!("ALTER ROLE postgres PASSWORD '{PASSWORD}'"));
    world.apply_schema().await;
    let cutter = Cutter::start(world.cluster.port).await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("later.pem");
    let url = format!(
        "postgresql://postgres:{PASSWORD}@127.0.0.1:{}/postgres?sslmode=verify-full&sslrootcert={}",
        cutter.port,
        root.display()
    );
    let config = node::config(&world.upstream, None, &node::hub_at(&url));
    world.nodes.push(Node::with(0, cutter, &config).await);
    let node = &world.nodes[0];
    node.stock("ollama").await;
    let served = node.serve("ollama", 7).await;
    node.suffers("later.pem", ErrorKind::Settings.advice()).await;
    node.reload(&format!("{config}{LOG}"), 1).await;
    let mut process = world.nodes[0].process.take().unwrap();
    process.logged("does not replicate: ").await;
    world.nodes[0].process = Some(process);

    std::fs::copy(authority.file(), &root).unwrap();
    world.is_exact(served).await;
    let target = world.nodes[0].sync().await["hubs"][0]["target"].clone();
    assert!(target.as_str().unwrap().contains("127.0.0.1:"), "{target}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_that_says_nothing() {
    let mut world = World::over(Cluster::start(pg::Options::default())).await;
    let url = format!("postgresql://postgres:{PASSWORD}@127.0.0.1:1/postgres?sslmode=sometimes");
    let config = node::config(&world.upstream, None, &node::hub_at(&url));
    world.nodes.push(Node::with(0, Cutter::start(1).await, &config).await);
    let node = &world.nodes[0];
    node.stock("ollama").await;
    node.serve("ollama", 5).await;
    assert_eq!(node.stats().await["total_requests"], 5);
    node.suffers("sslmode", ErrorKind::Settings.advice()).await;
    assert_eq!(node.sync().await["hubs"][0]["transport"], "postgres");

    // What is no address at all is found with everything else that is misspelt.
    let config = config.replace(&url, "mysql://127.0.0.1/db");
    let mut refused = Process::spawn(&Home::new(&config));
    assert!(!refused.ended().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_a_newer_keytide_has_written() {
    let mut world = World::new(1).await;
    world.stock().await;
    let mut served = world.nodes[0].serve("ollama", 6).await;
    world.is_exact(served).await;
    for name in ["replica/hub/default", "replica/stream/ollama"] {
        world.nodes[0].stop().await;
        let data = world.nodes[0].home.data();
        let before = exchange(&data, name, vec![9, b'{', b'}']).await;
        world.nodes[0].restart().await;
        let node = &world.nodes[0];
        served += node.serve("ollama", 5).await;
        node.suffers("format 9 is newer", "use the keytide that wrote it, or restore a backup of the store")
            .await;
        assert_eq!(node.stats().await["total_requests"], served);
        world.nodes[0].stop().await;
        exchange(&data, name, before).await;
        world.nodes[0].restart().await;
        world.is_exact(served).await;
    }
}

/// Puts a note in the place of another, which is returned.
async fn exchange(data: &std::path::Path, name: &'static str, note: Vec<u8>) -> Vec<u8> {
    let (store, _) = Store::open(&store::Options::new(data), Clock::System).unwrap();
    let before = store
        .edit(move |shelf| {
            let before = shelf.note(name)?;
            shelf.set_note(name, Some(&note))?;
            Ok::<_, store::Error>(before)
        })
        .await
        .unwrap();
    store.close().await.unwrap();
    before.unwrap()
}
