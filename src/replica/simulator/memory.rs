//! What an instance has in memory, moved by effects alone.

use std::collections::BTreeMap;

use super::{shelf::MemoryShelf, world::STREAMS};
use crate::{
    model::{CounterId, KeyId, Tally, TokenId, UserId},
    replica::protocol::Effect,
    store::shelf::{KeyEntry, Shelf, TokenEntry, UserEntry},
};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Memory {
    pub keys: BTreeMap<(String, KeyId), KeyEntry>,
    pub tokens: BTreeMap<(String, TokenId), TokenEntry>,
    pub users: BTreeMap<UserId, UserEntry>,
    pub books: BTreeMap<(String, CounterId), Tally>,
}

impl Memory {
    pub fn of(shelf: &MemoryShelf) -> Self {
        let mut memory = Self::default();
        memory.users.extend(shelf.users(None, usize::MAX).unwrap());
        for (provider, _) in STREAMS {
            let at = || provider.to_owned();
            let keys = shelf.keys(provider, None, usize::MAX).unwrap();
            memory.keys.extend(keys.into_iter().map(|(id, entry)| ((at(), id), entry)));
            let tokens = shelf.tokens(provider, None, usize::MAX).unwrap();
            memory.tokens.extend(tokens.into_iter().map(|(id, entry)| ((at(), id), entry)));
            let views = shelf.views(provider, None, usize::MAX).unwrap();
            memory.books.extend(views.into_iter().map(|(id, tally)| ((at(), id), tally)));
        }
        memory
    }

    pub fn apply(&mut self, effect: Effect) -> Result<(), String> {
        match effect {
            Effect::KeyPut { provider, id, entry } => {
                self.keys.insert((provider, id), *entry);
            }
            Effect::KeyRemoved { provider, id } => {
                self.keys.remove(&(provider, id));
            }
            Effect::TokenPut { provider, id, entry } => {
                self.tokens.insert((provider, id), *entry);
            }
            Effect::TokenRemoved { provider, id } => {
                self.tokens.remove(&(provider, id));
            }
            Effect::UserPut { id, entry } => {
                self.users.insert(id, *entry);
            }
            Effect::UserRemoved { id } => {
                self.users.remove(&id);
            }
            // All of a world have the same; and what is used of limits is in no book.
            Effect::Zone { .. } | Effect::Used { .. } => {}
            Effect::Counter { provider, id, from, to } => {
                let at = (provider, id);
                let here = self.books.get(&at).copied().unwrap_or_default();
                if here != from {
                    return Err(format!("a counter moves from {from:?} where memory has {here:?}"));
                }
                if to == Tally::default() {
                    self.books.remove(&at);
                } else {
                    self.books.insert(at, to);
                }
            }
        }
        Ok(())
    }
}
