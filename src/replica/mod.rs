//! From this instance to the hub and back, exactly.
//!
//! - `wire` is the JSON of the hub's five functions;
//! - `transport` carries one call to one of them and back: over Postgres's own protocol (`postgres`) or over its
//!   REST API (`rest`); `route` chooses;
//! - `protocol` decides what is asked and what the answers mean, without I/O; a simulator runs it through crashes,
//!   losses and partitions;
//! - `replicator` is the task that goes through rounds, `pace` says when they are due;
//! - `schema` is the hub's side, as SQL: printed, applied, checked; `usage_logs` moves an older log of uses into it;
//! - `status` and `space` are what an operator is told, `words` how it is said.

mod later;
pub mod pace;
pub mod postgres;
pub mod protocol;
pub mod replicator;
pub mod rest;
pub mod route;
pub mod schema;
#[cfg(test)]
mod simulator;
pub mod space;
mod sqlstate;
pub mod status;
mod tls;
pub mod transport;
pub mod usage_logs;
pub mod wire;
mod words;
