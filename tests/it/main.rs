//! Everything over real sockets, in one binary.
#![allow(clippy::unwrap_used, reason = "where a test's helper cannot go on, the test has failed")]

mod architecture;
mod budget;
mod cli;
mod console;
mod counted;
mod crash;
mod demo;
mod endings;
mod gateway;
mod harness;
mod hub;
mod limits;
mod lists;
mod load;
mod migrate;
mod outcomes;
mod pg;
mod process;
mod reaching;
mod replication;
mod schema;
mod scripted;
mod sdk;
mod signals;
mod transport;
mod upstream;
mod users;
mod watch;
