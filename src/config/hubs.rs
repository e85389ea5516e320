//! The hubs that this instance replicates through, and what that may cost.

use std::{collections::BTreeMap, time::Duration};

use super::{
    provider::ProviderConfig,
    reader::{Section, nearest_name},
    units, urls,
};
use crate::replica::route::{self, Choice, Way};

/// The hub of `[sync]`, as the list of hubs names it: that of providers that name none.
pub const DEFAULT_HUB: &str = "default";

/// How a hub is reached, and how often.
#[derive(Clone, Debug, PartialEq)]
pub struct SyncOptions {
    pub route: route::Options,
    /// Between two rounds.
    pub interval: Duration,
    /// Bounds of a batch, so that it is applied in well under a second.
    pub batch_rows: u32,
    pub batch_bytes: u64,
    /// Bytes that this hub's database may have, `Some(None)` for any number; `None`: as `[budget] hub` says.
    pub budget: Option<Option<u64>>,
}

impl Default for SyncOptions {
    fn default() -> Self {
        Self {
            route: route::Options::default(),
            interval: Duration::from_secs(30),
            batch_rows: 2_000,
            batch_bytes: 512 << 10,
            budget: None,
        }
    }
}

/// A hub in use.
#[derive(Clone, Debug, PartialEq)]
pub struct HubConfig {
    /// [`DEFAULT_HUB`], or as in `[hubs.NAME]`.
    pub name: String,
    pub options: SyncOptions,
    /// Each with its `table_prefix`; in the order of their names.
    pub providers: Vec<(String, String)>,
    /// Bytes that its database may have; `None` for any number.
    pub budget: Option<u64>,
}

/// How much room keytide may take. `None` is any number of bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetOptions {
    /// A hub's whole database.
    pub hub: Option<u64>,
    /// The local file.
    pub local: Option<u64>,
    /// Bytes in a month that hubs may send to all instances together; `None` for any number.
    pub egress: Option<u64>,
}

impl Default for BudgetOptions {
    /// The egress is what Supabase's free plan includes.
    fn default() -> Self {
        Self { hub: Some(1_000_000_000), local: Some(256_000_000), egress: Some(5_000_000_000) }
    }
}

pub(super) fn in_use(
    default: &SyncOptions,
    named: &BTreeMap<String, SyncOptions>,
    providers: &BTreeMap<String, ProviderConfig>,
    budget: &BudgetOptions,
) -> Vec<HubConfig> {
    let hub = |name: Option<&String>, options: &SyncOptions| {
        let theirs = providers.iter().filter(|(_, provider)| provider.hub.as_ref() == name);
        HubConfig {
            name: name.map_or(DEFAULT_HUB, String::as_str).to_owned(),
            options: options.clone(),
            providers: theirs.map(|(name, of)| (name.clone(), of.table_prefix.clone())).collect(),
            budget: options.budget.unwrap_or(budget.hub),
        }
    };
    let named = named.iter().map(|(name, options)| hub(Some(name), options));
    let all = std::iter::once(hub(None, default)).chain(named);
    // The default one has what belongs to no provider.
    let is_used = |hub: &HubConfig| hub.name == DEFAULT_HUB || !hub.providers.is_empty();
    all.filter(|hub| hub.options.route.way().is_some() && is_used(hub)).collect()
}

/// What is the same for all hubs, beside the default one.
pub(super) fn read_sync(top: &mut Section<'_>) -> (SyncOptions, Option<String>) {
    let mut table = top.child("sync");
    let sync = read(&mut table);
    let instance =
        table.optional("instance", String::clone, |text| match text.chars().any(char::is_control) {
            false if text.chars().count() <= 64 => Ok(text.to_owned()),
            _ => Err("must be at most 64 characters without line breaks".to_owned()),
        });
    table.finish();
    (sync, instance)
}

pub(super) fn read_hubs(top: &mut Section<'_>) -> BTreeMap<String, SyncOptions> {
    let mut section = top.child("hubs");
    let mut hubs = BTreeMap::new();
    for name in section.keys() {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let message = match name.as_str() {
            DEFAULT_HUB => Some("is the hub of [sync]; choose another name"),
            name if (1..=32).contains(&name.len()) && name.bytes().all(plain) => None,
            _ => Some("is no hub's name: 1 to 32 lower-case letters, digits and dashes"),
        };
        if let Some(message) = message {
            section.problem(&name, message);
            section.skip(&name);
            continue;
        }
        let mut table = section.child(&name);
        let mut hub = read(&mut table);
        hub.budget = table.optional("budget", show_bytes, |text| bytes(text, LEAST_HUB, "1GB"));
        let unreachable = hub.route.transport == Choice::Auto && hub.route.way().is_none();
        if unreachable && !table.has_problem("database_url") && !table.has_problem("rest_url") {
            table.problem("database_url", "is missing; a hub needs it, or rest_url");
        }
        table.finish();
        hubs.insert(name, hub);
    }
    section.finish();
    hubs
}

