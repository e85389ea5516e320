//! `[limits]`, and whose word on a caller's address is taken.

use jiff::tz::TimeZoneDatabase;

use super::reader::{Section, nearest_name};
use crate::model::{Zone, networks};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitOptions {
    /// Where days begin and end, as the IANA database spells it.
    pub time_zone: String,
}

impl Default for LimitOptions {
    fn default() -> Self {
        Self { time_zone: "UTC".to_owned() }
    }
}

pub(super) fn read(top: &mut Section<'_>) -> LimitOptions {
    let mut table = top.child("limits");
    let defaults = LimitOptions::default();
    let time_zone = table.text("time_zone", defaults.time_zone, String::clone, |text| zone(text.trim()));
    table.finish();
    LimitOptions { time_zone }
}

fn zone(text: &str) -> Result<String, String> {
    if let Ok(zone) = Zone::named(text) {
        return Ok(zone.name().to_owned());
    }
    let names: Vec<String> = TimeZoneDatabase::bundled().available().map(|name| name.to_string()).collect();
    let allowed = "must be the name of a time zone, like \"UTC\", \"Asia/Shanghai\" or \"Europe/Berlin\"";
    Err(match nearest(text, &names) {
        Some(near) => format!("{allowed}; did you mean \"{near}\"?"),
        None => allowed.to_owned(),
    })
}

/// By the whole name, or by the place in it: people write "Shanghai" and "Asia/Peking".
fn nearest<'a>(text: &str, names: &'a [String]) -> Option<&'a str> {
    let text = text.replace(' ', "_");
    let place = |name: &'a str| name.rsplit_once('/').map_or(name, |(_, place)| place);
    let asked = text.rsplit_once('/').map_or(&*text, |(_, place)| place);
    let same = names.iter().find(|name| place(name).eq_ignore_ascii_case(asked));
    let near = || {
        let found = nearest_name(asked, names.iter().map(|name| place(name)))?;
        names.iter().find(|name| place(name) == found)
    };
    match (same, nearest_name(&text, names.iter().map(String::as_str))) {
        (Some(same), _) => Some(same),
        (None, Some(whole)) => Some(whole),
        (None, None) => near().map(String::as_str),
    }
}

pub(super) fn proxy(text: &str) -> Result<(), String> {
    networks::network(text).map(drop)
}
