//! keytide pools API keys for LLM providers behind one endpoint and keeps exact books on them.

pub mod ledger;
pub mod config;
pub mod gateway;
pub mod model;
pub mod store;
