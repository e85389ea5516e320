//! The providers: whether they can be reached, and whether one key of each works.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, header};
use serde_json::json;

use super::Report;
use crate::{
    cli::{
        client::{Client, Reply},
        error::Error,
        view::{KeyPage, Probed},
    },
    config::ProviderConfig,
    upstream::{self, client as upstream_client},
};

const PATIENCE: Duration = Duration::from_secs(15);
/// For one key, through the server, which waits for its provider.
const PROBE_PATIENCE: Duration = Duration::from_secs(60);

pub(super) async fn report(
    providers: &BTreeMap<String, ProviderConfig>,
    client: Option<&Client>,
    report: &mut Report,
) {
    for (name, provider) in providers {
        let check = format!("provider {name}");
        if !provider.enabled() {
            report.skipped(&check, "switched off in the configuration");
            continue;
        }
        let host = provider.upstream.base_url.authority().map_or("", http::uri::Authority::host);
        match reach(&provider.upstream).await {
            Ok(status) => report.ok(&check, format!("{host} answers ({status} without a key)")),
            Err(why) => {
                report.fail(&check, why, advice(name, &provider.upstream));
            }
        }
        if let Some(client) = client {
            probe(name, client, report).await;
        }
    }
}

/// One request without a key, on the very way that requests with one go: resolver, proxy, TLS and all. Whatever
/// the answer says, there is one.
async fn reach(options: &upstream::options::Options) -> Result<http::StatusCode, String> {
    let mut options = options.clone();
    options.connect_timeout = options.connect_timeout.min(PATIENCE);
    options.first_byte_timeout = PATIENCE;
    let client = upstream_client::Client::new(&options).map_err(|error| error.to_string())?;
    let path = options
        .path(&options.probe.path)
        .map_err(|_| "base_url and probe.path make no address".to_owned())?;
    let mut headers = HeaderMap::new();
    let agent = HeaderValue::from_static(concat!("keytide/", env!("CARGO_PKG_VERSION")));
    headers.insert(header::USER_AGENT, agent);
    let sent = client.send(Method::GET, &path, &headers, &Bytes::new()).await;
    sent.map(|response| response.status()).map_err(|error| error.to_string())
}

fn advice(name: &str, options: &upstream::options::Options) -> String {
    let proxy = if options.proxy.is_some() { ", its proxy" } else { "" };
    format!("check the network, name resolution{proxy} and providers.{name}.base_url")
}

async fn probe(name: &str, client: &Client, report: &mut Report) {
    let check = format!("keys of {name}");
    match tokio::time::timeout(PROBE_PATIENCE, probe_one(name, client)).await {
        Ok(Ok(Probe::NoKeys)) => report.warn(
            &check,
            "there are none, so requests get a 503",
            format!("add one with `keytide keys add --provider {name}`"),
        ),
        Ok(Ok(Probe::NoneActive(total))) => report.warn(
            &check,
            format!("none of {total} can be used right now"),
            format!("see `keytide keys list --provider {name}`"),
        ),
        Ok(Ok(Probe::Tried(Probed { ok: true, .. }))) => report.ok(&check, "one was tried and works"),
        Ok(Ok(Probe::Tried(Probed { id, detail, .. }))) => report.fail(
            &check,
            format!(
                "{} was tried and failed: {}",
                short(&id),
                detail.as_deref().unwrap_or("no reason given")
            ),
            format!("see `keytide keys test --all --provider {name}`"),
        ),
        Ok(Err(error)) => report.fail(&check, error.to_string(), "see the server's log"),
        Err(_) => report.fail(&check, "the trial of one took too long", "see the server's log"),
    }
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

enum Probe {
    NoKeys,
    NoneActive(u64),
    Tried(Probed),
}

#[derive(serde::Deserialize)]
struct Results {
    results: Vec<Probed>,
}

async fn probe_one(name: &str, client: &Client) -> Result<Probe, Error> {
    let one = [("provider", name), ("pageSize", "1"), ("status", "active")];
    let active: Reply<KeyPage> = client.get("admin/api-keys", &one).await?;
    let Some(key) = active.value.keys.first() else {
        let any: Reply<KeyPage> = client.get("admin/api-keys", &one[..2]).await?;
        return Ok(if any.value.total == 0 { Probe::NoKeys } else { Probe::NoneActive(any.value.total) });
    };
    let request =
        client.request(Method::POST, "admin/keys/health-check", &one[..1]).json(&json!({"ids": [key.id]}));
    let reply: Reply<Results> = client.send(request).await?;
    let tried = reply.value.results.into_iter().next();
    tried
        .map(Probe::Tried)
        .ok_or_else(|| Error::failed("the server says nothing about the key that it tried"))
}
