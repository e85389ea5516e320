//! `keytide keys export`

use std::{
    io::ErrorKind,
    path::{Path, PathBuf},
};

use futures_util::StreamExt;
use reqwest::Method;
use serde_json::json;

use crate::cli::{client::Client, error::Error, io::Io, private_file::PrivateFile, show};

/// Write all keys in full, for a backup or another keytide
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys export --output keys.csv
  keytide keys export --format ndjson --provider openrouter | gpg -c > keys.gpg

The output holds secrets. --output makes a file that only its owner can read.")]
pub(super) struct Args {
    /// [default: csv, with --json ndjson]
    #[arg(long)]
    format: Option<Format>,
    /// The file to write, instead of stdout
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long, requires = "output")]
    force: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Format {
    Csv,
    Ndjson,
    /// One key a line
    Text,
}

pub(super) async fn run(args: &Args, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let format = match args.format {
        Some(Format::Csv) => "csv",
        Some(Format::Ndjson) => "ndjson",
        Some(Format::Text) => "text",
        None if json => "ndjson",
        None => "csv",
    };
    let mut file = args.output.as_deref().map(|path| create(path, args.force)).transpose()?;
    let request = client.request(Method::POST, "admin/api-keys/export", &[("format", format)]);
    let mut pieces = client.open(request).await?.bytes_stream();
    let spinner = io.spinner("exporting keys");
    let mut written = 0;
    while let Some(piece) = pieces.next().await {
        // A stream that ends early is an error here, so a file is never half an export.
        let piece = piece.map_err(|error| client.transport(&error))?;
        written += piece.len() as u64;
        match (&mut file, args.output.as_deref()) {
            (Some(file), Some(path)) => file.write(&piece).map_err(|error| cannot(path, &error))?,
            _ => io.bytes(&piece)?,
        }
    }
    spinner.finish_and_clear();
    let (Some(file), Some(path)) = (file, args.output.as_deref()) else {
        return Ok(());
    };
    file.publish(args.force).map_err(|error| cannot(path, &error))?;
    if json {
        return io.line(&json!({"file": path, "bytes": written}).to_string());
    }
    io.note(&format!("{} of keys are in {}", show::bytes(written), path.display()));
    Ok(())
}

fn create(path: &Path, force: bool) -> Result<PrivateFile, Error> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => {
            return Err(Error::failed(format!("{} is a folder; name a file", path.display())));
        }
        Ok(_) if !force => return Err(cannot(path, &ErrorKind::AlreadyExists.into())),
        _ => {}
    }
    PrivateFile::new(path).map_err(|error| cannot(path, &error))
}

fn cannot(path: &Path, error: &std::io::Error) -> Error {
    let path = path.display();
    Error::failed(match error.kind() {
        ErrorKind::AlreadyExists => {
            format!("{path} exists already; name another file, or replace it with --force")
        }
        _ => format!("cannot write {path}: {error}"),
    })
}
