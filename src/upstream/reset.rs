//! When an upstream says to come back.
//!
//! Providers write this in every way there is: seconds, milliseconds, Go's durations, epochs, three kinds of
//! dates. A value's magnitude tells what it is. What lies in the past or makes no sense counts as not said.

use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::scan::BodyError;
use crate::model::Timestamp;

/// Up to here a bare number is a span of seconds, three years; from [`EPOCH_SECONDS`] on it is a date.
const LONGEST_SPAN: f64 = 1e8;
/// September 2001 in seconds; in milliseconds the same digits are a span of days.
const EPOCH_SECONDS: f64 = 1e9;
/// March 1973 in milliseconds; in seconds the year 5138.
const EPOCH_MILLIS: f64 = 1e11;
/// The year 5138 in milliseconds.
const LAST_MILLIS: f64 = 1e14;

/// The instant at which a key may be used again, by the response's headers; always after `now`.
///
/// `retry-after-ms` counts before `Retry-After`, and both before the reset headers. Of these the latest counts
/// among the limits that are used up, or do not say how much remains.
pub fn retry_at(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    let future = |at: &Timestamp| *at > now;
    let said = |name: &str| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    let in_millis = said("retry-after-ms").filter_map(|text| span(decimal(text)?, now)).find(future);
    let retry_after = || said("retry-after").filter_map(|text| instant(text, now)).find(future);
    in_millis.or_else(retry_after).or_else(|| latest_reset(headers, now))
}

/// As [`retry_at`], from the headers that an error in a body carries with it.
pub fn retry_at_in_body(error: &BodyError, now: Timestamp) -> Option<Timestamp> {
    retry_at(&error.hints, now)
}

/// Keeps `at` later than `now` and no further away than `max`, which counts as at least a millisecond.
pub fn bounded(at: Timestamp, now: Timestamp, max: Duration) -> Timestamp {
    let first = now.saturating_add(Duration::from_millis(1));
    at.min(now.saturating_add(max)).max(first)
}

fn latest_reset(headers: &HeaderMap, now: Timestamp) -> Option<Timestamp> {
    headers
        .iter()
        .filter_map(|(name, value)| {
            let remaining = remaining_name(name.as_str())?;
            let at = instant(value.to_str().ok()?, now)?;
            let left = headers.get(remaining).and_then(|left| left.to_str().ok()).and_then(number);
            (at > now && left.is_none_or(|left| left <= 0.0)).then_some(at)
        })
        .max()
}

/// The header that tells what is left of the limit whose reset `name` tells; `None` for any other header.
fn remaining_name(name: &str) -> Option<String> {
    if !name.contains("ratelimit") && !name.contains("rate-limit") {
        return None;
    }
    let parts = || name.split('-');
    parts().any(|part| part == "reset").then(|| {
        let parts: Vec<_> = parts().map(|part| if part == "reset" { "remaining" } else { part }).collect();
        parts.join("-")
    })
}

/// Reads a span or a date of any form.
fn instant(text: &str, now: Timestamp) -> Option<Timestamp> {
    let text = text.trim();
    if let Some(number) = decimal(text) {
        return match number {
            _ if number <= LONGEST_SPAN => span(number * 1e3, now),
            _ if number < EPOCH_SECONDS => None,
            _ if number < EPOCH_MILLIS => Some(Timestamp((number * 1e3).ceil() as i64)),
            _ if number < LAST_MILLIS => Some(Timestamp(number.ceil() as i64)),
            _ => None,
        };
    }
    if let Some(millis) = duration_millis(text) {
        return span(millis, now);
    }
    if let Ok(at) = text.parse::<jiff::Timestamp>() {
        return Some(at.into());
    }
    let date = httpdate::parse_http_date(text).ok()?;
    let since_epoch = date.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Timestamp(0).saturating_add(since_epoch))
}

