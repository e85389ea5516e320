//! What an answer's status means for the key that made the attempt.

use std::{collections::BTreeMap, time::Duration};

use http::{HeaderMap, header};

/// Whose doing an answer was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Treat {
    Success,
    /// The request's fault: passed through, and the key has worked.
    Request,
    /// The key was refused.
    Auth,
    /// The key is used up until its reset.
    Quota,
    RateLimit,
    /// The provider's fault.
    Server,
}

impl Treat {
    /// The cooldown where neither the provider's headers nor the configuration name one. `None` where the
    /// key's own history decides, or nothing is cooled.
    pub const fn default_cooldown(self) -> Option<Duration> {
        match self {
            Self::RateLimit => Some(Duration::from_secs(60)),
            Self::Quota => Some(Duration::from_secs(6 * 3600)),
            Self::Success | Self::Request | Self::Auth | Self::Server => None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub treat_as: Treat,
    /// For `Quota` and `RateLimit` the cooldown when the provider's headers give none; for `Auth` and
    /// `Server` it replaces the step that the key's history would give.
    pub cooldown: Option<Duration>,
}

impl From<Treat> for Rule {
    fn from(treat_as: Treat) -> Self {
        Self { treat_as, cooldown: treat_as.default_cooldown() }
    }
}

/// The outcome table of one provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusRules(BTreeMap<u16, Rule>);

impl StatusRules {
    /// The statuses that mean something else than their class does.
    pub const DEFAULTS: [(u16, Treat); 6] = [
        (401, Treat::Auth),
        (402, Treat::Quota),
        (403, Treat::Auth),
        (408, Treat::RateLimit),
        (425, Treat::RateLimit),
        (429, Treat::RateLimit),
    ];

    pub fn set(&mut self, status: u16, rule: Rule) {
        self.0.insert(status, rule);
    }

    /// The rule for a status, or for the `code` of an error inside an answer: any number is answered.
    pub fn lookup(&self, status: u16) -> Rule {
        match self.0.get(&status) {
            Some(rule) => *rule,
            None => Self::of_class(status).into(),
        }
    }

    /// The rule for an answer. A refusal that is a web page comes from something in front of the provider, a
    /// firewall or a bot check, which refuses whoever asks: it says nothing of the key, and one bad minute of it
    /// must not put every key to rest for hours.
    pub fn judge(&self, status: u16, headers: &HeaderMap) -> Rule {
        let rule = self.lookup(status);
        let is_page = || {
            headers
                .get(header::CONTENT_TYPE)
                .is_some_and(|kind| kind.as_bytes().to_ascii_lowercase().starts_with(b"text/html"))
        };
        if rule.treat_as == Treat::Auth && is_page() { Treat::Server.into() } else { rule }
    }

    /// Statuses with a rule of their own, in order.
    pub fn statuses(&self) -> impl Iterator<Item = u16> {
        self.0.keys().copied()
    }

    fn of_class(status: u16) -> Treat {
        match status {
            200..=299 => Treat::Success,
            // 1xx never reaches us as an answer; redirects are the caller's to follow.
            100..=199 | 300..=499 => Treat::Request,
            _ => Treat::Server,
        }
    }
}

impl Default for StatusRules {
    fn default() -> Self {
        Self(Self::DEFAULTS.into_iter().map(|(status, treat)| (status, treat.into())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_table() {
        let rules = StatusRules::default();
        for (treat, statuses) in [
            (Treat::Success, &[200, 201, 204, 206][..]),
            (Treat::Request, &[301, 400, 404, 405, 409, 413, 415, 418, 422, 499]),
            (Treat::Auth, &[401, 403]),
            (Treat::Quota, &[402]),
            (Treat::RateLimit, &[408, 425, 429]),
            (Treat::Server, &[0, 500, 502, 503, 504, 529, 599, 65535]),
        ] {
            for status in statuses {
                assert_eq!(rules.lookup(*status).treat_as, treat, "{status}");
            }
        }
        assert_eq!(rules.lookup(429).cooldown, Some(Duration::from_secs(60)));
        assert_eq!(rules.lookup(402).cooldown, Some(Duration::from_secs(6 * 3600)));
        assert_eq!((rules.lookup(401).cooldown, rules.lookup(500).cooldown), (None, None));
    }

    #[test]
    fn a_page_in_place_of_a_refusal_is_not_about_the_key() {
        let rules = StatusRules::default();
        let mut headers = HeaderMap::new();
        assert_eq!(rules.judge(403, &headers).treat_as, Treat::Auth);
        headers.insert(header::CONTENT_TYPE, "application/json".parse().unwrap());
        assert_eq!(rules.judge(401, &headers).treat_as, Treat::Auth);
        headers.insert(header::CONTENT_TYPE, "Text/HTML; charset=UTF-8".parse().unwrap());
        assert_eq!(rules.judge(403, &headers).treat_as, Treat::Server);
        assert_eq!(rules.judge(404, &headers).treat_as, Treat::Request);
    }

    #[test]
    fn a_configured_rule_stands_over_the_class() {
        let mut rules = StatusRules::default();
        let rule = Rule { treat_as: Treat::Quota, cooldown: Some(Duration::from_secs(5)) };
        rules.set(418, rule);
        rules.set(403, Treat::Request.into());
        assert_eq!((rules.lookup(418), rules.lookup(403).treat_as), (rule, Treat::Request));
        assert_eq!(rules.statuses().collect::<Vec<_>>(), [401, 402, 403, 408, 418, 425, 429]);
    }
}
