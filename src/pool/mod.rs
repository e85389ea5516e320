//! The keys that can be picked, in memory.

pub mod options;

pub use options::{CooldownScope, Options, Strategy};
