//! tcx egress of a veth's host end: what the host's stack sends to the
//! container.

use netdp_common::drop::DropReason;

use crate::{count, maps::ENDPOINTS, skb::Skb, verdict::Verdict};

/// The host's own traffic passes; what it would forward does not: everything
/// that may reach a container from elsewhere is redirected past this hook.
#[inline(always)]
pub fn to_container(skb: &Skb) -> Result<Verdict, DropReason> {
    if skb.ingress_ifindex() != 0 {
        return Err(DropReason::NotPublished);
    }
    if let Some(endpoint) = ENDPOINTS.get_ptr(skb.ifindex()) {
        // SAFETY: a map value stays readable while the program runs.
        count::received(unsafe { (*endpoint).slot }, skb.len());
    }
    Ok(Verdict::Pass)
}
