//! Floods with real sockets: open connections go on, and new ones get through.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use netdp_tests::{
    Flood, Listener, Macs, Place, SIDES, Side, Topology, Varied, connect_bound, connect_from,
    datagram, listen, syn,
};

/// Those of the wire between the client and the host.
const CLIENT_MAC: [u8; 6] = [2, 0x6e, 0x64, 0x70, 0, 1];
const HOST_MAC: [u8; 6] = [2, 0x6e, 0x64, 0x70, 0, 2];
const WIRE: Macs = (CLIENT_MAC, HOST_MAC);
/// Of the host too; who uses it needs an entry from the first packet on.
fn second_address(side: Side) -> IpAddr {
    side.of(
        IpAddr::from([198, 18, 0, 3]),
        IpAddr::from([0x2001, 2, 0, 0x18, 0, 0, 0, 3]),
    )
}

/// A network that is nowhere, and its length: 2^24 sources or destinations.
fn nowhere(side: Side) -> (IpAddr, u8) {
    side.of(
        (IpAddr::from([11, 0, 0, 0]), 8),
        (IpAddr::from([0x2001, 2, 0xffff, 0, 0, 0, 0, 0]), 104),
    )
}

const CONNECTIONS: usize = 1000;
const SHORT: Duration = Duration::from_secs(3);
const LONG: Duration = Duration::from_secs(20);
/// How long one exchange on an open connection may take: a lost segment is sent
/// again after a fifth of a second, and then after twice that.
const STALL: Duration = Duration::from_secs(3);
/// How long a client waits for a new connection and its answer: one second is
/// that of a lost SYN.
const ANSWER: Duration = Duration::from_secs(3);

/// The same eight bytes back, whatever comes first.
fn echo(mut stream: TcpStream) {
    let _ = stream.set_read_timeout(Some(ANSWER));
    let mut bytes = [0; 8];
    if stream.read_exact(&mut bytes).is_ok() {
        let _ = stream.write_all(&bytes);
    }
}

