//! What may have come of a packet, told from the packet, the tables and what
//! went before, without a look at the flow tables.

use std::{
    collections::{HashMap, HashSet},
    net::Ipv4Addr,
};

use netdp::bpf::TestRun;
use netdp_common::{
    addr::proto,
    packet::{Fragment, Transport},
};

use super::{
    read::{
        Known, Read, Tuple, addresses, destination, ethertype, is_of_family, mac, parse, quoted,
        source, ttl,
    },
    rules::{
        LEAVES, Verdict, answered, dropped, is_refusal, is_transport, refused, require, unchanged,
        whole,
    },
};
use crate::program_world::{
    Container, DB, DROP, Family, GATEWAY, HOST, HOST_2, HOST_MAC, LONER, LONER_GATEWAY, NEXT,
    REDIRECT, WEB, World,
};

/// Source, destination, identification and protocol of a datagram.
type Datagram = (Ipv4Addr, Ipv4Addr, u32, u8);

/// What the packets so far allow.
pub struct Judge {
    containers: [Container; 3],
    /// Protocol and port, and the address of the host if it is only one;
    /// container and its port.
    published: Vec<(u8, u16, Option<Ipv4Addr>, Container, u16)>,
    /// What has left the host for the outside.
    asked: HashSet<Known>,
    /// What host sockets have been renumbered to.
    renumbered: HashSet<Known>,
    /// Client and server of connections between containers over a published
    /// port, as the server sees them.
    hairpins: HashSet<Known>,
    /// Protocols and ports of first fragments by source, destination, identification and
    /// protocol.
    fragments: HashMap<Datagram, HashSet<(u8, u16, u16)>>,
    /// How often each end was seen, so that none is missed.
    pub ends: HashMap<&'static str, u32>,
}

fn is_host(addr: Ipv4Addr) -> bool {
    [HOST, HOST_2, GATEWAY, LONER_GATEWAY].contains(&addr)
}

fn is_container(addr: Ipv4Addr) -> bool {
    [WEB, DB, LONER].contains(&addr)
}

impl Judge {
    pub fn new(world: &World) -> Self {
        let published = [
            (proto::TCP, 8080, None, world.web, 80),
            (proto::UDP, 5353, None, world.web, 53),
            (proto::UDP, 9090, Some(HOST_2), world.loner, 40_000),
        ];
        Self {
            containers: [world.web, world.db, world.loner],
            published: published.to_vec(),
            asked: HashSet::new(),
            renumbered: HashSet::new(),
            hairpins: HashSet::new(),
            fragments: HashMap::new(),
            ends: HashMap::new(),
        }
    }

    /// A packet that came in by the uplink.
    pub fn netdev_in(&mut self, bytes: &[u8], run: &TestRun) -> Result<(), String> {
        if mac(bytes, 0) == HOST_MAC {
            self.note_fragment(bytes);
        }
        let end = match run.action {
            DROP => dropped(bytes, run, "in: dropped"),
            NEXT if run.packet == bytes => Ok("in: to the stack"),
            NEXT => self.for_host_socket(bytes, run),
            REDIRECT => self.enters(bytes, run),
            action => Err(format!("action {action}")),
        };
        self.note(end)
    }

    /// A packet that this container sent.
    pub fn container_out(
        &mut self,
        sender: &Container,
        bytes: &[u8],
        run: &TestRun,
    ) -> Result<(), String> {
        if mac(bytes, 6) == sender.mac
            && parse(bytes).is_ok_and(|sent| sent.tuple.from == sender.addr)
        {
            self.note_fragment(bytes);
        }
        let end = match run.action {
            DROP => dropped(bytes, run, "out: dropped"),
            NEXT => self.for_stack(sender, bytes, run),
            REDIRECT if ethertype(bytes) == 0x0806 => Ok("out: ARP"),
            REDIRECT if is_transport(bytes, Transport::Neighbour) => answered(sender, run),
            REDIRECT if is_refusal(sender, bytes, run) => refused(sender, bytes, run),
            REDIRECT => self.leaves(sender, bytes, run),
            action => Err(format!("action {action}")),
        };
        self.note(end)
    }

    /// A packet that the host sends out of the uplink: its own, or one that
    /// its stack forwards.
    pub fn netdev_out(
        &mut self,
        bytes: &[u8],
        forwarded: bool,
        run: &TestRun,
    ) -> Result<(), String> {
        let end = match run.action {
            DROP => dropped(bytes, run, "host: dropped"),
            NEXT if run.packet == bytes => match parse(bytes) {
                Ok(parsed) if forwarded && is_of_family(bytes) => require(
                    !is_container(parsed.tuple.from),
                    "forwarded with a container's address",
                )
                .map(|()| "host: passed"),
                _ => Ok("host: passed"),
            },
            NEXT => self.renumbers(bytes, run),
            action => Err(format!("action {action}")),
        };
        self.note(end)
    }

    fn note(&mut self, end: Verdict) -> Result<(), String> {
        *self.ends.entry(end?).or_default() += 1;
        Ok(())
    }

