//! Rows of the shelf as rows of the wire and back. Dates are shifted between this machine's clock and the hub's.

mod core;

use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    model::{
        Cause, Health, KeyRecord, KeyVersions, LimitVersions, Limits, Secret, Tally, Timestamp, TokenRecord,
        TokenVersions, UserId, Version,
    },
    replica::wire::{GoneKind, GoneRow, HealthRow, KeyRow, KeyStatsRow, Rows, Sums, TokenRow},
    store::shelf::{Gone, KeyEntry, Row, TokenEntry},
};

pub use self::core::*;

/// Dates beyond these are of nobody's clock; they are moved here so that shifting them stays exact.
const MAX_DATE: i64 = 253_402_300_799_000;

/// By how much the hub's clock is ahead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shift(pub i64);

impl Shift {
    pub fn out(self, at: Option<Timestamp>) -> Option<i64> {
        at.map(|at| at.0.saturating_add(self.0).clamp(-MAX_DATE, MAX_DATE))
    }

    pub fn home(self, at: Option<i64>) -> Option<Timestamp> {
        at.map(|at| Timestamp(at.clamp(-MAX_DATE, MAX_DATE).saturating_sub(self.0)))
    }
}

/// The first 16 bytes of the SHA-256.
pub fn digest(bytes: &[u8]) -> [u8; 16] {
    let mut short = [0; 16];
    short.copy_from_slice(&Sha256::digest(bytes)[..16]);
    short
}

pub fn hex(digest: &[u8; 16]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn unhex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    let mut digest = [0; 16];
    for (byte, at) in digest.iter_mut().zip((0..32).step_by(2)) {
        *byte = u8::from_str_radix(&text[at..at + 2], 16).ok()?;
    }
    Some(digest)
}

/// The life that counted goes in too: two instances that go by one file may count the same at the same time.
pub fn digest_of_batch(run: Uuid, rows: &Rows) -> String {
    let mut bytes = serde_json::to_vec(rows).unwrap_or_default();
    bytes.extend_from_slice(run.as_bytes());
    hex(&digest(&bytes))
}

/// Of the batch without rows that takes another one's place at the hub.
pub fn digest_instead_of(other: &str) -> String {
    hex(&digest(format!("instead of {other}").as_bytes()))
}

/// A register that is no older than its row: absent where it says what the row's age says.
fn stamp(version: Version, added: Version) -> Option<Version> {
    (version > added).then_some(version)
}

pub fn key_row(entry: &KeyEntry, add: bool, shift: Shift) -> KeyRow {
    let (record, versions) = (&entry.record, &entry.versions);
    let added = versions.added;
    KeyRow {
        k: record.secret.clone(),
        a: added,
        c: shift.out(Some(record.created_at)).unwrap_or_default(),
        add,
        u: record.username.as_deref().map(str::to_owned),
        uv: stamp(versions.username, added),
        n: record.note.as_deref().map(str::to_owned),
        nv: stamp(versions.note, added),
        x: shift.out(record.expires_at),
        xv: stamp(versions.expires_at, added),
        w: (record.weight != 1).then_some(record.weight),
        wv: stamp(versions.weight, added),
        e: (!record.enabled).then_some(false),
        ev: stamp(versions.enabled, added),
        d: shift.out(record.disabled_until),
        dv: stamp(versions.disabled_until, added),
        ow: record.owner.map(user_out),
        owv: stamp(versions.owner, added),
        h: health_row(&entry.health, added, shift),
    }
}

fn health_row(health: &Health, added: Version, shift: Shift) -> Option<HealthRow> {
    let health = of_age(health.clone(), added);
    if health.epoch == added && !health.is_blemished() {
        return None;
    }
    let cause = match health.cause {
        Cause::None => None,
        Cause::RateLimit => Some("rate_limit"),
        Cause::Quota => Some("quota"),
        Cause::Auth => Some("auth"),
        Cause::Server => Some("server"),
    };
    Some(HealthRow {
        e: stamp(health.epoch, added).unwrap_or_default(),
        f: shift.out(health.failed_until),
        c: cause.map(str::to_owned),
        n: health.consecutive_failures,
        a: health.auth_failures,
        s: health.server_failures,
        v: health.needs_verification,
    })
}

/// An add starts an epoch: what was concluded about an earlier key of the same text is nothing to this one.
pub fn of_age(health: Health, added: Version) -> Health {
    if health.epoch < added { Health { epoch: added, ..Health::default() } } else { health }
}

fn health(row: Option<&HealthRow>, added: Version, shift: Shift) -> Health {
    let Some(row) = row else { return Health { epoch: added, ..Health::default() } };
    let cause = match row.c.as_deref() {
        Some("rate_limit") => Cause::RateLimit,
        Some("quota") => Cause::Quota,
        Some("auth") => Cause::Auth,
        Some("server") => Cause::Server,
        _ => Cause::None,
    };
    let health = Health {
        failed_until: shift.home(row.f),
        cause,
        consecutive_failures: row.n,
        auth_failures: row.a,
        server_failures: row.s,
        needs_verification: row.v,
        epoch: if row.e == Version::default() { added } else { row.e },
    };
    of_age(health, added)
}

