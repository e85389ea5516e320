//! From this instance to the hub and back, exactly.
//!
//! - `wire` is the JSON of the hub's five functions;
//! - `transport` carries one call to one of them and back: over Postgres's own protocol (`postgres`) or over its
//!   REST API (`rest`); `route` chooses.

pub mod postgres;
pub mod rest;
pub mod route;
mod sqlstate;
mod tls;
pub mod transport;
pub mod wire;
