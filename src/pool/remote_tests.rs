//! What other instances tell of a key.

use super::*;
use crate::model::{Cause, Effect, Version};

fn failed(epoch: i64, until: i64) -> Health {
    Health {
        epoch: Version(epoch),
        failed_until: Some(Timestamp(until)),
        cause: Cause::Server,
        consecutive_failures: 1,
        server_failures: 1,
        ..Health::default()
    }
}

fn world() -> (Arc<Pool>, KeyId, KeyRecord, Timestamp) {
    let (pool, now) = (Pool::new("p", Options::default()), Timestamp(1_000_000));
    let record = KeyRecord::new(Secret::new("sk-remote"), now);
    let health = Health { epoch: Version(10), ..Health::default() };
    let id = pool.insert(record.clone(), health, now).unwrap();
    (pool, id, record, now)
}

#[test]
fn peoples_word_and_cooldowns_take_effect_and_are_not_told_back() {
    let (pool, id, record, now) = world();
    let edited = KeyRecord { note: Some("elsewhere".into()), weight: 4, ..record };
    pool.apply_remote(id, edited.clone(), &failed(10, 2_000_000), now).unwrap();
    let view = pool.get(id, now).unwrap();
    assert_eq!((view.weight, view.status), (4, Status::Failed));
    assert_eq!(view.health, failed(10, 2_000_000));
    assert_eq!(pool.drain_changed(), []);
    assert!(pool.pick(&Ask::default(), now).is_err());
    // An earlier epoch says nothing, and nothing new is nothing to tell.
    pool.apply_remote(id, edited.clone(), &failed(9, 9_000_000), now).unwrap();
    pool.apply_remote(id, edited, &failed(10, 1_500_000), now).unwrap();
    assert_eq!(pool.get(id, now).unwrap().health, failed(10, 2_000_000));
    assert_eq!(pool.drain_changed(), []);
    let gone = pool.apply_remote(KeyId(1), KeyRecord::new(Secret::new("x"), now), &failed(1, 1), now);
    assert_eq!(gone, Err(ReplaceError::Missing));
}

#[test]
fn what_only_we_know_is_still_told() {
    let (pool, id, record, now) = world();
    let effect = Effect::Auth { cooldown: None };
    pool.pick(&Ask::default(), now).unwrap().finish(effect, now);
    assert_eq!(pool.drain_changed().len(), 1);
    pool.apply_remote(id, record, &failed(10, 2_000_000), now).unwrap();
    let changed = pool.drain_changed();
    let health = &changed[0].1;
    assert_eq!((health.auth_failures, health.server_failures, health.cause), (1, 1, Cause::Auth));
}

#[test]
fn a_word_from_elsewhere_clears_as_one_from_here() {
    let (pool, id, record, now) = world();
    let lease = pool.pick(&Ask::default(), now).unwrap();
    pool.pick(&Ask::default(), now).unwrap().finish(Effect::Server { cooldown: None }, now);
    let cleared = Health { epoch: Version(11), ..Health::default() };
    pool.drain_changed();
    pool.apply_remote(id, record.clone(), &cleared, now).unwrap();
    // Picked before: says nothing about the key any more.
    lease.finish(Effect::Server { cooldown: None }, now);
    assert_eq!(pool.get(id, now).unwrap().health, cleared);
    assert_eq!(pool.drain_changed(), []);
    // And a success that began before a failure elsewhere clears nothing of it.
    let lease = pool.pick(&Ask::default(), now).unwrap();
    pool.apply_remote(id, record, &failed(11, 2_000_000), now).unwrap();
    lease.finish(Effect::Success, now);
    assert_eq!(pool.get(id, now).unwrap().health, failed(11, 2_000_000));
}