    /// Whatever becomes of a first fragment, others may follow it.
    fn note_fragment(&mut self, bytes: &[u8]) {
        if let Ok(parsed) = parse(bytes)
            && is_of_family(bytes)
            && parsed.fragment == Fragment::First
        {
            let known = parsed.tuple;
            let key = (known.from, known.to, parsed.id, datagram_protocol(&known));
            let ports = self.fragments.entry(key).or_default();
            ports.insert((known.protocol, known.sport, known.dport));
        }
    }

    /// A packet as netdp reads it. Later fragments have the ports of each first
    /// that they may belong to.
    fn read(&self, bytes: &[u8]) -> Result<(Read, Vec<Tuple>), String> {
        let parsed = parse(bytes)?;
        let known = parsed.tuple;
        if parsed.fragment != Fragment::Later {
            return Ok((parsed, vec![known]));
        }
        let key = (known.from, known.to, parsed.id, datagram_protocol(&known));
        let ports = self.fragments.get(&key).into_iter().flatten();
        let tuples = ports.map(|&(protocol, sport, dport)| Tuple {
            protocol,
            sport,
            dport,
            ..known
        });
        Ok((parsed, tuples.collect()))
    }

    /// Handed to a container from outside.
    fn enters(&mut self, bytes: &[u8], run: &TestRun) -> Verdict {
        require(is_of_family(bytes), "entered as another family")?;
        require(mac(bytes, 0) == HOST_MAC, "entered though for another host")?;
        let (parsed, tuples) = self.read(bytes)?;
        let container = self.deliver(run)?;
        let out = &run.packet;
        whole(bytes, out, parsed.l4, parsed.transport)?;
        require(
            ttl(out)
                == if ttl(bytes) > 1 {
                    ttl(bytes) - 1
                } else {
                    ttl(bytes)
                },
            "TTL",
        )?;
        let from = source(bytes);
        require(
            is_host(destination(bytes)),
            "entered by no address of the host",
        )?;
        require(
            !is_host(from) && !is_container(from),
            "entered in the name of the host or a container",
        )?;
        require(source(out) == from, "another source")?;
        if parsed.transport == Transport::IcmpError {
            let quote = quoted(bytes, parsed.l4).ok_or("entered with no quote")?;
            require(
                self.is_asked(&quote, true)
                    || self
                        .mapping(quote.from, quote.protocol, quote.sport)
                        .is_some(),
                "entered about a packet that nobody sent",
            )?;
            let inner = quoted(out, parsed.l4).ok_or("its quote was lost")?;
            require(inner.from == container.addr, "quotes another's packet")?;
            return Ok("in: an error");
        }
        for asked in &tuples {
            if let Some((to, port)) = self.mapping(asked.to, asked.protocol, asked.dport) {
                let right = to.addr == container.addr
                    && (parsed.fragment == Fragment::Later
                        || out[parsed.l4 + 2..][..2] == port.to_be_bytes());
                if right {
                    return Ok("in: published");
                }
            } else if self.is_asked(asked, false) {
                return Ok("in: an answer");
            }
        }
        Err("got in unasked".to_owned())
    }

    /// Whether the outside may answer so, or quote so.
    fn is_asked(&self, tuple: &Tuple, sent: bool) -> bool {
        self.asked
            .contains(&if sent { tuple.sent() } else { tuple.received() })
    }

    /// The container and its port that a port of the host leads to.
    fn mapping(&self, addr: Ipv4Addr, protocol: u8, port: u16) -> Option<(Container, u16)> {
        let found = self.published.iter().find(|(number, published, on, ..)| {
            (*number, *published) == (protocol, port) && on.is_none_or(|on| on == addr)
        });
        found.map(|(.., container, port)| (*container, *port))
    }

    /// The container that a packet was handed to.
    fn deliver(&self, run: &TestRun) -> Result<Container, String> {
        let out = &run.packet;
        let found = self.containers.iter().find(|to| to.mac == mac(out, 0));
        let container = *found.ok_or("redirected to nobody")?;
        require(mac(out, 6) == container.host_mac, "another's MAC")?;
        require(destination(out) == container.addr, "another's address")?;
        Ok(container)
    }

    /// Given back its port for a socket of the host.
    fn for_host_socket(&mut self, bytes: &[u8], run: &TestRun) -> Verdict {
        let (parsed, tuples) = self.read(bytes)?;
        let known = |known: Known| self.renumbered.contains(&known);
        if parsed.transport == Transport::IcmpError {
            let quote = quoted(bytes, parsed.l4).ok_or("changed without a quote")?;
            require(known(quote.sent()), "changed an error for the host")?;
            return Ok("in: an error for the host");
        }
        require(
            tuples.iter().any(|tuple| known(tuple.received())),
            "changed a packet for the host",
        )?;
        whole(bytes, &run.packet, parsed.l4, parsed.transport)?;
        require(
            addresses(&run.packet) == addresses(bytes),
            "changed its addresses",
        )?;
        Ok("in: for a renumbered socket")
    }

