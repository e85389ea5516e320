//! Files for their owner's eyes alone, complete or absent.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, fchown},
    path::{Path, PathBuf},
};

use uuid::Uuid;

/// A file of mode 0600 that gets its name when it is complete, and is removed when it is not.
pub(super) struct PrivateFile {
    draft: PathBuf,
    target: PathBuf,
    file: File,
}

impl PrivateFile {
    pub(super) fn new(target: &Path) -> io::Result<Self> {
        let name = target.file_name().ok_or_else(|| io::Error::other("that is no file's name"))?;
        let mut draft = OsString::from(".");
        draft.push(name);
        draft.push(format!(".{}.part", Uuid::new_v4().simple()));
        let draft = folder(target).join(draft);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
        Ok(Self { draft, target: target.to_owned(), file })
    }

    /// Gives the file to the owner of its folder: the superuser acts for the service here.
    pub(super) fn for_owner_of_folder(self) -> io::Result<Self> {
        let (folder, own) = (fs::metadata(folder(&self.target))?, self.file.metadata()?);
        if (folder.uid(), folder.gid()) != (own.uid(), own.gid()) && own.uid() == 0 {
            fchown(&self.file, Some(folder.uid()), Some(folder.gid()))?;
        }
        Ok(self)
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)
    }

    /// # Errors
    /// `AlreadyExists` when something has the name already and is not to be replaced.
    pub(super) fn publish(self, replace: bool) -> io::Result<()> {
        self.file.sync_all()?;
        if replace {
            fs::rename(&self.draft, &self.target)?;
        } else {
            link(&self.draft, &self.target)?;
        }
        File::open(folder(&self.target))?.sync_all()
    }
}

impl Drop for PrivateFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.draft);
    }
}

/// A hard link, unlike a rename, never replaces what is there; some file systems know none.
fn link(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Err(error)
            if matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::PermissionDenied)
                && fs::symlink_metadata(to).is_err() =>
        {
            fs::rename(from, to)
        }
        linked => linked,
    }
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn appears_complete_and_private_and_replaces_only_when_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let write = |text: &str, replace| {
            let mut file = PrivateFile::new(&path).unwrap();
            file.write(text.as_bytes()).unwrap();
            file.publish(replace)
        };
        drop(PrivateFile::new(&path).unwrap());
        write("one", false).unwrap();
        assert_eq!(write("two", false).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write("two", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no drafts are left");
    }
}
