use std::pin::pin;

use futures_util::future::poll_immediate;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{coop::poll_proceed, yield_now},
};

use super::*;
use crate::upstream::late::LateWrites;

/// Ours and the provider's end of a connection.
async fn connection() -> (Http1, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let provider = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    (Http1::new(MaybeHttpsStream::Http(LateWrites::start().attach(ours))), provider)
}

async fn send(http1: &mut Http1, method: Method, body: impl Into<Bytes>) -> Result<Response<()>, Unanswered> {
    send_of(http1, method, &body.into()).await
}

async fn send_of(http1: &mut Http1, method: Method, body: &Bytes) -> Result<Response<()>, Unanswered> {
    let (path, host) = (PathAndQuery::from_static("/v1/x?y=z"), HeaderValue::from_static("a.example"));
    let headers = HeaderMap::from_iter([
        (header::ACCEPT, HeaderValue::from_static("*/*")),
        (header::CONNECTION, HeaderValue::from_static("close")),
        (header::CONTENT_LENGTH, HeaderValue::from_static("7")),
        (header::TRANSFER_ENCODING, HeaderValue::from_static("chunked")),
    ]);
    let head = Head { method: &method, path: &path, host: Some(&host), headers: &headers };
    http1.send(&head, body).await
}

async fn body(http1: &mut Http1) -> Result<String, AnswerError> {
    let mut all = Vec::new();
    while let Some(part) = poll_fn(|cx| http1.poll_frame(cx)).await {
        all.extend_from_slice(&part?);
    }
    Ok(String::from_utf8_lossy(&all).into_owned())
}

/// Reads a request of which the body is known.
async fn read(provider: &mut TcpStream, body: &str) -> String {
    let mut text = Vec::new();
    while !text.ends_with(format!("\r\n\r\n{body}").as_bytes()) {
        assert!(provider.read_buf(&mut text).await.unwrap() > 0, "no request came");
    }
    String::from_utf8(text).unwrap()
}

/// Asks once; the provider writes what it answers in these parts, and closes the connection if it does so after them.
async fn asked(parts: &[&[u8]], closes: bool) -> (Result<(Response<()>, String), AnswerError>, bool) {
    let (mut http1, mut provider) = connection().await;
    let serve = async {
        read(&mut provider, "{}").await;
        for part in parts {
            provider.write_all(part).await.unwrap();
            yield_now().await;
            yield_now().await;
        }
        if closes {
            provider.shutdown().await.unwrap();
        }
    };
    let ask = async {
        let response = send(&mut http1, Method::POST, "{}").await.map_err(|failed| {
            assert!(!failed.is_unsent);
            failed.error
        })?;
        Ok((response, body(&mut http1).await?))
    };
    let ((), answer) = tokio::join!(serve, ask);
    (answer, http1.is_ready())
}

#[tokio::test]
async fn requests_say_how_long_they_are_and_nothing_else_about_the_connection() {
    let (mut http1, mut provider) = connection().await;
    let rest = "host: a.example\r\naccept: */*\r\n";
    for (method, body, length) in [
        (Method::POST, "{}", "content-length: 2\r\n"),
        (Method::POST, "", "content-length: 0\r\n"),
        (Method::GET, "", ""),
    ] {
        let serve = async {
            let request = read(&mut provider, body).await;
            assert_eq!(request, format!("{method} /v1/x?y=z HTTP/1.1\r\n{rest}{length}\r\n{body}"));
            provider.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        };
        let (response, ()) = tokio::join!(send(&mut http1, method.clone(), body), serve);
        assert_eq!(response.unwrap().status(), StatusCode::NO_CONTENT);
        assert!(http1.has_ended() && http1.is_open());
    }
}

/// What comes, whether the provider closes then, the body, and whether the connection goes on.
const ANSWERS: [(&str, bool, &str, bool); 16] = [
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", false, "ok", true),
    ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false, "", true),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\ncontent-length: 2\r\n\r\nok", false, "ok", true),
    (
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nA: b\r\n\r\nHTTP/1.1 204 \r\n\r\n",
        false,
        "",
        true,
    ),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n1;a=b\r\no\r\n00A\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        false,
        "o0123456789",
        true,
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", false, "ok", true),
    (
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        false,
        "ok",
        false,
    ),
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", true, "ok", false),
    ("HTTP/1.1 200 OK\r\n\r\nok", true, "ok", false),
    ("HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", false, "ok", false),
    ("HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", false, "ok", true),
    ("HTTP/1.0 200 OK\r\nConnection: keep-alive, close\r\nContent-Length: 2\r\n\r\nok", false, "ok", false),
    ("HTTP/1.0 200 OK\r\nConnection: Keep-Alive\r\nContent-Length: 2\r\n\r\nok", false, "ok", true),
    ("HTTP/1.1 200 OK\r\nConnection: x, close\r\nContent-Length: 2\r\n\r\nok", false, "ok", false),
    ("HTTP/1.1 200 OK\nContent-Length: 2\n\nok", false, "ok", true),
    // A space to some readers, and no word that ends in chunks to others.
    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\u{a0}\r\n\r\nok", true, "ok", false),
];

