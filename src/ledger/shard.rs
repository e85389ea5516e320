//! What one core counted since the last collection, by the hour and day in which it was.
//!
//! Nearly always all of it is of one hour: its bounds are compared, and zones are looked up when they are left.

use std::{collections::HashSet, hash::BuildHasherDefault};

use super::{
    ModelNames, ModelRef,
    record::{Caller, Class, Ending, Entry, Kind, Refusal},
};
use crate::{
    breather,
    model::{
        ById, CoreDelta, Counts, Day, Hour, IdHasher, KeyAttempts, KeyId, KeyUsage, LastKey, ProviderDelta,
        Set, SetId, SetKind, SpanId, SpanKind, Tally, Timestamp, TokenId, Usage, UsageLog, UsageType, UserId,
        Zone, signed,
    },
};

#[derive(Default)]
pub(super) struct Shard {
    present: Slot,
    /// What `present` was before the last collection, empty: its memory will be needed again.
    spare: Slot,
    /// Of other hours: the one that has just passed, or those that a clock was set back to.
    others: Vec<Slot>,
    logs: Vec<UsageLog>,
}

impl Shard {
    /// Counts an entry; `zone` is asked when a day or an hour begins.
    pub(super) fn record(&mut self, entry: &Entry, now: Timestamp, zone: impl Fn() -> Zone) {
        self.slot(now, zone).record(entry, now);
    }

    /// A row of its own for a request that used a key.
    pub(super) fn log(&mut self, caller: Caller, ending: &Ending, now: Timestamp) {
        let Some(key) = ending.key else { return };
        let usage_type = match ending.class {
            // A plain log knows two types; what carries a file is a conversation about it.
            Class::Conversation | Class::Upload => UsageType::Conversation,
            Class::Call => UsageType::Call,
        };
        let (id, user) = (UsageLog::id_at(now), UserId(caller.subject()));
        self.logs.push(UsageLog { id, key, user, usage_type, status: ending.status, at: now });
    }

    pub(super) fn listed(&mut self, caller: Caller, now: Timestamp, zone: impl Fn() -> Zone) {
        self.slot(now, zone).token(caller).listed += 1;
    }

    pub(super) fn refused(&mut self, user: UserId, what: Refusal, now: Timestamp, zone: impl Fn() -> Zone) {
        self.slot(now, zone).refused.entry(user).or_default()[what as usize] += 1;
    }

    fn slot(&mut self, now: Timestamp, zone: impl Fn() -> Zone) -> &mut Slot {
        if !(self.present.from <= now && now < self.present.until) {
            self.turn(now, &zone());
        }
        &mut self.present
    }

    #[cold]
    fn turn(&mut self, now: Timestamp, zone: &Zone) {
        let (hour, day) = (Hour::of(now), zone.day_of(now));
        if (hour, day.day) != (self.present.hour, self.present.day) {
            let known = self.others.iter().position(|slot| (slot.hour, slot.day) == (hour, day.day));
            let next = known.map(|at| self.others.swap_remove(at));
            let left = std::mem::replace(&mut self.present, next.unwrap_or_default());
            if !left.is_empty() {
                self.others.push(left);
            }
        }
        self.present.hour = hour;
        self.present.day = day.day;
        self.present.from = hour.start().max(day.start);
        self.present.until = Hour(hour.0.saturating_add(1)).start().min(day.end);
    }

    /// The next entry asks the zone again.
    pub(super) fn forget_bounds(&mut self) {
        self.present.until = self.present.from;
    }

    /// Hands over what was counted. A core waits for no more than that: going through it may take many milliseconds.
    pub(super) fn take(&mut self) -> Taken {
        let next = Slot {
            hour: self.present.hour,
            day: self.present.day,
            from: self.present.from,
            until: self.present.until,
            ..std::mem::take(&mut self.spare)
        };
        Taken {
            present: std::mem::replace(&mut self.present, next),
            others: std::mem::take(&mut self.others),
            logs: std::mem::take(&mut self.logs),
        }
    }

