//! `keytide tokens`

use serde_json::{Map, Value, json};

use super::{
    client::{Client, Reply},
    error::Error,
    io::Io,
    keys::Wanted,
    limits::{AnyArgs, LimitArgs, used},
    remote::{ForProvider, Remote},
    show,
    table::{Align, Colour, Table},
    users,
    view::{Changed, Token, TokenList},
};
use crate::model::{Clock, Timestamp};

/// List, create, limit and revoke the tokens that clients show, through the running server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide tokens create --name app
  keytide tokens list --provider openrouter")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    provider: ForProvider,
    #[command(flatten)]
    remote: Remote,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List tokens, masked, with their limits and figures
    #[command(after_help = "\
Example:
  keytide tokens list --provider openrouter --json")]
    List,
    Create(CreateArgs),
    Limits(LimitsArgs),
    /// Revoke tokens: clients that show them get a 401 from then on
    #[command(after_help = "\
Examples:
  keytide tokens revoke 1f8a0c2e
  keytide tokens list --json | jq -r '.tokens[] | select(.expired).id' | keytide tokens revoke -")]
    Revoke {
        /// Ids, or their first 8 or more hex digits; "-" reads them from stdin
        #[arg(value_name = "ID", required = true)]
        ids: Vec<String>,
    },
}

/// Create a token and print it; it is not shown again
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide tokens create --name app
  TOKEN=$(keytide tokens create --name ci --expires-in 30d --rpm 60 --model gpt-oss:20b)
  keytide tokens create --name laptop --user Ann --requests-per-day 1000 --address 10.0.0.0/8

