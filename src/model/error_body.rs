//! The shape that all of keytide's errors have on the wire: OpenAI's.
//!
//! What is said in it is each room's own table; only the shape is one.

use serde::Serialize;

use super::Timestamp;

/// An enum of what programs go by, and its names.
macro_rules! names {
    ($(#[$meta:meta])* $of:ident { $($name:ident = $text:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $of {
            $($name),*
        }

        impl $of {
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text),*
                }
            }
        }
    };
}
pub(crate) use names;

/// `{"error":{"message","type","code","param"}}`
#[derive(Clone, Copy, Debug, Serialize)]
pub struct ErrorBody<'a> {
    error: Detail<'a>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Detail<'a> {
    message: &'a str,
    r#type: &'static str,
    code: &'a str,
    param: Option<&'a str>,
    #[serde(flatten)]
    limit: Option<LimitDetail>,
    /// Of a block: when it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<Timestamp>,
}

/// What a 429 for a limit of ours says besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct LimitDetail {
    pub limit: u64,
    pub remaining: u64,
    pub reset: Timestamp,
}

impl<'a> ErrorBody<'a> {
    pub fn new(status: u16, code: &'a str, message: &'a str, param: Option<&'a str>) -> Self {
        Self { error: Detail { message, r#type: kind(status), code, param, limit: None, until: None } }
    }

    pub fn with_until(mut self, until: Option<Timestamp>) -> Self {
        self.error.until = until;
        self
    }

    pub fn with_limit(mut self, limit: Option<LimitDetail>) -> Self {
        self.error.limit = limit;
        self
    }
}

pub(crate) fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// Callers' words in our answers are kept short.
pub fn shorten(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}
