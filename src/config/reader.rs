//! Reading the merged layers setting by setting.
//!
//! A reader never stops at the first problem: it notes it, goes on with the default, and the whole list is
//! reported. What no reader has asked for is an unknown key.

use std::{cell::RefCell, collections::BTreeMap, collections::BTreeSet, ops::RangeInclusive, time::Duration};

use figment::value::{Dict, Num, Tag, Value};

use super::{
    Problem, Setting,
    layers::{KeyPath, Layers, variable_name},
    units,
};
use crate::model::Secret;

/// What reading has brought up so far.
#[derive(Default)]
pub(super) struct Findings {
    pub(super) problems: Vec<Problem>,
    pub(super) settings: BTreeMap<String, Setting>,
    known: BTreeSet<KeyPath>,
    unknown: Vec<(KeyPath, Tag)>,
}

impl Findings {
    pub(super) fn new(problems: Vec<Problem>) -> Self {
        Self { problems, ..Self::default() }
    }

    /// Turns what nobody asked for into problems. Called last, when all names are known.
    pub(super) fn name_unknown(&mut self, layers: &Layers) {
        for (path, tag) in std::mem::take(&mut self.unknown) {
            let message = match (self.nearest(&path), layers.is_environment(tag)) {
                (Some(near), true) => {
                    format!("is not a known setting; did you mean {}?", variable_name(near))
                }
                (Some(near), false) => format!("is not a known setting; did you mean {}?", dotted(near)),
                (None, _) => self.list_siblings(&path),
            };
            let source = layers.source(tag, &path);
            self.problems.push(Problem { name: dotted(&path), source, message });
        }
    }

    fn nearest(&self, path: &[String]) -> Option<&KeyPath> {
        let (last, parent) = path.split_last()?;
        // A name of any length is compared: the quadratic measure must not be fed a whole file.
        if last.len() > 64 {
            return None;
        }
        let sibling = |known: &&KeyPath| known.split_last().is_some_and(|(_, above)| above == parent);
        let by_distance = |known: &&KeyPath| known.last().and_then(|name| close(last, name));
        let in_place = self.known.iter().filter(sibling).filter_map(|k| Some((by_distance(&k)?, k))).min();
        // Right name, wrong place; the shallowest such place is the likeliest.
        let elsewhere = || {
            let same = self.known.iter().filter(|known| known.last() == Some(last));
            same.min_by_key(|known| (common(known, path), known.len()))
        };
        // One separator where there should be two, mostly in a variable's name.
        let run_together = || {
            let flat = |path: &[String]| path.join("_");
            let whole = flat(path);
            let longer = self.known.iter().filter(|known| whole.len() <= 128 && known.len() > path.len());
            longer
                .filter_map(|known| Some((close(&whole, &flat(known))?, known)))
                .min()
                .map(|(_, known)| known)
        };
        in_place.map(|(_, known)| known).or_else(elsewhere).or_else(run_together)
    }

    fn list_siblings(&self, path: &[String]) -> String {
        let parent = path.split_last().map_or(&[][..], |(_, above)| above);
        let depth = parent.len();
        let names: BTreeSet<&str> = self
            .known
            .iter()
            .filter(|known| known.len() > depth && known[..depth] == *parent)
            .map(|known| known[depth].as_str())
            .collect();
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        match names.is_empty() {
            true => "is not a known setting".to_owned(),
            false => format!("is not a known setting; known here are {names}"),
        }
    }
}

/// How unlike two names are, unless they are beyond confusion.
fn close(a: &str, b: &str) -> Option<usize> {
    let distance = strsim::damerau_levenshtein(a, b);
    (distance <= 1 + a.chars().count().min(b.chars().count()) / 4).then_some(distance)
}

/// The one of `names` that was perhaps meant.
pub(super) fn nearest_name<'a>(text: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // As above: the measure is quadratic.
    let names = names.filter(|_| text.len() <= 64);
    names.filter_map(|name| Some((close(text, name)?, name))).min().map(|(_, name)| name)
}

/// How unlike two paths begin: settings of the same section come first.
fn common(a: &[String], b: &[String]) -> std::cmp::Reverse<usize> {
    std::cmp::Reverse(a.iter().zip(b).take_while(|(a, b)| a == b).count())
}

