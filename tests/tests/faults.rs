//! What somebody removes, and a daemon that is killed in the middle of a change:
//! nothing half-made stays, and what is taken away comes back.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use netdp::netns::Namespace;
use netdp_tests::{
    Container, Listener, SIDES, SILENCE, Side, Topology, bind_port, connect, connect_bound, hears,
    listen, talk, udp,
};

/// Conversations of one family that are open, and servers for new ones.
struct Open {
    side: Side,
    server: Listener,
    outside: Listener,
    published: (TcpStream, TcpStream),
    masqueraded: (TcpStream, TcpStream),
}

impl Open {
    fn begin(topology: &Topology, web: &Container, side: Side) -> Self {
        let server = listen(web, side.any, 80);
        let outside = listen(&topology.world.outside, side.any, 80);
        let near = connect(&topology.world.client, (side.host, 8080));
        let published = (near, server.accept().0);
        let near = connect(web, (side.outside, 80));
        let masqueraded = (near, outside.accept().0);
        let open = Self {
            side,
            server,
            outside,
            published,
            masqueraded,
        };
        open.go_on();
        open
    }

    fn go_on(&self) {
        talk(&self.published.0, &self.published.1);
        talk(&self.masqueraded.0, &self.masqueraded.1);
    }

    fn new_ones(&self, topology: &Topology, web: &Container) {
        let side = self.side;
        for port in [8080, 9005] {
            let near = connect(&topology.world.client, (side.host, port));
            talk(&near, &self.server.accept().0);
        }
        let near = connect(&topology.host_program(), (side.host, 8080));
        talk(&near, &self.server.accept().0);
        let near = connect(web, (side.outside, 80));
        let (far, seen) = self.outside.accept();
        assert_eq!(seen.ip(), side.host);
        talk(&near, &far);
        let (client, dns) = (
            udp(&topology.world.client, side.any, 0),
            udp(web, side.any, 53),
        );
        client.send_to(b"question", (side.host, 5353)).unwrap();
        dns.send_to(b"answer", hears(&dns, b"question")).unwrap();
        assert_eq!(hears(&client, b"answer"), (side.host, 5353).into());
        // For the client alone, or not at all.
        let stranger = connect_bound(&topology.world.outside, None, (side.host, 8081), SILENCE);
        stranger.expect_err("the outside got in");
    }
}

