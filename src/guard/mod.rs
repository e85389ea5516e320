//! Who may come in, and how often.

pub mod tokens;

pub use tokens::{Admission, Refusal, Token, Tokens};
