//! Who may use a direct port, whichever interface of the host they come by: its
//! listener is the host's, and hears them all.

use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, HOST_ADDRESS6};
use netdp::netns::Namespace;
use netdp_tests::{PATIENCE, Place, SILENCE, Topology, connect, connect_within, listen, udp};
use nix::net::if_::if_nametoindex;

const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// An interface of the host that is no uplink, and a neighbour behind it.
const HERE: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);

fn add_neighbour(topology: &Topology) -> Namespace {
    let neighbour = topology.world.add_namespace("aside").unwrap();
    topology.ip(
        &topology.world.host,
        &format!(
            "link add aside0 type veth peer name eth0 netns {}\n\
             address add {HERE}/24 dev aside0\nlink set aside0 up\n",
            neighbour.path().display()
        ),
    );
    topology.ip(
        &neighbour,
        &format!(
            "address add {NEIGHBOUR}/24 dev eth0\nlink set eth0 up\n\
             route add default via {HERE}\n"
        ),
    );
    neighbour
}

/// Both protocols at all addresses.
fn serve(topology: &Topology, name: &str, options: &str) {
    topology.netdp(&format!(
        "run -d --name {name} {options} -- {SERVER} 0.0.0.0:80 --udp 0.0.0.0:53"
    ));
    topology.wait_until("listening", || {
        topology.netdp(&format!("logs {name}")).lines().count() == 2
    });
}

/// Whether the program talks with who connects.
fn talks(from: &impl Place, to: (impl Into<IpAddr>, u16)) -> bool {
    let mut stream = connect(from, SocketAddr::new(to.0.into(), to.1));
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.read(&mut [0]).is_ok_and(|length| length == 1)
}

fn answers(from: &impl Place, to: (impl Into<IpAddr>, u16)) -> bool {
    let client = udp(from, Ipv4Addr::UNSPECIFIED, 0);
    client.set_read_timeout(Some(SILENCE)).unwrap();
    client.send_to(b"?", (to.0.into(), to.1)).unwrap();
    client.recv(&mut [0; 256]).is_ok()
}

#[test]
fn allow_holds_at_interfaces_that_are_no_uplinks() {
    let Some(topology) = Topology::start("dal-aside") else {
        return;
    };
    let neighbour = add_neighbour(&topology);
    let ports = "-p 8080:80,direct -p 5353:53/udp,direct";
    let options = format!("--allow {CLIENT_ADDRESS}/32 {ports}");
    serve(&topology, "some", &options);
    serve(&topology, "all", "-p 8081:80,direct -p 5354:53/udp,direct");
    let near = topology.container("near", "");
    let Topology { world, .. } = &topology;
    let host = topology.host_program();
    for at in [HERE, HOST_ADDRESS] {
        assert!(talks(&neighbour, (at, 8081)));
        assert!(answers(&neighbour, (at, 5354)));
        // Nor does what it sends with its connection get anywhere.
        let refused = connect_within(&neighbour, None, (at, 8080), SILENCE);
        assert!(refused.is_err());
        assert!(!answers(&neighbour, (at, 5353)));
    }
    assert!(talks(&world.client, (HOST_ADDRESS, 8080)));
    assert!(answers(&world.client, (HOST_ADDRESS, 5353)));
    // The host, and a container at the sandbox's own address, as where nothing is
    // direct.
    let own = topology.inspect("some").endpoints[0].addresses[0].addr();
    for (port, udp_port, at) in [
        (8080, 5353, IpAddr::from(Ipv4Addr::LOCALHOST)),
        (80, 53, own),
    ] {
        assert!(talks(&host, (at, port)));
        assert!(answers(&host, (at, udp_port)));
    }
    assert!(talks(&near, (own, 80)));
    assert!(answers(&near, (own, 53)));
}

/// Addresses that mean something on one link are nobody's that a port is published
/// at, though the listener is at all of them.
#[test]
fn nothing_is_published_at_link_local_addresses() {
    let Some(topology) = Topology::start_with_ipv6("dal-link") else {
        return;
    };
    topology.netdp("network create six --ipv6");
    let words = format!("run -d --name web --network six -p 8080:80,direct -- {SERVER} [::]:80");
    topology.netdp(&words);
    topology.wait_until("listening", || !topology.netdp("logs web").is_empty());
    let world = &topology.world;
    topology.ip(&world.host, "address add fe80::77/64 dev eth0 nodad\n");
    topology.ip(&world.client, "address add fe80::78/64 dev wire0 nodad\n");
    let client = &world.client;
    assert!(talks(client, (HOST_ADDRESS6, 8080)));
    let index = client.run(|| if_nametoindex("wire0")).unwrap().unwrap();
    let to = |port| SocketAddrV6::new("fe80::77".parse().unwrap(), port, 0, index);
    assert!(connect_within(client, None, to(8080), SILENCE).is_err());
    // What the host itself has there is reached.
    let own = listen(&topology.host_program(), Ipv6Addr::UNSPECIFIED, 9000);
    connect(client, to(9000));
    own.accept();
}
