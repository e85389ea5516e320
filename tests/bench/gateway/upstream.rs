//! A provider that costs next to nothing: what is measured is who stands in front of it.
//!
//! It reads as little of HTTP/1.1 as these requests need. A body decides the answer: `"model":"large"` is 100 kB, `"stream":true`
//! a stream of [`CHUNKS`] pieces, each written by itself, and `"model":"paced"` one at [`PACE`]. Each piece says when it was
//! written. A key that begins with `limited-` is told to come back in a second.

use std::{
    net::SocketAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Pieces of a stream that is written as fast as it is taken.
pub const CHUNKS: usize = 100;
/// Pieces a second of a paced stream, and how many of them.
pub const PACE: u32 = 50;
pub const PACED_CHUNKS: usize = 400;
const THREADS: usize = 2;

/// Microseconds, the same clock in every process.
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_secs() * 1_000_000 + u64::from(since.subsec_micros())
}

/// Serves for good.
pub fn serve(address: SocketAddr) {
    let threads: Vec<_> = (0..THREADS)
        .map(|_| {
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(accept(address));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
}

async fn accept(address: SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    // The kernel shares the connections out.
    socket.set_reuse_port(true).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(4096).unwrap();
    let listener = TcpListener::from_std(socket.into()).unwrap();
    loop {
        let (connection, _) = listener.accept().await.unwrap();
        connection.set_nodelay(true).unwrap();
        tokio::spawn(async move {
            // Whoever leaves has what it wanted.
            let _left = answer_all(connection).await;
        });
    }
}

fn whole(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn answer(content: &str) -> String {
    whole(&format!(
        r#"{{"id":"chatcmpl-1","object":"chat.completion","created":1750000000,"model":"bench","choices":[{{"index":0,"message":{{"role":"assistant","content":"{content}"}},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":12,"completion_tokens":9,"total_tokens":21}}}}"#
    ))
}

async fn answer_all(mut connection: TcpStream) -> std::io::Result<()> {
    let small = answer("Hello there, how may I help you today?");
    let large = answer(&"lorem ipsum ".repeat(8_500));
    let limited = "HTTP/1.1 429 Too Many Requests\r\nRetry-After: 1\r\nContent-Type: application/json\r\nContent-Length: 48\r\n\r\n{\"error\":{\"message\":\"slow down\",\"code\":\"limit\"}}";
    let mut read = Vec::with_capacity(256 * 1024);
    loop {
        let end = loop {
            if let Some(at) = memmem::find(&read, b"\r\n\r\n") {
                break at + 4;
            }
            if connection.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let head = String::from_utf8_lossy(&read[..end]).to_lowercase();
        let length: usize = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length:"))
            .map_or(0, |text| text.trim().parse().unwrap());
        while read.len() < end + length {
            if connection.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        }
        // What decides stands at the body's beginning or at its end.
        let body = &read[end..end + length];
        let ends = [&body[..length.min(200)], &body[length.saturating_sub(200)..]];
        let is = |text: &str| ends.iter().any(|said| memmem::find(said, text.as_bytes()).is_some());
        let refused = head.contains("bearer limited-");
        let (streams, paced, wants_large) =
            (is(r#""stream":true"#), is(r#""model":"paced""#), is(r#""model":"large""#));
        read.drain(..end + length);
        if refused {
            connection.write_all(limited.as_bytes()).await?;
        } else if paced {
            stream(&mut connection, PACED_CHUNKS, Some(Duration::from_secs(1) / PACE)).await?;
        } else if streams {
            stream(&mut connection, CHUNKS, None).await?;
        } else {
            connection.write_all(if wants_large { &large } else { &small }.as_bytes()).await?;
        }
    }
}

async fn stream(connection: &mut TcpStream, chunks: usize, pace: Option<Duration>) -> std::io::Result<()> {
    connection
        .write_all(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n",
        )
        .await?;
    let begun = tokio::time::Instant::now();
    for n in 0..chunks {
        if let Some(pace) = pace {
            tokio::time::sleep_until(begun + pace * n as u32).await;
        }
        piece(
            connection,
            &format!(
                r#"{{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"bench","at":{},"choices":[{{"index":0,"delta":{{"content":"word "}}}}]}}"#,
                now()
            ),
        )
        .await?;
    }
    let usage = r#"{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1750000000,"model":"bench","choices":[],"usage":{"prompt_tokens":12,"completion_tokens":100,"total_tokens":112}}"#;
    piece(connection, usage).await?;
    piece(connection, "[DONE]").await?;
    connection.write_all(b"0\r\n\r\n").await
}

async fn piece(connection: &mut TcpStream, data: &str) -> std::io::Result<()> {
    let text = format!("data: {data}\n\n");
    connection.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).await
}
