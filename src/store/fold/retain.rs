//! How long what is counted by hour and day is kept.
//!
//! Looked at when an hour has passed since the last look. Tables are in the order of periods, so what is old stands
//! together; only what is open for a hub is walked through, once a day.

use redb::ReadableTable;

use crate::{
    model::{CounterId, Day, Hour, Rung, SetId, SetKind, SpanId, SpanKind, Tally, Timestamp, UsageLog},
    store::{
        codec,
        desk::Desk,
        error::Fault,
        fold::core::LATE,
        kept::Kept as Rows,
        shelf::{CORE, Inflight},
        tables::{Dated, SetSize, counter_at, counter_of, read, span_kinds},
    },
};

/// What is kept how long, which is less the fuller the file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Kept {
    /// Hours of models here; a hub keeps them longer, as the next ones.
    pub(in crate::store) model_hours: u32,
    pub(in crate::store) key_hours: u32,
    key_days: u32,
    /// How old hours of keys may be that a hub has not been told.
    owed_hours: u32,
    /// How many requests may wait for a hub as rows.
    pub(in crate::store) logs: u64,
}

impl Kept {
    /// Days of users are kept in every case: the older ones would be in their months and, after a pull, here as well.
    pub(in crate::store) fn on(rung: Rung) -> Self {
        let whole = Self {
            model_hours: super::HOURS_KEPT,
            key_hours: 48,
            key_days: 30,
            owed_hours: OWED_HOURS,
            logs: LOGS,
        };
        match rung {
            Rung::Normal | Rung::Early => whole,
            Rung::Short => {
                Self { model_hours: 7 * 24, key_days: 8, owed_hours: 7 * 24, logs: LOGS / 4, ..whole }
            }
            Rung::Bare => {
                Self { model_hours: 48, key_hours: HOUR_SETS, key_days: 8, owed_hours: 48, logs: 0 }
            }
        }
    }
}

/// Most requests that wait as rows: some megabytes.
const LOGS: u64 = UsageLog::MOST as u64;
/// Then the number of an hour's users is final.
pub(in crate::store) const HOUR_SETS: u32 = 26;
const DAY_SETS: u32 = 8;
const TOKEN_DAYS: u32 = 3;
/// Older ones become months.
const USER_DAYS: u32 = 30;
const USER_MONTHS: u32 = 24;
/// How long a hub takes in hours of keys, and days.
const OWED_HOURS: u32 = 30 * 24;
const OWED_DAYS: u32 = 30;

/// The row of `META` that has the hour of the last look.
const LOOKED: &str = "retained";

const USERS: [SpanKind; 3] = [SpanKind::UserClasses, SpanKind::UserErrors, SpanKind::UserUses];

/// Whether a row of these numbers is still kept here, as long as there is room.
pub fn keeps(id: &SpanId, now: Timestamp) -> bool {
    let kept = Kept::on(Rung::Normal);
    let days = |kept| id.at.number() >= oldest(Day::of_utc(now), kept).0;
    match id.kind {
        SpanKind::KeyTotal => true,
        SpanKind::KeyHour => id.at.number() >= Hour::of(now).0.saturating_sub(kept.key_hours),
        SpanKind::TokenDay => days(TOKEN_DAYS),
        SpanKind::KeyDay => days(kept.key_days),
        SpanKind::UserClasses | SpanKind::UserErrors | SpanKind::UserUses => days(USER_DAYS),
    }
}

/// Whether a set is.
pub fn keeps_set(id: SetId, now: Timestamp) -> bool {
    match id.kind {
        SetKind::UserKeys => id.at >= oldest(Day::of_utc(now), USER_DAYS).0,
        SetKind::KeyDay | SetKind::KeyHour => owes(id, now),
    }
}

/// Whether a hub still takes in members of it.
pub fn owes(id: SetId, now: Timestamp) -> bool {
    match id.kind {
        SetKind::KeyHour => id.at >= Hour::of(now).0.saturating_sub(HOUR_SETS),
        SetKind::KeyDay | SetKind::UserKeys => id.at >= oldest(Day::of_utc(now), DAY_SETS).0,
    }
}