fn read(table: &mut Section<'_>) -> SyncOptions {
    let defaults = SyncOptions::default();
    let transports = [
        ("auto", Choice::Auto),
        ("postgres", Choice::Postgres),
        ("rest", Choice::Rest),
        ("off", Choice::Off),
    ];
    let route = route::Options {
        transport: table.choice("transport", Choice::default(), &transports),
        database_url: table.secret("database_url", urls::database_url),
        rest_url: table
            .optional("rest_url", String::clone, |text| Ok(urls::show_url(&urls::http_url(text)?))),
        service_key: table.secret("service_key", |text| {
            let usable = text.bytes().all(|b| b.is_ascii_graphic());
            if usable { Ok(()) } else { Err("must be ASCII text without spaces".to_owned()) }
        }),
    };
    check_route(table, &route);
    SyncOptions {
        route,
        interval: table.span(
            "interval",
            defaults.interval,
            Duration::from_secs(1)..=Duration::from_secs(3600),
        ),
        batch_rows: table.integer("batch_rows", defaults.batch_rows, 10..=20_000),
        batch_bytes: table.size("batch_bytes", defaults.batch_bytes, (16 << 10)..=(8 << 20)),
        budget: None,
    }
}

fn check_route(table: &mut Section<'_>, route: &route::Options) {
    // A value that was given and found wrong has been reported already.
    let missing = |table: &Section<'_>, key: &str, is_set: bool| !is_set && !table.has_problem(key);
    let name = table.name();
    if route.transport == Choice::Postgres && missing(table, "database_url", route.database_url.is_some()) {
        table.problem("database_url", format!("is missing; {name}.transport = \"postgres\" needs it"));
    }
    // A database's URL may tell where its REST API is.
    let found = route.rest_url.is_some() || route.database_url.is_some() || table.has_problem("database_url");
    if route.transport == Choice::Rest && missing(table, "rest_url", found) {
        table.problem("rest_url", format!("is missing; {name}.transport = \"rest\" needs it"));
    }
    if route.way() == Some(Way::Rest) && missing(table, "service_key", route.service_key.is_some()) {
        table.problem("service_key", format!("is missing; {name}.rest_url needs it"));
    }
}

/// The hub that a provider names.
pub(super) fn read_name(table: &mut Section<'_>, hubs: &BTreeMap<String, SyncOptions>) -> Option<String> {
    let name = table.optional("hub", String::clone, |text| {
        if text == DEFAULT_HUB || hubs.contains_key(text) {
            return Ok(text.to_owned());
        }
        let names = std::iter::once(DEFAULT_HUB).chain(hubs.keys().map(String::as_str));
        Err(match nearest_name(text, names.clone()) {
            Some(near) => format!("must be the name of a hub; did you mean \"{near}\"?"),
            None => {
                let names: Vec<String> = names.map(|name| format!("\"{name}\"")).collect();
                format!("must be the name of a hub, one of {}", names.join(", "))
            }
        })
    });
    name.filter(|name| name != DEFAULT_HUB)
}

/// An empty database has most of that already.
const LEAST_HUB: u64 = 15_000_000;
/// So has an empty file.
const LEAST_LOCAL: u64 = 2_000_000;
const LEAST_EGRESS: u64 = 10_000_000;

pub(super) fn read_budget(top: &mut Section<'_>) -> BudgetOptions {
    let mut table = top.child("budget");
    let defaults = BudgetOptions::default();
    let hub = table.text("hub", defaults.hub, show_bytes, |text| bytes(text, LEAST_HUB, "1GB"));
    let local = table.text("local", defaults.local, show_bytes, |text| bytes(text, LEAST_LOCAL, "256MB"));
    let show = |egress: &Option<u64>| match egress {
        Some(bytes) => format!("{}/month", units::show_size(*bytes)),
        None => UNLIMITED.to_owned(),
    };
    let egress = table.text("egress", defaults.egress, show, |text| match text.trim() {
        UNLIMITED => Ok(None),
        text => text
            .strip_suffix("/month")
            .and_then(units::parse_size)
            .filter(|bytes| *bytes >= LEAST_EGRESS)
            .map(Some)
            .ok_or_else(|| {
                "must be a size for each month of at least 10MB, written like \"5GB/month\", or \"unlimited\""
                    .to_owned()
            }),
    });
    table.finish();
    BudgetOptions { hub, local, egress }
}

const UNLIMITED: &str = "unlimited";

fn bytes(text: &str, least: u64, example: &str) -> Result<Option<u64>, String> {
    match text.trim() {
        UNLIMITED => Ok(None),
        text => units::parse_size(text).filter(|bytes| *bytes >= least).map(Some).ok_or_else(|| {
            let least = units::show_size(least);
            format!("must be a size of at least {least}, written like \"{example}\", or \"unlimited\"")
        }),
    }
}

fn show_bytes(bytes: &Option<u64>) -> String {
    bytes.map_or_else(|| UNLIMITED.to_owned(), units::show_size)
}
