//! Getting at the file: made whole or not at all, looked at before it is touched.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions},
    io::{self, ErrorKind, Read},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use redb::{Builder, Database, ReadableDatabase, backends::FileBackend};
use uuid::Uuid;

use super::{
    error::{Error, Fault, guarded},
    overlay::Overlay,
    tables::{self, Identity, Origin},
};
use crate::model::Timestamp;

pub const FILE_NAME: &str = "keytide.redb";

/// Everything that is read at a start stays in the pool's and the books' own memory, so pages need no large cache.
const CACHE_BYTES: usize = 16 << 20;
/// Of the budget: where the ladder begins.
const SHRINK_PERCENT: u64 = 70;
const DRAFT_SUFFIX: &str = ".part";
/// Nobody takes so long for an empty store, and a larger draft is being written to all the time.
const DRAFT_AGE: Duration = Duration::from_secs(60);
/// The first bytes of every redb file.
const REDB_MAGIC: [u8; 9] = *b"redb\x1A\x0A\xA9\x0D\x0A";

pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Makes sure that the data folder is one, creating it for its owner alone.
pub(super) fn prepare_dir(dir: &Path) -> Result<(), Error> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(Error::NotAFolder(dir.to_owned())),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|error| match error.kind() {
                // A file somewhere on the way.
                ErrorKind::AlreadyExists => Error::NotAFolder(dir.to_owned()),
                _ => Error::io(dir, &error),
            })
        }
        Err(error) => Err(Error::io(dir, &error)),
    }
}

/// A file that is removed again unless it is published under its real name.
pub(super) struct Draft {
    path: PathBuf,
    target: PathBuf,
}

