//! What an instance does by itself that is the core's: it counts by day and hour, notes who used what, sees things
//! happen, and is told by people whom to serve.

use super::{BEGUN_FOR, day_of, hour_of, local, retention};
use crate::{
    model::{
        CounterId, Event, KeyId, LastKey, Set, SetId, SetKind, SpanId, SpanKind, Tally, TokenId, UsageLog,
        UsageType, UserId,
    },
    replica::simulator::{
        edits,
        memory::Memory,
        world::{BEGIN, PROVIDERS, World},
    },
    store::shelf::{CORE, Shelf},
};

pub const USERS: [UserId; 4] = [UserId(11 << 96), UserId(12 << 96), UserId(13 << 96), UserId(14 << 96)];

impl World {
    /// An attempt with a key, of a token that may be somebody's, as the ledger counts it.
    pub fn count_attempt(&mut self, at: usize, key: KeyId, token: Option<TokenId>, ends: &Tally) {
        if !self.core {
            return;
        }
        self.forget_core(at);
        let now = self.local(at);
        let (day, hour) = (day_of(now.0), hour_of(now.0));
        let user = self.some_user(at);
        let counts =
            Tally { success: ends.success, failure: ends.failure, other: ends.other, ..Tally::default() };
        let used = Tally { last_used: Some(now), ..counts };
        let many = counts.success + counts.failure + counts.other;
        let timed = Tally { prompt_tokens: 40 * many, completion_tokens: many, ..counts };
        let (prompt_tokens, completion_tokens) = (ends.prompt_tokens, ends.completion_tokens);
        let mut rows = vec![
            (SpanKind::KeyDay, key.0, day, used),
            (SpanKind::KeyHour, key.0, hour, timed),
            (SpanKind::KeyTotal, key.0, 0, used),
        ];
        if let Some(token) = token {
            rows.push((
                SpanKind::TokenDay,
                token.0,
                day,
                Tally { prompt_tokens, completion_tokens, ..counts },
            ));
        }
        if let Some(user) = user {
            rows.push((SpanKind::UserUses, user.0, day, Tally { prompt_tokens, completion_tokens, ..used }));
            let class = Tally { failure: many, ..Tally::default() };
            rows.push((SpanKind::UserClasses, user.0, day, class));
        }
        for (kind, id, period, tally) in rows {
            self.count(at, CORE, &CounterId::Span(SpanId::new(kind, id, period)), &tally);
        }
        let Some(subject) = user.map(|user| user.0).or(token.map(|token| token.0)) else { return };
        self.put_into(at, SetId { kind: SetKind::KeyDay, at: day, id: key.0 }, &Set::of(subject));
        self.put_into(at, SetId { kind: SetKind::KeyHour, at: hour, id: key.0 }, &Set::of(subject));
        if let Some(user) = user {
            let mut keys = Set::of(Set::member_of(key));
            keys.last = Some(LastKey { at: now, key: key.short_number() });
            // Now and then as many as are too many to keep.
            if self.chance(60) {
                keys.members.extend((0..12).map(|_| self.rng.u128(1..60)));
            }
            self.put_into(at, SetId { kind: SetKind::UserKeys, at: day, id: user.0 }, &keys);
        }
    }

    fn some_user(&mut self, at: usize) -> Option<UserId> {
        let users = self.instances[at].shelf.users(None, usize::MAX).unwrap();
        let which = self.rng.usize(..users.len() + 1);
        users.get(which).map(|(id, _)| *id)
    }

    pub fn put_into(&mut self, at: usize, id: SetId, more: &Set) {
        let it = &mut self.instances[at];
        local::put_into(&mut it.shelf, id, more);
        it.shelf.commit();
        self.oracle.core.put_into(id, more, self.now);
    }

    /// Once in an hour.
    fn forget_core(&mut self, at: usize) {
        let now = self.local(at);
        let it = &mut self.instances[at];
        if std::mem::replace(&mut it.looked, hour_of(now.0)) != hour_of(now.0) {
            retention::forget(&mut it.shelf, now);
            it.memory = Memory::of(&it.shelf);
        }
    }

    /// What the end of a world finds kept is what is to be.
    pub fn forget_all(&mut self) {
        for at in 0..self.instances.len() {
            self.instances[at].looked = 0;
            self.forget_core(at);
        }
    }

