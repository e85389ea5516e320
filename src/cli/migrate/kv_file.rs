//! What is in the files of a KV: a listing of names, and values by name.

use std::{collections::BTreeMap, io::Read, path::Path};

use base64::Engine;
use serde_json::Value;

use crate::{
    cli::{error::Error, io::Io},
    model::Timestamp,
};

/// All of a file, or of stdin.
pub(super) fn text(path: &Path, most: u64, io: &mut Io) -> Result<String, Error> {
    let shown = path.display();
    let bytes = if path.as_os_str() == "-" {
        io.read_stdin(most)?
    } else {
        let fail = |error: std::io::Error| Error::failed(format!("cannot read {shown}: {error}"));
        let mut bytes = Vec::new();
        std::fs::File::open(path).map_err(fail)?.take(most + 1).read_to_end(&mut bytes).map_err(fail)?;
        bytes
    };
    if bytes.len() as u64 > most {
        return Err(Error::failed(format!("{shown} is larger than {most} bytes; split it")));
    }
    let text = String::from_utf8(bytes).map_err(|_| Error::failed(format!("{shown} is not UTF-8 text")))?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// One name, and what is known of it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Entry {
    pub value: Option<String>,
    pub expires: Option<Timestamp>,
}

/// Everything that the files say, by name.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Dump {
    pub entries: BTreeMap<String, Entry>,
}

impl Dump {
    /// Adds one file: what `wrangler kv key list` or `kv bulk get` prints, or what `kv bulk put` reads.
    ///
    /// # Errors
    /// A reason, when it is none of these.
    pub(super) fn add(&mut self, text: &str) -> Result<(), String> {
        let whole: Value = serde_json::from_str(text).map_err(|error| {
            format!(
                "it is no JSON (line {}, column {}); it must be what `wrangler kv key list`, `wrangler kv bulk get` or a file for \
                 `wrangler kv bulk put` holds, alone",
                error.line(),
                error.column()
            )
        })?;
        match whole {
            Value::Array(list) => (1..).zip(&list).try_for_each(|(nth, entry)| self.listed(nth, entry)),
            Value::Object(all) => {
                for (name, value) in all {
                    // With its metadata, or alone.
                    let value = match value {
                        Value::Object(mut object) if object.contains_key("value") => {
                            object.remove("value").unwrap_or_default()
                        }
                        value => value,
                    };
                    self.put(name, stored(value), None);
                }
                Ok(())
            }
            _ => Err("it is neither a list nor an object".to_owned()),
        }
    }

    fn listed(&mut self, nth: usize, entry: &Value) -> Result<(), String> {
        let field = |name: &str| entry.get(name);
        let name = field("name").or_else(|| field("key")).unwrap_or(entry).as_str();
        let Some(name) = name else {
            return Err(format!("its entry {nth} has neither \"name\" nor \"key\""));
        };
        let mut value = field("value").cloned().and_then(stored);
        if field("base64") == Some(&Value::Bool(true)) {
            let bytes =
                value.and_then(|text| base64::engine::general_purpose::STANDARD.decode(text.trim()).ok());
            value = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
            if value.is_none() {
                return Err(format!("the value of its entry {nth} is said to be base64, and is not"));
            }
        }
        let expires =
            field("expiration").and_then(Value::as_i64).map(|at| Timestamp(at.saturating_mul(1000)));
        self.put(name.to_owned(), value, expires);
        Ok(())
    }

    fn put(&mut self, name: String, value: Option<String>, expires: Option<Timestamp>) {
        let entry = self.entries.entry(name).or_default();
        entry.value = value.or_else(|| entry.value.take());
        entry.expires = expires.or(entry.expires);
    }
}

/// A value as it was stored: a text. What a tool has read as JSON becomes that again.
fn stored(value: Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text),
        other => Some(other.to_string()),
    }
}

/// What a name of the older pool is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Name<'a> {
    /// The list of all keys.
    Keys,
    /// A client's token, whose text is its name.
    Token(&'a str),
    /// Of a key, by its hash.
    Metadata(&'a str),
    Disabled(&'a str),
    /// Statistics, caches, and what passes by itself.
    Other,
}

/// The provider, where the name says one, and what it is for.
pub(super) fn name(full: &str) -> (Option<&str>, Name<'_>) {
    let read = |name| match name {
        "api_keys_list" => Some(Name::Keys),
        name => [
            ("client_token:", Name::Token as fn(_) -> _),
            ("key_metadata:", Name::Metadata),
            ("disabled:", Name::Disabled),
        ]
        .into_iter()
        .find_map(|(root, kind)| name.strip_prefix(root).filter(|rest: &&str| !rest.is_empty()).map(kind)),
    };
    if let Some(kind) = read(full) {
        return (None, kind);
    }
    match full.split_once(':') {
        Some((provider, rest)) => read(rest).map_or((None, Name::Other), |kind| (Some(provider), kind)),
        None => (None, Name::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_understood_with_and_without_a_provider() {
        for (text, expected) in [
            ("api_keys_list", (None, Name::Keys)),
            ("openrouter:api_keys_list", (Some("openrouter"), Name::Keys)),
            ("client_token:sk-a:b", (None, Name::Token("sk-a:b"))),
            ("openrouter:client_token:sk-a", (Some("openrouter"), Name::Token("sk-a"))),
            ("key_metadata:ab", (None, Name::Metadata("ab"))),
            ("disabled:ab", (None, Name::Disabled("ab"))),
            ("key_stats:ab", (None, Name::Other)),
            ("client_token:", (None, Name::Other)),
            ("global_stats", (None, Name::Other)),
        ] {
            assert_eq!(name(text), expected, "{text}");
        }
    }

    #[test]
    fn listings_and_both_kinds_of_values_come_together() {
        let mut dump = Dump::default();
        dump.add(
            r#"[{"name": "a"}, {"name": "b", "expiration": 1800000000, "metadata": {}}, {"name": "c"}]"#,
        )
        .unwrap();
        dump.add(r#"{"a": "1", "b": {"value": "2", "metadata": null}, "c": null, "d": ["x"]}"#).unwrap();
        dump.add(r#"[{"key": "e", "value": "NQ==", "base64": true}, {"key": "f", "value": "6"}]"#).unwrap();
        dump.add(r#"["g"]"#).unwrap();
        let found: Vec<_> =
            dump.entries.iter().map(|(name, entry)| (name.as_str(), entry.value.as_deref())).collect();
        let expected = [
            ("a", Some("1")),
            ("b", Some("2")),
            ("c", None),
            ("d", Some("[\"x\"]")),
            ("e", Some("5")),
            ("f", Some("6")),
            ("g", None),
        ];
        assert_eq!(found, expected);
        assert_eq!(dump.entries["b"].expires, Some(Timestamp(1_800_000_000_000)));
        for bad in ["", "3", "[{}]", "[1]", "Success!\n[]", r#"[{"key": "k", "value": "!", "base64": true}]"#]
        {
            assert!(Dump::default().add(bad).is_err(), "{bad}");
        }
    }
}
