//! `keytide store`

mod size;

use std::{
    fs, io as std_io,
    os::unix::fs::{MetadataExt, chown},
    path::{Path, PathBuf, absolute},
};

use serde_json::{Value, json};

use super::{
    client::{Client, Reply},
    error::Error,
    io::{Io, Unit},
    remote::{Remote, is_loopback},
    show,
    view::{Backup, Storage},
};
use crate::{
    model::Clock,
    store::{self, FILE_NAME, Store, offline},
};

/// Check, compact, back up, restore and measure the local file
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide store backup /backup/keytide-$(date +%F).redb
  keytide store check --data-dir /var/lib/keytide

Backup and size work beside a running keytide; for the others, stop it first: they
take no --url and no --admin-token. Copy the file of a running keytide with backup
alone: a copy made in another way, a snapshot of the disk too, may tell what this one
tells, and requests are counted twice.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Verify checksums, rows and sums; changes nothing
    #[command(after_help = "\
Example:
  keytide store check --data-dir /var/lib/keytide")]
    Check,
    /// Give free space back to the file system
    #[command(after_help = "\
Example:
  systemctl stop keytide && keytide store compact --data-dir /var/lib/keytide && systemctl start keytide")]
    Compact,
    /// Copy a consistent state into a new file
    #[command(after_help = "\
Example:
  keytide store backup /backup/keytide-$(date +%F).redb

A running keytide writes the file itself, on its own machine and as its own user. The file holds keys.")]
    Backup {
        /// The file to make; an existing one is left alone
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Make a backup the store of a data folder that has none
    #[command(after_help = "\
Example:
  mv data/keytide.redb data/keytide.redb.old && keytide store restore /backup/keytide.redb")]
    Restore {
        /// What `store backup` has made
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Show how large the file, the hubs and their tables are, against their budgets
    #[command(after_help = "\
Examples:
  keytide store size
  keytide store size --json | jq '.hubs[] | {hub, used_bytes, budget_bytes, rung}'")]
    Size,
}

pub(super) async fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let json = args.remote.json;
    let offline = matches!(args.command, Command::Check | Command::Compact | Command::Restore { .. });
    if offline && args.remote.is_given() {
        return Err(Error::usage(
            "this works on a data folder of this machine and asks no server; leave --url and --admin-token out, and \
             name the folder with --data-dir",
        ));
    }
    match &args.command {
        Command::Check => check(&dir(args, io)?, json, io),
        Command::Compact => compact(&dir(args, io)?, json, io),
        Command::Restore { file } => restore(file, &dir(args, io)?, json, io),
        Command::Backup { file } => match server(args, io).await? {
            Some((client, _)) => backup_there(file, &client, json, io).await,
            None => backup_here(file, &dir(args, io)?, json, io).await,
        },
        Command::Size => match server(args, io).await? {
            Some((_, reply)) => size::through_server(&reply, json, io),
            None => {
                let config = args.remote.local.load(io)?.config;
                size::offline(&config.store.dir, &config, json, io).await
            }
        },
    }
}

fn dir(args: &Args, io: &Io) -> Result<PathBuf, Error> {
    Ok(args.remote.local.load(io)?.config.store.dir)
}

/// The server and its store, when one answers and the store is the one that is meant.
async fn server(args: &Args, io: &Io) -> Result<Option<(Client, Reply<Storage>)>, Error> {
    let client = args.remote.client(io)?;
    let reply: Reply<Storage> = match client.get("admin/storage", &[]).await {
        Ok(reply) => reply,
        // Whoever names a server does not mean the file beside it.
        Err(Error::Unreachable(_)) if !args.remote.names_server(io) => return Ok(None),
        Err(error) => return if is_elsewhere(args, io) { Ok(None) } else { Err(error) },
    };
    let theirs = Path::new(&reply.value.file);
    if let Some(dir) = &args.remote.local.data_dir
        && !args.remote.names_server(io)
        && theirs.is_absolute()
        && fs::canonicalize(theirs).ok() != fs::canonicalize(dir.join(FILE_NAME)).ok()
    {
        return Ok(None);
    }
    Ok(Some((client, reply)))
}

/// Whether the server that was asked cannot be the one of the folder that is named: that store is not in use.
fn is_elsewhere(args: &Args, io: &Io) -> bool {
    let Some(dir) = &args.remote.local.data_dir else { return false };
    !args.remote.names_server(io) && !matches!(offline::size_of(dir), Err(store::Error::InUse(_)))
}

