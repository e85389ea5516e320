//! `keytide demo`

use std::net::SocketAddr;

use super::{error::Error, io::Io};

/// What the demo can be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoOptions {
    /// Where the gateway listens; port 0 for any that is free.
    pub listen: SocketAddr,
    /// How many keys the pool gets, of all kinds together.
    pub keys: u32,
    /// End after the tour instead of going on serving.
    pub once: bool,
}

/// A full tour without any credential: a provider on loopback, keys, tokens and traffic
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide demo
  keytide demo --once --keys 100

Nothing is kept: the demo works in a folder of its own and removes it at the end.")]
pub(super) struct Args {
    /// Where the gateway listens
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How many keys the pool gets
    #[arg(long, value_name = "N", default_value_t = 12, value_parser = clap::value_parser!(u32).range(4..=100_000))]
    keys: u32,
    /// End after the tour instead of going on serving until Ctrl-C
    #[arg(long)]
    once: bool,
}

pub(super) fn run(
    args: &Args,
    demo: fn(DemoOptions) -> anyhow::Result<()>,
    io: &mut Io,
) -> Result<(), Error> {
    io.flush()?;
    let options = DemoOptions { listen: args.listen, keys: args.keys, once: args.once };
    demo(options).map_err(|error| Error::failed(format!("{error:#}")))
}
