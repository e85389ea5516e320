//! One hub's rounds: which call comes next. `answers` has what their answers do.

use std::sync::Arc;

use serde::Serialize;
use uuid::Uuid;

use super::{
    Call, Hub, Next, Outcome, Result, Wishes,
    apart::Apart,
    document::{self, Batch, HubNote, LaneNote, StreamNote},
    obstacles::Obstacles,
    others::Others,
    round::{Awaited, Round, What},
    seal::{Lap, Lives},
    status::{self, StreamStatus},
    stream::Stream,
    text::Shift,
};
use crate::{
    model::{Rung, Stamps, Timestamp},
    replica::wire::{Function, HelloRequest, Lane, PROTOCOL, PullRequest, PushRequest, Rows},
    store::shelf::Shelf,
};

pub struct Machine {
    pub(super) hub: Hub,
    pub(super) stamps: Arc<Stamps>,
    /// This process's life.
    run: Uuid,
    pub(super) round: Option<Round>,
    pub(super) awaited: Option<Awaited>,
    ids: u64,
    pub(super) others: Others,
    pub(super) obstacles: Obstacles,
    pub(super) apart: Apart,
}

/// How far sealing everything is.
#[derive(Clone, Copy, Debug)]
pub struct Sealing {
    at: usize,
    begun: bool,
    next_run: Option<Uuid>,
    lives: Lives,
}

impl Sealing {
    /// Of everything open: at shutdown, and before the file is copied. For a copy `next_run` is a new nonce, since
    /// what was counted until now is in two files.
    pub fn new(next_run: Option<Uuid>) -> Self {
        Self { at: 0, begun: false, next_run, lives: Lives::Apart }
    }
}

impl Machine {
    /// `run` is drawn at random for each process.
    pub fn new(hub: Hub, stamps: Arc<Stamps>, run: Uuid) -> Self {
        Self {
            hub,
            stamps,
            run,
            round: None,
            awaited: None,
            ids: 0,
            others: Others::default(),
            obstacles: Obstacles::default(),
            apart: Apart::default(),
        }
    }

    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Who replicates with the hub, as its greetings tell.
    pub fn others(&self) -> &Others {
        &self.others
    }

    /// The next greeting asks for their names.
    pub fn ask_names(&mut self) {
        self.others.wanted = true;
    }

    /// What kept the last rounds from doing all that they were to do, though the hub answered.
    pub fn obstacles(&self) -> &Obstacles {
        &self.obstacles
    }

    /// Whose pages the last pull that failed was for, if one stream's alone.
    pub fn culprit(&self) -> Option<&str> {
        self.apart.culprit().map(|at| self.hub.streams[at].stream.as_str())
    }

    /// Whether this stream's pages could not be had when they were last asked for.
    pub fn is_troubled(&self, stream: &str) -> bool {
        let at = self.hub.streams.iter().position(|of| of.stream == stream);
        at.is_some_and(|at| self.apart.is_troubled(at))
    }

    /// Once, before anything is counted, and to be [sealed](Machine::seal) to its end: what the last process left
    /// open is sealed as its own, so that two copies of one file make the same of it.
    ///
    /// # Errors
    /// The shelf's. As with every method that takes the shelf: the transaction is to be given up then, the
    /// outcome thrown away, and [`Machine::forget`] called, also when a commit fails.
    pub fn start(&mut self, shelf: &dyn Shelf) -> Result<Sealing> {
        let offset = self.hub_note(shelf)?.offset;
        if self.hub.keeps_time {
            self.stamps.set_offset_ms(offset);
        }
        Ok(Sealing { at: 0, begun: false, next_run: Some(self.run), lives: Lives::Together })
    }

    /// A step of sealing what is open; returns what is left of it.
    ///
    /// # Errors
    /// The shelf's.
    pub fn seal(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        sealing: Sealing,
    ) -> Result<(Outcome, Option<Sealing>)> {
        let mut out = Outcome::default();
        let Sealing { at, begun, next_run, lives } = sealing;
        if at == self.hub.streams.len() {
            self.run = next_run.unwrap_or(self.run);
            return Ok((out, None));
        }
        let sealed = self.stream(shelf, at, now, &mut out, |stream| {
            let as_its_own = next_run.filter(|_| broken!(StartSealsAsItsOwn));
            let open = lives == Lives::Apart && broken!(CopiesHoldWhatIsOpen);
            let sealed = open || stream.seal_on(as_its_own.unwrap_or(stream.note.run), lives, begun)?;
            if sealed {
                // With the last of what belongs to the old one.
                stream.note.run = next_run.unwrap_or(stream.note.run);
                if lives == Lives::Together {
                    // Only the last process has heard what came in it.
                    stream.note.limits = LaneNote::default();
                }
            }
            Ok(sealed)
        })?;
        let sealed = match sealed {
            None => self.before_contact(shelf, at, &mut out)?,
            sealed => sealed,
        };
        let next = match sealed {
            Some(false) => Sealing { begun: true, ..sealing },
            Some(true) | None => Sealing { at: at + 1, begun: false, ..sealing },
        };
        Ok((out, Some(next)))
    }

