//! The hub's schema as this program carries it: the files of `schema/`, laid out for whoever has to run them.
//!
//! The SQL is the same whoever runs it and however often. The files of a provider are one file with another
//! prefix and name, so that a provider of the configuration's own gets the same tables.

mod apply;
mod check;
mod convert;

pub use apply::{Applied, apply, keep_usage_logs};
pub use check::{Problem, Report, check, newer_than};
pub(super) use check::{quoted, text};

/// What every hub needs, in order: the file's name and its text.
const CORE: [(&str, &str); 16] = [
    ("010_core.sql", include_str!("../../../schema/010_core.sql")),
    ("011_triggers.sql", include_str!("../../../schema/011_triggers.sql")),
    ("012_providers.sql", include_str!("../../../schema/012_providers.sql")),
    ("013_rows.sql", include_str!("../../../schema/013_rows.sql")),
    ("014_state.sql", include_str!("../../../schema/014_state.sql")),
    ("015_counts.sql", include_str!("../../../schema/015_counts.sql")),
    ("016_core_tables.sql", include_str!("../../../schema/016_core_tables.sql")),
    ("017_core_rows.sql", include_str!("../../../schema/017_core_rows.sql")),
    ("018_core_counts.sql", include_str!("../../../schema/018_core_counts.sql")),
    ("019_core_apply.sql", include_str!("../../../schema/019_core_apply.sql")),
    ("020_push.sql", include_str!("../../../schema/020_push.sql")),
    ("021_pull.sql", include_str!("../../../schema/021_pull.sql")),
    ("022_care.sql", include_str!("../../../schema/022_care.sql")),
    ("023_core_care.sql", include_str!("../../../schema/023_core_care.sql")),
    ("024_core_convert.sql", include_str!("../../../schema/024_core_convert.sql")),
    ("029_rights.sql", include_str!("../../../schema/029_rights.sql")),
];

/// The stream of what belongs to no provider: users, days, hours, events.
pub const CORE_STREAM: &str = "core";

/// The tables of one provider, as the file for ollama has them.
const PROVIDER: &str = include_str!("../../../schema/030_ollama_api.sql");
const TEMPLATE: Target<'static> = Target { prefix: "ollama_api", provider: "ollama" };

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The file's name.
    pub name: String,
    pub sql: String,
}

/// A provider's tables: their prefix, and what their `provider` columns say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    pub prefix: &'a str,
    pub provider: &'a str,
}

/// Why there are no tables for a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error(
        "the table prefix {0:?} cannot be used: it takes lower-case letters, digits and \"_\", begins with a letter, and \
         has at most 41 of them"
    )]
    Prefix(String),
    #[error(
        "the provider's name {0:?} cannot be put into SQL: it takes letters, digits, \"-\", \"_\" and \".\", at most 64"
    )]
    Provider(String),
    #[error("no provider and no table prefix can be called \"core\": that is what belongs to no provider")]
    Reserved,
    /// The hub refused, in its own words.
    #[error("{0}")]
    Refused(String),
    /// It would lose something.
    #[error("{0}")]
    Unsafe(String),
    /// The connection broke when everything was done but for the hub's last word.
    #[error(
        "{0}; whether the schema was applied is not known: run it again, which changes nothing that is there already"
    )]
    Doubtful(String),
    /// It was applied, and could not be looked at.
    #[error(
        "the schema was applied, but what came of it could not be looked at ({0}): run `keytide schema check`"
    )]
    Unseen(String),
}

impl Error {
    /// Whether it is certain that nothing has changed.
    pub fn left_all_as_it_was(&self) -> bool {
        !matches!(self, Self::Doubtful(_) | Self::Unseen(_))
    }
}

impl From<tokio_postgres::Error> for Error {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Refused(match error.as_db_error() {
            Some(db) => {
                let hint = db.hint().map(|hint| format!("; {hint}")).unwrap_or_default();
                format!("the database says: {}{hint}", db.message())
            }
            None => format!("the connection to the database failed: {error}"),
        })
    }
}