    pub(super) fn give_back(&mut self, spare: Slot) {
        self.spare = spare;
    }
}

/// What was counted until it was collected.
pub(super) struct Taken {
    present: Slot,
    others: Vec<Slot>,
    logs: Vec<UsageLog>,
}

impl Taken {
    /// Puts it where it belongs; what is left is for [`Shard::give_back`].
    pub(super) fn put_into(
        mut self,
        models: &ModelNames,
        delta: &mut ProviderDelta,
        core: &mut CoreDelta,
        told: &mut Told,
    ) -> Slot {
        for mut slot in self.others {
            slot.drain(models, delta, core, None);
        }
        // A core that has rested is in another hour still.
        if !self.present.is_empty() {
            told.turn(self.present.hour, self.present.day);
        }
        self.present.drain(models, delta, core, Some(told));
        core.logs.append(&mut self.logs);
        self.present
    }
}

/// What was counted in one hour of one day: where zones are half an hour apart, a day may begin within an hour.
#[derive(Default)]
pub(super) struct Slot {
    hour: Hour,
    day: Day,
    /// The instants that belong to it.
    from: Timestamp,
    until: Timestamp,
    keys: ById<KeyId, OfKey>,
    users_of_keys: Pairs,
    models: ById<u32, Usage>,
    tokens: ById<TokenId, OfToken>,
    /// Of tokens that went to another user meanwhile.
    before: Vec<(TokenId, OfToken)>,
    refused: ById<UserId, [u32; 3]>,
}

/// Numbers between two collections are small; no key is used before 1970, and none by nobody.
#[derive(Clone, Copy, Default)]
struct OfKey {
    counts: [u32; 3],
    timed: u32,
    millis: u64,
    last_used: i64,
    last_success: i64,
    last_failure: i64,
    /// Who used it last: mostly the same as before.
    subject: u128,
}

impl OfKey {
    fn attempts(&self) -> KeyAttempts {
        let usage = KeyUsage {
            counts: counts(self.counts),
            last_used: date(self.last_used),
            last_success: date(self.last_success),
            last_failure: date(self.last_failure),
        };
        KeyAttempts { usage, timed: self.timed.into(), millis: self.millis }
    }
}

#[derive(Clone, Copy, Default)]
struct OfToken {
    user: Option<UserId>,
    counts: [u32; 3],
    /// Those that used keys.
    used: [u32; 3],
    classes: [u32; 3],
    /// Lists and single models that were asked for: not in the books of providers, and no limit by day counts them.
    listed: u32,
    /// Only requests that use keys have any.
    prompt_tokens: u64,
    completion_tokens: u64,
    last_used: i64,
    /// The last that used keys.
    last_use: i64,
    last_key: Option<LastKey>,
}

fn date(at: i64) -> Option<Timestamp> {
    (at != 0).then_some(Timestamp(at))
}

fn counts([success, failure, other]: [u32; 3]) -> Counts {
    Counts { success: success.into(), failure: failure.into(), other: other.into() }
}

fn tally([success, failure, other]: [u32; 3]) -> Tally {
    Tally { success: success.into(), failure: failure.into(), other: other.into(), ..Tally::default() }
}

impl Slot {
    fn is_empty(&self) -> bool {
        self.keys.is_empty()
            && self.models.is_empty()
            && self.tokens.is_empty()
            && self.before.is_empty()
            && self.refused.is_empty()
    }

