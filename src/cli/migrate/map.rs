//! `--map FILE`: which key an old id is. No text of a key is ever shown, only the line that it stands in.

use std::{collections::HashSet, path::Path};

use serde_json::{Map, Value};
use uuid::Uuid;

use crate::{
    cli::{error::Error, io::Io},
    model::{KeyId, Secret},
    replica::usage_logs::Link,
};

const MAX_BYTES: u64 = 64_000_000;
/// What the columns are called, here and where such a file may come from.
const LEGACY: [&str; 3] = ["legacy_id", "shared_key_id", "id"];
const KEY: [&str; 3] = ["key", "api_key", "key_id"];
/// Lines that are named one by one.
const NAMED: usize = 5;

pub(super) struct Line {
    pub number: u64,
    pub legacy: Uuid,
    /// Its id, or its text.
    key: Secret,
    provider: Option<String>,
}

/// # Errors
/// When it cannot be read, or a line says nothing that can be meant.
pub(super) fn read(path: &Path, io: &mut Io) -> Result<Vec<Line>, Error> {
    let text = super::kv_file::text(path, MAX_BYTES, io)?;
    let shown = path.display();
    let lines = match text.trim_start().as_bytes().first() {
        Some(b'{' | b'[') => json(&text),
        _ => csv(&text),
    };
    let lines = lines.map_err(|why| Error::failed(format!("{shown}: {why}")))?;
    let mut seen = std::collections::HashMap::new();
    for line in &lines {
        let key = (line.key.expose(), line.provider.as_deref());
        if seen.insert(line.legacy, key).is_some_and(|before| before != key) {
            return Err(Error::failed(format!(
                "{shown}: line {} gives the id {} to another key than a line before",
                line.number, line.legacy
            )));
        }
    }
    if lines.is_empty() {
        return Err(Error::failed(format!("{shown} holds no ids; write lines like: legacy id,key")));
    }
    Ok(lines)
}

/// Finds the keys among those that the hub knows.
///
/// # Errors
/// When some are not there, or a provider is not.
pub(super) fn links(
    lines: &[Line],
    default: &str,
    providers: &[(String, String)],
    known: &[KeyId],
) -> Result<Vec<Link>, Error> {
    let known: HashSet<KeyId> = known.iter().copied().collect();
    let (mut links, mut unknown) = (Vec::new(), Vec::new());
    for line in lines {
        let provider = line.provider.as_deref().unwrap_or(default);
        if !providers.iter().any(|(name, _)| name == provider) {
            let names: Vec<_> = providers.iter().map(|(name, _)| name.as_str()).collect();
            return Err(Error::usage(format!(
                "line {} of the map names a provider that is not configured; there are {}",
                line.number,
                names.join(", ")
            )));
        }
        // The text of a key may look like an id.
        let text = line.key.expose();
        let ids = [text.parse::<KeyId>().ok(), Some(KeyId::derive(provider, text))];
        match ids.into_iter().flatten().find(|id| known.contains(id)) {
            Some(id) => links.push(Link { legacy: line.legacy, key: Uuid::from_u128(id.0) }),
            None => unknown.push(line.number),
        }
    }
    if unknown.is_empty() {
        links.sort_by_key(|link| link.legacy);
        links.dedup();
        return Ok(links);
    }
    let lines: Vec<_> = unknown.iter().take(NAMED).map(u64::to_string).collect();
    let more =
        if unknown.len() > NAMED { format!(" and {} more", unknown.len() - NAMED) } else { String::new() };
    Err(Error::failed(format!(
        "the hub knows no such keys as the map names in line {}{more}: check provider and key, let a running keytide send them \
         (`keytide sync now`), or take these lines out",
        lines.join(", ")
    )))
}

fn line(number: u64, legacy: &str, key: &str, provider: &str) -> Result<Line, String> {
    let legacy = legacy.trim().parse().map_err(|_| {
        format!(
            "line {number}: the legacy id is no UUID; write lines like: legacy id,key (or key id),provider"
        )
    })?;
    if key.trim().is_empty() {
        return Err(format!("line {number} names no key"));
    }
    let provider = Some(provider.trim()).filter(|name| !name.is_empty()).map(str::to_owned);
    Ok(Line { number, legacy, key: Secret::new(key.trim()), provider })
}

