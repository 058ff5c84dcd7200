//! Routes.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use nix::errno::Errno;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

pub use rtnetlink::packet_route::route::{RouteScope, RouteType};

use super::{Link, Netlink, NetlinkError};

/// The table that programs and people put their routes in.
pub const TABLE_MAIN: u32 = RouteHeader::RT_TABLE_MAIN as u32;

/// A route with one next hop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The default route is 0.0.0.0/0 or `::/0`.
    pub dst: IpNet,
    /// Index of the interface it leaves by.
    pub oif: Option<u32>,
    pub gateway: Option<IpAddr>,
    /// The source address that sockets take.
    pub src: Option<IpAddr>,
    pub scope: RouteScope,
    pub table: u32,
    pub kind: RouteType,
    /// The metric: of two routes to the same prefix the lower wins. The kernel
    /// makes 1024 of 0 for IPv6.
    pub priority: u32,
}

impl Route {
    /// A route to what is directly on the link.
    pub fn on_link(dst: IpNet, oif: u32) -> Self {
        Self {
            dst: dst.trunc(),
            oif: Some(oif),
            gateway: None,
            src: None,
            scope: RouteScope::Link,
            table: TABLE_MAIN,
            kind: RouteType::Unicast,
            priority: 0,
        }
    }

    /// A route through a gateway on the link.
    pub fn via(dst: IpNet, gateway: IpAddr, oif: u32) -> Self {
        Self {
            gateway: Some(gateway),
            scope: RouteScope::Universe,
            ..Self::on_link(dst, oif)
        }
    }

    /// The default route of the gateway's family.
    pub fn default_via(gateway: IpAddr, oif: u32) -> Self {
        Self::via(default_destination(gateway), gateway, oif)
    }

    /// With the source address that sockets take.
    pub fn with_src(self, src: IpAddr) -> Self {
        Self {
            src: Some(src),
            ..self
        }
    }

    /// Whether this is a default route of the main table.
    pub fn is_default(&self) -> bool {
        self.dst.prefix_len() == 0
            && self.table == TABLE_MAIN
            && matches!(self.kind, RouteType::Unicast)
    }

    /// Whether `self`, as read from the kernel, is what adding `wanted` would
    /// have made. IPv6 routes have no scope and no metric 0.
    fn satisfies(&self, wanted: &Self) -> bool {
        let v4 = matches!(wanted.dst, IpNet::V4(_));
        let priority = if !v4 && wanted.priority == 0 {
            1024
        } else {
            wanted.priority
        };
        self.dst == wanted.dst
            && self.oif == wanted.oif
            && self.gateway == wanted.gateway
            && self.src == wanted.src
            && (!v4 || self.scope == wanted.scope)
            && self.table == wanted.table
            && self.kind == wanted.kind
            && self.priority == priority
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.dst)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(oif) = self.oif {
            write!(f, " by the interface with index {oif}")?;
        }
        if let Some(src) = self.src {
            write!(f, " from {src}")?;
        }
        Ok(())
    }
}

