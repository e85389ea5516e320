//! The command line: one file per command, and a client of the admin API for those that talk to a server.
//!
//! - `io` is the only way to the terminal, the standard streams and the environment, so that a test can stand
//!   in for them;
//! - `remote` finds the server and the admin token, `client` talks to it, `view` holds what it answers;
//! - `limits` are the options that tokens and users have alike;
//! - `table` and `show` are for people; `--json` gives programs what the server says, word for word.
//!
//! Deliberately absent: the server and the demo themselves. They come in as [`Hooks`].

mod admin_token;
mod client;
mod completions;
mod demo;
mod doctor;
mod error;
mod events;
mod hub;
mod io;
mod keys;
mod limits;
mod migrate;
mod private_file;
mod remote;
mod schema;
mod serve;
mod show;
mod stats;
mod store;
mod sync;
mod table;
mod tokens;
mod users;
mod view;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand, error::ErrorKind};

pub use io::Io;

use crate::{app::Reload, config, demo::tour};
use error::Error;

/// What the commands start that is not a client of a running server.
#[derive(Clone, Copy)]
pub struct Hooks {
    /// The second is called at every SIGHUP.
    pub serve: fn(config::Loaded, Reload) -> anyhow::Result<()>,
    pub demo: fn(tour::Options) -> anyhow::Result<()>,
}

const EXAMPLES: &str = "\
Examples:
  keytide demo                                  a tour that needs no credential
  keytide serve                                 listens on 127.0.0.1:8787
  keytide keys import keys.csv --provider ollama
  keytide tokens create --name app
  keytide stats

Exit codes: 0 done, 1 failed, 2 not understood.";

/// Pools API keys for LLM providers behind one endpoint, with exact books in a local file.
#[derive(Parser)]
#[command(name = "keytide", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Serve(serve::Args),
    Demo(demo::Args),
    Keys(keys::Args),
    Tokens(tokens::Args),
    Users(users::Args),
    Events(events::Args),
    Stats(stats::Args),
    Sync(sync::Args),
    Schema(schema::Args),
    Migrate(migrate::Args),
    Store(store::Args),
    Doctor(doctor::Args),
    AdminToken(admin_token::Args),
    Completions(completions::Args),
}

/// Runs one command line, the program's name first, on this process's streams and environment.
pub fn run(args: impl IntoIterator<Item = OsString>, hooks: Hooks) -> ExitCode {
    ExitCode::from(run_with(args, hooks, &mut Io::process()))
}

/// As [`run`], on the streams and the environment of `io`. Blocks; not to be called from async code.
pub fn run_with(args: impl IntoIterator<Item = OsString>, hooks: Hooks, io: &mut Io) -> u8 {
    let done = match Cli::try_parse_from(args) {
        Ok(cli) => dispatch(cli.command, hooks, io),
        Err(error) => explain(&error, io),
    };
    let done = done.and_then(|()| io.flush());
    if let Err(error) = &done {
        let _ = io.flush();
        let message = error.to_string();
        if !message.is_empty() {
            io.note(&format!("keytide: {message}"));
        }
    }
    done.map_or_else(|error| error.exit_code(), |()| 0)
}

fn dispatch(command: Command, hooks: Hooks, io: &mut Io) -> Result<(), Error> {
    match command {
        Command::Serve(args) => serve::run(&args, hooks.serve, io),
        Command::Demo(args) => demo::run(&args, hooks.demo, io),
        Command::Keys(args) => block_on(keys::run(args, io)),
        Command::Tokens(args) => block_on(tokens::run(args, io)),
        Command::Users(args) => block_on(users::run(args, io)),
        Command::Events(args) => block_on(events::run(args, io)),
        Command::Stats(args) => block_on(stats::run(&args, io)),
        Command::Sync(args) => block_on(sync::run(args, io)),
        Command::Schema(args) => block_on(schema::run(&args, io)),
        Command::Migrate(args) => block_on(migrate::run(args, io)),
        Command::Store(args) => block_on(store::run(&args, io)),
        Command::Doctor(args) => block_on(doctor::run(&args, io)),
        Command::AdminToken(args) => admin_token::run(&args, io),
        Command::Completions(args) => completions::run(&args, io),
    }
}

/// Boxed, since the commands' futures are large and run once.
fn block_on(work: impl Future<Output = Result<(), Error>>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::failed(format!("cannot start: {error}")))?;
    runtime.block_on(Box::pin(work))
}

/// What clap has to say: help and versions on stdout, mistakes on stderr in our voice.
fn explain(error: &clap::Error, io: &mut Io) -> Result<(), Error> {
    let text = error.render();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = if io.colour() { text.ansi().to_string() } else { text.to_string() };
            io.print(&text)
        }
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            io.note(text.to_string().trim_end());
            Err(Error::Usage(String::new()))
        }
        _ => {
            let text = text.to_string();
            let text = text.strip_prefix("error: ").unwrap_or(&text).trim_end();
            Err(Error::Usage(text.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_shows_an_example() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("Example"), "{} has no example", command.get_name());
            command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn options_of_a_group_may_stand_before_and_after_its_command() {
        for line in [
            "keytide keys --provider ollama list",
            "keytide keys list --provider ollama --url http://localhost:1 --json",
            "keytide tokens create --name a --model x --model y --rpm 5 --expires-in 30d",
            "keytide keys add -",
            "keytide keys disable 01234567 --for 2h",
            "keytide store backup file --data-dir d",
            "keytide sync status --json",
            "keytide sync adopt --hub default --yes",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        for line in [
            "keytide keys disable 01234567 --for 2h --until 2030-01-01",
            "keytide tokens create",
            "keytide tokens create --name a --rpm 0",
            "keytide keys list --status broken",
            "keytide sync",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
