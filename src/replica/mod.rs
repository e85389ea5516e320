//! From this instance to the hub and back, exactly.
//!
//! - `wire` is the JSON of the hub's five functions;
//! - `transport` carries one call to one of them and back;
//! - `protocol` decides what is asked and what the answers mean, without I/O.

pub mod protocol;
#[cfg(test)]
mod simulator;
pub mod transport;
pub mod wire;
