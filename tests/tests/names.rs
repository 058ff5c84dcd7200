//! Names of sandboxes, asked for inside them.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::Command;
use std::thread;

use hickory_proto::op::{Message, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use netdp::demo::world::{OUTSIDE_ADDRESS, OUTSIDE_ADDRESS6};
use netdp::netns::Namespace;
use netdp_tests::dns::{
    ELSEWHERE, MANY, Outside, RESOLVER, addresses, ask, ask_at, ask_by_tcp, question, resolve,
    with_resolver,
};
use netdp_tests::{Container, Topology, connect, hears, listen, talk, udp};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A topology whose daemon asks the resolver outside.
fn topology(name: &str) -> Option<Topology> {
    let mut topology = Topology::without_daemon(name)?;
    start(&mut topology);
    Some(topology)
}

fn start(topology: &mut Topology) {
    start_with(topology, &format!("\"{OUTSIDE_ADDRESS}\""));
}

/// With a daemon that asks these.
fn start_with(topology: &mut Topology, resolvers: &str) {
    let config = topology.world.dir().join("netdp.toml");
    fs::write(&config, format!("dns = [{resolvers}]\n")).unwrap();
    let config = config.to_str().unwrap();
    topology
        .world
        .start_daemon(&["--config", config])
        .unwrap_or_else(|error| panic!("{error}"));
}

fn with_outside(topology: &Topology, test: impl FnOnce(&Outside)) {
    let outside = Outside::default();
    with_resolver(&topology.world.outside, OUTSIDE_ADDRESS, &outside, || {
        test(&outside);
    });
}

/// On a network, without a published port.
fn on(topology: &Topology, name: &str, network: &str) -> Container {
    topology.container(name, &format!("--network {network}"))
}

#[test]
fn sandboxes_of_a_network_know_each_other_by_name() {
    let Some(topology) = topology("names-each") else {
        return;
    };
    topology.netdp("network create other");
    let (web, db) = (
        on(&topology, "web", "netdp0"),
        on(&topology, "db", "netdp0"),
    );
    let far = on(&topology, "far", "other");
    assert_eq!(resolve(&web, "db"), Ok(vec![db.address.into()]));
    assert_eq!(resolve(&db, "WEB.netdp0"), Ok(vec![web.address.into()]));
    let id = topology.inspect("db").id;
    assert_eq!(resolve(&web, &id[..12]), Ok(vec![db.address.into()]));
    let listener = listen(&db, ANY, 80);
    let near = connect(&web, (db.address, 80));
    talk(&near, &listener.accept().0);

    let [a, b, c, d] = db.address.octets();
    let reverse = ask(
        &web,
        &format!("{d}.{c}.{b}.{a}.in-addr.arpa"),
        RecordType::PTR,
    );
    assert_eq!(reverse.answers[0].data.to_string(), "db.netdp0.");
    let by_tcp = ask_by_tcp(&web, "db", RecordType::A);
    assert_eq!(addresses(&by_tcp), [IpAddr::from(db.address)]);
    assert!(ask(&web, "db", RecordType::AAAA).answers.is_empty());

    // Two networks keep their names to themselves until a sandbox is on both.
    with_outside(&topology, |_| {
        assert_eq!(resolve(&web, "far"), Ok(vec![ELSEWHERE.into()]));
        topology.netdp("connect other web");
        assert_eq!(resolve(&web, "far"), Ok(vec![far.address.into()]));
        assert_eq!(resolve(&web, "db"), Ok(vec![db.address.into()]));
        assert!(resolve(&far, "web").is_ok_and(|it| it != [IpAddr::from(web.address)]));
        topology.netdp("disconnect other web");
        assert_eq!(resolve(&web, "far"), Ok(vec![ELSEWHERE.into()]));
        topology.netdp("rm -f db");
        assert_eq!(resolve(&web, "db"), Ok(vec![ELSEWHERE.into()]));
    });
}

#[test]
fn other_names_are_asked_for_outside() {
    let Some(topology) = topology("names-fwd") else {
        return;
    };
    topology.netdp("network create --internal inside");
    let web = on(&topology, "web", "netdp0");
    let alone = on(&topology, "alone", "inside");
    let by_tcp = listen(&topology.world.outside, OUTSIDE_ADDRESS, 53);
    with_outside(&topology, |outside| {
        assert_eq!(resolve(&web, "www.example.net"), Ok(vec![ELSEWHERE.into()]));
        assert_eq!(resolve(&web, "single"), Ok(vec![ELSEWHERE.into()]));
        assert_eq!(outside.count(), 2);
        assert_eq!(
            resolve(&web, "unknown.example.net"),
            Err(ResponseCode::NXDomain)
        );
        // Cut off by UDP, whole by TCP.
        let cut = ask(&web, "long.example.net", RecordType::TXT);
        assert!(cut.metadata.truncation);
        thread::scope(|scope| {
            scope.spawn(|| outside.serve_one_by_tcp(&by_tcp));
            let whole = ask_by_tcp(&web, "long.example.net", RecordType::TXT);
            assert!(!whole.metadata.truncation);
            assert_eq!(whole.answers.len(), 20);
        });
        assert_eq!(outside.count(), 5);

        // An internal network keeps its questions.
        assert_eq!(resolve(&alone, "alone"), Ok(vec![alone.address.into()]));
        assert_eq!(
            resolve(&alone, "www.example.net"),
            Err(ResponseCode::ServFail)
        );
        assert_eq!(resolve(&alone, "web"), Err(ResponseCode::ServFail));
        assert_eq!(outside.count(), 5);
    });
}

#[test]
fn a_resolver_outside_that_is_silent_is_not_waited_for_long() {
    let Some(topology) = topology("names-mute") else {
        return;
    };
    let web = on(&topology, "web", "netdp0");
    // Bound, so that nothing says at once that nobody is there.
    let _mute = udp(&topology.world.outside, OUTSIDE_ADDRESS, 53);
    assert_eq!(
        resolve(&web, "www.example.net"),
        Err(ResponseCode::ServFail)
    );
    // Meanwhile others are answered, and what makes no sense is refused.
    assert_eq!(resolve(&web, "web"), Ok(vec![web.address.into()]));
    let socket = udp(&web, ANY, 0);
    socket.connect(RESOLVER).unwrap();
    let mut nonsense = [0xff; 40];
    nonsense[2] = 0;
    socket.send(&nonsense).unwrap();
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer).unwrap();
    assert!(length >= 12);
    assert_eq!(answer[..2], [0xff; 2]);
    assert_eq!(answer[3] & 0x0f, ResponseCode::FormErr.low());
}

