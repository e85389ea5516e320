//! Rows that are there already, merged field by field with what is pushed.

use super::sabotage::{self, Sabotage};
use crate::{
    model::{Health, LimitVersions, Limits, Version},
    store::shelf::{KeyEntry, TokenEntry, UserEntry},
};

/// A field goes to the later version; on equal ones it stays.
fn take<T>(here: &mut T, here_v: &mut Version, there: T, there_v: Version) {
    if there_v > *here_v {
        (*here, *here_v) = (there, there_v);
    }
}

pub fn merge_key(here: &mut KeyEntry, there: KeyEntry) {
    let (r, v, record, versions) = (&mut here.record, &mut here.versions, there.record, there.versions);
    if sabotage::on(Sabotage::HubTakesWholeRows) {
        let latest = |v: &crate::model::KeyVersions| {
            v.username.max(v.note).max(v.expires_at).max(v.weight).max(v.enabled).max(v.added)
        };
        if latest(&versions) > latest(v) {
            (*r, *v) = (record, versions);
        }
    } else {
        take(&mut r.created_at, &mut v.added, record.created_at, versions.added);
        take(&mut r.username, &mut v.username, record.username, versions.username);
        take(&mut r.note, &mut v.note, record.note, versions.note);
        take(&mut r.expires_at, &mut v.expires_at, record.expires_at, versions.expires_at);
        take(&mut r.weight, &mut v.weight, record.weight, versions.weight);
        take(&mut r.enabled, &mut v.enabled, record.enabled, versions.enabled);
        take(&mut r.owner, &mut v.owner, record.owner, versions.owner);
        take(&mut r.disabled_until, &mut v.disabled_until, record.disabled_until, versions.disabled_until);
    }
    let added = here.versions.added;
    let floor = |health: Health| {
        if health.epoch < added { Health { epoch: added, ..Health::default() } } else { health }
    };
    let mut health = floor(here.health.clone());
    let other = floor(there.health);
    if sabotage::on(Sabotage::HubIgnoresEpochs) {
        let epoch = health.epoch.max(other.epoch);
        health.epoch = epoch;
        health.merge(&Health { epoch, ..other });
    } else {
        health.merge(&other);
    }
    here.health = health;
}

pub fn merge_token(here: &mut TokenEntry, there: TokenEntry) {
    let (r, v, record, versions) = (&mut here.record, &mut here.versions, there.record, there.versions);
    take(&mut r.created_at, &mut v.added, record.created_at, versions.added);
    take(&mut r.name, &mut v.name, record.name, versions.name);
    take(&mut r.expires_at, &mut v.expires_at, record.expires_at, versions.expires_at);
    take(&mut r.user, &mut v.user, record.user, versions.user);
    merge_limits(&mut r.limits, &mut v.limits, record.limits, versions.limits);
}

pub fn merge_user(here: &mut UserEntry, there: UserEntry) {
    let (r, v, record, versions) = (&mut here.record, &mut here.versions, there.record, there.versions);
    take(&mut r.created_at, &mut v.added, record.created_at, versions.added);
    take(&mut r.name, &mut v.name, record.name, versions.name);
    take(&mut r.note, &mut v.note, record.note, versions.note);
    take(&mut r.enabled, &mut v.enabled, record.enabled, versions.enabled);
    merge_limits(&mut r.limits, &mut v.limits, record.limits, versions.limits);
}

fn merge_limits(r: &mut Limits, v: &mut LimitVersions, limits: Limits, versions: LimitVersions) {
    take(&mut r.allowed_models, &mut v.allowed_models, limits.allowed_models, versions.allowed_models);
    let limit = limits.requests_per_minute;
    take(&mut r.requests_per_minute, &mut v.requests_per_minute, limit, versions.requests_per_minute);
    take(
        &mut r.requests_per_day,
        &mut v.requests_per_day,
        limits.requests_per_day,
        versions.requests_per_day,
    );
    take(&mut r.tokens_per_day, &mut v.tokens_per_day, limits.tokens_per_day, versions.tokens_per_day);
    let addresses = limits.allowed_addresses;
    take(&mut r.allowed_addresses, &mut v.allowed_addresses, addresses, versions.allowed_addresses);
}
