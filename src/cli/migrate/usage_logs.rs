//! `keytide migrate usage-logs`

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio_postgres::Client;

use super::map;
use crate::{
    cli::{
        error::Error,
        hub,
        io::{Io, Unit},
        remote::{Local, secret},
        show,
    },
    config::Config,
    model::Secret,
    replica::{
        postgres::{Options, Postgres},
        usage_logs::{
            self as logs, Dropped, Entered, Found, History, Legacy, Link, Run, State, Survey, TABLE,
        },
    },
};

/// Turn a log with a row per request (key_usage_logs) into totals of keys, then drop it
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide migrate usage-logs                      what is there, and what would be done
  keytide migrate usage-logs --run                count, compare, and add to the totals
  keytide migrate usage-logs --run --map map.csv  the same, for old ids of other keys
  keytide migrate usage-logs --drop               compare once more, and drop the table

The map has lines of an old id, a key or its id, and a provider (or is JSON). Where the old
table of keys is at hand, psql writes it:
  \\copy (SELECT id, api_key FROM old_keys) TO map.csv CSV HEADER

It can be interrupted at any time: the next --run goes on from there, and counts nothing twice.
What is of no key stays in the table key_usage_summary. While sums are compared, whoever writes
to the log waits.")]
pub(super) struct Args {
    /// Do it; without this nothing is changed
    #[arg(long)]
    run: bool,
    /// Drop the table, if its rows are still those that were counted
    #[arg(long)]
    drop: bool,
    /// Which key an old id is, as CSV or JSON
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,
    /// Whose keys the map names where it does not say [default: server.default_provider]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    /// The log, if it has another name
    #[arg(long, value_name = "NAME", default_value = TABLE)]
    table: String,
    /// The database [env: DATABASE_URL] [default: sync.database_url]
    #[arg(long, value_name = "URL", value_parser = secret)]
    database_url: Option<Secret>,
    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    local: Local,
}

impl From<logs::Error> for Error {
    fn from(error: logs::Error) -> Self {
        Self::failed(error.to_string())
    }
}

pub(super) async fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let config = args.local.load(io)?.config;
    if let Some(name) = &args.provider {
        hub::providers(&config, Some(name))?;
    }
    let lines = args.map.as_deref().map(|path| map::read(path, io)).transpose()?;
    let client = connect(args, &config).await?;
    let (found, history) = logs::look(&client, &args.table).await?;
    let links = match &lines {
        Some(lines) => links(args, &config, lines, &client).await?,
        None => Vec::new(),
    };
    match found {
        Found::Legacy(legacy) => there(args, &client, &legacy, history, &links, io).await,
        Found::Own => match done(&args.table, history.as_ref()) {
            Some(done) => over(args, &client, &done, &links, io).await,
            None => Err(Error::failed(format!(
                "{} is the log that keytide itself keeps for seven days, and no older one: there is nothing to move",
                args.table
            ))),
        },
        Found::Nothing => match done(&args.table, history.as_ref()) {
            Some(done) => over(args, &client, &done, &links, io).await,
            None => Err(Error::failed(format!(
                "there is no table {} in this database: there is nothing to move (--table names another)",
                args.table
            ))),
        },
    }
}

async fn connect(args: &Args, config: &Config) -> Result<Client, Error> {
    let failed = |error: crate::replica::transport::Error| Error::failed(error.to_string());
    let own = args.database_url.clone().filter(|url| !url.expose().is_empty());
    if let Some(url) = own {
        return Postgres::new(&Options::new(url)).map_err(failed)?.connect().await.map_err(failed);
    }
    match hub::database(&config.sync.route) {
        Some(connecting) => connecting.await.map_err(failed),
        None => Err(Error::usage(
            "no database is named: pass --database-url, or set DATABASE_URL (the REST API alone cannot do this)",
        )),
    }
}

async fn links(
    args: &Args,
    config: &Config,
    lines: &[map::Line],
    client: &Client,
) -> Result<Vec<Link>, Error> {
    let all = hub::providers(config, None)?;
    let all: Vec<_> = all.iter().map(|(name, of)| ((*name).to_owned(), of.table_prefix.clone())).collect();
    let known = logs::known_ids(client, &all).await?;
    map::links(lines, args.provider.as_deref().unwrap_or(&config.server.default_provider), &all, &known)
}

/// What an earlier run did, if nothing is left to do.
fn done(table: &str, history: Option<&History>) -> Option<History> {
    history.filter(|of| of.table == table && of.state != State::Counting).cloned()
}

