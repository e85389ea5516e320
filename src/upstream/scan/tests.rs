//! Bodies shaped like the real ones of each API, and everything that tries to pass for something else.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

/// Everything a scanner says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Said {
    tokens: Option<(u64, u64)>,
    /// Its status and code.
    error: Option<(Option<u16>, Option<String>)>,
    hints: Vec<(String, String)>,
    is_done: bool,
    saw_data: bool,
    documents: u64,
}

fn read<'a>(framing: Framing, chunks: impl IntoIterator<Item = &'a [u8]>) -> Said {
    let mut scanner = Scanner::new(framing);
    chunks.into_iter().for_each(|chunk| scanner.feed(chunk));
    scanner.finish();
    said(&scanner)
}

fn said(scanner: &Scanner) -> Said {
    let error = scanner.error();
    let hints = error.map(|error| error.hints.iter()).into_iter().flatten();
    let mut hints: Vec<_> =
        hints.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect();
    hints.sort();
    Said {
        tokens: scanner.tokens().map(|tokens| (tokens.prompt, tokens.completion)),
        error: error.map(|error| (error.status, error.code.clone())),
        hints,
        is_done: scanner.is_done(),
        saw_data: scanner.saw_data(),
        documents: scanner.documents(),
    }
}

fn whole(framing: Framing, body: &str) -> Said {
    read(framing, [body.as_bytes()])
}

struct Sample {
    name: &'static str,
    framing: Framing,
    body: String,
    said: Said,
}

fn sample(name: &'static str, framing: Framing, body: impl Into<String>) -> Sample {
    let said = Said { is_done: true, saw_data: true, ..Said::default() };
    Sample { name, framing, body: body.into(), said }
}

impl Sample {
    fn tokens(mut self, prompt: u64, completion: u64) -> Self {
        self.said.tokens = Some((prompt, completion));
        self
    }

    fn error(mut self, status: u16, code: &str) -> Self {
        self.said.error = Some((Some(status), Some(code.to_owned()).filter(|code| !code.is_empty())));
        self
    }

    fn hint(mut self, name: &str, value: &str) -> Self {
        self.said.hints.push((name.to_owned(), value.to_owned()));
        self
    }

    fn open_ended(mut self) -> Self {
        self.said.is_done = false;
        self
    }

    fn without_data(mut self) -> Self {
        self.said.saw_data = false;
        self.open_ended()
    }
}

