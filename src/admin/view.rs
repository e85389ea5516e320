//! What the admin API speaks: the JSON of questions and answers. The command line reads a part of it through
//! types of its own (`cli::view`), which take what they show and pass over the rest, so that it also
//! understands a server of another version.

mod counted;
mod error;
mod events;
mod import;
mod keys;
mod playground;
mod session;
mod stats;
mod sync;
mod tokens;
mod trend;
mod users;

pub use counted::*;
pub use error::*;
pub use events::*;
pub use import::*;
pub use keys::*;
pub use playground::*;
pub use session::*;
pub use stats::*;
pub use sync::*;
pub use tokens::*;
pub use trend::*;
pub use users::*;
