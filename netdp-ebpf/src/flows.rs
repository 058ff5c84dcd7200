//! The flow tables: finding, touching, making and promoting entries.
//!
//! `flows` holds conversations: both sides have spoken. It is never LRU.
//! `pending` holds what is not answered yet, in a small LRU table, so that a
//! flood of one-sided packets evicts only its like.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::{bpf_get_prandom_u32, bpf_ktime_get_coarse_ns},
};
use netdp_common::{
    clock,
    drop::DropReason,
    flow, fragment,
    maps::{Config, Flow, FlowKey},
    packet::{Fragment, Packet},
    share::may_have_room,
    tcp::Direction,
};

use crate::{
    atomic,
    family::Family,
    maps::{CONFIG, FULL},
    share, sweep,
};

/// Second of `CLOCK_MONOTONIC`, as exact as the kernel's tick.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: no arguments.
    clock::seconds(unsafe { bpf_ktime_get_coarse_ns() })
}

/// What the daemon has set, or the defaults before it has.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    CONFIG.get(0)
}

/// An entry of one of the two tables.
pub type Entry<A> = *mut Flow<A>;

/// Room for an entry in the making: the stack, which all functions share, has
/// none for it. Nothing only where the kernel has no such map.
#[inline(always)]
pub fn scratch<F: Family>() -> Option<&'static mut Flow<F::Addr>> {
    let scratch = F::scratch().get_ptr_mut(0)?;
    // SAFETY: this CPU's own value; tcx programs run with softirqs disabled
    // and don't interrupt each other.
    Some(unsafe { &mut *scratch })
}

/// [`flow_kind`] of an entry.
#[inline(always)]
pub fn kind<A>(entry: Entry<A>) -> u8 {
    // SAFETY: a map value stays readable while the program runs (RCU).
    unsafe { (*entry).kind }
}

/// State of an entry; another CPU may change it at any time.
#[inline(always)]
pub fn state<A>(entry: Entry<A>) -> u8 {
    // SAFETY: as above.
    unsafe { (&raw const (*entry).state).read_volatile() }
}

#[inline(always)]
pub fn find<F: Family>(key: &FlowKey<F::Addr>) -> Option<Entry<F::Addr>> {
    F::flows().get_ptr_mut(key)
}

#[inline(always)]
pub fn find_pending<F: Family>(key: &FlowKey<F::Addr>) -> Option<Entry<F::Addr>> {
    F::pending().get_ptr_mut(key)
}

/// An entry of the main table or, where there is none, a pending one.
#[inline(always)]
pub fn find_either<F: Family>(key: &FlowKey<F::Addr>) -> Option<Entry<F::Addr>> {
    match find::<F>(key) {
        Some(entry) => Some(entry),
        None => find_pending::<F>(key),
    }
}

/// Notes a packet: its state and the time. Writes only what changes, and the
/// time once a second. Gives the state after the packet.
#[inline(always)]
pub fn touch<F: Family>(
    entry: Entry<F::Addr>,
    packet: &Packet<F::Addr>,
    direction: Direction,
) -> u8 {
    let next = flow::next_state(state(entry), packet.transport, direction);
    note::<F>(entry, packet.proto, next, now());
    next
}

/// Notes the state after a packet of this second.
#[inline(always)]
pub fn note<F: Family>(entry: Entry<F::Addr>, proto: u8, next: u8, now: u32) {
    // SAFETY: the value stays valid while the program runs; its fields are
    // aligned, read and written whole, and any interleaving with another CPU
    // leaves one of the two values.
    unsafe {
        if (&raw const (*entry).state).read_volatile() != next {
            (&raw mut (*entry).state).write_volatile(next);
            if let Some(config) = config() {
                let timeout = flow::timeout(config, proto, next);
                (&raw mut (*entry).timeout).write_volatile(timeout);
            }
        }
        if (&raw const (*entry).last_seen).read_volatile() != now {
            (&raw mut (*entry).last_seen).write_volatile(now);
        }
    }
}

/// Whether no packet of this second has been noted at an entry yet: what is to
/// be looked at now and then is looked at with that one.
#[inline(always)]
pub fn is_due<A>(entry: Entry<A>) -> bool {
    // SAFETY: as above.
    unsafe { (&raw const (*entry).last_seen).read_volatile() != now() }
}

/// Fills in state and times of a new entry.
#[inline(always)]
pub fn begin<F: Family>(value: &mut Flow<F::Addr>, packet: &Packet<F::Addr>, direction: Direction) {
    value.state = flow::next_state(0, packet.transport, direction);
    value.last_seen = now();
    value.timeout = config().map_or(0, |config| flow::timeout(config, packet.proto, value.state));
}

/// Makes an entry for what isn't answered yet, or renews it.
#[inline(always)]
pub fn expect<F: Family>(key: &FlowKey<F::Addr>, value: &Flow<F::Addr>) -> Result<(), DropReason> {
    F::pending()
        .insert(key, value, u64::from(BPF_ANY))
        .map_err(|_| DropReason::TableFull)
}

/// The same, unless there is an entry already.
#[inline(always)]
pub fn claim<F: Family>(key: &FlowKey<F::Addr>, value: &Flow<F::Addr>) -> bool {
    F::pending()
        .insert(key, value, u64::from(BPF_NOEXIST))
        .is_ok()
}

