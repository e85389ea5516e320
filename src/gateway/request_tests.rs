use super::*;

fn read(body: &[u8]) -> Result<Asked, ApiError> {
    Asked::read(Api::ChatCompletions, Bytes::copy_from_slice(body), false, |_| None)
}

#[test]
fn reads_model_and_stream_and_passes_the_body_untouched() {
    let body = br#" { "stream" : true, "model":"m\u0041\"x", "x": [1, {"model": 7}] } "#;
    let asked = read(body).unwrap();
    assert_eq!((&*asked.model, asked.stream), ("mA\"x", true));
    assert_eq!(&asked.body[..], body);
    let asked = Asked::read(Api::OllamaChat, br#"{"model":"m"}"#.as_slice().into(), false, |_| None).unwrap();
    assert!(asked.stream, "Ollama's own API streams unless told otherwise");
    assert!(!read(br#"{"model":"m","stream":null}"#).unwrap().stream);
}

#[test]
fn an_alias_changes_the_model_and_nothing_else() {
    let body = br#"{ "a": "model", "model" : "fast" , "b":1}"#;
    let asked = Asked::read(Api::ChatCompletions, body.as_slice().into(), false, |name| {
        (name == "fast").then_some("vendor/\"q\"")
    })
    .unwrap();
    assert_eq!(&asked.body[..], br#"{ "a": "model", "model" : "vendor/\"q\"" , "b":1}"#);
    assert_eq!(&*asked.model, "vendor/\"q\"");
}

#[test]
fn usage_is_asked_for_where_tokens_are_counted_and_nothing_else_changes() {
    let ask = |api, body: &str| {
        Asked::read(api, body.to_owned().into(), true, |name| (name == "fast").then_some("slow"))
    };
    let sent = |body: &str| {
        let asked = ask(Api::ChatCompletions, body).unwrap();
        (String::from_utf8(asked.body.to_vec()).unwrap(), asked.hides_usage)
    };
    for (body, changed) in [
        (
            " { \"model\":\"m\", \"stream\":true }",
            " {\"stream_options\":{\"include_usage\":true}, \"model\":\"m\", \"stream\":true }",
        ),
        (
            "{\"stream\":true,\"stream_options\": null,\"model\":\"fast\",\"x\":{}}",
            "{\"stream\":true,\"stream_options\": {\"include_usage\":true},\"model\":\"slow\",\"x\":{}}",
        ),
        (
            "{\"model\":\"fast\",\"stream\":true}",
            "{\"stream_options\":{\"include_usage\":true},\"model\":\"slow\",\"stream\":true}",
        ),
    ] {
        assert_eq!(sent(body), (changed.to_owned(), true));
        serde_json::from_str::<serde_json::Value>(changed).unwrap();
    }
    for same in [
        "{\"model\":\"m\"}",
        "{\"model\":\"m\",\"stream\":false,\"stream_options\":7}",
        "{\"model\":\"m\",\"stream\":true,\"stream_options\":{\"include_usage\":true}}",
    ] {
        assert_eq!(sent(same), (same.to_owned(), false));
    }
    // Other APIs say it anyway, and a caller without limits is not touched.
    let streamed = "{\"model\":\"m\",\"stream\":true}";
    for api in [Api::Responses, Api::Messages, Api::OllamaChat, Api::Embeddings] {
        let asked = ask(api, streamed).unwrap();
        assert!(asked.body == streamed && !asked.hides_usage, "{api:?}");
    }
    assert_eq!(read(streamed.as_bytes()).unwrap().body, streamed);
    // What one provider reads in one way and another in another would slip through.
    for bad in [
        "{\"model\":\"m\",\"stream\":true,\"stream_options\":{},\"stream_options\":{}}",
        "{\"model\":\"m\",\"stream\":true,\"Stream_Options\":{\"include_usage\":false}}",
        "{\"model\":\"m\",\"stream\":true,\"stream_options\":7}",
    ] {
        assert_eq!(ask(Api::ChatCompletions, bad).unwrap_err().param, Some("stream_options"), "{bad}");
        assert!(read(bad.as_bytes()).is_ok());
    }
}

#[test]
fn bad_bodies_are_told_what_is_wrong() {
    for (body, code) in [
        (b"".as_slice(), "invalid_json"),
        (b"{", "invalid_json"),
        (b"[\"m\"]", "invalid_json"),
        (b"\"model\"", "invalid_json"),
        (b"{\"model\":\"m\"} x", "invalid_json"),
        (b"{\"model\":\"m\",\"model\":\"n\"}", "invalid_json"),
        (b"{\"model\":\"m\",\"Model\":\"n\"}", "invalid_json"),
        (b"{\"name\":\"m\",\"Model\":\"n\"}", "invalid_json"),
        (b"{\"NAME\":\"m\",\"name\":\"n\"}", "invalid_json"),
        (b"{\"Model\":\"m\"}", "missing_model"),
        (b"{\"x\":\"\xff\"}", "invalid_utf8"),
        (b"{}", "missing_model"),
        (b"{\"model\":null}", "missing_model"),
        (b"{\"model\":\" \"}", "missing_model"),
        (b"{\"model\":7}", "invalid_type"),
        (b"{\"model\":{\"a\":1}}", "invalid_type"),
        (b"{\"model\":\"m\",\"stream\":\"yes\"}", "invalid_type"),
    ] {
        let error = read(body).unwrap_err();
        assert_eq!((error.code.as_str(), error.status.as_u16()), (code, 400), "{body:?}");
    }
    // Deep nesting is read without recursion.
    let deep = format!("{{\"model\":\"m\",\"x\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(read(deep.as_bytes()).is_ok());
}

#[test]
fn what_is_no_utf8_is_told_with_its_place() {
    for text in ["plain text, and more of it ", "ein Köter, 一把钥匙, 🔑 "] {
        let body = format!("{{\"model\":\"m\",\"x\":\"{}\"}}", text.repeat(40));
        for at in 0..body.len() {
            // A byte that is never there; a character that ends too early, also with the body.
            let mut wrong = body.clone().into_bytes();
            wrong[at] = 0xff;
            for wrong in
                [wrong, [&body.as_bytes()[..at], b"\xe4\xb8"].concat(), body.as_bytes()[..at].to_vec()]
            {
                let Err(place) = std::str::from_utf8(&wrong) else { continue };
                let error = read(&wrong).unwrap_err();
                assert_eq!(error.code.as_str(), "invalid_utf8");
                assert!(
                    error.message.contains(&format!("at byte {}.", place.valid_up_to())),
                    "{}",
                    error.message
                );
            }
        }
    }
}

#[test]
fn tokens_come_in_either_header() {
    let with = |name: &'static str, value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert(name, value.parse().unwrap());
        token_of(&headers).map(str::to_owned)
    };
    assert_eq!(with("authorization", "bearer  sk-a ").as_deref(), Some("sk-a"));
    assert_eq!(with("x-api-key", "sk-a").as_deref(), Some("sk-a"));
    assert_eq!(with("authorization", "Basic abc"), None);
    assert_eq!(with("authorization", "Bearer "), None);
}
