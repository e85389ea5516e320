//! `keytide schema`

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::json;

use super::{error::Error, hub, io::Io, remote::Local, show};
use crate::{
    config::{Config, DEFAULT_HUB, HubConfig},
    replica::{
        route,
        schema::{self, Target},
        transport::{self, ErrorKind},
        wire::SCHEMA,
    },
};

/// Show, apply and check what keytide needs in the Postgres database that it replicates through
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide schema print | psql \"$DATABASE_URL\"
  keytide schema check
  keytide schema apply --provider ollama
  keytide schema apply --usage-logs")]
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
    /// Make what is missing, in one transaction for each hub
    #[command(after_help = "\
Example:
  DATABASE_URL=postgresql://… keytide schema apply")]
    Apply {
        /// Also change columns of another type to the one needed, values counted before and after
        #[arg(long)]
        convert: bool,
        /// Also make key_usage_logs in the default hub: a row for each request, kept for seven days
        #[arg(long)]
        usage_logs: bool,
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
        Command::Apply { convert, usage_logs } => {
            let wanted = Wanted { convert: *convert, usage_logs: *usage_logs };
            apply(&config, args.provider.as_deref(), wanted, io).await
        }
        Command::Check { json } => check(&config, args.provider.as_deref(), *json, io).await,
    }
}

fn failed(error: schema::Error) -> Error {
    Error::failed(error.to_string())
}

fn targets<'a>(config: &'a Config, only: Option<&str>) -> Result<Vec<Target<'a>>, Error> {
    let found = hub::providers(config, only)?.into_iter();
    Ok(found.map(|(name, provider)| Target { prefix: &provider.table_prefix, provider: name }).collect())
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

/// What is to be done beside making what is missing.
#[derive(Clone, Copy)]
struct Wanted {
    convert: bool,
    usage_logs: bool,
}

async fn apply(config: &Config, only: Option<&str>, wanted: Wanted, io: &mut Io) -> Result<(), Error> {
    let hubs = hub::hubs(config, only)?;
    let (mut left, mut unchanged, mut changed) = (0, 0, Vec::new());
    for of in &hubs {
        let targets = targets_of(of);
        head(of, &hubs, io)?;
        let Some(connecting) = hub::database(&of.options.route) else {
            // Functions are all that a REST API leads to.
            io.note(PASTE);
            io.print(&schema::script(&targets).map_err(failed)?)?;
            if wanted.usage_logs && of.name == DEFAULT_HUB {
                io.line("SELECT public.keytide_usage_logs(true);")?;
            }
            unchanged += 1;
            continue;
        };
        let spinner = io.spinner("applying the schema");
        let applied = match connecting.await {
            Ok(client) => {
                let logs = wanted.usage_logs && of.name == DEFAULT_HUB;
                schema::apply(&client, &targets, wanted.convert).await.map(|applied| (applied, client, logs))
            }
            .map_err(|error| (error.to_string(), error.left_all_as_it_was())),
            Err(error) => Err((error.to_string(), true)),
        };
        spinner.finish_and_clear();
        let applied = applied.map_err(|(error, is_certain)| match (is_certain, changed.join(", ")) {
            (false, _) => Error::failed(error),
            (true, before) if before.is_empty() => Error::failed(format!("{error}; nothing was changed")),
            (true, before) => Error::failed(format!(
                "{error}; nothing of the hub {} was changed, what was done before stays ({before})",
                of.name
            )),
        })?;
        let (applied, client, logs) = applied;
        changed.push(of.name.as_str());
        for line in &applied.done {
            io.line(line)?;
        }
        if applied.done.is_empty() {
            io.line("everything was there already")?;
        }
        if logs {
            let said = schema::keep_usage_logs(&client).await.map_err(failed)?;
            io.line(&said)?;
        }
        left += report(&applied.left, io)?;
    }
    failing(left)?;
    match unchanged {
        0 => Ok(()),
        // A script that runs this is not to believe that it was done.
        count => Err(Error::failed(format!(
            "{} not changed: the SQL above is to be pasted",
            show::counted(count, "hub was", "hubs were")
        ))),
    }
}

