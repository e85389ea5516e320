//! Moving the journal into the totals, in one transaction: either all of it has moved or none.
//!
//! Where a provider replicates, what moves into a total moves into what is open for the hub too.

pub(super) mod core;
mod retain;

pub use self::retain::{keeps, keeps_set, owes};

use std::collections::BTreeSet;

use redb::{ReadableTable, WriteTransaction};

use super::{
    codec::{self, Record},
    desk::Desk,
    error::Fault,
    kept::Kept,
    shelf::Inflight,
    tables::{self, CounterKey, HOUR, JOURNAL, counter_at},
};
use crate::model::{CounterId, Delta, Hour, KeyUsage, ProviderDelta, Tally, Timestamp, Usage};

/// What a hub takes in of single hours; the totals of models keep them for good.
pub(super) const HOURS_KEPT: u32 = 30 * 24;

pub(super) use retain::Kept as Keeps;

/// Folds every entry and drops what is older than is kept at `now`; with `look`, whether or not it is time for that.
///
/// `sum` is what the entries add up to, where the writer knows that; else they are read.
pub(super) fn fold(
    txn: &WriteTransaction,
    sum: Option<Delta>,
    now: Timestamp,
    keeps: &Keeps,
    look: bool,
) -> Result<(), Fault> {
    let mut journal = txn.open_table(JOURNAL)?;
    #[cfg(test)]
    if let Some(sum) = &sum {
        assert_eq!(sum, &added_up(&journal)?, "what the writer knows, and what is in the file");
    }
    let sum = match sum {
        Some(sum) => sum,
        None => added_up(&journal)?,
    };
    journal.retain(|_, _| false)?;
    // Nothing to be taken back: a fold that reported an error is done again, or found to be done.
    let mut desk = Desk::new(txn, false);
    for (provider, delta) in &sum.providers {
        apply(&mut desk, provider, delta)?;
    }
    core::apply(&mut desk, &sum, keeps)?;
    forget_old_hours(&mut desk, now, keeps)?;
    retain::retain(&mut desk, now, keeps, look)
}

fn added_up(journal: &impl ReadableTable<u64, &'static [u8]>) -> Result<Delta, Fault> {
    let mut sum = Delta::default();
    for row in journal.iter()? {
        let (seq, value) = row?;
        sum.add(tables::read(value.value(), || format!("journal entry {}", seq.value()))?);
    }
    Ok(sum)
}

fn apply(desk: &mut Desk<'_>, provider: &str, delta: &ProviderDelta) -> Result<(), Fault> {
    let replicates = desk.replicates(provider)?;
    for (id, more) in summed(delta.usage_of_keys().map(|(id, usage)| (id, *usage)), KeyUsage::add) {
        bump(&mut desk.key_usage, (provider, id.0), &more, KeyUsage::add)?;
        if replicates {
            open(&mut desk.open, provider, &CounterId::Key(id), &(&more).into())?;
        }
    }
    for (id, more) in in_order(&delta.tokens) {
        bump(&mut desk.token_usage, (provider, id.0), more, Usage::add)?;
        if replicates {
            open(&mut desk.open, provider, &CounterId::Token(*id), &more.into())?;
        }
    }
    // Models and the total are the sums over the hours, kept up together with them.
    let mut total = Usage::default();
    for ((hour, model), more) in in_order(&delta.hours) {
        bump(&mut desk.hours, (provider, hour.0, model.as_ref()), more, Usage::add)?;
        bump(&mut desk.models, (provider, model.as_ref()), more, Usage::add)?;
        total.add(more);
        if replicates {
            open(&mut desk.open, provider, &CounterId::Hour(*hour, model.clone()), &more.into())?;
            open(&mut desk.open, provider, &CounterId::Model(model.clone()), &more.into())?;
        }
    }
    if !delta.hours.is_empty() {
        bump(&mut desk.totals, provider, &total, Usage::add)?;
        if replicates {
            open(&mut desk.open, provider, &CounterId::Total, &(&total).into())?;
        }
    }
    for (id, health) in in_order(&delta.health) {
        desk.merge_health(provider, *id, health)?;
    }
    Ok(())
}