/// A path as TOML writes it.
pub(super) fn dotted(path: &[String]) -> String {
    let bare = |key: &String| {
        !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    let keys: Vec<String> =
        path.iter().map(|key| if bare(key) { key.clone() } else { format!("{key:?}") }).collect();
    keys.join(".")
}

/// `, not "…"` for texts too short to be a secret.
fn not(text: &str) -> String {
    if text.chars().count() <= 12 { format!(", not {text:?}") } else { String::new() }
}

pub(super) struct Raw {
    pub(super) value: Value,
    /// From a variable or flag, where everything is text.
    loose: bool,
}

impl Raw {
    pub(super) fn text(&self) -> Result<&str, String> {
        match &self.value {
            Value::String(_, text) => Ok(text),
            _ => Err("must be text in quotes".to_owned()),
        }
    }

    fn boolean(&self) -> Result<bool, String> {
        match &self.value {
            Value::Bool(_, on) => Ok(*on),
            Value::String(_, text) if self.loose => match text.to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" | "on" => Ok(true),
                "false" | "0" | "no" | "off" => Ok(false),
                _ => Err(format!("must be true or false{}", not(text))),
            },
            _ => Err("must be true or false, without quotes".to_owned()),
        }
    }

    fn integer(&self, range: &RangeInclusive<u32>) -> Result<u32, String> {
        let number = match &self.value {
            Value::Num(_, Num::I128(number)) => Some(*number),
            Value::String(_, text) if self.loose => text.parse().ok(),
            _ => None,
        };
        let allowed = format!("must be a whole number from {} to {}", range.start(), range.end());
        let Some(number) = number else { return Err(allowed) };
        match u32::try_from(number) {
            Ok(number) if range.contains(&number) => Ok(number),
            _ => Err(format!("{allowed}, not {number}")),
        }
    }

    fn number(&self, range: &RangeInclusive<f32>) -> Result<f32, String> {
        let number = match &self.value {
            Value::Num(_, Num::I128(number)) => Some(*number as f32),
            Value::Num(_, Num::F64(number)) => Some(*number as f32),
            Value::String(_, text) if self.loose => text.parse().ok(),
            _ => None,
        };
        let found = number.filter(|number| range.contains(number));
        found.ok_or_else(|| format!("must be a number from {} to {}", range.start(), range.end()))
    }

    pub(super) fn span(&self, range: &RangeInclusive<Duration>) -> Result<Duration, String> {
        let (low, high) = (units::show_span(*range.start()), units::show_span(*range.end()));
        let allowed =
            format!("must be a duration from {low} to {high}, written like \"500ms\", \"30s\" or \"6h\"");
        let text = self.text().map_err(|_| allowed.clone())?;
        match units::parse_span(text) {
            Some(span) if range.contains(&span) => Ok(span),
            _ => Err(format!("{allowed}{}", not(text))),
        }
    }

    fn size(&self, range: &RangeInclusive<u64>) -> Result<u64, String> {
        let (low, high) = (units::show_size(*range.start()), units::show_size(*range.end()));
        let allowed =
            format!("must be a size from {low} to {high}, written like \"64KiB\", \"32MB\" or \"1GB\"");
        let text = self.text().map_err(|_| allowed.clone())?;
        match units::parse_size(text) {
            Some(bytes) if range.contains(&bytes) => Ok(bytes),
            _ => Err(format!("{allowed}{}", not(text))),
        }
    }

    fn list(&self) -> Result<Vec<String>, String> {
        match &self.value {
            Value::String(_, text) if self.loose => Ok(text
                .split(',')
                .map(|item| item.trim().to_owned())
                .filter(|item| !item.is_empty())
                .collect()),
            Value::Array(_, items) => items
                .iter()
                .map(|item| match item {
                    Value::String(_, text) => Ok(text.clone()),
                    _ => Err("must be a list of texts in quotes".to_owned()),
                })
                .collect(),
            _ => Err("must be a list of texts, written like [\"one\", \"two\"]".to_owned()),
        }
    }
}

/// One table of the merged layers.
pub(super) struct Section<'a> {
    layers: &'a Layers,
    findings: &'a RefCell<Findings>,
    path: KeyPath,
    dict: Dict,
    /// Where the table itself is written.
    source: String,
    /// Something else stands in the table's place.
    is_broken: bool,
}

impl<'a> Section<'a> {
    pub(super) fn top(layers: &'a Layers, findings: &'a RefCell<Findings>) -> Self {
        let source = "default".to_owned();
        Self { layers, findings, path: Vec::new(), dict: layers.merged(), source, is_broken: false }
    }

    fn path_of(&self, key: &str) -> KeyPath {
        let mut path = self.path.clone();
        path.push(key.to_owned());
        path
    }

    /// Notes what is wrong with `key`, or where it is missing with the section.
    pub(super) fn problem(&self, key: &str, message: impl Into<String>) {
        let name = dotted(&self.path_of(key));
        let mut findings = self.findings.borrow_mut();
        let source = findings.settings.get(&name).map(|setting| setting.source.clone());
        let source = source.filter(|source| source != "default").unwrap_or_else(|| self.source.clone());
        findings.problems.push(Problem { name, source, message: message.into() });
    }

