//! Which keys a command is about.

use std::collections::HashSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::Status;
use crate::{
    cli::{client::Client, error::Error, io::Io},
    model::secret::mask,
};

/// Hex digits that a shortened id must have.
const MIN_PREFIX: usize = 8;
/// More shortened ids than this are looked up in one list of all keys.
const MAX_LOOKUPS: usize = 16;
/// Ids in one request: 400 kB, within what the server reads.
const CHUNK: usize = 10_000;

#[derive(clap::Args)]
pub(super) struct Which {
    /// Ids, or their first 8 or more hex digits; "-" reads them from stdin
    #[arg(value_name = "ID")]
    ids: Vec<String>,
    /// All keys of the provider
    #[arg(long)]
    all: bool,
    /// All keys in this state
    #[arg(long)]
    status: Option<Status>,
}

impl Which {
    /// Whether keys are meant by what they are rather than one by one.
    pub(super) fn is_sweeping(&self) -> bool {
        self.all || self.status.is_some()
    }

    fn check(&self) -> Result<(), Error> {
        match (self.ids.is_empty(), self.is_sweeping()) {
            (true, false) => Err(Error::usage("no keys are named; pass ids, --status STATUS or --all")),
            (false, true) => Err(Error::usage("pass either ids, or --status STATUS or --all")),
            _ => Ok(()),
        }
    }

    /// The body of a request about all keys, where the server can find them itself.
    pub(super) fn sweep(&self) -> Result<Option<Value>, Error> {
        self.check()?;
        Ok(self.is_sweeping().then(|| match self.status {
            Some(status) => json!({"all": true, "status": status.name()}),
            None => json!({"all": true}),
        }))
    }

    pub(super) fn query(&self) -> Vec<(&'static str, &'static str)> {
        self.status.map(|status| ("status", status.name())).into_iter().collect()
    }

    /// The ids, looked up where they must be.
    pub(super) async fn resolve(&self, client: &Client, io: &mut Io) -> Result<Vec<String>, Error> {
        self.check()?;
        if self.is_sweeping() {
            let keys = client.all_keys(&self.query()).await?;
            return Ok(keys.into_iter().map(|key| key.id).collect());
        }
        let words = io.words(&self.ids)?;
        let wanted = words.iter().map(|word| Wanted::parse(word)).collect::<Result<Vec<_>, _>>()?;
        let prefixes: Vec<&str> = wanted.iter().filter_map(Wanted::prefix).collect();
        let mut known = Vec::new();
        if prefixes.len() > MAX_LOOKUPS {
            known = client.all_keys(&[]).await?;
        } else {
            for prefix in prefixes {
                // The server compares with the hyphens, the first of which comes after eight digits.
                known.extend(client.all_keys(&[("search", &prefix[..MIN_PREFIX])]).await?);
            }
        }
        let known: HashSet<String> = known.into_iter().map(|key| key.id).collect();
        let mut seen = HashSet::new();
        let mut ids = Vec::new();
        for wanted in &wanted {
            let id = wanted.find(known.iter().map(String::as_str), "key")?;
            if seen.insert(id.clone()) {
                ids.push(id);
            }
        }
        Ok(ids)
    }
}

/// Ids in portions that one request can carry; at least one, so that an empty choice is answered too.
pub(super) fn chunks(ids: &[String]) -> impl Iterator<Item = &[String]> {
    let none = ids.is_empty().then_some(ids);
    none.into_iter().chain(ids.chunks(CHUNK))
}

/// An id as a person gives it.
#[derive(Debug, PartialEq)]
pub(in crate::cli) enum Wanted {
    Whole(String),
    /// Lower-case hex digits without hyphens.
    Prefix(String),
}

impl Wanted {
    /// The message never repeats what could be a key given by mistake.
    pub(in crate::cli) fn parse(text: &str) -> Result<Self, Error> {
        if let Ok(id) = text.parse::<Uuid>() {
            return Ok(Self::Whole(id.to_string()));
        }
        let hex: String = text.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
        if (MIN_PREFIX..32).contains(&hex.len()) && hex.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Ok(Self::Prefix(hex));
        }
        Err(Error::usage(format!(
            "\"{}\" is no id; pass an id as lists show it, at least its first {MIN_PREFIX} hex digits",
            mask(text)
        )))
    }

    fn prefix(&self) -> Option<&str> {
        match self {
            Self::Whole(_) => None,
            Self::Prefix(hex) => Some(hex),
        }
    }

    /// The one id among `known` that is meant; a whole id is taken at its word.
    pub(in crate::cli) fn find<'a>(
        &self,
        known: impl Iterator<Item = &'a str>,
        what: &str,
    ) -> Result<String, Error> {
        let prefix = match self {
            Self::Whole(id) => return Ok(id.clone()),
            Self::Prefix(hex) => hex,
        };
        let fits = |id: &&str| id.chars().filter(|c| *c != '-').take(prefix.len()).eq(prefix.chars());
        let mut found = known.filter(fits);
        match (found.next(), found.next()) {
            (Some(id), None) => Ok(id.to_owned()),
            (None, _) => Err(Error::failed(format!(
                "no {what}'s id begins with {prefix}; check it, and the provider given with --provider"
            ))),
            (Some(_), Some(_)) => Err(Error::failed(format!(
                "the ids of several {what}s begin with {prefix}; pass more of the id"
            ))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "97665549-effe-5e34-a023-53e3b2c34a6d";
    const TWO: &str = "97665549-effe-5e34-a023-53e3b2c34a6e";
    const THREE: &str = "0123abcd-effe-5e34-a023-53e3b2c34a6d";

    fn find(text: &str) -> Result<String, Error> {
        Wanted::parse(text)?.find([ONE, TWO, THREE].into_iter(), "key")
    }

    #[test]
    fn whole_and_shortened_ids() {
        for (text, id) in [
            (ONE, ONE),
            ("0123abcd", THREE),
            ("0123ABCD-EF", THREE),
            ("0123abcdeffe5e34", THREE),
            ("97665549effe5e34a02353e3b2c34a6e", TWO),
            ("97665549-effe-5e34-a023-53e3b2c34a6", "several"),
            ("97665549", "several"),
            ("ffffffff", "no key's id"),
        ] {
            match find(text) {
                Ok(found) => assert_eq!(found, id, "{text}"),
                Err(error) => assert!(error.to_string().contains(id), "{text}: {error}"),
            }
        }
    }

    #[test]
    fn what_is_no_id_is_not_repeated() {
        for bad in ["", "0123abc", "all", "sk-or-v1-0123456789abcdef0123456789abcdef", "钥匙钥匙钥匙"] {
            let error = find(bad).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{bad}");
            assert!(bad.is_empty() || !error.to_string().contains(bad), "{bad}");
        }
    }

    #[test]
    fn portions() {
        let ids = vec![ONE.to_owned(); CHUNK + 1];
        assert_eq!(chunks(&ids).map(<[String]>::len).collect::<Vec<_>>(), [CHUNK, 1]);
        assert_eq!(chunks(&[]).count(), 1);
    }
}
