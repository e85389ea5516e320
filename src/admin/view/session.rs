//! Sessions of people.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::model::Timestamp;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SignIn {
    /// The admin token.
    pub token: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// What a request that changes something has to repeat in the header `x-csrf-token`.
    pub csrf: String,
    /// Unless it is used before.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}