pub fn key_entry(row: &KeyRow, shift: Shift) -> KeyEntry {
    let age = |version: Option<Version>| version.unwrap_or(row.a).max(row.a);
    KeyEntry {
        record: KeyRecord {
            secret: row.k.clone(),
            username: cut(row.u.as_deref(), KeyRecord::MAX_TEXT_LEN),
            note: cut(row.n.as_deref(), KeyRecord::MAX_TEXT_LEN),
            created_at: shift.home(Some(row.c)).unwrap_or_default(),
            expires_at: shift.home(row.x),
            weight: row.w.unwrap_or(1).clamp(1, KeyRecord::MAX_WEIGHT),
            enabled: row.e.unwrap_or(true),
            disabled_until: shift.home(row.d),
            owner: row.ow.map(user_home),
        },
        versions: KeyVersions {
            added: row.a,
            username: age(row.uv),
            note: age(row.nv),
            expires_at: age(row.xv),
            weight: age(row.wv),
            enabled: age(row.ev),
            disabled_until: age(row.dv),
            owner: age(row.owv),
        },
        health: health(row.h.as_ref(), row.a, shift),
    }
}

pub fn token_row(entry: &TokenEntry, add: bool, shift: Shift) -> TokenRow {
    let (record, versions) = (&entry.record, &entry.versions);
    let added = versions.added;
    let limits = &record.limits;
    TokenRow {
        k: record.secret.clone(),
        a: added,
        c: shift.out(Some(record.created_at)).unwrap_or_default(),
        add,
        n: (!record.name.is_empty()).then(|| record.name.to_string()),
        nv: stamp(versions.name, added),
        x: shift.out(record.expires_at),
        xv: stamp(versions.expires_at, added),
        m: texts_out(&limits.allowed_models),
        mv: stamp(versions.limits.allowed_models, added),
        r: limits.requests_per_minute,
        rv: stamp(versions.limits.requests_per_minute, added),
        us: record.user.map(user_out),
        usv: stamp(versions.user, added),
        rd: limits.requests_per_day,
        rdv: stamp(versions.limits.requests_per_day, added),
        td: limits.tokens_per_day,
        tdv: stamp(versions.limits.tokens_per_day, added),
        ad: texts_out(&limits.allowed_addresses),
        adv: stamp(versions.limits.allowed_addresses, added),
    }
}

pub fn token_entry(row: &TokenRow, shift: Shift) -> TokenEntry {
    let age = |version: Option<Version>| version.unwrap_or(row.a).max(row.a);
    TokenEntry {
        record: TokenRecord {
            secret: row.k.clone(),
            name: cut(row.n.as_deref(), TokenRecord::MAX_NAME_LEN).unwrap_or_default(),
            created_at: shift.home(Some(row.c)).unwrap_or_default(),
            expires_at: shift.home(row.x),
            user: row.us.map(user_home),
            limits: Limits {
                requests_per_minute: row.r,
                requests_per_day: row.rd,
                tokens_per_day: row.td,
                allowed_models: texts_home(row.m.as_deref(), Limits::MAX_MODELS),
                allowed_addresses: texts_home(row.ad.as_deref(), Limits::MAX_ADDRESSES),
            },
        },
        versions: TokenVersions {
            added: row.a,
            name: age(row.nv),
            expires_at: age(row.xv),
            user: age(row.usv),
            limits: LimitVersions {
                requests_per_minute: age(row.rv),
                requests_per_day: age(row.rdv),
                tokens_per_day: age(row.tdv),
                allowed_models: age(row.mv),
                allowed_addresses: age(row.adv),
            },
        },
    }
}

fn user_out(id: UserId) -> Uuid {
    Uuid::from_u128(id.0)
}

fn user_home(id: Uuid) -> UserId {
    UserId(id.as_u128())
}

/// An empty list is none.
fn texts_out(list: &[Box<str>]) -> Option<Vec<String>> {
    (!list.is_empty()).then(|| list.iter().map(|text| text.to_string()).collect())
}

fn texts_home(list: Option<&[String]>, most: usize) -> Vec<Box<str>> {
    list.unwrap_or_default().iter().take(most).map(|text| text.as_str().into()).collect()
}

/// Another program may have written more than we would have taken.
fn cut(text: Option<&str>, chars: usize) -> Option<Box<str>> {
    text.map(|text| match text.char_indices().nth(chars) {
        Some((end, _)) => text[..end].into(),
        None => text.into(),
    })
}

pub fn gone_row(row: Row, gone: &Gone) -> GoneRow {
    let (t, id) = match row {
        Row::Key(_) => (GoneKind::Key, hex(&gone.digest)),
        Row::Token(_) => (GoneKind::Token, hex(&gone.digest)),
        Row::User(id) => (GoneKind::User, id.to_string()),
    };
    GoneRow { t, id, v: gone.version }
}

pub fn key_stats_row(secret: Secret, tally: &Tally, shift: Shift) -> KeyStatsRow {
    KeyStatsRow {
        k: secret,
        s: tally.success,
        f: tally.failure,
        o: tally.other,
        lu: shift.out(tally.last_used),
        ls: shift.out(tally.last_success),
        lf: shift.out(tally.last_failure),
    }
}

pub fn sums(tally: &Tally, shift: Shift) -> Sums {
    Sums {
        s: tally.success,
        f: tally.failure,
        o: tally.other,
        p: tally.prompt_tokens,
        q: tally.completion_tokens,
        lu: shift.out(tally.last_used),
    }
}

pub fn of_key_stats(row: &KeyStatsRow, shift: Shift) -> Tally {
    Tally {
        success: row.s,
        failure: row.f,
        other: row.o,
        last_used: shift.home(row.lu),
        last_success: shift.home(row.ls),
        last_failure: shift.home(row.lf),
        ..Tally::default()
    }
}

pub fn of_sums(row: &Sums, shift: Shift) -> Tally {
    Tally {
        success: row.s,
        failure: row.f,
        other: row.o,
        prompt_tokens: row.p,
        completion_tokens: row.q,
        last_used: shift.home(row.lu),
        ..Tally::default()
    }
}
