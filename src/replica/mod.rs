//! From this instance to the hub and back, exactly.
//!
//! - `wire` is the JSON of the hub's five functions;
//! - `transport` carries one call to one of them and back.

pub mod postgres;
mod sqlstate;
pub mod transport;
pub mod wire;
