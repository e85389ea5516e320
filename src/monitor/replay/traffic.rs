//! A month of honest people: what a monitor must live with and say nothing.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use fastrand::Rng;
use uuid::Uuid;

use crate::model::{KeyId, Timestamp};

use super::super::{AuthFailure, End, Observation, Subject, What};

pub(super) const DAYS: u32 = 30;
pub(super) const HOUR: i64 = 3_600_000;
/// 2026-11-02, a Monday.
const BEGIN: i64 = 1_793_577_600_000;

pub(super) fn at(hour: u32) -> Timestamp {
    Timestamp(BEGIN + i64::from(hour) * HOUR)
}

pub(super) fn normal(rng: &mut Rng) -> f32 {
    let (a, b) = (1.0 - rng.f32(), rng.f32());
    (-2.0 * a.ln()).sqrt() * (std::f32::consts::TAU * b).cos()
}

pub(super) fn poisson(rng: &mut Rng, mean: f32) -> u32 {
    if mean > 30.0 {
        return (mean + mean.sqrt() * normal(rng)).round().max(0.0) as u32;
    }
    let (limit, mut product, mut n) = ((-mean).exp(), rng.f32(), 0);
    while product > limit {
        product *= rng.f32();
        n += 1;
    }
    n
}

pub(super) fn between(rng: &mut Rng, low: f32, high: f32) -> f32 {
    low + (high - low) * rng.f32()
}