    fn happens(&mut self, at: usize) {
        // What a hub is not there for stays with whoever sees it.
        if !self.instances[at].shelf.is_replicated(CORE) {
            return;
        }
        let (id, now, severity) = (self.uuid(), self.local(at), self.rng.u8(1..6));
        let user = self.some_user(at);
        let it = &mut self.instances[at];
        if self.rng.bool() {
            let details = serde_json::from_str(r#"{"seen": 7}"#).unwrap();
            let (kind, weight) = ("rate_limit".into(), u32::from(severity));
            let event = Event { id, kind, user, key: None, severity, details, at: now, weight };
            it.shelf.set_open_event(id, Some(&event)).unwrap();
            self.oracle.core.events.insert(id, event);
        } else {
            let (key, user) = (KeyId(7), user.unwrap_or(USERS[0]));
            let log = UsageLog { id, key, user, usage_type: UsageType::Call, status: 200, at: now };
            it.shelf.set_open_log(id, Some(&log)).unwrap();
            self.oracle.core.logs.insert(id, log);
        }
        it.shelf.commit();
    }

    /// A limit is hit.
    fn refuses(&mut self, at: usize) {
        self.forget_core(at);
        let Some(user) = self.some_user(at) else { return };
        let day = day_of(self.local(at).0);
        let id = CounterId::Span(SpanId::new(SpanKind::UserErrors, user.0, day));
        self.count(at, CORE, &id, &Tally { success: 1, ..Tally::default() });
    }
}

pub fn deed(world: &mut World, at: usize) -> Result<(), String> {
    match world.rng.u8(..10) {
        0..5 => {
            let (which, kind) = (world.rng.usize(..USERS.len()), world.rng.u8(..10));
            decide(world, at, USERS[which], kind)
        }
        5 => {
            let (provider, _) = PROVIDERS[world.rng.usize(..world.providers)];
            let (key, owner) = (world.some_key(), world.some_user(at));
            let now = world.local(at);
            let it = &mut world.instances[at];
            let id = KeyId::derive(provider, key);
            local::share_key(&mut it.shelf, provider, id, owner, &it.stamps, now);
            it.shelf.commit();
            it.memory = Memory::of(&it.shelf);
            Ok(())
        }
        6 => {
            // Nobody's rows but the core's are as old as that yet.
            if world.now - BEGIN < BEGUN_FOR {
                world.hub.sweep();
                if world.chance(200) {
                    world.hub.climb();
                    world.oracle.core.hours_from = (hour_of(world.now) / 24 - 7) * 24;
                    world.oracle.core.days_from = day_of(world.now) - 7;
                }
            }
            Ok(())
        }
        7 => {
            world.refuses(at);
            Ok(())
        }
        _ => {
            world.happens(at);
            Ok(())
        }
    }
}

/// A person's decision of that kind about a user.
pub fn decide(world: &mut World, at: usize, user: UserId, kind: u8) -> Result<(), String> {
    let (value, flag) = (world.rng.u32(1..1000), world.rng.bool());
    let now = world.local(at);
    world.say(|| format!("{at} edits {user} {kind}"));
    let it = &mut world.instances[at];
    let (shelf, stamps) = (&mut it.shelf, it.stamps.as_ref());
    let said = match kind {
        0..3 => local::add_user(shelf, user, stamps, now).map(|version| ("added", version, String::new())),
        3 => local::delete_user(shelf, user, stamps, now).map(|version| ("deleted", version, String::new())),
        4 | 5 => local::edit_user(shelf, user, stamps, now, |record, versions, version| {
            (record.name, versions.name) = (format!("name {value}").into(), version);
        })
        .map(|version| ("name", version, format!("name {value}"))),
        6 | 7 => local::edit_user(shelf, user, stamps, now, |record, versions, version| {
            (record.enabled, versions.enabled) = (flag, version);
        })
        .map(|version| ("enabled", version, flag.to_string())),
        _ => local::edit_user(shelf, user, stamps, now, |record, versions, version| {
            (record.limits.requests_per_minute, versions.limits.requests_per_minute) = (Some(value), version);
        })
        .map(|version| ("requests_per_minute", version, value.to_string())),
    };
    it.shelf.commit();
    it.memory = Memory::of(&it.shelf);
    match said {
        Some((what, version, value)) => {
            edits::said_by(world, at, CORE, &user.to_string(), (what, version, &value))
        }
        None => Ok(()),
    }
}
