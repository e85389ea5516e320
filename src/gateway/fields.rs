//! The fields of a JSON object: names, and where their values stand.
//!
//! A question of 100 kB is looked through in less than half the instructions that a parser takes which stops at each eighth
//! byte. What is wrong, or escaped in a name of the object itself, is left to that parser, which has words for it.

use crate::upstream::scan::{behind_space, end_of_text};

/// Brackets that are known of in one word.
const KINDS: usize = u64::BITS as usize;

/// Told of what is passed.
pub(super) trait Fields<'a> {
    /// A field of the object: its name, and its value as it stands there.
    fn field(&mut self, name: &'a str, value: &'a str);

    /// A field of an object within the value that [`field`](Self::field) is told of next: its name as it is written there,
    /// escaped or not, and the text behind its colon.
    fn inner(&mut self, name: &'a [u8], behind: &'a [u8]);
}

/// Tells of each field of the object. Returns `None` where the text is not understood: it may be valid all the same.
pub(super) fn each_field<'a>(text: &'a str, fields: &mut impl Fields<'a>) -> Option<()> {
    let bytes = text.as_bytes();
    let mut at = behind_space(bytes, 0);
    if *bytes.get(at)? != b'{' {
        return None;
    }
    at = behind_space(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return (behind_space(bytes, at + 1) == bytes.len()).then_some(());
    }
    loop {
        let (name, behind) = name_at(bytes, at)?;
        if name.contains(&b'\\') {
            // It may hide any name.
            return None;
        }
        let begin = behind_space(bytes, behind);
        let end = end_of_value(bytes, begin, fields)?;
        fields.field(text.get(at + 1..at + 1 + name.len())?, text.get(begin..end)?);
        at = behind_space(bytes, end);
        match bytes.get(at)? {
            b',' => at = behind_space(bytes, at + 1),
            b'}' => return (behind_space(bytes, at + 1) == bytes.len()).then_some(()),
            _ => return None,
        }
    }
}

/// Tells of the fields of objects within a value that is valid.
pub(super) fn each_inner<'a>(value: &'a str, fields: &mut impl Fields<'a>) {
    end_of_value(value.as_bytes(), 0, fields);
}

/// Behind the value that begins at `at`.
fn end_of_value<'a>(bytes: &'a [u8], mut at: usize, fields: &mut impl Fields<'a>) -> Option<usize> {
    // One bit for each open bracket, the innermost lowest; set for an object. Those that have no room are kept aside.
    let (mut kinds, mut depth) = (0_u64, 0_usize);
    let mut outer = Vec::new();
    let mut end_of_name = |at| {
        let (name, behind) = name_at(bytes, at)?;
        fields.inner(name, &bytes[behind..]);
        Some(behind)
    };
    loop {
        at = behind_space(bytes, at);
        match *bytes.get(at)? {
            b'"' => at = end_of_string(bytes, at)?,
            open @ (b'{' | b'[') => {
                at = behind_space(bytes, at + 1);
                // What closes it comes two places later in ASCII.
                if *bytes.get(at)? == open + 2 {
                    at += 1;
                } else {
                    if depth != 0 && depth.is_multiple_of(KINDS) {
                        outer.push(kinds);
                    }
                    kinds = kinds << 1 | u64::from(open == b'{');
                    depth += 1;
                    if open == b'{' {
                        at = end_of_name(at)?;
                    }
                    continue;
                }
            }
            b't' => at = behind(bytes, at, b"true")?,
            b'f' => at = behind(bytes, at, b"false")?,
            b'n' => at = behind(bytes, at, b"null")?,
            _ => at = end_of_number(bytes, at)?,
        }
        loop {
            if depth == 0 {
                return Some(at);
            }
            at = behind_space(bytes, at);
            match (*bytes.get(at)?, kinds & 1 == 1) {
                (b',', true) => {
                    at = end_of_name(behind_space(bytes, at + 1))?;
                    break;
                }
                (b',', false) => {
                    at += 1;
                    break;
                }
                (b'}', true) | (b']', false) => {
                    kinds >>= 1;
                    depth -= 1;
                    if depth != 0 && depth.is_multiple_of(KINDS) {
                        kinds = outer.pop()?;
                    }
                    at += 1;
                }
                _ => return None,
            }
        }
    }
}

/// A name without its quotation marks, and where what follows its colon begins.
fn name_at(bytes: &[u8], at: usize) -> Option<(&[u8], usize)> {
    if *bytes.get(at)? != b'"' {
        return None;
    }
    let end = end_of_string(bytes, at)?;
    let colon = behind_space(bytes, end);
    (*bytes.get(colon)? == b':').then_some((&bytes[at + 1..end - 1], colon + 1))
}

/// `at` is the quotation mark that begins it.
fn end_of_string(bytes: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        at += end_of_text(&bytes[at..]);
        match bytes.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => match bytes.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' if bytes.get(at + 2..at + 6)?.iter().all(u8::is_ascii_hexdigit) => at += 6,
                _ => return None,
            },
            _ => return None,
        }
    }
}

fn behind(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes[at..].starts_with(word).then_some(at + word.len())
}

