//! What Postgres says went wrong, in this room's words: one table for both transports, since PostgREST passes
//! the database's codes on.

use super::transport::{Error, ErrorKind};
use crate::model::secret;

/// More of a hub's text is not shown: it may be anybody's.
const SHOWN: usize = 200;
/// As long as the shortest keys that providers hand out.
const LIKE_A_KEY: usize = 20;

/// The failure that a code means. `message` decides where poolers put one code over everything.
pub(super) fn kind(code: &str, message: &str) -> ErrorKind {
    match code {
        "42501" => ErrorKind::Forbidden,
        "42883" | "3F000" => ErrorKind::NoSchema,
        "42P01" | "42703" | "42704" => ErrorKind::Missing,
        "25006" => ErrorKind::ReadOnly,
        "53100" => ErrorKind::Full,
        // A statement that was cancelled, or a transaction that was waited for too long.
        "57014" | "25P03" | "25P04" => ErrorKind::Timeout,
        "3D000" => ErrorKind::Settings,
        // Serialization, deadlock, a lock that was not to be had.
        "40001" | "40P01" | "55P03" => ErrorKind::Busy,
        "08P01" | "XX000" | "58000" => pooler(message).unwrap_or(match code {
            "08P01" => ErrorKind::Unreachable,
            _ => ErrorKind::Server,
        }),
        _ => match code.get(..2) {
            Some("28") => ErrorKind::Credentials,
            Some("53") => ErrorKind::Busy,
            Some("54") => ErrorKind::TooLarge,
            Some("57" | "08") => ErrorKind::Unreachable,
            _ => ErrorKind::Server,
        },
    }
}

/// PgBouncer's and Supavisor's own words.
fn pooler(message: &str) -> Option<ErrorKind> {
    const WORDS: [(&str, ErrorKind); 13] = [
        ("authentication failed", ErrorKind::Credentials),
        ("no such user", ErrorKind::Credentials),
        ("tenant or user not found", ErrorKind::Credentials),
        ("tenant/user", ErrorKind::Credentials),
        ("no such database", ErrorKind::Settings),
        ("no more connections allowed", ErrorKind::Busy),
        ("max clients reached", ErrorKind::Busy),
        ("max client connections", ErrorKind::Busy),
        ("too many connections", ErrorKind::Busy),
        ("query_wait_timeout", ErrorKind::Busy),
        ("query_timeout", ErrorKind::Timeout),
        ("server login has been", ErrorKind::Unreachable),
        ("server login failed", ErrorKind::Credentials),
    ];
    let message = message.to_ascii_lowercase();
    WORDS.iter().find(|(words, _)| message.contains(words)).map(|(_, kind)| *kind)
}

/// The failure that the database told: its code and its first sentence. Details, hints and contexts quote rows,
/// and rows hold keys: they are never shown.
pub(super) fn error(code: &str, message: &str) -> Error {
    let kind = kind(code, message);
    let said = excerpt(message);
    let detail = match kind {
        // Names the user, and nothing that is not known without it.
        ErrorKind::Credentials => format!("the hub refuses the user or the password ({code})"),
        _ if said.is_empty() => format!("the hub answered with error {code}"),
        _ => format!("the hub answered with error {code}: {said}"),
    };
    Error::new(kind, detail)
}

/// The beginning of a stranger's text on one line, without anything that looks like a key.
pub(super) fn excerpt(text: &str) -> String {
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '+' | '=');
    let mut shown = String::new();
    let mut word = String::new();
    let flush = |word: &mut String, shown: &mut String| {
        let has = |test: fn(&char) -> bool| word.chars().any(|c| test(&c));
        if word.len() >= LIKE_A_KEY && has(char::is_ascii_digit) && has(char::is_ascii_alphabetic) {
            shown.push_str(&secret::mask(word));
        } else {
            shown.push_str(word);
        }
        word.clear();
    };
    // A key that begins inside what is shown must be seen whole to be known as one.
    for c in text.chars().take(4 * SHOWN) {
        if is_part(c) {
            word.push(c);
            continue;
        }
        flush(&mut word, &mut shown);
        if c.is_whitespace() || c.is_control() {
            if !shown.ends_with(' ') {
                shown.push(' ');
            }
        } else {
            shown.push(c);
        }
    }
    flush(&mut word, &mut shown);
    let shown = shown.trim();
    match shown.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_have_their_kinds() {
        for (code, expected) in [
            ("28P01", ErrorKind::Credentials),
            ("28000", ErrorKind::Credentials),
            ("42501", ErrorKind::Forbidden),
            ("42883", ErrorKind::NoSchema),
            ("42P01", ErrorKind::Missing),
            ("42703", ErrorKind::Missing),
            ("25006", ErrorKind::ReadOnly),
            ("53100", ErrorKind::Full),
            ("53300", ErrorKind::Busy),
            ("40P01", ErrorKind::Busy),
            ("54000", ErrorKind::TooLarge),
            ("57014", ErrorKind::Timeout),
            ("57P01", ErrorKind::Unreachable),
            ("08006", ErrorKind::Unreachable),
            ("08P01", ErrorKind::Unreachable),
            ("3D000", ErrorKind::Settings),
            ("XX000", ErrorKind::Server),
            ("P0001", ErrorKind::Server),
            ("", ErrorKind::Server),
            ("é", ErrorKind::Server),
        ] {
            assert_eq!(kind(code, "anything"), expected, "{code}");
        }
    }

    #[test]
    fn poolers_are_understood_by_their_words() {
        for (code, message, expected) in [
            ("08P01", "no such user: keytide", ErrorKind::Credentials),
            ("08P01", "no more connections allowed (max_client_conn)", ErrorKind::Busy),
            ("XX000", "Tenant or user not found", ErrorKind::Credentials),
            ("XX000", "MaxClientsInSessionMode: max clients reached - in Session mode", ErrorKind::Busy),
            ("08P01", "no such database: elsewhere", ErrorKind::Settings),
        ] {
            assert_eq!(kind(code, message), expected, "{message}");
        }
    }

    #[test]
    fn an_excerpt_is_short_and_shows_no_key() {
        let key = "sk-or-v1-0123456789abcdef0123456789abcdef";
        let shown =
            excerpt(&format!("no\tsuch \"{key}\"\n\n in ollama_api_client_tokens {}", "x ".repeat(9_000)));
        assert!(!shown.contains(key), "{shown}");
        assert!(shown.starts_with("no such \"sk-o…cdef\" in ollama_api_client_tokens x x"), "{shown}");
        assert!(shown.chars().count() <= SHOWN + 1, "{shown}");
        let at_the_end = excerpt(&format!("{}{key}", "é ".repeat(90)));
        assert!(!at_the_end.contains("0123456789"), "{at_the_end}");
    }
}
