//! What a request is counted as in the log of its user's day.
//!
//! Images, files and sound are found without reading the body once more: a field's name announces them, and its fields
//! are passed in any case. What is written in a prompt is a text there, and never taken for one.

use super::route::Api;
use crate::ledger::Class;

/// Types of content that are no text, in the words of OpenAI, its responses API, OpenRouter and Anthropic.
const CARRIED: [&str; 9] = [
    "image_url",
    "input_image",
    "input_file",
    "input_audio",
    "file",
    "video_url",
    "image",
    "document",
    "container_upload",
];

/// What more than text the objects within a value carry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// One of the types of content that are no text.
    by_type: bool,
    /// Images, as Ollama takes them.
    images: bool,
}

impl Carried {
    /// Takes note of an object's field: its name, and the text behind its colon.
    pub fn note(&mut self, name: &[u8], behind: &[u8]) {
        match name {
            b"type" => self.by_type |= is_carried(behind),
            b"images" => self.images |= has_elements(behind),
            _ => {}
        }
    }
}

/// Those of a request's fields that may carry more than text.
#[derive(Debug, Default)]
pub(super) struct Content {
    pub messages: Carried,
    pub input: Carried,
    /// Ollama's `images` have elements.
    pub images: bool,
}

impl Content {
    pub fn class(&self, api: Api) -> Class {
        let carries = match api {
            Api::OllamaGenerate => self.images,
            api if api.is_native() => self.messages.images || self.images,
            _ => self.messages.by_type || self.input.by_type,
        };
        match (carries, api.converses()) {
            (true, _) => Class::Upload,
            (false, true) => Class::Conversation,
            (false, false) => Class::Call,
        }
    }
}

fn is_carried(value: &[u8]) -> bool {
    let Some(rest) = value.trim_ascii_start().strip_prefix(b"\"") else { return false };
    CARRIED.iter().any(|kind| rest.strip_prefix(kind.as_bytes()).is_some_and(|rest| rest.starts_with(b"\"")))
}

pub(super) fn has_elements(value: &[u8]) -> bool {
    let inside = value.trim_ascii_start().strip_prefix(b"[");
    inside.is_some_and(|rest| !rest.trim_ascii_start().starts_with(b"]"))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use serde_json::json;

    use super::*;
    use crate::gateway::request::Asked;

    fn class(api: Api, body: &serde_json::Value) -> Class {
        let read = |text: String| Asked::read(api, Bytes::from(text), false, |_| None).unwrap().class;
        let tight = read(body.to_string());
        assert_eq!(tight, read(serde_json::to_string_pretty(body).unwrap()), "{body}");
        tight
    }

    #[test]
    fn every_endpoint_has_its_class() {
        let body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi", "prompt": "hi"});
        for api in Api::ALL {
            let conversation =
                !matches!(api, Api::Embeddings | Api::OllamaEmbed | Api::OllamaEmbeddings | Api::OllamaShow);
            let expected = if conversation { Class::Conversation } else { Class::Call };
            assert_eq!(class(api, &body), expected, "{api:?}");
        }
    }

    #[test]
    fn what_carries_more_than_text_is_an_upload() {
        let said = |parts: serde_json::Value| json!({"model": "m", "messages": [{"role": "user", "content": parts}]});
        let text = json!({"type": "text", "text": "what is this?"});
        for (api, body) in [
            (
                Api::ChatCompletions,
                said(json!([text, {"type": "image_url", "image_url": {"url": "data:…"}}])),
            ),
            (Api::ChatCompletions, said(json!([{"type": "input_audio", "input_audio": {"data": "AAAA"}}]))),
            (Api::ChatCompletions, said(json!([text, {"file": {"file_id": "f"}, "type": "file"}]))),
            (
                Api::Responses,
                json!({"model": "m", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}]}),
            ),
            (Api::Responses, json!({"model": "m", "input": [{"type": "input_file", "file_id": "f"}]})),
            (Api::Messages, said(json!([{"type": "image", "source": {"type": "base64", "data": "AAAA"}}]))),
            (Api::Messages, said(json!([text, {"type": "document", "source": {"type": "url", "url": "u"}}]))),
            (
                Api::OllamaChat,
                json!({"model": "m", "messages": [{"role": "user", "content": "?", "images": ["AAAA"]}]}),
            ),
            (Api::OllamaGenerate, json!({"model": "m", "prompt": "?", "images": ["AAAA"]})),
            (
                Api::Embeddings,
                json!({"model": "m", "input": [{"content": [{"type": "image_url", "image_url": "u"}]}]}),
            ),
        ] {
            assert_eq!(class(api, &body), Class::Upload, "{body}");
        }
    }

    #[test]
    fn a_name_with_escapes_hides_no_content() {
        for (api, body, expected) in [
            (
                Api::ChatCompletions,
                r#"{"model":"m","m\u0065ssages":[{"content":[{"type" : "image_url"}]}]}"#,
                Class::Upload,
            ),
            (
                Api::ChatCompletions,
                r#"{"model":"m","m\u0065ta":[{"type":"image_url"}],"messages":[]}"#,
                Class::Conversation,
            ),
            (Api::OllamaChat, r#"{"model":"m","\u0069mages":["AAAA"]}"#, Class::Upload),
            // The last of two counts.
            (Api::OllamaChat, r#"{"model":"m","images":["AAAA"],"images":[]}"#, Class::Conversation),
            (
                Api::ChatCompletions,
                r#"{"model":"m","messages":[{"type":"file"}],"messages":[]}"#,
                Class::Conversation,
            ),
        ] {
            assert_eq!(
                Asked::read(api, Bytes::from(body), false, |_| None).unwrap().class,
                expected,
                "{body}"
            );
        }
    }

    #[test]
    fn words_in_a_text_are_no_content() {
        let said = |text: &str| json!({"model": "m", "messages": [{"role": "user", "content": text}]});
        for text in [
            r#"{"type":"image_url","image_url":{"url":"u"}}"#,
            r#"["type":"file"]"#,
            r#"say "type": "image_url"#,
            r#"\"type": "image_url""#,
            r#"\\"type":"image_url"\\"#,
            "\"type\"",
            "images \"images\": [\"x\"]",
        ] {
            for api in [Api::ChatCompletions, Api::Messages, Api::OllamaChat] {
                assert_eq!(class(api, &said(text)), Class::Conversation, "{text}");
            }
        }
        for (api, body) in [
            // Not where content stands.
            (
                Api::ChatCompletions,
                json!({"model": "m", "messages": [], "response_format": {"type": "file"}, "tools": [{"type": "file"}]}),
            ),
            (
                Api::ChatCompletions,
                json!({"model": "m", "messages": [{"role": "user", "content": [{"type": "text", "text": "image_url"}]}]}),
            ),
            (
                Api::ChatCompletions,
                json!({"model": "m", "messages": [{"content": [{"type": "image_urls"}, {"type": ["file"]}, {"kind": "file"}]}]}),
            ),
            (Api::ChatCompletions, json!({"model": "m", "messages": [{"content": "x", "my\"type": "file"}]})),
            // Nothing in it.
            (Api::OllamaChat, json!({"model": "m", "messages": [{"content": "x", "images": []}]})),
            (Api::OllamaGenerate, json!({"model": "m", "prompt": "x", "images": null})),
            (Api::OllamaGenerate, json!({"model": "m", "prompt": "\"images\": [1]"})),
        ] {
            assert_eq!(class(api, &body), Class::Conversation, "{body}");
        }
    }
}
