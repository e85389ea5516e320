//! One hub's rounds: which call comes next, and what its answer does.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::{
    Call, Hub, Note, Outcome, Result, Wishes,
    adopt::{Adopting, Part, Step},
    clock,
    document::{self, HubNote, Mark, StreamNote, Why},
    garbage,
    obstacles::Obstacles,
    page::Turn,
    position::Position,
    round::{Awaited, Round, What},
    seal::Lives,
    status::{self, StreamStatus},
    stream::Stream,
    text::Shift,
};
use crate::{
    model::{Stamps, Timestamp},
    replica::{
        transport::ErrorKind,
        wire::{
            AdoptAnswer, AdoptRequest, Ask, Function, Greeting, HelloAnswer, HelloRequest, InstanceRow, Lane,
            PROTOCOL, Page, PullAnswer, PullRequest, PushAnswer, PushRequest, Rows,
        },
    },
    store::shelf::Shelf,
};

/// Instants beyond the year 9999 are nobody's clock.
const LAST_DAY: i64 = 253_402_300_799_000;

pub struct Machine {
    hub: Hub,
    stamps: Arc<Stamps>,
    /// This process's life.
    run: Uuid,
    round: Option<Round>,
    awaited: Option<Awaited>,
    ids: u64,
    instances: Vec<InstanceRow>,
    obstacles: Obstacles,
}

impl Machine {
    /// `run` is drawn at random for each process.
    pub fn new(hub: Hub, stamps: Arc<Stamps>, run: Uuid) -> Self {
        let obstacles = Obstacles::default();
        Self { hub, stamps, run, round: None, awaited: None, ids: 0, instances: Vec::new(), obstacles }
    }

    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// The instances that the hub named in its last hello.
    pub fn instances(&self) -> &[InstanceRow] {
        &self.instances
    }

    /// What kept the last rounds from doing all that they were to do, though the hub answered.
    pub fn obstacles(&self) -> &Obstacles {
        &self.obstacles
    }

    /// Once, before anything is counted: what the last process left open is sealed as its own, so that two copies
    /// of one file make the same of it.
    ///
    /// # Errors
    /// The shelf's. As with every method that takes the shelf: the transaction is to be given up then, the
    /// outcome thrown away, and [`Machine::forget`] called, also when a commit fails.
    pub fn start(&mut self, shelf: &mut dyn Shelf, now: Timestamp) -> Result<Outcome> {
        let offset = self.hub_note(shelf)?.offset;
        if self.hub.keeps_time {
            self.stamps.set_offset_ms(offset);
        }
        self.seal_streams(shelf, now, Some(self.run), Lives::Together)
    }

    /// Seals everything open: at shutdown, and before the file is copied. For a copy `next_run` is a new nonce,
    /// since what was counted until now is in two files.
    ///
    /// # Errors
    /// The shelf's.
    pub fn seal_all(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        next_run: Option<Uuid>,
    ) -> Result<Outcome> {
        self.seal_streams(shelf, now, next_run, Lives::Apart)
    }

    fn seal_streams(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        next_run: Option<Uuid>,
        lives: Lives,
    ) -> Result<Outcome> {
        let mut out = Outcome::default();
        for at in 0..self.hub.streams.len() {
            self.stream(shelf, at, now, &mut out, |stream| {
                let as_its_own = next_run.filter(|_| broken!(StartSealsAsItsOwn));
                if !(lives == Lives::Apart && broken!(CopiesHoldWhatIsOpen)) {
                    stream.seal_all(as_its_own.unwrap_or(stream.note.run), lives)?;
                }
                stream.note.run = next_run.unwrap_or(stream.note.run);
                Ok(())
            })?;
        }
        self.run = next_run.unwrap_or(self.run);
        Ok(out)
    }

    /// Begins a round. One that was under way is forgotten.
    pub fn begin(&mut self, wishes: Wishes) {
        self.awaited = None;
        self.round = Some(Round::new(self.hub.streams.len(), wishes));
    }

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

    /// After an error, or a commit that failed.
    pub fn forget(&mut self) {
        (self.round, self.awaited) = (None, None);
    }

    /// The next call of the round; none at its end.
    ///
    /// # Errors
    /// The shelf's.
    pub fn next(&mut self, shelf: &mut dyn Shelf, now: Timestamp) -> Result<(Option<Call>, Outcome)> {
        let mut out = Outcome::default();
        self.awaited = None;
        let call = match self.round.take() {
            Some(mut round) => {
                let call = self.step(shelf, now, &mut round, &mut out)?;
                self.round = call.is_some().then_some(round);
                call
            }
            None => None,
        };
        Ok((call, out))
    }

