//! How fast a body can be read while it is relayed: `cargo bench --bench scan`.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use keytide::upstream::scan::{Framing, Scanner};

/// As a socket hands it over.
const CHUNK: usize = 16 << 10;

fn bodies() -> Vec<(&'static str, Framing, String)> {
    let text = "The quick brown fox jumps over the lazy dog. ".repeat(20_000);
    let long = format!(
        r#"{{"id":"x","choices":[{{"index":0,"message":{{"role":"assistant","content":"{text}"}}}}],"usage":{{"prompt_tokens":12,"completion_tokens":34}}}}"#
    );
    let code =
        format!(r#"{{"message":{{"content":"{}"}}}}"#, r#"    let name = \"value\";\n"#.repeat(30_000));
    let vector = vec!["-0.012345678"; 60_000].join(",");
    let vectors = format!(r#"{{"data":[{{"embedding":[{vector}]}}],"usage":{{"prompt_tokens":5}}}}"#);
    let event = r#"data: {"id":"chatcmpl-9xyz","object":"chat.completion.chunk","created":1767225600,"model":"m","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}"#;
    let events = format!("{event}\n\n").repeat(5_000) + "data: [DONE]\n\n";
    let line = r#"{"model":"m","created_at":"2026-01-01T00:00:00Z","message":{"role":"assistant","content":" word"},"done":false}"#;
    let lines = format!("{line}\n").repeat(8_000);
    vec![
        ("long text", Framing::Json, long.clone()),
        ("long text in an event", Framing::Sse, format!("data: {long}\n\n")),
        ("escaped text", Framing::Json, code),
        ("embeddings", Framing::Json, vectors),
        ("short events", Framing::Sse, events),
        ("short lines", Framing::Ndjson, lines),
    ]
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for (name, framing, body) in bodies() {
        group.throughput(Throughput::Bytes(body.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let mut scanner = Scanner::new(framing);
                for chunk in black_box(body.as_bytes()).chunks(CHUNK) {
                    scanner.feed(chunk);
                }
                scanner.finish();
                black_box(scanner.tokens())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, scan);
criterion_main!(benches);
