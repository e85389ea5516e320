//! `keytide migrate kv`

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::PathBuf,
};

use reqwest::Method;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::kv_file::{Dump, Name, name, text};
use crate::{
    cli::{
        client::{Client, Reply},
        error::Error,
        io::{Io, Unit},
        remote::Remote,
        show,
        view::{Changed, Imported, Token, TokenList},
    },
    model::{Clock, KeyId, Secret, Timestamp, TokenId, secret::mask},
};

const MAX_BYTES: u64 = 256_000_000;
/// Keys in one request.
const CHUNK: usize = 10_000;
/// Names that are shown one by one.
const SHOWN: usize = 20;
/// The longest name of a token.
const MAX_NAME: usize = 128;

/// Import keys and tokens from the KV of a Cloudflare worker, through the running server
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  wrangler kv key list --namespace-id ID --remote > list.json
  wrangler kv bulk get list.json --namespace-id ID --remote > values.json
  keytide migrate kv list.json values.json          say what would be added
  keytide migrate kv list.json values.json --run

The listing alone holds names and no values: what lacks its value is named. A file for
`wrangler kv bulk put` is read as well. Names that say no provider are those of --provider.
Statistics of the KV are not taken over.")]
pub(super) struct Args {
    /// Listings and values, in any order; "-" for stdin
    #[arg(value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// Do it; without this nothing is changed
    #[arg(long)]
    run: bool,
    /// The provider of names that say none [default: server.default_provider]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

/// What the KV has of one provider.
#[derive(Default)]
struct Pool {
    keys: Vec<Secret>,
    /// By the hash of the key.
    details: BTreeMap<String, Map<String, Value>>,
    disabled: BTreeMap<String, Option<Timestamp>>,
    tokens: Vec<KvToken>,
}

struct KvToken {
    text: Secret,
    name: String,
    expires: Option<Timestamp>,
}

/// What was read of all files.
#[derive(Default)]
struct Found {
    /// By provider, empty where names say none.
    pools: BTreeMap<String, Pool>,
    /// Names without a value.
    missing: Vec<String>,
    unreadable: Vec<String>,
    others: u64,
}

pub(super) async fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let mut dump = Dump::default();
    for path in &args.files {
        let text = text(path, MAX_BYTES, io)?;
        dump.add(&text).map_err(|why| Error::failed(format!("{}: {why}", path.display())))?;
    }
    let found = sort_out(&dump);
    let client = args.remote.client(io)?;
    let now = Clock::System.now();
    let mut answers = Vec::new();
    for (named, pool) in &found.pools {
        let provider = Some(named.as_str()).filter(|name| !name.is_empty()).or(args.provider.as_deref());
        let client = client.for_none().for_provider(provider);
        answers.push(pool_to(&client, pool, args.run, now, io).await?);
    }
    let failed = answers.iter().any(|answer| answer.keys.invalid > 0 || !answer.refused.is_empty());
    if args.remote.json {
        let pools: Vec<Value> = answers.iter().map(Answer::json).collect();
        io.line(
            &json!({
                "dry_run": !args.run, "providers": pools, "missing": found.missing, "unreadable": found.unreadable,
                "others": found.others,
            })
            .to_string(),
        )?;
    } else {
        for answer in &answers {
            answer.say(args.run, io)?;
        }
        say_rest(&found, args.run, io)?;
    }
    if failed || !found.missing.is_empty() || !found.unreadable.is_empty() {
        Err(Error::Shown)
    } else {
        Ok(())
    }
}

/// A token's name is its text: it is shown masked.
fn shown(full: &str) -> String {
    match name(full) {
        (_, Name::Token(token)) => full.strip_suffix(token).unwrap_or_default().to_owned() + &mask(token),
        _ => full.to_owned(),
    }
}

fn sort_out(dump: &Dump) -> Found {
    let mut found = Found::default();
    for (full, entry) in &dump.entries {
        let (provider, kind) = name(full);
        if kind == Name::Other {
            found.others += 1;
            continue;
        }
        let Some(value) = &entry.value else {
            found.missing.push(shown(full));
            continue;
        };
        let pool = found.pools.entry(provider.unwrap_or_default().to_owned()).or_default();
        let read = match kind {
            Name::Keys => keys(value).map(|keys| pool.keys.extend(keys)),
            Name::Token(text) => token(text, value).map(|token| pool.tokens.push(token)),
            Name::Metadata(hash) => serde_json::from_str(value)
                .ok()
                .map(|details| drop(pool.details.insert(hash.to_ascii_lowercase(), details))),
            Name::Disabled(hash) => {
                pool.disabled.insert(hash.to_ascii_lowercase(), entry.expires);
                Some(())
            }
            Name::Other => Some(()),
        };
        if read.is_none() {
            found.unreadable.push(shown(full));
        }
    }
    found
}

