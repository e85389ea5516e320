//! What an error object in a body amounts to.

use http::HeaderMap;

/// An error that an upstream reported in the body of a successful response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyError {
    /// The HTTP status that its code or type stands for, 400 to 599; `None` when it gave neither, which is
    /// best taken as 502.
    pub status: Option<u16>,
    /// Its code, else its type, as the upstream wrote it; printable and short.
    pub code: Option<String>,
    /// The headers of the provider behind the upstream that tell when to come back.
    pub hints: HeaderMap,
}

/// The fields of an error object as they were found.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) code: Option<Box<str>>,
    pub(super) kind: Option<Box<str>>,
    /// Google's word for it.
    pub(super) status: Option<Box<str>>,
    /// The whole error where it is a string.
    pub(super) text: Option<Box<str>>,
    pub(super) hints: HeaderMap,
}

impl From<Report> for BodyError {
    fn from(report: Report) -> Self {
        let named = [&report.code, &report.kind, &report.status, &report.text];
        let status = named.iter().find_map(|name| status_of(name.as_deref()?));
        let said = named.iter().any(|name| name.is_some());
        let code = report.code.or(report.kind).or(report.status);
        Self {
            // What we have no word for is the upstream's own trouble.
            status: status.or_else(|| said.then_some(502)),
            code: code.filter(|code| !code.is_empty() && !code.contains(char::is_control)).map(String::from),
            hints: report.hints,
        }
    }
}

/// Parts of names and the status each stands for; the first that is found counts, so the order matters:
/// `invalid_api_key` is no invalid request, `insufficient_permissions` no lack of credit.
const NAMES: [(&str, u16); 34] = [
    ("rate_limit", 429),
    ("ratelimit", 429),
    ("too_many", 429),
    ("throttl", 429),
    ("resource_exhausted", 429),
    ("permission", 403),
    ("forbidden", 403),
    ("access_denied", 403),
    ("quota", 402),
    ("billing", 402),
    ("credit", 402),
    ("payment", 402),
    ("insufficient_balance", 402),
    ("api_key", 401),
    ("authentication", 401),
    ("unauthorized", 401),
    ("unauthenticated", 401),
    ("not_found", 404),
    ("too_large", 413),
    ("overloaded", 503),
    ("unavailable", 503),
    ("capacity", 503),
    ("timeout", 504),
    ("timed_out", 504),
    ("deadline_exceeded", 504),
    ("internal", 502),
    ("server_error", 502),
    ("api_error", 502),
    ("context_length", 400),
    ("invalid", 400),
    ("bad_request", 400),
    ("unsupported", 400),
    ("content_policy", 400),
    ("content_filter", 400),
];

/// `None` when the name says nothing that we know.
fn status_of(name: &str) -> Option<u16> {
    let name = name.trim();
    if let Ok(number) = name.parse() {
        return Some(number).filter(|number| (400..=599).contains(number));
    }
    let snake = snake_case(name);
    // A sentence may mention anything ("internal error: file not found"): only how it begins counts.
    let is_sentence = name.contains(' ');
    let known = |part: &str| if is_sentence { snake.starts_with(part) } else { snake.contains(part) };
    NAMES.iter().find(|(part, _)| known(part)).map(|(_, status)| *status)
}

/// `RateLimitReached`, `rate-limit reached` and `RATE_LIMIT_REACHED` are one name.
fn snake_case(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 8);
    let mut after_lower = false;
    for letter in name.chars() {
        if letter.is_ascii_uppercase() && after_lower {
            snake.push('_');
        }
        after_lower = letter.is_ascii_lowercase();
        snake.push(if matches!(letter, ' ' | '-') { '_' } else { letter.to_ascii_lowercase() });
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stand_for_statuses() {
        let table: [(u16, &[&str]); 10] = [
            (400, &["invalid_request_error", "context_length_exceeded", "bad_request", "INVALID_ARGUMENT"]),
            (401, &["invalid_api_key", "authentication_error", "Unauthorized", "UNAUTHENTICATED"]),
            (402, &["insufficient_quota", "billing_hard_limit_reached", "insufficient_credits"]),
            (403, &["permission_error", "insufficient_permissions"]),
            (404, &["not_found_error", "model_not_found", "DeploymentNotFound"]),
            (413, &["request_too_large"]),
            (
                429,
                &[
                    "rate_limit_exceeded",
                    "TooManyRequests",
                    "RESOURCE_EXHAUSTED",
                    "429",
                    "rate limit reached",
                ],
            ),
            (502, &["server_error", "api_error", "internal_error", "502"]),
            (503, &["overloaded_error", "service_unavailable"]),
            (504, &["timeout", "timeout_error"]),
        ];
        for (status, names) in table {
            for name in names {
                assert_eq!(status_of(name), Some(status), "{name}");
            }
        }
        for name in ["", "tokens", "200", "1302", "-1", "99999999", "the file was not_found", "429.5"] {
            assert_eq!(status_of(name), None, "{name}");
        }
    }

    #[test]
    fn the_code_speaks_before_the_type() {
        let of = |code: Option<&str>, kind: Option<&str>| {
            BodyError::from(Report {
                code: code.map(Into::into),
                kind: kind.map(Into::into),
                ..Report::default()
            })
        };
        assert_eq!(of(Some("invalid_api_key"), Some("invalid_request_error")).status, Some(401));
        assert_eq!(of(Some("rate_limit_exceeded"), Some("tokens")).status, Some(429));
        assert_eq!(of(Some("odd"), Some("invalid_request_error")).status, Some(400));
        assert_eq!(of(Some("odd"), None).status, Some(502));
        assert_eq!(of(None, None).status, None);
        assert_eq!(of(None, Some("overloaded_error")).code.as_deref(), Some("overloaded_error"));
        assert_eq!(of(Some("a\nforged log line"), None).code, None);
    }
}
