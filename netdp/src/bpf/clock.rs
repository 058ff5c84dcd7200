//! The programs' clock.
//!
//! The coarse one, as theirs is (`bpf_ktime_get_coarse_ns`): it stands still
//! between the kernel's ticks, so that what ends in the second that is read here
//! has ended for a program that looks right afterwards. The fine one begins a
//! second up to a tick before.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Second of `CLOCK_MONOTONIC_COARSE`, as the programs count it.
pub fn now() -> u32 {
    // The programs take the low half, too.
    read().as_secs() as u32
}

/// The same clock in nanoseconds.
pub fn nanoseconds() -> u64 {
    read().as_nanos() as u64
}

fn read() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}
