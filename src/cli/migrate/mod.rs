//! `keytide migrate`: from what people had before. A dry run by default.

mod kv;
mod kv_file;
mod map;
mod usage_logs;

use super::{error::Error, io::Io};

/// Move what an older pool has: its log of uses, its keys and tokens in a KV
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide migrate usage-logs                      say what would be done
  keytide migrate usage-logs --run --drop
  keytide migrate kv list.json values.json")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    UsageLogs(usage_logs::Args),
    Kv(kv::Args),
}

pub(super) async fn run(args: Args, io: &mut Io) -> Result<(), Error> {
    match args.command {
        Command::UsageLogs(args) => usage_logs::run(&args, io).await,
        Command::Kv(args) => kv::run(&args, io).await,
    }
}
