//! Files that are there twice: backups, and copies of data folders. What both hold counts once, what each counts
//! afterwards counts, and one of them takes a new id.

use serde_json::{Value, json};

use super::{
    cutter::Cutter,
    node::{self, Node},
    world::World,
};
use crate::process::{Home, copy_store};

impl World {
    fn home(&self, cutter: &Cutter) -> Home {
        Home::new(&node::config(&self.upstream, None, &node::hub(cutter.port)))
    }

    /// An instance over a data folder that `fill` has filled.
    async fn join_over(&mut self, fill: impl AsyncFnOnce(&Home)) {
        let cutter = Cutter::start(self.cluster.port).await;
        let home = self.home(&cutter);
        fill(&home).await;
        let node = Node::at_home(self.nodes.len(), cutter, home).await;
        self.nodes.push(node);
    }

    /// Two instances with different ids, of which one says why, and what both files held that it has not told.
    async fn has_told_them_apart(&self, in_both: &str) {
        let mut ids = Vec::new();
        let mut notes = String::new();
        for node in &self.nodes {
            let status = node.sync_now().await.unwrap();
            let hub = &status["hubs"][0];
            let instances = hub["instances"].as_array().unwrap();
            assert!(instances.len() > 1, "{hub:#}");
            ids.push(instances.iter().find(|of| of["own"] == true).unwrap()["id"].clone());
            notes += &hub["notes"].to_string();
        }
        assert_ne!(ids[0], ids[1], "two go by one id");
        assert!(notes.contains("another instance goes by the same file"), "{notes}");
        assert!(notes.contains(in_both), "{notes}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_restored_beside_its_original() {
    let mut world = World::new(1).await;
    world.stock().await;
    let mut served = world.nodes[0].serve("ollama", 11).await;
    world.is_exact(served).await;
    // What the hub has not heard of is in the backup too.
    world.nodes[0].cutter.refuse(true);
    served += world.nodes[0].serve("ollama", 13).await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("backup.redb").display().to_string();
    world.nodes[0].post("/admin/storage/backup", &json!({"file": file})).await;
    served += world.nodes[0].serve("ollama", 17).await;
    world.nodes[0].cutter.refuse(false);
    world.is_exact(served).await;
    world.nodes[0].stop().await;
    world
        .join_over(async |home| {
            let data = home.data().display().to_string();
            node::keytide(&["store", "restore", &file, "--data-dir", &data], "");
        })
        .await;
    world.nodes[0].restart().await;
    for node in &world.nodes {
        served += node.serve("ollama", 7).await;
    }
    world.is_exact(served).await;
    world.has_told_them_apart("13 requests from before its start count as told by the other").await;
}

/// A data folder goes on in two places, its last counts untold: after a shutdown, and after a power cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_data_folder_that_is_copied() {
    for is_killed in [false, true] {
        let mut world = World::new(1).await;
        world.stock().await;
        let mut served = world.nodes[0].serve("ollama", 11).await;
        world.is_exact(served).await;
        world.nodes[0].cutter.refuse(true);
        served += world.nodes[0].serve("ollama", 13).await;
        if is_killed {
            world.nodes[0].kill();
        } else {
            world.nodes[0].stop().await;
        }
        let data = world.nodes[0].home.data();
        world.join_over(async |home| copy_store(&data, &home.data())).await;
        world.nodes[0].cutter.refuse(false);
        world.nodes[0].restart().await;
        for _ in 0..2 {
            // Both have counted something when one of them notices.
            world.nodes.iter().for_each(|node| node.cutter.refuse(true));
            for node in &world.nodes {
                served += node.serve("ollama", 7).await;
            }
            for node in &world.nodes {
                node.cutter.refuse(false);
                let _status: Option<Value> = node.sync_now().await;
            }
        }
        world.is_exact(served).await;
        world
            .has_told_them_apart(
                "may be counted twice if the copy was made while this process ran and not with",
            )
            .await;
        // Each is one of its own from now on.
        for node in &mut world.nodes {
            node.kill();
            node.restart().await;
            served += node.serve("ollama", 5).await;
        }
        world.is_exact(served).await;
    }
}
