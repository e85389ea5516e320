//! OpenAI's shapes: chat, text completions, embeddings, models; and OpenRouter's view of a key.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    answer::{Frames, sse},
    ask::Ask,
    speech::{Said, embedding},
    tally::Tokens,
};

/// What every answer names: the model that was asked for, and when, in seconds since the Unix epoch.
#[derive(Clone, Debug)]
pub(super) struct Stamp {
    pub(super) model: String,
    pub(super) created: i64,
}

fn usage(tokens: Tokens) -> Value {
    json!({
        "prompt_tokens": tokens.prompt,
        "completion_tokens": tokens.completion,
        "total_tokens": tokens.prompt + tokens.completion,
    })
}

fn finish(said: &Said) -> &'static str {
    match (&said.tool, said.cut) {
        (Some(_), _) => "tool_calls",
        (None, true) => "length",
        (None, false) => "stop",
    }
}

pub(super) fn chat(stamp: &Stamp, said: &Said) -> Value {
    let mut message = json!({"role": "assistant", "content": said.text, "refusal": null});
    if let Some(tool) = &said.tool {
        message["content"] = Value::Null;
        message["tool_calls"] = json!([{
            "id": format!("call_{}", said.id),
            "type": "function",
            "function": {"name": tool.name, "arguments": tool.arguments.to_string()},
        }]);
    }
    json!({
        "id": format!("chatcmpl-{}", said.id),
        "object": "chat.completion",
        "created": stamp.created,
        "model": stamp.model,
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish(said)}],
        "usage": usage(said.tokens),
        "system_fingerprint": null,
    })
}

pub(super) fn chat_stream(stamp: &Stamp, ask: &Ask, said: Said) -> Frames {
    let mut envelope = json!({
        "id": format!("chatcmpl-{}", said.id),
        "object": "chat.completion.chunk",
        "created": stamp.created,
        "model": stamp.model,
        "system_fingerprint": null,
        "choices": [],
    });
    if ask.include_usage {
        envelope["usage"] = Value::Null;
    }
    let choice = |delta: Value, finish: Option<&str>| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let first = match &said.tool {
        None => json!({"role": "assistant", "content": "", "refusal": null}),
        Some(tool) => json!({"role": "assistant", "content": null, "tool_calls": [{
            "index": 0,
            "id": format!("call_{}", said.id),
            "type": "function",
            "function": {"name": tool.name, "arguments": ""},
        }]}),
    };
    let last = choice(json!({}), Some(finish(&said)));
    let calls = said.tool.is_some();
    let deltas = said.pieces.map(move |piece| {
        let delta = if calls {
            json!({"tool_calls": [{"index": 0, "function": {"arguments": piece}}]})
        } else {
            json!({"content": piece})
        };
        choice(delta, None)
    });
    framed(envelope, std::iter::once(choice(first, None)).chain(deltas).chain([last]), ask, said.tokens)
}

pub(super) fn completion(stamp: &Stamp, said: &Said) -> Value {
    json!({
        "id": format!("cmpl-{}", said.id),
        "object": "text_completion",
        "created": stamp.created,
        "model": stamp.model,
        "choices": [{"index": 0, "text": said.text, "logprobs": null, "finish_reason": finish(said)}],
        "usage": usage(said.tokens),
    })
}

pub(super) fn completion_stream(stamp: &Stamp, ask: &Ask, said: Said) -> Frames {
    let mut envelope = json!({
        "id": format!("cmpl-{}", said.id),
        "object": "text_completion",
        "created": stamp.created,
        "model": stamp.model,
        "choices": [],
    });
    if ask.include_usage {
        envelope["usage"] = Value::Null;
    }
    let choice = |text: &str, finish: Option<&str>| json!([{"index": 0, "text": text, "logprobs": null, "finish_reason": finish}]);
    let last = choice("", Some(finish(&said)));
    let texts = said.pieces.map(move |piece| choice(&piece, None));
    framed(envelope, texts.chain([last]), ask, said.tokens)
}

/// Each `choices` in its envelope, then the usage if it was asked for, then the end.
fn framed(
    envelope: Value,
    choices: impl Iterator<Item = Value> + Send + 'static,
    ask: &Ask,
    tokens: Tokens,
) -> Frames {
    let mut tail = Vec::new();
    if ask.include_usage {
        let mut with_usage = envelope.clone();
        with_usage["usage"] = usage(tokens);
        tail.push(sse(&with_usage));
    }
    tail.push(Bytes::from_static(b"data: [DONE]\n\n"));
    let events = choices.map(move |choices| {
        let mut event = envelope.clone();
        event["choices"] = choices;
        sse(&event)
    });
    Box::new(events.chain(tail))
}

/// An error in mid-stream, as OpenRouter sends it: beside the choices, in a chunk of its own.
pub(super) fn error_event(code: u16, message: &str) -> Bytes {
    sse(&json!({
        "id": "chatcmpl-error",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": "",
        "error": {"code": code, "message": message},
        "choices": [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}],
    }))
}

pub(super) fn embeddings(stamp: &Stamp, ask: &Ask, seed: u64) -> Value {
    const DIMENSIONS: usize = 8;
    let vectors = ask.inputs.iter().map(|text| embedding(seed, text, ask.dimensions.unwrap_or(DIMENSIONS)));
    let data: Vec<Value> = vectors
        .enumerate()
        .map(|(index, vector)| {
            let embedding = if ask.base64 {
                let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
                Value::from(base64(&bytes))
            } else {
                Value::from(vector)
            };
            json!({"object": "embedding", "index": index, "embedding": embedding})
        })
        .collect();
    let tokens = ask.prompt_tokens();
    json!({
        "object": "list",
        "data": data,
        "model": stamp.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    })
}

pub(super) fn models(names: &[String], created: i64) -> Value {
    let data: Vec<Value> = names.iter().map(|name| model(name, created)).collect();
    json!({"object": "list", "data": data})
}

pub(super) fn model(name: &str, created: i64) -> Value {
    json!({"id": name, "object": "model", "created": created, "owned_by": "keytide-demo"})
}

/// What OpenRouter tells about the key that asks; the label is all that it shows of it.
pub(super) fn key_info(completed: u64) -> Value {
    json!({"data": {
        "label": "a demo key",
        "usage": completed,
        "limit": null,
        "limit_remaining": null,
        "is_free_tier": false,
        "rate_limit": {"requests": -1, "interval": "10s"},
    }})
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits =
            group.iter().fold(0u32, |bits, byte| (bits << 8) | u32::from(*byte)) << (8 * (3 - group.len()));
        for at in 0..4 {
            let sextet = (bits >> (18 - 6 * at)) & 63;
            text.push(if at <= group.len() { char::from(ALPHABET[sextet as usize]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_padded() {
        let encoded = ["", "f", "fo", "foo", "foob", "fooba", "foobar"].map(|text| base64(text.as_bytes()));
        assert_eq!(encoded, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"]);
    }
}
