//! Each rule of the pool by itself; `model_tests` has them all at once.

use std::{
    collections::{HashMap, HashSet},
    sync::atomic::{AtomicU32, AtomicUsize, Ordering},
    time::Duration,
};

use super::*;
use crate::model::{Cause, Effect};

const NOW: Timestamp = Timestamp(1_000_000_000);
const ANY: Ask<'_> = Ask { exclude: &[], caller: 0 };

fn after(secs: u64) -> Timestamp {
    NOW.saturating_add(Duration::from_secs(secs))
}

fn record(n: usize) -> KeyRecord {
    KeyRecord::new(Secret::new(format!("sk-test-0123456789-{n}")), NOW)
}

fn add(pool: &Pool, record: KeyRecord) -> KeyId {
    pool.insert(record, Health::default(), NOW).unwrap()
}

fn pool(options: Options, keys: usize) -> (Arc<Pool>, Vec<KeyId>) {
    let pool = Pool::new("ollama", options);
    let ids = (0..keys).map(|n| add(&pool, record(n))).collect();
    (pool, ids)
}

fn with(strategy: Strategy) -> Options {
    Options { strategy, ..Options::default() }
}

fn pick(pool: &Arc<Pool>, now: Timestamp) -> Lease {
    pool.pick(&ANY, now).unwrap()
}

fn why(pool: &Arc<Pool>, now: Timestamp) -> Reason {
    pool.pick(&ANY, now).unwrap_err().reason
}

fn limited(secs: u64) -> Effect {
    Effect::RateLimit { until: after(secs) }
}

const REFUSED: Effect = Effect::Auth { cooldown: None };
const BROKEN: Effect = Effect::Server { cooldown: None };

#[test]
fn credentials_are_sensitive_and_come_back_as_secrets() {
    let (pool, ids) = pool(Options::default(), 1);
    let lease = pick(&pool, NOW);
    assert_eq!(lease.credential(), "Bearer sk-test-0123456789-0");
    assert!(lease.credential().is_sensitive());
    for shown in
        [format!("{lease:?}"), format!("{:?}", pool.get(ids[0], NOW)), format!("{:?}", pool.record(ids[0]))]
    {
        assert!(!shown.contains("0123456789"), "{shown}");
    }
    assert_eq!(pool.secret(ids[0]).unwrap().expose(), "sk-test-0123456789-0");
    assert_eq!(pool.record(ids[0]), Some(record(0)));
    pool.set_options(Options { scheme: Scheme::Bare, ..Options::default() }, NOW);
    assert_eq!(pick(&pool, NOW).credential(), "sk-test-0123456789-0");
    assert_eq!(pool.record(ids[0]), Some(record(0)));
}

#[test]
fn refuses_keys_that_are_there_or_cannot_be_sent() {
    let (pool, ids) = pool(Options::default(), 1);
    let broken = KeyRecord::new(Secret::new("line\nbreak"), NOW);
    assert_eq!(pool.insert(record(0), Health::default(), NOW), Err(InsertError::Exists));
    assert_eq!(pool.insert(broken, Health::default(), NOW), Err(InsertError::NotAHeaderValue));
    assert_eq!(pool.replace(ids[0], record(1), false, NOW), Err(ReplaceError::AnotherKey));
    assert_eq!(pool.remove(ids[0]), Some(record(0)));
    assert_eq!(pool.replace(ids[0], record(0), false, NOW), Err(ReplaceError::Missing));
    assert_eq!(why(&pool, NOW), Reason::Empty);
}

#[test]
fn round_robin_picks_every_key_once_per_round() {
    let (pool, ids) = pool(Options::default(), 50);
    for _ in 0..3 {
        let round: HashSet<_> = ids.iter().map(|_| pick(&pool, NOW).key_id()).collect();
        assert_eq!(round.len(), 50);
    }
}

