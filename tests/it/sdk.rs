//! The official client libraries, unchanged, against keytide: what their users see, and that the books agree
//! with the provider to the last attempt. The scripts are in `tests/sdk`; each prints one line of JSON.

use std::{
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use keytide::{
    demo::upstream::{Behaviour, Count, StatusReply, Tokens, Upstream},
    model::{Counts, KeyId, Timestamp},
};
use serde_json::{Value, json};

use crate::harness::{Keytide, Setup, TOKEN, upstream};

/// Providers that fail in one way each, with so many keys that each request meets fresh ones.
const FAILING: [&str; 6] = ["failing", "hidden", "dead", "breaking", "late", "stalling"];
const KEYS: usize = 8;
/// Statuses that are the request's fault: the key has worked.
const REQUEST_FAULTS: [u16; 6] = [400, 404, 409, 413, 415, 422];
/// A list of models is keytide's own call, and none of its books' business.
const LISTS: [&str; 2] = ["/v1/models", "/api/tags"];
const PATIENCE: Duration = Duration::from_secs(120);

fn behaviour(provider: &str) -> Behaviour {
    match provider {
        "failing" => Behaviour::status(500),
        "hidden" => Behaviour::ErrorIn200 { code: 429 },
        "dead" => Behaviour::Dead,
        "breaking" => Behaviour::BrokenStream { after: 3 },
        "late" => Behaviour::ErrorMidStream { after: 3, code: 502 },
        "stalling" => Behaviour::Stall { after: 3 },
        "limited" => StatusReply::new(429).retry_after("1").into(),
        "retrying" => Behaviour::Cycle(vec![behaviour("limited"), Behaviour::Good]),
        _ => Behaviour::Good,
    }
}

fn keys_of(provider: &str) -> Vec<String> {
    let count = match provider {
        "empty" => 0,
        // No other key may step in.
        "limited" | "retrying" => 1,
        _ => KEYS,
    };
    (0..count).map(|n| format!("{provider}-{n}-0123456789abcdef")).collect()
}

fn providers() -> impl Iterator<Item = &'static str> {
    ["ollama", "openrouter", "empty", "limited", "retrying"].into_iter().chain(FAILING)
}

struct World {
    upstream: Upstream,
    keytide: Keytide,
}

impl World {
    async fn new() -> Self {
        let upstream = upstream().await;
        let base = upstream.base_url();
        let mut extra = String::new();
        for name in providers().filter(|name| !matches!(*name, "ollama" | "openrouter")) {
            extra += &format!(
                "[providers.{name}]\nbase_url = \"{base}\"\nollama_native = true\nretry_backoff = \"10ms\"\n\
                 max_attempts = 2\n"
            );
        }
        let mut setup = Setup::new(&upstream, &extra)
            .token("ollama", "sk-narrow-0123456789", |token| {
                token.limits.allowed_models = vec!["other-*".into()]
            })
            .token("ollama", "sk-once-0123456789", |token| token.limits.requests_per_minute = Some(1))
            .token("ollama", "sk-daily-0123456789", |token| token.limits.requests_per_day = Some(1))
            .token("ollama", "sk-old-0123456789", |token| token.expires_at = Some(Timestamp(1)));
        setup.config.server.gateway.max_body = 1_000_000;
        for name in providers() {
            for key in keys_of(name) {
                upstream.set_behaviour(key.as_str(), behaviour(name));
                setup = setup.key(name, &key, |_| {});
            }
            if name != "ollama" {
                setup = setup.token(name, TOKEN, |_| {});
            }
        }
        Self { keytide: setup.start().await, upstream }
    }

    /// Every attempt, every request and every token: as the provider counted them, and as keytide did.
    /// `requests` is how many of a provider's callers saw it end well, badly, or left.
    async fn agree(self, requests: &[(&str, Counts)]) {
        self.agree_but_for(requests, Tokens::default()).await;
    }

