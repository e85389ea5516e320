//! A history, one call after another.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{
    super::{core, hub::Xid, journal::Event},
    database::{Database, call_at, retired, run, untold},
};
use crate::replica::wire::{
    AdoptAnswer, AdoptRequest, Function, Greeting, HelloAnswer, HelloRequest, HubIdentity, PullAnswer,
    PullRequest, PushAnswer, PushRequest,
};

struct Order<'a, 'b> {
    database: &'a mut Database<'b>,
    /// The model's snapshots, and those that the database showed in their place.
    snapshots: BTreeMap<String, String>,
    /// Transactions that stay open, and their sessions.
    open: BTreeMap<Xid, usize>,
}

pub async fn go_through(database: &mut Database<'_>, events: &[Event]) -> Result<(), String> {
    database.empty().await?;
    let waiting = waiting(events);
    let mut order = Order { database, snapshots: BTreeMap::new(), open: BTreeMap::new() };
    for (at, event) in events.iter().enumerate() {
        match event {
            Event::Begin { xid } if waiting.contains(&at) => order.begin(*xid).await?,
            Event::Begin { .. } => {}
            Event::Call { at, function, request, answer, xid } => {
                order.call(*at, *function, request, answer, *xid).await?;
            }
            Event::Foreign { at, xid, statement } => {
                let sql = format!("SET simulated.now = '{at}'; {}", statement.sql());
                let session = order.session(Some(*xid));
                run(order.database.session(session).await, &sql).await?;
                order.end(Some(*xid)).await?;
            }
            Event::Kept => order.database.keep().await?,
            Event::Recovered => {
                order.forget().await?;
                order.database.recover().await?;
            }
            Event::Moved => {
                order.forget().await?;
                order.database.move_house().await?;
            }
            Event::Emptied => {
                order.forget().await?;
                order.database.empty().await?;
            }
            Event::Swept { at } => {
                call_at(order.database.session(0).await, Some(*at), Function::Retain, r#"{"protocol": 1}"#)
                    .await?;
            }
            Event::Climbed { hours_from, days_from } => {
                let sql = format!(
                    "UPDATE public.keytide_settings SET hours_from = greatest(hours_from, {hours_from}),
                     days_from = greatest(days_from, {days_from})"
                );
                run(order.database.session(0).await, &sql).await?;
            }
            Event::Holds { at, tables } => {
                run(order.database.session(0).await, &format!("SET simulated.now = '{at}'")).await?;
                for (stream, tables) in tables {
                    let (model, real) = (tables.everything(*at), order.database.everything(stream).await?);
                    same("what is held", &model, &real, stream)?;
                }
                let known = tables.contains_key(core::STREAM);
                let real = if known { order.database.untold().await? } else { Vec::new() };
                same("what is told and not read", &untold(tables), &real, "")?;
                same("what is retired", &retired(tables), &order.database.retired().await?, "")?;
            }
        }
    }
    order.forget().await
}

/// Which transactions begin before what is done in them: all else that happens until then does not wait for them.
fn waiting(events: &[Event]) -> BTreeSet<usize> {
    let mut begun = BTreeMap::new();
    let mut waiting = BTreeSet::new();
    for (at, event) in events.iter().enumerate() {
        let used = match event {
            Event::Begin { xid } => {
                begun.insert(*xid, at);
                continue;
            }
            Event::Call { xid: Some(xid), .. } | Event::Foreign { xid, .. } => begun.remove(xid),
            _ => None,
        };
        let between =
            |from: usize| events[from..at].iter().any(|event| !matches!(event, Event::Begin { .. }));
        waiting.extend(used.filter(|from| between(*from)));
    }
    waiting
}

impl Order<'_, '_> {
    fn session(&self, xid: Option<Xid>) -> usize {
        xid.and_then(|xid| self.open.get(&xid).copied()).unwrap_or(0)
    }

    async fn begin(&mut self, xid: Xid) -> Result<(), String> {
        let free = (1..).find(|at| !self.open.values().any(|open| open == at)).unwrap_or(1);
        self.open.insert(xid, free);
        run(self.database.session(free).await, "BEGIN; SELECT pg_current_xact_id()").await
    }

    async fn end(&mut self, xid: Option<Xid>) -> Result<(), String> {
        match xid.and_then(|xid| self.open.remove(&xid)) {
            Some(session) => run(self.database.session(session).await, "COMMIT").await,
            None => Ok(()),
        }
    }

    /// The hub that they were for is no more. Nor is what its snapshots told apart.
    async fn forget(&mut self) -> Result<(), String> {
        self.snapshots.clear();
        for session in std::mem::take(&mut self.open).into_values() {
            run(self.database.session(session).await, "ROLLBACK").await?;
        }
        Ok(())
    }

    async fn call(
        &mut self,
        at: i64,
        function: Function,
        request: &str,
        model: &str,
        xid: Option<Xid>,
    ) -> Result<(), String> {
        let here = serde_json::from_str::<Greeting>(model).unwrap().hub;
        let asked = self.translated(request, &here);
        let session = self.session(xid);
        let real = call_at(self.database.session(session).await, Some(at), function, &asked)
            .await
            .map_err(|error| format!("{error}\n  to {} {asked}", function.name()))?;
        self.end(xid).await?;
        let what = function.name();
        let read = |error: serde_json::Error| format!("{what}: {error} in {real}");
        match function {
            Function::Push if serde_json::from_str::<AdoptRequest>(request).is_ok() => {
                let mut real: AdoptAnswer = serde_json::from_str(&real).map_err(read)?;
                self.known_as(&mut real.greeting, here);
                same(what, &serde_json::from_str(model).unwrap(), &real, request)
            }
            Function::Push => {
                let mut real: PushAnswer = serde_json::from_str(&real).map_err(read)?;
                self.known_as(&mut real.greeting, here);
                same(what, &serde_json::from_str(model).unwrap(), &real, request)
            }
            Function::Pull => {
                let model: PullAnswer = serde_json::from_str(model).unwrap();
                let mut real: PullAnswer = serde_json::from_str(&real).map_err(read)?;
                self.known_as(&mut real.greeting, here);
                self.snapshots.insert(model.snapshot.clone(), real.snapshot.clone());
                real.snapshot.clone_from(&model.snapshot);
                let asks = serde_json::from_str::<PullRequest>(request).unwrap().asks;
                for ((ask, model), real) in asks.iter().zip(&model.pages).zip(&mut real.pages) {
                    // What is behind a cursor of another hub, or another life of this one, is as it happens; the
                    // answer is thrown away.
                    if ask.cursor.as_ref().is_some_and(|cursor| !self.snapshots.contains_key(cursor)) {
                        real.rows.clone_from(&model.rows);
                        real.next.clone_from(&model.next);
                    }
                }
                same(what, &model, &real, request)
            }
            _ => {
                let mut real: HelloAnswer = serde_json::from_str(&real).map_err(read)?;
                self.known_as(&mut real.greeting, here);
                // The model keeps no list of them.
                let HelloRequest { instance: me, list, .. } = serde_json::from_str(request).unwrap();
                let listed = real.instances.replace(Vec::new()).unwrap_or_default();
                if list != listed.iter().any(|instance| instance.id == me) {
                    return Err(format!("{me} has said hello and is listed, or not, against its wish"));
                }
                real.instances = list.then(Vec::new);
                if real.alive.take().is_none_or(|alive| alive < 1) {
                    return Err(format!("{me} has said hello and is not alive"));
                }
                real.alive = Some(1);
                real.reports.clear();
                same(what, &serde_json::from_str(model).unwrap(), &real, request)
            }
        }
    }

    /// The database's own identity is the one that the model has at the time.
    fn known_as(&self, greeting: &mut Greeting, model: HubIdentity) {
        let real = &self.database.identity;
        // States of it that were lost go by its name.
        for was in greeting.was.iter_mut().filter(|was| (&was.id, &was.system) == (&real.id, &real.system)) {
            (was.id, was.system) = (model.id, model.system.clone());
        }
        if greeting.hub == *real {
            greeting.hub = model;
        }
    }

    fn translated(&self, request: &str, here: &HubIdentity) -> String {
        if let Ok(mut pull) = serde_json::from_str::<PullRequest>(request) {
            for ask in &mut pull.asks {
                ask.cursor = ask.cursor.as_ref().and_then(|cursor| self.snapshots.get(cursor).cloned());
            }
            return serde_json::to_string(&pull).unwrap();
        }
        let is_here = |hub: &HubIdentity| (&hub.id, &hub.system) == (&here.id, &here.system);
        if let Ok(mut adoption) = serde_json::from_str::<AdoptRequest>(request) {
            if is_here(&adoption.was) {
                let HubIdentity { id, system, .. } = self.database.identity.clone();
                adoption.was = HubIdentity { id, system, ..adoption.was };
            }
            return serde_json::to_string(&adoption).unwrap();
        }
        let Ok(mut push) = serde_json::from_str::<PushRequest>(request) else { return request.to_owned() };
        if let Some(hub) = push.hub.as_mut().filter(|hub| is_here(hub)) {
            hub.clone_from(&self.database.identity);
        }
        serde_json::to_string(&push).unwrap()
    }
}

pub fn same<T: PartialEq + serde::Serialize>(
    what: &str,
    model: &T,
    real: &T,
    request: &str,
) -> Result<(), String> {
    if model == real {
        return Ok(());
    }
    let (model, real) = (serde_json::to_value(model).unwrap(), serde_json::to_value(real).unwrap());
    let mut differ = Vec::new();
    differences("", &model, &real, &mut differ);
    Err(format!(
        "{what} differs in {}\n  the model: {model}\n  the SQL:   {real}\n  asked:     {request}",
        differ.join(", ")
    ))
}

fn differences(at: &str, a: &Value, b: &Value, found: &mut Vec<String>) {
    match (a, b) {
        (Value::Object(one), Value::Object(other)) => {
            let names: BTreeSet<&String> = one.keys().chain(other.keys()).collect();
            for name in names {
                differences(&format!("{at}.{name}"), &a[name.as_str()], &b[name.as_str()], found);
            }
        }
        (Value::Array(one), Value::Array(other)) if one.len() == other.len() => {
            for (n, (a, b)) in one.iter().zip(other).enumerate() {
                differences(&format!("{at}[{n}]"), a, b, found);
            }
        }
        _ if a == b => {}
        _ => found.push(format!("{at}: {a} and {b}")),
    }
}
