//! What `netdp explain` says, and what the loaded programs do. Needs root.

mod program_world;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, UdpSocket};

use ipnet::IpNet;
use netdp::bpf::{Entry, Key, Tables, TestPacket, blocked_key, clock, tells_preferred_sources};
use netdp::explain::{Explanation, Outcome, Protocol, Question, Snapshot, Way, explain};
use netdp::netlink::Sockets;
use netdp_common::{
    addr::{Be16, V4Addr, V6Addr, proto},
    drop::DropReason,
    icmp::Refusal,
    maps::{Config, LinkKey, Uplink, endpoint_flags, uplink_flags},
};
use program_world::{
    CLIENT, Container, DB, DROP, GATEWAY, HOST, HOST_2, LONER, LONER_GATEWAY, NEXT, REDIRECT,
    REMOTE, ROUTER, ROUTER_MAC, SECOND_MAC, WEB, World, arriving,
    dice::Dice,
    family::{Family, embed, ip},
    frame::{ACK, Frame, SYN, at},
    world, worlds, worlds_with,
};

/// Addresses inside, of the host, outside, and of nobody.
const ADDRESSES: [Ipv4Addr; 15] = [
    WEB,
    DB,
    LONER,
    GATEWAY,
    LONER_GATEWAY,
    HOST,
    HOST_2,
    CLIENT,
    REMOTE,
    Ipv4Addr::new(172, 20, 0, 99),
    Ipv4Addr::new(224, 0, 0, 1),
    Ipv4Addr::new(169, 254, 0, 7),
    Ipv4Addr::LOCALHOST,
    Ipv4Addr::new(0, 1, 2, 3),
    Ipv4Addr::new(240, 0, 0, 1),
];
/// Published, ports behind them, and others.
const PORTS: [u16; 7] = [80, 53, 8080, 5353, 9090, 40_000, 40_001];
const PACKETS: u32 = 1_500;

fn socket(dice: &mut Dice) -> SocketAddrV4 {
    SocketAddrV4::new(dice.of(&ADDRESSES), dice.of(&PORTS))
}

/// As sockets of the world's family have it.
fn of_world(socket: SocketAddrV4) -> SocketAddr {
    SocketAddr::new(ip(*socket.ip()), socket.port())
}

/// What the programs would say, and by what the world's routes are: the
/// uplink's own subnet, and the default route.
fn told(world: &World, question: &Question, near: bool) -> Explanation {
    told_by(&world.datapath.tables().unwrap(), world, question, near)
}

/// The same where nobody has written the tables since they were read, which
/// takes longer than anything else here.
fn told_by(tables: &Tables, world: &World, question: &Question, near: bool) -> Explanation {
    let source = question.source.ip();
    let senders = [world.web, world.db, world.loner];
    let sender = senders.iter().find(|sender| ip(sender.addr) == source);
    let want_of_room = sender.and_then(|sender| {
        let room = world.datapath.want_of_room(sender.slot, source);
        room.unwrap()
    });
    explain(
        &Snapshot {
            tables,
            flows4: &world.datapath.flows::<V4Addr>().unwrap(),
            flows6: &world.datapath.flows::<V6Addr>().unwrap(),
            way: Some(Way {
                ifindex: world.uplink,
                gateway: (!near).then(|| ip(ROUTER)),
                source: Some(ip(if near { HOST } else { HOST_2 })),
            }),
            now: clock::now(),
            want_of_room,
            subnets: &[],
            is_over_limit: false,
            has_socket: &has_socket,
        },
        question,
    )
}

/// In the namespace of this thread.
fn has_socket(protocol: Protocol, own: SocketAddr, peer: SocketAddr) -> bool {
    let number = match protocol {
        Protocol::Tcp => libc::IPPROTO_TCP,
        Protocol::Udp => libc::IPPROTO_UDP,
        Protocol::Icmp => return false,
    };
    Sockets::open().unwrap().has(number, own, peer).unwrap()
}

