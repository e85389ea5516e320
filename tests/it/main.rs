//! Everything over real sockets, in one binary.

mod gateway;
mod harness;
mod sdk;
mod upstream;
