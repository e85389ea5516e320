use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::upstream::options::Proxy;

struct Provider {
    listener: TcpListener,
    client: Client,
}

impl Provider {
    async fn new(change: impl FnOnce(&mut Options)) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut options =
            Options::new(format!("http://{}/base/", listener.local_addr().unwrap()).parse().unwrap());
        change(&mut options);
        Self { listener, client: Client::new(&options).unwrap() }
    }

    async fn accept(&self) -> TcpStream {
        self.listener.accept().await.unwrap().0
    }

    async fn ask(&self) -> Result<Box<Response<Answer>>, Error> {
        let path = PathAndQuery::from_static("/base/v1/models?a=b");
        self.client.send(Method::POST, &path, &HeaderMap::new(), &Bytes::from_static(b"{}")).await
    }
}

/// Reads one request, to the end of its body.
async fn read(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"{}") {
        assert!(stream.read_buf(&mut text).await.unwrap() > 0, "no request came");
    }
    String::from_utf8(text).unwrap()
}

async fn answer(stream: &mut TcpStream) {
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
}

async fn whole(response: Result<Box<Response<Answer>>, Error>) -> Bytes {
    let response = response.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    response.into_body().collect().await.unwrap().to_bytes()
}

async fn is_closed(stream: &mut TcpStream) -> bool {
    matches!(stream.read(&mut [0; 16]).await, Ok(0) | Err(_))
}

#[tokio::test]
async fn a_connection_is_used_again() {
    let provider = Provider::new(|_| ()).await;
    let serve = async {
        let mut stream = provider.accept().await;
        let first = read(&mut stream).await;
        answer(&mut stream).await;
        assert_eq!(read(&mut stream).await, first);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
            .await
            .unwrap();
        read(&mut stream).await;
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        read(&mut stream).await;
        answer(&mut stream).await;
        first
    };
    let ask = async {
        assert_eq!(whole(provider.ask().await).await, "ok");
        assert_eq!(whole(provider.ask().await).await, "ok");
        assert_eq!(provider.ask().await.unwrap().status(), StatusCode::NO_CONTENT);
        assert_eq!(whole(provider.ask().await).await, "ok");
    };
    let (first, ()) = tokio::join!(serve, ask);
    let host = provider.listener.local_addr().unwrap();
    assert!(first.starts_with("POST /base/v1/models?a=b HTTP/1.1\r\n"), "{first}");
    assert!(first.contains(&format!("\r\nhost: {host}\r\n")), "{first}");
}

#[tokio::test]
async fn one_that_was_closed_while_idle_is_replaced() {
    let provider = Provider::new(|_| ()).await;
    let serve = async {
        for _ in 0..2 {
            let mut stream = provider.accept().await;
            read(&mut stream).await;
            answer(&mut stream).await;
        }
        // Nobody is asked twice: this one breaks off with the request read, on a connection that was used.
        let mut stream = provider.accept().await;
        read(&mut stream).await;
        answer(&mut stream).await;
        read(&mut stream).await;
    };
    let ask = async {
        for _ in 0..3 {
            assert_eq!(whole(provider.ask().await).await, "ok");
        }
        assert!(matches!(provider.ask().await, Err(Error::Broken(_))));
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn an_answer_that_nobody_wants_ends_its_connection() {
    let provider = Provider::new(|_| ()).await;
    let serve = async {
        let mut stream = provider.accept().await;
        read(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\nbegun").await.unwrap();
        assert!(is_closed(&mut stream).await);
    };
    let ask = async {
        let mut response = provider.ask().await.unwrap();
        assert!(response.body_mut().frame().await.is_some());
        drop(response);
    };
    tokio::join!(serve, ask);
}

#[tokio::test(start_paused = true)]
async fn idle_connections_are_closed_in_time() {
    let provider = Provider::new(|_| ()).await;
    let ask = tokio::spawn({
        let (client, path) = (provider.client.pool.clone(), PathAndQuery::from_static("/"));
        async move { client.request(Method::POST, &path, &HeaderMap::new(), &"{}".into()).await }
    });
    let mut stream = provider.accept().await;
    read(&mut stream).await;
    answer(&mut stream).await;
    whole(ask.await.unwrap()).await;
    let begun = tokio::time::Instant::now();
    assert!(is_closed(&mut stream).await);
    let idle = begun.elapsed();
    assert!(idle >= Duration::from_secs(44) && idle <= Duration::from_secs(56), "{idle:?}");
    let pool = provider.client.pool.idle();
    assert!(pool.http1.is_empty() && !pool.is_swept);
}

/// While a proxy takes its time for a second connection, the first one has become free.
#[tokio::test]
async fn whoever_waits_for_a_connection_takes_one_that_comes_back() {
    let proxy = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("http://{}", proxy.local_addr().unwrap()).parse().unwrap();
    let provider = Provider::new(|options| options.proxy = Some(Proxy::Http { uri, login: None })).await;
    let connect = async || {
        let (mut stream, _) = proxy.accept().await.unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            assert!(stream.read_buf(&mut head).await.unwrap() > 0);
        }
        assert!(head.starts_with(b"CONNECT "), "{}", String::from_utf8_lossy(&head));
        stream
    };
    let serve = async {
        let mut first = connect().await;
        first.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        read(&mut first).await;
        let mut second = connect().await;
        answer(&mut first).await;
        read(&mut first).await;
        answer(&mut first).await;
        // The other one is not lost.
        second.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
        tokio::select! {
            _ = read(&mut first) => answer(&mut first).await,
            _ = read(&mut second) => answer(&mut second).await,
        }
    };
    let ask = async {
        let (one, other) = tokio::join!(async { whole(provider.ask().await).await }, async {
            whole(provider.ask().await).await
        });
        assert_eq!((&*one, &*other), (&b"ok"[..], &b"ok"[..]));
        assert_eq!(whole(provider.ask().await).await, "ok");
    };
    tokio::join!(serve, ask);
}

#[tokio::test]
async fn what_waits_for_no_connection_is_forgotten() {
    let mut provider = Provider::new(|options| options.connect_timeout = Duration::from_secs(5)).await;
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let options = Options::new(format!("http://{nowhere}").parse().unwrap());
    provider.client = Client::new(&options).unwrap();
    for _ in 0..5 {
        assert!(matches!(provider.ask().await, Err(Error::Connect(_))));
    }
    assert!(provider.client.pool.idle().waiting.len() <= 1);
}

#[test]
fn hosts_are_named_with_the_ports_that_are_not_usual() {
    for (base, named) in [
        ("http://a.example", "a.example"),
        ("http://a.example:80/x", "a.example"),
        ("https://a.example:443", "a.example"),
        ("https://a.example:80", "a.example:80"),
        ("http://[::1]:8080", "[::1]:8080"),
    ] {
        assert_eq!(host(&base.parse().unwrap()).unwrap(), named);
    }
}

/// Whoever has seen all it wanted does not wait for the transfer's end, which is here already.
#[tokio::test]
async fn an_answer_left_at_its_end_keeps_its_connection() {
    let provider = Provider::new(|_| ()).await;
    let serve = async {
        let mut stream = provider.accept().await;
        for _ in 0..2 {
            read(&mut stream).await;
            stream
                .write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")
                .await
                .unwrap();
        }
    };
    let ask = async {
        for _ in 0..2 {
            let mut response = provider.ask().await.unwrap();
            let part = response.body_mut().frame().await.unwrap().unwrap();
            assert_eq!(part.into_data().unwrap(), "ok");
        }
    };
    tokio::join!(serve, ask);
}
