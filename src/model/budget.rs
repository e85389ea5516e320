//! How much space is used of what may be used, how fast it grows, and how far the ladder is climbed for it.
//!
//! The hub's own functions climb the same ladder by the same numbers (`keytide_rung`).

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Event, Timestamp};

/// How far space is used up, and what is done about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "u8", into = "u8")]
pub enum Rung {
    #[default]
    Normal,
    /// From 70 %: what is old goes early.
    Early,
    /// From 85 %: a week of single hours and days, older ones folded.
    Short,
    /// From 95 %: nothing that is optional.
    Bare,
}

impl Rung {
    /// The one for `used` of `budget` bytes, coming from this one: up at 70, 85 and 95 percent, and down 5 percent
    /// below, so that a step does not undo itself.
    pub fn next(self, used: u64, budget: Option<u64>) -> Self {
        let Some(budget) = budget else { return Self::Normal };
        let reaches = |percent: u128| u128::from(used) * 100 >= u128::from(budget) * percent;
        let steps = [(Self::Bare, 95), (Self::Short, 85), (Self::Early, 70)];
        let found = steps.into_iter().find(|(rung, at)| reaches(*at) || self >= *rung && reaches(at - 5));
        found.map_or(Self::Normal, |(rung, _)| rung)
    }

    pub fn number(self) -> u8 {
        self as u8
    }

    /// What it means for a hub, and for the local file.
    pub fn means(self, is_file: bool) -> &'static str {
        match (self, is_file) {
            (Self::Normal, _) => "everything is kept as long as usual",
            (Self::Early, false) => "hours, days and events are kept a week less",
            (Self::Short, false) => {
                "hours older than 7 days are folded into days, older daily logs into months"
            }
            (Self::Bare, false) => {
                "hours of keys, details of events and the usage log stay with the instances"
            }
            (Self::Early, true) => "fewer confirmed batches are kept",
            (Self::Short, true) => "hours of models and days of keys are kept for a week",
            (Self::Bare, true) => "of what is optional only what somebody looks at is kept",
        }
    }
}

impl From<u8> for Rung {
    /// A later keytide's higher rung is at least the highest here.
    fn from(number: u8) -> Self {
        match number {
            0 => Self::Normal,
            1 => Self::Early,
            2 => Self::Short,
            _ => Self::Bare,
        }
    }
}

impl From<Rung> for u8 {
    fn from(rung: Rung) -> Self {
        rung.number()
    }
}

/// A step up or down, as an event.
pub struct Step<'a> {
    /// `file`, or `hub/` and a hub's name.
    pub place: &'a str,
    pub from: Rung,
    pub to: Rung,
    pub used: Option<u64>,
    pub budget: Option<u64>,
}

impl Step<'_> {
    /// The `type` of such events.
    pub const KIND: &'static str = "storage";
    /// Recording one lets go of no other: how long events are kept is the monitor's to say.
    pub const KEEP: Duration = Duration::from_secs(10 * 365 * 86_400);

    /// Of one hub's step all instances that hear of it within an hour make the same event; of a file there is one.
    pub fn event(&self, at: Timestamp) -> Event {
        let Self { place, from, to, used, budget } = self;
        let is_file = *place == "file";
        let name = format!("{place} {} {} {}", from.number(), to.number(), at.0 / 3_600_000);
        let id = if is_file { Uuid::new_v4() } else { Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()) };
        let details = json!({
            "place": place, "from": from.number(), "rung": to.number(), "used_bytes": used, "budget_bytes": budget,
            "means": to.means(is_file),
        });
        let details = details.as_object().cloned().unwrap_or_default();
        let severity = if to > from { to.number() + 1 } else { 1 };
        let kind = Self::KIND.into();
        Event { id, kind, user: None, key: None, severity, details, at, weight: 1 }
    }
}

