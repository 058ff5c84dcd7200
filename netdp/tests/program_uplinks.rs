//! Two uplinks under test_run: by which one packets leave. Needs root.

mod program_world;

use std::{net::Ipv4Addr, process::Command};

use netdp::bpf::{Entry, Key, TestPacket, tells_preferred_sources};
use netdp_common::{
    drop::DropReason,
    maps::{Uplink, uplink_flags},
};
use program_world::{
    CLIENT_MAC, HOST, HOST_2, HOST_MAC, REDIRECT, REMOTE, ROUTER, ROUTER_MAC, SECOND_MAC, WEB,
    World,
    error::{Error, Kind},
    family::{Family, embed},
    frame::{ACK, Frame, PSH, SYN, at},
    v4, v6, worlds,
};

const SECOND: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const SECOND_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 254);
const PORT: u16 = 40_000;

/// The other end of the first uplink's wire is the second uplink; the host's
/// default route stays with the first.
fn second(world: &mut World, gateway: Option<Ipv4Addr>) -> u32 {
    let ifindex = nix::net::if_::if_nametoindex("wire1").unwrap();
    put_uplink(world, ifindex, SECOND_MAC, SECOND, gateway, 0);
    world.put_local(SECOND, ifindex, 0);
    ifindex
}

/// An uplink with a /24, or what of IPv6 stands for it.
fn put_uplink(
    world: &mut World,
    ifindex: u32,
    mac: [u8; 6],
    addr: Ipv4Addr,
    gateway: Option<Ipv4Addr>,
    flags: u32,
) {
    let gateway = gateway.unwrap_or(Ipv4Addr::UNSPECIFIED);
    let uplink = Uplink {
        mac,
        prefix4: 24,
        prefix6: 120,
        addr4: v4(addr),
        gateway4: v4(gateway),
        addr6: v6(addr),
        gateway6: v6(gateway),
        flags,
        pad: 0,
    };
    world.put(Key::Uplink(ifindex), Entry::Uplink(uplink));
}

/// A packet comes in by an uplink and is handed on.
fn enters_by(world: &mut World, ifindex: u32, frame: Frame) {
    let mac = if ifindex == world.uplink {
        HOST_MAC
    } else {
        SECOND_MAC
    };
    let bytes = frame.between(CLIENT_MAC, mac).bytes();
    let packet = TestPacket::received(&bytes, ifindex);
    let run = world.datapath.test_run("from_netdev", &packet).unwrap();
    assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
}

fn ip(words: &str) {
    let done = Command::new("ip").args(words.split(' ')).status().unwrap();
    assert!(done.success(), "ip {words}");
}

#[test]
fn a_datagram_by_another_uplink_than_the_routes_makes_an_entry() {
    worlds(|world| {
        let other = second(world, Some(SECOND_GATEWAY));
        let uplink = world.uplink;
        let ask = |to| Frame::udp(at(REMOTE, PORT), at(to, 5353));
        enters_by(world, uplink, ask(HOST));
        world.holds(0, 0);
        enters_by(world, other, ask(HOST));
        world.holds(0, 1);
        assert_eq!(world.pending()[0].flow.ifindex, other);
        let web = world.web;
        let answer = web.frame(Frame::udp(at(WEB, 53), at(REMOTE, PORT)));
        assert_eq!(world.leaves(&web, &answer).from, at(HOST, 5353));
        // It comes back by the first.
        enters_by(world, uplink, ask(HOST));
        assert_eq!(world.flows()[0].flow.ifindex, 0);
        // Not the route, but the second's own subnet.
        let neighbour = Ipv4Addr::new(203, 0, 113, 7);
        enters_by(
            world,
            other,
            Frame::udp(at(neighbour, PORT), at(SECOND, 5353)),
        );
        assert_eq!(world.pending()[0].flow.ifindex, other);
    });
}

#[test]
fn one_uplink_asks_no_route_of_a_client() {
    worlds(|world| {
        let other = second(world, None);
        world.datapath.remove(&Key::Uplink(other)).unwrap();
        let ask = Frame::udp(at(REMOTE, PORT), at(HOST, 5353));
        enters_by(world, other, ask);
        world.holds(0, 0);
    });
}

#[test]
fn a_connection_by_another_uplink_has_an_entry_from_the_first_segment_on() {
    worlds(|world| {
        let other = second(world, Some(SECOND_GATEWAY));
        let web = world.web;
        let (client, published) = (at(REMOTE, PORT), at(HOST, 8080));
        let reply = |flags| web.frame(Frame::tcp(flags, at(WEB, 80), client));
        enters_by(world, other, Frame::tcp(SYN, client, published));
        world.holds(0, 1);
        // By the neighbour table of the second uplink: the MACs of the first
        // are kept after the first packet of a second.
        for _ in 0..3 {
            let seen = world.leaves(&web, &reply(SYN | ACK));
            assert_eq!(seen.from, published);
            assert_ne!(seen.destination, ROUTER_MAC);
        }
        enters_by(world, other, Frame::tcp(ACK, client, published));
        world.leaves(&web, &reply(PSH | ACK));
        world.holds(1, 0);
        assert_eq!(world.flows()[0].flow.ifindex, other);

        // Without a way on, the route is taken.
        second(world, None);
        let direct = (0..100)
            .map(|_| world.leaves(&web, &reply(PSH | ACK)))
            .find(|seen| seen.destination == ROUTER_MAC);
        assert_eq!(direct.expect("by the first uplink").source, HOST_MAC);
    });
}

