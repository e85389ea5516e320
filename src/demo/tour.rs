//! `keytide demo`: a real gateway over a provider on loopback, with keys that fare as keys do.
//!
//! Everything goes the way it goes in earnest: keys are imported and the token is made through the admin API,
//! traffic comes in over sockets, and at the end the books are held against the provider's own count.

use std::{
    collections::BTreeMap,
    fmt::Display,
    io::{self, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::Client;
use serde_json::{Value, json};

use super::upstream::{Count, Upstream, UpstreamOptions};
use crate::{
    app::App,
    config::{Config, Overrides},
    model::Clock,
};

/// What the command line has to say.
#[derive(Clone, Debug)]
pub struct Options {
    /// Ends after the tour instead of waiting for more requests.
    pub once: bool,
    /// Where the gateway listens; by default port 8787, or any free one when that is taken.
    pub listen: Option<SocketAddr>,
    /// How many keys the pool gets.
    pub keys: usize,
    /// How many requests the tour sends.
    pub requests: usize,
}

impl Options {
    /// Every kind of key is there.
    pub const MIN_KEYS: usize = 6;
    /// One page of the listing.
    pub const MAX_KEYS: usize = 1000;
}

impl Default for Options {
    fn default() -> Self {
        Self { once: false, listen: None, keys: 12, requests: 300 }
    }
}

const CALLERS: usize = 16;
const USUAL_PORT: u16 = 8787;
/// Between two pieces of a streamed answer: a person at the curl line should see it grow.
const TOKEN_DELAY: Duration = Duration::from_millis(2);

/// Runs the tour; `stop` ends it, and the wait after it.
///
/// # Errors
/// When something could not be started, the tour was stopped, nobody reads what it tells, or the books do not agree
/// with the provider.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    ensure!(
        (Options::MIN_KEYS..=Options::MAX_KEYS).contains(&options.keys),
        "--keys must be from {} to {}",
        Options::MIN_KEYS,
        Options::MAX_KEYS
    );
    let upstream =
        Upstream::start(UpstreamOptions { token_delay: TOKEN_DELAY, ..UpstreamOptions::default() })
            .await
            .context("cannot open a port on loopback")?;
    let dir = Folder::make()?;
    let (app, url) = start(&options, &upstream, &dir.0).await?;
    let told = tell(&options, &upstream, &app, &url, stop).await;
    let stopped = app.stop().await;
    upstream.stop().await;
    told.and(stopped)
}

async fn tell(
    options: &Options,
    upstream: &Upstream,
    app: &App,
    url: &str,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    say("keytide demo: everything here runs on this machine, without any credential.\n")?;
    say_of("provider on loopback", upstream.base_url())?;
    say_of("keytide", url)?;
    say("")?;
    let mut stop = pin!(stop);
    let token = tokio::select! {
        toured = tour(options, upstream, app, url) => toured?,
        () = &mut stop => bail!("the tour was stopped before its end"),
    };
    if !options.once {
        say_lines(url, &token, app.admin_token().secret.expose())?;
        say("Ctrl-C ends the demo; its data goes with it.")?;
        stop.await;
    }
    Ok(())
}

/// A line on stdout. A reader that has left is an error, not a panic.
fn say(line: impl Display) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot write the output")
}

fn say_of(what: impl Display, is: impl Display) -> anyhow::Result<()> {
    say(format_args!("  {what:<22} {is}"))
}

/// A data folder that goes with the demo.
struct Folder(std::path::PathBuf);

impl Folder {
    fn make() -> anyhow::Result<Self> {
        let name = format!("keytide-demo-{}-{:08x}", std::process::id(), fastrand::u32(..));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is in the system's folder for such things, and holds no real key.
        let _left_behind = std::fs::remove_dir_all(&self.0);
    }
}

async fn start(options: &Options, upstream: &Upstream, dir: &Path) -> anyhow::Result<(App, String)> {
    let toml = format!(
        "[server]\nworkers = 2\n[providers.ollama]\nbase_url = \"{0}\"\nretry_backoff = \"20ms\"\n\
         [providers.openrouter]\nbase_url = \"{0}/api\"\n",
        upstream.base_url()
    );
    let file = dir.join("config.toml");
    std::fs::write(&file, toml)?;
    let usual = SocketAddr::from((Ipv4Addr::LOCALHOST, USUAL_PORT));
    let overrides =
        Overrides { listen: Some(options.listen.unwrap_or(usual)), data_dir: Some(dir.to_owned()) };
    let loaded = Config::load(Some(&file), &overrides, std::iter::empty())?;
    let mut config = loaded.config.clone();
    let listener = match crate::gateway::serve::bind(config.server.gateway.listen) {
        Ok(listener) => listener,
        Err(why) if options.listen.is_some() => bail!(why),
        Err(_) => {
            config.server.gateway.listen.set_port(0);
            crate::gateway::serve::bind(config.server.gateway.listen).map_err(anyhow::Error::msg)?
        }
    };
    let app = App::start_on(config, Clock::System, listener).await?;
    app.show_settings(&loaded);
    let url = format!("http://{}", app.address());
    Ok((app, url))
}

