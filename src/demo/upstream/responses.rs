//! The shapes of OpenAI's Responses API.

use bytes::Bytes;
use serde_json::{Value, json};

use super::{
    answer::{Frames, named_sse},
    openai::Stamp,
    speech::Said,
};

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// The one thing in `output`: a message or a function call; begun and empty, or done.
fn item(said: &Said, done: bool) -> Value {
    let status = if done { "completed" } else { "in_progress" };
    match &said.tool {
        Some(tool) => json!({
            "id": format!("fc_{}", said.id),
            "type": "function_call",
            "status": status,
            "call_id": format!("call_{}", said.id),
            "name": tool.name,
            "arguments": if done { tool.arguments.to_string() } else { String::new() },
        }),
        None => json!({
            "id": format!("msg_{}", said.id),
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": if done { vec![part(&said.text)] } else { Vec::new() },
        }),
    }
}

fn response(stamp: &Stamp, said: &Said, done: bool) -> Value {
    let status = match (done, said.cut) {
        (false, _) => "in_progress",
        (true, true) => "incomplete",
        (true, false) => "completed",
    };
    let tokens = said.tokens;
    let usage = json!({
        "input_tokens": tokens.prompt,
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens": tokens.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": tokens.prompt + tokens.completion,
    });
    json!({
        "id": format!("resp_{}", said.id),
        "object": "response",
        "created_at": stamp.created,
        "status": status,
        "error": null,
        "incomplete_details": if done && said.cut { json!({"reason": "max_output_tokens"}) } else { Value::Null },
        "instructions": null,
        "max_output_tokens": null,
        "metadata": {},
        "model": stamp.model,
        "output": if done { vec![item(said, true)] } else { Vec::new() },
        "parallel_tool_calls": true,
        "previous_response_id": null,
        "reasoning": {"effort": null, "summary": null},
        "store": false,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": if done { usage } else { Value::Null },
        "user": null,
    })
}

pub(super) fn whole(stamp: &Stamp, said: &Said) -> Value {
    response(stamp, said, true)
}

pub(super) fn stream(stamp: &Stamp, said: Said) -> Frames {
    let id = item(&said, true)["id"].clone();
    // What each event says of its place in the output.
    let place = move |mut event: Value, in_part: bool| {
        event["item_id"] = id.clone();
        event["output_index"] = json!(0);
        if in_part {
            event["content_index"] = json!(0);
        }
        event
    };
    let begun = response(stamp, &said, false);
    let mut head = vec![
        json!({"type": "response.created", "response": begun}),
        json!({"type": "response.in_progress", "response": begun}),
        json!({"type": "response.output_item.added", "output_index": 0, "item": item(&said, false)}),
    ];
    let mut tail = Vec::new();
    let calls = said.tool.is_some();
    if let Some(tool) = &said.tool {
        tail.push(place(
            json!({
                "type": "response.function_call_arguments.done",
                "name": tool.name,
                "arguments": tool.arguments.to_string(),
            }),
            false,
        ));
    } else {
        head.push(place(json!({"type": "response.content_part.added", "part": part("")}), true));
        let text = json!({"type": "response.output_text.done", "text": said.text, "logprobs": []});
        tail.push(place(text, true));
        tail.push(place(json!({"type": "response.content_part.done", "part": part(&said.text)}), true));
    }
    tail.push(json!({"type": "response.output_item.done", "output_index": 0, "item": item(&said, true)}));
    let ended = if said.cut { "response.incomplete" } else { "response.completed" };
    tail.push(json!({"type": ended, "response": response(stamp, &said, true)}));
    let deltas = said.pieces.map(move |piece| {
        if calls {
            place(json!({"type": "response.function_call_arguments.delta", "delta": piece}), false)
        } else {
            place(json!({"type": "response.output_text.delta", "delta": piece, "logprobs": []}), true)
        }
    });
    Box::new(head.into_iter().chain(deltas).chain(tail).enumerate().map(|(number, mut event)| {
        event["sequence_number"] = json!(number);
        named_sse(&event)
    }))
}

pub(super) fn error_event(code: u16, message: &str, sequence_number: usize) -> Bytes {
    named_sse(&json!({
        "type": "error",
        "code": code.to_string(),
        "message": message,
        "param": null,
        "sequence_number": sequence_number,
    }))
}
