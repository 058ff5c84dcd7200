//! Where a sandbox's own programs find a direct port of it: at an address of the
//! host that they reach.

use std::net::IpAddr;

use netdp_common::{
    addr::{Address, Be16, V4Addr, V6Addr},
    maps::{OwnPlace, OwnWay},
};

use super::{End, place::Place};

/// The way to a socket, by its families. A socket at a loopback address of the
/// host is out of the sandbox's reach.
pub(super) fn of(place: &Place) -> OwnWay {
    let mut way = OwnWay::default();
    if let Some((IpAddr::V4(own), IpAddr::V4(to))) = ends(place, place.v4) {
        way.v4 = own_place::<V4Addr>(own.into(), to.into(), place.addr.port());
    }
    if let Some((IpAddr::V6(own), IpAddr::V6(to))) = ends(place, place.v6) {
        way.v6 = own_place::<V6Addr>(own.into(), to.into(), place.addr.port());
    }
    way
}

fn own_place<A: Address>(own: A, to: A, port: u16) -> OwnPlace<A> {
    OwnPlace {
        own,
        to,
        port: Be16::new(port),
        pad: 0,
        fill: A::FILL,
    }
}

/// The sandbox's own address, and one of the host at which the socket hears.
fn ends(place: &Place, end: Option<End>) -> Option<(IpAddr, IpAddr)> {
    let End { own, gateway } = end?;
    let bound = place.addr.ip().to_canonical();
    let to = if bound.is_unspecified() {
        gateway
    } else {
        bound
    };
    (!to.is_loopback()).then_some((own, to))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;
    use crate::model::Proto;

    fn way(addr: &str, v4: bool, v6: bool) -> OwnWay {
        let end = |own: &str, gateway: &str| End {
            own: own.parse().unwrap(),
            gateway: gateway.parse().unwrap(),
        };
        of(&Place {
            proto: Proto::Tcp,
            addr: addr.parse().unwrap(),
            v6only: false,
            v4: v4.then(|| end("172.17.0.2", "172.17.0.1")),
            v6: v6.then(|| end("fd00::2", "fd00::1")),
            is_limited: false,
        })
    }

    #[test]
    fn a_socket_at_all_addresses_is_reached_at_the_gateways() {
        let both = way("[::]:8080", true, true);
        assert_eq!(both.v4.to, V4Addr::new([172, 17, 0, 1]));
        assert_eq!(both.v4.own, V4Addr::new([172, 17, 0, 2]));
        assert_eq!(both.v6.to, "fd00::1".parse::<Ipv6Addr>().unwrap().into());
        assert_eq!(both.v6.port, Be16::new(8080));
        let mapped = way("[::ffff:0.0.0.0]:8080", true, false);
        assert_eq!((mapped.v4, mapped.v6), (both.v4, OwnPlace::default()));
    }

    #[test]
    fn a_socket_at_one_address_is_reached_there() {
        let there = way("192.0.2.1:8080", true, false);
        assert_eq!(there.v4.to, V4Addr::new([192, 0, 2, 1]));
        assert_eq!(way("127.0.0.1:8080", true, false), OwnWay::default());
    }
}