#[test]
fn a_masqueraded_flow_keeps_its_uplink_while_that_leads_on() {
    worlds(|world| {
        let other = second(world, Some(SECOND_GATEWAY));
        let uplink = world.uplink;
        let db = world.db;
        put_uplink(world, uplink, HOST_MAC, HOST, Some(ROUTER), 0);
        let frame = db.frame(Frame::udp(at(db.addr, PORT), at(REMOTE, 53)));
        assert_eq!(world.leaves(&db, &frame).from, at(HOST, PORT));
        assert_eq!(world.pending()[0].flow.ifindex, uplink);
        let (address, gateway) = match Family::of_world() {
            Family::V4 => (format!("{SECOND}/24"), SECOND_GATEWAY.to_string()),
            Family::V6 => (
                format!("{}/120 nodad", embed(SECOND)),
                embed(SECOND_GATEWAY).to_string(),
            ),
        };
        ip(&format!("address add dev wire1 {address}"));
        ip(&format!(
            "neigh replace {gateway} lladdr 02:00:00:00:03:03 dev wire1 nud permanent"
        ));
        ip(&format!("route replace default via {gateway} dev wire1"));
        // The way that was kept is forgotten with its second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        assert_eq!(world.leaves(&db, &frame).from, at(HOST, PORT));
        let new = db.frame(Frame::udp(at(db.addr, PORT + 1), at(REMOTE, 53)));
        assert_eq!(world.leaves(&db, &new).from, at(SECOND, PORT + 1));

        put_uplink(world, uplink, HOST_MAC, HOST, None, 0);
        assert_eq!(world.leaves(&db, &frame).from, at(SECOND, PORT));
        assert_eq!(world.drops(), [], "the packet has left");
        assert!(
            world
                .pending()
                .iter()
                .all(|seen| seen.flow.ifindex == other)
        );
        world.holds(0, 2);
    });
}

#[test]
fn errors_leave_by_the_uplink_of_their_flow() {
    worlds(|world| {
        let other = second(world, Some(SECOND_GATEWAY));
        let web = world.web;
        let ask = Frame::udp(at(REMOTE, PORT), at(HOST, 5353));
        enters_by(world, other, ask.clone());
        let mut received = ask;
        received.to = at(WEB, 53);
        let error = Error::about(Kind::Port, WEB, &received).between(web.mac, web.host_mac);
        for _ in 0..3 {
            let run = world.run_from_container(&web, &error.bytes());
            assert_eq!(run.action, REDIRECT, "{:?}", world.drops());
            let seen = Error::of(&run.packet);
            assert_eq!(seen.from, HOST);
            // By the neighbour table; by the first, its MACs would be there.
            assert_ne!(seen.destination, ROUTER_MAC);
        }
    });
}

/// The host's route prefers this address of it.
fn prefer(addr: Ipv4Addr) {
    let [via, src] = [ROUTER, addr].map(program_world::family::ip);
    ip(&format!("route replace default via {via} src {src}"));
}

#[test]
fn a_new_flow_gets_the_address_that_the_route_prefers() {
    if !tells_preferred_sources() {
        println!("skipped: BPF can't ask for a route's source before Linux 6.7");
        return;
    }
    worlds(|world| {
        let (uplink, db) = (world.uplink, world.db);
        let frame = |port| db.frame(Frame::udp(at(db.addr, port), at(REMOTE, 53)));
        prefer(HOST_2);
        // Not asked where there is but one.
        assert_eq!(world.leaves(&db, &frame(PORT)).from, at(HOST, PORT));
        let by_route = uplink_flags::BY_ROUTE4 | uplink_flags::BY_ROUTE6;
        put_uplink(world, uplink, HOST_MAC, HOST, Some(ROUTER), by_route);
        assert_eq!(
            world.leaves(&db, &frame(PORT + 1)).from,
            at(HOST_2, PORT + 1)
        );
        // What runs keeps what it has.
        assert_eq!(world.leaves(&db, &frame(PORT)).from, at(HOST, PORT));
        prefer(HOST);
        assert_eq!(world.leaves(&db, &frame(PORT + 2)).from, at(HOST, PORT + 2));
        assert_eq!(
            world.leaves(&db, &frame(PORT + 1)).from,
            at(HOST_2, PORT + 1)
        );
        // One that netdp knows nothing of is not taken.
        prefer(HOST_2);
        world.forget_local(HOST_2);
        assert_eq!(world.leaves(&db, &frame(PORT + 3)).from, at(HOST, PORT + 3));
    });
}

#[test]
fn a_network_leaves_under_the_address_that_it_was_given() {
    worlds(|world| {
        let mut db = world.db;
        db.source = HOST_2;
        world.connect(&db);
        let frame = |port| db.frame(Frame::udp(at(db.addr, port), at(REMOTE, 53)));
        assert_eq!(world.leaves(&db, &frame(PORT)).from, at(HOST_2, PORT));
        let other = world.loner;
        let theirs = other.frame(Frame::udp(at(other.addr, PORT + 1), at(REMOTE, 53)));
        assert_eq!(world.leaves(&other, &theirs).from, at(HOST, PORT + 1));
        // Without it nothing leaves, rather than under another.
        world.forget_local(HOST_2);
        let reason = world.is_refused(&db, &frame(PORT + 2).bytes());
        assert_eq!(reason, DropReason::NoUplinkAddress);
    });
}
