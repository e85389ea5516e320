//! Who is kept out for a while, or slowed down.
//!
//! Most of the time that is nobody, and then it costs requests one look. A verdict ends by itself. What a person lifts
//! stays lifted for as long as the verdict would have lasted, whatever is concluded meanwhile.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use serde::{Deserialize, Serialize};

use crate::{
    model::{Timestamp, Window},
    monitor::{Action, Subject, Verdict},
};

/// Addresses that are kept out, and likewise all others that are remembered; of more, those for whom it lasts longest. An
/// attack comes from as many addresses as it likes, and must not be how a user gets out.
const MOST: usize = 10_000;
/// Requests per minute that a throttle takes its part of where no limit is set.
const UNLIMITED: u32 = 60;

/// How long something holds. The span is kept for clocks that were ahead when it began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Term {
    pub until: Timestamp,
    span: Duration,
}

/// What holds for a subject.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sentence {
    pub subject: Subject,
    pub block: Option<Term>,
    pub throttle: Option<(f32, Term)>,
    /// No verdict holds as long as this does.
    pardon: Option<Term>,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Barred {
    Blocked {
        until: Timestamp,
    },
    /// `limit` is what is left of the requests per minute, `reset` when the next one is.
    Throttled {
        limit: u32,
        reset: Timestamp,
    },
}

#[derive(Debug, Default)]
pub struct Verdicts {
    table: ArcSwap<Table>,
    /// Whether there is anything in it: most look for no more, and that costs them less than the table does.
    is_any: AtomicBool,
    /// Held by whoever makes the next table.
    change: Mutex<()>,
}

type Table = HashMap<Subject, Held>;

#[derive(Clone, Debug)]
struct Held {
    sentence: Sentence,
    /// Shared by all copies of the table.
    window: Arc<Mutex<Window>>,
}

impl Term {
    fn new(now: Timestamp, span: Duration) -> Self {
        Self { until: now.saturating_add(span), span }
    }

    fn holds(self, now: Timestamp) -> bool {
        now < self.until
    }

    /// `None` when it is over; never longer than it was meant to be.
    fn at(self, now: Timestamp) -> Option<Self> {
        let until = self.until.min(now.saturating_add(self.span));
        self.holds(now).then_some(Self { until, ..self })
    }

    fn later(self, other: Option<Self>) -> Self {
        other.filter(|other| other.until > self.until).unwrap_or(self)
    }
}

impl Sentence {
    /// Of its layout, where it is written down.
    pub const VERSION: u8 = 1;

    fn none(subject: Subject) -> Self {
        Self { subject, block: None, throttle: None, pardon: None }
    }

    /// What of it holds now; `None` when that is nothing.
    fn at(self, now: Timestamp) -> Option<Self> {
        let at = |term: Option<Term>| term.and_then(|term| term.at(now));
        let throttle = self.throttle.and_then(|(factor, term)| Some((factor, term.at(now)?)));
        let left = Self { block: at(self.block), throttle, pardon: at(self.pardon), ..self };
        left.until().map(|_| left)
    }

    fn until(&self) -> Option<Timestamp> {
        let throttle = self.throttle.map(|(_, term)| term);
        [self.block, throttle, self.pardon].into_iter().flatten().map(|term| term.until).max()
    }

    fn add(&mut self, action: Action, now: Timestamp) {
        let term = Term::new(now, action.span());
        match action {
            Action::Log => {}
            Action::Block { .. } => self.block = Some(term.later(self.block)),
            Action::Throttle { factor, .. } => {
                self.throttle = Some(match self.throttle {
                    Some((before, other)) => (before.min(factor), term.later(Some(other))),
                    None => (factor, term),
                });
            }
        }
    }

    /// The same without its verdicts, for as long as they would have held.
    fn lifted(&self) -> Self {
        let terms = [self.block, self.throttle.map(|(_, term)| term)];
        let pardon = terms.into_iter().flatten().max_by_key(|term| term.until);
        Self { pardon, ..Self::none(self.subject) }
    }

    /// Of what comes in any number. What a person has lifted does not.
    fn is_of_an_attack(&self) -> bool {
        matches!(self.subject, Subject::Address(_)) && self.pardon.is_none()
    }

    fn is_verdict(&self) -> bool {
        self.block.is_some() || self.throttle.is_some()
    }
}

impl Verdicts {
    pub fn is_empty(&self) -> bool {
        !self.is_any.load(Ordering::Acquire)
    }

