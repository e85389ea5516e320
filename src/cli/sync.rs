//! `keytide sync`

use std::time::Duration;

use serde_json::{Value, json};

use super::{
    client::{Client, Reply},
    error::Error,
    io::Io,
    remote::Remote,
    show,
    table::{Align, Colour, Table},
};
use crate::{
    admin::view::{Adopted, Sync},
    model::{Clock, Timestamp},
    replica::status::{HubState, HubStatus, StreamState, StreamStatus},
};

/// See how replication stands, replicate at once, or adopt a new hub, through the running server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide sync status
  keytide sync now
  keytide sync adopt --hub default")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    remote: Remote,
}

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Instances that were named this long ago are shown as those of now.
const LISTED_NOW: Duration = Duration::from_secs(120);

#[derive(clap::Subcommand)]
enum Command {
    /// Show each hub's state, lag, pending rows, last error with advice, traffic and instances
    #[command(after_help = "\
Examples:
  keytide sync status
  keytide sync status --json | jq '.hubs[] | {name, state, lag_ms}'

The exit code is 1 when a hub is failing or stopped.")]
    Status,
    /// Send and read everything now, statistics too, and show how each hub stands after it
    #[command(after_help = "\
Example:
  keytide sync now")]
    Now(HubArgs),
    /// Make the database that is reached now the hub, from what this instance knows
    ///
    /// For when the hub was moved, restored from an old backup, or emptied, and keytide has stopped because of it. Run it on
    /// one instance, the one that was in touch last; the others follow by themselves. Rows are raised to what this
    /// instance knows and never lowered.
    #[command(after_help = "\
Example:
  keytide sync adopt --yes")]
    Adopt {
        #[command(flatten)]
        hub: HubArgs,
        /// Do it; without this, it is only said what would be done
        #[arg(long)]
        yes: bool,
    },
}

#[derive(clap::Args)]
struct HubArgs {
    /// This hub alone, as it is named in the configuration; [sync] is "default"
    #[arg(long, value_name = "NAME")]
    hub: Option<String>,
}

pub(super) async fn run(args: Args, io: &mut Io) -> Result<(), Error> {
    let client = args.remote.client(io)?;
    let json = args.remote.json;
    match args.command {
        Command::Status => {
            let reply: Reply<Sync> = client.get("admin/sync", &[]).await?;
            report(&reply, json, io)
        }
        Command::Now(hub) => {
            let spinner = io.spinner("replicating");
            let body = named(hub);
            let done = client.post::<Sync>("admin/sync/now", &body);
            let watched = async {
                loop {
                    tokio::time::sleep(LOOK_EVERY).await;
                    if let Ok(seen) = client.get::<Sync>("admin/sync", &[]).await {
                        spinner.set_message(progress(&seen.value));
                    }
                }
            };
            let reply = tokio::select! {
                reply = done => reply,
                never = watched => match never {},
            };
            spinner.finish_and_clear();
            report(&reply?, json, io)
        }
        Command::Adopt { hub, yes } => adopt(&client, hub, yes, json, io).await,
    }
}

/// What is left to do, in a line.
fn progress(sync: &Sync) -> String {
    let streams = sync.hubs.iter().flat_map(|hub| &hub.streams);
    let (mut read, mut unsent) = (0, 0);
    for stream in streams {
        read += stream.resync_rows.unwrap_or(0);
        unsent += stream.pending_rows + stream.open_rows;
    }
    match (read, unsent) {
        (0, 0) => "replicating".to_owned(),
        (0, unsent) => format!("{} to send", show::counted(unsent, "row", "rows")),
        (read, _) => format!("{} read", show::counted(read, "row", "rows")),
    }
}

fn named(hub: HubArgs) -> Value {
    match hub.hub {
        Some(hub) => json!({"hub": hub}),
        None => json!({}),
    }
}

async fn adopt(client: &Client, hub: HubArgs, yes: bool, json: bool, io: &mut Io) -> Result<(), Error> {
    if !yes {
        let status: Reply<Sync> = client.get("admin/sync", &[]).await?;
        let of = |found: &&HubStatus| hub.hub.as_ref().is_none_or(|name| *name == found.name);
        for found in status.value.hubs.iter().filter(of) {
            io.note(&format!("hub {}: {}", found.name, found.target));
            for stream in &found.streams {
                if let Some(reason) = &stream.reason {
                    io.note(&format!("  {}: {reason}", stream.provider));
                }
            }
        }
        return Err(Error::failed(
            "this would raise that database to what this instance knows; add --yes if that is meant",
        ));
    }
    let spinner = io.spinner("adopting");
    let reply: Result<Reply<Adopted>, _> = client.post("admin/sync/adopt", &named(hub)).await;
    spinner.finish_and_clear();
    let reply = reply?;
    if json {
        return io.line(&reply.text);
    }
    reply.value.done.iter().try_for_each(|done| io.line(done))
}

fn report(reply: &Reply<Sync>, json: bool, io: &mut Io) -> Result<(), Error> {
    if json {
        io.line(&reply.text)?;
    } else {
        print(&reply.value, Clock::System.now(), io)?;
    }
    let ill = |hub: &HubStatus| matches!(hub.state, HubState::Failing | HubState::Stopped);
    if reply.value.hubs.iter().any(ill) { Err(Error::Shown) } else { Ok(()) }
}

