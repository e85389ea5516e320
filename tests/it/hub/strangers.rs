//! What else may answer on the way to a hub, and where a connection may end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use keytide::{
    model::Secret,
    replica::{
        rest::{self, Rest},
        transport::{Error, ErrorKind, Transport},
        wire::Function,
    },
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{
    PASSWORD,
    conformance::{Way, eventually},
    hub, over_postgres,
    postrust::{self, Postrust},
    skipped, url,
};
use crate::pg::{Cluster, Options};

const KEY: &str = "sb_secret_0123456789abcdef0123456789";
pub const HASTE: Duration = Duration::from_millis(1_500);

/// A server that does the same with everybody; the counter tells how many came.
pub async fn server<F>(act: F) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Fn(TcpStream) -> BoxFuture<'static, ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let came = Arc::new(AtomicUsize::new(0));
    let counter = came.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(act(socket));
        }
    });
    (address, came)
}

/// Says its text to whoever says something, and hangs up.
pub async fn answering(text: impl Into<Vec<u8>>) -> (SocketAddr, Arc<AtomicUsize>) {
    let text: Arc<[u8]> = text.into().into();
    server(move |mut socket| {
        let text = text.clone();
        Box::pin(async move {
            let mut heard = vec![0; 65_536];
            let _ = socket.read(&mut heard).await;
            let _ = socket.write_all(&text).await;
            let _ = socket.shutdown().await;
            // Closed with unread bytes, it would be reset, and what was said would be lost.
            while socket.read(&mut heard).await.is_ok_and(|read| read > 0) {}
        })
    })
    .await
}

fn http(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}", body.len())
}

pub fn over_rest(address: SocketAddr, call_timeout: Duration) -> Arc<dyn Transport> {
    let options = rest::Options::new(format!("http://{address}"), Secret::new(KEY));
    Arc::new(Rest::new(&rest::Options { call_timeout, ..options }).unwrap())
}

pub async fn failure(transport: &dyn Transport) -> Error {
    let error = transport.call(Function::Hello, "{}").await.expect_err("a stranger was believed");
    let told = format!("{error:?} {error}");
    assert!(!told.contains(KEY) && !told.contains(PASSWORD), "{told}");
    error
}

#[tokio::test]
async fn what_is_not_a_hub_is_known_as_such() {
    let portal =
        http("200 OK", "content-type: text/html\r\n", "<!DOCTYPE html><title>Log in to the WiFi</title>");
    let (address, _) = answering(portal.clone()).await;
    assert_eq!(failure(&*over_rest(address, HASTE)).await.kind, ErrorKind::Garbage);
    let greetings: [&[u8]; 4] =
        [portal.as_bytes(), b"SSH-2.0-OpenSSH_9.2p1\r\n", b"220 mail ESMTP\r\n", b"\x16\x03\x01\x02\x00\x01"];
    for greeting in greetings {
        let (address, _) = answering(greeting).await;
        for query in ["sslmode=disable", "sslmode=prefer", "sslmode=require"] {
            let error = failure(&*over_postgres(url(address.port(), query), HASTE)).await;
            let text = String::from_utf8_lossy(greeting);
            // An `S` in its place says yes to TLS, and only what comes then is nonsense.
            assert_eq!(error.kind, ErrorKind::Garbage, "{query} {text}: {error:?}");
        }
    }
    let (address, _) = answering("SSH-2.0-OpenSSH_9.2p1\r\n").await;
    assert_eq!(failure(&*over_rest(address, HASTE)).await.kind, ErrorKind::Garbage);
    for body in ["", "null", "not JSON", "\u{feff}{}"] {
        let (address, _) = answering(http("200 OK", "content-type: application/json\r\n", body)).await;
        assert_eq!(failure(&*over_rest(address, HASTE)).await.kind, ErrorKind::Garbage, "{body:?}");
    }
    let (address, _) = answering(http("200 OK", "content-encoding: gzip\r\n", "not gzip")).await;
    assert_eq!(failure(&*over_rest(address, HASTE)).await.kind, ErrorKind::Garbage);
}