/// The table is gone. What was archived can still be linked.
async fn over(
    args: &Args,
    client: &Client,
    done: &History,
    links: &[Link],
    io: &mut Io,
) -> Result<(), Error> {
    let entered = match (args.run, links) {
        (false, _) | (_, []) => None,
        _ => Some(logs::enter_later(client, links).await?),
    };
    if args.json {
        let line = json!({"table": args.table, "state": "dropped", "rows": done.rows, "at": done.at, "entered": entered});
        return io.line(&line.to_string());
    }
    io.line(&format!(
        "{} of {} were moved, and it is gone since {}: nothing is left to do",
        show::counted(done.rows, "row", "rows"),
        args.table,
        done.at
    ))?;
    match &entered {
        Some(entered) => say_entered(entered, io),
        None if !links.is_empty() => io.line("with --run the map's ids are linked to their keys"),
        None => Ok(()),
    }
}

async fn there(
    args: &Args,
    client: &Client,
    legacy: &Legacy,
    history: Option<History>,
    links: &[Link],
    io: &mut Io,
) -> Result<(), Error> {
    if !args.run && !args.drop {
        return dry(args, client, legacy, history, links, io).await;
    }
    if let [first, rest @ ..] = legacy.obstacles.as_slice() {
        let more = if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
        return Err(Error::failed(format!("{first}{more}")));
    }
    let mut state = history.filter(|of| of.table == legacy.table).map(|of| of.state);
    let mut entered = None;
    if args.run {
        let found = count(args, client, legacy, links, io).await?;
        if !args.json {
            say_entered(&found, io)?;
        }
        (entered, state) = (Some(found), Some(State::Counted));
    }
    if args.drop && state != Some(State::Counted) {
        return Err(Error::usage(format!("{} was not counted yet: pass --run as well", legacy.table)));
    }
    let dropped = if args.drop {
        // What --run has done stays, and is said, whatever becomes of this.
        let dropped = logs::drop(client, legacy).await;
        if let (Err(_), true, Some(entered)) = (&dropped, args.json, &entered) {
            io.line(&outcome(legacy, Some(entered), None).to_string())?;
        }
        Some(dropped?)
    } else {
        None
    };
    if args.json {
        return io.line(&outcome(legacy, entered.as_ref(), dropped.as_ref()).to_string());
    }
    match &dropped {
        Some(dropped) => say_dropped(legacy, dropped, io),
        None => io.line(&format!("`keytide migrate usage-logs --drop` now removes {}", legacy.table)),
    }
}

fn outcome(legacy: &Legacy, entered: Option<&Entered>, dropped: Option<&Dropped>) -> Value {
    let state = if dropped.is_some() { "dropped" } else { "counted" };
    json!({"table": legacy.table, "state": state, "bytes": legacy.bytes(), "entered": entered, "dropped": dropped})
}

async fn count(
    args: &Args,
    client: &Client,
    legacy: &Legacy,
    links: &[Link],
    io: &mut Io,
) -> Result<Entered, Error> {
    let mut run = Run::start(client, legacy).await?;
    if run.goes_on() && !args.json {
        io.note("going on where the last run was interrupted");
    }
    let bar = io.progress(run.pages.1, "counting pages", Unit::Items);
    bar.set_position(run.pages.0);
    let counted = async {
        while run.step().await? {
            bar.set_length(run.pages.1);
            bar.set_position(run.pages.0);
        }
        bar.set_message("comparing sums");
        run.finish(links).await
    }
    .await;
    bar.finish_and_clear();
    counted.map_err(|error| match error {
        logs::Error::Database(why) => Error::failed(format!(
            "{why}; nothing was entered twice: run it again, and it goes on from there"
        )),
        error => error.into(),
    })
}

fn say_entered(entered: &Entered, io: &mut Io) -> Result<(), Error> {
    let Entered {
        rows_there, uses, ids, added_uses, keys, archived_ids, archived_uses, gone, elsewhere, ..
    } = *entered;
    // When the table is gone, there is nothing to agree with.
    let agree = match rows_there {
        0 => String::new(),
        rows => format!("; the sums agree with the table's {}", show::counted(rows, "row", "rows")),
    };
    io.line(&format!(
        "key_usage_summary holds {} of {}{agree}",
        show::counted(uses, "use", "uses"),
        show::counted(ids, "id", "ids"),
    ))?;
    io.line(&match added_uses {
        0 => "nothing was new: the totals of keys are as they were".to_owned(),
        added => format!(
            "{} added to the totals of {}: every instance shows them after its next sync",
            show::counted(added, "use was", "uses were"),
            show::counted(keys, "key", "keys")
        ),
    })?;
    if archived_uses > 0 {
        io.line(&format!(
            "{} of {} are of no key that is known, and stay in key_usage_summary; --map FILE links them, later too",
            show::counted(archived_uses, "use", "uses"),
            match archived_ids {
                0 => "rows without an id".to_owned(),
                ids => show::counted(ids, "id", "ids"),
            },
        ))?;
    }
    if elsewhere > 0 {
        io.line(&format!(
            "{} of the map stay with the key that has their uses already",
            show::counted(elsewhere, "id", "ids")
        ))?;
    }
    if gone > 0 {
        io.line(&format!(
            "rows that were counted before are gone from the table ({}): stop what deletes them, since as many new ones of the same \
             keys would not be noticed",
            show::count(gone)
        ))?;
    }
    Ok(())
}

