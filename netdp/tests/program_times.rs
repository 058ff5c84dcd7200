//! Networks with times of their own under test_run. Needs root.

mod program_world;

use std::net::SocketAddrV4;

use netdp::bpf::{Entry, Key};
use netdp_common::{
    addr::proto,
    maps::{Config, Times},
};
use program_world::{
    CLIENT, Container, REMOTE, World, arriving,
    frame::{ACK, Frame, RST, SYN, at},
    impatient, worlds_with,
};

/// Established and other TCP, UDP, echo.
fn give(world: &mut World, container: &Container, seconds: [u32; 4]) {
    let times = Times { seconds };
    world.put(Key::Times(container.slot), Entry::Times(times));
}

/// A port that no other container has.
fn own_port(container: &Container) -> SocketAddrV4 {
    at(container.addr, 40_000 + container.slot as u16)
}

fn segment(container: &Container, flags: u8) -> Frame {
    container.frame(Frame::tcp(flags, own_port(container), at(REMOTE, 443)))
}

/// The time of the only flow of a protocol that counts in a container's share.
fn time(world: &World, container: &Container, proto: u8) -> u32 {
    let mut flows = world.all_flows();
    flows.retain(|seen| seen.key.proto == proto && seen.flow.to.slot == container.slot);
    assert_eq!(flows.len(), 1, "{flows:#?}");
    flows[0].flow.timeout
}

/// The sweep gives a flow the time of its network.
fn is_given(world: &mut World, container: &Container, proto: u8, seconds: u32) {
    world.sweep_until(|world| time(world, container, proto) == seconds);
}

fn swept_each_second() -> Config {
    Config {
        sweep_interval: 1,
        ..Config::default()
    }
}

#[test]
fn flows_have_the_times_of_their_network() {
    worlds_with(swept_each_second(), 1024, |world| {
        let (db, web, hosts) = (world.db, world.web, Config::default());
        give(world, &db, [70, 60, 50, 0]);
        // Of echo the network has none of its own.
        let echo = db.frame(Frame::echo_request(db.addr, REMOTE, 7));
        world.leaves(&db, &echo);
        for container in [db, web] {
            let own = container.slot == db.slot;
            let expected = |own_time, of_host| if own { own_time } else { of_host };
            let udp = container.frame(Frame::udp(own_port(&container), at(REMOTE, 53)));
            let asked = world.leaves(&container, &udp);
            let left = world.leaves(&container, &segment(&container, SYN));
            let transitory = expected(60, hosts.tcp_transitory);
            is_given(world, &container, proto::TCP, transitory);
            is_given(world, &container, proto::UDP, expected(50, hosts.udp));
            world.enters(&arriving(asked.answer(0)), &container);
            world.enters(&arriving(left.answer(SYN | ACK)), &container);
            world.leaves(&container, &segment(&container, ACK));
            let established = expected(70, hosts.tcp_established);
            is_given(world, &container, proto::TCP, established);
            is_given(world, &container, proto::UDP, expected(50, hosts.udp));
            world.leaves(&container, &segment(&container, RST));
            is_given(world, &container, proto::TCP, transitory);
        }
        let flows = world.all_flows();
        let echo = flows
            .iter()
            .find(|seen| ![proto::TCP, proto::UDP].contains(&seen.key.proto));
        assert_eq!(echo.unwrap().flow.timeout, hosts.icmp);
    });
}

#[test]
fn flows_with_a_published_port_have_those_of_the_containers_network() {
    worlds_with(swept_each_second(), 1024, |world| {
        let (web, db, hosts) = (world.web, world.db, Config::default());
        give(world, &web, [70, 60, 50, 40]);
        let reply = |flags| web.frame(Frame::tcp(flags, at(web.addr, 80), at(CLIENT, 40_000)));
        world.leaves(&web, &reply(ACK));
        is_given(world, &web, proto::TCP, 60);
        let asks = arriving(Frame::tcp(
            ACK,
            at(CLIENT, 40_000),
            at(program_world::HOST, 8080),
        ));
        world.enters(&asks, &web);
        world.leaves(&web, &reply(ACK));
        is_given(world, &web, proto::TCP, 70);
        // Another container's flow with that port counts in its own share.
        let near = db.frame(Frame::tcp(
            SYN,
            at(db.addr, 41_000),
            at(program_world::HOST, 8080),
        ));
        world.leaves(&db, &near);
        assert_eq!(time(world, &db, proto::TCP), hosts.tcp_transitory);
        // What the network had goes with its entry.
        world.datapath.remove(&Key::Times(web.slot)).unwrap();
        world.leaves(&web, &reply(RST));
        assert_eq!(time(world, &web, proto::TCP), hosts.tcp_transitory);
    });
}

#[test]
fn one_networks_flows_expire_while_anothers_stay() {
    for (config, seconds) in [(swept_each_second(), 1), (impatient(), 3600)] {
        worlds_with(config, 1024, |world| {
            let (db, web) = (world.db, world.web);
            give(world, &db, [0, seconds, seconds, 0]);
            for container in [db, web] {
                let udp = container.frame(Frame::udp(own_port(&container), at(REMOTE, 53)));
                world.leaves(&container, &udp);
            }
            let brief = if seconds == 1 { db } else { web };
            world.let_pass(2);
            world.sweep_until(|world| world.all_flows().len() == 1);
            assert_ne!(world.all_flows()[0].flow.to.slot, brief.slot);
        });
    }
}