fn samples() -> Vec<Sample> {
    use Framing::{Json, Ndjson, Sse};
    let mut all = answers();
    all.extend(streams());
    all.extend(errors());
    all.extend(traps());
    all.extend([
        sample("nothing", Json, "").without_data(),
        sample("white space", Json, " \n\t\r\n ").without_data(),
        sample("no JSON", Json, "<html>error</html>").without_data(),
        sample("cut", Json, r#"{"usage":{"prompt_tokens":5},"error":{"code":429}"#).without_data(),
        sample("a bare number", Json, " 12"),
        sample("no events", Sse, "").without_data(),
        sample("only comments", Sse, ": OPENROUTER PROCESSING\n\n:\n\n: x\r\n\r\n").without_data(),
        sample("empty data", Sse, "data:\n\ndata: \n\ndata\n\nevent: ping\n\n").without_data(),
        sample("an event that is no JSON", Sse, "data: hello\n\n").open_ended(),
        sample("blank lines", Ndjson, "\n\r\n  \n").without_data(),
    ]);
    all
}

fn answers() -> Vec<Sample> {
    use Framing::Json;
    vec![
        sample(
            "OpenAI chat",
            Json,
            json!({"id": "chatcmpl-1", "object": "chat.completion", "choices": [{"index": 0, "finish_reason": "stop",
                "message": {"role": "assistant", "content": "Hi", "refusal": null}}],
                "usage": {"prompt_tokens": 9, "completion_tokens": 12, "total_tokens": 21,
                "prompt_tokens_details": {"cached_tokens": 4}, "completion_tokens_details": {"reasoning_tokens": 3}}})
            .to_string(),
        )
        .tokens(9, 12),
        sample(
            "indented, with a byte order mark and trailing space",
            Json,
            "\u{feff}{\r\n  \"usage\" : {\r\n\t\"prompt_tokens\" : 1 ,\n \"completion_tokens\" : 2 } }\r\n\r\n",
        )
        .tokens(1, 2),
        sample("escaped names", Json, r#"{"us\u0061ge":{"prompt\u005ftokens":5,"completion_tokens":6}}"#)
            .tokens(5, 6),
        sample(
            "embeddings",
            Json,
            r#"{"object":"list","data":[{"embedding":[-0.1,2e-5,0,1.5E+3]}],"usage":{"prompt_tokens":8,"total_tokens":8}}"#,
        )
        .tokens(8, 0),
        sample(
            "a relay that writes 0 for the other API's names",
            Json,
            r#"{"usage":{"prompt_tokens":8,"completion_tokens":2,"input_tokens":0,"output_tokens":0}}"#,
        )
        .tokens(8, 2),
        sample(
            "Responses",
            Json,
            json!({"id": "resp_1", "object": "response", "status": "completed", "error": null,
                "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
                "usage": {"input_tokens": 36, "input_tokens_details": {"cached_tokens": 0}, "output_tokens": 87}})
            .to_string(),
        )
        .tokens(36, 87),
        sample(
            "Anthropic",
            Json,
            json!({"type": "message", "role": "assistant", "content": [{"type": "text", "text": "Hi"}],
                "usage": {"input_tokens": 25, "cache_read_input_tokens": 100, "output_tokens": 15}})
            .to_string(),
        )
        .tokens(25, 15),
        sample(
            "Ollama",
            Json,
            r#"{"model":"m","message":{"role":"assistant","content":"Hi"},"done":true,"prompt_eval_count":26,"eval_count":298}"#,
        )
        .tokens(26, 298),
        sample("Ollama embed", Json, r#"{"model":"m","embeddings":[[0.01]],"prompt_eval_count":8}"#).tokens(8, 0),
    ]
}

fn streams() -> Vec<Sample> {
    use Framing::{Ndjson, Sse};
    let chat = [
        r#"data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
        r#"data: {"choices":[{"index":0,"delta":{"content":"He said \"[DONE]\"\n\ndata: [DONE]"}}],"usage":null}"#,
        r#"data: {"choices":[],"usage":{"prompt_tokens":19,"completion_tokens":10,"total_tokens":29}}"#,
        "data: [DONE]",
    ];
    let responses = [
        "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"status\":\"in_progress\",\"error\":null,\"usage\":null}}",
        "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}",
        "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"error\":null,\"usage\":{\"input_tokens\":37,\"output_tokens\":11}}}",
    ];
    let anthropic = [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"content\":[],\"usage\":{\"input_tokens\":25,\"output_tokens\":1}}}",
        "event: ping\ndata: {\"type\": \"ping\"}",
        "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"Hello\"}}",
        "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":15}}",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}",
    ];
    let ollama = [
        r#"{"model":"m","message":{"role":"assistant","content":"He"},"done":false}"#,
        r#"{"model":"m","message":{"role":"assistant","content":""},"done":true,"done_reason":"stop","prompt_eval_count":26,"eval_count":282}"#,
    ];
    let mut all = vec![
        sample("Ollama stream", Ndjson, ollama.join("\n") + "\n").tokens(26, 282),
        sample("Ollama stream without its last line end", Ndjson, ollama.join("\r\n")).tokens(26, 282),
        sample("Ollama stream cut", Ndjson, ollama[0].to_owned() + "\n" + &ollama[1][..100]).open_ended(),
        sample("a broken line", Ndjson, "{\"done\":tru}\n{\"eval_count\":3}\n").tokens(0, 3).open_ended(),
        sample("running totals", Sse, "data: {\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":1}}\n\ndata: {\"usage\":{\"prompt_tokens\":4,\"completion_tokens\":2}}\n\n")
            .tokens(4, 2)
            .open_ended(),
        sample("an event over several lines", Sse, "data: {\"usage\":\ndata: {\"prompt_tokens\":\ndata\ndata:4}}\nid: 1\n\n")
            .tokens(4, 0)
            .open_ended(),
        sample("pairs of line ends", Sse, "event: message_stop\r\ndata: {\"usage\":\r\ndata: {\"prompt_tokens\":4}}\r\n\r\n")
            .tokens(4, 0),
        sample("two documents in one event", Sse, "data: {\"usage\":{\"prompt_tokens\":4}}\ndata: {}\n\n").open_ended(),
        sample("no last empty line", Sse, "data: {\"usage\":{\"prompt_tokens\":4}}\n\ndata: [DONE]").tokens(4, 0),
        sample("a cut sentinel", Sse, "data: {}\n\ndata: [DON").open_ended(),
        sample("only the event name says it", Sse, "event:message_stop\ndata:{}\n\n"),
        sample("an event name does not last", Sse, "event: message_stop\n\ndata: {}\n\n").open_ended(),
        sample("incomplete", Sse, "data: {\"type\":\"response.incomplete\",\"response\":{\"usage\":{\"input_tokens\":3,\"output_tokens\":2}}}\n\n")
            .tokens(3, 2),
        sample("other fields", Sse, "retry: 10\nid: 3\ndata : {\"usage\":{\"prompt_tokens\":9}}\ndatas: x\nDATA: y\n\ndata: [DONE]\n\n"),
    ];
    for (name, events, tokens) in [
        ("OpenAI stream", &chat[..], (19, 10)),
        ("Responses stream", &responses[..], (37, 11)),
        ("Anthropic stream", &anthropic[..], (25, 15)),
    ] {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!(": hello\n\n{}\n\n", events.join("\n\n")).replace('\n', end);
            all.push(sample(name, Sse, text.clone()).tokens(tokens.0, tokens.1));
            all.push(
                sample(name, Sse, format!("\u{feff}{text}").replace(": ", ":")).tokens(tokens.0, tokens.1),
            );
        }
    }
    all
}

