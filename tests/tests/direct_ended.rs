//! When direct ports of programs end, and when not.

use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, SocketAddr, TcpStream};

use netdp::demo::world::{HOST_ADDRESS, HOST_ADDRESS6};
use netdp_tests::{SILENCE, Topology, connect, connect_within};

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// A sandbox on a network of both families.
fn serve(name: &str, publish: &str, addresses: &str) -> Option<Topology> {
    let topology = Topology::with_ipv6(name)?;
    topology.netdp("network create --ipv6 both");
    topology.netdp(&format!(
        "run -d --name web --network both -p {publish} -- {SERVER} {addresses}"
    ));
    let many = addresses.split(' ').count();
    topology.wait_until("listening", || {
        topology.netdp("logs web").lines().count() >= many
    });
    Some(topology)
}

/// A connection that the server has greeted.
#[track_caller]
fn greeted(topology: &Topology, to: (impl Into<IpAddr>, u16)) -> TcpStream {
    let stream = connect(&topology.world.client, (to.0.into(), to.1));
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    stream
}

#[test]
fn a_range_ends_in_both_families() {
    let publish = "8000-8003:80-83,direct";
    let Some(topology) = serve("die-range", publish, "0.0.0.0:80 [::]:81") else {
        return;
    };
    let places: [(IpAddr, u16); 3] = [
        (HOST_ADDRESS.into(), 8000),
        (HOST_ADDRESS.into(), 8001),
        (HOST_ADDRESS6.into(), 8001),
    ];
    let open = places.map(|place| greeted(&topology, place));
    topology.netdp("unpublish web 8000-8003:80-83");
    for (place, mut stream) in places.into_iter().zip(open) {
        let rest = stream.read_to_end(&mut Vec::new());
        assert!(rest.is_err(), "{place:?}");
        let to = SocketAddr::from(place);
        let again = connect_within(&topology.world.client, None, to, SILENCE);
        assert!(again.is_err(), "{place:?}");
    }
    // The ports are the next one's, of whatever kind.
    topology.netdp("publish web 8000-8003:80-83");
}

#[test]
fn another_family_ends_nothing() {
    // With one number inside and outside, too.
    for (name, publish, port) in [
        ("die-family", "8000-8003:80-83", 80),
        ("die-number", "8000-8003:8000-8003", 8000),
    ] {
        let v4 = format!("0.0.0.0:{publish},direct");
        let Some(topology) = serve(name, &v4, &format!("0.0.0.0:{port}")) else {
            return;
        };
        let to: SocketAddr = (HOST_ADDRESS, 8000).into();
        let open = greeted(&topology, (to.ip(), 8000));
        for change in ["publish", "unpublish"] {
            topology.netdp(&format!("{change} web [::]:{publish},direct"));
            greeted(&topology, (to.ip(), 8000));
        }
        open.set_nonblocking(true).unwrap();
        let quiet = (&open).read(&mut [0]).unwrap_err();
        assert_eq!(quiet.kind(), std::io::ErrorKind::WouldBlock, "{publish}");
    }
}