/// What a program made of the packet, in the same terms.
fn done(world: &mut World, frame: &Frame, sender: Option<Container>) -> (Outcome, Frame) {
    let before = world.datapath.drops().unwrap();
    let containers = [world.web, world.db, world.loner];
    let run = match sender {
        Some(sender) => world.run_from_container(&sender, &sender.frame(frame.clone()).bytes()),
        None => world.run_from_netdev(&arriving(frame.clone()).bytes()),
    };
    let after = world.datapath.drops().unwrap();
    let mut changed = before.iter().zip(&after).filter(|(old, new)| old != new);
    if let Some((old, _)) = changed.next() {
        assert!(run.action == DROP || Refusal::of(old.0) != Refusal::Silent);
        return (Outcome::Dropped(old.0), frame.clone());
    }
    let seen = Frame::of(&run.packet);
    let outcome = match run.action {
        NEXT => Outcome::Stack,
        REDIRECT => containers
            .iter()
            .find(|container| container.mac == seen.destination)
            .map_or(Outcome::Uplink(world.uplink), |container| {
                Outcome::Container(container.ifindex)
            }),
        action => panic!("{action}"),
    };
    (outcome, seen)
}

/// Asks and does; the flows that packets leave behind are there for the next.
fn compare(world: &mut World, tables: &Tables, dice: &mut Dice) -> Option<Outcome> {
    use Protocol::{Icmp, Tcp, Udp};
    let protocol = dice.of(&[Tcp, Udp, Tcp, Udp, Icmp]);
    let (from, mut to) = (socket(dice), socket(dice));
    if protocol == Icmp {
        to.set_port(0);
    }
    let containers = [world.web, world.db, world.loner];
    let sender = containers
        .into_iter()
        .find(|container| container.addr == *from.ip());
    // The host's own programs are met at other hooks.
    let hosts = [GATEWAY, LONER_GATEWAY, HOST, HOST_2, Ipv4Addr::LOCALHOST];
    let is_host = hosts.contains(from.ip());
    if is_host || from.ip() == to.ip() && from.port() == to.port() {
        return None;
    }
    let question = Question {
        protocol,
        source: of_world(from),
        destination: of_world(to),
    };
    let near = to.ip().octets()[..3] == [192, 0, 2];
    let told = told_by(tables, world, &question, near);
    let frame = match protocol {
        Tcp => Frame::tcp(SYN, from, to),
        Udp => Frame::udp(from, to),
        Icmp => Frame::echo_request(*from.ip(), *to.ip(), from.port()),
    };
    let (outcome, seen) = done(world, &frame, sender);
    let is_direct = matches!(told.outcome, Outcome::Socket(_));
    let expected = if is_direct {
        Outcome::Stack
    } else {
        told.outcome
    };
    assert_eq!(expected, outcome, "{question:?}: {told:#?}");
    if is_direct || matches!(outcome, Outcome::Container(_) | Outcome::Uplink(_)) {
        assert_eq!(
            told.destination,
            of_world(seen.to),
            "{question:?}: {told:#?}"
        );
        assert_eq!(
            told.source.ip(),
            ip(*seen.from.ip()),
            "{question:?}: {told:#?}"
        );
        // 0 where the program draws one.
        if told.source.port() != 0 {
            assert_eq!(
                told.source.port(),
                seen.from.port(),
                "{question:?}: {told:#?}"
            );
        }
    }
    Some(told.outcome)
}

fn equal_over(world: &mut World, seed: u64) {
    compared(world, seed);
}

