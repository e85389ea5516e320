//! What a newcomer can try without any credential, and what the tests run against: a provider on loopback.

pub mod tour;
pub mod upstream;
