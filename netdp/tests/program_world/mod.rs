//! A host of its own for the BPF programs: an uplink, three containers on two
//! networks, and the tables that a daemon would write. Packets are handed to
//! the programs one by one and read back.

#![expect(dead_code, reason = "each test program uses a part of this")]

pub mod dice;
pub mod error;
pub mod frame;
mod outcome;

use std::{net::Ipv4Addr, path::PathBuf, process::Stdio};

use netdp::{
    bpf::{Datapath, Entry, Key, Options},
    netns::Namespace,
};
use netdp_common::{
    addr::{Be16, V4Addr, V6Addr, proto},
    maps::{
        Back, Config, Delivery, Endpoint, Local, Owner, PortKey, Published, Uplink, endpoint_flags,
        local_flags,
    },
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

use frame::{Frame, Mac};

/// `TCX_*` of `include/uapi/linux/bpf.h`.
pub const NEXT: i32 = -1;
pub const DROP: i32 = 2;
pub const REDIRECT: i32 = 7;

/// The host's main address on the uplink, and another one of it.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const HOST_2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
pub const HOST_MAC: Mac = [2, 0, 0, 0, 2, 1];
/// On the uplink's own subnet; its neighbour entry is there.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const CLIENT_MAC: Mac = [2, 0, 0, 0, 3, 1];
/// Behind the default route.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
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
    pub uplink: u32,
    pub web: Container,
    pub db: Container,
    pub loner: Container,
}

/// Folders and mounts of one world.
struct Ground {
    folder: tempfile::TempDir,
    host: Option<Namespace>,
}

impl Ground {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bpffs = folder.path().join("bpf");
        std::fs::create_dir(&bpffs).unwrap();
        mount(
            Some("bpf"),
            &bpffs,
            Some("bpf"),
            MsFlags::empty(),
            None::<&str>,
        )
        .unwrap();
        let host = Some(Namespace::create(folder.path(), "host").unwrap());
        Self { folder, host }
    }

    fn bpffs(&self) -> PathBuf {
        self.folder.path().join("bpf")
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        drop(self.host.take());
        umount2(&self.bpffs(), MntFlags::MNT_DETACH).unwrap();
    }
}

/// Runs a test in a world of its own.
pub fn world(test: impl FnOnce(&mut World) + Send) {
    world_with(Config::default(), 1024, test);
}

/// The same with these times, and so many entries in the flow table.
pub fn world_with(config: Config, max_flows: u32, test: impl FnOnce(&mut World) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let ground = Ground::new();
    let host = ground.host.as_ref().unwrap();
    build_links(host);
    let options = Options {
        bpffs: ground.bpffs(),
        cgroup: None,
        netns_cookie: host.cookie().unwrap(),
        max_flows,
        config,
        mechanism: None,
    };
    host.run(|| {
        // What is kept per CPU is the same for every packet.
        let mut cpus = CpuSet::new();
        cpus.set(nix::sched::sched_getcpu().unwrap()).unwrap();
        sched_setaffinity(Pid::from_raw(0), &cpus).unwrap();
        let mut world = World::new(&options);
        test(&mut world);
    })
    .unwrap();
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

/// Interfaces, addresses, routes and neighbours.
fn build_links(host: &Namespace) {
    let mut lines = format!(
        "link add wire0 address 02:00:00:00:02:01 type veth peer wire1\n\
         link set wire0 up\nlink set wire1 up\n\
         address add {HOST}/24 dev wire0\naddress add {HOST_2}/24 dev wire0\n\
         neigh replace {CLIENT} lladdr 02:00:00:00:03:01 dev wire0 nud permanent\n\
         neigh replace 192.0.2.254 lladdr 02:00:00:00:03:02 dev wire0 nud permanent\n\
         route add default via 192.0.2.254\n"
    );
    for number in 1..=3 {
        lines += &format!(
            "link add veth{number} address 02:00:00:00:01:0{number} type veth \
             peer eth{number} address 02:00:00:00:00:0{number}\n\
             link set veth{number} up\nlink set eth{number} up\n"
        );
    }
    let mut ip = host
        .command("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut ip.stdin.take().unwrap(), lines.as_bytes()).unwrap();
    assert!(ip.wait().unwrap().success());
    host.run(|| {
        for number in 1..=3 {
            let path = format!("/proc/sys/net/ipv4/conf/veth{number}/forwarding");
            std::fs::write(path, "1").unwrap();
        }
    })
    .unwrap();
}

impl World {
    fn new(options: &Options) -> Self {
        let connected = endpoint_flags::ICC | endpoint_flags::MASQUERADE;
        let published = connected | endpoint_flags::PUBLISHED;
        let mut world = Self {
            datapath: Datapath::open(options).unwrap(),
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
            addr4: HOST.into(),
            ..Uplink::default()
        };
        world.put(Key::Uplink(world.uplink), Entry::Uplink(uplink));
        for (addr, flags) in [
            (HOST, 0),
            (HOST_2, 0),
            (GATEWAY, local_flags::GATEWAY),
            (LONER_GATEWAY, local_flags::GATEWAY),
        ] {
            let local = Local {
                ifindex: world.uplink,
                flags,
            };
            world.put(Key::Local4(addr.into()), Entry::Local4(local));
        }
        let web = world.web;
        world.publish(None, 8080, &web, 80, proto::TCP, Some(HOST));
        world.publish(None, 5353, &web, 53, proto::UDP, Some(HOST));
        world
    }

    pub fn put(&mut self, key: Key, entry: Entry) {
        self.datapath.put(&key, &entry).unwrap();
    }

    /// Writes a container's entries, with its flags of now.
    pub fn connect(&mut self, container: &Container) {
        let endpoint = Endpoint {
            mac: container.mac,
            flags: container.flags,
            host_mac: container.host_mac,
            pad: 0,
            network: container.network,
            slot: container.slot,
            addr4: container.addr.into(),
            gateway4: container.gateway.into(),
            addr6: V6Addr::default(),
            gateway6: V6Addr::default(),
        };
        let owner = Owner {
            to: container.delivery(),
            network: container.network,
            flags: container.flags.into(),
        };
        self.put(Key::Endpoint(container.ifindex), Entry::Endpoint(endpoint));
        self.put(Key::Owner4(container.addr.into()), Entry::Owner4(owner));
    }

    /// Publishes a port on one address of the host or on all; `back` where
    /// answers go back by this very mapping, under that address.
    pub fn publish(
        &mut self,
        on: Option<Ipv4Addr>,
        host_port: u16,
        container: &Container,
        port: u16,
        proto: u8,
        back: Option<Ipv4Addr>,
    ) {
        let on = on.map_or(V4Addr::default(), V4Addr::from);
        let published = Published {
            addr: container.addr.into(),
            port: Be16::new(port),
            pad: 0,
            to: container.delivery(),
            back_addr: back.map_or(V4Addr::default(), V4Addr::from),
        };
        let key = PortKey::new(on, Be16::new(host_port), proto);
        self.put(Key::Port4(key), Entry::Port4(published));
        if let Some(addr) = back {
            let key = PortKey::new(container.addr.into(), Be16::new(port), proto);
            let back = Back::new(addr.into(), Be16::new(host_port));
            self.put(Key::Back4(key), Entry::Back4(back));
        }
    }
}
