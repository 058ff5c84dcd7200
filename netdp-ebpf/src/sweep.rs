//! Expiry of flows, from a timer in the kernel: it goes on while the daemon is
//! dead.
//!
//! While the timer runs, its CPU handles no packet, so a run has to be short
//! however many flows there are. `bpf_for_each_map_elem` always begins at a
//! table's first entry; so the main tables are walked along a queue instead,
//! `order`, in which each entry has a place: a run takes some places out, looks
//! their entries up, and puts those that live in again at the end. What leaves
//! the table by another way leaves its place behind, which the sweep drops: the
//! number in it is that of its entry.
//!
//! Where the queue had no room for a new entry, which takes more flows that came
//! and went between two sweeps than the table has entries, the queue is made
//! anew from the table, in one long run.

use core::ffi::{c_int, c_long, c_void};

use aya_ebpf::helpers::{
    bpf_for_each_map_elem, bpf_ktime_get_ns, bpf_loop, bpf_map_delete_elem, bpf_map_pop_elem,
    bpf_map_push_elem, bpf_timer_init, bpf_timer_set_callback, bpf_timer_start,
};
use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr},
    flow::is_expired,
    maps::{Flow, FlowKey, config_flags, flow_kind},
    packet::{V4, V6},
};

use crate::{
    atomic, early,
    family::Family,
    flows,
    maps::{EARLY, PENDING4, PENDING6, SWEEPER, Sweeper, TIMES, USAGE},
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
/// Places that one run looks at: some 300 microseconds.
const BATCH: u32 = 1024;
/// Nanoseconds between two runs of a sweep: packets have nine tenths of the
/// CPU's time.
const PAUSE: u64 = 3_000_000;
const SECOND: u64 = 1_000_000_000;

/// What a run does: [`Sweep::step`](netdp_common::maps::Sweep::step).
mod step {
    /// Begins a sweep: what isn't answered, which is few.
    pub const BEGIN: u32 = 0;
    pub const FLOWS4: u32 = 1;
    pub const FLOWS6: u32 = 2;
    /// Empties the queue and fills it again.
    pub const RENEW4: u32 = 3;
    pub const RENEW6: u32 = 4;
}

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
        let set = bpf_timer_set_callback(timer, run as *const () as *mut c_void);
        if set != 0 {
            return -set as i32;
        }
        -bpf_timer_start(timer, 0, 0) as i32
    }
}

/// Gives a new entry of the main table its place.
#[inline(always)]
pub fn remember<F: Family>(key: &FlowKey<F::Addr>, number: u32) {
    if !push::<F>(&key.place(number))
        && let Some(sweeper) = SWEEPER.get_ptr_mut(0)
    {
        // SAFETY: a map value stays valid while the program runs; the field is
        // written whole.
        unsafe { atomic::set(&raw mut (*sweeper).sweep.complete, 0) };
    }
}

#[inline(always)]
fn push<F: Family>(place: &FlowKey<F::Addr>) -> bool {
    // SAFETY: a value of the queue's type.
    unsafe { bpf_map_push_elem(map(F::order()), (&raw const *place).cast(), 0) == 0 }
}

