//! Sources of which nothing gets in.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::Stdio;
use std::time::{Duration, Instant};

use netdp::api::types::Blocked;
use netdp_tests::{
    Container, SIDES, SILENCE, Side, Topology, connect, connect_bound, hears, listen, says_nothing,
    talk, udp,
};

/// What `netdp block` lists.
#[track_caller]
fn blocked(topology: &Topology) -> Vec<Blocked> {
    serde_json::from_str(&topology.netdp("block --format json")).expect("sources in JSON")
}

/// What the daemon says of its first uplink.
fn drops_by(topology: &Topology) -> (Option<String>, Option<String>) {
    let checks = topology.doctor();
    let found = checks.iter().find(|it| it["name"] == "blocked sources");
    let text = |name: &str| Some(found?[name].as_str()?.to_owned());
    (text("found"), text("state"))
}

/// Whether somebody outside reaches a published port, of TCP and of UDP.
#[track_caller]
fn reaches(topology: &Topology, side: Side, web: &Container) {
    let listener = listen(web, side.any, 80);
    let near = connect(&topology.world.outside, (side.host, 8080));
    talk(&near, &listener.accept().0);
    let (server, client) = (
        udp(web, side.any, 53),
        udp(&topology.world.outside, side.any, 0),
    );
    client.send_to(b"question", (side.host, 5353)).unwrap();
    server
        .send_to(b"answer", hears(&server, b"question"))
        .unwrap();
    hears(&client, b"answer");
}

/// Whether it reaches neither that nor the host, nor is answered.
#[track_caller]
fn is_kept_out(topology: &Topology, side: Side, web: &Container) {
    let outside = &topology.world.outside;
    let published = listen(web, side.any, 80);
    let own = listen(&topology.host_program(), side.any, 2222);
    for port in [8080, 2222] {
        connect_bound(outside, None, SocketAddr::new(side.host, port), SILENCE).unwrap_err();
    }
    published.assert_nobody_came();
    own.assert_nobody_came();
    let (server, client) = (udp(web, side.any, 53), udp(outside, side.any, 0));
    client.send_to(b"question", (side.host, 5353)).unwrap();
    says_nothing(&server);
    // A conversation that the container begins gets no answer.
    let server = udp(outside, side.any, 7000);
    let client = udp(web, side.any, 0);
    client.send_to(b"question", (side.outside, 7000)).unwrap();
    server
        .send_to(b"answer", hears(&server, b"question"))
        .unwrap();
    says_nothing(&client);
}

/// Of all others.
#[track_caller]
fn others_get_in(topology: &Topology, side: Side, web: &Container) {
    let listener = listen(web, side.any, 80);
    let near = connect(&topology.world.client, (side.host, 8080));
    talk(&near, &listener.accept().0);
    let own = listen(&topology.host_program(), side.any, 2222);
    let near = connect(&topology.world.client, (side.host, 2222));
    talk(&near, &own.accept().0);
}

fn outside() -> String {
    SIDES.map(|side| side.outside.to_string()).join(" ")
}

#[test]
fn a_blocked_source_reaches_nothing_until_it_is_let_in_again() {
    let Some(mut topology) = Topology::with_ipv6("blocked") else {
        return;
    };
    let web = topology.container("web", "--network six -p 8080:80 -p 5353:53/udp");
    for side in SIDES {
        reaches(&topology, side, &web);
    }
    // An open conversation ends as well.
    let (near, far) = SIDES
        .map(|side| open(&topology, side, &web))
        .into_iter()
        .unzip::<_, _, Vec<_>, Vec<_>>();
    topology.netdp(&format!("block {}", outside()));
    for side in SIDES {
        is_kept_out(&topology, side, &web);
        others_get_in(&topology, side, &web);
    }
    for stream in &near {
        is_cut(stream);
    }
    let dropped = topology.dropped("blocked-source");
    let list = blocked(&topology);
    let count: u64 = list.iter().map(|blocked| blocked.packets).sum();
    assert!(dropped >= 10 && count >= dropped, "{dropped} {list:?}");
    assert!(list.iter().all(|blocked| blocked.packets > 0), "{list:?}");
    let table = topology.netdp("block");
    for side in SIDES {
        assert!(table.contains(&format!("{} ", side.outside)), "{table}");
        let told = topology.netdp(&format!(
            "explain udp {} {}",
            SocketAddr::new(side.outside, 4000),
            SocketAddr::new(side.host, 5353)
        ));
        assert!(told.contains("blocked-source"), "{told}");
    }
    // A veth is left alone.
    let (found, state) = drops_by(&topology);
    let found = found.expect("something is blocked");
    assert!(
        found.contains("2, dropped by tc") || found.contains("clsact"),
        "{found}"
    );
    assert!(found.contains("veth would carry"), "{found}");
    assert_eq!(state.as_deref(), Some("ok"));

    // While no daemon runs, and after the next has come.
    topology.world.kill_daemon();
    for side in SIDES {
        is_kept_out(&topology, side, &web);
    }
    topology.start_daemon();
    assert_eq!(blocked(&topology).len(), 2);
    assert!(blocked(&topology).iter().all(|blocked| blocked.packets > 0));
    topology.world.stop_daemon().unwrap();
    topology.start_daemon();
    for side in SIDES {
        is_kept_out(&topology, side, &web);
        others_get_in(&topology, side, &web);
    }

    topology.netdp(&format!("unblock {}", outside()));
    assert_eq!(blocked(&topology), []);
    for side in SIDES {
        reaches(&topology, side, &web);
    }
    drop(far);
    assert_eq!(drops_by(&topology), (None, None));
}

