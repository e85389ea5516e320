use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use proptest::prelude::*;

use super::*;
use crate::{
    ledger::{Attempt, Books, Ending, Ledger, ProviderLedger},
    model::Delta,
};

fn setup(shards: usize, zone: &str) -> (Arc<Ledger>, Arc<ProviderLedger>) {
    let ledger = Arc::new(Ledger::new(Books::default(), shards));
    let provider = ledger.add_provider("p", Box::new(Vec::new));
    ledger.set_zone(Zone::named(zone).unwrap());
    (ledger, provider)
}

/// What a flush would write.
fn collected(ledger: &Ledger) -> Delta {
    let mut state = ledger.lock();
    ledger.collect_into(&mut state);
    std::mem::take(&mut state.pending)
}

/// What is counted by hour, day and person.
fn spans(delta: &Delta) -> BTreeMap<SpanId, Tally> {
    let mut spans = BTreeMap::<_, Tally>::new();
    let of_keys = delta.providers.values().flat_map(ProviderDelta::spans_of_keys);
    for (id, tally) in delta.core.tallies.iter().map(|(id, tally)| (*id, *tally)).chain(of_keys) {
        // The same hour may be of two days.
        let twice = spans.insert(id, tally);
        assert!(twice.is_none() || id.kind == SpanKind::KeyHour, "{id:?}");
        spans.entry(id).and_modify(|sum| twice.iter().for_each(|twice| sum.add(twice)));
    }
    spans
}

fn caller(token: u128, user: Option<u128>) -> Caller {
    Caller { token: TokenId(token), user: user.map(UserId) }
}

fn entry(caller: Caller, key: u128, kind: Kind) -> Entry {
    let request = Ending {
        model: ModelRef::OTHER,
        kind,
        class: Class::Conversation,
        used_keys: true,
        prompt_tokens: 3,
        completion_tokens: 2,
        key: None,
        status: 200,
    };
    Entry {
        caller,
        attempt: Some(Attempt { key: KeyId(key << 96), kind, millis: Some(40) }),
        request: Some(request),
    }
}

fn at(text: &str) -> Timestamp {
    text.parse().unwrap()
}

fn day(text: &str) -> u32 {
    text.parse::<Day>().unwrap().0
}

#[test]
fn midnight_under_load_splits_nothing_and_loses_nothing() {
    // Half an hour into an hour of UTC.
    let midnight = at("2026-11-21T18:30:00Z");
    let (ledger, provider) = setup(4, "Asia/Kolkata");
    const EACH: i64 = 20_000;
    let threads: Vec<_> = (0..4)
        .map(|n| {
            let provider = provider.clone();
            std::thread::spawn(move || {
                for i in 0..EACH {
                    // From a second before to a second after, each on its own way; some are late.
                    let ms = (i * 2_000 / EACH - 1_000) + (i * 7 + n) % 50 - 25;
                    let who = caller(9, Some(8));
                    provider.record(n as usize, &entry(who, 1, Kind::Success), Timestamp(midnight.0 + ms));
                }
            })
        })
        .collect();
    let mut sum = Delta::default();
    while threads.iter().any(|thread| !thread.is_finished()) {
        sum.add(collected(&ledger));
    }
    sum.add(collected(&ledger));
    let (before, after) = (day("2026-11-21"), day("2026-11-22"));
    let expected = (0..4_i64)
        .flat_map(|n| (0..EACH).map(move |i| (i * 2_000 / EACH - 1_000) + (i * 7 + n) % 50 - 25))
        .filter(|ms| *ms < 0)
        .count() as i64;
    let spans = spans(&sum);
    let of = |kind, id, at| spans[&SpanId::new(kind, id, at)].success;
    for (kind, id) in [
        (SpanKind::UserUses, 8),
        (SpanKind::UserClasses, 8),
        (SpanKind::TokenDay, 9),
        (SpanKind::KeyDay, 1 << 96),
    ] {
        assert_eq!(of(kind, id, before), expected, "{kind:?}");
        assert_eq!(of(kind, id, after), 4 * EACH - expected, "{kind:?}");
    }
    let hour = Hour::of(midnight).0;
    let timed = spans[&SpanId::new(SpanKind::KeyHour, 1 << 96, hour)];
    assert_eq!(
        (timed.success, timed.prompt_tokens, timed.completion_tokens),
        (4 * EACH, 160 * EACH, 4 * EACH)
    );
    assert_eq!(sum.providers["p"].total_of_keys(), 4 * EACH as u64);
}