#[test]
fn nothing_is_left_on_the_loopback_interface_of_who_leaves() {
    let Some(mut topology) = topology("names-left") else {
        return;
    };
    let has_program = |place: &Container| {
        let mut command = place.namespace.command("tc");
        let shown = command.args(["filter", "show", "dev", "lo", "egress"]);
        let shown = shown.output().unwrap().stdout;
        String::from_utf8(shown).unwrap().contains("to_resolver")
    };
    let [web, db] = ["web", "db"].map(|name| on(&topology, name, "netdp0"));
    assert!(has_program(&web) && has_program(&db));
    topology.netdp("rm web");
    topology.wait_until("detached", || !has_program(&web));
    assert!(has_program(&db));
    topology.world.stop_daemon().unwrap();
    let world = &topology.world;
    let (state, bpffs) = (world.state_dir(), world.bpffs());
    let cleanup = world
        .on_host(world.netdp_path())
        .arg("daemon")
        .arg("--cleanup")
        .arg("--state-dir")
        .arg(state)
        .arg("--bpffs")
        .arg(bpffs)
        .arg("--cgroup")
        .arg(world.cgroup())
        .output()
        .unwrap();
    assert!(cleanup.status.success(), "{cleanup:?}");
    assert!(!has_program(&db));
}

#[test]
fn a_daemon_that_starts_again_answers_again() {
    let Some(mut topology) = topology("names-again") else {
        return;
    };
    let web = on(&topology, "web", "netdp0");
    let db = on(&topology, "db", "netdp0");
    assert_eq!(resolve(&web, "db"), Ok(vec![db.address.into()]));
    topology.world.kill_daemon();
    let refused = ask_at(&web, RESOLVER, "db", RecordType::A).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    start(&mut topology);
    assert_eq!(resolve(&web, "db"), Ok(vec![db.address.into()]));
    assert_eq!(
        addresses(&ask_by_tcp(&web, "db", RecordType::A)),
        [IpAddr::from(db.address)]
    );
}

