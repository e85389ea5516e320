//! Reading everything at a start.

use std::collections::HashMap;

use redb::{ReadTransaction, ReadableTable};
use uuid::Uuid;

use super::{
    error::{Fault, guarded},
    tables::{self, HEALTH, HOURS, KEY_USAGE, KEYS, MODELS, TOKEN_USAGE, TOKENS, TOTALS},
};
use crate::model::{Health, Hour, KeyId, KeyRecord, KeyUsage, TokenId, TokenRecord, Usage};

/// What the store held when it was opened, with nothing left in the journal.
#[derive(Debug, PartialEq)]
pub struct Contents {
    pub instance: Uuid,
    pub providers: HashMap<Box<str>, ProviderContents>,
}

#[derive(Debug, Default, PartialEq)]
pub struct ProviderContents {
    /// In the order of their ids.
    pub keys: Vec<(KeyId, KeyRecord, Health)>,
    /// Also of keys that are gone: added again, they go on from here.
    pub key_usage: HashMap<KeyId, KeyUsage>,
    pub tokens: Vec<(TokenId, TokenRecord)>,
    pub token_usage: HashMap<TokenId, Usage>,
    /// Sums over all hours, also those that are no longer kept.
    pub models: HashMap<Box<str>, Usage>,
    pub hours: HashMap<(Hour, Box<str>), Usage>,
    pub total: Usage,
}

type Providers = HashMap<Box<str>, ProviderContents>;

fn provider<'a>(providers: &'a mut Providers, name: &str) -> &'a mut ProviderContents {
    if !providers.contains_key(name) {
        providers.insert(name.into(), ProviderContents::default());
    }
    providers.get_mut(name).expect("inserted above")
}

pub(super) fn contents(txn: &ReadTransaction, instance: Uuid) -> Result<Contents, Fault> {
    // The two large parts side by side: they are most of what a start takes.
    let (keys, usage) = std::thread::scope(|scope| {
        let usage = scope.spawn(|| guarded(|| key_usage(txn)));
        (keys(txn), usage.join().unwrap_or(Err(Fault::Panic)))
    });
    let mut providers = keys?;
    for (name, usage) in usage? {
        provider(&mut providers, &name).key_usage = usage;
    }
    let table = txn.open_table(TOKENS)?;
    for row in table.iter()? {
        let (at, value) = row?;
        let (name, id) = at.value();
        let record: TokenRecord = tables::read(value.value(), || place("token", name, id))?;
        provider(&mut providers, name).tokens.push((TokenId(id), record));
    }
    let table = txn.open_table(TOKEN_USAGE)?;
    for row in table.iter()? {
        let (at, value) = row?;
        let (name, id) = at.value();
        let usage: Usage = tables::read(value.value(), || place("statistics of token", name, id))?;
        provider(&mut providers, name).token_usage.insert(TokenId(id), usage);
    }
    let table = txn.open_table(MODELS)?;
    for row in table.iter()? {
        let (at, value) = row?;
        let (name, model) = at.value();
        let usage: Usage = tables::read(value.value(), || format!("model {model} of {name}"))?;
        provider(&mut providers, name).models.insert(model.into(), usage);
    }
    let table = txn.open_table(HOURS)?;
    for row in table.iter()? {
        let (at, value) = row?;
        let (name, hour, model) = at.value();
        let usage: Usage = tables::read(value.value(), || format!("hour {hour} of model {model} of {name}"))?;
        provider(&mut providers, name).hours.insert((Hour(hour), model.into()), usage);
    }
    let table = txn.open_table(TOTALS)?;
    for row in table.iter()? {
        let (at, value) = row?;
        let total = tables::read(value.value(), || format!("total of {}", at.value()))?;
        provider(&mut providers, at.value()).total = total;
    }
    Ok(Contents { instance, providers })
}

fn key_usage(txn: &ReadTransaction) -> Result<HashMap<Box<str>, HashMap<KeyId, KeyUsage>>, Fault> {
    let mut found = HashMap::<Box<str>, HashMap<_, _>>::new();
    let table = txn.open_table(KEY_USAGE)?;
    for row in table.iter()? {
        let (at, value) = row?;
        let (name, id) = at.value();
        let usage: KeyUsage = tables::read(value.value(), || place("statistics of key", name, id))?;
        match found.get_mut(name) {
            Some(of) => of.insert(KeyId(id), usage),
            None => found.entry(name.into()).or_default().insert(KeyId(id), usage),
        };
    }
    Ok(found)
}

/// Both tables are in the order of the same ids, so one walk over each is enough.
fn keys(txn: &ReadTransaction) -> Result<Providers, Fault> {
    let mut providers = Providers::new();
    let (keys, healths) = (txn.open_table(KEYS)?, txn.open_table(HEALTH)?);
    let mut healths = healths.iter()?;
    let mut next = healths.next().transpose()?;
    for row in keys.iter()? {
        let (at, value) = row?;
        let (name, id) = at.value();
        let record: KeyRecord = tables::read(value.value(), || place("key", name, id))?;
        while let Some((of, _)) = &next
            && of.value() < (name, id)
        {
            next = healths.next().transpose()?;
        }
        let health = match &next {
            Some((of, value)) if of.value() == (name, id) => {
                tables::read(value.value(), || place("health of key", name, id))?
            }
            _ => Health::default(),
        };
        provider(&mut providers, name).keys.push((KeyId(id), record, health));
    }
    Ok(providers)
}

pub(super) fn place(what: &str, provider: &str, id: u128) -> String {
    format!("{what} {} of {provider}", Uuid::from_u128(id))
}
