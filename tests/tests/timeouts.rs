//! Networks whose flows are remembered for another time than the host's.

use netdp_tests::{Container, SIDES, Topology, connect, hears, listen, talk, udp};

/// How long the flows of one container with a protocol are remembered.
fn times(topology: &Topology, container: &Container, protocol: &str) -> Vec<u64> {
    let own = SIDES.map(|side| side.address(container));
    let mut flows = topology.flows();
    flows.retain(|flow| {
        flow.protocol == protocol && flow.container.is_some_and(|it| own.contains(&it.ip()))
    });
    flows.iter().filter_map(|flow| flow.timeout).collect()
}

#[test]
fn a_network_may_have_times_of_its_own() {
    let Some(mut topology) = Topology::with_ipv6("times-own") else {
        return;
    };
    topology
        .netdp("network create quick --ipv6 --opt udp-timeout=2s --opt tcp-established-timeout=1h");
    let quick = topology.container("quick1", "--network quick");
    let usual = topology.container("usual", "--network six");
    // Times are kept over a restart.
    topology.world.kill_daemon();
    topology.start_daemon();
    let mut open = Vec::new();
    for side in SIDES {
        let server = udp(&topology.world.outside, side.any, 53);
        let listener = listen(&topology.world.outside, side.any, 80);
        for container in [&quick, &usual] {
            let client = udp(container, side.any, 0);
            client.send_to(b"question", (side.outside, 53)).unwrap();
            server
                .send_to(b"answer", hears(&server, b"question"))
                .unwrap();
            hears(&client, b"answer");
            let near = connect(container, (side.outside, 80));
            let far = listener.accept().0;
            talk(&near, &far);
            open.push((near, far));
        }
    }
    assert_eq!(times(&topology, &usual, "udp"), [300, 300]);
    assert_eq!(times(&topology, &usual, "tcp"), [7440, 7440]);
    // The sweep gives them to each flow.
    topology.wait_until("an hour", || {
        times(&topology, &quick, "tcp") == [3600, 3600]
    });
    topology.wait_until("forgotten", || times(&topology, &quick, "udp").is_empty());
    assert_eq!(times(&topology, &usual, "udp"), [300, 300]);
    for (near, far) in &open {
        talk(near, far);
    }
}

#[test]
fn a_time_that_cannot_be_is_refused() {
    let Some(topology) = Topology::start("times-refused") else {
        return;
    };
    for (option, said) in [
        ("udp-timeout=0", "option udp-timeout=0: seconds"),
        ("udp-timeout=8d", "as 30s, is expected"),
        ("icmp-timeout=169h", "a week at most"),
        (
            "sctp-timeout=1",
            "there is no network option 'sctp-timeout'",
        ),
    ] {
        let refused = topology.refused(&format!("network create wrong --opt {option}"));
        assert!(refused.contains(said), "{refused}");
    }
    let refused = topology.refused("network inspect wrong");
    assert!(refused.contains("wrong"), "{refused}");
}
