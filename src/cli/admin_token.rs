//! `keytide admin-token`

use std::path::Path;

use serde_json::json;

use super::{
    error::Error,
    io::Io,
    private_file::PrivateFile,
    remote::{Local, TOKEN_FILE},
};
use crate::{app::new_admin_token, model::Secret};

/// Replace the admin token
#[derive(clap::Args)]
#[command(after_help = "\
Example:
  keytide admin-token reset")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Make a new admin token in the data folder
    #[command(after_help = "\
Examples:
  keytide admin-token reset
  sudo keytide admin-token reset && sudo systemctl reload keytide

The token is not printed; it is in DIR/admin-token, readable by its owner alone.")]
    Reset {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        local: Local,
    },
}

pub(super) fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let Command::Reset { json, local } = &args.command;
    let loaded = local.load(io)?;
    if loaded.config.server.admin_token.is_some() {
        let source = loaded.sources.get("server.admin_token").map_or("the configuration", String::as_str);
        return Err(Error::failed(format!(
            "the admin token comes from {source}; change it there, and restart or reload keytide"
        )));
    }
    let dir = &loaded.config.store.dir;
    let path = dir.join(TOKEN_FILE);
    if !dir.is_dir() {
        return Err(Error::failed(format!(
            "there is no data folder {}; name it with --data-dir, or start keytide once",
            dir.display()
        )));
    }
    let token = new_admin_token().map_err(|error| Error::failed(format!("{error:#}")))?;
    write(&path, &token)
        .map_err(|error| Error::failed(format!("cannot write {}: {error}", path.display())))?;
    if *json {
        return io.line(&json!({"file": path}).to_string());
    }
    io.line(&format!("A new admin token is in {}.", path.display()))?;
    io.note(
        "A running keytide goes on with the old one until it gets a SIGHUP (`systemctl reload keytide`) or is restarted.",
    );
    Ok(())
}

fn write(path: &Path, token: &Secret) -> std::io::Result<()> {
    let mut file = PrivateFile::new(path)?.for_owner_of_folder()?;
    file.write(token.expose().as_bytes())?;
    file.write(b"\n")?;
    file.publish(true)
}
