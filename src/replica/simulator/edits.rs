//! What an instance does by itself: it counts, learns of its keys' health, and is told by people what to have.

use super::{
    local,
    memory::Memory,
    world::{Focus, MODELS, PROVIDERS, TOKENS, World},
};
use crate::{
    model::{CounterId, Hour, KeyId, Policy, Tally, Timestamp, TokenId},
    store::shelf::Shelf,
};

impl World {
    /// A request and its attempt, as the fold writes them.
    pub fn traffic(&mut self, at: usize) {
        let (provider, _) = PROVIDERS[self.rng.usize(..self.providers)];
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
        if !keys.is_empty() {
            rows.push((CounterId::Key(keys[self.rng.usize(..keys.len())].0), attempt));
        }
        let tokens = it.shelf.tokens(provider, None, usize::MAX).unwrap();
        if !tokens.is_empty() {
            rows.push((CounterId::Token(tokens[self.rng.usize(..tokens.len())].0), tally));
        }
        for (id, tally) in rows {
            local::count(&mut it.shelf, provider, &id, &tally);
            it.memory.books.entry((provider.to_owned(), id.clone())).or_default().add(&tally);
            self.oracle.recorded(provider, &id, &tally);
        }
        it.shelf.commit();
    }
}

pub fn edit(world: &mut World, at: usize) {
    let (provider, _) = PROVIDERS[world.rng.usize(..world.providers)];
    let (text, token) = (world.some_key(), TOKENS[world.rng.usize(..TOKENS.len())]);
    let kinds: &[u8] = match world.focus {
        Focus::Lives => &[0, 0, 6, 8],
        Focus::Edits => &[0, 8, 12, 12],
        Focus::Health | Focus::Counts => &[0],
        _ => &[],
    };
    let any = world.rng.u8(..20);
    let kind = *world.rng.choice(kinds).unwrap_or(&any);
    let (value, flag) = (world.rng.u32(1..1000), world.rng.bool());
    let now = world.local(at);
    world.say(|| format!("{at} edits {provider} {text} {token} {kind}"));
    let it = &mut world.instances[at];
    let (shelf, stamps) = (&mut it.shelf, it.stamps.as_ref());
    let (id, token_id) = (KeyId::derive(provider, text), TokenId::derive(provider, token));
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
        15 | 16 => drop(local::add_token(shelf, provider, token, stamps, now)),
        17 => local::delete_token(shelf, provider, token_id, stamps, now),
        18 => local::edit_token(shelf, provider, token_id, stamps, now, |record, versions, version| {
            (record.name, versions.name) = (format!("name {value}").into(), version);
        }),
        _ => local::edit_token(shelf, provider, token_id, stamps, now, |record, versions, version| {
            record.requests_per_minute = flag.then_some(value);
            versions.requests_per_minute = version;
        }),
    }
    it.shelf.commit();
    it.memory = Memory::of(&it.shelf);
    let Some((what, version, value)) = said else { return };
    if version.time().0 > world.now + 200_000 {
        // It may be made anew.
        world.oracle.unsure(provider, text);
    }
    match what {
        "added" => world.oracle.existence(provider, text, version, true, Some(at)),
        "deleted" => world.oracle.existence(provider, text, version, false, Some(at)),
        field => world.oracle.edited(provider, text, field, version, &value, Some(at)),
    }
}

pub fn health(world: &mut World, at: usize) {
    use crate::model::Effect;
    let (provider, _) = PROVIDERS[world.rng.usize(..world.providers)];
    let now = world.local(at);
    let (key, kind, ms) = (world.some_key(), world.rng.u8(..5), world.rng.i64(1000..90_000));
    let current = world.rng.u8(..5) > 0;
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
    let mut concluded = None;
    local::change_health(&mut it.shelf, provider, id, |health| {
        let changed = health.apply(effect, current, now, &policy, &stamps);
        concluded = changed.then(|| health.clone());
        changed
    });
    it.shelf.commit();
    it.memory = Memory::of(&it.shelf);
    let Some(health) = concluded else { return };
    if health.epoch.time().0 > world.now + 200_000 {
        world.oracle.unsure(provider, key);
    }
    world.oracle.concluded(provider, key, health);
}