fn default_destination(of: IpAddr) -> IpNet {
    match of {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

impl Netlink {
    /// All routes of both families and all tables; one with several next hops
    /// comes once for each.
    ///
    /// # Errors
    /// When the kernel refuses to list them.
    pub async fn routes(&self) -> Result<Vec<Route>, NetlinkError> {
        let answers = self
            .dump(RouteNetlinkMessage::GetRoute(RouteMessage::default()))
            .await
            .map_err(|refusal| refusal.to("list", "routes"))?;
        Ok(answers
            .iter()
            .filter_map(|answer| match answer {
                RouteNetlinkMessage::NewRoute(message) => Some(routes_from(message)),
                _ => None,
            })
            .flatten()
            .collect())
    }

    /// The way that the kernel would take for a packet that it forwards: also
    /// by policy rules, by their source and incoming interface, and by tables
    /// of their own (`ip route get TO from FROM iif IIF`). None where it has
    /// none, or forwards no such packet.
    ///
    /// The route's source is not that of a socket, but the address of the host
    /// that the route prefers for its own packets.
    ///
    /// # Errors
    /// When the kernel refuses to tell.
    pub async fn way_of(&self, packet: &Forwarded) -> Result<Option<Route>, NetlinkError> {
        let Some(way) = self.find_route(message_for(packet)).await? else {
            return Ok(None);
        };
        // The answer to such a question names no source. The entry that was
        // found does, if one was given with it.
        let mut entry = message_for(packet);
        entry.header.flags |= RouteFlags::FibMatch;
        let given = self.find_route(entry).await?.and_then(|entry| entry.src);
        let src = match (given, way.oif) {
            (None, Some(oif)) => {
                let mut own = message_to(packet.to);
                own.attributes.push(RouteAttribute::Oif(oif));
                self.find_route(own).await?.and_then(|own| own.src)
            }
            (given, _) => given,
        };
        Ok(Some(Route { src, ..way }))
    }

    async fn find_route(&self, message: RouteMessage) -> Result<Option<Route>, NetlinkError> {
        let asked = message.clone();
        let answers = match self
            .request(RouteNetlinkMessage::GetRoute(message), 0)
            .await
        {
            Ok(answers) => answers,
            Err(refusal) if refusal.is_unreachable() => return Ok(None),
            Err(refusal) => {
                let to = asked
                    .attributes
                    .iter()
                    .find_map(|attribute| match attribute {
                        RouteAttribute::Destination(address) => ip(address),
                        _ => None,
                    });
                let to = to.map_or_else(String::new, |to| to.to_string());
                return Err(refusal.to("look up the route to", to));
            }
        };
        Ok(answers.into_iter().find_map(|answer| match answer {
            RouteNetlinkMessage::NewRoute(mut message) => {
                // An answer to a lookup is always one that nobody configured.
                message.header.flags.remove(RouteFlags::Cloned);
                routes_from(&message).first().copied()
            }
            _ => None,
        }))
    }

    /// The interfaces that default routes of either family leave by, the
    /// lowest metric first.
    ///
    /// # Errors
    /// When the kernel refuses to list routes or interfaces.
    pub async fn default_route_interfaces(&self) -> Result<Vec<Link>, NetlinkError> {
        let mut defaults = self.routes().await?;
        defaults.retain(Route::is_default);
        defaults.sort_by_key(|route| route.priority);
        let links = self.links().await?;
        let mut found: Vec<Link> = Vec::new();
        for oif in defaults.iter().filter_map(|route| route.oif) {
            if found.iter().any(|link| link.index == oif) {
                continue;
            }
            found.extend(links.iter().find(|link| link.index == oif).cloned());
        }
        Ok(found)
    }

    /// Adds a route; succeeds when exactly this one is there.
    ///
    /// # Errors
    /// When another route to the same prefix with the same metric is there,
    /// the addresses are of different families, or the kernel refuses.
    pub async fn add_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::NewRoute(message(route)?);
        let Err(refusal) = self.request(message, NLM_F_CREATE | NLM_F_EXCL).await else {
            return Ok(());
        };
        if refusal.is(Errno::EEXIST) {
            let present = self.routes().await?;
            if present.iter().any(|found| found.satisfies(route)) {
                return Ok(());
            }
            if let Some(found) = present
                .iter()
                .find(|found| found.dst == route.dst && found.table == route.table)
            {
                return Err(NetlinkError::RouteExists {
                    wanted: route.to_string(),
                    existing: found.to_string(),
                });
            }
        }
        Err(refusal.to("add the route to", route))
    }

    /// Removes a route; succeeds when it isn't there.
    ///
    /// # Errors
    /// When the addresses are of different families or the kernel refuses.
    pub async fn del_route(&self, route: &Route) -> Result<(), NetlinkError> {
        let message = RouteNetlinkMessage::DelRoute(message(route)?);
        match self.request(message, 0).await {
            Err(refusal) if !refusal.is_absent() => Err(refusal.to("remove the route to", route)),
            _ => Ok(()),
        }
    }
}

/// A packet for whose way the kernel is asked.
#[derive(Clone, Copy, Debug)]
pub struct Forwarded {
    pub from: IpAddr,
    pub to: IpAddr,
    /// Index of the interface that it comes in by.
    pub iif: u32,
}

fn message_to(address: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(address);
    message.header.destination_prefix_length = full_length(address);
    let to = RouteAttribute::Destination(address.into());
    message.attributes.push(to);
    message
}

fn message_for(packet: &Forwarded) -> RouteMessage {
    let mut message = message_to(packet.to);
    message.header.source_prefix_length = full_length(packet.from);
    message.attributes.extend([
        RouteAttribute::Source(packet.from.into()),
        RouteAttribute::Iif(packet.iif),
    ]);
    message
}

fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn message(route: &Route) -> Result<RouteMessage, NetlinkError> {
    let family = family_of(route.dst.addr());
    let of_family = |address: IpAddr| {
        if family_of(address) == family {
            Ok(RouteAddress::from(address))
        } else {
            Err(NetlinkError::MixedFamilies(
                route.dst.to_string(),
                address.to_string(),
            ))
        }
    };
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.destination_prefix_length = route.dst.prefix_len();
    message.header.protocol = RouteProtocol::Static;
    message.header.scope = route.scope;
    message.header.kind = route.kind;
    // Tables above 255 only fit the attribute, which then wins.
    message.header.table = u8::try_from(route.table).unwrap_or(RouteHeader::RT_TABLE_UNSPEC);
    let attributes = &mut message.attributes;
    attributes.push(RouteAttribute::Table(route.table));
    if route.dst.prefix_len() != 0 {
        attributes.push(RouteAttribute::Destination(route.dst.trunc().addr().into()));
    }
    if let Some(gateway) = route.gateway {
        attributes.push(RouteAttribute::Gateway(of_family(gateway)?));
    }
    if let Some(src) = route.src {
        attributes.push(RouteAttribute::PrefSource(of_family(src)?));
    }
    if let Some(oif) = route.oif {
        attributes.push(RouteAttribute::Oif(oif));
    }
    if route.priority != 0 {
        attributes.push(RouteAttribute::Priority(route.priority));
    }
    Ok(message)
}

fn family_of(address: IpAddr) -> AddressFamily {
    match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

/// What a message says, by next hop; nothing for other families and for
/// cached routes, which nobody configured.
pub(super) fn routes_from(message: &RouteMessage) -> Vec<Route> {
    let unspecified: IpAddr = match message.header.address_family {
        AddressFamily::Inet => Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => Ipv6Addr::UNSPECIFIED.into(),
        _ => return Vec::new(),
    };
    if message.header.flags.contains(RouteFlags::Cloned) {
        return Vec::new();
    }
    let mut destination = unspecified;
    let mut hops = Vec::new();
    let mut route = Route {
        dst: default_destination(unspecified),
        oif: None,
        gateway: None,
        src: None,
        scope: message.header.scope,
        table: message.header.table.into(),
        kind: message.header.kind,
        priority: 0,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                destination = ip(address).unwrap_or(unspecified);
            }
            RouteAttribute::PrefSource(address) => route.src = ip(address),
            RouteAttribute::Table(table) => route.table = *table,
            RouteAttribute::Priority(priority) => route.priority = *priority,
            RouteAttribute::Oif(oif) => route.oif = Some(*oif),
            RouteAttribute::MultiPath(next) => hops.clone_from(next),
            other => route.gateway = route.gateway.or_else(|| gateway(other)),
        }
    }
    let Ok(dst) = IpNet::new(destination, message.header.destination_prefix_length) else {
        return Vec::new();
    };
    route.dst = dst;
    if hops.is_empty() {
        return vec![route];
    }
    hops.iter()
        .map(|hop| Route {
            oif: Some(hop.interface_index),
            gateway: hop.attributes.iter().find_map(gateway),
            ..route
        })
        .collect()
}