/// A file, or what a folder holds; on a BPF file system.
fn remove(path: &Path) {
    if !path.is_dir() {
        return fs::remove_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    for entry in fs::read_dir(path).unwrap() {
        remove(&entry.unwrap().path());
    }
}

#[test]
fn pins_that_somebody_removed_are_made_again() {
    let Some(mut topology) = Topology::with_ipv6("fault-pins") else {
        return;
    };
    let only = SIDES.map(|side| format!("--allow {}/{}", side.client, side.of(32, 128)));
    let web = topology.container(
        "web",
        "--network six -p 8080:80 -p 5353:53/udp -p 9005-9006:80-81",
    );
    topology.netdp(&format!("publish web 8081:81 {}", only.join(" ")));
    let open = SIDES.map(|side| Open::begin(&topology, &web, side));
    let pins = topology.world.bpffs().join("netdp");
    for gone in [
        &["maps/flows4", "maps/ranges6", "progs"][..],
        &["maps", "links", "progs"],
    ] {
        println!("{gone:?}");
        // While the daemon runs it has them nevertheless.
        for pin in gone {
            remove(&pins.join(pin));
        }
        let attached = !gone.contains(&"links");
        if attached {
            open.iter().for_each(Open::go_on);
        }
        topology.world.kill_daemon();
        if attached {
            open.iter().for_each(Open::go_on);
        }
        topology.start_daemon();
        for open in &open {
            open.go_on();
            open.new_ones(&topology, &web);
        }
        for pin in gone {
            let filled = fs::exists(pins.join(pin)).unwrap();
            assert!(filled, "{pin} is not pinned again");
        }
    }
}

#[test]
fn a_veth_that_is_removed_is_made_again_and_others_go_on() {
    let Some(topology) = Topology::with_ipv6("fault-veth") else {
        return;
    };
    let web = topology.container(
        "web",
        "--network six -p 8080:80 -p 5353:53/udp -p 9005:80 -p 8081:81",
    );
    topology.netdp("unpublish web 8081:81");
    let other = topology.container("other", "--network six -p 8090:80");
    let servers = SIDES.map(|side| (side, listen(&other, side.any, 80)));
    let beside = SIDES.map(|side| {
        let near = connect(&topology.world.client, (side.host, 8090));
        let server = servers.iter().find(|server| server.0.any == side.any);
        (near, server.unwrap().1.accept().0)
    });
    let before = topology.inspect("web");
    let at_host = (&topology.world.host, web.host_interface.as_str());
    for (namespace, interface) in [at_host, (&web.namespace, "eth0")] {
        println!("{interface}");
        topology.ip(namespace, &format!("link del {interface}\n"));
        for (near, far) in &beside {
            talk(near, far);
        }
        for side in SIDES {
            topology.wait_until("reached again", || {
                let server = listen(&web, side.any, 80);
                let to = (side.host, 8080);
                let came = connect_bound(&topology.world.client, None, to, SILENCE);
                came.is_ok_and(|near| {
                    talk(&near, &server.accept().0);
                    true
                })
            });
            Open::begin(&topology, &web, side).new_ones(&topology, &web);
        }
        let after = topology.inspect("web");
        let (before, after) = (&before.endpoints[0], &after.endpoints[0]);
        assert_eq!(before.addresses, after.addresses);
        assert_eq!(before.mac, after.mac);
        for (near, far) in &beside {
            talk(near, far);
        }
    }
}

/// Without a daemon, and while the next takes over, no opening is refused.
#[test]
fn a_restart_refuses_nobody_at_a_range() {
    let Some(mut topology) = Topology::with_ipv6("fault-range") else {
        return;
    };
    let only = SIDES.map(|side| format!("--allow {}/{}", side.client, side.of(32, 128)));
    let options = format!("--network six -p 9000-9009:80-89 {}", only.join(" "));
    let web = topology.container("web", &options);
    let servers = SIDES.map(|side| (side, listen(&web, side.any, 85)));
    let stop = AtomicBool::new(false);
    let client = Namespace::open(topology.world.client.path()).unwrap();
    let tries = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut tries = 0;
            while !stop.load(Ordering::Relaxed) {
                for (side, server) in &servers {
                    let near = connect(&client, (side.host, 9005));
                    talk(&near, &server.accept().0);
                    tries += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
            tries
        });
        topology.world.kill_daemon();
        topology.start_daemon();
        stop.store(true, Ordering::Relaxed);
        asking.join().unwrap()
    });
    println!("{tries} connections");
    assert!(tries > 50);
}

/// Names of the host's ends of veth pairs.
fn host_ends(topology: &Topology) -> BTreeSet<String> {
    let output = topology
        .world
        .host
        .command("ip")
        .args(["-j", "link"])
        .output();
    let links: serde_json::Value = serde_json::from_slice(&output.unwrap().stdout).unwrap();
    let names = links.as_array().unwrap().iter();
    names
        .filter_map(|link| link["ifname"].as_str())
        .filter(|name| name.starts_with("vn"))
        .map(str::to_owned)
        .collect()
}

/// Starts `netdp WORDS`, kills the daemon after a moment, and starts it again.
fn interrupted(topology: &mut Topology, words: &str, after: Duration) {
    let mut command = topology.world.on_host(topology.world.netdp_path());
    command.args(words.split_whitespace());
    let command = command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut running = command.spawn().unwrap();
    thread::sleep(after);
    topology.world.kill_daemon();
    running.wait().unwrap();
    topology.start_daemon();
}

