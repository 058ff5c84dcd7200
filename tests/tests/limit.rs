//! The limit on conversations that a source begins.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use netdp::api::types::Limit;
use netdp::demo::world::{HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{
    Container, Frames, Macs, SIDES, SILENCE, Side, Tap, Topology, connect, connect_bound, hears,
    listen, syn, talk, udp,
};

const BURST: u64 = 10;
/// Datagrams of a flood, each of a conversation of its own.
const MANY: usize = 40;
/// Bytes of each.
const LENGTH: usize = 900;
const PUBLISHED: &str = "--network six -p 8080:80 -p 5353:53/udp";

fn limit(topology: &Topology) -> Option<Limit> {
    serde_json::from_str(&topology.netdp("limit --format json")).expect("a limit in JSON")
}

/// What may have come of one conversation a second since then.
fn tokens(since: Instant) -> u64 {
    since.elapsed().as_secs() + 1
}

/// How many datagrams of a flood from outside a server gets. On a busy machine some
/// may come late: those of an earlier one don't count.
#[track_caller]
fn flood(topology: &Topology, side: Side, server: &UdpSocket) -> u64 {
    static FLOODS: AtomicU8 = AtomicU8::new(0);
    let number = FLOODS.fetch_add(1, Ordering::Relaxed);
    let clients = (0..MANY).map(|_| udp(&topology.world.outside, side.any, 0));
    let clients: Vec<_> = clients.collect();
    for client in &clients {
        client
            .send_to(&[number; LENGTH], (side.host, 5353))
            .unwrap();
    }
    server.set_read_timeout(Some(SILENCE)).unwrap();
    let mut count = 0;
    let mut datagram = [0; LENGTH];
    while server.recv(&mut datagram).is_ok() {
        count += u64::from(datagram[0] == number);
    }
    count
}

/// One datagram there and one back.
#[track_caller]
fn asks(side: Side, client: &UdpSocket, server: &UdpSocket) {
    server
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    client.send_to(b"question", (side.host, 5353)).unwrap();
    let from = hears(server, b"question");
    server.send_to(b"answer", from).unwrap();
    hears(client, b"answer");
}

/// Whether a source that has begun more than it may since a time begins no more,
/// while all others do, and what isn't published is as ever.
#[track_caller]
fn is_limited(topology: &Topology, side: Side, web: &Container, since: Instant) {
    let outside = &topology.world.outside;
    let server = udp(web, side.any, 53);
    flood(topology, side, &server);
    let flooded = Instant::now();
    let begun = flood(topology, side, &server);
    assert!(begun <= tokens(since), "{begun} of {MANY}");
    let published = listen(web, side.any, 80);
    let to = SocketAddr::new(side.host, 8080);
    let tries = (0..4).filter(|_| connect_bound(outside, None, to, SILENCE).is_ok());
    let connected = tries.count() as u64;
    assert!(connected <= tokens(flooded), "{connected}");
    drop(published);
    // Others.
    let published = listen(web, side.any, 80);
    let near = connect(&topology.world.client, (side.host, 8080));
    talk(&near, &published.accept().0);
    asks(side, &udp(&topology.world.client, side.any, 0), &server);
    // A service of the host, and what the container begins.
    let own = listen(&topology.host_program(), side.any, 2222);
    for _ in 0..2 * BURST {
        let near = connect(outside, (side.host, 2222));
        talk(&near, &own.accept().0);
    }
    let (far, near) = (udp(outside, side.any, 7000), udp(web, side.any, 0));
    near.send_to(b"question", (side.outside, 7000)).unwrap();
    far.send_to(b"answer", hears(&far, b"question")).unwrap();
    hears(&near, b"answer");
}

#[test]
fn a_source_begins_no_more_than_it_may() {
    let Some(mut topology) = Topology::with_ipv6("limit") else {
        return;
    };
    let web = topology.container("web", PUBLISHED);
    assert_eq!(limit(&topology), None);
    let open = SIDES.map(|side| {
        let listener = listen(&web, side.any, 80);
        let near = connect(&topology.world.outside, (side.host, 8080));
        (near, listener.accept().0)
    });
    let goes_on = || {
        for (near, far) in &open {
            talk(near, far);
        }
    };
    topology.netdp(&format!("limit 1 --burst {BURST}"));
    for side in SIDES {
        let began = Instant::now();
        let client = udp(&topology.world.outside, side.any, 0);
        let server = udp(&web, side.any, 53);
        asks(side, &client, &server);
        let begun = flood(&topology, side, &server);
        let may = BURST - 1;
        assert!((may..may + tokens(began)).contains(&begun), "{begun}");
        // That one has begun.
        for _ in 0..5 {
            asks(side, &client, &server);
        }
        drop(server);
        is_limited(&topology, side, &web, Instant::now());
        let explain = |proto: &str, from: u16, to: u16| {
            let from = SocketAddr::new(side.outside, from);
            let to = SocketAddr::new(side.host, to);
            topology.netdp(&format!("explain {proto} {from} {to}"))
        };
        for (proto, port) in [("tcp", 8080), ("udp", 5353)] {
            topology.wait_until("explained", || {
                flood(&topology, side, &udp(&web, side.any, 53));
                let told = explain(proto, 4000, port);
                told.contains("source-limit") && told.contains("netdp limit")
            });
        }
        let told = explain("udp", client.local_addr().unwrap().port(), 5353);
        assert!(!told.contains("source-limit"), "{told}");
    }
    goes_on();
    let shown = limit(&topology).expect("a limit");
    assert_eq!((shown.rate, u64::from(shown.burst)), (1, BURST));
    assert!(shown.packets >= 100, "{shown:?}");
    assert!(topology.dropped("source-limit") >= shown.packets);
    assert!(topology.netdp("limit").contains("PER SECOND"));
    let doctor = topology.world.netdp(&["doctor"]).unwrap();
    let doctor = String::from_utf8_lossy(&doctor.stdout).into_owned();
    let found = "1 a second from each source, dropped by";
    assert!(doctor.contains(found), "{doctor}");

    // While no daemon runs, and after the next has come.
    topology.world.kill_daemon();
    for side in SIDES {
        is_limited(&topology, side, &web, Instant::now());
    }
    topology.start_daemon();
    goes_on();
    topology.world.stop_daemon().unwrap();
    topology.start_daemon();
    let now = limit(&topology).expect("a limit");
    assert_eq!(
        (now.rate, now.burst, now.since),
        (1, shown.burst, shown.since)
    );
    for side in SIDES {
        is_limited(&topology, side, &web, Instant::now());
    }
    goes_on();
    topology.netdp("limit --off");
    topology.netdp("limit --off");
    assert_eq!(limit(&topology), None);
    for side in SIDES {
        let server = udp(&web, side.any, 53);
        assert_eq!(flood(&topology, side, &server), MANY as u64);
    }
    topology.world.stop_daemon().unwrap();
    topology.start_daemon();
    assert_eq!(limit(&topology), None);
}

/// Under the first one no source ever begins so many at once.
#[test]
fn another_limit_takes_the_place_of_the_one_in_force() {
    let Some(topology) = Topology::with_ipv6("limit-changed") else {
        return;
    };
    let web = topology.container("web", PUBLISHED);
    for side in SIDES {
        let server = udp(&web, side.any, 53);
        topology.netdp("limit 10");
        let slow = limit(&topology).expect("a limit");
        assert_eq!((slow.rate, slow.burst), (10, 20));
        let began = Instant::now();
        let begun = flood(&topology, side, &server);
        let more = 10 * tokens(began);
        assert!((20..20 + more).contains(&begun), "{begun}");
        topology.netdp("limit 1000");
        let quick = limit(&topology).expect("a limit");
        assert_eq!((quick.rate, quick.burst), (1000, 2000));
        assert!(quick.packets >= slow.packets + MANY as u64 - begun);
        topology.wait_until("all of a flood", || {
            flood(&topology, side, &server) == MANY as u64
        });
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let Some(topology) = Topology::start("limit-refused") else {
        return;
    };
    for (words, why) in [
        ("limit 0", "would let nobody in"),
        ("limit 200 --burst 100", "say at least 200"),
        ("limit 2000000", "1000000 is the most"),
        ("limit 200 --burst 99999999", "10000000 is the most"),
    ] {
        let refused = topology.refused(words);
        assert!(refused.contains(why), "{words}: {refused}");
        assert_eq!(limit(&topology), None);
    }
    topology.netdp("limit 200");
    let shown = limit(&topology).expect("a limit");
    assert_eq!((shown.rate, shown.burst), (200, 400));
}

/// Frames that get past the driver are seen by packet sockets.
#[test]
fn the_driver_drops_what_is_too_much() {
    let Some(mut topology) = Topology::without_daemon("limit-xdp") else {
        return;
    };
    topology.world.add_ipv6().unwrap();
    let native = ["--xdp", "native"];
    topology.world.start_daemon(&native).unwrap();
    topology.netdp("network create six --ipv6");
    let web = topology.container("web", PUBLISHED);
    let is_in_driver = |topology: &Topology| {
        let mut command = topology.world.on_host("ip");
        let output = command.args(["-j", "link", "show", "eth0"]).output();
        let text = String::from_utf8(output.unwrap().stdout).unwrap();
        text.contains("\"xdp\"")
    };
    assert!(!is_in_driver(&topology));
    topology.netdp(&format!("limit 1 --burst {BURST}"));
    assert!(is_in_driver(&topology));
    for side in SIDES {
        let began = Instant::now();
        let tap = Tap::open(&topology.world.host, "eth0");
        let server = udp(&web, side.any, 53);
        let before = topology.dropped("source-limit");
        let begun = flood(&topology, side, &server);
        assert!((BURST..BURST + tokens(began)).contains(&begun), "{begun}");
        // The bucket was empty from then on: nothing more has got to tcx.
        let lengths = tap.lengths().into_iter();
        let arrived = lengths.filter(|length| *length > LENGTH).count() as u64;
        assert!(
            arrived >= begun && arrived < begun + tokens(began),
            "{arrived}"
        );
        let dropped = topology.dropped("source-limit") - before;
        assert_eq!(dropped, MANY as u64 - begun);
        drop(server);
        is_limited(&topology, side, &web, Instant::now());
    }
    topology.world.kill_daemon();
    assert!(is_in_driver(&topology));
    topology.world.start_daemon(&native).unwrap();
    is_limited(&topology, SIDES[0], &web, Instant::now());
    // It goes when there is neither.
    topology.netdp("block 203.0.113.0/24");
    topology.netdp("limit --off");
    assert!(is_in_driver(&topology));
    topology.netdp("unblock --all");
    assert!(!is_in_driver(&topology));
    let server = udp(&web, SIDES[0].any, 53);
    assert_eq!(flood(&topology, SIDES[0], &server), MANY as u64);
}

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");
/// Of the wire, from outside's router to the host.
const WIRE: Macs = ([2, 0x6e, 0x64, 0x70, 0, 1], [2, 0x6e, 0x64, 0x70, 0, 2]);

/// Of a direct port neither the stack is asked nor a flow kept, and what is known
/// of it for a moment lets no SYN pass.
#[test]
fn a_direct_port_is_limited_as_well() {
    let Some(topology) = Topology::start("limit-direct") else {
        return;
    };
    let script = topology.world.dir().join("serve.sh");
    std::fs::write(&script, format!("{SERVER} 0.0.0.0:80\nsleep 60\n")).unwrap();
    topology.netdp(&format!(
        "run -d --name web -p 8080:80,direct -- sh {}",
        script.display()
    ));
    let to = SocketAddr::from((HOST_ADDRESS, 8080));
    topology.wait_until("listening", || {
        topology.netdp("logs web").contains("0.0.0.0:80 is")
    });
    let frames = Frames::open(&topology.world.client, "wire0");
    let opens = |sports: std::ops::Range<u16>| {
        for sport in sports {
            frames.send(&syn(WIRE, (OUTSIDE_ADDRESS, sport), (HOST_ADDRESS, 8080)));
        }
    };
    let outside = &topology.world.outside;
    let near = connect_bound(outside, None, to, SILENCE).unwrap();
    opens(20_000..20_100);
    assert_eq!(topology.dropped("source-limit"), 0);
    let began = Instant::now();
    topology.netdp(&format!("limit 1 --burst {BURST}"));
    opens(21_000..21_100);
    let dropped = topology.dropped("source-limit");
    let least = 100 - BURST - tokens(began);
    assert!((least..=100 - BURST).contains(&dropped), "{dropped}");
    // The one that is open is served.
    let mut line = String::new();
    let mut read = std::io::BufReader::new(&near);
    std::io::BufRead::read_line(&mut read, &mut line).unwrap();
    assert!(line.contains(&OUTSIDE_ADDRESS.to_string()), "{line}");
    // Others are as well.
    let other = &topology.world.client;
    connect_bound(other, None, to, Duration::from_secs(10)).unwrap();
}
