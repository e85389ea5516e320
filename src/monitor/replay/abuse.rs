//! The abuse that is planted into a month.

use std::{collections::HashSet, net::IpAddr};

use crate::model::{KeyId, Timestamp};

use super::super::{AuthFailure, Observation, Subject, What};
use super::traffic::{self, DAYS, HOUR, MODELS, World, address, between, factor, poisson};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    /// A stolen token, used from a new network at 15 to 60 times the owner's busy hours, for 1 to 5 hours.
    Stolen,
    /// By somebody used to two keys: 4 to 10 times the usual over all keys, for 6 to 12 hours.
    Scraping,
    /// By somebody under round robin: the same on three days.
    SlowScraping,
    /// Five times the usual on each of 8 days, at the usual hours and from the usual places.
    Sustained,
    /// 30 to 500 unknown tokens from one address in 1 to 3 hours.
    Stuffing,
    /// 4 to 8 unknown tokens an hour for a day and a half.
    SlowStuffing,
    /// 100 to 300 addresses with 2 tokens each, in an hour.
    SpreadStuffing,
    /// 100 to 400 requests an hour of which 70 to 100 in a hundred fail, for 2 hours.
    Failing,
    /// A token that was published: 25 to 60 networks in a day, a few requests from each.
    Leaked,
    /// 300 to 3000 refusals in an hour.
    Hammering,
    /// 8 to 100 admin logins in an hour.
    Guessing,
}

pub(super) const SORTS: [Sort; 11] = [
    Sort::Stolen,
    Sort::Scraping,
    Sort::SlowScraping,
    Sort::Sustained,
    Sort::Stuffing,
    Sort::SlowStuffing,
    Sort::SpreadStuffing,
    Sort::Failing,
    Sort::Leaked,
    Sort::Hammering,
    Sort::Guessing,
];

pub(super) struct Planted {
    pub(super) sort: Sort,
    pub(super) subject: Subject,
    /// Hours, the second one excluded.
    pub(super) from: u32,
    pub(super) to: u32,
    person: usize,
    origin: IpAddr,
    strength: f32,
    usual: f32,
}

/// Several of every sort, none twice on the same person, in the second half of the month.
pub(super) fn plan(world: &mut World, of_each: usize) -> Vec<Planted> {
    let mut planted: Vec<Planted> = Vec::new();
    let mut taken = HashSet::new();
    for sort in SORTS {
        for _ in 0..of_each {
            let (least, hours) = match sort {
                Sort::Sustained => (15.0, 8 * 24),
                Sort::SlowScraping => (15.0, 3 * 24),
                Sort::Scraping => (15.0, world.rng.u32(6..13)),
                Sort::SlowStuffing => (0.0, 36),
                Sort::Leaked => (0.0, 20),
                Sort::Failing => (8.0, 2),
                Sort::Stolen => (0.0, world.rng.u32(1..6)),
                Sort::Stuffing => (0.0, world.rng.u32(1..4)),
                _ => (0.0, 1),
            };
            // All of them are about everyone, and one is over before the next.
            let nth = planted.iter().filter(|other| other.sort == sort).count() as u32;
            let mut from = world.rng.u32(14 * 24..DAYS * 24 - hours - 24);
            if matches!(sort, Sort::Sustained | Sort::SlowScraping | Sort::Leaked) {
                from = from / 24 * 24 + 2 * u32::from(sort == Sort::Leaked);
            } else if sort == Sort::SpreadStuffing {
                from = (14 + 2 * nth) * 24 + from % 18;
            }
            let person = loop {
                let person = world.rng.usize(..world.people.len());
                let who = &world.people[person];
                let fits = match sort {
                    Sort::Scraping => who.few_keys.is_some(),
                    Sort::SlowScraping => who.few_keys.is_none(),
                    _ => true,
                };
                if fits && who.daily >= least && who.is_known_on(from / 24) && taken.insert(person) {
                    break person;
                }
            };
            let origin = address(&mut world.rng);
            let rng = &mut world.rng;
            let (subject, strength) = match sort {
                Sort::Stuffing => (Subject::Address(origin), factor(rng, 30.0, 500.0) / hours as f32),
                Sort::SlowStuffing => (Subject::Address(origin), between(rng, 4.0, 8.0)),
                Sort::Guessing => (Subject::Address(origin), factor(rng, 8.0, 100.0)),
                Sort::SpreadStuffing => (Subject::Everyone, between(rng, 100.0, 300.0)),
                sort => {
                    let usual = world.people[person].busy_hour();
                    let strength = match sort {
                        Sort::Stolen => (usual * factor(rng, 15.0, 60.0)).max(150.0),
                        Sort::Scraping => (usual * factor(rng, 4.0, 10.0)).max(20.0),
                        Sort::SlowScraping => {
                            (world.people[person].daily * factor(rng, 4.0, 10.0) / 12.0).max(10.0)
                        }
                        Sort::Failing => between(rng, 100.0, 400.0),
                        Sort::Leaked => between(rng, 25.0, 60.0),
                        Sort::Hammering => factor(rng, 300.0, 3_000.0),
                        _ => 5.0,
                    };
                    (world.people[person].subject, strength)
                }
            };
            let usual = world.people[person].daily;
            planted.push(Planted { sort, subject, from, to: from + hours, person, origin, strength, usual });
        }
    }
    planted
}

