//! 100,000 packets of each family, many of them wrong somewhere, in one history
//! of the loaded programs. Needs root.
//!
//! Another history by another seed: `NETDP_SEED=7 cargo xtask test malformed`;
//! a longer one by `NETDP_PACKETS`.

mod malformed;
mod program_world;

use std::net::Ipv4Addr;

use malformed::{
    generate::{Seen, packet},
    judge::Judge,
};
use netdp::bpf::{TestPacket, TestRun};
use netdp_common::{addr::proto, drop::DropReason};
use program_world::{
    CLIENT_MAC, Family, HOST, HOST_2, HOST_MAC, ROUTER_MAC, World, dice::Dice, worlds,
};

const PACKETS: u64 = 100_000;
const SEED: u64 = 0x6d61_6c66;

fn setting(name: &str, default: u64) -> u64 {
    match std::env::var(name) {
        Ok(value) => value.parse().unwrap_or_else(|_| panic!("{name}={value}")),
        Err(_) => default,
    }
}

/// One packet at one hook; what is wrong with what came of it.
fn one(
    world: &mut World,
    judge: &mut Judge,
    dice: &mut Dice,
    seen: &mut Seen,
) -> Result<(), String> {
    let containers = [world.web, world.db, world.loner];
    let (program, ifindex, ingress, bytes, sender) = match dice.below(10) {
        0..5 => {
            let sender = dice.of(&containers);
            let macs = (sender.mac, sender.host_mac);
            let bytes = packet(dice, seen, Some(sender.addr), macs);
            let ifindex = sender.ifindex;
            ("from_container", ifindex, ifindex, bytes, Some(sender))
        }
        5..9 => {
            let bytes = packet(dice, seen, None, (CLIENT_MAC, HOST_MAC));
            ("from_netdev", world.uplink, world.uplink, bytes, None)
        }
        _ => {
            let from: Ipv4Addr = dice.of(&[HOST, HOST_2]);
            let bytes = packet(dice, seen, Some(from), (HOST_MAC, ROUTER_MAC));
            let ingress = dice.of(&[0, world.web.ifindex]);
            ("to_netdev", world.uplink, ingress, bytes, None)
        }
    };
    let input = TestPacket {
        bytes: &bytes,
        ifindex,
        ingress_ifindex: ingress,
        mark: 0,
        gso_size: 0,
    };
    // From 6.18 on, test_run takes no packet that says IP and ends before that
    // header does (`bpf_prog_test_run_skb`).
    let run: TestRun = match world.datapath.test_run(program, &input) {
        Ok(run) => run,
        Err(_) if bytes.len() < 14 + 40 => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    let judged = match sender {
        Some(sender) => judge.container_out(&sender, &bytes, &run),
        None if program == "from_netdev" => judge.netdev_in(&bytes, &run),
        None => judge.netdev_out(&bytes, ingress != 0, &run),
    };
    if run.action != program_world::DROP {
        seen.note(&run.packet);
    }
    judged.map_err(|why| format!("{program} {why}:\n{bytes:02x?}\n{run:02x?}"))
}

#[test]
fn nothing_gets_in_or_out_that_should_not() {
    worlds(|world| {
        let loner = world.loner;
        world.publish(Some(HOST_2), 9090, &loner, 40_000, proto::UDP, None);
        let mut judge = Judge::new(world);
        let seed = setting("NETDP_SEED", SEED);
        let mut dice = Dice(seed);
        let mut seen = Seen::default();
        for number in 0..setting("NETDP_PACKETS", PACKETS) {
            if let Err(why) = one(world, &mut judge, &mut dice, &mut seen) {
                panic!("packet {number} of seed {seed}: {why}");
            }
        }
        let drops = world.drops();
        assert!(
            drops
                .iter()
                .all(|(reason, _)| *reason != DropReason::HelperFailed),
            "{drops:?}"
        );
        println!("{:#?}\n{drops:?}", judge.ends);
        // What is never met is not tried. Of IPv6 the program itself says that
        // a packet has come too far.
        let last_hop = match Family::of_world() {
            Family::V4 => "out: at its last hop",
            Family::V6 => "out: refused, and told",
        };
        for end in [
            last_hop,
            "in: published",
            "in: an answer",
            "in: an error",
            "in: to the stack",
            "in: dropped",
            "out: left",
            "out: left as a fragment",
            "out: an error",
            "out: to a neighbour",
            "out: hairpin",
            "out: hairpin's answer",
            "out: an error to a container",
            "out: for the host",
            "out: dropped",
            "out: refused, and told",
            "host: passed",
            "host: dropped",
            "host: renumbered",
        ] {
            assert!(
                judge.ends.contains_key(end),
                "never {end}: {:?}",
                judge.ends
            );
        }
    });
}
