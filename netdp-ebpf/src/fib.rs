//! The kernel's routes and neighbours, asked for the way of a packet.

use aya_ebpf::{
    bindings::{bpf_fib_lookup as FibParams, bpf_redir_neigh},
    helpers::{bpf_fib_lookup, bpf_redirect_neigh},
};
use netdp_common::{
    addr::{Address, Mac},
    packet::Tuple,
};

use crate::{
    family::{Aligned, Family},
    skb::Skb,
    verdict::Verdict,
};

/// What the FIB says about a destination.
pub struct Route<A> {
    pub ifindex: u32,
    pub nexthop: A,
    /// Own and next hop's MAC address; absent while the neighbour is unknown.
    pub macs: Option<(Mac, Mac)>,
}

/// Why the FIB gives no way that the programs can take.
pub enum Unroutable {
    /// No route, or one that forbids.
    NoRoute,
    /// The packet is larger than the link's MTU.
    TooBig,
}

/// `BPF_FIB_LKUP_RET_*` of `include/uapi/linux/bpf.h`.
const SUCCESS: i64 = 0;
const NO_NEIGH: i64 = 7;
const FRAG_NEEDED: i64 = 8;

/// Asks the FIB for the way to a packet's destination, as if it came in by this
/// interface. The link's `mtu` also comes of one that is too big for it.
#[inline(always)]
pub fn route<F: Family>(
    skb: &Skb,
    ifindex: u32,
    tuple: &Tuple<F::Addr>,
    mtu: &mut u32,
) -> Result<Route<F::Addr>, Unroutable> {
    // Of ::ffff:0:0/96 and the like the FIB knows nothing: a default route
    // would take them out.
    if tuple.daddr.is_link_local() || tuple.daddr.is_martian() {
        return Err(Unroutable::NoRoute);
    }
    // SAFETY: all bytes zero is a valid value of this struct of integers.
    let mut params: Aligned<FibParams> = unsafe { core::mem::zeroed() };
    F::ask(&mut params.0, tuple);
    params.0.ifindex = ifindex;
    // SAFETY: the struct lives on this stack and has the size given.
    let ret = unsafe {
        bpf_fib_lookup(
            skb.as_ptr(),
            &raw mut params.0,
            size_of::<FibParams>() as i32,
            0,
        )
    };
    let nexthop = F::nexthop(&params.0);
    // SAFETY: without a length given the helper leaves the MTU there.
    *mtu = u32::from(unsafe { params.0.__bindgen_anon_1.mtu_result });
    match ret {
        SUCCESS => Ok(Route {
            ifindex: params.0.ifindex,
            nexthop,
            macs: Some((params.0.smac, params.0.dmac)),
        }),
        NO_NEIGH => Ok(Route {
            ifindex: params.0.ifindex,
            nexthop,
            macs: None,
        }),
        FRAG_NEEDED => Err(Unroutable::TooBig),
        _ => Err(Unroutable::NoRoute),
    }
}

/// Asks the FIB which address of the host the route to a packet's destination
/// prefers; unspecified where there is no route, and before Linux 6.7.
#[inline(never)]
pub fn preferred_source<F: Family>(skb: &Skb, tuple: &Tuple<F::Addr>, to: &mut F::Addr) {
    /// `BPF_FIB_LOOKUP_SRC` of `include/uapi/linux/bpf.h`.
    const SOURCE: u32 = 1 << 4;
    // SAFETY: all bytes zero is a valid value of this struct of integers.
    let mut params: Aligned<FibParams> = unsafe { core::mem::zeroed() };
    F::ask(&mut params.0, tuple);
    params.0.ifindex = skb.ifindex();
    // SAFETY: the struct lives on this stack and has the size given.
    let ret = unsafe {
        bpf_fib_lookup(
            skb.as_ptr(),
            &raw mut params.0,
            size_of::<FibParams>() as i32,
            SOURCE,
        )
    };
    *to = match ret {
        SUCCESS | NO_NEIGH | FRAG_NEEDED => F::preferred(&params.0),
        _ => F::Addr::ANY,
    };
}

/// Sends the packet by way of the kernel's neighbour table, which resolves the
/// next hop, queueing the packet where it must.
#[inline(always)]
pub fn redirect_neigh<F: Family>(ifindex: u32, nexthop: F::Addr) -> Verdict {
    // SAFETY: all bytes zero is a valid value of this struct of integers.
    let mut params: Aligned<bpf_redir_neigh> = unsafe { core::mem::zeroed() };
    F::name_neighbour(&mut params.0, nexthop);
    // SAFETY: the struct lives on this stack and has the size given.
    let code = unsafe {
        bpf_redirect_neigh(
            ifindex,
            &raw mut params.0,
            size_of::<bpf_redir_neigh>() as i32,
            0,
        )
    };
    Verdict::Redirect(code as i32)
}