/// What every hub needs, in the order in which it has to be run.
pub fn core() -> Vec<Part> {
    CORE.iter().map(|(name, sql)| Part { name: (*name).to_owned(), sql: (*sql).to_owned() }).collect()
}

/// The tables of one provider; [`core`] comes before.
///
/// # Errors
/// When the prefix or the name cannot stand in SQL as it is.
pub fn provider_part(target: Target<'_>) -> Result<Part, Error> {
    let Target { prefix, provider } = target;
    let plain = |text: &str, more: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c));
    let begins = prefix.chars().next().is_some_and(|c| c.is_ascii_lowercase());
    if !begins || prefix.len() > 41 || !plain(prefix, "_") || prefix.to_lowercase() != prefix {
        return Err(Error::Prefix(prefix.to_owned()));
    }
    if prefix == CORE_STREAM || provider == CORE_STREAM {
        return Err(Error::Reserved);
    }
    if provider.is_empty() || provider.len() > 64 || !plain(provider, "-_.") {
        return Err(Error::Provider(provider.to_owned()));
    }
    // The prefix contains the name, so it goes first, by way of a sign that SQL does not know.
    let sql = PROVIDER
        .replace(TEMPLATE.prefix, "\u{1}")
        .replace(TEMPLATE.provider, provider)
        .replace('\u{1}', prefix);
    Ok(Part { name: format!("030_{prefix}.sql"), sql })
}

/// The core and the tables of each target, in order.
///
/// # Errors
/// As [`provider_part`].
pub fn parts(targets: &[Target<'_>]) -> Result<Vec<Part>, Error> {
    let mut parts = core();
    for target in targets {
        parts.push(provider_part(*target)?);
    }
    Ok(parts)
}

/// One text to paste: all or nothing of it takes effect.
///
/// # Errors
/// As [`provider_part`].
pub fn script(targets: &[Target<'_>]) -> Result<String, Error> {
    let mut text = String::from(
        "-- keytide's schema. Run it as the database's owner; running it again changes nothing.\nBEGIN;\n",
    );
    for part in parts(targets)? {
        text.push_str(&format!("\n-- {}\n\n{}", part.name, part.sql));
    }
    text.push_str("\nCOMMIT;\n");
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openrouters_file_is_that_of_ollama_under_another_name() {
        let target = Target { prefix: "openrouter_api", provider: "openrouter" };
        let part = provider_part(target).unwrap();
        assert_eq!(part.sql, include_str!("../../../schema/031_openrouter_api.sql"));
        assert_eq!(provider_part(TEMPLATE).unwrap().sql, PROVIDER);
    }

    #[test]
    fn names_that_are_no_plain_words_never_reach_sql() {
        for prefix in ["", "1a", "a-b", "Drop", "a;b", "a'b", &"a".repeat(42)] {
            assert!(provider_part(Target { prefix, provider: "x" }).is_err(), "{prefix}");
        }
        for provider in ["", "a'b", "a b", &"a".repeat(65)] {
            assert!(provider_part(Target { prefix: "x", provider }).is_err(), "{provider}");
        }
        assert_eq!(provider_part(Target { prefix: "core", provider: "x" }), Err(Error::Reserved));
        assert_eq!(provider_part(Target { prefix: "x", provider: "core" }), Err(Error::Reserved));
    }

    #[test]
    fn every_file_of_the_folder_is_carried() {
        let mut found: Vec<String> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/schema"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| name.ends_with(".sql"))
            .collect();
        found.sort();
        let mut carried: Vec<String> = core().into_iter().map(|part| part.name).collect();
        carried.extend(["030_ollama_api.sql".to_owned(), "031_openrouter_api.sql".to_owned()]);
        assert_eq!(found, carried);
    }
}