#[test]
fn a_round_survives_keys_that_leave_and_return_in_it() {
    let mut rng = fastrand::Rng::with_seed(3);
    let (pool, ids) = pool(Options::default(), 40);
    let mut turns: HashMap<KeyId, u32> = ids.iter().map(|id| (*id, 0)).collect();
    let mut out = Vec::new();
    for round in 1..=50 {
        // Forty picks make the round; between them any key may leave, and return before the round ends.
        for _ in 0..40 {
            let lease = pick(&pool, NOW);
            let turn = turns.get_mut(&lease.key_id()).unwrap();
            *turn += 1;
            assert_eq!(*turn, round, "a second turn in round {round}");
            lease.finish(Effect::Success, NOW);
            let switch = |id, enabled| {
                let record = KeyRecord { enabled, ..pool.record(id).unwrap() };
                pool.replace(id, record, false, NOW).unwrap();
            };
            for _ in 0..3 {
                let id = ids[rng.usize(..40)];
                if !out.contains(&id) {
                    switch(id, false);
                    out.push(id);
                }
            }
            // The round goes on while somebody who can be picked waits for a turn.
            let nobody_waits =
                |out: &[KeyId]| turns.iter().all(|(id, turn)| *turn == round || out.contains(id));
            while !out.is_empty() && (nobody_waits(&out) || rng.bool()) {
                let id = out.swap_remove(rng.usize(..out.len()));
                switch(id, true);
            }
        }
        assert!(turns.values().all(|turn| *turn == round));
    }
}

#[test]
fn an_excluded_key_keeps_its_turn() {
    let (pool, ids) = pool(Options::default(), 3);
    for exclude in [&ids[..1], &ids[..2], &ids[1..]] {
        for _ in 0..20 {
            let lease = pool.pick(&Ask { exclude, caller: 0 }, NOW).unwrap();
            assert!(!exclude.contains(&lease.key_id()));
        }
    }
    let reason = pool.pick(&Ask { exclude: &ids, caller: 0 }, NOW).unwrap_err();
    assert_eq!(reason, NoKey { total: 3, reason: Reason::Excluded });
    let round: HashSet<_> = (0..6).map(|_| pick(&pool, NOW).key_id()).collect();
    assert_eq!(round.len(), 3);
}

#[test]
fn no_strategy_returns_an_excluded_key() {
    for strategy in [Strategy::LeastBusy, Strategy::Weighted, Strategy::Random, Strategy::Affinity] {
        let (pool, ids) = pool(with(strategy), 4);
        for caller in 0..200 {
            let exclude = &ids[caller as usize % 4..];
            match pool.pick(&Ask { exclude, caller }, NOW) {
                Ok(lease) => assert!(!exclude.contains(&lease.key_id()), "{strategy:?}"),
                Err(none) => assert_eq!((none.reason, exclude.len()), (Reason::Excluded, 4)),
            }
        }
    }
}

#[test]
fn keys_that_fail_together_fail_no_request() {
    for strategy in
        [Strategy::RoundRobin, Strategy::LeastBusy, Strategy::Weighted, Strategy::Random, Strategy::Affinity]
    {
        let (pool, ids) = pool(with(strategy), 60);
        // A third of them is refused for a while, returns at once and is refused again.
        let failing: HashSet<KeyId> = ids.iter().copied().take(20).collect();
        for id in &failing {
            pool.lease_for(*id, NOW).unwrap().finish(limited(1), NOW);
        }
        for request in 0..200 {
            let (mut tried, now) = (Vec::new(), after(1));
            let served = (0..3).any(|_| {
                let ask = Ask { exclude: &tried, caller: request };
                let lease = pool.pick(&ask, now).unwrap();
                tried.push(lease.key_id());
                let fails = failing.contains(&lease.key_id());
                lease.finish(if fails { limited(3600) } else { Effect::Success }, now);
                !fails
            });
            assert!(served, "{strategy:?}: request {request} met nothing but failing keys");
        }
    }
}

#[test]
fn a_key_that_is_passed_over_keeps_its_turn() {
    let (pool, ids) = pool(Options::default(), 4);
    pool.lease_for(ids[0], NOW).unwrap().finish(limited(1), NOW);
    let round: HashSet<_> = (0..3).map(|_| pick(&pool, after(1)).key_id()).collect();
    assert!(round.len() == 3 && !round.contains(&ids[0]), "it came back last");
    let again = pool.pick(&Ask { exclude: &[KeyId(1)], caller: 0 }, after(1)).unwrap();
    assert_ne!(again.key_id(), ids[0]);
    assert_eq!(pick(&pool, after(1)).key_id(), ids[0]);
}

