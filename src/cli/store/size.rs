//! `keytide store size`: the file and the hubs against their budgets. Through the running server, which knows how
//! they grow and what was done about it; else from the file itself, and from the hubs that the configuration names.

use std::path::Path;

use serde_json::{Value, json};

use super::to_json;
use crate::{
    cli::{
        client::Reply,
        error::Error,
        hub,
        io::Io,
        show,
        table::{Align, Table},
        view::{HubSpace, Storage},
    },
    config::Config,
    model::{Rung, Space, budget::file_share},
    replica::{route, space},
    store::{FILE_NAME, Sizes, offline},
};

/// Of tables that are shown without being asked for all.
const SHOWN: usize = 20;

pub(super) fn through_server(reply: &Reply<Storage>, json: bool, io: &mut Io) -> Result<(), Error> {
    if json {
        return io.line(&reply.text);
    }
    let Storage { file, sizes, local, hubs, .. } = &reply.value;
    show_file(file, sizes, local, io)?;
    hubs.iter().try_for_each(|of| show_hub(of, io))
}

pub(super) async fn offline(dir: &Path, config: &Config, json: bool, io: &mut Io) -> Result<(), Error> {
    let (file, sizes) = (dir.join(FILE_NAME), offline::size_of(dir)?);
    let mut tables: Vec<_> = sizes
        .tables
        .iter()
        .map(|table| crate::model::TableSpace {
            name: table.name.clone(),
            rows: table.rows,
            bytes: table.bytes(),
            reusable_bytes: table.fragmented_bytes,
            share_bytes: file_share(&table.name, config.budget.local),
            ..crate::model::TableSpace::default()
        })
        .collect();
    tables.sort_by(|a, b| (b.bytes, &a.name).cmp(&(a.bytes, &b.name)));
    let rung = Rung::Normal.next(sizes.used(), config.budget.local);
    let local = Space {
        budget_bytes: config.budget.local,
        used_bytes: Some(sizes.used()),
        total_bytes: Some(sizes.file_bytes),
        rung,
        rung_means: rung.means(true).to_owned(),
        tables,
        ..Space::default()
    };
    let spinner = io.spinner("asking the hubs");
    let mut hubs = Vec::new();
    let mut troubles = Vec::new();
    for of in config.hubs() {
        match ask(&of).await {
            Ok(found) => hubs.push(found),
            Err(why) => troubles.push(format!("the hub {} was not asked: {why}", of.name)),
        }
    }
    spinner.finish_and_clear();
    troubles.iter().for_each(|trouble| io.note(trouble));
    if json {
        // In the shape of the server's answer.
        let mut value = to_json(&sizes)?;
        value["file"] = json!(file);
        value["healthy"] = true.into();
        value["problem"] = Value::Null;
        value["local"] = to_json(&local)?;
        value["hubs"] = to_json(&hubs)?;
        return io.line(&value.to_string());
    }
    show_file(&file.display().to_string(), &sizes, &local, io)?;
    hubs.iter().try_for_each(|of| show_hub(of, io))
}

async fn ask(of: &crate::config::HubConfig) -> Result<HubSpace, String> {
    let chosen = route::choose(&of.options.route).map_err(|error| error.to_string())?;
    let transport = chosen.ok_or("replication with it is switched off")?.transport;
    let found = hub::sizes(transport.as_ref()).await.map_err(|error| error.to_string())?;
    let prefixes: Vec<_> = of.providers.iter().map(|(_, prefix)| prefix.clone()).collect();
    let mut space = space::of(&found, &prefixes, of.budget);
    space.advice = space::advice(&space, &[], &[], &transport.target());
    Ok(HubSpace {
        hub: of.name.clone(),
        transport: transport.kind().to_owned(),
        target: transport.target(),
        space,
    })
}

fn show_file(file: &str, sizes: &Sizes, local: &Space, io: &mut Io) -> Result<(), Error> {
    let mut table = Table::new(&[
        ("TABLE", Align::Left),
        ("ROWS", Align::Right),
        ("DATA", Align::Right),
        ("INDEX", Align::Right),
        ("FREE", Align::Right),
    ]);
    for found in &sizes.tables {
        table.row([
            found.name.clone(),
            show::count(found.rows),
            show::bytes(found.stored_bytes),
            show::bytes(found.metadata_bytes),
            show::bytes(found.fragmented_bytes),
        ]);
    }
    io.print(&table.render(false))?;
    let journal = show::counted(sizes.journal_entries, "journal entry", "journal entries");
    io.line(&format!("{file}: {}, {journal} to be folded", show::bytes(sizes.file_bytes)))?;
    // An older server says nothing of it.
    if local.used_bytes.is_some() {
        io.line(&stands(local))?;
    }
    say(local, io)
}

fn show_hub(of: &HubSpace, io: &mut Io) -> Result<(), Error> {
    let HubSpace { hub, target, space, .. } = of;
    io.line("")?;
    if space.used_bytes.is_none() {
        return io.line(&format!("hub {hub}, {target}: not measured yet"));
    }
    let mut table = Table::new(&[
        ("TABLE", Align::Left),
        ("ROWS", Align::Right),
        ("BYTES", Align::Right),
        ("REUSABLE", Align::Right),
        ("SHARE", Align::Right),
        ("A DAY", Align::Right),
        ("DAYS LEFT", Align::Right),
    ]);
    for found in space.tables.iter().take(SHOWN) {
        table.row([
            found.name.clone(),
            show::count(found.rows),
            show::bytes(found.bytes),
            show::bytes(found.reusable_bytes),
            found.share_bytes.map(show::bytes).unwrap_or_default(),
            found.growth_bytes.map(signed).unwrap_or_default(),
            found.days_left.map(show::count).unwrap_or_default(),
        ]);
    }
    io.print(&table.render(false))?;
    let total = space.total_bytes.map(show::bytes).unwrap_or_default();
    io.line(&format!("hub {hub}, {target}: {total}"))?;
    io.line(&stands(space))?;
    say(space, io)
}

fn signed(bytes: i64) -> String {
    let sign = if bytes < 0 { "-" } else { "+" };
    format!("{sign}{}", show::bytes(bytes.unsigned_abs()))
}

fn stands(space: &Space) -> String {
    let used = show::bytes(space.used_bytes.unwrap_or_default());
    let (Some(budget), Some(percent)) = (space.budget_bytes, space.percent()) else {
        return format!("{used} in use, without a budget");
    };
    let means = match space.rung {
        Rung::Normal => String::new(),
        rung => format!("; rung {}: {}", rung.number(), space.rung_means),
    };
    format!("{used} in use of {}, {percent:.1} %{means}", show::bytes(budget))
}

fn say(space: &Space, io: &mut Io) -> Result<(), Error> {
    for line in &space.did {
        io.line(&format!("done: {line}"))?;
    }
    space.advice.iter().try_for_each(|advice| io.line(&format!("advice: {}", advice.text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_a_place_stands_is_one_line() {
        let space = Space {
            budget_bytes: Some(1_000_000_000),
            used_bytes: Some(870_000_000),
            rung: Rung::Short,
            rung_means: "less".to_owned(),
            ..Space::default()
        };
        assert_eq!(stands(&space), "870.0 MB in use of 1.0 GB, 87.0 %; rung 2: less");
        assert_eq!(stands(&Space { budget_bytes: None, ..space }), "870.0 MB in use, without a budget");
        assert_eq!((signed(-2_000), signed(5)), ("-2.0 kB".to_owned(), "+5 B".to_owned()));
    }
}
