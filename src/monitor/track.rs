//! One subject's habits, and what of the present does not fit them.

use serde::{Deserialize, Serialize};

use crate::model::Timestamp;

use super::{
    Options,
    baseline::{Level, Peak, Prior, is_weekend},
    event::{Finding, Kind},
    failures::Failures,
    others::Mood,
    spread::{Networks, Spread},
};

/// An instant as the monitor counts it, since the epoch. Times before it are all the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) minute: u32,
    pub(super) hour: u32,
    pub(super) day: u32,
}

impl Moment {
    pub(super) fn of(at: Timestamp) -> Self {
        let minute = u32::try_from(at.0.div_euclid(60_000).max(0)).unwrap_or(u32::MAX);
        Self { minute, hour: minute / 60, day: minute / (60 * 24) }
    }
}

/// One request as a subject's habits see it; fingerprints of where it came from and what it touched.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Request {
    pub(super) is_bad: bool,
    pub(super) network: Option<u32>,
    pub(super) key: Option<u32>,
    pub(super) model: Option<u32>,
}

const HOURS: Prior = Prior { spread: 0.7, worth: 8.0, least: 0.5, memory: 120.0, edge: 2.5 };
const DAYS: Prior = Prior { spread: 0.5, worth: 5.0, least: 0.35, memory: 10.0, edge: 1.6 };

/// Spreads above the usual hour that are abnormal: ten times as much for somebody regular.
const BURST: f32 = 4.7;
/// What a burst must have of its own before anything can support it.
const BURST_ALONE: f32 = 2.5;
/// What it adds to a burst when most of it comes from a network that is new, to somebody who never has new ones.
const NEW_NETWORK: f32 = 1.8;
const UNUSUAL_HOUR: f32 = 0.4;
/// A burst is also beyond the busiest hour by the first of these, and by the second when a new network supports
/// it: a job that runs once a night is as far from the usual hour every night.
const BEYOND_BUSIEST: (f32, f32) = (3.5, 2.5);
/// So far beyond the busiest hour, a burst needs nothing else.
const FAR_BEYOND: f32 = 6.0;
/// A busiest hour that is so many times the usual one is a job's, and of jobs few runs were seen: their own bursts
/// go further beyond, up to twice as far.
const SPIKY: f32 = 10.0;
/// What one hour can add to the busiest.
const BUSIEST_GROWS: f32 = 2.0;
/// Requests below which an hour, or a day, is too little to speak of.
const LEAST_AN_HOUR: u32 = 80;
const LEAST_A_DAY: u32 = 60;

/// Of few days little is known, and who is new grows: over the number of days this is added to what a count has to
/// be beyond.
const UNSURE: f32 = 2.0;

/// Busy days add what they are above the usual by more than this many spreads,
const DRIFT_FREE: f32 = 1.0;
/// one day at most the second of these, and a quiet day takes at most the first away;
const DRIFT_A_DAY: (f32, f32) = (-1.0, 2.0);
/// and what is not this many times the usual adds nothing, however regular the subject is;
const BUSY: f32 = 2.4;
/// so much is abnormal: three days at five times the usual.
const DRIFT: f32 = 4.2;

/// What a busy day adds when most of it comes from a new network.
const DRIFT_NEW_NETWORK: f32 = 1.0;

const LEAST_NETWORKS: f32 = 8.0;
const LEAST_KEYS: f32 = 12.0;
const LEAST_MODELS: f32 = 8.0;

/// Refusals in an hour: a client that runs into its limit and waits has a few.
const HAMMERING: f32 = 120.0;
/// Of a subject that is not known yet.
const HAMMERING_UNKNOWN: f32 = 240.0;
/// Somebody forgotten who asks once or twice a minute is below.
const TURNED_AWAY: f32 = 300.0;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Track {
    /// The hour in which it was seen first.
    first: u32,
    hour: u32,
    /// Requests ever; then those of this hour, of it from new networks, and of this day.
    seen: u32,
    requests: u32,
    fresh: u32,
    requests_today: u32,
    fresh_today: u32,
    limited: u32,
    turned_away: u32,
    hours: Level,
    busiest: Peak,
    days: Level,
    /// How much the last days were busier than usual, added up.
    drift: f32,
    limited_peak: Peak,
    turned_away_peak: Peak,
    failures: Failures,
    networks: Networks,
    keys: Spread,
    models: Spread,
    /// Hours of the day in which it was active: this week, and in the active week before.
    clock: [u32; 2],
}

impl Track {
    pub(super) fn new(now: Moment) -> Self {
        Self { first: now.hour, hour: now.hour, ..Self::default() }
    }

