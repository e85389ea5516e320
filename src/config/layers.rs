//! Where values come from: the shipped defaults, a file, the environment, flags, each over the one before.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
};

use figment::{
    Figment, Metadata, Profile, Provider,
    value::{Dict, Map, Num, Tag, Value},
};
use toml::de::{DeTable, DeValue};

use super::{Overrides, Problem};

/// The keys from the top down to a value.
pub(super) type KeyPath = Vec<String>;

/// What the shipped providers have that a new provider has not.
const SHIPPED: &str = r#"
[providers.ollama]
base_url = "https://ollama.com"
ollama_native = true

[providers.openrouter]
base_url = "https://openrouter.ai/api"
cooldown_scope = "account"
key_pattern = "^sk-or-"
probe.path = "/v1/key"
# Moderation: the request was at fault, not the key.
status.403.treat_as = "request"
"#;

/// Names without nesting: those that other tools have established, and one that the command line shares.
const NAMED_VARIABLES: [(&str, [&str; 2]); 5] = [
    ("DATABASE_URL", ["sync", "database_url"]),
    ("SUPABASE_REST_URL", ["sync", "rest_url"]),
    ("SUPABASE_SERVICE_ROLE_KEY", ["sync", "service_key"]),
    ("ADMIN_TOKEN", ["server", "admin_token"]),
    ("KEYTIDE_ADMIN_TOKEN", ["server", "admin_token"]),
];

/// Read by the command line, not here.
const COMMAND_LINE_VARIABLES: [&str; 2] = ["KEYTIDE_CONFIG", "KEYTIDE_URL"];

const PREFIX: &str = "KEYTIDE_";

/// Deeper than any setting, and shallow enough to walk.
const MAX_DEPTH: usize = 16;

/// All layers merged, and for each value where it came from.
pub(super) struct Layers {
    figment: Figment,
    pub(super) file: Option<PathBuf>,
    lines: HashMap<KeyPath, usize>,
    variables: HashMap<KeyPath, String>,
    pub(super) notices: Vec<String>,
    pub(super) problems: Vec<Problem>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    Defaults,
    File,
    Environment,
    Flags,
}

impl Layer {
    fn name(self) -> &'static str {
        match self {
            Self::Defaults => "defaults",
            Self::File => "file",
            Self::Environment => "environment",
            Self::Flags => "flags",
        }
    }
}

struct Tree(Layer, Dict);

impl Provider for Tree {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.0.name())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        Ok(Profile::Default.collect(self.1.clone()))
    }
}

impl Layers {
    /// Reads the first of `candidates` that exists.
    ///
    /// # Errors
    /// What keeps the file from being read at all; nothing else can be judged without it.
    pub(super) fn read(
        candidates: &[&Path],
        required: bool,
        overrides: &Overrides,
        env: impl Iterator<Item = (String, String)>,
    ) -> Result<Self, Vec<Problem>> {
        let mut layers = Self {
            figment: Figment::new().merge(Tree(Layer::Defaults, shipped())),
            file: None,
            lines: HashMap::new(),
            variables: HashMap::new(),
            notices: Vec::new(),
            problems: Vec::new(),
        };
        if let Some((path, text)) = first_file(candidates, required)? {
            let dict = layers.parse_file(&path, &text)?;
            layers.figment = layers.figment.merge(Tree(Layer::File, dict));
            layers.file = Some(path);
        }
        let dict = layers.parse_env(env);
        layers.figment = layers.figment.merge(Tree(Layer::Environment, dict));
        layers.figment = layers.figment.merge(Tree(Layer::Flags, flags(overrides)));
        Ok(layers)
    }

    pub(super) fn merged(&self) -> Dict {
        // No provider here can fail, and all write to the one profile.
        self.figment.data().ok().and_then(|mut data| data.remove(&Profile::Default)).unwrap_or_default()
    }

    fn layer(&self, tag: Tag) -> Layer {
        let name = self.figment.get_metadata(tag).map(|metadata| metadata.name.as_ref());
        [Layer::File, Layer::Environment, Layer::Flags]
            .into_iter()
            .find(|layer| name == Some(layer.name()))
            .unwrap_or(Layer::Defaults)
    }

    /// Values from variables and flags are text, whatever they stand for.
    pub(super) fn is_text_layer(&self, tag: Tag) -> bool {
        matches!(self.layer(tag), Layer::Environment | Layer::Flags)
    }

    pub(super) fn is_environment(&self, tag: Tag) -> bool {
        self.layer(tag) == Layer::Environment
    }

