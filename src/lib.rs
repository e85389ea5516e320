//! keytide pools API keys for LLM providers behind one endpoint and keeps exact books on them.

pub mod model;
pub mod upstream;
