//! The core's tables on the hub, and what a batch does to them, as `schema/017` to `schema/019` have it.

use std::collections::{BTreeMap, BTreeSet};

use uuid::Uuid;

use super::retention::Window;
use crate::{
    model::{CounterId, Set, SpanId, SpanKind, Timestamp, Version},
    replica::{
        protocol::text,
        simulator::{
            hub::{HOME, Xid},
            merge::merge_user,
            sabotage::{self, Sabotage},
            tables::{AHEAD, Stamped, Tables},
        },
        wire::{EventRow, GoneKind, LogRow, RowAnswers, Rows, SetRow, ShareRow, Sums, TallyRow, UserRow},
    },
    store::shelf::UserEntry,
};

/// A period and whose row it is.
pub type At = (u32, Uuid);

#[derive(Clone, Debug, Default)]
pub struct Core {
    pub users: BTreeMap<Uuid, Stamped<UserEntry>>,
    pub keys: BTreeMap<Uuid, Stamped<SharedKey>>,
    pub user_days: BTreeMap<At, Stamped<UserDay>>,
    pub token_days: BTreeMap<At, Stamped<Sums>>,
    pub key_days: BTreeMap<At, Stamped<KeyDay>>,
    pub key_hours: BTreeMap<At, Stamped<Sums>>,
    /// Who used a key: `kd` and `kh`.
    pub sets: BTreeMap<(String, u32, Uuid), Stamped<BTreeSet<String>>>,
    pub events: BTreeMap<Uuid, EventRow>,
    pub logs: Vec<LogRow>,
    /// Older ones are not taken in, however long ago that was decided.
    pub hours_from: u32,
    pub days_from: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedKey {
    pub sums: Sums,
    pub share: Option<ShareRow>,
    /// The day for which its figures hold.
    pub figures: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct KeyDay {
    pub sums: Sums,
    pub users: usize,
}

/// A row of `daily_logs`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct UserDay {
    pub uses: Sums,
    pub classes: Sums,
    pub errors: Sums,
    pub keys: BTreeSet<String>,
    pub more: bool,
    /// When the last key was used, and which.
    pub last: Option<(i64, String)>,
}

impl UserDay {
    fn add(&mut self, more: &Self, raise: bool) {
        bump(&mut self.uses, &more.uses, raise);
        bump(&mut self.classes, &more.classes, raise);
        bump(&mut self.errors, &more.errors, raise);
        if sabotage::on(Sabotage::HubReplacesSets) && !more.keys.is_empty() {
            self.keys.clear();
        }
        self.keys.extend(more.keys.iter().cloned());
        self.more |= more.more || self.keys.len() > Set::MOST_KEYS;
        while self.keys.len() > Set::MOST_KEYS {
            self.keys.pop_last();
        }
        self.last = self.last.take().max(more.last.clone());
    }
}

/// Counters are added, or raised to what an adopter knew.
pub fn bump(to: &mut Sums, more: &Sums, raise: bool) {
    let sum = |had: i64, more: i64| if raise { had.max(more) } else { had + more };
    (to.s, to.f, to.o) = (sum(to.s, more.s), sum(to.f, more.f), sum(to.o, more.o));
    (to.p, to.q, to.lu) = (sum(to.p, more.p), sum(to.q, more.q), to.lu.max(more.lu));
}

/// What the hub has columns for.
fn told(row: &TallyRow) -> Sums {
    let Sums { s, f, o, p, q, lu } = row.sums.clone();
    match row.t.as_str() {
        "kd" => Sums { s, f, o, lu, ..Sums::default() },
        "kh" => Sums { s, f, o, p, q, lu: None },
        "kt" => Sums { s, f, o, p, q: 0, lu },
        "uc" | "ue" => Sums { s, f, o, ..Sums::default() },
        _ => Sums { s, f, o, p, q, lu },
    }
}

fn put<K: Ord, T: Default>(rows: &mut BTreeMap<K, Stamped<T>>, at: K, xid: Xid) -> &mut T {
    let row = rows.entry(at).or_insert_with(|| Stamped { row: T::default(), xid });
    row.xid = xid;
    &mut row.row
}

/// Of a key, and not of a user or token.
fn is_of_key(t: &str) -> bool {
    t.starts_with('k')
}

impl Tables {
    /// All rows of a batch, or of an adopter's.
    pub fn apply_core(&mut self, rows: &Rows, xid: Xid, now: i64, raise: bool) -> RowAnswers {
        let Some(mut core) = self.core.take() else { return RowAnswers::default() };
        let mut answers = RowAnswers::default();
        let window = core.window(now);
        let (mut tallies, mut sets) = (Vec::new(), Vec::new());
        let mut keys: BTreeSet<Uuid> = rows.shares.iter().map(|row| row.i).collect();
        for (at, row) in rows.tallies.iter().enumerate() {
            if is_of_key(&row.t) && window.is_near_tally(&row.t, row.n) {
                keys.insert(row.i);
            }
            if window.takes_tally(&row.t, row.n) {
                tallies.push(row.clone());
            } else {
                answers.expired.push(("tallies".to_owned(), at));
            }
        }
        for (at, row) in rows.sets.iter().enumerate() {
            if is_of_key(&row.t) && window.is_near_set(&row.t, row.n) {
                keys.insert(row.i);
            }
            if window.takes_set(&row.t, row.n) {
                sets.push(row.clone());
            } else {
                answers.expired.push(("sets".to_owned(), at));
            }
        }
        let future = Version::at(Timestamp(now + AHEAD));
        for (at, row) in rows.gone.iter().enumerate() {
            if row.v > future {
                answers.clock.push(("gone".to_owned(), at));
            } else if row.t == GoneKind::User {
                self.delete_user(&mut core, &row.id, row.v, xid, now);
            }
        }
        for (at, row) in rows.users.iter().enumerate() {
            let versions = [row.nv, row.ov, row.ev, row.rv, row.dv, row.tv, row.mv, row.iv, Some(row.a)];
            if versions.iter().flatten().any(|version| *version > future) {
                answers.clock.push(("users".to_owned(), at));
            } else if !self.push_user(&mut core, row, raise, xid) {
                answers.gone.push(("users".to_owned(), at));
            }
        }
        core.apply_users_days(&tallies, &sets, xid, raise);
        core.apply_keys(&keys, &rows.shares, &mut tallies, &sets, (xid, day(now)), raise);
        for (at, row) in rows.events.iter().enumerate() {
            match core.take_event(row, now) {
                true => {}
                false => answers.expired.push(("events".to_owned(), at)),
            }
        }
        for (at, row) in rows.logs.iter().enumerate() {
            if row.at < now - 7 * super::DAY {
                answers.expired.push(("logs".to_owned(), at));
            } else {
                core.logs.push(row.clone());
            }
        }
        self.core = Some(core);
        answers
    }

