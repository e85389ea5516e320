//! Everything over real sockets, in one binary.

// What helpers of tests cannot unwrap is a failed test, too.
#![allow(clippy::unwrap_used)]

mod architecture;
mod crash;
mod gateway;
mod harness;
mod process;
mod sdk;
mod signals;
mod upstream;
