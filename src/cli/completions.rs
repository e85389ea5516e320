//! `keytide completions`

use clap::CommandFactory;

use super::{Cli, error::Error, io::Io};

/// Print a script that completes keytide's commands in a shell
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide completions bash > ~/.local/share/bash-completion/completions/keytide
  keytide completions zsh > ~/.zfunc/_keytide
  keytide completions fish > ~/.config/fish/completions/keytide.fish")]
pub(super) struct Args {
    shell: clap_complete::Shell,
}

pub(super) fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "keytide", &mut script);
    io.bytes(&script)
}