    fn record(&mut self, entry: &Entry, now: Timestamp) {
        if let Some(attempt) = &entry.attempt {
            let of = self.keys.entry(attempt.key).or_default();
            of.counts[attempt.kind as usize] += 1;
            of.last_used = of.last_used.max(now.0);
            match attempt.kind {
                Kind::Success => of.last_success = of.last_success.max(now.0),
                Kind::Failure => of.last_failure = of.last_failure.max(now.0),
                Kind::Other => {}
            }
            if let Some(millis) = attempt.millis {
                of.timed += 1;
                of.millis += millis;
            }
            let subject = entry.caller.subject();
            if of.subject != subject {
                of.subject = subject;
                self.users_of_keys.add((attempt.key, subject, entry.caller.user.is_some()));
            }
        }
        if let Some(ending) = &entry.request {
            let usage = Usage {
                counts: ending.kind.counts(),
                prompt_tokens: ending.prompt_tokens,
                completion_tokens: ending.completion_tokens,
                last_used: Some(now),
            };
            self.models.entry(ending.model.0).or_default().add(&usage);
        }
        if entry.request.is_none() && entry.caller.user.is_none() {
            return;
        }
        let of = self.token(entry.caller);
        if let Some(attempt) = &entry.attempt {
            of.last_key = of.last_key.max(Some(LastKey { at: now, key: attempt.key.short_number() }));
        }
        if let Some(ending) = &entry.request {
            of.counts[ending.kind as usize] += 1;
            of.classes[ending.class as usize] += 1;
            if ending.used_keys {
                of.used[ending.kind as usize] += 1;
                of.last_use = of.last_use.max(now.0);
            }
            of.prompt_tokens += ending.prompt_tokens;
            of.completion_tokens += ending.completion_tokens;
            of.last_used = of.last_used.max(now.0);
        }
    }

    fn token(&mut self, caller: Caller) -> &mut OfToken {
        let of = self.tokens.entry(caller.token).or_default();
        if of.user != caller.user {
            if of.user.is_some() || of.counts != [0; 3] || of.listed > 0 {
                self.before.push((caller.token, *of));
            }
            *of = OfToken { user: caller.user, ..OfToken::default() };
        }
        of
    }

    fn drain(
        &mut self,
        models: &ModelNames,
        delta: &mut ProviderDelta,
        core: &mut CoreDelta,
        mut told: Option<&mut Told>,
    ) {
        let (hour, day) = (self.hour.0, self.day.0);
        let keys = self.keys.len();
        if keys > 0 {
            let attempts = delta.attempts.entry((self.hour, day)).or_default();
            // The keys of one core are mostly those of the others.
            attempts.reserve(keys.saturating_sub(attempts.len()));
            for (id, of) in self.keys.drain() {
                breather::step();
                attempts.entry(id).or_default().add(&of.attempts());
            }
        }
        // What one long interval needed is not kept for good.
        self.keys.shrink_to(2 * keys);
        for pair in self.users_of_keys.drain() {
            breather::step();
            if told.as_mut().is_some_and(|told| !told.is_new(pair)) {
                continue;
            }
            let (key, subject, is_user) = pair;
            put(core, SetId { kind: SetKind::KeyHour, at: hour, id: key.0 }, subject);
            put(core, SetId { kind: SetKind::KeyDay, at: day, id: key.0 }, subject);
            if is_user {
                let keys = SetId { kind: SetKind::UserKeys, at: day, id: subject };
                core.sets.entry(keys).or_default().add(SetKind::UserKeys, &Set::of(Set::member_of(key)));
            }
        }
        for (model, usage) in self.models.drain() {
            let name: Box<str> = (*models.name(ModelRef(model))).into();
            delta.hours.entry((self.hour, name)).or_default().add(&usage);
        }
        for (id, of) in self.tokens.drain().chain(self.before.drain(..)) {
            breather::step();
            of.drain(id, day, delta, core);
        }
        for (id, refused) in self.refused.drain() {
            count(core, SpanKind::UserErrors, id.0, day, tally(refused));
        }
    }
}

