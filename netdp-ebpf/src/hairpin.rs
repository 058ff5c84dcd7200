//! A container that reaches a published port of its own host: another
//! container's, or its own.

use netdp_common::{
    drop::DropReason,
    maps::{Endpoint, Published},
    packet::Packet,
    rules,
};

use crate::{direct, family::Family, published::remember, ranges, skb::Skb, work::Decision};

/// To the container behind the port. The way back always needs an entry: the
/// answer is for a container, and might be one to a direct connection.
#[inline(always)]
pub fn hairpin<F: Family>(
    skb: &Skb,
    packet: &Packet<F::Addr>,
    endpoint: &Endpoint,
    published: &Published<F::Addr>,
    decision: &mut Decision<F::Addr>,
) -> Result<(), DropReason> {
    let from = &packet.tuple;
    if !rules::may_use(published, from.saddr, || {
        ranges::is_allowed::<F>(published.allow, &from.saddr)
    }) {
        return Err(DropReason::NotAllowed);
    }
    if direct::is_hosts::<F>(skb, published, packet, &F::gateway(endpoint)) {
        return Ok(());
    }
    // Made where they are to be: the stack has no room for them, and would have
    // the second misaligned.
    let Decision {
        to,
        container: client,
        ..
    } = decision;
    if published.addr == from.saddr {
        // A stack drops what seems to come from its own address; the gateway's
        // stands in for it.
        to.saddr = F::gateway(endpoint);
    }
    to.daddr = published.addr;
    to.dport = published.container_port(from.dport);
    client.ifindex = skb.ifindex();
    client.slot = endpoint.slot;
    client.mac = endpoint.mac;
    client.host_mac = endpoint.host_mac;
    remember::<F>(skb, packet, to, client, false)?;
    decision.enter(&published.to);
    Ok(())
}
