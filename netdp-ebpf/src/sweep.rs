//! Expiry of flows, from a timer in the kernel: it goes on while the daemon is
//! dead.

use core::ffi::{c_int, c_long, c_void};

use aya_ebpf::helpers::{
    bpf_for_each_map_elem, bpf_map_delete_elem, bpf_timer_init, bpf_timer_set_callback,
    bpf_timer_start,
};
use netdp_common::{
    addr::{V4Addr, V6Addr},
    flow::is_expired,
    maps::Flow,
};

use crate::{
    early, flows,
    maps::{EARLY, FLOWS4, FLOWS6, PENDING4, PENDING6, SWEEPER, Sweeper, USAGE},
    share,
};

/// `CLOCK_MONOTONIC` of `include/uapi/linux/time.h`.
const CLOCK_MONOTONIC: u64 = 1;
/// There is no such map entry, of `include/uapi/asm-generic/errno-base.h`.
const ENOENT: i32 = 2;
/// A timer that was made before answers so, and is used as it is.
const EBUSY: i32 = 16;
/// Seconds between two sweeps before the daemon has said.
const DEFAULT_INTERVAL: u32 = 5;

/// Starts the timer, or hands a running one to this program's callback. Gives 0
/// or the number of the kernel's error.
#[inline(always)]
pub fn start() -> i32 {
    let Some(sweeper) = SWEEPER.get_ptr_mut(0) else {
        return ENOENT;
    };
    // SAFETY: the timer lies in a value of the map that is named.
    unsafe {
        let timer = &raw mut (*sweeper).timer;
        let made = bpf_timer_init(timer, map(&raw const SWEEPER), CLOCK_MONOTONIC);
        if made != 0 && made != -c_long::from(EBUSY) {
            return -made as i32;
        }
        let set = bpf_timer_set_callback(timer, sweep as *const () as *mut c_void);
        if set != 0 {
            return -set as i32;
        }
        -bpf_timer_start(timer, 0, 0) as i32
    }
}

/// The timer's callback: `(map, key, value)`.
extern "C" fn sweep(_map: *mut c_void, _key: *mut c_void, sweeper: *mut Sweeper) -> c_int {
    let mut round = Round {
        now: flows::now(),
        pending: 0,
    };
    // SAFETY: the callbacks take the context as it is given: a pointer to this
    // stack.
    unsafe {
        let context = (&raw mut round).cast::<c_void>();
        let begin = share::begin_count as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const USAGE), begin, context, 0);
        let v4 = expire::<V4Addr> as *const () as *mut c_void;
        let v6 = expire::<V6Addr> as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const FLOWS4), v4, context, 0);
        bpf_for_each_map_elem(map(&raw const FLOWS6), v6, context, 0);
        (&raw mut round.pending).write_volatile(1);
        bpf_for_each_map_elem(map(&raw const PENDING4), v4, context, 0);
        bpf_for_each_map_elem(map(&raw const PENDING6), v6, context, 0);
        let expire = early::expire as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const EARLY), expire, context, 0);
        let end = share::end_count as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const USAGE), end, context, 0);
    }
    let interval = flows::config().map_or(DEFAULT_INTERVAL, |config| config.sweep_interval);
    // SAFETY: the timer that called back.
    unsafe {
        bpf_timer_start(
            &raw mut (*sweeper).timer,
            u64::from(interval) * 1_000_000_000,
            0,
        );
    }
    0
}

/// What the callbacks of one sweep share.
#[repr(C)]
struct Round {
    now: u32,
    /// Whether the table being swept is that of what isn't answered yet.
    pending: u32,
}

/// Called for each entry: removes it where its time is over, counts it
/// otherwise.
extern "C" fn expire<A>(
    map: *mut c_void,
    key: *mut c_void,
    flow: *mut Flow<A>,
    round: *mut Round,
) -> c_long {
    // SAFETY: the kernel gives a live entry and the context passed above.
    unsafe {
        let last_seen = (&raw const (*flow).last_seen).read_volatile();
        let timeout = (&raw const (*flow).timeout).read_volatile();
        if is_expired(last_seen, timeout, (*round).now) {
            bpf_map_delete_elem(map, key);
        } else {
            share::found(&*flow, (*round).pending != 0);
        }
    }
    0
}

/// A map as helpers take it.
#[inline(always)]
fn map<T>(map: *const T) -> *mut c_void {
    map.cast_mut().cast()
}
