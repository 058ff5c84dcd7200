//! Links: ports of a container that stay open to another one although their
//! network has `icc=false`.

use netdp_common::{
    drop::DropReason,
    maps::{Endpoint, LinkKey, endpoint_flags},
    packet::{Packet, Tuple},
};

use crate::family::Family;

/// Whether a packet may go directly to another container of its network.
///
/// # Errors
/// [`DropReason::NoIcc`]
#[inline(always)]
pub fn check<F: Family>(packet: &Packet<F::Addr>, endpoint: &Endpoint) -> Result<(), DropReason> {
    let opens = packet.transport.is_syn();
    check_tuple::<F>(&packet.tuple, packet.proto, opens, endpoint)
}

/// The same by a packet's parts: what opens a TCP connection is no answer.
#[inline(always)]
pub fn check_tuple<F: Family>(
    tuple: &Tuple<F::Addr>,
    proto: u8,
    opens: bool,
    endpoint: &Endpoint,
) -> Result<(), DropReason> {
    if endpoint.flags & endpoint_flags::ICC != 0 {
        return Ok(());
    }
    if endpoint.flags & endpoint_flags::LINKED != 0 && is_linked::<F>(tuple, proto, opens) {
        return Ok(());
    }
    Err(DropReason::NoIcc)
}

/// Whether the packet is one of a client to its server, or of a server to its
/// client.
#[inline(never)]
fn is_linked<F: Family>(tuple: &Tuple<F::Addr>, proto: u8, opens: bool) -> bool {
    let asks = LinkKey::new(tuple.saddr, tuple.daddr, tuple.dport, proto);
    if F::links().get_ptr(asks).is_some() {
        return true;
    }
    let answers = LinkKey::new(tuple.daddr, tuple.saddr, tuple.sport, proto);
    !opens && F::links().get_ptr(answers).is_some()
}
