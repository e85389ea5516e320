//! What happens in a world.

use super::{
    foreign::Statement,
    hub::Database,
    local,
    sabotage::Sabotage,
    shelf::MemoryShelf,
    world::{Focus, PROVIDERS, TOKENS, World},
};
use crate::{
    model::{KeyId, Policy, Timestamp, TokenId},
    replica::protocol::Wishes,
    store::shelf::Shelf,
};

/// What befalls a world besides loss, crashes and other hands. One at a time, since what is lost in one is
/// recovered from what the other destroys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Ordinary,
    /// Files are copied and restored.
    Copies,
    /// The hub is recovered to an earlier point in time.
    Rollbacks,
    /// Somebody is away for longer than deletions are remembered.
    Absence,
    /// The hub is dumped and restored elsewhere, or a new one stands in its place.
    Moves,
}

pub struct Story {
    fate: Fate,
    backups: Vec<(usize, MemoryShelf)>,
    hub_backup: Option<(i64, Database)>,
    /// Transactions of other programs that stay open.
    held: Vec<(u64, Statement)>,
    by_hand: bool,
}

/// What kind of world a seed makes.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    fate: Fate,
    by_hand: bool,
    focus: Focus,
}

impl Plan {
    pub fn of(seed: u64) -> Self {
        let fate = match seed % 8 {
            1 | 2 => Fate::Copies,
            3 | 4 => Fate::Rollbacks,
            5 => Fate::Absence,
            6 => Fate::Moves,
            _ => Fate::Ordinary,
        };
        let focus = match seed / 8 % 12 {
            0 => Focus::Lives,
            1 => Focus::Edits,
            2 => Focus::Health,
            3 => Focus::Batches,
            4 => Focus::Counts,
            5 => Focus::Hands,
            6 => Focus::Narrow,
            _ => Focus::Everything,
        };
        Self { fate, by_hand: !seed.is_multiple_of(3) && fate != Fate::Moves, focus }
    }

    /// Where a broken rule shows, if it is not in most worlds.
    pub fn against(rule: Sabotage, seed: u64) -> Self {
        let (fate, by_hand, focus) = match rule {
            Sabotage::HubIgnoresTombstones => (Fate::Ordinary, true, Focus::Lives),
            Sabotage::StateCreatesRows | Sabotage::AbsenceIsNothing | Sabotage::IgnoresHorizon => {
                (Fate::Absence, false, Focus::Lives)
            }
            Sabotage::HubIgnoresEpochs | Sabotage::IgnoresEpochs => (Fate::Ordinary, false, Focus::Health),
            Sabotage::LowerIsTaken => (Fate::Ordinary, true, Focus::Counts),
            Sabotage::AdoptionKeepsStamps => (Fate::Moves, false, Focus::Everything),
            Sabotage::ForgetsSealed => (Fate::Ordinary, false, Focus::Batches),
            Sabotage::TakesWholeRows => (Fate::Ordinary, false, Focus::Edits),
            Sabotage::StateIsNotToldAgain => (Fate::Rollbacks, true, Focus::Hands),
            _ => return Self::of(seed),
        };
        Self { fate, by_hand, focus }
    }
}

pub fn live(seed: u64, plan: Plan, traced: bool, trace: &mut Vec<String>) -> Result<(), String> {
    let count = if seed.is_multiple_of(400) { 50 } else { 3 + (seed % 4) as usize };
    let mut world = World::new(seed, count, traced)?;
    let Plan { fate, by_hand, focus } = plan;
    world.focus = focus;
    world.steady = !by_hand && matches!(fate, Fate::Ordinary | Fate::Absence);
    if focus == Focus::Batches && fate != Fate::Moves {
        (world.bounds.rows, world.bounds.page, world.bounds.calls) = (1, 100, 6);
        world = World::rebound(world)?;
    }
    if focus == Focus::Narrow && fate != Fate::Moves {
        // Through which the largest single row goes, and not much more.
        (world.bounds.rows, world.bounds.bytes, world.limit) = (50, 100_000, Some(1100));
        world = World::rebound(world)?;
    }
    if fate == Fate::Moves {
        // Pulls of one page: only then does an instance know what is contained in its totals.
        world.bounds.page = 100_000;
        world = World::rebound(world)?;
    }
    let mut story = Story { fate, backups: Vec::new(), hub_backup: None, held: Vec::new(), by_hand };
    let result = story.run(&mut world);
    trace.append(&mut world.trace.take().unwrap_or_default());
    result
}

