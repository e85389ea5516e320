//! `keytide schema`

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{error::Error, io::Io, remote::Local, show};
use crate::{
    config::Config,
    model::Secret,
    replica::{
        schema::{self, Target},
        wire::SCHEMA,
    },
};

/// Show, apply and check what keytide needs in the Postgres database that it replicates through
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide schema print | psql \"$DATABASE_URL\"
  keytide schema check
  keytide schema apply --provider ollama")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    /// Only this provider's tables, as it is named in the configuration [default: all providers]
    #[arg(long, value_name = "NAME", global = true)]
    provider: Option<String>,
    #[command(flatten)]
    local: Local,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print the SQL: for Supabase's SQL editor, for psql, or as files for `supabase db push`
    #[command(after_help = "\
Examples:
  keytide schema print > keytide.sql
  keytide schema print --supabase . && supabase db push

Running it again changes nothing; over existing tables it adds only what is missing.")]
    Print {
        /// Write DIR/supabase/migrations/*_keytide_*.sql instead, the same names every time
        #[arg(long, value_name = "DIR")]
        supabase: Option<PathBuf>,
    },
    /// Make what is missing, in one transaction, on sync.database_url
    #[command(after_help = "\
Example:
  DATABASE_URL=postgresql://… keytide schema apply")]
    Apply {
        /// Also change columns of another type to the one needed, values counted before and after
        #[arg(long)]
        convert: bool,
    },
    /// Say what is missing or different, and what to do; changes nothing
    #[command(after_help = "\
Example:
  keytide schema check --json | jq '.problems[].what'

The exit code is 1 when something keeps the database from being used.")]
    Check {
        /// Print JSON, for programs
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let config = args.local.load(io)?.config;
    let targets = targets(&config, args.provider.as_deref())?;
    match &args.command {
        Command::Print { supabase: None } => io.print(&schema::script(&targets).map_err(failed)?),
        Command::Print { supabase: Some(dir) } => migrations(dir, &targets, io),
        Command::Apply { convert } => apply(&config, &targets, *convert, io).await,
        Command::Check { json } => check(&config, &targets, *json, io).await,
    }
}

fn failed(error: schema::Error) -> Error {
    Error::failed(error.to_string())
}

fn targets<'a>(config: &'a Config, only: Option<&str>) -> Result<Vec<Target<'a>>, Error> {
    let found: Vec<Target<'a>> = config
        .providers
        .iter()
        .filter(|(name, _)| only.is_none_or(|only| only == name.as_str()))
        .map(|(name, provider)| Target { prefix: &provider.table_prefix, provider: name })
        .collect();
    if found.is_empty() {
        let known: Vec<&str> = config.providers.keys().map(String::as_str).collect();
        return Err(Error::usage(format!(
            "there is no provider {:?}; the configuration has {}",
            only.unwrap_or_default(),
            known.join(", ")
        )));
    }
    Ok(found)
}

/// Laid out as the Supabase command line reads it. The names are fixed, so that writing them again makes no second
/// migration; the number before a name is what Supabase tells migrations apart by, and begins with the schema's version.
fn migrations(dir: &Path, targets: &[Target<'_>], io: &mut Io) -> Result<(), Error> {
    let folder = dir.join("supabase/migrations");
    let cannot = |path: &Path, error: std::io::Error| {
        Error::failed(format!("cannot write {}: {error}", path.display()))
    };
    fs::create_dir_all(&folder).map_err(|error| cannot(&folder, error))?;
    let mut taken = BTreeSet::new();
    for part in schema::parts(targets).map_err(failed)? {
        let (number, name) = part.name.split_once('_').unwrap_or(("030", &part.name));
        let mut number = match name {
            "ollama_api.sql" => 30,
            "openrouter_api.sql" => 31,
            _ => number.parse().ok().filter(|number| *number < 30).unwrap_or_else(|| number_of(name)),
        };
        while !taken.insert(number) {
            number += 1;
        }
        let path = folder.join(format!("202601{SCHEMA:02}{number:06}_keytide_{name}"));
        fs::write(&path, &part.sql).map_err(|error| cannot(&path, error))?;
        io.line(&path.display().to_string())?;
    }
    io.note("apply them with: supabase db push");
    Ok(())
}

/// After those that ship, and the same whatever other providers there are (FNV-1a).
fn number_of(name: &str) -> u32 {
    let hash =
        name.bytes().fold(2_166_136_261_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    100_000 + hash % 800_000
}

async fn apply(config: &Config, targets: &[Target<'_>], convert: bool, io: &mut Io) -> Result<(), Error> {
    let client = connect(config).await?;
    let spinner = io.spinner("applying the schema");
    let applied = schema::apply(&client, targets, convert).await;
    spinner.finish_and_clear();
    let applied = applied.map_err(|error| Error::failed(format!("{error}; nothing was changed")))?;
    for line in &applied.done {
        io.line(line)?;
    }
    if applied.done.is_empty() {
        io.line("everything was there already")?;
    }
    report(&applied.left, io)
}

async fn check(config: &Config, targets: &[Target<'_>], json: bool, io: &mut Io) -> Result<(), Error> {
    let client = connect(config).await?;
    let found = schema::check(&client, targets).await.map_err(failed)?;
    if json {
        io.line(
            &json!({"sound": found.is_sound(), "schema": found.schema, "problems": found.problems})
                .to_string(),
        )?;
        return if found.is_sound() { Ok(()) } else { Err(Error::Shown) };
    }
    if found.problems.is_empty() {
        return io.line("the schema is there, complete and closed to others");
    }
    report(&found, io)
}

fn report(found: &schema::Report, io: &mut Io) -> Result<(), Error> {
    for problem in &found.problems {
        let place = problem.stream.as_ref().map(|stream| format!("{stream}: ")).unwrap_or_default();
        io.line(&format!("{place}{}", problem.what))?;
        io.line(&format!("    {}", problem.remedy))?;
    }
    match found.problems.iter().filter(|problem| !problem.harmless).count() as u64 {
        0 => Ok(()),
        count => {
            Err(Error::failed(format!("{} found", show::counted(count, "problem was", "problems were"))))
        }
    }
}

/// A hub that is reached only over REST cannot be altered from here.
async fn connect(config: &Config) -> Result<tokio_postgres::Client, Error> {
    match (&config.sync.database_url, &config.sync.rest_url) {
        (Some(url), _) => connect_to(url).await,
        (None, Some(_)) => Err(Error::failed(
            "sync.rest_url leads to functions, not to tables: paste what `keytide schema print` shows into the project's SQL \
             editor, or set sync.database_url",
        )),
        (None, None) => Err(Error::usage("set DATABASE_URL, or sync.database_url in the configuration")),
    }
}

/// The one place that connects.
async fn connect_to(url: &Secret) -> Result<tokio_postgres::Client, Error> {
    let cannot = |error: tokio_postgres::Error| Error::failed(schema::Error::from(error).to_string());
    let (client, connection) =
        tokio_postgres::connect(url.expose(), tokio_postgres::NoTls).await.map_err(cannot)?;
    tokio::spawn(connection);
    Ok(client)
}
