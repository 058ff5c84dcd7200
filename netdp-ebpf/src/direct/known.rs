//! Which packets for direct ports are the host's own, without asking the stack
//! about each: where a program listens for everybody, all of a port's are. That is
//! asked anew a few times a second.

use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_skb_cgroup_id};
use netdp_common::{
    addr::{Address, Be16, proto},
    maps::{Known, Published, config_flags, seen},
    packet::{Packet, Tuple},
};

use super::{DIRECT_GROUP, datagrams};
use crate::{family::Family, flows, maps::MAX_KNOWN, skb::Skb, source};

/// Of the kernel's ticks, of which there are 100 to 1,000 a second, as a power of
/// two: 16 to 160 ms. As long may connections to a program that listens no more be
/// refused before they get to the container. They are read as a number; a clock
/// would have to be computed.
const TICK: u32 = 4;

/// Whether a packet from outside is for a listener that was there a moment ago.
#[inline(always)]
pub fn is_to_known<F: Family>(skb: &Skb) -> bool {
    let Some(config) = flows::config() else {
        return false;
    };
    // SAFETY: a map value stays readable while the program runs; the daemon changes
    // it at any time.
    let ports = unsafe { (&raw const config.ports).read_volatile() };
    config.flags & config_flags::DIRECT != 0 && is_to::<F>(skb, ports)
}

/// A function of its own: the caller's stack is that of all that is called there.
#[inline(never)]
fn is_to<F: Family>(skb: &Skb, ports: u32) -> bool {
    F::glance(skb).is_some_and(|(proto, tuple)| {
        // Once one client asks another address than answers leave from, who asks
        // which is to be noted of each datagram.
        (proto == proto::TCP || !datagrams::was_seen(seen::ASKED))
            && has::<F>(proto, tuple.daddr, tuple.dport, ports)
            && source::check::<F>(&tuple.saddr).is_ok()
    })
}

/// Whether a direct socket sends a packet whose tuple no container's flow has: it
/// may have it only where the flow is older than the port's publication. What the
/// kernel answers for a socket that is gone has none, and isn't known by this.
#[inline(always)]
pub fn is_sent(skb: &Skb) -> bool {
    let group = DIRECT_GROUP.load();
    // SAFETY: the context is valid while the program runs.
    group != 0 && unsafe { bpf_skb_cgroup_id(skb.raw()) } == group && !is_shared()
}

/// Whether an older flow may have a direct port.
#[inline(always)]
fn is_shared() -> bool {
    flows::config().is_none_or(|config| {
        // SAFETY: as in `is_to_known`.
        let flags = unsafe { (&raw const config.flags).read_volatile() };
        flags & config_flags::DIRECT_SHARED != 0
    })
}

#[inline(always)]
fn has<F: Family>(proto: u8, addr: F::Addr, port: Be16, ports: u32) -> bool {
    let Some(place) = place::<F>(proto, port) else {
        return false;
    };
    // SAFETY: this CPU's own value, see `listens`.
    let known = unsafe { &*place };
    known.dport == port
        && known.proto == u16::from(proto)
        && known.daddr == addr
        && known.ports == ports
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
    // SAFETY: no arguments. The verifier makes it a load (Linux 5.6).
    (unsafe { bpf_jiffies64() } >> TICK) as u32
}