impl OfToken {
    fn drain(&self, token: TokenId, day: u32, delta: &mut ProviderDelta, core: &mut CoreDelta) {
        let (prompt, completion) = (signed(self.prompt_tokens), signed(self.completion_tokens));
        let with_tokens = |ends| Tally { prompt_tokens: prompt, completion_tokens: completion, ..ends };
        if self.counts != [0; 3] {
            let usage = Usage {
                counts: counts(self.counts),
                prompt_tokens: self.prompt_tokens,
                completion_tokens: self.completion_tokens,
                last_used: date(self.last_used),
            };
            delta.tokens.entry(token).or_default().add(&usage);
        }
        count(core, SpanKind::TokenDay, token.0, day, with_tokens(tally(self.counts)));
        let Some(user) = self.user else { return };
        // Of its own: a token may be another user's tomorrow, or in an hour.
        count(core, SpanKind::TokenDay, user.0, day, with_tokens(tally(self.counts)));
        let mut classes = self.classes;
        classes[Class::Call as usize] += self.listed;
        count(core, SpanKind::UserClasses, user.0, day, tally(classes));
        if self.used != [0; 3] {
            let uses = Tally { last_used: date(self.last_use), ..with_tokens(tally(self.used)) };
            count(core, SpanKind::UserUses, user.0, day, uses);
        }
        if self.last_key.is_some() {
            let keys = SetId { kind: SetKind::UserKeys, at: day, id: user.0 };
            let last = Set { last: self.last_key, ..Set::default() };
            core.sets.entry(keys).or_default().add(SetKind::UserKeys, &last);
        }
    }
}

fn count(core: &mut CoreDelta, kind: SpanKind, id: u128, at: u32, more: Tally) {
    if !more.counts_nothing() {
        core.tallies.entry(SpanId::new(kind, id, at)).or_default().add(&more);
    }
}

fn put(core: &mut CoreDelta, id: SetId, member: u128) {
    core.sets.entry(id).or_default().members.insert(member);
}

/// A key, who used it, and whether that is a user.
type Pair = (KeyId, u128, bool);

/// Each pair once, give or take: cheaper to write than a table, and as bounded.
#[derive(Default)]
struct Pairs {
    list: Vec<Pair>,
    /// How many of them are known to be different.
    sorted: usize,
}

impl Pairs {
    const FEW: usize = 4096;

    fn add(&mut self, pair: Pair) {
        if self.list.len() >= Self::FEW.max(2 * self.sorted) {
            self.tidy();
        }
        self.list.push(pair);
    }

    #[cold]
    fn tidy(&mut self) {
        self.list.sort_unstable();
        self.list.dedup();
        self.sorted = self.list.len();
    }

    fn drain(&mut self) -> std::vec::Drain<'_, Pair> {
        self.tidy();
        self.sorted = 0;
        self.list.drain(..)
    }
}

/// Who used which key in this hour and day, as far as a collection has told it lately. Sets only grow, and nearly all
/// that a collection finds is in them: it would be half of what has to be written.
#[derive(Default)]
pub(super) struct Told {
    of: (Hour, Day),
    pairs: HashSet<Pair, BuildHasherDefault<IdHasher>>,
    /// In which it was told.
    collections: u32,
}

impl Told {
    /// Then all of it is told again: a clock that jumped ahead and back may have closed a set meanwhile.
    const COLLECTIONS: u32 = 64;
    /// What is beyond is told every time. As many as fit into 1.6 MB, for each provider.
    const MOST: usize = (1 << 15) / 8 * 7;

    /// Another collection begins.
    pub(super) fn begin(&mut self) {
        self.collections += 1;
        if self.collections > Self::COLLECTIONS {
            self.collections = 1;
            self.forget();
        }
    }

    fn turn(&mut self, hour: Hour, day: Day) {
        if self.of != (hour, day) {
            self.of = (hour, day);
            self.forget();
        }
    }

    fn forget(&mut self) {
        let before = self.pairs.len();
        self.pairs.clear();
        // What one busy time needed is not kept for good.
        self.pairs.shrink_to(2 * before);
    }

    fn is_new(&mut self, pair: Pair) -> bool {
        if self.pairs.len() >= Self::MOST {
            return !self.pairs.contains(&pair);
        }
        self.pairs.insert(pair)
    }
}

#[cfg(test)]
mod tests;
