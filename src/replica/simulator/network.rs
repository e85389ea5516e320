//! The way between instances and the hub: what goes over it is lost, late or answered to nobody.

use std::time::Duration;

use super::{
    hub::HubPort,
    shelf::MemoryShelf,
    world::{Focus, World},
};
use crate::{
    model::Timestamp,
    replica::{
        protocol::{
            Call, Error, Machine, Next, Outcome, Wishes,
            document::{self, StreamNote},
        },
        transport::ErrorKind,
        wire::Function,
    },
};

/// A request that arrives after its sender has given up.
pub struct Stray {
    pub function: Function,
    pub request: String,
    /// Its transaction has begun and not ended.
    pub xid: Option<u64>,
}

impl World {
    /// One instance makes the database that is there the hub.
    pub fn adopt(&mut self, at: usize) -> Result<(), String> {
        self.say(|| format!("{at} adopts the hub"));
        let now = self.local(at);
        let it = &mut self.instances[at];
        it.waiting = None;
        let begun = it.machine.begin_adoption(&mut it.shelf, now).map_err(|error| error.to_string())?;
        it.shelf.commit();
        if !begun {
            return Err("nothing to adopt".to_owned());
        }
        while self.step(at)? {}
        Ok(())
    }

    /// Requests under way to a hub that is no more go nowhere.
    pub fn hub_restarted(&mut self) {
        self.strays.clear();
    }

    /// A step of the protocol in a transaction; `None` when it was given up.
    pub fn work<T>(
        &mut self,
        at: usize,
        work: impl FnOnce(&mut Machine, &mut MemoryShelf, Timestamp) -> Result<(T, Outcome), Error>,
    ) -> Result<Option<T>, String> {
        let now = self.local(at);
        let dies = self.loss > 0 && self.chance(4);
        let writes = self.rng.u64(1..20);
        let it = &mut self.instances[at];
        it.shelf.dies_at = dies.then_some(it.shelf.writes + writes);
        match work(&mut it.machine, &mut it.shelf, now) {
            Ok((value, outcome)) => {
                it.shelf.dies_at = None;
                self.take(at, outcome)?;
                Ok(Some(value))
            }
            Err(error) if it.shelf.dies_at.take().is_some() => {
                let _ = error;
                self.crash(at)?;
                Ok(None)
            }
            Err(error) => {
                it.shelf.give_up();
                it.machine.forget();
                it.waiting = None;
                Err(format!("instance {at}: {error}"))
            }
        }
    }

    /// A round of that, to its end.
    pub fn round(&mut self, at: usize, wishes: Wishes) -> Result<(), String> {
        self.begin(at, wishes);
        while self.step(at)? {}
        Ok(())
    }

    /// A round of everything.
    pub fn whole_round(&mut self, at: usize) -> Result<(), String> {
        self.round(at, Wishes { hello: true, stats: true, limits: true, only_push: false })
    }

    /// A round, up to where a page is on its way back.
    pub fn read_under_way(&mut self, at: usize) -> Result<(), String> {
        self.begin(at, Wishes { hello: false, stats: false, limits: false, only_push: false });
        while self.step(at)? && !self.is_answered(at) {}
        Ok(())
    }

    /// Whether a page is on its way back.
    pub fn is_answered(&self, at: usize) -> bool {
        matches!(&self.instances[at].waiting, Some((call, Some(_))) if call.function == Function::Pull)
    }

    /// A batch that is on its way is late: its sender goes on without it.
    pub fn is_late(&mut self, at: usize) -> Result<(), String> {
        let Some((call, None)) = self.instances[at].waiting.take() else { return Ok(()) };
        self.strays.push(Stray { function: call.function, request: call.request.clone(), xid: None });
        self.gives_up(at, &call, ErrorKind::Timeout).map(drop)
    }

