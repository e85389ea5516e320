//! From this instance to the hub and back, exactly.
//!
//! - `schema` is what a hub has to hold, and how it gets there;
//! - `wire` is the JSON of the hub's five functions;
//! - `transport` carries one call to one of them and back.

pub mod schema;
pub mod transport;
pub mod wire;
