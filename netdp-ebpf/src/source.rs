//! Source addresses that nobody outside has.
//!
//! An answer to one of them would go to a container or to the host itself. The
//! kernel checks what it routes (martians, `fib_validate_source` in
//! net/ipv4/fib_frontend.c), not what is handed to a container before that.

use netdp_common::{addr::Address, drop::DropReason, own};

use crate::{
    family::{Family, is_any},
    maps::OWN,
};

/// Refuses what is to be handed to a container from a source that has no place
/// outside: an address of a container or of the host, loopback, multicast,
/// broadcast, unspecified; or that a container could not answer: link-local, of
/// IPv6.
#[inline(always)]
pub fn check<F: Family>(addr: F::Addr) -> Result<(), DropReason> {
    if addr.is_loopback() || addr.is_multicast() || addr.is_link_local() || is_any(addr) {
        return Err(DropReason::SpoofedSource);
    }
    if may_be_own(addr) && (is_containers::<F>(addr) || F::locals().get_ptr(addr).is_some()) {
        return Err(DropReason::SpoofedSource);
    }
    Ok(())
}

/// Refuses a packet for the host itself whose source is a container's address:
/// the rest is for the kernel to judge, which knows what was configured.
#[inline(always)]
pub fn check_for_host<F: Family>(addr: F::Addr) -> Result<(), DropReason> {
    if may_be_own(addr) && is_containers::<F>(addr) {
        return Err(DropReason::SpoofedSource);
    }
    Ok(())
}

/// No lookup for the kernel: it turns one in an array into a load.
#[inline(always)]
fn may_be_own<A: Address>(addr: A) -> bool {
    let (word, bit) = own::place(addr);
    OWN.get(word).is_some_and(|word| word & bit != 0)
}

#[inline(never)]
fn is_containers<F: Family>(addr: F::Addr) -> bool {
    F::addrs().get_ptr(addr).is_some()
}