    /// A batch is on its way.
    pub fn push_under_way(&mut self, at: usize) -> Result<(), String> {
        self.begin(at, Wishes { hello: false, stats: false, limits: false, only_push: true });
        while self.step(at)? {
            if matches!(&self.instances[at].waiting, Some((call, None)) if call.function == Function::Push) {
                break;
            }
        }
        Ok(())
    }

    /// Sealed and not confirmed, where a world is about that.
    fn batches_waiting(&self, at: usize) -> u64 {
        if self.focus != Focus::Batches {
            return 0;
        }
        let it = &self.instances[at];
        let of =
            |provider: &String| document::read::<StreamNote>(&it.shelf, &document::stream_name(provider));
        let notes = it.ids.keys().filter_map(|provider| of(provider).unwrap());
        notes.map(|note| note.sealed.seq - note.confirmed.seq).max().unwrap_or(0)
    }

    /// Whether a stream waits for somebody to adopt the hub.
    pub fn is_stopped(&self, at: usize) -> bool {
        let it = &self.instances[at];
        let of =
            |provider: &String| document::read::<StreamNote>(&it.shelf, &document::stream_name(provider));
        it.ids.keys().filter_map(|provider| of(provider).unwrap()).any(|note| note.stopped.is_some())
    }

    pub fn begin(&mut self, at: usize, wishes: Wishes) {
        let it = &mut self.instances[at];
        it.waiting = None;
        it.machine.begin(wishes);
    }

    /// One step of a round: the next call, or its way there and back. False when the round is over.
    pub fn step(&mut self, at: usize) -> Result<bool, String> {
        let Some((call, answer)) = self.instances[at].waiting.take() else {
            let (waiting, ids) = (self.batches_waiting(at), self.instances[at].ids.clone());
            let next = match self.work(at, |machine, shelf, now| machine.next(shelf, now))? {
                Some(Next::Work) => return Ok(true),
                Some(next) => next,
                None => Next::End,
            };
            let lives_on = self.instances[at].ids == ids;
            if waiting > 0 && lives_on && self.batches_waiting(at) > waiting {
                return Err(format!("instance {at} seals a batch while another one waits"));
            }
            let Next::Call(call) = next else { return Ok(false) };
            self.say(|| format!("{at} calls {} {}", call.function.name(), call.request));
            self.instances[at].waiting = Some((call, None));
            self.instances[at].sent = self.now;
            return Ok(true);
        };
        if let Some(body) = answer {
            let took = u64::try_from(self.now - self.instances[at].sent).unwrap_or(0);
            let (fresh, took) = (self.uuid(), Duration::from_millis(took));
            self.say(|| format!("{at} hears {body}"));
            self.work(at, |machine, shelf, now| {
                machine.answered(shelf, call.id, &body, took, now, fresh).map(|outcome| ((), outcome))
            })?;
            return Ok(true);
        }
        let too_large =
            call.function == Function::Push && self.limit.is_some_and(|limit| call.request.len() > limit);
        let too_slow = self.slow.is_some_and(|limit| call.request.len() > limit);
        let fate = if self.instances[at].cut_off {
            Some(ErrorKind::Unreachable)
        } else if too_large {
            Some(ErrorKind::TooLarge)
        } else if too_slow {
            Some(ErrorKind::Timeout)
        } else if call.function == Function::Push && call.request.len() > self.gate && self.chance(self.loss)
        {
            self.say(|| format!("{at} is told that its batch is too large"));
            return self.gives_up(at, &call, ErrorKind::TooLarge);
        } else if self.chance(self.loss) {
            Some(
                *self
                    .rng
                    .choice(&[ErrorKind::Timeout, ErrorKind::Unreachable][..])
                    .unwrap_or(&ErrorKind::Timeout),
            )
        } else {
            None
        };
        let Some(kind) = fate else {
            let body = self.arrive(call.function, &call.request, None)?;
            if self.chance(self.loss / 3) {
                self.strays.push(Stray { function: call.function, request: call.request.clone(), xid: None });
            }
            if self.slow.is_some_and(|limit| body.len() > 2 * limit) {
                self.refused = true;
                self.say(|| format!("{at} does not hear all of {body}"));
                return self.gives_up(at, &call, ErrorKind::Timeout);
            }
            self.instances[at].waiting = Some((call, Some(body)));
            return Ok(true);
        };
        let is_lost = too_large || self.instances[at].cut_off || too_slow && self.loss == 0;
        if !is_lost {
            self.go_astray(&call)?;
        }
        self.refused |= too_large || too_slow;
        self.gives_up(at, &call, kind)
    }

