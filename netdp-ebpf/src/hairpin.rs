//! A container that reaches a published port of its own host: another
//! container's, or its own.

use netdp_common::{
    drop::DropReason,
    maps::{Delivery, Endpoint, Published},
    packet::{Packet, Tuple},
};

use crate::{family::Family, published::remember, skb::Skb, work::Decision};

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
    let itself = published.addr == from.saddr;
    let to = Tuple {
        // A stack drops what seems to come from its own address; the gateway's
        // stands in for it.
        saddr: if itself {
            F::gateway(endpoint)
        } else {
            from.saddr
        },
        daddr: published.addr,
        sport: from.sport,
        dport: published.port,
    };
    let client = Delivery {
        ifindex: skb.ifindex(),
        slot: endpoint.slot,
        mac: endpoint.mac,
        host_mac: endpoint.host_mac,
    };
    remember::<F>(skb, packet, &to, &client, false)?;
    decision.to = to;
    decision.enter(&published.to);
    Ok(())
}
