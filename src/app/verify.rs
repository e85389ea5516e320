//! Keys that were refused too often come back only after a probe; this is what probes them.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tracing::info;

use super::Shared;
use crate::{
    gateway::{
        Provider,
        models::{Outcome, once},
    },
    model::{Effect, KeyId},
    upstream::Probe,
};

/// Probes under way at a time for one provider: a slow one keeps no other's keys waiting behind its own.
const AT_ONCE: usize = 8;
/// A key can come to need verification at any time, so deadlines are looked at anew this often.
const LOOK_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn run(shared: Arc<Shared>, core: usize) {
    loop {
        let now = shared.clock.now();
        let live = shared.gateway.live();
        let enabled = live.providers.iter().filter(|provider| provider.options.enabled);
        let due = enabled.flat_map(|provider| {
            let ids = provider.pool.due_for_verification(now, AT_ONCE);
            ids.into_iter().map(move |id| verify(provider, core, id))
        });
        join_all(due).await;
        let next = live.providers.iter().filter_map(|provider| provider.pool.next_verification()).min();
        let wait = next.map_or(LOOK_EVERY, |at| at.since(shared.clock.now()).min(LOOK_EVERY));
        // Never in a tight loop, whatever a probe's outcome leaves due.
        tokio::time::sleep(wait.max(Duration::from_secs(1))).await;
    }
}

async fn verify(provider: &Provider, core: usize, id: KeyId) {
    let (ok, detail) = probe(provider, core, id).await;
    info!(provider = provider.name(), key = id.short(), ok, "a key was verified: {detail}");
}

/// Sends one key through the provider's probe; says whether it works, and what was seen.
pub(super) async fn probe(provider: &Provider, core: usize, id: KeyId) -> (bool, String) {
    let Some(lease) = provider.pool.lease_for(id, provider.clock.now()) else {
        return (false, "there is no such key".to_owned());
    };
    let Probe { method, path, body } = &provider.upstream.probe;
    let body = body.clone().unwrap_or_default().into();
    match once(provider, core, lease, method.clone(), path, body, Effect::Success).await {
        Outcome::Answer(status, _) if status.is_success() => (true, "works".to_owned()),
        Outcome::Answer(status, _) => {
            let status = status.as_u16();
            (false, format!("the probe {path} was answered {status}, which says nothing about the key"))
        }
        Outcome::Failed(why) => (false, why),
    }
}
