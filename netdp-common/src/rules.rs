//! What the entries that were found say of a packet: the decisions that ask no
//! table. `netdp explain` makes them here, with entries from a copy of the
//! tables; a test compares it with the programs, packet by packet.
//!
//! An address is of one family in the programs; in userspace it may be of
//! either ([`core::net::IpAddr`]).

use core::net::IpAddr;

use crate::{
    addr::{Address, Be16, proto},
    drop::DropReason,
    maps::{
        Endpoint, Flow, LinkKey, Local, Owner, Published, endpoint_flags, flow_kind, local_flags,
    },
    packet::{Transport, Tuple, tcp_flags},
    tcp,
};

/// Whether an address stands for none: 0.0.0.0 or ::.
pub trait MayBeAny: Copy + PartialEq {
    fn is_any(self) -> bool;
}

impl<A: Address> MayBeAny for A {
    #[inline(always)]
    fn is_any(self) -> bool {
        self == A::ANY
    }
}

impl MayBeAny for IpAddr {
    fn is_any(self) -> bool {
        self.is_unspecified()
    }
}

/// Whether nobody outside has this address, or could be answered there by a
/// container: [martian](Address::is_martian), multicast, broadcast; of IPv6,
/// link-local.
#[inline(always)]
pub fn has_no_place_outside<A: Address>(addr: A) -> bool {
    addr.is_martian() || addr.is_multicast() || addr.is_link_local()
}

/// First port of those that Linux gives to sockets that ask for none
/// (`ip_local_port_range`): services are below.
const FIRST_EPHEMERAL: u16 = 32_768;

/// Whether a port is rather a service's than that of a client.
#[inline(always)]
pub const fn is_of_a_service(port: Be16) -> bool {
    port.get() < FIRST_EPHEMERAL
}

/// Whether a packet for a port that a container's flow has, in this state, may
/// as well be for a service that has begun there after the container sent from
/// its port, which then shadows it: a container that means to do so can open
/// connections and send datagrams, and wait for the peer.
#[inline(always)]
pub const fn may_be_for_a_service(transport: Transport, dport: Be16, state: u8) -> bool {
    match transport {
        // Sockets that have another port for a moment are not served by it.
        Transport::Udp => is_of_a_service(dport),
        transport => transport.is_syn() && !tcp::is_established(state),
    }
}

/// Whether a mapping makes its packets' destination one of the host, without
/// asking for that: it is the address that answers come from.
#[inline(always)]
pub fn is_way_back<A: MayBeAny>(mapping: &Published<A>, daddr: A) -> bool {
    mapping.back_addr == daddr && !daddr.is_any()
}

/// Whether a mapping leads from this port of the host to this port of a
/// container.
#[inline(always)]
pub fn leads_to<A: MayBeAny>(
    mapping: &Published<A>,
    host_port: Be16,
    container: A,
    port: Be16,
) -> bool {
    mapping.addr == container && mapping.container_port(host_port) == port
}

/// What a container may send to another container's address.
#[repr(u8)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Towards {
    /// Whatever [`is_open`] says: they are on one network.
    Neighbour = 0,
    /// What the other publishes at its own address, by which the outside knows
    /// it.
    PublishedPorts,
    /// Nothing.
    Nobody,
}

/// `routed` is the flag of a container that the outside knows by its own
/// address of the packet's family.
#[inline(always)]
pub fn towards(endpoint: &Endpoint, owner: &Owner, routed: u16) -> Towards {
    if owner.network == endpoint.network {
        Towards::Neighbour
    } else if owner.flags & u32::from(routed) != 0 && endpoint.flags & endpoint_flags::INTERNAL == 0
    {
        Towards::PublishedPorts
    } else {
        Towards::Nobody
    }
}

/// Whether containers of one network reach each other, or a link lets this
/// packet through.
#[inline(always)]
pub fn is_open(flags: u16, is_linked: impl FnOnce() -> bool) -> bool {
    flags & endpoint_flags::ICC != 0 || flags & endpoint_flags::LINKED != 0 && is_linked()
}