#[tokio::test]
async fn answers_are_understood_wherever_they_are_cut() {
    for (text, closes, expected, goes_on) in ANSWERS {
        for cut in 0..text.len() {
            let (head, tail) = text.as_bytes().split_at(cut);
            let (answer, is_ready) = asked(&[head, tail], closes).await;
            let (response, body) = answer.unwrap();
            assert_eq!((&*body, is_ready), (expected, goes_on), "{text:?} cut at {cut}");
            assert!(response.status().is_success());
        }
    }
}

#[tokio::test]
async fn a_broken_answer_is_an_error_and_ends_the_connection() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let long = "x".repeat(MOST_HEAD);
    for (text, why) in [
        ("", "closed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", "closed"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no", "closed"),
        (&format!("{chunked}2\r\nok\r\n"), "closed"),
        (&format!("{chunked}2\r\nok\r\n0\r\n"), "closed"),
        (&format!("{chunked}2\r\no"), "closed"),
        (&format!("{chunked}2\r\nok!\r\n0\r\n\r\n"), "longer than it says"),
        (&format!("{chunked}2\r\nok\rx"), "longer than it says"),
        (&format!("{chunked}x\r\nok\r\n"), "no length"),
        (&format!("{chunked}2\r\nok\r\n\r\n\r\n"), "no length"),
        (&format!("{chunked}2\r\nok\r\n;x\r\n\r\n"), "no length"),
        (&format!("{chunked}11111111111111111\r\nok\r\n"), "no length"),
        (&format!("{chunked}1;{long}"), "no length"),
        (&format!("{chunked}0\r\n\0: b\r\n\r\n"), "no header"),
        (&format!("{chunked}0\r\na: {long}"), "no header"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "two lengths"),
        ("HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\u{a0}\r\n\r\nok", "no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok", "two lengths"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2,\r\n\r\nok", "no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", "no number"),
        ("HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\nok", "no number"),
        ("HTTP/1.1 101 Switching Protocols\r\n\r\n", "not asked for"),
        ("HTTP/2.0 200 OK\r\n\r\n", "no HTTP/1 answer"),
        ("<html></html>", "no HTTP/1 answer"),
        (&format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(MOST_HEADERS + 1)), "no HTTP/1 answer"),
        (&format!("HTTP/1.1 200 OK\r\na: {long}"), "too long"),
    ] {
        let (answer, is_ready) = asked(&[text.as_bytes()], true).await;
        let error = answer.expect_err(text).to_string();
        assert!(error.contains(why), "{error} of {:?}", &text[..text.len().min(80)]);
        assert!(!is_ready, "{text}");
    }
}

