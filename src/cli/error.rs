//! Why a command ends early.

use std::io;

use crate::store;

/// Each text is what follows "keytide: " on stderr.
#[derive(Debug, PartialEq, thiserror::Error)]
pub(super) enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    /// Nobody listens at the server's address.
    #[error("{0}")]
    Unreachable(String),
    /// Nothing more to say: what is wrong has been shown with the result.
    #[error("")]
    Shown,
    /// The reader has seen enough.
    #[error("")]
    BrokenPipe,
}

impl Error {
    pub(super) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub(super) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub(super) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) | Self::Unreachable(_) | Self::Shown => 1,
            Self::BrokenPipe => 0,
        }
    }

    /// For writing to stdout.
    pub(super) fn output(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        Self::Failed(error.to_string())
    }
}