    fn gives_up(&mut self, at: usize, call: &Call, kind: ErrorKind) -> Result<bool, String> {
        self.say(|| format!("{at} gives up on {}", call.function.name()));
        self.work(at, |machine, shelf, now| {
            machine.failed(shelf, call.id, kind, now).map(|outcome| ((), outcome))
        })?;
        Ok(true)
    }

    /// What becomes of a request whose sender hears nothing.
    fn go_astray(&mut self, call: &Call) -> Result<(), String> {
        let (function, request) = (call.function, call.request.clone());
        match self.rng.u8(..4) {
            0 => {}
            1 => drop(self.arrive(function, &request, None)?),
            2 => self.strays.push(Stray { function, request, xid: None }),
            _ => {
                let xid = (function == Function::Push).then(|| self.hub.begin());
                self.strays.push(Stray { function, request, xid });
            }
        }
        Ok(())
    }

    fn arrive(&mut self, function: Function, request: &str, xid: Option<u64>) -> Result<String, String> {
        if request.contains("\\u0000") {
            return Err(format!("unsupported Unicode escape sequence in {request}"));
        }
        if function != Function::Push {
            return self.hub.call(function.name(), request);
        }
        let xid = match xid {
            Some(xid) => xid,
            None => {
                // Those that hold the stream's row go first.
                while let Some(first) = self.strays.iter().position(|stray| stray.xid.is_some()) {
                    let stray = self.strays.remove(first);
                    self.arrive(stray.function, &stray.request, stray.xid)?;
                }
                self.hub.begin()
            }
        };
        let answer = self.hub.push(request, xid);
        self.hub.end(xid);
        answer
    }

    /// One of the requests that are still under way arrives.
    pub fn stray(&mut self) -> Result<(), String> {
        if self.strays.is_empty() {
            return Ok(());
        }
        let which = self.rng.usize(..self.strays.len());
        let stray = self.strays.remove(which);
        self.say(|| format!("late: {} {}", stray.function.name(), stray.request));
        self.arrive(stray.function, &stray.request, stray.xid)?;
        Ok(())
    }

    pub fn settle_strays(&mut self) -> Result<(), String> {
        while !self.strays.is_empty() {
            self.stray()?;
        }
        Ok(())
    }

    /// Rounds until nothing changes any more.
    pub fn heal(&mut self) -> Result<(), String> {
        self.say(|| "healing".to_owned());
        self.loss = 0;
        self.settle_strays()?;
        for it in &mut self.instances {
            it.cut_off = false;
            it.waiting = None;
        }
        let mut quiet = 0;
        for _ in 0..60 {
            self.pass(5000);
            self.settle_strays()?;
            let before = self.hub.db.next_xid;
            for at in 0..self.instances.len() {
                self.begin(at, Wishes { hello: true, stats: true, limits: true, only_push: false });
                let mut steps = 0;
                while self.step(at)? {
                    steps += 1;
                    if steps > 5000 {
                        return Err(format!("instance {at}: a round that never ends"));
                    }
                }
            }
            let refused = std::mem::take(&mut self.refused);
            quiet = if self.hub.db.next_xid == before && !refused { quiet + 1 } else { 0 };
            if quiet == 2 {
                return Ok(());
            }
        }
        Err("it never becomes quiet".to_owned())
    }
}
