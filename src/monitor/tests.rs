use std::{net::IpAddr, time::Duration};

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use crate::model::{KeyId, Timestamp};

use super::*;

const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// A Monday.
const BEGIN: i64 = 1_793_577_600_000;

fn user(n: u128) -> Subject {
    Subject::User(Uuid::from_u128(n << 96 | n))
}

fn address(text: &str) -> Option<IpAddr> {
    Some(text.parse().unwrap())
}

fn seen(at: i64, subject: Subject, what: What) -> Observation {
    let key = Some(KeyId(7 << 96));
    Observation {
        at: Timestamp(BEGIN + at),
        subject,
        address: address("192.0.2.77"),
        key,
        provider: 1,
        model: Some(fingerprint("llama3")),
        what,
    }
}

const GOOD: What = What::Ended { end: End::Success, status: 200 };

/// A user who has sent ten requests an hour for days.
fn warm(monitor: &mut Monitor, subject: Subject, days: i64) -> Report {
    let mut all = Report::default();
    for n in 0..days * 240 {
        let report = monitor.observe(&seen(n * HOUR / 10, subject, GOOD));
        all.events.extend(report.events);
    }
    all
}

/// So many requests within a second.
fn burst(monitor: &mut Monitor, subject: Subject, at: i64, n: i64) -> Report {
    let mut all = Report::default();
    for n in 0..n {
        let report = monitor.observe(&seen(at + n, subject, GOOD));
        all.events.extend(report.events);
        all.verdicts.extend(report.verdicts);
    }
    all
}

fn about(report: &Report, subject: Subject) -> Vec<&Event> {
    report.events.iter().filter(|event| event.subject == subject).collect()
}

#[test]
fn a_new_user_is_no_alarm_and_a_known_one_is() {
    let mut monitor = Monitor::new(Options::default());
    assert!(burst(&mut monitor, user(1), 0, 10_000).events.is_empty(), "new");
    let mut monitor = Monitor::new(Options::default());
    warm(&mut monitor, user(1), 5);
    assert!(burst(&mut monitor, user(1), 5 * DAY, 10_000).events.is_empty(), "known for five days");

    let mut monitor = Monitor::new(Options::default());
    assert_eq!(warm(&mut monitor, user(1), 10), Report::default(), "nothing but the usual");
    assert!(burst(&mut monitor, user(1), 10 * DAY, 60).events.is_empty(), "busy");
    let report = burst(&mut monitor, user(1), 10 * DAY + HOUR, 10_000);
    let events = about(&report, user(1));
    assert_eq!(events[0].kind, Kind::Frequency);
    assert_eq!(events[0].event_type().as_str(), "abuse");
    let severities: Vec<u8> = events.iter().map(|event| event.severity).collect();
    assert!(severities.is_sorted() && severities.len() <= 5, "{severities:?}");
    assert!(severities.iter().any(|severity| *severity >= 3), "{severities:?}");
}

#[test]
fn what_goes_on_is_told_in_growing_windows() {
    let mut monitor = Monitor::new(Options::default());
    let mut events = Vec::new();
    // Twenty refusals a minute, for three days.
    for n in 0..3 * 24 * 60 * 20 {
        let refused = seen(n * 3_000, user(1), What::Limited);
        events.extend(monitor.observe(&refused).events);
    }
    events.extend(monitor.tick(Timestamp(BEGIN + 5 * DAY)).events);
    assert!(events.len() < 12, "{}", events.len());
    assert!(events.iter().all(|event| event.event_type() == EventType::RateLimit));
    let told: Vec<i64> = events.iter().map(|event| (event.at.0 - event.since.0) / HOUR).collect();
    assert!(told.contains(&6) && told.contains(&12) && told.contains(&24), "{told:?}");
    let weight: u32 = events.iter().map(|event| event.weight).sum();
    // Of 1,200 an hour the first 239 are below the limit of one who is not known; all others are in an event.
    assert_eq!(weight, 72 * 961);
}

