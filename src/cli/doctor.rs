//! `keytide doctor`

mod here;
mod hub;
mod providers;
mod server;

use serde::Serialize;

use super::{
    error::Error,
    io::Io,
    remote::Remote,
    table::{Colour, plain},
};

/// Check configuration, data folder, file, clock, address, hubs and providers, and say what to do
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide doctor
  sudo -u keytide keytide doctor --config /etc/keytide/config.toml
  keytide doctor --json | jq '.checks[] | select(.result == \"failed\")'

The exit code is 1 when a check failed. At most one key of each provider is tried, through the running server.")]
pub(super) struct Args {
    #[command(flatten)]
    remote: Remote,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    /// Works, and somebody should know.
    Warning,
    Failed,
    /// Could not be looked at, for a reason that another check has.
    Skipped,
}

impl Outcome {
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

#[derive(Debug, Serialize)]
struct Check {
    check: String,
    result: Outcome,
    detail: String,
    /// What to do about it.
    advice: Option<String>,
}

#[derive(Default)]
struct Report {
    checks: Vec<Check>,
}

impl Report {
    fn ok(&mut self, check: &str, detail: impl Into<String>) {
        self.add(check, Outcome::Ok, detail.into(), None);
    }

    fn skipped(&mut self, check: &str, detail: impl Into<String>) {
        self.add(check, Outcome::Skipped, detail.into(), None);
    }

    fn warn(&mut self, check: &str, detail: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Outcome::Warning, detail.into(), Some(advice.into()));
    }

    fn fail(&mut self, check: &str, detail: impl Into<String>, advice: impl Into<String>) {
        self.add(check, Outcome::Failed, detail.into(), Some(advice.into()));
    }

    fn add(&mut self, check: &str, result: Outcome, detail: String, advice: Option<String>) {
        let (detail, advice) = (plain(&detail), advice.map(|text| plain(&text)));
        self.checks.push(Check { check: check.to_owned(), result, detail, advice });
    }

    fn failed(&self) -> usize {
        self.checks.iter().filter(|check| check.result == Outcome::Failed).count()
    }

    fn print(&self, io: &mut Io) -> Result<(), Error> {
        let colour = io.colour();
        for Check { check, result, detail, advice } in &self.checks {
            let word = format!("{:7}", result.word());
            let word = if colour { Colour::of(result.word()).paint(&word) } else { word };
            io.line(&format!("{word}  {check}: {detail}"))?;
            if let Some(advice) = advice {
                io.line(&format!("         {advice}"))?;
            }
        }
        io.line(&match self.failed() {
            0 => "all is well".to_owned(),
            1 => "1 check failed".to_owned(),
            failed => format!("{failed} checks failed"),
        })
    }
}

pub(super) async fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let mut report = Report::default();
    let spinner = io.spinner("looking around");
    here::clock(crate::model::Clock::System.now(), &mut report);
    match args.remote.local.read(None, io) {
        Ok(loaded) => examine(args, &loaded, &mut report, io).await?,
        Err(error) => {
            for problem in error.problems {
                report.fail(
                    "configuration",
                    problem.to_string(),
                    "correct it; config.toml explains every setting",
                );
            }
            report.skipped("everything else", "needs a configuration that can be used");
        }
    }
    spinner.finish_and_clear();
    if args.remote.json {
        let all = serde_json::json!({"ok": report.failed() == 0, "checks": report.checks});
        io.line(&all.to_string())?;
    } else {
        report.print(io)?;
    }
    if report.failed() > 0 { Err(Error::Shown) } else { Ok(()) }
}

async fn examine(
    args: &Args,
    loaded: &crate::config::Loaded,
    report: &mut Report,
    io: &Io,
) -> Result<(), Error> {
    let config = &loaded.config;
    match &loaded.file {
        Some(file) => report.ok("configuration", format!("{} can be used", file.display())),
        None => report.ok("configuration", "there is no file, so what ships is used"),
    }
    for notice in &loaded.notices {
        report.warn("configuration", notice.as_str(), "change it if that is not meant");
    }
    let client = args.remote.client_of(Some(loaded), io)?;
    let server = server::look(&client).await;
    here::folder(&config.store.dir, report);
    here::disk(&config.store.dir, report);
    here::file(&config.store.dir, &server, report);
    server::report(&server, &client, loaded, args.remote.names_server(io), report);
    let client = server.is_ours().then_some(client);
    hub::report(config, report).await;
    providers::report(&config.providers, client.as_ref(), report).await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_read_well_and_are_counted() {
        let mut report = Report::default();
        report.ok("one", "fine");
        report.warn("two", "so so", "look at it");
        assert_eq!(report.failed(), 0);
        report.fail("three", "bad\x1b[2J", "mend it");
        assert_eq!(report.failed(), 1);
        let json = serde_json::to_value(&report.checks).unwrap();
        assert_eq!(json[2]["result"], "failed");
        assert_eq!(json[2]["detail"], "bad [2J");
        assert_eq!(json[0]["advice"], serde_json::Value::Null);
    }
}
