//! Where the server is and what it accepts as an administrator.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

use reqwest::Url;

use super::{client::Client, error::Error, io::Io};
use crate::{
    config::{Config, ConfigError, Loaded, Overrides},
    model::Secret,
};

/// In the data folder: the admin token that the server made for itself.
pub(super) use crate::app::ADMIN_TOKEN_FILE as TOKEN_FILE;
/// Where the service of `scripts/install` keeps its data.
const SERVICE_DIR: &str = "/var/lib/keytide";

/// Which configuration holds here.
#[derive(clap::Args)]
pub(super) struct Local {
    /// The configuration file [env: KEYTIDE_CONFIG] [default: ./config.toml, else /etc/keytide/config.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub(super) config: Option<PathBuf>,
    /// The data folder, instead of the configured one
    #[arg(long, value_name = "DIR", global = true)]
    pub(super) data_dir: Option<PathBuf>,
}

impl Local {
    pub(super) fn load(&self, io: &Io) -> Result<Loaded, Error> {
        self.load_with(None, io)
    }

    pub(super) fn load_with(&self, listen: Option<SocketAddr>, io: &Io) -> Result<Loaded, Error> {
        self.read(listen, io).map_err(|error| Error::failed(error.to_string()))
    }

    pub(super) fn read(&self, listen: Option<SocketAddr>, io: &Io) -> Result<Loaded, ConfigError> {
        self.reader(listen, io)()
    }

    /// Reads the same configuration again at every call.
    pub(super) fn reader(
        &self,
        listen: Option<SocketAddr>,
        io: &Io,
    ) -> impl Fn() -> Result<Loaded, ConfigError> + Send + Sync + 'static {
        let named = self.config.clone().or_else(|| io.var("KEYTIDE_CONFIG").map(PathBuf::from));
        let overrides = Overrides { listen, data_dir: self.data_dir.clone() };
        let env = io.env.clone();
        move || Config::load(named.as_deref(), &overrides, env.iter().cloned())
    }
}

/// Which server is talked to.
#[derive(clap::Args)]
pub(super) struct Remote {
    /// The server's address [env: KEYTIDE_URL] [default: from server.listen]
    #[arg(long, value_name = "URL", global = true)]
    url: Option<String>,
    /// The admin token [env: KEYTIDE_ADMIN_TOKEN, ADMIN_TOKEN] [default: server.admin_token, else the one in the
    /// data folder]
    #[arg(long, value_name = "TOKEN", global = true, value_parser = secret)]
    admin_token: Option<Secret>,
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) local: Local,
}

#[derive(clap::Args)]
pub(super) struct ForProvider {
    /// The provider, as it is named in the configuration [default: server.default_provider]
    #[arg(long, value_name = "NAME", global = true)]
    pub(super) provider: Option<String>,
}

/// For arguments that no message must repeat.
pub(super) fn secret(text: &str) -> Result<Secret, std::convert::Infallible> {
    Ok(Secret::new(text.trim()))
}

impl Remote {
    pub(super) fn client(&self, io: &Io) -> Result<Client, Error> {
        // A configuration that is not needed cannot be in the way.
        let loaded = match (self.address(io), self.given_token(io)) {
            (Some(_), Some(_)) => None,
            _ => Some(self.local.load(io)?),
        };
        self.client_of(loaded.as_ref(), io)
    }

    /// `loaded` may be absent when address and token are given.
    pub(super) fn client_of(&self, loaded: Option<&Loaded>, io: &Io) -> Result<Client, Error> {
        let base = match (self.address(io), loaded) {
            (Some(text), _) => parse_url(&text)?,
            (None, Some(loaded)) => url_of(loaded.config.server.gateway.listen)?,
            (None, None) => return Err(Error::usage("no server is named; pass --url")),
        };
        let (token, hint) = match (self.given_token(io), loaded) {
            (Some(token), _) => (Some(token), None),
            (None, Some(loaded)) => self.find_token(&base, loaded),
            (None, None) => (None, None),
        };
        Client::new(base, token, hint)
    }

    /// Whether a flag says something about the server.
    pub(super) fn is_given(&self) -> bool {
        self.url.is_some() || self.admin_token.is_some()
    }

    /// Whether the person at the keyboard has named a server.
    pub(super) fn names_server(&self, io: &Io) -> bool {
        self.address(io).is_some()
    }

    fn address(&self, io: &Io) -> Option<String> {
        let text = self.url.as_deref().or_else(|| io.var("KEYTIDE_URL"))?.trim();
        Some(text.to_owned()).filter(|text| !text.is_empty())
    }

