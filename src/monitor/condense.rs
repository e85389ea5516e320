//! From findings to events: the same of the same subject is one event for a while, and a storm is one event.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{KeyId, Timestamp};

use super::{
    Action, Event, Figures, Kind, Options, Report, Subject, Verdict, event::Finding, recent::Recent,
};

/// Episodes that are remembered; beyond, the one that was quiet for longest begins anew.
const EPISODES: usize = 4_096;
/// Written down, of all of them: 100 bytes each.
pub(super) const MOST_BYTES: usize = EPISODES * 100;
/// An episode ends when nothing was found for this long, or for its own window: what comes back at the same hour
/// of the next day goes on.
const QUIET: Duration = Duration::from_secs(24 * 3_600);

/// Findings of one kind about one subject, as long as they go on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Episode {
    last: Timestamp,
    /// When it was last written down, and how long it is not written down again.
    told: Timestamp,
    window: Duration,
    severity: u8,
    /// Not written down yet: how many, and the worst of them.
    waiting: u32,
    worst: u8,
    seen: f32,
    usual: f32,
    action: Action,
    until: Timestamp,
}

#[derive(Debug)]
pub(super) struct Condenser {
    episodes: Recent<(Subject, Kind), Episode>,
    storm: Storm,
}

pub(super) type Kept = Vec<((Subject, Kind), Remembered)>;

/// An episode as a snapshot has it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Remembered(Episode);

impl Condenser {
    pub(super) fn new() -> Self {
        Self { episodes: Recent::new(EPISODES), storm: Storm::default() }
    }

    pub(super) fn kept(&self) -> Kept {
        self.episodes.newest_first().map(|(name, episode)| (*name, Remembered(*episode))).collect()
    }

    pub(super) fn restore(kept: Kept) -> Self {
        let episodes = kept.into_iter().map(|(name, episode)| (name, episode.0)).collect();
        Self { episodes: Recent::restore(EPISODES, episodes), storm: Storm::default() }
    }

    pub(super) fn verdicts(&self, now: Timestamp) -> Vec<Verdict> {
        let in_force = self
            .episodes
            .newest_first()
            .filter(|(_, episode)| episode.action != Action::Log && episode.until > now);
        in_force
            .map(|((subject, _), episode)| Verdict {
                subject: *subject,
                action: episode.action,
                until: episode.until,
            })
            .collect()
    }

    pub(super) fn take(
        &mut self,
        subject: Subject,
        finding: &Finding,
        now: Timestamp,
        options: &Options,
        report: &mut Report,
    ) {
        let severity = finding.severity();
        let name = (subject, finding.kind);
        let is_new = self.episodes.get(&name).is_none_or(|episode| {
            // One from the far future was begun under a wrong clock.
            now.since(episode.last) > QUIET.max(episode.window) || episode.last.since(now) > QUIET
        });
        let begun = Episode {
            last: now,
            told: now,
            window: options.window,
            severity: 0,
            waiting: 0,
            worst: 0,
            seen: 0.0,
            usual: 0.0,
            action: Action::Log,
            until: now,
        };
        let episode = self.episodes.touch(name, || begun);
        if is_new {
            *episode = begun;
        }
        episode.last = episode.last.max(now);
        episode.waiting = episode.waiting.saturating_add(1);
        episode.worst = episode.worst.max(severity);
        (episode.seen, episode.usual) = (finding.seen, finding.usual);
        if severity > episode.severity {
            // What grows worse is said at once, which happens five times at most.
            episode.severity = severity;
            let figures = Figures::Measure {
                seen: finding.seen,
                usual: finding.usual,
                from_new_network: finding.from_new_network,
                at_unusual_hour: finding.at_unusual_hour,
            };
            let event = tell(name, episode, figures, now);
            self.storm.admit(event, options, report);
        }
        let action = options.action(finding.kind.event_type(), severity);
        // A key is the pool's to rest, and everybody is nobody to refuse.
        let is_enforceable = !matches!(subject, Subject::Key(_) | Subject::Everyone);
        if action == Action::Log || !is_enforceable {
            return;
        }
        let until = now.saturating_add(action.span());
        let is_in_force = episode.until > now && episode.action >= action;
        // Prolonged when half of it is over, so that abuse that goes on is not a verdict per request.
        if !is_in_force || episode.until.since(now) * 2 < action.span() {
            (episode.action, episode.until) = (action, until);
            report.verdicts.push(Verdict { subject, action, until });
        }
    }

