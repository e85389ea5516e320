//! Files: they are copied, restored and lost.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    shelf::MemoryShelf,
    world::{PROVIDERS, World},
};
use crate::{
    model::Tally,
    replica::protocol::{
        Note, Outcome,
        document::{self, Batch, StreamNote},
    },
    store::shelf::Shelf,
};

impl World {
    /// Batches that a fork throws away: those of this life are open again, the others are for the copy to tell.
    pub fn bury_thrown(&mut self, at: usize, outcome: &Outcome) -> Result<(), String> {
        let mut told = BTreeMap::new();
        let it = &self.instances[at];
        for (provider, bytes) in &it.shelf.thrown {
            let forked = outcome
                .notes
                .iter()
                .any(|note| matches!(note, Note::Forked { provider: of, .. } if of == provider));
            let (Some((id, run)), true) = (it.ids.get(provider), forked) else { continue };
            let batch: Batch = document::decode(bytes).unwrap();
            if batch.confirmed.is_some() || batch.run != *run {
                if batch.confirmed.is_none() {
                    *told.entry(provider.clone()).or_default() += batch.requests();
                }
                let name = (provider.clone(), (*id, batch.seq, batch.digest));
                self.oracle.unsent.insert(name, batch.rows);
            }
        }
        let mut forked = Vec::new();
        for note in &outcome.notes {
            if let Note::Forked { provider, taken, .. } = note {
                if forked.contains(&provider) {
                    return Err(format!("instance {at} takes another id twice"));
                }
                forked.push(provider);
                let told: u64 = told.get(provider).copied().unwrap_or_default();
                if *taken != told {
                    return Err(format!(
                        "instance {at} says that {taken} requests are in doubt, and {told} are"
                    ));
                }
            }
        }
        Ok(())
    }

    /// A file is lost: what of it the hub has not, nobody will tell.
    fn bury(&mut self, at: usize) -> Result<(), String> {
        // As a start would seal it, so that batches have the names that they have in a copy.
        self.crash(at)?;
        let it = &self.instances[at];
        for (provider, (id, _)) in &it.ids {
            for seq in it.shelf.batches(provider, 0).unwrap() {
                let bytes = it.shelf.batch(provider, seq).unwrap().unwrap_or_default();
                let batch: Batch = document::decode(&bytes).unwrap();
                let name = (provider.clone(), (*id, seq, batch.digest));
                self.oracle.unsent.insert(name, batch.rows);
            }
            // Of a provider that never met a hub nothing is in batches.
        }
        for (provider, _) in &PROVIDERS[..self.providers] {
            if !it.ids.contains_key(*provider) {
                for (id, tally) in it.shelf.views(provider, None, usize::MAX).unwrap() {
                    let lost = Tally::default().minus(&tally);
                    self.oracle.recorded(provider, &id, &lost);
                }
            }
        }
        Ok(())
    }

    /// The file as `store backup` copies it.
    pub fn backup(&mut self, at: usize) -> Result<MemoryShelf, String> {
        self.say(|| format!("{at} is backed up"));
        let next = self.uuid();
        self.instances[at].waiting = None;
        self.instances[at].machine.forget();
        let now = self.local(at);
        let it = &mut self.instances[at];
        let sealed = it.machine.seal_all(&mut it.shelf, now, Some(next));
        self.take(at, sealed.map_err(|error| error.to_string())?)?;
        Ok(self.instances[at].shelf.clone())
    }

    /// A backup takes the place of the file.
    pub fn restore(&mut self, at: usize, shelf: MemoryShelf) -> Result<(), String> {
        self.say(|| format!("{at} is restored"));
        self.bury(at)?;
        self.oracle.doubt(Some(at), |_, _, _, _| false);
        self.instances[at].shelf = shelf;
        self.instances[at].waiting = None;
        self.crash(at)
    }

    /// A copy of the file becomes another instance.
    pub fn copy(&mut self, at: usize, shelf: MemoryShelf) -> Result<(), String> {
        let next = self.instances.len();
        self.say(|| format!("a copy of {at} is {next}"));
        let skew = self.instances[at].skew;
        self.boot(shelf, skew).map(drop)
    }
}

/// Of each provider that has met a hub: the id that its stream goes by, and the life that counts in it.
pub fn stream_ids(shelf: &MemoryShelf) -> BTreeMap<String, (Uuid, Uuid)> {
    let mut ids = BTreeMap::new();
    for (provider, _) in PROVIDERS {
        let note: Option<StreamNote> = document::read(shelf, &document::stream_name(provider)).unwrap();
        if let Some(note) = note {
            ids.insert(provider.to_owned(), (note.instance, note.run));
        }
    }
    ids
}
