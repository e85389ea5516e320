//! The core's stream in a world: users, whose keys are whose, and what is counted by hour, day and person.

mod check;
pub mod deeds;
pub mod local;
mod pages;
pub mod recorded;
pub mod retention;
pub mod scenes;
pub mod tables;

pub use tables::Core;

pub const STREAM: &str = "core";
pub const DAY: i64 = 24 * 3_600_000;
/// A world that is younger than that has nothing yet that is forgotten after 30 days.
const BEGUN_FOR: i64 = 25 * DAY;

/// The day of a date, in UTC: as all of a world have it.
pub fn day_of(at: i64) -> u32 {
    u32::try_from(at.div_euclid(DAY)).unwrap_or(0)
}

pub fn hour_of(at: i64) -> u32 {
    u32::try_from(at.div_euclid(3_600_000)).unwrap_or(0)
}
