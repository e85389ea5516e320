//! The local file: everything that has to outlive the process.

pub mod options;

pub use options::{Durability, Options};