/// Compares many packets, and gives the names of the reasons for which some
/// were dropped.
fn compared(world: &mut World, seed: u64) -> Vec<&'static str> {
    let mut dice = Dice(seed);
    let tables = world.datapath.tables().unwrap();
    let seen: Vec<Outcome> = (0..PACKETS)
        .filter_map(|_| compare(world, &tables, &mut dice))
        .collect();
    let mut reasons: Vec<_> = seen
        .iter()
        .filter_map(|outcome| match outcome {
            Outcome::Dropped(reason) => Some(reason.name()),
            _ => None,
        })
        .collect();
    reasons.sort_unstable();
    reasons.dedup();
    assert!(reasons.len() >= 3, "dropped for {reasons:?} only");
    assert!(seen.contains(&Outcome::Stack));
    assert!(seen.contains(&Outcome::Uplink(world.uplink)));
    for container in [world.web, world.db, world.loner] {
        assert!(seen.contains(&Outcome::Container(container.ifindex)));
    }
    reasons
}

#[test]
fn the_answers_are_those_of_the_programs() {
    worlds(|world| {
        let web = world.web;
        world.publish(Some(HOST_2), 9090, &web, 80, proto::TCP, None);
        equal_over(world, 0x6e65_7464);
    });
}

/// One of TCP at one address of the host, and one of UDP at another; and what is
/// for others is the container's.
#[test]
fn also_of_direct_ports() {
    worlds(|world| {
        let mut web = world.web;
        world.publish(Some(HOST_2), 9090, &web, 80, proto::TCP, None);
        for (port, proto) in [(8080, proto::TCP), (5353, proto::UDP), (9090, proto::TCP)] {
            world.make_direct(port, proto);
        }
        web.flags |= endpoint_flags::DIRECT;
        world.connect(&web);
        let _listener = TcpListener::bind((ip(HOST), 8080)).unwrap();
        let _bound = UdpSocket::bind((ip(HOST), 5353)).unwrap();
        let mut dice = Dice(0x6469_7265);
        let tables = world.datapath.tables().unwrap();
        let mut seen = Vec::new();
        for _ in 0..2 * PACKETS {
            seen.extend(compare(world, &tables, &mut dice));
        }
        let container = Outcome::Container(web.ifindex);
        assert!(seen.contains(&Outcome::Socket(ip(WEB))) && seen.contains(&container));
    });
}

#[test]
fn also_where_a_container_has_all_its_flows() {
    let config = Config {
        pending_per_endpoint: 5,
        ..Config::default()
    };
    worlds_with(config, 1024, |world| {
        let reasons = compared(world, 0x726f_6f6d);
        assert!(reasons.contains(&"endpoint-limit"), "{reasons:?}");
    });
}

#[test]
fn also_where_the_table_is_full() {
    worlds_with(Config::default(), 4, |world| {
        let (db, question) = (
            world.db,
            Question {
                protocol: Protocol::Tcp,
                source: of_world(SocketAddrV4::new(DB, 39_000)),
                destination: of_world(SocketAddrV4::new(REMOTE, 443)),
            },
        );
        for sport in 40_000..40_020 {
            assert_ne!(sport, 40_019, "the table never gets full");
            let segment = db.frame(Frame::tcp(SYN, at(DB, sport), at(REMOTE, 443)));
            let left = world.leaves(&db, &segment);
            let answer = arriving(left.answer(SYN | ACK)).bytes();
            if world.run_from_netdev(&answer).action == DROP {
                break;
            }
        }
        let said = told(world, &question, false);
        assert_eq!(said.outcome, Outcome::Dropped(DropReason::TableFull));
    });
}

#[test]
fn also_of_sources_in_the_subnets_of_containers() {
    worlds(|world| {
        world.know_subnets();
        let reasons = compared(world, 0x696e_7369);
        assert!(reasons.contains(&"spoofed-source"), "{reasons:?}");
        let unassigned = SocketAddrV4::new(Ipv4Addr::new(172, 20, 0, 99), 40_000);
        let question = Question {
            protocol: Protocol::Tcp,
            source: of_world(unassigned),
            destination: of_world(SocketAddrV4::new(HOST, 8080)),
        };
        let said = told(world, &question, false);
        assert_eq!(said.outcome, Outcome::Dropped(DropReason::SpoofedSource));
    });
}

