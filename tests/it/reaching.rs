//! The ways to a provider: TLS, its authorities, and proxies.

use std::{
    convert::Infallible,
    io,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::StreamExt;
use http_body::Frame;
use http_body_util::StreamBody;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keytide::{
    demo::upstream::{Behaviour, Upstream, UpstreamOptions},
    model::{Cause, Clock, Counts},
    upstream::client::{Client, Error},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use crate::{
    harness::{TOKEN, chat, client, error_code, setup_of, upstream},
    scripted::PATIENCE,
};

const CHAT: &str = "/v1/chat/completions";
const KEY: &str = "good-key-0123456789abcdef";

struct Tls {
    upstream: Upstream,
    ca_file: tempfile::NamedTempFile,
}

async fn tls_upstream() -> Tls {
    let (acceptor, ca_file) = tls_server();
    let upstream =
        Upstream::start_tls(UpstreamOptions::default(), move |tcp| acceptor.accept(tcp)).await.unwrap();
    Tls { upstream, ca_file }
}

/// What a server with HTTP/2 needs, and the authority to trust it by.
fn tls_server() -> (tokio_rustls::TlsAcceptor, tempfile::NamedTempFile) {
    client();
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca_pem = ca.self_signed(&ca_key).unwrap().pem();
    let issuer = rcgen::Issuer::new(ca, ca_key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let private = rustls_pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let ca_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca_file.path(), ca_pem).unwrap();
    (tokio_rustls::TlsAcceptor::from(Arc::new(config)), ca_file)
}

/// What keytide logs, of all tests in this process.
static LOG: Mutex<Vec<u8>> = Mutex::new(Vec::new());

struct LogWriter;

impl io::Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        LOG.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn keep_log() {
    static INIT: Once = Once::new();
    INIT.call_once(|| {
        let log = tracing_subscriber::fmt().with_env_filter("keytide=debug").with_ansi(false);
        log.with_writer(|| LogWriter).init();
    });
}

#[tokio::test]
async fn tls_with_an_authority_of_its_own() {
    let tls = tls_upstream().await;
    let base = tls.upstream.base_url();
    for (http2, version) in [(true, http::Version::HTTP_2), (false, http::Version::HTTP_11)] {
        let ca = tls.ca_file.path().display();
        let lines = format!("base_url = \"{base}\"\nca_file = \"{ca}\"\nhttp2 = {http2}");
        let keytide = setup_of("secure", &lines).keys("secure", &[KEY]).start().await;
        for stream in [false, true] {
            let answer = keytide.post(CHAT, &chat(stream)).await;
            assert_eq!(answer.status(), 200);
            let text = answer.text().await.unwrap();
            assert_eq!(text.ends_with("data: [DONE]\n\n"), stream);
            assert_eq!(tls.upstream.tally().last_request().unwrap().version, version);
        }
        // A caller that leaves resets its stream, and not the connection.
        tls.upstream.set_behaviour(KEY, Behaviour::Stall { after: 1 });
        let before = tls.upstream.tally().total().cancelled;
        let answer = keytide.post(CHAT, &chat(true)).await;
        let mut events = answer.bytes_stream();
        events.next().await.unwrap().unwrap();
        drop(events);
        tokio::time::timeout(PATIENCE, tls.upstream.tally().idle()).await.unwrap();
        assert_eq!(tls.upstream.tally().total().cancelled, before + 1);
        tls.upstream.set_behaviour(KEY, Behaviour::Refuse);
        assert_eq!(
            error_code(keytide.post(CHAT, &chat(true)).await).await,
            (502, "upstream_broken".to_owned())
        );
        tls.upstream.set_behaviour(KEY, Behaviour::Good);
        let books = keytide.settled("secure", 4).await;
        assert_eq!(books.total.counts, Counts { success: 2, other: 1, failure: 1 });
        keytide.stop().await;
    }
}

/// Answers over HTTP/2 with a body of a declared length, whose end comes in a frame of its own, and late.
async fn late_end(acceptor: tokio_rustls::TlsAcceptor, length: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            let tls = acceptor.accept(tcp).await.unwrap();
            let service = service_fn(move |_| async move {
                let part = Bytes::from(vec![b'x'; length]);
                let late = futures_util::stream::once(async {
                    tokio::time::sleep(PATIENCE).await;
                    Ok::<_, Infallible>(Frame::data(Bytes::new()))
                });
                let body = futures_util::stream::iter([Ok(Frame::data(part))]).chain(late);
                let answer = http::Response::builder()
                    .header("content-type", "application/octet-stream")
                    .header("content-length", length);
                answer.body(StreamBody::new(body))
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(tls), service));
        }
    });
    port
}

