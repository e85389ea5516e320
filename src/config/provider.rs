//! One provider's table.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
    time::Duration,
};

use http::{HeaderName, HeaderValue, Method, header};

use super::{
    hubs::{self, SyncOptions},
    reader::Section,
    urls,
};
use crate::{
    gateway::{self, CacheOptions},
    model::Policy,
    pool::{self, CooldownScope, Strategy},
    store::shelf::CORE,
    upstream::{
        options as upstream,
        outcome::{Rule, StatusRules, Treat},
    },
};

/// Everything about one provider, in the parts that its rooms take.
#[derive(Clone, Debug, PartialEq)]
pub struct ProviderConfig {
    pub pool: pool::Options,
    pub upstream: upstream::Options,
    pub gateway: gateway::ProviderOptions,
    /// What the names of the provider's tables in a shared database begin with.
    pub table_prefix: String,
    /// The hub it replicates to, where that is not the default one.
    pub hub: Option<String>,
    /// The form of this provider's keys, by which an import notices those of another one.
    pub key_pattern: Option<KeyPattern>,
}

impl ProviderConfig {
    pub fn enabled(&self) -> bool {
        self.gateway.enabled
    }
}

#[derive(Clone)]
pub struct KeyPattern(regex_lite::Regex);

impl KeyPattern {
    /// # Errors
    /// One sentence when the text is no regular expression.
    pub fn new(text: &str) -> Result<Self, String> {
        regex_lite::Regex::new(text).map(Self).map_err(|error| {
            let why = error.to_string();
            format!("must be a regular expression: {}", why.split_whitespace().collect::<Vec<_>>().join(" "))
        })
    }

    pub fn matches(&self, key: &str) -> bool {
        self.0.is_match(key)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for KeyPattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl fmt::Debug for KeyPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_str().fmt(f)
    }
}

/// Names that paths of our own begin with.
const STRATEGIES: [(&str, Strategy); 5] = [
    ("round_robin", Strategy::RoundRobin),
    ("least_busy", Strategy::LeastBusy),
    ("weighted", Strategy::Weighted),
    ("random", Strategy::Random),
    ("affinity", Strategy::Affinity),
];

const SCOPES: [(&str, CooldownScope); 2] = [("key", CooldownScope::Key), ("account", CooldownScope::Account)];

const TREATS: [(&str, Treat); 6] = [
    ("success", Treat::Success),
    ("request", Treat::Request),
    ("auth", Treat::Auth),
    ("quota", Treat::Quota),
    ("rate_limit", Treat::RateLimit),
    ("server", Treat::Server),
];

const METHODS: [(&str, &Method); 3] =
    [("GET", &Method::GET), ("HEAD", &Method::HEAD), ("POST", &Method::POST)];

const MILLI: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);

/// The longest suffix of a table's name, `_client_tokens`, must fit into PostgreSQL's 63 bytes, and indexes
/// add to it.
const MAX_PREFIX: usize = 40;

pub(super) fn read_all(
    top: &mut Section<'_>,
    hubs: &BTreeMap<String, SyncOptions>,
) -> BTreeMap<String, ProviderConfig> {
    let mut section = top.child("providers");
    let mut providers = BTreeMap::new();
    let mut tables: BTreeMap<(Option<String>, String), String> = BTreeMap::new();
    for name in section.keys() {
        if let Err(message) = check_name(&name) {
            section.problem(&name, message);
            section.skip(&name);
            continue;
        }
        let mut table = section.child(&name);
        let provider = read(&name, &mut table, hubs);
        let place = (provider.hub.clone(), provider.table_prefix.clone());
        if let Some(other) = tables.insert(place, name.clone()) {
            let message = format!("must not be the same as that of providers.{other}, in the same hub");
            table.problem("table_prefix", message);
        }
        table.finish();
        providers.insert(name, provider);
    }
    section.finish();
    providers
}

/// Said of a name, and of a prefix.
const OF_CORE: &str = "is what users and days are replicated as; choose another one";

fn check_name(name: &str) -> Result<(), String> {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if gateway::RESERVED.contains(&name) {
        return Err("is a name that keytide's own paths use; choose another one".to_owned());
    }
    if name == CORE {
        return Err(OF_CORE.to_owned());
    }
    match name.len() {
        1..=32 if name.bytes().all(plain) => Ok(()),
        _ => Err("is no provider name: 1 to 32 lower-case letters, digits and dashes".to_owned()),
    }
}

