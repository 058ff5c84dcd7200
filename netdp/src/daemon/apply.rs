//! Does what the planner asks for.

use std::io;

use ipnet::IpNet;
use nix::libc;
use thiserror::Error;

use crate::{
    bpf::{BpfError, Datapath, Entry, Key, Tables},
    netlink::{
        self, Family, LinkPair, Netlink, NetlinkError, SandboxInterface, Sysctl, SysctlError,
        configure_sandbox,
    },
    netns::{Namespace, NetnsError},
    plan::{DesiredBridge, DesiredPair, Hold, Neighbour, Observed, Op, Route},
};

use super::{
    ended,
    hold::{Holds, NotHeld},
    port_owner::{self, PortOwner},
};

#[derive(Debug, Error)]
pub enum ApplyError {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    #[error(transparent)]
    Bpf(#[from] BpfError),
    #[error("address already in use: {port} is used by {}", by(.owner))]
    PortTaken {
        port: Hold,
        owner: Option<PortOwner>,
    },
    #[error(
        "cannot hold port {port}: the daemon has no file descriptor left for it; \
         raise its limit of open files (LimitNOFILE of systemd), or publish fewer ports"
    )]
    TooManyFiles { port: Hold },
    #[error("cannot hold port {port}: {source}")]
    Hold { port: Hold, source: io::Error },
}

fn by(owner: &Option<PortOwner>) -> String {
    match owner {
        Some(owner) => owner.to_string(),
        None => "another program of the host".to_owned(),
    }
}

/// Everything that operations change.
pub struct Target {
    pub netlink: Netlink,
    pub datapath: Datapath,
    pub holds: Holds,
}

impl Target {
    /// Does `op`, and gives the index of the link that it made.
    ///
    /// `observed` tells the indexes of the links that are there.
    pub async fn apply(&mut self, op: &Op, observed: &Observed) -> Result<Option<u32>, ApplyError> {
        match op {
            Op::CreateBridge(bridge) => return self.create_bridge(bridge).await.map(Some),
            Op::CreateEndpoint(pair) => return self.create_endpoint(pair).await.map(Some),
            Op::DeleteLink { ifname } => self.netlink.delete_link(ifname).await?,
            Op::DeleteLinks { ifnames } => self.netlink.delete_links(ifnames).await?,
            Op::SetLink { ifname, mac, mtu } => {
                if let Some(mac) = mac {
                    self.netlink.set_mac(ifname, *mac).await?;
                }
                if let Some(mtu) = mtu {
                    self.netlink.set_mtu(ifname, *mtu).await?;
                }
            }
            Op::SetPacketLimit { ifname, limit } => {
                self.netlink.set_packet_limit(ifname, *limit).await?;
            }
            Op::SetLinkUp { ifname } => self.netlink.set_up(ifname).await?,
            Op::EnableForwarding { ifname, family } => enable_forwarding(ifname, *family)?,
            Op::AddAddress { ifname, address } => {
                if address.addr().is_ipv6() {
                    enable_ipv6(ifname)?;
                }
                let ifindex = index(observed, ifname)?;
                self.netlink.add_address(ifindex, *address).await?;
            }
            Op::RemoveAddress { ifname, address } => {
                let ifindex = index(observed, ifname)?;
                self.netlink.del_address(ifindex, *address).await?;
            }
            Op::AddRoute(wanted) => {
                let route = route(wanted, index(observed, &wanted.ifname)?);
                self.netlink.add_route(&route).await?;
            }
            Op::RemoveRoute(unwanted) => {
                let route = route(unwanted, index(observed, &unwanted.ifname)?);
                self.netlink.del_route(&route).await?;
            }
            Op::AddNeighbour(Neighbour {
                address,
                ifname,
                mac,
            }) => {
                let ifindex = index(observed, ifname)?;
                self.netlink
                    .add_permanent_neighbour(ifindex, *address, *mac)
                    .await?;
            }
            Op::RemoveNeighbour(Neighbour {
                address, ifname, ..
            }) => {
                let ifindex = index(observed, ifname)?;
                self.netlink.del_neighbour(ifindex, *address).await?;
            }
            Op::Attach {
                ifname,
                ifindex,
                role,
            } => self.datapath.attach(ifname, *ifindex, *role)?,
            Op::Detach { ifindex, role } => self.datapath.detach(*ifindex, *role)?,
            Op::AttachXdp {
                ifname,
                ifindex,
                is_asked,
            } => self.attach_xdp(ifname, *ifindex, *is_asked)?,
            Op::DetachXdp { ifindex } => self.datapath.detach_xdp(*ifindex)?,
            Op::HoldPort(port) => self.hold(*port)?,
            Op::EndSockets(port) => self.end_sockets(port),
            Op::ReleasePort(port) => self.holds.release(*port),
            Op::Put(key, entry) => self.datapath.put(key, entry)?,
            Op::Remove(key) => self.datapath.remove(key)?,
            Op::RemoveEndpoints(indexes) => self.remove_endpoints(indexes, &observed.tables)?,
        }
        Ok(None)
    }

