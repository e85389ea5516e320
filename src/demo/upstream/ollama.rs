//! Ollama's native shapes.

use serde_json::{Map, Value, json};

use super::{
    answer::{Frames, line},
    ask::Ask,
    speech::{Said, embedding, hash},
};
use crate::model::Timestamp;

const DIMENSIONS: usize = 8;

fn envelope(ask: &Ask, at: Timestamp) -> Value {
    json!({"model": ask.model, "created_at": at.to_string(), "done": false})
}

/// What the last piece adds: why it ended, and the counts. Durations are in nanoseconds.
fn finish(mut last: Value, said: &Said) -> Value {
    let tokens = said.tokens;
    let more = json!({
        "done": true,
        "done_reason": if said.cut { "length" } else { "stop" },
        "total_duration": 1_000_000 * (tokens.prompt + tokens.completion + 1),
        "load_duration": 1_000_000,
        "prompt_eval_count": tokens.prompt,
        "prompt_eval_duration": 1_000_000 * tokens.prompt,
        "eval_count": tokens.completion,
        "eval_duration": 1_000_000 * tokens.completion,
    });
    if let (Some(last), Value::Object(more)) = (last.as_object_mut(), more) {
        last.extend(more);
    }
    last
}

fn with(mut envelope: Value, field: &str, value: Value) -> Value {
    envelope[field] = value;
    envelope
}

fn message(said: &Said) -> Value {
    match &said.tool {
        Some(tool) => json!({"role": "assistant", "content": "", "tool_calls": [
            {"function": {"name": tool.name, "arguments": tool.arguments}},
        ]}),
        None => json!({"role": "assistant", "content": said.text}),
    }
}

pub(super) fn chat(ask: &Ask, said: &Said, at: Timestamp) -> Value {
    finish(with(envelope(ask, at), "message", message(said)), said)
}

pub(super) fn chat_stream(ask: &Ask, said: Said, at: Timestamp) -> Frames {
    let envelope = envelope(ask, at);
    let last = finish(with(envelope.clone(), "message", json!({"role": "assistant", "content": ""})), &said);
    if said.tool.is_some() {
        // Ollama sends a call in one piece.
        let call = with(envelope, "message", message(&said));
        return Box::new([line(&call), line(&last)].into_iter());
    }
    let pieces = said.pieces.map(move |text| {
        line(&with(envelope.clone(), "message", json!({"role": "assistant", "content": text})))
    });
    Box::new(pieces.chain([line(&last)]))
}

pub(super) fn generate(ask: &Ask, said: &Said, at: Timestamp) -> Value {
    finish(with(envelope(ask, at), "response", json!(said.text)), said)
}

pub(super) fn generate_stream(ask: &Ask, said: Said, at: Timestamp) -> Frames {
    let envelope = envelope(ask, at);
    let last = finish(with(envelope.clone(), "response", json!("")), &said);
    let pieces = said.pieces.map(move |text| line(&with(envelope.clone(), "response", json!(text))));
    Box::new(pieces.chain([line(&last)]))
}

pub(super) fn embed(ask: &Ask, seed: u64) -> Value {
    let dimensions = ask.dimensions.unwrap_or(DIMENSIONS);
    let embeddings: Vec<_> = ask.inputs.iter().map(|text| embedding(seed, text, dimensions)).collect();
    json!({
        "model": ask.model,
        "embeddings": embeddings,
        "total_duration": 2_000_000,
        "load_duration": 1_000_000,
        "prompt_eval_count": ask.prompt_tokens(),
    })
}

/// The older form, for one text, which tells no counts.
pub(super) fn embeddings(ask: &Ask, seed: u64) -> Value {
    json!({"embedding": embedding(seed, &ask.prompt, ask.dimensions.unwrap_or(DIMENSIONS))})
}

fn details() -> Value {
    json!({
        "parent_model": "",
        "format": "gguf",
        "family": "demo",
        "families": ["demo"],
        "parameter_size": "1B",
        "quantization_level": "Q4_0",
    })
}

pub(super) fn tags(names: &[String], at: Timestamp) -> Value {
    let models: Vec<Value> = names
        .iter()
        .map(|name| {
            json!({
                "name": name,
                "model": name,
                "modified_at": at.to_string(),
                "size": 1_000_000_000,
                "digest": format!("{:016x}", hash(0, &[name.as_bytes()])).repeat(4),
                "details": details(),
            })
        })
        .collect();
    json!({"models": models})
}

pub(super) fn show(at: Timestamp) -> Value {
    let info: Map<String, Value> = [
        ("general.architecture".to_owned(), json!("demo")),
        ("demo.context_length".to_owned(), json!(8192)),
        ("demo.embedding_length".to_owned(), json!(DIMENSIONS)),
    ]
    .into_iter()
    .collect();
    json!({
        "license": "none: this model only exists on loopback",
        "modelfile": "FROM demo",
        "parameters": "",
        "template": "{{ .Prompt }}",
        "details": details(),
        "model_info": info,
        "capabilities": ["completion", "tools", "embedding"],
        "modified_at": at.to_string(),
    })
}

pub(super) fn version() -> Value {
    json!({"version": "0.12.0"})
}
