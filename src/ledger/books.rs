//! The totals in memory: what every reader of statistics sees.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash},
};

use crate::model::{
    ById, CounterId, Delta, Hour, KeyId, KeyUsage, ProviderDelta, Tally, Timestamp, TokenId, Usage,
};

/// The totals of every provider.
#[derive(Clone, Debug, Default)]
pub struct Books {
    pub providers: HashMap<Box<str>, ProviderBooks>,
}

/// The totals of one provider.
#[derive(Clone, Debug, Default)]
pub struct ProviderBooks {
    /// Per client request: the sum over all models.
    pub total: Usage,
    /// Per attempt. Outlives its key, so that adding a key again continues its counts.
    pub keys: ById<KeyId, KeyUsage>,
    pub models: HashMap<Box<str>, Usage>,
    pub hours: BTreeMap<(Hour, Box<str>), Usage>,
    pub tokens: ById<TokenId, Usage>,
}

impl Books {
    pub fn add(&mut self, delta: &Delta) {
        for (name, delta) in &delta.providers {
            self.providers.entry(name.clone()).or_default().add(delta);
        }
    }

    /// See [`Ledger::shift`](super::Ledger::shift).
    pub(super) fn shift(&mut self, provider: &str, id: &CounterId, from: &Tally, to: &Tally) {
        if matches!(id, CounterId::Span(_)) {
            // Not in memory: there are far more of them than anybody looks at.
            return;
        }
        let books = match self.providers.get_mut(provider) {
            Some(books) => books,
            None => self.providers.entry(provider.into()).or_default(),
        };
        books.shift(id, from, to);
    }

    /// Drops hourly rows that are older than that many hours; the totals keep what they counted.
    pub fn forget_old_hours(&mut self, now: Timestamp, kept: u32) {
        let oldest = Hour(Hour::of(now).0.saturating_sub(kept));
        for provider in self.providers.values_mut() {
            while let Some(first) = provider.hours.first_entry() {
                if first.key().0 >= oldest {
                    break;
                }
                first.remove();
            }
        }
    }
}

impl ProviderBooks {
    fn shift(&mut self, id: &CounterId, from: &Tally, to: &Tally) {
        match id {
            CounterId::Key(id) => shift_row(&mut self.keys, *id, from, to),
            CounterId::Token(id) => shift_row(&mut self.tokens, *id, from, to),
            CounterId::Model(model) => shift_row(&mut self.models, model.clone(), from, to),
            CounterId::Hour(hour, model) => {
                let at = (*hour, model.clone());
                let now = self.hours.get(&at).map(Tally::from).unwrap_or_default();
                match moved(&now, from, to) {
                    Some(row) => self.hours.insert(at, row),
                    None => self.hours.remove(&at),
                };
            }
            CounterId::Total => self.total = moved(&(&self.total).into(), from, to).unwrap_or_default(),
            CounterId::Span(_) => {}
        }
    }

    pub fn add(&mut self, delta: &ProviderDelta) {
        // In the order of the same hashes: a table that grows meanwhile would fill from one end.
        let keys = delta.attempts.values().map(|keys| keys.len()).max().unwrap_or(0);
        self.keys.reserve(keys.saturating_sub(self.keys.len()));
        for (id, usage) in delta.usage_of_keys() {
            self.keys.entry(id).or_default().add(usage);
        }
        for ((hour, model), usage) in &delta.hours {
            self.total.add(usage);
            self.models.entry(model.clone()).or_default().add(usage);
            self.hours.entry((*hour, model.clone())).or_default().add(usage);
        }
        for (id, usage) in &delta.tokens {
            self.tokens.entry(*id).or_default().add(usage);
        }
    }
}

fn shift_row<K: Hash + Eq, U, S: BuildHasher>(rows: &mut HashMap<K, U, S>, id: K, from: &Tally, to: &Tally)
where
    U: for<'a> From<&'a Tally> + Default + PartialEq,
    Tally: for<'a> From<&'a U>,
{
    let now = rows.get(&id).map(Tally::from).unwrap_or_default();
    match moved(&now, from, to) {
        Some(row) => rows.insert(id, row),
        None => rows.remove(&id),
    };
}

/// `None` where nothing is left, which is no row.
fn moved<U>(now: &Tally, from: &Tally, to: &Tally) -> Option<U>
where
    U: for<'a> From<&'a Tally> + Default + PartialEq,
{
    let mut moved = to.minus(from);
    moved.add(now);
    // A date that the store did not have yet is of something counted meanwhile.
    let date =
        |now: Option<Timestamp>, from, to: Option<Timestamp>| if now == from { to } else { now.max(to) };
    moved.last_used = date(now.last_used, from.last_used, to.last_used);
    moved.last_success = date(now.last_success, from.last_success, to.last_success);
    moved.last_failure = date(now.last_failure, from.last_failure, to.last_failure);
    Some(U::from(&moved)).filter(|row| *row != U::default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Counts;

    fn usage(success: u64, at: i64) -> Usage {
        let counts = Counts { success, ..Counts::default() };
        Usage { counts, prompt_tokens: 10 * success, completion_tokens: 0, last_used: Some(Timestamp(at)) }
    }

    fn tally(success: u64, at: i64) -> Tally {
        (&usage(success, at)).into()
    }

    #[test]
    fn a_shift_keeps_what_was_counted_meanwhile() {
        let mut books = Books::default();
        let of = books.providers.entry("p".into()).or_default();
        // The store has 5 of these 7.
        of.models.insert("m".into(), usage(7, 70));
        let model = CounterId::Model("m".into());
        books.shift("p", &model, &tally(5, 50), &tally(105, 60));
        assert_eq!(books.providers["p"].models["m"], usage(107, 70));
        // A reset at the hub.
        books.shift("p", &model, &tally(105, 60), &Tally::default());
        assert_eq!(books.providers["p"].models["m"], usage(2, 70));
        books.shift("p", &model, &tally(2, 70), &Tally::default());
        assert!(!books.providers["p"].models.contains_key("m"));
        // Never below nothing.
        books.shift("p", &model, &tally(9, 1), &Tally::default());
        assert!(!books.providers["p"].models.contains_key("m"));
    }

    #[test]
    fn every_kind_of_row_is_shifted() {
        let mut books = Books::default();
        let ids = [
            CounterId::Key(KeyId(1)),
            CounterId::Token(TokenId(1)),
            CounterId::Model("m".into()),
            CounterId::Hour(Hour(3), "m".into()),
            CounterId::Total,
        ];
        for id in &ids {
            books.shift("p", id, &Tally::default(), &tally(3, 30));
        }
        let of = &books.providers["p"];
        assert_eq!((of.total, of.tokens[&TokenId(1)]), (usage(3, 30), usage(3, 30)));
        assert_eq!((of.models["m"], of.hours[&(Hour(3), "m".into())]), (usage(3, 30), usage(3, 30)));
        assert_eq!(
            (of.keys[&KeyId(1)].counts.success, of.keys[&KeyId(1)].last_used),
            (3, Some(Timestamp(30)))
        );
        for id in &ids {
            books.shift("p", id, &tally(3, 30), &Tally::default());
        }
        let of = &books.providers["p"];
        assert!(of.keys.is_empty() && of.models.is_empty() && of.hours.is_empty() && of.tokens.is_empty());
        assert_eq!(of.total, Usage::default());
    }
}
