//! What a token or a user has used: in the minute under way, and on the last few days.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::gauge::{Exceeded, Gauge, Gauges, Of};
use crate::model::{Day, DaySpan, Limits, Timestamp, Window, Zone};

/// Days remembered. A clock that is set back, or was ahead for a while, finds what was counted on them.
const DAYS: usize = 3;

/// What is taken: a list of models is no use of a provider's keys, and counts for the minute alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Take {
    List,
    Request,
}

/// What was used on one day.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Used {
    pub requests: i64,
    /// Prompt and completion together.
    pub tokens: i64,
}

impl Used {
    fn add(&mut self, more: Self) {
        self.requests = self.requests.saturating_add(more.requests);
        self.tokens = self.tokens.saturating_add(more.tokens);
    }
}

/// Outlives every change of what it belongs to: a limit that changes, or is set in the middle of a day, holds for what
/// was used before as well.
#[derive(Debug, Default)]
pub struct Meter {
    state: Mutex<State>,
    /// What it belongs to is no longer in force.
    gone: AtomicBool,
}

#[derive(Debug, Default)]
pub(super) struct State {
    minute: Window,
    /// Ascending.
    days: Vec<(DaySpan, Used)>,
}

/// Where a place was taken, to give it back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Taken {
    minute: Option<Timestamp>,
    day: Option<Day>,
}

impl Meter {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn give_back(&self, taken: Taken) {
        let mut state = self.lock();
        state.minute.give_back(taken.minute);
        if let Some(taken) = taken.day
            && let Some((_, used)) = state.days.iter_mut().find(|(span, _)| span.day == taken)
        {
            used.requests -= 1;
        }
    }

    /// Adds tokens to the day that `now` is in. Requests under way at the same time may so pass the limit, each by what
    /// it uses: what a request will use is not known when it is let in.
    pub(super) fn spend(&self, tokens: u64, now: Timestamp, zone: &Zone) {
        let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        self.lock().day(now, zone).1.add(Used { requests: 0, tokens });
    }

    /// Sets what was used on a day, as the books know it.
    pub(super) fn seed(&self, day: DaySpan, used: Used) {
        if let Some(known) = self.lock().of(day) {
            *known = used;
        }
    }

    /// Adds what others have counted on a day; less than nothing where a count of theirs was taken back.
    pub(super) fn shift(&self, day: DaySpan, by: Used) {
        if let Some(known) = self.lock().of(day) {
            known.add(by);
        }
    }

    pub(super) fn used(&self, now: Timestamp, zone: &Zone) -> (DaySpan, Used) {
        *self.lock().day(now, zone)
    }

    /// Whether it is of a day that has not ended, or of a minute.
    pub(super) fn is_of_use(&self, now: Timestamp) -> bool {
        let state = self.lock();
        let last = state.days.last().map(|(span, _)| span.end);
        last.is_some_and(|end| now < end) || state.minute.reset(now) > now
    }

    /// What was used on its last day.
    pub(super) fn lately(&self) -> Used {
        self.lock().days.last().map(|(_, used)| *used).unwrap_or_default()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::Relaxed)
    }

    pub(super) fn set_gone(&self, gone: bool) {
        self.gone.store(gone, Ordering::Relaxed);
    }
}

impl State {
    /// Whether there is room for one more, and how much there would be after it.
    pub(super) fn check(
        &mut self,
        limits: &Limits,
        take: Take,
        now: Timestamp,
        zone: &Zone,
    ) -> Result<Gauges, Exceeded> {
        let mut gauges = Gauges::default();
        if let Some(limit) = limits.requests_per_minute {
            let left = self.minute.left(limit, now);
            let reset = match left == limit {
                true => now.saturating_add(Window::MINUTE),
                false => self.minute.reset(now),
            };
            gauges.requests = Some(Gauge::of(Of::Minute, u64::from(limit), u64::from(left), reset)?);
        }
        let by_day = limits.requests_per_day.is_some() || limits.tokens_per_day.is_some();
        if take == Take::List || !by_day {
            return Ok(gauges);
        }
        let (span, used) = *self.day(now, zone);
        // A day that the clock has left, as far back as it may have been set, ends in the future all the same.
        let reset = span.end.max(now.saturating_add(Duration::from_secs(1)));
        let left = |limit: u64, used: i64| limit.saturating_sub(u64::try_from(used).unwrap_or(0));
        if let Some(limit) = limits.requests_per_day {
            let gauge = Gauge::of(Of::DayRequests, limit, left(limit, used.requests), reset)?;
            gauges.requests = Some(gauges.requests.map_or(gauge, |other| other.tighter(gauge)));
        }
        if let Some(limit) = limits.tokens_per_day {
            gauges.tokens = Some(Gauge::of(Of::DayTokens, limit, left(limit, used.tokens), reset)?);
        }
        Ok(gauges)
    }

    /// Counts one more, for which there is room.
    pub(super) fn take(&mut self, take: Take, now: Timestamp, zone: &Zone) -> Taken {
        // The window opens with the first that is counted in it; that there is room was checked.
        let _room = self.minute.take(u32::MAX, now);
        let minute = self.minute.opened();
        let day = (take == Take::Request).then(|| {
            let (span, used) = self.day(now, zone);
            used.add(Used { requests: 1, tokens: 0 });
            span.day
        });
        Taken { minute, day }
    }

    /// The day that `now` is in.
    fn day(&mut self, now: Timestamp, zone: &Zone) -> &mut (DaySpan, Used) {
        let at = match self.days.iter().rposition(|(span, _)| span.holds(now)) {
            Some(at) => at,
            None => self.enter(zone.day_of(now)),
        };
        &mut self.days[at]
    }

    /// A day that others have counted on; `None` for one that is forgotten.
    fn of(&mut self, span: DaySpan) -> Option<&mut Used> {
        if let Some(at) = self.days.iter().position(|(known, _)| known.day == span.day) {
            return Some(&mut self.days[at].1);
        }
        let is_forgotten = self.days.len() == DAYS && span.day < self.days[0].0.day;
        if is_forgotten {
            return None;
        }
        let at = self.begin(span, Used::default());
        Some(&mut self.days[at].1)
    }

    /// Makes room for a day that is new here. An earlier day than all that are known was left before, or the clock was
    /// set back far: it goes on with what the earliest of them has used, since setting back a clock must not give anybody
    /// a fresh allowance.
    fn enter(&mut self, span: DaySpan) -> usize {
        if let Some(at) = self.days.iter().position(|(known, _)| known.day == span.day) {
            return at;
        }
        let used = match self.days.first() {
            Some((first, used)) if span.day < first.day => *used,
            _ => Used::default(),
        };
        self.begin(span, used)
    }

    fn begin(&mut self, span: DaySpan, used: Used) -> usize {
        let mut at = self.days.partition_point(|(known, _)| known.day < span.day);
        if self.days.len() == DAYS {
            // Later days are never given up for earlier ones: time comes back to them.
            self.days.remove(0);
            at = at.saturating_sub(1);
        }
        self.days.insert(at, (span, used));
        at
    }
}

#[cfg(test)]
#[path = "meter_tests.rs"]
mod tests;
