//! `keytide events`

use serde_json::{Value, json};

use super::{
    client::{Client, Reply},
    error::Error,
    io::Io,
    remote::Remote,
    show,
    table::{Align, Colour, Table, plain},
    view::{Event, EventPage, Verdicts},
};
use crate::model::{Clock, Timestamp};

/// What was not usual, and who is kept out for it, through the running server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide events list --severity 3
  keytide events verdicts")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Subcommand)]
enum Command {
    List(ListArgs),
    /// List users, tokens and addresses that are kept out or slowed down
    #[command(after_help = "\
Example:
  keytide events verdicts")]
    Verdicts,
    /// Let users, tokens or addresses in again, for as long as they would have been kept out
    #[command(after_help = "\
Example:
  keytide events lift address:203.0.113.7")]
    Lift {
        /// As `keytide events verdicts` names them
        #[arg(value_name = "SUBJECT", required = true)]
        subjects: Vec<String>,
    },
}

/// List security events, the latest first
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide events list --type auth_fail --from 2026-12-01
  keytide events list --subject 1f8a0c2e --json | jq '.events[].details'")]
struct ListArgs {
    /// Only those of this severity or a higher one
    #[arg(long, value_name = "1-5", value_parser = clap::value_parser!(u8).range(1..=5))]
    severity: Option<u8>,
    /// Only those of this type: rate_limit, auth_fail, abuse, storage
    #[arg(long = "type", value_name = "TYPE")]
    kind: Option<String>,
    /// Only those about this user or key, by the beginning of the id, or about this token or network
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
    /// Only those from this time on
    #[arg(long, value_name = "TIME", value_parser = show::parse_time)]
    from: Option<Timestamp>,
    /// Only those before this time
    #[arg(long, value_name = "TIME", value_parser = show::parse_time)]
    to: Option<Timestamp>,
    /// Which page
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    page: u64,
    /// Events on a page
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    page_size: u64,
}

pub(super) async fn run(args: Args, io: &mut Io) -> Result<(), Error> {
    let client = args.remote.client(io)?;
    let json = args.remote.json;
    match args.command {
        Command::List(args) => list(&args, &client, json, io).await,
        Command::Verdicts => verdicts(&client, json, io).await,
        Command::Lift { subjects } => {
            for subject in &subjects {
                let reply: Reply<Value> =
                    client.delete(&format!("admin/verdicts/{}", subject.trim()), &json!({})).await?;
                match json {
                    true => io.line(&reply.one_line())?,
                    false => io.line(&plain(&format!("{} is let in again", subject.trim())))?,
                }
            }
            Ok(())
        }
    }
}

async fn list(args: &ListArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let text = |value: Option<String>| value.unwrap_or_default();
    let all = [
        ("severity", text(args.severity.map(|severity| severity.to_string()))),
        ("type", text(args.kind.clone())),
        ("subject", text(args.subject.clone())),
        ("from", text(args.from.map(|at| at.to_string()))),
        ("to", text(args.to.map(|at| at.to_string()))),
        ("page", args.page.to_string()),
        ("pageSize", args.page_size.to_string()),
    ];
    let query: Vec<_> = all
        .iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let reply: Reply<EventPage> = client.get("admin/events", &query).await?;
    if json {
        return io.line(&reply.text);
    }
    let found = &reply.value;
    print(&found.events, io)?;
    let total = show::counted(found.total, "event", "events");
    io.note(&match found.total {
        0 => "nothing was abnormal".to_owned(),
        _ => show::page(total, found.events.is_empty(), found.page, found.pages, "--page"),
    });
    Ok(())
}

fn print(events: &[Event], io: &mut Io) -> Result<(), Error> {
    let mut table = Table::new(&[
        ("AT", Align::Left),
        ("SEVERITY", Align::Right),
        ("TYPE", Align::Left),
        ("ABOUT", Align::Left),
        ("FINDINGS", Align::Right),
        ("DETAILS", Align::Left),
    ]);
    for event in events {
        let colour = match event.severity {
            5.. => Colour::Red,
            3 | 4 => Colour::Yellow,
            _ => Colour::None,
        };
        let uncoloured = |text: String| (text, Colour::None);
        table.row_coloured([
            uncoloured(show::date(Some(event.at))),
            (event.severity.to_string(), colour),
            uncoloured(event.kind.clone()),
            uncoloured(about(event)),
            uncoloured(show::count(event.weight)),
            uncoloured(details(event)),
        ]);
    }
    if table.is_empty() { Ok(()) } else { io.print(&table.render(io.colour())) }
}

fn about(event: &Event) -> String {
    let short = |id: &String| id.chars().take(8).collect::<String>();
    let user = event.user.as_ref().map(|id| format!("user {}", short(id)));
    let key = event.key.as_ref().map(|id| format!("key {}", short(id)));
    let called = event.details.get("subject").and_then(Value::as_str).map(str::to_owned);
    user.or(key).or(called).unwrap_or_default()
}

fn details(event: &Event) -> String {
    let named = event.details.iter().filter(|(name, _)| *name != "subject");
    let each = named.map(|(name, value)| match value {
        Value::String(text) if name == "kind" => text.clone(),
        Value::String(text) => format!("{name}={text}"),
        value => format!("{name}={value}"),
    });
    each.collect::<Vec<_>>().join(" ")
}

async fn verdicts(client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let reply: Reply<Verdicts> = client.get("admin/verdicts", &[]).await?;
    if json {
        return io.line(&reply.text);
    }
    let mut table = Table::new(&[
        ("SUBJECT", Align::Left),
        ("ACTION", Align::Left),
        ("UNTIL", Align::Left),
        ("LEFT", Align::Left),
    ]);
    let now = Clock::System.now();
    for verdict in &reply.value.verdicts {
        let factor = verdict.factor.map(|factor| format!(" to {factor}")).unwrap_or_default();
        table.row([
            verdict.subject.clone(),
            format!("{}{factor}", verdict.action),
            show::date(Some(verdict.until)),
            show::left(Some(verdict.until), now),
        ]);
    }
    if table.is_empty() {
        io.note("nobody is kept out");
        return Ok(());
    }
    io.print(&table.render(io.colour()))?;
    if !reply.value.in_force {
        io.note("none of them holds: the monitor is switched off");
    }
    Ok(())
}
