//! Which uplinks drop packets in their driver.

use std::collections::BTreeMap;

use super::{Facts, Uplink};
use crate::{bpf::Xdp, model::State};

/// What an uplink's driver is, as far as XDP is concerned.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Driver {
    /// Its name; that of a virtual interface is its kind (`veth`, `bond`).
    pub name: String,
    /// No hardware, or paravirtual.
    pub is_virtual: bool,
    /// VLAN interfaces are on it.
    pub has_vlans: bool,
}

/// Drivers of virtual hardware that give up more than they win: programs take
/// the offloads of what they receive away from them, or run in another
/// interface (`virtnet_xdp_set`, drivers/net/virtio_net.c; `netvsc_vf_setxdp`,
/// drivers/net/hyperv/netvsc_bpf.c; `xennet_xdp_set`,
/// drivers/net/xen-netfront.c; all of 6.12).
const PARAVIRTUAL: [&str; 3] = ["virtio_net", "hv_netvsc", "vif"];

impl Driver {
    /// One of hardware by its driver's name, or of a virtual interface by its
    /// kind.
    pub fn new(name: &str, is_virtual: bool, has_vlans: bool) -> Self {
        Self {
            name: name.to_owned(),
            is_virtual: is_virtual || PARAVIRTUAL.contains(&name),
            has_vlans,
        }
    }

    /// Why it has no program unless it is asked for.
    pub fn reluctance(&self) -> Option<String> {
        if self.is_virtual {
            let name = &self.name;
            return Some(format!("{name} would carry all other packets more slowly"));
        }
        // Cards take the tags off, and the program can't tell whose frame it is.
        self.has_vlans
            .then(|| "VLAN interfaces are on it, whose frames it might take for its own".to_owned())
    }
}

/// Only while a source is blocked or what it may begin is limited: by ifindex, with
/// their names.
pub(super) fn uplinks(state: &State, facts: &Facts) -> BTreeMap<u32, String> {
    let wanted = |uplink: &&Uplink| match facts.xdp {
        Xdp::Off => false,
        Xdp::Native => true,
        Xdp::Auto => uplink.driver.reluctance().is_none(),
    };
    if state.blocked.is_empty() && state.limit.is_none() {
        return BTreeMap::new();
    }
    let uplinks = facts.uplinks.iter().filter(wanted);
    uplinks
        .map(|uplink| (uplink.ifindex, uplink.ifname.clone()))
        .collect()
}
