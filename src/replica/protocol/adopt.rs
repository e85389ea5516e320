//! Another database becomes the hub: one instance tells it all that it knows of the old one.
//!
//! It raises counters to the base, which is what the old hub had said, and installs how far each instance was
//! contained in that, so that the others send again exactly what is missing. First it is looked whether the database
//! has been told something that this instance does not know:
//!
//! | of what the adopter knows and what is there   | then                                                       |
//! |-----------------------------------------------|------------------------------------------------------------|
//! | nothing is there that it does not know        | counters are raised: exact                                 |
//! | there are only batches of strangers           | counters are raised, and what strangers had told may be    |
//! |                                               | lost in that: they are told, and say how much it was       |
//! | it knows nothing that is not there            | only keys and tokens are told: exact                       |
//! | each has something of its own                 | likewise; everybody sends again what is kept, and says how |
//! |                                               | much he had told of what is not                            |
//!
//! From the beginning to the end the hub takes no batches.

use uuid::Uuid;

use super::{
    Call, Machine, Note, Outcome, Result, Wishes,
    document::{self, Mark, Part, Stop, Vector, Why},
    garbage,
    round::{Round, StreamRound, What},
    seal::Draft,
    stream::Stream,
    text,
};
use crate::{
    model::{CounterId, Timestamp},
    replica::{
        transport::ErrorKind,
        wire::{
            AdoptAnswer, AdoptRequest, Function, GlobalRow, HourRow, HubIdentity, Marks, ModelRow, PROTOCOL,
            Rows, StreamRow, TokenStatsRow,
        },
    },
    store::{
        self,
        shelf::{Dirty, Row, Shelf},
    },
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
    /// How far the hub is in each instance's stream, against what this one knows.
    Look {
        stream: usize,
    },
    /// `stamped` once versions from the future that were in this part have been made anew.
    Rows {
        stream: usize,
        part: Part,
        marks: Marks,
        stamped: bool,
    },
    /// `left` is how many rows the hub still had to stamp.
    Restamp {
        left: Option<u64>,
    },
    End,
}

/// What an adopting hub was asked.
pub struct Asked {
    step: Step,
    /// What follows if all is well.
    next: Step,
    rows: Rows,
}

impl Step {
    fn rows_of(stream: usize, part: Part, marks: Marks) -> Self {
        Self::Rows { stream, part, marks, stamped: false }
    }

    /// Of whose rows it is.
    fn stream(&self) -> Option<usize> {
        match self {
            Self::Rows { stream, .. } => Some(*stream),
            Self::Begin | Self::Look { .. } | Self::Restamp { .. } | Self::End => None,
        }
    }
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

    /// Whether this round is an adoption.
    pub fn is_adopting(&self) -> bool {
        self.round.as_ref().is_some_and(|round| round.adopting.is_some())
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
        let step = adopting.step.clone();
        let (name, next) = match &step {
            Step::Begin => ("begin", Step::Look { stream: 0 }),
            Step::Look { stream: at } => {
                let of = &self.hub.streams[*at];
                (request.stream, request.provider) = (of.stream.clone(), of.provider.clone());
                let known = self.stream(shelf, *at, now, out, |stream| stream.contained())?;
                request.rows.streams = known.map(|known| rows_of(&known)).unwrap_or_default();
                ("look", step.clone())
            }
            Step::Rows { stream: at, part, marks, .. } => {
                let of = &self.hub.streams[*at];
                (request.stream, request.provider) = (of.stream.clone(), of.provider.clone());
                let made = self.stream(shelf, *at, now, out, |stream| stream.adopt_rows(part, *marks))?;
                let (rows, next) = made.unwrap_or_default();
                request.rows = rows;
                let next = match next {
                    Some(part) => Step::Rows { stream: *at, part, marks: *marks, stamped: false },
                    None if at + 1 == self.hub.streams.len() => Step::Restamp { left: None },
                    None => Step::Look { stream: at + 1 },
                };
                ("rows", next)
            }
            Step::Restamp { .. } => ("restamp", Step::End),
            Step::End => ("end", Step::End),
        };
        request.step = name.to_owned();
        let asked = Asked { step, next, rows: request.rows.clone() };
        Ok(Some(self.call(Function::Push, &request, What::Adopt(Box::new(asked)))))
    }

