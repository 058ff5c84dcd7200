//! Ranges of published ports: asked only where the host has any, and a single
//! port has no entry of its own.

use core::ptr;

use aya_ebpf::btf_maps::{LpmTrie, lpm_trie::Key};
use netdp_common::{
    addr::{Address, Be16},
    maps::{Back, Published, config_flags},
    range::{AllowKey, LONGEST_SEARCH, RangeKey, TrieKey, contains},
};

use crate::{family::Family, flows};

/// Whether any range is published on this host.
#[inline(always)]
pub fn are_there() -> bool {
    flows::config().is_some_and(|config| config.flags & config_flags::RANGES != 0)
}

/// The range of a port of the host, on this very address or on `all` of them.
/// Null where there is none.
#[inline(never)]
pub fn published<F: Family>(
    addr: &F::Addr,
    all: bool,
    port: Be16,
    proto: u8,
) -> *const Published<F::Addr> {
    let addr = if all { F::Addr::any() } else { *addr };
    let mut key = RangeKey::of_port(addr, proto, port);
    for _ in 0..LONGEST_SEARCH {
        let Some(range) = get(F::ranges(), &key) else {
            break;
        };
        if contains(range.published.host_port, range.span, port) {
            return &raw const range.published;
        }
        key.prefix = u32::from(range.prefix) - 1;
    }
    ptr::null()
}

/// The same of a port of a container: its way back.
#[inline(never)]
pub fn back<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> *const Back<F::Addr> {
    let mut key = RangeKey::of_port(*addr, proto, port);
    for _ in 0..LONGEST_SEARCH {
        let Some(range) = get(F::back_ranges(), &key) else {
            break;
        };
        if contains(range.back.own_port, range.span, port) {
            return &raw const range.back;
        }
        key.prefix = u32::from(range.prefix) - 1;
    }
    ptr::null()
}

/// Whether a set holds an address; set 0 holds all.
#[inline(always)]
pub fn is_allowed<F: Family>(set: u32, addr: &F::Addr) -> bool {
    set == 0 || holds::<F>(set, addr)
}

#[inline(never)]
fn holds<F: Family>(set: u32, addr: &F::Addr) -> bool {
    get(F::allowed(), &AllowKey::of_address(set, *addr)).is_some()
}

/// The entry of the longest prefix. A value stays readable while the program
/// runs.
#[inline(always)]
fn get<'a, P, V, const MAX: usize>(
    trie: &'a LpmTrie<P, V, MAX>,
    key: &TrieKey<P>,
) -> Option<&'a V> {
    // SAFETY: from `prefix` on a key of ours is laid out as one of the map's.
    let key = unsafe { &*(&raw const key.prefix).cast::<Key<P>>() };
    trie.get(key)
}