pub(super) fn retain(desk: &mut Desk<'_>, now: Timestamp, keeps: &Kept, look: bool) -> Result<(), Fault> {
    let hour = Hour::of(now);
    let last = desk.meta.get(LOOKED)?.and_then(|value| value.value().try_into().ok().map(u32::from_le_bytes));
    if last == Some(hour.0) && !look {
        return Ok(());
    }
    hours(desk, hour, keeps)?;
    let today = Day::of_utc(now);
    if look || last.is_none_or(|last| Day::of_utc(Hour(last).start()) != today) {
        days(desk, today, keeps)?;
        owed(desk, hour, today, keeps)?;
    }
    if look {
        desk.bound_logs(keeps.logs)?;
    }
    desk.meta.put(LOOKED, &hour.0.to_le_bytes())
}

fn hours(desk: &mut Desk<'_>, now: Hour, keeps: &Kept) -> Result<(), Fault> {
    let oldest = now.0.saturating_sub(keeps.key_hours);
    drop_before(&mut desk.tallies, SpanKind::KeyHour.number(), oldest)?;
    close_sets(desk, SetKind::KeyHour, now.0.saturating_sub(HOUR_SETS))?;
    drop_before(&mut desk.set_sizes, SetKind::KeyHour.number(), oldest)
}

/// Zones are up to a day apart from UTC, so one more than that is kept.
fn oldest(today: Day, kept: u32) -> Day {
    today.minus(kept + 1)
}

fn days(desk: &mut Desk<'_>, today: Day, keeps: &Kept) -> Result<(), Fault> {
    drop_before(&mut desk.tallies, SpanKind::TokenDay.number(), oldest(today, TOKEN_DAYS).0)?;
    drop_before(&mut desk.tallies, SpanKind::KeyDay.number(), oldest(today, keeps.key_days).0)?;
    close_sets(desk, SetKind::KeyDay, oldest(today, DAY_SETS).0)?;
    drop_before(&mut desk.set_sizes, SetKind::KeyDay.number(), oldest(today, keeps.key_days).0)?;
    // Small, and part of a user's days as long as these are kept; the hub has taken them in before.
    drop_before(&mut desk.sets, SetKind::UserKeys.number(), oldest(today, USER_DAYS).0)?;
    drop_untold(desk, SetKind::UserKeys, oldest(today, DAY_SETS).0)?;
    let first = today.month().0.saturating_sub(USER_MONTHS);
    for kind in USERS.map(SpanKind::number) {
        months(desk, kind, oldest(today, USER_DAYS).0)?;
        drop_before(&mut desk.months, kind, first)?;
    }
    Ok(())
}

/// What user days older than that counted goes into months.
fn months(desk: &mut Desk<'_>, kind: u8, oldest: u32) -> Result<(), Fault> {
    let mut old = Vec::new();
    for row in desk.tallies.rows()?.range((kind, 0, 0)..(kind, oldest, 0))? {
        let (at, value) = row?;
        let (_, day, user) = at.value();
        old.push(((kind, Day(day).month().0, user), read::<Tally>(value.value(), || "a day".to_owned())?));
    }
    for (at, tally) in old {
        super::bump(&mut desk.months, at, &tally, Tally::add)?;
    }
    drop_before(&mut desk.tallies, kind, oldest)
}

/// Of old sets only the number of members is kept, and nobody is told of members any more.
fn close_sets(desk: &mut Desk<'_>, of: SetKind, oldest: u32) -> Result<(), Fault> {
    let kind = of.number();
    let mut closed = Vec::new();
    for row in desk.sets.rows()?.range((kind, 0, 0)..(kind, oldest, 0))? {
        let (at, value) = row?;
        let set: crate::model::Set = read(value.value(), || "a set".to_owned())?;
        closed.push((at.value(), SetSize(u32::try_from(set.members.len()).unwrap_or(u32::MAX))));
    }
    for (at, size) in closed {
        // Members that came for a set that was closed before are not known to be others.
        let before =
            desk.set_sizes.get(at)?.map(|value| read::<SetSize>(value.value(), || "a number".to_owned()));
        let size = before.transpose()?.map_or(size, |before| before.max(size));
        desk.set_sizes.put(at, &codec::encode(&size))?;
    }
    drop_before(&mut desk.sets, kind, oldest)?;
    drop_untold(desk, of, oldest)
}

