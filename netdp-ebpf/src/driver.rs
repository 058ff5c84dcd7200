//! XDP in the driver of an uplink: drops what tcx would drop in any case, before
//! the kernel has made a packet of its own for it.
//!
//! Attached where it helps and there is something to drop.

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_DROP, XDP_PASS},
    programs::XdpContext,
};
use netdp_common::{
    addr::{Address as _, Mac},
    block::BlockKey,
    drop::DropReason,
    packet::{Bytes, ETH_LEN, V4, V6, Wire, ethertype},
};

use crate::{blocked, count, family::Family, limit, maps::UPLINKS};

/// A frame without what tags are between its Ethernet header and the network's.
pub struct Untagged<'a> {
    ctx: &'a XdpContext,
    /// Bytes of them.
    tags: usize,
}

impl Bytes for Untagged<'_> {
    #[inline(always)]
    fn read<T: Wire>(&self, offset: usize) -> Option<T> {
        let start = self.ctx.data() + self.tags + offset;
        if start + size_of::<T>() > self.ctx.data_end() {
            return None;
        }
        // SAFETY: checked against data_end, and any bytes are valid.
        Some(unsafe { (start as *const T).read_unaligned() })
    }
}

/// Whatever isn't to be dropped passes, and meets the other programs.
#[inline(always)]
pub fn block(ctx: &XdpContext) -> u32 {
    /// Tags of VLANs, by which 802.1Q and 802.1ad say so.
    const VLAN: u16 = 0x8100;
    const SERVICE_VLAN: u16 = 0x88a8;
    const TAG: usize = 4;
    const VID: u16 = 0xfff;

    let Some(kind) = word(ctx, ETH_LEN - 2) else {
        return XDP_PASS;
    };
    let judged = match kind {
        ethertype::IPV4 => judge::<V4>(ctx, 0),
        ethertype::IPV6 => judge::<V6>(ctx, 0),
        // That of VLAN 0 says no more than a priority; any other is another
        // interface's frame, as in `Skb::is_for_interface`.
        VLAN | SERVICE_VLAN => match (word(ctx, ETH_LEN), word(ctx, ETH_LEN + TAG - 2)) {
            (Some(tag), Some(ethertype::IPV4)) if tag & VID == 0 => judge::<V4>(ctx, TAG),
            (Some(tag), Some(ethertype::IPV6)) if tag & VID == 0 => judge::<V6>(ctx, TAG),
            _ => None,
        },
        _ => None,
    };
    match judged {
        Some(reason) => {
            count::dropped(reason);
            XDP_DROP
        }
        None => XDP_PASS,
    }
}

/// Why a frame for this host, in which so many bytes are between the Ethernet
/// header and the network's, is to be dropped.
#[inline(always)]
fn judge<F: Family>(ctx: &XdpContext, tags: usize) -> Option<DropReason> {
    let frame = Untagged { ctx, tags };
    if blocked::are_there() && is_blocked::<F>(&frame) {
        return Some(DropReason::BlockedSource);
    }
    if limit::is_set() && limit::is_exceeded::<F>(&frame, || is_for_interface(ctx)) {
        return Some(DropReason::SourceLimit);
    }
    None
}

/// Whether its source is blocked, which counts it then.
#[inline(always)]
fn is_blocked<F: Family>(frame: &Untagged<'_>) -> bool {
    let ctx = frame.ctx;
    let start = ctx.data() + ETH_LEN + frame.tags + F::SADDR;
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
    let Some(packets) = blocked::find::<F>(&key) else {
        return false;
    };
    if !macs(ctx).is_some_and(|(to, own)| is_for_many(to) || to == own) {
        return false;
    }
    blocked::add(packets);
    true
}

/// Whether a frame is for the uplink alone. No published port is for many: tcx
/// leaves those frames to the stack.
#[inline(always)]
fn is_for_interface(ctx: &XdpContext) -> bool {
    macs(ctx).is_some_and(|(to, own)| to == own)
}

/// Whether an address is that of many interfaces.
#[inline(always)]
fn is_for_many(to: Mac) -> bool {
    to[0] & 1 != 0
}

/// Where a frame goes, and the address of the uplink: others' frames come along
/// where it hears all, as for macvlan. None where it is no uplink.
#[inline(always)]
fn macs(ctx: &XdpContext) -> Option<(Mac, Mac)> {
    // SAFETY: the context is valid while the program runs.
    let ifindex = unsafe { (*ctx.as_ptr().cast::<aya_ebpf::bindings::xdp_md>()).ingress_ifindex };
    let uplink = UPLINKS.get_ptr(ifindex)?;
    let start = ctx.data();
    if start + size_of::<Mac>() > ctx.data_end() {
        return None;
    }
    // SAFETY: checked against data_end; a map value stays readable while the
    // program runs.
    Some(unsafe { (*(start as *const Mac), (*uplink).mac) })
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