    pub(super) fn take_adopt(
        &mut self,
        shelf: &mut dyn Shelf,
        asked: Asked,
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
        adopting.step = match asked.step {
            Step::Begin => asked.next,
            Step::Look { stream: at } => {
                let first = self.stream(shelf, at, now, out, |stream| {
                    stream.looked(answer.marks)?;
                    Ok(stream.first_part())
                })?;
                Step::rows_of(at, first.unwrap_or(Part::Keys(None)), answer.marks)
            }
            Step::Rows { stream: at, part, marks, stamped } => {
                let refused = answer.rows.clock.len();
                if refused > 0 && !stamped && !broken!(AdoptionLeavesTheFuture) {
                    // Their counts come later, and are of rows that are there.
                    self.stream(shelf, at, now, out, |stream| stream.stamp_anew(&asked.rows, &answer.rows))?;
                    Step::Rows { stream: at, part, marks, stamped: true }
                } else {
                    asked.next
                }
            }
            Step::Restamp { .. } if answer.left == 0 => asked.next,
            Step::Restamp { left: Some(before) } if answer.left >= before => {
                return Err(garbage("it stamps rows anew, and none fewer are left"));
            }
            Step::Restamp { .. } => Step::Restamp { left: Some(answer.left) },
            Step::End => {
                for at in 0..self.hub.streams.len() {
                    self.stream(shelf, at, now, out, |stream| stream.adopted(&answer.greeting.hub))?;
                }
                out.notes.push(Note::Adopted { to: answer.greeting.hub });
                round.adopting = None;
                return Ok(());
            }
        };
        Ok(())
    }

    /// The hub did not take that much, or not in time: it is told in smaller parts. Returns whether there is one;
    /// the round goes on with it then.
    pub(super) fn adopt_less(
        &self,
        shelf: &mut dyn Shelf,
        asked: &Asked,
        kind: ErrorKind,
        now: Timestamp,
        out: &mut Outcome,
    ) -> Result<bool> {
        let rows = asked.rows.count();
        let less = matches!(kind, ErrorKind::TooLarge | ErrorKind::Timeout)
            && rows > 1
            && !broken!(AdoptionEndsWhereItIsTooMuch);
        let Some(at) = asked.step.stream().filter(|_| less) else { return Ok(false) };
        self.stream(shelf, at, now, out, |stream| {
            stream.shrink(Some(rows));
            Ok(())
        })?;
        Ok(true)
    }
}

