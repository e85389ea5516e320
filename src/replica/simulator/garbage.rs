//! Answers that no hub gives: true ones that were damaged on the way, or made up by whatever stands in the hub's place.
//! Nothing panics, an error is one short sentence without a secret, what was counted stays counted once, and everybody
//! comes to the same when the true hub answers again.

use fastrand::Rng;
use serde_json::{Value, json};

use super::{
    edits::edit,
    world::{KEYS, TOKENS, World},
};
use crate::replica::protocol::Wishes;

const WORDS: [&str; 16] = [
    "",
    "a\0b",
    "\u{1b}[31m\n",
    "null",
    "ok",
    "busy",
    "applied",
    "already",
    "mismatch",
    "elsewhere",
    "missing",
    "read_only",
    "unsupported",
    "1:99999999999:",
    "5:4:",
    "00000000-0000-0000-0000-000000000000",
];

fn nodes(value: &Value) -> usize {
    1 + match value {
        Value::Array(list) => list.iter().map(nodes).sum(),
        Value::Object(map) => map.values().map(nodes).sum(),
        _ => 0,
    }
}

/// Changes what is at the place `at`, counted from the beginning.
fn change(value: &mut Value, at: &mut usize, how: &mut impl FnMut(&mut Value)) {
    if *at == 0 {
        *at = usize::MAX;
        return how(value);
    }
    *at -= 1;
    let inner: Vec<&mut Value> = match value {
        Value::Array(list) => list.iter_mut().collect(),
        Value::Object(map) => map.values_mut().collect(),
        _ => Vec::new(),
    };
    for value in inner {
        if *at == usize::MAX {
            return;
        }
        change(value, at, how);
    }
}

fn nested(depth: usize) -> Value {
    (0..depth).fold(json!([]), |inner, _| json!([inner]))
}

/// Another value in its place.
fn damage(rng: &mut Rng, value: &mut Value) {
    match (rng.u8(..8), &mut *value) {
        (0 | 1, Value::Number(number)) => {
            let number = number.as_i64().unwrap_or(0);
            let others = [
                json!(number.wrapping_add(1)),
                json!(number.wrapping_sub(1)),
                json!(number.wrapping_neg()),
                json!(number.wrapping_mul(1_000)),
            ];
            *value = others[rng.usize(..others.len())].clone();
        }
        (0, Value::Array(list)) => list.extend(list.clone()),
        (1, Value::Array(list)) => drop(list.pop()),
        (2, Value::Array(list)) => list.reverse(),
        (0..3, Value::Object(map)) => {
            let names: Vec<String> = map.keys().cloned().collect();
            if let Some(name) = (!names.is_empty()).then(|| &names[rng.usize(..names.len())]) {
                map.remove(name);
            }
        }
        (0..3, Value::String(text)) => {
            let cut = rng.usize(..=text.chars().count());
            *text = text.chars().take(cut).collect();
        }
        _ => {
            let others = [
                Value::Null,
                json!(true),
                json!(0),
                json!(-1),
                json!(i64::MAX),
                json!(i64::MIN),
                json!(u64::MAX),
                json!(1e300),
                json!(0.5),
                json!([]),
                json!({}),
                nested(100),
                json!("x".repeat(5_000)),
                json!(WORDS[rng.usize(..WORDS.len())]),
            ];
            *value = others[rng.usize(..others.len())].clone();
        }
    }
}

/// A true answer with one thing in it that is not.
fn damaged(rng: &mut Rng, body: &str) -> String {
    let mut value: Value = serde_json::from_str(body).unwrap();
    let mut at = rng.usize(..nodes(&value));
    change(&mut value, &mut at, &mut |value| damage(rng, value));
    value.to_string()
}

