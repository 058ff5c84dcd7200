//! What may have come of a packet, told from the packet, the tables and what
//! went before, without a look at the flow tables.

use std::{
    collections::{HashMap, HashSet},
    hash::{DefaultHasher, Hash, Hasher},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netdp::bpf::TestRun;
use netdp_common::{
    addr::proto,
    packet::{self, Fragment, Packet, Transport, V4, V6},
};

use super::generate::{ETHERNET, protocol, pseudo, sum, transport_sum};
use crate::program_world::{
    Container, DB, DROP, Family, GATEWAY, HOST, HOST_2, HOST_MAC, LONER, LONER_GATEWAY, NEXT,
    REDIRECT, WEB, World, family::embed, frame::Mac,
};

/// Source, destination, identification and protocol of a datagram.
type Datagram = (Ipv4Addr, Ipv4Addr, u32, u8);

/// The mark by which `to_netdev` knows what `from_container` sends.
const LEAVES: u32 = 0x6e64_7001;

/// Protocol, remote address and port, the address and port that it sees.
type Known = (u8, Ipv4Addr, u16, Ipv4Addr, u16);

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

/// Addresses and ports of a packet, or of a packet that is quoted.
#[derive(Clone, Copy, Debug)]
struct Tuple {
    protocol: u8,
    from: Ipv4Addr,
    to: Ipv4Addr,
    sport: u16,
    dport: u16,
}

type Verdict = Result<&'static str, String>;

fn require(holds: bool, what: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(what.to_owned()) }
}

fn mac(bytes: &[u8], at: usize) -> Mac {
    bytes[at..at + 6].try_into().unwrap()
}

/// A packet as netdp reads it.
#[derive(Clone, Copy, Debug)]
struct Read {
    tuple: Tuple,
    transport: Transport,
    fragment: Fragment,
    id: u32,
    l4: usize,
}

fn parse(bytes: &[u8]) -> Result<Read, String> {
    fn read<A: Into<IpAddr>>(packet: Packet<A>) -> Read {
        Read {
            tuple: Tuple {
                protocol: packet.proto,
                from: plain(packet.tuple.saddr.into()),
                to: plain(packet.tuple.daddr.into()),
                sport: packet.tuple.sport.get(),
                dport: packet.tuple.dport.get(),
            },
            transport: packet.transport,
            fragment: packet.fragment,
            id: packet.id,
            l4: packet.l4,
        }
    }
    let parsed = match Family::of_world() {
        Family::V4 => packet::parse::<V4>(bytes).map(read),
        Family::V6 => packet::parse::<V6>(bytes).map(read),
    };
    parsed.map_err(|why| format!("passed though {why:?}"))
}

/// The address of IPv4 that stands for it; of those of nobody, one for each.
fn plain(addr: IpAddr) -> Ipv4Addr {
    match addr {
        IpAddr::V4(addr) => addr,
        IpAddr::V6(addr) => {
            let low = if addr.is_loopback() {
                Ipv4Addr::LOCALHOST
            } else {
                Ipv4Addr::from_bits(addr.to_bits() as u32)
            };
            if embed(low) == addr {
                return low;
            }
            let mut hash = DefaultHasher::new();
            addr.hash(&mut hash);
            Ipv4Addr::from_bits(0xf000_0000 | hash.finish() as u32 >> 4)
        }
    }
}

/// One address of a packet, from this place of it on.
fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    match Family::of_world() {
        Family::V4 => {
            let octets: [u8; 4] = bytes[at..at + 4].try_into().unwrap();
            octets.into()
        }
        Family::V6 => {
            let octets: [u8; 16] = bytes[at..at + 16].try_into().unwrap();
            plain(Ipv6Addr::from(octets).into())
        }
    }
}

/// Where a network header has its source, its end, and its hop limit.
fn places() -> (usize, usize, usize) {
    match Family::of_world() {
        Family::V4 => (12, 20, 8),
        Family::V6 => (8, 40, 7),
    }
}

fn source(bytes: &[u8]) -> Ipv4Addr {
    address(bytes, ETHERNET + places().0)
}

fn destination(bytes: &[u8]) -> Ipv4Addr {
    let (first, end, _) = places();
    address(bytes, ETHERNET + (first + end) / 2)
}

fn addresses(bytes: &[u8]) -> &[u8] {
    let (first, end, _) = places();
    &bytes[ETHERNET + first..ETHERNET + end]
}

fn ttl(bytes: &[u8]) -> u8 {
    bytes[ETHERNET + places().2]
}

