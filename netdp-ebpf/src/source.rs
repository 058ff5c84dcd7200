//! Source addresses that nobody outside has.
//!
//! An answer to one of them would go to a container or to the host itself. The
//! kernel checks what it routes (martians, `ip_route_input_slow` in
//! net/ipv4/route.c and `fib_validate_source` in net/ipv4/fib_frontend.c, both
//! of 6.12), not what is handed to a container before that.

use netdp_common::{
    addr::Address,
    drop::DropReason,
    own::{self, INSIDE},
    rules,
};

use crate::{family::Family, maps::OWN, ranges};

/// Refuses what is to be handed to a container from a source that has no place
/// outside: an address of a container or of the host, one that none of them has
/// but that lies in a subnet of theirs, loopback, multicast, broadcast,
/// unspecified; or that a container could not answer: link-local, of IPv6.
#[inline(always)]
pub fn check<F: Family>(addr: &F::Addr) -> Result<(), DropReason> {
    if rules::has_no_place_outside(*addr) {
        return Err(DropReason::SpoofedSource);
    }
    let own = may_be(*addr);
    if own && (is_containers::<F>(addr) || F::locals().get_ptr(addr).is_some()) {
        return Err(DropReason::SpoofedSource);
    }
    if (own || may_be(addr.block())) && ranges::is_allowed::<F>(INSIDE, addr) {
        return Err(DropReason::SpoofedSource);
    }
    Ok(())
}

/// Refuses a packet for the host itself whose source is a container's address:
/// the rest is for the kernel to judge, which knows what was configured.
#[inline(always)]
pub fn check_for_host<F: Family>(addr: &F::Addr) -> Result<(), DropReason> {
    if may_be(*addr) && is_containers::<F>(addr) {
        return Err(DropReason::SpoofedSource);
    }
    Ok(())
}

/// No lookup for the kernel: it turns one in an array into a load.
#[inline(always)]
fn may_be<A: Address>(addr: A) -> bool {
    let (word, bit) = own::place(addr);
    OWN.get(word).is_some_and(|word| word & bit != 0)
}

#[inline(never)]
fn is_containers<F: Family>(addr: &F::Addr) -> bool {
    F::addrs().get_ptr(addr).is_some()
}