#[test]
fn also_of_blocked_sources() {
    worlds(|world| {
        let (one, net) = match Family::of_world() {
            Family::V4 => (32, 24),
            Family::V6 => (128, 120),
        };
        for (addr, bits) in [(CLIENT, one), (REMOTE, net)] {
            let source = IpNet::new(ip(addr), bits).unwrap().trunc();
            world.put(blocked_key(source), Entry::Blocked);
        }
        let mut dice = Dice(0x626c_6f63);
        let tables = world.datapath.tables().unwrap();
        let seen: Vec<Outcome> = (0..PACKETS)
            .filter_map(|_| compare(world, &tables, &mut dice))
            .collect();
        assert!(seen.contains(&Outcome::Dropped(DropReason::BlockedSource)));
        let question = Question {
            protocol: Protocol::Tcp,
            source: of_world(SocketAddrV4::new(REMOTE, 40_000)),
            destination: of_world(SocketAddrV4::new(HOST, 22)),
        };
        let said = told(world, &question, false);
        assert_eq!(said.outcome, Outcome::Dropped(DropReason::BlockedSource));
        let why = &said.steps.last().unwrap().answer;
        assert!(why.contains("is blocked: see `netdp block`"), "{why}");
    });
}

/// Flows that had a port before it was published.
#[test]
fn also_of_ports_that_flows_have() {
    worlds(|world| {
        equal_over(world, 0x666c_6f77);
        let web = world.web;
        for port in [40_000, 40_001, 80] {
            world.publish(None, port, &web, 80, proto::TCP, Some(HOST));
            world.publish(None, port, &web, 53, proto::UDP, Some(HOST));
        }
        assert_ne!(world.datapath.shared_ports(), 0);
        equal_over(world, 0x7368_6172);
    });
}

/// Ports come and go, and leave flows behind that are of no port.
#[test]
fn also_of_ports_that_are_published_no_longer() {
    worlds(|world| {
        let mut web = world.web;
        world.publish(Some(HOST_2), 9090, &web, 80, proto::TCP, None);
        equal_over(world, 0x7562);
        world.unpublish(8080, &mut web, 80, proto::TCP, 300);
        world.unpublish(5353, &mut web, 53, proto::UDP, 300);
        let reasons = compared(world, 0x6c69);
        assert!(reasons.contains(&"unpublished"), "{reasons:?}");
        world.publish(None, 5353, &web, 53, proto::UDP, Some(HOST));
        equal_over(world, 0x7368);
    });
}

/// A connection keeps others with its client port out of the container, until
/// its port is unpublished.
#[test]
fn also_of_a_client_port_that_is_used_once_more() {
    worlds(|world| {
        let mut web = world.web;
        world.publish(None, 9090, &web, 80, proto::TCP, None);
        let client = SocketAddrV4::new(CLIENT, 40_000);
        let first = SocketAddrV4::new(HOST, 9090);
        for frame in [
            Frame::tcp(SYN, client, first),
            Frame::tcp(ACK, client, first),
        ] {
            world.enters(&arriving(frame), &web);
            let answer = Frame::tcp(SYN | ACK, SocketAddrV4::new(WEB, 80), client);
            world.leaves(&web, &web.frame(answer));
        }
        let answer = Frame::tcp(ACK, SocketAddrV4::new(WEB, 80), client);
        world.leaves(&web, &web.frame(answer));
        let again = |world: &mut World| {
            let question = Question {
                protocol: Protocol::Tcp,
                source: of_world(client),
                destination: of_world(SocketAddrV4::new(HOST, 8080)),
            };
            let told = told(world, &question, true);
            let frame = Frame::tcp(SYN, client, SocketAddrV4::new(HOST, 8080));
            let (outcome, _) = done(world, &frame, None);
            assert_eq!(told.outcome, outcome, "{told:#?}");
            outcome
        };
        assert_eq!(again(world), Outcome::Dropped(DropReason::TupleTaken));
        world.unpublish(9090, &mut web, 80, proto::TCP, 300);
        world.publish(None, 8080, &web, 80, proto::TCP, Some(HOST));
        assert_eq!(again(world), Outcome::Container(web.ifindex));
    });
}

