//! What a request asks for, whichever dialect it is in.

use serde_json::{Map, Value, json};

use super::route::Endpoint;

#[derive(Debug, Default)]
pub(super) struct Ask {
    pub(super) model: String,
    /// Everything that counts as prompt.
    pub(super) prompt: String,
    /// What the answer takes up: the last thing the user said.
    pub(super) last: String,
    /// One entry per thing to embed.
    pub(super) inputs: Vec<String>,
    pub(super) stream: bool,
    pub(super) include_usage: bool,
    pub(super) tool: Option<Tool>,
    pub(super) max_tokens: Option<u64>,
    pub(super) base64: bool,
    pub(super) dimensions: Option<usize>,
}

/// The call that the answer makes.
#[derive(Clone, Debug)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) arguments: Value,
}

impl Ask {
    const MAX_DIMENSIONS: u64 = 4096;

    /// # Errors
    /// What a provider would tell the caller with a 400.
    pub(super) fn read(endpoint: &Endpoint, body: &Value) -> Result<Self, String> {
        let Value::Object(body) = body else {
            return Err("The body must be a JSON object.".to_owned());
        };
        let model = match body.get("model") {
            Some(Value::String(model)) if !model.is_empty() => model.clone(),
            // Ollama's show had another name for it.
            None if *endpoint == Endpoint::OllamaShow => {
                body.get("name").and_then(Value::as_str).unwrap_or_default().to_owned()
            }
            Some(Value::String(_)) | None | Some(Value::Null) => {
                return Err("You must provide a model parameter.".to_owned());
            }
            Some(_) => return Err("model must be a string.".to_owned()),
        };
        let stream_default = matches!(endpoint, Endpoint::OllamaChat | Endpoint::OllamaGenerate);
        let mut ask = Self {
            model,
            stream: flag(body, "stream", stream_default)?,
            max_tokens: max_tokens(body),
            base64: body.get("encoding_format").and_then(Value::as_str) == Some("base64"),
            include_usage: body
                .get("stream_options")
                .and_then(|options| options.get("include_usage"))
                .and_then(Value::as_bool)
                .unwrap_or(false),
            dimensions: body
                .get("dimensions")
                .and_then(Value::as_u64)
                .map(|count| usize::try_from(count.clamp(1, Self::MAX_DIMENSIONS)).unwrap_or(1)),
            ..Self::default()
        };
        match endpoint {
            Endpoint::Chat | Endpoint::OllamaChat | Endpoint::Messages => {
                ask.hear(body, &["system"]);
                ask.converse(body, "messages")?;
                if *endpoint == Endpoint::Messages && ask.max_tokens.is_none() {
                    return Err("max_tokens: Field required".to_owned());
                }
            }
            Endpoint::Responses => {
                ask.hear(body, &["instructions"]);
                match body.get("input") {
                    Some(Value::Array(_)) => ask.converse(body, "input")?,
                    Some(Value::String(_)) => {
                        ask.hear(body, &["input"]);
                        ask.tool = wanted_tool(body);
                    }
                    _ => return Err("input must be a string or an array.".to_owned()),
                }
            }
            Endpoint::Completions | Endpoint::OllamaGenerate => ask.hear(body, &["system", "prompt"]),
            Endpoint::OllamaEmbeddings => ask.embed(body.get("prompt").unwrap_or(&Value::Null)),
            Endpoint::Embeddings | Endpoint::OllamaEmbed => match body.get("input") {
                Some(input @ (Value::String(_) | Value::Array(_))) => ask.embed(input),
                _ => return Err("input must be a string or an array.".to_owned()),
            },
            _ => {}
        }
        Ok(ask)
    }

    pub(super) fn prompt_tokens(&self) -> u64 {
        words(&self.prompt)
    }