#[test]
fn weighted_follows_the_weights() {
    let pool = Pool::new("ollama", with(Strategy::Weighted));
    let weights = [1, 2, 3, 10, 100, 1000, 0, 60_000];
    let ids: Vec<_> = weights
        .iter()
        .enumerate()
        .map(|(n, weight)| add(&pool, KeyRecord { weight: *weight, ..record(n) }))
        .collect();
    // Out of range counts as the nearest weight in range.
    let shares = [1.0, 2.0, 3.0, 10.0, 100.0, 1000.0, 1.0, 1000.0].map(|weight| weight / 2117.0);
    let rounds = 200_000;
    let mut seen: HashMap<KeyId, u32> = HashMap::new();
    for _ in 0..rounds {
        *seen.entry(pick(&pool, NOW).key_id()).or_default() += 1;
    }
    for (id, share) in ids.iter().zip(shares) {
        let expected = share * f64::from(rounds);
        let got = f64::from(seen.get(id).copied().unwrap_or(0));
        // Six standard deviations.
        assert!((got - expected).abs() < 6.0 * expected.sqrt() + 1.0, "{got} instead of {expected}");
    }
    pool.replace(ids[5], KeyRecord { weight: 1, ..pool.record(ids[5]).unwrap() }, false, NOW).unwrap();
    let heavy = (0..1000).filter(|_| pick(&pool, NOW).key_id() == ids[5]).count();
    assert!(heavy < 20, "a lower weight takes effect at once: {heavy}");
}

#[test]
fn least_busy_keeps_the_load_level_and_random_reaches_all() {
    let (busy, _) = pool(with(Strategy::LeastBusy), 100);
    let leases: Vec<_> = (0..1000).map(|_| pick(&busy, NOW)).collect();
    let most = busy.scan(0, 100, NOW).0.iter().map(|key| key.in_flight).max().unwrap();
    assert!(most <= 15, "{most}");
    drop(leases);
    assert_eq!(busy.counts(NOW).in_flight, 0);

    let (random, _) = pool(with(Strategy::Random), 20);
    let seen: HashSet<_> = (0..1000).map(|_| pick(&random, NOW).key_id()).collect();
    assert_eq!(seen.len(), 20);
}

#[test]
fn a_caller_keeps_its_key_and_finds_it_again() {
    let (pool, _) = pool(with(Strategy::Affinity), 100);
    let key_of = |caller, now| pool.pick(&Ask { exclude: &[], caller }, now).unwrap().key_id();
    let homes: Vec<_> = (0..200).map(|caller| key_of(caller, NOW)).collect();
    for (caller, home) in homes.iter().enumerate() {
        assert_eq!(key_of(caller as u64, NOW), *home);
    }
    assert!(homes.iter().collect::<HashSet<_>>().len() > 50, "callers are spread");

    pool.lease_for(homes[7], NOW).unwrap().finish(limited(60), NOW);
    let second = key_of(7, NOW);
    assert_ne!(second, homes[7]);
    assert_eq!(key_of(7, NOW), second, "meanwhile it keeps to another");
    assert_eq!(key_of(7, after(60)), homes[7]);

    add(&pool, record(100));
    let moved =
        homes.iter().enumerate().filter(|(caller, home)| key_of(*caller as u64, after(60)) != **home).count();
    assert!(moved < 10, "a new key moves the callers of one key: {moved}");
}

#[test]
fn cooldowns_end_by_themselves_and_are_never_shortened() {
    let (pool, ids) = pool(Options::default(), 1);
    let (first, second) = (pick(&pool, NOW), pick(&pool, NOW));
    first.finish(limited(60), NOW);
    second.finish(limited(10), NOW);
    assert_eq!(why(&pool, NOW), Reason::RateLimited { retry_at: after(60) });
    assert_eq!(why(&pool, after(59)), Reason::RateLimited { retry_at: after(60) });
    pick(&pool, after(60)).finish(Effect::Success, after(60));
    assert_eq!(pool.get(ids[0], after(60)).unwrap().health.consecutive_failures, 0);
}

#[test]
fn answers_from_before_clear_nothing_and_a_burst_counts_once() {
    let (pool, ids) = pool(Options::default(), 1);
    let early = pick(&pool, NOW);
    let burst: Vec<_> = (0..10).map(|_| pick(&pool, NOW)).collect();
    for lease in burst {
        lease.finish(REFUSED, NOW);
    }
    early.finish(Effect::Success, NOW);
    let health = pool.get(ids[0], NOW).unwrap().health;
    assert_eq!((health.auth_failures, health.failed_until), (1, Some(after(3600))));
}

