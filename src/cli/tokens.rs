//! `keytide tokens`

use serde_json::{Map, Value, json};

use super::{
    client::{Client, Reply},
    error::Error,
    io::Io,
    keys::Wanted,
    remote::{ForProvider, Remote},
    show,
    table::{Align, Colour, Table},
    view::{Changed, Token, TokenList},
};
use crate::model::{Clock, Timestamp};

/// List, create and revoke the tokens that clients show, through the running server
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
    /// A model that it may use, any number of times; all when absent
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// Requests per minute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rpm: Option<u32>,
}

pub(super) async fn run(args: Args, io: &mut Io) -> Result<(), Error> {
    let client = args.remote.client(io)?.for_provider(args.provider.provider.as_deref());
    let json = args.remote.json;
    match args.command {
        Command::List => list(&client, json, io).await,
        Command::Create(args) => create(args, &client, json, io).await,
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
        ("EXPIRES", Align::Left),
        ("MODELS", Align::Left),
        ("RPM", Align::Right),
        ("REQUESTS", Align::Right),
        ("TOKENS IN", Align::Right),
        ("TOKENS OUT", Align::Right),
        ("LAST USED", Align::Left),
    ]);
    let now = Clock::System.now();
    for token in &reply.value.tokens {
        let expires = if token.expired {
            ("expired".to_owned(), Colour::Yellow)
        } else {
            plain(show::date(token.expires_at))
        };
        table.row_coloured([
            plain(token.id.chars().take(8).collect()),
            plain(token.token.clone()),
            plain(token.name.clone()),
            expires,
            plain(token.allowed_models.as_deref().unwrap_or_default().join(" ")),
            plain(token.requests_per_minute.map(show::count).unwrap_or_default()),
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
    if !args.models.is_empty() {
        body.insert("allowed_models".to_owned(), args.models.into());
    }
    if let Some(rpm) = args.rpm {
        body.insert("requests_per_minute".to_owned(), rpm.into());
    }
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