#[tokio::test]
async fn a_connection_on_which_more_came_is_not_used_again() {
    let (answer, is_ready) = asked(&[b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!"], false).await;
    assert_eq!((&*answer.unwrap().1, is_ready), ("ok", false));

    let (mut http1, mut provider) = connection().await;
    assert!(http1.is_open());
    provider.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
    while http1.is_open() {
        yield_now().await;
    }
    let (mut http1, mut provider) = connection().await;
    provider.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil").await.unwrap();
    yield_now().await;
    assert!(send(&mut http1, Method::POST, "{}").await.unwrap_err().is_unsent);
}

#[tokio::test]
async fn a_connection_that_was_closed_says_that_nothing_was_sent() {
    let (mut http1, provider) = connection().await;
    drop(provider);
    while http1.is_open() {
        yield_now().await;
    }
    assert!(send(&mut http1, Method::POST, "{}").await.unwrap_err().is_unsent);
}

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let (mut http1, mut provider) = connection().await;
    let large = "0123456789abcdef".repeat(1 << 16);
    let serve = async {
        let request = read(&mut provider, &large).await;
        assert!(request.contains(&format!("\r\ncontent-length: {}\r\n", large.len())));
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", large.len());
        provider.write_all(head.as_bytes()).await.unwrap();
        provider.write_all(large.as_bytes()).await.unwrap();
    };
    let ask = async {
        let response = send(&mut http1, Method::POST, large.clone()).await.unwrap();
        // Said once, by the body.
        assert!(!response.headers().contains_key(header::CONTENT_LENGTH));
        assert_eq!(http1.length(), Some(large.len() as u64));
        assert!(body(&mut http1).await.unwrap() == large);
    };
    tokio::join!(serve, ask);
    assert!(http1.is_open() && http1.received.bytes.capacity() > 0);
    http1.rest();
    assert_eq!(http1.received.bytes.capacity(), 0, "an idle connection keeps memory");
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_request_is_heard() {
    let (mut http1, mut provider) = connection().await;
    provider.write_all(b"").await.unwrap();
    let large = Bytes::from(vec![b'x'; 32 << 20]);
    let serve = async {
        let mut begin = [0; 5];
        provider.read_exact(&mut begin).await.unwrap();
        provider.write_all(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nno!").await.unwrap();
    };
    let ask = async {
        let response = send(&mut http1, Method::POST, large).await.unwrap();
        assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
        assert_eq!(body(&mut http1).await.unwrap(), "no!");
    };
    tokio::join!(serve, ask);
    assert!(!http1.is_ready(), "the rest of the request would be taken for another one");
}

#[tokio::test]
async fn a_provider_that_takes_nothing_is_told_of_once_it_closes() {
    let (mut http1, mut provider) = connection().await;
    let large = Bytes::from(vec![b'x'; 32 << 20]);
    let mut sending = pin!(send(&mut http1, Method::POST, large));
    assert!(poll_immediate(&mut sending).await.is_none());
    let mut begin = [0; 5];
    provider.read_exact(&mut begin).await.unwrap();
    assert!(poll_immediate(&mut sending).await.is_none());
    drop(provider);
    assert!(!sending.await.unwrap_err().is_unsent);
}

/// It may be large, and answers take their time.
#[tokio::test]
async fn what_was_sent_is_not_kept() {
    let (mut http1, mut provider) = connection().await;
    let text = "x".repeat(100_000);
    let body = Bytes::from(text.clone().into_bytes());
    let serve = async {
        read(&mut provider, &text).await;
        assert!(body.is_unique(), "kept while its answer is waited for");
        provider.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    };
    let ((), response) = tokio::join!(serve, send_of(&mut http1, Method::POST, &body));
    response.unwrap();
    // A small one is copied behind its head.
    let text = "x".repeat(4_000);
    let serve = async {
        read(&mut provider, &text).await;
        provider.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    };
    let ((), response) = tokio::join!(serve, send(&mut http1, Method::POST, text.clone()));
    response.unwrap();
    assert_eq!(http1.unsent.head.capacity(), 0);
}

/// A task that has done much in one turn learns nothing of its connections before the next one.
#[tokio::test]
async fn a_connection_that_nobody_could_look_at_is_not_taken_for_open() {
    let (mut http1, provider) = connection().await;
    drop(provider);
    while http1.is_open() {
        yield_now().await;
    }
    let mut sending = pin!(send(&mut http1, Method::POST, "{}"));
    let mut is_spent = false;
    let sent = poll_fn(|cx| {
        while !is_spent && has_budget_remaining() {
            assert!(poll_proceed(cx).map(|spent| spent.made_progress()).is_ready());
        }
        is_spent = true;
        sending.as_mut().poll(cx)
    });
    assert!(sent.await.unwrap_err().is_unsent);
}

/// The end of a body is known with its last part.
#[tokio::test]
async fn nobody_waits_for_an_end_that_is_here() {
    for text in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
    ] {
        let (mut http1, mut provider) = connection().await;
        provider.write_all(b"").await.unwrap();
        let serve = async {
            read(&mut provider, "{}").await;
            provider.write_all(text.as_bytes()).await.unwrap();
        };
        let ((), response) = tokio::join!(serve, send(&mut http1, Method::POST, "{}"));
        response.unwrap();
        assert!(!http1.has_ended());
        assert_eq!(poll_fn(|cx| http1.poll_frame(cx)).await.unwrap().unwrap(), "ok");
        assert!(http1.has_ended() && http1.is_ready());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever comes ends in an answer or an error.
    #[test]
    fn corruption_is_harmless(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
    ) {
        let mut text = which.get(&ANSWERS).0.as_bytes().to_vec();
        let at = at.index(text.len());
        text[at] = byte;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (head, tail) = text.split_at(at);
            let _either = asked(&[head, tail], true).await;
        });
    }
}
