//! Numbers, sizes and times as people read and write them.

use jiff::{Zoned, tz::TimeZone};

use crate::model::Timestamp;

/// With commas between the thousands.
pub(super) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// "1 key", "2 keys".
pub(super) fn counted(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(number), if number == 1 { one } else { many })
}

pub(super) fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    if number < 1000 {
        return format!("{number} B");
    }
    let mut value = number as f64 / 1000.0;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// What is said under a page of a list that has anything: how many there are in all, and how to see the others.
pub(super) fn page(total: String, is_empty: bool, page: u64, pages: u64, how: &str) -> String {
    match pages {
        _ if is_empty => format!("{total}; there is no page {page}, the last is {pages}"),
        ..=1 => total,
        _ => format!("{total}; page {page} of {pages} ({how})"),
    }
}

/// Nothing is said about what nobody has asked for.
pub(super) fn percent(rate: f64, total: u64) -> String {
    if total == 0 { "-".to_owned() } else { format!("{rate:.2} %") }
}

pub(super) fn ago(at: Option<Timestamp>, now: Timestamp) -> String {
    match at {
        None => "never".to_owned(),
        Some(at) if at > now => "just now".to_owned(),
        Some(at) => match now.since(at).as_secs() {
            0..5 => "just now".to_owned(),
            seconds => format!("{} ago", span(seconds)),
        },
    }
}

/// Empty for an instant that has passed.
pub(super) fn left(until: Option<Timestamp>, now: Timestamp) -> String {
    match until {
        Some(until) if until > now => format!("{} left", span(until.since(now).as_secs().max(1))),
        _ => String::new(),
    }
}

pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7_200 => format!("{}m", seconds / 60),
        7_200..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

pub(super) fn date(at: Option<Timestamp>) -> String {
    at.and_then(Timestamp::calendar)
        .map(|at| at.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M").to_string())
        .unwrap_or_default()
}

/// A moment that a person writes: see [`Timestamp`]'s `FromStr`.
pub(super) fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse()
}

/// A span from now on, as "2h", "30d", "6mo" or "1h 30m"; returns the moment when it ends.
pub(super) fn parse_span(text: &str) -> Result<Timestamp, String> {
    span_from(text, &Zoned::now().with_time_zone(TimeZone::UTC))
}

fn span_from(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let wrong = || "not a span; write it like 30m, 2h, 30d or 6mo".to_owned();
    let span: jiff::Span = text.trim().parse().map_err(|_| wrong())?;
    let end = now.checked_add(span).map_err(|_| wrong())?;
    if end <= *now {
        return Err("must be longer than nothing".to_owned());
    }
    Ok(end.timestamp().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(count(number), text);
        }
        for (number, text) in
            [(999, "999 B"), (1_000, "1.0 kB"), (999_960, "1.0 MB"), (64_000_000, "64.0 MB")]
        {
            assert_eq!(bytes(number), text);
        }
        assert_eq!((counted(1, "key", "keys"), counted(2, "key", "keys")), ("1 key".into(), "2 keys".into()));
        assert_eq!((percent(66.67, 3), percent(0.0, 0)), ("66.67 %".into(), "-".into()));
    }

    #[test]
    fn pages() {
        for (is_empty, at, pages, text) in [
            (false, 1, 1, "7 keys"),
            (false, 2, 3, "7 keys; page 2 of 3 (--page)"),
            (true, 9, 3, "7 keys; there is no page 9, the last is 3"),
        ] {
            assert_eq!(page("7 keys".to_owned(), is_empty, at, pages, "--page"), text);
        }
    }

    #[test]
    fn moments() {
        let now = Timestamp(1_000_000_000_000);
        let before = |seconds: i64| Some(Timestamp(now.0 - seconds * 1000));
        for (at, text) in [
            (None, "never"),
            (before(-60), "just now"),
            (before(3), "just now"),
            (before(119), "119s ago"),
            (before(3600), "60m ago"),
            (before(86_400), "24h ago"),
            (before(864_000), "10d ago"),
        ] {
            assert_eq!(ago(at, now), text);
        }
        assert_eq!((left(before(-90), now), left(before(1), now)), ("90s left".into(), String::new()));
        assert_eq!(date(Some(Timestamp(0))), "1970-01-01 00:00");
    }

    #[test]
    fn spans() {
        let now: Zoned = "2026-01-31T00:00:00Z[UTC]".parse().unwrap();
        for (text, end) in [
            ("2h", "2026-01-31T02:00:00Z"),
            ("30d", "2026-03-02T00:00:00Z"),
            ("1h 30m", "2026-01-31T01:30:00Z"),
            ("1mo", "2026-02-28T00:00:00Z"),
        ] {
            assert_eq!(span_from(text, &now), end.parse(), "{text}");
        }
        for bad in ["", "0s", "-2h", "2h ago", "soon", "30", "99999999999d"] {
            assert!(span_from(bad, &now).is_err(), "{bad}");
        }
    }
}