/// How one place stands: the local file, or a hub's database.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Space {
    /// Null when any number of bytes may be used.
    pub budget_bytes: Option<u64>,
    /// What counts: without space that is free to be used again. Null before the first measurement.
    pub used_bytes: Option<u64>,
    /// Of the file, or of the whole database.
    pub total_bytes: Option<u64>,
    /// From 0, normal, to 3.
    #[schema(value_type = u8)]
    pub rung: Rung,
    /// What the rung means, for people.
    pub rung_means: String,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub measured_at: Option<Timestamp>,
    /// The largest first.
    pub tables: Vec<TableSpace>,
    #[schema(value_type = Option<String>, format = DateTime)]
    pub retained_at: Option<Timestamp>,
    /// What the latest retention that had anything to do did, for people.
    pub did: Vec<String>,
    /// Rows of what is optional that this hub was not told for want of room, since the start.
    pub kept_back: u64,
    pub advice: Vec<Advice>,
}

/// What to do about a place's space.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Advice {
    pub code: AdviceCode,
    /// A sentence, with tables and numbers.
    pub text: String,
}

impl Advice {
    pub fn new(code: AdviceCode, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdviceCode {
    /// The budget is above what the plan allows for.
    BeyondPlan,
    /// Much of the file is free.
    Compact,
    /// Counts of hours and days were dropped before a hub had them.
    CountsDropped,
    /// Rows of the usage log were dropped before a hub had them.
    LogsDropped,
    /// The hub keeps no rows of requests, though they are wanted.
    NoUsageLogs,
    /// Nothing is left to be given up: a larger budget, or less data.
    RaiseBudget,
    /// A table cannot be written anew within a call.
    Rewrite,
    /// A table reaches its share of the budget before long, or is beyond it.
    ShareSoon,
    /// Rows that are gone still take space.
    Vacuum,
    /// A table would give space back to the disk.
    VacuumFull,
}

impl Space {
    /// Of the budget, if there is one and something was measured.
    pub fn percent(&self) -> Option<f64> {
        let (used, budget) = (self.used_bytes?, self.budget_bytes?);
        Some(used as f64 * 100.0 / budget.max(1) as f64)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct TableSpace {
    /// Of a table in parts: all of them.
    pub name: String,
    pub rows: u64,
    pub bytes: u64,
    /// Free to be used again by this table.
    pub reusable_bytes: u64,
    /// Its part of the budget; null of tables that are not keytide's.
    pub share_bytes: Option<u64>,
    /// Per day, over the last week; null until there is a day to compare.
    pub growth_bytes: Option<i64>,
    /// Until it reaches its share if it goes on like that.
    pub days_left: Option<u64>,
}

/// Sizes of tables as they were, a sample each six hours, for 60 days.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// By table, in the order of time: the six hours since the epoch, and bytes.
    of: BTreeMap<String, Vec<(u32, u64)>>,
}

const SAMPLE_MS: i64 = 6 * 3_600_000;
const SAMPLES_A_DAY: u32 = 4;
const KEPT: u32 = 60 * SAMPLES_A_DAY;
/// Growth is that of a week: a sample of one morning says nothing.
const LOOKED_AT: u32 = 7 * SAMPLES_A_DAY;
/// A bound on what a strange database can make us keep.
const MOST_TABLES: usize = 300;

impl History {
    /// Whether these six hours have no sample yet.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let now = sample_of(now);
        self.of.values().filter_map(|samples| samples.last()).all(|(at, _)| *at != now)
    }

    pub fn note(&mut self, now: Timestamp, tables: &[TableSpace]) {
        let now = sample_of(now);
        // A clock that was set back takes what it said of the future with it.
        let kept = |at: u32| at < now && at + KEPT > now;
        self.of.retain(|_, samples| {
            samples.retain(|(at, _)| kept(*at));
            !samples.is_empty()
        });
        for table in tables {
            if self.of.len() < MOST_TABLES || self.of.contains_key(&table.name) {
                self.of.entry(table.name.clone()).or_default().push((now, table.bytes));
            }
        }
    }

    /// Bytes a day that a table of this size now has grown by.
    fn growth(&self, name: &str, now: Timestamp, bytes: u64) -> Option<i64> {
        let now = sample_of(now);
        let samples = self.of.get(name)?;
        let (at, before) = samples.iter().find(|(at, _)| *at <= now && now - at <= LOOKED_AT)?;
        let span = i128::from(now - at);
        let grown = i128::from(bytes) - i128::from(*before);
        (span >= i128::from(SAMPLES_A_DAY))
            .then(|| i64::try_from(grown * i128::from(SAMPLES_A_DAY) / span).unwrap_or(i64::MAX))
    }

    /// Fills in what follows from the past.
    pub fn project(&self, now: Timestamp, tables: &mut [TableSpace]) {
        for table in tables {
            table.growth_bytes = self.growth(&table.name, now, table.bytes);
            table.days_left = match (table.growth_bytes, table.share_bytes) {
                (_, Some(share)) if table.bytes >= share => Some(0),
                (Some(growth @ 1..), Some(share)) => {
                    Some((share - table.bytes).div_ceil(growth.unsigned_abs()))
                }
                _ => None,
            };
        }
    }
}

fn sample_of(at: Timestamp) -> u32 {
    u32::try_from(at.0.div_euclid(SAMPLE_MS)).unwrap_or(0)
}

/// What a table may have of a hub's budget, in percent; `prefixes` are those of its providers' tables, which share.
/// Of one provider they come to all of it, give or take: the rest is Postgres's own.
pub fn hub_share(table: &str, prefixes: &[String], budget: Option<u64>) -> Option<u64> {
    let percent = match table {
        "hourly_stats" => 25,
        "daily_logs" => 20,
        "keytide_user_sets" | "key_usage_logs" => 8,
        "security_events" | "shared_keys" => 5,
        "monthly_logs" | "keytide_key_days" => 3,
        "users" | "keytide_token_days" | "keytide_touches" => 1,
        _ => {
            let part =
                prefixes.iter().find_map(|prefix| table.strip_prefix(prefix.as_str())?.strip_prefix('_'));
            let percent = match part? {
                "model_hourly" => 8,
                "keys" | "key_stats" => 4,
                "client_tokens" | "model_stats" | "global_stats" => 1,
                _ => return None,
            };
            return Some(budget? / 100 * percent / prefixes.len().max(1) as u64);
        }
    };
    Some(budget? / 100 * percent)
}

/// The same of the local file's tables.
pub fn file_share(table: &str, budget: Option<u64>) -> Option<u64> {
    let percent = match table {
        "tallies" => 30,
        "sets" | "open" | "batches" | "hours" => 10,
        "open_sets" | "inflight" | "keys" | "key_usage" => 5,
        _ => 2,
    };
    Some(budget? / 100 * percent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rungs_are_climbed_and_left_as_the_hub_does() {
        let budget = Some(1000);
        let at = |was: Rung, used| was.next(used, budget);
        for (used, rung) in [(0, 0), (699, 0), (700, 1), (849, 1), (850, 2), (949, 2), (950, 3), (5000, 3)] {
            assert_eq!(at(Rung::Normal, used).number(), rung, "{used}");
        }
        // 5 percent lower on the way down.
        for (was, used, rung) in [
            (3, 900, 3),
            (3, 899, 2),
            (3, 799, 1),
            (2, 800, 2),
            (2, 799, 1),
            (1, 650, 1),
            (1, 649, 0),
            (2, 649, 0),
        ] {
            assert_eq!(at(Rung::from(was), used).number(), rung, "{was} {used}");
        }
        assert_eq!(Rung::Bare.next(u64::MAX, None), Rung::Normal);
        assert_eq!(Rung::Normal.next(u64::MAX, Some(u64::MAX)), Rung::Bare);
        assert_eq!(
            (Rung::from(9), serde_json::to_string(&Rung::Short).unwrap()),
            (Rung::Bare, "2".to_owned())
        );
    }

    #[test]
    fn a_step_is_an_event_that_all_instances_make_alike() {
        let step = |place: &'static str, from: u8, to: u8| Step {
            place,
            from: Rung::from(from),
            to: Rung::from(to),
            used: Some(86),
            budget: Some(100),
        };
        let (up, down) = (step("hub/default", 1, 2).event(at(1.0)), step("hub/default", 2, 1).event(at(1.0)));
        assert_eq!((&*up.kind, up.severity, down.severity), ("storage", 3, 1));
        assert_eq!((&up.details["rung"], &up.details["used_bytes"]), (&json!(2), &json!(86)));
        assert!(up.id != down.id && up.id == step("hub/default", 1, 2).event(Timestamp(at(1.0).0 + 1)).id);
        assert!(up.id != step("hub/default", 1, 2).event(at(2.0)).id);
        assert!(step("file", 0, 1).event(at(1.0)).id != step("file", 0, 1).event(at(1.0)).id);
        assert!(serde_json::to_string(&up.details).unwrap().len() < Event::MAX_DETAILS);
    }

    fn at(days: f64) -> Timestamp {
        Timestamp(1_800_000_000_000 + (days * 86_400_000.0) as i64)
    }

    fn table(bytes: u64) -> Vec<TableSpace> {
        vec![TableSpace { name: "t".to_owned(), bytes, share_bytes: Some(10_000), ..TableSpace::default() }]
    }

    fn projected(history: &History, now: Timestamp, bytes: u64) -> (Option<i64>, Option<u64>) {
        let mut tables = table(bytes);
        history.project(now, &mut tables);
        (tables[0].growth_bytes, tables[0].days_left)
    }

    #[test]
    fn growth_is_measured_over_a_week_and_carried_on() {
        let mut history = History::default();
        assert!(history.is_due(at(0.0)));
        for step in 0..=80 {
            let days = f64::from(step) / 4.0;
            // A flood in the past says nothing of the present.
            let bytes = if days < 10.0 { 9_000 - step } else { 1_000 + (step - 40) * 25 };
            history.note(at(days), &table(bytes as u64));
            assert!(!history.is_due(at(days)) && history.is_due(at(days + 0.25)));
        }
        assert_eq!(projected(&history, at(20.0), 2_000), (Some(100), Some(80)));
        assert_eq!(projected(&history, at(20.0), 10_000).1, Some(0), "it is there");
        // A shrinking table reaches nothing.
        assert_eq!(projected(&history, at(20.0), 1_000).1, None);
    }

    #[test]
    fn less_than_a_day_says_nothing_and_old_samples_go() {
        let mut history = History::default();
        history.note(at(0.0), &table(100));
        assert_eq!(projected(&history, at(0.75), 900), (None, None));
        assert_eq!(projected(&history, at(1.0), 900).0, Some(800));
        history.note(at(59.0), &table(200));
        assert_eq!(history.of["t"].len(), 2);
        history.note(at(60.0), &table(300));
        assert_eq!(history.of["t"].len(), 2, "the first is sixty days old");
        // The clock was set back.
        history.note(at(58.0), &table(400));
        assert_eq!(history.of["t"].len(), 1);
        history.note(at(200.0), &[]);
        assert!(history.of.is_empty());
    }

    #[test]
    fn shares_are_of_the_budget_and_of_known_tables() {
        let prefixes = ["ollama_api".to_owned(), "x".to_owned()];
        let of = |table| hub_share(table, &prefixes, Some(1_000_000_000));
        assert_eq!(of("hourly_stats"), Some(250_000_000));
        assert_eq!(of("ollama_api_keys"), Some(20_000_000), "two providers share");
        assert_eq!((of("somebody_elses"), hub_share("users", &prefixes, None)), (None, None));
        assert_eq!(file_share("tallies", Some(1000)), Some(300));
    }
}