fn is_of_family(bytes: &[u8]) -> bool {
    ethertype(bytes)
        == if Family::is_v6_world() {
            0x86dd
        } else {
            0x0800
        }
}

fn ethertype(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[12], bytes[13]])
}

fn is_host(addr: Ipv4Addr) -> bool {
    [HOST, HOST_2, GATEWAY, LONER_GATEWAY].contains(&addr)
}

fn is_container(addr: Ipv4Addr) -> bool {
    [WEB, DB, LONER].contains(&addr)
}

/// Where the transport of a quoted packet begins, and which one it is.
fn behind_extensions(quote: &[u8]) -> Option<(usize, u8)> {
    let (mut at, mut kind) = (40, *quote.get(6)?);
    loop {
        let length = match kind {
            0 | 43 | 60 => 8 + usize::from(*quote.get(at + 1)?) * 8,
            44 => 8,
            _ => return Some((at, kind)),
        };
        kind = *quote.get(at)?;
        at += length;
    }
}

/// The packet that an ICMP error quotes, where enough of it is there.
fn quoted(bytes: &[u8], l4: usize) -> Option<Tuple> {
    let quote = bytes.get(l4 + 8..)?;
    let (first, end, _) = places();
    let (header, protocol, request) = match Family::of_world() {
        Family::V4 => (usize::from(quote.first()? & 15) * 4, *quote.get(9)?, 8),
        Family::V6 => {
            let (header, protocol) = behind_extensions(quote)?;
            (header, protocol, 128)
        }
    };
    let ports = quote.get(header..header + 8)?;
    if header < end {
        return None;
    }
    let (mut sport, mut dport) = (
        u16::from_be_bytes([ports[0], ports[1]]),
        u16::from_be_bytes([ports[2], ports[3]]),
    );
    if protocol == proto::ICMP || protocol == proto::ICMPV6 {
        let identifier = u16::from_be_bytes([ports[4], ports[5]]);
        (sport, dport) = if ports[0] == request {
            (identifier, 0)
        } else {
            (0, identifier)
        };
    }
    Some(Tuple {
        protocol,
        from: address(quote, first),
        to: address(quote, (first + end) / 2),
        sport,
        dport,
    })
}

/// Whether every checksum of a packet is right; nothing where it isn't all
/// there.
fn sums_are_right(bytes: &[u8]) -> Option<bool> {
    let ip = &bytes[ETHERNET..];
    let half = |at: usize| {
        Some(usize::from(u16::from_be_bytes([
            *ip.get(at)?,
            *ip.get(at + 1)?,
        ])))
    };
    let (header, total, right, fragment) = match Family::of_world() {
        Family::V4 => {
            let header = usize::from(ip.first()? & 15) * 4;
            let total = half(2)?;
            if header < 20 || total < header || ip.len() < total {
                return None;
            }
            let right = sum(0, &ip[..header]) == 0xffff;
            (header, total, right, half(6)? & 0x3fff != 0)
        }
        // Where other headers follow, nothing is said.
        Family::V6 => (40, 40 + half(4)?, true, false),
    };
    let Some(at) = transport_sum(protocol(ip)) else {
        return Some(right);
    };
    if fragment {
        return Some(right);
    }
    if ip.len() < total || total < header + at + 2 {
        return None;
    }
    let body = &ip[header..total];
    if protocol(ip) == proto::UDP && body[6..8] == [0, 0] {
        return Some(right);
    }
    Some(right && sum(pseudo(ip, body.len()), body) == 0xffff)
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
        let Tuple {
            protocol,
            from,
            to,
            sport,
            dport,
        } = *tuple;
        self.asked.contains(&if sent {
            (protocol, to, dport, from, sport)
        } else {
            (protocol, from, sport, to, dport)
        })
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
        let known = |tuple: &Tuple| {
            let Tuple {
                protocol,
                from,
                to,
                sport,
                dport,
            } = *tuple;
            self.renumbered
                .contains(&(protocol, from, sport, to, dport))
        };
        if parsed.transport == Transport::IcmpError {
            let quote = quoted(bytes, parsed.l4).ok_or("changed without a quote")?;
            let answer = Tuple {
                from: quote.to,
                to: quote.from,
                sport: quote.dport,
                dport: quote.sport,
                ..quote
            };
            require(known(&answer), "changed an error for the host")?;
            return Ok("in: an error for the host");
        }
        require(tuples.iter().any(known), "changed a packet for the host")?;
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
                let sent = parse(out)?.tuple;
                let Tuple {
                    protocol,
                    sport,
                    dport,
                    ..
                } = sent;
                self.asked.insert((protocol, to, dport, from, sport));
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
            let Tuple {
                protocol,
                from,
                to,
                sport,
                dport,
            } = quote;
            // About a packet that came, or about an answer to one.
            require(
                self.hairpins.contains(&(protocol, from, sport, to, dport))
                    || self.mapping(from, protocol, sport).is_some(),
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
            let answered = (protocol, asked, dport, sender.addr, sport);
            if self.hairpins.contains(&answered) && is_host(client) {
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
            let Tuple {
                protocol,
                from,
                to,
                dport,
                ..
            } = tuple;
            self.renumbered.insert((protocol, to, dport, from, port));
        }
        Ok("host: renumbered")
    }
}

