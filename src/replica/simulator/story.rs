//! What happens in a world.

use super::{
    edits::{decide, edit, health},
    foreign::Statement,
    hub::Database,
    sabotage::Sabotage,
    shelf::MemoryShelf,
    world::{Focus, KEYS, PROVIDERS, TOKENS, World},
};
use crate::{model::TokenId, replica::protocol::Wishes, store::shelf::Shelf};

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
    /// The hub is recovered to a point from which not everybody can bring it back.
    Losses,
    /// Somebody is away for that long, and the hub is recovered to an earlier point meanwhile.
    Returns,
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
        let fate = match seed % 10 {
            1 | 2 => Fate::Copies,
            3 | 4 => Fate::Rollbacks,
            5 => Fate::Absence,
            6 => Fate::Moves,
            7 => Fate::Losses,
            8 => Fate::Returns,
            _ => Fate::Ordinary,
        };
        let focus = match seed / 10 % 15 {
            0 => Focus::Lives,
            1 => Focus::Edits,
            2 => Focus::Health,
            3 => Focus::Batches,
            4 => Focus::Counts,
            5 => Focus::Hands,
            6 => Focus::Ties,
            7 if fate != Fate::Copies => Focus::Late,
            8 => Focus::Clocks,
            _ => Focus::Everything,
        };
        let exact = matches!(fate, Fate::Moves | Fate::Losses | Fate::Returns);
        Self { fate, by_hand: !seed.is_multiple_of(3) && !exact, focus }
    }

    /// Where a broken rule shows, if it is not in most worlds.
    pub fn against(rule: Sabotage, seed: u64) -> Self {
        let (fate, by_hand, focus) = match rule {
            Sabotage::HubIgnoresTombstones => (Fate::Ordinary, true, Focus::Lives),
            Sabotage::TokensAreForgotten => (Fate::Absence, false, Focus::Health),
            Sabotage::HubSweepsSilently => (Fate::Absence, false, Focus::Lives),
            Sabotage::ClocksAreTrusted => (Fate::Absence, false, Focus::Everything),
            Sabotage::OldMarksStay => (Fate::Losses, false, Focus::Pairs),
            Sabotage::IgnoresExpired => (Fate::Absence, false, Focus::Everything),
            Sabotage::HealthIsOverwritten | Sabotage::SuccessAlwaysResets => {
                (Fate::Ordinary, false, Focus::Health)
            }
            Sabotage::EqualVersionsDiffer => (Fate::Copies, false, Focus::Ties),
            Sabotage::StampsBearNoWriter => (Fate::Ordinary, false, Focus::Ties),
            Sabotage::SealsWhileOneWaits => (Fate::Ordinary, false, Focus::Batches),
            Sabotage::MergesWhatACopyMayTell => (Fate::Copies, false, Focus::Queues),
            Sabotage::HubMismatchTellsNoAnswers | Sabotage::UnknownAnswersAreNone => {
                (Fate::Copies, false, Focus::Batches)
            }
            Sabotage::OwnDeletionsAreForgotten | Sabotage::AnswersInFlightClear => (
                Fate::Ordinary,
                false,
                if rule == Sabotage::OwnDeletionsAreForgotten { Focus::Lives } else { Focus::Health },
            ),
            Sabotage::HubRepeatsNoAnswers => (Fate::Ordinary, false, Focus::Late),
            Sabotage::HubComparesNumbers => (Fate::Ordinary, true, Focus::Everything),
            Sabotage::SplitsWhatIsInDoubt => (Fate::Ordinary, false, Focus::Late),
            Sabotage::AbsentCountersStay => (Fate::Absence, false, Focus::Lives),
            Sabotage::RefusalsAreSilent => (Fate::Absence, false, Focus::Lives),
            Sabotage::HubTakesWhatIsForAnother
            | Sabotage::AdoptionForgetsStreams
            | Sabotage::AdoptionLowers
            | Sabotage::AdoptsTheView
            | Sabotage::BelievesAnyHub => (Fate::Moves, false, Focus::Everything),
            Sabotage::LossIsSilent => (Fate::Losses, false, Focus::Everything),
            Sabotage::LossIsDeletion => (Fate::Returns, false, Focus::Lives),
            Sabotage::AbsenceIsDeletion => (Fate::Rollbacks, true, Focus::Lives),
            Sabotage::ForkKeepsEverything
            | Sabotage::ForkDropsEverything
            | Sabotage::ForkKeepsId
            | Sabotage::ForkIsSilent
            | Sabotage::HubIgnoresDigest
            | Sabotage::StartSealsAsItsOwn
            | Sabotage::CopiesHoldWhatIsOpen => (Fate::Copies, false, Focus::Everything),
            Sabotage::StateCreatesRows | Sabotage::AbsenceIsNothing | Sabotage::IgnoresHorizon => {
                (Fate::Absence, false, Focus::Lives)
            }
            Sabotage::HubIgnoresEpochs | Sabotage::IgnoresEpochs => (Fate::Ordinary, false, Focus::Health),
            Sabotage::LowerIsTaken => (Fate::Ordinary, true, Focus::Counts),
            Sabotage::AdoptionKeepsStamps => (Fate::Moves, false, Focus::Everything),
            Sabotage::ForgetsSealed => (Fate::Ordinary, false, Focus::Batches),
            Sabotage::TakesWholeRows | Sabotage::IgnoresSeenVersions => (Fate::Ordinary, false, Focus::Ties),
            Sabotage::HubBelievesAnyClock
            | Sabotage::ClockIsNotRestamped
            | Sabotage::ClockIsNotRewound
            | Sabotage::DatesAreNotShifted => (Fate::Ordinary, false, Focus::Clocks),
            Sabotage::StateIsNotToldAgain => (Fate::Rollbacks, true, Focus::Hands),
            _ => return Self::of(seed),
        };
        Self { fate, by_hand, focus }
    }
}