fn keys(value: &str) -> Option<Vec<Secret>> {
    let keys: Vec<String> = serde_json::from_str(value).ok()?;
    let mut seen = HashSet::new();
    Some(keys.iter().map(|key| key.trim()).filter(|key| seen.insert(*key)).map(Secret::new).collect())
}

fn token(text: &str, value: &str) -> Option<KvToken> {
    let fields: Map<String, Value> = serde_json::from_str(value).ok()?;
    let name = fields.get("name").and_then(Value::as_str).unwrap_or_default();
    let name: String = name.chars().filter(|c| !c.is_control()).take(MAX_NAME).collect();
    let name = if name.trim().is_empty() { "from KV".to_owned() } else { name.trim().to_owned() };
    Some(KvToken { text: Secret::new(text), name, expires: time(fields.get("expiresAt")) })
}

/// As milliseconds, or as a text.
fn time(value: Option<&Value>) -> Option<Timestamp> {
    match value? {
        Value::Number(ms) => ms.as_i64().map(Timestamp),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn hash(key: &Secret) -> String {
    Sha256::digest(key.expose().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As an import takes it.
fn row(key: &Secret, pool: &Pool) -> Value {
    let mut row = Map::new();
    row.insert("key".to_owned(), key.expose().into());
    if let Some(details) = pool.details.get(&hash(key)) {
        let username = details.get("username").and_then(Value::as_str);
        if let Some(username) = username.filter(|name| !matches!(name.trim(), "" | "N/A")) {
            row.insert("username".to_owned(), username.into());
        }
        if let Some(at) = time(details.get("expiresAt")) {
            row.insert("expires_at".to_owned(), at.to_string().into());
        }
    }
    Value::Object(row)
}

/// What became of one provider's part, or would.
#[derive(Default)]
struct Answer {
    provider: String,
    keys: Keys,
    disabled: u64,
    tokens_added: u64,
    tokens_existing: u64,
    tokens_expired: u64,
    /// Masked, each with its reason.
    refused: Vec<String>,
}

#[derive(Default)]
struct Keys {
    added: u64,
    existing: u64,
    invalid: u64,
    /// Masked, each with its reason.
    refused: Vec<String>,
}

async fn pool_to(client: &Client, pool: &Pool, run: bool, now: Timestamp, io: &Io) -> Result<Answer, Error> {
    let tokens: Reply<TokenList> = client.get("admin/tokens", &[]).await?;
    let mut answer = Answer { provider: tokens.value.provider, ..Answer::default() };
    let known: BTreeSet<String> = tokens.value.tokens.into_iter().map(|token| token.id).collect();
    let disable = to_disable(client, &answer.provider, pool, now).await?;
    let bar = io.progress((pool.keys.len() + pool.tokens.len()) as u64, "importing", Unit::Items);
    for keys in pool.keys.chunks(CHUNK) {
        let body = json!({"keys": keys.iter().map(|key| row(key, pool)).collect::<Vec<_>>()});
        let dry = if run { "false" } else { "true" };
        let request = client
            .request(Method::POST, "admin/api-keys/import", &[("format", "json"), ("dry_run", dry)])
            .json(&body);
        let Reply { value, .. }: Reply<Imported> = client.send(request).await?;
        answer.keys.added += value.added;
        answer.keys.existing += value.existing;
        answer.keys.invalid += value.invalid;
        let why = value
            .invalid_lines
            .into_iter()
            .map(|line| format!("{}: {}", line.key.unwrap_or_default(), line.reason.unwrap_or_default()));
        answer.keys.refused.extend(why);
        bar.inc(keys.len() as u64);
    }
    answer.disabled = disable.values().map(|ids| ids.len() as u64).sum();
    if run {
        for (until, ids) in disable {
            let mut body = json!({"ids": ids});
            if let Some(until) = until {
                body["until"] = until.to_string().into();
            }
            let _: Reply<Changed> = client.post("admin/keys/disable", &body).await?;
        }
    }
    for token in &pool.tokens {
        bar.inc(1);
        if token.expires.is_some_and(|at| at <= now) {
            answer.tokens_expired += 1;
        } else if known.contains(&TokenId::derive(&answer.provider, token.text.expose()).to_string()) {
            answer.tokens_existing += 1;
        } else if let Err(why) = add(client, token, run).await? {
            answer.refused.push(format!("{}: {why}", token.text));
        } else {
            answer.tokens_added += 1;
        }
    }
    bar.finish_and_clear();
    Ok(answer)
}

/// A reason, where the server does not take the token.
async fn add(client: &Client, token: &KvToken, run: bool) -> Result<Result<(), String>, Error> {
    if !run {
        return Ok(Ok(()));
    }
    let mut body = json!({"name": token.name, "token": token.text.expose()});
    if let Some(at) = token.expires {
        body["expires_at"] = at.to_string().into();
    }
    let sent: Result<Reply<Token>, Error> = client.post("admin/tokens", &body).await;
    match sent {
        Ok(_) => Ok(Ok(())),
        Err(Error::Failed(why)) => Ok(Err(why)),
        Err(error) => Err(error),
    }
}

/// Which of the keys that are new were disabled, by when that ends.
async fn to_disable(
    client: &Client,
    provider: &str,
    pool: &Pool,
    now: Timestamp,
) -> Result<BTreeMap<Option<Timestamp>, Vec<String>>, Error> {
    let mut by_end = BTreeMap::<_, Vec<_>>::new();
    if pool.disabled.is_empty() {
        return Ok(by_end);
    }
    let known: BTreeSet<String> = client.all_keys(&[]).await?.into_iter().map(|key| key.id).collect();
    for key in &pool.keys {
        let id = KeyId::derive(provider, key.expose()).to_string();
        match pool.disabled.get(&hash(key)) {
            Some(end) if end.is_none_or(|end| end > now) && !known.contains(&id) => {
                by_end.entry(*end).or_default().push(id);
            }
            _ => {}
        }
    }
    Ok(by_end)
}

impl Answer {
    fn json(&self) -> Value {
        let Self { provider, keys, disabled, tokens_added, tokens_existing, tokens_expired, refused } = self;
        json!({
            "provider": provider,
            "keys": {"added": keys.added, "existing": keys.existing, "invalid": keys.invalid, "disabled": disabled,
                     "refused": keys.refused},
            "tokens": {"added": tokens_added, "existing": tokens_existing, "expired": tokens_expired, "refused": refused},
        })
    }

    fn say(&self, run: bool, io: &mut Io) -> Result<(), Error> {
        let added = if run { "added to" } else { "would be added to" };
        let disabled = match self.disabled {
            0 => String::new(),
            count => format!(", {} of the new ones disabled as they were", show::count(count)),
        };
        io.line(&format!(
            "{} {added} {}: {} existing, {} invalid{disabled}",
            show::counted(self.keys.added, "key", "keys"),
            self.provider,
            show::count(self.keys.existing),
            show::count(self.keys.invalid),
        ))?;
        io.line(&format!(
            "{} {added} {}: {} existing, {} expired, {} refused",
            show::counted(self.tokens_added, "token", "tokens"),
            self.provider,
            show::count(self.tokens_existing),
            show::count(self.tokens_expired),
            show::count(self.refused.len() as u64),
        ))?;
        let refused: Vec<String> = self.keys.refused.iter().chain(&self.refused).cloned().collect();
        list("not taken:", &refused, io)
    }
}

fn say_rest(found: &Found, run: bool, io: &mut Io) -> Result<(), Error> {
    if found.pools.is_empty() && found.missing.is_empty() && found.unreadable.is_empty() {
        io.line("these files name no keys and no tokens")?;
    }
    list(
        "values that are missing (the listing has names alone; `wrangler kv bulk get` has them):",
        &found.missing,
        io,
    )?;
    list("values that are not what this name should hold:", &found.unreadable, io)?;
    if found.others > 0 {
        io.line(&format!(
            "{} for statistics and the like: not taken over",
            show::counted(found.others, "other name is", "other names are")
        ))?;
    }
    if run { Ok(()) } else { io.line("nothing was changed: --run does it") }
}

fn list(head: &str, lines: &[String], io: &mut Io) -> Result<(), Error> {
    if lines.is_empty() {
        return Ok(());
    }
    io.line(head)?;
    for line in lines.iter().take(SHOWN) {
        io.line(&format!("  {}", crate::cli::table::plain(line)))?;
    }
    match lines.len().saturating_sub(SHOWN) {
        0 => Ok(()),
        more => io.line(&format!("  … and {} more", show::count(more as u64))),
    }
}