    /// `early` are the tokens that each broken stream had told of before it broke: the provider counts only
    /// those of whole answers.
    async fn agree_but_for(self, requests: &[(&str, Counts)], early: Tokens) {
        let tally = self.upstream.tally();
        tokio::time::timeout(Duration::from_secs(20), tally.idle()).await.expect("an attempt never ended");
        for (provider, expected) in requests {
            let books = self.keytide.settled(provider, expected.total()).await;
            assert_eq!(books.total.counts, *expected, "{provider}: requests");
            let mut sum = Count::default();
            for key in keys_of(provider) {
                let seen = tally.sum(|of, at| of == key && !LISTS.contains(&at));
                let at_fault: u64 = REQUEST_FAULTS.iter().map(|code| seen.status(*code)).sum();
                let counted = books.keys.get(&KeyId::derive(provider, &key)).copied().unwrap_or_default();
                let expected = Counts {
                    success: seen.completed,
                    failure: seen.failed + seen.broken - at_fault,
                    other: at_fault + seen.cancelled,
                };
                assert_eq!(counted.counts, expected, "{provider}: attempts of {key}");
                sum += &seen;
            }
            assert_eq!(books.total.counts.success, sum.completed, "{provider}: proper answers");
            let mut tokens = sum.reported;
            if matches!(*provider, "breaking" | "late") {
                tokens += early;
            }
            let counted =
                Tokens { prompt: books.total.prompt_tokens, completion: books.total.completion_tokens };
            assert_eq!(counted, tokens, "{provider}: tokens");
        }
        for provider in providers().filter(|name| !requests.iter().any(|(of, _)| of == name)) {
            assert_eq!(self.keytide.books(provider).total.counts, Counts::default(), "{provider}");
        }
        self.keytide.stop().await;
    }

    async fn run(&self, program: Program, script: &str) -> Value {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(script);
        let mut command = program.command();
        command.arg(path).args([&self.keytide.url, TOKEN]);
        // The libraries read settings and proxies from the environment.
        command.env_remove("OPENAI_API_KEY").env_remove("OPENAI_BASE_URL").env_remove("OLLAMA_HOST");
        for proxy in ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"] {
            command.env_remove(proxy);
        }
        let child = command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("NO_PROXY", "*")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program:?} cannot be started: {error}; run scripts/test"));
        let ended = tokio::task::spawn_blocking(move || child.wait_with_output());
        let output = tokio::time::timeout(PATIENCE, ended).await.expect("the script hangs").unwrap().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{script} failed:\n{err}\n{out}");
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{script} printed no JSON ({error}): {out}"))
    }
}

#[derive(Clone, Copy, Debug)]
enum Program {
    Python,
    Node,
}

impl Program {
    /// `None` where somebody said that the client libraries are to be left out. Whoever did not say so has
    /// to provide them: a test that runs nothing must not pass.
    fn wanted(self) -> Option<Self> {
        if std::env::var_os("SDK_TESTS").is_some_and(|value| value == "skip") {
            eprintln!("SDK_TESTS=skip: {self:?}'s client libraries were not run");
            return None;
        }
        let variable = self.variable();
        assert!(
            std::env::var_os(variable).is_some_and(|value| !value.is_empty()),
            "{variable} is not set: run scripts/test, which installs the client libraries and sets it, \
             or set SDK_TESTS=skip to leave them out"
        );
        Some(self)
    }

    const fn variable(self) -> &'static str {
        match self {
            Self::Python => "SDK_PYTHON",
            Self::Node => "SDK_NODE_MODULES",
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Python => Command::new(std::env::var_os(self.variable()).unwrap_or_default()),
            // It reads the variable itself.
            Self::Node => Command::new("node"),
        }
    }
}