#[tokio::test]
async fn a_key_follows_no_redirect() {
    let (elsewhere, came) = answering(http("200 OK", "", "{}")).await;
    for status in ["301 Moved Permanently", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let leading = http(status, &format!("location: http://{elsewhere}/rpc/keytide_hello\r\n"), "");
        let (address, _) = answering(leading).await;
        let error = failure(&*over_rest(address, HASTE)).await;
        assert!(error.kind == ErrorKind::Garbage && error.detail.contains("127.0.0.1"), "{error}");
    }
    assert_eq!(came.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_busy_gateway_says_when_to_come_back() {
    let (address, _) = answering(http("429 Too Many Requests", "retry-after: 7\r\n", "")).await;
    let error = failure(&*over_rest(address, HASTE)).await;
    assert_eq!((error.kind, error.retry_after), (ErrorKind::Busy, Some(Duration::from_secs(7))));
}

#[tokio::test]
async fn the_key_is_sent_as_its_kind_wants_it() {
    let (sender, mut heads) = tokio::sync::mpsc::unbounded_channel();
    let (address, _) = server(move |mut socket| {
        let sender = sender.clone();
        Box::pin(async move {
            let mut heard = vec![0; 65_536];
            let mut length = 0;
            while !String::from_utf8_lossy(&heard[..length]).ends_with("{\"request\":{}}") {
                length += socket.read(&mut heard[length..]).await.unwrap();
            }
            sender.send(String::from_utf8_lossy(&heard[..length]).to_ascii_lowercase()).unwrap();
            socket.write_all(http("200 OK", "", "[{\"keytide_hello\":{\"a\":1}}]").as_bytes()).await.unwrap();
        })
    })
    .await;
    let legacy = postrust::key("service_role");
    for key in [KEY, legacy.as_str()] {
        let rest =
            Rest::new(&rest::Options::new(format!("http://{address}/rest/v1/"), Secret::new(key))).unwrap();
        assert_eq!(rest.call(Function::Hello, "{}").await.unwrap().body, "{\"a\":1}");
        let head = heads.recv().await.unwrap();
        assert!(head.starts_with("post /rest/v1/rpc/keytide_hello http/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("apikey: {}\r\n", key.to_ascii_lowercase())), "{head}");
        assert_eq!(head.contains("\r\nauthorization: bearer ey"), key == legacy, "{head}");
        assert_eq!(rest.traffic().sent as usize, head.len() - wire_only(&head), "{head}");
    }
}

/// What reqwest adds to our headers is not ours to count.
fn wire_only(head: &str) -> usize {
    let added = ["host: ", "content-length: ", "user-agent: ", "accept: */*"];
    head.split_inclusive("\r\n")
        .filter(|line| added.iter().any(|name| line.starts_with(name)))
        .map(str::len)
        .sum()
}

/// A byte now and then keeps no call alive.
#[tokio::test]
async fn an_answer_that_never_ends_is_given_up() {
    for begin in ["HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", "HTTP/1.1 200", "", "R", "S", "N"] {
        let (address, _) = server(move |mut socket| {
            Box::pin(async move {
                let _ = socket.write_all(begin.as_bytes()).await;
                loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if !begin.is_empty() && socket.write_all(b" ").await.is_err() {
                        return;
                    }
                }
            })
        })
        .await;
        let is_http = begin.starts_with("HTTP");
        let ways: Vec<Arc<dyn Transport>> =
            if is_http || begin.is_empty() { vec![over_rest(address, HASTE)] } else { vec![] }
                .into_iter()
                .chain((!is_http).then(|| over_postgres(url(address.port(), "sslmode=prefer"), HASTE)))
                .collect();
        for way in ways {
            let began = Instant::now();
            let error = failure(&*way).await;
            let expected = [ErrorKind::Timeout, ErrorKind::Garbage, ErrorKind::Unreachable];
            assert!(expected.contains(&error.kind), "{begin:?}: {error}");
            assert!(began.elapsed() < HASTE + Duration::from_millis(500), "{begin:?}");
        }
    }
}

#[tokio::test]
async fn nobody_there_is_said_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let ways = [over_rest(address, HASTE), over_postgres(url(address.port(), ""), HASTE)];
    for way in ways {
        let error = failure(&*way).await;
        assert!(error.kind == ErrorKind::Unreachable && error.detail.contains("127.0.0.1"), "{error}");
    }
    let nowhere = Secret::new("postgres://u:p@nowhere.invalid/db?sslmode=disable");
    let error = failure(&*over_postgres(nowhere, HASTE)).await;
    assert!(matches!(error.kind, ErrorKind::Unreachable | ErrorKind::Timeout), "{error:?}");
}

#[tokio::test]
async fn https_is_not_believed_from_anybody() {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let (address, _) = server(move |socket| {
        let acceptor = acceptor.clone();
        Box::pin(async move {
            let _ = acceptor.accept(socket).await;
        })
    })
    .await;
    let rest = Rest::new(&rest::Options::new(format!("https://{address}"), Secret::new(KEY))).unwrap();
    let error = failure(&rest).await;
    assert!(error.kind == ErrorKind::Certificate && error.detail.contains("not trusted"), "{error:?}");
    let plain = answering(http("200 OK", "", "{}")).await.0;
    let rest = Rest::new(&rest::Options::new(format!("https://{plain}"), Secret::new(KEY))).unwrap();
    assert_eq!(failure(&rest).await.kind, ErrorKind::Garbage);
}

/// Where a forwarder cuts what it carries, counted from the first byte of a call.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// The request, after so many bytes.
    Request(usize),
    /// All of the request goes through, the hub does what it says, and its answer is lost.
    Answer,
}

/// Carries bytes between a caller and a server until it cuts the connection. A call begins with `marker`.
async fn cutting(to: SocketAddr, cut: Cut, marker: &'static [u8]) -> SocketAddr {
    let (address, _) = server(move |caller| Box::pin(carry(caller, to, cut, marker))).await;
    address
}

async fn carry(mut caller: TcpStream, to: SocketAddr, cut: Cut, marker: &[u8]) {
    let mut hub = TcpStream::connect(to).await.unwrap();
    let (mut sent, mut has_begun) = (Vec::new(), false);
    let (mut forth, mut back) = (vec![0; 4_096], vec![0; 4_096]);
    loop {
        tokio::select! {
            read = caller.read(&mut forth) => {
                let Ok(read @ 1..) = read else { return };
                sent.extend_from_slice(&forth[..read]);
                let begin = sent.windows(marker.len()).position(|found| found == marker);
                if let (false, Some(at)) = (has_begun, begin) {
                    has_begun = true;
                    sent.drain(..at);
                }
                if matches!(cut, Cut::Request(after) if has_begun && sent.len() > after)
                    || hub.write_all(&forth[..read]).await.is_err()
                {
                    return;
                }
            }
            read = hub.read(&mut back) => {
                let Ok(read @ 1..) = read else { return };
                if has_begun && matches!(cut, Cut::Answer) {
                    return lose_the_answer(caller, hub).await;
                }
                if caller.write_all(&back[..read]).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The caller's bytes go on to the hub, until both have nothing more to say.
async fn lose_the_answer(mut caller: TcpStream, mut hub: TcpStream) {
    const SILENCE: Duration = Duration::from_millis(500);
    let (mut from_caller, mut to_hub) = (caller.split().0, hub.split());
    let forth = tokio::io::copy(&mut from_caller, &mut to_hub.1);
    let mut lost = vec![0; 4_096];
    let back =
        async { while let Ok(Ok(1..)) = tokio::time::timeout(SILENCE, to_hub.0.read(&mut lost)).await {} };
    tokio::select! {
        _ = forth => {}
        () = back => {}
    }
}

/// Calls that write, through forwarders that cut them: nothing is half done, and a lost answer says nothing about
/// what was done.
async fn break_calls(
    cluster: &Cluster,
    secret: &str,
    hub: SocketAddr,
    marker: &'static [u8],
    connect: impl Fn(SocketAddr) -> Arc<dyn Transport>,
) {
    let large = json!({ "write": "once", "filling": "x".repeat(100_000) });
    for cut in [Cut::Request(10), Cut::Request(40_000), Cut::Answer] {
        cluster.psql_in("keytide", "TRUNCATE written");
        let through = cutting(hub, cut, marker).await;
        let way = Way::new(&[secret], |_| connect(through));
        let error = way.fails(large.clone()).await;
        assert_eq!(error.kind, ErrorKind::Unreachable, "{cut:?}: {error:?}");
        // What was cut off leaves no transaction behind that might still write.
        let open =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = 'keytide' AND xact_start IS NOT NULL";
        assert!(eventually(async || cluster.psql(open) == "0").await);
        let written = cluster.psql_in("keytide", "SELECT count(*) FROM written");
        assert_eq!(written, if matches!(cut, Cut::Answer) { "1" } else { "0" }, "{cut:?}");
    }
}

pub const UNHURRIED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_postgres_break_in_the_middle_of_a_call() {
    if skipped(&["HUB_TESTS"]) {
        return;
    }
    let cluster = hub(Options { passwords: true, ..Options::default() }).await;
    let connect = |through: SocketAddr| over_postgres(url(through.port(), ""), UNHURRIED);
    break_calls(&cluster, PASSWORD, ([127, 0, 0, 1], cluster.port).into(), b"BEGIN", connect).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_to_rest_break_in_the_middle_of_a_call() {
    if skipped(&["HUB_TESTS", "HUB_POSTRUST"]) {
        return;
    }
    let cluster = hub(Options { passwords: true, ..Options::default() }).await;
    let postrust = Postrust::start(cluster.port).await;
    let key = postrust::key("service_role");
    let connect = |through: SocketAddr| -> Arc<dyn Transport> {
        let options = rest::Options::new(format!("http://{through}"), Secret::new(key.as_str()));
        Arc::new(Rest::new(&rest::Options { call_timeout: UNHURRIED, ..options }).unwrap())
    };
    let api = postrust.base.trim_start_matches("http://").parse().unwrap();
    break_calls(&cluster, &key, api, b"POST", connect).await;
}
