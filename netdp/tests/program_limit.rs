//! The limit on new conversations of one source, under test_run. Needs root.

mod program_world;

use std::net::TcpListener;

use netdp::{
    bpf::{Entry, Key, TestPacket},
    load::allowed_cpus,
};
use netdp_common::{
    addr::proto,
    drop::DropReason,
    limit::Limit,
    maps::{Config, endpoint_flags, name},
};
use program_world::{
    CLIENT, HOST, HOST_2, REDIRECT, REMOTE, WEB, arriving,
    family::{Family, ip},
    frame::{ACK, Frame, SYN, at},
    limited::{
        BURST, HOUR, PORT, XDP_DROP, buckets, datagram, exhaust, exhaust_all_but_one, is_limited,
        limit, limited_drops, of_another, serve_lo, syn,
    },
    world6, worlds,
};

#[test]
fn a_source_begins_as_many_connections_as_it_may() {
    worlds(|world| {
        let web = world.web;
        limit(world);
        exhaust(world);
        is_limited(world, &syn(CLIENT, PORT));
        // By another address of the host, and once more.
        let elsewhere = Frame::tcp(SYN, at(CLIENT, PORT), at(HOST_2, 8080));
        is_limited(world, &arriving(elsewhere));
        is_limited(world, &syn(CLIENT, 1000));
        // Nor of UDP.
        is_limited(world, &datagram(CLIENT, PORT));
        // What goes on, whether it is known or not.
        for port in [1000, PORT] {
            let frame = Frame::tcp(ACK, at(CLIENT, port), at(HOST, 8080));
            world.enters(&arriving(frame), &web);
        }
        let other = of_another(&syn(REMOTE, PORT));
        assert_eq!(world.run_from_netdev(&other).action, REDIRECT);
        // Ended, and set anew.
        world.datapath.remove(&Key::Limit).unwrap();
        world.enters(&syn(CLIENT, PORT), &web);
        limit(world);
        is_limited(world, &syn(CLIENT, PORT + 1));
    });
}

/// A host of IPv6 has all addresses of a /64.
#[test]
fn addresses_of_one_subnet_are_one_source_of_ipv6() {
    world6(|world| {
        limit(world);
        exhaust(world);
        is_limited(world, &syn(REMOTE, PORT));
    });
}

#[test]
fn tokens_come_back_as_time_goes_by() {
    worlds(|world| {
        let web = world.web;
        limit(world);
        exhaust(world);
        is_limited(world, &syn(CLIENT, PORT));
        // As if it had begun them an hour ago.
        let contents = world.maps.contents(buckets()).into_iter();
        let [(key, full)] = contents.collect::<Vec<_>>().try_into().unwrap();
        let full = u64::from_ne_bytes(full.try_into().unwrap()) - HOUR;
        world.maps.write(buckets(), &key, &full.to_ne_bytes());
        world.enters(&syn(CLIENT, PORT), &web);
        is_limited(world, &syn(CLIENT, PORT + 1));
    });
}

#[test]
fn datagrams_of_a_conversation_go_on() {
    worlds(|world| {
        let web = world.web;
        limit(world);
        for port in 0..BURST as u16 {
            for _ in 0..5 {
                world.enters(&datagram(CLIENT, 1000 + port), &web);
            }
        }
        is_limited(world, &datagram(CLIENT, PORT));
        is_limited(world, &syn(CLIENT, PORT));
        for port in 0..BURST as u16 {
            world.enters(&datagram(CLIENT, 1000 + port), &web);
        }
        // Fragments as the first of them.
        for fragment in datagram(CLIENT, 1000).fragments(16) {
            assert_eq!(world.run_from_netdev(&fragment).action, REDIRECT);
        }
        for fragment in datagram(CLIENT, PORT).fragments(16) {
            assert_eq!(world.is_kept_out(&fragment), DropReason::SourceLimit);
        }
    });
}

/// Silence ends a conversation of UDP.
#[test]
fn a_datagram_after_a_long_while_begins_another_conversation() {
    worlds(|world| {
        let web = world.web;
        limit(world);
        world.enters(&datagram(CLIENT, 1000), &web);
        exhaust_all_but_one(world);
        world.enters(&datagram(CLIENT, 1000), &web);
        let heard = match Family::of_world() {
            Family::V4 => name::HEARD4,
            Family::V6 => name::HEARD6,
        };
        let contents = world.maps.contents(heard);
        let [(key, value)] = contents.into_iter().collect::<Vec<_>>().try_into().unwrap();
        let last = u32::from_ne_bytes(value.try_into().unwrap());
        let udp = Config::default().udp;
        for (ago, goes_on) in [(udp, false), (udp - 2, true)] {
            let long_ago = last.wrapping_sub(ago).to_ne_bytes();
            world.maps.write(heard, &key, &long_ago);
            if goes_on {
                world.enters(&datagram(CLIENT, 1000), &web);
            } else {
                is_limited(world, &datagram(CLIENT, 1000));
            }
        }
    });
}

