use std::{collections::VecDeque, sync::Arc};

use futures_util::future::poll_immediate;
use http::Response;
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{oneshot, watch},
    task::yield_now,
};

use super::*;
use crate::{
    gateway::{Body, io::Activity, options::Options},
    upstream::late::LateWrites,
};

const DAY: Duration = Duration::from_secs(86_400);

/// Our end of a connection, and the caller's.
async fn connection() -> (TokioIo<TimedIo>, TcpStream) {
    connection_with(Options { write_timeout: DAY, ..Options::default() }).await
}

async fn connection_with(options: Options) -> (TokioIo<TimedIo>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let caller = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (ours, _) = listener.accept().await.unwrap();
    let io = TimedIo::new(LateWrites::start().attach(ours), Arc::new(Activity::default()), &options);
    (TokioIo::new(io), caller)
}

fn unusual(received: &str, is_first: bool) -> End {
    End::Unusual { received: received.to_owned().into(), is_first }
}

fn never() -> (watch::Sender<Option<Instant>>, Stop) {
    let (sender, receiver) = watch::channel(None);
    (sender, Stop::new(receiver))
}

/// Answers with the path and the body that it got.
async fn echo(request: Box<Incoming>) -> Outgoing {
    let path = request.head.uri.to_string();
    let body = request.body.collect().await.unwrap().to_bytes();
    Box::new(Response::new(Body::full([path.as_bytes(), b" ", &body].concat())))
}

const PATH: &str = "/v1/chat/completions";

