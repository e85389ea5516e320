//! keytide pools API keys for LLM providers behind one endpoint and keeps exact books on them.
//!
//! # The map
//!
//! ```text
//! client ─▶ gateway ─▶ guard ─▶ pool.pick ─▶ upstream ─▶ client
//!                                   │            │ outcome
//!                                   ▼            ▼
//!                                 pool ◀────── ledger ─▶ store ◀─▶ replica ◀─▶ Postgres
//!                                (state)      (counters) (one redb file)        (the hub, if there is one)
//! ```
//!
//! - [`model`]: what the words mean; pure types and transitions, with the present passed in.
//! - [`pool`]: the keys that can be picked, in memory.
//! - [`upstream`]: one attempt at a provider, and what its answer means.
//! - [`guard`]: who may come in, and how often. [`monitor`]: what is not usual, against everybody's own past.
//! - [`ledger`]: the books. [`store`]: the local file, written by one thread.
//! - [`replica`]: to the hub, a Postgres database, and back.
//! - [`gateway`]: the data plane, one runtime per core. [`admin`] and [`observe`]: the operator's side, on a
//!   runtime of its own.
//! - [`console`]: the web pages, over the control API alone.
//! - [`config`] reads what was configured, [`cli`] what was typed, [`app`] wires the rooms, [`demo`] shows it all.
//!
//! Who may know whom is a table in `tests/it/architecture.rs`, and a test that reads the `use` lines.
//!
//! # The invariants, and where they are kept
//!
//! - Nothing on a request's path waits for the disk, or for any network but the provider's ([`gateway`]). Under
//!   `durability = "strict"` an answer's last bytes wait for the commit that counts it, and for nothing else.
//! - Every admitted request is counted exactly once, however it ends (`gateway::call`), together with its last
//!   attempt ([`ledger`]).
//! - No token and no user is let in once more often than its limits say, however many ask at once and whatever is changed
//!   meanwhile ([`guard`]).
//! - A killed process loses at most one flush interval of statistics, under `strict` nothing that was answered, and
//!   never an acknowledged change (`tests/it/crash.rs`).
//! - A shorter cooldown never shortens a longer one, and an answer that was in flight before a change of a key's
//!   state does not undo it ([`model::health`], [`pool`]).
//! - Every count reaches the hub once: a batch is on disk before it is sent, is applied once by its number and digest, and
//!   leaves what is shown only when its row has come back ([`replica::protocol`], and its simulator).
//! - What a person decides is never overwritten by what keytide concludes, nor by an older decision from elsewhere.
//! - No key, token or statistic crosses providers.
//! - Secrets are shown nowhere ([`model::Secret`]), but by the two calls that exist to show them.
//!
//! # Deliberately absent
//!
//! A row per request; sampling; waiting for the hub; a queue or a cache server; retries after the first byte has gone out; locks held
//! across an await on the data plane.

pub mod admin;
pub mod app;
pub mod breather;
pub mod cli;
pub mod config;
pub mod console;
pub mod demo;
pub mod gateway;
pub mod guard;
pub mod ledger;
pub mod model;
pub mod monitor;
pub mod observe;
pub mod pool;
pub mod replica;
pub mod store;
pub mod upstream;
