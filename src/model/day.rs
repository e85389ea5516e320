//! Days of people's calendar: which one an instant is in depends on the time zone.

use std::{fmt, str::FromStr, sync::Arc};

use jiff::{
    civil::Date,
    tz::{TimeZone, TimeZoneDatabase},
};
use serde::{Deserialize, Serialize};

use super::Timestamp;

const EPOCH: Date = Date::constant(1970, 1, 1);
const DAY_MS: i64 = 86_400_000;

/// A date: days since 1970-01-01, whatever the zone. Text like `2026-12-31` in JSON, the bare number in records.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Day(pub u32);

impl Day {
    /// That of UTC.
    pub fn of_utc(at: Timestamp) -> Self {
        Self(u32::try_from(at.0.div_euclid(DAY_MS)).unwrap_or(0))
    }

    #[must_use]
    pub fn minus(self, days: u32) -> Self {
        Self(self.0.saturating_sub(days))
    }

    /// `None` for dates before 1970.
    fn of(date: Date) -> Option<Self> {
        u32::try_from(EPOCH.until(date).ok()?.get_days()).ok().map(Self)
    }

    /// Dates that no calendar shows are shown as the last one that it does.
    fn date(self) -> Date {
        let days = jiff::Span::new().try_days(self.0).ok();
        days.and_then(|days| EPOCH.checked_add(days).ok()).unwrap_or(Date::MAX)
    }

    pub fn month(self) -> Month {
        let date = self.date();
        Month((i32::from(date.year()) - 1970).unsigned_abs() * 12 + date.month().unsigned_abs() as u32 - 1)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.date().fmt(f)
    }
}

impl fmt::Debug for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Day {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let date = text.trim().parse::<Date>().ok();
        date.and_then(Self::of).ok_or("not a date; write it like 2026-12-31")
    }
}

impl Serialize for Day {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            self.0.serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Day {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
        } else {
            u32::deserialize(deserializer).map(Self)
        }
    }
}

/// Months since January 1970.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Month(pub u32);

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", 1970 + self.0 / 12, self.0 % 12 + 1)
    }
}

/// A day with its bounds: 23 to 25 hours where clocks are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DaySpan {
    pub day: Day,
    pub start: Timestamp,
    /// The first instant of the next day.
    pub end: Timestamp,
}

impl DaySpan {
    pub fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

/// A time zone of the IANA database, of which keytide carries its own copy: days begin at the same instants on every
/// machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Zone {
    name: Arc<str>,
    zone: TimeZone,
}

impl Default for Zone {
    fn default() -> Self {
        Self { name: "UTC".into(), zone: TimeZone::UTC }
    }
}

/// A name that is no zone's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{shown}\" is no time zone: {hint}")]
pub struct UnknownZone {
    shown: String,
    hint: String,
}

impl Zone {
    /// # Errors
    /// A sentence that names the zone that was perhaps meant.
    pub fn named(name: &str) -> Result<Self, UnknownZone> {
        let found = TimeZoneDatabase::bundled().get(name.trim()).ok();
        // As the database writes it: names are found in any case.
        let found = found.and_then(|zone| Some(Self { name: zone.iana_name()?.into(), zone }));
        found.filter(|zone| &*zone.name != "Etc/Unknown").ok_or_else(|| {
            let shown = super::error_body::shorten(name);
            let hint = match nearest(name.trim()) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => "write a name of the IANA database, like \"UTC\" or \"Asia/Shanghai\"".to_owned(),
            };
            UnknownZone { shown, hint }
        })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The day that an instant is in. Looks the zone's rules up, so it is nothing for every request: keep the
    /// span, and ask again when it holds the present no more.
    pub fn day_of(&self, at: Timestamp) -> DaySpan {
        let date = at.calendar().map(|at| at.to_zoned(self.zone.clone()).date());
        let span = date.and_then(Day::of).and_then(|day| self.span(day));
        span.filter(|span| span.holds(at)).unwrap_or_else(|| {
            // No calendar shows it, or it is before 1970.
            let start = at.0.div_euclid(DAY_MS).saturating_mul(DAY_MS);
            let end = Timestamp(start.saturating_add(DAY_MS));
            DaySpan { day: Day::of_utc(at), start: Timestamp(start), end }
        })
    }

    /// When a day begins and ends here. One that the zone has left out is empty.
    pub fn span(&self, day: Day) -> Option<DaySpan> {
        // Where midnight is left out, the day begins at its first moment after that.
        let start = |date: Date| {
            let midnight = date.to_zoned(self.zone.clone()).ok()?;
            Some(Timestamp::from(midnight.start_of_day().ok()?.timestamp()))
        };
        let date = day.date();
        Some(DaySpan { day, start: start(date)?, end: start(date.tomorrow().ok()?)? })
    }
}

