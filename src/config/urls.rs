//! Addresses as people write them. No message repeats an address: it may hold a password.

use http::{Uri, uri::Authority};

use crate::{
    model::Secret,
    upstream::options::{Login, Proxy},
};

/// The address of a provider or a REST API, without a slash at its end.
pub(super) fn http_url(text: &str) -> Result<Uri, String> {
    let text = text.trim().trim_end_matches('/');
    let bad = || "must be a full address, like \"https://host\" or \"http://host:port/path\"".to_owned();
    let uri: Uri = text.parse().map_err(|_| bad())?;
    let authority = match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) => authority,
        _ => return Err(bad()),
    };
    if authority.as_str().contains('@') {
        return Err("must not hold a user name or password; keys belong in the pool".to_owned());
    }
    if !has_host(authority) {
        return Err(bad());
    }
    // `Uri` drops a fragment silently.
    if uri.query().is_some() || text.contains('#') {
        return Err("must not have a ? or # part".to_owned());
    }
    Ok(uri)
}

/// An [`Uri`] as it was written: without the path that it adds where there is none.
pub(super) fn show_url(uri: &Uri) -> String {
    uri.to_string().trim_end_matches('/').to_owned()
}

fn has_host(authority: &Authority) -> bool {
    let port_is_number = match authority.as_str().rsplit_once(':') {
        Some((_, port)) if !port.ends_with(']') => port.parse::<u16>().is_ok_and(|port| port > 0),
        _ => true,
    };
    !authority.host().is_empty() && port_is_number
}

pub(super) fn proxy(text: &str) -> Result<Proxy, String> {
    let bad = || {
        "must be like \"http://host:port\", \"socks5://host:port\" or \"socks5h://host:port\", with \
         user:password@ before the host where the proxy wants it"
            .to_owned()
    };
    let uri: Uri = text.trim().parse().map_err(|_| bad())?;
    let authority = uri.authority().ok_or_else(bad)?;
    if !matches!(uri.path(), "" | "/") || uri.query().is_some() || text.contains('#') {
        return Err(bad());
    }
    let (userinfo, place) = match authority.as_str().rsplit_once('@') {
        Some((userinfo, place)) => (Some(userinfo), place),
        None => (None, authority.as_str()),
    };
    let login = match userinfo {
        None => None,
        Some(userinfo) => {
            let (user, password) = userinfo.split_once(':').unwrap_or((userinfo, ""));
            let decode = |part| percent_decode(part).ok_or_else(bad);
            Some(Login { user: decode(user)?, password: Secret::new(decode(password)?) })
        }
    };
    let place: Authority = place.parse().map_err(|_| bad())?;
    if !has_host(&place) {
        return Err(bad());
    }
    let dial = |port: u16| {
        let port = place.port_u16().unwrap_or(port);
        format!("http://{}:{port}", place.host()).parse::<Uri>().map_err(|_| bad())
    };
    match uri.scheme_str() {
        Some("http") => Ok(Proxy::Http { uri: dial(80)?, login }),
        Some(scheme @ ("socks5" | "socks5h")) => {
            // RFC 1929 carries both in one byte of length each.
            if login
                .as_ref()
                .is_some_and(|l| l.user.is_empty() || l.user.len().max(l.password.expose().len()) > 255)
            {
                return Err(
                    "must have a user name, and at most 255 bytes in name and password each".to_owned()
                );
            }
            Ok(Proxy::Socks5 { uri: dial(1080)?, login, local_dns: scheme == "socks5" })
        }
        _ => Err(bad()),
    }
}

pub(super) fn show_proxy(proxy: &Proxy) -> String {
    let (scheme, uri, login) = match proxy {
        Proxy::Http { uri, login } => ("http", uri, login),
        Proxy::Socks5 { uri, login, local_dns: true } => ("socks5", uri, login),
        Proxy::Socks5 { uri, login, local_dns: false } => ("socks5h", uri, login),
    };
    let place = uri.authority().map_or("", Authority::as_str);
    format!("{scheme}://{}{place}", if login.is_some() { "…@" } else { "" })
}

