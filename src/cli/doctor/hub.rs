//! The hubs: whether they can be reached, used, and are closed to others.

use std::time::Duration;

use super::Report;
use crate::{
    cli::{hub, show},
    config::{Config, DEFAULT_HUB, HubConfig},
    model::Secret,
    replica::{
        route::{self, Route, rest_url_of},
        schema::{self, Target},
        space, status,
        transport::{Error, Transport},
        wire::SizesAnswer,
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
        one(hub, config.usage_log, report).await;
    }
}

async fn one(hub: &HubConfig, logs: bool, report: &mut Report) {
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
    let hub::Look { found, offset, doubt } = match hub::look(transport.as_ref(), &hub.providers).await {
        Ok(look) => look,
        Err(error) => return fail(report, &error),
    };
    report.ok(&check, format!("{} answers over {}", transport.target(), transport.kind()));
    clock(&check, offset, doubt, report);
    if found.greeting.read_only {
        report.warn(
            &format!("{check} writes"),
            "it takes no writes at present",
            "free space, resume the project, or use the primary; keytide keeps counting meanwhile",
        );
    }
    // A hub without this function is spoken of elsewhere.
    if let Ok(sizes) = hub::sizes(transport.as_ref()).await {
        reports(&check, &sizes, report);
        storage(&check, hub, &sizes, &transport.target(), report);
        if let Some(why) =
            space::without_logs(sizes.usage_logs.as_deref()).filter(|_| logs && hub.name == DEFAULT_HUB)
        {
            let (what, advice) = why.split_once(": ").unwrap_or((why, ""));
            report.warn(&format!("{check} usage log"), what, advice);
        }
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
            if let Some(newer) = schema::newer_than(found.greeting.schema) {
                report.fail(&name, newer.what, newer.remedy);
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

/// Other programs' writes that were not done as they say.
fn reports(check: &str, sizes: &SizesAnswer, report: &mut Report) {
    for what in &sizes.reports {
        report.warn(
            &format!("{check} reports"),
            status::Report::from(what).text,
            "a program wrote a figure that it had read earlier; the hub's own stands",
        );
    }
}

/// How much of its budget is used.
fn storage(check: &str, hub: &HubConfig, sizes: &SizesAnswer, target: &str, report: &mut Report) {
    let check = format!("{check} storage");
    if let Some(why) = space::beyond_plan(target, hub.budget) {
        report.warn(&check, why, "set [budget] hub, or budget under the hub's own table");
    }
    let prefixes: Vec<_> = hub.providers.iter().map(|(_, prefix)| prefix.clone()).collect();
    let found = space::of(sizes, &prefixes, hub.budget);
    let Some(used) = found.used_bytes else { return };
    let said = match (hub.budget, found.percent()) {
        (Some(budget), Some(percent)) => {
            format!("{} of {} used, {percent:.1} %", show::bytes(used), show::bytes(budget))
        }
        _ => format!("{} used, without a budget", show::bytes(used)),
    };
    if found.percent().is_some_and(|percent| percent >= 70.0) {
        report.warn(&check, said, "see what takes the space with `keytide store size`");
    } else {
        report.ok(&check, said);
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

/// What the length of the call leaves open speaks for the clock.
fn clock(check: &str, offset: i64, doubt: i64, report: &mut Report) {
    let check = format!("{check} clock");
    let seconds = |ms: i64| Duration::from_millis(ms.unsigned_abs()).as_secs_f64();
    let side = if offset < 0 { "behind" } else { "ahead of" };
    let said = format!("this machine is {:.1} s (±{:.1} s) {side} the hub", seconds(offset), seconds(doubt));
    match offset.saturating_abs().saturating_sub(doubt) {
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
            report.ok(&name, "complete, and closed to anon, authenticated and PUBLIC");
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

    #[test]
    fn a_slow_answer_is_no_wrong_clock() {
        let said = |offset, doubt| {
            let mut report = Report::default();
            clock("hub default", offset, doubt, &mut report);
            let checks = serde_json::to_value(&report.checks).unwrap();
            (
                checks[0]["result"].as_str().unwrap().to_owned(),
                checks[0]["detail"].as_str().unwrap().to_owned(),
            )
        };
        assert_eq!(said(2_900, 1_000).0, "ok");
        let (result, detail) = said(-3_100, 1_000);
        assert_eq!(result, "warning");
        assert_eq!(detail, "this machine is 3.1 s (±1.0 s) behind the hub");
        assert_eq!(said(300_500, 1_000).0, "warning");
        assert_eq!(said(301_000, 1_000).0, "failed");
        assert_eq!(said(i64::MIN, i64::MAX).0, "ok");
    }
}
