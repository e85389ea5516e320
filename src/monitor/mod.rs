//! Watches what goes through keytide for what is not usual, and says so: the security events.
//!
//! ```text
//! observation ─▶ habits (user or token, key, address) ─▶ findings ─▶ condenser ─▶ events, verdicts
//!                  ▲ the others: what everybody meets at the same time
//! ```
//!
//! - Everybody is measured against their own past, and not before there is one: a new user is no alarm. Only
//!   guessing at the door (unknown tokens, admin logins) has limits that are the same for all.
//! - Nothing is kept of a request: habits are levels, spreads and small sets, at most some 300 bytes a subject.
//!   An observation takes the same time however many subjects there are, and those seen longest ago are forgotten.
//! - Only the abnormal is said, and it is said once: what goes on is condensed over growing windows, and a storm
//!   of events into one.
//! - The room does nothing itself. It reads no clock, and a [`Verdict`] is for others to enforce.
//!
//! The proof is `replay`: traffic of a thousand users with planted abuse.

mod address;
mod baseline;
mod condense;
mod event;
mod failures;
mod observation;
mod options;
mod others;
mod recent;
mod spread;
mod track;

#[cfg(test)]
mod replay;
#[cfg(test)]
mod tests;

use std::{
    hash::{BuildHasherDefault, RandomState},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use crate::model::{IdHasher, KeyId, Timestamp};

use self::{
    address::{Crowd, Door},
    condense::{Condenser, Kept},
    event::Finding,
    observation::{Network, caller},
    others::{Latest, Others},
    recent::Recent,
    track::{Moment, Request, Track},
};

pub use event::{Event, EventType, Figures, Kind, Report, Verdict};
pub use observation::{AuthFailure, End, Observation, Subject, What, fingerprint};
pub use options::{Action, Options, Problem, Rule};

#[derive(Debug)]
pub struct Monitor {
    options: Options,
    subjects: Recent<Subject, Track>,
    keys: Recent<KeyId, Track, BuildHasherDefault<IdHasher>>,
    doors: Recent<IpAddr, Door>,
    crowd: Crowd,
    other_subjects: Others<Subject, RandomState>,
    other_keys: Others<KeyId, BuildHasherDefault<IdHasher>>,
    condenser: Condenser,
    minute: u32,
    /// Empty between two observations; kept for its memory.
    found: Vec<Finding>,
}

/// What of a monitor has to live through a restart. What the others meet is seen anew in minutes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    subjects: Vec<(Subject, Track)>,
    keys: Vec<(KeyId, Track)>,
    doors: Vec<(IpAddr, Door)>,
    crowd: Crowd,
    episodes: Kept,
}

impl Snapshot {
    /// Of its layout and of all that is in it, where it is written down: another one is not read.
    pub const VERSION: u8 = 1;
    /// What it takes at most, written down.
    pub const MOST_BYTES: usize = Options::MOST * (SUBJECT + KEY + DOOR) + condense::MOST_BYTES;
}

/// Bytes of the largest records, with whom they are about.
const SUBJECT: usize = 300;
const KEY: usize = 180;
const DOOR: usize = 60;

impl Monitor {
    pub fn new(options: Options) -> Self {
        Self {
            subjects: Recent::new(options.max_subjects),
            keys: Recent::new(options.max_keys),
            doors: Recent::new(options.max_addresses),
            crowd: Crowd::default(),
            other_subjects: Others::default(),
            other_keys: Others::default(),
            condenser: Condenser::new(),
            minute: 0,
            found: Vec::new(),
            options,
        }
    }

    /// Takes one observation in. They should come about in the order of their times.
    pub fn observe(&mut self, seen: &Observation) -> Report {
        let mut report = Report::default();
        if !self.options.enabled {
            return report;
        }
        let now = Moment::of(seen.at);
        self.pass(seen.at, now, &mut report);
        match seen.what {
            What::Ended { end, status } => self.ended(seen, end, status, now, &mut report),
            What::KeyFailed => self.tried(seen, End::Failure, now, &mut report),
            What::Limited => {
                let track = self.subjects.touch(seen.subject, || Track::new(now));
                track.limited(now, &self.options, &mut self.found);
                self.settle(seen.subject, seen.at, &mut report);
            }
            What::AuthFailed { why: AuthFailure::Unknown, token } => {
                let Some(address) = address_of(seen) else { return report };
                let door = self.doors.touch(address, Door::default);
                let is_first = door.unknown(token, now, &mut self.found);
                self.settle(Subject::Address(address), seen.at, &mut report);
                if is_first {
                    self.found.extend(self.crowd.see(now));
                    self.settle(Subject::Everyone, seen.at, &mut report);
                }
            }
            What::AuthFailed { .. } => {
                let track = self.subjects.touch(seen.subject, || Track::new(now));
                track.turn_away(now, &mut self.found);
                self.settle(seen.subject, seen.at, &mut report);
            }
            What::AdminLoginFailed => {
                let Some(address) = address_of(seen) else { return report };
                self.doors.touch(address, Door::default).login(now, &mut self.found);
                self.settle(Subject::Address(address), seen.at, &mut report);
            }
        }
        report
    }