    /// The table under `key`; empty when it is absent or no table.
    pub(super) fn child(&mut self, key: &str) -> Section<'a> {
        let path = self.path_of(key);
        let mut findings = self.findings.borrow_mut();
        let mut is_broken = false;
        let (dict, source) = match self.dict.remove(key) {
            Some(Value::Dict(tag, dict)) => (dict, self.layers.source(tag, &path)),
            None => (Dict::new(), self.source.clone()),
            Some(other) => {
                let source = self.layers.source(other.tag(), &path);
                let message = format!("must be a table, written like [{}]", dotted(&path));
                let name = dotted(&path);
                findings.problems.push(Problem { name, source: source.clone(), message });
                is_broken = true;
                (Dict::new(), source)
            }
        };
        findings.known.insert(path.clone());
        Section { layers: self.layers, findings: self.findings, path, dict, source, is_broken }
    }

    /// Dotted, as people write it.
    pub(super) fn name(&self) -> String {
        dotted(&self.path)
    }

    pub(super) fn keys(&self) -> Vec<String> {
        self.dict.keys().cloned().collect()
    }

    /// Puts `key` aside without reading it.
    pub(super) fn skip(&mut self, key: &str) {
        self.dict.remove(key);
    }

    /// Whether a problem with `key`, or with the table as a whole, has been noted already.
    pub(super) fn has_problem(&self, key: &str) -> bool {
        if self.is_broken {
            return true;
        }
        let name = dotted(&self.path_of(key));
        self.findings.borrow().problems.iter().any(|problem| problem.name == name)
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.dict.contains_key(key)
    }

    /// The rest was not asked for.
    pub(super) fn finish(self) {
        let mut findings = self.findings.borrow_mut();
        for (key, value) in self.dict {
            let mut path = self.path.clone();
            path.push(key);
            // Of a table that several variables fill, each variable is named.
            match value {
                Value::Dict(tag, dict) if self.layers.is_environment(tag) => {
                    unknown_leaves(path, dict, &mut findings.unknown);
                }
                value => findings.unknown.push((path, value.tag())),
            }
        }
    }

    /// Reads one setting; `show` is what people may see of it.
    pub(super) fn read<T>(
        &mut self,
        key: &str,
        default: T,
        show: impl FnOnce(&T) -> String,
        parse: impl FnOnce(&Raw) -> Result<T, String>,
    ) -> T {
        let path = self.path_of(key);
        let name = dotted(&path);
        let mut findings = self.findings.borrow_mut();
        let (value, source) = match self.dict.remove(key) {
            None => (default, "default".to_owned()),
            Some(value) => {
                let source = self.layers.source(value.tag(), &path);
                let loose = self.layers.is_text_layer(value.tag());
                match parse(&Raw { value, loose }) {
                    Ok(value) => (value, source),
                    Err(message) => {
                        findings.problems.push(Problem {
                            name: name.clone(),
                            source: source.clone(),
                            message,
                        });
                        (default, source)
                    }
                }
            }
        };
        findings.known.insert(path);
        findings.settings.insert(name.clone(), Setting { name, value: show(&value), source });
        value
    }

    pub(super) fn boolean(&mut self, key: &str, default: bool) -> bool {
        self.read(key, default, bool::to_string, Raw::boolean)
    }

    pub(super) fn integer(&mut self, key: &str, default: u32, range: RangeInclusive<u32>) -> u32 {
        self.read(key, default, u32::to_string, |raw| raw.integer(&range))
    }

    pub(super) fn number(&mut self, key: &str, default: f32, range: RangeInclusive<f32>) -> f32 {
        self.read(key, default, f32::to_string, |raw| raw.number(&range))
    }

    /// 0 stands for no limit.
    pub(super) fn limit(&mut self, key: &str, default: Option<u32>, max: u32) -> Option<u32> {
        Some(self.integer(key, default.unwrap_or(0), 0..=max)).filter(|limit| *limit > 0)
    }

    pub(super) fn span(&mut self, key: &str, default: Duration, range: RangeInclusive<Duration>) -> Duration {
        self.read(key, default, |span| units::show_span(*span), |raw| raw.span(&range))
    }

    pub(super) fn size(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        self.read(key, default, |bytes| units::show_size(*bytes), |raw| raw.size(&range))
    }

    pub(super) fn spans<const N: usize>(
        &mut self,
        key: &str,
        default: [Duration; N],
        range: RangeInclusive<Duration>,
    ) -> [Duration; N] {
        let show = |spans: &[Duration; N]| spans.map(units::show_span).join(", ");
        self.read(key, default, show, |raw| {
            let (low, high) = (units::show_span(*range.start()), units::show_span(*range.end()));
            let allowed = format!("must be a list of {N} durations from {low} to {high}, like \"1h\"");
            let texts = raw.list().map_err(|_| allowed.clone())?;
            let spans: Vec<Duration> = texts
                .iter()
                .filter_map(|text| units::parse_span(text).filter(|span| range.contains(span)))
                .collect();
            if texts.len() == N { spans.try_into().map_err(|_| allowed) } else { Err(allowed) }
        })
    }

    pub(super) fn choice<T: Copy + PartialEq>(&mut self, key: &str, default: T, choices: &[(&str, T)]) -> T {
        let show = |value: &T| {
            choices.iter().find(|(_, choice)| choice == value).map_or("", |(name, _)| *name).to_owned()
        };
        self.read(key, default, show, |raw| {
            let names = choices.iter().map(|(name, _)| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
            let text = raw.text().map_err(|_| format!("must be one of {names}"))?;
            let found = choices.iter().find(|(name, _)| *name == text);
            found.map(|(_, choice)| *choice).ok_or_else(|| format!("must be one of {names}{}", not(text)))
        })
    }

    /// Text that is checked, or read into something else.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        default: T,
        show: impl FnOnce(&T) -> String,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> T {
        self.read(key, default, show, |raw| parse(raw.text()?))
    }

    /// As [`Section::text`], with empty text for "not set".
    pub(super) fn optional<T>(
        &mut self,
        key: &str,
        show: impl FnOnce(&T) -> String,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let show = |value: &Option<T>| value.as_ref().map(show).unwrap_or_default();
        self.text(key, None, show, |text| match text.trim() {
            "" => Ok(None),
            text => parse(text).map(Some),
        })
    }

    pub(super) fn secret(
        &mut self,
        key: &str,
        check: impl FnOnce(&str) -> Result<(), String>,
    ) -> Option<Secret> {
        self.optional(key, |_: &Secret| "(set)".to_owned(), |text| check(text).map(|()| Secret::new(text)))
    }

    pub(super) fn list(
        &mut self,
        key: &str,
        default: Vec<String>,
        check: impl Fn(&str) -> Result<(), String>,
    ) -> Vec<String> {
        self.read(
            key,
            default,
            |list| list.join(", "),
            |raw| {
                let list = raw.list()?;
                list.iter().try_for_each(|item| check(item))?;
                Ok(list)
            },
        )
    }

    /// A table of names that are not ours: each entry is read for itself. A variable holds such a table as
    /// `name=value,name=value`, in place of the file's.
    pub(super) fn entries<T>(
        &mut self,
        key: &str,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&str, &str) -> Result<T, String>,
    ) -> Vec<(String, T)> {
        let path = self.path_of(key);
        let mut entries = Vec::new();
        let mut section = match self.dict.remove(key) {
            Some(Value::String(tag, text)) if self.layers.is_text_layer(tag) => {
                self.pairs(&text, &path, tag, &show, &parse, &mut entries);
                self.child(key)
            }
            Some(value) => {
                self.dict.insert(key.to_owned(), value);
                self.child(key)
            }
            None => self.child(key),
        };
        for name in section.keys() {
            let entry = section.text(
                &name,
                None,
                |value| value.as_ref().map(&show).unwrap_or_default(),
                |text| parse(&name, text).map(Some),
            );
            entries.extend(entry.map(|value| (name, value)));
        }
        entries
    }

    fn pairs<T>(
        &self,
        text: &str,
        path: &[String],
        tag: Tag,
        show: impl Fn(&T) -> String,
        parse: impl Fn(&str, &str) -> Result<T, String>,
        entries: &mut Vec<(String, T)>,
    ) {
        let source = self.layers.source(tag, path);
        let mut findings = self.findings.borrow_mut();
        for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
            let parsed = match pair.split_once('=') {
                Some((name, value)) => parse(name.trim(), value.trim()).map(|value| (name.trim(), value)),
                None => Err("must be pairs, written like name=value,name=value".to_owned()),
            };
            match parsed {
                Err(message) => {
                    findings.problems.push(Problem { name: dotted(path), source: source.clone(), message });
                }
                Ok((name, value)) => {
                    let full = dotted(&[path, &[name.to_owned()]].concat());
                    let setting = Setting { name: full.clone(), value: show(&value), source: source.clone() };
                    findings.settings.insert(full, setting);
                    entries.push((name.to_owned(), value));
                }
            }
        }
    }
}

fn unknown_leaves(path: KeyPath, dict: Dict, unknown: &mut Vec<(KeyPath, Tag)>) {
    for (key, value) in dict {
        let mut path = path.clone();
        path.push(key);
        match value {
            Value::Dict(_, inner) => unknown_leaves(path, inner, unknown),
            value => unknown.push((path, value.tag())),
        }
    }
}