pub fn live(seed: u64, plan: Plan, traced: bool, trace: &mut Vec<String>) -> Result<(), String> {
    let count = if seed.is_multiple_of(400) { 50 } else { 3 + (seed % 4) as usize };
    let Plan { fate, by_hand, focus } = plan;
    let mut world = World::new(seed, count, focus == Focus::Pairs, traced)?;
    world.focus = focus;
    world.steady = !by_hand && matches!(fate, Fate::Ordinary | Fate::Absence);
    world.calm = world.steady && world.loss == 0;
    world.keeps = !matches!(fate, Fate::Losses | Fate::Returns);
    // Of a batch that is made anew nobody knows whether a copy has told some of it.
    if fate != Fate::Copies && world.rng.u8(..3) == 0 {
        world.gate = 900;
    }
    if focus == Focus::Clocks {
        world.instances[0].skew = 3_600_000;
    }
    if focus == Focus::Ties {
        world.instances.iter_mut().for_each(|it| it.skew = 0);
    }
    if matches!(focus, Focus::Batches | Focus::Queues) && !matches!(fate, Fate::Moves | Fate::Losses) {
        (world.bounds.rows, world.bounds.page, world.bounds.calls) = (1, 100, 3);
        world.bounds.queue = if focus == Focus::Queues { 3 } else { 64 };
        world = World::rebound(world)?;
    }
    if fate == Fate::Losses {
        world.oracle.lossy = true;
        world.bounds.kept_bytes = *world.rng.choice(&[1, 2000][..]).unwrap_or(&1);
    }
    if focus == Focus::Late {
        (world.bounds.rows, world.bounds.bytes, world.bounds.page) = (8, 100_000, 100);
        (world.gate, world.loss) = (400, 250);
        world = World::rebound(world)?;
    }
    if matches!(fate, Fate::Moves | Fate::Losses) {
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
        if world.focus == Focus::Clocks {
            // Before it has asked the hub for the time.
            (0..4).try_for_each(|_| edit(world, 0))?;
        }
        let steps = world.rng.usize(30..110);
        let turn = world.rng.usize(10..steps);
        for step in 0..steps {
            self.happen(world)?;
            match self.fate {
                Fate::Absence | Fate::Returns if step == turn => self.absence(world)?,
                Fate::Moves if step == turn => self.moves(world)?,
                Fate::Losses if step == turn => self.losses(world)?,
                Fate::Rollbacks if step == turn && self.by_hand && world.focus == Focus::Lives => {
                    self.forgotten(world)?;
                }
                Fate::Ordinary if step == turn && world.focus == Focus::Lives => self.crossing(world)?,
                Fate::Ordinary if step == turn && world.focus == Focus::Late => self.late(world)?,
                Fate::Ordinary if step == turn && world.focus == Focus::Ties => self.ties(world)?,
                Fate::Copies if step == turn && matches!(world.focus, Focus::Batches | Focus::Queues) => {
                    self.twins(world)?;
                }
                _ => {}
            }
        }
        if self.fate == Fate::Copies && world.focus == Focus::Ties && !world.instances[0].ids.is_empty() {
            let mut shelf = world.instances[0].shelf.clone();
            shelf.give_up();
            world.crash(0)?;
            world.copy(0, shelf)?;
            at_once(world, 0)?;
        }
        self.let_go(world);
        world.heal()?;
        world.check()?;
        // What is decided and counted after all that goes the same way.
        for _ in 0..3 {
            let at = world.rng.usize(..world.instances.len());
            world.traffic(at);
            edit(world, at)?;
        }
        world.heal()?;
        world.check()
    }

    fn happen(&mut self, world: &mut World) -> Result<(), String> {
        let at = world.rng.usize(..world.instances.len());
        let same = world.focus == Focus::Ties && world.chance(800);
        let pause = if same { 0 } else { world.rng.i64(1..3000) };
        world.pass(pause);
        let usual: &[u32] = match world.focus {
            Focus::Everything | Focus::Pairs => &[],
            Focus::Lives => &[25, 25, 44, 60, 85, 97],
            Focus::Edits => &[25, 25, 60, 85, 85],
            Focus::Health => &[25, 35, 35, 35, 60, 85, 85],
            Focus::Batches => &[5, 5, 25, 41, 60, 60, 85, 105],
            Focus::Late => &[5, 5, 25, 47, 60, 60, 85],
            Focus::Queues => &[5],
            Focus::Clocks => &[25, 25, 35, 60],
            Focus::Counts => &[5, 97, 60],
            Focus::Hands => &[97, 105, 60, 60],
            Focus::Ties => &[25, 25, 25, 60, 105],
        };
        let any = world.rng.u32(..110);
        let what = if world.rng.bool() { any } else { *world.rng.choice(usual).unwrap_or(&any) };
        match what {
            0..20 => world.traffic(at),
            20..32 => edit(world, at)?,
            32..40 => health(world, at)?,
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
            Fate::Ordinary | Fate::Absence | Fate::Moves | Fate::Losses | Fate::Returns => {}
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
                world.lose(database);
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
        let (empty, earlier) = (world.rng.bool(), world.rng.bool());
        let dump = world.hub.db.clone();
        let adopter = world.rng.usize(..world.instances.len());
        // One is quiet until the old hub is no more.
        let quiet = (adopter + 1) % world.instances.len();
        let busy: Vec<usize> = (0..world.instances.len()).filter(|at| *at != quiet).collect();
        for _ in 0..6 {
            let at = busy[world.rng.usize(..busy.len())];
            world.traffic(at);
            edit(world, at)?;
            round(world, at, None)?;
        }
        world.begin(adopter, Wishes { hello: false, stats: true, only_push: false });
        while world.step(adopter)? {}
        for _ in 0..6 {
            let at = busy[world.rng.usize(..busy.len())];
            world.traffic(at);
            if at != adopter {
                round(world, at, None)?;
            }
        }
        // What is for the old hub reaches the new one.
        world.traffic(quiet);
        world.push_under_way(quiet)?;
        let id = world.uuid();
        world.hub_restarted();
        if empty {
            world.say(|| "an empty hub stands in its place".to_owned());
            world.doubt_hub();
            world.oracle.emptied = true;
            world.hub.replace(id);
        } else {
            if earlier {
                world.doubt_hub();
                world.oracle.emptied = true;
                world.hub.db = dump;
            }
            world.say(|| format!("the hub is restored elsewhere, as it was earlier: {earlier}"));
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

    fn losses(&mut self, world: &mut World) -> Result<(), String> {
        let loss = std::mem::take(&mut world.loss);
        world.settle_strays()?;
        world.instances.iter_mut().for_each(|it| (it.cut_off, it.waiting) = (false, None));
        let count = world.instances.len();
        let (adopter, backup) = (world.rng.usize(..count), world.hub.db.clone());
        for _ in 0..10 {
            let at = world.rng.usize(..count);
            for at in [at, adopter] {
                if world.focus == Focus::Pairs && at == adopter {
                    // It loses batches of one provider alone.
                    world.traffic_of(at, 1);
                } else {
                    edit(world, at)?;
                    world.traffic(at);
                }
                round(world, at, None)?;
            }
            world.pass(1000);
        }
        world.say(|| "the hub is recovered to a point long ago".to_owned());
        world.hub.recover(backup);
        world.hub_restarted();
        // Either nobody has told it anything since, or all have that can.
        if world.rng.bool() {
            for at in 0..count {
                world.whole_round(at)?;
            }
        }
        world.whole_round(adopter)?;
        for turn in 0..2 * count {
            let stopped = |at: &usize| world.is_stopped(*at);
            let next = Some(adopter).filter(stopped).or_else(|| (0..count).find(stopped));
            let Some(next) = next else { break };
            if turn == count {
                return Err(format!("instance {next} cannot go on, though it has adopted the hub"));
            }
            world.pass(1000);
            world.adopt(next)?;
            for at in 0..count {
                world.traffic(at);
                world.whole_round(at)?;
            }
        }
        world.loss = loss;
        Ok(())
    }

    /// What people did is known to instances alone.
    fn forgotten(&mut self, world: &mut World) -> Result<(), String> {
        self.let_go(world);
        let loss = world.loss;
        world.heal()?;
        let database = world.hub.db.clone();
        world.delete_by_hand();
        world.add_by_hand();
        for at in 0..world.instances.len() {
            world.whole_round(at)?;
        }
        world.lose(database);
        self.hub_backup = None;
        world.loss = loss;
        Ok(())
    }

    /// A key is deleted while a page with it is on its way.
    fn crossing(&mut self, world: &mut World) -> Result<(), String> {
        let loss = world.loss;
        world.heal()?;
        let (provider, _) = PROVIDERS[0];
        decide(world, 1, provider, (KEYS[0], TOKENS[0]), 0)?;
        world.whole_round(1)?;
        world.whole_round(0)?;
        decide(world, 1, provider, (KEYS[0], TOKENS[0]), 8)?;
        world.whole_round(1)?;
        world.read_under_way(0)?;
        decide(world, 0, provider, (KEYS[0], TOKENS[0]), 6)?;
        while world.step(0)? {}
        world.loss = loss;
        Ok(())
    }

    /// One edits what another one has just edited, and a third one another field while that is on its way.
    fn ties(&mut self, world: &mut World) -> Result<(), String> {
        let loss = world.loss;
        world.heal()?;
        let (provider, row) = (PROVIDERS[0].0, (KEYS[0], TOKENS[0]));
        for at in 0..3 {
            decide(world, at, provider, row, 0)?;
            world.whole_round(at)?;
        }
        for _ in 0..2 {
            decide(world, 1, provider, row, 8)?;
        }
        world.whole_round(1)?;
        world.whole_round(2)?;
        decide(world, 2, provider, row, 8)?;
        world.whole_round(2)?;
        world.read_under_way(0)?;
        decide(world, 0, provider, row, 12)?;
        while world.step(0)? {}
        world.loss = loss;
        Ok(())
    }

    /// A batch arrives after its sender has read that keys in it are deleted.
    fn late(&mut self, world: &mut World) -> Result<(), String> {
        let loss = world.loss;
        world.heal()?;
        let (provider, _) = PROVIDERS[0];
        for key in &KEYS[..2] {
            decide(world, 1, provider, (key, TOKENS[0]), 0)?;
        }
        world.whole_round(1)?;
        world.whole_round(0)?;
        (0..4).for_each(|_| world.traffic(0));
        for key in &KEYS[..2] {
            decide(world, 1, provider, (key, TOKENS[0]), 6)?;
        }
        world.whole_round(1)?;
        world.begin(0, Wishes { hello: false, stats: true, only_push: false });
        while world.step(0)? {
            world.is_late(0)?;
        }
        world.settle_strays()?;
        world.whole_round(0)?;
        world.loss = loss;
        Ok(())
    }

    /// Two that go by one file have many batches to tell, of keys that are deleted meanwhile.
    fn twins(&mut self, world: &mut World) -> Result<(), String> {
        let loss = world.loss;
        world.heal()?;
        let (at, other, (provider, _)) = (0, 1, PROVIDERS[0]);
        for key in KEYS {
            decide(world, other, provider, (key, TOKENS[0]), 0)?;
        }
        round(world, other, None)?;
        round(world, at, None)?;
        for _ in 0..12 {
            world.traffic(at);
        }
        let mut shelf = world.instances[at].shelf.clone();
        shelf.give_up();
        world.crash(at)?;
        world.copy(at, shelf)?;
        let copy = world.instances.len() - 1;
        for key in KEYS {
            decide(world, other, provider, (key, TOKENS[0]), 6)?;
        }
        round(world, other, None)?;
        if world.focus == Focus::Queues {
            drop(world.backup(at)?);
        }
        // A round of theirs reads while batches wait.
        round(world, at, None)?;
        round(world, copy, None)?;
        round(world, copy, None)?;
        round(world, at, None)?;
        world.loss = loss;
        Ok(())
    }

    fn absence(&mut self, world: &mut World) -> Result<(), String> {
        self.let_go(world);
        let loss = world.loss;
        world.heal()?;
        let away = world.rng.usize(..world.instances.len());
        let elsewhere = (away + 1) % world.instances.len();
        decide(world, elsewhere, PROVIDERS[0].0, (KEYS[1], TOKENS[0]), 0)?;
        (0..3).for_each(|_| world.traffic(elsewhere));
        world.whole_round(elsewhere)?;
        world.whole_round(away)?;
        let early = (self.fate == Fate::Returns && world.rng.bool()).then(|| world.hub.db.clone());
        if early.is_some() {
            // What nobody else has seen.
            world.add_by_hand();
            world.traffic(away);
            round(world, away, None)?;
        }
        world.say(|| format!("{away} goes away"));
        world.instances[away].cut_off = true;
        let others: Vec<usize> = (0..world.instances.len()).filter(|at| *at != away).collect();
        let late = early.is_none() && self.fate == Fate::Returns;
        if let Some(database) = early {
            world.lose(database);
        }
        // It makes a token meanwhile, which is revoked where nothing of that is known.
        let (provider, _) = PROVIDERS[0];
        let fresh = TOKENS.iter().find(|token| {
            let id = TokenId::derive(provider, token);
            world.instances.iter().all(|it| it.shelf.token(provider, id).unwrap().is_none())
        });
        for (at, kind) in [(away, 15), (others[0], 15), (others[0], 17)] {
            if let Some(token) = fresh {
                decide(world, at, provider, (KEYS[0], token), kind)?;
                world.pass(3000);
            }
        }
        // And edits a key that is deleted there.
        decide(world, away, provider, (KEYS[1], TOKENS[0]), 8)?;
        decide(world, elsewhere, provider, (KEYS[1], TOKENS[0]), 6)?;
        for _ in 0..10 {
            let at = others[world.rng.usize(..others.len())];
            edit(world, at)?;
            world.traffic(at);
            edit(world, away)?;
            world.traffic(away);
            round(world, at, None)?;
        }
        for at in &others {
            round(world, *at, None)?;
            round(world, *at, None)?;
        }
        let days = world.rng.i64(20..50);
        world.pass(days * 24 * 3_600_000);
        world.sweep(away, self.fate == Fate::Returns);
        for at in &others {
            round(world, *at, None)?;
        }
        if late {
            let backup = world.hub.db.clone();
            for _ in 0..5 {
                let at = others[world.rng.usize(..others.len())];
                edit(world, at)?;
                world.traffic(at);
                round(world, at, None)?;
            }
            world.lose(backup);
        }
        world.loss = loss;
        world.instances[away].cut_off = false;
        while world.is_stopped(away) {
            world.pass(1000);
            world.adopt(away)?;
        }
        Ok(())
    }
}

/// Both of two that go by one file decide something in the same microsecond.
fn at_once(world: &mut World, at: usize) -> Result<(), String> {
    let (copy, (provider, _)) = (world.instances.len() - 1, PROVIDERS[0]);
    if world.focus == Focus::Ties {
        decide(world, at, provider, (KEYS[0], TOKENS[0]), 12)?;
        decide(world, copy, provider, (KEYS[0], TOKENS[0]), 12)?;
    }
    Ok(())
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
