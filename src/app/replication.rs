//! Replication as the control API and the shutdown see it: the replicators of all hubs.

use futures_util::future::BoxFuture;

use crate::{
    admin::{self, Refusal},
    replica::status::HubStatus,
};

/// One replicator for each hub; none when nothing replicates.
#[derive(Default)]
pub(super) struct Hubs {}

impl admin::Replication for Hubs {
    fn status(&self) -> BoxFuture<'_, Vec<HubStatus>> {
        Box::pin(async { Vec::new() })
    }

    fn look(&self) {}

    fn changed(&self) {}

    fn now(&self, _hub: Option<String>) -> BoxFuture<'_, Result<Vec<HubStatus>, Refusal>> {
        Box::pin(async { Err(Refusal::Off) })
    }

    fn adopt(&self, _hub: Option<String>) -> BoxFuture<'_, Result<Vec<String>, Refusal>> {
        Box::pin(async { Err(Refusal::Off) })
    }
}