#[test]
fn port_53_stays_the_sandboxs_own() {
    let Some(topology) = topology("names-port") else {
        return;
    };
    let dns = topology.container("dns", "-p 53:53/udp -p 53:53/tcp");
    let (datagrams, listener) = (udp(&dns, ANY, 53), listen(&dns, ANY, 53));
    // Its own server gets what is sent to its own addresses, netdp's the rest.
    assert_eq!(resolve(&dns, "dns"), Ok(vec![dns.address.into()]));
    let client = udp(&dns, ANY, 0);
    for to in [Ipv4Addr::LOCALHOST, dns.address] {
        client.send_to(b"question", (to, 53)).unwrap();
        let from = hears(&datagrams, b"question");
        datagrams.send_to(b"answer", from).unwrap();
        assert_eq!(hears(&client, b"answer"), SocketAddr::from((to, 53)));
    }
    let near = connect(&dns, (Ipv4Addr::LOCALHOST, 53));
    talk(&near, &listener.accept().0);
    let other = on(&topology, "other", "netdp0");
    let client = udp(&other, ANY, 0);
    client.send_to(b"question", (dns.address, 53)).unwrap();
    assert_eq!(hears(&datagrams, b"question").ip(), other.address);
}

#[test]
fn a_program_resolves_names_as_on_any_host() {
    let Some(topology) = topology("names-run") else {
        return;
    };
    let db = on(&topology, "db", "netdp0");
    let said = |words: &[&str]| {
        let output = topology.world.netdp(words).unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let conf = said(&["run", "--", "cat", "/etc/resolv.conf"]);
    let servers: Vec<&str> = conf
        .lines()
        .filter(|line| line.starts_with("nameserver"))
        .collect();
    assert_eq!(servers, ["nameserver 127.0.0.11"]);
    assert!(conf.contains("ndots:"), "{conf}");
    if Command::new("getent").arg("--version").output().is_err() {
        println!("skipped: getent is not here to ask");
        return;
    }
    let found = said(&["run", "--", "getent", "hosts", "db"]);
    assert!(found.starts_with(&db.address.to_string()), "{found}");
    let shared = said(&[
        "run",
        "--network",
        "container:db",
        "--",
        "getent",
        "hosts",
        "db",
    ]);
    assert!(shared.contains(&db.address.to_string()), "{shared}");
    // Neither the host's network nor none has a resolver of netdp's.
    for network in ["host", "none"] {
        let conf = said(&["run", "--network", network, "--", "cat", "/etc/resolv.conf"]);
        assert!(!conf.contains("127.0.0.11"), "{network}: {conf}");
    }
}

#[test]
fn an_alias_of_several_is_told_in_turn() {
    let Some(topology) = topology("names-alias") else {
        return;
    };
    topology.netdp("network create other");
    let web = on(&topology, "web", "netdp0");
    let [one, two] = ["one", "two"].map(|name| {
        let options = "--network-alias pool --network-alias own-";
        topology.container(name, &format!("{options}{name}"))
    });
    let mut all = vec![IpAddr::from(one.address), two.address.into()];
    all.sort();
    let found = || {
        let mut found = resolve(&web, "pool").unwrap();
        let first = found[0];
        found.sort();
        assert_eq!(found, all);
        first
    };
    for address in &all {
        topology.wait_until("each first some time", || found() == *address);
    }
    assert_eq!(resolve(&web, "OWN-two"), Ok(vec![two.address.into()]));
    topology.netdp("rm one");
    assert_eq!(resolve(&web, "pool"), Ok(vec![two.address.into()]));
    // An alias is that of one network.
    topology.netdp("connect other two --alias there");
    topology.netdp("connect other web");
    let there = resolve(&web, "there").unwrap();
    assert!(there != [IpAddr::from(two.address)] && there.len() == 1);
    topology.netdp("disconnect other two");
    with_outside(&topology, |_| {
        assert_eq!(resolve(&web, "there"), Ok(vec![ELSEWHERE.into()]));
    });
}

#[test]
fn resolvers_on_the_hosts_loopback_are_asked_from_the_host() {
    let Some(mut topology) = Topology::without_daemon("names-local") else {
        return;
    };
    let local = Ipv4Addr::new(127, 0, 0, 53);
    start_with(
        &mut topology,
        &format!("\"{local}\", \"{OUTSIDE_ADDRESS}\""),
    );
    let web = on(&topology, "web", "netdp0");
    let host = Outside::default();
    with_resolver(&topology.world.host, local, &host, || {
        assert_eq!(resolve(&web, "www.example.net"), Ok(vec![ELSEWHERE.into()]));
        assert_eq!(host.count(), 1);
        let mute = ask_at(&web, (local, 53), "www.example.net", RecordType::A);
        assert!(mute.is_err(), "the host's loopback is not the sandbox's");
    });
    // One that fails is no better than none, while another knows.
    let failing = Outside::that_fails();
    with_resolver(&topology.world.host, local, &failing, || {
        with_outside(&topology, |outside| {
            assert_eq!(resolve(&web, "www.example.net"), Ok(vec![ELSEWHERE.into()]));
            assert_eq!((failing.count(), outside.count()), (1, 1));
        });
        // Nobody answers there, which the uplink's neighbour says at once.
        assert_eq!(
            resolve(&web, "www.example.net"),
            Err(ResponseCode::ServFail)
        );
    });
}

#[test]
fn a_program_asks_again_by_tcp_for_what_is_long() {
    let Some(topology) = topology("names-long") else {
        return;
    };
    if Command::new("getent").arg("--version").output().is_err() {
        println!("skipped: getent is not here to ask");
        return;
    }
    let by_tcp = listen(&topology.world.outside, OUTSIDE_ADDRESS, 53);
    with_outside(&topology, |outside| {
        thread::scope(|scope| {
            scope.spawn(|| outside.serve_by_tcp(&by_tcp));
            let words = ["run", "--", "getent", "ahostsv4", "many.example.net"];
            let found = topology.world.netdp(&words).unwrap();
            drop(connect(&topology.world.outside, (OUTSIDE_ADDRESS, 53)));
            let found = String::from_utf8(found.stdout).unwrap();
            let addresses: BTreeSet<&str> = found
                .lines()
                .filter_map(|line| line.split_whitespace().next())
                .collect();
            assert_eq!(addresses.len(), usize::from(MANY), "{found}");
        });
    });
}

/// Numbers that are the same each time: xorshift, Marsaglia 2003.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 8
    }
}

