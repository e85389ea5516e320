//! What this instance shows: the rows of six tables as counters of one kind.

use redb::AccessGuard;

use super::lists::{list, set, start, unknown_kind};
use crate::{
    model::{CounterId, Hour, KeyId, KeyUsage, Tally, TokenId, Usage},
    store::{
        codec,
        desk::{Desk, optional},
        error::Fault,
        shelf::CORE,
        tables::{read, span_at, span_of},
    },
};

impl Desk<'_> {
    pub(super) fn view(&self, provider: &str, id: &CounterId) -> Result<Tally, Fault> {
        let usage = |value: Option<AccessGuard<'_, &'static [u8]>>| {
            Ok(optional::<Usage>(value, "a statistic")?.map(|usage| Tally::from(&usage)).unwrap_or_default())
        };
        match id {
            CounterId::Key(id) => {
                let found: Option<KeyUsage> = optional(self.key_usage.get((provider, id.0))?, "a statistic")?;
                Ok(found.map(|usage| Tally::from(&usage)).unwrap_or_default())
            }
            CounterId::Token(id) => usage(self.token_usage.get((provider, id.0))?),
            CounterId::Model(model) => usage(self.models.get((provider, &**model))?),
            CounterId::Hour(hour, model) => usage(self.hours.get((provider, hour.0, &**model))?),
            CounterId::Total => usage(self.totals.get(provider)?),
            CounterId::Span(id) => {
                Ok(optional(self.tallies.get(span_at(id))?, "a statistic")?.unwrap_or_default())
            }
        }
    }

    pub(super) fn set_view(&mut self, provider: &str, id: &CounterId, value: &Tally) -> Result<(), Fault> {
        let is_something = *value != Tally::default();
        let usage = is_something.then(|| codec::encode(&Usage::from(value)));
        match id {
            CounterId::Key(id) => {
                let usage = is_something.then(|| codec::encode(&KeyUsage::from(value)));
                set(&mut self.key_usage, (provider, id.0), usage)
            }
            CounterId::Token(id) => set(&mut self.token_usage, (provider, id.0), usage),
            CounterId::Model(model) => set(&mut self.models, (provider, &**model), usage),
            CounterId::Hour(hour, model) => set(&mut self.hours, (provider, hour.0, &**model), usage),
            CounterId::Total => set(&mut self.totals, provider, usage),
            CounterId::Span(id) => {
                set(&mut self.tallies, span_at(id), is_something.then(|| codec::encode(value)))
            }
        }
    }

    /// From one table to the next, in the order of [`CounterId`]; spans in that of kind, period and id.
    pub(super) fn views(
        &self,
        provider: &str,
        after: Option<&CounterId>,
        max: usize,
    ) -> Result<Vec<(CounterId, Tally)>, Fault> {
        let mut found = Vec::new();
        if provider == CORE {
            let from = match after {
                Some(CounterId::Span(id)) => Some(span_at(id)),
                _ => None,
            };
            return list(&self.tallies, start(from, (0, 0, 0)), max, |at, value| {
                let id = span_of(at).map_or_else(unknown_kind, Ok)?;
                Ok(Some((CounterId::Span(id), read(value, || "a statistic".to_owned())?)))
            });
        }
        if after.is_none_or(|after| matches!(after, CounterId::Key(_))) {
            let from = match after {
                Some(CounterId::Key(id)) => Some((provider, id.0)),
                _ => None,
            };
            found.append(&mut list(&self.key_usage, start(from, (provider, 0)), max, |(of, id), value| {
                let read = || read::<KeyUsage>(value, || "a statistic".to_owned());
                (of == provider).then(|| Ok((CounterId::Key(KeyId(id)), (&read()?).into()))).transpose()
            })?);
        }
        let tally = |value: &[u8]| -> Result<Tally, Fault> {
            Ok(Tally::from(&read::<Usage>(value, || "a statistic".to_owned())?))
        };
        if after.is_none_or(|after| matches!(after, CounterId::Key(_) | CounterId::Token(_))) {
            let from = match after {
                Some(CounterId::Token(id)) => Some((provider, id.0)),
                _ => None,
            };
            let left = max - found.len();
            found.append(&mut list(
                &self.token_usage,
                start(from, (provider, 0)),
                left,
                |(of, id), value| {
                    (of == provider).then(|| Ok((CounterId::Token(TokenId(id)), tally(value)?))).transpose()
                },
            )?);
        }
        if after.is_none_or(|after| !matches!(after, CounterId::Hour(..) | CounterId::Total)) {
            let from = match after {
                Some(CounterId::Model(model)) => Some((provider, &**model)),
                _ => None,
            };
            let left = max - found.len();
            found.append(&mut list(
                &self.models,
                start(from, (provider, "")),
                left,
                |(of, model), value| {
                    (of == provider).then(|| Ok((CounterId::Model(model.into()), tally(value)?))).transpose()
                },
            )?);
        }
        if after.is_none_or(|after| *after != CounterId::Total) {
            let from = match after {
                Some(CounterId::Hour(hour, model)) => Some((provider, hour.0, &**model)),
                _ => None,
            };
            let left = max - found.len();
            found.append(&mut list(
                &self.hours,
                start(from, (provider, 0, "")),
                left,
                |(of, hour, model), value| {
                    let id = || CounterId::Hour(Hour(hour), model.into());
                    (of == provider).then(|| Ok((id(), tally(value)?))).transpose()
                },
            )?);
            if found.len() < max
                && let Some(value) = self.totals.get(provider)?
            {
                found.push((CounterId::Total, tally(value.value())?));
            }
        }
        Ok(found)
    }
}