fn csv(text: &str) -> Result<Vec<Line>, String> {
    let mut reader = csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .from_reader(text.as_bytes());
    let (mut lines, mut places, mut is_first) = (Vec::new(), [Some(0), Some(1), Some(2)], true);
    for record in reader.records() {
        let record = record.map_err(|_| "it is neither JSON nor CSV".to_owned())?;
        if record.iter().all(str::is_empty) || record.get(0).is_some_and(|cell| cell.starts_with('#')) {
            continue;
        }
        let number = record.position().map_or(0, csv::Position::line);
        let find = |names: &[&str]| {
            record.iter().position(|cell| names.iter().any(|name| cell.eq_ignore_ascii_case(name)))
        };
        if std::mem::take(&mut is_first) && (find(&KEY).is_some() || find(&LEGACY).is_some()) {
            places = [find(&LEGACY), find(&KEY), find(&["provider"])];
            if places[0].is_none() || places[1].is_none() {
                return Err("its first line names columns, but not both legacy_id and key".to_owned());
            }
            continue;
        }
        let cell = |at: Option<usize>| at.and_then(|at| record.get(at)).unwrap_or_default();
        lines.push(line(number, cell(places[0]), cell(places[1]), cell(places[2]))?);
    }
    Ok(lines)
}

/// `{"legacy id": "key"}`, `{"legacy id": {"key": …, "provider": …}}`, or a list of objects. Numbered from 1.
fn json(text: &str) -> Result<Vec<Line>, String> {
    let whole = serde_json::from_str(text)
        .map_err(|error| format!("it is no JSON (line {}, column {})", error.line(), error.column()))?;
    let field = |object: &Map<String, Value>, names: &[&str]| {
        names.iter().find_map(|name| object.get(*name)?.as_str()).unwrap_or_default().to_owned()
    };
    let entry = |number: u64, legacy: &str, value: &Value| match value {
        Value::String(key) => line(number, legacy, key, ""),
        Value::Object(object) => line(number, legacy, &field(object, &KEY), &field(object, &["provider"])),
        _ => Err(format!("entry {number} is neither a key nor an object with \"key\"")),
    };
    match whole {
        Value::Object(all) => {
            (1..).zip(&all).map(|(number, (legacy, value))| entry(number, legacy, value)).collect()
        }
        Value::Array(all) => (1..)
            .zip(&all)
            .map(|(number, value)| match value {
                Value::Object(object) => entry(number, &field(object, &LEGACY), value),
                _ => Err(format!("entry {number} is no object with \"legacy_id\" and \"key\"")),
            })
            .collect(),
        _ => Err("it must be an object or a list".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "00000000-0000-4000-8000-000000000001";

    fn known() -> Vec<KeyId> {
        vec![KeyId::derive("ollama", "sk-secret-1"), KeyId::derive("openrouter", "sk-secret-2")]
    }

    fn linked(lines: &[Line]) -> Result<Vec<Uuid>, Error> {
        let providers = ["ollama", "openrouter"].map(|name| (name.to_owned(), format!("{name}_api")));
        Ok(links(lines, "ollama", &providers, &known())?.into_iter().map(|link| link.key).collect())
    }

    #[test]
    fn every_form_says_the_same() {
        let id = Uuid::from_u128(known()[0].0);
        for text in [
            format!("{OLD},sk-secret-1"),
            format!("# mine\nlegacy_id,key\n\n{OLD},{id}"),
            format!("api_key,id\nsk-secret-1,{OLD}"),
        ] {
            assert_eq!(linked(&csv(&text).unwrap()).unwrap(), [id], "{text}");
        }
        for text in [
            format!("{{\"{OLD}\": \"sk-secret-1\"}}"),
            format!("{{\"{OLD}\": {{\"key\": \"sk-secret-1\", \"provider\": \"ollama\"}}}}"),
            format!("[{{\"legacy_id\": \"{OLD}\", \"key\": \"{id}\"}}]"),
        ] {
            assert_eq!(linked(&json(&text).unwrap()).unwrap(), [id], "{text}");
        }
        let other = csv(&format!("{OLD},sk-secret-2,openrouter")).unwrap();
        assert_eq!(linked(&other).unwrap(), [Uuid::from_u128(known()[1].0)]);
    }

    #[test]
    fn what_cannot_be_meant_is_named_by_its_line_and_never_by_the_key() {
        for (text, says) in [
            (format!("{OLD},sk-secret-1\nsk-secret-2,{OLD}"), "line 2"),
            (format!("{OLD},"), "line 1 names no key"),
            (format!("id,name\n{OLD},x"), "not both"),
        ] {
            let why = csv(&text).err().unwrap();
            assert!(why.contains(says) && !why.contains("sk-secret"), "{why}");
        }
        for text in ["[1]", "{\"x\": 1}", "[{\"key\": \"sk-secret-1\"}]", "{"] {
            let why = json(text).err().unwrap();
            assert!(!why.contains("sk-secret"), "{why}");
        }
        let wrong = csv(&format!("{OLD},sk-secret-2\n{OLD},sk-secret-9")).unwrap();
        let Err(Error::Failed(why)) = linked(&wrong) else { panic!("keys that nobody knows were linked") };
        assert!(why.contains("line 1, 2:") && !why.contains("sk-secret"), "{why}");
        let nowhere = csv(&format!("{OLD},sk-secret-1,mine")).unwrap();
        assert!(matches!(linked(&nowhere), Err(Error::Usage(why)) if why.contains("ollama, openrouter")));
    }
}