    /// The status that the prompt orders with `[[NNN]]`.
    pub(super) fn ordered_status(&self) -> Option<u16> {
        self.prompt.split("[[").skip(1).find_map(|rest| {
            let code = rest.split_once("]]")?.0;
            code.parse()
                .ok()
                .filter(|code| code_is_error(*code) && rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    }

    fn hear(&mut self, body: &Map<String, Value>, fields: &[&str]) {
        for field in fields {
            self.last.clear();
            collect_text(body.get(*field).unwrap_or(&Value::Null), &mut self.last);
            self.prompt.push_str(&self.last);
        }
    }

    fn converse(&mut self, body: &Map<String, Value>, field: &str) -> Result<(), String> {
        let Some(Value::Array(messages)) = body.get(field) else {
            return Err(format!("{field} must be an array."));
        };
        if let Some(at) = messages.iter().position(|message| !message.is_object()) {
            return Err(format!("{field}[{at}] must be an object."));
        }
        if messages.is_empty() {
            return Err(format!("{field} must not be empty."));
        }
        for message in messages {
            let mut text = String::new();
            collect_text(message, &mut text);
            self.prompt.push_str(&text);
            if message.get("role").and_then(Value::as_str) == Some("user") {
                self.last = text;
            }
        }
        // A tool's result is answered in words, so that a conversation ends.
        if !messages.last().is_some_and(is_tool_result) {
            self.tool = wanted_tool(body);
        }
        Ok(())
    }

    fn embed(&mut self, input: &Value) {
        let is_one = |value: &Value| matches!(value, Value::String(_));
        let parts: Vec<&Value> = match input {
            // An array of numbers is one text in tokens; any other array is a list.
            Value::Array(list) if list.iter().any(|item| is_one(item) || item.is_array()) => {
                list.iter().collect()
            }
            one => vec![one],
        };
        for part in parts {
            let mut text = String::new();
            collect_text(part, &mut text);
            self.prompt.push_str(&text);
            self.inputs.push(text);
        }
    }
}

/// The measure of every count here: one token is one word.
pub(super) fn words(text: &str) -> u64 {
    text.split_whitespace().count() as u64
}

fn code_is_error(code: u16) -> bool {
    (400..600).contains(&code)
}

/// All text in a prompt's value, each piece followed by a space.
fn collect_text(value: &Value, text: &mut String) {
    match value {
        Value::String(piece) => {
            text.push_str(piece);
            text.push(' ');
        }
        Value::Number(token) => {
            text.push_str(&token.to_string());
            text.push(' ');
        }
        Value::Array(items) => items.iter().for_each(|item| collect_text(item, text)),
        Value::Object(part) => {
            for field in ["text", "content", "output"] {
                if let Some(inner) = part.get(field) {
                    collect_text(inner, text);
                }
            }
        }
        Value::Null | Value::Bool(_) => {}
    }
}

fn flag(body: &Map<String, Value>, name: &str, default: bool) -> Result<bool, String> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(default),
        Some(Value::Bool(flag)) => Ok(*flag),
        Some(_) => Err(format!("{name} must be true or false.")),
    }
}

fn max_tokens(body: &Map<String, Value>) -> Option<u64> {
    ["max_tokens", "max_completion_tokens", "max_output_tokens"]
        .iter()
        .find_map(|name| body.get(*name)?.as_u64())
        .or_else(|| body.get("options")?.get("num_predict")?.as_u64())
        .map(|count| count.max(1))
}

fn is_tool_result(message: &Value) -> bool {
    message.get("role").and_then(Value::as_str) == Some("tool")
        || message.get("type").and_then(Value::as_str) == Some("function_call_output")
        || message.get("content").and_then(Value::as_array).is_some_and(|parts| {
            parts.iter().any(|part| part.get("type").and_then(Value::as_str) == Some("tool_result"))
        })
}

/// The tool that is to be called: the chosen one, else the first.
fn wanted_tool(body: &Map<String, Value>) -> Option<Tool> {
    let choice = body.get("tool_choice").unwrap_or(&Value::Null);
    let kind = choice.get("type").unwrap_or(choice);
    if kind.as_str() == Some("none") {
        return None;
    }
    // Wrapped in `function` or not, with `parameters` or `input_schema`: three dialects, one content.
    let tools = body.get("tools")?.as_array()?.iter().map(|tool| tool.get("function").unwrap_or(tool));
    let chosen = choice.get("function").unwrap_or(choice).get("name").and_then(Value::as_str);
    let mut named = tools.filter_map(|tool| Some((tool.get("name")?.as_str()?, tool)));
    let (name, tool) = named.find(|(name, _)| chosen.is_none_or(|chosen| chosen == *name))?;
    let schema = tool.get("parameters").or_else(|| tool.get("input_schema")).unwrap_or(&Value::Null);
    Some(Tool { name: name.to_owned(), arguments: sample(schema, 0) })
}

/// A value that fits the schema.
fn sample(schema: &Value, depth: usize) -> Value {
    const DEEPEST: usize = 8;
    if let Some(first) = schema.get("enum").and_then(|values| values.get(0)) {
        return first.clone();
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    match schema.get("type").and_then(Value::as_str) {
        Some("string") => json!("tide"),
        Some("integer") => json!(1),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        _ if depth >= DEEPEST => json!({}),
        _ => properties
            .into_iter()
            .flatten()
            .map(|(name, inner)| (name.clone(), sample(inner, depth + 1)))
            .collect::<Map<_, _>>()
            .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prompt_is_all_that_was_said() {
        let body = json!({"model": "m", "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": [{"type": "text", "text": "How high?"}, {"type": "image_url"}]},
        ]});
        let ask = Ask::read(&Endpoint::Chat, &body).unwrap();
        assert_eq!((ask.prompt_tokens(), ask.last.trim(), ask.stream), (4, "How high?", false));
        assert!(
            Ask::read(&Endpoint::OllamaChat, &body).unwrap().stream,
            "Ollama streams unless told otherwise"
        );
    }

    #[test]
    fn prompts_order_statuses() {
        let order = |text: &str| Ask { prompt: text.to_owned(), ..Ask::default() }.ordered_status();
        assert_eq!(order("please [[429]]"), Some(429));
        assert_eq!(order("[[x]] [[503]]"), Some(503));
        for none in ["[[200]]", "[[+429]]", "[[429", "429", "[[99999]]"] {
            assert_eq!(order(none), None, "{none}");
        }
    }

    #[test]
    fn bad_requests_are_told_why() {
        for (body, why) in [
            (json!([]), "JSON object"),
            (json!({"messages": []}), "model"),
            (json!({"model": 5, "messages": []}), "model must be a string"),
            (json!({"model": "m"}), "messages"),
            (json!({"model": "m", "messages": []}), "empty"),
            (json!({"model": "m", "messages": ["hi"]}), "messages[0]"),
            (json!({"model": "m", "messages": [{}], "stream": "yes"}), "stream"),
        ] {
            let error = Ask::read(&Endpoint::Chat, &body).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn tools_get_arguments_that_fit() {
        let parameters = json!({"type": "object", "properties": {
            "place": {"type": "string"}, "unit": {"enum": ["m", "ft"]}, "days": {"type": "integer"},
        }});
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}],
            "tools": [{"type": "function", "function": {"name": "tide", "parameters": parameters}}]});
        let tool = Ask::read(&Endpoint::Chat, &body).unwrap().tool.unwrap();
        assert_eq!(tool.name, "tide");
        assert_eq!(tool.arguments, json!({"place": "tide", "unit": "m", "days": 1}));
        body["tool_choice"] = json!("none");
        assert!(Ask::read(&Endpoint::Chat, &body).unwrap().tool.is_none());
    }

    #[test]
    fn token_arrays_are_one_input() {
        let ask =
            |input: Value| Ask::read(&Endpoint::Embeddings, &json!({"model": "m", "input": input})).unwrap();
        assert_eq!(ask(json!([1, 2, 3])).inputs.len(), 1);
        assert_eq!(ask(json!([[1, 2], [3]])).inputs.len(), 2);
        assert_eq!(ask(json!(["a", "b c"])).prompt_tokens(), 3);
    }
}