async fn tour(options: &Options, upstream: &Upstream, app: &App, url: &str) -> anyhow::Result<String> {
    let operator =
        Operator { client: Client::new(), url, token: app.admin_token().secret.expose().to_owned() };
    let keys = keys(options.keys);
    let imported = operator.post("/admin/api-keys/import", &json!({"keys": keys})).await?;
    say_of(format!("{} keys imported", imported["added"]), kinds(&keys))?;
    let made = operator.post("/admin/tokens", &json!({"name": "demo"})).await?;
    let token = made["token"].as_str().context("no token was made")?.to_owned();
    say("  1 client token made\n")?;

    let begun = Instant::now();
    let seen = traffic(&operator.client, url, &token, options.requests).await;
    let took = begun.elapsed();
    say(format_args!(
        "{} requests from {CALLERS} callers at a time, half of them streamed, in {:.1} s:",
        options.requests,
        took.as_secs_f64()
    ))?;
    for (status, count) in &seen {
        say(format_args!("  {count:>6}  {status}"))?;
    }
    say("\nWhat the pool learnt of its keys:")?;
    let list =
        operator.get(&format!("/admin/api-keys?pageSize={}&sort=username", options.keys.min(1000))).await?;
    say_keys(&list, options.keys)?;

    // An answer's end reaches the caller a moment before the provider has counted it.
    upstream.tally().idle().await;
    let stats = operator.get("/admin/stats").await?;
    let tally = upstream.tally().sum(|_, endpoint| endpoint == "/v1/chat/completions");
    say_books(&stats, &tally, &list)?;
    Ok(token)
}

/// Good keys, and at least one of each other kind; each with an account of its own.
fn keys(count: usize) -> Vec<Value> {
    (0..count)
        .map(|n| {
            let kind = match n {
                0 => "limited",
                1 => "dead",
                2 => "flaky",
                3 => "quota",
                _ if n % 11 == 10 => "flaky",
                _ => "good",
            };
            let key = format!("{kind}-{:08x}{n:016x}", 0x5eed_0000 + n);
            json!({"key": key, "username": format!("{kind}-{n}@example.org")})
        })
        .collect()
}

fn kinds(keys: &[Value]) -> String {
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for key in keys {
        let kind = key["username"].as_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        *kinds.entry(kind).or_default() += 1;
    }
    let texts: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    texts.join(", ")
}

/// Sends the requests, [`CALLERS`] at a time; returns how they ended.
async fn traffic(client: &Client, url: &str, token: &str, requests: usize) -> BTreeMap<String, usize> {
    let bar = progress(requests);
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..CALLERS {
        let (client, url, token) = (client.clone(), format!("{url}/v1/chat/completions"), token.to_owned());
        let bar = bar.clone();
        callers.spawn(async move {
            let mut seen: BTreeMap<String, usize> = BTreeMap::new();
            for n in (caller..requests).step_by(CALLERS) {
                let body = json!({
                    "model": if n % 3 == 0 { "demo-large" } else { "demo-small" },
                    "stream": n % 2 == 0,
                    "stream_options": if n % 2 == 0 { json!({"include_usage": true}) } else { Value::Null },
                    "messages": [{"role": "user", "content": format!("Tell me of tide {n}")}],
                });
                let sent = client.post(&url).bearer_auth(&token).json(&body).send().await;
                let ended = match sent {
                    Ok(answer) => {
                        let status = answer.status();
                        match answer.bytes().await {
                            Ok(_) => status.to_string(),
                            Err(_) => format!("{status}, broken off"),
                        }
                    }
                    Err(error) => format!("no answer: {}", error.without_url()),
                };
                *seen.entry(ended).or_default() += 1;
                bar.inc(1);
            }
            seen
        });
    }
    let mut all: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(seen) = callers.join_next().await {
        for (status, count) in seen.unwrap_or_default() {
            *all.entry(status).or_default() += count;
        }
    }
    bar.finish_and_clear();
    all
}

