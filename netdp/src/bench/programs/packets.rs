//! The conversations, packet by packet, as the programs are handed them.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, bail, ensure};
use netdp_common::addr::Mac;
use nix::net::if_::if_nametoindex;

use super::{AskedResult, Conversation, PacketCost, median, timed};
use crate::api::types::Sandbox;
use crate::bench::Scenario;
use crate::bench::frame::{self, Body, frame};
use crate::bench::site::{Site, sandbox};
use crate::bpf::TestPacket;
use crate::bpf::cost::{Asked, AskedMaps, Loaded, Pinned};
use crate::load::Kind;
use crate::world::process::ProcessError;
use crate::world::{CLIENT_ADDRESS, HOST_ADDRESS, World, host_mac, interrupt};

/// Conversations of each kind whose times are taken, and those whose questions
/// to maps are counted.
pub(super) const TIMED: u16 = 201;
const ASKED: u16 = 21;
const FIRST_CLIENT_PORT: u16 = 20_000;
/// The first port that neither of them uses.
pub(super) const NEXT_CLIENT_PORT: u16 = FIRST_CLIENT_PORT + TIMED + ASKED;
/// `TC_ACT_REDIRECT` (`include/uapi/linux/pkt_cls.h`), which is also `TCX_REDIRECT`.
const REDIRECT: i32 = 7;

/// Who of a conversation sends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum By {
    Asking,
    Answering,
}
use By::{Answering, Asking};

/// Between whom it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    Published,
    Egress,
    Containers,
}

pub(super) struct Script {
    pub(super) title: &'static str,
    way: Way,
    packets: &'static [(&'static str, Body, By)],
}

const TCP: &[(&str, Body, By)] = &[
    ("SYN", frame::SYN, Asking),
    ("SYN, ACK", frame::SYN_ACK, Answering),
    ("ACK", frame::ACK, Asking),
    ("first data", frame::ACK, Asking),
    ("first data back", frame::ACK, Answering),
    ("data", frame::ACK, Asking),
    ("data back", frame::ACK, Answering),
    ("FIN", frame::FIN, Asking),
    ("FIN back", frame::FIN, Answering),
    ("last ACK", frame::ACK, Asking),
];
const UDP: &[(&str, Body, By)] = &[
    ("first datagram", Body::Udp, Asking),
    ("first answer", Body::Udp, Answering),
    ("second datagram", Body::Udp, Asking),
    ("second answer", Body::Udp, Answering),
    ("datagram", Body::Udp, Asking),
    ("answer", Body::Udp, Answering),
];
pub(super) const SCRIPTS: [Script; 5] = [
    Script {
        title: "published, TCP",
        way: Way::Published,
        packets: TCP,
    },
    Script {
        title: "published, UDP",
        way: Way::Published,
        packets: UDP,
    },
    Script {
        title: "egress, TCP",
        way: Way::Egress,
        packets: TCP,
    },
    Script {
        title: "egress, UDP",
        way: Way::Egress,
        packets: UDP,
    },
    Script {
        title: "containers, TCP",
        way: Way::Containers,
        packets: TCP,
    },
];
/// A container as the programs know it.
struct End {
    interface: String,
    address: Ipv4Addr,
    mac: Mac,
}

/// Who is there, and where the first container's ports are.
pub(super) struct Place {
    first: End,
    second: End,
    tcp: u16,
    udp: u16,
}

impl Place {
    pub(super) fn of(world: &World, site: &Site) -> anyhow::Result<Self> {
        let end = |which: &str| -> anyhow::Result<End> {
            let name = sandbox(which);
            let text = world.netdp_ok(&["inspect", &name])?;
            let sandboxes: Vec<Sandbox> = serde_json::from_str(&text)?;
            let mut endpoints = sandboxes.iter().flat_map(|sandbox| &sandbox.endpoints);
            let endpoint = endpoints
                .next()
                .with_context(|| format!("{name} has no endpoint"))?;
            let address = endpoint.addresses.iter().find_map(|net| match net.addr() {
                std::net::IpAddr::V4(address) => Some(address),
                std::net::IpAddr::V6(_) => None,
            });
            Ok(End {
                interface: endpoint.host_interface.clone(),
                address: address.with_context(|| format!("{name} got no IPv4 address"))?,
                mac: endpoint.mac.bytes(),
            })
        };
        let published = site.route(world, Scenario::Published);
        Ok(Self {
            first: end("first")?,
            second: end("second")?,
            tcp: published.target(Kind::Rr).1,
            udp: published.target(Kind::UdpRr).1,
        })
    }
}

/// The programs with what they are handed. In the host's namespace.
pub(super) struct Stand<'a> {
    place: &'a Place,
    uplink: u32,
    /// Host ends of both containers.
    ends: [u32; 2],
    pub(super) from_netdev: Loaded,
    pub(super) from_container: Loaded,
}

pub(super) const FROM_NETDEV: &str = "from_netdev";
const FROM_CONTAINER: &str = "from_container";
/// Of whoever the programs don't ask for one.
const ANY_MAC: Mac = [2, 0, 0, 0, 0, 1];