fn read(name: &str, table: &mut Section<'_>, hubs: &BTreeMap<String, SyncOptions>) -> ProviderConfig {
    let base = table.optional("base_url", urls::show_url, urls::http_url);
    let mut defaults = upstream::Options::default();
    match base {
        Some(base) => defaults.base_url = base,
        None if !table.has_problem("base_url") => {
            table.problem("base_url", "is missing; give the provider's address, like \"https://host/api\"");
        }
        None => {}
    }
    let upstream = upstream(defaults, table);
    let is_bearer = upstream.auth_header == header::AUTHORIZATION;
    let pool = pool(if is_bearer { pool::Scheme::Bearer } else { pool::Scheme::Bare }, table);
    let gateway = gateway(name, table);
    let prefix = default_prefix(name);
    let table_prefix = table.text("table_prefix", prefix, String::clone, |text| {
        let starts = text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_');
        let plain = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if text == CORE {
            return Err(OF_CORE.to_owned());
        }
        if starts && plain && text.len() <= MAX_PREFIX {
            return Ok(text.to_owned());
        }
        Err(format!(
            "must be 1 to {MAX_PREFIX} lower-case letters, digits and underscores, and not begin with a digit"
        ))
    });
    let key_pattern = table.optional("key_pattern", |p: &KeyPattern| p.as_str().to_owned(), KeyPattern::new);
    let hub = hubs::read_name(table, hubs);
    ProviderConfig { pool, upstream, gateway, table_prefix, hub, key_pattern }
}

fn default_prefix(name: &str) -> String {
    let lead = if name.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    format!("{lead}{}_api", name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
}

fn upstream(defaults: upstream::Options, table: &mut Section<'_>) -> upstream::Options {
    let auth_header = table.text("auth_header", defaults.auth_header, HeaderName::to_string, |text| {
        let name = text.parse::<HeaderName>().map_err(|_| "must be a header's name".to_owned())?;
        if is_framing(&name) { Err("is a header that no key can travel in".to_owned()) } else { Ok(name) }
    });
    let show = |value: &HeaderValue| match value.is_sensitive() {
        true => "(set)".to_owned(),
        false => String::from_utf8_lossy(value.as_bytes()).into_owned(),
    };
    let headers = table.entries("headers", show, |name, text| header(name, text, &auth_header));
    let headers = headers.into_iter().filter_map(|(name, value)| Some((name.parse().ok()?, value))).collect();
    upstream::Options {
        base_url: defaults.base_url,
        headers,
        auth_header,
        proxy: table.optional("proxy", urls::show_proxy, urls::proxy),
        ca_file: table.optional(
            "ca_file",
            |path: &PathBuf| path.display().to_string(),
            |text| match std::fs::File::open(text).and_then(|file| file.metadata()) {
                Ok(found) if found.is_file() => Ok(PathBuf::from(text)),
                Ok(_) => Err("must be a PEM file, and is no file".to_owned()),
                Err(error) => Err(format!("must be a PEM file that can be read: {error}")),
            },
        ),
        connect_timeout: table.span("connect_timeout", defaults.connect_timeout, MILLI * 100..=MINUTE * 5),
        first_byte_timeout: table.span("first_byte_timeout", defaults.first_byte_timeout, SECOND..=HOUR),
        idle_timeout: table.span("idle_timeout", defaults.idle_timeout, SECOND..=HOUR),
        rules: rules(table),
        probe: probe(defaults.probe, table),
        http2: table.boolean("http2", defaults.http2),
    }
}

/// Headers that belong to the connection or to keytide.
fn is_framing(name: &HeaderName) -> bool {
    const FRAMING: [HeaderName; 10] = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::ACCEPT_ENCODING,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::EXPECT,
    ];
    FRAMING.contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection" | "proxy-authorization")
}

fn header(name: &str, text: &str, auth_header: &HeaderName) -> Result<HeaderValue, String> {
    let name: HeaderName = name.parse().map_err(|_| "is no header's name".to_owned())?;
    if name == auth_header || name == header::AUTHORIZATION || is_framing(&name) {
        return Err("is a header that keytide sets itself".to_owned());
    }
    let mut value =
        HeaderValue::from_str(text).map_err(|_| "must be text without control characters".to_owned())?;
    // The headers by which providers know an application; any other may hold a secret.
    value.set_sensitive(!matches!(name.as_str(), "http-referer" | "x-title" | "referer" | "user-agent"));
    Ok(value)
}

fn rules(table: &mut Section<'_>) -> StatusRules {
    let mut rules = StatusRules::default();
    let mut section = table.child("status");
    let defaults: Vec<String> = rules.statuses().map(|status| status.to_string()).collect();
    let codes: BTreeSet<String> = defaults.into_iter().chain(section.keys()).collect();
    for code in codes {
        // As it is written in an answer, so that "0429" is not a second 429.
        let status = match code.parse::<u16>() {
            Ok(status @ 300..=599) if status.to_string() == code => status,
            _ => {
                section.problem(&code, "must be an HTTP status from 300 to 599");
                section.skip(&code);
                continue;
            }
        };
        let mut line = section.child(&code);
        let treat_as = line.choice("treat_as", rules.lookup(status).treat_as, &TREATS);
        let given = line.has("cooldown");
        let fallback = Rule::from(treat_as).cooldown;
        let cooldown = line.read(
            "cooldown",
            fallback,
            |span| span.map(super::units::show_span).unwrap_or_default(),
            |raw| match raw.text() {
                Ok(text) if text.trim().is_empty() => Ok(fallback),
                _ => raw.span(&(SECOND..=MONTH)).map(Some),
            },
        );
        if given && cooldown.is_some() && matches!(treat_as, Treat::Success | Treat::Request) {
            line.problem("cooldown", "has no effect, since this status says nothing against the key");
        }
        rules.set(status, Rule { treat_as, cooldown });
        line.finish();
    }
    section.finish();
    rules
}

