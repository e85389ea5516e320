//! Spans and sizes as people write them.

use std::time::Duration;

const SPANS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

const SIZES: [(&str, u64); 7] = [
    ("B", 1),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
];

/// `None` for what is no span, and for spans beyond counting.
pub(super) fn parse_span(text: &str) -> Option<Duration> {
    parse(text, |unit| SPANS.iter().find(|(name, _)| *name == unit)).map(Duration::from_millis)
}

/// In bytes. Units are read without regard to case: nobody means bits.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    parse(text, |unit| SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)))
}

fn parse(text: &str, unit: impl FnOnce(&str) -> Option<&'static (&'static str, u64)>) -> Option<u64> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let (_, factor) = unit(rest.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

pub(super) fn show_span(span: Duration) -> String {
    let millis = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    // Hours are as far as people count in one number: a day is shown as 24h.
    show(millis, &SPANS[..4], "s")
}

pub(super) fn show_size(bytes: u64) -> String {
    show(bytes, &SIZES, "B")
}

/// In the unit that leaves the smallest whole number.
fn show(number: u64, units: &[(&str, u64)], zero: &str) -> String {
    if number == 0 {
        return format!("0{zero}");
    }
    let whole = units.iter().filter(|(_, factor)| number.is_multiple_of(*factor));
    match whole.max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => format!("{}{unit}", number / factor),
        None => format!("{number}{zero}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans() {
        for (text, millis) in [
            ("100ms", 100),
            ("30s", 30_000),
            ("5m", 300_000),
            ("6h", 21_600_000),
            (" 2 d ", 172_800_000),
            ("0s", 0),
        ] {
            assert_eq!(parse_span(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for bad in
            ["", "30", "s", "-1s", "1.5s", "1h30m", "30S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(parse_span(bad), None, "{bad}");
        }
        for text in ["0s", "100ms", "90s", "5m", "6h", "24h"] {
            assert_eq!(show_span(parse_span(text).unwrap()), text);
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in
            [("32MB", 32_000_000), ("1GB", 1_000_000_000), ("64KiB", 65_536), ("1 mib", 1 << 20), ("7B", 7)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for bad in ["", "32", "MB", "1TB", "-1KB", "1.5MB", "18446744073709551615GB"] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
        for text in ["0B", "32MB", "1GB", "64KiB", "1500B"] {
            assert_eq!(show_size(parse_size(text).unwrap()), text);
        }
    }
}
