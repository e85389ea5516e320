//! `keytide keys add`

use serde_json::{Map, Value};

use super::short;
use crate::{
    cli::{
        client::{Client, Reply},
        error::Error,
        io::Io,
        remote::secret,
        show,
        table::plain,
        users,
        view::Key,
    },
    model::{Secret, Timestamp},
};

/// Add one key
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys add --username alice@example.com        asks for the key, unseen
  pass show openrouter | keytide keys add - --provider openrouter
  keytide keys add KEY --expires-at 2027-01-01 --note \"paid by team A\"

A key on the command line stays in the shell's history; \"-\" reads it from stdin.")]
pub(super) struct Args {
    /// The key, or "-" for stdin; asked for when absent
    #[arg(value_name = "KEY", value_parser = secret)]
    key: Vec<Secret>,
    /// The upstream account that it belongs to
    #[arg(long, value_name = "NAME")]
    username: Option<String>,
    /// Anything worth remembering about it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// When it stops being used, like 2026-12-31T23:59:59Z or 2026-12-31
    #[arg(long, value_name = "TIME", value_parser = show::parse_time)]
    expires_at: Option<Timestamp>,
    /// Its share of the requests beside other keys, 1 to 1000, for the strategy "weighted"
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    weight: Option<u16>,
    /// The user who shares it, by name or id
    #[arg(long, value_name = "USER")]
    owner: Option<String>,
}

pub(super) async fn run(args: Args, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let key = read_key(&args.key, io)?;
    let owner = match &args.owner {
        Some(owner) => Some(users::find(owner, client).await?),
        None => None,
    };
    let mut body = Map::new();
    body.insert("key".to_owned(), key.expose().into());
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            body.insert(name.to_owned(), value);
        }
    };
    put("username", args.username.map(Value::from));
    put("note", args.note.map(Value::from));
    put("expires_at", args.expires_at.map(|at| at.to_string().into()));
    put("weight", args.weight.map(Value::from));
    put("owner", owner.map(Value::from));
    let reply: Reply<Key> = client.post("admin/api-keys", &Value::Object(body)).await?;
    if json {
        return io.line(&reply.text);
    }
    let Key { id, key, status, .. } = &reply.value;
    io.line(&plain(&format!("added {} ({key}), {status}", short(id))))
}

fn read_key(given: &[Secret], io: &mut Io) -> Result<Secret, Error> {
    let key = match given {
        [key] if key.expose() != "-" => key.clone(),
        [_] => match io.read_words()?.as_slice() {
            [key] => Secret::new(key.as_str()),
            [] => return Err(Error::usage("stdin holds no key")),
            several => {
                return Err(Error::usage(format!(
                    "stdin holds {} words and a key is one; add many keys with `keytide keys import -`",
                    several.len()
                )));
            }
        },
        [] if io.stdin_is_terminal && io.stderr_is_terminal => io.ask_hidden("Key (not shown): ")?,
        [] => {
            return Err(Error::usage("no key is given; pass it, or \"-\" to read it from stdin"));
        }
        _ => {
            return Err(Error::usage(
                "`keys add` takes one key; add many with `keytide keys import FILE`, one a line",
            ));
        }
    };
    if key.expose().is_empty() {
        return Err(Error::usage("the key is empty"));
    }
    Ok(key)
}
