//! Files: they are copied, restored and lost.

use std::collections::BTreeMap;

use uuid::Uuid;

use super::{
    shelf::MemoryShelf,
    world::{STREAMS, World},
};
use crate::{
    model::Tally,
    replica::protocol::{
        Note, Outcome, Sealing,
        document::{self, Batch, Head, StreamNote, Walk},
    },
    store::shelf::{CORE, Shelf},
};

impl World {
    /// Batches that a fork throws away: those of this life are open again, the others are for the copy to tell.
    pub fn bury_thrown(&mut self, at: usize, outcome: &Outcome) -> Result<(), String> {
        let it = &self.instances[at];
        let after = stream_ids(&it.shelf);
        for (provider, ids) in &it.ids {
            let Some(mut taken) = ids.forks else { continue };
            let thrown = it.shelf.thrown.iter().filter(|(of, _)| of == provider);
            for (_, bytes) in thrown {
                let batch = Batch::decode(bytes).unwrap();
                if batch.head.confirmed.is_none() && batch.head.run != ids.run {
                    taken += batch.requests();
                }
                if batch.head.confirmed.is_some() || batch.head.run != ids.run {
                    let name = (provider.clone(), (ids.instance, batch.head.seq, batch.head.digest));
                    self.oracle.unsent.insert(name, batch.rows);
                }
            }
            let end = outcome.notes.iter().find_map(|note| match note {
                Note::Forked { provider: of, taken, .. } if of == provider => Some(*taken),
                _ => None,
            });
            let told = end.or(after.get(provider).and_then(|ids| ids.forks));
            if told != Some(taken) {
                return Err(format!(
                    "instance {at} says that {told:?} requests are in doubt, and {taken} are"
                ));
            }
        }
        Ok(())
    }

    /// A file is lost: what of it the hub has not, nobody will tell.
    fn bury(&mut self, at: usize) -> Result<(), String> {
        // As a start would seal it, so that batches have the names that they have in a copy.
        self.crash(at)?;
        let it = &self.instances[at];
        for (provider, ids) in &it.ids {
            for seq in it.shelf.batches(provider, 0, usize::MAX).unwrap() {
                let bytes = it.shelf.batch(provider, seq).unwrap().unwrap_or_default();
                let Batch { head, rows } = Batch::decode(&bytes).unwrap();
                let name = (provider.clone(), (ids.instance, seq, head.digest));
                self.oracle.unsent.insert(name, rows);
            }
            // Of a provider that never met a hub nothing is in batches.
        }
        for (provider, _) in self.streams() {
            let it = &self.instances[at];
            if !it.ids.contains_key(provider) {
                for (id, tally) in it.shelf.views(provider, None, usize::MAX).unwrap() {
                    let lost = Tally::default().minus(&tally);
                    self.oracle.recorded(provider, &id, &lost);
                }
                let sets = it.shelf.sets(None, usize::MAX).unwrap();
                self.oracle.core.lost.extend(sets.into_iter().filter(|_| provider == CORE));
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
        self.seal(at, Sealing::new(Some(next)))?;
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

/// What a stream goes by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    pub instance: Uuid,
    /// The life that counts in it.
    pub run: Uuid,
    /// Whether it is about to take another id, and how many requests the copy has told as far as it has gone.
    pub forks: Option<u64>,
}

/// Of each provider that has met a hub.
pub fn stream_ids(shelf: &MemoryShelf) -> BTreeMap<String, Ids> {
    let mut ids = BTreeMap::new();
    for (provider, _) in STREAMS {
        let note: Option<StreamNote> = document::read(shelf, &document::stream_name(provider)).unwrap();
        if let Some(note) = note {
            let forks = match note.walk {
                Some(Walk::Fork { taken, .. }) => Some(taken),
                _ => None,
            };
            ids.insert(provider.to_owned(), Ids { instance: note.instance, run: note.run, forks });
        }
    }
    ids
}

/// How many rows wait, as it is shown and as the batches have it.
pub fn pending_of(shelf: &MemoryShelf, provider: &str) -> Result<(), String> {
    let note: StreamNote =
        document::read(shelf, &document::stream_name(provider)).unwrap().unwrap_or_default();
    let waiting = shelf.batches(provider, note.confirmed.seq + 1, usize::MAX).unwrap();
    let waiting = waiting.into_iter().map(|seq| shelf.batch(provider, seq).unwrap().unwrap_or_default());
    let rows: u64 = waiting.map(|bytes| Head::of(&bytes).unwrap().rows).sum();
    if rows != note.pending_rows {
        return Err(format!("{} rows are said to wait, and {rows} do", note.pending_rows));
    }
    Ok(())
}
