//! Which way to take to a hub.

use std::sync::Arc;

use super::{
    later::Later,
    postgres::{self, Postgres},
    rest::{self, Rest},
    transport::{Error, ErrorKind, Transport},
};
use crate::model::Secret;

/// What is wanted of the ways to a hub.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// Postgres if there is a database's URL, else REST if there is an address, else none.
    #[default]
    Auto,
    Postgres,
    Rest,
    Off,
}

/// How a hub may be reached, as configured.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Options {
    pub transport: Choice,
    pub database_url: Option<Secret>,
    /// Without a slash at its end.
    pub rest_url: Option<String>,
    pub service_key: Option<Secret>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    Postgres,
    Rest,
}

impl Options {
    /// The way that these lead to, whether or not all that it needs is there; none where no hub is wanted.
    pub fn way(&self) -> Option<Way> {
        match self.transport {
            Choice::Auto if self.database_url.is_some() => Some(Way::Postgres),
            Choice::Auto => self.rest_url.is_some().then_some(Way::Rest),
            Choice::Postgres => Some(Way::Postgres),
            Choice::Rest => Some(Way::Rest),
            Choice::Off => None,
        }
    }
}

/// The way that was chosen.
pub struct Route {
    pub transport: Arc<dyn Transport>,
    /// What of the settings deserves a word, though they can be used.
    pub warnings: Vec<String>,
}

/// Nothing, when no hub is wanted. Connects to nothing yet.
///
/// # Errors
/// Of kind `Settings`, when what is configured cannot be used.
pub fn choose(options: &Options) -> Result<Option<Route>, Error> {
    match options.way() {
        None => Ok(None),
        Some(Way::Postgres) => {
            let url = options.database_url.clone().ok_or_else(|| missing("DATABASE_URL"))?;
            let postgres = Postgres::new(&postgres::Options::new(url))?;
            let warnings = postgres.warnings().to_vec();
            Ok(Some(Route { transport: Arc::new(postgres), warnings }))
        }
        Some(Way::Rest) => {
            // A project's database tells where its API is.
            let base = options
                .rest_url
                .clone()
                .or_else(|| options.database_url.as_ref().and_then(rest_url_of))
                .ok_or_else(|| missing("SUPABASE_REST_URL"))?;
            let key = options.service_key.clone().ok_or_else(|| missing("SUPABASE_SERVICE_ROLE_KEY"))?;
            let rest = Rest::new(&rest::Options::new(base, key))?;
            let warnings = rest.warnings().to_vec();
            Ok(Some(Route { transport: Arc::new(rest), warnings }))
        }
    }
}

/// As [`choose`], for a server: settings that cannot be used at present are tried again with each call.
pub fn choose_or_wait(options: &Options) -> Option<Route> {
    choose(options).unwrap_or_else(|_said_by_every_call| {
        let later = Later::new(options.clone(), options.way()?);
        Some(Route { transport: Arc::new(later), warnings: Vec::new() })
    })
}

fn missing(name: &str) -> Error {
    Error::new(ErrorKind::Settings, format!("{name} is missing"))
}

/// Where the REST API of a Supabase project is, from its database's URL.
pub fn rest_url_of(database_url: &Secret) -> Option<String> {
    let (host, user) = postgres::host_and_user(database_url)?;
    let project = if host.ends_with(".pooler.supabase.com") {
        user.strip_prefix("postgres.")?
    } else {
        host.strip_prefix("db.")?.strip_suffix(".supabase.co")?
    };
    let is_name = !project.is_empty() && project.bytes().all(|b| b.is_ascii_alphanumeric());
    is_name.then(|| format!("https://{project}.supabase.co/rest/v1"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_projects_api_is_found_from_its_database() {
        let found = |url: &str| rest_url_of(&Secret::new(url));
        let expected = Some("https://abcdefgh.supabase.co/rest/v1".to_owned());
        assert_eq!(
            found("postgres://postgres.abcdefgh:p@aws-0-eu-central-1.pooler.supabase.com:6543/postgres"),
            expected
        );
        assert_eq!(found("postgresql://postgres:p%40@db.abcdefgh.supabase.co:5432/postgres"), expected);
        for url in [
            "postgres://postgres:p@aws-0-eu-central-1.pooler.supabase.com/postgres",
            "postgres://u:p@db.example.com/postgres",
            "postgres://u:p@db.evil.com%2F.supabase.co/postgres",
            "nonsense",
        ] {
            assert_eq!(found(url), None, "{url}");
        }
    }

    #[test]
    fn what_is_there_is_chosen() {
        let database_url = Some(Secret::new("postgres://u:p@127.0.0.1:1/db"));
        let rest_url = Some("http://127.0.0.1:1".to_owned());
        let service_key = Some(Secret::new("sb_secret_0123456789abcdef"));
        let both = Options { transport: Choice::Auto, database_url, rest_url, service_key };
        let kind = |options: &Options| choose(options).unwrap().map(|route| route.transport.kind());
        assert_eq!(kind(&both), Some("postgres"));
        assert_eq!(kind(&Options { transport: Choice::Rest, ..both.clone() }), Some("rest"));
        assert_eq!(kind(&Options { transport: Choice::Off, ..both.clone() }), None);
        assert_eq!(kind(&Options { database_url: None, ..both.clone() }), Some("rest"));
        assert_eq!(kind(&Options::default()), None);
        for (transport, name) in [(Choice::Postgres, "DATABASE_URL"), (Choice::Rest, "SUPABASE_REST_URL")] {
            let error = choose(&Options { transport, ..Options::default() }).err().unwrap();
            assert!(error.kind == ErrorKind::Settings && error.detail.contains(name), "{error}");
        }
        let error = choose(&Options { service_key: None, transport: Choice::Rest, ..both }).err().unwrap();
        assert!(error.detail.contains("SUPABASE_SERVICE_ROLE_KEY"), "{error}");
    }
}
