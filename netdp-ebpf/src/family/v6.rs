//! IPv6 in the kernel.

use core::{ffi::c_void, mem::MaybeUninit};

use aya_ebpf::bindings::{
    bpf_fib_lookup as FibParams, bpf_redir_neigh,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as SockTuple,
};
use netdp_common::{
    addr::{Address as _, Be16, V6Addr},
    drop::DropReason,
    icmp::{self, Answer, Quote},
    maps::{Endpoint, FragKey, Uplink, endpoint_flags, uplink_flags},
    nat,
    packet::{Bytes, ETH_LEN, Packet, Tuple, V6, V6_LEN},
};

use super::{Aligned, Family, has_socket};
use crate::{
    maps::{
        ADDRS6, ALLOW6, Addrs, Allowed, BACK_RANGES6, BACK6, BLOCKED6, BUCKETS6, BackRanges, Backs,
        Blocked, Buckets, CALLS6, CLIENTS6, Calls, Clients, FLOWS6, FRAGS6, Flows, Frags, HEARD6,
        Heard, KNOWN6, KnownPlaces, LINKS6, LOCAL6, Links, Locals, MEMBERS6, Members, ORDER6,
        OTHERS6, Order, Others, PATHS6, PENDING6, PORTS6, Paths, Pending, Ports, RANGES6, Ranges,
        SCRATCH6, SOCKS6, Scratch, Socks,
    },
    skb::Skb,
    work::copy,
};

/// `AF_INET6` of `include/linux/socket.h`.
const AF_INET6: u8 = 10;

impl Family for V6 {
    const STACK_ANSWERS: bool = false;
    const ROUTED: u16 = endpoint_flags::ROUTED6;
    const FULL: u32 = 1;
    const NEXT: usize = 6;
    const SADDR: usize = 8;
    const LENGTH: usize = V6_LEN;