#[test]
fn a_storm_is_one_event() {
    let mut monitor = Monitor::new(Options::default());
    let mut events = Vec::new();
    // A thousand addresses guess, all in one minute; then, an hour later, one.
    for n in 0..30_000_u32 {
        let at = 60_000 + i64::from(n);
        let guess = What::AuthFailed { why: AuthFailure::Unknown, token: Some(n.wrapping_mul(0x9e37_79b9)) };
        let from = IpAddr::from([10, 9, (n % 1_000 / 250) as u8, (n % 250) as u8]);
        let observation = Observation { address: Some(from), ..seen(at, Subject::Address(from), guess) };
        events.extend(monitor.observe(&observation).events);
    }
    assert_eq!(events.len(), 30, "as many as a minute may have");
    for minute in 2..70 {
        events.extend(monitor.tick(Timestamp(BEGIN + minute * 60_000)).events);
    }
    let (told, storms): (Vec<_>, Vec<_>) = events.iter().partition(|event| event.kind != Kind::Storm);
    assert_eq!((told.len(), storms.len()), (30, 1));
    assert_eq!(storms[0].details()["auth_fail"], json!(storms[0].weight));
    assert!(storms[0].weight >= 900 && storms[0].severity >= 2, "{:?}", storms[0]);
    for n in 0..20 {
        let guess = What::AuthFailed { why: AuthFailure::Unknown, token: Some(n * 7_919) };
        let late = Observation {
            address: address("10.8.0.1"),
            ..seen(2 * HOUR, Subject::Address([10, 8, 0, 1].into()), guess)
        };
        events.extend(monitor.observe(&late).events);
    }
    assert_eq!(events.last().unwrap().kind, Kind::UnknownTokens, "the storm is over");
}

#[test]
fn a_storm_loses_nothing_to_a_reload_or_a_stop() {
    let mut monitor = Monitor::new(Options::default());
    let storm = |monitor: &mut Monitor, at: i64| {
        let mut found = 0;
        for n in 0..1_500_u32 {
            let token = Some(n.wrapping_mul(0x9e37_79b9));
            let guess = What::AuthFailed { why: AuthFailure::Unknown, token };
            let from = IpAddr::from([10, 9, at as u8, (n % 50) as u8]);
            let guess = Observation { address: Some(from), ..seen(at, Subject::Address(from), guess) };
            found += monitor.observe(&guess).events.iter().filter(|event| event.kind != Kind::Storm).count();
        }
        found
    };
    let mut other = Monitor::new(Options::default());
    let told = storm(&mut monitor, 1) + storm(&mut monitor, 2);
    let told_of_other = storm(&mut other, 1);
    monitor.set_options(Options { sensitivity: 1.1, ..Options::default() });
    // Of what is new after a reload, the storm counts on.
    other.set_options(Options { max_addresses: 200, ..Options::default() });
    let told_of_other = told_of_other + storm(&mut other, 2);
    let flushed = [&mut monitor, &mut other].map(|monitor| monitor.flush(Timestamp(BEGIN + 9)).events);
    assert_eq!((told, told_of_other), (30, 30));
    assert!(flushed[0].len() == 1 && flushed[0][0].weight >= 50, "{flushed:?}");
    assert_eq!(flushed[0][0].weight, flushed[1][0].weight);
    assert!(monitor.flush(Timestamp(BEGIN + 10)).events.is_empty(), "it is told once");
}

#[test]
fn verdicts_are_few_end_by_themselves_and_live_through_a_restart() {
    let span = Duration::from_secs(1_800);
    let throttle = Action::Throttle { factor: 0.25, span };
    let rules = vec![
        Rule { event: Some(EventType::RateLimit), severity: 1, action: throttle },
        Rule { event: None, severity: 4, action: Action::Block { span } },
    ];
    let options = Options { actions: rules, ..Options::default() };
    let mut monitor = Monitor::new(options.clone());
    let mut verdicts = Vec::new();
    for n in 0..3_600 {
        verdicts.extend(monitor.observe(&seen(n * 1_000, user(1), What::Limited)).verdicts);
    }
    assert_eq!(verdicts[0], Verdict { subject: user(1), action: throttle, until: verdicts[0].until });
    assert!(verdicts.iter().any(|verdict| verdict.action == Action::Block { span }), "it grew worse");
    assert!(verdicts.len() < 10, "a verdict per refusal: {}", verdicts.len());
    let end = verdicts.last().unwrap().until;
    assert!(end >= Timestamp(BEGIN + HOUR) && end <= Timestamp(BEGIN + HOUR).saturating_add(span));
    let monitor = Monitor::restore(options, monitor.snapshot());
    assert_eq!(monitor.verdicts(Timestamp(end.0 - 1)), verdicts[verdicts.len() - 1..]);
    assert!(monitor.verdicts(end).is_empty());
}