/// The timer's callback: `(map, key, value)`.
extern "C" fn run(_map: *mut c_void, _key: *mut c_void, sweeper: *mut Sweeper) -> c_int {
    // SAFETY: no arguments.
    let began = unsafe { bpf_ktime_get_ns() };
    // SAFETY: the kernel gives the timer's own value, which only the timer
    // writes, but for `complete`, and that whole.
    unsafe {
        let sweep = &raw mut (*sweeper).sweep;
        let step = (*sweep).step;
        let mut round = Round {
            now: flows::now(),
            done: 0,
        };
        (*sweep).step = match step {
            step::FLOWS4 => take::<V4>(&mut round, step, step::FLOWS6),
            step::FLOWS6 => take::<V6>(&mut round, step, step::BEGIN),
            step::RENEW4 => renew::<V4>(&mut round, step, step::RENEW6),
            step::RENEW6 => renew::<V6>(&mut round, step, step::BEGIN),
            _ => {
                begin(&mut round);
                if (&raw const (*sweep).complete).read_volatile() != 0
                    && push::<V4>(&end())
                    && push::<V6>(&end())
                {
                    step::FLOWS4
                } else {
                    (&raw mut (*sweep).complete).write_volatile(1);
                    step::RENEW4
                }
            }
        };
        let mut pause = PAUSE;
        if (*sweep).step == step::BEGIN {
            finish(&mut round);
            (*sweep).sweeps += 1;
            pause = u64::from(flows::config().map_or(DEFAULT_INTERVAL, |it| it.sweep_interval));
            pause *= SECOND;
        }
        let took = bpf_ktime_get_ns() - began;
        (*sweep).runs += 1;
        (*sweep).busy += took;
        if took > (*sweep).longest {
            (*sweep).longest = took;
        }
        bpf_timer_start(&raw mut (*sweeper).timer, pause, 0);
    }
    0
}

/// What the callbacks of one run share.
#[repr(C)]
struct Round {
    now: u32,
    /// Whether the sweep of this table is done.
    done: u32,
}

/// Marks the end of a sweep in the queue: no flow has protocol 0.
#[inline(always)]
fn end<A: Address>() -> FlowKey<A> {
    FlowKey::full(A::ANY, Be16::default(), A::ANY, Be16::default(), 0)
}

/// Begins to count, and sweeps what isn't answered.
#[inline(always)]
fn begin(round: &mut Round) {
    let context = (&raw mut *round).cast::<c_void>();
    // SAFETY: the callbacks take the context as it is given: a pointer to the
    // caller's stack.
    unsafe {
        let begin = share::begin_count as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const USAGE), begin, context, 0);
        let v4 = expire_pending::<V4Addr> as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const PENDING4), v4, context, 0);
        let v6 = expire_pending::<V6Addr> as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const PENDING6), v6, context, 0);
        let end = share::end_count_pending as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const USAGE), end, context, 0);
        let early = early::expire as *const () as *mut c_void;
        bpf_for_each_map_elem(map(&raw const EARLY), early, context, 0);
    }
}

/// Puts right what was counted wrongly.
#[inline(always)]
fn finish(round: &mut Round) {
    let end = share::end_count as *const () as *mut c_void;
    // SAFETY: as above.
    unsafe { bpf_for_each_map_elem(map(&raw const USAGE), end, (&raw mut *round).cast(), 0) };
}

/// Looks at some places of the queue. Gives the next step.
#[inline(always)]
fn take<F: Family>(round: &mut Round, step: u32, next: u32) -> u32 {
    let callback = take_one::<F> as *const () as *mut c_void;
    // SAFETY: as above.
    unsafe { bpf_loop(BATCH, callback, (&raw mut *round).cast(), 0) };
    // Written by the callback.
    // SAFETY: this stack.
    if unsafe { (&raw const round.done).read_volatile() } == 0 {
        step
    } else {
        next
    }
}

/// The callback of `bpf_loop`, which ends it by 1.
extern "C" fn take_one<F: Family>(_index: u32, round: *mut Round) -> c_long {
    let mut key = end::<F::Addr>();
    // SAFETY: the queue's type, and the context passed above.
    unsafe {
        if bpf_map_pop_elem(map(F::order()), (&raw mut key).cast()) != 0 || key.proto == 0 {
            (*round).done = 1;
            return 1;
        }
    }
    let place = key;
    key.pad = 0;
    let Some(entry) = flows::find::<F>(&key) else {
        return 0;
    };
    // SAFETY: a map value stays readable while the program runs.
    unsafe {
        if !place.is_place_of((*entry).tag) {
            return 0;
        }
        if is_over(entry, key.proto, (*round).now) {
            flows::remove::<F>(&key, entry);
        } else {
            share::found(&*entry, false);
            remember::<F>(&key, (*entry).tag);
        }
    }
    0
}