#[test]
fn nothing_that_is_sent_keeps_others_from_their_answers() {
    let Some(topology) = topology("names-noise") else {
        return;
    };
    let (web, db) = (
        on(&topology, "web", "netdp0"),
        on(&topology, "db", "netdp0"),
    );
    let knows = || assert_eq!(resolve(&web, "db"), Ok(vec![db.address.into()]));
    let good = question("db.netdp0", RecordType::A).to_vec().unwrap();
    let socket = udp(&web, ANY, 0);
    socket.connect(RESOLVER).unwrap();
    let mut dice = Dice(0x6e61_6d65);
    for round in 0..2_000 {
        let mut bytes = good.clone();
        // A question stays one of this network: nothing is to be asked outside.
        for _ in 0..=dice.roll() % 3 {
            let at = dice.roll() as usize % 12;
            bytes[at] = dice.roll() as u8;
        }
        if round % 4 == 0 {
            bytes.truncate(dice.roll() as usize % bytes.len());
        }
        socket.send(&bytes).unwrap();
        // Before the resolver's buffer is full and drops what comes next.
        if round % 50 == 0 {
            knows();
        }
    }
    socket.send(&[0x55; 9_000]).unwrap();
    knows();
    // Connections that say nothing, or less than they said they would.
    let idle: Vec<_> = (0..20).map(|_| connect(&web, RESOLVER)).collect();
    for (index, mut stream) in idle.iter().enumerate() {
        let _ = stream.write_all(&[0xff, 0xff, 1, 2, 3][..index % 6]);
    }
    knows();
    drop(idle);
    let by_tcp = ask_by_tcp(&web, "db", RecordType::A);
    assert_eq!(addresses(&by_tcp), [IpAddr::from(db.address)]);
    // What is no message at all ends the connection.
    let mut empty = connect(&web, RESOLVER);
    empty.write_all(&[0, 0]).unwrap();
    assert_eq!(empty.read(&mut [0; 1]).unwrap(), 0);
    // Several questions in one connection, in one segment.
    let mut stream = connect(&web, RESOLVER);
    let mut frames = Vec::new();
    for _ in 0..3 {
        frames.extend((good.len() as u16).to_be_bytes());
        frames.extend(&good);
    }
    stream.write_all(&frames).unwrap();
    for _ in 0..3 {
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut answer = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut answer).unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(addresses(&answer), [IpAddr::from(db.address)]);
    }
}