    fn given_token(&self, io: &Io) -> Option<Secret> {
        let variable = || io.var("KEYTIDE_ADMIN_TOKEN").or_else(|| io.var("ADMIN_TOKEN")).map(Secret::new);
        self.admin_token.clone().filter(|token| !token.expose().is_empty()).or_else(variable)
    }

    /// What is found rather than given is shown to this machine alone. The second part says, for people, what
    /// was looked at.
    fn find_token(&self, base: &Url, loaded: &Loaded) -> (Option<Secret>, Option<String>) {
        if !is_local(base, loaded.config.server.gateway.listen) {
            return (None, None);
        }
        if let Some(token) = &loaded.config.server.admin_token {
            return (Some(token.clone()), None);
        }
        let mut dirs = vec![loaded.config.store.dir.as_path()];
        if self.local.data_dir.is_none() {
            dirs.push(Path::new(SERVICE_DIR));
        }
        let mut hint = None;
        for dir in dirs {
            match read_token(dir) {
                Ok(Some(token)) => return (Some(token), None),
                Ok(None) => {}
                Err(why) => hint = hint.or(Some(why)),
            }
        }
        (None, hint)
    }
}

/// The token in a data folder; `None` when it has none.
///
/// # Errors
/// One sentence when there is one that cannot be read.
pub(super) fn read_token(dir: &Path) -> Result<Option<Secret>, String> {
    let path = dir.join(TOKEN_FILE);
    match std::fs::read_to_string(&path) {
        Ok(text) if text.trim().is_empty() => Err(format!("{} is empty", path.display())),
        Ok(text) => Ok(Some(Secret::new(text.trim()))),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(format!("{} cannot be read ({error})", path.display())),
    }
}

/// Where a server that listens on `listen` is reached from this machine.
fn url_of(listen: SocketAddr) -> Result<Url, Error> {
    if listen.port() == 0 {
        return Err(Error::usage("server.listen names no port, so the server's is not known; pass --url"));
    }
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    parse_url(&format!("http://{}", SocketAddr::new(ip, listen.port())))
}

fn parse_url(text: &str) -> Result<Url, Error> {
    let wrong = |why: &str| {
        Err(Error::usage(format!("the server's address {why}; write it like http://127.0.0.1:8787")))
    };
    let url = match text.parse::<Url>() {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => url,
        _ => return wrong("must begin with http:// or https:// and name a host"),
    };
    if !url.username().is_empty() || url.password().is_some() {
        return wrong("must not hold a user or a password");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return wrong("must end with its path");
    }
    Ok(url)
}

fn is_local(url: &Url, listen: SocketAddr) -> bool {
    is_loopback(url) || ip_of(url).is_some_and(|ip| ip == listen.ip())
}

pub(super) fn is_loopback(url: &Url) -> bool {
    url.host_str() == Some("localhost") || ip_of(url).is_some_and(|ip| ip.is_loopback())
}

fn ip_of(url: &Url) -> Option<IpAddr> {
    url.host_str()?.trim_matches(['[', ']']).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_listening_server_is_reached() {
        for (listen, url) in [
            ("127.0.0.1:8787", "http://127.0.0.1:8787/"),
            ("0.0.0.0:80", "http://127.0.0.1/"),
            ("[::]:8787", "http://[::1]:8787/"),
            ("10.0.0.7:1", "http://10.0.0.7:1/"),
        ] {
            assert_eq!(url_of(listen.parse().unwrap()).unwrap().as_str(), url);
        }
        assert!(url_of("127.0.0.1:0".parse().unwrap()).is_err());
    }

    #[test]
    fn addresses() {
        for good in ["http://localhost:8787", "https://keys.example.com/keytide/", "http://[::1]:1"] {
            assert!(parse_url(good).is_ok(), "{good}");
        }
        for bad in ["", "localhost:8787", "ftp://x", "http://u:p@host", "http://host/?a=b", "http://"] {
            assert!(matches!(parse_url(bad), Err(Error::Usage(text)) if !text.contains("u:p")), "{bad}");
        }
    }

    #[test]
    fn found_tokens_stay_on_this_machine() {
        let listen = "10.0.0.7:8787".parse().unwrap();
        for (url, local) in [
            ("http://localhost:1", true),
            ("http://127.9.9.9", true),
            ("http://[::1]:5", true),
            ("http://10.0.0.7:99", true),
            ("http://10.0.0.8:8787", false),
            ("https://localhost.example.com", false),
        ] {
            assert_eq!(is_local(&parse_url(url).unwrap(), listen), local, "{url}");
        }
    }
}