impl Story {
    fn run(&mut self, world: &mut World) -> Result<(), String> {
        let steps = world.rng.usize(30..110);
        // What an absence leaves behind is soon overwritten.
        let last = self.fate == Fate::Absence && world.rng.bool();
        let turn = if last { steps - 1 } else { world.rng.usize(10..steps) };
        for step in 0..steps {
            self.happen(world)?;
            if step == turn && self.fate == Fate::Absence {
                self.absence(world)?;
            }
            if step == turn && self.fate == Fate::Moves {
                self.moves(world)?;
            }
        }
        self.let_go(world);
        world.heal()?;
        world.check()?;
        // What is decided and counted after all that goes the same way.
        for _ in 0..3 {
            let at = world.rng.usize(..world.instances.len());
            world.traffic(at);
            edit(world, at);
        }
        world.heal()?;
        world.check()
    }

    fn happen(&mut self, world: &mut World) -> Result<(), String> {
        let at = world.rng.usize(..world.instances.len());
        let pause = world.rng.i64(1..3000);
        world.pass(pause);
        let usual: &[u32] = match world.focus {
            Focus::Everything => &[],
            Focus::Lives => &[25, 25, 44, 60, 85, 97],
            Focus::Edits => &[25, 25, 60, 85, 85],
            Focus::Health => &[25, 35, 35, 44, 60, 85],
            Focus::Batches => &[5, 5, 41, 60, 60, 85],
            Focus::Counts => &[5, 97, 60],
            Focus::Hands => &[97, 105, 60, 60],
            Focus::Narrow => &[5, 5, 5, 60, 105, 105],
        };
        let any = world.rng.u32(..110);
        let what = if world.rng.bool() { any } else { *world.rng.choice(usual).unwrap_or(&any) };
        match what {
            0..20 => world.traffic(at),
            20..32 => edit(world, at),
            32..40 => health(world, at),
            40..43 => world.crash(at)?,
            43..46 => world.instances[at].cut_off ^= true,
            46..50 => world.stray()?,
            50..54 => {
                let ms = world.rng.i64(10_000..3_000_000);
                world.pass(ms);
            }
            54..80 => round(world, at, None)?,
            80..95 => {
                let steps = world.rng.usize(1..8);
                round(world, at, Some(steps))?;
            }
            95..102 if self.by_hand => self.other_hands(world),
            102.. => self.fate(world, at)?,
            _ => {}
        }
        Ok(())
    }

    fn other_hands(&mut self, world: &mut World) {
        match world.rng.u8(..4) {
            0 if self.held.len() < 3 => {
                let (xid, statement) = (world.hub.begin(), world.statement());
                self.held.push((xid, statement));
            }
            1 if !self.held.is_empty() => {
                let (xid, statement) = self.held.remove(0);
                world.foreign(statement, xid);
                world.hub.end(xid);
            }
            _ => {
                let (xid, statement) = (world.hub.begin(), world.statement());
                world.foreign(statement, xid);
                world.hub.end(xid);
            }
        }
    }

    /// Open transactions end.
    fn let_go(&mut self, world: &mut World) {
        for (xid, statement) in self.held.drain(..) {
            world.foreign(statement, xid);
            world.hub.end(xid);
        }
    }

    fn fate(&mut self, world: &mut World, at: usize) -> Result<(), String> {
        match self.fate {
            Fate::Ordinary | Fate::Absence | Fate::Moves => {}
            Fate::Copies => self.copies(world, at)?,
            Fate::Rollbacks => self.rollbacks(world),
        }
        Ok(())
    }

