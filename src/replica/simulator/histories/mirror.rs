//! What somebody knows who only pulls.

use std::collections::BTreeMap;

use super::super::shelf::digest;
use crate::replica::{
    protocol::text::hex,
    wire::{
        GlobalRow, GoneKind, GoneRow, HourRow, KeyRow, KeyStatsRow, Lane, ModelRow, Rows, StreamRow,
        TokenRow, TokenStatsRow,
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
            ..Rows::default()
        }
    }
}