#[test]
fn names_have_addresses_of_ipv6() {
    let Some(mut topology) = Topology::without_daemon("names-six") else {
        return;
    };
    topology
        .world
        .add_ipv6()
        .unwrap_or_else(|error| panic!("{error}"));
    start_with(&mut topology, &format!("\"{OUTSIDE_ADDRESS6}\""));
    topology.netdp("network create both --ipv6");
    topology.netdp("network create six --ipv6 --ipv4=false");
    let attach = |name: &str, network: &str| {
        let namespace = topology.world.add_namespace(name).unwrap();
        let path = namespace.path().display();
        topology.netdp(&format!(
            "attach --netns {path} --name {name} --network {network} --network-alias pool"
        ));
        let endpoints = topology.inspect(name).endpoints;
        let mut addresses = endpoints[0].addresses.iter().map(|net| net.addr());
        (namespace, addresses.find(IpAddr::is_ipv6).unwrap())
    };
    let six = |place: &Namespace, name: &str| {
        let answer = ask(place, name, RecordType::AAAA);
        let code = answer.metadata.response_code;
        assert_eq!(code, ResponseCode::NoError, "{name}");
        let records = answer.answers.iter();
        let mut found: Vec<IpAddr> = records
            .map(|record| match record.data {
                RData::AAAA(address) => address.0.into(),
                ref other => panic!("{other}"),
            })
            .collect();
        found.sort();
        found
    };
    for network in ["both", "six"] {
        let (web, own) = attach(&format!("web-{network}"), network);
        let (_db, other) = attach(&format!("db-{network}"), network);
        assert_eq!(six(&web, &format!("db-{network}")), [other]);
        assert_eq!(six(&web, &format!("DB-{network}.{network}")), [other]);
        let mut all = [own, other];
        all.sort();
        assert_eq!(six(&web, "pool"), all);
        let reverse = Name::from(other).to_ascii();
        let reverse = reverse.trim_end_matches('.');
        let back = ask(&web, reverse, RecordType::PTR);
        let name = format!("db-{network}.{network}.");
        assert_eq!(back.answers[0].data.to_string(), name);
        let four = resolve(&web, &format!("db-{network}")).unwrap();
        assert_eq!(four.len(), usize::from(network == "both"));
        // One of the network that nobody has is asked for nowhere.
        let IpAddr::V6(nobody) = own else { panic!() };
        let nobody = IpAddr::from(Ipv6Addr::from(u128::from(nobody) + 0x1000));
        let reverse = Name::from(nobody).to_ascii();
        let back = ask(&web, reverse.trim_end_matches('.'), RecordType::PTR);
        assert_eq!(back.metadata.response_code, ResponseCode::NXDomain);
        // The resolver outside has an address of IPv6 alone.
        let outside = Outside::default();
        with_resolver(&topology.world.outside, OUTSIDE_ADDRESS6, &outside, || {
            assert_eq!(resolve(&web, "www.example.net"), Ok(vec![ELSEWHERE.into()]));
            assert!(six(&web, "www.example.net").is_empty());
            assert_eq!(outside.count(), 2);
        });
    }
}
