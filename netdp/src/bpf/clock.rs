//! The programs' clock.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Second of `CLOCK_MONOTONIC`, as the programs count it.
pub fn now() -> u32 {
    // The programs take the low half, too.
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| now.tv_sec() as u32)
}

/// The same clock in nanoseconds.
pub fn nanoseconds() -> u64 {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |now| Duration::from(now).as_nanos() as u64)
}
