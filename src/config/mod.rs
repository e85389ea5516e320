//! From defaults, a file, variables and flags to checked options, composed of each room's own.
//!
//! Each layer stands over the one before: what ships with keytide, `config.toml`, the environment, flags. A
//! configuration is taken whole or not at all, and everything wrong with it is said at once. Nothing here reads
//! the process's environment by itself, and no message repeats a value that could be a secret.
//!
//! Deliberately absent: defaults. They stand in the rooms' `Options`; only what tells the shipped providers
//! apart from a new one is in `layers`.

mod hubs;
mod layers;
mod limits;
mod monitor;
mod provider;
mod reader;
mod units;
mod urls;

#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

pub use hubs::{BudgetOptions, DEFAULT_HUB, HubConfig, SyncOptions};
pub use limits::LimitOptions;
pub use monitor::MonitorOptions;
pub use provider::{KeyPattern, ProviderConfig};

use crate::{
    gateway,
    model::Secret,
    store::{self, Durability},
};
use layers::Layers;
use reader::{Findings, Section};

#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub server: ServerConfig,
    pub store: store::Options,
    pub providers: BTreeMap<String, ProviderConfig>,
    /// The hub of providers that name none.
    pub sync: SyncOptions,
    /// Those of `[hubs.NAME]`.
    pub named_hubs: BTreeMap<String, SyncOptions>,
    /// What this instance is called at the hubs; `None`: as its machine.
    pub instance: Option<String>,
    pub budget: BudgetOptions,
    pub limits: LimitOptions,
    /// Whether a row is kept for each request, for a week, in the default hub.
    pub usage_log: bool,
    pub monitor: MonitorOptions,
    pub log: LogOptions,
}

#[derive(Clone, Debug, PartialEq)]
pub struct ServerConfig {
    pub gateway: gateway::Options,
    /// `None`: one is made at the first start.
    pub admin_token: Option<Secret>,
    /// Always one of [`Config::providers`].
    pub default_provider: String,
    /// Whether the statistics page is shown without a token.
    pub public_stats: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogOptions {
    pub format: LogFormat,
    /// In the syntax of `tracing`: `info`, or `warn,keytide=debug`.
    pub filter: String,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { format: LogFormat::Text, filter: "info".to_owned() }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    #[default]
    Text,
    Json,
}

/// What the command line has to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    pub listen: Option<SocketAddr>,
    pub data_dir: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// What the operator should know, one sentence each.
    pub notices: Vec<String>,
    /// Where each setting's value comes from, by its dotted name.
    pub sources: BTreeMap<String, String>,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    settings: Vec<Setting>,
}

/// One setting as people may see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    pub name: String,
    /// Secrets show only that they are set.
    pub value: String,
    pub source: String,
}