/// Empties the queue, some places at a time, and then fills it from the table.
/// Gives the next step.
#[inline(always)]
fn renew<F: Family>(round: &mut Round, step: u32, next: u32) -> u32 {
    let drop = drop_one::<F> as *const () as *mut c_void;
    let add = add_one::<F> as *const () as *mut c_void;
    let context = (&raw mut *round).cast::<c_void>();
    // SAFETY: as above.
    unsafe {
        bpf_loop(4 * BATCH, drop, context, 0);
        if (&raw const round.done).read_volatile() == 0 {
            return step;
        }
        bpf_for_each_map_elem(map(F::flows()), add, context, 0);
    }
    next
}

/// The callback of `bpf_loop`: takes a place out for good.
extern "C" fn drop_one<F: Family>(_index: u32, round: *mut Round) -> c_long {
    let mut key = end::<F::Addr>();
    // SAFETY: as above.
    unsafe {
        if bpf_map_pop_elem(map(F::order()), (&raw mut key).cast()) != 0 {
            (*round).done = 1;
            return 1;
        }
    }
    0
}

/// Called for each entry of the main table: gives it a place, or removes it
/// where its time is over.
extern "C" fn add_one<F: Family>(
    table: *mut c_void,
    key: *mut FlowKey<F::Addr>,
    flow: *mut Flow<F::Addr>,
    round: *mut Round,
) -> c_long {
    // SAFETY: the kernel gives a live entry and the context passed above.
    unsafe {
        if is_over(flow, (*key).proto, (*round).now) {
            share::removed(&*flow);
            bpf_map_delete_elem(table, key.cast());
        } else {
            share::found(&*flow, false);
            remember::<F>(&*key, (*flow).tag);
        }
    }
    0
}

/// Called for each entry that isn't answered: removes it where its time is
/// over, counts it otherwise.
extern "C" fn expire_pending<A: Address>(
    table: *mut c_void,
    key: *mut FlowKey<A>,
    flow: *mut Flow<A>,
    round: *mut Round,
) -> c_long {
    // SAFETY: as above.
    unsafe {
        if is_over(flow, (*key).proto, (*round).now) {
            bpf_map_delete_elem(table, key.cast());
        } else {
            share::found(&*flow, true);
        }
    }
    0
}

/// Whether an entry has outlived its timeout: that of its network, where it has
/// one of its own, which the entry is given. Packets give it the host's.
///
/// # Safety
/// Points to a live entry.
#[inline(always)]
unsafe fn is_over<A>(flow: *mut Flow<A>, proto: u8, now: u32) -> bool {
    // SAFETY: the caller's; packets write these fields whole.
    unsafe {
        let last_seen = (&raw const (*flow).last_seen).read_volatile();
        let mut timeout = (&raw const (*flow).timeout).read_volatile();
        let own = own_timeout(flow, proto);
        if own != 0 && own != timeout {
            timeout = own;
            (&raw mut (*flow).timeout).write_volatile(own);
        }
        is_expired(last_seen, timeout, now)
    }
}

/// What the network of the endpoint in whose share a flow counts has for a flow
/// in its state, or 0 where it has nothing of its own.
///
/// # Safety
/// Points to a live entry.
#[inline(always)]
unsafe fn own_timeout<A>(flow: *mut Flow<A>, proto: u8) -> u32 {
    let has_any = flows::config().is_some_and(|it| it.flags & config_flags::TIMES != 0);
    // SAFETY: the caller's; packets write the state whole.
    unsafe {
        if !has_any || (*flow).kind == flow_kind::HOST || (*flow).kind == flow_kind::HOST_OUT {
            return 0;
        }
        let Some(times) = TIMES.get_ptr(&(*flow).to.slot) else {
            return 0;
        };
        (*times).timeout(proto, (&raw const (*flow).state).read_volatile())
    }
}

/// A map as helpers take it.
#[inline(always)]
fn map<T>(map: *const T) -> *mut c_void {
    map.cast_mut().cast()
}
