//! Reading everything at a start.

use std::collections::HashMap;

use redb::{AccessGuard, ReadOnlyTable, ReadTransaction, ReadableTable};
use uuid::Uuid;

use super::{
    desk::{GoneRecord, health_since, read_packed, user_place},
    error::{Fault, guarded},
    shelf::Gone,
    tables::{
        self, GONE, HEALTH, HOURS, Id, KEY_USAGE, KEY_VERSIONS, KEYS, MODELS, TOKEN_USAGE, TOKEN_VERSIONS,
        TOKENS, TOTALS, USER_VERSIONS, USERS,
    },
};
use crate::model::{
    ById, Health, Hour, KeyId, KeyRecord, KeyUsage, KeyVersions, TokenId, TokenRecord, TokenVersions, Usage,
    User, UserId, UserVersions, Version,
};

/// What the store held when it was opened, with nothing left in the journal.
#[derive(Debug, PartialEq)]
pub struct Contents {
    pub instance: Uuid,
    pub providers: HashMap<Box<str>, ProviderContents>,
    /// In the order of their ids.
    pub users: Vec<User>,
    /// The latest of all versions: what [`Store::stamps`](super::Store::stamps) begin after.
    pub last_version: Version,
}

#[derive(Debug, Default, PartialEq)]
pub struct ProviderContents {
    /// In the order of their ids.
    pub keys: Vec<(KeyId, KeyRecord, Health)>,
    /// Also of keys that are gone: added again, they go on from here.
    pub key_usage: ById<KeyId, KeyUsage>,
    pub tokens: Vec<(TokenId, TokenRecord)>,
    pub token_usage: ById<TokenId, Usage>,
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
    let (mut providers, mut last_version) = keys?;
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
    for row in txn.open_table(TOKEN_VERSIONS)?.iter()? {
        let (at, value) = row?;
        let (name, id) = at.value();
        let versions: TokenVersions = read_packed(value.value(), || place("versions of token", name, id))?;
        last_version = last_version.max(versions.latest());
    }
    let mut users = Vec::new();
    for row in txn.open_table(USERS)?.iter()? {
        let (id, value) = row?;
        let id = UserId(id.value());
        users.push((id, tables::read(value.value(), || user_place("user", id))?));
    }
    for row in txn.open_table(USER_VERSIONS)?.iter()? {
        let (id, value) = row?;
        let place = || user_place("versions of user", UserId(id.value()));
        let versions: UserVersions = read_packed(value.value(), place)?;
        last_version = last_version.max(versions.latest());
    }
    for row in txn.open_table(GONE)?.iter()? {
        let (at, value) = row?;
        let (name, _, id) = at.value();
        let gone: GoneRecord = tables::read(value.value(), || place("deletion of", name, id))?;
        last_version = last_version.max(Gone::from(gone).version);
    }
    Ok(Contents { instance, providers, users, last_version })
}

fn key_usage(txn: &ReadTransaction) -> Result<HashMap<Box<str>, ById<KeyId, KeyUsage>>, Fault> {
    let mut found = HashMap::<Box<str>, ById<_, _>>::new();
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

/// All tables are in the order of the same ids, so one walk over each is enough.
fn keys(txn: &ReadTransaction) -> Result<(Providers, Version), Fault> {
    let (mut providers, mut last) = (Providers::new(), Version::ZERO);
    let (keys, healths) = (txn.open_table(KEYS)?, txn.open_table(HEALTH)?);
    let versions = txn.open_table(KEY_VERSIONS)?;
    let (mut healths, mut versions) = (Walk::new(&healths)?, Walk::new(&versions)?);
    for row in keys.iter()? {
        let (at, value) = row?;
        let (name, id) = at.value();
        let record: KeyRecord = tables::read(value.value(), || place("key", name, id))?;
        let added = match versions.at((name, id))? {
            Some(value) => {
                let versions: KeyVersions = read_packed(value, || place("versions of key", name, id))?;
                last = last.max(versions.latest());
                versions.added
            }
            None => Version::at(record.created_at),
        };
        let health = match healths.at((name, id))? {
            Some(value) => Some(tables::read::<Health>(value, || place("health of key", name, id))?),
            None => None,
        };
        let health = health_since(added, health);
        last = last.max(health.epoch);
        provider(&mut providers, name).keys.push((KeyId(id), record, health));
    }
    Ok((providers, last))
}

/// Goes through a table beside another one that has its ids and more.
struct Walk<'a> {
    rows: redb::Range<'a, Id, &'static [u8]>,
    next: Option<(AccessGuard<'a, Id>, AccessGuard<'a, &'static [u8]>)>,
}

impl<'a> Walk<'a> {
    fn new(table: &'a ReadOnlyTable<Id, &'static [u8]>) -> Result<Self, Fault> {
        let mut rows = table.iter()?;
        let next = rows.next().transpose()?;
        Ok(Self { rows, next })
    }

    /// Asked for in the order of the ids.
    fn at(&mut self, id: (&str, u128)) -> Result<Option<&[u8]>, Fault> {
        while let Some((of, _)) = &self.next
            && of.value() < id
        {
            self.next = self.rows.next().transpose()?;
        }
        Ok(self.next.as_ref().filter(|(of, _)| of.value() == id).map(|(_, value)| value.value()))
    }
}

pub(super) fn place(what: &str, provider: &str, id: u128) -> String {
    format!("{what} {} of {provider}", Uuid::from_u128(id))
}
