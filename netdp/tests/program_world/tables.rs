//! What a daemon writes into the tables, and takes out of them.

use std::net::Ipv4Addr;

use netdp::bpf::{Entry, Key, clock};
use netdp_common::{
    addr::Be16,
    maps::{Back, Local, Owner, PortKey, Published, published_flags},
    own::INSIDE,
    range::AllowKey,
};

use super::{BROADCAST, Container, HOST, World, family::Family, v4, v6};

impl World {
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
                    shared: 0,
                    flags: 0,
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
        self.datapath.settle_ports().unwrap();
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

    /// Lets a container's program have a socket of the host at this port.
    pub fn make_direct(&mut self, host_port: u16, proto: u8) {
        let tables = self.datapath.tables().unwrap();
        for (key, entry) in &tables {
            let entry = match (*key, *entry) {
                (Key::Port4(key), Entry::Port4(port))
                    if (key.port.get(), key.proto) == (host_port, proto) =>
                {
                    let flags = published_flags::DIRECT;
                    Entry::Port4(Published { flags, ..port })
                }
                (Key::Port6(key), Entry::Port6(port))
                    if (key.port.get(), key.proto) == (host_port, proto) =>
                {
                    let flags = published_flags::DIRECT;
                    Entry::Port6(Published { flags, ..port })
                }
                _ => continue,
            };
            self.put(*key, entry);
        }
        self.datapath.settle_ports().unwrap();
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

    /// What a daemon says of the containers' subnets and of the uplink's
    /// broadcast address.
    pub fn know_subnets(&mut self) {
        self.allow(INSIDE, Ipv4Addr::new(172, 20, 0, 0), 16);
        self.allow(INSIDE, Ipv4Addr::new(172, 21, 0, 0), 24);
        self.allow(INSIDE, BROADCAST, 32);
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
