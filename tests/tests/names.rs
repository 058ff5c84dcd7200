//! Names of sandboxes, asked for inside them.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType, rdata::A, rdata::TXT};
use netdp::demo::world::OUTSIDE_ADDRESS;
use netdp_tests::{
    Container, Listener, PATIENCE, Place, Topology, connect, hears, listen, talk, udp,
};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const RESOLVER: (Ipv4Addr, u16) = (Ipv4Addr::new(127, 0, 0, 11), 53);
/// What the resolver outside says of every name.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    let name = Name::from_ascii(format!("{name}.")).unwrap();
    message.add_query(Query::query(name, kind));
    message
}

/// Asks as a program of the sandbox does, by UDP.
#[track_caller]
fn ask(place: &impl Place, name: &str, kind: RecordType) -> Message {
    let socket = udp(place, ANY, 0);
    // So that an answer counts only if it comes from where was asked.
    socket.connect(RESOLVER).unwrap();
    let question = question(name, kind);
    socket.send(&question.to_vec().unwrap()).unwrap();
    let mut buffer = [0; 4096];
    let length = socket
        .recv(&mut buffer)
        .unwrap_or_else(|error| panic!("no answer about {name}: {error}"));
    let answer = Message::from_vec(&buffer[..length]).unwrap();
    assert_eq!(answer.metadata.id, question.metadata.id);
    answer
}

#[track_caller]
fn ask_by_tcp(place: &impl Place, name: &str, kind: RecordType) -> Message {
    let mut stream = connect(place, RESOLVER);
    let question = question(name, kind).to_vec().unwrap();
    let length = question.len() as u16;
    stream.write_all(&length.to_be_bytes()).unwrap();
    stream.write_all(&question).unwrap();
    let mut length = [0; 2];
    stream.read_exact(&mut length).unwrap();
    let mut answer = vec![0; u16::from_be_bytes(length).into()];
    stream.read_exact(&mut answer).unwrap();
    Message::from_vec(&answer).unwrap()
}

/// The addresses, or why there are none.
#[track_caller]
fn resolve(place: &impl Place, name: &str) -> Result<Vec<IpAddr>, ResponseCode> {
    let answer = ask(place, name, RecordType::A);
    match answer.metadata.response_code {
        ResponseCode::NoError => Ok(addresses(&answer)),
        code => Err(code),
    }
}

fn addresses(answer: &Message) -> Vec<IpAddr> {
    let records = answer.answers.iter();
    records
        .filter_map(|record| match record.data {
            RData::A(address) => Some(address.0.into()),
            _ => None,
        })
        .collect()
}

/// A resolver that knows an address for every name and, for those that begin
/// with `long`, a text that needs TCP. It counts what it is asked.
#[derive(Default)]
struct Outside {
    asked: AtomicU32,
}

impl Outside {
    fn answer(&self, message: &[u8], by_tcp: bool) -> Vec<u8> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let request = Message::from_vec(message).unwrap();
        let query = request.queries[0].clone();
        let mut answer = Message::new(request.metadata.id, MessageType::Response, OpCode::Query);
        answer.add_query(query.clone());
        let name = query.name.clone();
        if !name.to_ascii().starts_with("long") {
            answer.add_answer(Record::from_rdata(name, 60, RData::A(A(ELSEWHERE))));
        } else if by_tcp {
            for _ in 0..20 {
                let text = RData::TXT(TXT::new(vec!["x".repeat(200)]));
                answer.add_answer(Record::from_rdata(name.clone(), 60, text));
            }
        } else {
            answer.metadata.truncation = true;
        }
        answer.to_vec().unwrap()
    }

    fn count(&self) -> u32 {
        self.asked.load(Ordering::SeqCst)
    }

    /// Answers until the sockets end, or nothing comes for long.
    fn serve(&self, datagrams: &UdpSocket) {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = datagrams.recv_from(&mut buffer) {
            // An empty datagram tells to end.
            if length == 0 {
                return;
            }
            let answer = self.answer(&buffer[..length], false);
            let _ = datagrams.send_to(&answer, from);
        }
    }

    fn serve_one_by_tcp(&self, listener: &Listener) {
        let (mut stream, _) = listener.accept();
        let mut length = [0; 2];
        stream.read_exact(&mut length).unwrap();
        let mut message = vec![0; u16::from_be_bytes(length).into()];
        stream.read_exact(&mut message).unwrap();
        let answer = self.answer(&message, true);
        let length = answer.len() as u16;
        stream.write_all(&length.to_be_bytes()).unwrap();
        stream.write_all(&answer).unwrap();
    }
}

/// A topology whose daemon asks the resolver outside.
fn topology(name: &str) -> Option<Topology> {
    let mut topology = Topology::without_daemon(name)?;
    start(&mut topology);
    Some(topology)
}

fn start(topology: &mut Topology) {
    let config = topology.world.dir().join("netdp.toml");
    fs::write(&config, format!("dns = [\"{OUTSIDE_ADDRESS}\"]\n")).unwrap();
    let config = config.to_str().unwrap();
    topology
        .world
        .start_daemon(&["--config", config])
        .unwrap_or_else(|error| panic!("{error}"));
}

fn with_outside(topology: &Topology, test: impl FnOnce(&Outside)) {
    let outside = Outside::default();
    let datagrams = udp(&topology.world.outside, OUTSIDE_ADDRESS, 53);
    let end = udp(&topology.world.outside, ANY, 0);
    setsockopt(
        &datagrams.as_fd(),
        sockopt::ReceiveTimeout,
        &TimeVal::seconds(4 * PATIENCE.as_secs() as i64),
    )
    .unwrap();
    thread::scope(|scope| {
        scope.spawn(|| outside.serve(&datagrams));
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| test(&outside)));
        end.send_to(&[], (OUTSIDE_ADDRESS, 53)).unwrap();
        if let Err(panic) = done {
            std::panic::resume_unwind(panic);
        }
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
        // Cut off by UDP, whole by TCP.
        let cut = ask(&web, "long.example.net", RecordType::TXT);
        assert!(cut.metadata.truncation);
        thread::scope(|scope| {
            scope.spawn(|| outside.serve_one_by_tcp(&by_tcp));
            let whole = ask_by_tcp(&web, "long.example.net", RecordType::TXT);
            assert!(!whole.metadata.truncation);
            assert_eq!(whole.answers.len(), 20);
        });
        assert_eq!(outside.count(), 4);

        // An internal network keeps its questions.
        assert_eq!(resolve(&alone, "alone"), Ok(vec![alone.address.into()]));
        assert_eq!(
            resolve(&alone, "www.example.net"),
            Err(ResponseCode::ServFail)
        );
        assert_eq!(resolve(&alone, "web"), Err(ResponseCode::ServFail));
        assert_eq!(outside.count(), 4);
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
fn a_daemon_that_starts_again_answers_again() {
    let Some(mut topology) = topology("names-again") else {
        return;
    };
    let web = on(&topology, "web", "netdp0");
    let db = on(&topology, "db", "netdp0");
    assert_eq!(resolve(&web, "db"), Ok(vec![db.address.into()]));
    topology.world.kill_daemon();
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
