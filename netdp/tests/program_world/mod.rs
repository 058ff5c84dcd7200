//! A host of its own for the BPF programs: an uplink, three containers on two
//! networks, and the tables that a daemon would write. Packets are handed to
//! the programs one by one and read back. Interfaces and namespace are each
//! test's own; the loaded programs it may have from the test before (`pool`).

#![expect(dead_code, reason = "each test program uses a part of this")]

pub mod closed;
pub mod dice;
pub mod error;
pub mod family;
pub mod fast;
pub mod frame;
mod ground;
pub mod kernel_maps;
pub mod limited;
pub mod netkit;
mod outcome;
pub mod pool;
mod ranges;
mod tables;

use std::net::Ipv4Addr;
use std::path::Path;

use netdp::bpf::{Datapath, Entry, Key, Mechanism};
use netdp_common::{
    addr::{V4Addr, V6Addr, proto},
    maps::{Config, Delivery, Endpoint, Uplink, endpoint_flags, local_flags},
};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

pub use family::Family;
use family::embed;
use frame::{Frame, Mac};
use ground::{Ground, build_links};
use kernel_maps::KernelMaps;
use pool::{Loaded, Place};

/// `TCX_*` of `include/uapi/linux/bpf.h`.
pub const NEXT: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// The host's main address on the uplink, and another one of it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const HOST_2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const HOST_MAC: Mac = [2, 0, 0, 0, 2, 1];
/// Of the other end of the uplink's wire, which may be an uplink itself.
pub const SECOND_MAC: Mac = [2, 0, 0, 0, 2, 2];
/// On the uplink's own subnet; its neighbour entry is there.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 3, 1];
pub const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 254);
/// Behind the default route.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
/// Of the uplink's subnet.
pub const BROADCAST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 255);
pub const ROUTER_MAC: Mac = [2, 0, 0, 0, 3, 2];
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 1);
/// WEB, with published ports, and DB, without, are on one network.
pub const WEB: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 2);
pub const DB: Ipv4Addr = Ipv4Addr::new(172, 20, 0, 3);
/// On a network of its own.
pub const LONER: Ipv4Addr = Ipv4Addr::new(172, 21, 0, 2);
pub const LONER_GATEWAY: Ipv4Addr = Ipv4Addr::new(172, 21, 0, 1);

/// A container: its interface's host end and what the tables say of it.
#[derive(Clone, Copy, Debug)]
pub struct Container {
    pub ifindex: u32,
    pub addr: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub mac: Mac,
    pub host_mac: Mac,
    pub network: u32,
    pub slot: u32,
    pub flags: u16,
    /// Of its set of published ports.
    pub generation: u32,
    /// Address of the host that it leaves under, or unspecified.
    pub source: Ipv4Addr,
}

impl Container {
    fn new(number: u8, addr: Ipv4Addr, gateway: Ipv4Addr, network: u32, flags: u16) -> Self {
        Self {
            ifindex: ifindex(&format!("veth{number}")),
            addr,
            gateway,
            mac: [2, 0, 0, 0, 0, number],
            host_mac: [2, 0, 0, 0, 1, number],
            network,
            slot: number.into(),
            flags,
            source: Ipv4Addr::UNSPECIFIED,
            generation: 1,
        }
    }

    pub fn delivery(&self) -> Delivery {
        Delivery {
            ifindex: self.ifindex,
            slot: self.slot,
            mac: self.mac,
            host_mac: self.host_mac,
        }
    }

    pub fn endpoint(&self) -> Endpoint {
        Endpoint {
            mac: self.mac,
            flags: self.flags,
            host_mac: self.host_mac,
            pad: 0,
            network: self.network,
            slot: self.slot,
            addr4: v4(self.addr),
            gateway4: v4(self.gateway),
            addr6: v6(self.addr),
            gateway6: v6(self.gateway),
            generation: self.generation,
            source4: v4(self.source),
            source6: v6(self.source),
        }
    }

    /// A packet as this container's stack sends it.
    pub fn frame(&self, frame: Frame) -> Frame {
        frame.between(self.mac, self.host_mac)
    }
}

fn ifindex(name: &str) -> u32 {
    nix::net::if_::if_nametoindex(name).unwrap()
}

/// A packet as the client, or the router, sends it to the host.
pub fn arriving(frame: Frame) -> Frame {
    frame.between(CLIENT_MAC, HOST_MAC)
}

/// The host, seen from inside its namespace.
pub struct World {
    pub datapath: Datapath,
    pub maps: KernelMaps,
    place: Place,
    pub uplink: u32,
    pub web: Container,
    pub db: Container,
    pub loner: Container,
}

/// Runs a test in a world of its own, of IPv4.
pub fn world(test: impl FnOnce(&mut World) + Send) {
    world_with(Config::default(), 1024, test);
}

/// The same with these times, and so many entries in the flow table.
pub fn world_with(config: Config, max_flows: u32, test: impl FnOnce(&mut World) + Send) {
    world_of(Family::V4, config, max_flows, test);
}