/// By its last part, which is how people call a zone, or by its spelling.
fn nearest(name: &str) -> Option<String> {
    // The measure is quadratic.
    if name.is_empty() || name.len() > 64 {
        return None;
    }
    let wanted = name.to_lowercase().replace(' ', "_");
    let distance = |known: &str| {
        let known = known.to_lowercase();
        let city = known.rsplit('/').next().unwrap_or(&known);
        strsim::damerau_levenshtein(&wanted, &known).min(strsim::damerau_levenshtein(&wanted, city))
    };
    let names = TimeZoneDatabase::bundled();
    let known = names.available().map(|known| known.as_str().to_owned());
    let measured = known.map(|known| (distance(&known), known.len(), known));
    measured.min().filter(|(distance, ..)| *distance <= 1 + wanted.len() / 5).map(|(.., name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn days_follow_the_zone_and_its_changes_of_the_clock() {
        for (zone, now, date, start, end, hours) in [
            ("UTC", "1970-01-02T23:59:59.999Z", "1970-01-02", "1970-01-02", "1970-01-03", 24),
            (
                "asia/shanghai",
                "2026-11-22T16:00:00Z",
                "2026-11-23",
                "2026-11-22T16:00:00Z",
                "2026-11-23T16:00:00Z",
                24,
            ),
            (
                "Europe/Berlin",
                "2026-10-25T10:00:00Z",
                "2026-10-25",
                "2026-10-24T22:00:00Z",
                "2026-10-25T23:00:00Z",
                25,
            ),
            (
                "Europe/Berlin",
                "2026-03-29T10:00:00Z",
                "2026-03-29",
                "2026-03-28T23:00:00Z",
                "2026-03-29T22:00:00Z",
                23,
            ),
            // There is no midnight on this day.
            (
                "America/Sao_Paulo",
                "2018-11-04T12:00:00Z",
                "2018-11-04",
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
                23,
            ),
            // The day before this one never was.
            (
                "Pacific/Apia",
                "2011-12-30T10:00:00Z",
                "2011-12-31",
                "2011-12-30T10:00:00Z",
                "2011-12-31T10:00:00Z",
                24,
            ),
            (
                "Pacific/Apia",
                "2011-12-30T09:59:59Z",
                "2011-12-29",
                "2011-12-29T10:00:00Z",
                "2011-12-30T10:00:00Z",
                24,
            ),
        ] {
            let zone = Zone::named(zone).unwrap();
            let span = zone.day_of(at(now));
            assert_eq!(span, DaySpan { day: date.parse().unwrap(), start: at(start), end: at(end) }, "{now}");
            assert_eq!(span.end.since(span.start).as_secs(), hours * 3600);
            assert_eq!(zone.day_of(span.start), span);
            assert_ne!(zone.day_of(span.end), span);
        }
    }

    #[test]
    fn any_instant_is_in_some_day() {
        for name in ["UTC", "Pacific/Kiritimati", "America/Adak"] {
            let zone = Zone::named(name).unwrap();
            for at in [i64::MIN, -1, 0, 1, 253_402_300_799_999, 253_402_300_800_000, i64::MAX - DAY_MS] {
                let span = zone.day_of(Timestamp(at));
                assert!(span.holds(Timestamp(at)), "{name} {at}: {span:?}");
            }
            let _no_panic = zone.day_of(Timestamp::MAX);
        }
    }

    #[test]
    fn a_wrong_name_names_a_near_one() {
        for (name, near) in [
            ("Asia/Shangai", "Asia/Shanghai"),
            ("shanghai", "Asia/Shanghai"),
            ("New York", "America/New_York"),
            ("utcc", "UTC"),
        ] {
            let error = Zone::named(name).unwrap_err().to_string();
            assert!(error.contains(&format!("did you mean \"{near}\"")), "{error}");
        }
        for name in ["", "Mars/Olympus Mons", "+05:00", "Etc/Unknown", &"x".repeat(5_000)] {
            let error = Zone::named(name).unwrap_err().to_string();
            assert!(error.contains("IANA") && error.len() < 400, "{error}");
        }
        assert_eq!(Zone::named(" utc ").unwrap(), Zone::default());
        assert_eq!(Zone::named("EUROPE/berlin").unwrap().name(), "Europe/Berlin");
    }

    #[test]
    fn dates_are_text_and_months_are_theirs() {
        let day: Day = "2026-11-22".parse().unwrap();
        assert_eq!(
            (day, day.to_string().as_str(), day.month().to_string().as_str()),
            (Day(20_779), "2026-11-22", "2026-11")
        );
        assert_eq!(Day(0).month(), Month(0));
        assert_eq!(serde_json::to_string(&day).unwrap(), "\"2026-11-22\"");
        assert_eq!(serde_json::from_str::<Day>("\"2026-11-22\"").unwrap(), day);
        for bad in ["", "1969-12-31", "2026-02-30", "20779", "today"] {
            assert!(bad.parse::<Day>().is_err(), "{bad}");
        }
        let _no_panic = (Day(u32::MAX).to_string(), Day(u32::MAX).month());
    }
}
