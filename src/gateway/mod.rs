//! The data plane: callers in, answers out.

pub mod options;

pub use options::{CacheOptions, Options, ProviderOptions};
