use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::{option, prelude::*};

use super::*;

fn spec(text: &str) -> PortSpec {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn range(first: u16, last: u16) -> PortRange {
    PortRange::new(first, last).unwrap()
}

#[test]
fn what_docker_takes() {
    // Text, host address, host ports, container ports, protocol.
    let table = [
        ("80", "", "", "80", Proto::Tcp),
        ("80/udp", "", "", "80", Proto::Udp),
        ("80/UDP", "", "", "80", Proto::Udp),
        ("132/sctp", "", "", "132", Proto::Sctp),
        ("8080:80", "", "8080", "80", Proto::Tcp),
        (":80", "", "", "80", Proto::Tcp),
        ("0:80", "", "", "80", Proto::Tcp),
        ("8080:80/tcp", "", "8080", "80", Proto::Tcp),
        ("127.0.0.1:8080:80", "127.0.0.1", "8080", "80", Proto::Tcp),
        ("127.0.0.1::80", "127.0.0.1", "", "80", Proto::Tcp),
        ("127.0.0.1:80", "127.0.0.1", "", "80", Proto::Tcp),
        ("0.0.0.0:8080:80", "0.0.0.0", "8080", "80", Proto::Tcp),
        ("8000-8010:80", "", "8000-8010", "80", Proto::Tcp),
        ("8000-8010:80-90", "", "8000-8010", "80-90", Proto::Tcp),
        ("80-90", "", "", "80-90", Proto::Tcp),
        ("80-80", "", "", "80", Proto::Tcp),
        ("[::1]:8080:80", "::1", "8080", "80", Proto::Tcp),
        ("[::1]::80", "::1", "", "80", Proto::Tcp),
        (
            "[2001:db8::1]:53:53/udp",
            "2001:db8::1",
            "53",
            "53",
            Proto::Udp,
        ),
        ("65535:65535", "", "65535", "65535", Proto::Tcp),
    ];
    for (text, ip, host, container, proto) in table {
        let expected = PortSpec {
            host_ip: (!ip.is_empty()).then(|| ip.parse().unwrap()),
            host_ports: (!host.is_empty()).then(|| host.parse().unwrap()),
            container_ports: container.parse().unwrap(),
            proto,
            direct: false,
        };
        assert_eq!(spec(text), expected, "{text}");
    }
    assert!(spec("8080:80,direct").direct);
    assert!(spec("8080:80/udp,direct").direct);
}

#[test]
fn what_is_refused() {
    use BadSpec::*;
    let port = |text: &str| Port(text.into());
    let table = [
        ("", port("")),
        ("0", Zero),
        ("65536", port("65536")),
        ("+80", port("+80")),
        ("-80", port("")),
        (" 80", port(" 80")),
        ("http", port("http")),
        ("8080:", port("")),
        ("8080:0", Zero),
        ("90-80", Backwards(90, 80)),
        ("80-", port("")),
        ("80-81-82", port("81-82")),
        ("80/icmp", Proto("icmp".into())),
        ("80/", Proto("".into())),
        ("80/tcp/udp", Proto("tcp/udp".into())),
        ("80,other", Option("other".into())),
        ("80,", Option("".into())),
        ("1.2.3:80:80", Address("1.2.3".into())),
        ("1.2.3.256:80", Address("1.2.3.256".into())),
        ("host:80:80", Address("host".into())),
        ("[1.2.3.4]:80:80", Address("1.2.3.4".into())),
        ("[::1:80:80", Bracket("[::1:80:80".into())),
        ("[::1]80", Bracket("[::1]80".into())),
        ("[::1]:1:2:3", Colons("[::1]:1:2:3".into())),
        ("::1:80:80", Colons("::1:80:80".into())),
        ("1.2.3.4:1:2:3", Colons("1.2.3.4:1:2:3".into())),
        (
            "8000-8001:80-82",
            Lengths {
                host: range(8000, 8001),
                container: range(80, 82),
            },
        ),
        (
            "8000:80-82",
            Lengths {
                host: range(8000, 8000),
                container: range(80, 82),
            },
        ),
    ];
    for (text, error) in table {
        assert_eq!(text.parse::<PortSpec>(), Err(error), "{text:?}");
    }
}

#[test]
fn ranges_stay_whole_and_choices_are_made_port_by_port() {
    let whole = spec("127.0.0.1:8000-8002:80-82/udp").requests();
    let request = PortRequest {
        host_ip: Some(Ipv4Addr::LOCALHOST.into()),
        host_ports: Some(range(8000, 8002)),
        container_ports: range(80, 82),
        proto: Proto::Udp,
        direct: false,
    };
    assert_eq!(whole, [request]);
    let choose = spec("8000-8010:80").requests();
    assert_eq!(choose.len(), 1);
    assert_eq!(choose[0].host_ports, Some(range(8000, 8010)));
    let any = spec("80-81").requests();
    assert_eq!(any.len(), 2);
    assert!(any.iter().all(|request| request.host_ports.is_none()));
}

#[test]
fn what_is_published_fits_as_a_whole() {
    let of = |host_port, container_port, count| Publication {
        host_ip: Ipv4Addr::UNSPECIFIED.into(),
        host_port,
        container_port,
        proto: Proto::Tcp,
        count: NonZeroU16::new(count).unwrap(),
        allow: Vec::new(),
        direct: false,
    };
    let whole = of(8000, 80, 3);
    for fits in ["8000-8002:80-82", "80-82", "79-90", "7999-8003:79-83"] {
        assert!(spec(fits).fits(&whole, false), "{fits}");
    }
    for other in [
        "8000:80",
        "80",
        "8001-8003:80-82",
        "8000-8002:80-82/udp",
        "83-90",
    ] {
        assert!(!spec(other).fits(&whole, false), "{other}");
    }
    assert!(spec("8001:81").meets(&whole));
    assert!(!spec("8003:81").meets(&whole));
    assert!(spec("8000-8002:80-82").fits(&of(8001, 81, 1), false));
    assert!(!spec("8000-8002:80-82").fits(&of(8001, 82, 1), false));
    assert!(spec("8000-8010:80").fits(&of(8005, 80, 1), false));
    assert_eq!(whole.to_string(), "0.0.0.0:8000-8002->80-82/tcp");
}

#[test]
fn exposed_ports() {
    let exposed: Exposed = "80-81/udp".parse().unwrap();
    assert_eq!((exposed.ports, exposed.proto), (range(80, 81), Proto::Udp));
    assert_eq!(exposed.to_string(), "80-81/udp");
    assert!("8080:80".parse::<Exposed>().is_err());
}

fn port_range(count: u16) -> impl Strategy<Value = PortRange> {
    (1..=u16::MAX - count).prop_map(move |first| range(first, first + count))
}

fn any_spec() -> impl Strategy<Value = PortSpec> {
    let address = prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits))),
        any::<u128>().prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits))),
    ];
    let ports = (0..50_u16, 0..50_u16, 0..3).prop_flat_map(|(count, other, shape)| {
        let (host, container) = match shape {
            0 => (count, count),
            1 => (other, 0),
            _ => (count, other),
        };
        let host = port_range(host).prop_map(move |ports| (shape != 2).then_some(ports));
        (host, port_range(container))
    });
    let proto = prop_oneof![Just(Proto::Tcp), Just(Proto::Udp), Just(Proto::Sctp)];
    (option::of(address), ports, proto, any::<bool>()).prop_map(
        |(host_ip, (host_ports, container_ports), proto, direct)| PortSpec {
            host_ip,
            host_ports,
            container_ports,
            proto,
            direct,
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read(spec in any_spec()) {
        prop_assert_eq!(spec.to_string().parse::<PortSpec>(), Ok(spec.clone()));
        let json = serde_json::to_string(&spec).unwrap();
        prop_assert_eq!(serde_json::from_str::<PortSpec>(&json).unwrap(), spec);
    }

    #[test]
    fn each_container_port_is_asked_for_once(spec in any_spec()) {
        let requests = spec.requests();
        let ports: Vec<u16> = requests.iter().flat_map(|r| r.container_ports.ports()).collect();
        prop_assert_eq!(ports, spec.container_ports.ports().collect::<Vec<_>>());
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[\\[\\]0-9a-f:.,/tcpudirect-]{0,24}|.*") {
        if let Ok(spec) = text.parse::<PortSpec>() {
            prop_assert_eq!(spec.to_string().parse::<PortSpec>(), Ok(spec));
        }
    }
}
