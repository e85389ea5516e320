//! What is kept of single moments: something abnormal, and, where somebody asks for it, a row for a request.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use uuid::Uuid;

use super::{KeyId, Timestamp, UserId};

/// Something abnormal. Nothing in it is a secret or a whole address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Random, made with the event: told twice, it counts once.
    pub id: Uuid,
    /// `rate_limit`, `auth_fail`, `abuse`, …
    pub kind: Box<str>,
    pub user: Option<UserId>,
    pub key: Option<KeyId>,
    /// 1 to 5.
    pub severity: u8,
    /// At most [`Event::MAX_DETAILS`] bytes of JSON.
    #[serde(with = "as_text")]
    pub details: Map<String, Value>,
    pub at: Timestamp,
    /// How many findings it stands for.
    pub weight: u32,
}

impl Event {
    pub const MAX_KIND_LEN: usize = 50;
    pub const MAX_DETAILS: usize = 1024;
}

/// One request, of those who keep a row for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageLog {
    /// In the order of time, else random.
    pub id: Uuid,
    pub key: KeyId,
    /// Whose token it was; of a token that is nobody's, the token's own id.
    pub user: UserId,
    pub usage_type: UsageType,
    /// What was answered.
    pub status: u16,
    pub at: Timestamp,
}

impl UsageLog {
    /// Most that wait for the store, or for a hub: of more the oldest are dropped, since nothing is a sum of them.
    pub const MOST: usize = 50_000;

    /// A new one's.
    pub fn id_at(at: Timestamp) -> Uuid {
        let millis = u64::try_from(at.0).unwrap_or(0);
        let nanos = (millis % 1000) as u32 * 1_000_000;
        Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, millis / 1000, nanos))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum UsageType {
    Conversation,
    Call,
}

impl UsageType {
    /// In tables and on the wire.
    pub fn number(self) -> u8 {
        match self {
            Self::Conversation => 1,
            Self::Call => 2,
        }
    }

    pub fn of_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Conversation),
            2 => Some(Self::Call),
            _ => None,
        }
    }
}

/// Records have no shape for what JSON can hold: there it is a text.
mod as_text {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};
    use serde_json::{Map, Value};

    pub fn serialize<S: Serializer>(map: &Map<String, Value>, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            map.serialize(serializer)
        } else {
            serde_json::to_string(map).map_err(serde::ser::Error::custom)?.serialize(serializer)
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Map<String, Value>, D::Error> {
        if deserializer.is_human_readable() {
            Map::deserialize(deserializer)
        } else {
            let text = String::deserialize(deserializer)?;
            // What cannot be read is not quoted.
            serde_json::from_str(&text).map_err(|_| D::Error::custom("details that are no JSON"))
        }
    }
}