fn percent_decode(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || (rest.next()? as char).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A PostgreSQL connection string. Only its shape is checked; the driver knows the rest.
pub(super) fn database_url(text: &str) -> Result<(), String> {
    let bad = || "must be like \"postgresql://user:password@host:port/database\"".to_owned();
    let rest =
        text.strip_prefix("postgres://").or_else(|| text.strip_prefix("postgresql://")).ok_or_else(bad)?;
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("{}, without spaces; write %20 for a space in a password", bad()));
    }
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = place.split('/').next().unwrap_or(place);
    let host = authority.rsplit('@').next().unwrap_or(authority);
    let host_in_query =
        query.split('&').any(|pair| pair.starts_with("host=") || pair.starts_with("hostaddr="));
    let named = !host.is_empty() && !host.starts_with(':');
    if named || host_in_query { Ok(()) } else { Err(bad()) }
}

/// What a browser sends as `Origin`, or `*`.
pub(super) fn origin(text: &str) -> Result<(), String> {
    let bad =
        || "must hold origins like \"https://app.example.com\" without a path, or \"*\" for any".to_owned();
    if text == "*" {
        return Ok(());
    }
    let uri = http_url(text).map_err(|_| bad())?;
    let bare = matches!(uri.path(), "" | "/") && !text.ends_with('/') && *text == text.to_lowercase();
    if bare { Ok(()) } else { Err(bad()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn provider_addresses() {
        for (given, kept) in [
            ("https://ollama.com/", "https://ollama.com"),
            ("http://127.0.0.1:11434", "http://127.0.0.1:11434"),
            ("https://[::1]:8443/x/", "https://[::1]:8443/x"),
            ("https://openrouter.ai/api", "https://openrouter.ai/api"),
        ] {
            assert_eq!(show_url(&http_url(given).unwrap()), kept);
        }
        for bad in [
            "",
            "ollama.com",
            "/v1",
            "ftp://x",
            "http://",
            "http://:80",
            "http://h:0",
            "http://h:99999",
            "http://h:port",
            "http://u:p@h",
            "http://u@h",
            "http://h/?a=b",
            "http://h/#f",
            "http://h h",
            "https:///x",
        ] {
            assert!(http_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn proxies() {
        let login = Some(Login { user: "me".to_owned(), password: Secret::new("p@ss:word") });
        let uri = |text: &str| text.parse::<Uri>().unwrap();
        assert_eq!(
            proxy("http://me:p%40ss%3Aword@proxy:3128/"),
            Ok(Proxy::Http { uri: uri("http://proxy:3128"), login: login.clone() })
        );
        assert_eq!(
            proxy("socks5://me:p%40ss:word@[::1]"),
            Ok(Proxy::Socks5 { uri: uri("http://[::1]:1080"), login, local_dns: true })
        );
        assert_eq!(
            proxy("socks5h://10.0.0.1:9050"),
            Ok(Proxy::Socks5 { uri: uri("http://10.0.0.1:9050"), login: None, local_dns: false })
        );
        assert_eq!(show_proxy(&proxy("socks5h://me:secret@h:1").unwrap()), "socks5h://…@h:1");
        for bad in [
            "",
            "proxy:3128",
            "https://proxy:443",
            "socks4://h:1",
            "http://",
            "http://h:1/path",
            "http://h:x",
            "http://u:%zz@h:1",
            "http://u:%f@h:1",
            "socks5://:p@h",
            "http://@:80",
        ] {
            assert!(proxy(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn databases() {
        for good in [
            "postgres://u:p@h/db",
            "postgresql://postgres.ref:pa@ss@aws-0.pooler.supabase.com:6543/postgres?pgbouncer=true",
            "postgresql://h",
            "postgresql:///db?host=/run/postgresql",
        ] {
            assert_eq!(database_url(good), Ok(()), "{good}");
        }
        for bad in [
            "mysql://u@h/db",
            "postgres://",
            "postgres://u:p@/db",
            "postgres://u:p w@h/db",
            "postgres://:5432",
        ] {
            assert!(database_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn origins() {
        for good in ["*", "https://app.example.com", "http://localhost:3000"] {
            assert_eq!(origin(good), Ok(()), "{good}");
        }
        for bad in
            ["", "app.example.com", "https://x/", "https://x/path", "null", "https://*.x.com/", "HTTPS://X"]
        {
            assert!(origin(bad).is_err(), "{bad}");
        }
    }
}
