//! The chunk that tells what a stream has used, which keytide asks for where tokens are limited: asked for in the
//! request, and taken out of the answer again.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use serde_json::value::RawValue;

use super::{ApiError, Code};

/// How a request's `stream_options` has to change, so that the answer tells what it used: what to put in their place, or
/// nothing where they ask for it already.
///
/// # Errors
/// 400 when they are no object, since nobody knows what a provider makes of that.
pub(super) fn asking(options: Option<&str>) -> Result<Option<String>, ApiError> {
    let text = match options {
        None | Some("null") => return Ok(Some("{\"include_usage\":true}".to_owned())),
        Some(text) => text,
    };
    let mut fields: BTreeMap<String, &RawValue> = serde_json::from_str(text).map_err(|_| {
        ApiError::bad_request(Code::InvalidType, "\"stream_options\" must be an object.")
            .param("stream_options")
    })?;
    let known = fields.len();
    let asks = fields.get("include_usage").is_some_and(|value| value.get() == "true");
    // Go's decoder takes any case, and the last of them.
    fields.retain(|name, _| !name.eq_ignore_ascii_case("include_usage"));
    if asks && fields.len() + 1 == known {
        return Ok(None);
    }
    let mut changed = "{".to_owned();
    for (name, value) in &fields {
        changed.push_str(&serde_json::to_string(name).unwrap_or_default());
        changed.push(':');
        changed.push_str(value.get());
        changed.push(',');
    }
    changed.push_str("\"include_usage\":true}");
    Ok(Some(changed))
}

/// Whole events without the one that tells only what was used. The others stay as they are, byte for byte.
pub(super) fn without(events: Bytes) -> Bytes {
    // Most chunks say `"usage":null` or nothing of it, and a chunk with choices is none of ours.
    if memchr::memmem::find(&events, b"usage").is_none()
        || memchr::memmem::find(&events, b"choices").is_none()
    {
        return events;
    }
    let mut kept = BytesMut::with_capacity(events.len());
    let mut rest = &events[..];
    while !rest.is_empty() {
        let (event, behind) = rest.split_at(end_of_first_event(rest));
        if !is_usage_alone(event) {
            kept.extend_from_slice(event);
        }
        rest = behind;
    }
    if kept.len() == events.len() { events } else { kept.freeze() }
}

/// Where the first blank line after something else ends; the end of all where there is none.
fn end_of_first_event(events: &[u8]) -> usize {
    let mut line_is_blank = true;
    let mut said_something = false;
    let mut at = 0;
    while at < events.len() {
        match events[at] {
            end @ (b'\n' | b'\r') => {
                if end == b'\r' && events.get(at + 1) == Some(&b'\n') {
                    at += 1;
                }
                if line_is_blank && said_something {
                    return at + 1;
                }
                line_is_blank = true;
            }
            _ => (line_is_blank, said_something) = (false, true),
        }
        at += 1;
    }
    events.len()
}

#[derive(serde::Deserialize)]
struct Chunk<'a> {
    #[serde(borrow)]
    choices: Option<&'a RawValue>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

fn is_usage_alone(event: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(event) else { return false };
    let mut lines = text.split(['\n', '\r']).filter_map(|line| line.strip_prefix("data:"));
    // What comes in several lines of data is none that any provider sends.
    let (Some(data), None) = (lines.next(), lines.next()) else { return false };
    let Ok(chunk) = serde_json::from_str::<Chunk<'_>>(data) else { return false };
    let no_choices =
        chunk.choices.is_some_and(|choices| choices.get().bytes().all(|b| b" \t[]".contains(&b)));
    no_choices && chunk.usage.is_some_and(|usage| usage.get().starts_with('{'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(options: &str) -> Option<String> {
        asking(Some(options)).unwrap()
    }

    #[test]
    fn usage_is_asked_for_unless_it_was_already() {
        let plain = Some("{\"include_usage\":true}".to_owned());
        assert_eq!(asking(None).unwrap(), plain);
        for same in
            ["null", "{}", "{\"include_usage\":false}", "{\"include_usage\":1}", "{\"Include_Usage\":true}"]
        {
            assert_eq!(asked(same), plain, "{same}");
        }
        assert_eq!(asked(r#"{ "include_usage" : true }"#), None);
        assert_eq!(asked(r#"{"x":[1, 2],"include_usage":true}"#), None);
        let both = r#"{"x":[1, 2],"include_usage":true}"#;
        assert_eq!(asked(r#"{"include_usage":false, "x" : [1, 2]}"#).as_deref(), Some(both));
        assert_eq!(asked(r#"{"include_usage":true,"INCLUDE_USAGE":false}"#), plain);
        for bad in ["[]", "7", "\"x\"", "true"] {
            assert_eq!(asking(Some(bad)).unwrap_err().code.as_str(), "invalid_type");
        }
    }

    #[test]
    fn only_the_chunk_of_usage_alone_is_taken_out() {
        let usage = "data: {\"id\":\"x\",\"choices\":[],\"usage\":{\"prompt_tokens\":3}}";
        let others = [
            "data: {\"choices\":[{\"delta\":{\"content\":\"usage choices\"}}],\"usage\":null}",
            "data: {\"choices\":[{\"delta\":{}}],\"usage\":{\"prompt_tokens\":3}}",
            "data: {\"choices\":[],\"prompt_filter_results\":[],\"usage\":null}",
            "data: {\"usage\":{\"prompt_tokens\":3}}",
            ": usage of choices",
            "data: not json, choices, usage",
            "data: [DONE]",
        ];
        for end in ["\n\n", "\r\n\r\n", "\r\r"] {
            let all = others.map(|event| format!("{event}{end}")).concat();
            assert_eq!(without(all.clone().into()), all);
            for at in 0..=others.len() {
                let mut events: Vec<_> = others.to_vec();
                events.insert(at, usage);
                let text: String = events.iter().map(|event| format!("{event}{end}")).collect();
                assert_eq!(without(text.into()), all, "{at} {end:?}");
            }
        }
        // A last event may lack its end, and blank lines may be many.
        assert_eq!(without(format!("\n\n{usage}").into()), "");
        assert_eq!(
            without(format!("data: {{\"choices\":1}}\n\n\n{usage}\n\ndata: a").into()),
            "data: {\"choices\":1}\n\ndata: a"
        );
    }
}