/// Moments in which the daemon dies: a change takes some ten milliseconds.
fn moments() -> impl Iterator<Item = Duration> {
    [8, 16, 24].into_iter().map(Duration::from_millis)
}

#[test]
fn a_publication_that_a_kill_interrupts_is_whole_or_not_there() {
    let Some(mut topology) = Topology::with_ipv6("fault-publish") else {
        return;
    };
    let web = topology.container("web", "--network six");
    let servers = SIDES.map(|side| listen(&web, side.any, 80));
    // A range of many sockets in the middle, to take a while.
    let ports = "8080:80 10000-10999:10000-10999 8081:80";
    for (round, after) in moments().enumerate() {
        let publish = round % 2 == 0;
        // Every second time it is taken back, of what is there.
        if !publish && topology.netdp("port web").is_empty() {
            topology.netdp(&format!("publish web {ports}"));
        }
        let verb = if publish { "publish" } else { "unpublish" };
        interrupted(&mut topology, &format!("{verb} web {ports}"), after);
        let listed = topology.netdp("port web");
        println!(
            "{verb} interrupted after {after:?}: {} lines",
            listed.lines().count()
        );
        let there = !listed.is_empty();
        assert!(matches!(listed.lines().count(), 0 | 6), "{listed}");
        for (side, server) in SIDES.into_iter().zip(&servers) {
            for port in [8080, 8081] {
                let to = SocketAddr::new(side.host, port);
                if there {
                    talk(&connect(&topology.world.client, to), &server.accept().0);
                } else {
                    let came = connect_bound(&topology.world.client, None, to, SILENCE);
                    came.expect_err("nobody is there");
                }
            }
            for port in [8080, 8081, 10_000, 10_500, 10_999] {
                let bound = bind_port(&topology.world.host, side.any, port);
                assert_eq!(bound.is_err(), there, "{port} of {:?}", side.family);
            }
        }
        if there && publish {
            topology.netdp(&format!("unpublish web {ports}"));
        }
        let problems = topology.netdp("doctor --format json");
        assert!(!problems.contains("cannot "), "{problems}");
    }
}

#[test]
fn an_attachment_that_a_kill_interrupts_is_whole_or_not_there() {
    let Some(mut topology) = Topology::with_ipv6("fault-attach") else {
        return;
    };
    let stays = topology.container("stays", "--network six -p 8090:80");
    let stays_servers = SIDES.map(|side| (side, listen(&stays, side.any, 80)));
    let ends = host_ends(&topology);
    for (round, after) in moments().enumerate() {
        let name = format!("one{round}");
        let namespace = topology.world.add_namespace(&name).unwrap();
        let words = format!(
            "attach --netns {} --name {name} --network six -p 8080:80",
            namespace.path().display()
        );
        interrupted(&mut topology, &words, after);
        let there = topology.netdp("ps --format json").contains(&name);
        println!(
            "attach interrupted after {after:?}: {}",
            if there { "there" } else { "not" }
        );
        if there {
            // Whatever of it was missing has been made.
            for side in SIDES {
                let server = listen(&namespace, side.any, 80);
                let near = connect(&topology.world.client, (side.host, 8080));
                talk(&near, &server.accept().0);
            }
            topology.netdp(&format!("rm {name}"));
        }
        assert_eq!(host_ends(&topology), ends);
        let inside = namespace
            .command("ip")
            .args(["-o", "link"])
            .output()
            .unwrap();
        let inside = String::from_utf8_lossy(&inside.stdout).into_owned();
        assert!(!inside.contains("eth0"), "{inside}");
        for side in SIDES {
            drop(bind_port(&topology.world.host, side.any, 8080).unwrap());
        }
        for (side, server) in &stays_servers {
            let near = connect(&topology.world.client, (side.host, 8090));
            talk(&near, &server.accept().0);
        }
        // The very same can be asked for again.
        topology.netdp(&words);
        topology.netdp(&format!("rm {name}"));
    }
}