fn end_of_number(bytes: &[u8], mut at: usize) -> Option<usize> {
    let digits = |mut at: usize| {
        let begin = at;
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        (at > begin).then_some(at)
    };
    if bytes.get(at) == Some(&b'-') {
        at += 1;
    }
    at = if bytes.get(at) == Some(&b'0') { at + 1 } else { digits(at)? };
    if bytes.get(at) == Some(&b'.') {
        at = digits(at + 1)?;
    }
    if let Some(b'e' | b'E') = bytes.get(at) {
        let is_signed = matches!(bytes.get(at + 1), Some(b'+' | b'-'));
        at = digits(at + 1 + usize::from(is_signed))?;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    /// The fields, and the names of those within their values.
    #[derive(Default)]
    struct Seen {
        fields: Vec<(String, String)>,
        inner: Vec<String>,
    }

    impl<'a> Fields<'a> for Seen {
        fn field(&mut self, name: &'a str, value: &'a str) {
            self.fields.push((name.to_owned(), value.to_owned()));
        }

        fn inner(&mut self, name: &'a [u8], behind: &'a [u8]) {
            assert!(!behind.is_empty());
            self.inner.push(String::from_utf8(name.to_owned()).unwrap());
        }
    }

    fn fields(text: &str) -> Option<Vec<(String, String)>> {
        let mut seen = Seen::default();
        each_field(text, &mut seen)?;
        Some(seen.fields)
    }

    /// What the parser finds, for objects without two fields of one name.
    fn parsed(text: &str) -> Option<HashMap<String, String>> {
        let all: HashMap<String, Box<RawValue>> = serde_json::from_str(text).ok()?;
        Some(all.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect())
    }

    /// What is understood is valid; what is not, but is valid, has an escape.
    fn agree(text: &str) {
        let parsed = parsed(text);
        let found = fields(text);
        assert!(found.is_some() || parsed.is_none() || text.contains('\\'), "valid JSON: {text}");
        if let Some(found) = found {
            let parsed = parsed.unwrap_or_else(|| panic!("no valid JSON: {text}"));
            assert!(found.len() >= parsed.len(), "{text}");
            for (name, value) in parsed {
                let last = found.iter().rfind(|(found, _)| *found == name);
                assert_eq!(last.map(|(_, value)| value), Some(&value), "{name} in {text}");
            }
        }
    }

    #[test]
    fn usual_objects_are_understood() {
        for text in [
            "{}",
            " { } \n",
            r#"{"model":"m"}"#,
            r#"{ "a" : [ 1 , -0.5e+7, {"b":{}} , [ ] ] , "c":"\"\u00e9\\" ,"d":null,"e":true,"f":false}"#,
            r#"{"a":"é 💡","b":0,"c":10}"#,
        ] {
            assert_eq!(fields(text).map(|all| all.len()), parsed(text).map(|all| all.len()), "{text}");
            assert!(fields(text).is_some(), "{text}");
            agree(text);
        }
    }

    #[test]
    fn nothing_wrong_is_understood() {
        for text in [
            "",
            "{",
            "[]",
            "{}x",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{,}",
            "{\"a\":01}",
            "{\"a\":-}",
            "{\"a\":1.}",
            "{\"a\":1e}",
            "{\"a\":tru}",
            "{\"a\":nulll}",
            "{\"a\":[1}}",
            "{\"a\":[1,]}",
            "{\"a\":{\"b\"}}",
            "{\"a\":\"\n\"}",
            "{\"a\":\"\\x\"}",
            "{\"a\":\"\\u12g4\"}",
            "{\"a\":\"",
            "{\"a\":\"b\" \"c\":1}",
            "{a:1}",
            "{\"a\":1 2}",
            "{\"a\":.5}",
            "{\"a\":+1}",
            "{\"a\":[}",
        ] {
            assert_eq!(fields(text), None, "{text}");
            assert!(parsed(text).is_none(), "{text}");
        }
        // Valid, and left to the parser.
        assert_eq!(fields(r#"{"\u006d":1}"#), None);
    }

    #[test]
    fn fields_within_values_are_told_in_their_order() {
        let text = r#"{"a":{"b":[{"c":{},"\u0064":[{"e\"":1}]}], "f" : "\"g\":1"},"h":1,"i":[[],{"j":{"k":0}},"l"]}"#;
        let mut seen = Seen::default();
        each_field(text, &mut seen).unwrap();
        assert_eq!(seen.inner, ["b", "c", r"\u0064", r#"e\""#, "f", "j", "k"]);
        // By value, as well.
        let mut one_by_one = Seen::default();
        for (_, value) in &seen.fields {
            each_inner(value, &mut one_by_one);
        }
        assert_eq!(one_by_one.inner, seen.inner);
    }

    #[test]
    fn brackets_are_closed_by_their_own_kind_however_deep() {
        for depth in [1, 2, 63, 64, 65, 127, 128, 129, 500] {
            let open = |at: usize| if at.is_multiple_of(3) { r#"{"x":"# } else { "[" };
            let close = |at: usize| if at.is_multiple_of(3) { "}" } else { "]" };
            let begun: String = (0..depth).map(open).collect();
            let ended: Vec<_> = (0..depth).rev().map(close).collect();
            let text = format!("{{\"a\":{begun}0{}}}", ended.concat());
            let mut seen = Seen::default();
            each_field(&text, &mut seen).unwrap();
            assert_eq!(seen.inner.len(), depth.div_ceil(3), "{depth}");
            for wrong in 0..depth {
                let mut ended = ended.clone();
                ended[wrong] = if ended[wrong] == "}" { "]" } else { "}" };
                let text = format!("{{\"a\":{begun}0{}}}", ended.concat());
                assert_eq!(fields(&text), None, "{wrong} of {depth}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_understood_is_what_a_parser_finds(text in r#"\{("[a-c]{1,2}":("[a-z\\n"]{0,9}"|[0-9.eE+-]{1,5}|null|\[[0-9,\[\]{}": ]{0,12}\]|\{[a":,{} 1]{0,12}\}),?){0,4}\}"#) {
            agree(&text);
        }

        #[test]
        fn noise_is_harmless(text in r#"[{}\[\]",:\\ a1é\n.-]{0,40}"#) {
            agree(&text);
        }
    }
}
