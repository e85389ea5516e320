//! What of a request's headers goes to the provider, and what of an answer's to the caller.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::options::Options;

/// What can be sent as a request's headers.
pub trait Headers {
    fn each(&self, take: impl FnMut(&HeaderName, &HeaderValue));

    /// Whether `each` brings a `Host`.
    fn name_host(&self) -> bool;

    fn to_map(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        self.each(|name, value| {
            headers.append(name, value.clone());
        });
        headers
    }
}

impl Headers for HeaderMap {
    fn each(&self, mut take: impl FnMut(&HeaderName, &HeaderValue)) {
        self.iter().for_each(|(name, value)| take(name, value));
    }

    fn name_host(&self) -> bool {
        self.contains_key(header::HOST)
    }
}

/// A request's headers as the provider gets them: what the caller sent, without what is between the caller and keytide,
/// with the pooled key and the provider's configured headers. They are picked while they are written: a map of them
/// would be made, filled and dropped with each request.
pub struct RequestHeaders<'a> {
    pub caller: &'a HeaderMap,
    pub options: &'a Options,
    pub credential: &'a HeaderValue,
    /// Whether there is a body, which is JSON.
    pub has_body: bool,
}

impl RequestHeaders<'_> {
    fn is_configured(&self, name: &HeaderName) -> bool {
        *name == self.options.auth_header
            || self.options.headers.iter().any(|(configured, _)| configured == name)
    }
}

impl Headers for RequestHeaders<'_> {
    fn each(&self, mut take: impl FnMut(&HeaderName, &HeaderValue)) {
        let Self { caller, options, credential, has_body } = *self;
        let listed = connection_listed(caller);
        for (name, value) in caller {
            let is_ours = *name == header::ACCEPT_ENCODING
                || *name == header::USER_AGENT
                || has_body && *name == header::CONTENT_TYPE
                || self.is_configured(name);
            if !(is_ours || is_hop_by_hop(name) || is_private(name) || listed.contains(name.as_str())) {
                take(name, value);
            }
        }
        let agent = HeaderValue::from_static(concat!("keytide/", env!("CARGO_PKG_VERSION")));
        for (name, value) in
            [(header::ACCEPT_ENCODING, HeaderValue::from_static("identity")), (header::USER_AGENT, agent)]
        {
            if !self.is_configured(&name) {
                take(&name, &value);
            }
        }
        for (at, (name, value)) in options.headers.iter().enumerate() {
            let is_said_again = options.headers[at + 1..].iter().any(|(later, _)| later == name);
            let is_ours = *name == options.auth_header || has_body && *name == header::CONTENT_TYPE;
            if !(is_said_again || is_ours) {
                take(name, value);
            }
        }
        if has_body && options.auth_header != header::CONTENT_TYPE {
            take(&header::CONTENT_TYPE, &HeaderValue::from_static("application/json"));
        }
        take(&options.auth_header, credential);
    }

    fn name_host(&self) -> bool {
        // The caller's own stays here.
        self.is_configured(&header::HOST)
    }
}

/// Leaves of a response's headers what the caller gets.
pub fn keep_for_caller(headers: &mut HeaderMap) {
    let listed = connection_listed(headers);
    let is_kept_back = |name: &HeaderName| {
        is_hop_by_hop(name)
            || name == header::SET_COOKIE
            || name == header::CONTENT_LENGTH
            || name == "x-request-id"
            || name.as_str().starts_with("access-control-")
            || is_about_origin(name)
            || listed.contains(name.as_str())
    };
    let kept_back: Vec<HeaderName> = headers.keys().filter(|name| is_kept_back(name)).cloned().collect();
    for name in kept_back {
        headers.remove(name);
    }
}

/// Headers that `Connection` names belong to that connection too.
struct Listed<'a>(Option<&'a HeaderMap>);

fn connection_listed(headers: &HeaderMap) -> Listed<'_> {
    Listed(headers.contains_key(header::CONNECTION).then_some(headers))
}

