//! Fragments that overtake their first one: they wait for it, as they came, and
//! then arrive again behind it (RFC 4787, REQ-14).
//!
//! They wait in groups of places. A group's places are taken in turn, the one
//! taken longest ago is given to the next fragment: memory and time are bounded
//! (REQ-14a), and a sender of lone fragments drives out those of its group
//! alone. Nothing of it needs the daemon.
//!
//! The first fragment is sent into this hook once more, before them: the
//! kernel keeps the order, and each takes the ordinary way.

use core::{
    arch::asm,
    ffi::{c_long, c_void},
};

use aya_ebpf::helpers::{bpf_loop, bpf_skb_load_bytes};
use netdp_common::{
    drop::DropReason,
    fragment,
    maps::{EARLY_FRAME, EARLY_GROUPS, EARLY_IN_GROUP, Early},
    packet::{Fragment, Packet},
};

use crate::{
    count,
    family::Family,
    maps::{EARLY, EARLY_GROUP},
    skb::{Skb, bounded},
};

const HALF: u32 = EARLY_GROUPS / 2;

/// The group for what this endpoint sends.
#[inline(always)]
pub const fn of_container(slot: u32) -> u32 {
    slot % HALF
}

/// The group for what comes from outside with these addresses.
#[inline(always)]
pub fn from_outside<F: Family>(packet: &Packet<F::Addr>) -> u32 {
    HALF + F::frag_key(packet).spread() % HALF
}

/// Keeps a later fragment until its first one comes; `only` where no other copy
/// is left. False where it can't be kept.
#[inline(always)]
pub fn hold<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    group: u32,
    now: u32,
    only: bool,
) -> bool {
    let key = F::frag_key(packet);
    if packet.fragment != Fragment::Later || !put(skb, key.tag(), group, now, only) {
        return false;
    }
    // Another CPU may have had the first meanwhile, and looked before this one
    // had put its own down: then it waits no longer.
    if let Some(known) = F::frags().get_ptr(key)
        // SAFETY: a map value stays readable while the program runs.
        && !fragment::is_done(unsafe { &*known }, now)
    {
        send_again(skb, key.tag(), group, now, 0);
    }
    true
}

/// Sends a first fragment and those that wait for it in again. False where none
/// waits: then the packet is as it was.
#[inline(always)]
pub fn release<F: Family>(skb: &Skb, packet: &Packet<F::Addr>, group: u32, now: u32) -> bool {
    if packet.fragment != Fragment::First {
        return false;
    }
    let Some(counters) = EARLY_GROUP.get_ptr(group) else {
        return false;
    };
    // SAFETY: a map value stays readable while the program runs.
    if unsafe { (&raw const (*counters).waiting).read_volatile() } == 0 {
        return false;
    }
    let tag = expect_again::<F>(packet, 1);
    let sent = send_again(skb, tag, group, now, skb.ifindex());
    if !sent {
        expect_again::<F>(packet, 0);
    }
    sent
}

/// Notes at a datagram whether its first fragment is to come once more, and
/// gives its tag.
#[inline(never)]
fn expect_again<F: Family>(packet: &Packet<F::Addr>, again: u32) -> u32 {
    let key = F::frag_key(packet);
    if let Some(known) = F::frags().get_ptr_mut(&key) {
        // SAFETY: a map value stays valid while the program runs; the field is
        // aligned and written whole.
        unsafe { (&raw mut (*known).again).write_volatile(again) };
    }
    key.tag()
}

/// A place of a group, counted from the one taken longest ago.
#[inline(always)]
fn place(group: u32, next: u64, index: u32) -> Option<*mut Early> {
    let turn = (next as u32).wrapping_add(index) % EARLY_IN_GROUP;
    EARLY.get_ptr_mut(group % EARLY_GROUPS * EARLY_IN_GROUP + turn)
}

#[inline(never)]
fn put(skb: &Skb, tag: u32, group: u32, now: u32, only: bool) -> bool {
    let length = skb.len();
    if length == 0 || length > EARLY_FRAME as u32 {
        return false;
    }
    let Some(counters) = EARLY_GROUP.get_ptr_mut(group) else {
        return false;
    };
    // SAFETY: map values stay valid while the program runs; of the place, only
    // who has made it busy reads and writes the rest.
    unsafe {
        let next = add(&raw mut (*counters).next, 1);
        let Some(early) = place(group, next, 0) else {
            return false;
        };
        if !enter(early) {
            return false;
        }
        if (*early).tag != 0 {
            forget(early, group);
        }
        let length = bounded::<{ EARLY_FRAME as u64 }>(length);
        let frame = (&raw mut (*early).frame).cast::<c_void>();
        let ret = bpf_skb_load_bytes(skb.as_ptr(), 0, frame, length);
        if ret == 0 {
            (*early).ifindex = skb.ifindex();
            (*early).since = now;
            (*early).length = length;
            (*early).only = only.into();
            (*early).tag = tag;
            add(&raw mut (*counters).waiting, 1);
        }
        leave(early);
        ret == 0
    }
}

