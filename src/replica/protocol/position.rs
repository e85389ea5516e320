//! Where the hub says that a stream is, against where it is here.
//!
//! | the hub is at                             | then                                                          |
//! |-------------------------------------------|---------------------------------------------------------------|
//! | what was confirmed                        | all is well                                                   |
//! | a sealed batch of ours                    | confirmed, though the answer was lost; or all is pulled anew, |
//! |                                           | since whoever adopted the hub had it in the totals            |
//! | what was told in the place of one         | that one becomes several                                      |
//! | an earlier batch of ours, or none         | it was rolled back: the later ones are sent again             |
//! | something else, not before the confirmed  | a copy of this file goes on under the same id: take another   |
//! | something else, further back              | more is forgotten than is kept: stop until somebody adopts it |

use uuid::Uuid;

use super::{
    Note, Result,
    counters::requests,
    document::{Batch, Mark, Stop, Walk, Why},
    stream::Stream,
};
use crate::{
    model::{CounterId, Tally},
    replica::wire::RowAnswers,
};

/// How many batches one transaction confirms, when several were applied whose answers were lost.
const CONFIRMED: usize = 8;
/// How many confirmed batches it throws away.
const THROWN: usize = 4;

/// What became of the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// As it was, or further on.
    Good,
    /// Everything that was asked before is moot.
    Changed,
    /// Nothing can be done.
    Stopped,
}