    #[inline(always)]
    fn addrs() -> &'static Addrs<V6Addr> {
        &ADDRS6
    }
    #[inline(always)]
    fn ports() -> &'static Ports<V6Addr> {
        &PORTS6
    }
    #[inline(always)]
    fn backs() -> &'static Backs<V6Addr> {
        &BACK6
    }
    #[inline(always)]
    fn locals() -> &'static Locals<V6Addr> {
        &LOCAL6
    }
    #[inline(always)]
    fn others() -> &'static Others<V6Addr> {
        &OTHERS6
    }
    #[inline(always)]
    fn ranges() -> &'static Ranges<V6Addr> {
        &RANGES6
    }
    #[inline(always)]
    fn back_ranges() -> &'static BackRanges<V6Addr> {
        &BACK_RANGES6
    }
    #[inline(always)]
    fn allowed() -> &'static Allowed<V6Addr> {
        &ALLOW6
    }
    #[inline(always)]
    fn blocked() -> &'static Blocked<V6Addr> {
        &BLOCKED6
    }
    #[inline(always)]
    fn buckets() -> &'static Buckets<V6Addr> {
        &BUCKETS6
    }
    #[inline(always)]
    fn heard() -> &'static Heard<V6Addr> {
        &HEARD6
    }
    #[inline(always)]
    fn flows() -> &'static Flows<V6Addr> {
        &FLOWS6
    }
    #[inline(always)]
    fn pending() -> &'static Pending<V6Addr> {
        &PENDING6
    }
    #[inline(always)]
    fn order() -> &'static Order<V6Addr> {
        &ORDER6
    }
    #[inline(always)]
    fn frags() -> &'static Frags<V6Addr> {
        &FRAGS6
    }
    #[inline(always)]
    fn members() -> &'static Members<V6Addr> {
        &MEMBERS6
    }
    #[inline(always)]
    fn links() -> &'static Links<V6Addr> {
        &LINKS6
    }
    #[inline(always)]
    fn calls() -> &'static Calls<V6Addr> {
        &CALLS6
    }
    #[inline(always)]
    fn socks() -> &'static Socks<V6Addr> {
        &SOCKS6
    }
    #[inline(always)]
    fn clients() -> &'static Clients<V6Addr> {
        &CLIENTS6
    }
    #[inline(always)]
    fn paths() -> &'static Paths<V6Addr> {
        &PATHS6
    }
    #[inline(always)]
    fn known() -> &'static KnownPlaces<V6Addr> {
        &KNOWN6
    }
    #[inline(always)]
    fn scratch() -> &'static Scratch<V6Addr> {
        &SCRATCH6
    }

    #[inline(always)]
    fn address(endpoint: &Endpoint) -> V6Addr {
        endpoint.addr6
    }
    #[inline(always)]
    fn gateway(endpoint: &Endpoint) -> V6Addr {
        endpoint.gateway6
    }
    #[inline(always)]
    fn external(uplink: &Uplink) -> V6Addr {
        uplink.addr6
    }
    #[inline(always)]
    fn source(endpoint: &Endpoint) -> V6Addr {
        endpoint.source6
    }
    #[inline(always)]
    fn is_by_route(uplink: &Uplink) -> bool {
        uplink.flags & uplink_flags::BY_ROUTE6 != 0
    }
    #[inline(always)]
    fn gateway_of(uplink: &Uplink) -> V6Addr {
        uplink.gateway6
    }
    #[inline(always)]
    fn is_on_link(uplink: &Uplink, addr: V6Addr) -> bool {
        addr.shares_prefix(uplink.addr6, uplink.prefix6)
    }

    #[inline(always)]
    fn in_one(_addr: V6Addr, _port: Be16) -> u64 {
        0
    }

    #[inline(always)]
    fn spread(addr: V6Addr) -> u32 {
        let [a, b, c, d] = addr.0;
        (a ^ b.rotate_left(8) ^ c.rotate_left(16) ^ d).wrapping_mul(0x9e37_79b1) >> 16
    }

    #[inline(never)]
    fn apart<R>(step: impl FnOnce() -> R) -> R {
        step()
    }

    #[inline(always)]
    fn ask(params: &mut FibParams, tuple: &Tuple<V6Addr>) {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = tuple.saddr.0;
        params.__bindgen_anon_4.ipv6_dst = tuple.daddr.0;
    }

    #[inline(always)]
    fn nexthop(params: &FibParams) -> V6Addr {
        // SAFETY: integers, any of which are valid.
        V6Addr(unsafe { params.__bindgen_anon_4.ipv6_dst })
    }

    #[inline(always)]
    fn preferred(params: &FibParams) -> V6Addr {
        // SAFETY: as above.
        V6Addr(unsafe { params.__bindgen_anon_3.ipv6_src })
    }

    #[inline(always)]
    fn name_neighbour(params: &mut bpf_redir_neigh, nexthop: V6Addr) {
        params.nh_family = u32::from(AF_INET6);
        // Word by word: it lies at an offset that isn't a multiple of eight.
        let words = (&raw mut params.__bindgen_anon_1.ipv6_nh).cast::<u32>();
        for (index, word) in nexthop.0.into_iter().enumerate() {
            // SAFETY: there are four.
            unsafe { words.add(index).write_volatile(word) };
        }
    }

    #[inline(always)]
    fn host_has_socket(ctx: *mut c_void, inbound: &Tuple<V6Addr>, proto: u8) -> bool {
        let mut tuple = Aligned(MaybeUninit::<SockTuple>::uninit());
        let at = tuple.0.as_mut_ptr();
        // Field by field: the compiler would put two in one store, misaligned.
        // SAFETY: the tuple's own fields.
        unsafe {
            copy(&mut (*at).saddr, &inbound.saddr.0);
            copy(&mut (*at).daddr, &inbound.daddr.0);
            (&raw mut (*at).sport).write_volatile(inbound.sport.raw());
            (&raw mut (*at).dport).write_volatile(inbound.dport.raw());
        }
        has_socket(ctx, &mut tuple, proto)
    }

    #[inline(always)]
    fn write_network(
        skb: &Skb,
        packet: &Packet<V6Addr>,
        to: &Tuple<V6Addr>,
        hop: bool,
    ) -> Result<(), DropReason> {
        let start: [u8; 8] = skb.read(ETH_LEN).ok_or(DropReason::Malformed)?;
        let header = nat::v6_header(packet, u64::from_ne_bytes(start), to, hop);
        // No checksum of its own makes up for what changes in this header.
        skb.write_summed(ETH_LEN, header)
    }

    #[inline(always)]
    fn write_quoted(
        skb: &Skb,
        quote: &Quote<V6Addr>,
        to: &Tuple<V6Addr>,
    ) -> Result<(), DropReason> {
        // Source and destination, at 8 bytes from the header's start.
        skb.write(quote.l3 + 8, [to.saddr, to.daddr])
    }

    #[inline(always)]
    fn write_refusal(skb: &Skb, endpoint: &Endpoint, answer: &Answer) -> Result<(), DropReason> {
        let (from, to) = (endpoint.gateway6, endpoint.addr6);
        skb.write(ETH_LEN, icmp::v6_refusal(from, to, answer))
    }

    fn frag_key(packet: &Packet<V6Addr>) -> FragKey<V6Addr> {
        // RFC 8200, section 4.5: whatever the next header, which is not the
        // transport where that has extension headers of its own.
        FragKey {
            saddr: packet.tuple.saddr,
            daddr: packet.tuple.daddr,
            id: packet.id,
            proto: 0,
        }
    }
}