fn say_dropped(legacy: &Legacy, dropped: &Dropped, io: &mut Io) -> Result<(), Error> {
    io.line(&format!(
        "{} dropped, with {} and {}; the database has {} now",
        legacy.table,
        show::counted(dropped.rows, "row", "rows"),
        show::bytes(legacy.bytes()),
        show::bytes(dropped.database)
    ))?;
    if dropped.cleanup_stays {
        io.line(
            "the function cleanup_key_usage_logs() is still there: whatever job calls it fails from now on",
        )?;
    }
    Ok(())
}

async fn dry(
    args: &Args,
    client: &Client,
    legacy: &Legacy,
    history: Option<History>,
    links: &[Link],
    io: &mut Io,
) -> Result<(), Error> {
    let spinner = io.spinner("counting");
    let found = logs::survey(client, legacy, links).await;
    spinner.finish_and_clear();
    let found = found?;
    let state = match history.filter(|of| of.table == legacy.table).map(|of| of.state) {
        Some(State::Counting) => "interrupted",
        Some(_) => "counted",
        None => "untouched",
    };
    if args.json {
        let Legacy { table, heap, indexes, toast, obstacles, remarks, .. } = legacy;
        io.line(
            &json!({
                "table": table, "state": state, "bytes": legacy.bytes(), "heap": heap, "indexes": indexes, "toast": toast,
                "obstacles": obstacles, "remarks": remarks, "survey": found,
            })
            .to_string(),
        )?;
    } else {
        say_survey(legacy, &found, state, io)?;
    }
    match legacy.obstacles.len() {
        0 => Ok(()),
        _ if args.json => Err(Error::Shown),
        obstacles => Err(Error::failed(format!(
            "{} in the way of --run",
            show::counted(obstacles as u64, "thing is", "things are")
        ))),
    }
}

fn say_survey(legacy: &Legacy, found: &Survey, state: &str, io: &mut Io) -> Result<(), Error> {
    let span = match (&found.first, &found.last) {
        (Some(first), Some(last)) => format!(", from {first} to {last} UTC"),
        _ => String::new(),
    };
    io.line(&format!(
        "{}: {}{span}; {} (rows {}, indexes {}, TOAST {})",
        legacy.table,
        show::counted(found.rows, "row", "rows"),
        show::bytes(legacy.bytes()),
        show::bytes(legacy.heap),
        show::bytes(legacy.indexes),
        show::bytes(legacy.toast)
    ))?;
    let lacking = [
        (found.rows_without_key, "a key"),
        (found.rows_without_user, "a user"),
        (found.rows_without_date, "a date"),
    ];
    let lacking: Vec<_> = lacking
        .iter()
        .filter(|(rows, _)| *rows > 0)
        .map(|(rows, what)| format!("{} without {what}", show::counted(*rows, "row", "rows")))
        .collect();
    if !lacking.is_empty() {
        io.line(&format!("{}: counted as far as they go, and nothing is made up", lacking.join(", ")))?;
    }
    io.line(&format!(
        "{} of {} would be added to the totals of their keys",
        show::counted(found.linked_rows, "use", "uses"),
        show::counted(found.linked_ids, "id", "ids"),
    ))?;
    if found.keys_with_totals > 0 {
        io.line(&format!(
            "{} a total already, which is added to: if it counts these uses as well, do not run this",
            show::counted(found.keys_with_totals, "key has", "keys have")
        ))?;
    }
    if found.archived_rows > 0 {
        let first = match found.archived.as_slice() {
            [] => String::new(),
            ids => format!(" (the most used: {})", ids.join(", ")),
        };
        io.line(&format!(
            "{} of {} would stay in key_usage_summary, without a key{first}; --map FILE links ids to keys",
            show::counted(found.archived_rows, "use", "uses"),
            show::counted(found.archived_ids, "id", "ids"),
        ))?;
    }
    io.line(&format!(
        "the database: {} now, about {} when the table is dropped",
        show::bytes(found.database),
        show::bytes(found.database_after)
    ))?;
    for remark in &legacy.remarks {
        io.line(&format!("note: {remark}"))?;
    }
    for obstacle in &legacy.obstacles {
        io.line(&format!("in the way: {obstacle}"))?;
    }
    if legacy.obstacles.is_empty() {
        io.line(match state {
            "interrupted" => "a run was interrupted: --run goes on with it",
            "counted" => "it was counted before: --run counts what is new, --drop drops the table",
            _ => "nothing was changed: --run does it, --drop then drops the table",
        })?;
    }
    Ok(())
}