    /// Begins a round. One that was under way is forgotten.
    pub fn begin(&mut self, wishes: Wishes) {
        self.awaited = None;
        if wishes.hello {
            self.apart.try_together();
        }
        let providers = self.hub.streams.iter().map(|of| of.provider.as_str());
        self.round = Some(Round::new(providers, wishes));
    }

    /// After an error, or a commit that failed.
    pub fn forget(&mut self) {
        (self.round, self.awaited) = (None, None);
    }

    /// What comes next in the round.
    ///
    /// # Errors
    /// The shelf's.
    pub fn next(&mut self, shelf: &mut dyn Shelf, now: Timestamp) -> Result<(Next, Outcome)> {
        let mut out = Outcome::default();
        self.awaited = None;
        let Some(mut round) = self.round.take() else { return Ok((Next::End, out)) };
        let next = self.step(shelf, now, &mut round, &mut out)?;
        self.round = (next != Next::End).then_some(round);
        Ok((next, out))
    }

    fn step(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        round: &mut Round,
        out: &mut Outcome,
    ) -> Result<Next> {
        for at in 0..round.streams.len() {
            if self.walk(shelf, at, now, out)? {
                return Ok(Next::Work);
            }
        }
        if round.adopting.is_some() {
            return Ok(self.adopt(shelf, now, round, out)?.map_or(Next::End, Next::Call));
        }
        // Nothing is sealed before the hub's clock is known: dates in a batch are the hub's.
        let met = shelf.note(&document::hub_name(&self.hub.name))?.is_some();
        if round.hello || !met {
            round.hello = false;
            return self.hello(shelf, now).map(Next::Call);
        }
        for at in 0..round.streams.len() {
            if self.attach(shelf, at, now, out)? {
                return Ok(Next::Work);
            }
            if round.streams[at].pushing
                && let Some(call) = self.push(shelf, at, now, round, out)?
            {
                return Ok(Next::Call(call));
            }
        }
        Ok(self.pull(shelf, now, round, out)?.map_or(Next::End, Next::Call))
    }

    /// A step of what has to come to its end first, if there is any.
    fn walk(&mut self, shelf: &mut dyn Shelf, at: usize, now: Timestamp, out: &mut Outcome) -> Result<bool> {
        let walked = self.stream(shelf, at, now, out, |stream| {
            let walking = stream.is_walking();
            if walking {
                stream.walk()?;
            }
            Ok(walking)
        })?;
        Ok(walked.unwrap_or(false))
    }

    fn hello(&mut self, shelf: &mut dyn Shelf, now: Timestamp) -> Result<Call> {
        let request = HelloRequest {
            protocol: PROTOCOL,
            instance: shelf.instance(),
            name: self.hub.instance_name.clone(),
            version: self.hub.version.clone(),
            now: now.0,
            streams: self.hub.streams.iter().map(|stream| stream.stream.clone()).collect(),
            list: self.others.wanted,
        };
        Ok(self.call(Function::Hello, &request, What::Hello))
    }

