//! `[monitor]`: what is watched for, what is done about it, and how long it is kept.

use std::time::Duration;

use super::{HOUR, MINUTE, reader::Section};
use crate::monitor::{Action, EventType, Options, Rule};

const DAY: Duration = Duration::from_secs(86_400);

#[derive(Clone, Debug, PartialEq)]
pub struct MonitorOptions {
    pub watch: Options,
    /// How long events are kept here.
    pub keep: Duration,
}

impl Default for MonitorOptions {
    fn default() -> Self {
        Self { watch: Options::default(), keep: DAY * 30 }
    }
}

pub(super) fn read(top: &mut Section<'_>) -> MonitorOptions {
    let mut table = top.child("monitor");
    let MonitorOptions { watch: defaults, keep } = MonitorOptions::default();
    let bounds = 100..=u32::try_from(Options::MOST).unwrap_or(u32::MAX);
    let mut bound = |name: &str, default: usize| {
        let default = u32::try_from(default).unwrap_or(u32::MAX);
        table.integer(name, default, bounds.clone()) as usize
    };
    let (max_subjects, max_keys, max_addresses) = (
        bound("max_subjects", defaults.max_subjects),
        bound("max_keys", defaults.max_keys),
        bound("max_addresses", defaults.max_addresses),
    );
    let watch = Options {
        enabled: table.boolean("enabled", defaults.enabled),
        warm_up_days: table.integer("warm_up_days", defaults.warm_up_days, 1..=60),
        warm_up_requests: table.integer("warm_up_requests", defaults.warm_up_requests, 10..=1_000_000),
        sensitivity: table.number("sensitivity", defaults.sensitivity, 0.5..=2.0),
        window: table.span("window", defaults.window, MINUTE..=DAY),
        longest_window: table.span("longest_window", defaults.longest_window, MINUTE..=DAY * 7),
        storm: table.integer("storm", defaults.storm, 1..=10_000),
        max_subjects,
        max_keys,
        max_addresses,
        actions: EventType::ALL.into_iter().flat_map(|event| read_actions(&mut table, event)).collect(),
    };
    let keep = table.span("keep", keep, DAY..=DAY * 365);
    // What one setting alone cannot show.
    for problem in watch.check().err().unwrap_or_default() {
        if !table.has_problem(problem.setting) {
            table.problem(problem.setting, problem.message);
        }
    }
    table.finish();
    MonitorOptions { watch, keep }
}

/// The rules for events of one type.
fn read_actions(monitor: &mut Section<'_>, event: EventType) -> Vec<Rule> {
    let mut table = monitor.child(event.as_str());
    let (throttle, block) = (table.limit("throttle", None, 5), table.limit("block", None, 5));
    let factor = table.number("factor", 0.5, 0.01..=0.99);
    let span = table.span("span", HOUR, MINUTE..=DAY * 30);
    table.finish();
    let rules = [(throttle, Action::Throttle { factor, span }), (block, Action::Block { span })];
    let named = rules.into_iter().filter_map(|(severity, action)| {
        let severity = u8::try_from(severity?).ok()?;
        Some(Rule { event: Some(event), severity, action })
    });
    named.collect()
}