    /// Left to the host's stack: for the host itself, or for it to answer.
    fn for_stack(&self, sender: &Container, bytes: &[u8], run: &TestRun) -> Verdict {
        unchanged(bytes, run, "")?;
        require(mac(bytes, 6) == sender.mac, "passed with another's MAC")?;
        require(is_of_family(bytes), "passed as another family")?;
        let sent = parse(bytes)?;
        require(
            source(bytes) == sender.addr,
            "passed with another's address",
        )?;
        if is_host(destination(bytes)) {
            return Ok("out: for the host");
        }
        if sent.transport == Transport::Neighbour {
            return Ok("out: for the link");
        }
        require(ttl(bytes) <= 1, "left to the stack")?;
        Ok("out: at its last hop")
    }

    /// Sent on from a container, to another or out of the host.
    fn leaves(&mut self, sender: &Container, bytes: &[u8], run: &TestRun) -> Verdict {
        require(is_of_family(bytes), "left as another family")?;
        require(mac(bytes, 6) == sender.mac, "left with another's MAC")?;
        let (parsed, tuples) = self.read(bytes)?;
        require(source(bytes) == sender.addr, "left with another's address")?;
        whole(bytes, &run.packet, parsed.l4, parsed.transport)?;
        // The MACs of what leaves are not always written here.
        if run.mark != LEAVES {
            let to = self.deliver(run)?;
            return self.neighbours(sender, &to, bytes, run, &parsed, &tuples);
        }
        let out = &run.packet;
        require(ttl(out) == ttl(bytes) - 1, "TTL")?;
        let (from, to) = (source(out), destination(out));
        require(is_host(from), "left under an address that isn't the host's")?;
        require(to == destination(bytes), "left for another address")?;
        require(
            !is_host(to) && !is_container(to),
            "left for the host itself",
        )?;
        match parsed.transport {
            Transport::IcmpError => {
                let quote = quoted(out, parsed.l4).ok_or("left with no quote")?;
                require(is_host(quote.to), "left quoting a container's address")?;
                require(
                    self.is_asked(&quote, false)
                        || self
                            .mapping(quote.to, quote.protocol, quote.dport)
                            .is_some(),
                    "left about a packet that never came",
                )?;
                return Ok("out: an error");
            }
            Transport::Tcp(_) | Transport::Udp | Transport::EchoRequest => {
                self.asked.insert(parse(out)?.tuple.sent());
            }
            Transport::Later => require(!tuples.is_empty(), "left as a fragment of nothing")?,
            // With the identifier 0 it looks like a request of the same.
            Transport::EchoReply if parsed.tuple.dport == 0 => {}
            other => return Err(format!("left as {other:?}")),
        }
        Ok(if parsed.fragment == Fragment::Whole {
            "out: left"
        } else {
            "out: left as a fragment"
        })
    }

    /// From one container to another, or to itself.
    fn neighbours(
        &mut self,
        sender: &Container,
        to: &Container,
        bytes: &[u8],
        run: &TestRun,
        parsed: &Read,
        tuples: &[Tuple],
    ) -> Verdict {
        let out = &run.packet;
        let asked = destination(bytes);
        let client = source(out);
        if asked == to.addr && client == sender.addr {
            require(sender.network == to.network, "reached another network")?;
            return Ok("out: to a neighbour");
        }
        if parsed.transport == Transport::IcmpError {
            let quote = quoted(bytes, parsed.l4).ok_or("reached a neighbour with no quote")?;
            // About a packet that came, or about an answer to one.
            require(
                self.hairpins.contains(&quote.received())
                    || self
                        .mapping(quote.from, quote.protocol, quote.sport)
                        .is_some(),
                "reached a container about a packet that never came",
            )?;
            return Ok("out: an error to a container");
        }
        for tuple in tuples {
            let Tuple {
                protocol,
                sport,
                dport,
                ..
            } = *tuple;
            if let Some((server, port)) = self.mapping(asked, protocol, dport)
                && is_host(asked)
                && server.addr == to.addr
                && (client == sender.addr || to.addr == sender.addr && client == sender.gateway)
            {
                self.hairpins
                    .insert((protocol, client, sport, server.addr, port));
                return Ok("out: hairpin");
            }
            if self.hairpins.contains(&tuple.sent()) && is_host(client) {
                return Ok("out: hairpin's answer");
            }
        }
        Err("reached a container unasked".to_owned())
    }

    /// A socket of the host that was given another port.
    fn renumbers(&mut self, bytes: &[u8], run: &TestRun) -> Verdict {
        let (parsed, tuples) = self.read(bytes)?;
        whole(bytes, &run.packet, parsed.l4, parsed.transport)?;
        require(
            addresses(&run.packet) == addresses(bytes),
            "changed its addresses",
        )?;
        for tuple in tuples {
            let port = u16::from_be_bytes([run.packet[parsed.l4], run.packet[parsed.l4 + 1]]);
            let tuple = Tuple {
                sport: port,
                ..tuple
            };
            self.renumbered.insert(tuple.sent());
        }
        Ok("host: renumbered")
    }
}

/// Which protocol of a datagram its fragments have in common: of IPv6, any
/// (RFC 8200, section 4.5).
fn datagram_protocol(known: &Tuple) -> u8 {
    match Family::of_world() {
        Family::V4 => known.protocol,
        Family::V6 => 0,
    }
}
