//! Moving the journal into the totals, in one transaction: either all of it has moved or none.

use std::time::Duration;

use redb::{ReadableTable, Table, WriteTransaction};

use super::{
    codec::{self, Record},
    error::Fault,
    tables::{self, HEALTH, HOURS, JOURNAL, KEY_USAGE, KEYS, MODELS, TOKEN_USAGE, TOTALS},
};
use crate::model::{Delta, Hour, KeyUsage, ProviderDelta, Timestamp, Usage};

/// How long single hours are kept; the totals of models keep them for good.
pub(super) const HOURS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// Folds every entry and drops hours that are older than is kept at `now`.
pub(super) fn fold(txn: &WriteTransaction, now: Timestamp) -> Result<(), Fault> {
    let mut journal = txn.open_table(JOURNAL)?;
    let mut sum = Delta::default();
    for row in journal.iter()? {
        let (seq, value) = row?;
        sum.add(tables::read(value.value(), || format!("journal entry {}", seq.value()))?);
    }
    journal.retain(|_, _| false)?;
    for (provider, delta) in &sum.providers {
        apply(txn, provider, delta)?;
    }
    forget_old_hours(txn, now)
}

fn apply(txn: &WriteTransaction, provider: &str, delta: &ProviderDelta) -> Result<(), Fault> {
    let mut rows = txn.open_table(KEY_USAGE)?;
    for (id, more) in in_order(&delta.keys) {
        bump(&mut rows, (provider, id.0), more, KeyUsage::add)?;
    }
    let mut rows = txn.open_table(TOKEN_USAGE)?;
    for (id, more) in in_order(&delta.tokens) {
        bump(&mut rows, (provider, id.0), more, Usage::add)?;
    }
    // Models and the total are the sums over the hours, kept up together with them.
    let mut hours = txn.open_table(HOURS)?;
    let mut models = txn.open_table(MODELS)?;
    let mut total = Usage::default();
    for ((hour, model), more) in in_order(&delta.hours) {
        bump(&mut hours, (provider, hour.0, model.as_ref()), more, Usage::add)?;
        bump(&mut models, (provider, model.as_ref()), more, Usage::add)?;
        total.add(more);
    }
    if !delta.hours.is_empty() {
        bump(&mut txn.open_table(TOTALS)?, provider, &total, Usage::add)?;
    }
    // A key that was deleted while its last outcomes were on their way has no health any more.
    let (keys, mut healths) = (txn.open_table(KEYS)?, txn.open_table(HEALTH)?);
    for (id, health) in in_order(&delta.health) {
        if keys.get((provider, id.0))?.is_some() {
            healths.insert((provider, id.0), codec::encode(health).as_slice())?;
        }
    }
    Ok(())
}

/// Rows in the order of the tables touch each page once, and the same delta always writes the same file.
fn in_order<K: Ord, V>(map: &std::collections::HashMap<K, V>) -> Vec<(&K, &V)> {
    let mut rows: Vec<_> = map.iter().collect();
    rows.sort_unstable_by_key(|(id, _)| *id);
    rows
}

fn bump<'k, K, T>(
    rows: &mut Table<'_, K, &'static [u8]>,
    at: K::SelfType<'k>,
    more: &T,
    add: fn(&mut T, &T),
) -> Result<(), Fault>
where
    K: redb::Key + 'static,
    K::SelfType<'k>: Clone,
    T: Record + Default,
{
    let mut sum = match rows.get(at.clone())? {
        Some(value) => tables::read(value.value(), || "a statistic".to_owned())?,
        None => T::default(),
    };
    add(&mut sum, more);
    rows.insert(at, codec::encode(&sum).as_slice())?;
    Ok(())
}

fn forget_old_hours(txn: &WriteTransaction, now: Timestamp) -> Result<(), Fault> {
    let kept = i64::try_from(HOURS_KEPT.as_millis()).unwrap_or(i64::MAX);
    let oldest = Hour::of(Timestamp(now.0.saturating_sub(kept))).0;
    let totals = txn.open_table(TOTALS)?;
    let mut hours = txn.open_table(HOURS)?;
    for row in totals.iter()? {
        let (provider, _) = row?;
        let provider = provider.value();
        let old = (provider, 0, "")..(provider, oldest, "");
        // Most folds find nothing: a look is cheaper than a walk that may write.
        if hours.range(old.clone())?.next().is_some() {
            hours.retain_in(old, |_, _| false)?;
        }
    }
    Ok(())
}