    /// Where the value at `path` was written, for people.
    pub(super) fn source(&self, tag: Tag, path: &[String]) -> String {
        match self.layer(tag) {
            Layer::Defaults => "default".to_owned(),
            Layer::Flags => match path.last().map(String::as_str) {
                Some("dir") => "--data-dir".to_owned(),
                _ => "--listen".to_owned(),
            },
            Layer::File => {
                let file = self.file.as_deref().unwrap_or(Path::new("config.toml")).display();
                match self.lines.get(path) {
                    Some(line) => format!("{file}:{line}"),
                    None => file.to_string(),
                }
            }
            Layer::Environment => match self.variables.get(path) {
                Some(variable) => format!("environment variable {variable}"),
                // A table that several variables fill.
                None => format!("environment variables {}__…", variable_name(path)),
            },
        }
    }

    fn parse_file(&mut self, path: &Path, text: &str) -> Result<Dict, Vec<Problem>> {
        let file = path.display();
        let breaks: Vec<usize> = text.match_indices('\n').map(|(at, _)| at).collect();
        let line = |at: usize| breaks.partition_point(|b| *b < at) + 1;
        // The parser bounds the depth of brackets and of dotted keys, so the tree can be walked.
        let (table, errors) = DeTable::parse_recoverable(text);
        if !errors.is_empty() {
            // The message alone: the rendered error quotes the line, which may hold a secret.
            let problem = |error: &toml::de::Error| {
                let at = error.span().map_or(1, |span| line(span.start));
                Problem::of_file(
                    format!("{file}:{at}"),
                    format!("is not valid TOML: {}", one_line(error.message())),
                )
            };
            return Err(errors.iter().map(problem).collect());
        }
        let mut walk = FileWalk { line: &line, lines: HashMap::new(), twice: Vec::new() };
        let dict = walk.table(table.get_ref(), &mut Vec::new());
        self.lines = walk.lines;
        for (at, name) in walk.twice {
            self.problems.push(Problem {
                name,
                source: format!("{file}:{at}"),
                message: "is given twice; header names are the same in upper and lower case".to_owned(),
            });
        }
        Ok(dict)
    }

    fn parse_env(&mut self, env: impl Iterator<Item = (String, String)>) -> Dict {
        // An empty variable is one that was not filled in. Sorted, so that the result never depends on the
        // order of the environment; the long names come last and stand over the short ones.
        let mut variables: Vec<_> = env.filter(|(_, value)| !value.trim().is_empty()).collect();
        variables.sort();
        let (nested, named): (Vec<_>, Vec<_>) = variables.into_iter().partition(|(name, _)| {
            name.starts_with(PREFIX) && !NAMED_VARIABLES.iter().any(|(known, _)| known == name)
        });
        let mut dict = Dict::new();
        for (name, value) in named {
            if name == "REDIS_URL" {
                self.notices.push("REDIS_URL is not needed: the local store takes its place".to_owned());
            } else if let Some((_, path)) = NAMED_VARIABLES.iter().find(|(known, _)| *known == name) {
                let path: KeyPath = path.iter().map(|key| (*key).to_owned()).collect();
                self.put(&mut dict, path, name, value);
            }
        }
        for (name, value) in nested {
            if !COMMAND_LINE_VARIABLES.contains(&name.as_str()) {
                let path = variable_path(&name);
                self.put(&mut dict, path, name, value);
            }
        }
        dict
    }

    fn put(&mut self, dict: &mut Dict, path: KeyPath, variable: String, value: String) {
        let kept = path.len() <= MAX_DEPTH && insert(dict, &path, value.trim());
        if !kept {
            self.problems.push(Problem {
                name: String::new(),
                source: format!("environment variable {variable}"),
                message:
                    "contradicts another variable, or is nested too deeply: a name can hold either a value \
                          or further names"
                        .to_owned(),
            });
        } else {
            self.variables.insert(path, variable);
        }
    }
}

fn first_file(candidates: &[&Path], required: bool) -> Result<Option<(PathBuf, String)>, Vec<Problem>> {
    for path in candidates {
        let problem = |message: String| vec![Problem::of_file(path.display().to_string(), message)];
        match std::fs::read(path) {
            Ok(bytes) => {
                return match String::from_utf8(bytes) {
                    Ok(text) => Ok(Some((path.to_path_buf(), text))),
                    Err(_) => Err(problem("is not UTF-8 text; save it as UTF-8".to_owned())),
                };
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(problem("does not exist; check the path given with --config".to_owned()));
            }
            Err(error) => return Err(problem(format!("cannot be read: {error}"))),
        }
    }
    Ok(None)
}

fn shipped() -> Dict {
    let (table, _) = DeTable::parse_recoverable(SHIPPED);
    FileWalk { line: &|_| 0, lines: HashMap::new(), twice: Vec::new() }
        .table(table.get_ref(), &mut Vec::new())
}

