//! What each endpoint has of the flow tables, so that one that opens flows
//! without end can't take the tables from the others.
//!
//! Conversations that an endpoint opens and those of the outside with its
//! published ports have a share each: however many clients a published port
//! has, its container can still open flows of its own. What is unanswered from
//! outside counts in no share: it is the outside that fills the LRU table, and
//! evicts its like.

use core::{
    arch::asm,
    ffi::{c_long, c_void},
};

use netdp_common::{
    drop::DropReason,
    maps::{Flow, Share, Usage, flow_kind},
    share::{self, drift},
};

use crate::{family::Family, flows, maps::USAGE};

/// Whether an endpoint may open one more flow. A flow that is opened has its
/// place in the main table already, so that its answer isn't refused.
#[inline(always)]
fn has_room(slot: u32) -> bool {
    let (Some(usage), Some(config)) = (USAGE.get_ptr(slot), flows::config()) else {
        return true;
    };
    // SAFETY: a map value stays readable while the program runs.
    let (flows, pending) = unsafe {
        (
            (&raw const (*usage).now.flows).read_volatile(),
            (&raw const (*usage).now.pending).read_volatile(),
        )
    };
    share::has_room(flows, pending, config)
}

/// Refuses one more flow of an endpoint where there is no room for it.
#[inline(always)]
pub fn check<F: Family>(slot: u32) -> Result<(), DropReason> {
    if !has_room(slot) {
        return Err(DropReason::EndpointLimit);
    }
    if !flows::have_room::<F>() {
        return Err(DropReason::TableFull);
    }
    Ok(())
}

/// Whether a published port of an endpoint may have one more entry.
#[inline(always)]
pub fn has_room_published(slot: u32) -> bool {
    let (Some(usage), Some(config)) = (USAGE.get_ptr(slot), flows::config()) else {
        return true;
    };
    // SAFETY: as above.
    let published = unsafe { (&raw const (*usage).now.published).read_volatile() };
    share::counted(published) < u64::from(config.flows_per_endpoint)
}

/// Whether an entry is one of the outside with a published port.
#[inline(always)]
pub fn is_of_published<A>(flow: &Flow<A>) -> bool {
    flow.kind == flow_kind::PUBLISHED && flow.to.ifindex == 0
}

/// A new entry in `pending`.
#[inline(always)]
pub fn expected<A>(flow: &Flow<A>) {
    if !is_of_published(flow) {
        add(flow, 0, 1);
    }
}

/// A new entry in the main table.
#[inline(always)]
pub fn established<A>(flow: &Flow<A>) {
    add(flow, 1, 0);
}

/// An entry has moved from `pending` to the main table.
#[inline(always)]
pub fn promoted<A>(flow: &Flow<A>) {
    add(flow, 1, 1u64.wrapping_neg());
}

/// An entry is about to leave the main table.
#[inline(always)]
pub fn removed<A>(flow: &Flow<A>) {
    add(flow, 1u64.wrapping_neg(), 0);
    if let Some(usage) = usage(flow) {
        // SAFETY: as in `add`.
        unsafe {
            if is_of_published(flow) {
                change(&raw mut (*usage).gone.published, 1);
            } else {
                change(&raw mut (*usage).gone.flows, 1);
            }
        }
    }
}

/// The same of one in `pending`.
#[inline(always)]
pub fn given_up<A>(flow: &Flow<A>) {
    if !is_of_published(flow) {
        add(flow, 0, 1u64.wrapping_neg());
    }
}

#[inline(always)]
fn add<A>(flow: &Flow<A>, main: u64, pending: u64) {
    if let Some(usage) = usage(flow) {
        // SAFETY: a map value stays valid while the program runs, and every
        // CPU adds atomically.
        unsafe {
            if is_of_published(flow) {
                change(&raw mut (*usage).now.published, main);
            } else {
                change(&raw mut (*usage).now.flows, main);
                change(&raw mut (*usage).now.pending, pending);
            }
        }
    }
}

/// The counters of the endpoint in whose share an entry counts: none for a
/// socket of the host.
#[inline(always)]
fn usage<A>(flow: &Flow<A>) -> Option<*mut Usage> {
    if flow.kind == flow_kind::HOST || flow.kind == flow_kind::HOST_OUT {
        return None;
    }
    USAGE.get_ptr_mut(flow.to.slot)
}

/// Adds atomically. `core` has nothing for it on a target without compare and
/// exchange; the instruction is as old as eBPF (`BPF_XADD`).
///
/// # Safety
/// Points into a live map value.
#[inline(always)]
pub unsafe fn change(counter: *mut u64, by: u64) {
    if by != 0 {
        // SAFETY: the caller's; an aligned word of a map value.
        unsafe {
            asm!(
                "lock *(u64 *)({counter} + 0) += {by}",
                counter = in(reg) counter,
                by = in(reg) by,
                options(nostack),
            );
        }
    }
}

/// The sweep has met a live entry.
#[inline(always)]
pub fn found<A>(flow: &Flow<A>, pending: bool) {
    let Some(usage) = usage(flow) else { return };
    // SAFETY: a map value stays valid while the program runs; only the sweep
    // writes what it has found.
    unsafe {
        let found = &raw mut (*usage).found;
        match (is_of_published(flow), pending) {
            (true, true) => {}
            (true, false) => (*found).published += 1,
            (false, true) => (*found).pending += 1,
            (false, false) => (*found).flows += 1,
        }
    }
}

/// Called for each endpoint's counters before the sweep: `(map, key, value,
/// context)`.
pub extern "C" fn begin_count(
    _map: *mut c_void,
    _key: *mut c_void,
    usage: *mut Usage,
    _round: *mut c_void,
) -> c_long {
    // SAFETY: the kernel gives a live value; each counter is read whole, and of
    // what others write, `gone` may lose what comes in this very moment.
    unsafe {
        (*usage).before = Share {
            flows: (&raw const (*usage).now.flows).read_volatile(),
            pending: (&raw const (*usage).now.pending).read_volatile(),
            published: (&raw const (*usage).now.published).read_volatile(),
        };
        (*usage).found = Share::default();
        (*usage).gone = Share::default();
    }
    0
}

/// The same once what isn't answered has been swept, in one go.
pub extern "C" fn end_count_pending(
    _map: *mut c_void,
    _key: *mut c_void,
    usage: *mut Usage,
    _round: *mut c_void,
) -> c_long {
    // SAFETY: as above.
    unsafe {
        let (found, before) = ((*usage).found.pending, (*usage).before.pending);
        let pending = &raw mut (*usage).now.pending;
        let now = pending.read_volatile();
        // What left meanwhile isn't counted by itself.
        let gone = (before as i64).wrapping_sub(now as i64).max(0) as u64;
        change(pending, drift(before, now, found, gone));
    }
    0
}

/// The same once the main table has been swept, in many steps.
pub extern "C" fn end_count(
    _map: *mut c_void,
    _key: *mut c_void,
    usage: *mut Usage,
    _round: *mut c_void,
) -> c_long {
    // SAFETY: as above.
    unsafe {
        let (found, before, gone) = ((*usage).found, (*usage).before, (*usage).gone);
        let now = &raw mut (*usage).now;
        let flows = &raw mut (*now).flows;
        change(
            flows,
            drift(before.flows, flows.read_volatile(), found.flows, gone.flows),
        );
        let published = &raw mut (*now).published;
        change(
            published,
            drift(
                before.published,
                published.read_volatile(),
                found.published,
                gone.published,
            ),
        );
    }
    0
}
