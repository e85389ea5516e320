//! What befalls a hub, or an instance that is away, once in a world.

use super::{
    edits::{decide, edit},
    plan::Fate,
    story::{Story, round},
    world::{Focus, KEYS, PROVIDERS, TOKENS, World},
};
use crate::{model::TokenId, replica::protocol::Wishes, store::shelf::Shelf};

impl Story {
    pub fn moves(&mut self, world: &mut World) -> Result<(), String> {
        self.let_go(world);
        let loss = world.loss;
        world.heal()?;
        // Some of what follows reaches the old hub, and all of it only those that pull again.
        let (empty, earlier) = (world.rng.bool(), world.rng.bool());
        let dump = world.hub.keep();
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
        world.round(adopter, Wishes { hello: false, stats: true, limits: false, only_push: false })?;
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
                world.hub.recover(dump);
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

    pub fn losses(&mut self, world: &mut World) -> Result<(), String> {
        let loss = std::mem::take(&mut world.loss);
        world.settle_strays()?;
        world.instances.iter_mut().for_each(|it| (it.cut_off, it.waiting) = (false, None));
        let count = world.instances.len();
        let (adopter, backup) = (world.rng.usize(..count), world.hub.keep());
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
        // Nobody has told it anything since, or some have, or all that can.
        let told = world.rng.u8(..4);
        for at in 0..count {
            if told == 3 || told > 0 && world.rng.bool() {
                world.traffic(at);
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
    pub fn forgotten(&mut self, world: &mut World) -> Result<(), String> {
        self.let_go(world);
        let loss = world.loss;
        world.heal()?;
        let database = world.hub.keep();
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

    pub fn absence(&mut self, world: &mut World) -> Result<(), String> {
        self.let_go(world);
        let loss = world.loss;
        world.heal()?;
        let away = world.rng.usize(..world.instances.len());
        let elsewhere = (away + 1) % world.instances.len();
        decide(world, elsewhere, PROVIDERS[0].0, (KEYS[1], TOKENS[0]), 0)?;
        (0..3).for_each(|_| world.traffic(elsewhere));
        world.whole_round(elsewhere)?;
        world.whole_round(away)?;
        let early = (self.fate == Fate::Returns && world.rng.bool()).then(|| world.hub.keep());
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
            let backup = world.hub.keep();
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
