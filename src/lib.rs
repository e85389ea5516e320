//! keytide pools API keys for LLM providers behind one endpoint and keeps exact books on them.

pub mod admin;
pub mod config;
pub mod demo;
pub mod gateway;
pub mod guard;
pub mod ledger;
pub mod model;
pub mod observe;
pub mod pool;
pub mod store;
pub mod upstream;
