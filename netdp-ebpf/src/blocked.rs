//! Sources that are blocked: nothing of theirs that arrives by an uplink goes
//! any further, whether for a container or for the host.
//!
//! By tcx in any case; by the driver as well where the daemon has attached
//! [`at_driver`], which spares the making of a packet for the stack.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    btf_maps::lpm_trie::Key,
    helpers::bpf_skb_load_bytes,
    programs::XdpContext,
};
use netdp_common::{
    addr::{Address as _, Mac},
    block::{BlockKey, BlockPlace},
    drop::DropReason,
    packet::{ETH_LEN, V4, V6, ethertype},
};

use crate::{
    count,
    family::Family,
    maps::{BLOCKING, UPLINKS},
    share,
    skb::Skb,
};

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

#[inline(always)]
fn find<F: Family>(key: &BlockKey<F::Addr>) -> Option<*mut u64> {
    // SAFETY: from `prefix` on a key of ours is laid out as one of the map's.
    let key = unsafe { &*(&raw const key.prefix).cast::<Key<BlockPlace<F::Addr>>>() };
    let packets = F::blocked().get(key)?;
    Some((&raw const *packets).cast_mut())
}

#[inline(always)]
fn add(packets: *mut u64) {
    // SAFETY: a map value stays readable while the program runs, and every CPU
    // adds atomically.
    unsafe { share::change(packets, 1) }
}

/// XDP in the driver of an uplink. Whatever isn't to be dropped passes, and
/// meets the other programs.
#[inline(always)]
pub fn at_driver(ctx: &XdpContext) -> u32 {
    /// Tags of VLANs, by which 802.1Q and 802.1ad say so.
    const VLAN: u16 = 0x8100;
    const SERVICE_VLAN: u16 = 0x88a8;
    const TAG: usize = 4;
    const VID: u16 = 0xfff;

    let Some(kind) = word(ctx, ETH_LEN - 2) else {
        return XDP_PASS;
    };
    let is_blocked = match kind {
        ethertype::IPV4 => judge::<V4>(ctx, 0),
        ethertype::IPV6 => judge::<V6>(ctx, 0),
        // That of VLAN 0 says no more than a priority; any other is another
        // interface's frame, as in `Skb::is_for_interface`.
        VLAN | SERVICE_VLAN => match (word(ctx, ETH_LEN), word(ctx, ETH_LEN + TAG - 2)) {
            (Some(tag), Some(ethertype::IPV4)) if tag & VID == 0 => judge::<V4>(ctx, TAG),
            (Some(tag), Some(ethertype::IPV6)) if tag & VID == 0 => judge::<V6>(ctx, TAG),
            _ => false,
        },
        _ => false,
    };
    if !is_blocked {
        return XDP_PASS;
    }
    count::dropped(DropReason::BlockedSource);
    XDP_DROP
}

/// Whether a frame, in which so many bytes are between the Ethernet header and
/// the network's, is for this host and from a blocked source.
#[inline(always)]
fn judge<F: Family>(ctx: &XdpContext, tags: usize) -> bool {
    let start = ctx.data() + ETH_LEN + tags + F::SADDR;
    let length = size_of::<F::Addr>();
    if start + length > ctx.data_end() {
        return false;
    }
    let mut key = BlockKey::of_source(F::Addr::any());
    let to = (&raw mut key.place.addr).cast::<u32>();
    for word in 0..length / size_of::<u32>() {
        // SAFETY: checked against data_end; words of an address. With the two
        // bytes that drivers leave before the frame both families' are aligned
        // (`NET_IP_ALIGN`), and where they aren't the CPU reads them anyway.
        unsafe {
            let from = (start as *const u32).add(word);
            to.add(word).write_volatile(from.read_volatile());
        }
    }
    let Some(packets) = find::<F>(&key) else {
        return false;
    };
    if !is_for_interface(ctx) {
        return false;
    }
    add(packets);
    true
}

/// Whether a frame is for the uplink, or for many: others' come along where it
/// hears all, as for macvlan.
#[inline(always)]
fn is_for_interface(ctx: &XdpContext) -> bool {
    // SAFETY: the context is valid while the program runs.
    let ifindex = unsafe { (*ctx.as_ptr().cast::<aya_ebpf::bindings::xdp_md>()).ingress_ifindex };
    let Some(uplink) = UPLINKS.get_ptr(ifindex) else {
        return false;
    };
    let start = ctx.data();
    if start + size_of::<Mac>() > ctx.data_end() {
        return false;
    }
    // SAFETY: checked against data_end; a map value stays readable while the
    // program runs.
    let (to, own) = unsafe { (*(start as *const Mac), (*uplink).mac) };
    to[0] & 1 != 0 || to == own
}

/// 16 bits of the frame, in host order.
#[inline(always)]
fn word(ctx: &XdpContext, offset: usize) -> Option<u16> {
    let start = ctx.data() + offset;
    if start + size_of::<u16>() > ctx.data_end() {
        return None;
    }
    // SAFETY: checked against data_end.
    Some(u16::from_be_bytes(unsafe { *(start as *const [u8; 2]) }))
}