fn print(sync: &Sync, now: Timestamp, io: &mut Io) -> Result<(), Error> {
    if sync.hubs.is_empty() {
        io.note("nothing replicates: set DATABASE_URL, or [sync] in the configuration, and restart");
        return Ok(());
    }
    for (at, hub) in sync.hubs.iter().enumerate() {
        if at > 0 {
            io.line("")?;
        }
        head(hub, now, io)?;
        streams(&hub.streams, now, io)?;
        instances(hub, now, io)?;
        for report in &hub.reports {
            io.line(&format!("  {}", super::table::plain(&report.text)))?;
        }
        for note in &hub.notes {
            io.line(&format!("{}  {}", show::date(Some(note.at)), super::table::plain(&note.text)))?;
        }
    }
    Ok(())
}

fn head(hub: &HubStatus, now: Timestamp, io: &mut Io) -> Result<(), Error> {
    let (word, colour) = match hub.state {
        HubState::Off => ("off", Colour::None),
        HubState::Connecting => ("connecting", Colour::None),
        HubState::Ok => ("ok", Colour::Green),
        HubState::Resyncing => ("reading everything", Colour::Yellow),
        HubState::Failing => ("failing", Colour::Red),
        HubState::Stopped => ("stopped", Colour::Red),
    };
    let word = if io.colour() { colour.paint(word) } else { word.to_owned() };
    io.line(&format!("{}: {word}, {} over {}", hub.name, hub.target, hub.transport))?;
    let lag = if hub.lag_ms == 0 {
        "nothing waits".to_owned()
    } else {
        format!("the oldest change waits {}", show::span(hub.lag_ms / 1000))
    };
    let mut facts = vec![format!("last round {}", show::ago(hub.last_success, now)), lag];
    if let Some(offset) = hub.clock_offset_ms {
        facts.push(format!("clock {offset:+} ms from the hub's"));
    }
    io.line(&format!("  {}", facts.join(", ")))?;
    let traffic = hub.traffic;
    let mut line =
        format!("  {} sent, {} received", show::bytes(traffic.sent), show::bytes(traffic.received));
    if let Some(month) = traffic.received_a_month {
        line += &format!(", {} a month at this rate", show::bytes(month));
    }
    if let Some(budget) = traffic.budget_a_month {
        line += &format!(", {} a month may be", show::bytes(budget));
    }
    io.line(&line)?;
    if let Some(error) = &hub.last_error {
        io.line(&format!("  {} ({})", super::table::plain(&error.message), show::ago(Some(error.at), now)))?;
        io.line(&format!("  {}", super::table::plain(&error.advice)))?;
    }
    Ok(())
}

fn streams(streams: &[StreamStatus], now: Timestamp, io: &mut Io) -> Result<(), Error> {
    let mut table = Table::new(&[
        ("PROVIDER", Align::Left),
        ("TABLES", Align::Left),
        ("STATE", Align::Left),
        ("BATCHES", Align::Right),
        ("ROWS", Align::Right),
        ("OPEN", Align::Right),
        ("CONFIRMED", Align::Right),
        ("LAST PULL", Align::Left),
    ]);
    for stream in streams {
        let state = match stream.state {
            StreamState::New => ("new".to_owned(), Colour::None),
            StreamState::Ok => ("ok".to_owned(), Colour::Green),
            StreamState::Resyncing => {
                let rows = stream.resync_rows.map(|rows| format!(", {} rows", show::count(rows)));
                (format!("reading{}", rows.unwrap_or_default()), Colour::Yellow)
            }
            StreamState::Missing => ("missing".to_owned(), Colour::Red),
            StreamState::Failing => ("failing".to_owned(), Colour::Red),
            StreamState::Stopped => ("stopped".to_owned(), Colour::Red),
        };
        let plain = |text: String| (text, Colour::None);
        table.row_coloured([
            plain(stream.provider.clone()),
            plain(format!("{}_*", stream.table_prefix)),
            state,
            plain(show::count(stream.pending_batches)),
            plain(show::count(stream.pending_rows)),
            plain(show::count(stream.open_rows)),
            plain(show::count(stream.confirmed_batch)),
            plain(show::ago(stream.last_pull, now)),
        ]);
    }
    io.print(&table.render(io.colour()))?;
    for stream in streams {
        if let Some(reason) = &stream.reason {
            io.line(&format!("  {}: {}", stream.provider, super::table::plain(reason)))?;
        }
    }
    Ok(())
}

fn instances(hub: &HubStatus, now: Timestamp, io: &mut Io) -> Result<(), Error> {
    if hub.instances.is_empty() {
        return Ok(());
    }
    if hub.listed_at.is_some_and(|at| now.since(at) > LISTED_NOW) {
        io.line(&format!("  as the hub named them {}:", show::ago(hub.listed_at, now)))?;
    }
    let mut table = Table::new(&[
        ("INSTANCE", Align::Left),
        ("NAME", Align::Left),
        ("VERSION", Align::Left),
        ("LAST SEEN", Align::Left),
        ("CLOCK", Align::Right),
    ]);
    for instance in &hub.instances {
        let own = if instance.own { " (this one)" } else { "" };
        table.row([
            instance.id.to_string().chars().take(8).collect(),
            format!("{}{own}", instance.name),
            instance.version.clone(),
            show::ago(Some(instance.last_seen), now),
            format!("{:+} ms", instance.clock_offset_ms),
        ]);
    }
    io.print(&table.render(false))
}
