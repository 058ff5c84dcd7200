//! Neighbours: who answers for an address on a link.

use std::net::IpAddr;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Netlink, NetlinkError};

/// An entry of the neighbour table that has an Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub ifindex: u32,
    pub address: IpAddr,
    pub mac: [u8; 6],
    /// Set by hand; never asked for and never forgotten.
    pub permanent: bool,
}

impl Netlink {
    /// All neighbours of both families whose Ethernet address is known.
    ///
    /// # Errors
    /// When the kernel refuses to list them.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let answers = self
            .dump(RouteNetlinkMessage::GetNeighbour(
                NeighbourMessage::default(),
            ))
            .await
            .map_err(|refusal| refusal.to("list", "neighbours"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewNeighbour(message) => Neighbour::from_message(message),
                _ => None,
            })
            .collect())
    }

    /// Sets the Ethernet address of a neighbour for good, in place of what was
    /// known about it.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses.
    pub async fn add_permanent_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
        mac: [u8; 6],
    ) -> Result<(), NetlinkError> {
        let mut message = message(ifindex, address);
        message.header.state = NeighbourState::Permanent;
        message
            .attributes
            .push(NeighbourAttribute::LinkLayerAddress(mac.to_vec()));
        self.request(
            RouteNetlinkMessage::NewNeighbour(message),
            NLM_F_CREATE | NLM_F_REPLACE,
        )
        .await
        .map_err(|refusal| {
            refusal.to(
                "add neighbour",
                format_args!("{address} on the interface with index {ifindex}"),
            )
        })?;
        Ok(())
    }

    /// Removes a neighbour; succeeds when it isn't known.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn del_neighbour(&self, ifindex: u32, address: IpAddr) -> Result<(), NetlinkError> {
        let removed = self
            .request(
                RouteNetlinkMessage::DelNeighbour(message(ifindex, address)),
                0,
            )
            .await;
        match removed {
            Err(refusal) if !refusal.is_absent() => Err(refusal.to(
                "remove neighbour",
                format_args!("{address} from the interface with index {ifindex}"),
            )),
            _ => Ok(()),
        }
    }
}

fn message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = ifindex;
    let (family, destination) = match address {
        IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
        IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
    };
    message.header.family = family;
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}

impl Neighbour {
    fn from_message(message: &NeighbourMessage) -> Option<Self> {
        let mut address = None;
        let mut mac = None;
        for attribute in &message.attributes {
            match attribute {
                NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                    address = Some(IpAddr::V4(*v4));
                }
                NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                    address = Some(IpAddr::V6(*v6));
                }
                NeighbourAttribute::LinkLayerAddress(bytes) => {
                    mac = bytes.as_slice().try_into().ok();
                }
                _ => {}
            }
        }
        Some(Self {
            ifindex: message.header.ifindex,
            address: address?,
            mac: mac?,
            permanent: message.header.state == NeighbourState::Permanent,
        })
    }
}
