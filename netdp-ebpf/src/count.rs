//! Counters, per CPU.

use netdp_common::{drop::DropReason, left::Left};

use crate::maps::{DROPS, LEFT, STATS};

/// Counts a dropped packet by its reason.
#[inline(always)]
pub fn dropped(reason: DropReason) {
    if let Some(counter) = DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: the value is this CPU's alone, and programs of one CPU don't
        // interrupt each other.
        unsafe { *counter += 1 };
    }
}

/// Counts a packet that was left to the stack.
#[inline(always)]
pub fn left(why: Left) {
    if let Some(counter) = LEFT.get_ptr_mut(why as u32) {
        // SAFETY: as above.
        unsafe { *counter += 1 };
    }
}

/// Counts a packet that an endpoint sent, `length` bytes from the Ethernet
/// header on.
#[inline(always)]
pub fn sent(slot: u32, length: u32) {
    if let Some(stats) = STATS.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe {
            (*stats).tx_packets += 1;
            (*stats).tx_bytes += u64::from(length);
        }
    }
}

/// Counts a packet handed to an endpoint.
#[inline(always)]
pub fn received(slot: u32, length: u32) {
    if let Some(stats) = STATS.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe {
            (*stats).rx_packets += 1;
            (*stats).rx_bytes += u64::from(length);
        }
    }
}

/// Counts a packet of an endpoint that was dropped.
#[inline(always)]
pub fn refused(slot: u32) {
    if let Some(stats) = STATS.get_ptr_mut(slot) {
        // SAFETY: as above.
        unsafe { (*stats).drops += 1 };
    }
}
