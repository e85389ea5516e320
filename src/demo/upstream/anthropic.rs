//! Anthropic's shapes.

use serde_json::{Value, json};

use super::{
    answer::{Frames, named_sse},
    openai::Stamp,
    speech::Said,
};

fn stop_reason(said: &Said) -> &'static str {
    match (&said.tool, said.cut) {
        (Some(_), _) => "tool_use",
        (None, true) => "max_tokens",
        (None, false) => "end_turn",
    }
}

/// The one block of the content; a stream begins it empty.
fn block(said: &Said, full: bool) -> Value {
    match &said.tool {
        Some(tool) => json!({
            "type": "tool_use",
            "id": format!("toolu_{}", said.id),
            "name": tool.name,
            "input": if full { tool.arguments.clone() } else { json!({}) },
        }),
        None => json!({"type": "text", "text": if full { said.text.as_str() } else { "" }}),
    }
}

fn message(stamp: &Stamp, said: &Said) -> Value {
    json!({
        "id": format!("msg_{}", said.id),
        "type": "message",
        "role": "assistant",
        "model": stamp.model,
        "content": [],
        "stop_reason": null,
        "stop_sequence": null,
        "usage": {"input_tokens": said.tokens.prompt, "output_tokens": 1},
    })
}

pub(super) fn whole(stamp: &Stamp, said: &Said) -> Value {
    let mut message = message(stamp, said);
    message["content"] = json!([block(said, true)]);
    message["stop_reason"] = json!(stop_reason(said));
    message["usage"]["output_tokens"] = json!(said.tokens.completion);
    message
}

/// The usage comes in two halves, and the later `output_tokens` replaces the earlier.
pub(super) fn stream(stamp: &Stamp, said: Said) -> Frames {
    let head = [
        json!({"type": "message_start", "message": message(stamp, &said)}),
        json!({"type": "content_block_start", "index": 0, "content_block": block(&said, false)}),
        json!({"type": "ping"}),
    ];
    let tail = [
        json!({"type": "content_block_stop", "index": 0}),
        json!({
            "type": "message_delta",
            "delta": {"stop_reason": stop_reason(&said), "stop_sequence": null},
            "usage": {"output_tokens": said.tokens.completion},
        }),
        json!({"type": "message_stop"}),
    ];
    let calls = said.tool.is_some();
    let deltas = said.pieces.map(move |piece| {
        let delta = if calls {
            json!({"type": "input_json_delta", "partial_json": piece})
        } else {
            json!({"type": "text_delta", "text": piece})
        };
        json!({"type": "content_block_delta", "index": 0, "delta": delta})
    });
    Box::new(head.into_iter().chain(deltas).chain(tail).map(|event| named_sse(&event)))
}
