//! `keytide keys`

mod add;
mod change;
mod export;
mod import;
mod list;
mod test;
mod which;

pub(super) use which::Wanted;

use super::{
    error::Error,
    io::Io,
    remote::{ForProvider, Remote},
};

/// List, add, import, export, switch, delete and test keys, through the running server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys list --status failed
  keytide keys import keys.csv --provider openrouter
  keytide keys test --all")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    provider: ForProvider,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Subcommand)]
enum Command {
    List(list::Args),
    Add(add::Args),
    Import(import::Args),
    Export(export::Args),
    Enable(change::EnableArgs),
    Disable(change::DisableArgs),
    Owner(change::OwnerArgs),
    Delete(change::DeleteArgs),
    Test(test::Args),
}

pub(super) async fn run(args: Args, io: &mut Io) -> Result<(), Error> {
    let client = args.remote.client(io)?.for_provider(args.provider.provider.as_deref());
    let json = args.remote.json;
    match args.command {
        Command::List(args) => list::run(&args, &client, json, io).await,
        Command::Add(args) => add::run(args, &client, json, io).await,
        Command::Import(args) => import::run(&args, &client, json, io).await,
        Command::Export(args) => export::run(&args, &client, json, io).await,
        Command::Enable(args) => change::enable(&args, &client, json, io).await,
        Command::Disable(args) => change::disable(&args, &client, json, io).await,
        Command::Owner(args) => change::owner(&args, &client, json, io).await,
        Command::Delete(args) => change::delete(&args, &client, json, io).await,
        Command::Test(args) => test::run(&args, &client, json, io).await,
    }
}

/// The states that the server tells apart.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Status {
    Active,
    Failed,
    Disabled,
    Expired,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
            Self::Expired => "expired",
        }
    }
}

/// Enough of an id to tell keys apart.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}
