//! tc egress of a veth's host end: what the host's stack sends to the
//! container.

use netdp_common::{
    drop::DropReason,
    packet::{V4, V6, ethertype},
};

use crate::{calls, count, direct, maps::ENDPOINTS, skb::Skb, verdict::Verdict};

/// The host's own traffic passes. What it would forward does not, unless it
/// answers the container: everything else that may reach it from elsewhere is
/// redirected past this hook.
#[inline(always)]
pub fn to_container(skb: &Skb) -> Result<Verdict, DropReason> {
    if skb.ingress_ifindex() != 0 {
        let is_answer = match skb.ethertype() {
            ethertype::IPV4 => calls::is_answer::<V4>(skb),
            ethertype::IPV6 => calls::is_answer::<V6>(skb),
            _ => false,
        };
        if !is_answer {
            return Err(DropReason::NotPublished);
        }
    }
    if skb.ingress_ifindex() == 0 && direct::is_inward() {
        match skb.ethertype() {
            ethertype::IPV4 => direct::answer::<V4>(skb)?,
            ethertype::IPV6 => direct::answer::<V6>(skb)?,
            _ => {}
        }
    }
    if let Some(endpoint) = ENDPOINTS.get_ptr(skb.ifindex()) {
        // SAFETY: a map value stays readable while the program runs.
        count::received(unsafe { (*endpoint).slot }, skb.len());
    }
    Ok(Verdict::Pass)
}