#[test]
fn a_persons_enable_clears_everything_and_old_answers_change_nothing() {
    let (pool, ids) = pool(Options::default(), 1);
    let early = pick(&pool, NOW);
    pick(&pool, NOW).finish(REFUSED, NOW);
    pool.drain_changed();
    pool.replace(ids[0], pool.record(ids[0]).unwrap(), true, NOW).unwrap();
    let changed = pool.drain_changed();
    assert_eq!(changed, [(ids[0], Health { epoch: changed[0].1.epoch, ..Health::default() })]);
    assert_eq!(changed[0].1.epoch.time(), NOW);
    early.finish(REFUSED, NOW);
    assert_eq!(pool.drain_changed(), []);
    assert_eq!(pool.get(ids[0], NOW).unwrap().status, Status::Active);

    // Enabling a key that nothing is wrong with holds off old answers just as well.
    let early = pick(&pool, NOW);
    pool.replace(ids[0], pool.record(ids[0]).unwrap(), true, NOW).unwrap();
    early.finish(limited(60), NOW);
    assert_eq!(pool.get(ids[0], NOW).unwrap().status, Status::Active);
}

#[test]
fn people_disable_for_good_or_until_and_keys_expire() {
    let (pool, ids) = pool(Options::default(), 1);
    let change = |change: fn(&mut KeyRecord)| {
        let mut record = pool.record(ids[0]).unwrap();
        change(&mut record);
        pool.replace(ids[0], record, false, NOW).unwrap();
    };
    change(|record| record.disabled_until = Some(after(10)));
    assert_eq!(why(&pool, NOW), Reason::Unavailable { retry_at: Some(after(10)) });
    assert_eq!(pool.counts(after(9)).disabled, 1);
    assert_eq!(pool.counts(after(10)).active, 1);
    change(|record| record.enabled = false);
    assert_eq!(why(&pool, after(10)), Reason::Unavailable { retry_at: None });
    change(|record| (record.enabled, record.expires_at) = (true, Some(after(20))));
    drop(pick(&pool, after(19)));
    assert_eq!(why(&pool, after(20)), Reason::Unavailable { retry_at: None });
    assert_eq!(pool.counts(after(20)).expired, 1);
    change(|record| record.expires_at = None);
    drop(pick(&pool, after(20)));
}

#[test]
fn a_key_that_expires_before_it_returns_is_not_waited_for() {
    let (pool, _) = pool(Options::default(), 0);
    let id = add(&pool, KeyRecord { expires_at: Some(after(30)), ..record(0) });
    pool.lease_for(id, NOW).unwrap().finish(limited(60), NOW);
    assert_eq!(why(&pool, NOW), Reason::Unavailable { retry_at: None });
}

#[test]
fn a_mass_expiry_never_hands_out_an_expired_key() {
    let (pool, _) = pool(Options::default(), 10);
    for n in 10..1000 {
        add(&pool, KeyRecord { expires_at: Some(after(5)), ..record(n) });
    }
    for _ in 0..2000 {
        let id = pick(&pool, after(5)).key_id();
        assert_eq!(pool.record(id).unwrap().expires_at, None);
    }
}

#[test]
fn what_the_caller_is_told_depends_on_what_is_wrong() {
    let (pool, ids) = pool(Options::default(), 4);
    let end = |n: usize, effect| pool.lease_for(ids[n], NOW).unwrap().finish(effect, NOW);
    end(0, limited(60));
    end(1, Effect::Quota { until: after(30) });
    end(2, REFUSED);
    pool.replace(ids[3], KeyRecord { enabled: false, ..record(3) }, false, NOW).unwrap();
    assert_eq!(why(&pool, NOW), Reason::RateLimited { retry_at: after(30) }, "refused keys do not count");
    pool.replace(ids[3], record(3), false, NOW).unwrap();
    end(3, BROKEN);
    assert_eq!(why(&pool, NOW), Reason::Unavailable { retry_at: Some(after(5)) });
}

#[test]
fn a_minute_admits_exactly_its_limit() {
    let (pool, _) = pool(Options { requests_per_minute: Some(3), ..Options::default() }, 2);
    for _ in 0..6 {
        drop(pick(&pool, NOW));
    }
    assert_eq!(why(&pool, NOW), Reason::RateLimited { retry_at: after(60) });
    assert_eq!(pool.counts(NOW).active, 2, "a key at our own limit is a healthy one");
    for _ in 0..6 {
        drop(pick(&pool, after(60)));
    }
    assert_eq!(why(&pool, after(61)), Reason::RateLimited { retry_at: after(120) });
    pool.set_options(Options::default(), after(61));
    drop(pick(&pool, after(61)));
}

