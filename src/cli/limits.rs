//! Limits as options, for tokens and users alike, and how they are shown.

use serde_json::{Map, Value};

use super::{show, view::Limits};

/// A number, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount(Option<u64>);

fn amount(text: &str) -> Result<Amount, String> {
    if text == "none" {
        return Ok(Amount(None));
    }
    match text.parse() {
        Ok(limit @ 1..) => Ok(Amount(Some(limit))),
        _ => Err("must be a whole number above 0, or \"none\"".to_owned()),
    }
}

#[derive(clap::Args)]
pub(super) struct LimitArgs {
    /// Requests per minute, up to 1000000, or "none"
    #[arg(long, value_name = "N", visible_alias = "requests-per-minute", value_parser = amount)]
    rpm: Option<Amount>,
    /// Requests per day, up to 1000000000, or "none"
    #[arg(long, value_name = "N", value_parser = amount)]
    requests_per_day: Option<Amount>,
    /// Prompt and completion tokens per day, up to 1000000000000, or "none"
    #[arg(long, value_name = "N", value_parser = amount)]
    tokens_per_day: Option<Amount>,
    /// A model that may be used, any number of times; "gpt-*" stands for all that begin so
    #[arg(long = "model", value_name = "MODEL")]
    models: Vec<String>,
    /// An address or network that requests may come from, like 203.0.113.7 or 10.0.0.0/8, any number of times
    #[arg(long = "address", value_name = "CIDR")]
    addresses: Vec<String>,
}

/// To take lists away again.
#[derive(clap::Args)]
pub(super) struct AnyArgs {
    /// All models again
    #[arg(long, conflicts_with = "models")]
    any_model: bool,
    /// All addresses again
    #[arg(long, conflicts_with = "addresses")]
    any_address: bool,
}

impl LimitArgs {
    /// Adds what is said to a request's body.
    pub(super) fn put(&self, body: &mut Map<String, Value>) {
        for (name, amount) in [
            ("requests_per_minute", self.rpm),
            ("requests_per_day", self.requests_per_day),
            ("tokens_per_day", self.tokens_per_day),
        ] {
            if let Some(Amount(limit)) = amount {
                body.insert(name.to_owned(), limit.into());
            }
        }
        for (name, list) in [("allowed_models", &self.models), ("allowed_addresses", &self.addresses)] {
            if !list.is_empty() {
                body.insert(name.to_owned(), list.clone().into());
            }
        }
    }
}

impl AnyArgs {
    pub(super) fn put(&self, body: &mut Map<String, Value>) {
        for (name, any) in [("allowed_models", self.any_model), ("allowed_addresses", self.any_address)] {
            if any {
                body.insert(name.to_owned(), Value::Null);
            }
        }
    }
}

/// What was used of what may be: "12 / 1,000".
pub(super) fn used(used: u64, limit: Option<u64>) -> String {
    match limit {
        None => show::count(used),
        Some(limit) => format!("{} / {}", show::count(used), show::count(limit)),
    }
}

/// One line for each limit and for what was used today.
pub(super) fn lines(limits: &Limits) -> Vec<(&'static str, String)> {
    let number = |limit: Option<u64>| limit.map_or_else(|| "no limit".to_owned(), show::count);
    let list = |list: &Option<Vec<String>>| match list.as_deref() {
        None | Some([]) => "all".to_owned(),
        Some(some) => some.join(" "),
    };
    vec![
        ("requests per minute", number(limits.requests_per_minute)),
        ("requests today", used(limits.requests_today, limits.requests_per_day)),
        ("tokens today", used(limits.tokens_today, limits.tokens_per_day)),
        ("models", list(&limits.allowed_models)),
        ("addresses", list(&limits.allowed_addresses)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!((amount("5"), amount("none")), (Ok(Amount(Some(5))), Ok(Amount(None))));
        for bad in ["", "0", "-1", "1.5", "None", "many"] {
            assert!(amount(bad).is_err(), "{bad}");
        }
        assert_eq!((used(12, Some(1000)), used(1234, None)), ("12 / 1,000".into(), "1,234".into()));
    }
}
