//! `keytide keys list`

use super::{Status, short};
use crate::{
    cli::{
        client::{Client, Reply},
        error::Error,
        io::Io,
        show,
        table::{Align, Colour, Table},
        view::{Key, KeyPage},
    },
    model::{Clock, Timestamp},
};

/// List keys, masked, with their state and figures
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys list --provider openrouter --status failed
  keytide keys list --sort success_rate --order asc --page 2
  keytide keys list --all --json | jq -r .id")]
pub(super) struct Args {
    /// Only keys in this state
    #[arg(long)]
    status: Option<Status>,
    /// Only keys with this in their name or note, or at the beginning of their id
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// What they are ordered by [default: created_at]
    #[arg(long)]
    sort: Option<Sort>,
    /// From the least on or from the most [default: asc]
    #[arg(long)]
    order: Option<Order>,
    /// Which page
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    page: u64,
    /// Keys on a page
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    page_size: u64,
    /// Every page; with --json one key a line
    #[arg(long, conflicts_with_all = ["page", "page_size"])]
    all: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Sort {
    CreatedAt,
    Username,
    Status,
    TotalRequests,
    SuccessRate,
    LastUsed,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Order {
    Asc,
    Desc,
}

impl Args {
    fn query(&self) -> Vec<(&'static str, &str)> {
        let sort = self.sort.map(|sort| match sort {
            Sort::CreatedAt => "created_at",
            Sort::Username => "username",
            Sort::Status => "status",
            Sort::TotalRequests => "total_requests",
            Sort::SuccessRate => "success_rate",
            Sort::LastUsed => "last_used",
        });
        let order = self.order.map(|order| match order {
            Order::Asc => "asc",
            Order::Desc => "desc",
        });
        let all = [
            ("status", self.status.map(Status::name)),
            ("search", self.search.as_deref()),
            ("sort", sort),
            ("order", order),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

pub(super) async fn run(args: &Args, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let query = args.query();
    if args.all {
        return list_all(&query, client, json, io).await;
    }
    let (page, size) = (args.page.to_string(), args.page_size.to_string());
    let paging = [("page", page.as_str()), ("pageSize", &size)];
    let query: Vec<_> = query.into_iter().chain(paging).collect();
    let reply: Reply<KeyPage> = client.get("admin/api-keys", &query).await?;
    if json {
        return io.line(&reply.text);
    }
    let found = reply.value;
    print(&found.keys, io)?;
    let total = format!("{} of {}", show::counted(found.total, "key", "keys"), found.provider);
    let text = match found.total {
        0 if args.query().is_empty() => {
            format!("{} has no keys yet; add one with `keytide keys add`", found.provider)
        }
        0 => format!("no key of {} is like that", found.provider),
        _ => show::page(total, found.keys.is_empty(), found.page, found.pages, "--page, --all"),
    };
    io.note(&text);
    Ok(())
}

async fn list_all(query: &[(&str, &str)], client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    if !json {
        let keys = client.all_keys(query).await?;
        print(&keys, io)?;
        io.note(&show::counted(keys.len() as u64, "key", "keys"));
        return Ok(());
    }
    for page in 1u64.. {
        let number = page.to_string();
        let query: Vec<_> =
            query.iter().copied().chain([("page", number.as_str()), ("pageSize", "1000")]).collect();
        let reply: Reply<serde_json::Value> = client.get("admin/api-keys", &query).await?;
        let keys = reply.value["keys"].as_array().map(Vec::as_slice).unwrap_or_default();
        for key in keys {
            io.line(&key.to_string())?;
        }
        if keys.is_empty() || page >= reply.value["pages"].as_u64().unwrap_or(0) {
            break;
        }
    }
    Ok(())
}

fn print(keys: &[Key], io: &mut Io) -> Result<(), Error> {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("KEY", Align::Left),
        ("USERNAME", Align::Left),
        ("STATUS", Align::Left),
        ("WHY", Align::Left),
        ("REQUESTS", Align::Right),
        ("SUCCESS", Align::Right),
        ("LAST USED", Align::Left),
        ("OWNER", Align::Left),
        ("NOTE", Align::Left),
    ]);
    let now = Clock::System.now();
    for key in keys {
        let stats = &key.stats;
        table.row_coloured([
            (short(&key.id), Colour::None),
            (key.key.clone(), Colour::None),
            (key.username.clone().unwrap_or_default(), Colour::None),
            (key.status.clone(), Colour::of(&key.status)),
            (why(key, now), Colour::None),
            (show::count(stats.total_requests), Colour::None),
            (show::percent(stats.success_rate, stats.total_requests), Colour::None),
            (show::ago(stats.last_used, now), Colour::None),
            (key.owner.as_deref().map(short).unwrap_or_default(), Colour::None),
            (key.note.clone().unwrap_or_default(), Colour::None),
        ]);
    }
    if table.is_empty() { Ok(()) } else { io.print(&table.render(io.colour())) }
}

/// Why a key is not picked and for how long, or when it will expire.
fn why(key: &Key, now: Timestamp) -> String {
    let reason = key.reason.as_deref().unwrap_or_default().replace('_', " ");
    let left = match key.status.as_str() {
        "failed" => show::left(key.failed_until, now),
        "disabled" => show::left(key.disabled_until, now),
        "active" => match show::left(key.expires_at, now).as_str() {
            "" => String::new(),
            left => format!("{left} to expiry"),
        },
        _ => String::new(),
    };
    [reason, left].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(", ")
}