const fn counts(success: u64, failure: u64, other: u64) -> Counts {
    Counts { success, failure, other }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_for_python() {
    let Some(python) = Program::Python.wanted() else { return };
    let world = World::new().await;
    let seen = world.run(python, "openai_python.py").await;
    let call = json!(["tide_at", {"place": "tide", "days": 1}]);
    let expected = json!({
        "models": {
            "listed": ["demo-small", "demo-large", "demo/tools", "demo-embed"],
            "one": ["demo/tools", "model"],
        },
        "whole": {
            "object": "chat.completion", "finish": "stop", "words_are_tokens": true, "prompt_tokens": 5,
            "request_id": true,
        },
        "streamed": {"same_text": true, "in_pieces": true, "usage": 5, "no_usage": true},
        "tools": {
            "whole": call,
            "streamed": ["tide_at", {"place": "tide", "days": 1}, "tool_calls"],
            "answered": "stop",
        },
        "embeddings": {"count": 2, "dimensions": 8, "same": true},
        "completions": {"finish": "length", "same_text": true},
        "responses": {
            "status": "completed", "same_text": true, "ends": "response.completed", "tokens": 2,
            "call": ["function_call", "tide_at", {"place": "tide", "days": 1}],
        },
        "by_name": "stop",
        "x_api_key": "stop",
        "async": {"same_text": true, "ends": "response.completed", "refused": "BadRequestError"},
        "errors": {
            "token": "AuthenticationError 401 invalid_api_key",
            "expired": "AuthenticationError 401 token_expired",
            "model": "PermissionDeniedError 403 model_not_allowed",
            "provider": "NotFoundError 404 unknown_provider",
            "retrieve": "NotFoundError 404 model_not_found",
            "path": "NotFoundError 404 unknown_path",
            "empty_model": "BadRequestError 400 missing_model",
            "too_large": "APIStatusError 413 body_too_large",
            "upstream": [
                "BadRequestError 400 400", "NotFoundError 404 404", "ConflictError 409 409",
                "APIStatusError 413 413", "APIStatusError 415 415", "UnprocessableEntityError 422 422",
            ],
            "token_limit": ["chat.completion", "RateLimitError 429 rate_limit_exceeded"],
            "no_keys": "InternalServerError 503 no_available_keys",
            "dead_keys": "InternalServerError 503 keys_rejected",
            "failing": "InternalServerError 500 500",
            "hidden": "RateLimitError 429 rate_limit_exceeded",
            "hidden_stream": "RateLimitError 429 rate_limit_exceeded",
        },
        "rate_limits": {
            "refused": "RateLimitError 429 rate_limit_exceeded, again after 1 s",
            "retried": "stop",
        },
        "daily": {
            "first": ["1", "0"], "code": "daily_requests_exceeded", "kind": "rate_limit_error", "limit": 1,
            "remaining": "0", "reset": true, "retry_after": true,
        },
        "broken": "APIError upstream_broken after 3",
        "broken_responses": "APIError upstream_broken after 3",
        "broken_whole": "InternalServerError 502 upstream_broken",
        "late": "APIError 502 after 3",
        "leaves": "left",
    });
    assert_eq!(seen, expected, "{seen:#}");
    world
        .agree(&[
            ("ollama", counts(19, 6, 0)),
            ("openrouter", counts(18, 1, 0)),
            ("limited", counts(0, 1, 0)),
            ("retrying", counts(1, 1, 0)),
            ("empty", counts(0, 1, 0)),
            ("dead", counts(0, 1, 0)),
            ("failing", counts(0, 1, 0)),
            ("hidden", counts(0, 2, 0)),
            ("breaking", counts(0, 3, 0)),
            ("late", counts(0, 1, 0)),
            ("stalling", counts(0, 0, 1)),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ollama_for_python() {
    let Some(python) = Program::Python.wanted() else { return };
    let world = World::new().await;
    let seen = world.run(python, "ollama_python.py").await;
    let call = json!(["tide_at", {"place": "tide", "days": 1}]);
    let expected = json!({
        "lists": {
            "models": ["demo-small", "demo-large", "demo/tools", "demo-embed"],
            "capabilities": ["completion", "tools", "embedding"],
        },
        "chats": {
            "done": "stop", "words_are_tokens": true, "same_text": true, "same_tokens": true,
            "in_pieces": true,
        },
        "generates": {"same_text": true, "done": true},
        "tools": {"whole": call, "streamed": call},
        "embeds": {"count": 2, "same": true},
        "async": {"same_text": true, "missing": 404},
        "x_api_key": "stop",
        // Each a ollama.ResponseError with its status, and a reason.
        "errors": {
            "token": [401, true],
            "model": [403, true],
            "upstream": [[400, true], [404, true], [413, true], [422, true]],
            "upstream_stream": [404, true],
            "path": [404, true],
            "limited": [429, true],
            "no_keys": [503, true],
            "dead_keys": [503, true],
            "failing": [500, true],
            "hidden": [429, true],
        },
        "broken": [true, true],
        "late": [true, true],
    });
    assert_eq!(seen, expected, "{seen:#}");
    world
        .agree(&[
            ("ollama", counts(27, 6, 0)),
            ("limited", counts(0, 1, 0)),
            ("empty", counts(0, 1, 0)),
            ("dead", counts(0, 1, 0)),
            ("failing", counts(0, 1, 0)),
            ("hidden", counts(0, 1, 0)),
            ("breaking", counts(0, 1, 0)),
            ("late", counts(0, 1, 0)),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_over_plain_http() {
    let Some(python) = Program::Python.wanted() else { return };
    let world = World::new().await;
    let seen = world.run(python, "messages_python.py").await;
    let expected = json!({
        "whole": {"stop": "end_turn", "words_are_tokens": true, "same_text": true, "ends": "message_stop"},
        "tools": ["tide_at", {"place": "tide"}, {"place": "tide"}],
        "bearer": 200,
        "token": [401, true, true],
        "upstream": [400, true, true],
        "no_keys": [503, true, true],
        "failing": [500, true, true],
        "broken": "error",
        "late": "error",
    });
    assert_eq!(seen, expected, "{seen:#}");
    // Anthropic's streams tell of tokens in their first event already.
    let early = Tokens { prompt: 5, completion: 1 };
    let requests = [
        ("ollama", counts(5, 1, 0)),
        ("empty", counts(0, 1, 0)),
        ("failing", counts(0, 1, 0)),
        ("breaking", counts(0, 1, 0)),
        ("late", counts(0, 1, 0)),
    ];
    world.agree_but_for(&requests, early).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn openai_for_node() {
    let Some(node) = Program::Node.wanted() else { return };
    let world = World::new().await;
    let seen = world.run(node, "openai_node.mjs").await;
    let call = json!(["tide_at", {"place": "tide", "days": 1}]);
    let expected = json!({
        "models": {
            "listed": ["demo-small", "demo-large", "demo/tools", "demo-embed"],
            "one": ["demo/tools", "model"],
        },
        "whole": {
            "finish": "stop", "words_are_tokens": true, "same_text": true, "same_tokens": true,
            "request_id": true,
        },
        "tools": {"whole": call, "streamed": call},
        "embeddings": {"count": 2, "dimensions": 8, "same": true},
        "responses": {"status": "completed", "same_text": true, "ends": "response.completed"},
        "x_api_key": 1,
        "errors": {
            "token": "AuthenticationError 401 invalid_api_key",
            "model": "PermissionDeniedError 403 model_not_allowed",
            "retrieve": "NotFoundError 404 model_not_found",
            "too_large": "APIError 413 body_too_large",
            "upstream": [
                "BadRequestError 400 400", "NotFoundError 404 404", "ConflictError 409 409",
                "UnprocessableEntityError 422 422",
            ],
            "no_keys": "InternalServerError 503 no_available_keys",
            "dead_keys": "InternalServerError 503 keys_rejected",
            "failing": "InternalServerError 500 500",
            "hidden": "RateLimitError 429 rate_limit_exceeded",
        },
        "rate_limits": {
            "refused": "RateLimitError 429 rate_limit_exceeded, again after 1 s",
            "retried": "stop",
        },
        "broken": "APIError upstream_broken after 3",
        "broken_responses": "APIError upstream_broken after 3",
        "late": "APIError 502 after 3",
        "leaves": "left",
    });
    assert_eq!(seen, expected, "{seen:#}");
    world
        .agree(&[
            ("ollama", counts(9, 4, 0)),
            ("openrouter", counts(16, 0, 0)),
            ("limited", counts(0, 1, 0)),
            ("retrying", counts(1, 1, 0)),
            ("empty", counts(0, 1, 0)),
            ("dead", counts(0, 1, 0)),
            ("failing", counts(0, 1, 0)),
            ("hidden", counts(0, 1, 0)),
            ("breaking", counts(0, 2, 0)),
            ("late", counts(0, 1, 0)),
            ("stalling", counts(0, 0, 1)),
        ])
        .await;
}
