//! Who may come in, from where, and how often.
//!
//! - `tokens` and `users` are who is in force; `caller` is the two that stand behind one request, and
//!   `acquaintance` who was found last on a connection;
//! - `meter` counts what each has used, `meters` are all of them, `gauge` is what is left of its limits;
//! - `watch` brings what happens to the monitor, `verdicts` are who it keeps out.
//!
//! Invariants: a place is looked for and taken under the locks of the token's and the user's meter together, so that a
//! request takes from both or from neither, and never one too many is let in (`caller::tests`, `tests/it/limits.rs`). A
//! meter outlives every change of what it belongs to, and its end too. What a request took is given back unless it came
//! into the books.

mod acquaintance;
mod caller;
mod gauge;
mod meter;
mod meters;
pub mod tokens;
mod users;
mod verdicts;
mod watch;

pub use acquaintance::Acquaintance;
pub use caller::{Caller, Permit};
pub use gauge::{Exceeded, Gauge, Gauges, Of, Whose};
pub use meter::{Take, Used};
pub use meters::Meters;
pub use tokens::{Refusal, Token, Tokens};
pub use users::{User, Users};
pub use verdicts::{Barred, Sentence, Verdicts};
pub use watch::{Origin, Watch};
