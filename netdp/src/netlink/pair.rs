//! Pairs of interfaces, one end here and one in another namespace.

use std::{
    fmt,
    os::fd::{AsFd, AsRawFd},
};

use rtnetlink::packet_route::link::{
    InfoData, InfoKind, InfoNetkit, InfoVeth, LinkMessage, NetkitMode, NetkitPolicy,
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec};

use super::{Netlink, NetlinkError, PacketLimit, check_interface_name};
use crate::netns::Namespace;

/// Which driver a pair is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PairKind {
    #[default]
    Veth,
    /// With Ethernet headers (Linux 6.7). What is sent by the end in
    /// [`peer_netns`](LinkPair::peer_netns) is dropped until a program is
    /// attached to it, and whenever there is none.
    Netkit,
}

impl PairKind {
    fn info(self) -> InfoKind {
        match self {
            Self::Veth => InfoKind::Veth,
            Self::Netkit => InfoKind::Netkit,
        }
    }

    fn data(self, peer: LinkMessage) -> InfoData {
        match self {
            Self::Veth => InfoData::Veth(InfoVeth::Peer(peer)),
            Self::Netkit => InfoData::Netkit(vec![
                InfoNetkit::Peer(peer),
                InfoNetkit::Mode(NetkitMode::L2),
                InfoNetkit::Policy(NetkitPolicy::Pass),
                InfoNetkit::PeerPolicy(NetkitPolicy::Drop),
            ]),
        }
    }
}

impl fmt::Display for PairKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Veth => "veth",
            Self::Netkit => "netkit",
        })
    }
}

/// A pair of interfaces to be made.
#[derive(Clone, Copy, Debug)]
pub struct LinkPair<'a> {
    pub kind: PairKind,
    pub host_name: &'a str,
    pub host_mac: [u8; 6],
    /// The name inside `peer_netns`, from the start.
    pub peer_name: &'a str,
    pub peer_mac: [u8; 6],
    /// Of both ends, in bytes.
    pub mtu: u32,
    /// Of the host end.
    pub alias: &'a str,
    /// Of both ends.
    pub packet_limit: PacketLimit,
    pub peer_netns: &'a Namespace,
}

impl Netlink {
    /// Makes a pair, both ends down, and returns the index of the host end. The
    /// other end appears in its namespace under its final name.
    ///
    /// # Errors
    /// When a name is invalid or taken on its side, or the kernel refuses.
    pub async fn create_pair(&self, pair: &LinkPair<'_>) -> Result<u32, NetlinkError> {
        check_interface_name(pair.host_name)?;
        check_interface_name(pair.peer_name)?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(pair.peer_name)
            .address(pair.peer_mac.to_vec())
            .mtu(pair.mtu)
            .setns_by_fd(pair.peer_netns.as_fd().as_raw_fd());
        let peer = pair.packet_limit.write(peer).build();
        let message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(pair.kind.info())
            .name(pair.host_name)
            .set_info_data(pair.kind.data(peer))
            .address(pair.host_mac.to_vec())
            .mtu(pair.mtu);
        let message = pair.packet_limit.write(message).build();
        self.create(message, pair.host_name, pair.alias, |refusal| {
            refusal.to(
                "create the pair",
                format_args!(
                    "({}) {} here and {} in {}",
                    pair.kind,
                    pair.host_name,
                    pair.peer_name,
                    pair.peer_netns.path().display()
                ),
            )
        })
        .await
    }
}
