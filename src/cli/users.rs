//! `keytide users`

use serde_json::{Map, Value, json};

use super::{
    client::{Client, Reply},
    error::Error,
    io::Io,
    keys::Wanted,
    limits::{self, AnyArgs, LimitArgs, used},
    remote::Remote,
    show,
    table::{Align, Colour, Table, plain},
    view::{Changed, User, UserPage},
};

/// List, create, limit, disable and delete users, through the running server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide users create Ann --requests-per-day 1000
  keytide tokens create --name laptop --user Ann
  keytide users list")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Subcommand)]
enum Command {
    List(ListArgs),
    Create(CreateArgs),
    /// Show one user: limits, what was used today, tokens
    #[command(after_help = "\
Example:
  keytide users show Ann")]
    Show {
        /// Name, id, or its first 8 or more hex digits
        #[arg(value_name = "USER")]
        user: String,
    },
    Limits(LimitsArgs),
    /// Refuse the tokens of users, and end the answers under way
    #[command(after_help = "\
Example:
  keytide users disable Ann Bob")]
    Disable {
        /// Names, ids, or their first 8 or more hex digits
        #[arg(value_name = "USER", required = true)]
        users: Vec<String>,
    },
    /// Take the tokens of users again
    #[command(after_help = "\
Example:
  keytide users enable Ann")]
    Enable {
        /// Names, ids, or their first 8 or more hex digits
        #[arg(value_name = "USER", required = true)]
        users: Vec<String>,
    },
    /// Delete users; their tokens stay, and are refused
    #[command(after_help = "\
Example:
  keytide users delete 1f8a0c2e")]
    Delete {
        /// Names, ids, or their first 8 or more hex digits
        #[arg(value_name = "USER", required = true)]
        users: Vec<String>,
    },
}

/// List users, with their limits and what they used today
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide users list --sort tokens_today --order desc
  keytide users list --disabled --json | jq -r '.users[].name'")]
struct ListArgs {
    /// Only users with this in their name, or at the beginning of their id
    #[arg(long, value_name = "TEXT")]
    search: Option<String>,
    /// Only those who are enabled
    #[arg(long, conflicts_with = "disabled")]
    enabled: bool,
    /// Only those who are not
    #[arg(long)]
    disabled: bool,
    /// What they are ordered by [default: created_at]
    #[arg(long)]
    sort: Option<Sort>,
    /// From the least on or from the most [default: asc]
    #[arg(long)]
    order: Option<Order>,
    /// Which page
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    page: u64,
    /// Users on a page
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    page_size: u64,
}

#[derive(Clone, Copy, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
enum Sort {
    CreatedAt,
    Name,
    RequestsToday,
    TokensToday,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Order {
    Asc,
    Desc,
}

/// Create a user
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide users create Ann
  keytide users create \"team A\" --rpm 60 --requests-per-day 5000 --tokens-per-day 2000000
  keytide users create ci --address 10.0.0.0/8 --model 'gpt-oss:*'")]
struct CreateArgs {
    /// What people call them; no two users have the same
    #[arg(value_name = "NAME")]
    name: String,
    /// Anything worth remembering
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Change a user's limits; what is not named stays, and what was used today stays used
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide users limits Ann --requests-per-day 2000
  keytide users limits Ann --tokens-per-day none --any-address")]
struct LimitsArgs {
    /// Name, id, or its first 8 or more hex digits
    #[arg(value_name = "USER")]
    user: String,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    any: AnyArgs,
}

pub(super) async fn run(args: Args, io: &mut Io) -> Result<(), Error> {
    let client = args.remote.client(io)?;
    let json = args.remote.json;
    match args.command {
        Command::List(args) => list(&args, &client, json, io).await,
        Command::Create(args) => create(args, &client, json, io).await,
        Command::Show { user } => {
            let id = find(&user, &client).await?;
            let reply = client.get(&path(&id), &[]).await?;
            shown(&reply, json, io)
        }
        Command::Limits(args) => {
            let mut body = Map::new();
            args.limits.put(&mut body);
            args.any.put(&mut body);
            if body.is_empty() {
                return Err(Error::usage("no limit is named; `keytide users limits --help` lists them"));
            }
            let id = find(&args.user, &client).await?;
            let reply = client.patch(&path(&id), &Value::Object(body)).await?;
            shown(&reply, json, io)
        }
        Command::Disable { users } => switch(&users, false, &client, json, io).await,
        Command::Enable { users } => switch(&users, true, &client, json, io).await,
        Command::Delete { users } => delete(&users, &client, json, io).await,
    }
}

fn path(id: &str) -> String {
    format!("admin/users/{id}")
}

async fn list(args: &ListArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let enabled = (args.enabled || args.disabled).then_some(if args.enabled { "true" } else { "false" });
    let sort = args.sort.map(|sort| match sort {
        Sort::CreatedAt => "created_at",
        Sort::Name => "name",
        Sort::RequestsToday => "requests_today",
        Sort::TokensToday => "tokens_today",
    });
    let order = args.order.map(|order| match order {
        Order::Asc => "asc",
        Order::Desc => "desc",
    });
    let (page, size) = (args.page.to_string(), args.page_size.to_string());
    let all = [
        ("search", args.search.as_deref()),
        ("enabled", enabled),
        ("sort", sort),
        ("order", order),
        ("page", Some(page.as_str())),
        ("pageSize", Some(size.as_str())),
    ];
    let query: Vec<_> = all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let reply: Reply<UserPage> = client.get("admin/users", &query).await?;
    if json {
        return io.line(&reply.text);
    }
    let found = &reply.value;
    print(&found.users, io)?;
    let total = show::counted(found.total, "user", "users");
    io.note(&match found.total {
        0 if args.search.is_none() && enabled.is_none() => {
            "there are no users yet; create one with `keytide users create NAME`".to_owned()
        }
        0 => "no user is like that".to_owned(),
        _ => show::page(total, found.users.is_empty(), found.page, found.pages, "--page"),
    });
    Ok(())
}

fn print(users: &[User], io: &mut Io) -> Result<(), Error> {
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("NAME", Align::Left),
        ("STATUS", Align::Left),
        ("TOKENS", Align::Right),
        ("RPM", Align::Right),
        ("REQUESTS TODAY", Align::Right),
        ("TOKENS TODAY", Align::Right),
        ("NOTE", Align::Left),
    ]);
    for user in users {
        let (status, limits) = (status(user), &user.limits);
        let uncoloured = |text: String| (text, Colour::None);
        table.row_coloured([
            uncoloured(short(&user.id)),
            uncoloured(user.name.clone()),
            (status.to_owned(), Colour::of(status)),
            uncoloured(show::count(user.tokens.len() as u64)),
            uncoloured(limits.requests_per_minute.map(show::count).unwrap_or_default()),
            uncoloured(used(limits.requests_today, limits.requests_per_day)),
            uncoloured(used(limits.tokens_today, limits.tokens_per_day)),
            uncoloured(user.note.clone().unwrap_or_default()),
        ]);
    }
    if table.is_empty() { Ok(()) } else { io.print(&table.render(io.colour())) }
}

