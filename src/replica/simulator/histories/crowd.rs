//! A history with all instances at once.

use std::collections::{BTreeMap, VecDeque};

use futures_util::future::{join_all, try_join_all};
use tokio::sync::Barrier;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{
    super::{hub::ModelHub, journal::Event, world::STREAMS},
    database::{Database, call, retired, rows, run, untold},
    mirror::Mirror,
    order::same,
    promises::{self, Unheard},
};
use crate::replica::wire::{Ask, Function, Lane, PROTOCOL, PullAnswer, PullRequest, PushAnswer, PushRequest};

/// What an instance did, as far as it is its own doing: what it had heard before does not matter.
enum Deed {
    Hello(String),
    Push(Box<PushRequest>),
    /// Until there is nothing more.
    Pull(Vec<Ask>),
}

pub type Pushed = (PushRequest, PushAnswer);

pub async fn go_through(database: &mut Database<'_>, events: &[Event]) -> Result<(), String> {
    database.empty().await?;
    let deeds = deeds(events);
    // Versions are of all times: none of them may be the future.
    let end = events
        .iter()
        .map(|event| if let Event::Call { at, .. } = event { *at } else { 0 })
        .max()
        .unwrap_or(0);
    let streams: Vec<&str> = STREAMS.iter().map(|(_, stream)| *stream).collect();
    let all_pushed = Barrier::new(deeds.len());
    let sessions = database.sessions(deeds.len()).await;
    let clock = format!("SET simulated.now = '{end}'");
    try_join_all(sessions.iter().map(|client| run(client, &clock))).await?;
    let live = |((instance, deeds), client)| do_all(client, instance, deeds, &all_pushed);
    let done = join_all(deeds.into_iter().zip(sessions).map(live)).await;

    let (mut pushed, mut mirrors) = (BTreeMap::new(), Vec::new());
    for (instance, said, seen) in done.into_iter().collect::<Result<Vec<_>, String>>()? {
        mirrors.push((instance, seen));
        pushed.insert(instance, said);
    }
    let all: Vec<Pushed> = pushed.values().flatten().cloned().collect();
    let (model, unheard) = in_the_order_taken(database.session(0).await, &streams, pushed, end).await?;
    for stream in streams {
        let real = database.everything(stream).await?;
        same("what is held", &model.db.tables[stream].everything(end), &real, stream)?;
        for (instance, mirror) in &mirrors {
            if let Some(seen) = mirror.get(stream) {
                same("what an instance has seen", &seen.rows(), &real, &instance.to_string())?;
            }
        }
        promises::check(stream, end, &all, &unheard, &real, &database.retired().await?)?;
    }
    same("what is told and not read", &untold(&model.db.tables), &database.untold().await?, "")?;
    same("what is retired", &retired(&model.db.tables), &database.retired().await?, "")
}

fn deeds(events: &[Event]) -> BTreeMap<Uuid, Vec<Deed>> {
    let mut all: BTreeMap<Uuid, Vec<Deed>> = BTreeMap::new();
    for event in events {
        let Event::Call { function, request, .. } = event else { continue };
        let value: serde_json::Value = serde_json::from_str(request).unwrap();
        let instance: Uuid = serde_json::from_value(value["instance"].clone()).unwrap();
        let deed = match function {
            Function::Push => {
                // Adoptions belong to hubs that there are not here, and whatever a batch was for is this one.
                let Ok(push) = serde_json::from_value::<PushRequest>(value) else { continue };
                Deed::Push(Box::new(PushRequest { hub: None, ..push }))
            }
            Function::Pull => {
                let mut asks = serde_json::from_value::<PullRequest>(value).unwrap().asks;
                asks.retain(|ask| ask.after.is_none());
                Deed::Pull(asks)
            }
            _ => Deed::Hello(request.clone()),
        };
        all.entry(instance).or_default().push(deed);
    }
    all
}

type Done = (Uuid, Vec<Pushed>, BTreeMap<String, Mirror>);

