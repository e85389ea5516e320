//! Everything over real sockets, in one binary.

mod architecture;
mod crash;
mod gateway;
mod harness;
mod process;
mod sdk;
mod upstream;
