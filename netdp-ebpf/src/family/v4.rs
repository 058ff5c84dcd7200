//! IPv4 in the kernel.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::bindings::{
    bpf_fib_lookup as FibParams, bpf_redir_neigh,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as SockTuple,
};
use netdp_common::{
    addr::{Address as _, Be16, V4Addr},
    drop::DropReason,
    icmp::{self, Answer, Quote},
    maps::{Endpoint, Uplink, endpoint_flags, uplink_flags},
    nat,
    packet::{Bytes, ETH_LEN, Packet, Tuple, V4},
};

use super::{Aligned, Family, has_socket};
use crate::{
    maps::{
        ADDRS4, ALLOW4, Addrs, Allowed, BACK_RANGES4, BACK4, BLOCKED4, BUCKETS4, BackRanges, Backs,
        Blocked, Buckets, CALLS4, CLIENTS4, Calls, Clients, FLOWS4, FRAGS4, Flows, Frags, HEARD4,
        Heard, KNOWN4, KnownPlaces, LINKS4, LOCAL4, Links, Locals, MEMBERS4, Members, ORDER4,
        OTHERS4, Order, Others, PATHS4, PENDING4, PORTS4, Paths, Pending, Ports, RANGES4, Ranges,
        SCRATCH4, SOCKS4, Scratch, Socks,
    },
    skb::{Copied, Skb},
};

/// `AF_INET` of `include/linux/socket.h`.
const AF_INET: u8 = 2;

impl Family for V4 {
    const STACK_ANSWERS: bool = true;
    const ROUTED: u16 = endpoint_flags::ROUTED4;
    const FULL: u32 = 0;
    const NEXT: usize = 9;
    const SADDR: usize = 12;
    const LENGTH: usize = 20;