    fn delete_user(&mut self, core: &mut Core, id: &str, v: Version, xid: Xid, now: i64) {
        let Ok(at) = id.parse::<Uuid>() else { return };
        if core.users.get(&at).is_some_and(|user| user.row.versions.added >= v) {
            return;
        }
        core.users.remove(&at);
        self.bury(GoneKind::User, id.to_owned(), v, xid, now);
    }

    /// Whether it was taken: not what was deleted later than it was added.
    fn push_user(&mut self, core: &mut Core, row: &UserRow, raise: bool, xid: Xid) -> bool {
        let there = text::user_entry(row, HOME);
        if let Some(here) = core.users.get_mut(&row.i) {
            let before = here.row.clone();
            merge_user(&mut here.row, there);
            if here.row != before {
                here.xid = xid;
            }
            return true;
        }
        let at = (GoneKind::User, row.i.to_string());
        if self.tombstones.get(&at).is_some_and(|tomb| row.a <= tomb.row.v) {
            return false;
        }
        if row.add || raise {
            core.users.insert(row.i, Stamped { row: there, xid });
            self.tombstones.remove(&at);
        }
        true
    }
}

fn day(now: i64) -> u32 {
    super::day_of(now)
}

impl Core {
    /// Days of users: all that a batch tells of one is one change of its row.
    fn apply_users_days(&mut self, tallies: &[TallyRow], sets: &[SetRow], xid: Xid, raise: bool) {
        let mut days: BTreeMap<At, UserDay> = BTreeMap::new();
        for row in tallies.iter().filter(|row| row.t.starts_with('u')) {
            let day = days.entry((row.n, row.i)).or_default();
            let sums = match row.t.as_str() {
                "uc" => &mut day.classes,
                "ue" => &mut day.errors,
                _ => &mut day.uses,
            };
            bump(sums, &told(row), false);
        }
        for row in sets.iter().filter(|row| row.t == "uk") {
            let last = row.at.zip(row.k.clone());
            let keys = row.m.iter().cloned().collect();
            let more = UserDay { keys, more: row.more, last, ..UserDay::default() };
            let day = days.entry((row.n, row.i)).or_default();
            day.uses.lu = day.uses.lu.max(row.at);
            day.add(&more, false);
        }
        for (at, more) in days {
            put(&mut self.user_days, at, xid).add(&more, raise);
        }
        for row in tallies.iter().filter(|row| row.t == "td") {
            bump(put(&mut self.token_days, (row.n, row.i), xid), &told(row), raise);
        }
    }

