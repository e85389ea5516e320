//! What was abnormal, and who is kept out for it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use crate::model::{self, KeyId, Timestamp, UserId};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, IntoParams)]
#[serde(default, deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct EventsQuery {
    /// From this severity on, 1 to 5.
    pub severity: Option<u8>,
    /// `rate_limit`, `auth_fail`, `abuse` or `storage`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The id of a user or key, or its beginning, or what the details call it.
    pub subject: Option<String>,
    /// A time or a date.
    #[param(value_type = Option<String>, format = DateTime)]
    pub from: Option<Timestamp>,
    /// Before this time or date.
    #[param(value_type = Option<String>, format = DateTime)]
    pub to: Option<Timestamp>,
    pub page: Option<usize>,
    #[serde(rename = "pageSize")]
    pub page_size: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventPage {
    pub page: usize,
    pub page_size: usize,
    pub total: usize,
    pub pages: usize,
    pub events: Vec<Event>,
}

/// Something abnormal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Event {
    #[schema(value_type = String, format = "uuid")]
    pub id: uuid::Uuid,
    #[serde(rename = "type")]
    pub kind: String,
    /// 1 to 5.
    pub severity: u8,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    #[schema(value_type = Option<String>, format = "uuid")]
    pub user: Option<UserId>,
    #[schema(value_type = Option<String>, format = "uuid")]
    pub key: Option<KeyId>,
    /// How many findings it stands for.
    pub weight: u32,
    /// `kind` says what was found; the rest are its figures.
    #[schema(value_type = Object)]
    pub details: Value,
}

impl From<model::Event> for Event {
    fn from(event: model::Event) -> Self {
        Self {
            id: event.id,
            kind: event.kind.into(),
            severity: event.severity,
            at: event.at,
            user: event.user,
            key: event.key,
            weight: event.weight,
            details: Value::Object(event.details),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Verdicts {
    /// False while the monitor is switched off: then none of them holds.
    pub in_force: bool,
    pub verdicts: Vec<Verdict>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Verdict {
    /// `user:ID`, `token:ID` or `address:IP`.
    pub subject: String,
    /// `block` or `throttle`.
    pub action: String,
    /// Of a throttle: what is left of the requests per minute.
    pub factor: Option<f32>,
    #[schema(value_type = String, format = DateTime)]
    pub until: Timestamp,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lifted {
    pub subject: String,
}