#[tokio::test]
async fn an_answer_of_a_declared_length_ends_with_its_last_byte() {
    for length in [0, 7, 1_000_000] {
        let (acceptor, ca_file) = tls_server();
        let port = late_end(acceptor, length).await;
        let lines =
            format!("base_url = \"https://127.0.0.1:{port}\"\nca_file = \"{}\"", ca_file.path().display());
        let keytide = setup_of("late", &lines).keys("late", &[KEY]).start().await;
        let answer = keytide.post(CHAT, &chat(false)).await;
        assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, length));
        let books = keytide.settled("late", 1).await;
        assert_eq!(books.total.counts, Counts::SUCCESS, "{length} bytes");
        keytide.stop().await;
    }
}

/// Hands bytes on both ways until it is told to swallow them, as a network does that lost a connection.
async fn lossy(to: u16, lost: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((near, _)) = listener.accept().await {
            let far = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(pass(near_in, far_out, lost.clone()));
            tokio::spawn(pass(far_in, near_out, lost.clone()));
        }
    });
    port
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lost: Arc<AtomicBool>) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut bytes).await {
        if !lost.load(Ordering::SeqCst) && to.write_all(&bytes[..size]).await.is_err() {
            return;
        }
    }
    // Kept, so that neither end is told.
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn a_connection_that_is_lost_without_a_word_is_given_up() {
    let tls = tls_upstream().await;
    let lost = Arc::new(AtomicBool::new(false));
    let port = tls.upstream.base_url().rsplit_once(':').unwrap().1.parse().unwrap();
    let base: http::Uri = format!("https://127.0.0.1:{}", lossy(port, lost.clone()).await).parse().unwrap();
    let options = keytide::upstream::Options {
        ca_file: Some(tls.ca_file.path().to_owned()),
        ..keytide::upstream::Options::new(base.clone())
    };
    let provider = Client::new(&options).unwrap();
    let path = options.path("/v1/models").unwrap();
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", http::HeaderValue::from_static("Bearer good-key-0123456789abcdef"));
    let nothing = Bytes::new();
    let ask = || provider.send(http::Method::GET, &path, &headers, &nothing);
    assert_eq!(ask().await.unwrap().version(), http::Version::HTTP_2);
    lost.store(true, Ordering::SeqCst);
    tokio::time::pause();
    // Long before `first_byte_timeout`, which would leave the connection to the next request.
    assert!(matches!(ask().await, Err(Error::Broken(_))));
    tokio::time::resume();
    lost.store(false, Ordering::SeqCst);
    assert_eq!(ask().await.unwrap().status(), 200);
}

#[tokio::test]
async fn an_unknown_authority_is_told_to_the_operator_only() {
    keep_log();
    let (tls, other) = (tls_upstream().await, tls_upstream().await);
    let base = tls.upstream.base_url();
    let ca = other.ca_file.path().display();
    for lines in [format!("base_url = \"{base}\"\nca_file = \"{ca}\""), format!("base_url = \"{base}\"")] {
        let key = "a-key-that-no-log-may-show";
        let keytide = setup_of("wrong-authority", &lines).keys("wrong-authority", &[key]).start().await;
        let answer = keytide.post(CHAT, &chat(false)).await;
        assert_eq!(answer.status(), 502);
        let text = answer.text().await.unwrap();
        assert!(
            text.contains("upstream_unreachable") && !text.to_lowercase().contains("certificate"),
            "{text}"
        );
        let log = String::from_utf8(LOG.lock().unwrap().clone()).unwrap();
        let line =
            log.lines().rev().find(|line| line.contains("wrong-authority")).expect("a line in the log");
        assert!(line.contains("WARN") && line.contains("certificate"), "{line}");
        assert!(!log.contains(key) && !log.contains(TOKEN));
        let view = keytide.app.pool("wrong-authority").unwrap().scan(0, 9, Clock::System.now()).0.remove(0);
        assert_eq!(view.health.cause, Cause::Server);
        keytide.stop().await;
    }
    assert_eq!(tls.upstream.tally().total().attempts, 0);
}

/// What a proxy was asked for: heads of CONNECT, or SOCKS addresses, with what was said before.
type Seen = Arc<Mutex<Vec<String>>>;

async fn http_proxy(login: Option<&'static str>) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let all = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let seen = all.clone();
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
                        return;
                    }
                }
                let head = String::from_utf8(head).unwrap();
                seen.lock().unwrap().push(head.clone());
                let is_known = login.is_none_or(|login| {
                    head.lines()
                        .any(|line| line.eq_ignore_ascii_case(&format!("proxy-authorization: {login}")))
                });
                if !is_known {
                    let _gone = socket.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 0\r\n\r\n").await;
                    return;
                }
                let target = head.split(' ').nth(1).unwrap().to_owned();
                let mut target = TcpStream::connect(target).await.unwrap();
                socket.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let _ended = tokio::io::copy_bidirectional(&mut socket, &mut target).await;
            });
        }
    });
    (port, seen)
}

