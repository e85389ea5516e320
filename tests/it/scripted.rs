//! A provider whose every answer a test writes by hand, byte by byte and in the order that it likes.

use std::{net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// Longer than anything takes that goes well.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Scripted {
    pub address: SocketAddr,
    asked: mpsc::UnboundedReceiver<Asked>,
}

/// A request that waits for its answer.
pub struct Asked {
    socket: TcpStream,
    pub body: String,
}

impl Scripted {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let sender = sender.clone();
                tokio::spawn(async move {
                    if let Some(asked) = read_request(socket).await {
                        let _the_test_is_over = sender.send(asked);
                    }
                });
            }
        });
        Self { address, asked }
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn next(&mut self) -> Asked {
        tokio::time::timeout(PATIENCE, self.asked.recv()).await.expect("a request in time").unwrap()
    }

    pub fn is_quiet(&mut self) -> bool {
        self.asked.is_empty()
    }
}

async fn read_request(mut socket: TcpStream) -> Option<Asked> {
    let mut read = Vec::new();
    let head_end = loop {
        if let Some(at) = read.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if socket.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8_lossy(&read[..head_end]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    while read.len() < head_end + length {
        if socket.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
    let body = String::from_utf8_lossy(&read[head_end..]).into_owned();
    Some(Asked { socket, body })
}

impl Asked {
    /// A whole answer, after which the connection closes.
    pub async fn answer(mut self, status: u16, headers: &str, body: &str) {
        let text = format!(
            "HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n{headers}\r\n{body}",
            body.len()
        );
        self.write(text.as_bytes()).await;
    }

    pub async fn json(self, status: u16, body: &str) {
        self.answer(status, "content-type: application/json\r\n", body).await;
    }

    pub async fn write(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).await.unwrap();
        self.socket.flush().await.unwrap();
    }

    /// The head of a stream of events that ends with the connection.
    pub async fn begin_stream(&mut self) {
        self.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n").await;
    }
}