#[test]
fn a_full_key_returns_when_a_request_ends() {
    let (pool, _) = pool(Options { max_in_flight: Some(2), ..Options::default() }, 1);
    let (first, second) = (pick(&pool, NOW), pick(&pool, NOW));
    assert_eq!(why(&pool, NOW), Reason::RateLimited { retry_at: after(1) });
    drop(first);
    let third = pick(&pool, NOW);
    second.finish(limited(10), NOW);
    drop(third);
    assert_eq!(why(&pool, NOW), Reason::RateLimited { retry_at: after(10) }, "ended, but cooling");
    drop(pick(&pool, after(10)));
}

#[test]
fn a_limit_cools_every_key_of_the_account_at_once() {
    let (pool, _) = pool(Options { cooldown_scope: CooldownScope::Account, ..Options::default() }, 0);
    let of = |n, name: Option<&str>| add(&pool, KeyRecord { username: name.map(Into::into), ..record(n) });
    let (a, b, c) = (of(0, Some("ann")), of(1, Some(" ann ")), of(2, Some("bob")));
    let (d, e, f) = (of(3, None), of(4, Some("N/A")), of(5, Some("")));
    let active = |id, now| pool.get(id, now).unwrap().status == Status::Active;
    pool.lease_for(a, NOW).unwrap().finish(limited(60), NOW);
    assert_eq!([a, b, c, d, e, f].map(|id| active(id, NOW)), [false, false, true, true, true, true]);
    let health = pool.get(b, NOW).unwrap().health;
    assert_eq!((health.cause, health.consecutive_failures), (Cause::RateLimit, 0), "it did not fail itself");
    assert_eq!(pool.drain_changed().len(), 2);
    pool.lease_for(d, NOW).unwrap().finish(limited(60), NOW);
    assert_eq!([c, d, e, f].map(|id| active(id, NOW)), [true, false, true, true], "no name is no account");

    let early = pool.lease_for(a, after(60)).unwrap();
    pool.replace(b, pool.record(b).unwrap(), true, after(60)).unwrap();
    early.finish(Effect::Quota { until: after(90) }, after(60));
    assert_eq!([a, b].map(|id| active(id, after(60))), [false, true], "enabled after that attempt began");
    pool.lease_for(c, after(60)).unwrap().finish(REFUSED, after(60));
    pool.lease_for(b, after(60)).unwrap().finish(BROKEN, after(60));
    assert!(active(e, after(60)) && active(f, after(60)), "only limits are shared");
}

#[test]
fn needing_verification_only_a_probe_brings_a_key_back() {
    let (pool, ids) = pool(Options::default(), 1);
    for _ in 0..5 {
        pool.lease_for(ids[0], NOW).unwrap().finish(REFUSED, NOW);
    }
    let day = after(24 * 3600);
    assert_eq!(pool.next_verification(), Some(day));
    assert_eq!(why(&pool, after(1_000_000)), Reason::Unavailable { retry_at: None });
    assert_eq!(pool.due_for_verification(after(1_000_000), 10), ids);
    assert_eq!(pool.due_for_verification(after(1_000_000), 10), [], "one probe at a time");
    assert_eq!(pool.next_verification(), Some(after(1_000_300)));
    let late = after(1_000_001);
    pool.lease_for(ids[0], late).unwrap().finish(REFUSED, late);
    assert_eq!(pool.next_verification(), Some(late.saturating_add(Duration::from_secs(24 * 3600))));
    pool.lease_for(ids[0], late).unwrap().finish(Effect::Success, late);
    assert_eq!(pool.next_verification(), None);
    drop(pick(&pool, late));
}

#[test]
fn a_lease_outlives_its_key_and_never_means_another() {
    let (pool, ids) = pool(Options { max_in_flight: Some(1), ..Options::default() }, 1);
    let old = pick(&pool, NOW);
    pool.remove(ids[0]);
    let id = add(&pool, record(1));
    let again = add(&pool, record(0));
    assert_eq!(old.credential(), "Bearer sk-test-0123456789-0");
    old.finish(REFUSED, NOW);
    for id in [id, again] {
        let view = pool.get(id, NOW).unwrap();
        assert_eq!((view.in_flight, view.status), (0, Status::Active));
    }
    // The slot is free now; the next key may have it.
    add(&pool, record(2));
    assert_eq!(pool.lock().slots(), 3);
    assert_eq!(pool.counts(NOW), StateCounts { total: 3, active: 3, ..StateCounts::default() });
}

