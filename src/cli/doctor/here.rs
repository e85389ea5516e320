//! This machine: its clock, the data folder and what is in it.

use std::{
    fs::{self, Metadata},
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::Path,
};

use super::{Report, server::Server};
use crate::{
    cli::{remote::TOKEN_FILE, show},
    model::Timestamp,
    store::{self, FILE_NAME, offline},
};

/// 2025-01-01: a clock that shows less was never set.
const EPOCH: Timestamp = Timestamp(1_735_689_600_000);
const LITTLE_SPACE: u64 = 1_000_000_000;
const NO_SPACE: u64 = 100_000_000;

pub(super) fn clock(now: Timestamp, report: &mut Report) {
    let shown = show::date(Some(now));
    if now < EPOCH {
        report.fail(
            "clock",
            format!("it shows {shown} UTC"),
            "set it, for instance with `timedatectl set-ntp true`",
        );
    } else {
        report.ok("clock", format!("{shown} UTC"));
    }
}

pub(super) fn folder(dir: &Path, report: &mut Report) {
    const CHECK: &str = "data folder";
    let shown = dir.display();
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => {
            report.fail(
                CHECK,
                format!("{shown} is not a folder"),
                "name another one with store.dir or --data-dir",
            );
        }
        Ok(found) if is_open(&found) => {
            report.fail(CHECK, format!("{shown} is open to others"), format!("run: chmod 700 {shown}"));
        }
        Ok(_) => report.ok(CHECK, format!("{shown} is its owner's alone")),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            report.ok(CHECK, format!("{shown} does not exist yet; the first start makes it"));
        }
        Err(error) => {
            report.fail(CHECK, format!("{shown}: {error}"), "run this as the user that runs keytide")
        }
    }
    for name in [FILE_NAME, TOKEN_FILE] {
        let path = dir.join(name);
        if let Ok(found) = fs::metadata(&path)
            && is_open(&found)
        {
            let shown = path.display();
            report.fail(CHECK, format!("{shown} can be read by others"), format!("run: chmod 600 {shown}"));
        }
    }
}

fn is_open(found: &Metadata) -> bool {
    found.permissions().mode() & 0o077 != 0
}

pub(super) fn disk(dir: &Path, report: &mut Report) {
    const CHECK: &str = "disk";
    // A folder that does not exist yet will be on the disk of the first one above it that does.
    let full = std::path::absolute(dir).unwrap_or_else(|_| dir.to_owned());
    let Some(there) = full.ancestors().find(|path| path.is_dir()) else {
        return report.skipped(CHECK, "there is no data folder to look at");
    };
    let free = match rustix::fs::statvfs(there) {
        Ok(found) => found.f_bavail.saturating_mul(found.f_frsize),
        Err(error) => return report.skipped(CHECK, format!("its free space is not known ({error})")),
    };
    let detail = format!("{} free for {}", show::bytes(free), dir.display());
    match free {
        0..NO_SPACE => report.fail(CHECK, detail, "free some space: the books cannot be written without it"),
        NO_SPACE..LITTLE_SPACE => report.warn(CHECK, detail, "free some space before it runs out"),
        _ => report.ok(CHECK, detail),
    }
}

/// The file itself, or the server that is using it.
pub(super) fn file(dir: &Path, server: &Server, report: &mut Report) {
    const CHECK: &str = "store";
    let path = dir.join(FILE_NAME);
    let shown = path.display();
    if fs::symlink_metadata(&path).is_err_and(|error| error.kind() == ErrorKind::NotFound) {
        return match server.storage() {
            Some(storage) => report.ok(CHECK, format!("the running server keeps {}", storage.file)),
            None => report.ok(CHECK, format!("{shown} does not exist yet; the first start makes it")),
        };
    }
    match offline::check(dir) {
        Ok(found) if found.is_sound() => report.ok(
            CHECK,
            format!(
                "{shown} is sound: {}, {}, {}",
                show::counted(found.keys, "key", "keys"),
                show::counted(found.tokens, "token", "tokens"),
                show::bytes(found.file_bytes)
            ),
        ),
        Ok(found) => {
            let first = found.problems.first().map_or("", String::as_str);
            report.fail(
                CHECK,
                format!("{shown}: {first}"),
                "see `keytide store check`, and restore a backup",
            );
        }
        Err(store::Error::InUse(_)) => match server.storage() {
            Some(storage) if storage.healthy => {
                let bytes = show::bytes(storage.sizes.file_bytes);
                report.ok(CHECK, format!("{} is in use by the running server, {bytes}", storage.file));
            }
            Some(storage) => {
                let why = storage.problem.as_deref().unwrap_or("the server does not say why");
                report.fail(
                    CHECK,
                    format!("{} cannot be written: {why}", storage.file),
                    "see the server's log",
                );
            }
            None => report.warn(
                CHECK,
                format!("{shown} is in use by a process that cannot be asked"),
                "see the checks of server and admin token",
            ),
        },
        Err(error) => report.fail(CHECK, error.to_string(), "nothing was changed"),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Outcome, *};

    fn results(report: &Report) -> Vec<Outcome> {
        report.checks.iter().map(|check| check.result).collect()
    }

    #[test]
    fn clocks_that_were_never_set() {
        let mut report = Report::default();
        clock(Timestamp(0), &mut report);
        clock(EPOCH, &mut report);
        assert_eq!(results(&report), [Outcome::Failed, Outcome::Ok]);
    }

    #[test]
    fn folders_and_files_that_others_can_read() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let mut report = Report::default();
        folder(&data, &mut report);
        fs::create_dir(&data).unwrap();
        fs::set_permissions(&data, fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(data.join(TOKEN_FILE), "x").unwrap();
        fs::set_permissions(data.join(TOKEN_FILE), fs::Permissions::from_mode(0o644)).unwrap();
        folder(&data, &mut report);
        disk(&data, &mut report);
        assert_eq!(results(&report)[..3], [Outcome::Ok, Outcome::Failed, Outcome::Failed]);
        assert!(report.checks[1].advice.as_ref().is_some_and(|advice| advice.contains("chmod 700")));
    }

    #[test]
    fn a_store_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let mut report = Report::default();
        file(dir.path(), &Server::Absent, &mut report);
        fs::write(dir.path().join(FILE_NAME), "not a store at all").unwrap();
        file(dir.path(), &Server::Absent, &mut report);
        assert_eq!(results(&report), [Outcome::Ok, Outcome::Failed]);
    }
}