    fn step(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        round: &mut Round,
        out: &mut Outcome,
    ) -> Result<Option<Call>> {
        if round.adopting.is_some() {
            return self.adopt(shelf, now, round, out);
        }
        // Nothing is sealed before the hub's clock is known: dates in a batch are the hub's.
        let met = shelf.note(&document::hub_name(&self.hub.name))?.is_some();
        if round.hello || !met {
            round.hello = false;
            return self.hello(shelf, now).map(Some);
        }
        for at in 0..round.streams.len() {
            self.attach(shelf, at, now, out)?;
            while round.streams[at].pushing {
                if let Some(call) = self.push(shelf, at, now, round, out)? {
                    return Ok(Some(call));
                }
            }
        }
        self.pull(shelf, now, round, out)
    }

    fn hello(&mut self, shelf: &mut dyn Shelf, now: Timestamp) -> Result<Call> {
        let request = HelloRequest {
            protocol: PROTOCOL,
            instance: shelf.instance(),
            name: self.hub.instance_name.clone(),
            version: self.hub.version.clone(),
            now: now.0,
            streams: self.hub.streams.iter().map(|stream| stream.stream.clone()).collect(),
        };
        Ok(self.call(Function::Hello, &request, What::Hello))
    }

    fn adopt(
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
            Step::Restamp { .. } => {
                adopting.step = Step::Restamp { asked: true };
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
                    None if last => Step::Restamp { asked: false },
                    None => Step::Rows { stream: after, part: Part::Keys(None) },
                };
                "rows"
            }
        };
        request.step = step.to_owned();
        Ok(Some(self.call(Function::Push, &request, What::Adopt)))
    }

    fn take_adopt(
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
                round.streams.iter_mut().for_each(super::round::StreamRound::end);
                return Ok(());
            }
            _ => return Err(garbage("an adoption answered in another way")),
        }
        match adopting.step {
            Step::Begin => adopting.step = Step::Rows { stream: 0, part: Part::Keys(None) },
            Step::Restamp { asked: true } if answer.left == 0 => adopting.step = Step::End,
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

    fn attach(&mut self, shelf: &mut dyn Shelf, at: usize, now: Timestamp, out: &mut Outcome) -> Result<()> {
        let provider = &self.hub.streams[at].provider;
        if document::read::<StreamNote>(shelf, &document::stream_name(provider))?.is_some() {
            return Ok(());
        }
        document::write(shelf, &document::stream_name(provider), &StreamNote::default())?;
        let run = self.run;
        self.stream(shelf, at, now, out, |stream| stream.attach(run))?;
        Ok(())
    }

    /// The next push of a stream, if it has one now.
    fn push(
        &mut self,
        shelf: &mut dyn Shelf,
        at: usize,
        now: Timestamp,
        round: &mut Round,
        out: &mut Outcome,
    ) -> Result<Option<Call>> {
        let turn = &mut round.streams[at];
        let most = self.hub.bounds.calls;
        let pushed = self.stream(shelf, at, now, out, |stream| {
            if stream.note.stopped.is_some() || turn.pushed >= most {
                turn.pushing = false;
                return Ok(None);
            }
            if (stream.head()?.is_none() || broken!(SealsWhileOneWaits)) && turn.sealed < most {
                let (_, full) = stream.seal(stream.note.run)?;
                // The rest waits for the next round, unless this was only what one batch could hold.
                turn.sealed = if full { turn.sealed + 1 } else { most };
            }
            if let (Some(sent), true) = (stream.head()?, broken!(SealsAfterSending)) {
                stream.unseal(&sent)?;
                stream.seal(stream.note.run)?;
            }
            let Some(batch) = stream.head()? else {
                turn.pushing = false;
                return Ok(None);
            };
            let doubtful = stream.note.doubtful == batch.seq && !broken!(SplitsWhatIsInDoubt);
            if stream.note.refused == Some(batch.seq) && !doubtful {
                // A page has to show first that it was not applied; then it is made anew.
                turn.pushing = false;
                return Ok(None);
            }
            if stream.note.sent >= batch.seq {
                stream.note.doubtful = batch.seq;
            }
            (stream.note.sent, stream.note.refused) = (stream.note.sent.max(batch.seq), None);
            turn.pushed += 1;
            Ok(Some((stream.note.instance, stream.note.hub.clone(), batch)))
        })?;
        let Some((instance, hub, batch)) = pushed.flatten() else {
            round.streams[at].pushing = false;
            return Ok(None);
        };
        let of = &self.hub.streams[at];
        let seq = batch.seq;
        let request = PushRequest {
            protocol: PROTOCOL,
            instance,
            now: now.0,
            stream: of.stream.clone(),
            provider: of.provider.clone(),
            seq,
            prev: batch.prev,
            digest: batch.digest,
            hub,
            rows: batch.rows,
        };
        Ok(Some(self.call(Function::Push, &request, What::Push { stream: at, seq })))
    }

    /// One call for the lanes of all streams that go by the same id: as a rule that is all of them.
    fn pull(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        round: &mut Round,
        out: &mut Outcome,
    ) -> Result<Option<Call>> {
        let (mut asks, mut asker) = (Vec::new(), None);
        for at in 0..round.streams.len() {
            for lane in round.streams[at].lanes.clone() {
                let of = self.hub.streams[at].stream.clone();
                let ask = self.stream(shelf, at, now, out, |stream| {
                    Ok((stream.note.instance, stream.note.stopped.is_some(), stream.ask(lane, &of)))
                })?;
                let Some((instance, stopped, ask)) = ask else { continue };
                if stopped && lane == Lane::Stats {
                    continue;
                }
                if *asker.get_or_insert(instance) == instance {
                    asks.push((at, ask));
                }
            }
        }
        let Some(instance) = asker else { return Ok(None) };
        let request = PullRequest {
            protocol: PROTOCOL,
            instance,
            asks: asks.iter().map(|(_, ask)| ask.clone()).collect(),
        };
        Ok(Some(self.call(Function::Pull, &request, What::Pull { asks })))
    }

    fn call<T: Serialize>(&mut self, function: Function, request: &T, what: What) -> Call {
        self.ids += 1;
        self.awaited = Some(Awaited { id: self.ids, what });
        // Texts and numbers: nothing that JSON cannot say.
        let request = serde_json::to_string(request).unwrap_or_default();
        Call { id: self.ids, function, request }
    }

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
            What::Adopt => {
                let answer: AdoptAnswer = parse(body)?;
                self.greeted(shelf, &answer.greeting, took, now, &mut out)?;
                self.take_adopt(shelf, answer, &mut round, now, &mut out)?;
            }
            What::Push { stream, seq } => {
                let answer: PushAnswer = parse(body)?;
                self.greeted(shelf, &answer.greeting, took, now, &mut out)?;
                self.take_push(shelf, stream, seq, answer, &mut round, now, fresh, &mut out)?;
            }
            What::Pull { asks } => {
                let answer: PullAnswer = parse(body)?;
                self.greeted(shelf, &answer.greeting, took, now, &mut out)?;
                self.take_pull(shelf, &asks, answer, &mut round, now, fresh, &mut out)?;
            }
        }
        self.round = Some(round);
        Ok(out)
    }

    /// The call failed: whether it was carried out shows later. Ends the round, unless the hub has answered that
    /// it cannot take this stream's batch, which is nothing to the other streams or to what is to be read.
    ///
    /// # Errors
    /// The shelf's.
    pub fn failed(
        &mut self,
        shelf: &mut dyn Shelf,
        id: u64,
        kind: ErrorKind,
        now: Timestamp,
    ) -> Result<Outcome> {
        let mut out = Outcome::default();
        let awaited = self.awaited.take().filter(|awaited| awaited.id == id);
        let round = self.round.take();
        if let Some(Awaited { what: What::Push { stream, seq }, .. }) = awaited {
            self.round = round.filter(|_| is_one_streams(kind)).map(|mut round| {
                round.streams[stream].pushing = false;
                round
            });
            self.stream(shelf, stream, now, &mut out, |stream| {
                match kind {
                    ErrorKind::TooLarge => {
                        stream.note.refused = Some(seq);
                        stream.shrink();
                    }
                    ErrorKind::Timeout => stream.shrink(),
                    _ => {}
                }
                Ok(())
            })?;
        }
        Ok(out)
    }

    /// Whether there may be a next call.
    pub fn is_in_round(&self) -> bool {
        self.round.is_some()
    }

    /// How each stream stands.
    ///
    /// # Errors
    /// The shelf's.
    pub fn status(&self, shelf: &dyn Shelf) -> Result<Vec<StreamStatus>> {
        self.hub.streams.iter().map(|of| status::of(shelf, of)).collect()
    }

    /// What has to be added to this machine's clock to get the hub's, in milliseconds: as measured, and as applied.
    ///
    /// # Errors
    /// The shelf's.
    pub fn clock(&self, shelf: &dyn Shelf) -> Result<(i64, i64)> {
        let note = self.hub_note(shelf)?;
        Ok((note.measured, note.offset))
    }

    fn hub_note(&self, shelf: &dyn Shelf) -> Result<HubNote> {
        Ok(document::read(shelf, &document::hub_name(&self.hub.name))?.unwrap_or_default())
    }

    /// Works on one stream, if it is attached, and writes its note when that has changed.
    fn stream<T>(
        &self,
        shelf: &mut dyn Shelf,
        at: usize,
        now: Timestamp,
        out: &mut Outcome,
        work: impl FnOnce(&mut Stream<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let provider = self.hub.streams[at].provider.as_str();
        let Some(note) = document::read::<StreamNote>(shelf, &document::stream_name(provider))? else {
            return Ok(None);
        };
        let shift = if broken!(DatesAreNotShifted) { Shift(0) } else { Shift(self.hub_note(shelf)?.offset) };
        let before = note.clone();
        let (bounds, stamps) = (self.hub.bounds, self.stamps.as_ref());
        let mut stream = Stream { shelf, stamps, provider, bounds, shift, now, out, note };
        let value = work(&mut stream)?;
        if stream.note != before {
            stream.save()?;
        }
        Ok(Some(value))
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
        if first || offset != before.offset || measured.abs_diff(before.measured) > 10_000 {
            document::write(shelf, &document::hub_name(&self.hub.name), &HubNote { offset, measured })?;
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
        answer: HelloAnswer,
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
        self.obstacles.lacks(answer.missing, out);
        self.instances = answer.instances;
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "an answer and what it is an answer to")]
    fn take_push(
        &mut self,
        shelf: &mut dyn Shelf,
        at: usize,
        seq: u64,
        answer: PushAnswer,
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
            "read_only" => {
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
            let Some(batch) = stream.batch(seq)? else { return Ok(()) };
            let taken = answer.status != "mismatch";
            let wrong = if taken { there != batch.mark() } else { there == *stream.confirmed() };
            if wrong {
                return Err(garbage("an answer to another batch"));
            }
            if stream.reconcile(&there, &answer.rows, fresh)? == Position::Stopped {
                turn.end();
            } else if taken {
                stream.grow();
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
        let mut renamed = Vec::new();
        for ((at, ask), page) in asks.iter().zip(&answer.pages) {
            let turn = &mut round.streams[*at];
            if page.missing {
                // A push or a greeting tells what.
                self.obstacles.lack(&page.stream, out);
                turn.end();
                continue;
            }
            self.obstacles.serves(&page.stream);
            let began = answer.greeting.now;
            let was_renamed = renamed.contains(at);
            let turned = self.stream(shelf, *at, now, out, |stream| {
                let asked_as = stream.note.instance;
                let met = stream.meet(&answer.greeting)?;
                let there = Mark { seq: page.seq, digest: page.digest.clone() };
                let position = match met {
                    Position::Stopped => Position::Stopped,
                    // Where the hub says that the id before is, which a page before this one has shown already.
                    _ if was_renamed && !broken!(ForksTwice) => Position::Changed,
                    _ => stream.reconcile(&there, &page.answer, fresh)?,
                };
                // The other lane's page, or this one's head, may have made the ask moot.
                let moot = stream.ask(ask.lane, &ask.stream) != *ask;
                let position = match position {
                    Position::Good if moot => Position::Changed,
                    other => other,
                };
                if stream.note.instance != asked_as {
                    renamed.push(*at);
                }
                stream.split_if_refused(&there)?;
                stream.take_page(ask, page, &answer.snapshot, began, position)
            })?;
            turn.turned(ask.lane, turned.unwrap_or(Turn::Done), most);
        }
        Ok(())
    }
}

/// Failures of a batch, rather than of the way to the hub or of the hub as a whole.
fn is_one_streams(kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Timeout
        | ErrorKind::Forbidden
        | ErrorKind::Missing
        | ErrorKind::ReadOnly
        | ErrorKind::Full
        | ErrorKind::TooLarge
        | ErrorKind::Server => true,
        ErrorKind::Unreachable
        | ErrorKind::Certificate
        | ErrorKind::Credentials
        | ErrorKind::NoSchema
        | ErrorKind::Busy
        | ErrorKind::Garbage
        | ErrorKind::Settings => false,
    }
}

fn parse<T: DeserializeOwned>(body: &str) -> Result<T> {
    // The error names a place in the text, never the text.
    serde_json::from_str(body).map_err(|error| {
        garbage(format!("{:?} at line {}, column {}", error.classify(), error.line(), error.column()))
    })
}
