//! Links: names of one's own for other sandboxes, and, on a network without
//! icc, the way to their ports.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr};

use netdp_tests::{
    Container, Listener, SILENCE, Topology, connect, connect_within, hears, listen, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A topology with the network `strict`, which has no icc.
fn strict(name: &str) -> Option<Topology> {
    let topology = Topology::start(name)?;
    topology.netdp("network create strict --icc=false");
    Some(topology)
}

fn on(topology: &Topology, name: &str, options: &str) -> Container {
    topology.container(name, &format!("--network strict {options}"))
}

#[track_caller]
fn reaches(from: &Container, to: &Container, listener: &Listener) {
    let near = connect(from, (to.address, listener.port()));
    talk(&near, &listener.accept().0);
}

#[track_caller]
fn unreachable(from: &Container, to: &Container, port: u16) {
    let refused = connect_within(from, None, (to.address, port), SILENCE).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::TimedOut, "{refused}");
}

#[test]
fn a_link_opens_what_its_server_exposes() {
    let Some(topology) = strict("links-open") else {
        return;
    };
    let db = on(
        &topology,
        "db",
        "--expose 80 --expose 7000-7001/udp -p 9090:90",
    );
    let web = on(&topology, "web", "--link db:store");
    let other = on(&topology, "other", "");
    let (exposed, published, closed) = (
        listen(&db, ANY, 80),
        listen(&db, ANY, 90),
        listen(&db, ANY, 81),
    );
    reaches(&web, &db, &exposed);
    reaches(&web, &db, &published);
    let (server, client) = (udp(&db, ANY, 7001), udp(&web, ANY, 0));
    client.send_to(b"question", (db.address, 7001)).unwrap();
    let from = hears(&server, b"question");
    assert_eq!(from.ip(), web.address);
    server.send_to(b"answer", from).unwrap();
    assert_eq!(hears(&client, b"answer").ip(), db.address);
    // Nothing listens there, and who may ask is told so.
    client.connect((db.address, 7000)).unwrap();
    client.send(b"anybody?").unwrap();
    let refused = client.recv(&mut [0; 8]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);

    let before = topology.dropped("no-icc");
    unreachable(&web, &db, 81);
    // Neither the other way round nor for anybody else.
    let back = listen(&web, ANY, 80);
    unreachable(&db, &web, 80);
    unreachable(&other, &db, 80);
    assert!(topology.dropped("no-icc") >= before + 3);
    for listener in [&exposed, &closed, &back] {
        listener.assert_nobody_came();
    }
    // A port that is published later is open from then on.
    let later = listen(&db, ANY, 91);
    unreachable(&web, &db, 91);
    topology.netdp("publish db 9091:91");
    reaches(&web, &db, &later);
    topology.netdp("unpublish db 9091:91");
    unreachable(&web, &db, 91);
}

#[test]
fn a_link_follows_a_server_that_starts_again() {
    let Some(topology) = strict("links-again") else {
        return;
    };
    let db = on(&topology, "db", "--expose 80");
    let web = on(&topology, "web", "--link db:store");
    reaches(&web, &db, &listen(&db, ANY, 80));
    let hosts = |name: &str| -> Vec<(IpAddr, Vec<String>)> {
        let entries = topology.inspect(name).hosts.into_iter();
        entries.map(|entry| (entry.address, entry.names)).collect()
    };
    let knows = |db: &Container| {
        let names = ["store", "db"].map(str::to_owned).to_vec();
        hosts("web").contains(&(db.address.into(), names))
    };
    assert!(knows(&db), "{:?}", hosts("web"));

    topology.netdp("rm db");
    assert_eq!(hosts("web").len(), 1);
    // Who gets the address next doesn't get the link.
    let stranger = on(
        &topology,
        "stranger",
        &format!("--ip {} --expose 80", db.address),
    );
    let listener = listen(&stranger, ANY, 80);
    unreachable(&web, &stranger, 80);
    listener.assert_nobody_came();

    let again = topology
        .world
        .add_namespace("db-again")
        .unwrap_or_else(|error| panic!("{error}"));
    topology.netdp(&format!(
        "attach --netns {} --name db --network strict --expose 80",
        again.path().display()
    ));
    let IpAddr::V4(address) = topology.inspect("db").endpoints[0].addresses[0].addr() else {
        panic!("another family's address first");
    };
    assert_ne!(address, db.address);
    let again = Container {
        namespace: again,
        address,
        ..db
    };
    reaches(&web, &again, &listen(&again, ANY, 80));
    assert!(knows(&again), "{:?}", hosts("web"));
}

#[test]
fn links_outlive_the_daemon() {
    let Some(mut topology) = strict("links-daemon") else {
        return;
    };
    let db = on(&topology, "db", "--expose 80");
    let web = on(&topology, "web", "--link db");
    let listener = listen(&db, ANY, 80);
    topology.world.kill_daemon();
    reaches(&web, &db, &listener);
    topology.start_daemon();
    reaches(&web, &db, &listener);
    unreachable(&db, &web, 80);
}
