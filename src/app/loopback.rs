//! Requests to keytide's own socket: the playground's, which go the way of every caller's.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use axum::{body::Body, response::Response};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Method, Request, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::{admin, model::Secret};

pub(super) struct Loopback {
    client: Client<HttpConnector, Body>,
    to: SocketAddr,
}

impl Loopback {
    /// `listen` is where keytide listens; from within, every address is this machine.
    pub(super) fn new(listen: SocketAddr) -> Self {
        let ip = match listen.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
            IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
            ip => ip,
        };
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { client, to: SocketAddr::new(ip, listen.port()) }
    }
}

impl admin::Loopback for Loopback {
    fn call(
        &self,
        path: String,
        token: Secret,
        body: Option<Bytes>,
    ) -> BoxFuture<'static, Result<Response, String>> {
        let method = if body.is_some() { Method::POST } else { Method::GET };
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.to))
            .header(header::AUTHORIZATION, format!("Bearer {}", token.expose()))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.map_or_else(Body::empty, Body::from));
        let client = self.client.clone();
        Box::pin(async move {
            let request = request.map_err(|_| "the request cannot be written".to_owned())?;
            let answer = client.request(request).await.map_err(|error| error.to_string())?;
            Ok(answer.map(Body::new))
        })
    }
}
