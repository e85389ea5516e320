//! What people may set as the limits of a token or a user, and what they may be called.

use super::{form::Fault, view::Amount};
use crate::model::{Limits, networks};

/// What a request says of limits: absent fields stay as they are, `None` inside clears.
#[derive(Debug, Default)]
pub(super) struct Wish {
    pub(super) requests_per_minute: Option<Option<Amount>>,
    pub(super) requests_per_day: Option<Option<Amount>>,
    pub(super) tokens_per_day: Option<Option<Amount>>,
    pub(super) allowed_models: Option<Option<Vec<String>>>,
    pub(super) allowed_addresses: Option<Option<Vec<String>>>,
}

impl Wish {
    /// # Errors
    /// The first field that cannot be, and what it may be.
    pub(super) fn read(self) -> Result<Checked, Fault> {
        let Self { requests_per_minute, requests_per_day, tokens_per_day, allowed_models, allowed_addresses } =
            self;
        let minute = amount("requests_per_minute", requests_per_minute, u64::from(Limits::MAX_PER_MINUTE))?;
        Ok(Checked {
            // Within the bound, so within 32 bits.
            requests_per_minute: minute.map(|limit| limit.and_then(|limit| u32::try_from(limit).ok())),
            requests_per_day: amount("requests_per_day", requests_per_day, Limits::MAX_REQUESTS_PER_DAY)?,
            tokens_per_day: amount("tokens_per_day", tokens_per_day, Limits::MAX_TOKENS_PER_DAY)?,
            allowed_models: allowed_models.map(|names| models(names.unwrap_or_default())).transpose()?,
            allowed_addresses: allowed_addresses
                .map(|texts| addresses(&texts.unwrap_or_default()))
                .transpose()?,
        })
    }
}

/// See [`Wish`].
#[derive(Debug, Default, PartialEq)]
pub(super) struct Checked {
    requests_per_minute: Option<Option<u32>>,
    requests_per_day: Option<Option<u64>>,
    tokens_per_day: Option<Option<u64>>,
    allowed_models: Option<Vec<Box<str>>>,
    allowed_addresses: Option<Vec<Box<str>>>,
}

impl Checked {
    pub(super) fn over(self, before: &Limits) -> Limits {
        Limits {
            requests_per_minute: self.requests_per_minute.unwrap_or(before.requests_per_minute),
            requests_per_day: self.requests_per_day.unwrap_or(before.requests_per_day),
            tokens_per_day: self.tokens_per_day.unwrap_or(before.tokens_per_day),
            allowed_models: self.allowed_models.unwrap_or_else(|| before.allowed_models.clone()),
            allowed_addresses: self.allowed_addresses.unwrap_or_else(|| before.allowed_addresses.clone()),
        }
    }
}

fn fault(field: &'static str, why: String) -> Fault {
    Fault { field, why }
}

fn amount(field: &'static str, wish: Option<Option<Amount>>, max: u64) -> Result<Option<Option<u64>>, Fault> {
    let Some(Some(Amount(number))) = wish else { return Ok(wish.map(|_| None)) };
    match number.as_u64() {
        Some(limit) if (1..=max).contains(&limit) => Ok(Some(Some(limit))),
        _ => {
            Err(fault(field, format!("{field} must be a whole number from 1 to {max}, or null for no limit")))
        }
    }
}

fn models(names: Vec<String>) -> Result<Vec<Box<str>>, Fault> {
    let field = "allowed_models";
    if names.len() > Limits::MAX_MODELS {
        return Err(fault(field, "at most 256 models can be named".to_owned()));
    }
    let mut models: Vec<Box<str>> = Vec::with_capacity(names.len());
    for name in &names {
        let name = name.trim();
        if name.is_empty() || name.len() > Limits::MAX_MODEL_LEN || name.chars().any(char::is_control) {
            return Err(fault(field, "a model's name must have 1 to 256 characters".to_owned()));
        }
        if !models.iter().any(|known| **known == *name) {
            models.push(name.into());
        }
    }
    Ok(models)
}

