//! The hubs of the configuration, reached from the command line without a server.

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::error::Error;
use crate::{
    config::{Config, HubConfig, ProviderConfig},
    replica::{
        postgres::{self, Postgres},
        route::{self, Choice},
        transport::{self, ErrorKind, Transport},
        wire::{Ask, Function, Lane, PROTOCOL, PullAnswer, PullRequest},
    },
};

/// The configured providers, or the one that is named.
pub(super) fn providers<'a>(
    config: &'a Config,
    only: Option<&str>,
) -> Result<Vec<(&'a str, &'a ProviderConfig)>, Error> {
    let all = config.providers.iter().map(|(name, provider)| (name.as_str(), provider));
    let Some(name) = only else { return Ok(all.collect()) };
    let known: Vec<_> = config.providers.keys().map(String::as_str).collect();
    let found: Vec<_> = all.filter(|(known, _)| *known == name).collect();
    if found.is_empty() {
        return Err(Error::usage(format!(
            "there is no provider {name:?}; the configuration has {}",
            known.join(", ")
        )));
    }
    Ok(found)
}

/// Those that are in use, each with the providers wanted of it.
pub(super) fn hubs(config: &Config, only: Option<&str>) -> Result<Vec<HubConfig>, Error> {
    providers(config, only)?;
    let mut hubs = config.hubs();
    for hub in &mut hubs {
        hub.providers.retain(|(provider, _)| only.is_none_or(|only| only == provider));
    }
    hubs.retain(|hub| !hub.providers.is_empty());
    if hubs.is_empty() {
        return Err(Error::usage("no hub is configured: set DATABASE_URL, or [sync] in the configuration"));
    }
    Ok(hubs)
}

/// A connection for the schema's own statements; `None` where only the REST API is configured.
pub(super) fn database(
    options: &route::Options,
) -> Option<BoxFuture<'static, Result<tokio_postgres::Client, transport::Error>>> {
    if options.transport == Choice::Rest {
        return None;
    }
    let url = options.database_url.clone()?;
    Some(Box::pin(async move { Postgres::new(&postgres::Options::new(url))?.connect().await }))
}

/// Asks for one row of each provider: writes nothing, and tells all that a look can tell.
pub(super) async fn look(
    transport: &dyn Transport,
    providers: &[(String, String)],
) -> Result<PullAnswer, transport::Error> {
    let ask = |(provider, prefix): &(String, String)| Ask {
        stream: prefix.clone(),
        provider: provider.clone(),
        lane: Lane::State,
        cursor: None,
        after: None,
        limit: 1,
    };
    let request =
        PullRequest { protocol: PROTOCOL, instance: Uuid::nil(), asks: providers.iter().map(ask).collect() };
    call(transport, Function::Pull, &request).await
}

async fn call<T: DeserializeOwned>(
    transport: &dyn Transport,
    function: Function,
    request: &impl Serialize,
) -> Result<T, transport::Error> {
    let garbage = |_| transport::Error::new(ErrorKind::Garbage, "the answer is not what a hub answers");
    let request = serde_json::to_string(request).map_err(garbage)?;
    let reply = transport.call(function, &request).await?;
    serde_json::from_str(&reply.body).map_err(garbage)
}
