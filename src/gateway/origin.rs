//! Where a request comes from: the other end of its connection, or what proxies that are trusted say of it.

use std::net::{IpAddr, SocketAddr};

use http::HeaderMap;

use crate::model::Networks;

/// The last hop that is not a trusted proxy. Everything before it is what callers may have made up; a hop that cannot be
/// read hides all before it, and the proxy that passed it on stands for the caller.
pub(super) fn address(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> IpAddr {
    let mut address = peer.to_canonical();
    if !trusted.contain(address) {
        return address;
    }
    let lines: Vec<_> = headers.get_all("x-forwarded-for").iter().collect();
    for line in lines.iter().rev() {
        let Ok(text) = line.to_str() else { return address };
        for hop in text.rsplit(',') {
            let Some(hop) = read(hop.trim()) else { return address };
            address = hop.to_canonical();
            if !trusted.contain(address) {
                return address;
            }
        }
    }
    address
}

/// Whether the caller came to the proxy by https; nobody else is believed, and keytide itself speaks plain HTTP.
pub(super) fn is_https(peer: IpAddr, headers: &HeaderMap, trusted: &Networks) -> bool {
    let said = headers.get("x-forwarded-proto").and_then(|value| value.to_str().ok());
    trusted.contain(peer.to_canonical()) && said.is_some_and(|said| said.trim().eq_ignore_ascii_case("https"))
}

/// With or without a port: proxies write both.
fn read(hop: &str) -> Option<IpAddr> {
    let bare = hop.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(hop);
    bare.parse().ok().or_else(|| hop.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let trusted = Networks::of(&["10.0.0.0/8".into(), "2001:db8::/32".into()]);
        for (peer, hops, seen) in [
            ("192.0.2.1", &["203.0.113.9"][..], "192.0.2.1"),
            ("10.0.0.1", &["203.0.113.9"], "203.0.113.9"),
            ("::ffff:10.0.0.1", &["::ffff:203.0.113.9"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9, 10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1", "203.0.113.9", "10.0.0.2"], "203.0.113.9"),
            ("10.0.0.1", &["1.1.1.1, 203.0.113.9:4711"], "203.0.113.9"),
            ("2001:db8::1", &["[2001:db9::5]:443"], "2001:db9::5"),
            ("2001:db8::1", &["[2001:db9::5]"], "2001:db9::5"),
            ("10.0.0.1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
            ("10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &[""], "10.0.0.1"),
            ("10.0.0.1", &[], "10.0.0.1"),
        ] {
            let mut headers = HeaderMap::new();
            for hop in hops {
                headers.append("x-forwarded-for", hop.parse().unwrap());
            }
            let peer = peer.parse().unwrap();
            assert_eq!(address(peer, &headers, &trusted), seen.parse::<IpAddr>().unwrap(), "{hops:?}");
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-forwarded-proto", "HTTPS".parse().unwrap());
        assert!(is_https("10.0.0.1".parse().unwrap(), &headers, &trusted));
        assert!(!is_https("192.0.2.1".parse().unwrap(), &headers, &trusted));
        headers.insert("x-forwarded-proto", "http".parse().unwrap());
        assert!(!is_https("10.0.0.1".parse().unwrap(), &headers, &trusted));
        headers.insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
        let peer = "10.0.0.1".parse().unwrap();
        assert_eq!(address(peer, &headers, &Networks::default()), peer, "nobody is trusted by default");
    }
}
