//! What a key and its fields may look like, the same wherever they come from.

use super::{
    ProviderEntry, Providers,
    view::{Flaw, KeyRow},
};
use crate::model::{KeyRecord, Secret, Timestamp};

/// Shorter things are column names and slips, not keys.
const MIN_KEY_LEN: usize = 8;
/// Never in a key, and always in a file that is read as something it is not.
const DELIMITERS: &[u8] = b"\"'`,;<>{}";

pub(super) fn key(text: &str) -> Result<(), Flaw> {
    if text.is_empty() {
        return Err(Flaw::KeyEmpty);
    }
    if text.len() > KeyRecord::MAX_SECRET_LEN {
        return Err(Flaw::KeyTooLong);
    }
    if text.bytes().any(|b| b.is_ascii_whitespace()) {
        return Err(Flaw::KeyWithSpace);
    }
    if !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Flaw::KeyWithStrangeLetter);
    }
    if text.bytes().any(|b| DELIMITERS.contains(&b)) {
        return Err(Flaw::KeyWithDelimiter);
    }
    if text.len() < MIN_KEY_LEN {
        return Err(Flaw::KeyTooShort);
    }
    Ok(())
}

/// A user name or a note; empty means none.
pub(super) fn text(text: Option<String>) -> Result<Option<Box<str>>, Flaw> {
    let Some(text) = text else { return Ok(None) };
    let text = text.trim();
    if text.chars().count() > KeyRecord::MAX_TEXT_LEN {
        return Err(Flaw::TextTooLong);
    }
    if text.chars().any(char::is_control) {
        return Err(Flaw::TextWithControl);
    }
    Ok((!text.is_empty()).then(|| text.into()))
}

pub(super) fn weight(weight: Option<u16>) -> Result<u16, Flaw> {
    match weight.unwrap_or(1) {
        weight if (1..=KeyRecord::MAX_WEIGHT).contains(&weight) => Ok(weight),
        _ => Err(Flaw::InvalidWeight),
    }
}

/// What is wrong with a field, whose name stands before it where it is not the key.
pub(super) fn says(flaw: Flaw) -> &'static str {
    match flaw {
        Flaw::KeyEmpty => "the key is empty",
        Flaw::KeyTooLong => "the key is longer than 512 characters",
        Flaw::KeyTooShort => "the key is shorter than 8 characters",
        Flaw::KeyWithSpace => "the key contains a space or a line break",
        Flaw::KeyWithStrangeLetter => "the key contains a character that no key has",
        Flaw::KeyWithDelimiter => {
            "the key contains a quote, a comma, a semicolon or a bracket; check the format of the file"
        }
        Flaw::TextTooLong => "is longer than 256 characters",
        Flaw::TextWithControl => "contains a control character",
        Flaw::InvalidWeight => "must be from 1 to 1000",
        Flaw::InvalidExpiry => "is no time",
        Flaw::InvalidOwner => "must be a user's id, which is a UUID",
        Flaw::UnknownOwner => "is no user here: make the user first, or leave it out",
        Flaw::OtherProvider | Flaw::OtherForm => "this is no key of this provider",
        Flaw::NotUtf8 => "the line is not UTF-8",
        Flaw::UnreadableLine => "the line cannot be read",
        Flaw::OpenQuote => "a quote is not closed",
        Flaw::TooManyCells => "the line has more cells than there are columns",
    }
}

/// Why a row is no key: the field at fault, and what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) field: &'static str,
    pub(super) why: String,
}

pub(super) fn record(row: KeyRow, now: Timestamp) -> Result<KeyRecord, (Flaw, Fault)> {
    let fault = |field| move |flaw| (flaw, Fault { field, why: format!("{field} {}", says(flaw)) });
    key(&row.key).map_err(|flaw| (flaw, Fault { field: "key", why: says(flaw).to_owned() }))?;
    Ok(KeyRecord {
        username: text(row.username).map_err(fault("username"))?,
        note: text(row.note).map_err(fault("note"))?,
        weight: weight(row.weight).map_err(fault("weight"))?,
        expires_at: row.expires_at,
        owner: row.owner,
        ..KeyRecord::new(Secret::new(row.key), now)
    })
}

/// A key of a form that another provider's keys have is not mixed in.
pub(super) fn belongs(
    providers: &Providers,
    provider: &ProviderEntry,
    key: &str,
) -> Result<(), (Flaw, String)> {
    match &provider.key_pattern {
        Some(pattern) if pattern(key) => return Ok(()),
        _ => {}
    }
    let mut others = providers.entries.iter().filter(|other| other.name != provider.name);
    match others.find(|other| other.key_pattern.as_ref().is_some_and(|pattern| pattern(key))) {
        Some(other) => {
            let why = format!("this is a key of \"{}\", not of \"{}\"", other.name, provider.name);
            Err((Flaw::OtherProvider, why))
        }
        None if provider.key_pattern.is_some() => Err((
            Flaw::OtherForm,
            format!("keys of \"{}\" have another form (see key_pattern)", provider.name),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_a_form() {
        for good in ["sk-or-v1-0123456789abcdef", "0a1b2c3d.Xy_z-9", "id:secret+/=="] {
            assert_eq!(key(good), Ok(()), "{good}");
        }
        for bad in
            ["", "short", "with space in it", "tab\tinside", "sk-key,user", "\"quoted-key\"", "ключ-ключ"]
        {
            assert!(key(bad).is_err(), "{bad}");
        }
        assert!(key(&"x".repeat(KeyRecord::MAX_SECRET_LEN)).is_ok());
        assert!(key(&"x".repeat(KeyRecord::MAX_SECRET_LEN + 1)).is_err());
    }

    #[test]
    fn texts_and_weights_have_bounds() {
        assert_eq!(text(Some("  ".to_owned())), Ok(None));
        assert_eq!(text(Some(" Ann ".to_owned())), Ok(Some("Ann".into())));
        assert!(text(Some("a\nb".to_owned())).is_err() && text(Some("x".repeat(257))).is_err());
        assert_eq!((weight(None), weight(Some(1000))), (Ok(1), Ok(1000)));
        assert!(weight(Some(0)).is_err() && weight(Some(1001)).is_err());
    }
}
