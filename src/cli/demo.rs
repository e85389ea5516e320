//! `keytide demo`

use std::{
    io::{self as std_io, ErrorKind},
    net::SocketAddr,
};

use super::{error::Error, io::Io};
use crate::demo::tour::Options;

/// A full tour without any credential: a provider on loopback, keys, tokens and traffic
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide demo
  keytide demo --once --keys 100

Nothing is kept: the demo works in a folder of its own and removes it at the end.")]
pub(super) struct Args {
    /// Where the gateway listens: port 8787, or any free one when that is taken
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// How many keys the pool gets
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(6..=1000))]
    keys: u32,
    /// How many requests the tour sends
    #[arg(long, value_name = "N", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    requests: u32,
    /// End after the tour instead of going on serving until Ctrl-C
    #[arg(long)]
    once: bool,
}

pub(super) fn run(args: &Args, demo: fn(Options) -> anyhow::Result<()>, io: &mut Io) -> Result<(), Error> {
    io.flush()?;
    let options = Options {
        once: args.once,
        listen: args.listen,
        keys: args.keys as usize,
        requests: args.requests as usize,
    };
    demo(options).map_err(|error| match error.downcast_ref::<std_io::Error>() {
        Some(output) if output.kind() == ErrorKind::BrokenPipe => Error::BrokenPipe,
        _ => Error::failed(format!("{error:#}")),
    })
}
