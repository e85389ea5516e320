//! Everything over real sockets, in one binary.

mod cli;
#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

mod endings;
mod gateway;
mod harness;
mod limits;
mod lists;
mod load;
mod outcomes;
mod reaching;
mod scripted;
mod transport;
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