    fn apply_keys(
        &mut self,
        keys: &BTreeSet<Uuid>,
        shares: &[ShareRow],
        tallies: &mut Vec<TallyRow>,
        sets: &[SetRow],
        (xid, today): (Xid, u32),
        raise: bool,
    ) {
        for key in keys {
            self.keys.entry(*key).or_insert_with(|| Stamped { row: SharedKey::default(), xid });
        }
        for row in shares {
            let Some(key) = self.keys.get_mut(&row.i) else { continue };
            let is_later = key.row.share.as_ref().is_none_or(|had| (row.a, row.v) > (had.a, had.v));
            if is_later {
                key.row.share = Some(row.clone());
            }
        }
        for row in sets.iter().filter(|row| is_of_key(&row.t)) {
            self.take_users(row, xid);
            let same = |of: &TallyRow| (&of.t, of.i, of.n) == (&row.t, row.i, row.n);
            // A set brings its row of counters with it.
            if !tallies.iter().any(same) {
                tallies.push(TallyRow { t: row.t.clone(), i: row.i, n: row.n, sums: Sums::default() });
            }
        }
        let mut used = BTreeSet::new();
        for row in tallies.iter().filter(|row| is_of_key(&row.t)) {
            let at = (row.n, row.i);
            match row.t.as_str() {
                "kh" => bump(put(&mut self.key_hours, at, xid), &told(row), raise),
                "kd" => {
                    let users = self.sets.get(&("kd".to_owned(), row.n, row.i));
                    let users = users.map_or(0, |set| set.row.len());
                    let day = put(&mut self.key_days, at, xid);
                    bump(&mut day.sums, &told(row), raise);
                    day.users = day.users.max(users);
                    used.insert(row.i);
                }
                _ => {
                    bump(&mut put(&mut self.keys, row.i, xid).sums, &told(row), raise);
                    used.insert(row.i);
                }
            }
        }
        self.work_out(used, xid, today);
    }

    /// The figures of these keys, as of that day.
    pub fn work_out(&mut self, keys: BTreeSet<Uuid>, xid: Xid, today: u32) {
        for key in keys {
            let of = |day: u32| self.key_days.get(&(day, key)).map(|day| &day.row);
            let week = (today.saturating_sub(6)..=today).filter_map(of);
            let week: i64 = week.map(|day| day.sums.s + day.sums.f + day.sums.o).sum();
            let users = of(today).map_or(0, |day| day.users);
            put(&mut self.keys, key, xid).figures = (week > 0 || users > 0).then_some(today);
        }
    }

    fn take_users(&mut self, row: &SetRow, xid: Xid) {
        let told: BTreeSet<String> = row.m.iter().cloned().collect();
        let set = self.sets.entry((row.t.clone(), row.n, row.i));
        let set = set.or_insert_with(|| Stamped { row: BTreeSet::new(), xid });
        if !told.is_subset(&set.row) {
            if sabotage::on(Sabotage::HubReplacesSets) {
                set.row.clear();
            }
            set.row.extend(told);
            set.xid = xid;
        }
    }

    /// False of one that is not kept any more.
    fn take_event(&mut self, row: &EventRow, now: i64) -> bool {
        if row.at < now - 30 * super::DAY {
            return false;
        }
        let at = row.at.min(now + super::DAY);
        self.events.entry(row.x).or_insert_with(|| EventRow { at, ..row.clone() });
        true
    }

    /// All numbers that instances show too.
    pub fn counters(&self) -> Vec<(CounterId, Sums)> {
        let mut all = Vec::new();
        let mut put = |kind, (n, i): &At, sums: &Sums| {
            // What is nothing has no row there.
            if *sums != Sums::default() {
                let id = SpanId::new(kind, i.as_u128(), *n);
                all.push((CounterId::Span(id), sums.clone()));
            }
        };
        for (at, day) in &self.user_days {
            put(SpanKind::UserUses, at, &day.row.uses);
            put(SpanKind::UserClasses, at, &day.row.classes);
            put(SpanKind::UserErrors, at, &day.row.errors);
        }
        self.token_days.iter().for_each(|(at, day)| put(SpanKind::TokenDay, at, &day.row));
        self.key_days.iter().for_each(|(at, day)| put(SpanKind::KeyDay, at, &day.row.sums));
        self.key_hours.iter().for_each(|(at, hour)| put(SpanKind::KeyHour, at, &hour.row));
        self.keys.iter().for_each(|(i, key)| put(SpanKind::KeyTotal, &(0, *i), &key.row.sums));
        all
    }

    pub fn window(&self, now: i64) -> Window {
        Window::new(now, self.hours_from, self.days_from)
    }
}
