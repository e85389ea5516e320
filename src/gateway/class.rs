//! What a request is counted as in the log of its user's day.
//!
//! Images, files and sound are found without reading the body once more: of the parts that may carry them only the
//! places are looked at where the word stands that announces them. Within a text of JSON every quotation mark follows a
//! backslash, so what is written in a prompt is never taken for one.

use std::sync::LazyLock;

use memchr::memmem::Finder;

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

/// Made once: that takes longer than to look through a short question.
static TYPE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"type\""));
static IMAGES: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\"images\""));

/// `content` is what may carry more than text, as valid JSON: `messages`, `input` and Ollama's `images`; empty where
/// there is no such field.
pub fn of(api: Api, [messages, input, images]: [&str; 3]) -> Class {
    let carries = match api {
        Api::OllamaGenerate => has_elements(images),
        api if api.is_native() => values_of(messages, &IMAGES).any(has_elements) || has_elements(images),
        _ => [messages, input].into_iter().any(|part| values_of(part, &TYPE).any(is_carried)),
    };
    match (carries, api.converses()) {
        (true, _) => Class::Upload,
        (false, true) => Class::Conversation,
        (false, false) => Class::Call,
    }
}

/// What stands behind the colon wherever an object of `json` has this key, which is given with its quotation marks.
fn values_of<'a>(json: &'a str, key: &'static Finder<'static>) -> impl Iterator<Item = &'a str> {
    key.find_iter(json.as_bytes()).filter_map(move |at| {
        // Behind a backslash it is a part of a text.
        let is_text = at > 0 && json.as_bytes()[at - 1] == b'\\';
        let behind = json[at + key.needle().len()..].trim_ascii_start();
        behind.strip_prefix(':').filter(|_| !is_text).map(str::trim_ascii_start)
    })
}

fn is_carried(value: &str) -> bool {
    let Some(rest) = value.strip_prefix('"') else { return false };
    CARRIED.iter().any(|kind| rest.strip_prefix(kind).is_some_and(|rest| rest.starts_with('"')))
}

fn has_elements(value: &str) -> bool {
    value.strip_prefix('[').is_some_and(|rest| !rest.trim_ascii_start().starts_with(']'))
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
