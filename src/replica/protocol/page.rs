//! One page of a lane.

use serde_json::Value;

use super::{
    Result,
    document::{self, Drain, Mark, Vector, Walk, Why},
    garbage,
    position::Position,
    stream::Stream,
};
use crate::{
    model::{Timestamp, Version},
    replica::wire::{Ask, Lane, Page, StreamRow},
};

/// In milliseconds.
const DAY: i64 = 86_400_000;

/// How a lane goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    More,
    Done,
}

/// How far transactions had come in a `pg_snapshot`, if it is one: `xmin:xmax:` and those under way between.
fn horizon(snapshot: &str) -> Option<u64> {
    let mut parts = snapshot.split(':');
    let mut number = || parts.next()?.parse::<u64>().ok();
    let (xmin, xmax) = (number()?, number()?);
    let running = parts.next()?;
    let is_between = |xid: &str| xid.parse::<u64>().is_ok_and(|xid| (xmin..xmax).contains(&xid));
    let ends = parts.next().is_none() && (running.is_empty() || running.split(',').all(is_between));
    (ends && 0 < xmin && xmin <= xmax).then_some(xmax)
}

impl Stream<'_> {
    /// What this instance wants of a lane.
    pub fn ask(&self, lane: Lane, stream: &str) -> Ask {
        let note = match lane {
            Lane::State => &self.note.state,
            Lane::Stats => &self.note.stats,
            Lane::Limits => &self.note.limits,
        };
        Ask {
            stream: stream.to_owned(),
            provider: self.provider.to_owned(),
            lane,
            cursor: note.cursor.clone(),
            after: note.drain.as_ref().map(|drain| drain.after.clone()),
            // One that has stopped looks at the head of the page only.
            limit: if self.note.stopped.is_some() { 1 } else { note.page.unwrap_or(self.bounds.page) },
        }
    }

    /// A page did not come over in time, or was longer than answers may be.
    pub fn shrink_page(&mut self, ask: &Ask) {
        if !broken!(PagesStayLarge) {
            self.note.lane(ask.lane).page = Some((ask.limit / 2).max(1));
        }
    }

    /// One came over quickly.
    pub fn grow_page(&mut self, lane: Lane) {
        let most = self.bounds.page;
        let page = &mut self.note.lane(lane).page;
        *page = page.map(|rows| rows.saturating_add(rows / 2 + 1)).filter(|rows| *rows < most);
    }

    /// `position` is what the page's head said of the stream.
    pub fn take_page(
        &mut self,
        ask: &Ask,
        page: &Page,
        snapshot: &str,
        began: i64,
        position: Position,
    ) -> Result<Turn> {
        match position {
            Position::Stopped => return Ok(Turn::Done),
            // What was asked was asked under another id, or from a cursor that is void.
            Position::Changed => return Ok(Turn::More),
            Position::Good => {}
        }
        let lane = ask.lane;
        let Some(here) = horizon(snapshot) else {
            // As a cursor it would be refused for ever.
            return Err(garbage("a snapshot that is none"));
        };
        if ask.cursor.as_deref().and_then(horizon).is_some_and(|cursor| cursor > here) {
            // The hub's disk was set back, which its identity does not show: what is written from now on would pass
            // for seen until its transactions have come as far again.
            self.begin_resync(Why::RolledBack)?;
            return Ok(Turn::More);
        }
        let complete = self.note.lane(lane).complete.map(|at| Version::at(Timestamp(at)));
        let blind = ask.cursor.is_some() && complete.is_none_or(|complete| page.swept > complete);
        if lane == Lane::State && blind && !broken!(IgnoresHorizon) {
            self.begin_resync(Why::Away)?;
            return Ok(Turn::More);
        }
        if lane == Lane::State && complete.is_some_and(|complete| page.swept > complete) {
            self.deletions_missed();
        }
        let rows = page.rows.count();
        if page.next.is_some() && (rows == 0 || page.next == ask.after) {
            return Err(garbage("a page that leads nowhere"));
        }
        let contained = page.seq;
        match lane {
            Lane::State => self.take_state(&page.rows, contained)?,
            Lane::Stats => {
                self.take_counters(&page.rows, contained)?;
                self.take_sets(&page.rows.sets)?;
                let first = ask.after.is_none();
                self.take_streams(
                    &page.rows.streams,
                    first && ask.cursor.is_none(),
                    first && page.next.is_none(),
                )?;
            }
            Lane::Limits => self.hear_of_limits(&page.rows, contained)?,
        }
        let lane_note = self.note.lane(lane);
        let (first, snapshot) = (lane_note.drain.take(), snapshot.to_owned());
        let mut drain = first.unwrap_or_else(|| Drain {
            snapshot: snapshot.clone(),
            began,
            after: Value::Null,
            rows: 0,
            contained: Some(contained),
        });
        if broken!(CursorOfLastPage) {
            drain.snapshot = snapshot;
        }
        if let Some(after) = &page.next {
            (drain.after, drain.rows) = (after.clone(), drain.rows + rows);
            lane_note.drain = Some(drain);
            return Ok(Turn::More);
        }
        let Drain { snapshot, began, contained, .. } = drain;
        if broken!(LanesShareACursor) {
            (self.note.state.cursor, self.note.stats.cursor) =
                (Some(snapshot.clone()), Some(snapshot.clone()));
        }
        let lane_note = self.note.lane(lane);
        lane_note.cursor = Some(snapshot);
        let before = lane_note.complete.replace(began);
        self.end_lane(lane, contained, page.kept)?;
        let new_day = before.is_some_and(|before| before.div_euclid(DAY) != began.div_euclid(DAY));
        // After a resync it is done in any case.
        if lane == Lane::State && new_day && self.note.walk.is_none() {
            self.note.walk = Some(Walk::ForgetDeletions(None));
        }
        Ok(Turn::Done)
    }

    /// How far everybody is contained in the totals: what `sync adopt` gives to another hub.
    ///
    /// When all totals are read anew, what was known of the old ones is void: a hub that has lost batches would
    /// else be told that they are in it.
    fn take_streams(&mut self, rows: &[StreamRow], anew: bool, whole: bool) -> Result<()> {
        let anew = anew && !broken!(OldMarksStay);
        if rows.is_empty() && whole && !anew {
            return Ok(());
        }
        let name = document::vector_name(self.provider);
        let before: Vector = document::read(self.shelf, &name)?.unwrap_or_default();
        let mut vector = if anew { Vector::default() } else { before.clone() };
        for row in rows {
            if vector.of.len() < Vector::MAX || vector.of.contains_key(&row.i) {
                vector.of.insert(row.i, Mark { seq: row.s, digest: row.g.clone() });
            }
        }
        vector.exact = whole;
        if vector != before {
            document::write(self.shelf, &name, &vector)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_known_by_its_form() {
        for (text, xmax) in [
            ("10:20:", Some(20)),
            ("10:10:", Some(10)),
            ("10:20:10,14,15", Some(20)),
            ("18446744073709551614:18446744073709551615:", Some(u64::MAX)),
        ] {
            assert_eq!(horizon(text), xmax, "{text}");
        }
        for text in [
            "",
            "10",
            "10:20",
            "20:10:",
            "0:0:",
            "10:20:20",
            "10:20:9",
            "10:20:11:",
            "a:b:",
            "10:20:x",
            "-1:2:",
        ] {
            assert_eq!(horizon(text), None, "{text}");
        }
    }
}