impl ProviderDelta {
    fn total_of_keys(&self) -> u64 {
        self.usage_of_keys().map(|(_, usage)| usage.counts.total()).sum()
    }
}

#[test]
fn a_clock_set_back_over_midnight_goes_on_with_the_day_it_says() {
    let (ledger, provider) = setup(1, "UTC");
    let who = caller(9, Some(8));
    let (late, early) = (at("2026-11-21T23:59:59Z"), at("2026-11-22T00:00:01Z"));
    for now in [late, early, late, late, early, early, early] {
        provider.record(0, &entry(who, 1, Kind::Success), now);
    }
    provider.note_refusal(0, UserId(8), Refusal::Auth, late);
    let delta = collected(&ledger);
    let of = |kind, at| delta.core.tallies.get(&SpanId::new(kind, 8, at)).copied().unwrap_or_default();
    assert_eq!(of(SpanKind::UserUses, day("2026-11-21")).success, 3);
    assert_eq!(of(SpanKind::UserUses, day("2026-11-22")).success, 4);
    assert_eq!(of(SpanKind::UserErrors, day("2026-11-21")).failure, 1);
    // And after a collection.
    provider.record(0, &entry(who, 1, Kind::Success), late);
    let delta = collected(&ledger);
    assert_eq!(delta.core.tallies[&SpanId::new(SpanKind::UserUses, 8, day("2026-11-21"))].success, 1);
    assert!(collected(&ledger).is_empty());
}

#[test]
fn the_zone_is_asked_when_an_hour_begins() {
    let (asked, zone) = (std::cell::Cell::new(0), Zone::named("Asia/Kolkata").unwrap());
    let start = at("2026-11-21T17:00:00Z");
    let mut shard = Shard::default();
    for ms in (0..3 * 3_600_000).step_by(1_000) {
        let ask = || {
            asked.set(asked.get() + 1);
            zone.clone()
        };
        shard.record(&entry(caller(9, Some(8)), 1, Kind::Success), Timestamp(start.0 + ms), ask);
    }
    // Three hours, one of which has midnight in it.
    assert_eq!(asked.get(), 4);
    assert_eq!(shard.others.len(), 3);
}

#[test]
fn a_new_zone_holds_at_once() {
    let (ledger, provider) = setup(1, "UTC");
    let (who, now) = (caller(9, Some(8)), at("2026-11-21T20:00:00Z"));
    provider.record(0, &entry(who, 1, Kind::Success), now);
    ledger.set_zone(Zone::named("Asia/Shanghai").unwrap());
    provider.record(0, &entry(who, 1, Kind::Failure), now);
    let delta = collected(&ledger);
    let of = |at| delta.core.tallies[&SpanId::new(SpanKind::UserUses, 8, day(at))];
    assert_eq!((of("2026-11-21").success, of("2026-11-22").failure), (1, 1));
}

#[test]
fn lists_and_refusals_are_the_users_alone() {
    let (ledger, provider) = setup(1, "UTC");
    let now = at("2026-11-21T20:00:00Z");
    provider.note_listing(0, caller(9, Some(8)), now);
    provider.note_listing(0, caller(10, None), now);
    for (what, times) in [(Refusal::RateLimit, 3), (Refusal::Auth, 2), (Refusal::Server, 1)] {
        (0..times).for_each(|_| provider.note_refusal(0, UserId(8), what, now));
    }
    let delta = collected(&ledger);
    assert!(delta.providers.is_empty(), "{:?}", delta.providers);
    let today = day("2026-11-21");
    let of = |kind, id| delta.core.tallies[&SpanId::new(kind, id, today)];
    let tally = |success, failure, other| Tally { success, failure, other, ..Tally::default() };
    assert_eq!(of(SpanKind::UserClasses, 8), tally(0, 1, 0));
    assert_eq!(of(SpanKind::UserErrors, 8), tally(3, 2, 1));
    assert_eq!((delta.core.tallies.len(), delta.core.sets.len()), (2, 0));
}

#[test]
fn users_who_take_turns_take_no_more_memory_than_there_are() {
    let mut pairs = Pairs::default();
    for n in 0..1_000_000_u128 {
        pairs.add((KeyId(n % 3), n % 7, true));
    }
    assert!(pairs.list.capacity() <= 4 * Pairs::FEW, "{}", pairs.list.capacity());
    assert_eq!(pairs.drain().count(), 21);
    for n in 0..100_000_u128 {
        pairs.add((KeyId(n % 10_000), n % 7, true));
        pairs.add((KeyId(n % 10_000), n % 11, true));
    }
    assert!(pairs.list.len() < 400_000);
    let expected: BTreeSet<_> = (0..100_000_u128)
        .flat_map(|n| [(KeyId(n % 10_000), n % 7, true), (KeyId(n % 10_000), n % 11, true)])
        .collect();
    assert!(pairs.drain().eq(expected));
}