/// No address of the host, whatever a mapping's way back is.
#[test]
fn also_of_what_is_for_the_unspecified_address() {
    worlds(|world| {
        let web = world.web;
        world.publish(None, 9090, &web, 80, proto::TCP, None);
        for port in [8080, 9090] {
            let client = SocketAddrV4::new(CLIENT, 40_000);
            let to = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, port);
            let question = Question {
                protocol: Protocol::Tcp,
                source: of_world(client),
                destination: of_world(to),
            };
            let told = told(world, &question, true);
            let (outcome, _) = done(world, &Frame::tcp(SYN, client, to), None);
            assert_eq!((told.outcome, outcome), (Outcome::Stack, Outcome::Stack));
        }
    });
}

#[test]
fn also_with_endpoint_independent_mapping() {
    world(|world| {
        let mut db = world.db;
        db.flags |= endpoint_flags::MAPPED;
        world.connect(&db);
        let mut loner = world.loner;
        loner.flags |= endpoint_flags::MAPPED | endpoint_flags::OPEN;
        world.connect(&loner);
        equal_over(world, 0x6361_7264);
    });
}

#[test]
fn also_without_icc_and_on_internal_networks() {
    worlds(|world| {
        let mut db = world.db;
        db.flags &= !endpoint_flags::ICC;
        world.connect(&db);
        let mut loner = world.loner;
        loner.flags &= !endpoint_flags::MASQUERADE;
        loner.flags |= endpoint_flags::INTERNAL;
        world.connect(&loner);
        world.publish(None, 9090, &loner, 40_000, proto::UDP, Some(HOST));
        equal_over(world, 0x7064);
    });
}

#[test]
fn also_where_the_outside_knows_containers_by_their_addresses() {
    world(|world| {
        for mut container in [world.web, world.loner] {
            container.flags |= endpoint_flags::ROUTED4;
            world.connect(&container);
            for (port, proto) in [(80, proto::TCP), (53, proto::UDP), (40_001, proto::TCP)] {
                let own = Some(container.addr);
                world.publish(own, port, &container, port, proto, own);
            }
        }
        // At all addresses of the host, by another.
        let db = world.db;
        world.publish(None, 80, &db, 80, proto::TCP, Some(HOST));
        equal_over(world, 0x726f_7574);
    });
}

#[test]
fn also_where_links_open_ports() {
    worlds(|world| {
        for mut container in [world.web, world.db] {
            container.flags &= !endpoint_flags::ICC;
            container.flags |= endpoint_flags::LINKED;
            world.connect(&container);
        }
        let (db, loner) = (world.db, world.loner);
        world.publish(None, 9090, &db, 40_000, proto::TCP, Some(HOST));
        world.publish(None, 9090, &loner, 40_000, proto::UDP, Some(HOST));
        for (port, proto) in [(80, proto::TCP), (53, proto::UDP), (40_001, proto::UDP)] {
            let port = Be16::new(port);
            let key = match Family::of_world() {
                Family::V4 => Key::Link4(LinkKey::new(DB.into(), WEB.into(), port, proto)),
                Family::V6 => {
                    let (db, web) = (embed(DB).into(), embed(WEB).into());
                    Key::Link6(LinkKey::new(db, web, port, proto))
                }
            };
            world.put(key, Entry::Link(1));
        }
        equal_over(world, 0x6c69_6e6b);
    });
}