/// On a terminal's stderr, nothing elsewhere.
fn progress(requests: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("requests {wide_bar} {human_pos}/{human_len} {eta}");
    ProgressBar::new(requests as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

fn say_keys(list: &Value, count: usize) -> anyhow::Result<()> {
    const MOST: usize = 15;
    say(format_args!(
        "  {:<14} {:<22} {:<9} {:>8} {:>8} {:>8}  why",
        "key", "account", "status", "attempts", "success", "failure"
    ))?;
    for key in list["keys"].as_array().into_iter().flatten().take(MOST) {
        say(key_line(key))?;
    }
    if count > MOST {
        say(format_args!("  … and {} more", count - MOST))?;
    }
    Ok(())
}

fn key_line(key: &Value) -> String {
    let text = |field: &str| key[field].as_str().unwrap_or_default();
    let number = |field: &str| key["stats"][field].as_u64().unwrap_or_default();
    let line = format!(
        "  {:<14} {:<22} {:<9} {:>8} {:>8} {:>8}  {}",
        text("key"),
        text("username"),
        text("status"),
        number("total_requests"),
        number("success_count"),
        number("failure_count"),
        text("reason").replace('_', " "),
    );
    line.trim_end().to_owned()
}

fn say_books(stats: &Value, tally: &Count, list: &Value) -> anyhow::Result<()> {
    let sum = |field: &str| -> u64 {
        let keys = list["keys"].as_array().into_iter().flatten();
        keys.filter_map(|key| key["stats"][field].as_u64()).sum()
    };
    let number = |field: &str| stats[field].as_u64().unwrap_or_default();
    let rows = [
        ("attempts", sum("total_requests"), tally.attempts),
        ("answers", number("success_count"), tally.completed),
        ("prompt tokens", number("prompt_tokens"), tally.reported.prompt),
        ("completion tokens", number("completion_tokens"), tally.reported.completion),
    ];
    say("\nThe books beside the provider's own count:")?;
    say(format_args!("  {:<18} {:>9} {:>9}", "", "keytide", "provider"))?;
    for (name, ours, theirs) in rows {
        say(format_args!("  {name:<18} {ours:>9} {theirs:>9}"))?;
    }
    say("")?;
    let agree = rows.iter().all(|(_, ours, theirs)| ours == theirs);
    ensure!(agree, "the books and the provider's count differ: that is a bug, please report it");
    Ok(())
}

fn say_lines(url: &str, token: &str, admin: &str) -> anyhow::Result<()> {
    say("Paste these as they are:\n")?;
    say(format_args!(
        "curl -N {url}/v1/chat/completions -H 'Authorization: Bearer {token}' \\\n  \
         -H 'Content-Type: application/json' \\\n  \
         -d '{{\"model\":\"demo-small\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"How high is the tide?\"}}]}}'\n"
    ))?;
    say(format_args!("curl {url}/admin/stats -H 'Authorization: Bearer {admin}'\n"))?;
    say(format_args!("curl {url}/admin/public-stats\n"))?;
    say(format_args!(
        "python3 - <<'EOF'        # needs: pip install openai\n\
         from openai import OpenAI\n\
         client = OpenAI(base_url=\"{url}/v1\", api_key=\"{token}\")\n\
         answer = client.chat.completions.create(\n    \
             model=\"demo-small\", messages=[{{\"role\": \"user\", \"content\": \"How high is the tide?\"}}])\n\
         print(answer.choices[0].message.content)\n\
         EOF\n"
    ))?;
    say(format_args!(
        "python3 - <<'EOF'        # needs: pip install ollama\n\
         from ollama import Client\n\
         client = Client(host=\"{url}\", headers={{\"Authorization\": \"Bearer {token}\"}})\n\
         print(client.chat(model=\"demo-small\", messages=[{{\"role\": \"user\", \"content\": \"Hello\"}}]).message.content)\n\
         EOF\n"
    ))
}

/// The admin API's client.
struct Operator<'a> {
    client: Client,
    url: &'a str,
    token: String,
}

impl Operator<'_> {
    async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.read(self.client.get(format!("{}{path}", self.url)), path).await
    }

    async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.read(self.client.post(format!("{}{path}", self.url)).json(body), path).await
    }

    async fn read(&self, request: reqwest::RequestBuilder, path: &str) -> anyhow::Result<Value> {
        let answer = request
            .bearer_auth(&self.token)
            .send()
            .await
            .with_context(|| format!("no answer from {path}"))?;
        let status = answer.status();
        let body: Value = answer.json().await.with_context(|| format!("{path} gave no JSON"))?;
        ensure!(status.is_success(), "{path} was answered {status}: {}", body["error"]["message"]);
        Ok(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_stand_in_columns() {
        let stats = json!({"total_requests": 42, "success_count": 41, "failure_count": 1});
        let mut key = json!({"key": "limi…0000", "username": "limited-0@example.org", "status": "failed",
            "reason": "rate_limit", "stats": stats});
        assert_eq!(
            key_line(&key),
            "  limi…0000      limited-0@example.org  failed          42       41        1  rate limit"
        );
        key["reason"] = Value::Null;
        assert!(key_line(&key).ends_with(" 1"));
    }
}