/// The answers to what a container has begun are not.
#[test]
fn ports_of_routed_networks_are_limited_too() {
    worlds(|world| {
        let mut web = world.web;
        web.flags |= match Family::of_world() {
            Family::V4 => endpoint_flags::ROUTED4,
            Family::V6 => endpoint_flags::ROUTED6,
        };
        world.connect(&web);
        for (port, proto) in [(80, proto::TCP), (53, proto::UDP)] {
            world.publish(Some(WEB), port, &web, port, proto, Some(WEB));
        }
        limit(world);
        let opens = |port| arriving(Frame::tcp(SYN, at(CLIENT, port), at(WEB, 80)));
        let asks = |port| arriving(Frame::udp(at(CLIENT, port), at(WEB, 53)));
        let asked = web.frame(Frame::udp(at(WEB, PORT), at(CLIENT, 53)));
        let left = world.leaves(&web, &asked);
        world.enters(&asks(1000), &web);
        for port in 1..BURST as u16 {
            world.enters(&opens(1000 + port), &web);
        }
        is_limited(world, &opens(PORT));
        is_limited(world, &asks(PORT));
        world.enters(&asks(1000), &web);
        world.enters(&arriving(left.answer(0)), &web);
        world.datapath.remove(&Key::Limit).unwrap();
        world.enters(&opens(PORT), &web);
    });
}

/// All ports of a range lead to one bucket.
#[test]
fn ranges_of_ports_are_limited_too() {
    worlds(|world| {
        serve_lo(world);
        let web = world.web;
        for proto in [proto::TCP, proto::UDP] {
            world.publish_range((9000, 9099), &web, 7000, proto, Some(HOST));
        }
        limit(world);
        let opens = |port| arriving(Frame::tcp(SYN, at(CLIENT, PORT), at(HOST, port)));
        let asks = |port| arriving(Frame::udp(at(CLIENT, PORT), at(HOST, port)));
        world.enters(&asks(9000), &web);
        for port in 1..BURST as u16 {
            world.enters(&opens(9000 + port), &web);
        }
        for over in [opens(9050), opens(9099), asks(9099)] {
            is_limited(world, &over);
            assert_eq!(world.datapath.test_xdp(&over.bytes()).unwrap(), XDP_DROP);
        }
        world.enters(&asks(9000), &web);
        world.passes(&opens(9100).bytes());
    });
}

/// A limit that becomes a wider one leaves what was taken, a limit that ends
/// nothing.
#[test]
fn a_limit_may_change_while_a_source_has_nothing_left() {
    worlds(|world| {
        let web = world.web;
        limit(world);
        exhaust(world);
        is_limited(world, &syn(CLIENT, PORT));
        let wider = Limit {
            interval: HOUR,
            depth: u64::from(BURST + 2) * HOUR,
        };
        world.put(Key::Limit, Entry::Limit(wider));
        for port in 0..2 {
            world.enters(&syn(CLIENT, PORT + port), &web);
        }
        is_limited(world, &syn(CLIENT, PORT));
        world.datapath.remove(&Key::Limit).unwrap();
        for port in 0..2 * BURST as u16 {
            world.enters(&syn(CLIENT, 3000 + port), &web);
            world.enters(&datagram(CLIENT, 3000 + port), &web);
        }
    });
}

#[test]
fn what_is_not_published_is_not_limited() {
    worlds(|world| {
        let web = world.web;
        limit(world);
        let asked = web.frame(Frame::udp(at(WEB, PORT), at(CLIENT, 53)));
        let left = world.leaves(&web, &asked);
        exhaust(world);
        for _ in 0..2 * BURST {
            world.passes(&arriving(Frame::tcp(SYN, at(CLIENT, PORT), at(HOST, 22))).bytes());
            world.passes(&arriving(Frame::udp(at(CLIENT, PORT), at(HOST, 22))).bytes());
            world.passes(&arriving(Frame::echo_request(CLIENT, HOST, 7)).bytes());
        }
        world.enters(&arriving(left.answer(0)), &web);
    });
}

/// Neither the table of known listeners nor the stack is asked before.
#[test]
fn direct_ports_are_limited_too() {
    worlds(|world| {
        world.make_direct(8080, proto::TCP);
        let _socket = TcpListener::bind((ip(HOST), 8080)).unwrap();
        for port in 0..2 * BURST as u16 {
            world.passes(&syn(CLIENT, 1000 + port).bytes());
        }
        limit(world);
        for port in 0..BURST as u16 {
            world.passes(&syn(CLIENT, 1000 + port).bytes());
        }
        is_limited(world, &syn(CLIENT, PORT));
        let goes_on = Frame::tcp(ACK, at(CLIENT, PORT), at(HOST, 8080));
        world.passes(&arriving(goes_on).bytes());
        world.datapath.remove(&Key::Limit).unwrap();
        world.passes(&syn(CLIENT, PORT).bytes());
    });
}

/// No token is taken twice, whoever reads the bucket meanwhile. One that is
/// forestalled each time begins one more.
#[test]
fn cpus_take_from_one_bucket_together() {
    const TIMES: u32 = 100_000;
    let cpus = allowed_cpus().unwrap();
    let Some(cpus) = cpus.get(..2) else {
        eprintln!("skipped: needs two CPUs");
        return;
    };
    worlds(|world| {
        world.make_direct(8080, proto::TCP);
        let _socket = TcpListener::bind((ip(HOST), 8080)).unwrap();
        let limit = Limit {
            interval: HOUR,
            depth: u64::from(TIMES) * HOUR,
        };
        world.put(Key::Limit, Entry::Limit(limit));
        let frame = syn(CLIENT, PORT).bytes();
        let packet = TestPacket::received(&frame, world.uplink);
        let datapath = &mut world.datapath;
        datapath
            .test_at_once("from_netdev", &packet, cpus, TIMES)
            .unwrap();
        let taken = 2 * u64::from(TIMES) - limited_drops(world);
        let taken = u32::try_from(taken).unwrap();
        assert!((TIMES..=TIMES + 20).contains(&taken), "{taken}");
    });
}
