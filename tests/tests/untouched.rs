//! What netdp leaves to others: the words of a conversation, and openings that
//! nobody asked for.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use netdp_tests::{
    PATIENCE, SIDES, Side, Topology, connect, connect_bound, connect_from, hears, listen, udp,
};

#[track_caller]
fn says(mut from: &TcpStream, mut to: &TcpStream, words: &str) {
    from.write_all(words.as_bytes()).unwrap();
    let mut heard = vec![0; words.len()];
    to.read_exact(&mut heard).unwrap();
    assert_eq!(String::from_utf8_lossy(&heard), words);
}

/// What an application level gateway would look for: addresses in words, of FTP
/// (RFC 959, RFC 2428) and of SIP (RFC 3261).
fn words(address: SocketAddr) -> [String; 3] {
    let port = address.port();
    let (high, low) = (port >> 8, port & 0xff);
    let (family, ip) = (if address.is_ipv4() { 1 } else { 2 }, address.ip());
    let commas = ip.to_string().replace(['.', ':'], ",");
    [
        format!("PORT {commas},{high},{low}\r\n"),
        format!("EPRT |{family}|{ip}|{port}|\r\n"),
        format!(
            "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP {address}\r\nContact: <sip:c@{address}>\r\n"
        ),
    ]
}

fn on_each_side(name: &str, test: impl Fn(&Topology, Side)) {
    let Some(topology) = Topology::with_ipv6(name) else {
        return;
    };
    for side in SIDES {
        println!("{:?}", side.family);
        test(&topology, side);
    }
}

#[test]
fn words_that_name_addresses_pass_as_they_are() {
    on_each_side("untouched-words", |topology, side| {
        let name = format!("client{}", side.length());
        let client = topology.container(&name, "--network six");
        let data = SocketAddr::new(side.address(&client), 1930);
        let waiting = listen(&client, side.any, data.port());
        for port in [21, 5060] {
            let server = listen(&topology.world.outside, side.any, port);
            let near = connect(&client, (side.outside, port));
            let far = server.accept().0;
            for line in words(data) {
                says(&near, &far, &line);
                says(&far, &near, &line);
            }
        }
        let server = udp(&topology.world.outside, side.any, 5060);
        let near = udp(&client, side.any, 5060);
        for line in words(data) {
            near.send_to(line.as_bytes(), (side.outside, 5060)).unwrap();
            let seen = hears(&server, line.as_bytes());
            server.send_to(line.as_bytes(), seen).unwrap();
            hears(&near, line.as_bytes());
        }
        // Nothing was opened for what they name.
        let to = (side.host, data.port());
        let error = connect_bound(&topology.world.outside, None, to, PATIENCE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        waiting.assert_nobody_came();
    });
}

#[test]
fn a_published_server_names_its_own_address() {
    on_each_side("untouched-server", |topology, side| {
        let (name, host_port) = side.of(("ftp4", 2104), ("ftp6", 2106));
        let options = format!("--network six -p {host_port}:21");
        let ftp = topology.container(name, &options);
        let server = listen(&ftp, side.any, 21);
        let near = connect(&topology.world.client, (side.host, host_port));
        let far = server.accept().0;
        for line in words(SocketAddr::new(side.address(&ftp), 1930)) {
            says(&far, &near, &line);
            says(&near, &far, &line);
        }
    });
}

/// RFC 5382, REQ-4 wants silence for six seconds.
#[test]
fn an_opening_that_nobody_asked_for_is_answered_by_the_host() {
    on_each_side("untouched-syn", |topology, side| {
        let name = format!("one{}", side.length());
        let one = topology.container(&name, "--network six");
        let server = listen(&topology.world.outside, side.any, 80);
        let near = connect_from(&one, (side.any, 41_000), (side.outside, 80));
        let far = server.accept();
        assert_eq!(far.1, (side.host, 41_000).into());
        // A port that is closed, one that a container has towards another, and
        // the very one from another port of its peer.
        for (from, port) in [
            (&topology.world.client, 41_001),
            (&topology.world.client, 41_000),
            (&topology.world.outside, 41_000),
        ] {
            let began = Instant::now();
            let error = connect_bound(from, None, (side.host, port), PATIENCE).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            assert!(began.elapsed() < Duration::from_secs(5));
        }
        netdp_tests::talk(&near, &far.0);
    });
}
