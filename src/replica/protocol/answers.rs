//! What the answers to a round's calls do.

use std::time::Duration;

use uuid::Uuid;

use super::{
    Effect, Error, Machine, Note, Outcome, Result,
    answer::parse,
    clock,
    document::{self, HubNote, Mark, Why},
    garbage,
    page::Turn,
    position::Position,
    round::{Round, What},
};
use crate::{
    model::Timestamp,
    replica::wire::{AdoptAnswer, Ask, Greeting, HelloAnswer, Page, PullAnswer, PushAnswer},
    store::shelf::{CORE, Shelf},
};

/// Of an answer that leaves room for a larger one: a call has several times as long.
const QUICK: Duration = Duration::from_secs(2);
/// Instants beyond the year 9999 are nobody's clock.
const LAST_DAY: i64 = 253_402_300_799_000;

impl Machine {
    /// Takes in the answer of the call. `fresh` is drawn at random, and becomes this instance's id if it needs
    /// another one. An answer that is not awaited does nothing.
    ///
    /// # Errors
    /// The shelf's, or an answer that no hub gives: nothing of it counts.
    pub fn answered(
        &mut self,
        shelf: &mut dyn Shelf,
        id: u64,
        body: &str,
        took: Duration,
        now: Timestamp,
        fresh: Uuid,
    ) -> Result<Outcome> {
        let mut out = Outcome::default();
        if self.awaited.as_ref().is_none_or(|awaited| awaited.id != id) {
            return Ok(out);
        }
        let Some(awaited) = self.awaited.take() else { return Ok(out) };
        let Some(mut round) = self.round.take() else { return Ok(out) };
        match awaited.what {
            What::Hello => {
                let answer: HelloAnswer = parse(body)?;
                self.greeted(shelf, &answer.greeting, took, now, &mut out)?;
                self.take_hello(shelf, answer, &mut round, now, &mut out)?;
            }
            What::Adopt(asked) => {
                let answer: AdoptAnswer = parse(body)?;
                self.greeted(shelf, &answer.greeting, took, now, &mut out)?;
                self.take_adopt(shelf, *asked, answer, &mut round, now, &mut out)?;
            }
            What::Push { stream, sent } => {
                let answer: PushAnswer = parse(body)?;
                self.greeted(shelf, &answer.greeting, took, now, &mut out)?;
                self.take_push(shelf, stream, &sent, answer, took, &mut round, now, fresh, &mut out)?;
            }
            What::Pull { asks } => {
                let taken = parse::<PullAnswer>(body).and_then(|answer| {
                    self.greeted(shelf, &answer.greeting, took, now, &mut out)?;
                    self.take_pull(shelf, &asks, answer, took, &mut round, now, fresh, &mut out)
                });
                if matches!(taken, Err(Error::Garbage(_))) {
                    self.apart.failed(&asks);
                }
                taken?;
            }
        }
        self.round = Some(round);
        Ok(out)
    }

    /// Nothing can be said to that hub before it is exchanged.
    fn unsupported(&mut self, speaks: Vec<u32>, round: &mut Round, out: &mut Outcome) {
        round.streams.iter_mut().for_each(super::round::StreamRound::end);
        // Only a greeting tells what it speaks.
        let known = self.obstacles.unsupported.as_ref();
        if known.is_none_or(|known| !speaks.is_empty() && *known != speaks) {
            out.notes.push(Note::Unsupported { speaks: speaks.clone() });
            self.obstacles.unsupported = Some(speaks);
        }
    }

    /// Looks at the hub's clock.
    fn greeted(
        &mut self,
        shelf: &mut dyn Shelf,
        greeting: &Greeting,
        took: Duration,
        now: Timestamp,
        out: &mut Outcome,
    ) -> Result<()> {
        if !(0..=LAST_DAY).contains(&greeting.now) {
            return Err(garbage("a time that no clock shows"));
        }
        if greeting.read_only && !self.obstacles.read_only {
            out.notes.push(Note::ReadOnly);
        }
        self.obstacles.read_only = greeting.read_only;
        let before = self.hub_note(shelf)?;
        let measured = clock::measure(greeting.now, now, took);
        let offset = clock::apply(before.offset, measured, took);
        if self.hub.keeps_time {
            self.stamps.set_offset_ms(offset);
        }
        // Written only when it matters: every round would otherwise be a commit.
        let first = shelf.note(&document::hub_name(&self.hub.name))?.is_none();
        let days = self.hub.streams.iter().any(|of| of.provider == CORE);
        let zone = greeting.zone.as_ref().filter(|zone| days && before.zone.as_ref() != Some(zone));
        if let Some(name) = zone {
            out.effects.push(Effect::Zone { name: name.clone() });
        }
        if first || zone.is_some() || offset != before.offset || measured.abs_diff(before.measured) > 10_000 {
            let zone = zone.cloned().or(before.zone);
            let note = HubNote { offset, measured, zone, rung: before.rung };
            document::write(shelf, &document::hub_name(&self.hub.name), &note)?;
        }
        if !first && offset != before.offset {
            // What came from the hub was brought home by the old offset.
            for at in 0..self.hub.streams.len() {
                self.stream(shelf, at, now, out, |stream| stream.begin_resync(Why::Clock))?;
            }
        }
        Ok(())
    }

