//! What operators are told: the status, the notes, the log.

use std::collections::HashMap;

use tokio::time::Instant;
use tracing::{info, warn};

use super::{
    Shared,
    task::{Broken, Task},
};
use crate::{
    model::Timestamp,
    replica::{
        pace,
        protocol::{self, Note},
        status::{self, HubError, HubState, NoteCode},
        words::{self, Words},
    },
};

/// What operators are shown of the past.
const NOTES: usize = 20;

impl Task {
    pub(super) fn tell(&mut self, broken: Option<Broken>) {
        let now = self.parts.clock.now();
        let hindered = words::hindered(self.steps.lock().obstacles());
        let mut status = self.shared.status();
        let traffic = self.transport.traffic();
        let running = self.began.elapsed();
        status.target = self.transport.target();
        status.traffic = status::Traffic {
            sent: traffic.sent,
            received: traffic.received,
            received_a_month: pace::a_month(traffic.received, running),
            budget_a_month: self.pace.share(),
            statistics_every_ms: self.pace.every().as_millis() as u64,
        };
        if broken.is_none() {
            status.last_success = Some(now);
        }
        // What the hub says that it cannot do has been noted when it began.
        let noted = broken.is_none();
        let Some(Words { trouble, message, advice }) = broken.map(|broken| broken.words()).or(hindered)
        else {
            if status.last_error.take().is_some() {
                info!(hub = status.name, "replication goes on");
            }
            return;
        };
        let times = status.last_error.as_ref().map_or(0, |before| before.times) + 1;
        let same = status.last_error.as_ref().is_some_and(|before| before.message == message);
        if !same && !noted {
            warn!(hub = status.name, "replication failed: {message}; {advice}");
        }
        status.last_error = Some(HubError { code: trouble, message, advice, at: now, times });
    }

    /// Reads from the store how each stream stands.
    pub(super) async fn look_at_streams(&mut self) {
        self.looked_at = Instant::now();
        let looked =
            self.steps.step(|machine, shelf, _| Ok((machine.status(shelf)?, machine.clock(shelf)?))).await;
        let Ok((streams, (measured, applied))) = looked else {
            let mut status = self.shared.status();
            if status.last_error.is_some() {
                status.state = HubState::Failing;
            }
            return;
        };
        let own: Vec<_> = streams.iter().map(|stream| stream.instance).collect();
        let (others, obstacles) = {
            let machine = self.steps.lock();
            self.unread.retain(|stream, _| machine.is_troubled(stream));
            (machine.others().clone(), machine.obstacles().clone())
        };
        let now = self.parts.clock.now();
        self.pace.set_live(others.alive);
        let waits =
            streams.iter().any(|stream| stream.confirmed < stream.sealed || stream.dirty + stream.open > 0);
        self.waiting_since = if waits { self.waiting_since.or(Some(now)) } else { None };

        let mut status = self.shared.status();
        status.streams = streams.into_iter().map(|stream| shown(stream, &obstacles, &self.unread)).collect();
        status.listed_at = others.listed.map(|at| Timestamp(at.saturating_sub(applied)));
        status.reports = others.reports.iter().map(status::Report::from).collect();
        status.instances = others
            .instances
            .into_iter()
            .map(|instance| status::InstanceStatus {
                own: own.contains(&instance.id),
                id: instance.id,
                name: instance.name,
                version: instance.version,
                first_seen: Timestamp(instance.first_seen),
                last_seen: Timestamp(instance.last_seen),
                clock_offset_ms: instance.clock_offset,
            })
            .collect();
        status.clock_offset_ms = status.last_success.is_some().then_some(measured.saturating_neg());
        status.clock_correction_ms = applied;
        status.lag_ms = self.waiting_since.map_or(0, |since| now.since(since).as_millis() as u64);
        let any = |state| status.streams.iter().any(|stream| stream.state == state);
        status.state = if any(status::StreamState::Stopped) {
            HubState::Stopped
        } else if status.last_error.is_some() {
            HubState::Failing
        } else if status.last_success.is_none() {
            HubState::Connecting
        } else if any(status::StreamState::Resyncing) {
            HubState::Resyncing
        } else {
            HubState::Ok
        };
    }
}

impl Shared {
    pub(super) fn note(&self, at: Timestamp, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        for note in summed(notes) {
            if let Note::KeptBack { rows } = note {
                let mut space = self.space();
                let before = space.kept_back;
                space.kept_back = before.saturating_add(rows);
                // With each batch there is some.
                if before > 0 {
                    continue;
                }
            }
            self.say(at, words::code(&note), &words::note(&note));
        }
    }

    /// In the log, and among what operators are shown.
    pub(super) fn say(&self, at: Timestamp, code: NoteCode, text: &str) {
        let mut status = self.status();
        // What the hub repeats every round is said once.
        if status.notes.first().is_some_and(|last| last.text == text) {
            return;
        }
        warn!(hub = status.name, "{text}");
        status.notes.insert(0, status::Note { at, code, text: text.to_owned() });
        status.notes.truncate(NOTES);
    }
}

/// What is said of many rows at once, said once.
fn summed(notes: Vec<Note>) -> Vec<Note> {
    let mut summed: Vec<Note> = Vec::new();
    for note in notes {
        let Note::Lost { provider, requests } = &note else {
            summed.push(note);
            continue;
        };
        let before = summed.iter_mut().find_map(|other| match other {
            Note::Lost { provider: of, requests } if of == provider => Some(requests),
            _ => None,
        });
        match before {
            Some(sum) => *sum += requests,
            None => summed.push(note),
        }
    }
    summed
}

fn shown(
    stream: protocol::StreamStatus,
    obstacles: &protocol::Obstacles,
    unread: &HashMap<String, String>,
) -> status::StreamStatus {
    use status::StreamState as State;
    let lacks = obstacles.missing.iter().find(|missing| missing.stream == stream.stream);
    let failed = unread.get(&stream.stream);
    let current = stream.state.current && stream.stats.current;
    let state = match (&stream.stopped, &stream.hub) {
        (Some(_), _) => State::Stopped,
        _ if lacks.is_some() => State::Missing,
        _ if failed.is_some() => State::Failing,
        (None, None) => State::New,
        (None, Some(_)) if stream.resync.is_some() || !current => State::Resyncing,
        (None, Some(_)) => State::Ok,
    };
    let rows = stream.state.rows.unwrap_or(0) + stream.stats.rows.unwrap_or(0);
    status::StreamStatus {
        provider: stream.provider,
        table_prefix: stream.stream,
        state,
        stopped: stream.stopped.as_ref().map(words::code_of_stop),
        reason: stream
            .stopped
            .as_ref()
            .map(words::stopped)
            .or(lacks.map(|lacks| lacks.what.join(", ")))
            .or(failed.cloned()),
        pending_batches: stream.sealed.saturating_sub(stream.confirmed),
        pending_rows: stream.pending_rows,
        open_rows: stream.dirty + stream.open,
        confirmed_batch: stream.confirmed,
        last_pull: stream.state.complete.map(Timestamp),
        resync_rows: (state == State::Resyncing).then_some(rows),
    }
}
