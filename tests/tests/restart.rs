//! The daemon killed and started again under traffic, and its store damaged.

use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netdp::demo::world::{CLIENT_ADDRESS, HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{
    Container, Listener, Pattern, Topology, connect, hear, hears, listen, says_nothing, talk, udp,
};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// Bytes that go on flowing in one direction until told to stop.
struct Stream<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    seed: u64,
}

impl Stream<'_> {
    /// A little at a time, so that it lasts as long as the test.
    fn send(&self, stop: &AtomicBool) -> u64 {
        let mut pattern = Pattern::new(self.seed);
        let mut stream = self.from;
        while !stop.load(Ordering::Relaxed) {
            stream.write_all(pattern.next(16 << 10)).expect("send");
            thread::sleep(Duration::from_millis(1));
        }
        stream.shutdown(std::net::Shutdown::Write).expect("end");
        pattern.position()
    }

    fn receive(&self) -> u64 {
        let mut pattern = Pattern::new(self.seed);
        let mut buffer = vec![0; 64 << 10];
        loop {
            match hear(self.to, &mut buffer) {
                0 => return pattern.position(),
                length => pattern.check(&buffer[..length]),
            }
        }
    }
}

/// Runs `meanwhile` while bytes flow in both directions over all connections,
/// and compares every one of them.
fn under_traffic(connections: &[(&TcpStream, &TcpStream)], meanwhile: impl FnOnce()) {
    let stop = AtomicBool::new(false);
    let streams: Vec<Stream> = connections
        .iter()
        .flat_map(|(near, far)| [(near, far), (far, near)])
        .zip(1..)
        .map(|((from, to), seed)| Stream { from, to, seed })
        .collect();
    thread::scope(|scope| {
        let threads: Vec<_> = streams
            .iter()
            .map(|stream| {
                let stop = &stop;
                let sent = scope.spawn(move || stream.send(stop));
                (sent, scope.spawn(|| stream.receive()))
            })
            .collect();
        // A failure must not leave the streams running, for which the scope waits.
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        stop.store(true, Ordering::Relaxed);
        for (sent, received) in threads {
            let (sent, received) = (sent.join().unwrap(), received.join().unwrap());
            assert!(sent > 0);
            assert_eq!(sent, received);
        }
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
}

struct Set {
    web: Container,
    server: Listener,
    caller: Container,
}

impl Set {
    fn new(topology: &Topology) -> Self {
        let web = topology.container("web", "-p 8080:80 -p 5353:53/udp");
        let server = listen(&web, ANY, 80);
        let caller = topology.container("caller", "");
        Self {
            web,
            server,
            caller,
        }
    }
}

#[test]
fn a_kill_and_a_restart_lose_no_byte_and_no_connection() {
    let Some(mut topology) = Topology::start("res-kill") else {
        return;
    };
    let set = Set::new(&topology);
    let outside = listen(&topology.world.outside, ANY, 80);
    let published = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    let published_far = set.server.accept().0;
    let masqueraded = connect(&set.caller, (OUTSIDE_ADDRESS, 80));
    let masqueraded_far = outside.accept().0;
    let direct = connect(&set.caller, (set.web.address, 80));
    let direct_far = set.server.accept().0;
    let local = connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080));
    let local_far = set.server.accept().0;
    let hairpin = connect(&set.caller, (HOST_ADDRESS, 8080));
    let hairpin_far = set.server.accept().0;
    let dns = udp(&set.web, ANY, 53);
    let asking = udp(&topology.world.client, ANY, 0);

    // Beside the streams, connections that are idle most of the time.
    let idle = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    let idle_far = set.server.accept().0;
    let idle_out = connect(&set.caller, (OUTSIDE_ADDRESS, 80));
    let idle_out_far = outside.accept().0;
    talk(&idle, &idle_far);
    talk(&idle_out, &idle_out_far);

    let works = |topology: &Topology| {
        talk(&idle, &idle_far);
        talk(&idle_out, &idle_out_far);
        asking
            .send_to(b"still there", (HOST_ADDRESS, 5353))
            .unwrap();
        let seen = hears(&dns, b"still there");
        assert_eq!(seen.ip(), CLIENT_ADDRESS);
        dns.send_to(b"yes", seen).unwrap();
        assert_eq!(hears(&asking, b"yes"), (HOST_ADDRESS, 5353).into());
        for _ in 0..20 {
            let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
            let (far, seen) = set.server.accept();
            assert_eq!(seen.ip(), CLIENT_ADDRESS);
            talk(&near, &far);
            let near = connect(&set.caller, (OUTSIDE_ADDRESS, 80));
            talk(&near, &outside.accept().0);
        }
        let near = connect(&topology.host_program(), (HOST_ADDRESS, 8080));
        talk(&near, &set.server.accept().0);
    };

    let connections = [
        (&published, &published_far),
        (&masqueraded, &masqueraded_far),
        (&direct, &direct_far),
        (&local, &local_far),
        (&hairpin, &hairpin_far),
    ];
    under_traffic(&connections, || {
        for _ in 0..2 {
            topology.world.kill_daemon();
            works(&topology);
            topology.start_daemon();
            works(&topology);
        }
    });

    // What the daemon took over is its own again.
    let ours = idle.local_addr().unwrap();
    let flows = topology.flows();
    let kept = flows
        .iter()
        .any(|flow| flow.kind == "published" && flow.remote == ours && flow.state == "established");
    assert!(kept, "{ours} is not among {flows:?}");
    topology.netdp("publish web 8090:80");
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8090));
    talk(&near, &set.server.accept().0);
    topology.netdp("unpublish web 5353:53/udp");
    asking
        .send_to(b"still there", (HOST_ADDRESS, 5353))
        .unwrap();
    says_nothing(&dns);
    let further = topology.container("further", "");
    assert_ne!(further.address, set.web.address);
    assert_ne!(further.address, set.caller.address);
}