/// Every setting in force, secrets masked, for people to look at.
pub fn describe(loaded: &Loaded) -> Vec<Setting> {
    loaded.settings.clone()
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:{}", list(problems))]
pub struct ConfigError {
    pub problems: Vec<Problem>,
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Dotted; empty when the problem is with a file or variable as a whole.
    pub name: String,
    /// A file and line, a variable or a flag.
    pub source: String,
    /// What is wrong and what is allowed, to be read after the name.
    pub message: String,
}

impl Problem {
    fn of_file(source: String, message: impl Into<String>) -> Self {
        Self { name: String::new(), source, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.as_str() {
            "" => write!(f, "{} {}", self.source, self.message),
            name => write!(f, "{name} ({}) {}", self.source, self.message),
        }
    }
}

/// Looked for in this order when no file is named.
const DEFAULT_FILES: [&str; 2] = ["config.toml", "/etc/keytide/config.toml"];

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

const MIN_ADMIN_TOKEN: usize = 16;

/// The environment of this process, for [`Config::load`]. What is not UTF-8 cannot be a name or value of ours.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

impl Config {
    /// Reads and checks everything. A `path` must exist; without one, the usual places are looked at.
    ///
    /// # Errors
    /// All problems that were found, together.
    pub fn load(
        path: Option<&Path>,
        overrides: &Overrides,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        match path {
            Some(path) => Self::load_first(&[path], true, overrides, env),
            None => Self::load_first(&DEFAULT_FILES.map(Path::new), false, overrides, env),
        }
    }

    fn load_first(
        candidates: &[&Path],
        required: bool,
        overrides: &Overrides,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Loaded, ConfigError> {
        let mut layers = Layers::read(candidates, required, overrides, env)
            .map_err(|problems| ConfigError { problems })?;
        let findings = RefCell::new(Findings::new(std::mem::take(&mut layers.problems)));
        let mut config = read(&layers, &findings);
        if let Some(dir) = &overrides.data_dir {
            // The layers hold text, and a path need not be.
            config.store.dir.clone_from(dir);
        }
        let mut findings = findings.into_inner();
        findings.name_unknown(&layers);
        if !findings.problems.is_empty() {
            return Err(ConfigError { problems: findings.problems });
        }
        let mut notices = layers.notices;
        notices.extend(config.notices());
        let settings: Vec<Setting> = findings.settings.into_values().collect();
        let sources = settings.iter().map(|s| (s.name.clone(), s.source.clone())).collect();
        Ok(Loaded { config, notices, sources, file: layers.file, settings })
    }

    fn notices(&self) -> Vec<String> {
        let mut notices = Vec::new();
        for name in self.named_hubs.keys() {
            if !self.providers.values().any(|provider| provider.hub.as_ref() == Some(name)) {
                notices.push(format!(
                    "no provider uses [hubs.{name}]; name it with hub = \"{name}\" under a provider"
                ));
            }
        }
        if self.usage_log && self.hubs().iter().all(|hub| hub.name != DEFAULT_HUB) {
            notices.push(
                "usage_log.enabled keeps nothing: its rows are kept in the hub of [sync], and there is none"
                    .to_owned(),
            );
        }
        let default = &self.server.default_provider;
        if self.providers.get(default).is_some_and(|provider| !provider.enabled()) {
            notices.push(format!(
                "the default provider \"{default}\" is switched off; requests that name no provider get a 503"
            ));
        }
        notices
    }

    /// The hubs that are switched on and have providers: the default one first.
    pub fn hubs(&self) -> Vec<HubConfig> {
        hubs::in_use(&self.sync, &self.named_hubs, &self.providers, &self.budget)
    }

    /// The settings that differ in `new` and that a running process keeps as they were at its start.
    pub fn restart_needed(&self, new: &Self) -> Vec<&'static str> {
        let (a, b) = (&self.server.gateway, &new.server.gateway);
        let (store, sync, log) = (&self.store, &self.sync, &self.log);
        let all = [
            ("server.listen", a.listen != b.listen),
            ("server.header_timeout", a.header_timeout != b.header_timeout),
            ("server.write_timeout", a.write_timeout != b.write_timeout),
            ("server.idle_timeout", a.idle_timeout != b.idle_timeout),
            ("server.workers", a.workers != b.workers),
            ("store.dir", store.dir != new.store.dir),
            ("store.flush_interval", store.flush_interval != new.store.flush_interval),
            ("store.durability", store.durability != new.store.durability),
            ("sync.transport", sync.route.transport != new.sync.route.transport),
            ("sync.database_url", sync.route.database_url != new.sync.route.database_url),
            ("sync.rest_url", sync.route.rest_url != new.sync.route.rest_url),
            ("sync.service_key", sync.route.service_key != new.sync.route.service_key),
            ("sync.interval", sync.interval != new.sync.interval),
            ("sync.batch_rows", sync.batch_rows != new.sync.batch_rows),
            ("sync.batch_bytes", sync.batch_bytes != new.sync.batch_bytes),
            ("sync.instance", self.instance != new.instance),
            ("hubs", self.named_hubs != new.named_hubs),
            ("which provider replicates where", self.placed() != new.placed()),
            ("budget.hub", self.budget.hub != new.budget.hub),
            ("budget.local", self.budget.local != new.budget.local),
            ("budget.egress", self.budget.egress != new.budget.egress),
            ("limits.time_zone", self.limits != new.limits),
            ("log.format", log.format != new.log.format),
        ];
        all.into_iter().filter(|(_, changed)| *changed).map(|(name, _)| name).collect()
    }
}

impl Config {
    /// Which provider has which tables in which hub.
    fn placed(&self) -> Vec<(String, Vec<(String, String)>)> {
        self.hubs().into_iter().map(|hub| (hub.name, hub.providers)).collect()
    }
}

/// What ships: no file, no variables, no flags.
impl Default for Config {
    fn default() -> Self {
        Self::load_first(&[], false, &Overrides::default(), std::iter::empty())
            .expect("the shipped defaults are valid, as the tests show")
            .config
    }
}

fn read(layers: &Layers, findings: &RefCell<Findings>) -> Config {
    let mut top = Section::top(layers, findings);
    let named_hubs = hubs::read_hubs(&mut top);
    let providers = provider::read_all(&mut top, &named_hubs);
    let server = read_server(&mut top, &providers);
    let store = read_store(&mut top);
    let (sync, instance) = hubs::read_sync(&mut top);
    let budget = hubs::read_budget(&mut top);
    let limits = limits::read(&mut top);
    let monitor = monitor::read(&mut top);
    let usage_log = read_usage_log(&mut top);
    let log = read_log(&mut top);
    top.finish();
    let store = store::Options { budget: budget.local, ..store };
    Config { server, store, providers, sync, named_hubs, instance, budget, limits, usage_log, monitor, log }
}

fn read_server(top: &mut Section<'_>, providers: &BTreeMap<String, ProviderConfig>) -> ServerConfig {
    let mut table = top.child("server");
    let defaults = gateway::Options::default();
    let gateway = gateway::Options {
        listen: table.text("listen", defaults.listen, SocketAddr::to_string, |text| {
            let text = text.trim();
            text.parse().map_err(|_| {
                "must be an address and port, like \"127.0.0.1:8787\", \"0.0.0.0:8787\" or \"[::]:8787\""
                    .to_owned()
            })
        }),
        max_body: table.size("max_body", defaults.max_body, 1_000..=1_000_000_000),
        header_timeout: table.span("header_timeout", defaults.header_timeout, SECOND..=MINUTE * 10),
        body_timeout: table.span("body_timeout", defaults.body_timeout, SECOND..=MINUTE * 10),
        write_timeout: table.span("write_timeout", defaults.write_timeout, SECOND..=HOUR),
        idle_timeout: table.span("idle_timeout", defaults.idle_timeout, SECOND..=HOUR),
        shutdown_timeout: table.span("shutdown_timeout", defaults.shutdown_timeout, Duration::ZERO..=HOUR),
        workers: table.integer("workers", 0, 0..=256) as usize,
        cors_origins: table.list("cors_origins", defaults.cors_origins, urls::origin),
        public_models: table.boolean("public_models", defaults.public_models),
        trusted_proxies: table.list("trusted_proxies", defaults.trusted_proxies, limits::proxy),
    };
    let admin_token = table.secret("admin_token", |text| {
        let usable = text.bytes().all(|b| b.is_ascii_graphic());
        match text.len() {
            ..MIN_ADMIN_TOKEN => Err(format!("must be at least {MIN_ADMIN_TOKEN} characters long")),
            _ if !usable => Err("must be letters, digits and signs of ASCII, without spaces".to_owned()),
            _ => Ok(()),
        }
    });
    let default_provider = table.text("default_provider", "ollama".to_owned(), String::clone, |name| {
        if providers.contains_key(name) {
            return Ok(name.to_owned());
        }
        let names = providers.keys().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
        Err(format!("must be the name of a provider, one of {names}"))
    });
    let public_stats = table.boolean("public_stats", true);
    table.finish();
    ServerConfig { gateway, admin_token, default_provider, public_stats }
}

fn read_store(top: &mut Section<'_>) -> store::Options {
    let mut table = top.child("store");
    let defaults = store::Options::default();
    let options = store::Options {
        dir: table.text(
            "dir",
            defaults.dir,
            |dir| dir.display().to_string(),
            |text| match text.trim() {
                "" => Err("must be a folder's path".to_owned()),
                _ if text.contains('\0') => Err("must be a folder's path".to_owned()),
                _ => Ok(PathBuf::from(text)),
            },
        ),
        flush_interval: table.span(
            "flush_interval",
            defaults.flush_interval,
            Duration::from_millis(10)..=SECOND * 10,
        ),
        budget: None,
        durability: table.choice(
            "durability",
            defaults.durability,
            &[("relaxed", Durability::Relaxed), ("strict", Durability::Strict)],
        ),
    };
    table.finish();
    options
}

fn read_usage_log(top: &mut Section<'_>) -> bool {
    let mut table = top.child("usage_log");
    let enabled = table.boolean("enabled", false);
    table.finish();
    enabled
}

fn read_log(top: &mut Section<'_>) -> LogOptions {
    let mut table = top.child("log");
    let defaults = LogOptions::default();
    let log = LogOptions {
        format: table.choice(
            "format",
            defaults.format,
            &[("text", LogFormat::Text), ("json", LogFormat::Json)],
        ),
        filter: table.text("filter", defaults.filter, String::clone, |text| {
            match tracing_subscriber::EnvFilter::builder().parse(text) {
                Ok(_) => Ok(text.to_owned()),
                Err(_) => {
                    Err("must be a level or a filter, like \"info\" or \"warn,keytide=debug\"".to_owned())
                }
            }
        }),
    };
    table.finish();
    log
}