impl Stream<'_> {
    /// `answers` are how the rows of the batch at `at` were taken. `fresh` becomes this instance's id if another
    /// one is needed.
    pub fn reconcile(&mut self, at: &Mark, answers: &RowAnswers, fresh: Uuid) -> Result<Position> {
        let confirmed = self.note.confirmed.clone();
        if at.seq == confirmed.seq && (at.digest == confirmed.digest || at.seq == 0) {
            self.hear_doubt(answers);
            return self.resume(Position::Good);
        }
        if self.queue().contains(&at.seq) && self.head_of(at.seq)?.fence() == *at {
            if self.note.confirmed.seq + 1 < at.seq {
                self.confirm_up_to(at.seq - 1, None)?;
            } else {
                self.split(true)?;
            }
            return self.resume(Position::Changed);
        }
        // Of a batch that is not kept any more, the next one tells the digest.
        let own = at.seq == 0
            || self.kept_head(at.seq)?.is_some_and(|head| head.digest == at.digest)
            || self.kept_head(at.seq.saturating_add(1))?.is_some_and(|head| head.prev == at.digest);
        match (own, at.seq.cmp(&confirmed.seq)) {
            (true, std::cmp::Ordering::Less) if broken!(IgnoresRollback) => Ok(Position::Good),
            (true, std::cmp::Ordering::Less) => self.roll_back(at),
            (true, _) => {
                if self.is_told_by_another(at.seq)? {
                    // From now on it is known who has counted what.
                    self.note.run = fresh;
                    self.say(|provider| Note::Copied { provider });
                }
                let position = self.confirm_up_to(at.seq, Some(answers))?;
                if position == Position::Good {
                    self.hear_doubt(answers);
                }
                let position = self.resume(position)?;
                if position == Position::Good && answers.adopted && !broken!(AdoptedIsApplied) {
                    // Rows that the adopter did not have stay as they were, and are on no page by themselves.
                    self.begin_resync(Why::RolledBack)?;
                    return Ok(Position::Changed);
                }
                Ok(position)
            }
            (false, std::cmp::Ordering::Less) => {
                if let Some(Stop::RolledBack(before)) = self.note.stopped {
                    // Adopted by somebody who knew some of it.
                    let requests = self.told_by(at.seq)?.saturating_sub(self.told_by(before)?);
                    self.say_uncertain(requests);
                }
                Ok(self.stop(Stop::RolledBack(at.seq)))
            }
            (false, _) => {
                self.note.walk = Some(Walk::Fork { fresh, taken: 0, told: false, after: None });
                self.resume(Position::Changed)
            }
        }
    }

    /// Whoever adopted the hub did not know of this instance, whose counts may be lost. The hub says so of the batch
    /// that came last by then, and of the next one; here it is said once.
    fn hear_doubt(&mut self, answers: &RowAnswers) {
        if !answers.uncertain {
            return;
        }
        let (at, before) = (self.note.confirmed.seq, self.note.unsure);
        self.note.unsure = Some(at);
        let known = before.is_some_and(|said| said == at || !answers.adopted && said + 1 == at);
        if !known {
            self.say_uncertain(self.note.told);
        }
    }

    fn resume(&mut self, position: Position) -> Result<Position> {
        let Some(stop) = self.note.stopped.take() else { return Ok(position) };
        self.say(|provider| Note::Resumed { provider });
        if let Stop::RolledBack(at) = stop {
            // Somebody has brought back what the hub had forgotten, as far as he knew it.
            self.tell_loss(at)?;
            self.begin_resync(Why::RolledBack)?;
            return Ok(Position::Changed);
        }
        Ok(position)
    }

    /// What this instance told after the batch at `at`, and cannot tell again, is in the hub only as far as whoever
    /// adopted it had it in his totals.
    pub fn tell_loss(&mut self, at: u64) -> Result<()> {
        let requests = self.note.told.saturating_sub(self.told_by(at)?);
        self.say_uncertain(requests);
        Ok(())
    }

    fn say_uncertain(&mut self, requests: u64) {
        if requests > 0 && !broken!(LossIsSilent) {
            self.say(|provider| Note::Uncertain { provider, requests });
        }
    }

    /// Requests in the batches up to that one; of one that is not kept, at a place before it that is remembered.
    fn told_by(&self, seq: u64) -> Result<u64> {
        if let Some(head) = self.kept_head(seq)? {
            return Ok(head.told);
        }
        let place = self.note.forgotten.iter().rev().find(|(place, _)| *place <= seq);
        Ok(place.map_or(0, |(_, told)| *told))
    }

    pub fn stop(&mut self, stop: Stop) -> Position {
        if self.note.stopped.as_ref() != Some(&stop) {
            self.note.stopped = Some(stop.clone());
            self.say(|provider| Note::Stopped { provider, stop });
        }
        Position::Stopped
    }

    fn confirm_up_to(&mut self, seq: u64, answers: Option<&RowAnswers>) -> Result<Position> {
        for sealed in self.queue().take_while(|sealed| *sealed <= seq).take(CONFIRMED) {
            let batch = self.waiting_batch(sealed)?;
            // Only the last one's answers are known, if it was applied.
            self.confirm(batch, answers.filter(|answers| sealed == seq && !answers.adopted))?;
        }
        // A page that holds the rest, too, would count it twice: it is to be asked for again.
        Ok(if self.note.confirmed.seq == seq { Position::Good } else { Position::Changed })
    }

    /// The batches that the hub has forgotten are sealed again, as they were: the view stays, since what was base
    /// or confirmed is now sealed.
    fn roll_back(&mut self, at: &Mark) -> Result<Position> {
        let confirmed = self.note.confirmed.seq;
        let kept = self.shelf.batches(self.provider, at.seq + 1, usize::MAX)?;
        let complete = kept.iter().filter(|seq| **seq <= confirmed).count() as u64 == confirmed - at.seq;
        if !complete {
            return Ok(self.stop(Stop::RolledBack(at.seq)));
        }
        let (to, batches) = (at.clone(), confirmed - at.seq);
        self.note.walk = Some(Walk::RollBack { to, batches, settled: false, after: None });
        self.resume(Position::Changed)
    }

    pub fn roll_back_on(
        &mut self,
        to: Mark,
        batches: u64,
        settled: bool,
        after: Option<CounterId>,
    ) -> Result<Option<Walk>> {
        if !settled {
            let after = self.forget_confirmed(after.as_ref(), None)?;
            return Ok(Some(Walk::RollBack { to, batches, settled: after.is_none(), after }));
        }
        if self.note.confirmed.seq > to.seq {
            let seq = self.note.confirmed.seq;
            let batch = self.waiting_batch(seq)?;
            for (id, tally) in self.tallies(&batch.rows) {
                let mut inflight = self.shelf.inflight(self.provider, &id)?.unwrap_or_default();
                inflight.tell_after_all(&tally);
                inflight.sealed.push((seq, tally));
                inflight.sealed.sort_by_key(|(seq, _)| *seq);
                self.put_inflight(&id, inflight)?;
                self.cover(&id)?;
            }
            let bytes = self.restate(seq, |head| (head.confirmed, head.told) = (None, 0))?;
            self.note.told = self.note.told.saturating_sub(batch.requests());
            self.note.kept_bytes = self.note.kept_bytes.saturating_sub(bytes);
            self.note.pending_rows += batch.head.rows;
            self.note.confirmed = Mark { seq: seq - 1, digest: batch.head.prev };
            return Ok(Some(Walk::RollBack { to, batches, settled, after: None }));
        }
        self.note.confirmed = to;
        self.say(|provider| Note::RolledBack { provider, batches });
        self.begin_resync(Why::RolledBack)?;
        Ok(None)
    }

    /// Counts of a row that was deleted had left the view when they were confirmed; now they are under way again.
    fn cover(&mut self, id: &CounterId) -> Result<()> {
        let (view, own) = (self.shelf.view(self.provider, id)?, self.own(id)?);
        let least = Tally {
            success: view.success.max(own.success),
            failure: view.failure.max(own.failure),
            other: view.other.max(own.other),
            prompt_tokens: view.prompt_tokens.max(own.prompt_tokens),
            completion_tokens: view.completion_tokens.max(own.completion_tokens),
            ..view
        };
        self.show(id, &least)
    }

    /// Confirmed deltas become part of the base, or wait for their row whatever page it is on. Returns the last
    /// counter that was looked at; none at the end.
    fn forget_confirmed(
        &mut self,
        after: Option<&CounterId>,
        keep_at: Option<u64>,
    ) -> Result<Option<CounterId>> {
        let some = self.shelf.inflights(self.provider, after, self.bounds.stride)?;
        let last = some.last().map(|(last, _)| last.clone());
        for (id, mut inflight) in some {
            let Some((_, tally)) = inflight.confirmed else { continue };
            inflight.confirmed = keep_at.map(|seq| (seq, tally));
            self.put_inflight(&id, inflight)?;
        }
        Ok(last)
    }

    /// Whether one of the batches up to that one holds what this process has counted, and was never sent from here.
    fn is_told_by_another(&self, seq: u64) -> Result<bool> {
        for waiting in self.queue().filter(|waiting| (self.note.sent + 1..=seq).contains(waiting)) {
            if self.head_of(waiting)?.run == self.note.run {
                return Ok(!broken!(CopiesGoUnseen));
            }
        }
        Ok(false)
    }

    /// A copy of this file has told the hub something else under the same id.
    ///
    /// What this process has counted nobody else can have told, if the copy was made while no process ran: it is open
    /// again. What was sealed before it began lies in the copy too, which has sent it, since it sends nothing else
    /// before it.
    pub fn fork_on(
        &mut self,
        fresh: Uuid,
        mut taken: u64,
        mut told: bool,
        after: Option<CounterId>,
    ) -> Result<Option<Walk>> {
        let newest = self.note.sealed.seq;
        if newest > self.note.confirmed.seq {
            let batch = self.waiting_batch(newest)?;
            let own = batch.head.run == self.note.run && !broken!(ForkDropsEverything);
            if own || broken!(ForkKeepsEverything) {
                self.unseal(&batch)?;
            } else {
                told = true;
                taken += if broken!(ForkIsSilent) { 0 } else { batch.requests() };
                self.leave_to_the_copy(&batch)?;
            }
            return Ok(Some(Walk::Fork { fresh, taken, told, after }));
        }
        let kept = self.shelf.batches(self.provider, 0, THROWN)?;
        if !kept.is_empty() {
            for seq in kept {
                self.shelf.set_batch(self.provider, seq, None)?;
            }
            return Ok(Some(Walk::Fork { fresh, taken, told, after }));
        }
        let after = self.forget_confirmed(after.as_ref(), Some(0))?;
        if after.is_some() {
            return Ok(Some(Walk::Fork { fresh, taken, told, after }));
        }
        (self.note.sealed, self.note.confirmed) = (Mark::default(), Mark::default());
        (self.note.sent, self.note.late, self.note.refused, self.note.kept_bytes) = (0, 0, None, 0);
        (self.note.told, self.note.forgotten, self.note.unsure) = (0, Vec::new(), None);
        self.note.stats.drain.iter_mut().for_each(|drain| drain.contained = Some(0));
        if !broken!(ForkKeepsId) {
            self.rename(fresh)?;
        }
        let instance = self.note.instance;
        // All that is told again is open now.
        let open = self.shelf.open(self.provider, &CounterId::Total)?.unwrap_or_default();
        let doubled = if broken!(ForkHidesDoubt) { 0 } else { requests(&open) };
        self.say(|provider| Note::Forked { provider, instance, taken, doubled });
        if told {
            self.begin_resync(Why::Forked)?;
        }
        Ok(None)
    }

    fn leave_to_the_copy(&mut self, batch: &Batch) -> Result<()> {
        for (id, tally) in self.tallies(&batch.rows) {
            let mut inflight = self.shelf.inflight(self.provider, &id)?.unwrap_or_default();
            inflight.sealed.retain(|(sealed, _)| *sealed != batch.head.seq);
            let mut sum = tally;
            if let Some((_, before)) = &inflight.confirmed {
                sum.add(before);
            }
            inflight.confirmed = Some((0, sum));
            self.put_inflight(&id, inflight)?;
        }
        // State can be told twice, and so can sets and events.
        self.soil_rows(&batch.rows)?;
        self.reopen(&batch.rows, false)?;
        self.drop_newest(&batch.head)
    }
}
