//! Ports that go to another container while conversations with the one before
//! are still open.

use std::io::Write;

use netdp_tests::{SIDES, Side, Topology, connect_from, hears, listen, says_nothing, talk, udp};

/// The test for each family, in a world of its own.
fn on_each_side(name: &str, test: impl Fn(&Topology, Side)) {
    for side in SIDES {
        println!("{:?}", side.family);
        let Some(topology) = Topology::with_ipv6(name) else {
            return;
        };
        test(&topology, side);
    }
}

#[test]
fn the_next_datagram_goes_to_the_next_container() {
    on_each_side("unpub-udp", |topology, side| {
        let to = (side.host, 5353);
        let first = topology.container("first", "--network six -p 5353:53/udp");
        let other = topology.container("other", "--network six");
        let (server, next) = (udp(&first, side.any, 53), udp(&other, side.any, 53));
        let client = udp(&topology.world.client, side.client, 4000);
        let neighbour = topology.container("neighbour", "--network six");
        let near = udp(&neighbour, side.any, 4000);
        let mut seen = Vec::new();
        for socket in [&client, &near] {
            for _ in 0..3 {
                socket.send_to(b"question", to).unwrap();
                let from = hears(&server, b"question");
                server.send_to(b"answer", from).unwrap();
                assert_eq!(hears(socket, b"answer"), to.into());
                seen.push(from);
            }
        }

        topology.netdp("unpublish first 5353:53/udp");
        topology.netdp("publish other 5353:53/udp");
        let dropped = topology.dropped("unpublished");
        for from in &seen {
            server.send_to(b"too late", from).unwrap();
        }
        for socket in [&client, &near] {
            for _ in 0..3 {
                socket.send_to(b"question", to).unwrap();
                let from = hears(&next, b"question");
                next.send_to(b"answer", from).unwrap();
                assert_eq!(hears(socket, b"answer"), to.into());
            }
            says_nothing(socket);
        }
        says_nothing(&server);
        assert_eq!(topology.dropped("unpublished"), dropped + seen.len() as u64);
    });
}

#[test]
fn a_connection_of_an_unpublished_port_is_dead_on_both_sides() {
    on_each_side("unpub-tcp", |topology, side| {
        let world = &topology.world;
        let to = (side.host, 8080);
        let first = topology.container("first", "--network six -p 8080:80 -p 8081:81");
        let other = topology.container("other", "--network six");
        let listeners = [
            listen(&first, side.any, 80),
            listen(&first, side.any, 81),
            listen(&other, side.any, 80),
        ];
        let near = connect_from(&world.client, (side.client, 4001), to);
        let mut far = listeners[0].accept().0;
        let stays = connect_from(&world.client, (side.client, 4001), (side.host, 8081));
        let stays_far = listeners[1].accept().0;
        talk(&near, &far);
        talk(&stays, &stays_far);

        topology.netdp("unpublish first 8080:80");
        topology.netdp("publish other 8080:80");
        let dropped = topology.dropped("unpublished");
        far.write_all(b"too late").unwrap();
        topology.wait_until("dropped", || topology.dropped("unpublished") > dropped);
        talk(&stays, &stays_far);
        netdp_tests::abort(near);
        // The very same client's port.
        let near = connect_from(&world.client, (side.client, 4001), to);
        talk(&near, &listeners[2].accept().0);
        listeners[0].assert_nobody_came();
    });
}

#[test]
fn a_container_at_the_address_of_another_answers_for_itself_alone() {
    on_each_side("unpub-reuse", |topology, side| {
        topology.netdp("network create net --subnet 10.77.0.0/24 --subnet fd77::/64");
        let address = side.of("--ip 10.77.0.50", "--ip6 fd77::50");
        let client = udp(&topology.world.client, side.client, 4000);
        for (name, port) in [("first", 5353), ("second", 5354), ("third", 5353)] {
            let options = format!("--network net {address} -p {port}:53/udp");
            let container = topology.container(name, &options);
            let server = udp(&container, side.any, 53);
            client.send_to(b"question", (side.host, port)).unwrap();
            let from = hears(&server, b"question");
            server.send_to(b"answer", from).unwrap();
            assert_eq!(hears(&client, b"answer"), (side.host, port).into());
            topology.netdp(&format!("unpublish {name} {port}:53/udp"));
            server.send_to(b"too late", from).unwrap();
            says_nothing(&client);
            topology.netdp(&format!("rm {name}"));
        }
        assert_eq!(topology.dropped("unpublished"), 3);
    });
}
