//! The admin token: configured, or made at the first start and kept in the data folder.

use std::{
    fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};

use crate::{config::Config, model::Secret};

/// The file in the data folder.
pub const FILE_NAME: &str = "admin-token";
const BYTES: usize = 32;
const MIN_LEN: usize = 16;

/// The token in force, and where it came from.
#[derive(Clone, Debug)]
pub struct AdminToken {
    pub secret: Secret,
    /// `None` when it is configured.
    pub file: Option<PathBuf>,
    /// Made at this start.
    pub is_new: bool,
}

impl AdminToken {
    /// # Errors
    /// When the file cannot be read or made.
    pub fn load(config: &Config) -> anyhow::Result<Self> {
        if let Some(secret) = &config.server.admin_token {
            return Ok(Self { secret: secret.clone(), file: None, is_new: false });
        }
        let path = config.store.dir.join(FILE_NAME);
        match fs::read_to_string(&path) {
            Ok(text) if text.trim().len() >= MIN_LEN => {
                Ok(Self { secret: Secret::new(text.trim()), file: Some(path), is_new: false })
            }
            Ok(_) => bail!(
                "{} holds no usable admin token: make a new one with `keytide admin-token reset`",
                path.display()
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { secret: write_new(&path)?, file: Some(path), is_new: true })
            }
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }
}

/// A new token: beyond guessing, and safe in headers and shells.
///
/// # Errors
/// When the system gives no random numbers.
pub fn generate() -> anyhow::Result<Secret> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(Secret::new(BASE64_URL_SAFE_NO_PAD.encode(bytes)))
}

/// Written beside and renamed, so that no reader ever sees half a token.
fn write_new(path: &Path) -> anyhow::Result<Secret> {
    let token = generate()?;
    let temporary = path.with_extension("new");
    let write = || -> io::Result<()> {
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        writeln!(file, "{}", token.expose())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.store.dir = dir.path().to_owned();
        let first = AdminToken::load(&config).unwrap();
        let second = AdminToken::load(&config).unwrap();
        assert!(first.is_new && !second.is_new);
        assert_eq!(first.secret, second.secret);
        let mode = fs::metadata(dir.path().join(FILE_NAME)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        fs::write(dir.path().join(FILE_NAME), "short").unwrap();
        assert!(AdminToken::load(&config).unwrap_err().to_string().contains("admin-token reset"));
    }
}
