//! What the admin API speaks: the JSON of questions and answers. The command line reads and writes the same
//! types.

mod import;
mod keys;
mod stats;
mod tokens;

pub use import::*;
pub use keys::*;
pub use stats::*;
pub use tokens::*;