/// Whether a link lets a packet pass: one of its client to its server or, unless
/// it `opens` a connection, of its server to its client.
#[inline(always)]
pub fn is_linked<A: Copy>(
    tuple: &Tuple<A>,
    proto: u8,
    opens: bool,
    is_there: impl Fn(&LinkKey<A>) -> bool,
) -> bool {
    let asks = LinkKey::new(tuple.saddr, tuple.daddr, tuple.dport, proto);
    if is_there(&asks) {
        return true;
    }
    let answers = LinkKey::new(tuple.daddr, tuple.saddr, tuple.sport, proto);
    !opens && is_there(&answers)
}

/// Whether a container may use a port of the host that leads to this mapping:
/// its own always, another's where its set allows.
#[inline(always)]
pub fn may_use<A: MayBeAny>(
    mapping: &Published<A>,
    container: A,
    is_allowed: impl FnOnce() -> bool,
) -> bool {
    mapping.addr == container || is_allowed()
}

/// Whether a flow leads to a published port.
#[inline(always)]
pub const fn is_published(kind: u8) -> bool {
    kind == flow_kind::PUBLISHED || kind == flow_kind::HAIRPIN
}

/// Whether a published flow's client used this very address and port of the
/// host.
#[inline(always)]
pub fn asked_the_same<A: MayBeAny>(flow: &Flow<A>, from: &Tuple<A>) -> bool {
    flow.addr == from.daddr && flow.port == from.dport
}

/// Whether a conversation in this state, which has the tuple that a packet for
/// a published port would have in the container, keeps the packet out: the
/// container could not tell the two apart. Without connections, the way that
/// was used last is the way back; so it is after a connection whose port is
/// published no longer.
#[inline(always)]
pub fn is_in_the_way(
    state: u8,
    proto: u8,
    transport: Transport,
    is_published: impl FnOnce() -> bool,
) -> bool {
    proto == proto::TCP && (!transport.is_syn() || tcp::is_established(state) && is_published())
}

/// Whether a flow whose port is published no longer is over at once. Otherwise
/// what the container still sends is dropped, for nothing tells it from an
/// answer.
#[inline(always)]
pub const fn ends_with_its_port(proto: u8, client_ifindex: u32) -> bool {
    proto == proto::UDP && client_ifindex == 0
}

/// Gives an answer of a published port the addresses and ports that its client
/// knows.
#[inline(always)]
pub fn answer<A: Copy>(flow: &Flow<A>, to: &mut Tuple<A>) {
    to.saddr = flow.addr;
    to.sport = flow.port;
    if flow.kind == flow_kind::HAIRPIN {
        to.daddr = flow.external;
    }
}

/// Whether a masqueraded flow is the sender's own, with its port kept.
#[inline(always)]
pub fn is_owner<A: MayBeAny>(flow: &Flow<A>, from: &Tuple<A>) -> bool {
    flow.kind == flow_kind::MASQUERADE && is_of(flow, from)
}

/// Whether a flow or mapping is of the sender's address and port.
#[inline(always)]
pub fn is_of<A: MayBeAny>(flow: &Flow<A>, from: &Tuple<A>) -> bool {
    flow.addr == from.saddr && flow.port == from.sport
}

/// Whether an address is the host's to leave under: answers to a gateway's
/// don't come back.
#[inline(always)]
pub const fn is_outward(local: &Local) -> bool {
    local.flags & local_flags::GATEWAY == 0
}

/// Refuses what begins no conversation with the outside.
///
/// # Errors
/// The reason by which such a packet is dropped.
#[inline(always)]
pub const fn may_open(transport: Transport) -> Result<(), DropReason> {
    match transport {
        Transport::Tcp(flags) if flags & tcp_flags::RST != 0 => Err(DropReason::NoFlow),
        Transport::Tcp(_) | Transport::Udp | Transport::EchoRequest => Ok(()),
        Transport::EchoReply
        | Transport::IcmpError
        | Transport::IcmpOther
        | Transport::Neighbour => Err(DropReason::IcmpUnrelated),
        Transport::Later => Err(DropReason::FragmentWithoutFirst),
        Transport::Other => Err(DropReason::UnknownProtocol),
    }
}