    #[inline(always)]
    fn addrs() -> &'static Addrs<V4Addr> {
        &ADDRS4
    }
    #[inline(always)]
    fn ports() -> &'static Ports<V4Addr> {
        &PORTS4
    }
    #[inline(always)]
    fn backs() -> &'static Backs<V4Addr> {
        &BACK4
    }
    #[inline(always)]
    fn locals() -> &'static Locals<V4Addr> {
        &LOCAL4
    }
    #[inline(always)]
    fn members() -> &'static Members<V4Addr> {
        &MEMBERS4
    }
    #[inline(always)]
    fn links() -> &'static Links<V4Addr> {
        &LINKS4
    }
    #[inline(always)]
    fn others() -> &'static Others<V4Addr> {
        &OTHERS4
    }
    #[inline(always)]
    fn ranges() -> &'static Ranges<V4Addr> {
        &RANGES4
    }
    #[inline(always)]
    fn back_ranges() -> &'static BackRanges<V4Addr> {
        &BACK_RANGES4
    }
    #[inline(always)]
    fn allowed() -> &'static Allowed<V4Addr> {
        &ALLOW4
    }
    #[inline(always)]
    fn blocked() -> &'static Blocked<V4Addr> {
        &BLOCKED4
    }
    #[inline(always)]
    fn buckets() -> &'static Buckets<V4Addr> {
        &BUCKETS4
    }
    #[inline(always)]
    fn heard() -> &'static Heard<V4Addr> {
        &HEARD4
    }
    #[inline(always)]
    fn flows() -> &'static Flows<V4Addr> {
        &FLOWS4
    }
    #[inline(always)]
    fn pending() -> &'static Pending<V4Addr> {
        &PENDING4
    }
    #[inline(always)]
    fn order() -> &'static Order<V4Addr> {
        &ORDER4
    }
    #[inline(always)]
    fn frags() -> &'static Frags<V4Addr> {
        &FRAGS4
    }
    #[inline(always)]
    fn calls() -> &'static Calls<V4Addr> {
        &CALLS4
    }
    #[inline(always)]
    fn socks() -> &'static Socks<V4Addr> {
        &SOCKS4
    }
    #[inline(always)]
    fn clients() -> &'static Clients<V4Addr> {
        &CLIENTS4
    }
    #[inline(always)]
    fn paths() -> &'static Paths<V4Addr> {
        &PATHS4
    }
    #[inline(always)]
    fn known() -> &'static KnownPlaces<V4Addr> {
        &KNOWN4
    }
    #[inline(always)]
    fn scratch() -> &'static Scratch<V4Addr> {
        &SCRATCH4
    }

    #[inline(always)]
    fn address(endpoint: &Endpoint) -> V4Addr {
        endpoint.addr4
    }
    #[inline(always)]
    fn gateway(endpoint: &Endpoint) -> V4Addr {
        endpoint.gateway4
    }
    #[inline(always)]
    fn external(uplink: &Uplink) -> V4Addr {
        uplink.addr4
    }
    #[inline(always)]
    fn source(endpoint: &Endpoint) -> V4Addr {
        endpoint.source4
    }
    #[inline(always)]
    fn is_by_route(uplink: &Uplink) -> bool {
        uplink.flags & uplink_flags::BY_ROUTE4 != 0
    }
    #[inline(always)]
    fn gateway_of(uplink: &Uplink) -> V4Addr {
        uplink.gateway4
    }
    #[inline(always)]
    fn is_on_link(uplink: &Uplink, addr: V4Addr) -> bool {
        addr.shares_prefix(uplink.addr4, uplink.prefix4)
    }

    #[inline(always)]
    fn in_one(addr: V4Addr, port: Be16) -> u64 {
        1 << 63 | u64::from(addr.0) << 16 | u64::from(port.raw())
    }

    #[inline(always)]
    fn spread(addr: V4Addr) -> u32 {
        // Knuth's multiplicative hash; its high bits are the good ones.
        addr.0.wrapping_mul(0x9e37_79b1) >> 16
    }

    #[inline(always)]
    fn apart<R>(step: impl FnOnce() -> R) -> R {
        step()
    }

    #[inline(always)]
    fn ask(params: &mut FibParams, tuple: &Tuple<V4Addr>) {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = tuple.saddr.0;
        params.__bindgen_anon_4.ipv4_dst = tuple.daddr.0;
    }

    #[inline(always)]
    fn nexthop(params: &FibParams) -> V4Addr {
        // SAFETY: integers, any of which are valid.
        V4Addr(unsafe { params.__bindgen_anon_4.ipv4_dst })
    }

    #[inline(always)]
    fn preferred(params: &FibParams) -> V4Addr {
        // SAFETY: as above.
        V4Addr(unsafe { params.__bindgen_anon_3.ipv4_src })
    }

    #[inline(always)]
    fn name_neighbour(params: &mut bpf_redir_neigh, nexthop: V4Addr) {
        params.nh_family = u32::from(AF_INET);
        params.__bindgen_anon_1.ipv4_nh = nexthop.0;
    }

    #[inline(always)]
    fn host_has_socket(ctx: *mut c_void, inbound: &Tuple<V4Addr>, proto: u8) -> bool {
        let mut tuple = Aligned(MaybeUninit::<SockTuple>::uninit());
        let at = tuple.0.as_mut_ptr();
        // Field by field: the compiler would put two in one store, misaligned.
        // SAFETY: the tuple's own fields.
        unsafe {
            (&raw mut (*at).saddr).write_volatile(inbound.saddr.0);
            (&raw mut (*at).daddr).write_volatile(inbound.daddr.0);
            (&raw mut (*at).sport).write_volatile(inbound.sport.raw());
            (&raw mut (*at).dport).write_volatile(inbound.dport.raw());
        }
        has_socket(ctx, &mut tuple, proto)
    }

    #[inline(always)]
    fn write_network(
        skb: &Skb,
        packet: &Packet<V4Addr>,
        to: &Tuple<V4Addr>,
        hop: bool,
    ) -> Result<(), DropReason> {
        let field: [u8; 2] = skb.read(ETH_LEN + 10).ok_or(DropReason::Malformed)?;
        let (offset, bytes) = nat::v4_header(packet, u16::from_ne_bytes(field), to, hop);
        skb.write(offset, bytes)
    }

    #[inline(always)]
    fn write_quoted(
        skb: &Skb,
        quote: &Quote<V4Addr>,
        to: &Tuple<V4Addr>,
    ) -> Result<(), DropReason> {
        let field: [u8; 2] = Copied(skb)
            .read(quote.l3 + 10)
            .ok_or(DropReason::Malformed)?;
        let (checksum, addresses) = icmp::v4_quoted(quote, u16::from_ne_bytes(field), to);
        skb.write(quote.l3 + 10, checksum)?;
        skb.write(quote.l3 + 12, addresses)
    }

    #[inline(always)]
    fn write_refusal(skb: &Skb, endpoint: &Endpoint, answer: &Answer) -> Result<(), DropReason> {
        let (from, to) = (endpoint.gateway4, endpoint.addr4);
        skb.write(ETH_LEN, icmp::v4_refusal(from, to, answer))
    }
}
