//! Addresses of interfaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;
use rtnetlink::AddressMessageBuilder;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage};

use super::{Netlink, NetlinkError, RouteType};

/// An address with its prefix, on the interface with this index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    pub ifindex: u32,
    pub net: IpNet,
    pub state: AddressState,
}

/// What may be done with an address. IPv4 addresses are always lasting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressState {
    /// Everything.
    #[default]
    Lasting,
    /// It goes soon: a temporary one (RFC 8981), or deprecated (RFC 4862,
    /// section 5.5.4).
    Passing,
    /// Nothing: it is being looked for whether another has it, or another has.
    Tentative,
}

impl Netlink {
    /// All addresses of both families.
    ///
    /// # Errors
    /// When the kernel refuses to list them.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        let answers = self
            .dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))
            .await
            .map_err(|refusal| refusal.to("list", "addresses"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewAddress(message) => Address::from_message(message),
                _ => None,
            })
            .collect())
    }

    /// Whether packets to the interface's addresses are taken. The kernel
    /// installs the local route of an IPv6 address some time after the address.
    pub(super) async fn has_local_routes(&self, ifindex: u32) -> Result<bool, NetlinkError> {
        let mut addresses = self.addresses().await?;
        // Link-local addresses are tested for duplicates for a second or two,
        // and nothing waits for them.
        addresses.retain(|address| {
            address.ifindex == ifindex
                && matches!(address.net.addr(), IpAddr::V6(v6) if !v6.is_unicast_link_local())
        });
        // Spares hosts with large tables: their interfaces hold no IPv6.
        if addresses.is_empty() {
            return Ok(true);
        }
        let routes = self.routes().await?;
        Ok(addresses.iter().all(|address| {
            routes.iter().any(|route| {
                route.kind == RouteType::Local && route.dst == IpNet::from(address.net.addr())
            })
        }))
    }

    /// Adds an address; succeeds when the interface has it already.
    ///
    /// # Errors
    /// When there is no such interface or the kernel refuses the address.
    pub async fn add_address(&self, ifindex: u32, net: IpNet) -> Result<(), NetlinkError> {
        let added = self
            .request(
                RouteNetlinkMessage::NewAddress(message(ifindex, net)),
                NLM_F_CREATE | NLM_F_EXCL,
            )
            .await;
        match added {
            Err(refusal) if !refusal.is(Errno::EEXIST) => Err(refusal.to(
                "add address",
                format_args!("{net} to the interface with index {ifindex}"),
            )),
            _ => Ok(()),
        }
    }

    /// Removes an address; succeeds when the interface doesn't have it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn del_address(&self, ifindex: u32, net: IpNet) -> Result<(), NetlinkError> {
        let removed = self
            .request(RouteNetlinkMessage::DelAddress(message(ifindex, net)), 0)
            .await;
        match removed {
            Err(refusal) if !refusal.is_absent() => Err(refusal.to(
                "remove address",
                format_args!("{net} from the interface with index {ifindex}"),
            )),
            _ => Ok(()),
        }
    }
}

fn message(ifindex: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(ifindex)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => {
            let mut message = AddressMessageBuilder::<Ipv6Addr>::new()
                .index(ifindex)
                .address(net.addr(), net.prefix_len())
                .build();
            // The address management gives an address once; waiting a second
            // for duplicate address detection would only delay the program.
            message.header.flags |= AddressHeaderFlags::Nodad;
            message
        }
    }
}

impl Address {
    pub(super) fn from_message(message: &AddressMessage) -> Option<Self> {
        // On a point-to-point interface IFA_ADDRESS is the other end's.
        let find = |local: bool| {
            message
                .attributes
                .iter()
                .find_map(|attribute| match attribute {
                    AddressAttribute::Local(address) if local => Some(*address),
                    AddressAttribute::Address(address) if !local => Some(*address),
                    _ => None,
                })
        };
        let address: IpAddr = find(true).or_else(|| find(false))?;
        Some(Self {
            ifindex: message.header.index,
            net: IpNet::new(address, message.header.prefix_len).ok()?,
            state: if address.is_ipv6() {
                state(message)
            } else {
                AddressState::Lasting
            },
        })
    }
}

fn state(message: &AddressMessage) -> AddressState {
    // In the header there is room for the lower eight only.
    let flags = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            AddressAttribute::Flags(flags) => Some(flags.bits()),
            _ => None,
        })
        .unwrap_or_else(|| message.header.flags.bits().into());
    if flags & (libc::IFA_F_TENTATIVE | libc::IFA_F_DADFAILED) != 0 {
        AddressState::Tentative
    } else if flags & (libc::IFA_F_TEMPORARY | libc::IFA_F_DEPRECATED) != 0 {
        AddressState::Passing
    } else {
        AddressState::Lasting
    }
}
