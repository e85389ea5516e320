//! Identities that can be shown anywhere, since no secret can be read back from them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The name space that keys and tokens are derived in: UUIDv5 of `keytide:key-and-token-ids` among URLs, the
/// same on every instance.
const NAME_SPACE: Uuid = Uuid::from_u128(0x2e26_2736_22e3_5b20_9114_6092_bd6f_e994);

fn derive(kind: &str, provider: &str, secret: &str) -> u128 {
    // The NUL keeps ("ab", "c") and ("a", "bc") apart; neither part can contain one.
    let name = [kind, provider, secret].join("\0");
    Uuid::new_v5(&NAME_SPACE, name.as_bytes()).as_u128()
}

macro_rules! id_type {
    ($(#[$doc:meta])* $name:ident $(, $kind:literal)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "IdText", into = "IdText")]
        pub struct $name(pub u128);

        $(impl $name {
            /// The id of `secret` at `provider`: the same wherever and whenever it is computed.
            pub fn derive(provider: &str, secret: &str) -> Self {
                Self(derive($kind, provider, secret))
            }
        })?

        impl $name {
            /// The first eight hex digits: enough to tell entries apart in a log line.
            pub fn short(self) -> String {
                format!("{:08x}", (self.0 >> 96) as u32)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                Uuid::from_u128(self.0).fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Ok(Self(text.parse::<Uuid>()?.as_u128()))
            }
        }

        impl TryFrom<IdText> for $name {
            type Error = uuid::Error;
            fn try_from(text: IdText) -> Result<Self, Self::Error> {
                Ok(Self(text.0.as_u128()))
            }
        }

        impl From<$name> for IdText {
            fn from(id: $name) -> Self {
                Self(Uuid::from_u128(id.0))
            }
        }
    };
}

impl KeyId {
    /// What [`KeyId::short`] shows.
    pub fn short_number(self) -> u32 {
        (self.0 >> 96) as u32
    }
}

/// For ids of which only the row that they stand in says what they are.
pub mod as_uuid {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{IdText, Uuid};

    pub fn serialize<S: Serializer>(id: &u128, serializer: S) -> Result<S::Ok, S::Error> {
        IdText(Uuid::from_u128(*id)).serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u128, D::Error> {
        IdText::deserialize(deserializer).map(|id| id.0.as_u128())
    }
}

/// Text in JSON, sixteen bytes in records: `Uuid` chooses by format.
#[derive(Serialize, Deserialize)]
struct IdText(Uuid);

id_type!(
    /// Names an upstream key in logs, URLs, events and statistics.
    KeyId,
    "key"
);
id_type!(
    /// Names a client token in logs, URLs and statistics.
    TokenId,
    "token"
);

id_type!(
    /// A user's, random.
    UserId
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_depend_on_provider_and_secret_and_nothing_else() {
        let id = KeyId::derive("ollama", "abc");
        assert_eq!(id, KeyId::derive("ollama", "abc"));
        assert_ne!(id, KeyId::derive("openrouter", "abc"));
        assert_ne!(KeyId::derive("a", "bc"), KeyId::derive("ab", "c"));
        assert_ne!(id.0, TokenId::derive("ollama", "abc").0);
        assert_eq!(id.to_string().parse::<KeyId>().unwrap(), id);
        assert_eq!(NAME_SPACE, Uuid::new_v5(&Uuid::NAMESPACE_URL, b"keytide:key-and-token-ids"));
        // Pinned: every instance and every version must derive the same id.
        assert_eq!(id.to_string(), "97665549-effe-5e34-a023-53e3b2c34a6d");
    }

    #[test]
    fn json_is_text_and_round_trips() {
        let id = KeyId::derive("ollama", "abc");
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<KeyId>(&json).unwrap(), id);
    }
}