    pub(super) fn check(&self, subject: Subject, usual: Option<u32>, now: Timestamp) -> Result<(), Barred> {
        let table = self.table.load();
        let Some(Held { sentence, window }) = table.get(&subject) else { return Ok(()) };
        if let Some(term) = sentence.block.filter(|term| term.holds(now)) {
            return Err(Barred::Blocked { until: term.until });
        }
        if let Some((factor, _)) = sentence.throttle.filter(|(_, term)| term.holds(now)) {
            // Whoever shall have nothing is blocked.
            let limit = ((usual.unwrap_or(UNLIMITED) as f32 * factor) as u32).max(1);
            let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
            window.take(limit, now).map_err(|reset| Barred::Throttled { limit, reset })?;
        }
        Ok(())
    }

    /// Puts verdicts in force. Returns whether anything is new.
    pub fn apply(&self, verdicts: &[Verdict], now: Timestamp) -> bool {
        let is_pardoned = |held: &Held| held.sentence.pardon.is_some_and(|term| term.holds(now));
        let before = self.table.load();
        let is_new = verdicts.iter().any(|verdict| {
            verdict.action != Action::Log && !before.get(&verdict.subject).is_some_and(is_pardoned)
        });
        if !is_new {
            return false;
        }
        self.change(|table| {
            for verdict in verdicts.iter().filter(|verdict| verdict.action != Action::Log) {
                let held = table.entry(verdict.subject).or_insert_with(|| Held::of(verdict.subject));
                if !is_pardoned(held) {
                    held.sentence.add(verdict.action, now);
                }
            }
        });
        true
    }

    /// Those in force; first those that last longest.
    pub fn list(&self, now: Timestamp) -> Vec<Sentence> {
        let mut all = self.kept(now);
        all.retain(Sentence::is_verdict);
        all.sort_unstable_by_key(|sentence| std::cmp::Reverse(sentence.until()));
        all
    }

    /// With what was lifted: what [`Verdicts::restore`] takes.
    pub fn kept(&self, now: Timestamp) -> Vec<Sentence> {
        self.table.load().values().filter_map(|held| held.sentence.at(now)).collect()
    }

    /// As [`Verdicts::kept`] when `subject` is let off; `None` where there is nothing to lift.
    pub fn without(&self, subject: Subject, now: Timestamp) -> Option<Vec<Sentence>> {
        let mut kept = self.kept(now);
        let found = kept.iter_mut().find(|of| of.subject == subject && of.is_verdict())?;
        *found = found.lifted();
        Some(kept)
    }

    pub fn lift(&self, subject: Subject, now: Timestamp) {
        self.change(|table| {
            if let Some(held) = table.get_mut(&subject)
                && let Some(left) = held.sentence.at(now)
            {
                held.sentence = left.lifted();
            }
        });
    }

    pub fn restore(&self, sentences: Vec<Sentence>) {
        self.change(|table| {
            let held = sentences.into_iter().filter(|of| of.until().is_some());
            table.extend(held.map(|of| (of.subject, Held::from(of))));
        });
    }

    /// Lets go of what is over; once a minute is enough.
    pub fn tidy(&self, now: Timestamp) {
        let is_right = |held: &Held| held.sentence.at(now) == Some(held.sentence);
        if self.table.load().values().all(is_right) {
            return;
        }
        self.change(|table| {
            table.retain(|_, held| match held.sentence.at(now) {
                Some(left) => {
                    held.sentence = left;
                    true
                }
                None => false,
            });
        });
    }

    fn change(&self, make: impl FnOnce(&mut Table)) {
        let _alone = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let mut table = Table::clone(&self.table.load());
        make(&mut table);
        if table.len() > MOST {
            bound(&mut table, Sentence::is_of_an_attack);
            bound(&mut table, |sentence| !sentence.is_of_an_attack());
        }
        let is_any = !table.is_empty();
        self.table.store(Arc::new(table));
        self.is_any.store(is_any, Ordering::Release);
    }
}

fn bound(table: &mut Table, is_of: impl Fn(&Sentence) -> bool) {
    let of = table.values().map(|held| &held.sentence).filter(|sentence| is_of(sentence));
    let mut ends: Vec<_> = of.map(|sentence| (sentence.until(), sentence.subject)).collect();
    let beyond = ends.len().saturating_sub(MOST);
    if beyond > 0 {
        ends.select_nth_unstable_by_key(beyond, |(until, _)| *until);
        ends[..beyond].iter().for_each(|(_, subject)| drop(table.remove(subject)));
    }
}

impl Held {
    fn of(subject: Subject) -> Self {
        Self::from(Sentence::none(subject))
    }
}

impl From<Sentence> for Held {
    fn from(sentence: Sentence) -> Self {
        Self { sentence, window: Arc::default() }
    }
}

#[cfg(test)]
#[path = "verdicts_tests.rs"]
mod tests;