/// Sets that a hub takes in no more.
fn drop_untold(desk: &mut Desk<'_>, kind: SetKind, oldest: u32) -> Result<(), Fault> {
    let mut late = 0;
    for row in desk.open_sets.rows()?.range((kind.number(), 0, 0)..(kind.number(), oldest, 0))? {
        row?;
        late += 1;
    }
    drop_before(&mut desk.open_sets, kind.number(), oldest)?;
    desk.count_dropped(LATE, late)
}

fn drop_before(table: &mut Rows<'_, Dated>, kind: u8, oldest: u32) -> Result<(), Fault> {
    let old = (kind, 0, 0)..(kind, oldest, 0);
    // Most looks find nothing: cheaper than a walk that may write.
    if table.rows()?.range(old.clone())?.next().is_some() {
        table.drop_range(old)?;
    }
    Ok(())
}

/// The hub takes in nothing as old as these: nothing is owed to it for them, and no such row will come back. How many it was
/// never told is counted.
fn owed(desk: &mut Desk<'_>, hour: Hour, today: Day, keeps: &Kept) -> Result<(), Fault> {
    let kept = |kind, at| match kind {
        SpanKind::KeyTotal => true,
        SpanKind::KeyHour => at >= hour.0.saturating_sub(keeps.owed_hours),
        SpanKind::TokenDay => at >= oldest(today, TOKEN_DAYS).0,
        SpanKind::KeyDay => at >= oldest(today, OWED_DAYS).0,
        SpanKind::UserClasses | SpanKind::UserErrors | SpanKind::UserUses => at >= oldest(today, USER_DAYS).0,
    };
    let kinds = span_kinds();
    let all = (CORE, kinds.start, 0, "")..(CORE, kinds.end, 0, "");
    let span = |(_, kind, id, digits): (&str, u8, u128, &str)| match counter_of(kind, id, digits) {
        Some(CounterId::Span(id)) => Some(id),
        _ => None,
    };
    let is_old = |id: &SpanId| !kept(id.kind, id.at.number());
    let mut old = Vec::new();
    for row in desk.open.rows()?.range(all.clone())? {
        old.extend(span(row?.0.value()).filter(is_old));
    }
    for id in &old {
        desk.open.remove(counter_at(CORE, &CounterId::Span(*id)))?;
    }
    desk.count_dropped(LATE, old.len() as u64)?;
    // What a hub without room was not told is remembered for as long as it is shown.
    let is_hidden =
        |id: &SpanId| id.kind == SpanKind::KeyHour && id.at.number() < hour.0.saturating_sub(keeps.key_hours);
    let mut settled = Vec::new();
    for row in desk.inflight.rows()?.range(all)? {
        let (at, value) = row?;
        let Some(id) = span(at.value()) else { continue };
        if !is_old(&id) && !is_hidden(&id) {
            continue;
        }
        let inflight: Inflight = read(value.value(), || "deltas under way".to_owned())?;
        let mut left = inflight.clone();
        left.sealed.retain(|(seq, _)| *seq != Inflight::NEVER_TOLD);
        if is_old(&id) {
            left.confirmed = None;
        }
        if left != inflight {
            settled.push((CounterId::Span(id), left));
        }
    }
    for (id, left) in settled {
        match left.is_empty() {
            true => drop(desk.inflight.remove(counter_at(CORE, &id))?),
            false => desk.inflight.put(counter_at(CORE, &id), &codec::encode(&left))?,
        }
    }
    Ok(())
}
