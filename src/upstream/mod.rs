//! One attempt at a provider: a request out, an outcome back.

pub mod options;
pub mod outcome;
