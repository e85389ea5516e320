//! What an instance does by itself: it counts, learns of its keys' health, and is told by people what to have.

use super::{
    local,
    memory::Memory,
    sabotage::{self, Sabotage},
    world::{Focus, MODELS, PROVIDERS, TOKENS, World},
};
use crate::{
    model::{CounterId, Health, Hour, KeyId, Policy, Tally, Timestamp, TokenId, Version},
    store::shelf::Shelf,
};

impl World {
    /// So much more of a row, as the fold writes it and memory shows it.
    pub fn count(&mut self, at: usize, provider: &str, id: &CounterId, more: &Tally) {
        let it = &mut self.instances[at];
        local::count(&mut it.shelf, provider, id, more);
        it.memory.books.entry((provider.to_owned(), id.clone())).or_default().add(more);
        it.shelf.commit();
        self.oracle.recorded(provider, id, more);
    }

    /// A request and its attempt, as the fold writes them.
    pub fn traffic(&mut self, at: usize) {
        let provider = self.rng.usize(..self.providers);
        self.traffic_of(at, provider);
    }

    /// An attempt with that key.
    pub fn attempt(&mut self, at: usize, provider: &'static str, key: &str) {
        let tally = Tally { failure: 1, last_used: Some(self.local(at)), ..Tally::default() };
        *self.instances[at].own.entry(provider).or_default() += 1;
        let key = KeyId::derive(provider, key);
        for id in [CounterId::Key(key), CounterId::Total] {
            self.count(at, provider, &id, &tally);
        }
        self.count_attempt(at, key, None, &tally);
    }

    pub fn traffic_of(&mut self, at: usize, provider: usize) {
        let (provider, _) = PROVIDERS[provider];
        let now = self.local(at);
        let model = MODELS[self.rng.usize(..MODELS.len())];
        let n = self.rng.i64(1..4);
        let kind = self.rng.u8(..3);
        let mut tally = Tally { last_used: Some(now), ..Tally::default() };
        match kind {
            0 => tally.success = n,
            1 => tally.failure = n,
            _ => tally.other = n,
        }
        let mut attempt = tally;
        if kind == 0 {
            attempt.last_success = Some(now);
            tally.prompt_tokens = self.rng.i64(0..50);
            tally.completion_tokens = self.rng.i64(0..50);
        } else if kind == 1 {
            attempt.last_failure = Some(now);
        }
        let mut rows = vec![
            (CounterId::Model(model.into()), tally),
            (CounterId::Hour(Hour::of(now), model.into()), tally),
            (CounterId::Total, tally),
        ];
        let it = &mut self.instances[at];
        *it.own.entry(provider).or_default() += n;
        let keys = it.shelf.keys(provider, None, usize::MAX).unwrap();
        let key = (!keys.is_empty()).then(|| keys[self.rng.usize(..keys.len())].0);
        rows.extend(key.map(|key| (CounterId::Key(key), attempt)));
        let tokens = it.shelf.tokens(provider, None, usize::MAX).unwrap();
        let token = (!tokens.is_empty()).then(|| tokens[self.rng.usize(..tokens.len())].0);
        rows.extend(token.map(|token| (CounterId::Token(token), tally)));
        for (id, tally) in rows {
            self.count(at, provider, &id, &tally);
        }
        if let Some(key) = key {
            self.count_attempt(at, key, token, &tally);
        }
    }
}

pub fn edit(world: &mut World, at: usize) -> Result<(), String> {
    let (provider, _) = PROVIDERS[world.rng.usize(..world.providers)];
    let (text, token) = (world.some_key(), TOKENS[world.rng.usize(..TOKENS.len())]);
    let kinds: &[u8] = match world.focus {
        Focus::Lives => &[0, 0, 0, 6, 6, 8, 15, 17],
        Focus::Batches => &[0, 0, 6],
        Focus::Late => &[0, 6],
        Focus::Edits => &[0, 8, 12, 12],
        Focus::Ties => &[0, 8, 8, 8, 12, 12, 12, 12],
        Focus::Health | Focus::Counts => &[0],
        _ => &[],
    };
    let any = world.rng.u8(..20);
    let kind = *world.rng.choice(kinds).unwrap_or(&any);
    decide(world, at, provider, (text, token), kind)
}

