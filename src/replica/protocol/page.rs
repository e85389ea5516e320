//! One page of a lane.

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

impl Stream<'_> {
    /// What this instance wants of a lane.
    pub fn ask(&self, lane: Lane, stream: &str) -> Ask {
        let note = match lane {
            Lane::State => &self.note.state,
            Lane::Stats => &self.note.stats,
        };
        Ask {
            stream: stream.to_owned(),
            provider: self.provider.to_owned(),
            lane,
            cursor: note.cursor.clone(),
            after: note.drain.as_ref().map(|drain| drain.after.clone()),
            // One that has stopped looks at the head of the page only.
            limit: if self.note.stopped.is_some() { 1 } else { self.bounds.page },
        }
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
                self.take_streams(&page.rows.streams, ask.after.is_none() && page.next.is_none())?;
            }
        }
        let lane_note = self.note.lane(lane);
        let (snapshot, began, before) = match lane_note.drain.take() {
            Some(drain) if broken!(CursorOfLastPage) => (snapshot.to_owned(), drain.began, drain.rows),
            Some(drain) => (drain.snapshot, drain.began, drain.rows),
            None => (snapshot.to_owned(), began, 0),
        };
        if let Some(after) = &page.next {
            lane_note.drain = Some(Drain { snapshot, began, after: after.clone(), rows: before + rows });
            return Ok(Turn::More);
        }
        lane_note.cursor = Some(snapshot);
        let before = lane_note.complete.replace(began);
        self.end_lane(lane)?;
        let new_day = before.is_some_and(|before| before.div_euclid(DAY) != began.div_euclid(DAY));
        // After a resync it is done in any case.
        if lane == Lane::State && new_day && self.note.walk.is_none() {
            self.note.walk = Some(Walk::ForgetDeletions(None));
        }
        Ok(Turn::Done)
    }

    /// How far everybody is contained in the totals: what `sync adopt` gives to another hub.
    fn take_streams(&mut self, rows: &[StreamRow], whole: bool) -> Result<()> {
        if rows.is_empty() && whole {
            return Ok(());
        }
        let name = document::vector_name(self.provider);
        let before: Vector = document::read(self.shelf, &name)?.unwrap_or_default();
        let mut vector = before.clone();
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