fn open(topology: &Topology, side: Side, web: &Container) -> (TcpStream, TcpStream) {
    let listener = listen(web, side.any, 80);
    let near = connect(&topology.world.outside, (side.host, 8080));
    let (far, _) = listener.accept();
    talk(&near, &far);
    (near, far)
}

/// Whether nothing of what is sent is answered any more.
#[track_caller]
fn is_cut(mut near: &TcpStream) {
    near.write_all(b"still there?").unwrap();
    near.set_read_timeout(Some(SILENCE)).unwrap();
    near.read_exact(&mut [0; 1]).unwrap_err();
}

/// Sources that overlap, of which one goes.
#[test]
fn what_another_entry_blocks_stays_blocked() {
    let Some(topology) = Topology::with_ipv6("blocked-nested") else {
        return;
    };
    let web = topology.container("web", "--network six -p 8080:80 -p 5353:53/udp");
    let wide = SIDES.map(|side| match side.outside {
        IpAddr::V4(outside) => {
            let [a, b, c, _] = outside.octets();
            format!("{a}.{b}.{c}.0/24")
        }
        IpAddr::V6(outside) => {
            let net = outside.to_bits() >> 64 << 64;
            format!("{}/64", std::net::Ipv6Addr::from_bits(net))
        }
    });
    topology.netdp(&format!("block {} {}", outside(), wide.join(" ")));
    topology.netdp(&format!("unblock {}", outside()));
    let refused = topology.refused(&format!("unblock {}", outside()));
    assert!(refused.contains("by itself, but"), "{refused}");
    for side in SIDES {
        is_kept_out(&topology, side, &web);
    }
    topology.netdp("unblock --all");
    topology.netdp("unblock --all");
    for side in SIDES {
        reaches(&topology, side, &web);
    }
}

#[test]
fn what_would_cut_the_host_off_is_refused_as_a_whole() {
    let Some(topology) = Topology::with_ipv6("blocked-refused") else {
        return;
    };
    let _web = topology.container("web", "--network six");
    let subnet = topology.inspect("web").endpoints[0].addresses[0].trunc();
    let gateway = SIDES[0].client;
    for (sources, why) in [
        ("0.0.0.0/0".to_owned(), "would cut this host off"),
        (SIDES[0].host.to_string(), "it is an address of this host"),
        (SIDES[1].host.to_string(), "it is an address of this host"),
        (gateway.to_string(), "is this host's gateway"),
        (subnet.to_string(), "is an address of this host"),
        ("203.0.113.7/24".to_owned(), "say 203.0.113.0/24"),
        ("fe80::1".to_owned(), "link-local"),
        ("127.0.0.1".to_owned(), "loopback"),
    ] {
        let refused = topology.refused(&format!("block 203.0.113.0/24 {sources}"));
        assert!(refused.contains(why), "{sources}: {refused}");
        assert!(refused.contains("none of the others"), "{refused}");
        assert_eq!(blocked(&topology), []);
    }
    let refused = topology.refused("unblock 203.0.113.0/24");
    assert!(
        refused.contains("203.0.113.0/24 is not blocked"),
        "{refused}"
    );
    let refused = topology.refused("block --file /nonexistent");
    assert!(refused.contains("cannot read /nonexistent"), "{refused}");
}

/// A list of ten thousand, from standard input and from a file.
#[test]
fn ten_thousand_sources_are_blocked_at_once() {
    let Some(mut topology) = Topology::start("blocked-many") else {
        return;
    };
    let list: String = (0..10_000u32)
        .map(|number| {
            format!(
                "{}\n",
                IpAddr::from((203 << 24 | number << 3).to_be_bytes())
            )
        })
        .collect();
    let began = Instant::now();
    given(&topology, &["block", "-"], &list);
    println!("10,000 sources blocked in {:?}", began.elapsed());
    // A fraction of it, where nothing else runs.
    assert!(began.elapsed() < Duration::from_secs(20));
    assert_eq!(blocked(&topology).len(), 10_000);
    let path = topology.world.dir().join("drop.txt");
    std::fs::write(
        &path,
        format!("# all of it\n{list}198.51.100.0/24 ; and one"),
    )
    .unwrap();
    topology.netdp(&format!("block --file {}", path.display()));
    assert_eq!(blocked(&topology).len(), 10_001);

    topology.world.kill_daemon();
    let began = Instant::now();
    topology.start_daemon();
    println!("a daemon starts with them in {:?}", began.elapsed());
    assert_eq!(blocked(&topology).len(), 10_001);
    let began = Instant::now();
    topology.netdp("unblock --all");
    println!("10,001 sources unblocked in {:?}", began.elapsed());
    assert_eq!(blocked(&topology), []);
    given_refused(
        &topology,
        &["block", "-"],
        "203.0.113.0/24\nblue\n",
        "line 2 of standard input",
    );
    given_refused(&topology, &["block", "-"], "# nothing\n", "names no source");
}

fn given(topology: &Topology, args: &[&str], text: &str) -> std::process::Output {
    let mut command = topology.world.on_host(topology.world.netdp_path());
    command
        .args(args)
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    child.wait_with_output().unwrap()
}

#[track_caller]
fn given_refused(topology: &Topology, args: &[&str], text: &str, why: &str) {
    let output = given(topology, args, text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(why), "{said}");
}
