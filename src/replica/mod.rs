//! From this instance to the hub and back, exactly.
//!
//! - `wire` is the JSON of the hub's five functions;
//! - `pace` says when the next round and the next reading of statistics are due;
//! - `status` is what an operator is told;
//! - `transport` carries one call to one of them and back.

pub mod pace;
pub mod status;
pub mod transport;
pub mod wire;
