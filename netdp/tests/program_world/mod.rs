//! A host of its own for the BPF programs: an uplink, three containers on two
//! networks, and the tables that a daemon would write. Packets are handed to
//! the programs one by one and read back.

#![expect(dead_code, reason = "each test program uses a part of this")]

pub mod dice;
pub mod error;
pub mod family;
pub mod frame;
mod outcome;

use std::{net::Ipv4Addr, path::PathBuf, process::Stdio};

use netdp::{
    bpf::{Datapath, Entry, Key, Options, clock},
    netns::Namespace,
};
use netdp_common::{
    addr::{Be16, V4Addr, V6Addr, proto},
    maps::{
        Back, BackRange, Config, Delivery, Endpoint, Local, Owner, PortKey, Published,
        PublishedRange, Uplink, endpoint_flags, local_flags,
    },
    range::{AllowKey, RangeKey},
};
use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};

pub use family::Family;
use family::embed;
use frame::{Frame, Mac};

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

/// Runs a test in a world of IPv6.
pub fn world6(test: impl FnOnce(&mut World) + Send) {
    world_of(Family::V6, Config::default(), 1024, test);
}

fn world_of(family: Family, config: Config, max_flows: u32, test: impl FnOnce(&mut World) + Send) {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let ground = Ground::new();
    let host = ground.host.as_ref().unwrap();
    build_links(host, family);
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
        family.set_for_world();
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

/// Interfaces, addresses, routes and neighbours. Interfaces have no link-local
/// addresses, for which the kernel would send packets of its own.
fn build_links(host: &Namespace, family: Family) {
    let mut lines = String::from(
        "link add wire0 address 02:00:00:00:02:01 type veth \
         peer wire1 address 02:00:00:00:02:02\n\
         link set wire0 addrgenmode none up\nlink set wire1 addrgenmode none up\n",
    );
    lines += &match family {
        Family::V4 => format!(
            "address add {HOST}/24 dev wire0\naddress add {HOST_2}/24 dev wire0\n\
             neigh replace {CLIENT} lladdr 02:00:00:00:03:01 dev wire0 nud permanent\n\
             neigh replace {ROUTER} lladdr 02:00:00:00:03:02 dev wire0 nud permanent\n\
             route add default via {ROUTER}\n"
        ),
        Family::V6 => {
            let [host, host_2, client, router] = [HOST, HOST_2, CLIENT, ROUTER].map(embed);
            format!(
                "address add {host}/120 dev wire0 nodad\n\
                 address add {host_2}/120 dev wire0 nodad\n\
                 neigh replace {client} lladdr 02:00:00:00:03:01 dev wire0 nud permanent\n\
                 neigh replace {router} lladdr 02:00:00:00:03:02 dev wire0 nud permanent\n\
                 route add default via {router}\n"
            )
        }
    };
    for number in 1..=3 {
        lines += &format!(
            "link add veth{number} address 02:00:00:00:01:0{number} type veth \
             peer eth{number} address 02:00:00:00:00:0{number}\n\
             link set veth{number} addrgenmode none up\n\
             link set eth{number} addrgenmode none up\n"
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
            for family in ["ipv4", "ipv6"] {
                let path = format!("/proc/sys/net/{family}/conf/veth{number}/forwarding");
                std::fs::write(path, "1").unwrap();
            }
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

    /// The host has this address.
    pub fn put_local(&mut self, addr: Ipv4Addr, ifindex: u32, flags: u32) {
        let local = Local { ifindex, flags };
        match Family::of_world() {
            Family::V4 => self.put(Key::Local4(v4(addr)), Entry::Local4(local)),
            Family::V6 => self.put(Key::Local6(v6(addr)), Entry::Local6(local)),
        }
    }

    /// The host has this address no more.
    pub fn forget_local(&mut self, addr: Ipv4Addr) {
        let key = match Family::of_world() {
            Family::V4 => Key::Local4(v4(addr)),
            Family::V6 => Key::Local6(v6(addr)),
        };
        self.datapath.remove(&key).unwrap();
    }

    pub fn put(&mut self, key: Key, entry: Entry) {
        self.datapath.put(&key, &entry).unwrap();
    }

    /// Writes a container's entries, with its flags of now.
    pub fn connect(&mut self, container: &Container) {
        let owner = Owner {
            to: container.delivery(),
            network: container.network,
            flags: container.flags.into(),
        };
        let endpoint = Entry::Endpoint(container.endpoint());
        self.put(Key::Endpoint(container.ifindex), endpoint);
        match Family::of_world() {
            Family::V4 => self.put(Key::Owner4(v4(container.addr)), Entry::Owner4(owner)),
            Family::V6 => self.put(Key::Owner6(v6(container.addr)), Entry::Owner6(owner)),
        }
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
        let (on, back) = (
            on.unwrap_or(Ipv4Addr::UNSPECIFIED),
            back.unwrap_or(Ipv4Addr::UNSPECIFIED),
        );
        let (host_port, port) = (Be16::new(host_port), Be16::new(port));
        macro_rules! publish {
            ($addr:ident, $port:ident, $back:ident) => {{
                let published = Published {
                    addr: $addr(container.addr),
                    port,
                    host_port,
                    to: container.delivery(),
                    back_addr: $addr(back),
                    allow: 0,
                    pad: 0,
                };
                let key = PortKey::new($addr(on), host_port, proto);
                self.put(Key::$port(key), Entry::$port(published));
                if !back.is_unspecified() {
                    let key = PortKey::new($addr(container.addr), port, proto);
                    let back = Back::new($addr(back), host_port, port);
                    self.put(Key::$back(key), Entry::$back(back));
                }
            }};
        }
        match Family::of_world() {
            Family::V4 => publish!(v4, Port4, Back4),
            Family::V6 => publish!(v6, Port6, Back6),
        }
    }

    /// Publishes a range on all addresses of the host.
    pub fn publish_range(
        &mut self,
        host: (u16, u16),
        container: &Container,
        first: u16,
        proto: u8,
        back: Option<Ipv4Addr>,
    ) {
        self.publish_range_on(None, host, container, first, proto, back);
    }

    /// The same on one of them.
    pub fn publish_range_on(
        &mut self,
        on: Option<Ipv4Addr>,
        host: (u16, u16),
        container: &Container,
        first: u16,
        proto: u8,
        back: Option<Ipv4Addr>,
    ) {
        let on = on.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let addr = back.unwrap_or(Ipv4Addr::UNSPECIFIED);
        let span = host.1 - host.0;
        let (host_port, port) = (Be16::new(host.0), Be16::new(first));
        macro_rules! publish {
            ($addr:ident, $range:ident, $back_range:ident) => {{
                let key = RangeKey::of_range($addr(on), proto, host.0, host.1);
                let published = Published {
                    addr: $addr(container.addr),
                    port,
                    host_port,
                    to: container.delivery(),
                    back_addr: $addr(addr),
                    allow: 0,
                    pad: 0,
                };
                let prefix = key.prefix as u16;
                let range = PublishedRange {
                    published,
                    span,
                    prefix,
                    pad: 0,
                };
                self.put(Key::$range(key), Entry::$range(range));
                if !addr.is_unspecified() {
                    let own = $addr(container.addr);
                    let key = RangeKey::of_range(own, proto, first, first + span);
                    let back = Back::new($addr(addr), host_port, port);
                    let prefix = key.prefix as u16;
                    let range = BackRange {
                        back,
                        span,
                        prefix,
                        pad: 0,
                    };
                    self.put(Key::$back_range(key), Entry::$back_range(range));
                }
            }};
        }
        match Family::of_world() {
            Family::V4 => publish!(v4, Range4, BackRange4),
            Family::V6 => publish!(v6, Range6, BackRange6),
        }
    }

    /// Takes a range on all addresses, of WEB, back at once.
    pub fn forget_range(&mut self, host: (u16, u16), first: u16, proto: u8) {
        let last = first + (host.1 - host.0);
        macro_rules! forget {
            ($addr:ident, $range:ident, $back_range:ident) => {{
                let any = $addr(Ipv4Addr::UNSPECIFIED);
                let key = RangeKey::of_range(any, proto, host.0, host.1);
                self.datapath.remove(&Key::$range(key)).unwrap();
                let key = RangeKey::of_range($addr(WEB), proto, first, last);
                self.datapath.remove(&Key::$back_range(key)).unwrap();
            }};
        }
        match Family::of_world() {
            Family::V4 => forget!(v4, Range4, BackRange4),
            Family::V6 => forget!(v6, Range6, BackRange6),
        }
    }

    /// The same as a daemon does it, see [`unpublish`](Self::unpublish).
    pub fn unpublish_range(
        &mut self,
        host: (u16, u16),
        container: &mut Container,
        first: u16,
        proto: u8,
        quiet: u32,
    ) {
        self.forget_range(host, first, proto);
        let (span, until) = (host.1 - host.0, clock::now() + quiet);
        macro_rules! silence {
            ($addr:ident, $back_range:ident) => {{
                let own = $addr(container.addr);
                let key = RangeKey::of_range(own, proto, first, first + span);
                let back = Back {
                    until,
                    ..Back::new($addr(HOST), Be16::new(host.0), Be16::new(first))
                };
                let prefix = key.prefix as u16;
                let range = BackRange {
                    back,
                    span,
                    prefix,
                    pad: 0,
                };
                self.put(Key::$back_range(key), Entry::$back_range(range));
            }};
        }
        match Family::of_world() {
            Family::V4 => silence!(v4, BackRange4),
            Family::V6 => silence!(v6, BackRange6),
        }
        container.generation += 1;
        self.connect(container);
    }

    /// Lets a port on all addresses be used by the sources of a set alone.
    pub fn restrict(&mut self, host_port: u16, proto: u8, set: u32) {
        let tables = self.datapath.tables().unwrap();
        let of_port = |key: &Key| match key {
            Key::Port4(key) => (key.port.get(), key.proto) == (host_port, proto),
            Key::Port6(key) => (key.port.get(), key.proto) == (host_port, proto),
            _ => false,
        };
        for (key, entry) in tables.iter().filter(|(key, _)| of_port(key)) {
            let entry = match *entry {
                Entry::Port4(port) => Entry::Port4(Published { allow: set, ..port }),
                Entry::Port6(port) => Entry::Port6(Published { allow: set, ..port }),
                entry => entry,
            };
            self.put(*key, entry);
        }
    }

    /// Puts addresses into a set.
    pub fn allow(&mut self, set: u32, addr: Ipv4Addr, bits: u32) {
        let key = match Family::of_world() {
            Family::V4 => Key::Allow4(AllowKey::new(set, v4(addr), bits)),
            // Those of all IPv4 are those of all IPv6.
            Family::V6 if bits == 0 => Key::Allow6(AllowKey::new(set, v6(addr), 0)),
            Family::V6 => Key::Allow6(AllowKey::new(set, v6(addr), 96 + bits)),
        };
        self.put(key, Entry::Allow(1));
    }

    /// Takes a port on all addresses back, as a daemon does; `quiet` is for how
    /// many seconds the container port must not answer.
    pub fn unpublish(
        &mut self,
        host_port: u16,
        container: &mut Container,
        port: u16,
        proto: u8,
        quiet: u32,
    ) {
        let (host_port, port) = (Be16::new(host_port), Be16::new(port));
        let until = clock::now() + quiet;
        macro_rules! unpublish {
            ($addr:ident, $port:ident, $back:ident) => {{
                let key = PortKey::new($addr(Ipv4Addr::UNSPECIFIED), host_port, proto);
                self.datapath.remove(&Key::$port(key)).unwrap();
                let key = PortKey::new($addr(container.addr), port, proto);
                let back = Back {
                    until,
                    ..Back::new($addr(HOST), host_port, port)
                };
                self.put(Key::$back(key), Entry::$back(back));
            }};
        }
        match Family::of_world() {
            Family::V4 => unpublish!(v4, Port4, Back4),
            Family::V6 => unpublish!(v6, Port6, Back6),
        }
        container.generation += 1;
        self.connect(container);
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