impl Draft {
    /// An empty file, mode 0600, beside `target`. Refuses when `target` exists.
    pub(super) fn new(target: &Path) -> Result<(Self, File), Error> {
        if fs::symlink_metadata(target).is_ok() {
            return Err(Error::Exists(target.to_owned()));
        }
        let name = target.file_name().ok_or_else(|| Error::NotAFile(target.to_owned()))?;
        let mut draft = std::ffi::OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}{DRAFT_SUFFIX}", Uuid::new_v4().simple()));
        let path = folder_of(target).join(draft);
        let file =
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path).map_err(
                |error| match error.kind() {
                    ErrorKind::NotFound => Error::Missing(folder_of(target).to_owned()),
                    _ => Error::io(target, &error),
                },
            )?;
        Ok((Self { path, target: target.to_owned() }, file))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the finished file its name, which nobody else can have taken meanwhile.
    pub(super) fn publish(self) -> Result<(), Error> {
        let publish = || {
            File::open(&self.path)?.sync_all()?;
            // A hard link, unlike a rename, never replaces what is there.
            match fs::hard_link(&self.path, &self.target) {
                Err(error)
                    if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::PermissionDenied)
                        && fs::symlink_metadata(&self.target).is_err() =>
                {
                    // Some file systems know no links.
                    fs::rename(&self.path, &self.target)?;
                }
                linked => linked?,
            }
            sync_folder(folder_of(&self.target))
        };
        publish().map_err(|error| Error::io(&self.target, &error))
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// Removes drafts of the store that a crash has left behind: they can hold keys, or be a second name of the store
/// itself. Not being able to is no reason to stop.
pub(super) fn sweep_drafts(file: &Path) {
    let Some(name) = file.file_name().and_then(|name| name.to_str()) else { return };
    let (Ok(store), Ok(entries)) = (fs::metadata(file), fs::read_dir(folder_of(file))) else { return };
    for entry in entries.flatten() {
        let found = entry.file_name();
        let is_draft = found
            .to_str()
            .and_then(|found| found.strip_prefix('.')?.strip_prefix(name)?.strip_prefix('.'))
            .and_then(|rest| rest.strip_suffix(DRAFT_SUFFIX))
            .is_some_and(|id| Uuid::try_parse(id).is_ok());
        let Ok(draft) = entry.metadata() else { continue };
        let is_published = (draft.dev(), draft.ino()) == (store.dev(), store.ino());
        // Another process may be about to publish a fresh one, only to find that it was too slow.
        let is_old =
            draft.modified().ok().and_then(|at| at.elapsed().ok()).is_some_and(|age| age > DRAFT_AGE);
        if is_draft && (is_published || is_old) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync_folder(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates the store if there is none. A crash on the way leaves no half-made file under the real name.
pub(super) fn create_if_missing(file: &Path, now: Timestamp) -> Result<(), Error> {
    match fs::symlink_metadata(file) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(Error::io(file, &error)),
    }
    refuse_read_only(folder_of(file))?;
    let (draft, raw) = Draft::new(file)?;
    let identity = Identity { instance: Uuid::new_v4(), created_at: now };
    guarded(|| {
        let database = builder().create_with_backend(FileBackend::new(raw)?)?;
        let txn = database.begin_write()?;
        tables::create(&txn, &identity)?;
        txn.commit()?;
        Ok(database.close()?)
    })
    .map_err(|fault| fault.at(file))?;
    match draft.publish() {
        // Another process was faster: its file is opened, or found to be in use.
        Err(Error::Exists(_)) => Ok(()),
        published => published,
    }
}

/// Opens the file for good, after a look at it that changes nothing.
pub(super) fn open(file: &Path) -> Result<(Database, Identity), Error> {
    refuse_read_only(file)?;
    let (database, identity) = inspect(file)?;
    drop(database);
    restrict(file);
    let database = guarded(|| {
        let database = builder().open(file)?;
        let origin = tables::origin(&database.begin_read()?)?;
        migrate(&database, &origin)?;
        Ok(database)
    });
    Ok((database.map_err(|fault| fault.at(file))?, identity))
}

/// Gives free space back to the disk when the file is near to its budget and much of it is free. It takes some seconds
/// then, and happens once: what is live stays as it is.
pub(super) fn shrink(file: &Path, budget: u64) -> Result<(), Error> {
    let length = || fs::metadata(file).map(|found| found.len()).map_err(|error| Error::io(file, &error));
    let before = length()?;
    if before / 100 * 100 < budget / 100 * SHRINK_PERCENT {
        return Ok(());
    }
    let (mut database, _) = open(file)?;
    let is_done = guarded(|| {
        let txn = database.begin_write()?;
        let stats = txn.stats()?;
        txn.abort()?;
        let live = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
        let is_worth_it = live < before / 2;
        // One round frees what the last one has moved.
        while is_worth_it && database.compact()? {}
        database.close()?;
        Ok(is_worth_it)
    })
    .map_err(|fault| fault.at(file))?;
    if is_done {
        let after = length()?;
        tracing::info!(file = %file.display(), before, after, "the store was compacted: it was near to its budget");
    }
    Ok(())
}

/// Brings a file of an older format to the present one, in one transaction.
fn migrate(database: &Database, origin: &Origin) -> Result<(), Fault> {
    if let Origin::Older(_) = origin {
        let txn = database.begin_write()?;
        tables::migrate(&txn)?;
        txn.commit()?;
    }
    Ok(())
}

/// Opens the file for reading alone, with every page's checksum verified. What is written, to recover from a
/// crash or to bring an older format up to date, stays in memory, so a file that turns out to be damaged or foreign is left as it was.
pub(super) fn inspect(file: &Path) -> Result<(Database, Identity), Error> {
    let (raw, writable) = open_raw(file)?;
    let result = guarded(|| {
        let mut builder = builder();
        builder.set_check_integrity_on_open(true);
        let database = builder.create_with_backend(Overlay::new(raw, writable)?)?;
        let origin = tables::origin(&database.begin_read()?)?;
        migrate(&database, &origin)?;
        Ok((database, origin))
    });
    match result.map_err(|fault| fault.at(file))? {
        (database, Origin::Keytide(identity) | Origin::Older(identity)) => Ok((database, identity)),
        (_, Origin::Foreign) => Err(Error::Foreign(file.to_owned())),
        (_, Origin::Broken(detail)) => Err(Error::corrupt(file, detail)),
        (_, Origin::Newer(found)) => {
            Err(Error::Newer { file: file.to_owned(), found: found.into(), known: tables::FORMAT.into() })
        }
    }
}

/// The file, and whether it can be written.
fn open_raw(file: &Path) -> Result<(File, bool), Error> {
    let fail = |error: io::Error| Error::io(file, &error);
    let found = fs::metadata(file).map_err(fail)?;
    if !found.is_file() {
        return Err(Error::NotAFile(file.to_owned()));
    }
    if found.len() == 0 {
        return Err(Error::Empty(file.to_owned()));
    }
    // Writing is only asked for because locks take it; a backup may lie where nothing can be written.
    let (mut raw, writable) = match OpenOptions::new().read(true).write(true).open(file) {
        Ok(raw) => (raw, true),
        Err(error) if matches!(error.kind(), ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem) => {
            (File::open(file).map_err(fail)?, false)
        }
        Err(error) => return Err(fail(error)),
    };
    let mut head = [0; REDB_MAGIC.len()];
    match raw.read_exact(&mut head) {
        Ok(()) if head == REDB_MAGIC => Ok((raw, writable)),
        Ok(()) => Err(Error::Foreign(file.to_owned())),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
            let mut start = vec![0; usize::try_from(found.len()).unwrap_or(0).min(REDB_MAGIC.len())];
            let short = raw.read_exact_at(&mut start, 0).is_ok() && REDB_MAGIC.starts_with(&start);
            Err(if short { fail(error) } else { Error::Foreign(file.to_owned()) })
        }
        Err(error) => Err(fail(error)),
    }
}

/// The superuser may write what is marked read-only; the mark is somebody's wish all the same.
fn refuse_read_only(path: &Path) -> Result<(), Error> {
    let found = fs::metadata(path).map_err(|error| Error::io(path, &error))?;
    if found.permissions().readonly() {
        return Err(Error::Permission { file: path.to_owned(), reason: "it is read-only".to_owned() });
    }
    Ok(())
}

/// The file holds keys: nobody but its owner reads it. Not being allowed to say so is no reason to stop.
fn restrict(file: &Path) {
    if let Ok(found) = fs::metadata(file)
        && found.permissions().mode() & 0o077 != 0
    {
        let _ = fs::set_permissions(file, Permissions::from_mode(0o600));
    }
}
