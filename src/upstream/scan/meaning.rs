//! What the names in an answer mean at the places where an API puts them, and what was found under them.

use super::error::Report;

/// What a value is, by its path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Other,
    Root,
    Response,
    Message,
    Choices,
    Choice,
    Usage,
    Error,
    /// A list where an error is expected.
    Errors,
    Metadata,
    Headers,
    Count(Count),
    Done,
    Type,
    RootCode,
    ErrorCode,
    ErrorType,
    ErrorStatus,
    RetryAfter,
    /// A header's value; its name waits in the document.
    Header,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Count {
    Prompt,
    Input,
    PromptEval,
    Completion,
    Output,
    Eval,
}

impl Node {
    /// Whatever can be said has to be found by the words in [`silent`](super::silent), too.
    pub(super) fn child(self, name: &[u8]) -> Self {
        match (self, name) {
            (Self::Root | Self::Response | Self::Message, b"usage") => Self::Usage,
            (Self::Root | Self::Response | Self::Choice, b"error") => Self::Error,
            (Self::Root, b"response") => Self::Response,
            (Self::Root, b"message") => Self::Message,
            (Self::Root, b"choices") => Self::Choices,
            (Self::Root, b"type") => Self::Type,
            (Self::Root, b"code") => Self::RootCode,
            (Self::Root, b"done") => Self::Done,
            (Self::Root, b"prompt_eval_count") => Self::Count(Count::PromptEval),
            (Self::Root, b"eval_count") => Self::Count(Count::Eval),
            (Self::Usage, b"prompt_tokens") => Self::Count(Count::Prompt),
            (Self::Usage, b"input_tokens") => Self::Count(Count::Input),
            (Self::Usage, b"completion_tokens") => Self::Count(Count::Completion),
            (Self::Usage, b"output_tokens") => Self::Count(Count::Output),
            (Self::Error, b"code") => Self::ErrorCode,
            (Self::Error, b"type") => Self::ErrorType,
            (Self::Error, b"status") => Self::ErrorStatus,
            (Self::Error, b"metadata") => Self::Metadata,
            (Self::Error | Self::Metadata, b"headers") => Self::Headers,
            (Self::Error | Self::Metadata, b"retry_after" | b"retry_after_seconds") => Self::RetryAfter,
            _ => Self::Other,
        }
    }

    pub(super) fn element(self) -> Self {
        match self {
            Self::Choices => Self::Choice,
            Self::Errors => Self::Error,
            _ => Self::Other,
        }
    }

    /// What an opened container is: a name whose value has the wrong form means nothing.
    pub(super) fn opened(self, object: bool) -> Self {
        match (self, object) {
            (
                Self::Root
                | Self::Response
                | Self::Message
                | Self::Choice
                | Self::Usage
                | Self::Error
                | Self::Metadata
                | Self::Headers,
                true,
            )
            | (Self::Choices, false) => self,
            (Self::Error, false) => Self::Errors,
            _ => Self::Other,
        }
    }

    /// Whether the text of a string or number here is looked at.
    pub(super) fn is_read(self) -> bool {
        matches!(
            self,
            Self::Error
                | Self::Count(_)
                | Self::Type
                | Self::RootCode
                | Self::ErrorCode
                | Self::ErrorType
                | Self::ErrorStatus
                | Self::RetryAfter
                | Self::Header
        )
    }

    pub(super) fn has_names(self) -> bool {
        !matches!(self, Self::Other | Self::Choices | Self::Errors)
    }
}

/// What an event says it is, by its `type` or its SSE event name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Unsaid,
    Other,
    /// The last event of a stream.
    Last,
    /// The last event of a stream that failed.
    Failed,
    Error,
}

impl Kind {
    pub(super) fn of(name: &str) -> Self {
        match name {
            "" => Self::Unsaid,
            "message_stop" | "response.completed" | "response.incomplete" => Self::Last,
            "response.failed" => Self::Failed,
            "error" => Self::Error,
            _ => Self::Other,
        }
    }
}

/// What one document said; worth something only once it is complete.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) counts: [Option<u64>; 6],
    pub(super) done: bool,
    pub(super) kind: Kind,
    /// `code` at the top level: the Responses API's `error` event has no error object around it.
    pub(super) code: Option<Box<str>>,
    pub(super) error: Option<Box<Report>>,
}

impl Findings {
    /// An answer may name a number in two APIs' words, and some relays write 0 for the word they do not use.
    pub(super) fn prompt(&self) -> Option<u64> {
        self.greatest([Count::Prompt, Count::Input, Count::PromptEval])
    }

    pub(super) fn completion(&self) -> Option<u64> {
        self.greatest([Count::Completion, Count::Output, Count::Eval])
    }

    fn greatest(&self, of: [Count; 3]) -> Option<u64> {
        of.into_iter().filter_map(|count| self.counts[count as usize]).max()
    }

    pub(super) fn report(&mut self) -> &mut Report {
        self.error.get_or_insert_default()
    }
}

/// Headers that tell when to come back; any other is not worth its room.
pub(super) fn is_hint(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    ["retry-after", "ratelimit", "rate-limit"].iter().any(|hint| name.contains(hint))
}
