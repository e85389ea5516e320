//! Everything over real sockets, in one binary.

mod cli;
mod upstream;
