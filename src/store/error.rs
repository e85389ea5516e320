//! What can go wrong with the file, each in one sentence that says what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::codec;

/// Cheap to clone: one failed commit is told to everybody who waited for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("another keytide is using {}; stop it first or ask it through the admin API", .0.display())]
    InUse(PathBuf),
    #[error("{} cannot be read and written ({reason}); give the user that runs keytide both rights to it and its folder", .file.display())]
    Permission { file: PathBuf, reason: String },
    #[error("{} is not a folder; name another data folder or move that file away", .0.display())]
    NotAFolder(PathBuf),
    #[error("{} is not a file; name another path or move what is there away", .0.display())]
    NotAFile(PathBuf),
    #[error("{} is not a keytide store and was left as it is; move it away or name another data folder", .0.display())]
    Foreign(PathBuf),
    #[error("{} is empty, which a keytide store never is; move it away to start anew, or restore a backup", .0.display())]
    Empty(PathBuf),
    #[error("{} is damaged ({detail}) and was left as it is; restore a backup, or move it away to start anew", .file.display())]
    Corrupt { file: PathBuf, detail: String },
    #[error("{} was written by a newer keytide (format {found}, this one reads up to {known}); install that version or a later one", .file.display())]
    Newer { file: PathBuf, found: u32, known: u32 },
    #[error("the disk that holds {} is full; free some space, and keytide goes on by itself", .0.display())]
    Full(PathBuf),
    #[error("{} was replaced while keytide was running; restart keytide to use the new file", .0.display())]
    Replaced(PathBuf),
    #[error("{} already exists; name another file or move it away", .0.display())]
    Exists(PathBuf),
    #[error("there is no file {}; check the path", .0.display())]
    Missing(PathBuf),
    #[error("{} cannot be used ({detail}); check the disk that holds it", .file.display())]
    Io { file: PathBuf, detail: String },
    #[error("what \"{name}\" is to keep is too large for {}; lower the bounds that it has in the configuration", .file.display())]
    TooLarge { file: PathBuf, name: &'static str },
    #[error("the store is closed; restart keytide")]
    Closed,
}

impl Error {
    pub(super) fn io(file: &Path, error: &io::Error) -> Self {
        use io::ErrorKind as Kind;
        let file = file.to_owned();
        match error.kind() {
            Kind::PermissionDenied | Kind::ReadOnlyFilesystem => {
                Self::Permission { file, reason: error.to_string() }
            }
            Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => Self::Full(file),
            Kind::NotADirectory => Self::NotAFolder(file),
            Kind::IsADirectory => Self::NotAFile(file),
            Kind::AlreadyExists => Self::Exists(file),
            Kind::NotFound => Self::Missing(file),
            Kind::UnexpectedEof => Self::Corrupt { file, detail: "it is cut short".to_owned() },
            _ => Self::Io { file, detail: error.to_string() },
        }
    }

    pub(super) fn corrupt(file: &Path, detail: impl Into<String>) -> Self {
        Self::Corrupt { file: file.to_owned(), detail: detail.into() }
    }
}

/// A failure inside a transaction, before the file's name is put to it.
#[derive(Debug)]
pub(super) enum Fault {
    Redb(redb::Error),
    /// A row that cannot be read, and where it stands.
    Row(codec::Error, String),
    /// redb gave up in the middle of something.
    Panic,
    Known(Error),
}

impl Fault {
    pub(super) fn at(self, file: &Path) -> Error {
        let corrupt = |detail| Error::corrupt(file, detail);
        match self {
            Self::Redb(redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch) => {
                Error::InUse(file.to_owned())
            }
            Self::Redb(redb::Error::Io(error)) => Error::io(file, &error),
            Self::Redb(redb::Error::Corrupted(detail)) => corrupt(detail),
            Self::Redb(redb::Error::UpgradeRequired(_)) => Error::Foreign(file.to_owned()),
            Self::Redb(
                error @ (redb::Error::TableTypeMismatch { .. }
                | redb::Error::TableDoesNotExist(_)
                | redb::Error::TableIsMultimap(_)
                | redb::Error::TypeDefinitionChanged { .. }),
            ) => corrupt(error.to_string()),
            Self::Redb(error) => Error::Io { file: file.to_owned(), detail: error.to_string() },
            Self::Row(codec::Error::Newer { found, known }, _) => {
                Error::Newer { file: file.to_owned(), found, known }
            }
            Self::Row(codec::Error::Broken(detail), place) => corrupt(format!("{place}: {detail}")),
            Self::Panic => corrupt("its pages contradict each other".to_owned()),
            Self::Known(error) => error,
        }
    }
}

macro_rules! from_redb {
    ($($kind:ident),*) => {$(
        impl From<redb::$kind> for Fault {
            fn from(error: redb::$kind) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
from_redb!(DatabaseError, TransactionError, TableError, StorageError, CommitError, CompactionError);

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Known(error)
    }
}

/// Runs `work`, turning a panic into an error: redb may panic on pages that nobody but a failing disk wrote.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).unwrap_or(Err(Fault::Panic))
}
