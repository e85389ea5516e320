//! What keytide's words mean: pure types and transitions.
//!
//! Nothing here knows of tasks, files, sockets or configuration, and nothing reads a clock: the present is
//! always an argument.

pub mod budget;
pub mod by_id;
pub mod day;
pub mod error_body;
pub mod event;
pub mod health;
pub mod id;
pub mod key;
pub mod limits;
pub mod networks;
pub mod registers;
pub mod secret;
pub mod span;
pub mod tally;
pub mod time;
pub mod token;
pub mod usage;
pub mod user;
pub mod version;
pub mod window;

pub use budget::{History, Rung, Space, TableSpace};
pub use by_id::{ById, IdHasher};
pub use day::{Day, DaySpan, Month, UnknownZone, Zone};
pub use event::{Event, UsageLog, UsageType};
pub use health::{Cause, Effect, Health, Policy};
pub use id::{KeyId, TokenId, UserId};
pub use key::{KeyRecord, Status};
pub use limits::{LimitVersions, Limits};
pub use networks::Networks;
pub use registers::{KeyVersions, TokenVersions, UserVersions};
pub use secret::Secret;
pub use span::{LastKey, Period, Set, SetId, SetKind, SpanId, SpanKind};
pub(crate) use tally::signed;
pub use tally::{CounterId, Tally};
pub use time::{Clock, Timestamp};
pub use token::TokenRecord;
pub use usage::{CoreDelta, Counts, Delta, Hour, KeyAttempts, KeyUsage, ProviderDelta, Usage};
pub use user::{User, UserRecord};
pub use version::{Stamps, Version};
pub use window::Window;
