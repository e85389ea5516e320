//! `keytide keys enable`, `disable`, `owner` and `delete`

use reqwest::Method;
use serde_json::{Value, json};

use super::which::{Which, chunks};
use crate::{
    cli::{
        client::{Client, Reply},
        error::Error,
        io::Io,
        show, users,
        view::{Changed, Key},
    },
    model::Timestamp,
};

/// Switch keys on, and forget what was held against them
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys enable 97665549
  keytide keys enable --status failed --provider openrouter
  keytide keys list --all --json | jq -r 'select(.username==\"alice\").id' | keytide keys enable -")]
pub(super) struct EnableArgs {
    #[command(flatten)]
    which: Which,
}

/// Switch keys off, for good or for a while
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys disable 97665549 --for 2h
  keytide keys disable --all --until 2027-01-01T00:00:00Z")]
pub(super) struct DisableArgs {
    #[command(flatten)]
    which: Which,
    /// When they come back by themselves, like 2026-12-31T23:59:59Z or 2026-12-31
    #[arg(long, value_name = "TIME", value_parser = show::parse_time)]
    until: Option<Timestamp>,
    /// How long until they come back by themselves, like 30m, 2h or 7d
    #[arg(long = "for", value_name = "SPAN", value_parser = show::parse_span, conflicts_with = "until")]
    span: Option<Timestamp>,
}

/// Say who shares keys, from now on
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys owner 97665549 --user Ann
  keytide keys owner --all --user none --provider openrouter")]
pub(super) struct OwnerArgs {
    #[command(flatten)]
    which: Which,
    /// The user who shares them, by name or id, or "none"
    #[arg(long, value_name = "USER")]
    user: String,
}

/// Delete keys; what was counted stays in the provider's figures
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys delete 97665549
  keytide keys delete --status expired --yes")]
pub(super) struct DeleteArgs {
    #[command(flatten)]
    which: Which,
    /// Really delete all that --all or --status means
    #[arg(long)]
    yes: bool,
}

pub(super) async fn enable(args: &EnableArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let path = "admin/keys/enable";
    if let Some(body) = args.which.sweep()? {
        let reply = client.post(path, &body).await?;
        return Tally::default().add(&reply, json, io)?.finish("enabled", json, io);
    }
    let ids = args.which.resolve(client, io).await?;
    send(client, (Method::POST, path), &ids, json!({}), json, io).await?.finish("enabled", json, io)
}

pub(super) async fn disable(
    args: &DisableArgs,
    client: &Client,
    json: bool,
    io: &mut Io,
) -> Result<(), Error> {
    let ids = args.which.resolve(client, io).await?;
    let until = args.until.or(args.span).map(|until| until.to_string());
    let body = until.as_ref().map_or_else(|| json!({}), |until| json!({"until": until}));
    let verb = until.map_or_else(|| "disabled".to_owned(), |until| format!("disabled until {until}"));
    send(client, (Method::POST, "admin/keys/disable"), &ids, body, json, io).await?.finish(&verb, json, io)
}

pub(super) async fn owner(args: &OwnerArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let owner = match args.user.trim() {
        "none" => None,
        user => Some(users::find(user, client).await?),
    };
    let ids = args.which.resolve(client, io).await?;
    for id in &ids {
        let reply: Reply<Key> =
            client.patch(&format!("admin/api-keys/{id}"), &json!({"owner": owner})).await?;
        if json {
            io.line(&reply.one_line())?;
        }
    }
    match json {
        true => Ok(()),
        false => io.line(&format!("{} changed", show::counted(ids.len() as u64, "key", "keys"))),
    }
}

pub(super) async fn delete(args: &DeleteArgs, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let ids = args.which.resolve(client, io).await?;
    if args.which.is_sweeping() && !args.yes && !ids.is_empty() {
        return Err(Error::usage(format!(
            "this would delete {}; add --yes if that is meant",
            show::counted(ids.len() as u64, "key", "keys")
        )));
    }
    let to = (Method::DELETE, "admin/api-keys");
    send(client, to, &ids, json!({}), json, io).await?.finish("deleted", json, io)
}

/// Sends the ids in portions; `body` is what stands beside them.
async fn send(
    client: &Client,
    (method, path): (Method, &str),
    ids: &[String],
    mut body: Value,
    json: bool,
    io: &mut Io,
) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    for ids in chunks(ids) {
        body["ids"] = json!(ids);
        let request = client.request(method.clone(), path, &[]).json(&body);
        tally = tally.add(&client.send(request).await?, json, io)?;
    }
    Ok(tally)
}

#[derive(Default)]
struct Tally {
    changed: u64,
    missing: Vec<String>,
}

impl Tally {
    fn add(mut self, reply: &Reply<Changed>, json: bool, io: &mut Io) -> Result<Self, Error> {
        if json {
            io.line(&reply.one_line())?;
        }
        self.changed += reply.value.changed;
        self.missing.extend(reply.value.missing.iter().cloned());
        Ok(self)
    }

    fn finish(self, verb: &str, json: bool, io: &mut Io) -> Result<(), Error> {
        if !json {
            io.line(&format!("{} {verb}", show::counted(self.changed, "key", "keys")))?;
        }
        match self.missing.as_slice() {
            [] => Ok(()),
            [one] => Err(Error::failed(format!("no key has the id {one}"))),
            [first, rest @ ..] => {
                Err(Error::failed(format!("no keys have the id {first} and {} more", rest.len())))
            }
        }
    }
}