impl<'a> Stand<'a> {
    pub(super) fn new(place: &'a Place, pinned: &Pinned) -> anyhow::Result<Self> {
        let open = |name: &str| {
            pinned
                .open(name)
                .with_context(|| format!("cannot open {name}"))
        };
        let index =
            |name: &str| if_nametoindex(name).with_context(|| format!("cannot find {name}"));
        Ok(Self {
            uplink: index("eth0")?,
            ends: [
                index(&place.first.interface)?,
                index(&place.second.interface)?,
            ],
            from_netdev: open(FROM_NETDEV)?,
            from_container: open(FROM_CONTAINER)?,
            place,
        })
    }

    /// The program that meets a packet, its name, the interface and the packet,
    /// of the conversation that a client's port begins.
    fn packet(
        &self,
        way: Way,
        (_, body, by): (&str, Body, By),
        client: u16,
    ) -> (&Loaded, &'static str, u32, Vec<u8>) {
        let port = match body {
            Body::Tcp(_) => self.place.tcp,
            Body::Udp => self.place.udp,
        };
        let (first, second) = (&self.place.first, &self.place.second);
        let at = SocketAddrV4::new;
        // As the sender of the packet has them.
        let (from, to) = match (way, by) {
            (Way::Published, Asking) => (at(CLIENT_ADDRESS, client), at(HOST_ADDRESS, port)),
            (Way::Published, Answering) => (at(first.address, port), at(CLIENT_ADDRESS, client)),
            (Way::Egress, Asking) => (at(second.address, client), at(CLIENT_ADDRESS, port)),
            (Way::Egress, Answering) => (at(CLIENT_ADDRESS, port), at(HOST_ADDRESS, client)),
            (Way::Containers, Asking) => (at(second.address, client), at(first.address, port)),
            (Way::Containers, Answering) => (at(first.address, port), at(second.address, client)),
        };
        let outside = *from.ip() == CLIENT_ADDRESS;
        if outside {
            let bytes = frame([ANY_MAC, host_mac()], from, to, body);
            return (&self.from_netdev, FROM_NETDEV, self.uplink, bytes);
        }
        let is_first = *from.ip() == first.address;
        let (mac, end) = match is_first {
            true => (first.mac, self.ends[0]),
            false => (second.mac, self.ends[1]),
        };
        let bytes = frame([mac, ANY_MAC], from, to, body);
        (&self.from_container, FROM_CONTAINER, end, bytes)
    }

    /// Each step of so many conversations, from this client's port on, by `step`.
    pub(super) fn talk(
        &self,
        script: &Script,
        clients: std::ops::Range<u16>,
        mut step: impl FnMut(usize, &Loaded, &TestPacket<'_>) -> anyhow::Result<i32>,
    ) -> anyhow::Result<()> {
        for client in clients {
            for (number, packet) in script.packets.iter().enumerate() {
                let (program, name, ifindex, bytes) = self.packet(script.way, *packet, client);
                let action = step(number, program, &TestPacket::received(&bytes, ifindex))?;
                ensure!(
                    action == REDIRECT,
                    "{name} sent on no {} of {}: it gave {action}",
                    packet.0,
                    script.title
                );
            }
            if interrupt::received().is_some() {
                bail!(ProcessError::Interrupted);
            }
        }
        Ok(())
    }

    pub(super) fn time(&self, script: &Script) -> anyhow::Result<Conversation> {
        let mut times = vec![Vec::new(); script.packets.len()];
        let clients = FIRST_CLIENT_PORT..FIRST_CLIENT_PORT + TIMED;
        self.talk(script, clients, |number, program, packet| {
            let (time, action) = timed(program, packet)?;
            times[number].push(time);
            Ok(action)
        })?;
        let packets = script
            .packets
            .iter()
            .zip(times)
            .map(|(packet, times)| PacketCost {
                packet: packet.0,
                program: self.packet(script.way, *packet, FIRST_CLIENT_PORT).1,
                nanoseconds: median(times),
                asked: None,
            });
        Ok(Conversation {
            title: script.title,
            packets: packets.collect(),
        })
    }

    /// Others ask maps of theirs now and then: the median leaves them out.
    pub(super) fn count(
        &self,
        script: &Script,
        maps: &AskedMaps,
        conversation: &mut Conversation,
    ) -> anyhow::Result<()> {
        let mut asked = vec![Vec::new(); script.packets.len()];
        let first = FIRST_CLIENT_PORT + TIMED;
        self.talk(script, first..first + ASKED, |number, program, packet| {
            let before = maps.so_far()?;
            let action = program.run(packet)?;
            asked[number].push((before, maps.so_far()?));
            Ok(action)
        })?;
        for (packet, pairs) in conversation.packets.iter_mut().zip(asked) {
            let middle = |of: fn(&Asked) -> u64| {
                let counts = pairs.iter().map(|(before, after)| of(after) - of(before));
                let mut counts: Vec<u64> = counts.collect();
                counts.sort_unstable();
                counts[counts.len() / 2]
            };
            packet.asked = Some(AskedResult {
                lookups: middle(|asked| asked.lookups),
                inserts: middle(|asked| asked.inserts),
                removals: middle(|asked| asked.removals),
                pushes: middle(|asked| asked.pushes),
            });
        }
        Ok(())
    }
}