fn check(dir: &Path, json: bool, io: &mut Io) -> Result<(), Error> {
    let spinner = io.spinner("checking");
    let report = offline::check(dir);
    spinner.finish_and_clear();
    let report = report?;
    if json {
        let mut value = to_json(&report)?;
        value["sound"] = report.is_sound().into();
        io.line(&value.to_string())?;
    } else {
        let file = dir.join(FILE_NAME);
        io.line(&format!(
            "{}: {}, instance {}",
            file.display(),
            show::bytes(report.file_bytes),
            report.instance
        ))?;
        io.line(&format!(
            "{}, {}, {}, {}, {} to be folded",
            show::counted(report.keys, "key", "keys"),
            show::counted(report.tokens, "token", "tokens"),
            show::counted(report.models, "model", "models"),
            show::counted(report.hours, "hour of a model", "hours of models"),
            show::counted(report.journal_entries, "journal entry", "journal entries"),
        ))?;
        for problem in &report.problems {
            io.line(&format!("problem: {problem}"))?;
        }
    }
    match report.problems.len() as u64 {
        0 if json => Ok(()),
        0 => io.line("sound"),
        found => Err(Error::failed(format!(
            "{} found; restore a backup, or write to the authors",
            show::counted(found, "problem was", "problems were")
        ))),
    }
}

fn compact(dir: &Path, json: bool, io: &mut Io) -> Result<(), Error> {
    let spinner = io.spinner("compacting");
    let done = offline::compact(dir);
    spinner.finish_and_clear();
    let (before, after) = done?;
    if json {
        return io.line(&json!({"bytes_before": before, "bytes_after": after}).to_string());
    }
    io.line(&format!("{} before, {} now", show::bytes(before), show::bytes(after)))
}

fn restore(file: &Path, dir: &Path, json: bool, io: &mut Io) -> Result<(), Error> {
    let spinner = io.spinner("restoring");
    let done = offline::restore(file, dir);
    spinner.finish_and_clear();
    let report = done?;
    let target = dir.join(FILE_NAME);
    if let Err(error) = give_to_owner_of(dir, &target) {
        io.note(&format!("{} keeps its owner ({error}); keytide's user must own it", target.display()));
    }
    if json {
        let mut value = to_json(&report)?;
        value["file"] = json!(target);
        return io.line(&value.to_string());
    }
    io.line(&format!(
        "{} restored with {} and {}; start keytide now",
        target.display(),
        show::counted(report.keys, "key", "keys"),
        show::counted(report.tokens, "token", "tokens"),
    ))
}

/// The superuser acts for the service here.
fn give_to_owner_of(dir: &Path, file: &Path) -> std_io::Result<()> {
    let (folder, own) = (fs::metadata(dir)?, fs::metadata(file)?);
    if (folder.uid(), folder.gid()) != (own.uid(), own.gid()) && own.uid() == 0 {
        chown(file, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

async fn backup_there(file: &Path, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let here = is_loopback(client.base());
    if !here && !file.is_absolute() {
        return Err(Error::usage(
            "the server writes the file on its own machine, so its path must begin with \"/\"",
        ));
    }
    let path = absolute(file).map_err(|error| Error::usage(format!("that is no file's path: {error}")))?;
    let Some(path) = path.to_str() else {
        return Err(Error::usage("the file's path must be UTF-8 to be sent to the server"));
    };
    let spinner = io.spinner("the server is writing the backup");
    let reply: Result<Reply<Backup>, _> = client.post("admin/storage/backup", &json!({"file": path})).await;
    spinner.finish_and_clear();
    let reply = reply?;
    if json {
        return io.line(&reply.text);
    }
    io.line(&format!("{} written by the server, {}", reply.value.file, show::bytes(reply.value.bytes)))
}

async fn backup_here(file: &Path, dir: &Path, json: bool, io: &mut Io) -> Result<(), Error> {
    // Opening makes what is missing, and nobody wants a backup of that.
    let found = dir.join(FILE_NAME);
    if !found.is_file() {
        return Err(store::Error::Missing(found).into());
    }
    let (open, _) = Store::open(&store::Options::new(dir), Clock::System.now())?;
    let bar = io.progress(0, "copying rows", Unit::Items);
    let shown = bar.clone();
    let done = open
        .backup(file.to_owned(), move |progress| {
            shown.set_length(progress.rows_total);
            shown.set_position(progress.rows_done);
        })
        .await;
    bar.finish_and_clear();
    let closed = open.close().await;
    done?;
    closed?;
    let bytes = fs::metadata(file)
        .map_err(|error| Error::failed(format!("cannot look at {}: {error}", file.display())))?
        .len();
    if json {
        return io.line(&json!({"file": file, "bytes": bytes}).to_string());
    }
    io.line(&format!("{} written, {}", file.display(), show::bytes(bytes)))
}

fn to_json(value: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|error| Error::failed(format!("cannot print the result: {error}")))
}
