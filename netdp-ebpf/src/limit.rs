//! How many conversations a source outside may begin with published ports.
//!
//! tcx takes from the source's bucket; the [driver](crate::driver) only looks
//! whether it is empty, so that nothing counts twice. A segment of TCP begins a
//! conversation by its SYN alone. A datagram may be of a conversation that needs
//! no flow entry, so those that were let through are known by themselves.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_NOEXIST},
    helpers::bpf_ktime_get_coarse_ns,
};
use netdp_common::{
    addr::{Address as _, proto},
    drop::DropReason,
    limit::{self, Limit},
    maps::FlowKey,
    packet::{Bytes, ETH_LEN, Packet, Transport},
    rules,
};

use crate::{atomic, driver::Untagged, family::Family, flows, maps::LIMIT, ports};

/// Whether there is a limit. No lookup for the kernel: it turns one in an array
/// into a load.
#[inline(always)]
pub fn is_set() -> bool {
    LIMIT.get(0).is_some_and(Limit::is_set)
}

/// Refuses a packet for a published port that begins one conversation too many.
#[inline(always)]
pub fn check<F: Family>(packet: &Packet<F::Addr>) -> Result<(), DropReason> {
    if is_set() && !is_let_in::<F>(packet) {
        return Err(DropReason::SourceLimit);
    }
    Ok(())
}

/// A function of its own: the keys have no place on the caller's stack.
#[inline(never)]
fn is_let_in<F: Family>(packet: &Packet<F::Addr>) -> bool {
    if packet.proto != proto::UDP {
        return !packet.transport.is_syn() || take::<F>(&packet.tuple.saddr);
    }
    let key = packet.tuple.received(proto::UDP);
    if goes_on::<F>(&key) {
        return true;
    }
    // A later fragment comes after its first one, or not at all.
    if packet.transport != Transport::Udp || !take::<F>(&packet.tuple.saddr) {
        return false;
    }
    // Where there is no room the next datagram counts as well.
    let _ = F::heard().insert(&key, &flows::now(), u64::from(BPF_ANY));
    true
}

/// Whether a datagram is of a conversation that was let through, and notes it.
#[inline(always)]
fn goes_on<F: Family>(key: &FlowKey<F::Addr>) -> bool {
    let Some(last) = F::heard().get_ptr_mut(key) else {
        return false;
    };
    let now = flows::now();
    // SAFETY: a map value stays valid while the program runs; it is aligned, read
    // and written whole.
    unsafe {
        let before = last.read_volatile();
        if !flows::config().is_some_and(|config| limit::goes_on(before, now, config.udp)) {
            return false;
        }
        if !limit::is_ahead(before, now) {
            last.write_volatile(now);
        }
    }
    true
}

/// Takes a token from the bucket of a source.
#[inline(always)]
fn take<F: Family>(addr: &F::Addr) -> bool {
    let Some(limit) = LIMIT.get(0) else {
        return true;
    };
    let source = addr.source();
    let now = now();
    if let Some(bucket) = F::buckets().get_ptr_mut(&source) {
        return take_from(bucket, limit, now);
    }
    let full = limit.take(0, now);
    if F::buckets()
        .insert(&source, &full, u64::from(BPF_NOEXIST))
        .is_ok()
    {
        return true;
    }
    // Another CPU was first. Where there is no room for its bucket, a source isn't
    // limited.
    F::buckets()
        .get_ptr_mut(&source)
        .is_none_or(|bucket| take_from(bucket, limit, now))
}

/// The same from a bucket in the table.
#[inline(always)]
fn take_from(bucket: *mut u64, limit: &Limit, now: u64) -> bool {
    /// Of two CPUs that do nothing else, one packet in 20,000 needs a third.
    const TRIES: u32 = 4;

    // Again where another CPU took a token in between. Where that happens each time
    // there are tokens: one more begins then.
    for _ in 0..TRIES {
        // SAFETY: as above.
        let before = unsafe { bucket.read_volatile() };
        let full = limit.take(before, now);
        if full == 0 {
            return false;
        }
        // SAFETY: as above.
        if unsafe { atomic::exchange(bucket, before, full) } == before {
            return true;
        }
    }
    true
}

/// Nanoseconds, as exact as the kernel's tick.
#[inline(always)]
fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// Whether tcx would refuse a frame of this uplink, for which nothing is taken.
/// What has options, extension headers or fragments is left to it, and so is what
/// is for a container's own address or may be of a container's own conversation.
#[inline(always)]
pub fn is_exceeded<F: Family>(
    frame: &Untagged<'_>,
    is_for_interface: impl FnOnce() -> bool,
) -> bool {
    /// Where a TCP header has its flags, in bytes.
    const FLAGS: usize = 13;

    let Some((proto, tuple)) = F::glance(frame) else {
        return false;
    };
    if proto == proto::TCP {
        let flags = frame.read(ETH_LEN + F::LENGTH + FLAGS);
        if !flags.is_some_and(|[flags]: [u8; 1]| Transport::Tcp(flags).is_syn()) {
            return false;
        }
    }
    let key = tuple.received(proto);
    is_empty::<F>(&key.remote)
        && is_for_interface()
        && is_published::<F>(&key)
        && (proto == proto::TCP || !goes_on::<F>(&key))
}

/// Whether a source's bucket has no token.
#[inline(always)]
fn is_empty<F: Family>(addr: &F::Addr) -> bool {
    let (Some(limit), Some(bucket)) = (LIMIT.get(0), F::buckets().get_ptr(&addr.source())) else {
        return false;
    };
    // SAFETY: as above.
    limit.take(unsafe { bucket.read_volatile() }, now()) == 0
}

/// Whether a port of the host is published, and no flow of a container has it too.
#[inline(never)]
fn is_published<F: Family>(key: &FlowKey<F::Addr>) -> bool {
    let Some(found) = ports::mapping_of::<F>(&key.local, key.local_port, key.proto) else {
        return false;
    };
    // SAFETY: a map value stays readable while the program runs.
    let mapping = unsafe { &*found };
    mapping.shared == 0
        && (rules::is_way_back(mapping, key.local) || F::locals().get_ptr(&key.local).is_some())
}