    fn remove_endpoints(&mut self, indexes: &[u32], known: &Tables) -> Result<(), BpfError> {
        let mut gone = Vec::new();
        for &ifindex in indexes {
            let key = Key::Endpoint(ifindex);
            self.datapath.remove(&key)?;
            if let Some(Entry::Endpoint(endpoint)) = known.get(&key) {
                gone.push((ifindex, *endpoint));
            }
        }
        // From now on their packets are dropped, so they leave nothing more.
        self.datapath.forget_flows(&gone)?;
        for (_, endpoint) in &gone {
            self.datapath.clear_stats(endpoint.slot)?;
        }
        Ok(())
    }

    fn attach_xdp(&mut self, ifname: &str, ifindex: u32, is_asked: bool) -> Result<(), ApplyError> {
        let before = self.datapath.xdp().get(&ifindex).cloned();
        match self.datapath.attach_xdp(ifname, ifindex) {
            // The program at tcx drops the same.
            Err(error @ BpfError::Driver { .. }) if !is_asked => {
                if self.datapath.xdp().get(&ifindex) != before.as_ref() {
                    tracing::info!("cannot {error}; tcx drops them");
                }
                Ok(())
            }
            attached => Ok(attached?),
        }
    }

    async fn create_bridge(&self, bridge: &DesiredBridge) -> Result<u32, ApplyError> {
        let name = &bridge.ifname;
        let index = self
            .netlink
            .create_bridge(name, bridge.mac, bridge.mtu, &bridge.alias)
            .await?;
        let finished = async {
            if bridge.addresses.iter().any(|net| net.addr().is_ipv6()) {
                enable_ipv6(name)?;
            }
            for address in &bridge.addresses {
                self.netlink.add_address(index, *address).await?;
            }
            self.netlink.set_up(name).await?;
            Ok(())
        };
        if let Err(error) = finished.await {
            self.discard(name).await;
            return Err(error);
        }
        Ok(index)
    }

    async fn create_endpoint(&self, pair: &DesiredPair) -> Result<u32, ApplyError> {
        let name = &pair.host_ifname;
        let namespace = match &pair.netns {
            Some(netns) => Namespace::open(netns)?,
            None => Namespace::current()?,
        };
        let index = self
            .netlink
            .create_pair(&LinkPair {
                kind: pair.kind,
                host_name: name,
                host_mac: pair.host_mac,
                peer_name: &pair.ifname,
                peer_mac: pair.mac,
                mtu: pair.mtu,
                alias: &pair.alias,
                packet_limit: pair.packet_limit,
                peer_netns: &namespace,
            })
            .await?;
        let finished = async {
            configure_host_end(pair)?;
            if pair.netns.is_some() {
                configure_sandbox(&namespace, &sandbox_interface(pair)).await?;
            }
            Ok(())
        };
        if let Err(error) = finished.await {
            self.discard(name).await;
            return Err(error);
        }
        Ok(index)
    }