async fn check(config: &Config, only: Option<&str>, json: bool, io: &mut Io) -> Result<(), Error> {
    let hubs = hub::hubs(config, only)?;
    let mut problems = 0;
    for of in &hubs {
        let (found, all_seen) = match hub::database(&of.options.route) {
            Some(connecting) => {
                let client = connecting.await.map_err(|error| Error::failed(error.to_string()))?;
                (schema::check(&client, &targets_of(of)).await.map_err(failed)?, true)
            }
            None => (over_rest(of).await?, false),
        };
        if json {
            problems += usize::from(!found.is_sound());
            let line = json!({
                "hub": of.name, "sound": found.is_sound(), "schema": found.schema, "problems": found.problems,
                "rights_seen": all_seen,
            });
            io.line(&line.to_string())?;
            continue;
        }
        head(of, &hubs, io)?;
        if found.problems.is_empty() {
            io.line(if all_seen { SOUND } else { SOUND_OVER_REST })?;
        }
        problems += report(&found, io)?;
    }
    match problems {
        0 => Ok(()),
        _ if json => Err(Error::Shown),
        problems => failing(problems),
    }
}

const SOUND: &str = "the schema is there, complete and closed to others";
const SOUND_OVER_REST: &str = "keytide's functions and the tables of all providers are there; whether they are the latest, and \
    closed to others, is not seen over REST: set sync.database_url to look";
const PASTE: &str = "this hub is reached over REST alone, which cannot alter tables: paste what follows into the project's SQL \
    editor, or set sync.database_url";

/// What can be seen without the catalogue: whether the functions and every provider's tables are there, and which
/// schema it is.
async fn over_rest(of: &HubConfig) -> Result<schema::Report, Error> {
    let cannot = |error: transport::Error| Error::failed(error.to_string());
    let Some(route) = route::choose(&of.options.route).map_err(cannot)? else {
        return Err(Error::failed(format!("replication with the hub {:?} is switched off", of.name)));
    };
    let mut report = schema::Report::default();
    let mut problem = |stream: Option<String>, what: &str| {
        report.problems.push(schema::Problem {
            stream,
            what: what.to_owned(),
            remedy: "paste what `keytide schema print` shows into the project's SQL editor".to_owned(),
            harmless: false,
        });
    };
    match hub::look(route.transport.as_ref(), &of.providers).await {
        Ok(hub::Look { found, .. }) => {
            for page in found.pages.into_iter().filter(|page| page.missing) {
                problem(Some(page.stream), "tables or columns are missing");
            }
            report.schema = Some(found.greeting.schema);
            report.problems.extend(schema::newer_than(found.greeting.schema));
        }
        Err(error) if matches!(error.kind, ErrorKind::NoSchema | ErrorKind::Missing) => {
            problem(None, &format!("keytide's functions are missing ({})", error.detail));
        }
        Err(error) => return Err(cannot(error)),
    }
    Ok(report)
}

fn targets_of(hub: &HubConfig) -> Vec<Target<'_>> {
    hub.providers.iter().map(|(provider, prefix)| Target { prefix, provider }).collect()
}

/// Which hub is meant, where there are several.
fn head(hub: &HubConfig, all: &[HubConfig], io: &mut Io) -> Result<(), Error> {
    if all.len() > 1 { io.line(&format!("hub {}:", hub.name)) } else { Ok(()) }
}

/// Prints what was found; returns how much of it is in the way.
fn report(found: &schema::Report, io: &mut Io) -> Result<usize, Error> {
    for problem in &found.problems {
        let place = problem.stream.as_ref().map(|stream| format!("{stream}: ")).unwrap_or_default();
        io.line(&format!("{place}{}", problem.what))?;
        io.line(&format!("    {}", problem.remedy))?;
    }
    Ok(found.problems.iter().filter(|problem| !problem.harmless).count())
}

fn failing(problems: usize) -> Result<(), Error> {
    match problems as u64 {
        0 => Ok(()),
        count => {
            Err(Error::failed(format!("{} found", show::counted(count, "problem was", "problems were"))))
        }
    }
}
