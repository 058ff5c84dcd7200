//! Functions that the verifier checks once, by themselves: global functions
//! (`btf_prepare_func_args`, kernel/bpf/btf.c). Every other function it follows
//! again at each call, on every path that leads there.
//!
//! They take numbers, the context, and pointers to what the type says, which
//! may be null for all that the verifier knows, and give a number; there is one
//! for each family, for they can't be generic. What they do lies with its
//! subject, in the functions that end in `_alone`.

use aya_ebpf::bindings::__sk_buff;
use netdp_common::{
    addr::{Be16, V4Addr, V6Addr},
    drop::DropReason,
    maps::{Delivery, Endpoint, Flow, FlowKey},
    packet::{Header, Packet, Tuple, V4, V6},
    tcp::Direction,
};

use crate::{
    current, flows,
    found::Found,
    mapped, masquerade, ports, published,
    skb::Skb,
    work::{Decision, Work},
};

/// Those of a family. Their results are [`Found`]s as numbers.
pub trait Alone: Header {
    fn promote(
        key: &FlowKey<Self::Addr>,
        entry: flows::Entry<Self::Addr>,
        packet: &Packet<Self::Addr>,
        direction: Direction,
    ) -> Found;

    fn forget(key: &FlowKey<Self::Addr>);

    fn is_published(addr: &Self::Addr, port: Be16, proto: u8) -> bool;

    fn leads_here(key: &FlowKey<Self::Addr>, entry: flows::Entry<Self::Addr>) -> bool;

    fn remember(
        skb: &Skb,
        packet: &Packet<Self::Addr>,
        to: &Tuple<Self::Addr>,
        client: &Delivery,
        stateless: bool,
    ) -> Found;

    fn first_reply(
        packet: &Packet<Self::Addr>,
        key: &FlowKey<Self::Addr>,
        local_client: bool,
        endpoint: &Endpoint,
        decision: &mut Decision<Self::Addr>,
    ) -> Found;

    fn masqueraded(work: &mut Work<Self::Addr>) -> bool;

    fn mapped(skb: &Skb, work: &mut Work<Self::Addr>, endpoint: &Endpoint) -> Found;

    fn permit(work: &mut Work<Self::Addr>) -> Found;
}

/// What one gives that got a null: no caller has one.
const NOTHING: u32 = Found::refused(DropReason::HelperFailed).number();

