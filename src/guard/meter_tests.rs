use super::*;

const DAY: i64 = 86_400_000;

fn limits(minute: Option<u32>, requests: Option<u64>, tokens: Option<u64>) -> Limits {
    Limits {
        requests_per_minute: minute,
        requests_per_day: requests,
        tokens_per_day: tokens,
        ..Limits::default()
    }
}

/// One request at this moment, if there is room.
fn take(state: &mut State, limits: &Limits, at: i64) -> Result<Gauges, Exceeded> {
    let (now, zone) = (Timestamp(at), Zone::default());
    let gauges = state.check(limits, Take::Request, now, &zone)?;
    state.take(Take::Request, now, &zone);
    Ok(gauges)
}

fn served(state: &mut State, limits: &Limits, at: i64) -> usize {
    (0..100).filter(|_| take(state, limits, at).is_ok()).count()
}

fn gauge(of: Of, limit: u64, remaining: u64, reset: i64) -> Gauge {
    Gauge { of, whose: Whose::Token, limit, remaining, reset: Timestamp(reset) }
}

use super::super::gauge::Whose;

#[test]
fn the_limit_that_is_reached_first_is_told() {
    let both = limits(Some(2), Some(5), Some(10));
    let mut state = State::default();
    let told = take(&mut state, &both, 0).unwrap();
    assert_eq!(told.requests, Some(gauge(Of::Minute, 2, 1, 60_000)));
    assert_eq!(told.tokens, Some(gauge(Of::DayTokens, 10, 10, DAY)));
    take(&mut state, &both, 1).unwrap();
    assert_eq!(take(&mut state, &both, 2), Err(Exceeded(gauge(Of::Minute, 2, 0, 60_000))));
    take(&mut state, &both, 60_000).unwrap();
    take(&mut state, &both, 60_000).unwrap();
    assert_eq!(take(&mut state, &both, 120_000).unwrap().requests, Some(gauge(Of::DayRequests, 5, 0, DAY)));
    assert_eq!(take(&mut state, &both, 180_000), Err(Exceeded(gauge(Of::DayRequests, 5, 0, DAY))));
    assert_eq!(take(&mut State::default(), &Limits::default(), 0), Ok(Gauges::default()));
}

#[test]
fn a_limit_set_in_the_middle_of_a_day_holds_for_what_was_used() {
    let mut state = State::default();
    assert_eq!(served(&mut state, &Limits::default(), 1000), 100);
    assert_eq!(served(&mut state, &limits(None, Some(130), None), 2000), 30);
    assert_eq!(served(&mut state, &limits(None, Some(130), None), DAY), 100);
}

#[test]
fn tokens_are_counted_at_the_end_and_checked_at_the_beginning() {
    let (meter, limit, zone) = (Meter::default(), limits(None, None, Some(100)), Zone::default());
    for _ in 0..3 {
        take(&mut meter.lock(), &limit, 0).unwrap();
    }
    meter.spend(60, Timestamp(1), &zone);
    assert_eq!(take(&mut meter.lock(), &limit, 2).unwrap().tokens.unwrap().remaining, 40);
    // Those under way pass the limit by what each of them uses.
    meter.spend(60, Timestamp(3), &zone);
    assert_eq!(take(&mut meter.lock(), &limit, 4), Err(Exceeded(gauge(Of::DayTokens, 100, 0, DAY))));
    // What ends after midnight is the new day's.
    meter.spend(30, Timestamp(DAY), &zone);
    assert_eq!(take(&mut meter.lock(), &limit, DAY).unwrap().tokens.unwrap().remaining, 70);
}

#[test]
fn a_clock_set_back_over_midnight_gives_no_fresh_allowance() {
    let limit = limits(None, Some(10), None);
    let mut state = State::default();
    assert_eq!(served(&mut state, &limit, 51 * DAY - 1), 10);
    assert_eq!(served(&mut state, &limit, 51 * DAY), 10);
    // Back, to and fro: each day goes on where it was left.
    for at in [51 * DAY - 1, 51 * DAY, 52 * DAY - 1, 51 * DAY - 1000] {
        assert_eq!(served(&mut state, &limit, at), 0, "{at}");
    }
    assert_eq!(served(&mut state, &limit, 52 * DAY), 10);
    // Further back than is remembered.
    let (told, now) = (take(&mut state, &limit, 10 * DAY).unwrap_err().0, Timestamp(10 * DAY));
    assert!(told.reset > now && told.reset.since(now) <= Duration::from_secs(86_400), "{told:?}");
    // But no day is lost to it: the next one is a new one, and those to come are not touched.
    assert_eq!(served(&mut state, &limit, 11 * DAY), 10);
    assert_eq!(served(&mut state, &limit, 52 * DAY), 0);
}

#[test]
fn a_clock_that_was_far_ahead_locks_nobody_out() {
    let limit = limits(None, Some(10), None);
    let mut state = State::default();
    assert_eq!(served(&mut state, &limit, 5000 * DAY), 10);
    assert_eq!(served(&mut state, &limit, 10 * DAY), 0);
    for day in 11..20 {
        assert_eq!(served(&mut state, &limit, day * DAY), 10, "{day}");
        assert_eq!(served(&mut state, &limit, (day - 1) * DAY), 0, "{day}");
    }
}

#[test]
fn what_others_counted_is_counted_once_and_on_its_day() {
    let zone = Zone::default();
    let day = |number: i64| zone.day_of(Timestamp(number * DAY));
    let (today, yesterday) = (day(9), day(8));
    let meter = Meter::default();
    let used = |requests, tokens| Used { requests, tokens };
    meter.seed(today, used(5, 100));
    meter.shift(yesterday, used(1, 1));
    meter.shift(today, used(2, 20));
    meter.shift(today, used(-1, 0));
    take(&mut meter.lock(), &Limits::default(), 9 * DAY).unwrap();
    assert_eq!(meter.used(Timestamp(9 * DAY + 5), &zone), (today, used(7, 120)));
    assert_eq!(meter.used(Timestamp(8 * DAY + 5), &zone), (yesterday, used(1, 1)));
    // More taken back than there was is shown as less than nothing, and does no harm.
    meter.shift(today, used(-100, -1000));
    assert_eq!(
        take(&mut meter.lock(), &limits(None, Some(1), None), 9 * DAY).unwrap().requests.unwrap().remaining,
        0
    );
    // Days long gone are nobody's.
    meter.shift(day(10), used(1, 0));
    meter.shift(day(3), used(9, 9));
    assert_eq!(meter.used(Timestamp(10 * DAY), &zone).1, used(1, 0));
    assert_eq!(meter.lock().days.len(), DAYS);
}

#[test]
fn what_is_given_back_can_be_taken_again() {
    let (limit, zone) = (limits(Some(1), Some(1), None), Zone::default());
    let meter = Meter::default();
    for at in [DAY - 1, DAY - 1, 3 * DAY] {
        let now = Timestamp(at);
        let mut state = meter.lock();
        state.check(&limit, Take::Request, now, &zone).unwrap();
        let taken = state.take(Take::Request, now, &zone);
        assert!(state.check(&limit, Take::Request, now, &zone).is_err());
        drop(state);
        meter.give_back(taken);
    }
    // Lists cost nothing of the day.
    let mut state = meter.lock();
    for minute in 0..3 {
        let now = Timestamp(4 * DAY + minute * 60_000);
        state.check(&limit, Take::List, now, &zone).unwrap();
        state.take(Take::List, now, &zone);
        assert!(state.check(&limit, Take::List, now, &zone).is_err());
    }
    assert_eq!(state.day(Timestamp(4 * DAY), &zone).1, Used::default());
}
