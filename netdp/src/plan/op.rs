//! What can be done to the host.

use std::fmt;

use ipnet::IpNet;

use super::{
    DesiredBridge, DesiredPair, Hold, Neighbour, Observed, Role, Route, retract::keeps_out,
};
use crate::{
    bpf::{Entry, Key},
    netlink::{Family, PacketLimit},
};

/// One operation. All are idempotent: what is there already, or already gone,
/// is no error.
#[derive(Clone, PartialEq, Debug)]
pub enum Op {
    /// Makes a bridge with its MAC address, MTU, alias and addresses, and
    /// brings it up.
    CreateBridge(DesiredBridge),
    /// Makes a pair with one end in the sandbox, gives that its addresses
    /// and default route and brings it up; gives the host end its MAC address,
    /// MTU, alias and sysctls. The host end stays down until its programs are
    /// attached: one that is down without programs is taken for half-made.
    /// Where an engine takes the sandbox's end, that is left as it was made.
    CreateEndpoint(Box<DesiredPair>),
    DeleteLink {
        ifname: String,
    },
    /// Several at once: the kernel waits for all CPUs after each request, not
    /// after each link.
    DeleteLinks {
        ifnames: Vec<String>,
    },
    /// Sets what has changed of a link of ours.
    SetLink {
        ifname: String,
        mac: Option<[u8; 6]>,
        mtu: Option<u32>,
    },
    /// Sets how large the packets of a link may be that isn't ours.
    SetPacketLimit {
        ifname: String,
        limit: PacketLimit,
    },
    SetLinkUp {
        ifname: String,
    },
    /// Lets the host forward what a container sends. Needed anew whenever
    /// somebody writes `net.ipv4.ip_forward`, or `net.ipv6.conf.all.forwarding`:
    /// that sets every interface.
    EnableForwarding {
        ifname: String,
        family: Family,
    },
    AddAddress {
        ifname: String,
        address: IpNet,
    },
    RemoveAddress {
        ifname: String,
        address: IpNet,
    },
    AddRoute(Route),
    RemoveRoute(Route),
    AddNeighbour(Neighbour),
    RemoveNeighbour(Neighbour),
    Attach {
        ifname: String,
        ifindex: u32,
        role: Role,
    },
    Detach {
        ifindex: u32,
        role: Role,
    },
    /// Has the driver of an uplink drop packets. Where that can't be
    /// and wasn't asked for, tcx alone does it.
    AttachXdp {
        ifname: String,
        ifindex: u32,
        is_asked: bool,
    },
    DetachXdp {
        ifindex: u32,
    },
    /// Ends the sockets of the host that programs were handed for direct ports.
    EndSockets(Hold),
    HoldPort(Hold),
    ReleasePort(Hold),
    Put(Key, Entry),
    Remove(Key),
    /// Removes the entries of endpoints, by ifindex, and forgets their flows and
    /// what they were counted: for all of them the flow tables are read once.
    RemoveEndpoints(Vec<u32>),
}

impl Op {
    /// Whether it has more sources kept out: blocked, or limited. Those of a limit
    /// that becomes another one are kept out already.
    pub fn keeps_out_more(&self, observed: &Observed) -> bool {
        matches!(self, Self::Put(key, _) if keeps_out(key) && !observed.tables.contains_key(key))
    }

    /// Whether drivers were asked to keep them out, and this is how.
    pub fn is_at_driver(&self) -> bool {
        matches!(self, Self::AttachXdp { is_asked: true, .. })
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateBridge(bridge) => write!(f, "create bridge {}", bridge.ifname),
            Self::CreateEndpoint(pair) => {
                write!(f, "create {} with {}", pair.host_ifname, pair.ifname)?;
                match &pair.netns {
                    Some(netns) => write!(f, " in {}", netns.display()),
                    None => Ok(()),
                }
            }
            Self::DeleteLink { ifname } => write!(f, "delete {ifname}"),
            Self::DeleteLinks { ifnames } => write!(f, "delete {}", ifnames.join(", ")),
            Self::SetLink { ifname, .. } => write!(f, "configure {ifname}"),
            Self::SetPacketLimit { ifname, limit } => {
                write!(f, "set the largest packets of {ifname} to {limit}")
            }
            Self::SetLinkUp { ifname } => write!(f, "bring {ifname} up"),
            Self::EnableForwarding { ifname, family } => {
                write!(f, "enable forwarding of {family} on {ifname}")
            }
            Self::AddAddress { ifname, address } => write!(f, "add {address} to {ifname}"),
            Self::RemoveAddress { ifname, address } => {
                write!(f, "remove {address} from {ifname}")
            }
            Self::AddRoute(route) => write!(f, "add route {route}"),
            Self::RemoveRoute(route) => write!(f, "remove route {route}"),
            Self::AddNeighbour(neighbour) => write!(f, "add neighbour {neighbour}"),
            Self::RemoveNeighbour(neighbour) => write!(f, "remove neighbour {neighbour}"),
            Self::Attach { ifname, role, .. } => write!(f, "attach {role} programs to {ifname}"),
            Self::Detach { ifindex, role } => {
                write!(f, "detach {role} programs from interface {ifindex}")
            }
            Self::AttachXdp { ifname, .. } => write!(f, "attach the XDP program to {ifname}"),
            Self::DetachXdp { ifindex } => {
                write!(f, "detach the XDP program from interface {ifindex}")
            }
            Self::EndSockets(hold) => write!(f, "end the direct sockets of {hold}"),
            Self::HoldPort(hold) => write!(f, "hold {hold}"),
            Self::ReleasePort(hold) => write!(f, "release {hold}"),
            Self::Put(key, _) => write!(f, "put {key:?}"),
            Self::Remove(key) => write!(f, "remove {key:?}"),
            Self::RemoveEndpoints(indexes) => write!(f, "remove the endpoints at {indexes:?}"),
        }
    }
}

/// A link that has a name of ours but isn't ours; it is never touched.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("interface {ifname} exists and isn't netdp's: rename or remove it")]
pub struct Conflict {
    pub ifname: String,
}

/// What to do, and what can't be done.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Plan {
    /// In this order.
    pub ops: Vec<Op>,
    pub conflicts: Vec<Conflict>,
}
