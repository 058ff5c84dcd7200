//! Whether what a flow came by is still published, and what becomes of one that
//! outlived its port.

use netdp_common::{
    addr::proto,
    drop::DropReason,
    flow,
    maps::{Endpoint, FlowKey},
    packet::Packet,
    rules, tcp,
};

use crate::{
    family::Family,
    flows,
    ports::{exact, mapping_of},
    share,
};

/// Whether the port by which this flow's client came leads here; of a flow of
/// another kind, always.
#[inline(always)]
pub fn leads_here_alone<F: Family>(key: &FlowKey<F::Addr>, entry: flows::Entry<F::Addr>) -> bool {
    // SAFETY: a map value stays readable while the program runs.
    let flow = unsafe { &*entry };
    if !rules::is_published(flow.kind) {
        return true;
    }
    // What is published at the container's own address is nobody else's.
    let mapping = if flow.addr == key.local {
        exact::<F>(&flow.addr, flow.port, key.proto)
    } else {
        mapping_of::<F>(&flow.addr, flow.port, key.proto)
    };
    let Some(mapping) = mapping else {
        return false;
    };
    // SAFETY: as above.
    let mapping = unsafe { &*mapping };
    rules::leads_to(mapping, flow.port, key.local, key.local_port)
}

/// Whether a flow's port is still published, as it was when the flow was made.
///
/// A flow that has last asked under the endpoint's generation of now need not
/// ask again: that is every packet but the first after a change. The generation
/// changes after the ports, so what was asked under it stays true.
#[inline(always)]
pub fn is_current<F: Family>(
    key: &FlowKey<F::Addr>,
    entry: flows::Entry<F::Addr>,
    endpoint: &Endpoint,
) -> bool {
    // SAFETY: a map value stays valid while the program runs; the field is
    // aligned, read and written whole.
    unsafe {
        let generation = &raw mut (*entry).generation;
        if generation.read_volatile() == endpoint.generation {
            return true;
        }
        if !F::leads_here(key, entry) {
            return false;
        }
        generation.write_volatile(endpoint.generation);
    }
    true
}

/// The endpoint's generation under which a flow has last asked.
#[inline(always)]
pub fn generation<A>(entry: flows::Entry<A>) -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const (*entry).generation).read_volatile() }
}

/// An answer whose port is no longer published. Without an error the entry has
/// gone, and the tables say whether the container port is published otherwise.
///
/// # Errors
/// [`DropReason::Unpublished`]: the entry stays, so that whatever the container
/// still sends is dropped, until it has been silent for the time of a closed
/// connection; and a new connection may take its place.
#[inline(never)]
pub fn outlived<F: Family>(
    packet: &Packet<F::Addr>,
    key: &FlowKey<F::Addr>,
    entry: flows::Entry<F::Addr>,
) -> Result<(), DropReason> {
    // SAFETY: as above.
    unsafe {
        if rules::ends_with_its_port(packet.proto, (*entry).to.ifindex) {
            if F::flows().remove(key).is_ok() {
                share::removed(&*entry);
            }
            let _ = F::pending().remove(key);
            return Ok(());
        }
        if packet.proto == proto::TCP {
            (&raw mut (*entry).state).write_volatile(tcp::state::RESET);
        }
        if let Some(config) = flows::config() {
            let timeout = flow::timeout(config, packet.proto, tcp::state::RESET);
            (&raw mut (*entry).timeout).write_volatile(timeout);
        }
        (&raw mut (*entry).last_seen).write_volatile(flows::now());
    }
    Err(DropReason::Unpublished)
}
