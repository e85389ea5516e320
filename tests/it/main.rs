//! Everything over real sockets, in one binary.

mod cli;
mod gateway;
mod harness;
mod upstream;
