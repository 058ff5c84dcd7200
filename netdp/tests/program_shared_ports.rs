//! Ports that are published while a masqueraded flow has them, under test_run.
//! Needs root.

mod program_world;

use netdp_common::addr::proto;
use program_world::{
    CLIENT, Container, DB, HOST, REMOTE, WEB, World, arriving,
    frame::{ACK, Frame, PSH, SYN, at},
    worlds,
};

const PORT: u16 = 40_000;

/// A segment of the container's flow to the outside.
fn segment(container: &Container, flags: u8) -> Frame {
    let from = at(container.addr, PORT);
    container.frame(Frame::tcp(flags, from, at(REMOTE, 443)))
}

fn datagram(container: &Container, port: u16) -> Frame {
    container.frame(Frame::udp(at(container.addr, port), at(REMOTE, 443)))
}

/// Opens a connection, and gives what the outside answers on it from then on.
fn converse(world: &mut World, container: &Container) -> Frame {
    let left = world.leaves(container, &segment(container, SYN));
    assert_eq!(left.from, at(HOST, PORT));
    world.enters(&arriving(left.answer(SYN | ACK)), container);
    let left = world.leaves(container, &segment(container, ACK));
    let answer = arriving(left.answer(PSH | ACK));
    world.enters(&answer, container);
    answer
}

#[test]
fn a_flow_goes_on_when_its_port_is_published() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let answer = converse(world, &db);
        let left = world.leaves(&db, &datagram(&db, PORT));
        let reply = arriving(left.answer(0));
        world.enters(&reply, &db);
        world.publish(None, PORT, &web, 80, proto::TCP, Some(HOST));
        world.publish(None, PORT, &web, 53, proto::UDP, Some(HOST));
        assert_eq!(world.datapath.shared_ports(), 2);
        for _ in 0..2 {
            for answer in [&answer, &reply] {
                assert_eq!(world.enters(answer, &db).to, at(DB, PORT));
            }
            for sent in [segment(&db, PSH | ACK), datagram(&db, PORT)] {
                assert_eq!(world.leaves(&db, &sent).from, at(HOST, PORT));
            }
            // Everything else is the new port's, also from another port of the
            // flow's peer.
            for from in [at(CLIENT, 443), at(REMOTE, 444), at(REMOTE, PORT)] {
                let open = arriving(Frame::tcp(SYN, from, at(HOST, PORT)));
                assert_eq!(world.enters(&open, &web).to, at(WEB, 80));
                let ask = arriving(Frame::udp(from, at(HOST, PORT)));
                assert_eq!(world.enters(&ask, &web).to, at(WEB, 53));
            }
        }
        // New flows get other ports.
        let new = db.frame(Frame::tcp(SYN, at(DB, PORT), at(CLIENT, 443)));
        assert_ne!(world.leaves(&db, &new).from.port(), PORT);
        assert_eq!(world.drops(), []);
    });
}

#[test]
fn a_flow_goes_on_when_a_range_with_its_port_is_published() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let answer = converse(world, &db);
        world.publish_range((39_000, 40_999), &web, 39_000, proto::TCP, Some(HOST));
        assert_eq!(world.datapath.shared_ports(), 1);
        assert_eq!(world.enters(&answer, &db).to, at(DB, PORT));
        let open = arriving(Frame::tcp(SYN, at(CLIENT, 443), at(HOST, PORT)));
        assert_eq!(world.enters(&open, &web).to, at(WEB, PORT));
    });
}

/// A container could otherwise send from a port in advance, to be sent what a
/// client asks whoever has it published.
#[test]
fn what_may_be_a_clients_is_for_the_port_that_is_published() {
    const SERVICE: u16 = 5_000;
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let left = world.leaves(&db, &datagram(&db, SERVICE));
        let reply = arriving(left.answer(0));
        world.enters(&reply, &db);
        world.leaves(&db, &segment(&db, SYN));
        world.publish(None, SERVICE, &web, 53, proto::UDP, Some(HOST));
        world.publish(None, PORT, &web, 80, proto::TCP, Some(HOST));
        assert_eq!(world.enters(&reply, &web).to, at(WEB, 53));
        let open = arriving(Frame::tcp(SYN, at(REMOTE, 443), at(HOST, PORT)));
        assert_eq!(world.enters(&open, &web).to, at(WEB, 80));
        world.holds(0, 0);
    });
}

/// Then no packet has to look for one.
#[test]
fn a_port_that_no_flow_has_is_not_shared() {
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        assert_eq!(world.datapath.shared_ports(), 0);
        converse(world, &db);
        // Of another protocol, and beside it.
        world.publish(None, PORT, &web, 53, proto::UDP, Some(HOST));
        world.publish(None, PORT + 1, &web, 80, proto::TCP, None);
        assert_eq!(world.datapath.shared_ports(), 0);
        world.publish(None, PORT, &web, 80, proto::TCP, None);
        assert_eq!(world.datapath.shared_ports(), 1);
        // The planner sees what it has asked for.
        let before = world.datapath.tables().unwrap();
        world
            .datapath
            .forget_flows(&[(db.ifindex, db.endpoint())])
            .unwrap();
        world.datapath.settle_ports().unwrap();
        assert_eq!(world.datapath.shared_ports(), 0);
        assert_eq!(world.datapath.tables().unwrap(), before);
    });
}
