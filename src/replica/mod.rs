//! From this instance to the hub and back, exactly.
//!
//! - `wire` is the JSON of the hub's five functions;
//! - `transport` carries one call to one of them and back: over Postgres's own protocol (`postgres`) or over its
//!   REST API (`rest`); `route` chooses;
//! - `protocol` decides what is asked and what the answers mean, without I/O;
//! - `replicator` is the task that goes through rounds, `pace` says when they are due;
//! - `status` is what an operator is told, `words` how it is said.

pub mod pace;
pub mod postgres;
pub mod protocol;
pub mod replicator;
pub mod rest;
pub mod route;
mod sqlstate;
pub mod status;
mod tls;
pub mod transport;
pub mod wire;
mod words;
