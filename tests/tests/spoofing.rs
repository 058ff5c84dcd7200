//! What a container must not send.

use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, OwnedFd};

use netdp::demo::world::OUTSIDE_ADDRESS;
use netdp_tests::{Container, Topology, hears, says_nothing, udp};
use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;
const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];

/// A socket in the container that sends whole frames (packet(7)).
struct Frames(OwnedFd);

impl Frames {
    fn open(container: &Container) -> Self {
        let opened = container.namespace.run(|| {
            let family = AddressFamily::Packet;
            let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None)?;
            // SAFETY: all bytes zero is a valid value of this struct of integers.
            let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
            address.sll_family = libc::AF_PACKET as u16;
            // SAFETY: the name is a C string.
            address.sll_ifindex = unsafe { libc::if_nametoindex(c"eth0".as_ptr()) } as i32;
            // SAFETY: the address is of the length given.
            let bound = unsafe {
                libc::bind(
                    socket.as_raw_fd(),
                    (&raw const address).cast(),
                    size_of_val(&address) as u32,
                )
            };
            Errno::result(bound)?;
            nix::Result::Ok(socket)
        });
        Self(opened.unwrap().expect("a packet socket"))
    }

    #[track_caller]
    fn send(&self, frame: &[u8]) {
        assert_eq!(nix::unistd::write(&self.0, frame).unwrap(), frame.len());
    }
}

fn host_mac(container: &Container) -> [u8; 6] {
    // What the container has learnt for its gateway.
    let learnt = udp(container, ANY, 0);
    learnt.send_to(b"", (container.gateway, 9)).unwrap();
    let output = container
        .namespace
        .command("ip")
        .args(["-j", "neigh", "show", &container.gateway.to_string()])
        .output()
        .unwrap();
    let neighbours: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let text = neighbours[0]["lladdr"].as_str().expect("the gateway's MAC");
    let mut mac = [0; 6];
    for (byte, hex) in mac.iter_mut().zip(text.split(':')) {
        *byte = u8::from_str_radix(hex, 16).unwrap();
    }
    mac
}

/// A UDP datagram in a frame.
fn datagram(
    macs: ([u8; 6], [u8; 6]),
    from: Ipv4Addr,
    to: (Ipv4Addr, u16),
    words: &[u8],
) -> Vec<u8> {
    const UDP: u8 = 17;
    let udp_length = 8 + words.len() as u16;
    let mut ip = vec![0x45, 0];
    ip.extend((20 + udp_length).to_be_bytes());
    ip.extend([0, 1, 0, 0, 64, UDP, 0, 0]);
    ip.extend(from.octets());
    ip.extend(to.0.octets());
    let checksum = checksum(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());

    let (source, destination) = macs;
    let mut frame = [destination, source].concat();
    frame.extend(ETHERTYPE_IPV4);
    frame.extend(ip);
    frame.extend(40_000_u16.to_be_bytes());
    frame.extend(to.1.to_be_bytes());
    frame.extend(udp_length.to_be_bytes());
    // No checksum (RFC 768).
    frame.extend([0, 0]);
    frame.extend(words);
    frame
}

/// RFC 1071.
fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

#[test]
fn only_its_own_addresses_leave_a_container() {
    let Some(topology) = Topology::start("spoof") else {
        return;
    };
    let (one, other) = (
        topology.container("one", ""),
        topology.container("other", ""),
    );
    let outside = udp(&topology.world.outside, ANY, 53);
    let neighbour = udp(&other, ANY, 53);
    let gateway = host_mac(&one);
    let frames = Frames::open(&one);

    // As it should be, so that the rest is refused for nothing but its source.
    for (to, server) in [(OUTSIDE_ADDRESS, &outside), (other.address, &neighbour)] {
        frames.send(&datagram(
            (one.mac, gateway),
            one.address,
            (to, 53),
            b"mine",
        ));
        hears(server, b"mine");
    }

    let spoofed = topology.dropped("spoofed-source");
    let of_endpoint = || {
        let statistics = topology.statistics();
        let found = statistics.endpoints.into_iter().find(|of| of.name == "one");
        found.expect("counters of one").drops
    };
    let refused = of_endpoint();
    let nobody = Ipv4Addr::new(203, 0, 113, 9);
    for to in [(OUTSIDE_ADDRESS, 53), (other.address, 53)] {
        for (mac, address) in [
            (one.mac, other.address),
            (one.mac, nobody),
            (one.mac, one.gateway),
            (other.mac, one.address),
            (other.mac, other.address),
        ] {
            frames.send(&datagram((mac, gateway), address, to, b"not mine"));
        }
    }
    // An ARP reply that says the gateway's address is here.
    let mut arp = [[0xff; 6], one.mac].concat();
    arp.extend(ETHERTYPE_ARP);
    arp.extend([0, 1, 8, 0, 6, 4, 0, 2]);
    arp.extend(one.mac);
    arp.extend(one.gateway.octets());
    arp.extend(other.mac);
    arp.extend(other.address.octets());
    frames.send(&arp);

    says_nothing(&outside);
    says_nothing(&neighbour);
    assert_eq!(topology.dropped("spoofed-source"), spoofed + 10);
    assert_eq!(of_endpoint(), refused + 11);
}

#[test]
fn what_is_not_ipv4_or_is_malformed_ends_at_the_container() {
    let Some(topology) = Topology::start("spoof-malformed") else {
        return;
    };
    let one = topology.container("one", "");
    let outside = udp(&topology.world.outside, ANY, 53);
    let gateway = host_mac(&one);
    let frames = Frames::open(&one);
    let whole = datagram(
        (one.mac, gateway),
        one.address,
        (OUTSIDE_ADDRESS, 53),
        b"words",
    );

    let unknown = topology.dropped("unknown-ethertype");
    let malformed = topology.dropped("malformed");
    let mut other_ethertype = whole.clone();
    other_ethertype[12..14].copy_from_slice(&[0x88, 0xcc]);
    frames.send(&other_ethertype);
    // Headers that are cut off or contradict themselves.
    let cut = &whole[..14 + 12];
    frames.send(cut);
    let mut version = whole.clone();
    version[14] = 0x65;
    frames.send(&version);
    let mut header_length = whole.clone();
    header_length[14] = 0x41;
    frames.send(&header_length);
    let mut total_length = whole.clone();
    total_length[16..18].copy_from_slice(&19_u16.to_be_bytes());
    frames.send(&total_length);
    says_nothing(&outside);
    assert_eq!(topology.dropped("unknown-ethertype"), unknown + 1);
    assert_eq!(topology.dropped("malformed"), malformed + 4);
    frames.send(&whole);
    hears(&outside, b"words");
}