/// Answers each connection.
fn serve(listener: Listener) {
    let listener = listener.into_inner();
    thread::spawn(move || {
        loop {
            match listener.accept() {
                Ok((stream, _)) => {
                    thread::spawn(|| echo(stream));
                }
                // Nobody came for as long as a test waits.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
        }
    });
}

/// A source port that nobody here has had. Left to choose, the kernel may give
/// one to two connections, to either address of the host, which are one and the
/// same to the container (`tuple-taken`).
fn fresh_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// No address, of the family of another.
fn unspecified(of: SocketAddr) -> IpAddr {
    let [v4, v6] = SIDES.map(|side| side.any);
    if of.is_ipv4() { v4 } else { v6 }
}

/// One new connection, a word and its answer.
fn ask(place: &impl Place, to: SocketAddr) -> io::Result<()> {
    let from = (unspecified(to), fresh_port()).into();
    let mut stream = connect_bound(place, Some(from), to, ANSWER)?;
    stream.set_read_timeout(Some(ANSWER))?;
    stream.write_all(b"question")?;
    let mut bytes = [0; 8];
    stream.read_exact(&mut bytes)?;
    assert_eq!(&bytes, b"question");
    Ok(())
}

/// Connections that are open, both ends of each.
struct Held(Vec<(TcpStream, TcpStream)>);

impl Held {
    fn open(number: usize, place: &impl Place, to: &[SocketAddr], listener: &Listener) -> Self {
        let mut held = Vec::with_capacity(number);
        for number in 0..number {
            let to = to[number % to.len()];
            let near = connect_from(place, (unspecified(to), fresh_port()), to);
            let (far, _) = listener.accept();
            held.push((near, far));
        }
        let held = Self(held);
        held.exchange();
        held
    }

    /// Says a number on each and hears it on the other side, both ways. Gives how
    /// long the slowest took.
    fn exchange(&self) -> Duration {
        let mut slowest = Duration::ZERO;
        for (number, (near, far)) in self.0.iter().enumerate() {
            let began = Instant::now();
            for (mut from, mut to) in [(near, far), (far, near)] {
                let said = (number as u64).to_be_bytes();
                let mut heard = [0; 8];
                from.write_all(&said)
                    .and_then(|()| to.read_exact(&mut heard))
                    .unwrap_or_else(|error| panic!("connection {number}: {error}"));
                assert_eq!(heard, said);
            }
            slowest = slowest.max(began.elapsed());
        }
        slowest
    }
}

/// What open connections and steady clients met while a flood lasted.
#[derive(Default)]
struct Met {
    slowest: Duration,
    rounds: u32,
    tries: u32,
    served: u32,
}

/// New connections of `place` to each address in turn, and exchanges on those
/// that are open, while the flood lasts.
fn endure(flood: &Flood, held: &Held, place: &impl Place, to: &[SocketAddr]) -> Met {
    let mut met = Met::default();
    let (tries, served) = thread::scope(|scope| {
        let client = scope.spawn(|| {
            let (mut tries, mut served) = (0, 0);
            while flood.lasts() {
                tries += 1;
                served += u32::from(ask(place, to[tries as usize % to.len()]).is_ok());
                thread::sleep(Duration::from_millis(10));
            }
            (tries, served)
        });
        while flood.lasts() {
            met.slowest = met.slowest.max(held.exchange());
            met.rounds += 1;
        }
        client.join().unwrap()
    });
    (met.tries, met.served) = (tries, served);
    met
}

impl Met {
    #[track_caller]
    fn is_well(&self, what: &str) {
        let Self {
            slowest,
            rounds,
            tries,
            served,
        } = self;
        println!(
            "{what}: {rounds} rounds of exchanges, the slowest {slowest:.2?}; \
             {served} of {tries} new connections"
        );
        assert!(*rounds > 0, "no round was done");
        assert!(*slowest < STALL, "an exchange took {slowest:?}");
        assert!(*tries > 10, "only {tries} tries");
        assert!(
            served * 10 >= tries * 9,
            "{served} of {tries} new connections"
        );
    }
}

/// SYNs and datagrams from everywhere to published ports, at an address that
/// needs no entries and at one that does.
fn from_outside(name: &str, lasting: Duration, side: Side) {
    let Some(topology) = Topology::with_ipv6(name) else {
        return;
    };
    let world = &topology.world;
    let (second, (nowhere, length)) = (second_address(side), nowhere(side));
    topology.ip(&world.host, &side.add_address(second, "eth0"));
    topology.ip(
        &world.client,
        &format!(
            "route add blackhole {nowhere}/{length}\n\
             neigh replace {second} lladdr 02:6e:64:70:00:02 dev wire0 nud permanent"
        ),
    );
    let options = "--network six -p 8080:80 -p 8081:81 -p 5353:53/udp";
    let web = topology.container("web", options);
    let addresses = |port| [side.host, second].map(|host| (host, port).into());
    let listener = listen(&web, side.any, 80);
    serve(listen(&web, side.any, 81));
    topology.wait_until("reached at the second address", || {
        ask(&world.client, (second, 8081).into()).is_ok()
    });
    let held = Held::open(CONNECTIONS, &world.client, &addresses(8080), &listener);
    let frames: Vec<_> = [side.host, second]
        .into_iter()
        .flat_map(|host| {
            [
                syn(WIRE, (nowhere, 0), (host, 8080)),
                syn(WIRE, (nowhere, 0), (host, 8081)),
                datagram(WIRE, (nowhere, 0), (host, 5353), b"a question of any kind"),
            ]
        })
        .collect();
    let flood = Flood::start(&world.client, "wire0", &frames, Varied::Source, lasting);
    let met = endure(&flood, &held, &world.client, &addresses(8081));
    println!("{} packets in {lasting:?}", flood.end());
    met.is_well("a flood from outside");
    held.exchange();
    // Those that are open, and the steady clients': the flood got no place.
    let count: serde_json::Value =
        serde_json::from_str(&topology.netdp("flows --count --format json")).unwrap();
    println!("{count}");
    assert!(count["flows"].as_u64().unwrap() < 3 * CONNECTIONS as u64);
    assert!(count["pending"].as_u64().unwrap() <= 65_536);
}

#[test]
fn a_flood_from_outside_breaks_nothing() {
    for side in SIDES {
        from_outside("flood-outside", SHORT, side);
    }
}

#[test]
#[ignore = "takes long"]
fn a_long_flood_from_outside_breaks_nothing() {
    for side in SIDES {
        from_outside("flood-outside-long", LONG, side);
    }
}

/// A container that opens flows to everywhere.
fn from_container(name: &str, lasting: Duration, side: Side) {
    let Some(topology) = Topology::with_ipv6(name) else {
        return;
    };
    let world = &topology.world;
    let (nowhere, length) = nowhere(side);
    let route = format!("route add blackhole {nowhere}/{length}");
    topology.ip(&world.client, &route);
    let (bad, good) = (
        topology.container("bad", "--network six"),
        topology.container("good", "--network six -p 8081:81"),
    );
    let listener = listen(&world.outside, side.any, 80);
    serve(listen(&world.outside, side.any, 81));
    serve(listen(&good, side.any, 81));
    let outside: [SocketAddr; 2] = [80, 81].map(|port| (side.outside, port).into());
    let held = Held::open(CONNECTIONS / 2, &good, &outside[..1], &listener);
    let own = Held::open(CONNECTIONS / 2, &bad, &outside[..1], &listener);
    let macs = (bad.mac, bad.gateway_mac());
    let from = (side.address(&bad), 0);
    let frames = [
        syn(macs, from, (nowhere, 80)),
        datagram(macs, from, (nowhere, 53), b"a question"),
    ];
    let flood = Flood::start(
        &bad.namespace,
        "eth0",
        &frames,
        Varied::Destination,
        lasting,
    );
    let met = endure(&flood, &held, &good, &outside[1..]);
    // In the middle of it, what it had before works on.
    let slowest = own.exchange();
    assert!(slowest < STALL, "an exchange took {slowest:?}");
    println!("{} packets in {lasting:?}", flood.end());
    met.is_well("a flood of another container");
    ask(&world.client, (side.host, 8081).into()).unwrap();
    held.exchange();
    assert!(topology.dropped("endpoint-limit") > 0);
    assert_eq!(topology.dropped("table-full"), 0);
    let count: serde_json::Value =
        serde_json::from_str(&topology.netdp("flows --count --format json")).unwrap();
    println!("{count}");
    assert!(count["pending"].as_u64().unwrap() < 2 * 65_536 / 4);
}

#[test]
fn a_container_that_floods_takes_nothing_from_the_others() {
    for side in SIDES {
        from_container("flood-container", SHORT, side);
    }
}

#[test]
#[ignore = "takes long"]
fn a_container_that_floods_for_long_takes_nothing_from_the_others() {
    for side in SIDES {
        from_container("flood-container-long", LONG, side);
    }
}
