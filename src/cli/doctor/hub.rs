//! The hubs: whether they can be reached, used, and are closed to others.

use std::time::Duration;

use super::Report;
use crate::{
    cli::hub,
    config::{Config, HubConfig},
    model::{Clock, Secret},
    replica::{
        route::{self, Route, rest_url_of},
        schema::{self, Target},
        transport::{Error, Transport},
        wire::SCHEMA,
    },
};

/// More than this apart, dates of other instances look wrong here.
const SKEW_MS: i64 = 2_000;
/// And from here on what is changed here is refused until it is stamped anew.
const REFUSED_MS: i64 = 300_000;

pub(super) async fn report(config: &Config, report: &mut Report) {
    let hubs = config.hubs();
    if hubs.is_empty() {
        report.ok("hub", "none is configured; everything stays in the local file");
    }
    for hub in &hubs {
        one(hub, report).await;
    }
}

async fn one(hub: &HubConfig, report: &mut Report) {
    let check = format!("hub {}", hub.name);
    let fail = |report: &mut Report, error: &Error| {
        report.fail(&check, error.detail.as_str(), error.kind.advice());
    };
    let Route { transport, warnings } = match route::choose(&hub.options.route) {
        Ok(Some(route)) => route,
        Ok(None) => return report.skipped(&check, "replication is switched off"),
        Err(error) => return fail(report, &error),
    };
    for warning in warnings {
        report.warn(&check, warning, "change the setting if that is not meant");
    }
    pooler(&check, hub, transport.as_ref(), report);
    let found = match hub::look(transport.as_ref(), &hub.providers).await {
        Ok(found) => found,
        Err(error) => return fail(report, &error),
    };
    report.ok(&check, format!("{} answers over {}", transport.target(), transport.kind()));
    clock(&check, found.greeting.now, report);
    if found.greeting.read_only {
        report.warn(
            &format!("{check} writes"),
            "it takes no writes at present",
            "free space, resume the project, or use the primary; keytide keeps counting meanwhile",
        );
    }
    match hub::database(&hub.options.route) {
        Some(connecting) => match connecting.await {
            Ok(client) => tables(&check, &client, hub, report).await,
            Err(error) => fail(report, &error),
        },
        None => {
            let missing: Vec<_> =
                found.pages.iter().filter(|page| page.missing).map(|page| page.stream.as_str()).collect();
            let name = format!("{check} schema");
            if found.greeting.schema > SCHEMA {
                report.fail(&name, "it is newer than this keytide", "install that version or a later one");
            } else if missing.is_empty() {
                report.ok(&name, "the tables of all providers are there; over REST the rights are not seen");
            } else {
                report.fail(
                    &name,
                    format!("tables or columns of {} are missing", missing.join(", ")),
                    "paste what `keytide schema print` shows into the project's SQL editor",
                );
            }
        }
    }
}

/// Says where the REST API was found, and what kind of pooler stands between.
fn pooler(check: &str, hub: &HubConfig, transport: &dyn Transport, report: &mut Report) {
    if transport.kind() == "rest" {
        if let (None, Some(derived)) =
            (&hub.options.route.rest_url, hub.options.route.database_url.as_ref().and_then(rest_url_of))
        {
            report.ok(check, format!("its REST API is {derived}, as the database's URL tells"));
        }
        return;
    }
    let check = format!("{check} pooler");
    match hub.options.route.database_url.as_ref().map(mode) {
        Some(Mode::Transaction) => report.ok(&check, "transaction mode, which keytide is made for"),
        Some(Mode::Session) => report.warn(
            &check,
            "session mode: each instance holds one of the few connections for good",
            "use port 6543 of the pooler in DATABASE_URL",
        ),
        Some(Mode::None) => report.ok(&check, "none is named; keytide holds one connection"),
        None => {}
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Mode {
    None,
    Session,
    Transaction,
}

fn mode(url: &Secret) -> Mode {
    let text = url.expose();
    let rest = text.rsplit_once('@').map_or(text, |(_, rest)| rest);
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let host = place.split('/').next().unwrap_or_default();
    if host.ends_with(":6543") || query.split('&').any(|pair| pair == "pgbouncer=true") {
        Mode::Transaction
    } else if host.contains(".pooler.") {
        Mode::Session
    } else {
        Mode::None
    }
}

fn clock(check: &str, hub_now: i64, report: &mut Report) {
    let check = format!("{check} clock");
    let offset = Clock::System.now().0.saturating_sub(hub_now);
    let apart = Duration::from_millis(offset.unsigned_abs());
    let side = if offset < 0 { "behind" } else { "ahead of" };
    let said = format!("this machine is {:.1} s {side} the hub", apart.as_secs_f64());
    match offset.saturating_abs() {
        ..SKEW_MS => report.ok(&check, "the same as this machine's"),
        SKEW_MS..REFUSED_MS => {
            report.warn(
                &check,
                said,
                "set this machine's clock, for instance with `timedatectl set-ntp true`",
            );
        }
        _ => report.fail(
            &check,
            said,
            "set this machine's clock, for instance with `timedatectl set-ntp true`",
        ),
    }
}

async fn tables(check: &str, client: &tokio_postgres::Client, hub: &HubConfig, report: &mut Report) {
    let name = format!("{check} schema");
    let targets: Vec<_> =
        hub.providers.iter().map(|(provider, prefix)| Target { prefix, provider }).collect();
    match schema::check(client, &targets).await {
        Ok(found) if found.problems.is_empty() => {
            report.ok(&name, "complete, and closed to anon and to everyone else");
        }
        Ok(found) => {
            for problem in found.problems {
                let place = problem.stream.map(|stream| format!("{stream}: ")).unwrap_or_default();
                let what = format!("{place}{}", problem.what);
                if problem.harmless {
                    report.warn(&name, what, problem.remedy);
                } else {
                    report.fail(&name, what, problem.remedy);
                }
            }
        }
        Err(error) => {
            report.fail(&name, error.to_string(), "use the database's owner in DATABASE_URL");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn poolers_are_told_by_their_addresses() {
        let mode = |url: &str| mode(&Secret::new(url));
        let supabase = "postgresql://postgres.abc:p%40ss@aws-0-eu.pooler.supabase.com";
        assert_eq!(mode(&format!("{supabase}:6543/postgres?pgbouncer=true")), Mode::Transaction);
        assert_eq!(mode(&format!("{supabase}:5432/postgres")), Mode::Session);
        assert_eq!(mode("postgresql://u:a@b@db.example:5432/x"), Mode::None);
        assert_eq!(mode("postgresql://db.example/x?connect_timeout=3&pgbouncer=true"), Mode::Transaction);
    }
}