    /// Takes away what could not be finished; the error that led here counts.
    async fn discard(&self, name: &str) {
        if let Err(error) = self.netlink.delete_link(name).await {
            tracing::warn!("{error}");
        }
    }

    fn end_sockets(&self, port: &Hold) {
        let (maps, group) = (self.datapath.maps_folder(), self.datapath.direct_cgroup());
        if let Err(error) = ended::end(port, &maps, group.as_deref()) {
            tracing::error!(
                "cannot end all direct sockets of port {port}, which may still be heard: end the \
                 programs that had it: {error}"
            );
        }
    }

    fn hold(&mut self, port: Hold) -> Result<(), ApplyError> {
        self.holds.hold(port).map_err(|NotHeld { port, source }| {
            if source.kind() == io::ErrorKind::AddrInUse {
                let owner = port_owner::find(&port);
                ApplyError::PortTaken { port, owner }
            } else if source.raw_os_error() == Some(libc::EMFILE) {
                ApplyError::TooManyFiles { port }
            } else {
                ApplyError::Hold { port, source }
            }
        })
    }
}

/// What the kernel forwards for a container comes in by its host end alone, so
/// forwarding is turned on there and nowhere else. Of IPv6 that makes the FIB
/// answer programs; the stack forwards only where all interfaces do, and an
/// uplink that does would no longer hear its router (`accept_ra`).
fn enable_forwarding(host_end: &str, family: Family) -> Result<(), SysctlError> {
    if family == Family::V6 {
        // Whoever turned IPv6 off and on again has it with all that it brings.
        enable_ipv6(host_end)?;
    }
    Sysctl::interface(family, host_end, "forwarding")?.set("1")
}

fn configure_host_end(pair: &DesiredPair) -> Result<(), SysctlError> {
    let name = &pair.host_ifname;
    enable_forwarding(name, Family::V4)?;
    // Sources are checked by the program at the host end.
    Sysctl::interface(Family::V4, name, "rp_filter")?.set("0")?;
    if pair.ipv6 {
        return enable_forwarding(name, Family::V6);
    }
    // A kernel without IPv6 has nothing to disable.
    absent_is_well(Sysctl::interface(Family::V6, name, "disable_ipv6")?.set("1"))
}

/// IPv6 with the addresses that are given and no others: nothing is believed of
/// a router on this link.
fn enable_ipv6(name: &str) -> Result<(), SysctlError> {
    const NO_LINK_LOCAL: &str = "1";
    for (key, value) in [
        ("accept_ra", "0"),
        ("autoconf", "0"),
        ("addr_gen_mode", NO_LINK_LOCAL),
        ("disable_ipv6", "0"),
    ] {
        Sysctl::interface(Family::V6, name, key)?.set(value)?;
    }
    Ok(())
}

fn absent_is_well(set: Result<(), SysctlError>) -> Result<(), SysctlError> {
    match set {
        Err(error) if error.is_absent() => Ok(()),
        set => set,
    }
}

fn sandbox_interface(pair: &DesiredPair) -> SandboxInterface {
    SandboxInterface {
        name: pair.ifname.clone(),
        mac: pair.mac,
        addresses: pair.addresses.iter().map(|address| address.net).collect(),
        gateways: pair
            .addresses
            .iter()
            .map(|address| address.gateway)
            .collect(),
        mtu: pair.mtu,
        default_route: pair.metric.is_some(),
        routes: Vec::new(),
    }
}

fn route(route: &Route, ifindex: u32) -> netlink::Route {
    let on_link = netlink::Route::on_link(IpNet::from(route.to), ifindex);
    match route.src {
        Some(src) => on_link.with_src(src),
        None => on_link,
    }
}

fn index(observed: &Observed, ifname: &str) -> Result<u32, NetlinkError> {
    observed
        .links
        .get(ifname)
        .map(|link| link.ifindex)
        .ok_or_else(|| NetlinkError::NoSuchLink(ifname.to_owned()))
}
