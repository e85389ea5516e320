//! `DATABASE_URL` as people write it and as other tools leave it behind: what it says, and what of it was left
//! out. No message repeats a part that may be secret.

use std::{net::IpAddr, path::PathBuf, time::Duration};

use percent_encoding::percent_decode_str;
use tokio_postgres::config::ChannelBinding;

use super::super::{
    tls::{Check, Roots},
    transport::{Error, ErrorKind},
};
use crate::model::Secret;

const DEFAULT_PORT: u16 = 5432;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Tcp {
        host: String,
        port: u16,
    },
    /// The socket itself, not its folder.
    Unix(PathBuf),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encryption {
    Never,
    IfOffered,
    Always,
}

#[derive(Clone, Debug)]
pub(super) struct Address {
    pub(super) place: Place,
    pub(super) user: String,
    pub(super) password: Option<Secret>,
    pub(super) database: String,
    pub(super) encryption: Encryption,
    pub(super) check: Check,
    pub(super) roots: Roots,
    pub(super) channel_binding: ChannelBinding,
    pub(super) connect_timeout: Option<Duration>,
    pub(super) application_name: Option<String>,
    /// Postgres's own `options`, which many poolers refuse.
    pub(super) options: Option<String>,
    pub(super) warnings: Vec<String>,
}

/// The values as they were written.
#[derive(Default)]
struct Written {
    host: Option<String>,
    port: Option<String>,
    user: Option<String>,
    password: Option<String>,
    database: Option<String>,
    sslmode: Option<String>,
    sslrootcert: Option<String>,
    channel_binding: Option<String>,
    connect_timeout: Option<String>,
    application_name: Option<String>,
    options: Option<String>,
    warnings: Vec<String>,
}

/// Parameters that say nothing to keytide: how other programs pool and prepare, and libpq's defaults.
const WITHOUT_EFFECT: [&str; 21] = [
    "pgbouncer",
    "connection_limit",
    "pool_timeout",
    "pool_mode",
    "statement_cache_size",
    "socket_timeout",
    "prepared_statements",
    "supa",
    "workaround",
    "target_session_attrs",
    "load_balance_hosts",
    "gssencmode",
    "sslsni",
    "uselibpqcompat",
    "client_encoding",
    "fallback_application_name",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
];

impl Address {
    /// # Errors
    /// When it cannot be used; the text says why without repeating it.
    pub(super) fn parse(url: &Secret) -> Result<Self, Error> {
        let text = url.expose().trim();
        let rest = ["postgres://", "postgresql://"]
            .iter()
            .find_map(|scheme| text.strip_prefix(scheme))
            .ok_or_else(|| unusable("must be like postgres://user:password@host:5432/database"))?;
        let mut written = Written::default();
        let (userinfo, place) = split_userinfo(rest);
        if let Some(userinfo) = userinfo {
            written.read_userinfo(userinfo)?;
        }
        let (place, query) = place.split_once('?').map_or((place, ""), |(place, query)| (place, query));
        written.read_place(place)?;
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            written.read_parameter(&decoded(name)?, decoded(value)?)?;
        }
        written.checked()
    }

    /// For people: without user and password.
    pub(super) fn shown(&self) -> String {
        match &self.place {
            Place::Tcp { host, port } if host.contains(':') => {
                format!("postgres://[{host}]:{port}/{}", self.database)
            }
            Place::Tcp { host, port } => format!("postgres://{host}:{port}/{}", self.database),
            Place::Unix(socket) => format!("postgres:{} database {}", socket.display(), self.database),
        }
    }
}

fn unusable(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::Settings, format!("DATABASE_URL {}", why.into()))
}

/// Passwords are often pasted without percent-encoding: what stands before the last `@` is the user's part
/// whenever the first reading leaves an `@` or a `/` where no name of a database has one.
fn split_userinfo(rest: &str) -> (Option<&str>, &str) {
    let authority_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let path_end = rest[authority_end..].find('?').map_or(rest.len(), |at| authority_end + at);
    let path = rest[authority_end..path_end].trim_start_matches('/');
    let regular = rest[..authority_end].rfind('@');
    let at = match regular {
        Some(at) if !path.contains(['@', '/', '#']) => Some(at),
        None if !rest[authority_end..].contains('@') => None,
        // Without an `@` in its place, a later one is the place's end of the user's part, unless that is
        // inside a parameter of a URL that names no user there.
        None if rest[authority_end..].starts_with('?') && rest[..authority_end].is_empty() => None,
        None if rest.starts_with('/') => None,
        Some(_) | None => rest.rfind('@'),
    };
    match at {
        Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
        None => (None, rest),
    }
}

/// Percent-decoded; a `%` that begins no code stands for itself.
fn decoded(text: &str) -> Result<String, Error> {
    percent_decode_str(text)
        .decode_utf8()
        .map(|text| text.into_owned())
        .map_err(|_| unusable("has percent-codes that are not UTF-8"))
}

impl Written {
    fn read_userinfo(&mut self, userinfo: &str) -> Result<(), Error> {
        let (user, password) = match userinfo.split_once(':') {
            Some((user, password)) => (user, Some(password)),
            None => (userinfo, None),
        };
        if password.is_some_and(|password| password.starts_with("[YOUR") && password.ends_with(']')) {
            return Err(unusable("still has a placeholder where its password belongs"));
        }
        self.user = Some(decoded(user)?).filter(|user| !user.is_empty());
        self.password = password.map(decoded).transpose()?;
        Ok(())
    }