async fn do_all(
    client: &Client,
    instance: Uuid,
    deeds: Vec<Deed>,
    all_pushed: &Barrier,
) -> Result<Done, String> {
    let mut pushed = Vec::new();
    let mut mirrors: BTreeMap<String, Mirror> = BTreeMap::new();
    let done = async {
        for deed in deeds {
            match deed {
                Deed::Hello(request) => drop(call(client, Function::Hello, &request).await?),
                Deed::Push(request) => {
                    let text = serde_json::to_string(&request).unwrap();
                    let answer = call(client, Function::Push, &text)
                        .await
                        .map_err(|error| format!("{error}\n  to {text}"))?;
                    pushed.push((*request, serde_json::from_str(&answer).unwrap()));
                }
                Deed::Pull(asks) => drain(client, instance, asks, &mut mirrors).await?,
            }
        }
        Ok::<_, String>(())
    }
    .await;
    // The last pull is made when nobody pushes any more.
    all_pushed.wait().await;
    done?;
    for stream in mirrors.keys().cloned().collect::<Vec<_>>() {
        let provider = STREAMS.iter().find(|(_, of)| *of == stream).map_or("", |(provider, _)| *provider);
        let lanes = [Lane::State, Lane::Stats].map(|lane| Ask {
            stream: stream.clone(),
            provider: provider.to_owned(),
            lane,
            cursor: None,
            after: None,
            limit: 7,
        });
        drain(client, instance, lanes.to_vec(), &mut mirrors).await?;
    }
    Ok((instance, pushed, mirrors))
}

/// From this connection's own cursors on, page by page.
async fn drain(
    client: &Client,
    instance: Uuid,
    mut asks: Vec<Ask>,
    mirrors: &mut BTreeMap<String, Mirror>,
) -> Result<(), String> {
    for ask in &mut asks {
        ask.cursor = mirrors.entry(ask.stream.clone()).or_default().cursor(ask.lane).clone();
    }
    let mut first = true;
    while !asks.is_empty() {
        let request = PullRequest { protocol: PROTOCOL, instance, asks };
        let answer = call(client, Function::Pull, &serde_json::to_string(&request).unwrap()).await?;
        let answer: PullAnswer = serde_json::from_str(&answer).unwrap();
        asks = Vec::new();
        for (mut ask, page) in request.asks.into_iter().zip(answer.pages) {
            let mirror = mirrors.entry(ask.stream.clone()).or_default();
            if first {
                *mirror.cursor(ask.lane) = Some(answer.snapshot.clone());
            }
            mirror.take(page.rows);
            if page.next.is_some() {
                ask.after = page.next;
                asks.push(ask);
            }
        }
        first = false;
    }
    Ok(())
}

/// The model, after the same batches in the order in which the database took them; and it says the same of each.
async fn in_the_order_taken(
    client: &Client,
    streams: &[&str],
    pushed: BTreeMap<Uuid, Vec<Pushed>>,
    end: i64,
) -> Result<(ModelHub, Unheard), String> {
    let mut model = ModelHub::new(Uuid::nil(), streams, end);
    let mut unheard = Unheard::new();
    let mut waiting: BTreeMap<Uuid, VecDeque<Pushed>> =
        pushed.into_iter().map(|(instance, pushed)| (instance, pushed.into())).collect();
    let taken = rows(client, "SELECT instance, stream, seq FROM simulated.applied ORDER BY n").await?;
    let mut tell = |(request, real): Pushed| {
        let rows = &request.rows;
        let tables = &model.db.tables[&request.stream];
        let keys = rows.keys.iter().filter(|row| !tables.keys.contains_key(row.k.expose()));
        let keys = keys.map(|row| ("key", row.k.expose(), row.add));
        let tokens = rows.tokens.iter().filter(|row| !tables.tokens.contains_key(row.k.expose()));
        let tokens = tokens.map(|row| ("token", row.k.expose(), row.add));
        for (kind, k, _) in keys.chain(tokens).filter(|(_, _, add)| !add) {
            unheard.insert((request.stream.clone(), kind.to_owned(), k.to_owned()));
        }
        let xid = model.begin();
        let text = serde_json::to_string(&request).unwrap();
        let mut answer: PushAnswer = serde_json::from_str(&model.push(&text, xid)?).unwrap();
        model.end(xid);
        answer.greeting = real.greeting.clone();
        same("keytide_push", &answer, &real, &text).map(|()| real.status == "applied")
    };
    for row in taken {
        let instance: Uuid = row[0].parse().unwrap();
        loop {
            let Some(next) = waiting.get_mut(&instance).and_then(VecDeque::pop_front) else {
                return Err(format!("batch {} of {instance} was applied, and it was never told", row[2]));
            };
            let is_it = next.0.stream == row[1] && next.0.seq.to_string() == row[2];
            if tell(next)? {
                if !is_it {
                    return Err(format!("another batch than {} of {instance} was applied", row[2]));
                }
                break;
            }
        }
    }
    for next in waiting.into_values().flatten() {
        if tell(next)? {
            return Err("a batch was called applied that was not".to_owned());
        }
    }
    Ok((model, unheard))
}
