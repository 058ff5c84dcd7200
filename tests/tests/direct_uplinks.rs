//! Direct ports while the host's uplink goes and comes.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;

use netdp_tests::{Place, SIDES, SILENCE, Side, Topology, connect_within};

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// Whom the server takes a client at the published port for; none of one that
/// isn't answered.
fn client_seen(from: &impl Place, side: Side, port: u16) -> Option<String> {
    let to = SocketAddr::from((side.host, port));
    let stream = connect_within(from, None, to, SILENCE).ok()?;
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).ok()?;
    let (_, peer) = line.trim().split_once(' ')?;
    let peer: SocketAddr = peer.parse().expect("a name");
    Some(peer.ip().to_canonical().to_string())
}

#[test]
fn an_uplink_that_is_made_again_leads_to_the_same_socket() {
    for side in SIDES {
        let Some(topology) = Topology::with_ipv6("diu-again") else {
            return;
        };
        let world = &topology.world;
        topology.netdp(&format!(
            "run -d --name web --network six -p 8080:80,direct -- {SERVER} [::]:80"
        ));
        topology.wait_until("listening", || !topology.netdp("logs web").is_empty());
        let seen = || client_seen(&world.client, side, 8080);
        assert_eq!(seen(), Some(side.client.to_string()));
        topology.ip(&world.host, "link del eth0\n");
        assert_eq!(seen(), None);
        topology.ip(
            &world.client,
            &format!(
                "link add wire0 type veth peer name eth0 netns {}\nlink set wire0 up\n{}",
                world.host.path().display(),
                side.add_address(side.client, "wire0"),
            ),
        );
        let own = side.add_address(side.host, "eth0");
        topology.ip(&world.host, &format!("link set eth0 up\n{own}"));
        topology.wait_until("reached", || seen().is_some());
        assert_eq!(seen(), Some(side.client.to_string()));
        // Also what begins later, and what ends.
        topology.netdp(&format!(
            "run -d --name next --network six -p 8081:80,direct -- {SERVER} [::]:80"
        ));
        topology.wait_until("listening", || !topology.netdp("logs next").is_empty());
        let next = client_seen(&world.client, side, 8081);
        assert_eq!(next, Some(side.client.to_string()));
        topology.netdp("rm -f web");
        assert_eq!(seen(), None);
    }
}