/// As it came, but for a first fragment that others wait for: it is sent in
/// again by another way, and what is left at the hook may be any of them. An
/// error's quote is written before its source is known to be wrong.
fn dropped(bytes: &[u8], run: &TestRun, end: &'static str) -> Verdict {
    match parse(bytes) {
        Ok(parsed)
            if is_of_family(bytes)
                && (parsed.fragment != Fragment::Whole
                    || parsed.transport == Transport::IcmpError) =>
        {
            Ok(end)
        }
        _ => unchanged(bytes, run, end),
    }
}

/// Whether a container hears that its packet was refused: an error that nobody
/// but its gateway sends, and never about an error.
fn is_refusal(sender: &Container, bytes: &[u8], run: &TestRun) -> bool {
    let out = &run.packet;
    let (kinds, l4) = refusal();
    !is_transport(bytes, Transport::IcmpError)
        && run.mark != LEAVES
        && out.len() >= l4 + 8
        && mac(out, 0) == sender.mac
        && source(out) == sender.gateway
        && is_transport(out, Transport::IcmpError)
        && kinds.contains(&out[l4])
}

/// Destination unreachable; of IPv6 also too big and time exceeded, which the
/// stack says of IPv4; and where that is said.
fn refusal() -> (&'static [u8], usize) {
    match Family::of_world() {
        Family::V4 => (&[3], ETHERNET + 20),
        Family::V6 => (&[1, 2, 3], ETHERNET + 40),
    }
}

fn is_transport(bytes: &[u8], transport: Transport) -> bool {
    is_of_family(bytes) && parse(bytes).is_ok_and(|read| read.transport == transport)
}

/// Which protocol of a datagram its fragments have in common: of IPv6, any
/// (RFC 8200, section 4.5).
fn datagram_protocol(known: &Tuple) -> u8 {
    match Family::of_world() {
        Family::V4 => known.protocol,
        Family::V6 => 0,
    }
}

/// Neighbour discovery is answered to who asked, and never sent on.
fn answered(sender: &Container, run: &TestRun) -> Verdict {
    require(run.mark != LEAVES, "a solicitation left")?;
    require(mac(&run.packet, 0) == sender.mac, "another was answered")?;
    Ok("out: answered to a neighbour")
}

/// What is refused is quoted as it was sent, and nothing else is said.
fn refused(sender: &Container, bytes: &[u8], run: &TestRun) -> Verdict {
    let out = &run.packet;
    require(mac(out, 6) == sender.host_mac, "told with another's MAC")?;
    require(destination(out) == sender.addr, "told to another's address")?;
    require(sums_are_right(out) == Some(true), "told with wrong sums")?;
    let quote = &out[refusal().1 + 8..];
    require(bytes[ETHERNET..].starts_with(quote), "told another's bytes")?;
    Ok("out: refused, and told")
}

fn unchanged(bytes: &[u8], run: &TestRun, end: &'static str) -> Verdict {
    require(run.packet == bytes, "changed what it doesn't send on")?;
    Ok(end)
}

/// What a translated packet still is: as long, with the same payload, and with
/// right checksums if they were right.
fn whole(bytes: &[u8], out: &[u8], l4: usize, transport: Transport) -> Result<(), String> {
    require(out.len() == bytes.len(), "another length")?;
    let end = match transport {
        Transport::Tcp(_) => l4 + 20,
        Transport::Later => l4,
        Transport::IcmpError => bytes.len(),
        _ => l4 + 8,
    };
    require(out.get(end..) == bytes.get(end..), "another payload")?;
    if sums_are_right(bytes) == Some(true) {
        require(sums_are_right(out) == Some(true), "a checksum is wrong now")?;
    }
    Ok(())
}