impl Listed<'_> {
    fn contains(&self, name: &str) -> bool {
        self.0.is_some_and(|headers| {
            headers
                .get_all(header::CONNECTION)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .flat_map(|value| value.split(','))
                .any(|listed| listed.trim().eq_ignore_ascii_case(name))
        })
    }
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// What a provider says of its own address, which callers would take for a word on ours.
fn is_about_origin(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "alt-svc"
            | "strict-transport-security"
            | "clear-site-data"
            | "nel"
            | "report-to"
            | "reporting-endpoints"
    )
}

/// What tells the provider who the caller is, or is keytide's own business.
fn is_private(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "authorization"
            | "x-api-key"
            | "api-key"
            | "cookie"
            | "forwarded"
            | "via"
            | "x-real-ip"
            | "true-client-ip"
            | "x-client-ip"
            | "origin"
            | "referer"
            | "content-length"
            | "expect"
            | "x-request-id"
    ) || name.as_str().starts_with("x-forwarded-")
        || name.as_str().starts_with("cf-")
        || name.as_str().starts_with("sec-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn what_belongs_to_the_caller_stays_here() {
        let options = Options {
            headers: vec![(header::HeaderName::from_static("x-title"), HeaderValue::from_static("mine"))],
            ..Options::default()
        };
        let caller = map(&[
            ("authorization", "Bearer sk-caller"),
            ("x-api-key", "sk-caller"),
            ("cookie", "a=b"),
            ("x-forwarded-for", "10.0.0.1"),
            ("forwarded", "for=10.0.0.1"),
            ("connection", "keep-alive, x-private"),
            ("x-private", "yes"),
            ("transfer-encoding", "chunked"),
            ("accept-encoding", "br"),
            ("user-agent", "OpenAI/Python"),
            ("x-title", "theirs"),
            ("anthropic-version", "2023-06-01"),
            ("content-type", "application/json"),
        ]);
        let credential = HeaderValue::from_static("Bearer pooled");
        let headers =
            RequestHeaders { caller: &caller, options: &options, credential: &credential, has_body: true };
        let sent = headers.to_map();
        assert_eq!(sent.len(), sent.keys_len(), "one of each");
        let mut names: Vec<_> = sent.keys().map(|name| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(
            names,
            [
                "accept-encoding",
                "anthropic-version",
                "authorization",
                "content-type",
                "user-agent",
                "x-title"
            ]
        );
        assert_eq!(sent["authorization"], "Bearer pooled");
        assert_eq!(sent["accept-encoding"], "identity");
        assert_eq!(sent["x-title"], "mine");
        assert!(sent["user-agent"].to_str().unwrap().starts_with("keytide/"));
    }

    #[test]
    fn a_host_is_named_where_one_is_configured() {
        let (mut options, credential) = (Options::default(), HeaderValue::from_static("Bearer pooled"));
        let caller = map(&[("host", "keytide.example")]);
        for expected in [None, Some("models.example")] {
            options.headers =
                expected.map(|host| (header::HOST, HeaderValue::from_static(host))).into_iter().collect();
            let headers = RequestHeaders {
                caller: &caller,
                options: &options,
                credential: &credential,
                has_body: true,
            };
            assert_eq!(headers.name_host(), expected.is_some());
            assert_eq!(headers.to_map().get(header::HOST).map(|host| host.to_str().unwrap()), expected);
        }
    }

    #[test]
    fn what_belongs_to_the_provider_stays_there() {
        let mut headers = map(&[
            ("content-type", "application/json"),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "session=1"),
            ("x-request-id", "theirs"),
            ("access-control-allow-origin", "https://elsewhere"),
            ("alt-svc", "h3=\":443\""),
            ("strict-transport-security", "max-age=31536000; includeSubDomains"),
            ("clear-site-data", "*"),
            ("nel", "{}"),
            ("report-to", "{}"),
            ("x-ratelimit-remaining", "3"),
        ]);
        keep_for_caller(&mut headers);
        assert_eq!(headers, map(&[("content-type", "application/json"), ("x-ratelimit-remaining", "3")]));
    }
}
