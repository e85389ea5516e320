//! What happens in a world.

use super::{
    core::deeds::deed,
    cuts,
    edits::{edit, health},
    foreign::Statement,
    hub::Database,
    plan::{Fate, Plan},
    scenes,
    shelf::MemoryShelf,
    world::{Focus, World},
};
use crate::replica::protocol::Wishes;

pub struct Story {
    pub fate: Fate,
    backups: Vec<(usize, MemoryShelf)>,
    pub hub_backup: Option<(i64, Database)>,
    /// Transactions of other programs that stay open.
    held: Vec<(u64, Statement)>,
    by_hand: bool,
}

pub fn live(seed: u64, plan: Plan, traced: bool, trace: &mut Vec<String>) -> Result<(), String> {
    let count = if seed.is_multiple_of(400) { 50 } else { 3 + (seed % 4) as usize };
    let Plan { fate, by_hand, focus, core } = plan;
    cuts::forget();
    let mut world = World::with_core(seed, count, focus == Focus::Pairs, core, traced)?;
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
    if focus == Focus::Narrow && !matches!(fate, Fate::Moves | Fate::Losses) {
        // Through which the largest single row goes, and not much more.
        (world.bounds.rows, world.bounds.bytes, world.limit) = (50, 100_000, Some(1100));
        world = World::rebound(world)?;
    }
    if focus == Focus::Slow && !matches!(fate, Fate::Moves | Fate::Losses) {
        (world.bounds.rows, world.bounds.bytes, world.bounds.page) = (50, 100_000, 100);
        world.slow = Some(1100);
        world = World::rebound(world)?;
    }
    if (fate, focus) == (Fate::Ordinary, Focus::Edits) {
        world.bounds.page = 1;
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
            if world.core {
                (0..4).try_for_each(|_| deed(world, 0))?;
            }
        }
        let steps = world.rng.usize(30..110);
        // What an absence leaves behind is soon overwritten.
        let last = self.fate == Fate::Absence && world.rng.bool();
        let turn = if last { steps - 1 } else { world.rng.usize(10..steps) };
        for step in 0..steps {
            self.happen(world)?;
            match self.fate {
                Fate::Absence | Fate::Returns if step == turn => self.absence(world)?,
                Fate::Moves if step == turn => self.moves(world)?,
                Fate::Losses if step == turn => self.losses(world)?,
                Fate::Rollbacks if step == turn && self.by_hand && world.focus == Focus::Lives => {
                    self.forgotten(world)?;
                }
                Fate::Ordinary if step == turn && world.focus == Focus::Lives => scenes::crossing(world)?,
                Fate::Ordinary if step == turn && world.focus == Focus::Edits => scenes::early(world)?,
                Fate::Ordinary if step == turn && world.focus == Focus::Late => scenes::late(world)?,
                Fate::Ordinary if step == turn && world.focus == Focus::Ties => scenes::ties(world)?,
                Fate::Ordinary if step == turn && world.focus == Focus::Slow => scenes::heavy(world)?,
                Fate::Copies if step == turn && matches!(world.focus, Focus::Batches | Focus::Queues) => {
                    scenes::twins(world)?;
                }
                _ => {}
            }
        }
        if self.fate == Fate::Copies && world.focus == Focus::Ties && !world.instances[0].ids.is_empty() {
            let mut shelf = world.instances[0].shelf.clone();
            shelf.give_up();
            world.crash(0)?;
            world.copy(0, shelf)?;
            scenes::at_once(world, 0)?;
        }
        self.let_go(world);
        world.forget_all();
        world.heal()?;
        world.forget_before_check()?;
        world.check()?;
        // What is decided and counted after all that goes the same way.
        for _ in 0..3 {
            let at = world.rng.usize(..world.instances.len());
            world.traffic(at);
            edit(world, at)?;
            if world.core {
                deed(world, at)?;
            }
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
            Focus::Narrow | Focus::Slow => &[5, 5, 5, 60, 105, 105],
            Focus::People => &[5, 5, 25, 60, 60, 85, 105, 115, 115, 115],
        };
        let any = world.rng.u32(..if world.core { 125 } else { 110 });
        let what = if world.rng.bool() { any } else { *world.rng.choice(usual).unwrap_or(&any) };
        match what {
            0..20 => world.traffic(at),
            20..32 => edit(world, at)?,
            32..40 => health(world, at)?,
            40..43 => world.crash(at)?,
            43..46 => world.instances[at].cut_off ^= true,
            46..50 => world.stray()?,
            50..54 => {
                // Days go by where days are counted.
                let most = if world.core { 40_000_000 } else { 3_000_000 };
                let ms = world.rng.i64(10_000..most);
                world.pass(ms);
            }
            54..80 => round(world, at, None)?,
            80..95 => {
                let steps = world.rng.usize(1..8);
                round(world, at, Some(steps))?;
            }
            95..102 if self.by_hand => self.other_hands(world),
            102..110 => self.fate(world, at)?,
            110.. => deed(world, at)?,
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
    pub fn let_go(&mut self, world: &mut World) {
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
        if world.instances[at].ids.len() < world.streams().len() {
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
            _ => self.hub_backup = Some((world.now, world.hub.keep())),
        }
    }
}

/// A round, or the first steps of one; another may go on with it.
pub fn round(world: &mut World, at: usize, steps: Option<usize>) -> Result<(), String> {
    if world.instances[at].waiting.is_none() {
        let (hello, stats) = (world.rng.bool(), world.rng.bool());
        let wishes = Wishes { hello, stats, limits: hello != stats, only_push: world.chance(50) };
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