macro_rules! global_functions {
    (
        $family:ty, $addr:ty,
        $promote:ident, $forget:ident, $is_published:ident, $leads_here:ident,
        $remember:ident, $first_reply:ident, $masqueraded:ident, $mapped:ident, $permit:ident
    ) => {
        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $promote(
            key: *const FlowKey<$addr>,
            entry: *mut Flow<$addr>,
            packet: *const Packet<$addr>,
            reply: bool,
        ) -> u32 {
            if key.is_null() || entry.is_null() || packet.is_null() {
                return NOTHING;
            }
            let direction = if reply {
                Direction::Reply
            } else {
                Direction::Original
            };
            // SAFETY: a caller's references.
            let (key, packet) = unsafe { (&*key, &*packet) };
            let promoted = flows::promote_alone::<$family>(key, entry, packet, direction);
            Found::done(promoted).number()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $forget(key: *const FlowKey<$addr>) -> u32 {
            if key.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            flows::forget_alone::<$family>(unsafe { &*key });
            0
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $is_published(addr: *const $addr, port: u16, proto: u8) -> u32 {
            if addr.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            let addr = unsafe { &*addr };
            u32::from(ports::mapping_of::<$family>(addr, Be16::from_raw(port), proto).is_some())
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $leads_here(key: *const FlowKey<$addr>, entry: *mut Flow<$addr>) -> u32 {
            if key.is_null() || entry.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            let key = unsafe { &*key };
            u32::from(current::leads_here_alone::<$family>(key, entry))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $remember(
            skb: *mut __sk_buff,
            packet: *const Packet<$addr>,
            to: *const Tuple<$addr>,
            client: *const Delivery,
            stateless: bool,
        ) -> u32 {
            if packet.is_null() || to.is_null() || client.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            let (packet, to, client) = unsafe { (&*packet, &*to, &*client) };
            let skb = &Skb::from_raw(skb);
            let done = published::remember_alone::<$family>(skb, packet, to, client, stateless);
            Found::done(done).number()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $first_reply(
            packet: *const Packet<$addr>,
            key: *const FlowKey<$addr>,
            local_client: bool,
            endpoint: *const Endpoint,
            decision: *mut Decision<$addr>,
        ) -> u32 {
            if packet.is_null() || key.is_null() || endpoint.is_null() || decision.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            let (packet, key) = unsafe { (&*packet, &*key) };
            // SAFETY: as above.
            let (endpoint, decision) = unsafe { (&*endpoint, &mut *decision) };
            published::first_reply_alone::<$family>(packet, key, local_client, endpoint, decision)
                .number()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $masqueraded(work: *mut Work<$addr>) -> u32 {
            if work.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            u32::from(masquerade::outbound_alone::<$family>(unsafe { &mut *work }))
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $mapped(
            skb: *mut __sk_buff,
            work: *mut Work<$addr>,
            endpoint: *const Endpoint,
        ) -> u32 {
            if work.is_null() || endpoint.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            let (work, endpoint) = unsafe { (&mut *work, &*endpoint) };
            mapped::outbound_alone::<$family>(&Skb::from_raw(skb), work, endpoint).number()
        }

        #[unsafe(no_mangle)]
        #[inline(never)]
        extern "C" fn $permit(work: *mut Work<$addr>) -> u32 {
            if work.is_null() {
                return NOTHING;
            }
            // SAFETY: as above.
            let permitted = mapped::permit_alone::<$family>(unsafe { &mut *work });
            Found::done(permitted).number()
        }

        impl Alone for $family {
            #[inline(always)]
            fn promote(
                key: &FlowKey<$addr>,
                entry: flows::Entry<$addr>,
                packet: &Packet<$addr>,
                direction: Direction,
            ) -> Found {
                let reply = matches!(direction, Direction::Reply);
                Found::from_number($promote(key, entry, packet, reply))
            }

            #[inline(always)]
            fn forget(key: &FlowKey<$addr>) {
                $forget(key);
            }

            #[inline(always)]
            fn is_published(addr: &$addr, port: Be16, proto: u8) -> bool {
                $is_published(addr, port.raw(), proto) != 0
            }

            #[inline(always)]
            fn leads_here(key: &FlowKey<$addr>, entry: flows::Entry<$addr>) -> bool {
                $leads_here(key, entry) != 0
            }

            #[inline(always)]
            fn remember(
                skb: &Skb,
                packet: &Packet<$addr>,
                to: &Tuple<$addr>,
                client: &Delivery,
                stateless: bool,
            ) -> Found {
                Found::from_number($remember(skb.raw(), packet, to, client, stateless))
            }

            #[inline(always)]
            fn first_reply(
                packet: &Packet<$addr>,
                key: &FlowKey<$addr>,
                local_client: bool,
                endpoint: &Endpoint,
                decision: &mut Decision<$addr>,
            ) -> Found {
                Found::from_number($first_reply(packet, key, local_client, endpoint, decision))
            }

            #[inline(always)]
            fn masqueraded(work: &mut Work<$addr>) -> bool {
                $masqueraded(work) != 0
            }

            #[inline(always)]
            fn mapped(skb: &Skb, work: &mut Work<$addr>, endpoint: &Endpoint) -> Found {
                Found::from_number($mapped(skb.raw(), work, endpoint))
            }

            #[inline(always)]
            fn permit(work: &mut Work<$addr>) -> Found {
                Found::from_number($permit(work))
            }
        }
    };
}

global_functions!(
    V4,
    V4Addr,
    promote4,
    forget4,
    is_published4,
    leads_here4,
    remember4,
    first_reply4,
    masqueraded4,
    mapped4,
    permit4
);
global_functions!(
    V6,
    V6Addr,
    promote6,
    forget6,
    is_published6,
    leads_here6,
    remember6,
    first_reply6,
    masqueraded6,
    mapped6,
    permit6
);