    fn read_place(&mut self, place: &str) -> Result<(), Error> {
        let (authority, database) = place.split_once('/').unwrap_or((place, ""));
        if authority.contains(',') {
            return Err(unusable("names several hosts, and keytide wants one"));
        }
        let (host, port) = if let Some(bracketed) = authority.strip_prefix('[') {
            let (host, rest) = bracketed
                .split_once(']')
                .ok_or_else(|| unusable("has a [ without a ] where its host belongs"))?;
            (host, rest.strip_prefix(':').unwrap_or(rest))
        } else {
            authority.split_once(':').unwrap_or((authority, ""))
        };
        self.host = Some(decoded(host)?).filter(|host| !host.is_empty());
        self.port = Some(port.to_owned()).filter(|port| !port.is_empty());
        self.database = Some(decoded(database)?).filter(|database| !database.is_empty());
        Ok(())
    }

    fn read_parameter(&mut self, name: &str, value: String) -> Result<(), Error> {
        let slot = match name {
            "host" | "hostaddr" => &mut self.host,
            "port" => &mut self.port,
            "user" => &mut self.user,
            "password" => &mut self.password,
            "dbname" => &mut self.database,
            "sslmode" => &mut self.sslmode,
            "sslrootcert" => &mut self.sslrootcert,
            "channel_binding" => &mut self.channel_binding,
            "connect_timeout" => &mut self.connect_timeout,
            "application_name" => &mut self.application_name,
            "options" => &mut self.options,
            "sslcert" | "sslkey" | "sslidentity" => {
                return Err(unusable(format!("has {name}, but keytide has no client certificates")));
            }
            "sslnegotiation" if value == "postgres" => return Ok(()),
            "schema" if value == "public" => return Ok(()),
            "schema" => {
                self.warnings
                    .push("DATABASE_URL's schema is not used: keytide's functions are in public".into());
                return Ok(());
            }
            _ if WITHOUT_EFFECT.contains(&name) => return Ok(()),
            _ => {
                let shown: String = name.chars().filter(|c| !c.is_control()).take(40).collect();
                self.warnings.push(format!("DATABASE_URL's parameter {shown} is not used"));
                return Ok(());
            }
        };
        if !value.is_empty() {
            *slot = Some(value);
        }
        Ok(())
    }

    fn checked(mut self) -> Result<Address, Error> {
        let port = match &self.port {
            None => DEFAULT_PORT,
            Some(port) => port
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| unusable("has no number where its port belongs"))?,
        };
        let host = self.host.take().ok_or_else(|| unusable("names no host"))?;
        let user = self.user.take().ok_or_else(|| unusable("names no user"))?;
        let place = if host.starts_with('/') {
            Place::Unix(PathBuf::from(host).join(format!(".s.PGSQL.{port}")))
        } else {
            Place::Tcp { host, port }
        };
        let (encryption, check, roots) = self.tls(&place)?;
        let channel_binding = match self.channel_binding.as_deref() {
            None | Some("prefer") => ChannelBinding::Prefer,
            Some("disable") => ChannelBinding::Disable,
            Some("require") => ChannelBinding::Require,
            Some(_) => return Err(unusable("has a channel_binding that is not disable, prefer or require")),
        };
        let connect_timeout = match self.connect_timeout.as_deref() {
            None | Some("0") => None,
            Some(seconds) => Some(Duration::from_secs(
                seconds
                    .parse()
                    .map_err(|_| unusable("has a connect_timeout that is no number of seconds"))?,
            )),
        };
        Ok(Address {
            place,
            database: self.database.unwrap_or_else(|| user.clone()),
            user,
            password: self.password.filter(|password| !password.is_empty()).map(Secret::new),
            encryption,
            check,
            roots,
            channel_binding,
            connect_timeout,
            application_name: self.application_name,
            options: self.options,
            warnings: self.warnings,
        })
    }

    /// As libpq reads `sslmode` and `sslrootcert`, but for what their absence means: over a network there is no
    /// quiet fallback to plain text, and a named authority is there to be checked.
    fn tls(&mut self, place: &Place) -> Result<(Encryption, Check, Roots), Error> {
        let Place::Tcp { host, .. } = place else {
            return Ok((Encryption::Never, Check::Nothing, Roots::Public));
        };
        let mode = self.sslmode.as_deref();
        let (roots, named) = match self.sslrootcert.as_deref() {
            None => (Roots::Public, false),
            Some("system") => {
                if mode.is_some_and(|mode| mode != "verify-full") {
                    return Err(unusable("has sslrootcert=system, which needs sslmode=verify-full"));
                }
                (Roots::Public, true)
            }
            Some(path) => (Roots::File(PathBuf::from(path)), true),
        };
        let (encryption, check) = match mode {
            Some("disable") => (Encryption::Never, Check::Nothing),
            Some("allow" | "prefer") => (Encryption::IfOffered, Check::Nothing),
            Some("require") if named => (Encryption::Always, Check::Chain),
            Some("require") => (Encryption::Always, Check::Nothing),
            Some("verify-ca") => (Encryption::Always, Check::Chain),
            Some("verify-full") => (Encryption::Always, Check::ChainAndName),
            Some(_) => {
                return Err(unusable(
                    "has an sslmode that is not disable, prefer, require, verify-ca or verify-full",
                ));
            }
            None if named => (Encryption::Always, Check::ChainAndName),
            // What does not leave the machine needs no encryption; where it is offered it is taken.
            None if is_loopback(host) => (Encryption::IfOffered, Check::Nothing),
            None => {
                self.warnings.push(
                    "DATABASE_URL has no sslmode: the connection is encrypted, but whoever stands between could \
                     pose as the hub. Add sslmode=verify-full&sslrootcert=FILE with the authority's certificate \
                     (Supabase's is in its dashboard), or sslmode=require to be content with this"
                        .to_owned(),
                );
                (Encryption::Always, Check::Nothing)
            }
        };
        Ok((encryption, check, roots))
    }
}

fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
#[path = "url_tests.rs"]
mod tests;