Only the token is written to stdout.")]
struct CreateArgs {
    /// What it is for
    #[arg(long, value_name = "NAME")]
    name: String,
    /// When it stops working, like 2026-12-31T23:59:59Z or 2026-12-31
    #[arg(long, value_name = "TIME", value_parser = show::parse_time)]
    expires_at: Option<Timestamp>,
    /// How long it works, like 12h, 30d or 6mo
    #[arg(long, value_name = "SPAN", value_parser = show::parse_span, conflicts_with = "expires_at")]
    expires_in: Option<Timestamp>,
    /// The user whose it is, by name or id: their limits hold as well
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Change a token's limits or user; what is not named stays, and what was used today stays used
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide tokens limits 1f8a0c2e --requests-per-day 2000 --rpm none
  keytide tokens limits 1f8a0c2e --user Ann --any-model")]
struct LimitsArgs {
    /// Its id, or the first 8 or more hex digits
    #[arg(value_name = "ID")]
    id: String,
    /// The user whose it is from now on, by name or id, or "none"
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    any: AnyArgs,
}

pub(super) async fn run(args: Args, io: &mut Io) -> Result<(), Error> {
    let client = args.remote.client(io)?.for_provider(args.provider.provider.as_deref());
    let json = args.remote.json;
    match args.command {
        Command::List => list(&client, json, io).await,
        Command::Create(args) => create(args, &client, json, io).await,
        Command::Limits(args) => limit(args, &client, json, io).await,
        Command::Revoke { ids } => revoke(&ids, &client, json, io).await,
    }
}

async fn list(client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let reply: Reply<TokenList> = client.get("admin/tokens", &[]).await?;
    if json {
        return io.line(&reply.text);
    }
    let mut table = Table::new(&[
        ("ID", Align::Left),
        ("TOKEN", Align::Left),
        ("NAME", Align::Left),
        ("USER", Align::Left),
        ("EXPIRES", Align::Left),
        ("MODELS", Align::Left),
        ("ADDRESSES", Align::Left),
        ("RPM", Align::Right),
        ("REQUESTS TODAY", Align::Right),
        ("TOKENS TODAY", Align::Right),
        ("REQUESTS", Align::Right),
        ("TOKENS IN", Align::Right),
        ("TOKENS OUT", Align::Right),
        ("LAST USED", Align::Left),
    ]);
    let now = Clock::System.now();
    // What was ever used stands beside it.
    let limited =
        |today: u64, limit: Option<u64>| limit.map(|limit| used(today, Some(limit))).unwrap_or_default();
    for token in &reply.value.tokens {
        let limits = &token.limits;
        let expires = if token.expired {
            ("expired".to_owned(), Colour::Yellow)
        } else {
            plain(show::date(token.expires_at))
        };
        table.row_coloured([
            plain(token.id.chars().take(8).collect()),
            plain(token.token.clone()),
            plain(token.name.clone()),
            plain(token.user.as_deref().unwrap_or_default().chars().take(8).collect()),
            expires,
            plain(limits.allowed_models.as_deref().unwrap_or_default().join(" ")),
            plain(limits.allowed_addresses.as_deref().unwrap_or_default().join(" ")),
            plain(limits.requests_per_minute.map(show::count).unwrap_or_default()),
            plain(limited(limits.requests_today, limits.requests_per_day)),
            plain(limited(limits.tokens_today, limits.tokens_per_day)),
            plain(show::count(token.request_count)),
            plain(show::count(token.prompt_tokens)),
            plain(show::count(token.completion_tokens)),
            plain(show::ago(token.last_used, now)),
        ]);
    }
    if table.is_empty() {
        let provider = &reply.value.provider;
        io.note(&format!(
            "{provider} has no tokens yet; create one with `keytide tokens create --name NAME`"
        ));
        return Ok(());
    }
    io.print(&table.render(io.colour()))
}

fn plain(text: String) -> (String, Colour) {
    (text, Colour::None)
}

async fn create(args: CreateArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let mut body = Map::new();
    body.insert("name".to_owned(), args.name.into());
    if let Some(at) = args.expires_at.or(args.expires_in) {
        body.insert("expires_at".to_owned(), at.to_string().into());
    }
    if let Some(user) = &args.user {
        body.insert("user".to_owned(), users::find(user, client).await?.into());
    }
    args.limits.put(&mut body);
    let reply: Reply<Token> = client.post("admin/tokens", &Value::Object(body)).await?;
    if json {
        return io.line(&reply.text);
    }
    let Token { id, token, name, expires_at, .. } = &reply.value;
    io.line(token)?;
    let until = expires_at.map(|at| format!(", until {at}")).unwrap_or_default();
    let text = format!(
        "token \"{name}\", id {}{until}; it is not shown again",
        &id.chars().take(8).collect::<String>()
    );
    io.note(&super::table::plain(&text));
    Ok(())
}

async fn limit(args: LimitsArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let mut body = Map::new();
    args.limits.put(&mut body);
    args.any.put(&mut body);
    if let Some(user) = &args.user {
        let user = match user.as_str() {
            "none" => Value::Null,
            name => users::find(name, client).await?.into(),
        };
        body.insert("user".to_owned(), user);
    }
    if body.is_empty() {
        return Err(Error::usage("no limit is named; `keytide tokens limits --help` lists them"));
    }
    let wanted = Wanted::parse(&args.id)?;
    let known: Reply<TokenList> = client.get("admin/tokens", &[]).await?;
    let id = wanted.find(known.value.tokens.iter().map(|token| token.id.as_str()), "token")?;
    let reply: Reply<Token> = client.patch(&format!("admin/tokens/{id}"), &Value::Object(body)).await?;
    if json {
        return io.line(&reply.text);
    }
    let text = format!("token \"{}\" changed", reply.value.name);
    io.line(&super::table::plain(&text))
}

async fn revoke(ids: &[String], client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let words = io.words(ids)?;
    let wanted = words.iter().map(|word| Wanted::parse(word)).collect::<Result<Vec<_>, _>>()?;
    let known: Reply<TokenList> = client.get("admin/tokens", &[]).await?;
    let known: Vec<&str> = known.value.tokens.iter().map(|token| token.id.as_str()).collect();
    let ids = wanted
        .iter()
        .map(|wanted| wanted.find(known.iter().copied(), "token"))
        .collect::<Result<Vec<_>, _>>()?;
    let reply: Reply<Changed> = client.delete("admin/tokens", &json!({"ids": ids})).await?;
    if json {
        io.line(&reply.text)?;
    } else {
        io.line(&format!("{} revoked", show::counted(reply.value.changed, "token", "tokens")))?;
    }
    match reply.value.missing.first() {
        Some(id) => Err(Error::failed(format!("no token has the id {id}"))),
        None => Ok(()),
    }
}