    /// Lets time pass when nothing is observed, so that what waits is told. Once a minute is enough.
    pub fn tick(&mut self, at: Timestamp) -> Report {
        let mut report = Report::default();
        self.pass(at, Moment::of(at), &mut report);
        report
    }

    /// What is told before an end: a snapshot does not have it.
    pub fn flush(&mut self, at: Timestamp) -> Report {
        let mut report = Report::default();
        self.condenser.flush(at, &mut report);
        report
    }

    /// Those that have not ended, as after a restart they have to be enforced again.
    pub fn verdicts(&self, now: Timestamp) -> Vec<Verdict> {
        self.condenser.verdicts(now)
    }

    pub fn snapshot(&self) -> Snapshot {
        Snapshot {
            subjects: self.subjects.newest_first().map(|(name, track)| (*name, track.clone())).collect(),
            keys: self.keys.newest_first().map(|(name, track)| (*name, track.clone())).collect(),
            doors: self.doors.newest_first().map(|(name, door)| (*name, *door)).collect(),
            crowd: self.crowd,
            episodes: self.condenser.kept(),
        }
    }

    /// Goes on where a snapshot was taken. Of what is beyond the options' bounds, those seen last are kept.
    pub fn restore(options: Options, mut snapshot: Snapshot) -> Self {
        snapshot.subjects.iter_mut().for_each(|(_, track)| track.trim());
        snapshot.keys.iter_mut().for_each(|(_, track)| track.trim());
        Self {
            subjects: Recent::restore(options.max_subjects, snapshot.subjects),
            keys: Recent::restore(options.max_keys, snapshot.keys),
            doors: Recent::restore(options.max_addresses, snapshot.doors),
            crowd: snapshot.crowd,
            condenser: Condenser::restore(snapshot.episodes),
            ..Self::new(options)
        }
    }

    /// Goes on under other options with what it has learnt.
    pub fn set_options(&mut self, options: Options) {
        self.subjects.set_bound(options.max_subjects);
        self.keys.set_bound(options.max_keys);
        self.doors.set_bound(options.max_addresses);
        self.options = options;
    }

    fn ended(&mut self, seen: &Observation, end: End, status: u16, now: Moment, report: &mut Report) {
        let Observation { at, subject, provider, model, .. } = *seen;
        let request = Request {
            is_bad: What::is_bad_for_caller(end, status),
            network: seen.address.map(|address| Network::of(address).fingerprint()),
            // Where the pool turned when a key failed is not the caller's choice.
            key: seen.key.filter(|_| end != End::Failure).map(fingerprint_of),
            model,
        };
        let mood = self.other_subjects.mood(subject, provider, model, at);
        let track = self.subjects.touch(subject, || Track::new(now));
        track.request(request, mood, now, &self.options, &mut self.found);
        let novel = track.novel_keys();
        self.other_subjects.tell(subject, Latest { at, provider, model, is_bad: request.is_bad, novel });
        self.settle(subject, at, report);
        self.tried(seen, end, now, report);
    }

    /// A key's part of it.
    fn tried(&mut self, seen: &Observation, end: End, now: Moment, report: &mut Report) {
        let Observation { at, provider, model, .. } = *seen;
        let Some(key) = seen.key else { return };
        // What the request or its caller did wrong says nothing of the key.
        let is_bad = end == End::Failure;
        let mood = self.other_keys.mood(key, provider, model, at);
        let track = self.keys.touch(key, || Track::new(now));
        track.request(Request { is_bad, ..Request::default() }, mood, now, &self.options, &mut self.found);
        // How much a day brings a key is the pool's doing: who else is in it, and who is away.
        self.found.retain(|finding| finding.kind != Kind::Sustained);
        self.other_keys.tell(key, Latest { at, provider, model, is_bad, novel: 0 });
        self.settle(Subject::Key(key), at, report);
    }

    /// Hands what was found about a subject to the condenser.
    fn settle(&mut self, subject: Subject, at: Timestamp, report: &mut Report) {
        for mut finding in self.found.drain(..) {
            finding.score *= self.options.sensitivity;
            if finding.score >= 1.0 {
                self.condenser.take(subject, &finding, at, &self.options, report);
            }
        }
    }

    fn pass(&mut self, at: Timestamp, now: Moment, report: &mut Report) {
        if now.minute != self.minute {
            self.minute = now.minute;
            self.condenser.minute(at, &self.options, report);
        }
    }
}

fn address_of(seen: &Observation) -> Option<IpAddr> {
    match (seen.address, seen.subject) {
        (Some(address), _) | (None, Subject::Address(address)) => Some(caller(address)),
        _ => None,
    }
}

/// Ids are spread evenly already.
fn fingerprint_of(key: KeyId) -> u32 {
    (key.0 >> 96) as u32
}