fn rows_of(vector: &Vector) -> Vec<StreamRow> {
    let row = |(i, mark): (&Uuid, &Mark)| StreamRow { i: *i, s: mark.seq, g: mark.digest.clone() };
    vector.of.iter().map(row).collect()
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

    /// What the hub has said of its marks.
    pub fn looked(&mut self, marks: Marks) -> Result<()> {
        let vector: Option<Vector> = document::read(self.shelf, &document::vector_name(self.provider))?;
        // Several pages, or a hub that cannot compare.
        let whole = vector.is_some_and(|vector| vector.exact) && marks != Marks::Unknown;
        let raises = raises(marks);
        if marks == Marks::Mixed || raises && !whole {
            self.say(|provider| Note::AdoptedInexactly { provider, raised: raises });
        }
        Ok(())
    }

    /// As many rows as one call holds, from that part on, and the part that follows.
    pub fn adopt_rows(&mut self, part: &Part, marks: Marks) -> Result<(Rows, Option<Part>)> {
        let mut draft = self.draft();
        let next = match part {
            Part::Keys(after) => {
                let mut last = *after;
                let keys = self.shelf.keys(self.provider, last, self.bounds.rows)?;
                let ends = keys.is_empty();
                for (id, entry) in keys {
                    if !draft.push(|rows| &mut rows.keys, text::key_row(&entry, true, self.shift)) {
                        break;
                    }
                    last = Some(id);
                }
                if ends { Part::Tokens(None) } else { Part::Keys(last) }
            }
            Part::Tokens(after) => {
                let mut last = *after;
                let tokens = self.shelf.tokens(self.provider, last, self.bounds.rows)?;
                let ends = tokens.is_empty();
                for (id, entry) in tokens {
                    if !draft.push(|rows| &mut rows.tokens, text::token_row(&entry, true, self.shift)) {
                        break;
                    }
                    last = Some(id);
                }
                if ends { Part::Gone(None) } else { Part::Tokens(last) }
            }
            Part::Users(after) => {
                let mut last = *after;
                let users = self.shelf.users(last, self.bounds.rows)?;
                let ends = users.is_empty();
                for (id, entry) in users {
                    if !self.seal_user(id, &entry, true, &mut draft) {
                        break;
                    }
                    last = Some(id);
                }
                if ends { Part::Gone(None) } else { Part::Users(last) }
            }
            Part::Gone(after) => {
                let mut last = *after;
                let gone = self.shelf.all_gone(self.provider, last, self.bounds.rows)?;
                let ends = gone.is_empty();
                for (row, gone) in gone {
                    if gone.is_deletion() && !draft.push(|rows| &mut rows.gone, text::gone_row(row, &gone)) {
                        break;
                    }
                    last = Some(row);
                }
                match ends {
                    false => Part::Gone(last),
                    true if self.is_core() => Part::Shares(None),
                    true if raises(marks) => Part::Counters(None),
                    true => Part::Streams(None),
                }
            }
            Part::Shares(after) => {
                let mut last = after.clone();
                match self.keys_of_all(last.as_ref(), self.bounds.rows)? {
                    Some((provider, keys)) => {
                        for id in keys {
                            if !self.seal_row(Row::Key(id), Dirty::default(), &mut draft)? {
                                break;
                            }
                            last = Some((provider.clone(), id));
                        }
                        Part::Shares(last)
                    }
                    // What counts nothing is told in any case.
                    None if raises(marks) => Part::Counters(None),
                    None => Part::Sets(None),
                }
            }
            Part::Counters(after) => {
                let mut last = after.clone();
                let views = self.shelf.views(self.provider, last.as_ref(), self.bounds.rows)?;
                let ends = views.is_empty();
                for (id, _) in views {
                    if !self.adopt_counter(&id, &mut draft)? {
                        break;
                    }
                    last = Some(id);
                }
                match ends {
                    false => Part::Counters(last),
                    true if self.is_core() => Part::Sets(None),
                    true => Part::Streams(None),
                }
            }
            Part::Sets(after) => {
                let some = self.sets_from(after.as_ref(), self.bounds.rows)?;
                let ends = some.is_empty();
                let mut last = *after;
                for (id, set, from) in some {
                    let told = match store::owes(id, self.now) {
                        true => self.seal_set(id, &set, from, &mut draft),
                        false => None,
                    };
                    last = Some((id, told));
                    if told.is_some() {
                        break;
                    }
                }
                if ends { Part::Streams(None) } else { Part::Sets(last) }
            }
            Part::Streams(after) => {
                let contained = rows_of(&self.installed(marks)?);
                let mut last = *after;
                let mut ends = true;
                for row in contained.into_iter().filter(|row| after.is_none_or(|after| row.i > after)) {
                    let instance = row.i;
                    if !draft.push(|rows| &mut rows.streams, row) {
                        ends = false;
                        break;
                    }
                    last = Some(instance);
                }
                let rows = draft.into_rows();
                return Ok((rows, (!ends).then_some(Part::Streams(last))));
            }
        };
        let mut rows = draft.into_rows();
        super::seal::sort(&mut rows);
        Ok((rows, Some(next)))
    }

    /// What the old hub had: the view without what it was never told. Returns whether it fitted in.
    fn adopt_counter(&mut self, id: &CounterId, draft: &mut Draft) -> Result<bool> {
        let mut base = self.shelf.view(self.provider, id)?;
        if let Some(open) = self.shelf.open(self.provider, id)?.filter(|_| !broken!(AdoptsTheView)) {
            base = base.minus(&open);
        }
        let inflight = self.shelf.inflight(self.provider, id)?.unwrap_or_default();
        inflight.sealed.iter().for_each(|(_, tally)| base = base.minus(tally));
        let (shift, sums) = (self.shift, text::sums(&base, self.shift));
        Ok(match id {
            CounterId::Key(key) => {
                // Of a deleted one the counts are the old hub's retired ones, which nobody else has.
                let Some(entry) = self.shelf.key(self.provider, *key)? else { return Ok(true) };
                let row = text::key_stats_row(entry.record.secret, &base, shift);
                draft.push(|rows| &mut rows.key_stats, row)
            }
            CounterId::Token(token) => {
                let Some(entry) = self.shelf.token(self.provider, *token)? else { return Ok(true) };
                draft.push(|rows| &mut rows.token_stats, TokenStatsRow { k: entry.record.secret, sums })
            }
            CounterId::Model(model) => {
                draft.push(|rows| &mut rows.models, ModelRow { m: model.to_string(), sums })
            }
            CounterId::Hour(hour, model) => {
                draft.push(|rows| &mut rows.hours, HourRow { h: hour.0, m: model.to_string(), sums })
            }
            CounterId::Total => draft.put_global(GlobalRow { sums }),
            CounterId::Span(id) => draft.push(|rows| &mut rows.tallies, text::tally_row(id, sums)),
        })
    }

    /// How far everybody is in the base.
    pub fn contained(&mut self) -> Result<Vector> {
        let vector: Option<Vector> = document::read(self.shelf, &document::vector_name(self.provider))?;
        let mut vector = vector.unwrap_or_default();
        vector.of.insert(self.note.instance, self.note.confirmed.clone());
        vector.of.retain(|_, mark| mark.seq > 0);
        Ok(vector)
    }

    /// Whose marks the hub takes over: everybody's with the base. Without it only this instance's, where it cannot tell
    /// again what the hub has forgotten.
    fn installed(&mut self, marks: Marks) -> Result<Vector> {
        let mut vector = self.contained()?;
        if !raises(marks) {
            let (own, lost) = (self.note.instance, matches!(self.note.stopped, Some(Stop::RolledBack(_))));
            vector.of.retain(|instance, _| lost && *instance == own);
        }
        Ok(vector)
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

/// Whether the hub's counters are raised to the base. Where others have told it something since, the greater of two
/// sums would hide that, and they would not know.
fn raises(marks: Marks) -> bool {
    matches!(marks, Marks::Unknown | Marks::Behind | Marks::Apart) || broken!(AdoptionHidesWhatIsNew)
}
