//! Links: ports of a container that stay open to another one although their
//! network has `icc=false`.

use netdp_common::{
    drop::DropReason,
    maps::Endpoint,
    packet::{Packet, Tuple},
    rules,
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
    if rules::is_open(endpoint.flags, || is_linked::<F>(tuple, proto, opens)) {
        Ok(())
    } else {
        Err(DropReason::NoIcc)
    }
}

/// See [`rules::is_linked`].
#[inline(never)]
fn is_linked<F: Family>(tuple: &Tuple<F::Addr>, proto: u8, opens: bool) -> bool {
    rules::is_linked(tuple, proto, opens, |key| F::links().get_ptr(key).is_some())
}
