//! Links: names of one's own for other sandboxes, and, on a network without
//! icc, the way to their ports.

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use netdp_tests::{
    Container, Listener, PATIENCE, SILENCE, Topology, connect, connect_within, hears, listen, talk,
    udp,
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
    // Who joins later may have a link too.
    let late = topology.container("late", "");
    topology.netdp("connect strict late --link db:back");
    reaches(&late, &db, &exposed);
    unreachable(&late, &db, 81);
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

/// What a program of `netdp run` printed.
#[track_caller]
fn printed(topology: &Topology, words: &str) -> String {
    topology.netdp(&format!("run {words}"))
}

#[test]
fn a_program_learns_of_its_links_when_it_starts() {
    let Some(topology) = Topology::start("links-env") else {
        return;
    };
    topology.netdp(
        "run -d --name db --expose 5432 --expose 53/udp --env USER=me --env PATH=/nowhere -- \
         /bin/sleep 600",
    );
    let address = topology.inspect("db").endpoints[0].addresses[0].addr();
    let told = printed(
        &topology,
        "--name web --link db:my-store --env MY_STORE_PORT_53_UDP=mine -- /usr/bin/env",
    );
    let told: Vec<&str> = {
        let mut lines: Vec<&str> = told
            .lines()
            .filter(|line| line.starts_with("MY_STORE_"))
            .collect();
        lines.sort_unstable();
        lines
    };
    let all = [
        "MY_STORE_ENV_USER=me".to_owned(),
        "MY_STORE_NAME=/web/my-store".to_owned(),
        format!("MY_STORE_PORT=tcp://{address}:5432"),
        // What was said by name comes first.
        "MY_STORE_PORT_53_UDP=mine".to_owned(),
        format!("MY_STORE_PORT_53_UDP_ADDR={address}"),
        "MY_STORE_PORT_53_UDP_PORT=53".to_owned(),
        "MY_STORE_PORT_53_UDP_PROTO=udp".to_owned(),
        format!("MY_STORE_PORT_5432_TCP=tcp://{address}:5432"),
        format!("MY_STORE_PORT_5432_TCP_ADDR={address}"),
        "MY_STORE_PORT_5432_TCP_PORT=5432".to_owned(),
        "MY_STORE_PORT_5432_TCP_PROTO=tcp".to_owned(),
    ];
    assert_eq!(told, all);
    let hosts = printed(&topology, "--link db:my-store -- /bin/cat /etc/hosts");
    let line = format!("{address}\tmy-store db");
    assert!(hosts.lines().any(|it| it == line), "{hosts}");
    // Whose program has a variable is told to nobody else.
    let told = printed(&topology, "--env USER=other -- /usr/bin/env");
    assert!(told.lines().any(|line| line == "USER=other"), "{told}");
    assert!(!told.contains("MY_STORE"), "{told}");
}

/// Lines of a running program's `/etc/hosts` that name a container.
fn hosts_of(topology: &Topology, name: &str) -> Vec<String> {
    let pid = topology.inspect(name).pid.unwrap();
    let text = fs::read_to_string(format!("/proc/{pid}/root/etc/hosts")).unwrap();
    let lines = text.lines().filter(|line| {
        !line.starts_with(['#', ':']) && !line.starts_with("127.0.0.1\t") && !line.is_empty()
    });
    lines.map(str::to_owned).collect()
}

#[track_caller]
fn hosts_become(topology: &Topology, name: &str, lines: &[&str]) {
    let began = Instant::now();
    while hosts_of(topology, name) != lines {
        let now = hosts_of(topology, name);
        assert!(began.elapsed() < PATIENCE, "{now:#?} is not {lines:#?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn the_hosts_file_of_a_running_program_follows() {
    let Some(mut topology) = Topology::start("links-hosts") else {
        return;
    };
    topology.netdp("network create one --subnet 10.81.0.0/24");
    topology.netdp("network create two --subnet 10.82.0.0/24");
    let db = "run -d --name db --network one --ip 10.81.0.9";
    topology.netdp(&format!("{db} -- /bin/sleep 600"));
    topology.netdp(
        "run -d --name web --hostname www --network one --ip 10.81.0.8 --link db:store -- \
         /bin/sleep 600",
    );
    topology.netdp("run -d --name beside --network container:web -- /bin/sleep 600");
    let own = "10.81.0.8\twww web";
    hosts_become(&topology, "web", &[own, "10.81.0.9\tstore db"]);
    topology.netdp("connect two web");
    let second = "10.82.0.2\twww web";
    let all = [own, second, "10.81.0.9\tstore db"];
    hosts_become(&topology, "web", &all);
    // Who has its network has its names.
    hosts_become(&topology, "beside", &all);
    // A line of one's own stays, and so does the file.
    let pid = topology.inspect("web").pid.unwrap();
    let path = format!("/proc/{pid}/root/etc/hosts");
    let inode = || fs::metadata(&path).unwrap().ino();
    let before = inode();
    let mut file = fs::File::options().append(true).open(&path).unwrap();
    file.write_all(b"192.0.2.7\tfriend\n").unwrap();
    topology.netdp("rm -f db");
    hosts_become(&topology, "web", &[own, second, "192.0.2.7\tfriend"]);
    topology.netdp("run -d --name db --network one --ip 10.81.0.77 -- /bin/sleep 600");
    let again = "10.81.0.77\tstore db";
    hosts_become(&topology, "web", &[own, second, again, "192.0.2.7\tfriend"]);
    // Nor does it matter which daemon runs.
    topology.world.kill_daemon();
    topology.start_daemon();
    topology.netdp("disconnect two web");
    hosts_become(&topology, "web", &[own, again, "192.0.2.7\tfriend"]);
    topology.netdp("disconnect one web");
    hosts_become(&topology, "web", &["127.0.1.1\twww", "192.0.2.7\tfriend"]);
    assert_eq!(inode(), before);
}
