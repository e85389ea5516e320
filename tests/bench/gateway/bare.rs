//! A plain forwarder on keytide's libraries: hyper's server and its client as they come, one runtime per core, connections that are
//! kept. It looks at nothing and counts nothing, and takes in questions and answers whole. What it costs is what the
//! libraries cost; what keytide takes beyond it is keytide's own.

use std::{cell::RefCell, convert::Infallible, net::SocketAddr, rc::Rc};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::LocalSet,
};

/// Serves for good.
pub fn serve(address: SocketAddr, provider: SocketAddr) {
    let cores: Vec<_> = (0..std::thread::available_parallelism().map_or(1, usize::from))
        .map(|_| {
            let (sender, connections) = mpsc::unbounded_channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                LocalSet::new().block_on(&runtime, work(connections, provider));
            });
            sender
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await.unwrap();
        for core in cores.iter().cycle() {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            core.send(stream.into_std().unwrap()).unwrap();
        }
    });
}

type Idle = Rc<RefCell<Vec<SendRequest<Full<Bytes>>>>>;

async fn work(mut connections: mpsc::UnboundedReceiver<std::net::TcpStream>, provider: SocketAddr) {
    let idle = Idle::default();
    while let Some(stream) = connections.recv().await {
        let stream = TokioIo::new(TcpStream::from_std(stream).unwrap());
        let idle = idle.clone();
        tokio::task::spawn_local(async move {
            let service = service_fn(|request| forward(request, provider, idle.clone()));
            // Whoever leaves has what it wanted.
            let _left = hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await;
        });
    }
}

async fn forward(
    request: Request<Incoming>,
    provider: SocketAddr,
    idle: Idle,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (mut parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    parts.headers.remove(header::CONTENT_LENGTH);
    let kept = idle.borrow_mut().pop().filter(SendRequest::is_ready);
    let mut connection = match kept {
        Some(connection) => connection,
        None => connect(provider).await,
    };
    let answer = connection.send_request(Request::from_parts(parts, Full::new(body))).await.unwrap();
    let (mut parts, body) = answer.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    parts.headers.remove(header::CONTENT_LENGTH);
    idle.borrow_mut().push(connection);
    Ok(Response::from_parts(parts, Full::new(body)))
}

async fn connect(provider: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(provider).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn_local(connection);
    sender
}
