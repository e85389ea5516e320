//! Which of two values of a field is the later one, agreed on by all instances.
//!
//! A version is a hybrid logical clock: microseconds of hub time, moved past everything seen so far, with ten
//! bits of the writer's id below them to break ties.

use std::{
    fmt,
    sync::atomic::{AtomicI64, AtomicU16, Ordering},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::Timestamp;

const TAG_BITS: u32 = 10;
const TAG_MASK: i64 = (1 << TAG_BITS) - 1;

/// `microseconds since the Unix epoch << 10 | tag`; tag 0 belongs to edits made on the hub by other hands.
/// Fits 63 bits until the year 2255.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Version(pub i64);

impl Version {
    /// Older than everything that was ever stamped.
    pub const ZERO: Self = Self(0);

    /// A version of that instant, with tag 0.
    pub fn at(at: Timestamp) -> Self {
        Self(at.0.saturating_mul(1000).clamp(0, i64::MAX >> TAG_BITS) << TAG_BITS)
    }

    /// When it was made, by the hub's clock.
    pub fn time(self) -> Timestamp {
        Timestamp((self.0 >> TAG_BITS) / 1000)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Makes this instance's versions: each later than the one before and than every one observed.
#[derive(Debug, Default)]
pub struct Stamps {
    last: AtomicI64,
    /// What has to be added to this machine's clock to get the hub's, in milliseconds.
    offset: AtomicI64,
    tag: AtomicU16,
}

impl Stamps {
    /// `writer` is the instance's id; `last` the highest version that the store holds.
    pub fn new(writer: u128, offset_ms: i64, last: Version) -> Self {
        let stamps =
            Self { last: AtomicI64::new(last.0), offset: AtomicI64::new(offset_ms), tag: AtomicU16::new(0) };
        stamps.set_writer(writer);
        stamps
    }

    /// For an instance that has taken a new id.
    pub fn set_writer(&self, writer: u128) {
        let tag = (writer % u128::from(TAG_MASK as u64)) as u16 + 1;
        self.tag.store(tag, Ordering::SeqCst);
    }

    pub fn next(&self, now: Timestamp) -> Version {
        let present = Version::at(self.to_hub(now)).0;
        let tag = i64::from(self.tag.load(Ordering::SeqCst));
        let after = |last: i64| present.max(((last >> TAG_BITS) + 1) << TAG_BITS) | tag;
        let before = self
            .last
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |last| Some(after(last)))
            .unwrap_or_else(|last| last);
        Version(after(before))
    }

    /// What comes next will be later than `version`.
    pub fn observe(&self, version: Version) {
        self.last.fetch_max(version.0, Ordering::SeqCst);
    }

    /// Forgets a future that was an error of this machine's clock: what comes next may be earlier than what
    /// was stamped before, and later than `hub_now` only.
    pub fn rewind(&self, hub_now: Timestamp) {
        self.last.fetch_min(Version::at(hub_now).0, Ordering::SeqCst);
    }

    pub fn offset_ms(&self) -> i64 {
        self.offset.load(Ordering::SeqCst)
    }

    pub fn set_offset_ms(&self, offset: i64) {
        self.offset.store(offset, Ordering::SeqCst);
    }

    /// From this machine's time to the hub's.
    pub fn to_hub(&self, at: Timestamp) -> Timestamp {
        shift(at, self.offset_ms())
    }

    /// From the hub's time to this machine's.
    pub fn from_hub(&self, at: Timestamp) -> Timestamp {
        shift(at, self.offset_ms().saturating_neg())
    }
}

/// `at` moved by that many milliseconds, either way.
pub fn shift(at: Timestamp, by_ms: i64) -> Timestamp {
    Timestamp(at.0.saturating_add(by_ms))
}

/// A version further ahead of the hub's clock than this is nobody's present: it is refused, and made anew.
pub const MAX_AHEAD: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_only_grow_and_bear_their_writer() {
        let (a, b) = (Stamps::new(1, 0, Version::ZERO), Stamps::new(2, 0, Version::ZERO));
        let now = Timestamp(1_700_000_000_000);
        let first = a.next(now);
        assert!(a.next(now) > first, "in the same millisecond");
        assert!(a.next(Timestamp(0)) > first, "after the clock was set back");
        assert_ne!(Stamps::new(1, 0, Version::ZERO).next(now), b.next(now));
        b.observe(Version::at(Timestamp(1_800_000_000_000)));
        assert!(b.next(now) > Version::at(Timestamp(1_800_000_000_000)));
        assert_eq!(first.time(), now);
    }

    #[test]
    fn versions_are_of_hub_time() {
        let ahead = Stamps::new(1, -3_600_000, Version::ZERO);
        let now = Timestamp(1_700_003_600_000);
        assert_eq!(ahead.next(now).time(), Timestamp(1_700_000_000_000));
        assert_eq!(ahead.from_hub(ahead.to_hub(now)), now);
        ahead.observe(Version::at(Timestamp(1_900_000_000_000)));
        ahead.rewind(Timestamp(1_700_000_000_000));
        assert!(ahead.next(now).time() < Timestamp(1_700_000_001_000));
    }
}
