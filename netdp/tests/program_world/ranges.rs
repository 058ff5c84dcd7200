//! Ranges of ports in the tables.

use std::net::Ipv4Addr;

use netdp::bpf::{Entry, Key, clock};
use netdp_common::{
    addr::{Address, Be16},
    maps::{Back, BackRange, Published, PublishedRange},
    range::RangeKey,
};

use super::{Container, HOST, WEB, World, family::Family, v4, v6};

impl World {
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
                    shared: 0,
                    flags: 0,
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
                    let range = back_range(&key, Back::new($addr(addr), host_port, port), span);
                    self.put(Key::$back_range(key), Entry::$back_range(range));
                }
            }};
        }
        match Family::of_world() {
            Family::V4 => publish!(v4, Range4, BackRange4),
            Family::V6 => publish!(v6, Range6, BackRange6),
        }
        self.datapath.settle_ports().unwrap();
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

    /// The same as a daemon does it, see [`World::unpublish`].
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
                let range = back_range(&key, back, span);
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
}

fn back_range<A: Address>(key: &RangeKey<A>, back: Back<A>, span: u16) -> BackRange<A> {
    BackRange {
        back,
        span,
        prefix: key.prefix as u16,
        pad: 0,
    }
}
