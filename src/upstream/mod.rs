//! One attempt at a provider: a request out, an outcome back.

pub mod client;
mod dial;
pub mod headers;
mod http1;
pub mod inspect;
pub mod late;
pub mod options;
pub mod outcome;
pub mod reset;
pub mod scan;
pub mod wire;

pub use options::{Login, Options, Probe, Proxy};
pub use outcome::{Rule, StatusRules, Treat};
