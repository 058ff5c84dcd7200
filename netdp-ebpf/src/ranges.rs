//! Ranges of published ports: asked only where the host has any, and a single
//! port has no entry of its own.

use core::{
    ffi::{c_long, c_void},
    ptr,
};

use aya_ebpf::{
    btf_maps::{LpmTrie, lpm_trie::Key},
    helpers::bpf_loop,
};
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
    let mut search = Search::new(RangeKey::of_port(addr, proto, port));
    search.run(next_published::<F>);
    if search.found == 0 {
        return ptr::null();
    }
    get(F::ranges(), &search.key).map_or(ptr::null(), |range| &raw const range.published)
}

/// The same of a port of a container: its way back.
#[inline(never)]
pub fn back<F: Family>(addr: &F::Addr, port: Be16, proto: u8) -> *const Back<F::Addr> {
    let mut search = Search::new(RangeKey::of_port(*addr, proto, port));
    search.run(next_back::<F>);
    if search.found == 0 {
        return ptr::null();
    }
    get(F::back_ranges(), &search.key).map_or(ptr::null(), |range| &raw const range.back)
}

/// A search from the longest prefix on. What it finds is looked up again: the
/// verifier loses a pointer that a callback has left.
#[repr(C, align(8))]
struct Search<A: Address> {
    key: RangeKey<A>,
    found: u64,
}

impl<A: Address> Search<A> {
    #[inline(always)]
    fn new(key: RangeKey<A>) -> Self {
        Self { key, found: 0 }
    }

    #[inline(always)]
    fn run(&mut self, step: extern "C" fn(u32, *mut Self) -> c_long) {
        // SAFETY: the callback takes the context as it is given: a pointer to
        // this stack.
        unsafe {
            bpf_loop(
                LONGEST_SEARCH,
                step as *const () as *mut c_void,
                ptr::from_mut(self).cast(),
                0,
            );
        }
    }

    /// What an entry says that the key has found: 1 where the search ends.
    #[inline(always)]
    fn judge(&mut self, prefix: u16, first: Be16, span: u16) -> c_long {
        if contains(first, span, self.key.place.port) {
            self.found = 1;
            return 1;
        }
        self.key.prefix = u32::from(prefix) - 1;
        0
    }
}

/// One step in `ranges`: the callback of `bpf_loop`.
extern "C" fn next_published<F: Family>(_: u32, search: *mut Search<F::Addr>) -> c_long {
    // SAFETY: the context that `run` gives.
    let search = unsafe { &mut *search };
    match get(F::ranges(), &search.key) {
        Some(range) => search.judge(range.prefix, range.published.host_port, range.span),
        None => 1,
    }
}

/// The same in `back_ranges`.
extern "C" fn next_back<F: Family>(_: u32, search: *mut Search<F::Addr>) -> c_long {
    // SAFETY: as above.
    let search = unsafe { &mut *search };
    match get(F::back_ranges(), &search.key) {
        Some(range) => search.judge(range.prefix, range.back.own_port, range.span),
        None => 1,
    }
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
