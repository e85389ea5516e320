//! `keytide stats`

use super::{
    client::Reply,
    error::Error,
    io::Io,
    remote::Remote,
    show,
    table::{Align, Table},
    view::{Provider, Stats},
};
use crate::model::Clock;

/// Show keys, requests and the busiest models, for each provider
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide stats
  keytide stats --provider ollama --top 20
  keytide stats --json | jq -r '[.provider, .total_requests] | @tsv'")]
pub(super) struct Args {
    /// How many models to show for each provider
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=50))]
    top: u64,
    /// This provider alone, as it is named in the configuration [default: all]
    #[arg(long, value_name = "NAME")]
    provider: Option<String>,
    #[command(flatten)]
    remote: Remote,
}

pub(super) async fn run(args: &Args, io: &mut Io) -> Result<(), Error> {
    let client = args.remote.client(io)?;
    let names = match &args.provider {
        Some(name) => vec![name.clone()],
        None => {
            let found: Reply<Vec<Provider>> = client.get("admin/providers", &[]).await?;
            found.value.into_iter().map(|provider| provider.name).collect()
        }
    };
    let mut all = Vec::new();
    for name in &names {
        let reply: Reply<Stats> = client.get("admin/stats", &[("provider", name)]).await?;
        if args.remote.json {
            io.line(&reply.one_line())?;
        }
        all.push(reply.value);
    }
    if args.remote.json { Ok(()) } else { print(&all, args.top, io) }
}

fn print(all: &[Stats], top: u64, io: &mut Io) -> Result<(), Error> {
    let mut table = Table::new(&[
        ("PROVIDER", Align::Left),
        ("KEYS", Align::Right),
        ("ACTIVE", Align::Right),
        ("FAILED", Align::Right),
        ("DISABLED", Align::Right),
        ("EXPIRED", Align::Right),
        ("TOKENS", Align::Right),
        ("REQUESTS", Align::Right),
        ("SUCCESS", Align::Right),
        ("TOKENS IN", Align::Right),
        ("TOKENS OUT", Align::Right),
    ]);
    for stats in all {
        table.row([
            stats.provider.clone(),
            show::count(stats.total_api_keys),
            show::count(stats.active_keys),
            show::count(stats.failed_keys),
            show::count(stats.disabled_keys),
            show::count(stats.expired_keys),
            show::count(stats.total_client_tokens),
            show::count(stats.total_requests),
            show::percent(stats.success_rate, stats.total_requests),
            show::count(stats.prompt_tokens),
            show::count(stats.completion_tokens),
        ]);
    }
    io.print(&table.render(false))?;
    let mut models = Table::new(&[
        ("PROVIDER", Align::Left),
        ("MODEL", Align::Left),
        ("REQUESTS", Align::Right),
        ("SUCCESS", Align::Right),
        ("TOKENS IN", Align::Right),
        ("TOKENS OUT", Align::Right),
        ("LAST USED", Align::Left),
    ]);
    let now = Clock::System.now();
    for stats in all {
        for model in stats.models.iter().take(usize::try_from(top).unwrap_or(usize::MAX)) {
            models.row([
                stats.provider.clone(),
                model.model.clone(),
                show::count(model.total_requests),
                show::percent(model.success_rate, model.total_requests),
                show::count(model.prompt_tokens),
                show::count(model.completion_tokens),
                show::ago(model.last_used, now),
            ]);
        }
    }
    if !models.is_empty() {
        io.line("")?;
        io.print(&models.render(false))?;
    }
    Ok(())
}