    fn take_hello(
        &mut self,
        shelf: &mut dyn Shelf,
        mut answer: HelloAnswer,
        round: &mut Round,
        now: Timestamp,
        out: &mut Outcome,
    ) -> Result<()> {
        match answer.status.as_str() {
            "ok" => {}
            "unsupported" => {
                self.unsupported(answer.speaks, round, out);
                return Ok(());
            }
            _ => return Err(garbage("a greeting of another kind")),
        }
        for (at, turn) in round.streams.iter_mut().enumerate() {
            let of = &self.hub.streams[at].stream;
            if answer.missing.iter().any(|missing| missing.stream == *of) {
                turn.end();
                continue;
            }
            self.obstacles.serves(of);
            self.stream(shelf, at, now, out, |stream| stream.meet(&answer.greeting))?;
        }
        self.obstacles.lacks(std::mem::take(&mut answer.missing), out);
        self.others.hear(answer);
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "an answer and what it is an answer to")]
    fn take_push(
        &mut self,
        shelf: &mut dyn Shelf,
        at: usize,
        sent: &Mark,
        answer: PushAnswer,
        took: Duration,
        round: &mut Round,
        now: Timestamp,
        fresh: Uuid,
        out: &mut Outcome,
    ) -> Result<()> {
        if answer.status == "unsupported" {
            self.unsupported(Vec::new(), round, out);
            return Ok(());
        }
        let turn = &mut round.streams[at];
        match answer.status.as_str() {
            "applied" => self.obstacles.serves(&self.hub.streams[at].stream),
            "already" | "mismatch" | "elsewhere" => {}
            "missing" => {
                turn.end();
                self.obstacles.lacks(answer.missing, out);
                return Ok(());
            }
            // Somebody adopts the hub: it takes no batches until that has come to its end.
            "read_only" | "busy" => {
                turn.pushing = false;
                return Ok(());
            }
            _ => return Err(garbage("a push answered in another way")),
        }
        let there = Mark { seq: answer.seq, digest: answer.digest };
        self.stream(shelf, at, now, out, |stream| {
            if stream.meet(&answer.greeting)? == Position::Stopped {
                turn.end();
                return Ok(());
            }
            if answer.status == "elsewhere" {
                return Err(garbage("it is elsewhere and is not"));
            }
            let taken = answer.status != "mismatch";
            let wrong = if taken { there != *sent } else { there == *stream.confirmed() };
            if wrong {
                return Err(garbage("an answer to another batch"));
            }
            match stream.reconcile(&there, &answer.rows, fresh)? {
                Position::Stopped => turn.end(),
                Position::Good if taken && took < QUICK => stream.grow(),
                Position::Good | Position::Changed => {}
            }
            Ok(())
        })?;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "an answer and what it is an answer to")]
    fn take_pull(
        &mut self,
        shelf: &mut dyn Shelf,
        asks: &[(usize, Ask)],
        answer: PullAnswer,
        took: Duration,
        round: &mut Round,
        now: Timestamp,
        fresh: Uuid,
        out: &mut Outcome,
    ) -> Result<()> {
        match answer.status.as_str() {
            "ok" => {}
            "unsupported" => {
                self.unsupported(Vec::new(), round, out);
                return Ok(());
            }
            _ => return Err(garbage("a pull answered in another way")),
        }
        let fits =
            |((_, ask), page): (&(usize, Ask), &Page)| (&ask.stream, ask.lane) == (&page.stream, page.lane);
        if answer.pages.len() != asks.len() || !asks.iter().zip(&answer.pages).all(fits) {
            return Err(garbage("pages that were not asked for"));
        }
        let most = self.hub.bounds.calls;
        for ((at, ask), page) in asks.iter().zip(&answer.pages) {
            let turn = &mut round.streams[*at];
            if page.missing {
                // A push or a greeting tells what.
                self.obstacles.lack(&page.stream, out);
                turn.end();
                continue;
            }
            self.obstacles.serves(&page.stream);
            self.apart.served(*at);
            let began = answer.greeting.now;
            let turned = self.stream(shelf, *at, now, out, |stream| {
                let met = stream.meet(&answer.greeting)?;
                if stream.is_walking() {
                    // The other lane's page, or this greeting, has begun something that comes first.
                    return Ok(Turn::More);
                }
                let there = Mark { seq: page.seq, digest: page.digest.clone() };
                let position = match met {
                    Position::Stopped => Position::Stopped,
                    _ => stream.reconcile(&there, &page.answer, fresh)?,
                };
                // The other lane's page, or this one's head, may have made the ask moot.
                let moot = stream.ask(ask.lane, &ask.stream) != *ask;
                let position = match position {
                    Position::Good if moot => Position::Changed,
                    other => other,
                };
                if took < QUICK {
                    stream.grow_page(ask.lane);
                }
                let position = if stream.is_walking() { Position::Changed } else { position };
                stream.take_page(ask, page, &answer.snapshot, began, position)
            })?;
            turn.turned(ask.lane, turned.unwrap_or(Turn::Done), most);
        }
        Ok(())
    }
}
