//! People: whoever is behind one or more tokens.

use serde::{Deserialize, Serialize};

use super::{Limits, Timestamp, UserId};

/// What is said of a user. The id is random, made with the user: people may change their names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    pub name: Box<str>,
    pub note: Option<Box<str>>,
    pub created_at: Timestamp,
    /// The tokens of one that is not are refused.
    pub enabled: bool,
    pub limits: Limits,
}

impl UserRecord {
    pub const MAX_NAME_LEN: usize = 128;
    pub const MAX_NOTE_LEN: usize = 256;
    /// Users of one keytide.
    pub const MAX_COUNT: usize = 100_000;
}

/// A user with the id that others know.
pub type User = (UserId, UserRecord);
