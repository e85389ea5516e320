//! `keytide serve`

use std::{net::SocketAddr, sync::Arc};

use super::{error::Error, io::Io, remote::Local};
use crate::{app::Reload, config};

/// Run the gateway, its admin API and its books
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide serve
  keytide serve --config /etc/keytide/config.toml
  keytide serve --listen 0.0.0.0:8787 --data-dir /srv/keytide

SIGTERM and Ctrl-C finish open requests first; SIGHUP reads the configuration again.")]
pub(super) struct Args {
    /// Where to listen, instead of server.listen
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    #[command(flatten)]
    local: Local,
}

pub(super) fn run(
    args: &Args,
    serve: fn(config::Loaded, Reload) -> anyhow::Result<()>,
    io: &mut Io,
) -> Result<(), Error> {
    let reader = args.local.reader(args.listen, io);
    let loaded = reader().map_err(|error| Error::failed(error.to_string()))?;
    serve(loaded, Arc::new(reader)).map_err(|error| Error::failed(format!("{error:#}")))
}
