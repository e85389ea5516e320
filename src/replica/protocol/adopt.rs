//! Another database becomes the hub: one instance tells it all that it knows of the old one.
//!
//! It raises counters to the base, which is what the old hub had said, and installs how far each instance was
//! contained in that, so that the others send again exactly what is missing.

use super::{
    Call, Machine, Note, Outcome, Result, Wishes,
    document::{self, Part, Stop, Vector, Why},
    garbage,
    round::{Round, StreamRound, What},
    stream::Stream,
    text,
};
use crate::{
    model::{CounterId, Timestamp},
    replica::wire::{
        AdoptAnswer, AdoptRequest, Function, GlobalRow, HourRow, HubIdentity, ModelRow, PROTOCOL, Rows,
        StreamRow, TokenStatsRow,
    },
    store::shelf::Shelf,
};

/// How far an adoption is.
#[derive(Clone, Debug, PartialEq)]
pub struct Adopting {
    pub was: HubIdentity,
    pub step: Step,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Begin,
    Rows {
        stream: usize,
        part: Part,
    },
    /// `asked` once the rows before it have been answered; then `left` is how many the hub still had to stamp.
    Restamp {
        asked: bool,
        left: Option<u64>,
    },
    End,
}

impl Machine {
    /// Begins a round that makes the database which is there now the hub, with all that this instance knows of
    /// the old one. Returns false, and begins nothing, when no stream has stopped.
    ///
    /// # Errors
    /// The shelf's.
    pub fn begin_adoption(&mut self, shelf: &mut dyn Shelf, now: Timestamp) -> Result<bool> {
        let mut out = Outcome::default();
        for at in 0..self.hub.streams.len() {
            let was = self.stream(shelf, at, now, &mut out, |stream| Ok(stream.to_adopt()))?.flatten();
            if let Some(was) = was {
                self.begin(Wishes::default());
                if let Some(round) = &mut self.round {
                    round.adopting = Some(Adopting { was, step: Step::Begin });
                }
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn adopt(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        round: &mut Round,
        out: &mut Outcome,
    ) -> Result<Option<Call>> {
        let Some(adopting) = &mut round.adopting else { return Ok(None) };
        let mut request = AdoptRequest {
            protocol: PROTOCOL,
            mode: "adopt".to_owned(),
            step: String::new(),
            instance: shelf.instance(),
            now: now.0,
            was: adopting.was.clone(),
            stream: String::new(),
            provider: String::new(),
            rows: Rows::default(),
        };
        let step = match adopting.step.clone() {
            Step::Begin => "begin",
            Step::Restamp { left, .. } => {
                adopting.step = Step::Restamp { asked: true, left };
                "restamp"
            }
            Step::End => "end",
            Step::Rows { stream: at, part } => {
                let of = &self.hub.streams[at];
                (request.stream, request.provider) = (of.stream.clone(), of.provider.clone());
                let made = self.stream(shelf, at, now, out, |stream| stream.adopt_rows(&part))?;
                let (rows, next) = made.unwrap_or_default();
                request.rows = rows;
                let (after, last) = (at + 1, at + 1 == self.hub.streams.len());
                adopting.step = match next {
                    Some(part) => Step::Rows { stream: at, part },
                    None if last => Step::Restamp { asked: false, left: None },
                    None => Step::Rows { stream: after, part: Part::Keys(None) },
                };
                "rows"
            }
        };
        request.step = step.to_owned();
        Ok(Some(self.call(Function::Push, &request, What::Adopt)))
    }

    pub(super) fn take_adopt(
        &mut self,
        shelf: &mut dyn Shelf,
        answer: AdoptAnswer,
        round: &mut Round,
        now: Timestamp,
        out: &mut Outcome,
    ) -> Result<()> {
        let Some(adopting) = &mut round.adopting else { return Ok(()) };
        match answer.status.as_str() {
            "ok" => {}
            // Nothing is left to do but to see it: the round goes on as any other.
            "adopted" => {
                round.adopting = None;
                return Ok(());
            }
            "busy" | "missing" | "read_only" | "unsupported" => {
                out.notes.push(Note::AdoptRefused { by: answer.by, until: answer.until });
                round.adopting = None;
                round.streams.iter_mut().for_each(StreamRound::end);
                return Ok(());
            }
            _ => return Err(garbage("an adoption answered in another way")),
        }
        match adopting.step {
            Step::Begin => adopting.step = Step::Rows { stream: 0, part: Part::Keys(None) },
            Step::Restamp { asked: true, .. } if answer.left == 0 => adopting.step = Step::End,
            Step::Restamp { asked: true, left: Some(before) } if answer.left >= before => {
                return Err(garbage("it stamps rows anew, and none fewer are left"));
            }
            Step::Restamp { asked: true, .. } => {
                adopting.step = Step::Restamp { asked: true, left: Some(answer.left) };
            }
            Step::Restamp { .. } | Step::Rows { .. } => {}
            Step::End => {
                for at in 0..self.hub.streams.len() {
                    self.stream(shelf, at, now, out, |stream| stream.adopted(&answer.greeting.hub))?;
                }
                out.notes.push(Note::Adopted { to: answer.greeting.hub });
                round.adopting = None;
            }
        }
        Ok(())
    }
}

impl Stream<'_> {
    /// The identity that the new hub takes over; none if nothing has stopped.
    pub fn to_adopt(&self) -> Option<HubIdentity> {
        let known = self.note.hub.clone()?;
        match self.note.stopped.as_ref()? {
            Stop::OtherHub(_) => Some(known),
            // The database is the same: this names the state of it that was lost.
            Stop::RolledBack(_) => Some(HubIdentity { timeline: -self.hub_now().0, ..known }),
        }
    }

    /// Rows of one part, and the part that follows.
    pub fn adopt_rows(&mut self, part: &Part) -> Result<(Rows, Option<Part>)> {
        let mut rows = Rows::default();
        let most = self.bounds.rows;
        let next = match part {
            Part::Keys(after) => {
                let keys = self.shelf.keys(self.provider, *after, most)?;
                let next = keys.last().map_or(Part::Tokens(None), |(last, _)| Part::Keys(Some(*last)));
                rows.keys = keys.iter().map(|(_, entry)| text::key_row(entry, true, self.shift)).collect();
                rows.keys.sort_by(|a, b| a.k.cmp(&b.k));
                next
            }
            Part::Tokens(after) => {
                let tokens = self.shelf.tokens(self.provider, *after, most)?;
                let next = tokens.last().map_or(Part::Gone(None), |(last, _)| Part::Tokens(Some(*last)));
                rows.tokens =
                    tokens.iter().map(|(_, entry)| text::token_row(entry, true, self.shift)).collect();
                rows.tokens.sort_by(|a, b| a.k.cmp(&b.k));
                next
            }
            Part::Gone(after) => {
                let gone = self.shelf.all_gone(self.provider, *after, most)?;
                let next = gone.last().map_or(Part::Counters(None), |(last, _)| Part::Gone(Some(*last)));
                let deletions = gone.iter().filter(|(_, gone)| gone.is_deletion());
                rows.gone = deletions.map(|(row, gone)| text::gone_row(*row, gone)).collect();
                rows.gone.sort_by(|a, b| (a.t, &a.id).cmp(&(b.t, &b.id)));
                next
            }
            Part::Counters(after) => {
                let views = self.shelf.views(self.provider, after.as_ref(), most)?;
                let next = views.last().map_or(Part::Streams, |(last, _)| Part::Counters(Some(last.clone())));
                for (id, _) in views {
                    self.adopt_counter(&id, &mut rows)?;
                }
                super::seal::sort(&mut rows);
                next
            }
            Part::Streams => {
                rows.streams = self.contained()?;
                return Ok((rows, None));
            }
        };
        Ok((rows, Some(next)))
    }

    /// What the old hub had: the view without what it was never told.
    fn adopt_counter(&mut self, id: &CounterId, rows: &mut Rows) -> Result<()> {
        let mut base = self.shelf.view(self.provider, id)?;
        if let Some(open) = self.shelf.open(self.provider, id)?.filter(|_| !broken!(AdoptsTheView)) {
            base = base.minus(&open);
        }
        let inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
        inflight.sealed.iter().for_each(|(_, tally)| base = base.minus(tally));
        let shift = self.shift;
        match id {
            CounterId::Key(key) => {
                // Of a deleted one the counts are the old hub's retired ones, which nobody else has.
                if let Some(entry) = self.shelf.key(self.provider, *key)? {
                    rows.key_stats.push(text::key_stats_row(entry.record.secret, &base, shift));
                }
            }
            CounterId::Token(token) => {
                if let Some(entry) = self.shelf.token(self.provider, *token)? {
                    rows.token_stats
                        .push(TokenStatsRow { k: entry.record.secret, sums: text::sums(&base, shift) });
                }
            }
            CounterId::Model(model) => {
                rows.models.push(ModelRow { m: model.to_string(), sums: text::sums(&base, shift) });
            }
            CounterId::Hour(hour, model) => {
                let sums = text::sums(&base, shift);
                rows.hours.push(HourRow { h: hour.0, m: model.to_string(), sums });
            }
            CounterId::Total => rows.global = Some(GlobalRow { sums: text::sums(&base, shift) }),
            // No stream of a provider has any.
            CounterId::Span(_) => {}
        }
        Ok(())
    }

    fn contained(&mut self) -> Result<Vec<StreamRow>> {
        let vector: Option<Vector> = document::read(self.shelf, &document::vector_name(self.provider))?;
        let mut vector = vector.unwrap_or_default();
        if !vector.exact {
            self.say(|provider| Note::AdoptedInexactly { provider });
        }
        vector.of.insert(self.note.instance, self.note.confirmed.clone());
        let rows = vector.of.into_iter().filter(|(_, mark)| mark.seq > 0);
        Ok(rows.map(|(i, mark)| StreamRow { i, s: mark.seq, g: mark.digest }).collect())
    }

    /// The database that is there now is the hub.
    pub fn adopted(&mut self, to: &HubIdentity) -> Result<()> {
        self.note.hub = Some(to.clone());
        match self.note.stopped.take() {
            Some(Stop::RolledBack(at)) => {
                self.tell_loss(at)?;
                self.begin_resync(Why::RolledBack)
            }
            _ => self.begin_resync(Why::Moved),
        }
    }
}