/// A person's decision of that kind, about a key or a token.
pub fn decide(
    world: &mut World,
    at: usize,
    provider: &'static str,
    (text, token): (&'static str, &'static str),
    kind: u8,
) -> Result<(), String> {
    let (value, flag) = (world.rng.u32(1..1000), world.rng.bool());
    let now = world.local(at);
    world.say(|| format!("{at} edits {provider} {text} {token} {kind}"));
    let it = &mut world.instances[at];
    let (shelf, stamps) = (&mut it.shelf, it.stamps.as_ref());
    let (id, token_id) = (KeyId::derive(provider, text), TokenId::derive(provider, token));
    let before = shelf.key(provider, id).unwrap();
    let mut said = None;
    match kind {
        0..6 => {
            if local::add_key(shelf, provider, text, stamps, now) {
                let version = shelf.key(provider, id).unwrap().map(|entry| entry.versions.added);
                said = version.map(|version| ("added", version, String::new()));
            }
        }
        6..8 => {
            let version = local::delete_key(shelf, provider, id, stamps, now);
            said = version.map(|version| ("deleted", version, String::new()));
        }
        8..10 => {
            let version = local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.note, versions.note) = (Some(format!("note {value}").into()), version);
            });
            said = version.map(|version| ("note", version, format!("note {value}")));
        }
        10..12 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.enabled, record.disabled_until) = (flag, None);
                (versions.enabled, versions.disabled_until) = (version, version);
            });
        }
        12 => {
            let version = local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.weight, versions.weight) = (value as u16, version);
            });
            said = version.map(|version| ("weight", version, value.to_string()));
        }
        13 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                let until = flag.then_some(Timestamp(now.0 + i64::from(value) * 1000));
                (record.expires_at, versions.expires_at) = (until, version);
            });
        }
        14 => {
            local::edit_key(shelf, provider, id, stamps, now, |record, versions, version| {
                (record.username, versions.username) = (flag.then_some("someone".into()), version);
            });
        }
        15 | 16 => {
            if local::add_token(shelf, provider, token, stamps, now) {
                let version = shelf.token(provider, token_id).unwrap().map(|entry| entry.versions.added);
                said = version.map(|version| ("added", version, String::new()));
            }
        }
        17 => {
            let version = local::delete_token(shelf, provider, token_id, stamps, now);
            said = version.map(|version| ("deleted", version, String::new()));
        }
        18 => local::edit_token(shelf, provider, token_id, stamps, now, |record, versions, version| {
            (record.name, versions.name) = (format!("name {value}").into(), version);
        }),
        _ => local::edit_token(shelf, provider, token_id, stamps, now, |record, versions, version| {
            record.limits.requests_per_minute = flag.then_some(value);
            versions.limits.requests_per_minute = version;
        }),
    }
    it.shelf.commit();
    it.memory = Memory::of(&it.shelf);
    let Some((what, version, value)) = said else { return Ok(()) };
    let text = if kind < 15 { text } else { token };
    let old = before.filter(|_| kind < 15).map(|entry| match what {
        "note" => entry.versions.note,
        "weight" => entry.versions.weight,
        _ => entry.versions.added,
    });
    // What comes from a clock that is ahead will be stamped anew.
    if old.is_some_and(|old| version <= old && old.time().0 <= world.now + 200_000) {
        return Err(format!(
            "instance {at} sets {what} of {text} at {version:?}, which is not later than {old:?}"
        ));
    }
    said_by(world, at, provider, text, (what, version, &value))
}

/// Of a row, that it was added or deleted, or a field of it set.
pub fn said_by(
    world: &mut World,
    at: usize,
    provider: &str,
    text: &str,
    (what, version, value): (&str, Version, &str),
) -> Result<(), String> {
    if version.time().0 > world.now + 200_000 {
        // It may be made anew.
        world.oracle.unsure(provider, text);
    }
    // Which keeps versions of two writers apart.
    let writer = (world.instances[at].shelf.instance_id().as_u128() % 1023) as i64 + 1;
    if version.0 & 1023 != writer {
        return Err(format!(
            "instance {at} sets {what} of {text} at {version:?}, which does not bear its name"
        ));
    }
    match what {
        "added" => world.oracle.existence(provider, text, version, true, Some(at)),
        "deleted" => world.oracle.existence(provider, text, version, false, Some(at)),
        field => world.oracle.edited(provider, text, field, version, value, Some(at)),
    }
    Ok(())
}

pub fn health(world: &mut World, at: usize) -> Result<(), String> {
    use crate::model::Effect;
    let (provider, _) = PROVIDERS[world.rng.usize(..world.providers)];
    let now = world.local(at);
    let (key, kind, ms) = (world.some_key(), world.rng.u8(..5), world.rng.i64(1000..90_000));
    let current = world.rng.u8(..3) > 0;
    let it = &mut world.instances[at];
    let until = Timestamp(now.0 + ms);
    let effect = match kind {
        0 => Effect::Success,
        1 => Effect::RateLimit { until },
        2 => Effect::Quota { until },
        3 => Effect::Auth { cooldown: None },
        _ => Effect::Server { cooldown: None },
    };
    let (policy, stamps) = (Policy::default(), it.stamps.clone());
    let id = KeyId::derive(provider, key);
    let believed = current || sabotage::on(Sabotage::AnswersInFlightClear);
    let (mut concluded, mut wrong) = (None, None);
    local::change_health(&mut it.shelf, provider, id, |health| {
        let before = health.clone();
        let mut changed = health.apply(effect, believed, now, &policy, &stamps);
        if kind == 0 && sabotage::on(Sabotage::SuccessAlwaysResets) {
            (changed, *health) = (true, Health { epoch: stamps.next(now), ..Health::default() });
        }
        if health.epoch != before.epoch && !(kind == 0 && current && before.is_blemished()) {
            wrong = Some(format!("{before:?} was cleared by {effect:?}, which clears nothing"));
        }
        concluded = changed.then(|| health.clone());
        changed
    });
    it.shelf.commit();
    it.memory = Memory::of(&it.shelf);
    if let Some(wrong) = wrong {
        return Err(format!("instance {at}: {wrong}"));
    }
    let Some(health) = concluded else { return Ok(()) };
    if health.epoch.time().0 > world.now + 200_000 {
        world.oracle.unsure(provider, key);
    }
    world.oracle.concluded(provider, key, health);
    Ok(())
}
