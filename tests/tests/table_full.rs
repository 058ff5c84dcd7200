//! A flow table without room: new flows are refused and counted, those that
//! live go on, and room comes back while no daemon runs.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

use netdp::demo::world::OUTSIDE_ADDRESS;
use netdp_tests::{Container, Topology, connect, listen, talk, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
/// The least that the daemon takes.
const FLOWS: usize = 1_024;
/// Longer than a timeout, which is 2 s, and two sweeps, which are 5 s apart.
const EXPIRED: Duration = Duration::from_secs(40);

/// Whether a datagram of this socket is answered.
fn is_answered(client: &UdpSocket, server: &UdpSocket) -> bool {
    let to = (OUTSIDE_ADDRESS, server.local_addr().unwrap().port());
    client.send_to(b"who is there", to).unwrap();
    let mut buffer = [0; 64];
    let Ok((length, from)) = server.recv_from(&mut buffer) else {
        return false;
    };
    server.send_to(&buffer[..length], from).unwrap();
    let wait = Some(Duration::from_millis(300));
    client.set_read_timeout(wait).unwrap();
    client.recv_from(&mut buffer).is_ok()
}

/// Flows of a container until one is refused.
fn fill(container: &Container, server: &UdpSocket) -> Vec<UdpSocket> {
    let mut held = Vec::new();
    while held.len() <= FLOWS {
        let client = udp(container, ANY, 0);
        if !is_answered(&client, server) {
            return held;
        }
        held.push(client);
    }
    panic!("the table never gets full");
}

#[test]
fn living_flows_go_on_and_room_comes_back_without_a_daemon() {
    let Some(mut topology) = Topology::without_daemon("table-full") else {
        return;
    };
    let config = topology.world.dir().join("netdp.toml");
    let text = format!("max-flows = {FLOWS}\nflows-per-endpoint = 700\n[timeouts]\nudp = 2\n");
    std::fs::write(&config, text).unwrap();
    let args = ["--config", config.to_str().unwrap()];
    topology
        .world
        .start_daemon(&args)
        .unwrap_or_else(|error| panic!("{error}"));
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let listener = listen(&topology.world.outside, ANY, 80);
    let near = connect(&one, (OUTSIDE_ADDRESS, 80));
    let (far, _) = listener.accept();
    talk(&near, &far);

    // The share of one, and then what is left of the table for the other: its
    // flows are refreshed by none, so this has to be quick.
    let server = udp(&topology.world.outside, ANY, 53);
    server
        .set_read_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let _held = (fill(&one, &server), fill(&other, &server));
    assert!(topology.dropped("endpoint-limit") > 0);
    assert!(
        topology.dropped("table-full") > 0,
        "{:?}",
        topology.statistics().drops
    );
    talk(&near, &far);

    topology.world.kill_daemon();
    talk(&near, &far);
    let began = Instant::now();
    while !is_answered(&udp(&other, ANY, 0), &server) {
        assert!(began.elapsed() < EXPIRED, "no room comes back");
    }
    talk(&near, &far);
}