#[test]
fn keys_are_reported_and_never_refused() {
    let block = Action::Block { span: Duration::from_secs(600) };
    let options =
        Options { actions: vec![Rule { event: None, severity: 1, action: block }], ..Options::default() };
    let mut monitor = Monitor::new(options);
    for n in 0..10 * 240 {
        monitor.observe(&seen(n * HOUR / 10, user(n as u128 % 9), GOOD));
    }
    let failed = What::Ended { end: End::Failure, status: 401 };
    let mut report = Report::default();
    for n in 0..200 {
        let next = monitor.observe(&seen(10 * DAY + n, user(n as u128 % 9), failed));
        report.events.extend(next.events);
        report.verdicts.extend(next.verdicts);
    }
    let key = KeyId(7 << 96);
    let events = about(&report, Subject::Key(key));
    assert!(
        events.iter().any(|event| event.kind == Kind::FailureRate && event.key == Some(key)),
        "{report:?}"
    );
    assert!(report.verdicts.iter().all(|verdict| verdict.subject != Subject::Key(key)));
}

#[test]
fn a_restart_changes_nothing() {
    let mut monitor = Monitor::new(Options::default());
    (1..6).for_each(|n| drop(warm(&mut monitor, user(n), 10)));
    burst(&mut monitor, user(1), 10 * DAY, 2_000);
    let bytes = bincode::serde::encode_to_vec(monitor.snapshot(), bincode::config::standard()).unwrap();
    let (snapshot, _): (Snapshot, usize) =
        bincode::serde::decode_from_slice(&bytes, bincode::config::standard()).unwrap();
    assert_eq!(snapshot, monitor.snapshot());
    let text = serde_json::to_string(&snapshot).unwrap();
    assert!(serde_json::from_str::<Snapshot>(&text).is_ok());
    let mut restored = Monitor::restore(Options::default(), snapshot);
    for subject in [user(1), user(2), user(9)] {
        let at = 10 * DAY + HOUR;
        assert_eq!(burst(&mut monitor, subject, at, 3_000), burst(&mut restored, subject, at, 3_000));
    }
    let few = Options { max_subjects: 2, ..Options::default() };
    assert_eq!(Monitor::restore(few, monitor.snapshot()).snapshot().subjects.len(), 2);
}

#[test]
fn memory_is_bounded() {
    let options = Options { max_subjects: 100, max_keys: 100, max_addresses: 100, ..Options::default() };
    let mut monitor = Monitor::new(options);
    for n in 0..3_000_u32 {
        let from = IpAddr::from(std::net::Ipv6Addr::from_bits(u128::from(n) << 64));
        let guess = What::AuthFailed { why: AuthFailure::Unknown, token: None };
        let at = i64::from(n) * 1_000;
        monitor.observe(&Observation { address: Some(from), ..seen(at, Subject::Address(from), guess) });
        let key = Some(KeyId(u128::from(n) << 96));
        monitor.observe(&Observation { key, ..seen(at, user(n.into()), GOOD) });
    }
    assert_eq!([monitor.subjects.len(), monitor.keys.len(), monitor.doors.len()], [100; 3]);
}

