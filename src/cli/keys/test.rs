//! `keytide keys test`

use futures_util::StreamExt;
use indicatif::ProgressBar;
use reqwest::{Method, header};
use serde_json::{Value, json};

use super::{
    short,
    which::{Which, chunks},
};
use crate::cli::{
    client::{Client, Reply},
    error::Error,
    io::{Io, Unit},
    show,
    table::{Align, Colour, Table},
    view::{KeyPage, ProbeSummary, Probed},
};

/// Up to this many keys all are listed, of more only those that failed.
const LIST_ALL: u64 = 50;
/// No line of an answer is longer.
const MAX_LINE: usize = 1 << 20;

/// Try keys with a cheap request to their provider; what is learnt changes their state
#[derive(clap::Args)]
#[command(after_help = "\
Examples:
  keytide keys test 97665549
  keytide keys test --status failed --concurrency 16
  keytide keys test --all --json | jq -c 'select(.ok==false)'

The exit code is 1 when a key failed.")]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
    /// How many keys are tried at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=64))]
    concurrency: u32,
}

pub(super) async fn run(args: &Args, client: &Client, json: bool, io: &mut Io) -> Result<(), Error> {
    let (bodies, total) = match args.which.sweep()? {
        Some(body) => {
            let mut query = args.which.query();
            query.push(("pageSize", "1"));
            let found: Reply<KeyPage> = client.get("admin/api-keys", &query).await?;
            (vec![body], found.value.total)
        }
        None => {
            let ids = args.which.resolve(client, io).await?;
            (chunks(&ids).map(|ids| json!({"ids": ids})).collect(), ids.len() as u64)
        }
    };
    let bar = io.progress(total, "testing keys", Unit::Items);
    let mut run = Run { results: Vec::new(), checked: 0, ok: 0, failed: 0, json, bar };
    for mut body in bodies {
        body["concurrency"] = args.concurrency.into();
        run.stream(&body, client, io).await?;
    }
    run.finish(io)
}

struct Run {
    results: Vec<Probed>,
    checked: u64,
    ok: u64,
    failed: u64,
    json: bool,
    bar: ProgressBar,
}

impl Run {
    async fn stream(&mut self, body: &Value, client: &Client, io: &mut Io) -> Result<(), Error> {
        let request = client
            .request(Method::POST, "admin/keys/health-check", &[])
            .header(header::ACCEPT, "application/x-ndjson")
            .json(body);
        let mut pieces = client.open(request).await?.bytes_stream();
        let mut rest: Vec<u8> = Vec::new();
        let mut summary = None;
        while let Some(piece) = pieces.next().await {
            rest.extend_from_slice(&piece.map_err(|error| client.transport(&error))?);
            let mut from = 0;
            while let Some(end) = rest[from..].iter().position(|b| *b == b'\n') {
                summary = self.line(&rest[from..from + end], io)?.or(summary);
                from += end + 1;
            }
            rest.drain(..from);
            if rest.len() > MAX_LINE {
                return Err(unreadable());
            }
        }
        summary = self.line(&rest, io)?.or(summary);
        let Some(ProbeSummary { checked, ok, failed }) = summary else {
            return Err(Error::failed("the server stopped before all keys were tested; see its log"));
        };
        self.checked += checked;
        self.ok += ok;
        self.failed += failed;
        Ok(())
    }

    fn line(&mut self, line: &[u8], io: &mut Io) -> Result<Option<ProbeSummary>, Error> {
        let line = line.trim_ascii();
        if line.is_empty() {
            return Ok(None);
        }
        let value: Value = serde_json::from_slice(line).map_err(|_| unreadable())?;
        if self.json {
            io.bytes(line)?;
            io.bytes(b"\n")?;
            io.flush()?;
        }
        if let Some(summary) = value.get("summary") {
            return serde_json::from_value(summary.clone()).map(Some).map_err(|_| unreadable());
        }
        self.results.push(serde_json::from_value(value).map_err(|_| unreadable())?);
        self.bar.inc(1);
        Ok(None)
    }

    fn finish(self, io: &mut Io) -> Result<(), Error> {
        self.bar.finish_and_clear();
        if !self.json {
            let mut table = Table::new(&[
                ("ID", Align::Left),
                ("RESULT", Align::Left),
                ("STATUS", Align::Left),
                ("DETAIL", Align::Left),
            ]);
            for result in self.results.iter().filter(|result| !result.ok || self.checked <= LIST_ALL) {
                let word = if result.ok { "ok" } else { "failed" };
                table.row_coloured([
                    (short(&result.id), Colour::None),
                    (word.to_owned(), Colour::of(word)),
                    (result.status.clone(), Colour::of(&result.status)),
                    (result.detail.clone().unwrap_or_default(), Colour::None),
                ]);
            }
            if !table.is_empty() {
                io.print(&table.render(io.colour()))?;
            }
            let tested = show::counted(self.checked, "key", "keys");
            let (ok, failed) = (show::count(self.ok), show::count(self.failed));
            io.line(&format!("{tested} tested: {ok} ok, {failed} failed"))?;
        }
        if self.failed > 0 { Err(Error::Shown) } else { Ok(()) }
    }
}

fn unreadable() -> Error {
    Error::failed("the server's answer cannot be understood; use the same version on both sides")
}