    fn copies(&mut self, world: &mut World, at: usize) -> Result<(), String> {
        // A file that never met a hub has nothing by which copies could be told apart.
        if world.instances[at].ids.len() < world.providers {
            return Ok(());
        }
        match world.rng.u8(..5) {
            0 | 1 => {
                let shelf = world.backup(at)?;
                self.backups.push((at, shelf));
            }
            2 => {
                if let Some((at, shelf)) = self.backups.pop() {
                    world.restore(at, shelf)?;
                }
            }
            3 if world.instances.len() < 8 => {
                if let Some((at, shelf)) = self.backups.last().cloned() {
                    world.copy(at, shelf)?;
                }
            }
            // After it has died, with whatever it had open.
            4 if world.instances.len() < 8 => {
                let mut shelf = world.instances[at].shelf.clone();
                shelf.give_up();
                world.crash(at)?;
                world.copy(at, shelf)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn rollbacks(&mut self, world: &mut World) {
        match (world.rng.u8(..3), self.hub_backup.take()) {
            (0, Some((at, database))) if world.now - at < 5 * 24 * 3_600_000 => {
                world.say(|| "the hub is recovered to an earlier point".to_owned());
                world.oracle.doubt(None);
                world.hub.recover(database);
                world.hub_restarted();
                self.held.clear();
            }
            _ => self.hub_backup = Some((world.now, world.hub.db.clone())),
        }
    }

    fn moves(&mut self, world: &mut World) -> Result<(), String> {
        self.let_go(world);
        let loss = world.loss;
        world.heal()?;
        // Some of what follows reaches the old hub, and all of it only those that pull again.
        let empty = world.rng.bool();
        for _ in 0..6 {
            let at = world.rng.usize(..world.instances.len());
            world.traffic(at);
            edit(world, at);
            round(world, at, None)?;
        }
        let adopter = world.rng.usize(..world.instances.len());
        world.begin(adopter, Wishes { hello: false, stats: true, only_push: false });
        while world.step(adopter)? {}
        for _ in 0..6 {
            let at = world.rng.usize(..world.instances.len());
            world.traffic(at);
            if at != adopter {
                round(world, at, None)?;
            }
        }
        let id = world.uuid();
        world.hub_restarted();
        if empty {
            world.say(|| "an empty hub stands in its place".to_owned());
            world.oracle.doubt(None);
            world.oracle.emptied = true;
            world.hub.replace(id);
        } else {
            world.say(|| "the hub is restored elsewhere".to_owned());
            world.hub.move_house(id.to_string());
        }
        for at in 0..world.instances.len() {
            world.traffic(at);
            round(world, at, None)?;
        }
        world.adopt(adopter)?;
        world.loss = loss;
        Ok(())
    }

    fn absence(&mut self, world: &mut World) -> Result<(), String> {
        self.let_go(world);
        let loss = world.loss;
        world.heal()?;
        let away = world.rng.usize(..world.instances.len());
        world.say(|| format!("{away} goes away"));
        world.instances[away].cut_off = true;
        let others: Vec<usize> = (0..world.instances.len()).filter(|at| *at != away).collect();
        for _ in 0..10 {
            let at = others[world.rng.usize(..others.len())];
            edit(world, at);
            world.traffic(at);
            edit(world, away);
            world.traffic(away);
            round(world, at, None)?;
        }
        for at in others {
            round(world, at, None)?;
            round(world, at, None)?;
        }
        let days = world.rng.i64(20..50);
        world.pass(days * 24 * 3_600_000);
        world.sweep(away);
        for at in (0..world.instances.len()).filter(|at| *at != away) {
            round(world, at, None)?;
        }
        world.loss = loss;
        world.instances[away].cut_off = false;
        Ok(())
    }
}

/// A round, or the first steps of one; another may go on with it.
fn round(world: &mut World, at: usize, steps: Option<usize>) -> Result<(), String> {
    if world.instances[at].waiting.is_none() {
        let wishes = Wishes { hello: world.rng.bool(), stats: world.rng.bool(), only_push: world.chance(50) };
        world.begin(at, wishes);
    }
    for _ in 0..steps.unwrap_or(5000) {
        if !world.step(at)? {
            return Ok(());
        }
    }
    if steps.is_none() {
        return Err(format!("instance {at}: a round that never ends"));
    }
    Ok(())
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
    it.memory = super::world::Memory::of(&it.shelf);
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

fn health(world: &mut World, at: usize) {
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
    it.memory = super::world::Memory::of(&it.shelf);
    let Some(health) = concluded else { return };
    if health.epoch.time().0 > world.now + 200_000 {
        world.oracle.unsure(provider, key);
    }
    world.oracle.concluded(provider, key, health);
}