/// The largest that a subject can be: everything that grows is full.
#[test]
fn records_are_as_small_as_is_said() {
    let mut monitor = Monitor::new(Options::default());
    for n in 0..30_000_u32 {
        let from = IpAddr::from([10, n as u8, (n >> 8) as u8, 1]);
        let key = Some(KeyId(u128::from(n.wrapping_mul(0x9e37_79b9)) << 96));
        let at = i64::from(n) * 90_000;
        let end = if n % 3 == 0 { End::Failure } else { End::Success };
        let what = What::Ended { end, status: if n % 3 == 0 { 502 } else { 200 } };
        let observation = Observation {
            address: Some(from),
            key,
            model: Some(n.wrapping_mul(0x85eb_ca6b)),
            ..seen(at, user(u128::MAX >> 32), what)
        };
        monitor.observe(&observation);
        monitor.observe(&seen(at, user(u128::MAX >> 32), What::Limited));
    }
    let snapshot = monitor.snapshot();
    fn size_of(of: &impl Serialize) -> usize {
        bincode::serde::encode_to_vec(of, bincode::config::standard()).unwrap().len()
    }
    let subject = size_of(&snapshot.subjects[0]);
    assert!(subject <= SUBJECT, "{subject}");
    let one = KeyId(u128::MAX);
    for n in 0..30_000 {
        let end = if n % 3 == 0 { End::Failure } else { End::Success };
        let what = What::Ended { end, status: 200 };
        monitor.observe(&Observation { key: Some(one), ..seen(n * 90_000, user(1), what) });
        let token = Some(n as u32);
        for what in [What::AuthFailed { why: AuthFailure::Unknown, token }, What::AdminLoginFailed] {
            let from = address("2001:db8:ffff:ffff:ffff:ffff:ffff:ffff");
            monitor.observe(&Observation { address: from, ..seen(n * 90_000, Subject::Everyone, what) });
        }
    }
    let snapshot = monitor.snapshot();
    let key = snapshot.keys.iter().find(|(id, _)| *id == one).map(size_of).unwrap();
    let doors = snapshot.doors.iter().map(size_of).max().unwrap();
    let episodes = snapshot.episodes.iter().map(size_of).max().unwrap();
    println!("bytes: subject {subject}, key {key}, address {doors}, episode {episodes}");
    assert!(key <= KEY && doors <= DOOR && episodes <= 100, "{key} {doors} {episodes}");
}

#[test]
fn nothing_secret_is_told() {
    let mut monitor = Monitor::new(Options::default());
    let mut report = Report::default();
    for n in 0..50 {
        let token = Some(fingerprint(&format!("sk-secret-{n}")));
        let what = What::AuthFailed { why: AuthFailure::Unknown, token };
        let from = address("203.0.113.77");
        let observation = Observation { address: from, ..seen(n, Subject::Address(from.unwrap()), what) };
        report.events.extend(monitor.observe(&observation).events);
    }
    let details = report.events[0].details();
    assert_eq!(details["kind"], "unknown_tokens");
    assert_eq!(details["subject"], "203.0.113.0/24");
    assert!(report.events.iter().all(|event| event.details().to_string().len() < 300));
    assert_eq!(user(0xabcd).to_string(), "user 0000abcd");
    let v6 = Subject::Address("2001:db8:1:2ff:3::4".parse().unwrap());
    assert_eq!(v6.to_string(), "2001:db8:1:200::/56");
}

#[test]
fn off_is_off_and_wrong_clocks_do_no_harm() {
    let mut monitor = Monitor::new(Options { enabled: false, ..Options::default() });
    for n in 0..2_000 {
        assert_eq!(monitor.observe(&seen(n, user(1), What::Limited)), Report::default());
    }
    let mut monitor = Monitor::new(Options::default());
    warm(&mut monitor, user(1), 10);
    for at in [i64::MIN, -1, 0, i64::MAX] {
        for what in [GOOD, What::Limited, What::AdminLoginFailed] {
            for _ in 0..2_000 {
                monitor.observe(&Observation { at: Timestamp(at), ..seen(0, user(1), what) });
            }
        }
        monitor.tick(Timestamp(at));
    }
    // Back in the present, another one who is known is still watched, and so is the door.
    warm(&mut monitor, user(2), 10);
    let report = burst(&mut monitor, user(2), 10 * DAY, 5_000);
    assert!(!about(&report, user(2)).is_empty());
    let mut logins = Vec::new();
    for n in 0..100 {
        logins.extend(monitor.observe(&seen(11 * DAY + n, user(1), What::AdminLoginFailed)).events);
    }
    assert!(logins.iter().any(|event| event.kind == Kind::AdminLogin), "{logins:?}");
}