fn errors() -> Vec<Sample> {
    use Framing::{Json, Ndjson, Sse};
    vec![
        sample(
            "OpenRouter, rate limited",
            Json,
            json!({"error": {"message": "Rate limit exceeded: free-models-per-day", "code": 429, "metadata": {
                "headers": {"X-RateLimit-Limit": "50", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1741305600000",
                    "Content-Type": "application/json"},
                "provider_name": null}}, "user_id": "user_1"})
            .to_string(),
        )
        .error(429, "429")
        .hint("x-ratelimit-limit", "50")
        .hint("x-ratelimit-remaining", "0")
        .hint("x-ratelimit-reset", "1741305600000"),
        sample(
            "OpenRouter, its provider rate limited",
            Json,
            r#"{"error":{"code":429,"message":"Provider returned error","metadata":{"raw":"{\"error\":{\"code\":500}}","retry_after_seconds":17}}}"#,
        )
        .error(429, "429")
        .hint("retry-after", "17"),
        sample(
            "OpenRouter, mid-stream",
            Sse,
            "data: {\"choices\":[{\"delta\":{\"content\":\"H\"}}]}\n\ndata: {\"error\":{\"code\":\"502\",\"message\":\"x\"},\"choices\":[{\"finish_reason\":\"error\"}]}\n\ndata: [DONE]\n\n",
        )
        .error(502, "502"),
        sample(
            "OpenRouter, in a choice",
            Json,
            r#"{"choices":[{"index":0,"error":{"code":503,"message":"x","metadata":{"headers":{"Retry-After":"5"}}},"message":{"content":""}}],"usage":{"prompt_tokens":3,"completion_tokens":0}}"#,
        )
        .tokens(3, 0)
        .error(503, "503")
        .hint("retry-after", "5"),
        sample(
            "OpenAI",
            Json,
            r#"{"error":{"message":"Incorrect API key provided","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}"#,
        )
        .error(401, "invalid_api_key"),
        sample("OpenAI, no code", Json, r#"{"error":{"message":"x","type":"server_error","code":null}}"#)
            .error(502, "server_error"),
        sample(
            "Anthropic",
            Sse,
            "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n",
        )
        .error(503, "overloaded_error")
        .open_ended(),
        sample(
            "Responses, failed",
            Sse,
            "data: {\"type\":\"response.failed\",\"response\":{\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"x\"},\"usage\":null}}\n\n",
        )
        .error(429, "rate_limit_exceeded"),
        sample("Responses, error event", Sse, "data: {\"type\":\"error\",\"code\":\"insufficient_quota\",\"message\":\"x\"}\n\n")
            .error(402, "insufficient_quota")
            .open_ended(),
        sample("Google", Json, r#"{"error":{"code":1,"status":"RESOURCE_EXHAUSTED","message":"x"}}"#).error(429, "1"),
        sample("Ollama", Ndjson, "{\"message\":{},\"done\":false}\n{\"error\":\"model runner has stopped\"}\n")
            .error(502, "")
            .open_ended(),
        sample("Ollama, long", Json, format!(r#"{{"error":"unauthorized: {}"}}"#, "é\\n\\u00e9".repeat(500))).error(401, ""),
        sample("a bare code", Json, r#"{"error":429}"#).error(429, "429"),
        sample("a list", Json, r#"{"error":[null,{"code":404}]}"#).error(404, "404"),
        sample("the first counts", Ndjson, "{\"error\":{\"code\":429}}\n{\"error\":{\"code\":500}}\n")
            .error(429, "429")
            .open_ended(),
    ]
}

fn traps() -> Vec<Sample> {
    use Framing::{Json, Sse};
    let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let mut all: Vec<_> = [
        r#"{"error":null}"#,
        r#"{"error":false}"#,
        r#"{"error":""}"#,
        r#"{"error":{}}"#,
        r#"{"error":[]}"#,
        r#"{"error":0}"#,
        r#"{"response":{"error":null},"choices":[{"error":null},{"error":{}}]}"#,
        r#"{"choices":[{"message":{"error":{"code":429},"content":"{\"error\":{\"code\":429}}"}}]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"error\": \"x\", \"usage\":{\"prompt_tokens\":5}}"}}]}}]}"#,
        r#"{"message":{"content":"\\\",\"error\":\"x","tool_calls":[{"function":{"arguments":{"error":"x","usage":{"prompt_tokens":5}}}}]}}"#,
        r#"{"message":{"error":{"code":500}},"output":[{"error":"x"}],"metadata":{"error":"x"}}"#,
        r#"[{"error":{"code":429},"usage":{"prompt_tokens":5}}]"#,
        r#""{\"error\":{\"code\":429}}""#,
        r#"{"Error":"x","error ":"x","errors":["x"],"":"x"}"#,
        r#"{"usage":null}"#,
        r#"{"usage":{"prompt_tokens":null,"completion_tokens":"5"}}"#,
        r#"{"usage":{"prompt_tokens":-5,"completion_tokens":1.5}}"#,
        r#"{"usage":{"prompt_tokens":1e3,"completion_tokens":99999999999999999999999999}}"#,
        r#"{"usage":{"prompt_tokens":18446744073709551615,"completion_tokens":{"prompt_tokens":5}}}"#,
        r#"{"usage":[{"prompt_tokens":5}],"choices":{"0":{"error":"x"}}}"#,
        r#"{"usage":{"usage":{"prompt_tokens":5}},"data":{"usage":{"prompt_tokens":5}}}"#,
        r#"{"type":"message_stop","done":false}"#,
    ]
    .into_iter()
    .map(|body| sample("no error, no usage", Json, body))
    .collect();
    all.extend([
        sample("absurd numbers do not undo sane ones", Sse, "data: {\"usage\":{\"prompt_tokens\":4}}\n\ndata: {\"usage\":{\"prompt_tokens\":-1,\"completion_tokens\":null}}\n\n")
            .tokens(4, 0)
            .open_ended(),
        sample("done is Ollama's word", Sse, "data: {\"done\":true}\n\n").open_ended(),
        sample("a type deeper down", Sse, "data: {\"delta\":{\"type\":\"message_stop\"}}\n\n").open_ended(),
        sample("a type that is no text", Sse, "data: {\"type\":{\"type\":\"error\"},\"code\":\"x\"}\n\n").open_ended(),
        sample("a sentinel that is text", Sse, "data: \"[DONE]\"\n\ndata: [DONE]]\n\ndata: [DONE]              and more\n\n").open_ended(),
        sample("deep", Json, format!(r#"{{"a":{},"usage":{{"prompt_tokens":3}}}}"#, deep(100))).tokens(3, 0),
        sample("deeper", Json, format!(r#"{{"a":{},"usage":{{"prompt_tokens":3}}}}"#, deep(5_000))).tokens(3, 0),
        sample("deep text", Json, format!(r#"{{"a":{}"]\"\\"{},"usage":{{"prompt_tokens":3}}}}"#, "[".repeat(300), "]".repeat(300)))
            .tokens(3, 0),
        sample("deep and cut", Json, "[{\"a\":".repeat(5_000)).without_data(),
        sample("a long name", Json, format!(r#"{{"{}":{{"code":500}},"usage":{{"prompt_tokens":3}}}}"#, "error".repeat(100)))
            .tokens(3, 0),
        sample("what follows the document", Json, r#"{"usage":{"prompt_tokens":3}}{"error":"x"}"#).tokens(3, 0),
    ]);
    all
}

#[test]
fn samples_are_understood() {
    for Sample { name, framing, body, said } in samples() {
        assert_eq!(Said { documents: 0, ..whole(framing, &body) }, said, "{name}: {body:.300}");
    }
}

#[test]
fn cuts_do_not_matter() {
    for Sample { name, framing, body, said } in samples() {
        let bytes = body.as_bytes();
        let said = Said { documents: whole(framing, &body).documents, ..said };
        assert_eq!(read(framing, bytes.chunks(1)), said, "{name}, byte by byte");
        for cut in 0..=bytes.len().min(3_000) {
            let (head, tail) = bytes.split_at(cut);
            assert_eq!(read(framing, [head, tail]), said, "{name}, cut at {cut}");
        }
    }
}

#[test]
fn answers_come_as_soon_as_they_can() {
    let mut scanner = Scanner::new(Framing::Json);
    scanner.feed(br#"{"error":{"code":429}"#);
    assert_eq!((scanner.error(), scanner.saw_data()), (None, false));
    scanner.feed(b"}");
    assert!(scanner.is_done() && scanner.error().is_some());

    let mut scanner = Scanner::new(Framing::Sse);
    scanner.feed(b"data: {\"usage\":{\"prompt_tokens\":3}}\r\n\r");
    assert!(scanner.saw_data() && scanner.tokens().is_some() && !scanner.is_done());
    scanner.feed(b"\ndata: [DONE]\n\n");
    assert!(scanner.is_done());

    let mut scanner = Scanner::new(Framing::Ndjson);
    scanner.feed(b"{\"done\":true}\n");
    assert!(scanner.is_done());
    scanner.finish();
    scanner.feed(b"{\"error\":\"x\"}\n");
    scanner.finish();
    assert_eq!(scanner.error(), None, "nothing is read after the end");
}

#[test]
fn half_a_byte_order_mark_is_none() {
    let line = b"{\"eval_count\":3}\n";
    let marked = [&b"\xEF\xBB\xBF"[..], line].concat();
    let broken = [&b"\xEF\xBB"[..], line].concat();
    for size in [1, 100] {
        assert_eq!(read(Framing::Ndjson, marked.chunks(size)).tokens, Some((0, 3)));
        assert_eq!(read(Framing::Ndjson, broken.chunks(size)).tokens, None);
    }
}

#[test]
fn content_types_name_the_framing() {
    for (content_type, framing) in [
        ("application/json", Some(Framing::Json)),
        ("Application/JSON ; charset=utf-8", Some(Framing::Json)),
        ("application/problem+json", Some(Framing::Json)),
        (" text/event-stream;charset=utf-8", Some(Framing::Sse)),
        ("application/x-ndjson", Some(Framing::Ndjson)),
        ("application/json-lines", Some(Framing::Ndjson)),
        ("text/html", None),
        ("application/jsonp", None),
        ("", None),
    ] {
        assert_eq!(Framing::of(content_type), framing, "{content_type}");
    }
}

#[test]
fn memory_is_bounded() {
    assert!(size_of::<Scanner>() <= 768, "{}", size_of::<Scanner>());
    // Whatever an error says, only a little of it is kept.
    let long = "x".repeat(100_000);
    let headers: serde_json::Map<_, _> =
        (0..1_000).map(|n| (format!("x-ratelimit-{n}"), json!("9".repeat(100)))).collect();
    let mut scanner = Scanner::new(Framing::Ndjson);
    for code in [long.as_str(), "short"] {
        let error = json!({"code": code, "type": &long, "status": &long, "message": &long,
            "metadata": {"headers": &headers, "retry_after": &long}, &long: &long});
        scanner.feed(format!("{}\n", json!({"error": error, "code": &long, "type": &long})).as_bytes());
    }
    let error = scanner.error().unwrap();
    let kept: usize = error.hints.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    assert!(kept > 0 && kept <= 8 * 256, "{kept}");
    assert!(error.hints.capacity() <= 16);
    assert_eq!(error.code, None);
}

/// What a document says, found with a parser that holds all of it.
fn expected(document: &Value) -> Option<(u64, u64)> {
    let number = |path: &str| document.pointer(path).and_then(Value::as_u64);
    let greatest = |paths: [&str; 3]| paths.into_iter().filter_map(number).max();
    let prompt = greatest(["/usage/prompt_tokens", "/usage/input_tokens", "/prompt_eval_count"]);
    let completion = greatest(["/usage/completion_tokens", "/usage/output_tokens", "/eval_count"]);
    prompt.or(completion)?;
    Some((prompt.unwrap_or(0), completion.unwrap_or(0)))
}

fn expects_error(document: &Value) -> bool {
    let is_error = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Bool(true) => true,
        Value::Number(number) => number.as_i64() != Some(0),
        Value::String(text) => !text.is_empty(),
        Value::Object(fields) => !fields.is_empty(),
        Value::Array(_) => unreachable!("not generated"),
    };
    document.get("error").is_some_and(is_error)
        || document.get("type").and_then(Value::as_str).is_some_and(|kind| kind == "error")
}

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-3i64..1_000).prop_map(Value::from),
        (0i64..8).prop_map(|eighths| Value::from(0.125 + eighths as f64)),
        prop_oneof!["error|message_stop|usage|done", "\\PC{0,6}", "[\\\\\"\n{}\\[\\],:]{0,6}"]
            .prop_map(Value::from),
    ]
}

/// Documents of the names that matter, in places where they do and where they do not.
fn document() -> impl Strategy<Value = Value> {
    let name = || {
        prop::sample::select(vec![
            "usage",
            "error",
            "type",
            "code",
            "done",
            "prompt_tokens",
            "input_tokens",
            "output_tokens",
            "completion_tokens",
            "prompt_eval_count",
            "eval_count",
            "choice",
            "x\"y\\",
        ])
    };
    let object = move |inner: BoxedStrategy<Value>| {
        prop::collection::btree_map(name(), inner, 0..6).prop_map(|fields| {
            Value::Object(fields.into_iter().map(|(name, value)| (name.into(), value)).collect())
        })
    };
    let inner = scalar().prop_recursive(3, 24, 5, move |inner| {
        let list = prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from);
        prop_oneof![object(inner.boxed()), list]
    });
    object(inner.boxed()).prop_filter("a list of errors", |value| !value["error"].is_array())
}

proptest! {
    #[test]
    fn random_cuts_do_not_matter(
        which in any::<prop::sample::Index>(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let samples = samples();
        let Sample { framing, body, said, .. } = which.get(&samples);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        cuts.extend([0, body.len()]);
        cuts.sort_unstable();
        let chunks = cuts.windows(2).map(|pair| &body.as_bytes()[pair[0]..pair[1]]);
        let said = Said { documents: whole(*framing, body).documents, ..said.clone() };
        prop_assert_eq!(read(*framing, chunks), said);
    }

    #[test]
    fn noise_is_harmless(bytes in prop::collection::vec(any::<u8>(), 0..600), size in 1usize..64) {
        for framing in [Framing::Json, Framing::Sse, Framing::Ndjson] {
            prop_assert_eq!(read(framing, bytes.chunks(size)), read(framing, [&bytes[..]]));
        }
    }

    #[test]
    fn shaped_noise_is_harmless(
        words in prop::collection::vec(prop::sample::select(vec![
            "{", "}", "[", "]", ":", ",", "\"", "\\", "\n", "\r", "\r\n", "\n\n", "data:", "data: ", "event: ", "error",
            "\"error\"", "\"usage\":{", "\"prompt_tokens\":", "1", "-", "0", ".5", "e9", "true", "null", "fals", " ",
            "[DONE]", "\\u00", "\u{feff}", "é", "\u{1}", "\"metadata\":{\"headers\":{\"Retry-After\":\"1\"}}", "\"a\":",
            "{\"a\":\"b\"}", "\"done\":", "\"done\":false", "\"type\":", "\"eval_count\":1", "\"usage\":null", "\"message_stop\"",
            "data: {\"usage\":{\"prompt_tokens\":1}}\n\n", "data: {\"choices\":[]}\n\n",
        ]), 0..60),
        size in 1usize..16,
    ) {
        let text = words.concat();
        for framing in [Framing::Json, Framing::Sse, Framing::Ndjson] {
            prop_assert_eq!(read(framing, text.as_bytes().chunks(size)), whole(framing, &text));
        }
    }

    #[test]
    fn the_grammar_is_json(
        text in prop_oneof![
            "[\\[\\]{}:,\"\\\\ ab01.eE+-]{0,12}",
            "[-+0-9.eE]{1,8}",
            "\"([a-z]|\\\\[\"/bfnrtux0-9]|\\\\u[0-9a-g]{3,5}|\u{1})*\"?",
            "(true|false|null|tru|nul|falsee|[ ,\\[\\]]){1,4}",
            "(\\{\"a\":|\\[|\\{|[01],?|\\]|\\}|\"b\":?){0,8}",
        ],
    ) {
        let mut document = Document::new();
        document.feed(text.as_bytes());
        let is_json = serde_json::from_slice::<serde::de::IgnoredAny>(text.as_bytes()).is_ok();
        prop_assert_eq!(document.take().is_some(), is_json, "{}", text);
    }

    #[test]
    fn a_broken_document_says_nothing(
        document in document(),
        at in any::<prop::sample::Index>(),
        byte in prop::sample::select(b"{}[]:,\"\\ 0a-\x01".to_vec()),
    ) {
        let mut bytes = document.to_string().into_bytes();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        if serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_err() {
            // As a line: what follows the document breaks it too.
            bytes.push(b'\n');
            let said = read(Framing::Ndjson, [&bytes[..]]);
            prop_assert_eq!(said, Said { saw_data: true, documents: 1, ..Said::default() });
            // All that is one document is refused as one.
            bytes.pop();
            prop_assert_eq!(read(Framing::Json, [&bytes[..]]).tokens, read(Framing::Json, bytes.chunks(1)).tokens);
        }
    }

    #[test]
    fn documents_say_what_a_parser_finds(document in document(), pretty in any::<bool>(), size in 1usize..40) {
        let text = if pretty { format!("{document:#}") } else { document.to_string() };
        let said = read(Framing::Json, text.as_bytes().chunks(size));
        prop_assert!(said.is_done && said.saw_data);
        prop_assert_eq!(said.tokens, expected(&document), "{}", text);
        prop_assert_eq!(said.error.is_some(), expects_error(&document), "{}", text);
        // As a part of a stream, whole and byte by byte: what is passed over unread says nothing.
        let line = document.to_string();
        for (framing, text) in [
            (Framing::Json, line.clone()),
            (Framing::Ndjson, format!("{line}\n{line}\n")),
            (Framing::Sse, format!("data: {line}\n\ndata:{line}\r\n\r\n: a\n\nevent: error\ndata: {line}\n\n")),
            (Framing::Sse, format!("data: {line}\ndata: {line}\n\ndata: {line}\n\n\n")),
        ] {
            prop_assert_eq!(whole(framing, &text), read(framing, text.as_bytes().chunks(1)), "{}", text);
        }
    }
}
