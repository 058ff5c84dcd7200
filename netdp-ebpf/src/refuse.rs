//! Refusals that a container hears of: the packet that it sent becomes the ICMP
//! error about itself, and goes back (RFC 5508, REQ-8; RFC 1812, section
//! 5.2.7.1; RFC 4443, section 3.1).

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_csum_diff, bpf_skb_load_bytes};
use netdp_common::{
    checksum::Sum,
    drop::DropReason,
    icmp::{Answer, Refusal},
    maps::Endpoint,
    packet::{ETH_LEN, Fragment, Packet, Transport},
};

use crate::{
    count,
    family::Family,
    maps::{QUOTE_ROOM, QUOTED, REFUSALS},
    skb::{Skb, bounded},
    verdict::{self, ANSWERED, Verdict},
    work,
};

/// Errors that an endpoint is sent in one second.
const PER_SECOND: u32 = 16;

/// Answers a refused packet of a container where it is to hear of it. Gives
/// what [`verdict::part`] does, or [`ANSWERED`] and the action.
#[inline(always)]
pub fn answered<F: Family>(
    skb: &Skb,
    endpoint: &Endpoint,
    verdict: Result<Verdict, DropReason>,
) -> i32 {
    if let Err(reason) = verdict {
        let refusal = Refusal::of(reason);
        if refusal != Refusal::Silent && answer::<F>(skb, endpoint, refusal) {
            count::dropped(reason);
            return ANSWERED + skb.to_peer_code(skb.ifindex());
        }
    }
    verdict::part(verdict)
}

/// Makes the packet the error about itself. False where none may be sent; or,
/// rarely, where the kernel has no memory: then the packet may be in pieces,
/// and has to be dropped.
#[inline(never)]
fn answer<F: Family>(skb: &Skb, endpoint: &Endpoint, refusal: Refusal) -> bool {
    let Some(work) = work::current::<F>() else {
        return false;
    };
    let packet = &work.packet;
    if !may_be_answered(skb, packet) || !is_within_rate(endpoint.slot, work.now) {
        return false;
    }
    // Whole words: a sum over others would depend on what lies behind them.
    let whole = (skb.len() - ETH_LEN as u32) & !3;
    let length = if whole > F::MAX_QUOTE {
        F::MAX_QUOTE
    } else {
        whole
    };
    let sum = sum(skb, length);
    if sum < 0 {
        return false;
    }
    let answer = Answer {
        refusal,
        mtu: if refusal == Refusal::TooBig {
            work.way.mtu
        } else {
            0
        },
        length: length as u16,
        sum: Sum::default().add(sum as u32),
    };
    skb.resize(ETH_LEN as u32 + length).is_ok()
        && skb.make_room(F::REFUSAL_LEN)
        && F::write_refusal(skb, endpoint, &answer).is_ok()
        && skb.write_macs(endpoint.mac, endpoint.host_mac).is_ok()
}

/// RFC 1122, section 3.2.2, and RFC 4443, section 2.4 (e): not about errors,
/// later fragments, or what was sent to many.
#[inline(always)]
fn may_be_answered<A>(skb: &Skb, packet: &Packet<A>) -> bool {
    skb.is_for_interface()
        && packet.transport != Transport::IcmpError
        && matches!(packet.fragment, Fragment::Whole | Fragment::First)
}

/// Counts one more error in this second for an endpoint. Two CPUs at once may
/// count theirs as one.
#[inline(always)]
fn is_within_rate(slot: u32, now: u32) -> bool {
    let Some(window) = REFUSALS.get_ptr_mut(slot) else {
        return false;
    };
    // SAFETY: a map value stays valid while the program runs; its fields are
    // read and written whole.
    unsafe {
        let second = &raw mut (*window).second;
        let sent = &raw mut (*window).sent;
        if second.read_volatile() != now {
            second.write_volatile(now);
            sent.write_volatile(0);
        }
        let so_far = sent.read_volatile();
        let is_within = so_far < PER_SECOND;
        if is_within {
            sent.write_volatile(so_far + 1);
        }
        is_within
    }
}

/// The sum over the packet's first `length` bytes behind the Ethernet header;
/// negative where there are none.
#[inline(never)]
fn sum(skb: &Skb, length: u32) -> i64 {
    /// What `bpf_csum_diff` takes at once, bytes.
    const STEP: u32 = 512;
    let Some(room) = QUOTED.get_ptr_mut(0) else {
        return -1;
    };
    let room = room.cast::<u8>();
    if length == 0 || length > QUOTE_ROOM as u32 {
        return -1;
    }
    // SAFETY: the value is this CPU's own, and longer.
    let ret = unsafe {
        bpf_skb_load_bytes(
            skb.as_ptr(),
            ETH_LEN as u32,
            room.cast::<c_void>(),
            bounded::<{ QUOTE_ROOM as u64 }>(length),
        )
    };
    if ret != 0 {
        return -1;
    }
    let mut sum = 0;
    for step in 0..QUOTE_ROOM as u32 / STEP {
        let begin = step * STEP;
        if length > begin {
            let rest = length - begin;
            let part = if rest > STEP { STEP } else { rest };
            // SAFETY: as above; what is summed ends within the value.
            sum = unsafe {
                bpf_csum_diff(
                    core::ptr::null_mut(),
                    0,
                    room.add(begin as usize).cast(),
                    bounded::<{ STEP as u64 }>(part),
                    sum,
                )
            } as u32;
        }
    }
    i64::from(sum)
}