/// Rows in the order of the tables touch each page once, and the same delta always writes the same file.
fn in_order<K: Ord, V>(rows: impl IntoIterator<Item = (K, V)>) -> Vec<(K, V)> {
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    rows
}

/// Likewise, with those of one id in one row: after a long time without a file a key was used in many hours.
fn summed<K: Ord, V>(rows: impl IntoIterator<Item = (K, V)>, add: fn(&mut V, &V)) -> Vec<(K, V)> {
    let mut rows = in_order(rows);
    rows.dedup_by(|(later, more), (id, sum)| {
        let is_same = later == id;
        if is_same {
            add(sum, more);
        }
        is_same
    });
    rows
}

fn bump<'k, K, T>(
    rows: &mut Kept<'_, K>,
    at: K::SelfType<'k>,
    more: &T,
    add: fn(&mut T, &T),
) -> Result<(), Fault>
where
    K: redb::Key + Send + 'static,
    K::SelfType<'k>: Clone,
    T: Record + Default,
{
    let mut sum = match rows.get(at.clone())? {
        Some(value) => tables::read(value.value(), || "a statistic".to_owned())?,
        None => T::default(),
    };
    add(&mut sum, more);
    rows.put(at, &codec::encode(&sum))?;
    Ok(())
}

fn open(rows: &mut Kept<'_, CounterKey>, provider: &str, id: &CounterId, more: &Tally) -> Result<(), Fault> {
    bump(rows, counter_at(provider, id), more, Tally::add)
}

/// The hub drops hours as old as 30 days: nothing is owed to it for them, and no such row will come back. Here they may
/// have to go earlier.
fn forget_old_hours(desk: &mut Desk<'_>, now: Timestamp, keeps: &Keeps) -> Result<(), Fault> {
    let oldest = Hour::of(now).0.saturating_sub(HOURS_KEPT);
    let shown = Hour::of(now).0.saturating_sub(keeps.model_hours);
    for provider in providers_with_hours(desk)? {
        let old = (&*provider, 0, "")..(&*provider, shown, "");
        // Most folds find nothing: a look is cheaper than a walk that may write.
        if desk.hours.rows()?.range(old.clone())?.next().is_some() {
            desk.hours.drop_range(old)?;
        }
        let old = (&*provider, HOUR, 0, "")..(&*provider, HOUR, oldest.into(), "");
        if desk.open.rows()?.range(old.clone())?.next().is_some() {
            desk.open.drop_range(old.clone())?;
        }
        let mut settled = Vec::new();
        for row in desk.inflight.rows()?.range(old)? {
            let (at, value) = row?;
            let inflight: Inflight = tables::read(value.value(), || "deltas under way".to_owned())?;
            if inflight.confirmed.is_some() {
                let (_, _, hour, model) = at.value();
                settled.push((hour, Box::<str>::from(model), inflight));
            }
        }
        for (hour, model, inflight) in settled {
            let at = (&*provider, HOUR, hour, &*model);
            let left = Inflight { confirmed: None, ..inflight };
            if left.is_empty() {
                desk.inflight.remove(at)?;
            } else {
                desk.inflight.put(at, &codec::encode(&left))?;
            }
        }
    }
    Ok(())
}

/// Those that replicate, and the others from one to the next without a walk over the hours themselves.
fn providers_with_hours(desk: &Desk<'_>) -> Result<BTreeSet<Box<str>>, Fault> {
    let mut found = BTreeSet::new();
    for row in desk.replicated.rows()?.iter()? {
        found.insert(Box::from(row?.0.value()));
    }
    let hours = desk.hours.rows()?;
    let mut next = hours.first()?.map(|(at, _)| Box::<str>::from(at.value().0));
    while let Some(provider) = next {
        let rest = (&*provider, u32::MAX, "\u{10ffff}")..;
        next = hours.range(rest)?.next().transpose()?.map(|(at, _)| at.value().0.into());
        found.insert(provider);
    }
    Ok(found)
}
