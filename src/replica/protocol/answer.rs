//! An answer's text, before anything in it is believed.

use serde::de::DeserializeOwned;

use super::{Result, garbage};

/// # Errors
/// What no hub answers.
pub fn parse<T: DeserializeOwned>(body: &str) -> Result<T> {
    // No text of Postgres's has it, and none that has it will Postgres take: told again, it would keep the hub from
    // taking any batch.
    if names_nul(body) {
        return Err(garbage("a text with a character that Postgres does not have"));
    }
    // The error names a place in the text, never the text.
    serde_json::from_str(body).map_err(|error| {
        garbage(format!("{:?} at line {}, column {}", error.classify(), error.line(), error.column()))
    })
}

/// Whether some text of this JSON has the character NUL, which only an escape can write.
fn names_nul(json: &str) -> bool {
    json.match_indices("\\u0000").any(|(at, _)| {
        let before = json.as_bytes()[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
        before.is_multiple_of(2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_escape_that_is_one_names_the_character() {
        for (json, is_named) in [
            (r#"{"m": "a\u0000b"}"#, true),
            (r#""\u0000""#, true),
            (r#""a\\u0000""#, false),
            (r#""a\\\u0000""#, true),
            (r#""u0000 \u0001""#, false),
        ] {
            assert_eq!(names_nul(json), is_named, "{json}");
        }
    }
}