    /// Keys of today that are new to the subject.
    pub(super) fn novel_keys(&self) -> u32 {
        self.keys.novel()
    }

    pub(super) fn trim(&mut self) {
        self.networks.trim();
    }

    /// Hours since it was first seen.
    fn age(&self) -> u32 {
        self.hour.saturating_sub(self.first)
    }

    fn is_warm(&self, options: &Options) -> bool {
        self.age() >= options.warm_up_days.saturating_mul(24)
            && self.seen >= options.warm_up_requests
            && self.days.learnt() >= 3
    }

    pub(super) fn request(
        &mut self,
        request: Request,
        mood: Mood,
        now: Moment,
        options: &Options,
        found: &mut Vec<Finding>,
    ) {
        self.advance(now);
        self.seen = self.seen.saturating_add(1);
        self.requests = self.requests.saturating_add(1);
        self.requests_today = self.requests_today.saturating_add(1);
        if request.network.is_some_and(|network| self.networks.see(network, now.day)) {
            self.fresh = self.fresh.saturating_add(1);
            self.fresh_today = self.fresh_today.saturating_add(1);
        }
        request.key.inspect(|key| self.keys.see(*key));
        request.model.inspect(|model| self.models.see(*model));
        let excess = self.failures.see(request.is_bad, mood.bad, now.minute);
        if !self.is_warm(options) {
            return;
        }
        found.extend(self.burst());
        // Who is new grows for a while, and days are few: those need twice the time to be known.
        if self.age() >= options.warm_up_days.saturating_mul(2 * 24) {
            found.extend(self.sustained());
        }
        found.extend(
            excess
                .map(|excess| Finding::new(Kind::FailureRate, excess.score, excess.failed, excess.expected)),
        );
        found.extend(self.new_networks());
        let keys = LEAST_KEYS
            .max(1.5 * self.keys.known() as f32)
            .max(4.0 * self.keys.peak())
            .max(2.0 * self.keys.expected())
            // New keys in the pool are new for all.
            .max(LEAST_KEYS + 3.0 * mood.novel);
        found.extend(novel(Kind::Keys, &self.keys, keys));
        let models = LEAST_MODELS
            .max(2.0 * self.models.known() as f32)
            .max(3.0 * self.models.peak())
            .max(2.0 * self.models.expected());
        found.extend(novel(Kind::Models, &self.models, models));
    }

    fn burst(&self) -> Option<Finding> {
        let weekend = is_weekend(self.hour / 24);
        let excess = self.hours.excess(self.requests, weekend, &HOURS)?;
        let from_new_network = self.fresh * 2 >= self.requests;
        let usual = self.hours.usual_count(weekend).max(1.0);
        let spiky = (self.busiest.get() / usual / SPIKY).clamp(1.0, 2.0);
        let beyond = self.requests as f32 / (self.busiest.get() * spiky * self.unsure(weekend));
        let least = if self.is_new(self.fresh, self.requests) { BEYOND_BUSIEST.1 } else { BEYOND_BUSIEST.0 };
        if self.requests < LEAST_AN_HOUR || beyond < least || excess < BURST_ALONE {
            return None;
        }
        let at_unusual_hour = (self.clock[0] | self.clock[1]) >> (self.hour % 24) & 1 == 0;
        let mut evidence = excess;
        if from_new_network {
            evidence += NEW_NETWORK * (1.0 - self.networks.rate().min(1.0));
        }
        if at_unusual_hour {
            evidence += UNUSUAL_HOUR;
        }
        let score = (evidence / BURST).max(beyond.ln() / FAR_BEYOND.ln());
        let finding = Finding::new(Kind::Frequency, score, self.requests as f32, usual);
        Some(Finding { from_new_network, at_unusual_hour, ..finding })
    }

    /// Whether most of some requests come from a new network, for a subject that seldom has one.
    fn is_new(&self, fresh: u32, requests: u32) -> bool {
        fresh * 2 >= requests && self.networks.rate() < 0.5
    }

    fn sustained(&self) -> Option<Finding> {
        let weekend = is_weekend(self.hour / 24);
        if self.requests_today < LEAST_A_DAY {
            return None;
        }
        // What was goes on only if today is busy too.
        let busier = self.busier(weekend).filter(|busier| *busier > 0.0)?;
        Some(Finding::new(
            Kind::Sustained,
            (self.drift + busier) / DRIFT,
            self.requests_today as f32,
            self.days.usual_count(weekend),
        ))
    }

    fn unsure(&self, weekend: bool) -> f32 {
        1.0 + UNSURE / f32::from(self.days.learnt_of(weekend).max(1))
    }