/// Enters a conversation into the main table.
///
/// # Errors
/// [`DropReason::TableFull`]: old conversations are never evicted for it.
#[inline(always)]
pub fn establish<F: Family>(
    key: &FlowKey<F::Addr>,
    value: &mut Flow<F::Addr>,
) -> Result<(), DropReason> {
    // SAFETY: no arguments.
    value.tag = unsafe { bpf_get_prandom_u32() };
    if F::flows().insert(key, &*value, u64::from(BPF_ANY)).is_err() {
        if let Some(full) = FULL.get_ptr_mut(F::FULL) {
            // SAFETY: a whole second, written by any CPU.
            unsafe { atomic::set(full, now()) };
        }
        return Err(DropReason::TableFull);
    }
    sweep::remember::<F>(key, value.tag);
    Ok(())
}

/// Takes a conversation out of the main table before its time is over.
#[inline(always)]
pub fn remove<F: Family>(key: &FlowKey<F::Addr>, entry: Entry<F::Addr>) {
    // SAFETY: a map value stays readable while the program runs.
    share::removed(unsafe { &*entry });
    let _ = F::flows().remove(key);
}

/// Moves an answered entry from `pending` to the main table. Where that is full
/// the entry stays.
#[inline(always)]
pub fn promote<F: Family>(
    key: &FlowKey<F::Addr>,
    entry: Entry<F::Addr>,
    packet: &Packet<F::Addr>,
    direction: Direction,
) -> Result<(), DropReason> {
    F::promote(key, entry, packet, direction).result()?;
    Ok(())
}

/// Gives up an entry whose answer there was no room for, so that its sender is
/// told when it tries again.
#[inline(always)]
pub fn end_without_room<F: Family>(
    key: &FlowKey<F::Addr>,
    answered: Result<(), DropReason>,
) -> Result<(), DropReason> {
    if answered == Err(DropReason::TableFull) {
        F::forget(key);
    }
    answered
}

/// The same, for [`alone`](crate::alone).
#[inline(always)]
pub fn promote_alone<F: Family>(
    key: &FlowKey<F::Addr>,
    entry: Entry<F::Addr>,
    packet: &Packet<F::Addr>,
    direction: Direction,
) -> Result<(), DropReason> {
    let value = scratch::<F>().ok_or(DropReason::HelperFailed)?;
    // SAFETY: a map value stays readable while the program runs; scratch is
    // another map's.
    unsafe { core::ptr::copy_nonoverlapping(entry, value, 1) };
    // Meanwhile LRU may have given its place to another flow.
    if value.tag != key.tag() {
        return Err(DropReason::NoFlow);
    }
    value.state = flow::next_state(value.state, packet.transport, direction);
    value.last_seen = now();
    if let Some(config) = config() {
        value.timeout = flow::timeout(config, packet.proto, value.state);
    }
    if share::is_of_published(value) && !share::has_room_published(value.to.slot) {
        // It works from where it is, for as long as the LRU table has room.
        touch::<F>(entry, packet, direction);
        return Ok(());
    }
    establish::<F>(key, value)?;
    let _ = F::pending().remove(key);
    share::promoted(value);
    Ok(())
}

/// Whether the main table may have room for a flow that is about to begin.
#[inline(always)]
pub fn have_room<F: Family>() -> bool {
    match FULL.get(F::FULL) {
        Some(&full) => may_have_room(full, now()),
        None => true,
    }
}

/// Gives up an entry, wherever it is.
#[inline(always)]
pub fn forget<F: Family>(key: &FlowKey<F::Addr>) {
    F::forget(key);
}

/// The same, for [`alone`](crate::alone).
#[inline(always)]
pub fn forget_alone<F: Family>(key: &FlowKey<F::Addr>) {
    if let Some(entry) = find::<F>(key) {
        remove::<F>(key, entry);
    }
    if let Some(entry) = find_pending::<F>(key) {
        // SAFETY: a map value stays readable while the program runs.
        share::given_up(unsafe { &*entry });
        let _ = F::pending().remove(key);
    }
}

/// Gives a later fragment the ports of its first, and remembers those of a
/// first one. Later fragments of unknown datagrams are refused; what
/// [`netdp_common::fragment::check`] refuses is left to the caller, who knows
/// whose packet it is.
#[inline(never)]
pub fn reassemble<F: Family>(packet: &mut Packet<F::Addr>, now: u32) -> Result<(), DropReason> {
    match packet.fragment {
        Fragment::First => {
            let key = F::frag_key(packet);
            if let Some(known) = F::frags().get_ptr(&key)
                // SAFETY: a map value stays readable while the program runs.
                && fragment::is_repeated(unsafe { &*known }, now)
            {
                packet.fragment = Fragment::Overlapping;
                return Ok(());
            }
            F::frags()
                .insert(&key, fragment::begin(packet, now), u64::from(BPF_ANY))
                .map_err(|_| DropReason::HelperFailed)
        }
        Fragment::Later => {
            let known = F::frags()
                .get_ptr_mut(F::frag_key(packet))
                .ok_or(DropReason::FragmentWithoutFirst)?;
            // SAFETY: a map value stays readable while the program runs. Its
            // fields are written whole: where two CPUs have fragments of one
            // datagram at once, one of the two may be forgotten.
            unsafe {
                let mut next = known.read();
                if fragment::is_done(&next, now) {
                    return Err(DropReason::FragmentWithoutFirst);
                }
                packet.tuple.sport = next.sport;
                packet.tuple.dport = next.dport;
                packet.proto = next.proto as u8;
                packet.fragment = fragment::add(&mut next, packet);
                (&raw mut (*known).seen).write_volatile(next.seen);
                (&raw mut (*known).total).write_volatile(next.total);
                (&raw mut (*known).island).write_volatile(next.island);
                (&raw mut (*known).island_end).write_volatile(next.island_end);
            }
            Ok(())
        }
        Fragment::Whole | Fragment::Tiny | Fragment::Overlapping => Ok(()),
    }
}