fn request(body: &str) -> String {
    format!("POST {PATH}?a=b HTTP/1.1\r\nHost: here\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// What a caller gets who sends these parts, one after the other, and then nothing more; and how it ended.
async fn served(parts: &[&[u8]]) -> (String, io::Result<End>) {
    let (mut io, mut caller) = connection().await;
    let (_sender, mut stop) = never();
    let serve = async {
        // However slow the machine is.
        let end = Connection::new(&mut io, DAY).serve(&mut stop, echo).await;
        // Whatever is left goes out.
        drop(io);
        end
    };
    let ask = async {
        for part in parts {
            caller.write_all(part).await.unwrap();
            yield_now().await;
            yield_now().await;
        }
        caller.shutdown().await.unwrap();
        let mut answers = String::new();
        caller.read_to_string(&mut answers).await.unwrap();
        answers
    };
    let (end, answers) = tokio::join!(serve, ask);
    (answers, end)
}

/// The bodies of answers whose length is declared.
fn bodies(mut answers: &str) -> Vec<String> {
    let mut all = Vec::new();
    while let Some((head, rest)) = answers.split_once("\r\n\r\n") {
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n") && head.contains("\r\ndate: "), "{head}");
        let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
        let (body, rest) = rest.split_at(length.parse().unwrap());
        all.push(body.to_owned());
        answers = rest;
    }
    assert_eq!(answers, "");
    all
}

#[test]
fn only_what_is_known_all_about_is_usual() {
    let usual = |text: &str| match parse(text.as_bytes()) {
        Parsed::Usual(usual) => Some((usual.length, usual.body)),
        Parsed::Unusual => None,
        Parsed::Partial => panic!("{text} is whole"),
    };
    let with = |line: &str| format!("POST {PATH} HTTP/1.1\r\nhost: a\r\n{line}\r\n\r\n");
    for (line, body) in [
        ("content-length: 7", 7),
        ("Content-Length:7", 7),
        ("content-length: 0", 0),
        ("x: y", 0),
        ("connection: Keep-Alive", 0),
        ("authorization: Bearer sk", 0),
        ("content-length: 131072", 131_072),
    ] {
        assert_eq!(usual(&with(line)), Some((with(line).len(), body)), "{line}");
    }
    for line in [
        "content-length: 131073",
        "content-length: +7",
        "content-length: 7, 7",
        "content-length: ",
        "content-length: 99999999999999999999999",
        "content-length: 7\r\ncontent-length: 7",
        "transfer-encoding: chunked",
        "transfer-encoding: identity",
        "content-length: 7\r\ntransfer-encoding: chunked",
        "connection: close",
        "connection: keep-alive, x-mine",
        "connection: upgrade",
        "upgrade: h2c",
        "expect: 100-continue",
        "te: trailers",
        "bad name: x",
        "x : y",
        ": y",
        "x: \u{1}",
        " folded: x",
    ] {
        assert_eq!(usual(&with(line)), None, "{line}");
    }
    for text in [
        "GET /v1/models HTTP/1.1\r\n\r\n",
        "GET /v1/chat/completions HTTP/1.1\r\n\r\n",
        "post /v1/chat/completions HTTP/1.1\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.0\r\n\r\n",
        "POST http://a/v1/chat/completions HTTP/1.1\r\n\r\n",
        "POST /v1/models HTTP/1.1\r\n\r\n",
        "POST /v1/nothing HTTP/1.1\r\n\r\n",
        "POST /admin/tokens HTTP/1.1\r\n\r\n",
        "POST /v1/chat/completions?\u{7f} HTTP/1.1\r\n\r\n",
        "POST * HTTP/1.1\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "\u{16}\u{3}\u{1}",
        &with(&"x: y\r\n".repeat(MOST_HEADERS)),
    ] {
        assert_eq!(usual(text), None, "{text}");
    }
    let long = format!("POST {PATH} HTTP/1.1\r\nx: {}", "y".repeat(MOST_HEAD));
    assert!(matches!(parse(long.as_bytes()), Parsed::Unusual));
    assert!(matches!(parse(&long.as_bytes()[..MOST_HEAD]), Parsed::Partial));
}

#[tokio::test]
async fn requests_are_answered_wherever_they_are_cut() {
    let (one, two) = (request("{}"), request("second"));
    let both = [one.as_bytes(), two.as_bytes()].concat();
    for cut in 0..=both.len() {
        let (answers, end) = served(&[&both[..cut], &both[cut..]]).await;
        assert_eq!(bodies(&answers), [format!("{PATH}?a=b {{}}"), format!("{PATH}?a=b second")], "at {cut}");
        assert_eq!(end.unwrap(), End::Over);
    }
}

#[tokio::test]
async fn large_bodies_come_whole_and_many_requests_at_once_in_their_order() {
    let large = "0123456789".repeat(13_000);
    let all: Vec<String> = (0..300).map(|n| request(&format!("number {n}"))).collect();
    let text = [request(&large), all.concat(), request(&large)].concat();
    let parts: Vec<&[u8]> = text.as_bytes().chunks(5_000).collect();
    let (answers, end) = served(&parts).await;
    let expected = std::iter::once(large.clone()).chain((0..300).map(|n| format!("number {n}")));
    let expected: Vec<String> = expected.chain([large]).map(|body| format!("{PATH}?a=b {body}")).collect();
    assert!(bodies(&answers) == expected);
    assert_eq!(end.unwrap(), End::Over);
}

#[tokio::test]
async fn a_caller_who_asks_much_at_once_leaves_others_their_turn() {
    let (mut io, mut caller) = connection().await;
    let (_sender, mut stop) = never();
    let mut turns = 0;
    tokio::spawn(async move {
        caller.write_all(request("").repeat(2_000).as_bytes()).await.unwrap();
        let mut answers = Vec::new();
        caller.shutdown().await.unwrap();
        caller.read_to_end(&mut answers).await.unwrap();
    });
    let mut serving = pin!(serve(&mut io, &mut stop, |_| async { Box::new(Response::new(Body::full("x"))) }));
    while poll_immediate(&mut serving).await.is_none() {
        turns += 1;
        yield_now().await;
    }
    assert!(turns > 10, "{turns}");
}

#[tokio::test]
async fn what_is_unusual_is_handed_on_with_all_that_has_come() {
    for other in [
        "GET /console HTTP/1.1\r\nhost: a\r\n\r\nand more",
        "nonsense\r\n\r\n",
        "POST /v1/chat/completions HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    ] {
        let text = [request("first").as_str(), other].concat();
        let (answers, end) = served(&[text.as_bytes()]).await;
        assert_eq!(bodies(&answers), [format!("{PATH}?a=b first")]);
        assert_eq!(end.unwrap(), unusual(other, false));
    }
    // A caller who has gone in the midst of a request.
    let text = request("{}");
    for end in 1..text.len() {
        let (answers, ended) = served(&[&text.as_bytes()[..end]]).await;
        assert_eq!((answers.as_str(), ended.unwrap()), ("", unusual(&text[..end], true)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_slow_is_for_others_to_wait_for() {
    let large = request(&"0123456789abc".repeat(8_000));
    for (text, cut) in [(request("{}"), request("{}").len() - 1), (large, 60_000)] {
        let (mut io, mut caller) = connection().await;
        let (_sender, mut stop) = never();
        let (begun, rest) = text.split_at(cut);
        caller.write_all(begun.as_bytes()).await.unwrap();
        let before = Instant::now();
        let end = serve(&mut io, &mut stop, echo).await.unwrap();
        assert!(end == unusual(begun, true), "{} bytes of {}", begun.len(), text.len());
        let waited = before.elapsed();
        assert!(waited >= AT_HAND && waited < 2 * AT_HAND, "{waited:?}");
        // And they do read it.
        let mut io = io.into_inner();
        io.put_back(begun.to_owned().into());
        let mut io = TokioIo::new(io);
        caller.write_all(rest.as_bytes()).await.unwrap();
        let mut read = vec![0; text.len()];
        io.read_exact(&mut read).await.unwrap();
        assert!(String::from_utf8(read).unwrap() == text);
    }
}

#[tokio::test]
async fn a_caller_who_leaves_waits_no_longer_and_one_who_asks_on_does() {
    let (mut io, mut caller) = connection().await;
    let (_sender, mut stop) = never();
    let (answer, answered) = oneshot::channel::<()>();
    let mut answered = Some(answered);
    let mut serving = pin!(serve(&mut io, &mut stop, |_| {
        let answered = answered.take();
        async move {
            match answered {
                Some(answered) => _ = answered.await,
                None => std::future::pending().await,
            }
            Box::new(Response::new(Body::full("x")))
        }
    }));
    caller.write_all(request("one").as_bytes()).await.unwrap();
    caller.write_all(request("two").as_bytes()).await.unwrap();
    for _ in 0..9 {
        assert!(poll_immediate(&mut serving).await.is_none());
        yield_now().await;
    }
    answer.send(()).unwrap();
    let mut first = [0; 17];
    tokio::select! {
        _ = &mut serving => panic!("it ended"),
        read = caller.read_exact(&mut first) => assert_eq!(read.unwrap(), 17),
    }
    assert_eq!(&first, b"HTTP/1.1 200 OK\r\n");
    drop(caller);
    // With the second request it is told what the first one left unread: an end, or that it was reset.
    assert!(serving.await.is_err());
}

/// Parts that are there, and a length that is claimed.
struct Parts(VecDeque<Bytes>, Option<u64>);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        // Each second time there is nothing yet.
        if self.0.front().is_some_and(|part| part == "later") {
            self.0.pop_front();
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(self.0.pop_front().map(|part| Ok(Frame::data(part))))
    }

    fn size_hint(&self) -> SizeHint {
        self.1.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// What a caller reads of an answer with these parts, slowly.
async fn relayed(parts: Vec<Bytes>, length: Option<u64>, status: StatusCode) -> (Vec<u8>, io::Result<End>) {
    let (mut io, mut caller) = connection().await;
    let (sender, mut stop) = never();
    let mut body = Some(Body::operator(axum::body::Body::new(Parts(parts.into(), length))));
    caller.write_all(request("").as_bytes()).await.unwrap();
    let serve = async {
        let end = serve(&mut io, &mut stop, |_| {
            // Whoever has gone is answered no more, so it is for us to end it.
            sender.send_replace(Some(Instant::now()));
            let mut answer = Box::new(Response::new(body.take().unwrap()));
            *answer.status_mut() = status;
            async { answer }
        })
        .await;
        drop(io);
        end
    };
    let read = async {
        let mut read = Vec::new();
        while caller.read_buf(&mut read).await.unwrap() > 0 {
            yield_now().await;
        }
        read
    };
    let (end, read) = tokio::join!(serve, read);
    (read, end)
}

fn without_head(answer: &[u8]) -> (&str, &[u8]) {
    let end = memchr::memmem::find(answer, b"\r\n\r\n").expect("a head");
    (std::str::from_utf8(&answer[..end]).unwrap(), &answer[end + 4..])
}

fn without_chunks(mut chunked: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    loop {
        let Ok(Status::Complete((head, size))) = httparse::parse_chunk_size(chunked) else {
            panic!("no chunk: {chunked:?}");
        };
        let (data, rest) = chunked[head..].split_at(size as usize);
        body.extend_from_slice(data);
        chunked = rest.strip_prefix(b"\r\n").expect("a chunk's end");
        if size == 0 {
            assert!(chunked.is_empty());
            return body;
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_as_long_as_it_says_is_cut_off() {
    let ok = StatusCode::OK;
    let (read, end) = relayed(vec!["ab".into(), "c".into()], Some(3), ok).await;
    assert_eq!(without_head(&read).1, b"abc");
    end.unwrap();
    let (read, end) = relayed(vec!["ab".into()], Some(3), ok).await;
    assert_eq!(without_head(&read).1, b"ab");
    assert!(end.is_err());
    let (_, end) = relayed(vec!["ab".into(), "cd".into()], Some(3), ok).await;
    assert!(end.is_err());
}

#[tokio::test]
async fn some_answers_have_no_body() {
    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED] {
        let (read, end) = relayed(vec!["ab".into()], Some(2), status).await;
        let (head, rest) = without_head(&read);
        assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
        assert_eq!((rest, end.unwrap()), (&b""[..], End::Over));
    }
    let (read, end) = relayed(vec![], Some(0), StatusCode::OK).await;
    assert!(without_head(&read).0.contains("\r\ncontent-length: 0"));
    assert_eq!(end.unwrap(), End::Over);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_does_not_take_the_end_of_an_answer_is_cut() {
    let write_timeout = Duration::from_secs(10);
    let (mut io, mut caller) =
        connection_with(Options { write_timeout, idle_timeout: DAY, ..Options::default() }).await;
    let (_sender, mut stop) = never();
    caller.write_all(request("").as_bytes()).await.unwrap();
    let begun = Instant::now();
    // Little enough to be kept back, after so much that the connection takes no more.
    while poll_fn(|cx| Poll::Ready(Pin::new(&mut io).poll_write(cx, &[b'x'; 1 << 16]))).await.is_ready() {}
    let answer = |_| async { Box::new(Response::new(Body::full("the end"))) };
    let error = serve(&mut io, &mut stop, answer).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() < 2 * write_timeout, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_silent_connection_holds_no_memory_nor_does_a_large_request_leave_some() {
    let (mut io, mut caller) = connection().await;
    let (_sender, mut stop) = never();
    let mut connection = Connection::new(&mut io, DAY);
    assert!(poll_immediate(pin!(connection.next(&mut stop))).await.is_none());
    assert_eq!(connection.received.bytes.capacity(), 0);
    // A head that is read at once with a part of its body, and one that comes before it.
    let long = "x".repeat(600);
    for (head, body) in
        [("", MOST_BODY), (&*long, MOST_BODY), ("", 20_000), (&*long, 20_000), (&*long, 100_000)]
    {
        let large =
            request(&"x".repeat(body)).replace("Host: here", &format!("Host: here\r\nx-more: {head}"));
        for _ in 0..5 {
            let ask = async { caller.write_all(large.as_bytes()).await.unwrap() };
            let (next, ()) = tokio::join!(connection.next(&mut stop), ask);
            let Ok(Next::Request(request)) = next else { panic!("a request of {body} bytes is usual") };
            let RequestBody::Whole(bytes) = request.body else { panic!("it is here") };
            assert_eq!(bytes.len(), body);
            assert!(bytes.is_unique(), "the connection shares its memory");
            // While the answer is waited for.
            let answer = pin!(std::future::pending::<()>());
            assert!(poll_immediate(pin!(connection.while_there(answer))).await.is_none());
            assert_eq!(connection.received.bytes.capacity(), 0, "{body}");
        }
    }
    assert!(poll_immediate(pin!(connection.next(&mut stop))).await.is_none());
    assert_eq!(connection.received.bytes.capacity(), 0);
}

#[tokio::test]
async fn a_stop_ends_idle_connections_at_once_and_others_with_their_answer() {
    let (mut io, mut caller) = connection().await;
    let (sender, mut stop) = never();
    let mut serving = pin!(serve(&mut io, &mut stop, echo));
    assert!(poll_immediate(&mut serving).await.is_none());
    sender.send_replace(Some(Instant::now()));
    assert_eq!(serving.await.unwrap(), End::Over);

    let (mut io, _) = (connection().await.0, caller.write_all(b"x").await);
    let (sender, mut stop) = never();
    drop(sender);
    assert_eq!(serve(&mut io, &mut stop, echo).await.unwrap(), End::Over, "nobody is left to tell it");

    // Also one that was asked before anybody listened.
    let (mut io, mut caller) = connection().await;
    let (sender, mut stop) = never();
    caller.write_all(request("").as_bytes()).await.unwrap();
    sender.send_replace(Some(Instant::now()));
    let answer = |_| async { Box::new(Response::new(Body::full("x"))) };
    assert_eq!(serve(&mut io, &mut stop, answer).await.unwrap(), End::Over);
    drop(io);
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("\r\nconnection: close\r\n") && answer.ends_with("\r\n\r\nx"), "{answer}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn parts_arrive_as_they_are(
        sizes in proptest::collection::vec(prop_oneof![Just(0usize), 1usize..300, 3_000usize..9_000, Just(200_000)], 0..12),
        pauses in proptest::collection::vec(any::<bool>(), 12),
        is_declared in any::<bool>(),
    ) {
        let mut parts = Vec::new();
        let mut all = Vec::new();
        for (n, size) in sizes.iter().enumerate() {
            if pauses[n] {
                parts.push(Bytes::from_static(b"later"));
            }
            let part: Bytes = (0..*size).map(|at| (at * 7 + n) as u8).collect();
            all.extend_from_slice(&part);
            parts.push(part);
        }
        let length = is_declared.then_some(all.len() as u64);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let (read, end) = runtime.block_on(relayed(parts, length, StatusCode::OK));
        let (head, body) = without_head(&read);
        prop_assert_eq!(head.contains("transfer-encoding: chunked"), !is_declared);
        let body = if is_declared { body.to_vec() } else { without_chunks(body) };
        prop_assert!(body == all);
        prop_assert_eq!(end.unwrap(), End::Over);
    }
}
