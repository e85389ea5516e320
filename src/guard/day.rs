//! When a day begins and ends.

use std::{fmt, sync::Arc};

use jiff::{
    civil::Date,
    tz::{TimeZone, TimeZoneDatabase},
};

use crate::model::Timestamp;

/// A day of the calendar in one time zone: 23 to 25 hours where clocks are changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Day {
    /// Days since 1970-01-01 of the local date.
    pub number: i32,
    pub start: Timestamp,
    /// The first moment of the next day.
    pub end: Timestamp,
}

impl Day {
    pub fn holds(&self, at: Timestamp) -> bool {
        self.start <= at && at < self.end
    }
}

/// Which day a moment is in.
#[derive(Clone)]
pub struct Days(Arc<dyn Fn(Timestamp) -> Day + Send + Sync>);

impl fmt::Debug for Days {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Days")
    }
}

impl Default for Days {
    fn default() -> Self {
        Self::new(day_in_utc)
    }
}

impl Days {
    pub fn new(day_of: impl Fn(Timestamp) -> Day + Send + Sync + 'static) -> Self {
        Self(Arc::new(day_of))
    }

    /// By the names of the IANA database that keytide carries; `None` for others.
    pub fn in_zone(name: &str) -> Option<Self> {
        let zone = TimeZoneDatabase::bundled().get(name).ok()?;
        Some(Self::new(move |now| day_in(&zone, now).unwrap_or_else(|| day_in_utc(now))))
    }

    pub fn at(&self, now: Timestamp) -> Day {
        (self.0)(now)
    }
}

const EPOCH: Date = Date::constant(1970, 1, 1);
const DAY_MS: i64 = 86_400_000;

/// Right for any moment, also for those that no calendar shows.
fn day_in_utc(now: Timestamp) -> Day {
    let number = now.0.div_euclid(DAY_MS);
    let start = number.saturating_mul(DAY_MS);
    Day {
        number: i32::try_from(number).unwrap_or(i32::MAX),
        start: Timestamp(start),
        end: Timestamp(start.saturating_add(DAY_MS)),
    }
}

fn day_in(zone: &TimeZone, now: Timestamp) -> Option<Day> {
    let date = now.calendar()?.to_zoned(zone.clone()).date();
    // Where midnight is left out, the day begins at its first moment after that.
    let start = |date: Date| Some(date.to_zoned(zone.clone()).ok()?.start_of_day().ok()?.timestamp());
    let number = EPOCH.until(date).ok()?.get_days();
    Some(Day { number, start: start(date)?.into(), end: start(date.tomorrow().ok()?)?.into() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn days_follow_the_zone_and_its_changes_of_the_clock() {
        let days = |name: &str| Days::in_zone(name).unwrap();
        for (zone, now, number, start, end) in [
            ("UTC", "1970-01-02T23:59:59.999Z", 1, "1970-01-02", "1970-01-03"),
            ("UTC", "1969-12-31T12:00:00Z", -1, "1969-12-31", "1970-01-01"),
            ("Asia/Shanghai", "2026-11-22T16:00:00Z", 20_780, "2026-11-22T16:00:00Z", "2026-11-23T16:00:00Z"),
            // 25 hours, and 23.
            ("Europe/Berlin", "2026-10-25T10:00:00Z", 20_751, "2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            ("Europe/Berlin", "2026-03-29T10:00:00Z", 20_541, "2026-03-28T23:00:00Z", "2026-03-29T22:00:00Z"),
            // There is no midnight on this day.
            (
                "America/Sao_Paulo",
                "2018-11-04T12:00:00Z",
                17_839,
                "2018-11-04T03:00:00Z",
                "2018-11-05T02:00:00Z",
            ),
        ] {
            let day = days(zone).at(at(now));
            assert_eq!(day, Day { number, start: at(start), end: at(end) }, "{zone} {now}");
            assert!(day.holds(at(now)) && !day.holds(day.end) && day.holds(day.start));
        }
        assert_eq!(
            Days::default().at(at("2026-11-22T16:00:00Z")),
            days("utc").at(at("2026-11-22T16:00:00Z"))
        );
        assert!(Days::in_zone("Mars/Olympus").is_none());
        let _no_panic = (days("UTC").at(Timestamp::MAX), days("UTC").at(Timestamp(i64::MIN)));
    }
}
