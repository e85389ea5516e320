//! Counting against a limit per minute.

use std::time::Duration;

use super::Timestamp;

/// A fixed window that opens with the first thing counted in it, so that a limit of N admits exactly N per
/// window and its reset is one known instant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Window {
    opened: Option<Timestamp>,
    used: u32,
}

impl Window {
    pub const MINUTE: Duration = Duration::from_secs(60);

    /// Takes one place in the window.
    ///
    /// # Errors
    /// The instant at which the window ends, when all `limit` places are taken.
    pub fn take(&mut self, limit: u32, now: Timestamp) -> Result<u32, Timestamp> {
        let reset = self.reset(now);
        match self.opened {
            Some(_) if now < reset => {}
            _ => *self = Self { opened: Some(now), used: 0 },
        }
        if self.used >= limit {
            return Err(self.reset(now));
        }
        self.used += 1;
        Ok(limit - self.used)
    }

    /// How many places are left at `now`.
    pub fn left(&self, limit: u32, now: Timestamp) -> u32 {
        match self.opened {
            Some(_) if now < self.reset(now) => limit.saturating_sub(self.used),
            _ => limit,
        }
    }

    /// When it began, if anything was counted in it.
    pub fn opened(&self) -> Option<Timestamp> {
        self.opened
    }

    /// Frees a place that was taken in the window that began at `opened`.
    pub fn give_back(&mut self, opened: Option<Timestamp>) {
        if self.opened == opened {
            self.used = self.used.saturating_sub(1);
        }
    }

    /// When the current window ends. A clock set back by more than a window ends it at once.
    pub fn reset(&self, now: Timestamp) -> Timestamp {
        match self.opened {
            Some(opened) if opened <= now.saturating_add(Self::MINUTE) => opened.saturating_add(Self::MINUTE),
            _ => now,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn admits_exactly_the_limit_per_window() {
        let mut window = Window::default();
        let start = Timestamp(5_000);
        assert_eq!(window.take(2, start), Ok(1));
        assert_eq!(window.take(2, Timestamp(6_000)), Ok(0));
        assert_eq!(window.take(2, Timestamp(64_999)), Err(Timestamp(65_000)));
        assert_eq!(window.take(2, Timestamp(65_000)), Ok(1));
    }

    #[test]
    fn a_place_is_given_back_to_its_own_window_alone() {
        let mut window = Window::default();
        assert_eq!((window.take(2, Timestamp(0)), window.left(2, Timestamp(0))), (Ok(1), 1));
        let opened = window.opened();
        window.give_back(opened);
        assert_eq!(window.left(2, Timestamp(1)), 2);
        assert_eq!(window.take(2, Timestamp(60_000)), Ok(1));
        window.give_back(opened);
        assert_eq!((window.left(2, Timestamp(60_000)), window.left(2, Timestamp(120_000))), (1, 2));
    }

    #[test]
    fn a_clock_set_far_back_does_not_lock_the_window() {
        let mut window = Window::default();
        assert_eq!(window.take(1, Timestamp(10_000_000)), Ok(0));
        assert_eq!(window.take(1, Timestamp(1_000)), Ok(0));
    }
}