fn status(user: &User) -> &'static str {
    if user.enabled { "active" } else { "disabled" }
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

fn shown(reply: &Reply<User>, json: bool, io: &mut Io) -> Result<(), Error> {
    if json {
        return io.line(&reply.text);
    }
    let user = &reply.value;
    let mut lines = vec![
        ("name", user.name.clone()),
        ("id", user.id.clone()),
        ("status", status(user).to_owned()),
        ("created", show::date(user.created_at)),
    ];
    lines.extend(user.note.clone().map(|note| ("note", note)));
    lines.extend(limits::lines(&user.limits));
    lines.push(("day ends", show::date(user.day_ends_at)));
    for token in &user.tokens {
        lines.push(("token", format!("{} of {}, {}", short(&token.id), token.provider, token.name)));
    }
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or_default();
    for (name, value) in lines {
        io.line(&plain(&format!("{name:width$}  {value}")))?;
    }
    Ok(())
}

async fn create(args: CreateArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let mut body = Map::new();
    body.insert("name".to_owned(), args.name.into());
    if let Some(note) = args.note {
        body.insert("note".to_owned(), note.into());
    }
    args.limits.put(&mut body);
    let reply: Reply<User> = client.post("admin/users", &Value::Object(body)).await?;
    if json {
        return io.line(&reply.text);
    }
    io.line(&plain(&format!("created {} ({})", reply.value.name, reply.value.id)))
}

async fn switch(users: &[String], on: bool, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    for id in find_all(users, client).await? {
        let reply: Reply<User> = client.patch(&path(&id), &json!({"enabled": on})).await?;
        match json {
            true => io.line(&reply.one_line())?,
            false => {
                let verb = if on { "enabled" } else { "disabled" };
                io.line(&plain(&format!("{} {verb}", reply.value.name)))?;
            }
        }
    }
    Ok(())
}

async fn delete(users: &[String], client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let ids = find_all(users, client).await?;
    for id in &ids {
        let reply: Reply<Changed> = client.delete(&path(id), &json!({})).await?;
        if json {
            io.line(&reply.one_line())?;
        }
    }
    match json {
        true => Ok(()),
        false => io.line(&format!("{} deleted", show::counted(ids.len() as u64, "user", "users"))),
    }
}

/// All before anything is changed: a slip in the last must not leave the first changed.
async fn find_all(users: &[String], client: &Client) -> Result<Vec<String>, Error> {
    let mut ids = Vec::new();
    for user in users {
        let id = find(user, client).await?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// The id of the user that a person means, by name or by id.
pub(super) async fn find(word: &str, client: &Client) -> Result<String, Error> {
    let client = client.for_none();
    let word = word.trim();
    if word.is_empty() {
        return Err(Error::usage("a user's name or id is empty"));
    }
    let search = async |text: &str| -> Result<Vec<User>, Error> {
        let query = [("search", text), ("pageSize", "1000"), ("sort", "name")];
        let reply: Reply<UserPage> = client.get("admin/users", &query).await?;
        Ok(reply.value.users)
    };
    let lower = word.to_lowercase();
    let by_name = search(word).await?;
    let mut called = by_name.iter().filter(|user| user.name.to_lowercase() == lower);
    match (called.next(), called.next()) {
        (Some(user), None) => return Ok(user.id.clone()),
        // Made on two instances that had not heard of each other.
        (Some(_), Some(_)) => {
            let why = format!(
                "several users are called {}; pass an id, which `keytide users list` shows",
                plain(word)
            );
            return Err(Error::failed(why));
        }
        _ => {}
    }
    let unknown = || {
        Error::failed(format!(
            "no user is called {}; `keytide users list` shows those there are",
            plain(word)
        ))
    };
    let wanted = Wanted::parse(word).map_err(|_| unknown())?;
    let hex: String = word.chars().filter(|c| *c != '-').take(8).collect();
    let by_id = search(&hex).await?;
    let id = wanted.find(by_id.iter().map(|user| user.id.as_str()), "user")?;
    match by_id.iter().any(|user| user.id == id) {
        true => Ok(id),
        false => Err(unknown()),
    }
}
