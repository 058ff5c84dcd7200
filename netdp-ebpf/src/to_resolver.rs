//! tc egress of a sandbox's loopback interface: questions to netdp's
//! resolver, and its answers.

use netdp_common::{
    drop::DropReason,
    nat,
    packet::{Bytes, ETH_LEN, V4, ethertype},
    resolver,
};

use crate::{family::Family, skb::Skb, verdict::Verdict, work};

/// Exchanges the port that programs ask at and the one that the resolver
/// holds. Without state: the address says that it is the resolver's.
///
/// Where nobody holds it a question stays as it is: the error that answers it
/// then is about the address that was asked, and ends the program's wait.
#[inline(always)]
pub fn to_resolver(skb: &Skb) -> Result<Verdict, DropReason> {
    /// Offsets of source and destination in an IPv4 header.
    const ADDRESSES: usize = ETH_LEN + 12;
    if skb.ethertype() != ethertype::IPV4 {
        return Ok(Verdict::Pass);
    }
    let wanted = resolver::ADDRESS.bytes();
    let Some([saddr, daddr]) = skb.read::<[[u8; 4]; 2]>(ADDRESSES) else {
        return Ok(Verdict::Pass);
    };
    if saddr != wanted && daddr != wanted {
        return Ok(Verdict::Pass);
    }
    let Ok(work) = work::begin::<V4>(skb) else {
        return Ok(Verdict::Pass);
    };
    let packet = &work.packet;
    let to = resolver::exchange(&packet.tuple);
    if !packet.transport.is_tcp_or_udp() || to == packet.tuple {
        return Ok(Verdict::Pass);
    }
    let is_question = to.dport != packet.tuple.dport;
    if is_question && !V4::host_has_socket(skb.as_ptr(), &to, packet.proto) {
        return Ok(Verdict::Pass);
    }
    skb.write(packet.l4, [to.sport, to.dport])?;
    skb.update_l4(&nat::l4_change(packet, &to))?;
    Ok(Verdict::Pass)
}
