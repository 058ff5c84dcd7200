//! The port tables: what is published where, and what a container's port answers
//! as.

use core::ptr;

use netdp_common::{
    addr::{Address, Be16, proto},
    maps::{Back, PortKey, Published},
    own,
    packet::Packet,
};

use crate::{family::Family, maps::OWN, ranges};

/// The mapping of a port of the host, on this address or on all.
#[inline(always)]
pub fn mapping<F: Family>(
    addr: &F::Addr,
    packet: &Packet<F::Addr>,
) -> Option<*const Published<F::Addr>> {
    mapping_of::<F>(addr, packet.tuple.dport, packet.proto)
}

/// The same by its parts.
#[inline(always)]
pub fn mapping_of<F: Family>(
    addr: &F::Addr,
    port: Be16,
    proto: u8,
) -> Option<*const Published<F::Addr>> {
    if proto != proto::TCP && proto != proto::UDP {
        return None;
    }
    let mut found = single::<F>(addr, port, proto);
    if found.is_null() && ranges::are_there() {
        found = ranges::published::<F>(addr, true, port, proto);
        if found.is_null() {
            found = ranges::published::<F>(addr, false, port, proto);
        }
    }
    if found.is_null() { None } else { Some(found) }
}

/// The mapping of a single port, none of a range's.
#[inline(always)]
pub fn at<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> Option<*const Published<F::Addr>> {
    let found = single::<F>(addr, port, proto);
    if found.is_null() { None } else { Some(found) }
}

/// Null where there is none. Only of a port that is published anywhere are the tables
/// asked: no lookup for the kernel, which makes one in an array a load.
#[inline(always)]
fn single<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> *const Published<F::Addr> {
    let (word, bit) = own::place_of_port(port);
    if OWN.get(word).is_some_and(|word| word & bit != 0) {
        look_up::<F>(addr, port, proto)
    } else {
        ptr::null()
    }
}

/// Null where there is none. Its stack is for its keys alone.
#[inline(never)]
fn look_up<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> *const Published<F::Addr> {
    let mut key = PortKey::new(F::Addr::any(), port, proto);
    if let Some(found) = F::ports().get_ptr(&key) {
        return found;
    }
    key.addr = *addr;
    F::ports().get_ptr(&key).unwrap_or(ptr::null())
}

/// The mapping of a port on one address alone.
#[inline(always)]
pub fn exact<F: Family>(
    addr: &F::Addr,
    port: Be16,
    proto: u8,
) -> Option<*const Published<F::Addr>> {
    if proto != proto::TCP && proto != proto::UDP {
        return None;
    }
    let mut found = look_up_exact::<F>(addr, port, proto);
    if found.is_null() && ranges::are_there() {
        found = ranges::published::<F>(addr, false, port, proto);
    }
    if found.is_null() { None } else { Some(found) }
}

/// Null where there is none.
#[inline(never)]
fn look_up_exact<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> *const Published<F::Addr> {
    let key = PortKey::new(*addr, port, proto);
    F::ports().get_ptr(&key).unwrap_or(ptr::null())
}

/// How a container port answers when no flow says otherwise. Null where it is
/// not published.
#[inline(never)]
pub fn back_of<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> *const Back<F::Addr> {
    let key = PortKey::new(*addr, port, proto);
    if let Some(found) = F::backs().get_ptr(&key) {
        return found;
    }
    if !ranges::are_there() {
        return ptr::null();
    }
    ranges::back::<F>(&key.addr, port, proto)
}
