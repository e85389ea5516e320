//! Replication.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::replica::status::HubStatus;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Sync {
    /// Empty when nothing replicates.
    pub hubs: Vec<HubStatus>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct SyncHub {
    /// As the configuration names it; all, or the only one, when absent.
    pub hub: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Adopted {
    /// What was done, a sentence each.
    pub done: Vec<String>,
}