/// `now` and so many milliseconds, rounded up.
fn span(millis: f64, now: Timestamp) -> Option<Timestamp> {
    let sane = (0.0..=LONGEST_SPAN * 1e3).contains(&millis);
    sane.then(|| now.saturating_add(Duration::from_millis(millis.ceil() as u64)))
}

/// Digits with at most one point among them: no sign, exponent, infinity or NaN.
fn decimal(text: &str) -> Option<f64> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return None;
    }
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

/// What remains of a limit may also be less than nothing.
fn number(text: &str) -> Option<f64> {
    let text = text.trim();
    match text.strip_prefix('-') {
        Some(rest) => decimal(rest).map(|number| -number),
        None => decimal(text),
    }
}

/// Durations as Go writes them: `6m0s`, `1.5s`, `20ms`; days too, which some write.
fn duration_millis(text: &str) -> Option<f64> {
    let mut rest = text;
    let mut millis = 0.0;
    while !rest.is_empty() {
        let unit_at = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
        let (amount, tail) = rest.split_at(unit_at);
        let unit_len = tail.find(|letter: char| letter.is_ascii_digit() || letter == '.');
        let (unit, tail) = tail.split_at(unit_len.unwrap_or(tail.len()));
        let unit = match unit.trim() {
            "d" => 86_400_000.0,
            "h" => 3_600_000.0,
            "m" => 60_000.0,
            "s" => 1_000.0,
            "ms" => 1.0,
            "us" | "µs" | "μs" => 1e-3,
            "ns" => 1e-6,
            _ => return None,
        };
        millis += decimal(amount)? * unit;
        rest = tail;
    }
    (!text.is_empty()).then_some(millis)
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    /// 2026-01-01T00:00:00Z.
    const NOW: Timestamp = Timestamp(1_767_225_600_000);

    fn wait(pairs: &[(&str, &str)]) -> Option<u64> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        let millis = retry_at(&headers, NOW).map(|at| at.since(NOW).as_millis());
        millis.map(|millis| u64::try_from(millis).unwrap())
    }

    #[test]
    fn every_way_to_write_it() {
        for (value, millis) in [
            ("30", 30_000),
            (" 30 ", 30_000),
            ("0.25", 250),
            ("0.0001", 1),
            ("6m0s", 360_000),
            ("1h2m3.5s", 3_723_500),
            ("1.5s", 1_500),
            ("20ms", 20),
            ("7us", 1),
            ("1d", 86_400_000),
            ("1767225660", 60_000),
            ("1767225660.5", 60_500),
            ("1767225660000", 60_000),
            ("2026-01-01T00:01:00Z", 60_000),
            ("2026-01-01T01:01:00+01:00", 60_000),
            ("Thu, 01 Jan 2026 00:01:00 GMT", 60_000),
            ("Thursday, 01-Jan-26 00:01:00 GMT", 60_000),
            ("Thu Jan  1 00:01:00 2026", 60_000),
        ] {
            for name in ["retry-after", "x-ratelimit-reset", "ratelimit-reset", "x-ratelimit-reset-tokens"] {
                assert_eq!(wait(&[(name, value)]), Some(millis), "{name}: {value}");
            }
        }
        assert_eq!(wait(&[("retry-after-ms", "1500.2")]), Some(1501));
    }

    #[test]
    fn past_and_nonsense_are_not_said() {
        for value in [
            "",
            "0",
            "0s",
            "-5",
            "soon",
            "1e3",
            "NaN",
            "inf",
            ".",
            "1.2.3",
            "5x",
            "s",
            "1s2",
            "500000000",
            "1000000000",
            "999999999999999999999999",
            "1767225599000",
            "2025-12-31T23:59:59Z",
            "Wed, 31 Dec 2025 23:59:59 GMT",
            "Thu, 99 Jan 2026 00:01:00 GMT",
        ] {
            for name in ["retry-after", "retry-after-ms", "x-ratelimit-reset"] {
                if (name, value) != ("retry-after-ms", "500000000")
                    && (name, value) != ("retry-after-ms", "1000000000")
                {
                    assert_eq!(wait(&[(name, value)]), None, "{name}: {value}");
                }
            }
        }
        assert_eq!(wait(&[]), None);
        assert_eq!(wait(&[("x-request-reset", "5"), ("x-ratelimit-limit", "5")]), None);
    }

    #[test]
    fn the_more_exact_word_counts() {
        let all = [("x-ratelimit-reset", "90"), ("retry-after", "2"), ("retry-after-ms", "1500")];
        assert_eq!(wait(&all), Some(1_500));
        assert_eq!(wait(&all[..2]), Some(2_000));
        assert_eq!(wait(&all[..1]), Some(90_000));
        assert_eq!(wait(&[("retry-after", "0"), ("x-ratelimit-reset", "90")]), Some(90_000));
        assert_eq!(wait(&[("retry-after", "soon"), ("retry-after", "3")]), Some(3_000));
    }

    #[test]
    fn only_limits_that_are_used_up_count() {
        let mut headers = vec![
            ("x-ratelimit-remaining-requests", "99"),
            ("x-ratelimit-reset-requests", "1h"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "6s"),
        ];
        assert_eq!(wait(&headers), Some(6_000));
        headers.extend([
            ("anthropic-ratelimit-requests-remaining", "-1"),
            ("anthropic-ratelimit-requests-reset", "2026-01-01T00:00:20Z"),
            ("anthropic-ratelimit-tokens-remaining", "5000"),
            ("anthropic-ratelimit-tokens-reset", "2026-01-01T00:10:00Z"),
        ]);
        assert_eq!(wait(&headers), Some(20_000), "the latest of those used up");
        headers.push(("x-ratelimit-reset", "30"));
        assert_eq!(wait(&headers), Some(30_000), "one that names no remainder");
    }

    #[test]
    fn an_error_in_a_body_tells_too() {
        let mut error = BodyError::default();
        assert_eq!(retry_at_in_body(&error, NOW), None);
        error.hints.insert("x-ratelimit-remaining", HeaderValue::from_static("0"));
        error.hints.insert("x-ratelimit-reset", HeaderValue::from_static("1767225660000"));
        assert_eq!(retry_at_in_body(&error, NOW), Some(Timestamp(NOW.0 + 60_000)));
    }

    #[test]
    fn bounds_hold() {
        let max = Duration::from_secs(60);
        assert_eq!(bounded(Timestamp(0), NOW, max), Timestamp(NOW.0 + 1));
        assert_eq!(bounded(Timestamp(NOW.0 + 500), NOW, max), Timestamp(NOW.0 + 500));
        assert_eq!(bounded(Timestamp::MAX, NOW, max), Timestamp(NOW.0 + 60_000));
    }

    proptest! {
        #[test]
        fn any_header_gives_the_future_or_nothing(
            name in prop::sample::select(vec![
                "retry-after-ms", "retry-after", "x-ratelimit-reset", "x-ratelimit-remaining",
                "anthropic-ratelimit-tokens-reset", "x-ratelimit-reset-requests",
            ]),
            value in prop_oneof![
                "[0-9]{0,22}(\\.[0-9]{0,4})?",
                "([0-9.]{1,9}(h|m|s|ms|us|µs|ns|d| )){1,4}",
                "\\PC{0,40}",
            ],
            now in prop_oneof![Just(NOW.0), any::<i64>(), 0..NOW.0],
            max in 1u64..1_000_000_000,
        ) {
            let now = Timestamp(now);
            let mut headers = HeaderMap::new();
            let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) else { return Ok(()) };
            headers.insert(name, value);
            if let Some(at) = retry_at(&headers, now) {
                prop_assert!(at > now);
                let max = Duration::from_millis(max);
                let at = bounded(at, now, max);
                prop_assert!(at > now && at <= now.saturating_add(max));
            }
        }
    }
}
