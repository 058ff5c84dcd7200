//! Conversations that leave by an uplink beside the flows of these programs:
//! those that the kernel's own translation masquerades, and those of netdp's
//! other programs. What the outside sees of them is kept, so that none of ours
//! takes the same port towards the same peer.

use aya_ebpf::bindings::BPF_ANY;
use netdp_common::{
    addr::proto,
    maps::{FlowKey, config_flags},
};

use crate::{family::Family, flows};

/// Seconds without a packet after which a conversation is taken to be over: as
/// long as conntrack waits for UDP (`nf_conntrack_udp_timeout_stream`, 6.12)
/// and ICMP, and RFC 5382 asks to wait for TCP.
const fn patience(proto: u8) -> u32 {
    match proto {
        proto::TCP => 7440,
        proto::UDP => 120,
        _ => 30,
    }
}

/// Whether somebody else has what the outside would see by this key.
#[inline(always)]
pub fn have<F: Family>(key: &FlowKey<F::Addr>, now: u32) -> bool {
    flows::config().is_some_and(|config| config.flags & config_flags::OTHERS != 0)
        && last_seen::<F>(key).is_some_and(|second| now.wrapping_sub(second) <= patience(key.proto))
}

/// Second of the last packet that was noted.
#[inline(always)]
pub fn last_seen<F: Family>(key: &FlowKey<F::Addr>) -> Option<u32> {
    let second = F::others().get_ptr(key)?;
    // SAFETY: a map value stays readable while the program runs.
    Some(unsafe { second.read_volatile() })
}

/// Notes a packet.
#[inline(always)]
pub fn note<F: Family>(key: &FlowKey<F::Addr>, now: u32) {
    // Where there is no room, somebody may take the port.
    let _ = F::others().insert(key, &now, u64::from(BPF_ANY));
}