    /// What today adds to the drift; below zero on a day that is not busy.
    fn busier(&self, weekend: bool) -> Option<f32> {
        let excess = self.days.excess(self.requests_today, weekend, &DAYS)?;
        let busy = BUSY * self.unsure(weekend) * self.days.usual_count(weekend);
        let is_busy = self.requests_today as f32 >= busy;
        let most = if is_busy { DRIFT_A_DAY.1 } else { 0.0 };
        let support = if is_busy && self.is_new(self.fresh_today, self.requests_today) {
            DRIFT_NEW_NETWORK
        } else {
            0.0
        };
        Some((excess - DRIFT_FREE).clamp(DRIFT_A_DAY.0, most) + support)
    }

    fn new_networks(&self) -> Option<Finding> {
        let fresh = f32::from(self.networks.fresh());
        let limit = LEAST_NETWORKS + 2.5 * self.networks.peak();
        (fresh * 2.0 >= limit).then(|| Finding::of_count(Kind::Addresses, fresh, limit, self.networks.rate()))
    }

    pub(super) fn limited(&mut self, now: Moment, options: &Options, found: &mut Vec<Finding>) {
        self.advance(now);
        self.limited = self.limited.saturating_add(1);
        let limit = self.hammering_limit(options);
        let peak = self.limited_peak.get();
        found.push(Finding::of_count(Kind::Hammering, self.limited as f32, limit, peak));
    }

    fn hammering_limit(&self, options: &Options) -> f32 {
        let least = if self.is_warm(options) { HAMMERING } else { HAMMERING_UNKNOWN };
        least.max(5.0 * self.limited_peak.get())
    }

    pub(super) fn turn_away(&mut self, now: Moment, found: &mut Vec<Finding>) {
        self.advance(now);
        self.turned_away = self.turned_away.saturating_add(1);
        let peak = self.turned_away_peak.get();
        let limit = TURNED_AWAY.max(3.0 * peak);
        found.push(Finding::of_count(Kind::TurnedAway, self.turned_away as f32, limit, peak));
    }

    /// Closes the hour and the day that have passed. Within a day a clock set back goes on in the later hour; one
    /// that was a day or more ahead is believed to have been wrong, and what it counted last is not learnt.
    fn advance(&mut self, now: Moment) {
        if now.hour == self.hour {
            return;
        }
        if now.hour < self.hour {
            if self.hour - now.hour >= 24 {
                self.hour = now.hour;
                self.first = self.first.min(now.hour);
                (self.requests, self.fresh) = (0, 0);
                (self.requests_today, self.fresh_today) = (0, 0);
                (self.limited, self.turned_away) = (0, 0);
            }
            return;
        }
        let day = self.hour / 24;
        let weekend = is_weekend(day);
        if self.requests > 0 {
            self.hours.learn(self.requests, weekend, &HOURS);
            let most = if self.busiest.get() == 0.0 { f32::MAX } else { BUSIEST_GROWS * self.busiest.get() };
            self.busiest.learn((self.requests as f32).min(most));
            self.clock[0] |= 1 << (self.hour % 24);
        }
        // What is abnormal excuses nothing later.
        if (self.limited as f32) < HAMMERING {
            self.limited_peak.learn(self.limited as f32);
        }
        if (self.turned_away as f32) < TURNED_AWAY {
            self.turned_away_peak.learn(self.turned_away as f32);
        }
        self.failures.end_hour();
        (self.requests, self.fresh, self.limited, self.turned_away) = (0, 0, 0, 0);
        self.hour = now.hour;
        if now.day > day {
            self.end_day(day, now.day - day);
        }
    }

    fn end_day(&mut self, day: u32, days: u32) {
        let weekend = is_weekend(day);
        if self.requests_today > 0 {
            if let Some(busier) = self.busier(weekend) {
                self.drift = (self.drift + busier).clamp(0.0, DRIFT);
            }
            self.days.learn(self.requests_today, weekend, &DAYS);
            self.networks.end_day(days);
            self.keys.end_day(day, days);
            self.models.end_day(day, days);
        }
        if (day + days) / 7 != day / 7 {
            self.clock = [0, self.clock[0]];
        }
        self.busiest.fade(days);
        self.limited_peak.fade(days);
        self.turned_away_peak.fade(days);
        self.failures.end_day(days);
        (self.requests_today, self.fresh_today) = (0, 0);
    }
}

fn novel(kind: Kind, spread: &Spread, limit: f32) -> Option<Finding> {
    let novel = spread.novel() as f32;
    (novel * 2.0 >= limit).then(|| Finding::of_count(kind, novel, limit, spread.known() as f32))
}