    /// What a storm has counted so far.
    pub(super) fn flush(&mut self, now: Timestamp, report: &mut Report) {
        if let Some(raging) = &mut self.storm.raging {
            raging.tell(now, report);
        }
    }

    /// What has waited long enough is written down; once a minute.
    pub(super) fn minute(&mut self, now: Timestamp, options: &Options, report: &mut Report) {
        self.storm.minute(now, options, report);
        for (name, episode) in self.episodes.iter_mut() {
            if episode.waiting == 0 || now.since(episode.told) < episode.window {
                continue;
            }
            let figures = Figures::Measure {
                seen: episode.seen,
                usual: episode.usual,
                from_new_network: false,
                at_unusual_hour: false,
            };
            let event = tell(*name, episode, figures, now);
            episode.window = (episode.window * 2).min(options.longest_window);
            self.storm.admit(event, options, report);
        }
    }
}

fn tell((subject, kind): (Subject, Kind), episode: &mut Episode, figures: Figures, now: Timestamp) -> Event {
    let event = Event {
        at: now,
        kind,
        subject,
        key: key_of(subject),
        severity: episode.worst,
        weight: episode.waiting,
        since: episode.told,
        figures,
    };
    (episode.told, episode.waiting, episode.worst) = (now, 0, 0);
    event
}

fn key_of(subject: Subject) -> Option<KeyId> {
    match subject {
        Subject::Key(id) => Some(id),
        _ => None,
    }
}

/// Events in one minute, and what happens when they are too many: from then on they are only counted, and told
/// in sums over spans that grow, until a whole span had no more than one minute may have.
#[derive(Debug, Default)]
struct Storm {
    this_minute: u32,
    raging: Option<Raging>,
}

#[derive(Debug)]
struct Raging {
    since: Timestamp,
    span: Duration,
    counts: [u32; 3],
    worst: u8,
}

const MINUTE: Duration = Duration::from_secs(60);
const LONGEST_SPAN: Duration = Duration::from_secs(3_600);

impl Storm {
    fn admit(&mut self, event: Event, options: &Options, report: &mut Report) {
        self.this_minute = self.this_minute.saturating_add(1);
        if self.raging.is_none() && self.this_minute <= options.storm {
            report.events.push(event);
            return;
        }
        let raging =
            self.raging.get_or_insert(Raging { since: event.at, span: MINUTE, counts: [0; 3], worst: 1 });
        raging.worst = raging.worst.max(event.severity);
        raging.counts[event.event_type() as usize] += 1;
    }

    fn minute(&mut self, now: Timestamp, options: &Options, report: &mut Report) {
        self.this_minute = 0;
        let Some(raging) = &mut self.raging else { return };
        if raging.since <= now && now.since(raging.since) < raging.span {
            return;
        }
        let weight = raging.tell(now, report);
        if weight <= options.storm {
            self.raging = None;
        } else {
            raging.span = (raging.span * 2).min(LONGEST_SPAN);
        }
    }
}

impl Raging {
    /// Says how many there were, and begins anew.
    fn tell(&mut self, now: Timestamp, report: &mut Report) -> u32 {
        let counts = std::mem::take(&mut self.counts);
        let weight = counts.iter().sum();
        if weight > 0 {
            report.events.push(Event {
                at: now,
                kind: Kind::Storm,
                subject: Subject::Everyone,
                key: None,
                severity: self.worst,
                weight,
                since: self.since,
                figures: Figures::Storm(counts),
            });
        }
        (self.since, self.worst) = (now, 1);
        weight
    }
}
