//! The limit on new conversations of one source in the driver, under test_run.
//! Needs root.

mod program_world;

use std::net::Ipv4Addr;

use netdp::bpf::Key;
use netdp_common::addr::proto;
use program_world::{
    CLIENT, HOST, REMOTE, arriving,
    frame::{ACK, Frame, SYN, at},
    limited::{
        BURST, PORT, XDP_DROP, XDP_PASS, buckets, datagram, exhaust, exhaust_all_but_one,
        is_limited, limit, limited_drops, of_another, serve_lo, syn,
    },
    worlds,
};

#[test]
fn the_driver_looks_and_takes_nothing() {
    worlds(|world| {
        serve_lo(world);
        let web = world.web;
        limit(world);
        world.enters(&datagram(CLIENT, 1000), &web);
        exhaust_all_but_one(world);
        let left = world.maps.contents(buckets());
        let drop = [syn(CLIENT, PORT), datagram(CLIENT, PORT)];
        for frame in &drop {
            assert_eq!(world.datapath.test_xdp(&frame.bytes()).unwrap(), XDP_DROP);
        }
        assert_eq!(limited_drops(world), 2);
        let pass = [
            // What goes on.
            arriving(Frame::tcp(ACK, at(CLIENT, PORT), at(HOST, 8080))),
            arriving(Frame::tcp(SYN | ACK, at(CLIENT, PORT), at(HOST, 8080))),
            datagram(CLIENT, 1000),
            // What isn't published, or not by this host.
            arriving(Frame::tcp(SYN, at(CLIENT, PORT), at(HOST, 22))),
            arriving(Frame::udp(at(CLIENT, PORT), at(HOST, 8080))),
            arriving(Frame::tcp(
                SYN,
                at(CLIENT, PORT),
                at(Ipv4Addr::new(203, 0, 113, 7), 8080),
            )),
            arriving(Frame::echo_request(CLIENT, HOST, 7)),
            // Another interface's.
            syn(CLIENT, PORT).between([2, 0, 0, 0, 3, 1], [2, 0, 0, 0, 9, 9]),
        ];
        for frame in &pass {
            let done = world.datapath.test_xdp(&frame.bytes()).unwrap();
            assert_eq!(done, XDP_PASS, "{frame:?}");
        }
        for fragment in datagram(CLIENT, PORT).fragments(16) {
            assert_eq!(world.datapath.test_xdp(&fragment).unwrap(), XDP_PASS);
        }
        let other = of_another(&syn(REMOTE, PORT));
        assert_eq!(world.datapath.test_xdp(&other).unwrap(), XDP_PASS);
        assert_eq!(world.maps.contents(buckets()), left);
        assert_eq!(limited_drops(world), 2);
        // Of every length.
        for frame in &drop {
            let frame = frame.bytes();
            for length in 14..frame.len() {
                world.datapath.test_xdp(&frame[..length]).unwrap();
            }
        }
        // A priority alone.
        let frame = drop[0].bytes();
        let (macs, rest) = frame.split_at(12);
        for (tag, action) in [(0u16, XDP_DROP), (7 << 13, XDP_DROP), (5, XDP_PASS)] {
            let tagged = [macs, &0x8100u16.to_be_bytes(), &tag.to_be_bytes(), rest].concat();
            assert_eq!(
                world.datapath.test_xdp(&tagged).unwrap(),
                action,
                "{tag:#x}"
            );
        }
        world.datapath.remove(&Key::Limit).unwrap();
        assert_eq!(world.datapath.test_xdp(&frame).unwrap(), XDP_PASS);
    });
}

/// Frames for many go to the stack.
#[test]
fn neither_tcx_nor_the_driver_drops_what_is_for_many() {
    worlds(|world| {
        serve_lo(world);
        limit(world);
        exhaust(world);
        let own = datagram(CLIENT, PORT);
        assert_eq!(world.datapath.test_xdp(&own.bytes()).unwrap(), XDP_DROP);
        is_limited(world, &own);
        for to in [[0xff; 6], [1, 0, 0x5e, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1]] {
            let frame = own.clone().between([2, 0, 0, 0, 3, 1], to).bytes();
            assert_eq!(world.datapath.test_xdp(&frame).unwrap(), XDP_PASS);
            world.passes(&frame);
        }
    });
}

/// A full bucket is nothing to the driver.
#[test]
fn the_driver_lets_pass_what_tcx_may_take() {
    worlds(|world| {
        serve_lo(world);
        limit(world);
        for port in 0..2 * BURST as u16 {
            let frame = syn(CLIENT, 1000 + port).bytes();
            assert_eq!(world.datapath.test_xdp(&frame).unwrap(), XDP_PASS);
        }
        exhaust(world);
        let frame = syn(CLIENT, PORT).bytes();
        assert_eq!(world.datapath.test_xdp(&frame).unwrap(), XDP_DROP);
    });
}

/// Where a container's masqueraded flow has the port as well, tcx tells which
/// packet is an answer.
#[test]
fn the_driver_leaves_ports_that_flows_share() {
    worlds(|world| {
        serve_lo(world);
        limit(world);
        exhaust(world);
        let frame = datagram(CLIENT, PORT).bytes();
        assert_eq!(world.datapath.test_xdp(&frame).unwrap(), XDP_DROP);
        // Until it is known that no flow has it.
        world.restrict(5353, proto::UDP, 0);
        assert_eq!(world.datapath.test_xdp(&frame).unwrap(), XDP_PASS);
        is_limited(world, &datagram(CLIENT, PORT));
    });
}