/// Between the two, every factor as likely as another.
pub(super) fn factor(rng: &mut Rng, low: f32, high: f32) -> f32 {
    between(rng, low.ln(), high.ln()).exp()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Habit {
    Office,
    Evenings,
    /// A service, day and night.
    Robot,
    /// A job that runs once a night.
    Nightly,
}

pub(super) struct Person {
    pub(super) subject: Subject,
    habit: Habit,
    /// Requests on a usual day.
    pub(super) daily: f32,
    pub(super) joined: u32,
    zone: u32,
    diligence: f32,
    homes: Vec<IpAddr>,
    is_mobile: bool,
    pub(super) provider: u32,
    /// Keys that the pool keeps to this caller; none under round robin.
    pub(super) few_keys: Option<Vec<usize>>,
    models: Vec<u32>,
    fails: f32,
    has_limit: bool,
    away: (u32, u32),
    today: Today,
    /// What abuse makes of the own rate.
    pub(super) times: f32,
}

#[derive(Clone, Default)]
struct Today {
    is_active: bool,
    factor: f32,
    burst: Option<(u32, u32, f32)>,
    /// The hour of a fault in the caller's program, and how many requests it spoils.
    fault: Option<(u32, u32)>,
    addresses: Vec<IpAddr>,
}

impl Person {
    /// How much of a day falls into an hour of it, UTC.
    fn share(&self, hour: u32, is_weekend: bool) -> f32 {
        let local = (hour + self.zone) % 24;
        match self.habit {
            Habit::Office if is_weekend => 0.01,
            Habit::Office if (9..13).contains(&local) || (14..18).contains(&local) => 0.115,
            Habit::Office if (8..20).contains(&local) => 0.025,
            Habit::Office => 0.0,
            Habit::Evenings if (18..24).contains(&local) => 0.14,
            Habit::Evenings if is_weekend && (10..18).contains(&local) => 0.08,
            Habit::Evenings if (7..18).contains(&local) => 0.01,
            Habit::Evenings => 0.002,
            Habit::Robot => 1.0 / 24.0,
            Habit::Nightly if local == 2 => 0.8,
            Habit::Nightly if (9..18).contains(&local) => 0.02,
            Habit::Nightly => 0.0,
        }
    }

    pub(super) fn describe(&self) -> String {
        let Self { habit, daily, joined, diligence, is_mobile, .. } = self;
        format!("{habit:?}, {daily:.0} a day from {joined}, {diligence:.2}, mobile {is_mobile}")
    }

    /// Requests in an hour in which this person is about.
    pub(super) fn busy_hour(&self) -> f32 {
        match self.habit {
            Habit::Office | Habit::Evenings => self.daily * 0.12,
            Habit::Robot => self.daily / 24.0,
            Habit::Nightly => self.daily * 0.8,
        }
    }

    /// Whether the monitor has had time to know this person, whose holiday comes later.
    pub(super) fn is_known_on(&self, day: u32) -> bool {
        let seen = self.daily * self.diligence * day.saturating_sub(self.joined) as f32;
        seen >= 150.0 && self.joined + 14 <= day && self.away.0 > day + 10
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) people: Vec<Person>,
    /// Of each of two providers; some leave and others come in the middle of the month.
    pub(super) keys: [Vec<KeyId>; 2],
    /// From, to, provider or all.
    outages: Vec<(Timestamp, Timestamp, Option<u32>)>,
    misfits: Vec<Misfit>,
    pub(super) active_days: u32,
    day_off: u32,
}

/// A client that goes on with an expired token.
struct Misfit {
    subject: Subject,
    address: IpAddr,
    until: u32,
}

pub(super) const MODELS: u32 = 60;

pub(super) fn address(rng: &mut Rng) -> IpAddr {
    if rng.u8(..4) == 0 {
        Ipv6Addr::from_bits(0x2001 << 112 | rng.u128(..) >> 16).into()
    } else {
        Ipv4Addr::from_bits(rng.u32(0x0b00_0000..0xdf00_0000)).into()
    }
}

impl World {
    pub(super) fn new(seed: u64, people: usize) -> Self {
        let mut rng = Rng::with_seed(seed);
        let keys = [0, 1].map(|_| (0..60).map(|_| KeyId(rng.u128(..))).collect());
        let people = (0..people).map(|_| person(&mut rng)).collect();
        let mut outage = |days: std::ops::Range<u32>, hours: std::ops::Range<u32>, provider| {
            let hour = rng.u32(days) * 24 + rng.u32(hours);
            let begin = Timestamp(at(hour).0 + rng.i64(0..HOUR));
            (begin, Timestamp(begin.0 + HOUR), provider)
        };
        let outages = vec![
            outage(9..14, 8..16, None),
            outage(14..20, 0..4, None),
            outage(20..25, 6..20, Some(0)),
            outage(25..29, 8..16, Some(1)),
        ];
        Self { people, keys, outages, misfits: Vec::new(), active_days: 0, day_off: rng.u32(15..19), rng }
    }

    /// What happens in an hour, in no order.
    pub(super) fn hour(&mut self, hour: u32, out: &mut Vec<Observation>) {
        let (day, of_day) = (hour / 24, hour % 24);
        let mut people = std::mem::take(&mut self.people);
        for person in &mut people {
            if of_day == 0 {
                self.begin_day(person, day);
            }
            if person.today.is_active {
                self.live(person, hour, out);
            }
        }
        self.people = people;
        self.noise(hour, out);
    }

    fn begin_day(&mut self, person: &mut Person, day: u32) {
        let rng = &mut self.rng;
        let is_away = (person.away.0..person.away.1).contains(&day) || day == self.day_off;
        let is_in = person.joined <= day && (!is_away || person.habit == Habit::Robot);
        let mut today = Today {
            is_active: is_in && (rng.f32() < person.diligence || person.times > 1.0),
            ..Today::default()
        };
        self.active_days += u32::from(today.is_active);
        let busy = if rng.f32() < 0.03 { between(rng, 2.0, 3.0) } else { 1.0 };
        // Who is new begins slowly.
        let ramp = if person.joined == 0 {
            1.0
        } else {
            (0.3 + 0.07 * (day - person.joined.min(day)) as f32).min(1.0)
        };
        today.factor = busy * ramp * (0.35 * normal(rng)).exp();
        if rng.f32() < 0.02 {
            today.burst = Some((rng.u32(..24), rng.u32(1..4), between(rng, 3.0, 6.0)));
        }
        if rng.f32() < 0.01 {
            today.fault = Some((rng.u32(..24), rng.u32(10..41)));
        }
        // Some day the line at home has a new address for good; some days people travel.
        if rng.f32() < 0.02 {
            let place = rng.usize(..person.homes.len());
            person.homes[place] = address(rng);
        }
        today.addresses = person.homes.clone();
        if person.is_mobile {
            (0..rng.u32(1..4)).for_each(|_| today.addresses.push(address(rng)));
        } else if rng.f32() < 0.015 {
            today.addresses = vec![address(rng)];
        }
        if rng.f32() < 0.03 || day == 20 && rng.f32() < 0.4 {
            let model = if day == 20 { MODELS } else { rng.u32(..MODELS) };
            person.models.push(model);
        }
        // Keys leave the pool in the middle of the month; who kept to them gets others.
        if day == 14
            && let Some(few) = &mut person.few_keys
        {
            few.iter_mut().filter(|key| **key < 10).for_each(|key| *key = rng.usize(10..60));
        }
        if rng.f32() < 0.002 {
            let (subject, address) = (person.subject, person.homes[0]);
            self.misfits.push(Misfit { subject, address, until: day * 24 + rng.u32(4..24) });
        }
        person.today = today;
    }

    fn live(&mut self, person: &Person, hour: u32, out: &mut Vec<Observation>) {
        let (day, of_day) = (hour / 24, hour % 24);
        let rng = &mut self.rng;
        let mut mean = person.daily * person.share(of_day, day % 7 >= 5) * person.today.factor * person.times;
        let mut is_burst = false;
        if let Some((from, length, more)) = person.today.burst
            && (from..from + length).contains(&of_day)
        {
            mean = mean.max(0.3 * person.busy_hour()) * more;
            is_burst = true;
        }
        mean *= (0.45 * normal(rng)).exp();
        let mut spoilt = person.today.fault.filter(|(hour, _)| *hour == of_day).map_or(0, |(_, n)| n);
        for _ in 0..poisson(rng, mean) + spoilt {
            let status = if spoilt > 0 { Some(400) } else { None };
            spoilt = spoilt.saturating_sub(1);
            let address = person.today.addresses[self.rng.usize(..person.today.addresses.len())];
            self.request(person, hour, address, status, out);
        }
        // Who runs into a limit waits, mostly.
        if is_burst && person.has_limit {
            for _ in 0..self.rng.u32(3..60) {
                let address = person.today.addresses[0];
                let mut limited = self.blank(person, hour, address);
                limited.what = What::Limited;
                out.push(limited);
            }
        }
    }

    fn blank(&mut self, person: &Person, hour: u32, address: IpAddr) -> Observation {
        Observation {
            at: Timestamp(at(hour).0 + self.rng.i64(0..HOUR)),
            subject: person.subject,
            address: Some(address),
            key: None,
            provider: person.provider,
            model: None,
            what: What::Ended { end: End::Success, status: 200 },
        }
    }

    /// One request of a person, as the pool serves it.
    pub(super) fn request(
        &mut self,
        person: &Person,
        hour: u32,
        address: IpAddr,
        status: Option<u16>,
        out: &mut Vec<Observation>,
    ) {
        let mut seen = self.blank(person, hour, address);
        let rng = &mut self.rng;
        let live = if hour < 14 * 24 { 0..50 } else { 10..60 };
        let any = rng.usize(live);
        let place = match &person.few_keys {
            // Now and then a key rests, and another one is taken.
            Some(few) if rng.f32() < 0.99 => few[rng.usize(..few.len())],
            _ => any,
        };
        seen.key = Some(self.keys[person.provider as usize][place]);
        seen.model = Some(person.models[rng.usize(..person.models.len())]);
        let ended = |end, status| What::Ended { end, status };
        if let Some(status) = status {
            seen.what = ended(if status < 500 { End::Other } else { End::Failure }, status);
        } else if rng.f32() < person.fails {
            seen.what = match rng.u8(..4) {
                0 => ended(End::Other, 499),
                1 => ended(End::Other, 400),
                _ => ended(End::Failure, 502),
            };
        }
        out.push(seen);
        for _ in 0..3 {
            let is_down = self.outages.iter().any(|(from, to, provider)| {
                (*from..*to).contains(&seen.at) && provider.is_none_or(|down| down == person.provider)
            });
            if !is_down || self.rng.f32() > 0.92 {
                break;
            }
            if let Some(last) = out.last_mut() {
                (last.what, last.key) =
                    (ended(End::Failure, 503), Some(self.keys[person.provider as usize][any]));
            }
            // Some try again at once.
            if self.rng.bool() {
                break;
            }
            seen.at = Timestamp(seen.at.0 + self.rng.i64(1_000..20_000));
            seen.what = ended(End::Success, 200);
            out.push(seen);
        }
    }

    /// What has nothing to do with anybody: scanners, typing errors, forgotten clients.
    fn noise(&mut self, hour: u32, out: &mut Vec<Observation>) {
        let rng = &mut self.rng;
        let mut push = |rng: &mut Rng, address, subject, what| {
            let at = Timestamp(at(hour).0 + rng.i64(0..HOUR));
            out.push(Observation {
                at,
                subject,
                address: Some(address),
                key: None,
                provider: 0,
                model: None,
                what,
            });
        };
        let unknown =
            |rng: &mut Rng| What::AuthFailed { why: AuthFailure::Unknown, token: Some(rng.u32(..)) };
        for _ in 0..poisson(rng, 1.2) {
            let from = address(rng);
            for _ in 0..rng.u32(1..6) {
                let what = unknown(rng);
                push(rng, from, Subject::Address(from), what);
            }
        }
        // One wrong token, by a program that goes on.
        if rng.f32() < 0.05 {
            let (from, what) = (address(rng), unknown(rng));
            (0..rng.u32(20..130)).for_each(|_| push(rng, from, Subject::Address(from), what));
        }
        if rng.f32() < 0.03 {
            let from = address(rng);
            (0..rng.u32(1..4)).for_each(|_| push(rng, from, Subject::Address(from), What::AdminLoginFailed));
        }
        self.misfits.retain(|misfit| misfit.until > hour);
        for misfit in &self.misfits {
            let what = What::AuthFailed { why: AuthFailure::Expired, token: None };
            (0..60).for_each(|_| push(rng, misfit.address, misfit.subject, what));
        }
    }
}

fn person(rng: &mut Rng) -> Person {
    let habit = match rng.u8(..100) {
        0..60 => Habit::Office,
        60..85 => Habit::Evenings,
        85..95 => Habit::Robot,
        _ => Habit::Nightly,
    };
    // Half have under 25 requests a day; the most have two thousand.
    let daily = (3.2 + 1.3 * normal(rng)).exp().clamp(3.0, 2_000.0);
    let joined = if rng.f32() < 0.15 { rng.u32(1..26) } else { 0 };
    let away = rng.u32(..DAYS * 4);
    Person {
        subject: Subject::User(Uuid::from_u128(rng.u128(..))),
        habit,
        daily,
        joined,
        zone: [0, 0, 1, 8, 17][rng.usize(..5)],
        diligence: if habit == Habit::Robot { 1.0 } else { between(rng, 0.5, 0.95) },
        homes: (0..rng.usize(1..3)).map(|_| address(rng)).collect(),
        is_mobile: rng.f32() < 0.2,
        provider: rng.u32(..2),
        few_keys: rng.bool().then(|| (0..2).map(|_| rng.usize(..50)).collect()),
        models: (0..rng.usize(1..5)).map(|_| rng.u32(..MODELS)).collect(),
        fails: between(rng, 0.0, 0.06),
        has_limit: rng.f32() < 0.3,
        away: (away, away + rng.u32(3..11)),
        today: Today::default(),
        times: 1.0,
    }
}