    /// Begins it at the first contact.
    fn attach(
        &mut self,
        shelf: &mut dyn Shelf,
        at: usize,
        now: Timestamp,
        out: &mut Outcome,
    ) -> Result<bool> {
        let name = document::stream_name(&self.hub.streams[at].provider);
        if document::read::<StreamNote>(shelf, &name)?.is_some() {
            return Ok(false);
        }
        document::write(shelf, &name, &StreamNote::default())?;
        let run = self.run;
        self.stream(shelf, at, now, out, |stream| stream.attach(run))?;
        Ok(true)
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
            if (stream.waiting() == 0 || broken!(SealsWhileOneWaits)) && turn.sealed < most {
                let lap = turn.lap.get_or_insert_with(|| Lap::new(stream.note.turn.clone(), now));
                let left = stream.seal_in(stream.note.run, lap)?;
                // The rest waits for the next round, unless this was only what one batch could hold.
                turn.sealed = if left { turn.sealed + 1 } else { most };
            }
            if broken!(SealsAfterSending)
                && let Some(sent) = stream.head()?
            {
                stream.unseal(&sent)?;
                stream.seal(stream.note.run)?;
            }
            let Some(Batch { head, rows }) = stream.head()? else {
                turn.pushing = false;
                return Ok(None);
            };
            stream.note.sent = stream.note.sent.max(head.seq);
            turn.pushed += 1;
            let refused = stream.note.refused == Some(head.seq);
            let (sent, rows) = if refused { (head.fence(), Rows::default()) } else { (head.mark(), rows) };
            Ok(Some((stream.note.instance, stream.note.hub.clone(), sent, head.prev, rows)))
        })?;
        let Some((instance, hub, sent, prev, rows)) = pushed.flatten() else {
            round.streams[at].pushing = false;
            return Ok(None);
        };
        let of = &self.hub.streams[at];
        let request = PushRequest {
            protocol: PROTOCOL,
            instance,
            now: now.0,
            stream: of.stream.clone(),
            provider: of.provider.clone(),
            seq: sent.seq,
            prev,
            digest: sent.digest.clone(),
            hub,
            rows,
        };
        Ok(Some(self.call(Function::Push, &request, What::Push { stream: at, sent })))
    }

    /// One call for all streams, as a rule.
    fn pull(
        &mut self,
        shelf: &mut dyn Shelf,
        now: Timestamp,
        round: &mut Round,
        out: &mut Outcome,
    ) -> Result<Option<Call>> {
        for group in self.apart.groups(round) {
            if let Some(call) = self.pull_of(&group, shelf, now, round, out)? {
                return Ok(Some(call));
            }
        }
        Ok(None)
    }

    /// One call for the lanes of those of these streams that go by the same id: as a rule that is all of them. What
    /// came too late before is asked for by itself, and last.
    fn pull_of(
        &mut self,
        streams: &[usize],
        shelf: &mut dyn Shelf,
        now: Timestamp,
        round: &mut Round,
        out: &mut Outcome,
    ) -> Result<Option<Call>> {
        let (mut asks, mut asker, mut slow) = (Vec::new(), None, None);
        for at in streams.iter().copied() {
            for lane in round.streams[at].lanes.clone() {
                let of = self.hub.streams[at].stream.clone();
                let ask = self.stream(shelf, at, now, out, |stream| {
                    let is_slow = stream.note.lane(lane).page.is_some();
                    let stopped = stream.note.stopped.is_some();
                    Ok((stream.note.instance, stopped, is_slow, stream.ask(lane, &of)))
                })?;
                let Some((instance, stopped, is_slow, ask)) = ask else { continue };
                if stopped && lane != Lane::State {
                    continue;
                }
                if is_slow {
                    slow = slow.or(Some((instance, at, ask)));
                    continue;
                }
                if *asker.get_or_insert(instance) == instance {
                    asks.push((at, ask));
                }
            }
        }
        if let (None, Some((instance, at, ask))) = (asker, slow) {
            asker = Some(instance);
            asks.push((at, ask));
        }
        let Some(instance) = asker else { return Ok(None) };
        let request = PullRequest {
            protocol: PROTOCOL,
            instance,
            asks: asks.iter().map(|(_, ask)| ask.clone()).collect(),
        };
        Ok(Some(self.call(Function::Pull, &request, What::Pull { asks })))
    }

    pub(super) fn call<T: Serialize>(&mut self, function: Function, request: &T, what: What) -> Call {
        self.ids += 1;
        self.awaited = Some(Awaited { id: self.ids, what });
        // Texts and numbers: nothing that JSON cannot say.
        let request = serde_json::to_string(request).unwrap_or_default();
        Call { id: self.ids, function, request }
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

    /// Of confirmed batches, so many bytes are kept from now on.
    pub fn keep_batches(&mut self, bytes: u64) {
        self.hub.bounds.kept_bytes = bytes;
    }

    /// How far the ladder of the hub's storage budget is climbed, as the hub said last.
    ///
    /// # Errors
    /// The shelf's.
    pub fn rung(&self, shelf: &dyn Shelf) -> Result<Rung> {
        Ok(self.hub_note(shelf)?.rung)
    }

    /// The hub has said it. From its highest rung on nothing optional is told.
    ///
    /// # Errors
    /// The shelf's.
    pub fn set_rung(&mut self, shelf: &mut dyn Shelf, rung: Rung) -> Result<()> {
        let note = self.hub_note(shelf)?;
        if note.rung != rung {
            document::write(shelf, &document::hub_name(&self.hub.name), &HubNote { rung, ..note })?;
        }
        Ok(())
    }

    pub(super) fn hub_note(&self, shelf: &dyn Shelf) -> Result<HubNote> {
        Ok(document::read(shelf, &document::hub_name(&self.hub.name))?.unwrap_or_default())
    }

    /// Works on one stream, if it is attached, and writes its note when that has changed.
    pub(super) fn stream<T>(
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
        let hub = self.hub_note(shelf)?;
        let shift = if broken!(DatesAreNotShifted) { Shift(0) } else { Shift(hub.offset) };
        let shed = hub.rung >= Rung::Bare;
        let before = note.clone();
        let (bounds, stamps, providers) = (self.hub.bounds, self.stamps.as_ref(), &self.hub.providers);
        let mut stream = Stream { shelf, stamps, provider, providers, bounds, shift, now, out, note, shed };
        let value = work(&mut stream)?;
        if stream.note != before {
            stream.save()?;
        }
        Ok(Some(value))
    }
}
