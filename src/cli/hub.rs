//! The hubs of the configuration, reached from the command line without a server.

use std::time::Duration;

use futures_util::future::BoxFuture;
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

use super::error::Error;
use crate::{
    config::{Config, HubConfig, ProviderConfig},
    model::{Clock, Timestamp},
    replica::{
        postgres::{self, Postgres},
        route::{self, Choice},
        transport::{self, ErrorKind, Transport},
        wire::{Ask, Function, Lane, PROTOCOL, PullAnswer, PullRequest, SizesAnswer, SizesRequest},
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

/// What a look at a hub tells.
pub(super) struct Look {
    pub found: PullAnswer,
    /// This machine's clock minus the hub's, in milliseconds, and how far off that may be.
    pub offset: i64,
    pub doubt: i64,
}

/// Asks for one row of each provider: writes nothing, and tells all that a look can tell.
pub(super) async fn look(
    transport: &dyn Transport,
    providers: &[(String, String)],
) -> Result<Look, transport::Error> {
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
    let (found, took) = call::<PullAnswer>(transport, Function::Pull, &request).await?;
    let (offset, doubt) = apart(found.greeting.now, Clock::System.now(), took);
    Ok(Look { found, offset, doubt })
}

/// The hub looked at its clock some time between the call and its answer.
fn apart(hub_now: i64, answered: Timestamp, took: Duration) -> (i64, i64) {
    let half = i64::try_from(took.as_millis().div_ceil(2)).unwrap_or(i64::MAX);
    (answered.0.saturating_sub(half).saturating_sub(hub_now), half)
}

/// How large it is, and what it ignored of other programs' writes.
pub(super) async fn sizes(transport: &dyn Transport) -> Result<SizesAnswer, transport::Error> {
    let request = SizesRequest { protocol: PROTOCOL };
    Ok(call::<SizesAnswer>(transport, Function::Sizes, &request).await?.0)
}

async fn call<T: DeserializeOwned>(
    transport: &dyn Transport,
    function: Function,
    request: &impl Serialize,
) -> Result<(T, Duration), transport::Error> {
    let garbage = |_| transport::Error::new(ErrorKind::Garbage, "the answer is not what a hub answers");
    let request = serde_json::to_string(request).map_err(garbage)?;
    let reply = transport.call(function, &request).await?;
    Ok((serde_json::from_str(&reply.body).map_err(garbage)?, reply.took))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_a_slow_call_is_doubt_and_no_offset() {
        let answered = Timestamp(1_800_000_000_000);
        assert_eq!(apart(answered.0 - 2_000, answered, Duration::from_secs(4)), (0, 2_000));
        assert_eq!(apart(answered.0 - 7_000, answered, Duration::from_millis(21)), (6_989, 11));
        assert_eq!(apart(answered.0 + 7_000, answered, Duration::ZERO), (-7_000, 0));
        assert!(apart(i64::MIN, answered, Duration::MAX).0 > 0);
    }
}
