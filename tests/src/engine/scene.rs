//! What is asked of every engine.

use std::net::Ipv4Addr;
use std::time::Duration;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};

use super::{Engine, EngineHost, Left, fetch, fetch_within};
use crate::{connect, hears, listen, talk, udp};

/// Published ports lead to their container from outside, from the host and from
/// another container; each sees who asks.
pub fn published_ports_are_reached_from_everywhere<E: Engine>(packages: &str) {
    let Some(engine) = E::start("reach", packages) else {
        return;
    };
    let host = engine.host();
    let before = Left::on(host);
    let world = &host.topology.world;
    engine.run("one", "-p 8081:80 -p 5353:53/udp");
    engine.run("two", "-p 8082:80 -p 127.0.0.1:8083:80");
    engine.run("asks", "");
    let (asks, one) = (engine.namespace("asks"), engine.namespace("one"));
    for (port, name) in [(8081, "one"), (8082, "two")] {
        for (place, source) in [
            (&world.client, CLIENT_ADDRESS),
            (&world.outside, OUTSIDE_ADDRESS),
        ] {
            let seen = fetch(place, (HOST_ADDRESS, port));
            assert_eq!((seen.hostname.as_str(), seen.source), (name, source.into()));
        }
        let program = host.topology.host_program();
        for address in [Ipv4Addr::LOCALHOST, HOST_ADDRESS] {
            assert_eq!(fetch(&program, (address, port)).hostname, name);
        }
        assert_eq!(fetch(&asks, (HOST_ADDRESS, port)).hostname, name);
        let seen = fetch(&asks, (engine.address(name), 80));
        assert_eq!(seen.source, engine.address("asks"));
        assert_eq!(seen.hostname, name);
    }
    // What is published on loopback is the host's own.
    let program = host.topology.host_program();
    assert_eq!(fetch(&program, (Ipv4Addr::LOCALHOST, 8083)).hostname, "two");
    fetch_within(
        &world.client,
        (HOST_ADDRESS, 8083),
        Duration::from_millis(300),
    )
    .unwrap_err();
    let (client, dns) = (
        udp(&world.client, Ipv4Addr::UNSPECIFIED, 0),
        udp(&one, Ipv4Addr::UNSPECIFIED, 53),
    );
    client.send_to(b"question", (HOST_ADDRESS, 5353)).unwrap();
    let from = hears(&dns, b"question");
    assert_eq!(from.ip(), CLIENT_ADDRESS);
    dns.send_to(b"answer", from).unwrap();
    assert_eq!(hears(&client, b"answer"), (HOST_ADDRESS, 5353).into());
    drop((asks, one));
    engine.remove("one two asks");
    before.comes_back(host);
}

pub fn a_taken_port_is_refused_and_leaves_nothing<E: Engine>(packages: &str) {
    let Some(engine) = E::start("taken", packages) else {
        return;
    };
    let host = engine.host();
    engine.run("one", "-p 8081:80");
    let before = Left::on(host);
    let said = host.refused(&engine.run_words("two", "-p 8082:80 -p 8081:80"));
    assert!(E::TAKEN.iter().all(|words| said.contains(words)), "{said}");
    engine.remove("two");
    before.comes_back(host);
    engine.run("three", "-p 8082:80");
    let world = &host.topology.world;
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8081)).hostname, "one");
    assert_eq!(fetch(&world.client, (HOST_ADDRESS, 8082)).hostname, "three");
}

/// However many start and end at once, each is reached while it is there.
pub fn fifty_containers_come_and_go_at_once<E: Engine>(packages: &str) {
    const COUNT: u16 = 50;
    let Some(engine) = E::start("fifty", packages) else {
        return;
    };
    let host = engine.host();
    let before = Left::on(host);
    host.at_once(COUNT, &engine.run_words("c$i", "-p $((9000 + i)):80"));
    let client = &host.topology.world.client;
    for number in 1..=COUNT {
        let seen = fetch(client, (HOST_ADDRESS, 9000 + number));
        assert_eq!(seen.hostname, format!("c{number}"));
        assert_eq!(seen.source, CLIENT_ADDRESS);
    }
    host.at_once(COUNT, &engine.remove_words("c$i"));
    before.comes_back(host);
}

/// netdp's daemon is killed: connections go on, new ones are made, and what it
/// missed is made up for.
pub fn a_killed_netdp_is_made_up_for<E: Engine>(packages: &str) {
    let Some(engine) = E::start("kill", packages) else {
        return;
    };
    let host = engine.host();
    let client = &host.topology.world.client;
    engine.run("one", "-p 8081:80 -p 9001:81");
    let before = Left::on(host);
    engine.run("gone", "-p 8082:80");
    let one = engine.namespace("one");
    let listener = listen(&one, Ipv4Addr::UNSPECIFIED, 81);
    let near = connect(client, (HOST_ADDRESS, 9001));
    let (far, _) = listener.accept();

    host.kill("netdp");
    talk(&near, &far);
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    // An engine may say that nobody answered, and goes on without.
    let _ = host.try_sh(&engine.remove_words("gone"));
    let late = engine.run_words("late", "-p 8083:80");
    if E::WAITS {
        host.sh(&format!(
            "{{ {late}; echo $? >/tmp/ended; }} >/tmp/said 2>&1 &"
        ));
    } else {
        host.refused(&late);
        engine.remove("late");
    }
    host.start_netdp();
    talk(&near, &far);
    if E::WAITS {
        host.wait_until("started while netdp was away", || {
            host.path("/tmp/ended").exists()
        });
        let ended = host.sh("cat /tmp/ended");
        assert_eq!(ended, "0", "{}", host.sh("cat /tmp/said"));
    } else {
        host.sh(&late);
    }
    assert_eq!(fetch(client, (HOST_ADDRESS, 8083)).hostname, "late");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8081)).hostname, "one");
    engine.run("next", "-p 8082:80");
    assert_eq!(fetch(client, (HOST_ADDRESS, 8082)).hostname, "next");
    talk(&near, &far);
    engine.remove("late next");
    before.comes_back(host);
    drop((near, far, listener, one));
    engine.remove("one");
    host.wait_until("none is left", || sandboxes(host) == 0);
}

/// How many sandboxes netdp knows.
pub fn sandboxes(host: &EngineHost) -> usize {
    let list = host.netdp("ps --format json");
    let list: Vec<serde_json::Value> = serde_json::from_str(&list).expect("sandboxes in JSON");
    list.len()
}