#[derive(Clone, Debug)]
struct Event {
    key: Option<u128>,
    token: u128,
    /// Tokens may change hands.
    user: Option<u128>,
    ends: bool,
    kind: u8,
    class: u8,
    /// Minutes from some midnight.
    minute: i64,
    drains: bool,
    shard: usize,
}

#[test]
fn who_used_a_key_is_told_once_in_a_while() {
    let (ledger, provider) = setup(2, "UTC");
    let noon = at("2026-11-21T12:00:00Z");
    let use_at = |shard: usize, token: u128, now: Timestamp| {
        provider.record(shard, &entry(caller(token, Some(7)), 1, Kind::Success), now);
    };
    let sets = || collected(&ledger).core.sets.into_iter().filter(|(_, set)| !set.members.is_empty()).count();
    use_at(0, 1, noon);
    assert_eq!(sets(), 3, "the key's hour and day, the user's day");
    // By the same user with another token and on another core.
    use_at(1, 2, noon);
    assert_eq!(sets(), 0);
    provider.record(0, &entry(caller(3, None), 1, Kind::Success), noon);
    assert_eq!(sets(), 2, "a token that is nobody's is somebody of its own");
    use_at(0, 1, at("2026-11-21T13:00:00Z"));
    assert_eq!(sets(), 3, "of another hour");
    use_at(0, 1, noon);
    assert_eq!(sets(), 3, "and of the one before");
    // Now and then all of it is told again.
    let told: Vec<usize> = (0..200)
        .map(|_| {
            use_at(0, 1, noon);
            sets()
        })
        .collect();
    assert!(told.iter().sum::<usize>() <= 12, "{told:?}");
    assert!(told.windows(64).all(|some| some.contains(&3)), "{told:?}");
}

fn any_event() -> impl Strategy<Value = Event> {
    let who = (proptest::option::weighted(0.9, 1..40_u128), 1..6_u128, proptest::option::of(20..24_u128));
    let what = (any::<bool>(), 0..3_u8, 0..3_u8, -130..130_i64, proptest::bool::weighted(0.05), 0..2_usize);
    (who, what).prop_map(|((key, token, user), (ends, kind, class, minute, drains, shard))| Event {
        key,
        token,
        user,
        ends,
        kind,
        class,
        minute,
        drains,
        shard,
    })
}

/// One row after another, with every set in full.
#[derive(Default)]
struct Model {
    tallies: BTreeMap<SpanId, Tally>,
    sets: BTreeMap<SetId, BTreeSet<u128>>,
    last: BTreeMap<SetId, LastKey>,
}

impl Model {
    fn add(&mut self, kind: SpanKind, id: u128, at: u32, which: u8, more: Tally) {
        let ends = match which {
            0 => Tally { success: 1, ..more },
            1 => Tally { failure: 1, ..more },
            _ => Tally { other: 1, ..more },
        };
        self.tallies.entry(SpanId::new(kind, id, at)).or_default().add(&ends);
    }