#[tokio::test]
async fn through_an_http_proxy() {
    let tls = tls_upstream().await;
    let plain = upstream().await;
    // "tide:high" in base64.
    for (login, url_login, served) in [
        (None, "", true),
        (Some("Basic dGlkZTpoaWdo"), "tide:high@", true),
        (Some("Basic dGlkZTpoaWdo"), "tide:low@", false),
    ] {
        for upstream in [&plain, &tls.upstream] {
            let (port, seen) = http_proxy(login).await;
            let lines = format!(
                "base_url = \"{}\"\nca_file = \"{}\"\nproxy = \"http://{url_login}127.0.0.1:{port}\"",
                upstream.base_url(),
                tls.ca_file.path().display()
            );
            let keytide = setup_of("far", &lines).keys("far", &[KEY]).start().await;
            let answer = keytide.post(CHAT, &chat(true)).await;
            if served {
                assert_eq!(answer.status(), 200);
                assert!(answer.text().await.unwrap().ends_with("data: [DONE]\n\n"));
            } else {
                assert_eq!(error_code(answer).await, (502, "upstream_unreachable".to_owned()));
            }
            let heads = seen.lock().unwrap().clone();
            assert!(!heads.is_empty());
            assert!(heads.iter().all(|head| head.starts_with(&format!("CONNECT {} ", upstream.addr()))));
            // The key travels inside the tunnel only.
            assert!(heads.iter().all(|head| !head.contains(KEY)));
            keytide.stop().await;
        }
    }
}

async fn socks_proxy(login: Option<(&'static str, &'static str)>) -> (u16, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy_port = listener.local_addr().unwrap().port();
    let seen = Seen::default();
    let all = seen.clone();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(serve_socks(socket, login, all.clone()));
        }
    });
    (proxy_port, seen)
}

async fn serve_socks(
    mut socket: TcpStream,
    login: Option<(&'static str, &'static str)>,
    seen: Seen,
) -> io::Result<()> {
    let mut two = [0; 2];
    socket.read_exact(&mut two).await?;
    let mut methods = vec![0; usize::from(two[1])];
    socket.read_exact(&mut methods).await?;
    let method = if login.is_some() { 2 } else { 0 };
    if two[0] != 5 || !methods.contains(&method) {
        return socket.write_all(&[5, 255]).await;
    }
    socket.write_all(&[5, method]).await?;
    if let Some((user, password)) = login {
        let mut said = Vec::new();
        socket.read_u8().await?;
        for _ in 0..2 {
            let mut text = vec![0; usize::from(socket.read_u8().await?)];
            socket.read_exact(&mut text).await?;
            said.push(String::from_utf8_lossy(&text).into_owned());
        }
        let is_known = said == [user, password];
        socket.write_all(&[1, u8::from(!is_known)]).await?;
        if !is_known {
            return Ok(());
        }
    }
    let mut head = [0; 4];
    socket.read_exact(&mut head).await?;
    let host = match head[3] {
        1 => {
            let mut address = [0; 4];
            socket.read_exact(&mut address).await?;
            std::net::Ipv4Addr::from(address).to_string()
        }
        4 => {
            let mut address = [0; 16];
            socket.read_exact(&mut address).await?;
            std::net::Ipv6Addr::from(address).to_string()
        }
        _ => {
            let mut name = vec![0; usize::from(socket.read_u8().await?)];
            socket.read_exact(&mut name).await?;
            String::from_utf8_lossy(&name).into_owned()
        }
    };
    let port = socket.read_u16().await?;
    seen.lock().unwrap().push(host);
    // Everything here is on this machine, whatever it is called.
    let mut target = TcpStream::connect(("127.0.0.1", port)).await?;
    socket.write_all(&[5, 0, 0, 1, 0, 0, 0, 0, 0, 0]).await?;
    tokio::io::copy_bidirectional(&mut socket, &mut target).await.map(drop)
}

#[tokio::test]
async fn through_a_socks_proxy() {
    let upstream = upstream().await;
    let port = upstream.addr().port();
    for (login, url, host, seen_host, served) in [
        (None, "socks5://", "127.0.0.1", "127.0.0.1", true),
        (None, "socks5h://", "provider.invalid", "provider.invalid", true),
        (Some(("tide", "high")), "socks5h://tide:high@", "provider.invalid", "provider.invalid", true),
        (Some(("tide", "high")), "socks5://tide:low@", "127.0.0.1", "", false),
    ] {
        let (proxy, seen) = socks_proxy(login).await;
        let lines = format!("base_url = \"http://{host}:{port}\"\nproxy = \"{url}127.0.0.1:{proxy}\"");
        let keytide = setup_of("far", &lines).keys("far", &[KEY]).start().await;
        let answer = keytide.post(CHAT, &chat(false)).await;
        if served {
            assert_eq!(answer.status(), 200, "{url}");
            assert_eq!(*seen.lock().unwrap(), [seen_host]);
        } else {
            assert_eq!(error_code(answer).await, (502, "upstream_unreachable".to_owned()));
        }
        keytide.stop().await;
    }
}
