use super::*;
use crate::model::UserId;

const HOUR: Duration = Duration::from_secs(3600);
const NOW: Timestamp = Timestamp(1_800_000_000_000);

fn user(n: u128) -> Subject {
    Subject::of_user(UserId(n << 96 | n))
}

fn verdict(n: u128, action: Action) -> Verdict {
    Verdict { subject: user(n), action, until: NOW.saturating_add(action.span()) }
}

const BLOCK: Action = Action::Block { span: HOUR };

fn later(span: Duration) -> Timestamp {
    NOW.saturating_add(span)
}

#[test]
fn a_block_ends_by_itself_and_is_nobody_else_s() {
    let verdicts = Verdicts::default();
    assert!(verdicts.apply(&[verdict(1, BLOCK)], NOW));
    assert_eq!(verdicts.check(user(1), None, NOW), Err(Barred::Blocked { until: later(HOUR) }));
    assert_eq!(verdicts.check(user(2), None, NOW), Ok(()));
    let last = later(HOUR - Duration::from_millis(1));
    assert!(verdicts.check(user(1), None, last).is_err());
    assert_eq!(verdicts.check(user(1), None, later(HOUR)), Ok(()));
    assert_eq!((verdicts.list(last).len(), verdicts.list(later(HOUR)).len()), (1, 0));
    verdicts.tidy(later(HOUR));
    assert!(verdicts.is_empty());
}

#[test]
fn a_throttle_leaves_its_part_of_the_limit() {
    let throttle = |factor| Action::Throttle { factor, span: HOUR };
    for (factor, usual, left) in [(0.5, Some(10), 5), (0.5, None, 30), (0.001, Some(10), 1)] {
        let verdicts = Verdicts::default();
        verdicts.apply(&[verdict(1, throttle(factor))], NOW);
        let served = (0..100).filter(|_| verdicts.check(user(1), usual, NOW).is_ok()).count();
        assert_eq!(served, left, "{factor} of {usual:?}");
        let reset = later(Duration::from_secs(60));
        let refused = Err(Barred::Throttled { limit: left as u32, reset });
        assert_eq!(verdicts.check(user(1), usual, NOW), refused);
        // What changes for others does not open the minute again.
        verdicts.apply(&[verdict(2, BLOCK)], NOW);
        assert_eq!(verdicts.check(user(1), usual, NOW), refused);
        assert_eq!(verdicts.check(user(1), usual, reset), Ok(()));
    }
    // Of two the stronger, and a block is stronger than both.
    let verdicts = Verdicts::default();
    verdicts.apply(&[verdict(1, throttle(0.1)), verdict(1, throttle(0.9))], NOW);
    assert_eq!((0..100).filter(|_| verdicts.check(user(1), Some(10), NOW).is_ok()).count(), 1);
    verdicts.apply(&[verdict(1, BLOCK)], NOW);
    assert!(matches!(verdicts.check(user(1), Some(10), NOW), Err(Barred::Blocked { .. })));
}

#[test]
fn what_a_person_lifts_stays_lifted_as_long_as_it_would_have_held() {
    let verdicts = Verdicts::default();
    verdicts.apply(&[verdict(1, BLOCK), verdict(2, BLOCK)], NOW);
    assert_eq!(verdicts.without(user(3), NOW), None);
    let without = verdicts.without(user(1), NOW).unwrap();
    assert!(verdicts.check(user(1), None, NOW).is_err(), "it is not done yet");
    verdicts.lift(user(1), NOW);
    let sorted = |mut all: Vec<Sentence>| {
        all.sort_by_key(|of| of.subject.to_string());
        all
    };
    assert_eq!(sorted(verdicts.kept(NOW)), sorted(without.clone()));
    assert_eq!(verdicts.check(user(1), None, NOW), Ok(()));
    assert!(verdicts.check(user(2), None, NOW).is_err());
    // The monitor goes on seeing what it saw; also after a restart.
    let restored = Verdicts::default();
    restored.restore(without);
    for verdicts in [&verdicts, &restored] {
        let soon = later(HOUR / 2);
        assert!(!verdicts.apply(&[verdict(1, BLOCK)], soon));
        assert_eq!(verdicts.check(user(1), None, soon), Ok(()));
        assert!(verdicts.check(user(2), None, soon).is_err());
        assert!(verdicts.apply(&[verdict(1, BLOCK)], later(HOUR)));
        assert!(verdicts.check(user(1), None, later(HOUR)).is_err());
    }
}

#[test]
fn a_clock_that_was_ahead_keeps_nobody_out_for_longer() {
    let verdicts = Verdicts::default();
    let ahead = later(HOUR * 24 * 365);
    verdicts.apply(&[verdict(1, BLOCK)], ahead);
    verdicts.tidy(NOW);
    assert_eq!(verdicts.check(user(1), None, NOW), Err(Barred::Blocked { until: later(HOUR) }));
    verdicts.tidy(later(HOUR));
    assert_eq!(verdicts.check(user(1), None, later(HOUR)), Ok(()));
}

#[test]
fn only_so_many_are_kept_and_those_that_hold_longest() {
    let verdicts = Verdicts::default();
    let all: Vec<_> = (0..MOST as u128)
        .map(|n| verdict(n, Action::Block { span: HOUR + Duration::from_secs(n as u64) }))
        .collect();
    verdicts.apply(&all, NOW);
    assert_eq!(verdicts.kept(NOW).len(), MOST);
    verdicts.apply(&[verdict(MOST as u128, Action::Block { span: HOUR * 30 })], NOW);
    assert_eq!(verdicts.kept(NOW).len(), MOST);
    assert!(verdicts.check(user(0), None, NOW).is_ok());
    assert!(verdicts.check(user(MOST as u128), None, NOW).is_err());
}

#[test]
fn an_attack_by_many_addresses_lets_nobody_else_out() {
    let verdicts = Verdicts::default();
    let address = |n: u32| Subject::at(std::net::IpAddr::from(n.to_be_bytes()));
    let short = Action::Block { span: Duration::from_secs(60) };
    let of = |subject| Verdict { subject, action: BLOCK, until: later(HOUR) };
    verdicts.apply(&[verdict(1, short), verdict(2, short), of(address(1)), of(address(2))], NOW);
    verdicts.lift(address(1), NOW);
    verdicts.lift(user(2), NOW);
    // In parts, all of which end at the same time.
    let all: Vec<_> = (1..3 * MOST as u32).map(|n| of(address(n))).collect();
    for part in all.chunks(MOST + 7) {
        assert!(verdicts.apply(part, later(Duration::from_secs(1))));
    }
    assert_eq!(verdicts.kept(NOW).len(), MOST + 3);
    assert!(verdicts.check(user(1), None, NOW).is_err());
    for pardoned in [user(2), address(1)] {
        assert_eq!(verdicts.check(pardoned, None, NOW), Ok(()));
        assert!(!verdicts.apply(&[Verdict { subject: pardoned, ..verdict(0, short) }], NOW), "{pardoned}");
    }
}
