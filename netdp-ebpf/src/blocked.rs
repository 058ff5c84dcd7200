//! Sources that are blocked: nothing of theirs that arrives by an uplink goes
//! any further, whether for a container or for the host.
//!
//! By tcx in any case; by the [driver](crate::driver) as well where the daemon has
//! attached the program.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::bpf_skb_load_bytes};
use netdp_common::{
    addr::Address as _,
    block::{BlockKey, BlockPlace},
    packet::ETH_LEN,
};

use crate::{family::Family, maps::BLOCKING, share, skb::Skb};

/// Whether a packet comes from a blocked source, which counts it then.
#[inline(always)]
pub fn is_source<F: Family>(skb: &Skb) -> bool {
    are_there() && look::<F>(skb, true)
}

/// The same without counting.
#[inline(always)]
pub fn is_known_source<F: Family>(skb: &Skb) -> bool {
    are_there() && look::<F>(skb, false)
}

/// Whether any source is blocked on this host. No lookup for the kernel: it
/// turns one in an array into a load.
#[inline(always)]
pub fn are_there() -> bool {
    BLOCKING.get(0).is_some_and(|any| *any != 0)
}

/// Reads the source by itself: what can't be parsed comes from it too.
#[inline(never)]
fn look<F: Family>(skb: &Skb, counts: bool) -> bool {
    let mut key = BlockKey::of_source(F::Addr::any());
    // SAFETY: the address lies on this stack and has the size given.
    let loaded = unsafe {
        bpf_skb_load_bytes(
            skb.as_ptr(),
            (ETH_LEN + F::SADDR) as u32,
            (&raw mut key.place.addr).cast(),
            size_of::<F::Addr>() as u32,
        )
    };
    if loaded != 0 {
        return false;
    }
    let Some(packets) = find::<F>(&key) else {
        return false;
    };
    if counts {
        add(packets);
    }
    true
}

/// The counter of the entry that blocks a source.
#[inline(always)]
pub fn find<F: Family>(key: &BlockKey<F::Addr>) -> Option<*mut u64> {
    // SAFETY: from `prefix` on a key of ours is laid out as one of the map's.
    let key = unsafe { &*(&raw const key.prefix).cast::<Key<BlockPlace<F::Addr>>>() };
    let packets = F::blocked().get(key)?;
    Some((&raw const *packets).cast_mut())
}

/// Counts a packet.
#[inline(always)]
pub fn add(packets: *mut u64) {
    // SAFETY: a map value stays readable while the program runs, and every CPU
    // adds atomically.
    unsafe { share::change(packets, 1) }
}
