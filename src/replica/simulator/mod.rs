//! Worlds of instances, a network and a hub, each made from a seed, in which everything goes wrong that can; and
//! what has to be true when it has stopped.
//!
//! `SIM_SEEDS=n` says how many, `SIM_SEED=x` tells one of them in full. In `histories` what they asked of their hub
//! is asked of the real SQL.

mod adoptions;
mod check;
mod core;
pub mod cuts;
mod edits;
mod fates;
mod files;
mod fleet;
mod foreign;
mod garbage;
mod histories;
pub mod hub;
mod journal;
mod local;
mod memory;
mod merge;
mod network;
mod oracle;
mod pages;
mod plan;
pub mod sabotage;
mod scenes;
pub mod shelf;
mod story;
mod tables;
mod twins;
mod world;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
};

use plan::Plan;
use sabotage::Sabotage;

/// Lives one world through; what went wrong.
fn live(seed: u64, plan: Plan, traced: bool) -> (Result<(), String>, Vec<String>) {
    let mut trace = Vec::new();
    let lived = catch_unwind(AssertUnwindSafe(|| story::live(seed, plan, traced, &mut trace)));
    let result = lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(format!("panicked: {}", text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("?")))
    });
    (result, trace)
}

fn tell(seed: u64, error: &str) -> String {
    format!(
        "seed {seed}: {error}\n  to see it: SIM_SEED={seed} cargo test --lib simulator::worlds -- --nocapture"
    )
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn worlds() {
    if let Some(seed) = number("SIM_SEED") {
        // `SIM_BROKEN=rule` as well: how a broken rule shows.
        let broken = std::env::var("SIM_BROKEN").ok();
        let broken = sabotage::ALL.iter().find(|rule| Some(format!("{rule:?}")) == broken).copied();
        sabotage::set(broken);
        let (result, trace) =
            live(seed, broken.map_or(Plan::of(seed), |rule| Plan::against(rule, seed)), true);
        sabotage::set(None);
        trace.iter().for_each(|line| println!("{line}"));
        assert_eq!(result, Ok(()), "seed {seed}");
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(300);
    let next = AtomicU64::new(1);
    let failed: Vec<String> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed > seeds || failed.len() >= 3 {
                            return failed;
                        }
                        if let (Err(error), _) = live(seed, Plan::of(seed), false) {
                            failed.push(tell(seed, &error));
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

#[test]
fn every_broken_rule_is_noticed() {
    let most = number("SIM_SABOTAGE_SEEDS").unwrap_or(100);
    let mut unnoticed = Vec::new();
    std::panic::set_hook(Box::new(|_| {}));
    for rule in sabotage::ALL.iter().copied() {
        let noticed = (1..=most).find(|seed| broken(rule, *seed));
        match noticed {
            Some(seed) => println!("{rule:?}: seed {seed}"),
            None => unnoticed.push(rule),
        }
    }
    drop(std::panic::take_hook());
    assert!(unnoticed.is_empty(), "nobody noticed {unnoticed:?} in {most} worlds");
}

fn broken(rule: Sabotage, seed: u64) -> bool {
    let plan = Plan::against(rule, seed);
    let lived = || match rule {
        // Two copies have to cut the same batch before either has told it, or to part while they make contact; and a
        // hub to be adopted between two steps of somebody else: too rare to wait for.
        Sabotage::SplitsAsItsOwn => fleet::cut_alike(),
        Sabotage::CopiesAttachApart => fleet::attach_apart(),
        Sabotage::AdoptedIsApplied => fleet::adopt_unseen(),
        Sabotage::OldMarksStay => fleet::adopt_anew(),
        Sabotage::AdoptionHidesWhatIsNew => adoptions::among_others(),
        Sabotage::AdoptionLowers | Sabotage::StrangersAreNotTold => adoptions::among_strangers(),
        Sabotage::AdoptionLeavesTheFuture => adoptions::of_another_time(),
        Sabotage::AdoptionEndsWhereItIsTooMuch => adoptions::in_parts(),
        Sabotage::ForkHidesDoubt => twins::of_one_that_lives_on(),
        Sabotage::CopiesGoUnseen => twins::that_is_ahead(),
        Sabotage::FirstContactForgetsLives => twins::before_contact(false),
        Sabotage::AdoptedHubTakesBatches => adoptions::while_batches_come(),
        Sabotage::SetsAreNotRetold => core::scenes::told_by_another(),
        Sabotage::OldSpansComeBack => core::scenes::old_to_a_new_one(),
        Sabotage::TakesWholeUsers => core::scenes::two_fields(),
        _ => live(seed, plan, false).0,
    };
    sabotage::set(Some(rule));
    let noticed = lived().is_err();
    sabotage::set(None);
    // Of a world that fails by itself nothing can be learnt.
    noticed && lived().is_ok()
}
