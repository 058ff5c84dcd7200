//! Numbers that all CPUs read, and that few packets change.

use core::arch::asm;

/// Sets a number where it is another one: a write takes the cache line from all
/// other CPUs, also one of what is there already.
///
/// # Safety
/// Points to a number in a live map value, which all read and write whole.
#[inline(always)]
pub unsafe fn set(number: *mut u32, to: u32) {
    // SAFETY: the caller's.
    unsafe {
        if number.read_volatile() != to {
            number.write_volatile(to);
        }
    }
}

/// Sets a number where it still is the one that was read, and gives what it was.
///
/// # Safety
/// Points to an aligned number in a live map value.
#[inline(always)]
pub unsafe fn exchange(number: *mut u64, read: u64, to: u64) -> u64 {
    let mut was = read;
    // SAFETY: the caller's; `BPF_CMPXCHG` (Linux 5.12), which has what was read and
    // what was there in R0.
    unsafe {
        asm!(
            "r0 = cmpxchg_64({number} + 0, r0, {to})",
            number = in(reg) number,
            to = in(reg) to,
            inout("r0") was,
            options(nostack),
        );
    }
    was
}
