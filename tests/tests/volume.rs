//! Much data and many connections, with nothing lost.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;

use netdp::demo::world::{HOST_ADDRESS, OUTSIDE_ADDRESS};
use netdp_tests::{Listener, PATIENCE, Place, Topology, connect, connect_within, listen, transfer};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const HUNDRED_MEGABYTES: u64 = 100_000_000;
const CONNECTIONS: u64 = 10_000;

#[test]
fn a_hundred_megabytes_each_way_through_a_published_port() {
    let Some(topology) = Topology::start("vol-published") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80");
    let listener = listen(&web, ANY, 80);
    let near = connect(&topology.world.client, (HOST_ADDRESS, 8080));
    transfer(&near, &listener.accept().0, HUNDRED_MEGABYTES);
}

#[test]
fn a_hundred_megabytes_each_way_masqueraded() {
    let Some(topology) = Topology::start("vol-masquerade") else {
        return;
    };
    let container = topology.container("one", "");
    let listener = listen(&topology.world.outside, ANY, 80);
    let near = connect(&container, (OUTSIDE_ADDRESS, 80));
    transfer(&near, &listener.accept().0, HUNDRED_MEGABYTES);
}

#[test]
fn a_hundred_megabytes_each_way_between_containers() {
    let Some(topology) = Topology::start("vol-containers") else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let listener = listen(&other, ANY, 80);
    let near = connect(&one, (other.address, 80));
    transfer(&near, &listener.accept().0, HUNDRED_MEGABYTES);
}

/// Opens many connections, one after another; each says its number and hears
/// it back.
fn many(from: &impl Place, to: impl Into<SocketAddr>, listener: Listener) {
    let to = to.into();
    let listener = listener.into_inner();
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..CONNECTIONS {
                let (mut stream, _) = listener.accept().expect("a connection arrives");
                let mut number = [0; 8];
                stream.read_exact(&mut number).expect("its number");
                stream.write_all(&number).expect("answer");
            }
        });
        for number in 0..CONNECTIONS {
            if let Err(error) = short(from, to, number) {
                panic!("connection {number}: {error}");
            }
        }
    });
}

fn short(from: &impl Place, to: SocketAddr, number: u64) -> std::io::Result<()> {
    let mut stream: TcpStream = connect_within(from, None, to, PATIENCE)?;
    stream.write_all(&number.to_be_bytes())?;
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard)?;
    assert_eq!(heard, number.to_be_bytes());
    Ok(())
}

#[test]
fn ten_thousand_connections_through_a_published_port() {
    let Some(topology) = Topology::start("vol-connections") else {
        return;
    };
    let web = topology.container("web", "-p 8080:80");
    let listener = listen(&web, ANY, 80);
    many(&topology.world.client, (HOST_ADDRESS, 8080), listener);
    for drops in topology.statistics().drops {
        assert_eq!(drops.packets, 0, "{}", drops.reason);
    }
}

#[test]
fn ten_thousand_connections_masqueraded() {
    let Some(topology) = Topology::start("vol-masq-connections") else {
        return;
    };
    let container = topology.container("one", "");
    let listener = listen(&topology.world.outside, ANY, 80);
    many(&container, (OUTSIDE_ADDRESS, 80), listener);
    for drops in topology.statistics().drops {
        assert_eq!(drops.packets, 0, "{}", drops.reason);
    }
}
