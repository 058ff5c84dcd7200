//! Entries of the flow tables as people read them.

use std::net::{IpAddr, SocketAddr};

use netdp_common::{
    addr::{Address, Be16, proto},
    flow,
    maps::{self, FlowKey, flow_kind},
    tcp,
};

use super::types::Flow;
use crate::bpf::FlowSeen;

/// The flow that an entry stands for; none for the second entry of one.
///
/// `now`: seconds of `CLOCK_MONOTONIC`.
pub fn flow<A: Address + Into<IpAddr>>(seen: &FlowSeen<A>, now: u64) -> Option<Flow> {
    let FlowSeen { key, flow, pending } = seen;
    let remote = socket(key.remote, key.remote_port);
    let (kind, container, host) = match flow.kind {
        flow_kind::PUBLISHED => ("published", inside(key), socket(flow.addr, flow.port)),
        flow_kind::HAIRPIN => ("hairpin", inside(key), socket(flow.addr, flow.port)),
        flow_kind::MASQUERADE => (
            "masquerade",
            Some(socket(flow.addr, flow.port)),
            socket(flow.external, key.local_port),
        ),
        flow_kind::MAPPING => (
            "mapping",
            Some(socket(flow.addr, flow.port)),
            socket(flow.external, key.local_port),
        ),
        flow_kind::MAPPING_OPEN => (
            "open mapping",
            Some(socket(flow.addr, flow.port)),
            socket(flow.external, key.local_port),
        ),
        flow_kind::ROUTED => ("routed", inside(key), socket(flow.addr, flow.port)),
        flow_kind::HOST => ("host", None, socket(flow.external, key.local_port)),
        _ => return None,
    };
    Some(Flow {
        protocol: protocol(key.proto),
        kind: kind.to_owned(),
        state: state(key.proto, flow).to_owned(),
        remote,
        container,
        host,
        idle: Some(now.saturating_sub(flow.last_seen.into())),
        timeout: Some(flow.timeout.into()),
        pending: *pending,
        accelerated: None,
    })
}

/// Whether an entry stands for a flow; the second entry of one doesn't.
pub fn is_shown<A>(seen: &FlowSeen<A>) -> bool {
    use flow_kind::{HAIRPIN, HOST, MAPPING, MAPPING_OPEN, MASQUERADE, PUBLISHED, ROUTED};
    let shown = [
        PUBLISHED,
        HAIRPIN,
        MASQUERADE,
        HOST,
        MAPPING,
        MAPPING_OPEN,
        ROUTED,
    ];
    shown.contains(&seen.flow.kind)
}

/// The container's address; none for a socket of the host.
pub fn container<A: Address>(seen: &FlowSeen<A>) -> Option<A> {
    match seen.flow.kind {
        flow_kind::PUBLISHED | flow_kind::HAIRPIN | flow_kind::ROUTED => Some(seen.key.local),
        flow_kind::MASQUERADE | flow_kind::MAPPING | flow_kind::MAPPING_OPEN => {
            Some(seen.flow.addr)
        }
        _ => None,
    }
}

fn inside<A: Address + Into<IpAddr>>(key: &FlowKey<A>) -> Option<SocketAddr> {
    Some(socket(key.local, key.local_port))
}

fn socket(addr: impl Into<IpAddr>, port: Be16) -> SocketAddr {
    SocketAddr::from((addr.into(), port.get()))
}

fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "tcp".to_owned(),
        proto::UDP => "udp".to_owned(),
        proto::ICMP | proto::ICMPV6 => "icmp".to_owned(),
        other => other.to_string(),
    }
}

fn state<A>(number: u8, flow: &maps::Flow<A>) -> &'static str {
    match number {
        proto::TCP => tcp::name(flow.state),
        _ if flow.state == flow::UNANSWERED => "unanswered",
        _ => "answered",
    }
}

#[cfg(test)]
mod tests {
    use netdp_common::{
        addr::{V4Addr, V6Addr},
        maps::Delivery,
    };

    use super::*;

    fn seen(kind: u8, key: FlowKey<V4Addr>) -> FlowSeen<V4Addr> {
        FlowSeen {
            key,
            flow: entry(kind, V4Addr::new([10, 0, 0, 7]), V4Addr::new([10, 0, 0, 9])),
            pending: false,
        }
    }

    fn entry<A>(kind: u8, addr: A, external: A) -> maps::Flow<A> {
        maps::Flow {
            addr,
            external,
            port: Be16::new(8080),
            kind,
            state: tcp::state::ESTABLISHED,
            last_seen: 100,
            to: Delivery::default(),
            ifindex: 2,
            timeout: 7440,
            tag: 0,
            generation: 0,
            pad: 0,
        }
    }

    fn key(local: [u8; 4]) -> FlowKey<V4Addr> {
        FlowKey::full(
            V4Addr::new([192, 0, 2, 1]),
            Be16::new(40000),
            V4Addr::new(local),
            Be16::new(80),
            proto::TCP,
        )
    }

    #[test]
    fn published_flows_are_keyed_by_the_container() {
        let shown = flow(&seen(flow_kind::PUBLISHED, key([172, 17, 0, 2])), 107).unwrap();
        assert_eq!(shown.remote.to_string(), "192.0.2.1:40000");
        assert_eq!(shown.container.unwrap().to_string(), "172.17.0.2:80");
        assert_eq!(shown.host.to_string(), "10.0.0.7:8080");
        assert_eq!(shown.state, "established");
        assert_eq!(shown.idle, Some(7));
        let inside = container(&seen(flow_kind::PUBLISHED, key([172, 17, 0, 2])));
        assert_eq!(inside, Some(V4Addr::new([172, 17, 0, 2])));
    }

    #[test]
    fn masqueraded_flows_are_keyed_by_what_the_outside_sees() {
        let shown = flow(&seen(flow_kind::MASQUERADE, key([0; 4])), 0).unwrap();
        assert_eq!(shown.container.unwrap().to_string(), "10.0.0.7:8080");
        assert_eq!(shown.host.to_string(), "10.0.0.9:80");
        assert_eq!(shown.idle, Some(0));
        let inside = container(&seen(flow_kind::MASQUERADE, key([0; 4])));
        assert_eq!(inside, Some(V4Addr::new([10, 0, 0, 7])));
        assert_eq!(container(&seen(flow_kind::HOST, key([0; 4]))), None);
    }

    #[test]
    fn flows_of_both_families_are_shown() {
        let addr = |text: &str| V6Addr::from(text.parse::<std::net::Ipv6Addr>().unwrap());
        let (client, web, host) = (addr("2001:db8::7"), addr("fd00::2"), addr("2001:db8::1"));
        let echo = FlowSeen {
            key: FlowKey::full(client, Be16::new(40000), web, Be16::new(80), proto::ICMPV6),
            flow: entry(flow_kind::PUBLISHED, host, host),
            pending: false,
        };
        let shown = flow(&echo, 107).unwrap();
        assert_eq!(shown.protocol, "icmp");
        assert_eq!(shown.remote.to_string(), "[2001:db8::7]:40000");
        assert_eq!(shown.container.unwrap().to_string(), "[fd00::2]:80");
        assert_eq!(shown.host.to_string(), "[2001:db8::1]:8080");
    }

    #[test]
    fn second_entries_are_not_shown() {
        for kind in [
            flow_kind::MASQUERADE_OUT,
            flow_kind::HOST_OUT,
            flow_kind::MAPPING_OUT,
            flow_kind::PERMIT,
        ] {
            let second = seen(kind, key([0; 4]));
            assert!(!is_shown(&second));
            assert!(flow(&second, 0).is_none());
        }
    }
}
