//! Pages: the rows that somebody with a cursor has not seen.

use serde_json::{Value, json};
use uuid::Uuid;

use super::{
    hub::{HOME, ModelHub, Xid},
    sabotage::{self, Sabotage},
    tables::Tables,
};
use crate::replica::{
    protocol::text,
    wire::{
        Ask, GlobalRow, GoneRow, HourRow, KeyStatsRow, Lane, ModelRow, Page, Rows, StreamRow, TokenStatsRow,
    },
};

fn visible(xid: Xid, snapshot: &str) -> bool {
    let mut parts = snapshot.split(':');
    let xmin: Xid = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    let xmax: Xid = parts.next().and_then(|part| part.parse().ok()).unwrap_or(0);
    if xid < xmin {
        return true;
    }
    if sabotage::on(Sabotage::HubComparesNumbers) {
        return xid < xmax;
    }
    xid < xmax && !parts.next().unwrap_or("").split(',').any(|running| running.parse() == Ok(xid))
}

impl ModelHub {
    /// How many rows a lane has for somebody with that cursor.
    pub fn unseen(&self, stream: &str, lane: Lane, cursor: &str) -> usize {
        self.db.tables[stream].changed(lane, &|xid| !visible(xid, cursor), self.now, false).len()
    }

    pub fn page(&self, instance: Uuid, ask: &Ask) -> Page {
        let tables = &self.db.tables[&ask.stream];
        let (seq, digest, answer) =
            tables.streams.get(&instance).map(|stream| stream.row.clone()).unwrap_or_default();
        let after: Option<(usize, String)> =
            // Read without trust.
            ask.after.clone().and_then(|after| serde_json::from_value(after).ok());
        let xmin_bound = sabotage::on(Sabotage::HubBoundsAtXmin);
        let bound = self.running.first().copied().unwrap_or(Xid::MAX);
        let wanted = |xid: Xid| {
            ask.cursor.as_ref().is_none_or(|cursor| !visible(xid, cursor)) && (!xmin_bound || xid < bound)
        };
        let mut rows = Rows::default();
        let mut left = ask.limit as usize;
        let mut next: Option<Value> = None;
        for (list, place, put) in tables.changed(ask.lane, &wanted, self.now, ask.cursor.is_none()) {
            if after.as_ref().is_some_and(|after| (list, &place) <= (after.0, &after.1)) {
                continue;
            }
            put(&mut rows);
            left -= 1;
            if left == 0 {
                // Perhaps there is more; the next page says so.
                next = Some(json!((list, place)));
                break;
            }
        }
        Page {
            stream: ask.stream.clone(),
            lane: ask.lane,
            seq,
            digest,
            answer,
            swept: tables.swept,
            kept: self.kept_from(),
            rows,
            next,
            missing: false,
        }
    }
}

pub type Put<'a> = Box<dyn FnOnce(&mut Rows) + 'a>;

impl Tables {
    /// All that a pull would tell.
    pub fn everything(&self, now: i64) -> Rows {
        let mut rows = Rows::default();
        for lane in [Lane::State, Lane::Stats] {
            self.changed(lane, &|_| true, now, true).into_iter().for_each(|(_, _, put)| put(&mut rows));
        }
        rows
    }

    /// The rows of a lane in the wire's order: the list's number in the lane, and the place in the list.
    fn changed<'a>(
        &'a self,
        lane: Lane,
        wanted: &'a dyn Fn(Xid) -> bool,
        now: i64,
        anew: bool,
    ) -> Vec<(usize, String, Put<'a>)> {
        let mut out: Vec<(usize, String, Put<'a>)> = Vec::new();
        if lane == Lane::State {
            for ((t, id), tomb) in self.tombstones.iter().filter(|(_, row)| wanted(row.xid)) {
                let row = GoneRow { t: *t, id: id.clone(), v: tomb.row.v };
                let kind = serde_json::to_value(t).unwrap();
                let place = format!("{}:{id}", kind.as_str().unwrap());
                out.push((1, place, Box::new(move |rows| rows.gone.push(row))));
            }
            out.sort_by(|a, b| a.1.cmp(&b.1));
            if let Some(core) = &self.core {
                out.extend(core.changed(lane, wanted, now, anew));
            }
            for (k, key) in self.keys.iter().filter(|(_, row)| wanted(row.xid)) {
                let row = text::key_row(&key.row, false, HOME);
                out.push((2, k.clone(), Box::new(move |rows| rows.keys.push(row))));
            }
            for (k, token) in self.tokens.iter().filter(|(_, row)| wanted(row.xid)) {
                let row = text::token_row(&token.row, false, HOME);
                out.push((3, k.clone(), Box::new(move |rows| rows.tokens.push(row))));
            }
            return out;
        }
        if let Some(core) = &self.core {
            out.extend(core.changed(lane, wanted, now, anew));
        }
        if lane == Lane::Limits {
            return out;
        }
        for (k, stats) in self.key_stats.iter().filter(|(_, row)| wanted(row.xid)) {
            let (n, k) = (&stats.row, k.clone());
            out.push((
                1,
                k.clone(),
                Box::new(move |rows| {
                    rows.key_stats.push(KeyStatsRow {
                        k: crate::model::Secret::new(k),
                        s: n.sums.s,
                        f: n.sums.f,
                        o: n.sums.o,
                        lu: n.sums.lu,
                        ls: n.last_success,
                        lf: n.last_failure,
                    })
                }),
            ));
        }
        for (k, stats) in self.token_stats.iter().filter(|(_, row)| wanted(row.xid)) {
            let (sums, k) = (stats.row.sums.clone(), crate::model::Secret::new(k.as_str()));
            let at = k.expose().to_owned();
            out.push((2, at, Box::new(move |rows| rows.token_stats.push(TokenStatsRow { k, sums }))));
        }
        for (m, stats) in self.models.iter().filter(|(_, row)| wanted(row.xid)) {
            let (sums, m) = (stats.row.sums.clone(), m.clone());
            out.push((3, m.clone(), Box::new(move |rows| rows.models.push(ModelRow { m, sums }))));
        }
        for ((h, m), stats) in self.hours.iter().filter(|(_, row)| wanted(row.xid)) {
            let (sums, h, m) = (stats.row.sums.clone(), *h, m.clone());
            let at = format!("{h:010}:{m}");
            out.push((4, at, Box::new(move |rows| rows.hours.push(HourRow { h, m, sums }))));
        }
        for stats in self.global.values().filter(|row| wanted(row.xid)) {
            let sums = stats.row.sums.clone();
            out.push((5, "global".to_owned(), Box::new(move |rows| rows.global = Some(GlobalRow { sums }))));
        }
        for (i, stream) in self.streams.iter().filter(|(_, row)| wanted(row.xid)) {
            let row = StreamRow { i: *i, s: stream.row.0, g: stream.row.1.clone() };
            let list = if self.core.is_some() { 3 } else { 6 };
            out.push((list, i.to_string(), Box::new(move |rows| rows.streams.push(row))));
        }
        out
    }
}