#[test]
fn deadlines_do_not_pile_up() {
    let (pool, ids) = pool(Options::default(), 10);
    for n in 0..10_000 {
        let lease = pool.lease_for(ids[n % 10], NOW).unwrap();
        lease.finish(limited(60 + n as u64), NOW);
    }
    assert_eq!(pool.lock().deadlines(), 10);
    for id in ids {
        pool.remove(id);
    }
    assert_eq!(pool.lock().deadlines(), 0);
}

#[test]
fn a_clock_set_back_does_not_lock_keys_away() {
    let (pool, _) = pool(Options { requests_per_minute: Some(1), ..Options::default() }, 1);
    drop(pick(&pool, after(86_400)));
    assert!(pool.pick(&ANY, after(86_400)).is_err());
    drop(pick(&pool, NOW));
}

#[test]
fn listings_come_in_parts_and_miss_nothing() {
    let (pool, ids) = pool(Options::default(), 1300);
    pool.remove(ids[5]);
    let (mut from, mut seen) = (Some(0), Vec::new());
    while let Some(at) = from {
        let (part, next) = pool.scan(at, usize::MAX, NOW);
        assert!(part.len() <= Pool::MAX_SCAN);
        seen.extend(part.into_iter().map(|key| key.id));
        from = next;
    }
    assert_eq!(seen.len(), 1299);
    assert_eq!(seen.into_iter().collect::<HashSet<_>>().len(), 1299);
}

#[test]
fn changing_the_strategy_keeps_every_key() {
    let (pool, ids) = pool(Options::default(), 30);
    pool.lease_for(ids[3], NOW).unwrap().finish(limited(60), NOW);
    for strategy in [Strategy::Weighted, Strategy::Affinity, Strategy::Random, Strategy::RoundRobin] {
        pool.set_options(with(strategy), NOW);
        let seen: HashSet<_> =
            (0..3000).map(|caller| pool.pick(&Ask { exclude: &[], caller }, NOW).unwrap().key_id()).collect();
        assert_eq!(seen.len(), 29, "{strategy:?}");
        assert!(!seen.contains(&ids[3]));
    }
}

#[test]
fn limits_hold_and_nothing_leaks_with_many_threads() {
    let options = Options { max_in_flight: Some(3), requests_per_minute: Some(500), ..Options::default() };
    for strategy in [Strategy::RoundRobin, Strategy::LeastBusy, Strategy::Weighted, Strategy::Affinity] {
        let (pool, ids) = pool(Options { strategy, ..options.clone() }, 4);
        let busy: HashMap<_, _> = ids.iter().map(|id| (*id, AtomicU32::new(0))).collect();
        let picked = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (pool, busy, picked) = (&pool, &busy, &picked);
                scope.spawn(move || {
                    let mut held = Vec::new();
                    for n in 0..2000 {
                        if let Ok(lease) = pool.pick(&Ask { exclude: &[], caller: thread }, NOW) {
                            assert!(busy[&lease.key_id()].fetch_add(1, Ordering::SeqCst) < 3);
                            picked.fetch_add(1, Ordering::SeqCst);
                            held.push(lease);
                        }
                        if n % 3 != 0
                            && let Some(lease) = held.pop()
                        {
                            busy[&lease.key_id()].fetch_sub(1, Ordering::SeqCst);
                            match n % 2 {
                                0 => lease.finish(Effect::Success, NOW),
                                _ => drop(lease),
                            }
                        }
                    }
                    for lease in held {
                        busy[&lease.key_id()].fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert!(picked.load(Ordering::SeqCst) <= 2000, "four keys, 500 a minute");
        assert_eq!(pool.counts(NOW), StateCounts { total: 4, active: 4, ..StateCounts::default() });
        let rest = std::iter::from_fn(|| pool.pick(&ANY, NOW).ok()).map(drop).count();
        assert_eq!(picked.load(Ordering::SeqCst) + rest, 2000, "{strategy:?}");
    }
}