#[test]
fn a_stop_leaves_the_datapath_in_place() {
    let Some(mut topology) = Topology::start("res-stop") else {
        return;
    };
    let set = Set::new(&topology);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    let far = set.server.accept().0;
    under_traffic(&[(&near, &far)], || {
        topology.world.stop_daemon().unwrap();
        let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
        talk(&near, &set.server.accept().0);
        topology.start_daemon();
    });
}

fn aside(topology: &Topology) -> Vec<String> {
    std::fs::read_dir(topology.world.state_dir())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("state.redb.damaged-"))
        .collect()
}

#[test]
fn a_damaged_store_is_kept_aside_reported_and_restored() {
    let Some(mut topology) = Topology::start("res-damaged") else {
        return;
    };
    let set = Set::new(&topology);
    topology.netdp("network create second --subnet 10.77.0.0/24");
    topology.world.stop_daemon().unwrap();
    let store = topology.world.state_dir().join("state.redb");
    let garbage = b"this is no database".repeat(1000);
    std::fs::write(&store, &garbage).unwrap();
    topology.start_daemon();

    let kept = aside(&topology);
    assert_eq!(kept.len(), 1, "{kept:?}");
    let kept = topology.world.state_dir().join(&kept[0]);
    assert_eq!(std::fs::read(&kept).unwrap(), garbage);
    let report = topology.netdp("doctor --format json");
    assert!(report.contains("the store was damaged"), "{report}");
    assert!(report.contains(&*kept.to_string_lossy()), "{report}");

    // From the copy, with nothing missing.
    assert!(
        topology
            .netdp("network inspect second")
            .contains("10.77.0.0/24")
    );
    let address = topology.inspect("web").endpoints[0].addresses[0].addr();
    assert_eq!(address, set.web.address);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    talk(&near, &set.server.accept().0);
}

/// Links without programs would be ways past all rules.
#[test]
fn what_a_lost_state_left_reaches_nothing() {
    let Some(mut topology) = Topology::start("res-lost") else {
        return;
    };
    topology.netdp("network create apart --subnet 10.78.0.0/24");
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", "--network apart"),
    );
    let client = udp(&one, ANY, 0);
    let servers = [
        udp(&other, ANY, 9000),
        udp(&topology.world.outside, ANY, 9000),
    ];
    client.send_to(b"before", (OUTSIDE_ADDRESS, 9000)).unwrap();
    hears(&servers[1], b"before");
    topology.world.kill_daemon();
    let folder = topology.world.state_dir();
    for name in ["state.redb", "state.json"] {
        std::fs::remove_file(folder.join(name)).unwrap();
    }
    topology.start_daemon();
    for to in [other.address, OUTSIDE_ADDRESS] {
        // The container may have lost its interface, and with it its routes.
        let _ = client.send_to(b"after", (to, 9000));
    }
    servers.iter().for_each(says_nothing);
}

#[test]
fn without_a_copy_a_damaged_store_starts_anew() {
    let Some(mut topology) = Topology::start("res-anew") else {
        return;
    };
    topology.netdp("network create second --subnet 10.77.0.0/24");
    topology.world.stop_daemon().unwrap();
    let folder = topology.world.state_dir();
    for name in ["state.redb", "state.json"] {
        std::fs::write(folder.join(name), b"\0garbage").unwrap();
    }
    topology.start_daemon();
    assert_eq!(aside(&topology).len(), 1);
    let report = topology.netdp("doctor --format json");
    assert!(report.contains("the store was damaged"), "{report}");
    assert!(
        topology
            .refused("network inspect second")
            .contains("second")
    );
    // And works.
    let set = Set::new(&topology);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    talk(&near, &set.server.accept().0);
}
