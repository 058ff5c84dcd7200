//! When direct ports of programs end, and when not.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use netdp::demo::world::{HOST_ADDRESS, HOST_ADDRESS6};
use netdp_tests::{SILENCE, Topology, connect, connect_within, listen, sockets_of, talk};
use nix::net::if_::if_nametoindex;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{Backlog, listen as listen_on};
use nix::unistd::Pid;

/// A server that tells names, unmodified.
const SERVER: &str = env!("CARGO_BIN_EXE_tells_names");

/// A sandbox on a network of both families.
fn serve(name: &str, publish: &str, addresses: &str) -> Option<Topology> {
    let topology = Topology::with_ipv6(name)?;
    topology.netdp("network create --ipv6 both");
    topology.netdp(&format!(
        "run -d --name web --network both -p {publish} -- {SERVER} {addresses}"
    ));
    let many = addresses.split(' ').count();
    topology.wait_until("listening", || {
        topology.netdp("logs web").lines().count() >= many
    });
    Some(topology)
}

/// A connection that the server has greeted.
#[track_caller]
fn greeted(topology: &Topology, to: (impl Into<IpAddr>, u16)) -> TcpStream {
    let stream = connect(&topology.world.client, (to.0.into(), to.1));
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).unwrap();
    assert!(!line.is_empty());
    stream
}

#[test]
fn a_range_ends_in_both_families() {
    let publish = "8000-8003:80-83,direct";
    let Some(topology) = serve("die-range", publish, "0.0.0.0:80 [::]:81") else {
        return;
    };
    let places: [(IpAddr, u16); 3] = [
        (HOST_ADDRESS.into(), 8000),
        (HOST_ADDRESS.into(), 8001),
        (HOST_ADDRESS6.into(), 8001),
    ];
    let open = places.map(|place| greeted(&topology, place));
    topology.netdp("unpublish web 8000-8003:80-83");
    for (place, mut stream) in places.into_iter().zip(open) {
        let rest = stream.read_to_end(&mut Vec::new());
        assert!(rest.is_err(), "{place:?}");
        let to = SocketAddr::from(place);
        let again = connect_within(&topology.world.client, None, to, SILENCE);
        assert!(again.is_err(), "{place:?}");
    }
    // The ports are the next one's, of whatever kind.
    topology.netdp("publish web 8000-8003:80-83");
}

#[test]
fn another_family_ends_nothing() {
    // With one number inside and outside, too.
    for (name, publish, port) in [
        ("die-family", "8000-8003:80-83", 80),
        ("die-number", "8000-8003:8000-8003", 8000),
    ] {
        let v4 = format!("0.0.0.0:{publish},direct");
        let Some(topology) = serve(name, &v4, &format!("0.0.0.0:{port}")) else {
            return;
        };
        let to: SocketAddr = (HOST_ADDRESS, 8000).into();
        let open = greeted(&topology, (to.ip(), 8000));
        for change in ["publish", "unpublish"] {
            topology.netdp(&format!("{change} web [::]:{publish},direct"));
            greeted(&topology, (to.ip(), 8000));
        }
        open.set_nonblocking(true).unwrap();
        let quiet = (&open).read(&mut [0]).unwrap_err();
        assert_eq!(quiet.kind(), std::io::ErrorKind::WouldBlock, "{publish}");
    }
}

/// Its number inside is another one than the host's.
#[test]
fn a_socket_of_both_families_ends_with_either() {
    let Some(topology) = serve("die-either", "8080:80,direct", "[::]:80") else {
        return;
    };
    let pid = topology.inspect("web").pid.unwrap();
    let sockets = sockets_of(pid, libc::IPPROTO_TCP);
    let [listener] = &sockets[..] else {
        panic!("one socket: {sockets:?}");
    };
    topology.netdp("unpublish web 0.0.0.0:8080:80");
    listen_on(listener, Backlog::new(9).unwrap()).unwrap();
    for address in [HOST_ADDRESS.into(), IpAddr::from(HOST_ADDRESS6)] {
        let to = SocketAddr::from((address, 8080));
        assert!(connect_within(&topology.world.client, None, to, SILENCE).is_err());
    }
}

/// How a daemon with another control group ends, which is told to once it listens,
/// and what it said.
fn daemon_elsewhere(topology: &Topology) -> (Option<i32>, String) {
    let world = &topology.world;
    let log = world.dir().join("elsewhere.log");
    let mut command = world.on_host(world.netdp_path());
    command.args(["daemon", "--uplink", "eth0", "--state-dir"]);
    command.arg(world.state_dir()).arg("--bpffs");
    command.arg(world.bpffs()).arg("--cgroup");
    command.arg(world.cgroup().with_file_name("elsewhere"));
    let mut daemon = command.stderr(File::create(&log).unwrap()).spawn().unwrap();
    let said = || fs::read_to_string(&log).unwrap();
    let listens = || said().contains("listening at");
    topology.wait_until("it listens, or says why not", || {
        listens() || said().contains("--cgroup that")
    });
    if listens() {
        let pid = Pid::from_raw(daemon.id().cast_signed());
        kill(pid, Signal::SIGTERM).unwrap();
    }
    (daemon.wait().unwrap().code(), said())
}

#[test]
fn their_guards_stay_with_them() {
    let Some(mut topology) = serve("die-group", "8080:80,direct", "0.0.0.0:80") else {
        return;
    };
    topology.world.stop_daemon().unwrap();
    let (code, said) = daemon_elsewhere(&topology);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("--cgroup that it had") && said.contains(": web"),
        "{said}"
    );
    greeted(&topology, (HOST_ADDRESS, 8080));
    topology.start_daemon();
    topology.netdp("rm -f web");
    topology.world.stop_daemon().unwrap();
    let (_, said) = daemon_elsewhere(&topology);
    assert!(said.contains("listening at"), "{said}");
}

/// The host's sockets need no link.
#[test]
fn every_connection_is_heard_while_a_link_is_made_again() {
    let Some(topology) = serve("die-link", "8080:80,direct", "[::]:80") else {
        return;
    };
    let link = topology.inspect("web").endpoints[0].host_interface.clone();
    let host = &topology.world.host;
    let number = || host.run(|| if_nametoindex(link.as_str()).ok()).unwrap();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asks = scope.spawn(|| {
            let mut times = 0;
            while !is_over.load(Ordering::Relaxed) {
                greeted(&topology, (HOST_ADDRESS, 8080));
                greeted(&topology, (HOST_ADDRESS6, 8080));
                times += 1;
            }
            times
        });
        for _ in 0..5 {
            let before = number();
            topology.ip(host, &format!("link del {link}\n"));
            topology.wait_until("made again", || {
                asks.is_finished() || number().is_some_and(|now| Some(now) != before)
            });
        }
        is_over.store(true, Ordering::Relaxed);
        assert!(asks.join().expect("all were heard") > 9);
    });
}

/// It took the port while nobody held it.
#[test]
fn a_program_of_the_hosts_that_has_the_port_keeps_it() {
    let Some(mut topology) = Topology::start("die-hosts") else {
        return;
    };
    topology.netdp("run -d --name web -p 8080:80,direct -- sleep 60");
    topology.world.stop_daemon().unwrap();
    let listener = listen(&topology.host_program(), Ipv4Addr::UNSPECIFIED, 8080);
    topology.start_daemon();
    let near = connect(&topology.host_program(), (Ipv4Addr::LOCALHOST, 8080));
    let (far, _) = listener.accept();
    topology.netdp("unpublish web 8080:80");
    talk(&near, &far);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    talk(&near, &listener.accept().0);
}