    fn count(&mut self, event: &Event, now: Timestamp, zone: &Zone) {
        let (day, hour) = (zone.day_of(now).day.0, Hour::of(now).0);
        let (none, used) = (Tally::default(), Tally { last_used: Some(now), ..Tally::default() });
        if let Some(key) = event.key.map(|key| key << 96) {
            self.add(SpanKind::KeyDay, key, day, event.kind, used);
            let timed = Tally { prompt_tokens: 40, completion_tokens: 1, ..none };
            self.add(SpanKind::KeyHour, key, hour, event.kind, timed);
            let subject = event.user.unwrap_or(event.token);
            self.sets.entry(SetId { kind: SetKind::KeyDay, at: day, id: key }).or_default().insert(subject);
            self.sets.entry(SetId { kind: SetKind::KeyHour, at: hour, id: key }).or_default().insert(subject);
            if let Some(user) = event.user {
                let id = SetId { kind: SetKind::UserKeys, at: day, id: user };
                self.sets.entry(id).or_default().insert(key >> 96);
                let last = LastKey { at: now, key: (key >> 96) as u32 };
                let known = self.last.entry(id).or_insert(last);
                *known = last.max(*known);
            }
        }
        if !event.ends {
            return;
        }
        let tokens = match event.key {
            Some(_) => Tally { prompt_tokens: 3, completion_tokens: 2, ..none },
            None => none,
        };
        self.add(SpanKind::TokenDay, event.token, day, event.kind, tokens);
        if let Some(user) = event.user {
            self.add(SpanKind::TokenDay, user, day, event.kind, tokens);
            self.add(SpanKind::UserClasses, user, day, event.class, none);
            if event.key.is_some() {
                self.add(SpanKind::UserUses, user, day, event.kind, Tally { last_used: Some(now), ..tokens });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Distinct users, too, are exact: for any order of events, any collections in between, clocks that jump, tokens that
    /// change hands, and days of 23 to 25 hours.
    #[test]
    fn counts_are_those_of_a_row_per_event(
        events in proptest::collection::vec(any_event(), 1..150),
        zone in prop_oneof![Just("UTC"), Just("Asia/Kolkata"), Just("Europe/Berlin"), Just("America/Sao_Paulo")],
        midnight in prop_oneof![Just("2026-11-22T00:00:00Z"), Just("2026-10-25T01:00:00Z"), Just("2018-11-04T03:00:00Z")],
    ) {
        let (ledger, provider) = setup(2, zone);
        let (zone, midnight) = (Zone::named(zone).unwrap(), at(midnight));
        let (mut model, mut sum) = (Model::default(), Delta::default());
        let kinds = [Kind::Success, Kind::Failure, Kind::Other];
        let classes = [Class::Conversation, Class::Call, Class::Upload];
        for event in &events {
            let now = Timestamp(midnight.0 + event.minute * 60_000);
            let whole = entry(caller(event.token, event.user), event.key.unwrap_or(1), kinds[event.kind as usize]);
            let with_key = u64::from(event.key.is_some());
            let request = whole.request.map(|ending| Ending {
                class: classes[event.class as usize],
                used_keys: event.key.is_some(),
                prompt_tokens: 3 * with_key,
                completion_tokens: 2 * with_key,
                ..ending
            });
            let attempt = whole.attempt.filter(|_| event.key.is_some());
            let entry = Entry { attempt, request: request.filter(|_| event.ends), ..whole };
            provider.record(event.shard, &entry, now);
            model.count(event, now, &zone);
            if event.drains {
                sum.add(collected(&ledger));
            }
        }
        sum.add(collected(&ledger));
        prop_assert_eq!(spans(&sum), model.tallies);
        let sets: BTreeMap<SetId, Set> = sum.core.sets.into_iter().collect();
        prop_assert_eq!(sets.keys().collect::<Vec<_>>(), model.sets.keys().collect::<Vec<_>>());
        for (id, set) in sets {
            let all = &model.sets[&id];
            let most = if id.kind == SetKind::UserKeys { Set::MOST_KEYS } else { usize::MAX };
            let kept: BTreeSet<u128> = all.iter().copied().take(most).collect();
            prop_assert_eq!(&set.members, &kept, "{:?}", id);
            prop_assert_eq!((set.more, set.last), (all.len() > most, model.last.get(&id).copied()));
        }
    }
}

#[test]
fn a_row_is_kept_of_requests_with_a_key_where_somebody_wants_it() {
    let (ledger, provider) = setup(2, "UTC");
    let now = at("2026-11-22T10:00:00Z");
    let of = |class, key: Option<u128>, user| {
        let whole = entry(caller(5, user), 7, Kind::Success);
        let request =
            whole.request.map(|ending| Ending { class, key: key.map(KeyId), status: 418, ..ending });
        Entry { request, ..whole }
    };
    provider.record(0, &of(Class::Conversation, Some(7), Some(1)), now);
    assert!(collected(&ledger).core.logs.is_empty(), "nobody has asked for it");
    ledger.keep_logs(true);
    provider.record(0, &of(Class::Upload, Some(7), Some(1)), now);
    provider.record(1, &of(Class::Call, Some(8), None), Timestamp(now.0 + 1));
    provider.record(0, &of(Class::Conversation, None, Some(1)), now);
    // Of an attempt alone there is none.
    provider.record(0, &Entry { request: None, ..of(Class::Call, Some(7), Some(1)) }, now);
    let mut logs = collected(&ledger).core.logs;
    logs.sort_by_key(|log| log.id);
    let brief: Vec<_> = logs.iter().map(|log| (log.key.0, log.user.0, log.usage_type, log.status)).collect();
    assert_eq!(brief, [(7, 1, UsageType::Conversation, 418), (8, 5, UsageType::Call, 418)]);
    assert!(logs[0].at < logs[1].at, "in the order of time");
    assert!(collected(&ledger).core.logs.is_empty());
}
