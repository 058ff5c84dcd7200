//! Flows that are used go on past their time, under test_run: which packets
//! refresh them (RFC 4787, REQ-6). Needs root.

mod program_world;

use std::sync::atomic::{AtomicU16, Ordering};

use netdp_common::maps::{Config, endpoint_flags};
use program_world::{
    CLIENT, Container, DB, Family, HOST, HOST_2, HOST_MAC, NEXT, REMOTE, ROUTER_MAC, WEB, World,
    arriving,
    frame::{ACK, Frame, PSH, SYN, at},
    worlds,
};

/// Own ports of conversations: each has another.
static PORT: AtomicU16 = AtomicU16::new(40_000);

fn keys(world: &World) -> Vec<String> {
    let flows = world.all_flows().into_iter();
    flows.map(|seen| format!("{:?}", seen.key)).collect()
}

/// Two conversations, of which only one speaks in the middle of its time, which
/// is so many seconds. The sweep takes the other when it is over, and leaves
/// this one with all of its entries.
///
/// `open` begins a conversation with this port of its own, `speak` sends one
/// packet of it.
fn is_refreshed<T>(
    world: &mut World,
    time: u32,
    open: impl Fn(&mut World, u16) -> T,
    speak: impl Fn(&mut World, &T),
) {
    let open = |world: &mut World, port| {
        let before = keys(world);
        let conversation = open(world, port);
        let mut entries = keys(world);
        entries.retain(|key| !before.contains(key));
        assert!(!entries.is_empty(), "nothing that could expire");
        (conversation, entries)
    };
    let port = PORT.fetch_add(2, Ordering::Relaxed);
    let (busy, of_busy) = open(world, port);
    let (_, of_idle) = open(world, port + 1);
    for seen in world.all_flows() {
        let is_new = of_busy.contains(&format!("{:?}", seen.key));
        assert!(!is_new || seen.flow.timeout == time, "{seen:?}");
    }
    let part = time * 2 / 3;
    world.let_pass(part);
    speak(world, &busy);
    world.let_pass(part);
    world.sweep_until(|world| keys(world).iter().all(|key| !of_idle.contains(key)));
    let left = keys(world);
    for entry in of_busy {
        assert!(left.contains(&entry), "{entry} is gone");
    }
}

fn datagram(container: &Container, sport: u16) -> Frame {
    container.frame(Frame::udp(at(container.addr, sport), at(REMOTE, 53)))
}

fn segment(container: &Container, flags: u8, sport: u16) -> Frame {
    container.frame(Frame::tcp(
        flags,
        at(container.addr, sport),
        at(REMOTE, 443),
    ))
}

/// A datagram that was answered; gives it as the outside sees it.
fn ask(world: &mut World, container: &Container, sport: u16) -> Frame {
    let left = world.leaves(container, &datagram(container, sport));
    world.enters(&arriving(left.answer(0)), container);
    left
}

/// An established connection; gives its first segment as the outside sees it.
fn connect(world: &mut World, container: &Container, sport: u16) -> Frame {
    let left = world.leaves(container, &segment(container, SYN, sport));
    world.enters(&arriving(left.answer(SYN | ACK)), container);
    world.leaves(container, &segment(container, ACK, sport));
    left
}

#[test]
fn datagrams_of_either_side_refresh_a_flow() {
    let time = Config::default().udp;
    worlds(|world| {
        let db = world.db;
        // One that nobody answers too.
        for answered in [false, true] {
            let open = |world: &mut World, sport| {
                let left = world.leaves(&db, &datagram(&db, sport));
                if answered {
                    world.enters(&arriving(left.answer(0)), &db);
                }
                (sport, left)
            };
            is_refreshed(world, time, open, |world, (sport, _)| {
                world.leaves(&db, &datagram(&db, *sport));
            });
            if answered {
                is_refreshed(world, time, open, |world, (_, left)| {
                    world.enters(&arriving(left.answer(0)), &db);
                });
            }
        }
    });
}

#[test]
fn segments_of_either_side_refresh_a_flow() {
    let time = Config::default().tcp_established;
    worlds(|world| {
        let db = world.db;
        let open = |world: &mut World, sport| (sport, connect(world, &db, sport));
        is_refreshed(world, time, open, |world, (sport, _)| {
            world.leaves(&db, &segment(&db, PSH | ACK, *sport));
        });
        is_refreshed(world, time, open, |world, (_, left)| {
            world.enters(&arriving(left.answer(ACK)), &db);
        });
    });
}

#[test]
fn echoes_of_either_side_refresh_a_flow() {
    let time = Config::default().icmp;
    worlds(|world| {
        let db = world.db;
        let echo = |identifier| db.frame(Frame::echo_request(DB, REMOTE, identifier));
        let open = |world: &mut World, identifier| {
            let left = world.leaves(&db, &echo(identifier));
            world.enters(&arriving(left.answer(0)), &db);
            (identifier, left)
        };
        is_refreshed(world, time, open, |world, (identifier, _)| {
            world.leaves(&db, &echo(*identifier));
        });
        is_refreshed(world, time, open, |world, (_, left)| {
            world.enters(&arriving(left.answer(0)), &db);
        });
    });
}

