//! The books: what was counted, exactly once, for every attempt and every request.
//!
//! Recording adds to a shard that belongs to one data-plane core, so cores do not wait for each other. A
//! collection drains all shards into the totals in memory and into one delta for the store; the flusher
//! appends that delta, and keeps it when the store cannot take it.
//!
//! Invariants:
//! - an attempt and the request it ends are recorded under one lock, so no flush can part them
//!   (`tests::a_request_is_never_split`);
//! - totals in memory = what the store holds + the pending delta (`tests::a_failed_append_loses_nothing`);
//! - what is counted by hour, day and person is of the hour and day that the clock said, whatever it said before or
//!   after (`shard::tests`); of it the books in memory hold nothing: it goes into the delta, and is read in the store;
//! - only models that the provider lists or has answered get a row of their own, at most
//!   [`models::MAX_MODELS`] of them; the rest share `(other)` (`models::tests`).

mod books;
mod flush;
mod models;
mod record;
mod shard;

pub use books::{Books, ProviderBooks};
pub use flush::{Flusher, Sink};
pub use models::{ModelNames, ModelRef, OTHER};
pub use record::{
    Attempt, Caller, Class, CommitWatch, Ending, Entry, HealthSource, Kind, Ledger, ProviderLedger, Refusal,
    Ticket,
};