/// What the abusers do in an hour, and which keys they touch in it.
pub(super) fn hour(
    world: &mut World,
    planted: &[Planted],
    hour: u32,
    touched: &mut HashSet<(KeyId, u32)>,
    out: &mut Vec<Observation>,
) {
    for abuse in planted {
        if abuse.sort == Sort::Sustained {
            if hour == abuse.from || hour == abuse.to {
                world.people[abuse.person].times = if hour == abuse.from { abuse.strength } else { 1.0 };
            }
            let person = &world.people[abuse.person];
            let keys = person.few_keys.iter().flatten().filter(|_| (abuse.from..abuse.to).contains(&hour));
            touched.extend(keys.map(|key| (world.keys[person.provider as usize][*key], hour / 24)));
            continue;
        }
        if !(abuse.from..abuse.to).contains(&hour) {
            continue;
        }
        let begun = out.len();
        abuse.act(world, hour, out);
        let keys = out[begun..].iter().filter_map(|seen| seen.key);
        touched.extend(keys.map(|key| (key, hour / 24)));
    }
}

impl Planted {
    pub(super) fn describe(&self) -> String {
        let Self { sort, subject, from, to, strength, usual, .. } = self;
        format!(
            "{sort:?} by {subject}, day {} for {} h, {strength:.0}, usual {usual:.0} a day",
            from / 24,
            to - from
        )
    }

    fn act(&self, world: &mut World, hour: u32, out: &mut Vec<Observation>) {
        let n = poisson(&mut world.rng, self.strength);
        let people = std::mem::take(&mut world.people);
        let person = &people[self.person];
        match self.sort {
            Sort::Stolen => {
                (0..n).for_each(|_| world.request(person, hour, self.origin, None, out));
            }
            Sort::Scraping | Sort::SlowScraping => {
                // Twelve hours of each day.
                let rests = self.sort == Sort::SlowScraping && hour % 24 >= 12;
                for _ in 0..if rests { 0 } else { n } {
                    world.request(person, hour, self.origin, None, out);
                    let any = world.rng.usize(10..50);
                    if let Some(seen) = out.last_mut() {
                        seen.key = Some(world.keys[person.provider as usize][any]);
                        // Half of them want one model, half all.
                        if self.person.is_multiple_of(2) {
                            seen.model = Some(world.rng.u32(..MODELS / 3));
                        }
                    }
                }
            }
            Sort::Failing => {
                let share = between(&mut world.rng, 0.7, 1.0);
                for _ in 0..n {
                    let status = [400, 404, 422, 500][world.rng.usize(..4)];
                    let status = (world.rng.f32() < share).then_some(status);
                    world.request(person, hour, self.origin, status, out);
                }
            }
            Sort::Leaked => {
                for _ in 0..poisson(&mut world.rng, self.strength / 20.0) {
                    let from = address(&mut world.rng);
                    (0..world.rng.u32(1..5)).for_each(|_| world.request(person, hour, from, None, out));
                }
            }
            Sort::Hammering => {
                let refused = (self.subject, self.origin, What::Limited);
                (0..n).for_each(|_| push(world, hour, refused, out));
            }
            Sort::Guessing => {
                let failed = (self.subject, self.origin, What::AdminLoginFailed);
                (0..n).for_each(|_| push(world, hour, failed, out));
            }
            Sort::Stuffing | Sort::SlowStuffing => {
                for _ in 0..n {
                    let guess = unknown(world);
                    push(world, hour, (self.subject, self.origin, guess), out);
                }
            }
            Sort::SpreadStuffing => {
                for _ in 0..n {
                    let from = address(&mut world.rng);
                    for _ in 0..2 {
                        let guess = unknown(world);
                        push(world, hour, (Subject::Address(from), from, guess), out);
                    }
                }
            }
            Sort::Sustained => {}
        }
        world.people = people;
    }
}

fn unknown(world: &mut World) -> What {
    What::AuthFailed { why: AuthFailure::Unknown, token: Some(world.rng.u32(..)) }
}

fn push(
    world: &mut World,
    hour: u32,
    (subject, from, what): (Subject, IpAddr, What),
    out: &mut Vec<Observation>,
) {
    let at = Timestamp(traffic::at(hour).0 + world.rng.i64(0..HOUR));
    out.push(Observation { at, subject, address: Some(from), key: None, provider: 0, model: None, what });
}
