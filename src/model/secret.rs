//! A value that must not be seen: an upstream key, a client token, a password.

use std::fmt;

use serde::{Deserialize, Serialize, Serializer};

/// Masked wherever it could be printed or serialized by accident; `expose` is the only way to the text.
///
/// Stored records spell the text out on purpose, through [`exposed`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize)]
#[serde(transparent)]
pub struct Secret(Box<str>);

impl Secret {
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    /// A form that a person can recognise and nobody can use: the first and last four characters of a long
    /// value, nothing of a short one.
    pub fn masked(&self) -> String {
        mask(&self.0)
    }
}

/// See [`Secret::masked`].
pub fn mask(text: &str) -> String {
    let chars = text.chars().count();
    // Eight shown characters must leave most of the value unknown.
    if chars < 20 {
        return "…".to_owned();
    }
    let head: String = text.chars().take(4).collect();
    let tail: String = text.chars().skip(chars - 4).collect();
    format!("{head}…{tail}")
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.masked())
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.masked())
    }
}

/// `#[serde(with = "secret::exposed")]`: for the records in the local file, which are there to hold the text.
pub mod exposed {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::Secret;

    pub fn serialize<S: Serializer>(secret: &Secret, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(secret.expose())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Secret, D::Error> {
        Secret::deserialize(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_formatting_shows_the_text() {
        for text in ["sk-or-v1-0123456789abcdef0123456789abcdef", "short", "exactly-19-chars-xx", ""] {
            let secret = Secret::new(text);
            for shown in [format!("{secret}"), format!("{secret:?}"), serde_json::to_string(&secret).unwrap()]
            {
                assert!(text.is_empty() || !shown.contains(text), "{shown}");
            }
        }
        assert_eq!(Secret::new("sk-or-v1-0123456789abcdef").masked(), "sk-o…cdef");
    }

    #[test]
    fn masking_never_splits_a_character() {
        assert_eq!(mask(&"钥匙".repeat(20)), "钥匙钥匙…钥匙钥匙");
    }
}
