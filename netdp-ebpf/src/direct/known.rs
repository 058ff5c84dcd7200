//! Which packets for direct ports are the host's own, without asking the stack
//! about each: where a program listens for everybody, all of a port's are. That is
//! asked anew a few times a second.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;
use netdp_common::{
    addr::{Address, Be16, proto},
    maps::{Known, Published, config_flags, seen},
    packet::{Packet, Tuple},
};

use super::datagrams;
use crate::{family::Family, flows, maps::MAX_KNOWN, skb::Skb, source};

/// Nanoseconds as a power of two: 0.13 s. As long may connections to a program
/// that listens no more be refused before they get to the container.
const TICK: u32 = 27;

/// Whether a packet from outside is for a listener that was there a moment ago.
#[inline(always)]
pub fn is_to_known<F: Family>(skb: &Skb) -> bool {
    are_there() && is_to::<F>(skb)
}

/// A function of its own: the caller's stack is that of all that is called there.
#[inline(never)]
fn is_to<F: Family>(skb: &Skb) -> bool {
    F::glance(skb).is_some_and(|(proto, tuple)| {
        // Once one client asks another address than answers leave from, who asks
        // which is to be noted of each datagram.
        (proto == proto::TCP || !datagrams::was_seen(seen::ASKED))
            && has::<F>(proto, tuple.daddr, tuple.dport)
            && source::check::<F>(&tuple.saddr).is_ok()
    })
}

/// Whether a packet that leaves is from such a one's address and port, which no
/// flow of a container has.
#[inline(always)]
pub fn is_from_known<F: Family>(skb: &Skb) -> bool {
    are_there() && is_from::<F>(skb)
}

/// As [`is_to`].
#[inline(never)]
fn is_from<F: Family>(skb: &Skb) -> bool {
    F::glance(skb).is_some_and(|(proto, tuple)| has::<F>(proto, tuple.saddr, tuple.sport))
}

/// Whether a port of this host is direct. No lookup for the kernel: it turns one
/// in an array into a load.
#[inline(always)]
fn are_there() -> bool {
    flows::config().is_some_and(|config| config.flags & config_flags::DIRECT != 0)
}

#[inline(always)]
fn has<F: Family>(proto: u8, addr: F::Addr, port: Be16) -> bool {
    let Some(place) = place::<F>(proto, port) else {
        return false;
    };
    // SAFETY: this CPU's own value, see `listens`.
    let known = unsafe { &*place };
    known.dport == port
        && known.proto == u16::from(proto)
        && known.daddr == addr
        && known.ports == ports()
        && known.tick == tick()
}

/// Whether nothing else is to be asked about packets for a port that somebody
/// listens at, whoever sends. Of UDP, answers have to leave by themselves from the
/// address that was asked.
#[inline(always)]
pub fn is_all<F: Family>(
    mapping: &Published<F::Addr>,
    packet: &Packet<F::Addr>,
    usual: &F::Addr,
) -> bool {
    mapping.allow == 0
        && mapping.shared == 0
        && (packet.proto == proto::TCP || packet.tuple.daddr == *usual)
}

/// Whether a program listens where a packet is for, whoever sends. Keeps it where
/// that [`is_all`].
#[inline(never)]
pub fn listens<F: Family>(skb: &Skb, packet: &Packet<F::Addr>, keeps: bool) -> bool {
    // Before the stack is asked: what changes from now on counts.
    let ports = ports();
    let anybodys = Tuple {
        saddr: F::Addr::ANY,
        daddr: packet.tuple.daddr,
        sport: Be16::default(),
        dport: packet.tuple.dport,
    };
    if !F::host_has_socket(skb.as_ptr(), &anybodys, packet.proto) {
        return false;
    }
    if keeps && let Some(place) = place::<F>(packet.proto, packet.tuple.dport) {
        let known = Known {
            daddr: packet.tuple.daddr,
            dport: packet.tuple.dport,
            proto: u16::from(packet.proto),
            ports,
            tick: tick(),
            fill: Default::default(),
        };
        // SAFETY: this CPU's own value; tcx programs run with softirqs disabled
        // and don't interrupt each other.
        unsafe { place.write(known) };
    }
    true
}

/// Of TCP and UDP, which may have one port, in different halves.
#[inline(always)]
fn place<F: Family>(proto: u8, port: Be16) -> Option<*mut Known<F::Addr>> {
    const HALF: u32 = MAX_KNOWN as u32 / 2;
    let half = if proto == proto::TCP { 0 } else { HALF };
    F::known().get_ptr_mut(half + (u32::from(port.get()) & (HALF - 1)))
}

/// See [`Config::ports`](netdp_common::maps::Config::ports); the daemon changes it
/// at any time.
#[inline(always)]
fn ports() -> u32 {
    flows::config().map_or(0, |config| {
        // SAFETY: a map value stays readable while the program runs.
        unsafe { (&raw const config.ports).read_volatile() }
    })
}

/// Never 0 but in the first moments of a host, in which nothing is known either.
#[inline(always)]
fn tick() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK) as u32
}