/// Runs a test in two worlds, one of each family.
pub fn worlds(test: impl Fn(&mut World) + Sync) {
    worlds_with(Config::default(), 1024, test);
}

/// The same with these times, and so many entries in the flow table.
pub fn worlds_with(config: Config, max_flows: u32, test: impl Fn(&mut World) + Sync) {
    for family in [Family::V4, Family::V6] {
        eprintln!("in a world of {family:?}");
        world_of(family, config, max_flows, &test);
    }
}

/// Runs a test in two worlds, one of each family, whose programs are on this control
/// group, too.
pub fn worlds_in(cgroup: &Path, test: impl Fn(&mut World) + Sync) {
    for family in [Family::V4, Family::V6] {
        eprintln!("in a world of {family:?}");
        world_loaded(family, &|| Loaded::load_in(cgroup), &test);
    }
}

/// Runs a test in a world of IPv6.
pub fn world6(test: impl FnOnce(&mut World) + Send) {
    world_of(Family::V6, Config::default(), 1024, test);
}

/// Runs a test in two worlds, one of each family, whose containers are another
/// engine's.
pub fn worlds_accelerated(test: impl Fn(&mut World) + Sync) {
    if Mechanism::of_this_kernel() != Mechanism::Tcx {
        eprintln!("skipped: needs tcx, Linux 6.6");
        return;
    }
    for family in [Family::V4, Family::V6] {
        eprintln!("in a world of {family:?}");
        world_loaded(family, &Loaded::take_accelerated, |world| {
            for container in [&mut world.web, &mut world.db, &mut world.loner] {
                // Its bridge is the interface that the FIB is asked for.
                container.network = container.ifindex;
            }
            for container in [world.web, world.db, world.loner] {
                world.connect(&container);
            }
            test(world);
        });
    }
}

fn world_of(family: Family, config: Config, max_flows: u32, test: impl FnOnce(&mut World) + Send) {
    world_loaded(family, &|| Loaded::take(config, max_flows), test);
}

fn world_loaded(
    family: Family,
    take: &(dyn Fn() -> Loaded + Sync),
    test: impl FnOnce(&mut World) + Send,
) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let ground = Ground::new();
    build_links(&ground.host, family);
    let run = || {
        // What is kept per CPU is the same for every packet.
        let mut cpus = CpuSet::new();
        cpus.set(nix::sched::sched_getcpu().unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        family.set_for_world();
        let mut world = World::new(take());
        test(&mut world);
        // Not after a panic.
        world.into_loaded().give_back();
    };
    ground.host.run(run).unwrap();
}

/// Times that are over at once for all but established connections.
pub fn impatient() -> Config {
    Config {
        tcp_transitory: 1,
        udp: 1,
        icmp: 1,
        sweep_interval: 1,
        ..Config::default()
    }
}

impl World {
    fn new(loaded: Loaded) -> Self {
        let connected = endpoint_flags::ICC | endpoint_flags::MASQUERADE;
        let published = connected | endpoint_flags::PUBLISHED;
        let mut world = Self {
            datapath: loaded.datapath,
            maps: loaded.maps,
            place: loaded.place,
            uplink: ifindex("wire0"),
            web: Container::new(1, WEB, GATEWAY, 1, published),
            db: Container::new(2, DB, GATEWAY, 1, connected),
            loner: Container::new(3, LONER, LONER_GATEWAY, 2, published),
        };
        for container in [world.web, world.db, world.loner] {
            world.connect(&container);
        }
        let uplink = Uplink {
            mac: HOST_MAC,
            addr4: v4(HOST),
            addr6: v6(HOST),
            ..Uplink::default()
        };
        world.put(Key::Uplink(world.uplink), Entry::Uplink(uplink));
        for (addr, flags) in [
            (HOST, 0),
            (HOST_2, 0),
            (GATEWAY, local_flags::GATEWAY),
            (LONER_GATEWAY, local_flags::GATEWAY),
        ] {
            world.put_local(addr, world.uplink, flags);
        }
        let web = world.web;
        world.publish(None, 8080, &web, 80, proto::TCP, Some(HOST));
        world.publish(None, 5353, &web, 53, proto::UDP, Some(HOST));
        world
    }

    fn into_loaded(self) -> Loaded {
        Loaded {
            datapath: self.datapath,
            maps: self.maps,
            place: self.place,
        }
    }
}

/// An address in the tables of IPv4: none in a world of IPv6.
pub fn v4(addr: Ipv4Addr) -> V4Addr {
    match Family::of_world() {
        Family::V4 => addr.into(),
        Family::V6 => V4Addr::default(),
    }
}

/// The same in those of IPv6.
pub fn v6(addr: Ipv4Addr) -> V6Addr {
    match Family::of_world() {
        Family::V4 => V6Addr::default(),
        Family::V6 => embed(addr).into(),
    }
}
