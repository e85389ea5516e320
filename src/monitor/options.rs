//! What the monitor can be told.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::EventType;

#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    pub enabled: bool,
    /// Days for which a subject is only learnt from.
    pub warm_up_days: u32,
    /// Requests after which it is known, when the days have passed too.
    pub warm_up_requests: u32,
    /// 1 as shipped; 2 sees what is half as abnormal, 0.5 only what is twice as.
    pub sensitivity: f32,
    /// What follows an event; of several that fit, the strongest. What no rule fits is logged.
    pub actions: Vec<Rule>,
    /// How long the same of the same subject is one event, at first; every further one spans twice as long.
    pub window: Duration,
    pub longest_window: Duration,
    /// Events a minute, beyond which they are condensed into one that says how many of which.
    pub storm: u32,
    /// Users and tokens that are remembered.
    pub max_subjects: usize,
    pub max_keys: usize,
    /// Addresses at which somebody was turned away.
    pub max_addresses: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            enabled: true,
            warm_up_days: 7,
            warm_up_requests: 50,
            sensitivity: 1.0,
            actions: Vec::new(),
            window: Duration::from_secs(6 * 3_600),
            longest_window: Duration::from_secs(86_400),
            storm: 30,
            max_subjects: 20_000,
            max_keys: 20_000,
            max_addresses: 4_096,
        }
    }
}

/// What is done about events of a type, from a severity on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// `None` for every type.
    pub event: Option<EventType>,
    pub severity: u8,
    pub action: Action,
}

/// What is done about an event besides keeping it. Later ones are stronger.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    #[default]
    Log,
    /// The subject's requests per minute times `factor`, for a span.
    Throttle { factor: f32, span: Duration },
    /// Nothing is let in from the subject, for a span.
    Block { span: Duration },
}

impl Action {
    pub fn span(&self) -> Duration {
        match self {
            Self::Log => Duration::ZERO,
            Self::Throttle { span, .. } | Self::Block { span } => *span,
        }
    }
}

/// A setting that cannot be used, and what it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub setting: &'static str,
    pub message: &'static str,
}

impl Options {
    const DAY: Duration = Duration::from_secs(86_400);
    /// As many of each can be written down: see [`super::Snapshot::MOST_BYTES`].
    pub const MOST: usize = 100_000;

    /// # Errors
    /// Every setting that cannot be used.
    pub fn check(&self) -> Result<(), Vec<Problem>> {
        let is_span = |span: Duration, least: u64, days: u32| {
            span >= Duration::from_secs(least) && span <= Self::DAY * days
        };
        let mut problems = Vec::new();
        let mut need = |is_met: bool, setting, message| {
            if !is_met {
                problems.push(Problem { setting, message });
            }
        };
        need((1..=60).contains(&self.warm_up_days), "warm_up_days", "must be from 1 to 60");
        need(
            (10..=1_000_000).contains(&self.warm_up_requests),
            "warm_up_requests",
            "must be from 10 to 1000000",
        );
        need((0.5..=2.0).contains(&self.sensitivity), "sensitivity", "must be from 0.5 to 2");
        need(is_span(self.window, 60, 1), "window", "must be from 1m to 24h");
        need(
            self.longest_window >= self.window && is_span(self.longest_window, 60, 7),
            "longest_window",
            "must be at least `window`, and at most 7d",
        );
        need((1..=10_000).contains(&self.storm), "storm", "must be from 1 to 10000 events a minute");
        for (bound, setting) in [
            (self.max_subjects, "max_subjects"),
            (self.max_keys, "max_keys"),
            (self.max_addresses, "max_addresses"),
        ] {
            need((100..=Self::MOST).contains(&bound), setting, "must be from 100 to 100000");
        }
        for rule in &self.actions {
            need((1..=5).contains(&rule.severity), "actions.severity", "must be from 1 to 5");
            if let Action::Throttle { factor, .. } = rule.action {
                need(
                    factor > 0.0 && factor < 1.0,
                    "actions.factor",
                    "must be above 0 and below 1; to let nothing through, use block",
                );
            }
            need(
                rule.action == Action::Log || is_span(rule.action.span(), 60, 30),
                "actions.span",
                "must be from 1m to 30d",
            );
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    pub(super) fn action(&self, event: EventType, severity: u8) -> Action {
        let fitting = self
            .actions
            .iter()
            .filter(|rule| severity >= rule.severity && rule.event.is_none_or(|wanted| wanted == event));
        fitting.map(|rule| rule.action).fold(Action::Log, |strongest, action| match (strongest, action) {
            // A lower factor is the stronger throttle.
            (Action::Throttle { factor: a, .. }, Action::Throttle { factor: b, .. }) if a <= b => strongest,
            (Action::Throttle { .. }, Action::Throttle { .. }) => action,
            (strongest, action) if action > strongest => action,
            (strongest, _) => strongest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_can_be_used_and_nonsense_is_named() {
        assert_eq!(Options::default().check(), Ok(()));
        let rule = |action| Rule { event: None, severity: 0, action };
        let nonsense = Options {
            warm_up_days: 0,
            warm_up_requests: 0,
            sensitivity: f32::NAN,
            window: Duration::ZERO,
            longest_window: Duration::MAX,
            storm: 0,
            max_subjects: 0,
            max_keys: usize::MAX,
            max_addresses: 1,
            actions: vec![
                rule(Action::Throttle { factor: 1.0, span: Duration::MAX }),
                rule(Action::Block { span: Duration::ZERO }),
            ],
            ..Options::default()
        };
        let settings: Vec<_> =
            nonsense.check().unwrap_err().into_iter().map(|problem| problem.setting).collect();
        assert_eq!(
            settings,
            [
                "warm_up_days",
                "warm_up_requests",
                "sensitivity",
                "window",
                "longest_window",
                "storm",
                "max_subjects",
                "max_keys",
                "max_addresses",
                "actions.severity",
                "actions.factor",
                "actions.span",
                "actions.severity",
                "actions.span",
            ]
        );
    }

    #[test]
    fn the_strongest_action_that_fits() {
        let minute = Duration::from_secs(60);
        let throttle = |factor| Action::Throttle { factor, span: minute };
        let block = Action::Block { span: minute };
        let options = Options {
            actions: vec![
                Rule { event: None, severity: 2, action: throttle(0.2) },
                Rule { event: None, severity: 2, action: throttle(0.5) },
                Rule { event: Some(EventType::AuthFail), severity: 4, action: block },
            ],
            ..Options::default()
        };
        assert_eq!(options.action(EventType::Abuse, 1), Action::Log);
        assert_eq!(options.action(EventType::Abuse, 5), throttle(0.2));
        assert_eq!(options.action(EventType::AuthFail, 3), throttle(0.2));
        assert_eq!(options.action(EventType::AuthFail, 4), block);
    }
}