fn gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn a_message_says_what_the_route_says() {
        let routes = [
            Route::on_link(net("172.17.0.2/32"), 7).with_src("172.17.0.1".parse().unwrap()),
            Route::default_via("172.17.0.1".parse().unwrap(), 3),
            Route::via(net("fd00:1::/64"), "fd00::1".parse().unwrap(), 3),
            Route {
                table: 1000,
                priority: 5,
                ..Route::on_link(net("fd00::2/128"), 7)
            },
        ];
        for route in routes {
            assert_eq!(routes_from(&message(&route).unwrap()), [route]);
        }
    }

    #[test]
    fn families_do_not_mix() {
        let route = Route::via(net("10.0.0.0/8"), "fd00::1".parse().unwrap(), 3);
        assert!(matches!(
            message(&route),
            Err(NetlinkError::MixedFamilies(..))
        ));
    }

    #[test]
    fn a_route_satisfies_itself_and_no_other() {
        let route = Route::on_link(net("172.17.0.2/32"), 7);
        assert!(route.satisfies(&route));
        let other = Route::on_link(net("172.17.0.2/32"), 8);
        assert!(!route.satisfies(&other));
        let wanted = Route::on_link(net("fd00::2/128"), 7);
        let read = Route {
            scope: RouteScope::Universe,
            priority: 1024,
            ..wanted
        };
        assert!(read.satisfies(&wanted));
    }
}