/// What `again` needs, and whether it has found any.
struct Again<'a> {
    skb: &'a Skb,
    next: u64,
    tag: u32,
    group: u32,
    now: u32,
    /// Where the packet itself is to arrive again before the others; 0 for
    /// nowhere.
    first: u32,
    found: bool,
}

#[inline(never)]
fn send_again(skb: &Skb, tag: u32, group: u32, now: u32, first: u32) -> bool {
    let Some(counters) = EARLY_GROUP.get_ptr(group) else {
        return false;
    };
    let mut context = Again {
        skb,
        // SAFETY: a map value stays readable while the program runs.
        next: unsafe { (&raw const (*counters).next).read_volatile() },
        tag,
        group,
        now,
        first,
        found: false,
    };
    // SAFETY: the callback takes the context as it is given: a pointer to this
    // stack.
    unsafe {
        bpf_loop(
            EARLY_IN_GROUP,
            again as *const () as *mut c_void,
            (&raw mut context).cast(),
            0,
        );
    }
    context.found
}

/// Sends what lies at one place, if it is of the datagram: the callback of
/// `bpf_loop`.
extern "C" fn again(index: u32, context: *mut Again<'_>) -> c_long {
    // SAFETY: the context that `send_again` gives.
    let context = unsafe { &mut *context };
    let Some(early) = place(context.group, context.next, index) else {
        return 1;
    };
    // SAFETY: as in `put`.
    unsafe {
        if (&raw const (*early).tag).read_volatile() != context.tag || !enter(early) {
            return 0;
        }
        if (*early).tag == context.tag && !fragment::is_over((*early).since, context.now) {
            if context.first != 0 {
                context.skb.arrive_again(context.first);
                context.first = 0;
            }
            context.found = true;
            let frame = (&raw const (*early).frame).cast::<u8>();
            if context
                .skb
                .replace(frame, bounded::<{ EARLY_FRAME as u64 }>((*early).length))
                && context.skb.arrive_again((*early).ifindex)
            {
                (*early).only = 0;
            }
            forget(early, context.group);
        }
        leave(early);
    }
    0
}

/// Called for each place by the sweep: frees those whose time is over.
pub extern "C" fn expire(
    _map: *mut c_void,
    index: *mut u32,
    early: *mut Early,
    now: *mut u32,
) -> c_long {
    // SAFETY: the kernel gives a live value and its index, the sweep the second;
    // the place as in `put`.
    unsafe {
        if (&raw const (*early).tag).read_volatile() == 0
            || !fragment::is_over((&raw const (*early).since).read_volatile(), *now)
            || !enter(early)
        {
            return 0;
        }
        if (*early).tag != 0 && fragment::is_over((*early).since, *now) {
            forget(early, *index / EARLY_IN_GROUP);
        }
        leave(early);
    }
    0
}

/// Frees a place that this program has made busy.
///
/// # Safety
/// A live value.
#[inline(always)]
unsafe fn forget(early: *mut Early, group: u32) {
    // SAFETY: the caller's.
    unsafe {
        if (*early).only != 0 {
            count::dropped(DropReason::FragmentWithoutFirst);
        }
        (*early).tag = 0;
    }
    if let Some(counters) = EARLY_GROUP.get_ptr_mut(group) {
        // SAFETY: a map value stays valid while the program runs.
        unsafe { add(&raw mut (*counters).waiting, u64::MAX) };
    }
}

/// Makes a place busy; false where it is already. In softirqs, which are all
/// that comes here, another CPU has it for an instant only: not worth waiting.
///
/// # Safety
/// A live value.
#[inline(always)]
unsafe fn enter(early: *mut Early) -> bool {
    let mut busy = 1u64;
    // SAFETY: the caller's; `BPF_XCHG` (Linux 5.12) of an aligned word.
    unsafe {
        asm!(
            "{busy} = xchg_64({place} + 0, {busy})",
            place = in(reg) &raw mut (*early).busy,
            busy = inout(reg) busy,
            options(nostack),
        );
    }
    busy == 0
}

/// # Safety
/// A live value that this program has made busy.
#[inline(always)]
unsafe fn leave(early: *mut Early) {
    let mut busy = 0u64;
    // SAFETY: as in `enter`.
    unsafe {
        asm!(
            "{busy} = xchg_64({place} + 0, {busy})",
            place = in(reg) &raw mut (*early).busy,
            busy = inout(reg) busy,
            options(nostack),
        );
    }
    let _ = busy;
}

/// Adds atomically and gives what was there.
///
/// # Safety
/// Points into a live map value.
#[inline(always)]
unsafe fn add(counter: *mut u64, by: u64) -> u64 {
    let mut by = by;
    // SAFETY: the caller's; `BPF_FETCH` (Linux 5.12) of an aligned word.
    unsafe {
        asm!(
            "{by} = atomic_fetch_add((u64 *)({counter} + 0), {by})",
            counter = in(reg) counter,
            by = inout(reg) by,
            options(nostack),
        );
    }
    by
}