/// Nothing of a hub's.
fn rubbish(rng: &mut Rng, body: &str) -> String {
    match rng.u8(..8) {
        0 => String::new(),
        1 => "<!DOCTYPE html><title>Log in to the WiFi</title>".to_owned(),
        2 => body.chars().take(rng.usize(..body.chars().count())).collect(),
        3 => "[".repeat(100_000),
        4 => nested(120).to_string(),
        5 => format!("{body}{body}"),
        6 => "null".to_owned(),
        _ => json!({"status": "ok", "code": 0, "data": {}}).to_string(),
    }
}

/// A round in which an answer is replaced now and then, at most `most` of them. Ends where an error ends it.
fn round(
    world: &mut World,
    at: usize,
    most: usize,
    replace: fn(&mut Rng, &str) -> String,
) -> Result<(), String> {
    let hello = world.rng.bool();
    world.begin(at, Wishes { hello, stats: true, limits: false, only_push: false });
    let mut replaced = 0;
    for _ in 0..3_000 {
        match world.step(at) {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(error) => return is_one_sentence(&error),
        }
        if replaced < most
            && world.chance(300)
            && let Some((call, Some(body))) = world.instances[at].waiting.take()
        {
            replaced += 1;
            let body = replace(&mut world.rng, &body);
            world.instances[at].waiting = Some((call, Some(body)));
        }
    }
    // What never ends by itself ends with the round.
    world.instances[at].machine.forget();
    Ok(())
}

fn is_one_sentence(error: &str) -> Result<(), String> {
    let told = error.contains("the hub answered what no hub answers (");
    let is_short = error.len() < 200 && !error.contains('\n') && !error.contains('\u{1b}');
    let tells_secret = KEYS.iter().chain(&TOKENS).any(|secret| error.contains(secret));
    if told && is_short && !tells_secret { Ok(()) } else { Err(format!("is told as {error}")) }
}

/// Counts and decisions, and rounds of which every other one meets garbage.
fn live(seed: u64, most: usize, replace: fn(&mut Rng, &str) -> String) -> Result<World, String> {
    let mut world = World::new(seed, 2, false, std::env::var_os("SIM_SEED").is_some())?;
    (world.loss, world.honest) = (0, false);
    // Whoever answers first is taken for the hub.
    for at in 0..world.instances.len() {
        world.traffic(at);
        round(&mut world, at, 0, replace)?;
    }
    for _ in 0..world.rng.usize(5..30) {
        let at = world.rng.usize(..world.instances.len());
        let pause = world.rng.i64(1..5_000);
        world.pass(pause);
        world.traffic(at);
        edit(&mut world, at)?;
        round(&mut world, at, most, replace)?;
        if world.rng.bool() {
            world.traffic(at);
        }
        round(&mut world, at, 0, replace)?;
    }
    Ok(world)
}

fn all(name: &str, one: impl Fn(u64) -> Result<(), String>) {
    if let Some(seed) = super::number("SIM_SEED") {
        assert_eq!(one(seed), Ok(()), "seed {seed}");
        return;
    }
    // A world of these takes as long as ten of the others.
    let seeds = super::number("SIM_SEEDS").map_or(200, |worlds| (worlds / 10).max(200));
    for seed in 1..=seeds {
        assert_eq!(
            one(seed),
            Ok(()),
            "to see it: SIM_SEED={seed} cargo test --lib garbage::{name} -- --nocapture"
        );
    }
}

/// What is not understood changes nothing.
#[test]
fn rubbish_is_as_good_as_no_answer() {
    all("rubbish_is_as_good_as_no_answer", |seed| {
        let mut world = live(seed, usize::MAX, rubbish)?;
        world.heal()?;
        world.check()
    });
}

/// What is understood and not true is believed as far as it goes, and forgotten when everything is read again, as it is
/// when the hub has moved.
#[test]
fn a_damaged_answer_neither_loses_nor_doubles_a_count() {
    all("a_damaged_answer_neither_loses_nor_doubles_a_count", |seed| {
        let mut world = live(seed, 1, damaged)?;
        world.hub.db.identity.timeline += 1;
        let healed = world.heal().and_then(|()| world.check_numbers());
        world.trace.iter().flatten().for_each(|line| println!("{line}"));
        healed
    });
}
