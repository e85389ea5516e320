//! What somebody knows who only pulls.

use std::collections::BTreeMap;

use super::super::shelf::digest;
use crate::replica::{
    protocol::text::hex,
    wire::{
        GlobalRow, GoneKind, GoneRow, HourRow, KeyRow, KeyStatsRow, Lane, ModelRow, Rows, SetRow, StreamRow,
        Sums, TallyRow, TokenRow, TokenStatsRow, UserRow,
    },
};

#[derive(Default)]
pub struct Mirror {
    cursors: BTreeMap<Lane, Option<String>>,
    gone: BTreeMap<(GoneKind, String), GoneRow>,
    keys: BTreeMap<String, KeyRow>,
    tokens: BTreeMap<String, TokenRow>,
    key_stats: BTreeMap<String, KeyStatsRow>,
    token_stats: BTreeMap<String, TokenStatsRow>,
    models: BTreeMap<String, ModelRow>,
    hours: BTreeMap<(u32, String), HourRow>,
    global: Option<GlobalRow>,
    streams: BTreeMap<uuid::Uuid, StreamRow>,
    users: BTreeMap<uuid::Uuid, UserRow>,
    tallies: BTreeMap<Place, TallyRow>,
    sets: BTreeMap<Place, SetRow>,
}

type Place = (String, u32, uuid::Uuid);

fn has(row: &TallyRow) -> bool {
    row.sums != Sums::default()
}

fn holds(row: &SetRow) -> bool {
    !row.m.is_empty() || row.k.is_some()
}

fn id(secret: &str) -> String {
    hex(&digest(secret))
}

impl Mirror {
    pub fn cursor(&mut self, lane: Lane) -> &mut Option<String> {
        self.cursors.entry(lane).or_default()
    }

    pub fn take(&mut self, rows: Rows) {
        for row in rows.gone {
            match row.t {
                GoneKind::Key => {
                    self.keys.retain(|k, _| id(k) != row.id);
                    self.key_stats.retain(|k, _| id(k) != row.id);
                }
                GoneKind::Token => {
                    self.tokens.retain(|k, _| id(k) != row.id);
                    self.token_stats.retain(|k, _| id(k) != row.id);
                }
                GoneKind::User => self.users.retain(|i, _| i.to_string() != row.id),
                _ => {}
            }
            self.gone.insert((row.t, row.id.clone()), row);
        }
        // An added one is not deleted any more.
        for row in rows.keys {
            self.gone.remove(&(GoneKind::Key, id(row.k.expose())));
            self.keys.insert(row.k.expose().to_owned(), row);
        }
        for row in rows.tokens {
            self.gone.remove(&(GoneKind::Token, id(row.k.expose())));
            self.tokens.insert(row.k.expose().to_owned(), row);
        }
        for row in rows.users {
            self.gone.remove(&(GoneKind::User, row.i.to_string()));
            self.users.insert(row.i, row);
        }
        self.tallies.extend(rows.tallies.into_iter().map(|row| ((row.t.clone(), row.n, row.i), row)));
        self.sets.extend(rows.sets.into_iter().map(|row| ((row.t.clone(), row.n, row.i), row)));
        self.key_stats.extend(rows.key_stats.into_iter().map(|row| (row.k.expose().to_owned(), row)));
        self.token_stats.extend(rows.token_stats.into_iter().map(|row| (row.k.expose().to_owned(), row)));
        self.models.extend(rows.models.into_iter().map(|row| (row.m.clone(), row)));
        self.hours.extend(rows.hours.into_iter().map(|row| ((row.h, row.m.clone()), row)));
        self.streams.extend(rows.streams.into_iter().map(|row| (row.i, row)));
        self.global = rows.global.or(self.global.take());
    }

    pub fn rows(&self) -> Rows {
        Rows {
            gone: self.gone.values().cloned().collect(),
            keys: self.keys.values().cloned().collect(),
            tokens: self.tokens.values().cloned().collect(),
            key_stats: self.key_stats.values().cloned().collect(),
            token_stats: self.token_stats.values().cloned().collect(),
            models: self.models.values().cloned().collect(),
            hours: self.hours.values().cloned().collect(),
            global: self.global.clone(),
            streams: self.streams.values().cloned().collect(),
            users: self.users.values().cloned().collect(),
            // Of a user's day that has changed, what there is nothing of is shown too.
            tallies: self
                .tallies
                .values()
                .filter(|row| !row.t.starts_with('u') || has(row))
                .cloned()
                .collect(),
            sets: self.sets.values().filter(|row| row.t != "uk" || holds(row)).cloned().collect(),
            ..Rows::default()
        }
    }
}