/// What the outside sees of it and what the container has are two entries.
#[test]
fn a_flow_with_another_port_is_refreshed_as_a_whole() {
    let time = Config::default().tcp_established;
    worlds(|world| {
        let (db, web) = (world.db, world.web);
        let open = |world: &mut World, sport| {
            connect(world, &web, sport);
            let left = connect(world, &db, sport);
            assert_ne!(left.from.port(), sport);
            (sport, left)
        };
        is_refreshed(world, time, open, |world, (sport, _)| {
            world.leaves(&db, &segment(&db, PSH | ACK, *sport));
            // The one that has the port.
            world.leaves(&web, &segment(&web, PSH | ACK, *sport));
        });
        is_refreshed(world, time, open, |world, (sport, left)| {
            world.enters(&arriving(left.answer(ACK)), &db);
            world.leaves(&web, &segment(&web, PSH | ACK, *sport));
        });
    });
}

/// By either side where the entry alone knows the way back; where the tables do
/// too, what the client sends isn't looked for.
#[test]
fn connections_of_a_published_port_are_refreshed() {
    let time = Config::default().tcp_established;
    worlds(|world| {
        let web = world.web;
        for (address, by_client) in [(HOST, false), (HOST_2, true)] {
            let ask =
                |flags, port| arriving(Frame::tcp(flags, at(CLIENT, port), at(address, 8080)));
            let reply = |flags, port| web.frame(Frame::tcp(flags, at(WEB, 80), at(CLIENT, port)));
            let open = |world: &mut World, port| {
                world.enters(&ask(SYN, port), &web);
                world.leaves(&web, &reply(SYN | ACK, port));
                world.enters(&ask(ACK, port), &web);
                world.leaves(&web, &reply(PSH | ACK, port));
                world.leaves(&web, &reply(PSH | ACK, port));
                port
            };
            is_refreshed(world, time, open, |world, port| {
                world.leaves(&web, &reply(PSH | ACK, *port));
            });
            if by_client {
                is_refreshed(world, time, open, |world, port| {
                    world.enters(&ask(ACK, *port), &web);
                });
            }
        }
    });
}

#[test]
fn datagrams_to_another_address_of_the_host_are_refreshed_by_either_side() {
    let time = Config::default().udp;
    worlds(|world| {
        let web = world.web;
        let ask = |port| arriving(Frame::udp(at(CLIENT, port), at(HOST_2, 5353)));
        let reply = |port| web.frame(Frame::udp(at(WEB, 53), at(CLIENT, port)));
        let open = |world: &mut World, port| {
            world.enters(&ask(port), &web);
            world.leaves(&web, &reply(port));
            world.enters(&ask(port), &web);
            port
        };
        is_refreshed(world, time, open, |world, port| {
            world.enters(&ask(*port), &web);
        });
        is_refreshed(world, time, open, |world, port| {
            world.leaves(&web, &reply(*port));
        });
    });
}

#[test]
fn routed_flows_are_refreshed_by_either_side() {
    let time = Config::default().udp;
    worlds(|world| {
        let mut db = world.db;
        db.flags |= match Family::of_world() {
            Family::V4 => endpoint_flags::ROUTED4,
            Family::V6 => endpoint_flags::ROUTED6,
        };
        world.connect(&db);
        let open = |world: &mut World, sport| (sport, ask(world, &db, sport));
        is_refreshed(world, time, open, |world, (sport, _)| {
            world.leaves(&db, &datagram(&db, *sport));
        });
        is_refreshed(world, time, open, |world, (_, left)| {
            world.enters(&arriving(left.answer(0)), &db);
        });
    });
}

/// A mapping by the container's datagrams, and by those of others where not
/// everybody may send.
#[test]
fn mappings_are_refreshed_by_their_container_and_those_it_lets_in() {
    let time = Config::default().udp;
    worlds(|world| {
        for everybody in [false, true] {
            let mut db = world.db;
            db.flags |= endpoint_flags::MAPPED;
            if everybody {
                db.flags |= endpoint_flags::OPEN;
            }
            world.connect(&db);
            let open = |world: &mut World, sport| (sport, ask(world, &db, sport));
            is_refreshed(world, time, open, |world, (sport, _)| {
                world.leaves(&db, &datagram(&db, *sport));
            });
            if !everybody {
                is_refreshed(world, time, open, |world, (_, left)| {
                    world.enters(&arriving(left.answer(0)), &db);
                });
            }
        }
    });
}

#[test]
fn sockets_of_the_host_that_gave_way_are_refreshed_by_either_side() {
    let time = Config::default().tcp_established;
    worlds(|world| {
        let db = world.db;
        let own = |flags, sport| {
            Frame::tcp(flags, at(HOST, sport), at(REMOTE, 443)).between(HOST_MAC, ROUTER_MAC)
        };
        let send = |world: &mut World, flags, sport| {
            let run = world.run_to_netdev(&own(flags, sport).bytes());
            assert_eq!(run.action, NEXT);
            Frame::of(&run.packet)
        };
        let receive = |world: &mut World, left: &Frame, flags| {
            let run = world.run_from_netdev(&arriving(left.answer(flags)).bytes());
            assert_eq!(run.action, NEXT);
        };
        let open = |world: &mut World, sport| {
            connect(world, &db, sport);
            let left = send(world, SYN, sport);
            assert_ne!(left.from.port(), sport);
            receive(world, &left, SYN | ACK);
            send(world, ACK, sport);
            (sport, left)
        };
        is_refreshed(world, time, open, |world, (sport, _)| {
            world.leaves(&db, &segment(&db, PSH | ACK, *sport));
            send(world, ACK, *sport);
        });
        is_refreshed(world, time, open, |world, (sport, left)| {
            world.leaves(&db, &segment(&db, PSH | ACK, *sport));
            receive(world, left, ACK);
        });
    });
}