#[test]
fn also_where_routes_and_networks_have_addresses_of_their_own() {
    if !tells_preferred_sources() {
        println!("skipped: BPF can't ask for a route's source before Linux 6.7");
        return;
    }
    world(|world| {
        let routed = std::process::Command::new("ip")
            .args(["route", "replace", "default", "via", "192.0.2.254", "src"])
            .arg(HOST_2.to_string())
            .status();
        assert!(routed.unwrap().success());
        let uplink = Uplink {
            addr4: HOST.into(),
            flags: uplink_flags::BY_ROUTE4,
            ..Uplink::default()
        };
        world.put(Key::Uplink(world.uplink), Entry::Uplink(uplink));
        let (mut db, mut loner) = (world.db, world.loner);
        db.source = HOST_2;
        // Which the host doesn't have.
        loner.source = Ipv4Addr::new(192, 0, 2, 77);
        world.connect(&db);
        world.connect(&loner);
        equal_over(world, 0x7372_6373);
    });
}

#[test]
fn also_where_a_flow_has_another_uplink_than_the_route() {
    world(|world| {
        let other = nix::net::if_::if_nametoindex("wire1").unwrap();
        let uplink = |gateway4| Uplink {
            prefix4: 24,
            addr4: Ipv4Addr::new(203, 0, 113, 1).into(),
            gateway4,
            ..Uplink::default()
        };
        let leads = uplink(Ipv4Addr::new(203, 0, 113, 254).into());
        let leads_nowhere = uplink(V4Addr::default());
        world.put(Key::Uplink(other), Entry::Uplink(leads));
        let (client, near) = (
            SocketAddrV4::new(REMOTE, 40_000),
            SocketAddrV4::new(Ipv4Addr::new(203, 0, 113, 7), 40_000),
        );
        for peer in [client, near] {
            let asked = Frame::udp(peer, SocketAddrV4::new(HOST, 5353));
            let bytes = asked.between([2; 6], SECOND_MAC).bytes();
            let packet = TestPacket::received(&bytes, other);
            let run = world.datapath.test_run("from_netdev", &packet).unwrap();
            assert_eq!(run.action, REDIRECT);
        }
        let web = world.web;
        let say = |world: &mut World, peer, uplink| {
            world.put(Key::Uplink(other), Entry::Uplink(uplink));
            let from = SocketAddrV4::new(WEB, 53);
            let question = Question {
                protocol: Protocol::Udp,
                source: SocketAddr::V4(from),
                destination: SocketAddr::V4(peer),
            };
            let told = told(world, &question, false);
            // Twice: by the first one's MAC addresses only from then on.
            let frame = Frame::udp(from, peer);
            done(world, &frame, Some(web));
            let (_, seen) = done(world, &frame, Some(web));
            assert_eq!(told.source, SocketAddr::V4(seen.from));
            let by_first = seen.destination == ROUTER_MAC;
            assert_eq!(told.outcome == Outcome::Uplink(world.uplink), by_first);
            told.outcome
        };
        assert_eq!(say(world, client, leads), Outcome::Uplink(other));
        assert_eq!(say(world, near, leads_nowhere), Outcome::Uplink(other));
        assert_eq!(
            say(world, client, leads_nowhere),
            Outcome::Uplink(world.uplink)
        );
    });
}

/// Two ranges, of which one lies where the other is looked for first, and ports
/// for some alone.
#[test]
fn also_of_ranges_and_of_ports_for_some_sources() {
    world(|world| {
        let web = world.web;
        world.publish_range((9000, 9999), &web, 39_910, proto::UDP, Some(HOST));
        world.publish_range((40_000, 40_001), &web, 52, proto::TCP, Some(HOST));
        world.publish_range((39_000, 39_999), &web, 7080, proto::TCP, Some(HOST));
        equal_over(world, 0x7261_6e67);
        world.restrict(8080, proto::TCP, 7);
        world.restrict(5353, proto::UDP, 8);
        world.allow(7, CLIENT, 32);
        world.allow(8, Ipv4Addr::new(172, 16, 0, 0), 12);
        let reasons = compared(world, 0x616c_6c6f);
        assert!(reasons.contains(&"not-allowed"), "{reasons:?}");
        world.forget_range((9000, 9999), 39_910, proto::UDP);
        equal_over(world, 0x676f_6e65);
    });
}