fn flags(overrides: &Overrides) -> Dict {
    let mut dict = Dict::new();
    let mut put = |section: &str, key: &str, value: String| {
        insert(&mut dict, &[section.to_owned(), key.to_owned()], &value);
    };
    if let Some(listen) = overrides.listen {
        put("server", "listen", listen.to_string());
    }
    if let Some(dir) = &overrides.data_dir {
        put("store", "dir", dir.to_string_lossy().into_owned());
    }
    dict
}

/// False when a value stands where a table is needed, or the other way round.
fn insert(dict: &mut Dict, path: &[String], value: &str) -> bool {
    match path {
        [] => false,
        [key] => match dict.get(key) {
            Some(Value::Dict(..)) => false,
            _ => {
                dict.insert(key.clone(), Value::from(value));
                true
            }
        },
        [key, rest @ ..] => {
            match dict.entry(key.clone()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new())) {
                Value::Dict(_, inner) => insert(inner, rest, value),
                _ => false,
            }
        }
    }
}

/// `KEYTIDE_SERVER__LISTEN` is `server.listen`. Variables cannot hold a dash, so in the places where
/// names may have one and never an underscore, an underscore stands for it.
fn variable_path(name: &str) -> KeyPath {
    let lower = name.strip_prefix(PREFIX).unwrap_or(name).to_ascii_lowercase();
    let mut path: KeyPath = lower.split("__").map(str::to_owned).collect();
    if matches!(path[0].as_str(), "providers" | "hubs")
        && let Some(name) = path.get_mut(1)
    {
        *name = name.replace('_', "-");
    }
    if is_header_path(&path) {
        path[3] = path[3].replace('_', "-");
    }
    path
}

/// The variable for a setting.
pub(super) fn variable_name(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("__").replace('-', "_").to_ascii_uppercase())
}

/// Header names are the same in any case, so they are kept in lower case.
fn is_header_path(path: &[String]) -> bool {
    path.len() == 4 && path[0] == "providers" && path[2] == "headers"
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

struct FileWalk<'a> {
    line: &'a dyn Fn(usize) -> usize,
    lines: HashMap<KeyPath, usize>,
    twice: Vec<(usize, String)>,
}

impl FileWalk<'_> {
    fn table(&mut self, table: &DeTable<'_>, path: &mut KeyPath) -> Dict {
        let mut dict = Dict::new();
        for (key, value) in table {
            path.push(key.get_ref().to_string());
            if is_header_path(path) {
                path[3].make_ascii_lowercase();
            }
            let line = (self.line)(key.span().start);
            if self.lines.insert(path.clone(), line).is_some() {
                self.twice.push((line, super::reader::dotted(path)));
            }
            let value = self.value(value.get_ref(), path);
            if let Some(name) = path.pop() {
                dict.insert(name, value);
            }
        }
        dict
    }

    fn value(&mut self, value: &DeValue<'_>, path: &mut KeyPath) -> Value {
        match value {
            DeValue::String(text) => Value::from(text.as_ref()),
            DeValue::Boolean(on) => Value::from(*on),
            // All whole numbers in one type; one too large for it becomes what no setting accepts.
            DeValue::Integer(number) => match i128::from_str_radix(number.as_str(), number.radix()) {
                Ok(number) => Value::Num(Tag::Default, Num::I128(number)),
                Err(_) => Value::from(f64::INFINITY),
            },
            DeValue::Float(number) => Value::from(number.as_str().parse().unwrap_or(f64::NAN)),
            DeValue::Datetime(_) => Value::Empty(Tag::Default, figment::value::Empty::Unit),
            DeValue::Array(items) => {
                let items = items.iter().map(|item| match item.get_ref() {
                    // Nothing is configured by a list of tables, so what is in them does not matter.
                    DeValue::Table(_) => Value::Dict(Tag::Default, Dict::new()),
                    other => self.value(other, path),
                });
                Value::Array(Tag::Default, items.collect())
            }
            DeValue::Table(table) => Value::Dict(Tag::Default, self.table(table, path)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_and_names() {
        for (variable, path) in [
            ("KEYTIDE_SERVER__LISTEN", &["server", "listen"][..]),
            ("KEYTIDE_PROVIDERS__MY_LLM__BASE_URL", &["providers", "my-llm", "base_url"]),
            ("KEYTIDE_PROVIDERS__X__HEADERS__HTTP_REFERER", &["providers", "x", "headers", "http-referer"]),
        ] {
            assert_eq!(variable_path(variable), path);
            assert_eq!(variable_name(&variable_path(variable)), variable);
        }
    }

    #[test]
    fn the_shipped_text_is_valid() {
        assert_eq!(DeTable::parse_recoverable(SHIPPED).1.len(), 0);
        assert!(matches!(shipped().get("providers"), Some(Value::Dict(_, dict)) if dict.len() == 2));
    }
}