fn probe(defaults: upstream::Probe, table: &mut Section<'_>) -> upstream::Probe {
    let mut section = table.child("probe");
    let method = section.choice("method", METHODS[0].1, &METHODS).clone();
    let path = section.text("path", defaults.path, String::clone, |text| {
        let is_path = text.starts_with('/') && text.parse::<http::Uri>().is_ok() && !text.contains('#');
        if is_path { Ok(text.to_owned()) } else { Err("must be a path, like \"/v1/models\"".to_owned()) }
    });
    let body = section.optional("body", String::clone, |text| {
        match serde_json::from_str::<serde::de::IgnoredAny>(text) {
            Ok(_) => Ok(text.to_owned()),
            Err(_) => Err("must be JSON".to_owned()),
        }
    });
    if body.is_some() && method != Method::POST {
        section.problem("body", "is only sent with probe.method = \"POST\"");
    }
    section.finish();
    upstream::Probe { method, path, body }
}

fn pool(scheme: pool::Scheme, table: &mut Section<'_>) -> pool::Options {
    let defaults = pool::Options::default();
    pool::Options {
        strategy: table.choice("strategy", defaults.strategy, &STRATEGIES),
        cooldown_scope: table.choice("cooldown_scope", defaults.cooldown_scope, &SCOPES),
        max_in_flight: table.limit("max_in_flight", defaults.max_in_flight, 1_000_000),
        requests_per_minute: table.limit("requests_per_minute", defaults.requests_per_minute, 1_000_000),
        policy: policy(defaults.policy, table),
        scheme,
    }
}

fn policy(defaults: Policy, table: &mut Section<'_>) -> Policy {
    let mut section = table.child("policy");
    let policy = Policy {
        auth_steps: section.spans("auth_steps", defaults.auth_steps, SECOND..=MONTH),
        verify_every: section.span("verify_every", defaults.verify_every, MINUTE..=MONTH),
        server_first: section.span("server_first", defaults.server_first, MILLI * 100..=HOUR),
        server_max: section.span("server_max", defaults.server_max, MILLI * 100..=MONTH),
    };
    if policy.server_first > policy.server_max {
        section.problem("server_max", "must not be shorter than server_first, which doubles up to it");
    }
    section.finish();
    policy
}

fn gateway(name: &str, table: &mut Section<'_>) -> gateway::ProviderOptions {
    let defaults = gateway::ProviderOptions::new(name);
    let is_model = |text: &str| {
        let plain = !text.trim().is_empty() && text.len() <= 256 && !text.chars().any(char::is_control);
        if plain { Ok(()) } else { Err("must hold model names of 1 to 256 bytes".to_owned()) }
    };
    gateway::ProviderOptions {
        name: defaults.name,
        enabled: table.boolean("enabled", defaults.enabled),
        aliases: table
            .entries("aliases", String::clone, |alias, model| {
                is_model(alias).and_then(|()| is_model(model)).map(|()| model.to_owned())
            })
            .into_iter()
            .collect(),
        max_attempts: table.integer("max_attempts", defaults.max_attempts, 1..=10),
        retry_backoff: table.span("retry_backoff", defaults.retry_backoff, Duration::ZERO..=MINUTE),
        ollama_native: table.boolean("ollama_native", defaults.ollama_native),
        models: table.list("models", defaults.models, is_model),
        models_ttl: table.span("models_ttl", defaults.models_ttl, SECOND..=HOUR * 24),
        cache: cache(table),
    }
}

fn cache(table: &mut Section<'_>) -> Option<CacheOptions> {
    let mut section = table.child("cache");
    let defaults = CacheOptions::default();
    let enabled = section.boolean("enabled", false);
    let options = CacheOptions {
        ttl: section.span("ttl", defaults.ttl, SECOND..=HOUR * 24 * 7),
        max_bytes: section.size("max_size", defaults.max_bytes, 1_000_000..=10_000_000_000),
    };
    section.finish();
    enabled.then_some(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_prefixes() {
        for good in ["ollama", "my-llm-2", "3x", &"a".repeat(32)] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "My", "a_b", "a.b", "ключ", &"a".repeat(33), "v1", "openapi.json", "api-docs"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
        assert_eq!(default_prefix("my-llm"), "my_llm_api");
        assert_eq!(default_prefix("3x"), "_3x_api");
    }
}
