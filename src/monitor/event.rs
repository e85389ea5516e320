//! What the monitor gives: events to keep, and verdicts to enforce.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::model::{KeyId, Timestamp};

use super::{Action, Subject};

/// The types by which events are kept and rules are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventType {
    RateLimit,
    AuthFail,
    Abuse,
}

impl EventType {
    pub const ALL: [Self; 3] = [Self::RateLimit, Self::AuthFail, Self::Abuse];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RateLimit => "rate_limit",
            Self::AuthFail => "auth_fail",
            Self::Abuse => "abuse",
        }
    }
}

/// Which detector spoke: `details.kind`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Far more requests in an hour than in any usual one.
    Frequency,
    /// Days that are busier than the subject's days, one after the other.
    Sustained,
    FailureRate,
    /// More new networks in a day than the subject ever needed.
    Addresses,
    /// More keys that the subject is not used to.
    Keys,
    /// More models that the subject is not used to.
    Models,
    /// Going on at a limit.
    Hammering,
    /// Many unknown tokens from one address.
    UnknownTokens,
    /// Unknown tokens from many addresses.
    ManyAddresses,
    /// One subject turned away again and again: expired, or from an address that it may not use.
    TurnedAway,
    AdminLogin,
    /// More events than anybody reads.
    Storm,
}

impl Kind {
    pub fn event_type(self) -> EventType {
        match self {
            Self::Hammering => EventType::RateLimit,
            Self::UnknownTokens | Self::ManyAddresses | Self::TurnedAway | Self::AdminLogin => {
                EventType::AuthFail
            }
            _ => EventType::Abuse,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Frequency => "frequency",
            Self::Sustained => "sustained",
            Self::FailureRate => "failure_rate",
            Self::Addresses => "addresses",
            Self::Keys => "keys",
            Self::Models => "models",
            Self::Hammering => "hammering",
            Self::UnknownTokens => "unknown_tokens",
            Self::ManyAddresses => "many_addresses",
            Self::TurnedAway => "turned_away",
            Self::AdminLogin => "admin_login",
            Self::Storm => "storm",
        }
    }
}

/// What a detector found: abnormal from a score of 1 on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Finding {
    pub(super) kind: Kind,
    pub(super) score: f32,
    pub(super) seen: f32,
    pub(super) usual: f32,
    pub(super) from_new_network: bool,
    pub(super) at_unusual_hour: bool,
}

impl Finding {
    pub(super) fn new(kind: Kind, score: f32, seen: f32, usual: f32) -> Self {
        Self { kind, score, seen, usual, from_new_network: false, at_unusual_hour: false }
    }

    /// Of something that is abnormal from a number on: twice as much is half a point more.
    pub(super) fn of_count(kind: Kind, seen: f32, limit: f32, usual: f32) -> Self {
        Self::new(kind, 1.0 + (seen / limit).max(0.01).log2() / 2.0, seen, usual)
    }

    pub(super) fn severity(&self) -> u8 {
        1 + [1.25, 1.6, 2.2, 3.2].iter().filter(|least| self.score >= **least).count() as u8
    }
}

/// Something abnormal. Numbers, and ids cut short: nothing here is a secret or a whole address.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub at: Timestamp,
    pub kind: Kind,
    pub subject: Subject,
    pub key: Option<KeyId>,
    /// 1 to 5.
    pub severity: u8,
    /// How many findings it stands for, since `since`.
    pub weight: u32,
    pub since: Timestamp,
    pub figures: Figures,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Figures {
    Measure {
        seen: f32,
        usual: f32,
        from_new_network: bool,
        at_unusual_hour: bool,
    },
    /// How many events of each of [`EventType::ALL`] were condensed.
    Storm([u32; 3]),
}

impl Event {
    pub fn event_type(&self) -> EventType {
        self.kind.event_type()
    }

    pub fn details(&self) -> Value {
        let round = |number: f32| (f64::from(number) * 10.0).round() / 10.0;
        let mut details = match &self.figures {
            Figures::Measure { seen, usual, from_new_network, at_unusual_hour } => {
                let mut details = json!({ "seen": round(*seen), "usual": round(*usual) });
                if *from_new_network {
                    details["new_network"] = true.into();
                }
                if *at_unusual_hour {
                    details["unusual_hour"] = true.into();
                }
                details
            }
            Figures::Storm(counts) => {
                let named = EventType::ALL.iter().zip(counts);
                named.map(|(event, count)| (event.as_str().to_owned(), Value::from(*count))).collect()
            }
        };
        details["kind"] = self.kind.as_str().into();
        if matches!(self.subject, Subject::Token(_) | Subject::Address(_)) {
            details["subject"] = self.subject.to_string().into();
        }
        if self.weight > 1 {
            details["since"] = self.since.to_string().into();
        }
        details
    }
}

/// What is to be done with a subject, until an instant at which it ends by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Verdict {
    pub subject: Subject,
    pub action: Action,
    pub until: Timestamp,
}

/// What came of an observation; mostly nothing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub events: Vec<Event>,
    pub verdicts: Vec<Verdict>,
}

impl Report {
    pub fn add(&mut self, more: Self) {
        self.events.extend(more.events);
        self.verdicts.extend(more.verdicts);
    }
}