/// Whether a container sends such packets by a mapping that is the same towards
/// every peer.
#[inline(always)]
pub const fn is_mapped(flags: u16, proto: u8) -> bool {
    flags & endpoint_flags::MAPPED != 0 && proto == proto::UDP
}

/// Whether a mapping takes packets of those alone that its container has sent
/// to.
#[inline(always)]
pub const fn filters(kind: u8) -> bool {
    kind == flow_kind::MAPPING
}

/// Whether packets of this protocol may come from a published port.
#[inline(always)]
pub const fn has_published_port(flags: u16, proto: u8) -> bool {
    flags & endpoint_flags::PUBLISHED != 0 && has_ports(proto)
}

/// Whether ports of this protocol are published, and sockets of the host have
/// them.
#[inline(always)]
pub const fn has_ports(proto: u8) -> bool {
    proto == proto::TCP || proto == proto::UDP
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        addr::{V4Addr, V6Addr},
        maps::Delivery,
    };
    use core::net::Ipv6Addr;
    use proptest::prelude::*;

    const SYN: Transport = Transport::Tcp(tcp_flags::SYN);
    const DATA: Transport = Transport::Tcp(tcp_flags::ACK);

    fn v6(text: &str) -> V6Addr {
        text.parse::<Ipv6Addr>().unwrap().into()
    }

    fn mapping(addr: [u8; 4], back: [u8; 4]) -> Published<V4Addr> {
        Published {
            addr: V4Addr::new(addr),
            port: Be16::new(80),
            host_port: Be16::new(8080),
            to: Delivery::default(),
            back_addr: V4Addr::new(back),
            allow: 0,
            shared: 0,
            flags: 0,
            pad: 0,
        }
    }

    fn endpoint(network: u32, flags: u16) -> Endpoint {
        Endpoint {
            mac: [2; 6],
            flags,
            host_mac: [4; 6],
            pad: 0,
            network,
            slot: 0,
            addr4: V4Addr::ANY,
            gateway4: V4Addr::ANY,
            addr6: V6Addr::ANY,
            gateway6: V6Addr::ANY,
            generation: 1,
            source4: V4Addr::ANY,
            source6: V6Addr::ANY,
        }
    }

    #[test]
    fn sources_that_have_no_place_outside() {
        for bad in [[127, 0, 0, 1], [224, 0, 0, 1], [255; 4], [0; 4]] {
            assert!(has_no_place_outside(V4Addr::new(bad)), "{bad:?}");
        }
        for bad in ["::1", "::", "ff02::1", "fe80::7"] {
            assert!(has_no_place_outside(v6(bad)), "{bad}");
        }
        assert!(!has_no_place_outside(V4Addr::new([169, 254, 0, 7])));
        assert!(!has_no_place_outside(v6("fd00::7")));
    }

    #[test]
    fn the_unspecified_address_is_no_way_back() {
        let any = V4Addr::ANY;
        let host = V4Addr::new([192, 0, 2, 2]);
        assert!(is_way_back(&mapping([10, 0, 0, 2], [192, 0, 2, 2]), host));
        assert!(!is_way_back(&mapping([10, 0, 0, 2], [0; 4]), host));
        assert!(!is_way_back(&mapping([10, 0, 0, 2], [0; 4]), any));
    }

    #[test]
    fn a_mapping_leads_to_one_port() {
        let mapping = mapping([10, 0, 0, 2], [0; 4]);
        let leads = |host, addr, port| {
            leads_to(
                &mapping,
                Be16::new(host),
                V4Addr::new(addr),
                Be16::new(port),
            )
        };
        assert!(leads(8080, [10, 0, 0, 2], 80));
        assert!(leads(8081, [10, 0, 0, 2], 81));
        assert!(!leads(8080, [10, 0, 0, 3], 80));
        assert!(!leads(8080, [10, 0, 0, 2], 81));
    }

    #[test]
    fn networks_are_apart_but_for_routed_ports() {
        let routed = endpoint_flags::ROUTED4;
        let owner = |flags: u16| Owner {
            to: Delivery::default(),
            network: 2,
            flags: flags.into(),
        };
        let is = |from: Endpoint, flags| towards(&from, &owner(flags), routed);
        assert_eq!(is(endpoint(2, 0), 0), Towards::Neighbour);
        assert_eq!(is(endpoint(1, 0), 0), Towards::Nobody);
        assert_eq!(is(endpoint(1, 0), routed), Towards::PublishedPorts);
        let internal = endpoint(1, endpoint_flags::INTERNAL);
        assert_eq!(is(internal, routed), Towards::Nobody);
        assert_eq!(is(endpoint(1, 0), endpoint_flags::ROUTED6), Towards::Nobody);
    }

    #[test]
    fn links_open_what_icc_does_not() {
        let asked = || panic!("no table has to be asked");
        assert!(is_open(endpoint_flags::ICC, asked));
        assert!(!is_open(0, asked));
        assert!(is_open(endpoint_flags::LINKED, || true));
        assert!(!is_open(endpoint_flags::LINKED, || false));
        let tuple = Tuple {
            saddr: V4Addr::new([10, 0, 0, 2]),
            daddr: V4Addr::new([10, 0, 0, 3]),
            sport: Be16::new(80),
            dport: Be16::new(40_000),
        };
        // The other's, at port 80 of this one.
        let link = LinkKey::new(tuple.daddr, tuple.saddr, tuple.sport, proto::TCP);
        let there = |key: &LinkKey<V4Addr>| *key == link;
        assert!(is_linked(&tuple, proto::TCP, false, there));
        assert!(!is_linked(&tuple, proto::TCP, true, there));
        assert!(!is_linked(&tuple, proto::UDP, false, there));
    }

    #[test]
    fn one_client_port_is_one_connection() {
        let established = tcp::state::ESTABLISHED;
        let closed = tcp::state::CLOSED;
        let tcp =
            |state, transport, published| is_in_the_way(state, proto::TCP, transport, || published);
        assert!(tcp(established, SYN, true));
        assert!(!tcp(established, SYN, false));
        assert!(!tcp(closed, SYN, true));
        assert!(tcp(closed, DATA, true));
        assert!(tcp(established, DATA, false));
        assert!(tcp(closed, Transport::Later, true));
        assert!(!is_in_the_way(1, proto::UDP, Transport::Udp, || true));
    }

    #[test]
    fn a_container_may_always_use_its_own_ports() {
        let mapping = mapping([10, 0, 0, 2], [0; 4]);
        assert!(may_use(&mapping, V4Addr::new([10, 0, 0, 2]), || false));
        assert!(!may_use(&mapping, V4Addr::new([10, 0, 0, 3]), || false));
        assert!(may_use(&mapping, V4Addr::new([10, 0, 0, 3]), || true));
    }

    #[test]
    fn what_begins_a_conversation() {
        assert_eq!(may_open(SYN), Ok(()));
        assert_eq!(may_open(DATA), Ok(()), "a flow table may have been lost");
        let reset = Transport::Tcp(tcp_flags::RST);
        assert_eq!(may_open(reset), Err(DropReason::NoFlow));
        let reply = Transport::EchoReply;
        assert_eq!(may_open(reply), Err(DropReason::IcmpUnrelated));
    }

    proptest! {
        #[test]
        fn either_family_is_told_alike(v4: [u8; 4], v6: [u8; 16]) {
            let (a, b) = (V4Addr::new(v4), V6Addr::new(v6));
            prop_assert_eq!(a.is_any(), IpAddr::from(v4).is_any());
            prop_assert_eq!(b.is_any(), IpAddr::from(v6).is_any());
        }
    }
}
