//! A table of bounded length that forgets what was not seen for longest.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, RandomState},
};

const NONE: u32 = u32::MAX;

/// Found by key, linked by when they were last touched: every step takes the same time, however many there are.
#[derive(Debug)]
pub(super) struct Recent<K, V, S = RandomState> {
    places: HashMap<K, u32, S>,
    slots: Vec<Slot<K, V>>,
    newest: u32,
    oldest: u32,
    bound: usize,
}

#[derive(Debug)]
struct Slot<K, V> {
    key: K,
    value: V,
    newer: u32,
    older: u32,
}

impl<K: Copy + Eq + Hash, V, S: BuildHasher + Default> Recent<K, V, S> {
    pub(super) fn new(bound: usize) -> Self {
        let bound = bound.clamp(1, NONE as usize);
        Self { places: HashMap::default(), slots: Vec::new(), newest: NONE, oldest: NONE, bound }
    }

    /// The value of `key`, which is now the newest; made when it is not there, at the cost of the oldest.
    pub(super) fn touch(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let place = match self.places.get(&key) {
            Some(place) => {
                let place = *place;
                self.unlink(place);
                place
            }
            None if self.slots.len() < self.bound => {
                self.slots.push(Slot { key, value: make(), newer: NONE, older: NONE });
                self.places.insert(key, (self.slots.len() - 1) as u32);
                (self.slots.len() - 1) as u32
            }
            None => {
                let place = self.oldest;
                self.unlink(place);
                let slot = &mut self.slots[place as usize];
                self.places.remove(&slot.key);
                (slot.key, slot.value) = (key, make());
                self.places.insert(key, place);
                place
            }
        };
        self.link(place);
        &mut self.slots[place as usize].value
    }

    /// Whether the next one that is new costs the oldest its place.
    pub(super) fn is_full(&self) -> bool {
        self.slots.len() >= self.bound
    }

    pub(super) fn oldest(&self) -> Option<(&K, &V)> {
        self.slots.get(self.oldest as usize).map(|slot| (&slot.key, &slot.value))
    }

    pub(super) fn pop_oldest(&mut self) -> Option<(K, V)> {
        let place = self.oldest;
        self.places.remove(&self.slots.get(place as usize)?.key);
        self.unlink(place);
        let Slot { key, value, .. } = self.slots.swap_remove(place as usize);
        // The last one has its place now.
        if let Some(Slot { key, newer, older, .. }) = self.slots.get(place as usize) {
            let (newer, older) = (*newer, *older);
            self.places.insert(*key, place);
            match newer {
                NONE => self.newest = place,
                newer => self.slots[newer as usize].older = place,
            }
            match older {
                NONE => self.oldest = place,
                older => self.slots[older as usize].newer = place,
            }
        }
        Some((key, value))
    }

    pub(super) fn get(&self, key: &K) -> Option<&V> {
        self.places.get(key).map(|place| &self.slots[*place as usize].value)
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.slots.len()
    }

    /// In no order that means anything.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.slots.iter_mut().map(|slot| (&slot.key, &mut slot.value))
    }

    /// From the one seen last to the one that is forgotten next.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = (&K, &V)> {
        let mut at = self.newest;
        std::iter::from_fn(move || {
            let slot = self.slots.get(at as usize)?;
            at = slot.older;
            Some((&slot.key, &slot.value))
        })
    }

    /// From a list as [`Self::newest_first`] gives it; what is beyond the bound is left out.
    pub(super) fn restore(bound: usize, newest_first: Vec<(K, V)>) -> Self {
        let mut recent = Self::new(bound);
        let kept: Vec<_> = newest_first.into_iter().take(recent.bound).collect();
        for (key, value) in kept.into_iter().rev() {
            recent.touch(key, || value);
        }
        recent
    }

    /// The same under another bound: of more, those seen last are kept.
    pub(super) fn set_bound(&mut self, bound: usize) {
        let mut order = Vec::with_capacity(self.slots.len());
        let mut at = self.newest;
        while let Some(slot) = self.slots.get(at as usize) {
            order.push(at);
            at = slot.older;
        }
        let mut slots: Vec<_> = std::mem::take(&mut self.slots).into_iter().map(Some).collect();
        let newest_first = order.into_iter().filter_map(|at| slots[at as usize].take());
        *self = Self::restore(bound, newest_first.map(|slot| (slot.key, slot.value)).collect());
    }

    fn unlink(&mut self, place: u32) {
        let Slot { newer, older, .. } = self.slots[place as usize];
        match newer {
            NONE => self.newest = older,
            newer => self.slots[newer as usize].older = older,
        }
        match older {
            NONE => self.oldest = newer,
            older => self.slots[older as usize].newer = newer,
        }
    }

    fn link(&mut self, place: u32) {
        let older = self.newest;
        (self.slots[place as usize].newer, self.slots[place as usize].older) = (NONE, older);
        match older {
            NONE => self.oldest = place,
            older => self.slots[older as usize].newer = place,
        }
        self.newest = place;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forgets_what_was_not_seen_for_longest() {
        let mut recent: Recent<i32, i32> = Recent::new(3);
        for key in [1, 2, 3, 1, 4] {
            *recent.touch(key, || 0) += 1;
        }
        assert_eq!(
            recent.newest_first().map(|(k, v)| (*k, *v)).collect::<Vec<_>>(),
            [(4, 1), (1, 2), (3, 1)]
        );
        assert_eq!((recent.get(&2), recent.get(&1), recent.len()), (None, Some(&2), 3));
        // The middle, the oldest, the newest.
        for key in [1, 3, 3, 5] {
            recent.touch(key, || 9);
        }
        assert_eq!(recent.newest_first().map(|(k, _)| *k).collect::<Vec<_>>(), [5, 3, 1]);
        let list = recent.newest_first().map(|(k, v)| (*k, *v)).collect();
        let restored: Recent<i32, i32> = Recent::restore(2, list);
        assert_eq!(restored.newest_first().map(|(k, _)| *k).collect::<Vec<_>>(), [5, 3]);
        // From the front, the middle and the end of the slots, down to none.
        let mut recent: Recent<u32, u32> = Recent::new(4);
        for key in [1, 2, 3, 4, 2, 1] {
            recent.touch(key, || key);
        }
        let order = |recent: &Recent<u32, u32>| recent.newest_first().map(|(k, _)| *k).collect::<Vec<_>>();
        for (oldest, left) in [(3, vec![1, 2, 4]), (4, vec![1, 2]), (2, vec![1]), (1, vec![])] {
            assert!(
                recent.oldest() == Some((&oldest, &oldest)) && recent.pop_oldest() == Some((oldest, oldest))
            );
            assert_eq!((order(&recent), recent.get(&oldest)), (left.clone(), None));
            assert!(left.iter().all(|key| recent.get(key) == Some(key)));
        }
        assert!(recent.oldest().is_none() && recent.pop_oldest().is_none());
        recent.touch(9, || 9);
        assert_eq!(order(&recent), [9]);
    }
}
