//! One attempt at an upstream: the request out, and what its answer says.

pub mod inspect;
pub mod reset;
pub mod scan;
