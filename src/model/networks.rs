//! The addresses that a caller may come from, read once from the texts that people wrote.

use std::net::IpAddr;

use ipnet::IpNet;

/// A list of networks. Without any, every address is allowed; a text that cannot be read allows nothing, so that a list
/// of such texts shuts out everybody rather than nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    nets: Box<[IpNet]>,
    restricts: bool,
}

impl Networks {
    pub fn of(texts: &[Box<str>]) -> Self {
        let nets = texts.iter().filter_map(|text| network(text).ok()).collect();
        Self { nets, restricts: !texts.is_empty() }
    }

    pub fn allow(&self, address: IpAddr) -> bool {
        !self.restricts || self.contain(address)
    }

    /// Whether one of them holds the address; none does where there are none.
    pub fn contain(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.nets.iter().any(|net| net.contains(&address))
    }
}

/// An address or a network in CIDR notation. What is written of a network's hosts is dropped, and an IPv4 address that
/// wears IPv6 is the IPv4 address.
///
/// # Errors
/// What it has to look like, to be read after the name of what was wrong.
pub fn network(text: &str) -> Result<IpNet, String> {
    let wrong =
        || "must be an address or a network, like 203.0.113.7, 10.0.0.0/8 or 2001:db8::/32".to_owned();
    let text = text.trim();
    let net = match text.parse::<IpAddr>() {
        Ok(address) => IpNet::from(address),
        Err(_) => text.parse::<IpNet>().map_err(|_| wrong())?,
    };
    Ok(match net {
        IpNet::V6(six) if six.prefix_len() >= 96 => match six.addr().to_ipv4_mapped() {
            Some(four) => IpNet::new(four.into(), six.prefix_len() - 96).map_err(|_| wrong())?.trunc(),
            None => net.trunc(),
        },
        _ => net.trunc(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Networks {
        Networks::of(&texts.iter().map(|text| (*text).into()).collect::<Vec<_>>())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_allowed() {
        let some = of(&["10.1.0.0/16", "203.0.113.7", "2001:db8::/32", "::ffff:192.0.2.0/120"]);
        for inside in
            ["10.1.255.1", "203.0.113.7", "2001:db8::1", "192.0.2.9", "::ffff:10.1.0.1", "::ffff:192.0.2.1"]
        {
            assert!(some.allow(ip(inside)), "{inside}");
        }
        for outside in ["10.2.0.1", "203.0.113.8", "2001:db9::1", "192.0.3.1", "::1", "::10.1.0.1"] {
            assert!(!some.allow(ip(outside)), "{outside}");
        }
        assert!(of(&[]).allow(ip("8.8.8.8")) && !of(&[]).contain(ip("8.8.8.8")));
        assert!(!of(&["nonsense"]).allow(ip("8.8.8.8")), "a list that cannot be read is not an empty one");
        assert!(of(&["0.0.0.0/0"]).allow(ip("8.8.8.8")) && !of(&["0.0.0.0/0"]).allow(ip("2001:db8::1")));
    }

    #[test]
    fn networks_are_written_in_one_way() {
        for (text, shown) in [
            (" 10.1.2.3/8 ", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3/32"),
            ("::ffff:10.0.0.1", "10.0.0.1/32"),
            ("2001:DB8::1/64", "2001:db8::/64"),
        ] {
            assert_eq!(network(text).unwrap().to_string(), shown);
        }
        for bad in ["", "10.0.0.0/33", "10.0.0", "example.com", "10.0.0.1-10.0.0.9", "::/129", "10.0.0.0/-1"]
        {
            assert!(network(bad).is_err(), "{bad}");
        }
    }
}
