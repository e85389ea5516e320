//! Simulated histories against the real SQL.
//!
//! A history is what the instances of one world asked of their model hub, and what befell it. Each is gone through
//! twice on a real Postgres, whose clock is the world's:
//! - `order`: one call after another, as it was. Every answer has to be the model's, so that what is proven of
//!   worlds holds for the SQL, and whatever the SQL does the model can be asked about;
//! - `crowd`: all instances at once, each on its own connection, as fast as they go. What comes out has to be what
//!   some order makes of it, with all that no order may change.
//!
//! `SIM_HISTORIES=n` says how many, `SIM_HISTORY=x` goes through one of them.

mod crowd;
mod database;
mod mirror;
mod order;
#[allow(dead_code, reason = "what the other tests need of it")]
#[path = "../../../tests/it/pg.rs"]
mod pg;
mod promises;

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use database::{Database, Template};
use tokio::runtime::{Builder, Runtime};

use super::{journal, number, plan::Plan, story};

async fn go_through(database: &mut Database<'_>, seed: u64) -> Result<(), String> {
    let (lived, events) = journal::of(|| story::live(seed, Plan::of(seed), false, &mut Vec::new()));
    lived.map_err(|error| format!("the world itself fails: {error}"))?;
    order::go_through(database, &events).await.map_err(|error| format!("in order: {error}"))?;
    crowd::go_through(database, &events).await.map_err(|error| format!("all at once: {error}"))
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn histories() {
    if pg::skipped(&["HUB_TESTS"]) {
        return;
    }
    let one = number("SIM_HISTORY");
    let (first, last) = one.map_or((1, number("SIM_HISTORIES").unwrap_or(20)), |seed| (seed, seed));
    let template = runtime().block_on(Template::new());
    let next = AtomicU64::new(first);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for worker in 0..2 {
            let (template, next, failed) = (&template, &next, &failed);
            scope.spawn(move || {
                let runtime = runtime();
                let mut database = runtime.block_on(template.database(worker));
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed > last || failed.lock().unwrap().len() >= 12 {
                        return;
                    }
                    if let Err(error) = runtime.block_on(go_through(&mut database, seed)) {
                        failed.lock().unwrap().push(format!(
                            "history {seed}: {error}\n  to see it: SIM_HISTORY={seed} cargo test --lib simulator::histories"
                        ));
                        // What it has left behind would be the next one's.
                        database = runtime.block_on(template.database(100 + seed));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