fn addresses(texts: &[String]) -> Result<Vec<Box<str>>, Fault> {
    let field = "allowed_addresses";
    if texts.len() > Limits::MAX_ADDRESSES {
        return Err(fault(field, "at most 64 addresses and networks can be named".to_owned()));
    }
    let mut networks: Vec<Box<str>> = Vec::with_capacity(texts.len());
    for (at, text) in texts.iter().enumerate() {
        let network = networks::network(text)
            .map_err(|why| fault(field, format!("the {} of allowed_addresses {why}", ordinal(at + 1))))?;
        let network = network.to_string().into_boxed_str();
        if !networks.contains(&network) {
            networks.push(network);
        }
    }
    Ok(networks)
}

fn ordinal(number: usize) -> String {
    match (number % 10, number % 100) {
        (1, tens) if tens != 11 => format!("{number}st"),
        (2, tens) if tens != 12 => format!("{number}nd"),
        (3, tens) if tens != 13 => format!("{number}rd"),
        _ => format!("{number}th"),
    }
}

/// What a token or a user is called.
pub(super) fn name(text: &str) -> Result<Box<str>, Fault> {
    let text = text.trim();
    if !(1..=128).contains(&text.chars().count()) || text.chars().any(char::is_control) {
        let why = "its name must have 1 to 128 characters and no line breaks";
        return Err(fault("name", why.to_owned()));
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use serde_json::Number;

    use super::*;

    fn number(text: &str) -> Option<Option<Amount>> {
        Some(Some(Amount(text.parse::<Number>().unwrap())))
    }

    #[test]
    fn limits_have_ranges_and_say_them() {
        for (text, limit) in [("1", 1), ("1000000", 1_000_000)] {
            assert_eq!(amount("x", number(text), 1_000_000), Ok(Some(Some(limit))));
        }
        for bad in ["0", "-1", "1000001", "1.5", "1e3", "99999999999999999999999999"] {
            let fault = amount("x", number(bad), 1_000_000).unwrap_err();
            assert!(fault.why.contains("from 1 to 1000000"), "{bad}: {}", fault.why);
        }
        assert_eq!((amount("x", None, 5), amount("x", Some(None), 5)), (Ok(None), Ok(Some(None))));
    }

    #[test]
    fn lists_are_checked_and_written_in_one_way() {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>();
        let read = addresses(&texts(&["10.1.2.3/8", " 10.0.0.0/8", "::ffff:192.0.2.1"])).unwrap();
        assert_eq!(read, ["10.0.0.0/8".into(), "192.0.2.1/32".into()]);
        let fault = addresses(&texts(&["10.0.0.0/8", "10.0.0.0/33"])).unwrap_err();
        assert!(fault.why.starts_with("the 2nd of allowed_addresses must be an address"), "{}", fault.why);
        assert!(
            addresses(&vec!["10.0.0.1".to_owned(); 65]).is_err()
                && models(vec!["m".to_owned(); 257]).is_err()
        );
        assert_eq!(models(texts(&["a", " a ", "b"])).unwrap(), ["a".into(), "b".into()]);
        for bad in ["", "a\nb", &"x".repeat(129)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
        assert_eq!(name(" Ann ").unwrap(), "Ann".into());
    }

    #[test]
    fn what_is_absent_stays_and_null_clears() {
        let before = Limits {
            requests_per_day: Some(5),
            tokens_per_day: Some(7),
            allowed_models: vec!["m".into()],
            ..Limits::default()
        };
        let wish = Wish { requests_per_day: Some(None), allowed_models: Some(None), ..Wish::default() };
        let now = wish.read().unwrap().over(&before);
        assert_eq!(now, Limits { tokens_per_day: Some(7), ..Limits::default() });
    }
}
