//! The core's pages: rows that somebody with a cursor has not seen.

use uuid::Uuid;

use super::{
    hour_of,
    tables::{Core, UserDay},
};
use crate::{
    model::UserId,
    replica::{
        protocol::text,
        simulator::{
            hub::{HOME, Xid},
            pages::Put,
            tables::Stamped,
        },
        wire::{Lane, Rows, SetRow, Sums, TallyRow},
    },
};

/// Which is its place, too.
fn place(t: &str, n: u32, i: Uuid) -> String {
    format!("{t}:{n}:{i}")
}

fn tally(list: &mut Vec<(usize, String, Put<'_>)>, t: &str, n: u32, i: Uuid, sums: &Sums) {
    let row = TallyRow { t: t.to_owned(), i, n, sums: sums.clone() };
    list.push((1, place(t, n, i), Box::new(move |rows: &mut Rows| rows.tallies.push(row))));
}

fn set(list: &mut Vec<(usize, String, Put<'_>)>, row: SetRow) {
    list.push((2, place(&row.t, row.n, row.i), Box::new(move |rows: &mut Rows| rows.sets.push(row))));
}

impl Core {
    /// In the wire's order: the list's number in the lane, and the place in the list. `anew` for somebody who has seen
    /// nothing yet.
    pub fn changed<'a>(
        &'a self,
        lane: Lane,
        wanted: &'a dyn Fn(Xid) -> bool,
        now: i64,
        anew: bool,
    ) -> Vec<(usize, String, Put<'a>)> {
        let mut out: Vec<(usize, String, Put<'a>)> = Vec::new();
        if lane == Lane::State {
            for (i, user) in self.users.iter().filter(|(_, row)| wanted(row.xid)) {
                let row = text::user_row(UserId(i.as_u128()), &user.row, false, HOME);
                out.push((2, i.to_string(), Box::new(move |rows| rows.users.push(row))));
            }
            return out;
        }
        if lane == Lane::Limits {
            self.limits(&mut out, wanted);
            return out;
        }
        for ((n, i), day) in self.key_days.iter().filter(|(_, row)| wanted(row.xid)) {
            tally(&mut out, "kd", *n, *i, &day.row.sums);
        }
        // Instances keep hours for two days.
        let from = hour_of(now) - 49;
        for ((n, i), hour) in self.key_hours.iter().filter(|(at, row)| at.0 >= from && wanted(row.xid)) {
            tally(&mut out, "kh", *n, *i, &hour.row);
        }
        for (i, key) in self.keys.iter().filter(|(_, row)| wanted(row.xid)) {
            tally(&mut out, "kt", 0, *i, &key.row.sums);
        }
        self.limits(&mut out, wanted);
        // What is changed is told though nothing is left of it.
        let days = |has: fn(&UserDay) -> bool| {
            let is_told = move |day: &&(&(u32, Uuid), &Stamped<UserDay>)| {
                wanted(day.1.xid) && (!anew || has(&day.1.row))
            };
            self.user_days.iter().filter(move |day| is_told(&day))
        };
        for ((n, i), day) in days(|day| day.classes != Sums::default()) {
            tally(&mut out, "uc", *n, *i, &day.row.classes);
        }
        for ((n, i), day) in days(|day| day.errors != Sums::default()) {
            tally(&mut out, "ue", *n, *i, &day.row.errors);
        }
        for ((n, i), day) in days(|day| day.uses != Sums::default()) {
            tally(&mut out, "uu", *n, *i, &day.row.uses);
        }
        for ((t, n, i), users) in self.sets.iter().filter(|(_, row)| wanted(row.xid)) {
            let m = users.row.iter().cloned().collect();
            set(&mut out, SetRow { t: t.clone(), i: *i, n: *n, m, more: false, k: None, at: None });
        }
        for ((n, i), day) in days(|day| !day.keys.is_empty() || day.last.is_some()) {
            let UserDay { keys, more, last, .. } = &day.row;
            let (at, k) = last.clone().unzip();
            let m = keys.iter().cloned().collect();
            set(&mut out, SetRow { t: "uk".to_owned(), i: *i, n: *n, m, more: *more, k, at });
        }
        out
    }

    fn limits(&self, out: &mut Vec<(usize, String, Put<'_>)>, wanted: &dyn Fn(Xid) -> bool) {
        for ((n, i), day) in self.token_days.iter().filter(|(_, row)| wanted(row.xid)) {
            tally(out, "td", *n, *i, &day.row);
        }
    }

    /// Stamps that lie ahead of this cluster's transactions.
    pub fn restamp(&mut self, ahead: Xid, xid: Xid) {
        let stamps = (self.users.values_mut().map(|row| &mut row.xid))
            .chain(self.keys.values_mut().map(|row| &mut row.xid))
            .chain(self.user_days.values_mut().map(|row| &mut row.xid))
            .chain(self.token_days.values_mut().map(|row| &mut row.xid))
            .chain(self.key_days.values_mut().map(|row| &mut row.xid))
            .chain(self.key_hours.values_mut().map(|row| &mut row.xid))
            .chain(self.sets.values_mut().map(|row| &mut row.xid));
        stamps.filter(|stamp| **stamp >= ahead).for_each(|stamp| *stamp = xid);
    }
}
