//! Tables whose keys are ids.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

/// By ids of keys, tokens and users, alone or with a kind or a period beside them. Of what callers choose themselves a table
/// is a plain [`HashMap`]: its hasher is one that they cannot guess.
pub type ById<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

/// Ids are uniformly distributed already; those of users that others have made at least in one of their halves.
#[derive(Clone, Copy, Debug, Default)]
pub struct IdHasher(u64);

impl IdHasher {
    /// Numbers that stand beside ids are small, or the same in all: spread over the lowest bits and the highest, at which
    /// the table looks.
    fn mix(&mut self, value: u64) {
        self.0 = (self.0 ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(32);
    }
}

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }
    fn write_u8(&mut self, value: u8) {
        self.mix(value.into());
    }
    fn write_u32(&mut self, value: u32) {
        self.mix(value.into());
    }
    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }
    fn write_isize(&mut self, value: isize) {
        self.mix(value as u64);
    }
    fn write_u128(&mut self, value: u128) {
        self.mix(value as u64 ^ (value >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, hash::BuildHasher};

    use super::*;
    use crate::model::{KeyId, SpanId, SpanKind};

    /// A table looks for the place with the lowest bits, and compares the highest seven.
    fn places_and_tags(hashes: impl Iterator<Item = u64>) -> (usize, usize) {
        let hashes: Vec<_> = hashes.collect();
        let different = |of: fn(&u64) -> u64| hashes.iter().map(of).collect::<BTreeSet<_>>().len();
        (different(|hash| hash & 0xffff), different(|hash| hash >> 57))
    }

    #[test]
    fn neighbours_are_told_apart() {
        let hasher = BuildHasherDefault::<IdHasher>::default();
        let key = KeyId::derive("p", "one");
        let hours = (500_000..500_128).map(|hour| SpanId::new(SpanKind::KeyHour, key.0, hour));
        let keys = (0..128).map(|n| KeyId::derive("p", &n.to_string()));
        // Ids that others have made, with all that differs in one half.
        let (low, high) = ((0..128).map(|n: u128| n), (0..128).map(|n: u128| n << 64 | 7));
        for (what, (places, tags)) in [
            ("hours", places_and_tags(hours.map(|id| hasher.hash_one(id)))),
            ("keys", places_and_tags(keys.map(|id| hasher.hash_one(id)))),
            ("low", places_and_tags(low.map(|id| hasher.hash_one(id)))),
            ("high", places_and_tags(high.map(|id| hasher.hash_one(id)))),
        ] {
            assert!(places > 120 && tags > 40, "{what}: {places} places, {tags} tags");
        }
    }
}
